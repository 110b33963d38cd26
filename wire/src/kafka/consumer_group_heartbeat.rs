//! ConsumerGroupHeartbeat (key 68): the one request of KIP-848 members. Always flexible; 1 can subscribe
//! by a pattern and makes clients choose their member id.

use crate::ErrorCode;
use crate::ids::{Generation, PartitionId, TopicId};
use crate::kafka::message::message;

message! {
    ConsumerGroupHeartbeatRequest {
        group_id: String, ..;
        member_id: String, ..;
        member_epoch: Generation, ..;
        instance_id: Option<String>, ..;
        rack_id: Option<String>, ..;
        rebalance_timeout_ms: i32, .., = -1;
        subscribed_topic_names: Option<Vec<String>>, ..;
        subscribed_topic_regex: Option<String>, 1..;
        server_assignor: Option<String>, ..;
        topic_partitions: Option<Vec<TopicPartitions>>, ..;
    }

    TopicPartitions {
        topic_id: TopicId, ..;
        partitions: Vec<PartitionId>, ..;
    }

    ConsumerGroupHeartbeatResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        member_id: Option<String>, ..;
        member_epoch: Generation, ..;
        heartbeat_interval_ms: i32, ..;
        assignment: Option<Assignment>, ..;
    }

    Assignment {
        topic_partitions: Vec<TopicPartitions>, ..;
    }
}
