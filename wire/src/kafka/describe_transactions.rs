//! DescribeTransactions (key 65): state of transactions. Always flexible.

use crate::ErrorCode;
use crate::ids::{PartitionId, ProducerEpoch, ProducerId};
use crate::kafka::message::message;

message! {
    DescribeTransactionsRequest {
        transactional_ids: Vec<String>, ..;
    }

    DescribeTransactionsResponse {
        throttle_time_ms: i32, ..;
        transaction_states: Vec<TransactionState>, ..;
    }

    TransactionState {
        error_code: ErrorCode, ..;
        transactional_id: String, ..;
        transaction_state: String, ..;
        transaction_timeout_ms: i32, ..;
        transaction_start_time_ms: i64, ..;
        producer_id: ProducerId, ..;
        producer_epoch: ProducerEpoch, ..;
        topics: Vec<TopicData>, ..;
    }

    TopicData {
        topic: String, ..;
        partitions: Vec<PartitionId>, ..;
    }
}
