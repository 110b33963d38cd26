//! AddOffsetsToTxn (25): the offsets of a group join a transaction: the group's home in the offsets topic does.

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::add_offsets_to_txn::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

use super::control_plane::ControlPlane;
use super::find_coordinator::{Internal, ensure};
use crate::coordinator::home::{OFFSETS_TOPIC, partition_of};
use crate::coordinator::machine::Who;
use crate::coordinator::transactions::{Question, Transactions};
use crate::coordinator::txn::ask::At;
use crate::runtime::Runtime;

/// First version that knows PRODUCER_FENCED.
const FIRST_FENCED: i16 = 2;

/// Answers one request.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    transactions: &Transactions<R>,
    version: i16,
    request: AddOffsetsToTxnRequest,
) -> AddOffsetsToTxnResponse {
    let error_code = match add(control, transactions, request).await {
        Ok(()) => ErrorCode::NONE,
        Err(ErrorCode::PRODUCER_FENCED) if version < FIRST_FENCED => ErrorCode::INVALID_PRODUCER_EPOCH,
        // The topic is there: this node has not acted on it yet.
        Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => ErrorCode::COORDINATOR_NOT_AVAILABLE,
        Err(code) => code,
    };
    AddOffsetsToTxnResponse { error_code, ..Default::default() }
}

async fn add<R: Runtime>(
    control: &ControlPlane<R>,
    transactions: &Transactions<R>,
    request: AddOffsetsToTxnRequest,
) -> Result<(), ErrorCode> {
    ensure(control, Internal::Offsets).await.map_err(|_| ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
    let image = control.published.current();
    let topic = image.topic_named(OFFSETS_TOPIC).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
    let partition = partition_of(&request.group_id, topic.partitions.len());
    let question = Question {
        id: request.transactional_id.into(),
        who: Who { producer_id: request.producer_id, epoch: request.producer_epoch },
        adds: true,
        partitions: vec![At { topic: OFFSETS_TOPIC.into(), partition }],
    };
    transactions.vouch_here(question, transactions.deadline()).await
}
