//! ListOffsets (key 2): offsets by timestamp, earliest (-2), latest (-1) and more.
//!
//! Flexible from 6. 7 has the maximum timestamp (-3); 8 earliest local (-4); 9 latest tiered (-5);
//! 10 lets the client state a timeout (KIP-1075).

use crate::ErrorCode;
use crate::ids::{BrokerId, LeaderEpoch, Offset, PartitionId};
use crate::kafka::message::message;

message! {
    ListOffsetsRequest {
        replica_id: BrokerId, ..;
        isolation_level: i8, 2..;
        topics: Vec<ListOffsetsTopic>, ..;
        timeout_ms: i32, 10..;
    }

    ListOffsetsTopic {
        name: String, ..;
        partitions: Vec<ListOffsetsPartition>, ..;
    }

    ListOffsetsPartition {
        partition_index: PartitionId, ..;
        current_leader_epoch: LeaderEpoch, 4.., = LeaderEpoch::NONE;
        timestamp: i64, ..;
    }

    ListOffsetsResponse {
        throttle_time_ms: i32, 2..;
        topics: Vec<ListOffsetsTopicResponse>, ..;
    }

    ListOffsetsTopicResponse {
        name: String, ..;
        partitions: Vec<ListOffsetsPartitionResponse>, ..;
    }

    ListOffsetsPartitionResponse {
        partition_index: PartitionId, ..;
        error_code: ErrorCode, ..;
        timestamp: i64, .., = -1;
        offset: Offset, .., = Offset::NONE;
        leader_epoch: LeaderEpoch, 4.., = LeaderEpoch::NONE;
    }
}
