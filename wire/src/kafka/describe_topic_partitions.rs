//! DescribeTopicPartitions (key 75): topics page by page. Always flexible.

use crate::ErrorCode;
use crate::ids::{BrokerId, LeaderEpoch, PartitionId, TopicId};
use crate::kafka::message::message;

message! {
    DescribeTopicPartitionsRequest {
        topics: Vec<TopicRequest>, ..;
        response_partition_limit: i32, .., = 2000;
        cursor: Option<Cursor>, ..;
    }

    TopicRequest {
        name: String, ..;
    }

    Cursor {
        topic_name: String, ..;
        partition_index: PartitionId, ..;
    }

    DescribeTopicPartitionsResponse {
        throttle_time_ms: i32, ..;
        topics: Vec<DescribeTopicPartitionsResponseTopic>, ..;
        next_cursor: Option<Cursor>, ..;
    }

    DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode, ..;
        name: Option<String>, ..;
        topic_id: TopicId, ..;
        is_internal: bool, ..;
        partitions: Vec<DescribeTopicPartitionsResponsePartition>, ..;
        topic_authorized_operations: i32, .., = i32::MIN;
    }

    DescribeTopicPartitionsResponsePartition {
        error_code: ErrorCode, ..;
        partition_index: PartitionId, ..;
        leader_id: BrokerId, ..;
        leader_epoch: LeaderEpoch, .., = LeaderEpoch::NONE;
        replica_nodes: Vec<BrokerId>, ..;
        isr_nodes: Vec<BrokerId>, ..;
        eligible_leader_replicas: Option<Vec<BrokerId>>, ..;
        last_known_elr: Option<Vec<BrokerId>>, ..;
        offline_replicas: Vec<BrokerId>, ..;
    }
}
