//! OffsetDelete (key 47): forgets a group's positions. Never flexible.

use crate::ErrorCode;
use crate::ids::PartitionId;
use crate::kafka::message::message;

message! {
    OffsetDeleteRequest {
        group_id: String, ..;
        topics: Vec<OffsetDeleteRequestTopic>, ..;
    }

    OffsetDeleteRequestTopic {
        name: String, ..;
        partitions: Vec<OffsetDeleteRequestPartition>, ..;
    }

    OffsetDeleteRequestPartition {
        partition_index: PartitionId, ..;
    }

    OffsetDeleteResponse {
        error_code: ErrorCode, ..;
        throttle_time_ms: i32, ..;
        topics: Vec<OffsetDeleteResponseTopic>, ..;
    }

    OffsetDeleteResponseTopic {
        name: String, ..;
        partitions: Vec<OffsetDeleteResponsePartition>, ..;
    }

    OffsetDeleteResponsePartition {
        partition_index: PartitionId, ..;
        error_code: ErrorCode, ..;
    }
}
