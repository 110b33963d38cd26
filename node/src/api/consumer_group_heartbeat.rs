//! ConsumerGroupHeartbeat (68): the one request of members of KIP-848; they join, live, give up and leave with it.
//!
//! Leaves out: what a group decides (`coordinator::group::consumer`).

use dejaq_wire::kafka::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
};

use super::group_plane::{GroupPlane, client_host, entropy};
use crate::coordinator::group::ask::BeatAsk;
use crate::coordinator::group::{Ask, Reply};
use crate::runtime::Runtime;
use crate::server::service::Session;

/// Answers one request.
pub async fn answer<R: Runtime>(
    groups: &GroupPlane<R>,
    session: &Session,
    client_id: Option<&str>,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    let group = request.group_id.clone();
    let ask = BeatAsk {
        request,
        client_id: client_id.unwrap_or_default().to_owned(),
        client_host: client_host(session),
        entropy: entropy(&groups.runtime),
    };
    match groups.ask(&group, Ask::Beat(Box::new(ask))).await {
        Ok(Reply::Beat(answer)) => *answer,
        Ok(other) => unreachable!("a heartbeat is answered with {other:?}"),
        Err(error_code) => ConsumerGroupHeartbeatResponse { error_code, ..Default::default() },
    }
}
