//! DescribeGroups (15): state and members of classic groups.
//!
//! A group that does not exist is Dead; from version 6 on that is an error, with a text (KIP-1043).

use std::collections::BTreeSet;

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::describe_groups::{DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup};

use super::control_plane::OPERATIONS_NOT_ASKED;
use super::group_plane::{GROUP_OPERATIONS, GroupPlane};
use crate::coordinator::group::{Ask, Reply};
use crate::runtime::Runtime;

/// First version that tells that there is no such group.
const FIRST_WITH_NOT_FOUND: i16 = 6;

/// Answers one request.
pub async fn answer<R: Runtime>(
    groups: &GroupPlane<R>,
    version: i16,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let mut answers = Vec::with_capacity(request.groups.len());
    let operations =
        if request.include_authorized_operations { GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED };
    let mut seen = BTreeSet::new();
    for group_id in request.groups {
        // Each is told once, or a few bytes that name a large group many times would become any number.
        if !seen.insert(group_id.clone()) {
            answers.push(DescribedGroup {
                error_code: ErrorCode::INVALID_REQUEST,
                group_id,
                ..Default::default()
            });
            continue;
        }
        let mut described = match groups.ask(&group_id, Ask::Describe { group: group_id.clone() }).await {
            Ok(Reply::Described(Some(described))) => *described,
            Ok(Reply::Described(None)) => absent(group_id, version),
            Ok(other) => unreachable!("a description is answered with {other:?}"),
            Err(error_code) => DescribedGroup { error_code, group_id, ..Default::default() },
        };
        described.authorized_operations = operations;
        answers.push(described);
    }
    DescribeGroupsResponse { groups: answers, ..Default::default() }
}

fn absent(group_id: String, version: i16) -> DescribedGroup {
    let is_told = version >= FIRST_WITH_NOT_FOUND;
    DescribedGroup {
        error_code: if is_told { ErrorCode::GROUP_ID_NOT_FOUND } else { ErrorCode::NONE },
        error_message: is_told.then(|| format!("Group {group_id} not found.")),
        group_id,
        group_state: "Dead".to_owned(),
        ..Default::default()
    }
}
