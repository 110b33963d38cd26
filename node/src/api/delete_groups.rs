//! DeleteGroups (42): forgets groups without members, and all their positions.

use dejaq_wire::kafka::delete_groups::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse};

use super::group_plane::GroupPlane;
use crate::coordinator::group::{Ask, Reply};
use crate::runtime::Runtime;

/// Answers one request.
pub async fn answer<R: Runtime>(
    groups: &GroupPlane<R>,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        let error_code = match groups.ask(&group_id, Ask::Delete { group: group_id.clone() }).await {
            Ok(Reply::Code(code)) | Err(code) => code,
            Ok(other) => unreachable!("a deletion is answered with {other:?}"),
        };
        results.push(DeletableGroupResult { group_id, error_code });
    }
    DeleteGroupsResponse { results, ..Default::default() }
}
