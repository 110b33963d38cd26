//! ListPartitionReassignments (key 46): moves under way. Always flexible.

use crate::ErrorCode;
use crate::ids::{BrokerId, PartitionId};
use crate::kafka::message::message;

message! {
    ListPartitionReassignmentsRequest {
        timeout_ms: i32, .., = 60000;
        topics: Option<Vec<ListPartitionReassignmentsTopics>>, ..;
    }

    ListPartitionReassignmentsTopics {
        name: String, ..;
        partition_indexes: Vec<PartitionId>, ..;
    }

    ListPartitionReassignmentsResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        topics: Vec<OngoingTopicReassignment>, ..;
    }

    OngoingTopicReassignment {
        name: String, ..;
        partitions: Vec<OngoingPartitionReassignment>, ..;
    }

    OngoingPartitionReassignment {
        partition_index: PartitionId, ..;
        replicas: Vec<BrokerId>, ..;
        adding_replicas: Vec<BrokerId>, ..;
        removing_replicas: Vec<BrokerId>, ..;
    }
}
