//! DeleteRecords (key 21): moves the start of partitions' logs. Flexible from 2.

use crate::ErrorCode;
use crate::ids::{Offset, PartitionId};
use crate::kafka::message::message;

message! {
    DeleteRecordsRequest {
        topics: Vec<DeleteRecordsTopic>, ..;
        timeout_ms: i32, ..;
    }

    DeleteRecordsTopic {
        name: String, ..;
        partitions: Vec<DeleteRecordsPartition>, ..;
    }

    DeleteRecordsPartition {
        partition_index: PartitionId, ..;
        offset: Offset, ..;
    }

    DeleteRecordsResponse {
        throttle_time_ms: i32, ..;
        topics: Vec<DeleteRecordsTopicResult>, ..;
    }

    DeleteRecordsTopicResult {
        name: String, ..;
        partitions: Vec<DeleteRecordsPartitionResult>, ..;
    }

    DeleteRecordsPartitionResult {
        partition_index: PartitionId, ..;
        low_watermark: Offset, ..;
        error_code: ErrorCode, ..;
    }
}
