//! SyncGroup (14): the leader hands in the plan, every member gets its part.

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::sync_group::{SyncGroupRequest, SyncGroupResponse};

use super::group_plane::GroupPlane;
use crate::coordinator::group::{Ask, Reply};
use crate::runtime::Runtime;

/// First version that names the protocol, and must.
const FIRST_WITH_PROTOCOL: i16 = 5;

/// Answers one request.
pub async fn answer<R: Runtime>(
    groups: &GroupPlane<R>,
    version: i16,
    request: SyncGroupRequest,
) -> SyncGroupResponse {
    let refused = |error_code| SyncGroupResponse { error_code, ..Default::default() };
    let names_both = request.protocol_type.is_some() && request.protocol_name.is_some();
    if version >= FIRST_WITH_PROTOCOL && !names_both {
        return refused(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    }
    let group = request.group_id.clone();
    match groups.ask_patiently(&group, Ask::Sync(request)).await {
        Ok(Reply::Sync(part)) => part,
        Ok(other) => unreachable!("a sync is answered with {other:?}"),
        // A coordinator that does not know yet whether the member lives: it joins again, here or elsewhere.
        Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS) => refused(ErrorCode::REBALANCE_IN_PROGRESS),
        Err(code) => refused(code),
    }
}
