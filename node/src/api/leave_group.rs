//! LeaveGroup (13): members go, by themselves or by an operator's hand.
//!
//! Up to version 2 one member, whose result is the answer's; from 3 on several, each with its own.

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity};

use super::group_plane::GroupPlane;
use crate::coordinator::group::ask::LeaveAsk;
use crate::coordinator::group::{Ask, Reply};
use crate::runtime::Runtime;

/// First version for several members.
const FIRST_WITH_MEMBERS: i16 = 3;

/// Answers one request.
pub async fn answer<R: Runtime>(
    groups: &GroupPlane<R>,
    version: i16,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let LeaveGroupRequest { group_id, member_id, mut members } = request;
    if version < FIRST_WITH_MEMBERS {
        members = vec![MemberIdentity { member_id, ..Default::default() }];
    }
    let ask = Ask::Leave(LeaveAsk { group: group_id.clone(), members });
    match groups.ask(&group_id, ask).await {
        Ok(Reply::Leave(results)) if version < FIRST_WITH_MEMBERS => {
            let error_code = results.first().map_or(ErrorCode::NONE, |result| result.error_code);
            LeaveGroupResponse { error_code, ..Default::default() }
        }
        Ok(Reply::Leave(members)) => LeaveGroupResponse { members, ..Default::default() },
        Ok(other) => unreachable!("a leave is answered with {other:?}"),
        Err(error_code) => LeaveGroupResponse { error_code, ..Default::default() },
    }
}
