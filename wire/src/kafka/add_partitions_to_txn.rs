//! AddPartitionsToTxn (key 24): partitions join a transaction.
//!
//! Flexible from 3. From 4 on it goes between brokers, for several transactions at once (KIP-890).

use crate::ErrorCode;
use crate::ids::{PartitionId, ProducerEpoch, ProducerId};
use crate::kafka::message::message;

message! {
    AddPartitionsToTxnRequest {
        transactions: Vec<AddPartitionsToTxnTransaction>, 4..;
        v3_and_below_transactional_id: String, ..=3;
        v3_and_below_producer_id: ProducerId, ..=3;
        v3_and_below_producer_epoch: ProducerEpoch, ..=3;
        v3_and_below_topics: Vec<AddPartitionsToTxnTopic>, ..=3;
    }

    AddPartitionsToTxnTransaction {
        transactional_id: String, 4..;
        producer_id: ProducerId, 4..;
        producer_epoch: ProducerEpoch, 4..;
        verify_only: bool, 4..;
        topics: Vec<AddPartitionsToTxnTopic>, 4..;
    }

    AddPartitionsToTxnTopic {
        name: String, ..;
        partitions: Vec<PartitionId>, ..;
    }

    AddPartitionsToTxnResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, 4..;
        results_by_transaction: Vec<AddPartitionsToTxnResult>, 4..;
        results_by_topic_v3_and_below: Vec<AddPartitionsToTxnTopicResult>, ..=3;
    }

    AddPartitionsToTxnResult {
        transactional_id: String, 4..;
        topic_results: Vec<AddPartitionsToTxnTopicResult>, 4..;
    }

    AddPartitionsToTxnTopicResult {
        name: String, ..;
        results_by_partition: Vec<AddPartitionsToTxnPartitionResult>, ..;
    }

    AddPartitionsToTxnPartitionResult {
        partition_index: PartitionId, ..;
        partition_error_code: ErrorCode, ..;
    }
}
