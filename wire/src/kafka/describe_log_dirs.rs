//! DescribeLogDirs (key 35): sizes on disk. Flexible from 2; 3 has an error of its own; 4 tells total
//! and usable bytes. The tags from 10000 on are our own: other clients pass over them.

use crate::ErrorCode;
use crate::ids::PartitionId;
use crate::kafka::message::message;

message! {
    DescribeLogDirsRequest {
        topics: Option<Vec<DescribableLogDirTopic>>, ..;
    }

    DescribableLogDirTopic {
        topic: String, ..;
        partitions: Vec<PartitionId>, ..;
    }

    DescribeLogDirsResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, 3..;
        results: Vec<DescribeLogDirsResult>, ..;
    }

    DescribeLogDirsResult {
        error_code: ErrorCode, ..;
        log_dir: String, ..;
        topics: Vec<DescribeLogDirsTopic>, ..;
        total_bytes: i64, 4.., = -1;
        usable_bytes: i64, 4.., = -1;
        mended_ranges: i64, 2.., tag 10000, = 0;
    }

    DescribeLogDirsTopic {
        name: String, ..;
        partitions: Vec<DescribeLogDirsPartition>, ..;
    }

    DescribeLogDirsPartition {
        partition_index: PartitionId, ..;
        partition_size: i64, ..;
        offset_lag: i64, ..;
        is_future_key: bool, ..;
        damaged_records: i64, 2.., tag 10000, = 0;
    }
}
