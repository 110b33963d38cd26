//! AlterPartitionReassignments (key 45): moves replicas. Always flexible; 1 can forbid a change of the
//! replication factor.

use crate::ErrorCode;
use crate::ids::{BrokerId, PartitionId};
use crate::kafka::message::message;

message! {
    AlterPartitionReassignmentsRequest {
        timeout_ms: i32, .., = 60000;
        allow_replication_factor_change: bool, 1.., = true;
        topics: Vec<ReassignableTopic>, ..;
    }

    ReassignableTopic {
        name: String, ..;
        partitions: Vec<ReassignablePartition>, ..;
    }

    ReassignablePartition {
        partition_index: PartitionId, ..;
        replicas: Option<Vec<BrokerId>>, ..;
    }

    AlterPartitionReassignmentsResponse {
        throttle_time_ms: i32, ..;
        allow_replication_factor_change: bool, 1.., = true;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        responses: Vec<ReassignableTopicResponse>, ..;
    }

    ReassignableTopicResponse {
        name: String, ..;
        partitions: Vec<ReassignablePartitionResponse>, ..;
    }

    ReassignablePartitionResponse {
        partition_index: PartitionId, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
    }
}
