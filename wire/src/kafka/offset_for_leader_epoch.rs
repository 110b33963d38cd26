//! OffsetForLeaderEpoch (key 23): where a leader epoch ended. Flexible from 4; 3 names the replica.

use crate::ErrorCode;
use crate::ids::{BrokerId, LeaderEpoch, Offset, PartitionId};
use crate::kafka::message::message;

message! {
    OffsetForLeaderEpochRequest {
        replica_id: BrokerId, 3.., = BrokerId(-2);
        topics: Vec<OffsetForLeaderTopic>, ..;
    }

    OffsetForLeaderTopic {
        topic: String, ..;
        partitions: Vec<OffsetForLeaderPartition>, ..;
    }

    OffsetForLeaderPartition {
        partition: PartitionId, ..;
        current_leader_epoch: LeaderEpoch, .., = LeaderEpoch::NONE;
        leader_epoch: LeaderEpoch, ..;
    }

    OffsetForLeaderEpochResponse {
        throttle_time_ms: i32, ..;
        topics: Vec<OffsetForLeaderTopicResult>, ..;
    }

    OffsetForLeaderTopicResult {
        topic: String, ..;
        partitions: Vec<EpochEndOffset>, ..;
    }

    EpochEndOffset {
        error_code: ErrorCode, ..;
        partition: PartitionId, ..;
        leader_epoch: LeaderEpoch, .., = LeaderEpoch::NONE;
        end_offset: Offset, .., = Offset::NONE;
    }
}
