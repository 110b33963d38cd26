//! AddPartitionsToTxn (24): partitions join a transaction; from version 4 on for several transactions, as brokers ask.
//!
//! Promises: either all partitions of a transaction join or none; OK only when the coordinator has it durably.
//! Leaves out: who may add (`coordinator::txn`).

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::add_partitions_to_txn::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult, AddPartitionsToTxnTopic, AddPartitionsToTxnTopicResult,
};

use crate::coordinator::machine::Who;
use crate::coordinator::transactions::{Question, Transactions};
use crate::coordinator::txn::ask::At;
use crate::runtime::Runtime;

/// First version for several transactions.
const FIRST_BATCHED: i16 = 4;
/// First version that knows PRODUCER_FENCED.
const FIRST_FENCED: i16 = 2;
/// First version that knows TRANSACTION_ABORTABLE.
const FIRST_ABORTABLE: i16 = 5;

/// Answers one request.
pub async fn answer<R: Runtime>(
    transactions: &Transactions<R>,
    version: i16,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    if version >= FIRST_BATCHED {
        let mut results = Vec::with_capacity(request.transactions.len());
        for one in request.transactions {
            let who = Who { producer_id: one.producer_id, epoch: one.producer_epoch };
            let (id, adds) = (one.transactional_id, !one.verify_only);
            let topic_results = add(transactions, version, (&id, who, adds), one.topics).await;
            results.push(AddPartitionsToTxnResult { transactional_id: id, topic_results });
        }
        return AddPartitionsToTxnResponse { results_by_transaction: results, ..Default::default() };
    }
    let who =
        Who { producer_id: request.v3_and_below_producer_id, epoch: request.v3_and_below_producer_epoch };
    let id = request.v3_and_below_transactional_id;
    let topics = request.v3_and_below_topics;
    AddPartitionsToTxnResponse {
        results_by_topic_v3_and_below: add(transactions, version, (&id, who, true), topics).await,
        ..Default::default()
    }
}

async fn add<R: Runtime>(
    transactions: &Transactions<R>,
    version: i16,
    (id, who, adds): (&str, Who, bool),
    topics: Vec<AddPartitionsToTxnTopic>,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let at = |topic: &AddPartitionsToTxnTopic, index: usize| At {
        topic: topic.name.as_str().into(),
        partition: topic.partitions[index],
    };
    let all = topics.iter().flat_map(|topic| (0..topic.partitions.len()).map(|index| at(topic, index)));
    let partitions: Vec<At> = all.collect();
    let is_known = |at: &At| !adds || transactions.is_there(at);
    let told = if partitions.iter().all(is_known) {
        let question = Question { id: id.into(), who, adds, partitions };
        transactions.vouch_here(question, transactions.deadline()).await
    } else {
        Err(ErrorCode::OPERATION_NOT_ATTEMPTED)
    };
    let code = match told {
        Ok(()) => ErrorCode::NONE,
        Err(ErrorCode::PRODUCER_FENCED) if version < FIRST_FENCED => ErrorCode::INVALID_PRODUCER_EPOCH,
        Err(ErrorCode::INVALID_TXN_STATE) if version >= FIRST_ABORTABLE => ErrorCode::TRANSACTION_ABORTABLE,
        Err(code) => code,
    };
    let result = |topic: AddPartitionsToTxnTopic| {
        let partition = |index: usize| {
            let is_known = is_known(&at(&topic, index));
            AddPartitionsToTxnPartitionResult {
                partition_index: topic.partitions[index],
                partition_error_code: if is_known { code } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION },
            }
        };
        let results_by_partition = (0..topic.partitions.len()).map(partition).collect();
        AddPartitionsToTxnTopicResult { results_by_partition, name: topic.name }
    };
    topics.into_iter().map(result).collect()
}
