//! DescribeTransactions (65): how transactional ids stand that are coordinated here.

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{ProducerEpoch, ProducerId};
use dejaq_wire::kafka::describe_transactions::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, TopicData, TransactionState,
};

use crate::coordinator::transactions::Transactions;
use crate::coordinator::txn::ask::{Ask, Reply};
use crate::coordinator::txn::txns::by_topic;
use crate::runtime::Runtime;

/// Answers one request.
pub async fn answer<R: Runtime>(
    transactions: &Transactions<R>,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let mut transaction_states = Vec::with_capacity(request.transactional_ids.len());
    for id in request.transactional_ids {
        transaction_states.push(one(transactions, id).await);
    }
    DescribeTransactionsResponse { transaction_states, ..Default::default() }
}

async fn one<R: Runtime>(transactions: &Transactions<R>, id: String) -> TransactionState {
    let refuse = |transactional_id, error_code| TransactionState {
        error_code,
        transactional_id,
        transaction_start_time_ms: -1,
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch::NONE,
        ..Default::default()
    };
    if id.is_empty() {
        return refuse(id, ErrorCode::INVALID_REQUEST);
    }
    match transactions.ask(&id, Ask::Describe).await {
        Err(code) => refuse(id, code),
        Ok(Reply::Described(described)) => {
            let topics = by_topic(&described).into_iter();
            TransactionState {
                error_code: ErrorCode::NONE,
                transactional_id: id,
                transaction_state: described.state.name().to_owned(),
                transaction_timeout_ms: described.timeout_ms,
                transaction_start_time_ms: described.start_ms,
                producer_id: described.who.producer_id,
                producer_epoch: described.who.epoch,
                topics: topics
                    .map(|(topic, partitions)| TopicData { topic: topic.to_string(), partitions })
                    .collect(),
            }
        }
        Ok(other) => unreachable!("a description is answered with {other:?}"),
    }
}
