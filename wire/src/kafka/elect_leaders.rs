//! ElectLeaders (key 43): starts elections. Flexible from 2; 1 knows unclean ones.

use crate::ErrorCode;
use crate::ids::PartitionId;
use crate::kafka::message::message;

message! {
    ElectLeadersRequest {
        election_type: i8, 1..;
        topic_partitions: Option<Vec<TopicPartitions>>, ..;
        timeout_ms: i32, .., = 60000;
    }

    TopicPartitions {
        topic: String, ..;
        partitions: Vec<PartitionId>, ..;
    }

    ElectLeadersResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, 1..;
        replica_election_results: Vec<ReplicaElectionResult>, ..;
    }

    ReplicaElectionResult {
        topic: String, ..;
        partition_result: Vec<PartitionResult>, ..;
    }

    PartitionResult {
        partition_id: i32, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
    }
}
