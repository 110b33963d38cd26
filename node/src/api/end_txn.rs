//! EndTxn (26): commits or aborts; from version 5 on the client gets its next epoch with the answer (KIP-890).
//!
//! Promises: OK only when the decision is durable, and then it is carried out whatever happens.

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{ProducerEpoch, ProducerId};
use dejaq_wire::kafka::end_txn::{EndTxnRequest, EndTxnResponse};

use super::control_plane::ControlPlane;
use super::init_producer_id::ProducerIds;
use crate::coordinator::machine::Who;
use crate::coordinator::transactions::Transactions;
use crate::coordinator::txn::ask::{Ask, Reply};
use crate::coordinator::txn::state::MOST_EPOCH;
use crate::runtime::Runtime;

/// First version that knows PRODUCER_FENCED.
const FIRST_FENCED: i16 = 2;
/// First version that takes a new epoch.
const FIRST_BUMPING: i16 = 5;

/// Answers one request.
pub async fn answer<R: Runtime>(
    ids: &ProducerIds,
    control: &ControlPlane<R>,
    transactions: &Transactions<R>,
    version: i16,
    request: EndTxnRequest,
) -> EndTxnResponse {
    let who = Who { producer_id: request.producer_id, epoch: request.producer_epoch };
    let bumps = version >= FIRST_BUMPING;
    let refuse = |error_code| EndTxnResponse { error_code, ..Default::default() };
    let fresh = if bumps && who.epoch >= MOST_EPOCH {
        match ids.next(control).await {
            Ok(fresh) => fresh,
            Err(_) => return refuse(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
        }
    } else {
        ProducerId::NONE
    };
    let ask = Ask::End { who, commit: request.committed, bumps, fresh };
    match transactions.ask(&request.transactional_id, ask).await {
        Ok(Reply::Producer(next)) if bumps => {
            EndTxnResponse { producer_id: next.producer_id, producer_epoch: next.epoch, ..Default::default() }
        }
        Ok(Reply::Producer(_)) => {
            EndTxnResponse { producer_epoch: ProducerEpoch::NONE, ..Default::default() }
        }
        Ok(other) => unreachable!("the end of a transaction is answered with {other:?}"),
        Err(ErrorCode::PRODUCER_FENCED) if version < FIRST_FENCED => {
            refuse(ErrorCode::INVALID_PRODUCER_EPOCH)
        }
        Err(code) => refuse(code),
    }
}
