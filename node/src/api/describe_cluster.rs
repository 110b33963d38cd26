//! DescribeCluster (60): brokers, controller and cluster id, by the listener by which the client came.

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::BrokerId;
use dejaq_wire::kafka::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};

use super::control_plane::{CLUSTER_OPERATIONS, ControlPlane, OPERATIONS_NOT_ASKED};
use crate::runtime::Runtime;
use crate::server::service::Session;

/// Endpoint types (KIP-919): a client asks a broker for brokers, a controller for controllers.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

/// Answers one request.
#[must_use]
pub fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    session: &Session,
    version: i16,
    request: &DescribeClusterRequest,
) -> DescribeClusterResponse {
    if request.endpoint_type != BROKERS {
        return refuse(version, request.endpoint_type);
    }
    let image = control.published.current();
    let broker = |broker: &std::sync::Arc<crate::metadata::Broker>| {
        let address = control.address_of(broker, session)?;
        Some(DescribeClusterBroker {
            broker_id: broker.id,
            host: address.host,
            port: i32::from(address.port),
            rack: broker.rack.clone(),
            is_fenced: broker.fenced,
        })
    };
    let shown = |broker: &&std::sync::Arc<crate::metadata::Broker>| {
        !broker.fenced || (version >= 2 && request.include_fenced_brokers)
    };
    let brokers: Vec<DescribeClusterBroker> = image.brokers().filter(shown).filter_map(broker).collect();
    let controller = control.controller_id();
    let known = brokers.iter().any(|broker| broker.broker_id == controller);
    let operations = request.include_cluster_authorized_operations;
    DescribeClusterResponse {
        endpoint_type: BROKERS,
        cluster_id: control.cluster_id.to_string(),
        controller_id: if known { controller } else { BrokerId::NONE },
        brokers,
        cluster_authorized_operations: if operations { CLUSTER_OPERATIONS } else { OPERATIONS_NOT_ASKED },
        ..Default::default()
    }
}

fn refuse(version: i16, endpoint_type: i8) -> DescribeClusterResponse {
    let (code, message) = match endpoint_type {
        CONTROLLERS => (
            ErrorCode::MISMATCHED_ENDPOINT_TYPE,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER".into(),
        ),
        other => (ErrorCode::UNSUPPORTED_ENDPOINT_TYPE, format!("Unsupported endpoint type {other}")),
    };
    let error_code = if version == 0 { ErrorCode::INVALID_REQUEST } else { code };
    DescribeClusterResponse { error_code, error_message: Some(message), ..Default::default() }
}
