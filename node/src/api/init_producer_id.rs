//! InitProducerId (22): a fresh producer id for an idempotent producer, or the next life of a transactional id.
//!
//! Owns: the block of ids that this life of the broker hands out. Promises: an id is handed out once in the cluster's
//! life (IDM-8), because blocks are durable before they are used and what a life did not use is never used.
//! Leaves out: who is fenced and what is aborted by a new life (`coordinator::txn`).

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, ProducerEpoch, ProducerId};
use dejaq_wire::kafka::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use tokio::sync::Mutex;

use super::control_plane::ControlPlane;
use crate::controller::Refusal;
use crate::controller::decide::producer_ids::{AllocateProducerIds, Block};
use crate::coordinator::machine::Who;
use crate::coordinator::transactions::Transactions;
use crate::coordinator::txn::ask::{Ask, Reply};
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

    /// An id that nobody has or had.
    ///
    /// # Errors
    /// Why there is none now.
    pub async fn next<R: Runtime>(&self, control: &ControlPlane<R>) -> Result<ProducerId, Refusal> {
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

/// First version that tells who is fenced so; older clients know it as a wrong epoch.
const FIRST_FENCED: i16 = 4;

/// Answers one request.
pub async fn answer<R: Runtime>(
    ids: &ProducerIds,
    control: &ControlPlane<R>,
    transactions: &Transactions<R>,
    version: i16,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let refuse = |error_code| InitProducerIdResponse {
        error_code,
        producer_epoch: ProducerEpoch::NONE,
        ..Default::default()
    };
    if request.transactional_id.as_deref() == Some("") {
        return refuse(ErrorCode::INVALID_REQUEST);
    }
    let fresh = match ids.next(control).await {
        Ok(fresh) => fresh,
        Err(why) => {
            tracing::warn!(%why, "no producer ids now");
            return refuse(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS); // what clients of every age retry
        }
    };
    let Some(id) = request.transactional_id else {
        return InitProducerIdResponse {
            producer_id: fresh,
            producer_epoch: ProducerEpoch(0),
            ..Default::default()
        };
    };
    let was = Who { producer_id: request.producer_id, epoch: request.producer_epoch };
    if was.producer_id.is_valid() != was.epoch.is_valid() {
        return refuse(ErrorCode::INVALID_REQUEST);
    }
    let was = Some(was).filter(|was| was.producer_id.is_valid());
    let ask = Ask::Init { timeout_ms: request.transaction_timeout_ms, was, fresh };
    match transactions.ask(&id, ask).await {
        Ok(Reply::Producer(who)) => InitProducerIdResponse {
            producer_id: who.producer_id,
            producer_epoch: who.epoch,
            ..Default::default()
        },
        Ok(other) => unreachable!("an init is answered with {other:?}"),
        Err(ErrorCode::PRODUCER_FENCED) if version < FIRST_FENCED => {
            refuse(ErrorCode::INVALID_PRODUCER_EPOCH)
        }
        Err(code) => refuse(code),
    }
}
