//! ListGroups (16): the groups that this broker coordinates; from version 4 on of some states, from 5 on of some types.

use dejaq_wire::kafka::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup};

use super::group_plane::GroupPlane;
use crate::runtime::Runtime;

/// Answers one request.
pub async fn answer<R: Runtime>(groups: &GroupPlane<R>, request: ListGroupsRequest) -> ListGroupsResponse {
    let any = |filter: &[String], value: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    match groups.list().await {
        Err(error_code) => ListGroupsResponse { error_code, ..Default::default() },
        Ok(all) => {
            let wanted = |group: &ListedGroup| {
                any(&request.states_filter, &group.group_state)
                    && any(&request.types_filter, &group.group_type)
            };
            ListGroupsResponse { groups: all.into_iter().filter(wanted).collect(), ..Default::default() }
        }
    }
}
