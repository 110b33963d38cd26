//! UnregisterBroker (64): a broker that does not run any more leaves the cluster.

use dejaq_wire::kafka::unregister_broker::{UnregisterBrokerRequest, UnregisterBrokerResponse};

use super::control_plane::{ControlPlane, outcome};
use crate::controller::decide::members::UnregisterBroker;
use crate::runtime::Runtime;

/// The request has no timeout of its own.
const TIMEOUT_MS: i32 = 30_000;

/// Answers one request.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    request: UnregisterBrokerRequest,
) -> UnregisterBrokerResponse {
    let result = control.change(UnregisterBroker { broker: request.broker_id }, TIMEOUT_MS).await;
    let (error_code, error_message) = outcome(&result);
    UnregisterBrokerResponse { error_code, error_message, ..Default::default() }
}
