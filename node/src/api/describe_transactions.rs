//! DescribeTransactions (65): how transactional ids stand that are coordinated here.

use std::collections::BTreeSet;

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
    let mut seen = BTreeSet::new();
    for id in request.transactional_ids {
        // Each is told once, or a few bytes that name a large transaction many times would become any number.
        transaction_states.push(match seen.insert(id.clone()) {
            true => one(transactions, id).await,
            false => refuse(id, ErrorCode::INVALID_REQUEST),
        });
    }
    DescribeTransactionsResponse { transaction_states, ..Default::default() }
}

fn refuse(transactional_id: String, error_code: ErrorCode) -> TransactionState {
    TransactionState {
        error_code,
        transactional_id,
        transaction_start_time_ms: -1,
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch::NONE,
        ..Default::default()
    }
}

async fn one<R: Runtime>(transactions: &Transactions<R>, id: String) -> TransactionState {
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
