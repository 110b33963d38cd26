//! ConsumerGroupDescribe (69): state, plan and members of groups of KIP-848.
//!
//! A group of the classic protocol is not one of them: clients ask DescribeGroups then.

use std::collections::BTreeSet;

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::consumer_group_describe::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DescribedGroup,
};

use super::control_plane::OPERATIONS_NOT_ASKED;
use super::group_plane::{GROUP_OPERATIONS, GroupPlane};
use crate::coordinator::group::{Ask, Reply};
use crate::runtime::Runtime;

/// Answers one request.
pub async fn answer<R: Runtime>(
    groups: &GroupPlane<R>,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let mut answers = Vec::with_capacity(request.group_ids.len());
    let operations =
        if request.include_authorized_operations { GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED };
    let mut seen = BTreeSet::new();
    for group_id in request.group_ids {
        // Each is told once, or a few bytes that name a large group many times would become any number.
        if !seen.insert(group_id.clone()) {
            answers.push(DescribedGroup {
                error_code: ErrorCode::INVALID_REQUEST,
                group_id,
                ..Default::default()
            });
            continue;
        }
        let ask = Ask::DescribeConsumers { group: group_id.clone() };
        let mut described = match groups.ask(&group_id, ask).await {
            Ok(Reply::DescribedConsumers(Some(described))) => *described,
            Ok(Reply::DescribedConsumers(None)) => DescribedGroup {
                error_code: ErrorCode::GROUP_ID_NOT_FOUND,
                error_message: Some(format!("Group {group_id} is not a consumer group.")),
                group_id,
                ..Default::default()
            },
            Ok(other) => unreachable!("a description is answered with {other:?}"),
            Err(error_code) => DescribedGroup { error_code, group_id, ..Default::default() },
        };
        described.authorized_operations = operations;
        answers.push(described);
    }
    ConsumerGroupDescribeResponse { groups: answers, ..Default::default() }
}
