//! FindCoordinator (10): which broker coordinates a group: the leader of the group's home in the offsets topic.
//!
//! Owns: creating that topic on first use. Promises: while there is no topic or no leader the answer is
//! COORDINATOR_NOT_AVAILABLE, which every client tries again.
//! Leaves out: transactions and share groups, which are not built: the first are answered COORDINATOR_NOT_AVAILABLE.
//! Called by `dispatch`. It is served whatever else is: librdkafka takes a broker without this API for one that
//! predates LZ4, and silently sends uncompressed.

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::BrokerId;
use dejaq_wire::kafka::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};

use super::control_plane::ControlPlane;
use crate::controller::decide::create_internal::CreateInternal;
use crate::coordinator::home::{OFFSETS_CONFIGS, OFFSETS_REPLICAS, OFFSETS_TOPIC, partition_of};
use crate::runtime::Runtime;
use crate::server::service::Session;

/// First version that asks for several keys.
const FIRST_WITH_KEYS: i16 = 4;
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// How long the topic may take to be there before the client is told to ask again.
const CREATION_TIMEOUT_MS: i32 = 5000;

/// Answers one request; up to version 3 it asks for one key, from 4 on for several.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    session: &Session,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    if version >= FIRST_WITH_KEYS {
        let mut coordinators = Vec::with_capacity(request.coordinator_keys.len());
        for key in request.coordinator_keys {
            coordinators.push(find(control, session, request.key_type, key).await);
        }
        return FindCoordinatorResponse { coordinators, ..Default::default() };
    }
    let found = find(control, session, request.key_type, request.key).await;
    FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    }
}

async fn find<R: Runtime>(
    control: &ControlPlane<R>,
    session: &Session,
    key_type: i8,
    key: String,
) -> Coordinator {
    let none = |key: String, error_code: ErrorCode, why: &str| Coordinator {
        key,
        node_id: BrokerId::NONE,
        port: -1,
        error_code,
        error_message: Some(why.to_owned()),
        ..Default::default()
    };
    match key_type {
        GROUP => {}
        TRANSACTION => {
            return none(key, ErrorCode::COORDINATOR_NOT_AVAILABLE, "transactions are not built yet");
        }
        _ => return none(key, ErrorCode::INVALID_REQUEST, "there are no coordinators of this type"),
    }
    if control.published.current().topic_named(OFFSETS_TOPIC).is_none()
        && let Err(why) = create(control).await
    {
        return none(key, ErrorCode::COORDINATOR_NOT_AVAILABLE, &why);
    }
    let image = control.published.current();
    let topic = image.topic_named(OFFSETS_TOPIC);
    let home = topic.and_then(|topic| topic.partition(partition_of(&key, topic.partitions.len())));
    let leader = home.and_then(|home| image.broker(home.leader)).filter(|broker| broker.is_live());
    let address = leader.and_then(|broker| Some((broker.id, control.address_of(broker, session)?)));
    match address {
        Some((node_id, address)) => Coordinator {
            key,
            node_id,
            host: address.host,
            port: i32::from(address.port),
            ..Default::default()
        },
        None => none(key, ErrorCode::COORDINATOR_NOT_AVAILABLE, "the group's partition has no leader"),
    }
}

/// Has the topic made, once in the life of a cluster.
async fn create<R: Runtime>(control: &ControlPlane<R>) -> Result<(), String> {
    let request = CreateInternal {
        name: OFFSETS_TOPIC.to_owned(),
        partitions: i32::try_from(control.config.groups.partitions).expect("the table bounds it"),
        max_replicas: OFFSETS_REPLICAS as u16,
        configs: OFFSETS_CONFIGS.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    };
    control.change(request, CREATION_TIMEOUT_MS).await.map(|_| ()).map_err(|why| why.to_string())
}
