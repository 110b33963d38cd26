//! OffsetCommit (key 8): keeps a group's positions.
//!
//! Flexible from 8. 5 drops the retention time; 6 has leader epochs; 7 static members; 9 is for the
//! groups of KIP-848; 10 names topics by id.

use crate::ErrorCode;
use crate::ids::{Generation, LeaderEpoch, Offset, PartitionId, TopicId};
use crate::kafka::message::message;

message! {
    OffsetCommitRequest {
        group_id: String, ..;
        generation_id_or_member_epoch: Generation, .., = Generation::NONE;
        member_id: String, ..;
        group_instance_id: Option<String>, 7..;
        retention_time_ms: i64, ..=4, = -1;
        topics: Vec<OffsetCommitRequestTopic>, ..;
    }

    OffsetCommitRequestTopic {
        name: String, ..=9;
        topic_id: TopicId, 10..;
        partitions: Vec<OffsetCommitRequestPartition>, ..;
    }

    OffsetCommitRequestPartition {
        partition_index: PartitionId, ..;
        committed_offset: Offset, ..;
        committed_leader_epoch: LeaderEpoch, 6.., = LeaderEpoch::NONE;
        committed_metadata: Option<String>, ..;
    }

    OffsetCommitResponse {
        throttle_time_ms: i32, 3..;
        topics: Vec<OffsetCommitResponseTopic>, ..;
    }

    OffsetCommitResponseTopic {
        name: String, ..=9;
        topic_id: TopicId, 10..;
        partitions: Vec<OffsetCommitResponsePartition>, ..;
    }

    OffsetCommitResponsePartition {
        partition_index: PartitionId, ..;
        error_code: ErrorCode, ..;
    }
}
