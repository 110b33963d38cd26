//! FindCoordinator (10): which broker coordinates a group or a transactional id: the leader of its home in an internal
//! topic.
//!
//! Owns: creating these topics on first use. Promises: while there is no topic or no leader the answer is
//! COORDINATOR_NOT_AVAILABLE, which every client tries again.
//! Leaves out: share groups, which are not built.
//! Called by `dispatch`. It is served whatever else is: librdkafka takes a broker without this API for one that
//! predates LZ4, and silently sends uncompressed.

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::BrokerId;
use dejaq_wire::kafka::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};

use super::control_plane::ControlPlane;
use crate::controller::decide::create_internal::CreateInternal;
use crate::coordinator::home::{
    MOST_REPLICAS, OFFSETS_CONFIGS, OFFSETS_TOPIC, TRANSACTIONS_CONFIGS, TRANSACTIONS_TOPIC, partition_of,
};
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
    let kind = match key_type {
        GROUP => Internal::Offsets,
        TRANSACTION if key.is_empty() => {
            return none(key, ErrorCode::INVALID_REQUEST, "a transactional id is not empty");
        }
        TRANSACTION => Internal::Transactions,
        _ => return none(key, ErrorCode::INVALID_REQUEST, "there are no coordinators of this type"),
    };
    if let Err(why) = ensure(control, kind).await {
        return none(key, ErrorCode::COORDINATOR_NOT_AVAILABLE, &why);
    }
    let image = control.published.current();
    let topic = image.topic_named(kind.name());
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
        None => none(
            key,
            ErrorCode::COORDINATOR_NOT_AVAILABLE,
            "its partition of the internal topic has no leader",
        ),
    }
}

/// An internal topic in which coordinators live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Internal {
    /// Of groups.
    Offsets,
    /// Of transactions.
    Transactions,
}

impl Internal {
    fn name(self) -> &'static str {
        match self {
            Internal::Offsets => OFFSETS_TOPIC,
            Internal::Transactions => TRANSACTIONS_TOPIC,
        }
    }
}

/// Has the topic made if there is none, once in the life of a cluster.
///
/// # Errors
/// Why there is none.
pub async fn ensure<R: Runtime>(control: &ControlPlane<R>, kind: Internal) -> Result<(), String> {
    if control.published.current().topic_named(kind.name()).is_some() {
        return Ok(());
    }
    let (partitions, configs) = match kind {
        Internal::Offsets => (control.config.groups.partitions, OFFSETS_CONFIGS),
        Internal::Transactions => (control.config.transactions.partitions, TRANSACTIONS_CONFIGS),
    };
    let request = CreateInternal {
        name: kind.name().to_owned(),
        partitions: i32::try_from(partitions).expect("the table bounds it"),
        max_replicas: MOST_REPLICAS as u16,
        configs: configs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    };
    control.change(request, CREATION_TIMEOUT_MS).await.map(|_| ()).map_err(|why| why.to_string())
}
