//! Heartbeat (12): a member lives, and learns of a rebalance.

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::heartbeat::{HeartbeatRequest, HeartbeatResponse};

use super::group_plane::GroupPlane;
use crate::coordinator::group::{Ask, Reply};
use crate::runtime::Runtime;

/// Answers one request.
pub async fn answer<R: Runtime>(groups: &GroupPlane<R>, request: HeartbeatRequest) -> HeartbeatResponse {
    let group = request.group_id.clone();
    let error_code = match groups.ask(&group, Ask::Heartbeat(request)).await {
        Ok(Reply::Code(code)) => code,
        Ok(other) => unreachable!("a heartbeat is answered with {other:?}"),
        // While it loads it cannot know better: the member goes on, as with Kafka.
        Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS) => ErrorCode::NONE,
        Err(code) => code,
    };
    HeartbeatResponse { error_code, ..Default::default() }
}
