//! DescribeProducers (key 61): producers active on partitions. Always flexible.

use crate::ErrorCode;
use crate::ids::{CoordinatorEpoch, Offset, PartitionId, ProducerId};
use crate::kafka::message::message;

message! {
    DescribeProducersRequest {
        topics: Vec<TopicRequest>, ..;
    }

    TopicRequest {
        name: String, ..;
        partition_indexes: Vec<PartitionId>, ..;
    }

    DescribeProducersResponse {
        throttle_time_ms: i32, ..;
        topics: Vec<TopicResponse>, ..;
    }

    TopicResponse {
        name: String, ..;
        partitions: Vec<PartitionResponse>, ..;
    }

    PartitionResponse {
        partition_index: PartitionId, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        active_producers: Vec<ProducerState>, ..;
    }

    ProducerState {
        producer_id: ProducerId, ..;
        producer_epoch: i32, ..;
        last_sequence: i32, .., = -1;
        last_timestamp: i64, .., = -1;
        coordinator_epoch: CoordinatorEpoch, ..;
        current_txn_start_offset: Offset, .., = Offset::NONE;
    }
}
