//! InitProducerId (22): a fresh producer id for an idempotent producer.
//!
//! Owns: the block of ids that this life of the broker hands out. Promises: an id is handed out once in the cluster's
//! life (IDM-8), because blocks are durable before they are used and what a life did not use is never used.
//! Leaves out: transactional ids, which are refused clearly until they are served.

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, ProducerEpoch, ProducerId};
use dejaq_wire::kafka::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use tokio::sync::Mutex;

use super::control_plane::ControlPlane;
use crate::controller::Refusal;
use crate::controller::decide::producer_ids::{AllocateProducerIds, Block};
use crate::runtime::Runtime;

/// How long a request waits for a new block; its client asks again after an error.
const BLOCK_TIMEOUT_MS: i32 = 10_000;

/// Hands out the producer ids of one life of one broker.
#[derive(Debug)]
pub struct ProducerIds {
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
    /// What is left of the current block. Held while a new block is made durable, so that all who wait share it.
    left: Mutex<Block>,
}

impl ProducerIds {
    /// No block yet; the first request gets one.
    #[must_use]
    pub fn new(broker: BrokerId, broker_epoch: BrokerEpoch) -> ProducerIds {
        let left = Block { start: ProducerId(0), end: ProducerId(0) };
        ProducerIds { broker, broker_epoch, left: Mutex::new(left) }
    }

    async fn next<R: Runtime>(&self, control: &ControlPlane<R>) -> Result<ProducerId, Refusal> {
        let mut left = self.left.lock().await;
        if left.start == left.end {
            mark!("a new block of producer ids");
            let ask = AllocateProducerIds { broker: self.broker, broker_epoch: self.broker_epoch };
            *left = control.change(ask, BLOCK_TIMEOUT_MS).await?;
        }
        assert!(left.start < left.end, "a block from {:?} to {:?}", left.start, left.end);
        let next = left.start;
        left.start = ProducerId(next.0 + 1);
        Ok(next)
    }
}

/// Answers one request.
pub async fn answer<R: Runtime>(
    ids: &ProducerIds,
    control: &ControlPlane<R>,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let refuse = |error_code| InitProducerIdResponse {
        error_code,
        producer_epoch: ProducerEpoch::NONE,
        ..Default::default()
    };
    match request.transactional_id.as_deref() {
        Some("") => return refuse(ErrorCode::INVALID_REQUEST),
        // Fatal for every client, and its text says what it is: this broker does not serve transactions.
        Some(_) => return refuse(ErrorCode::UNSUPPORTED_VERSION),
        None => {}
    }
    match ids.next(control).await {
        Ok(producer_id) => {
            InitProducerIdResponse { producer_id, producer_epoch: ProducerEpoch(0), ..Default::default() }
        }
        Err(why) => {
            tracing::warn!(%why, "no producer ids now");
            refuse(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS) // what clients of every age retry
        }
    }
}
