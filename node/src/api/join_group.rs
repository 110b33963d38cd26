//! JoinGroup (11): enters a classic group, and waits for the others.

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::join_group::{JoinGroupRequest, JoinGroupResponse};

use super::group_plane::{GroupPlane, client_host, entropy};
use crate::coordinator::group::ask::JoinAsk;
use crate::coordinator::group::{Ask, Reply};
use crate::runtime::Runtime;
use crate::server::service::Session;

/// First version that gives a new member its id before it counts (KIP-394).
const FIRST_WITH_MEMBER_IDS: i16 = 4;
/// First version that may tell a leader to make no plan (KIP-814).
const FIRST_WITH_SKIPPING: i16 = 9;

/// Answers one request.
pub async fn answer<R: Runtime>(
    groups: &GroupPlane<R>,
    session: &Session,
    client_id: Option<&str>,
    version: i16,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let (group, member_id) = (request.group_id.clone(), request.member_id.clone());
    let ask = JoinAsk {
        request,
        client_id: client_id.unwrap_or_default().to_owned(),
        client_host: client_host(session),
        knows_member_ids: version >= FIRST_WITH_MEMBER_IDS,
        knows_skipping: version >= FIRST_WITH_SKIPPING,
        entropy: entropy(&groups.runtime),
    };
    let refused = |error_code| JoinGroupResponse { error_code, member_id, ..Default::default() };
    if group.is_empty() {
        return refused(ErrorCode::INVALID_GROUP_ID);
    }
    match groups.ask_patiently(&group, Ask::Join(Box::new(ask))).await {
        Ok(Reply::Join(joined)) => joined,
        Ok(other) => unreachable!("a join is answered with {other:?}"),
        Err(code) => refused(code),
    }
}
