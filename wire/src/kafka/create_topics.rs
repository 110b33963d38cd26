//! CreateTopics (key 19). Flexible from 5, which also answers the topic's settings; 4 takes -1 for
//! the broker's defaults; 7 answers topic ids.

use crate::ErrorCode;
use crate::ids::{BrokerId, PartitionId, TopicId};
use crate::kafka::message::message;

message! {
    CreateTopicsRequest {
        topics: Vec<CreatableTopic>, ..;
        timeout_ms: i32, .., = 60000;
        validate_only: bool, ..;
    }

    CreatableTopic {
        name: String, ..;
        num_partitions: i32, ..;
        replication_factor: i16, ..;
        assignments: Vec<CreatableReplicaAssignment>, ..;
        configs: Vec<CreatableTopicConfig>, ..;
    }

    CreatableReplicaAssignment {
        partition_index: PartitionId, ..;
        broker_ids: Vec<BrokerId>, ..;
    }

    CreatableTopicConfig {
        name: String, ..;
        value: Option<String>, ..;
    }

    CreateTopicsResponse {
        throttle_time_ms: i32, ..;
        topics: Vec<CreatableTopicResult>, ..;
    }

    CreatableTopicResult {
        name: String, ..;
        topic_id: TopicId, 7..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        topic_config_error_code: ErrorCode, 5.., tag 0;
        num_partitions: i32, 5.., = -1;
        replication_factor: i16, 5.., = -1;
        configs: Option<Vec<CreatableTopicConfigs>>, 5..;
    }

    CreatableTopicConfigs {
        name: String, 5..;
        value: Option<String>, 5..;
        read_only: bool, 5..;
        config_source: i8, 5.., = -1;
        is_sensitive: bool, 5..;
    }
}
