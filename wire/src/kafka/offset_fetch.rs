//! OffsetFetch (key 9): reads a group's positions.
//!
//! Flexible from 6. 2 fetches all topics (null) and has an error for the group; 5 has leader epochs;
//! 7 can wait for stable offsets; 8 asks for several groups; 9 is for KIP-848; 10 names topics by id.

use crate::ErrorCode;
use crate::ids::{Generation, LeaderEpoch, Offset, PartitionId, TopicId};
use crate::kafka::message::message;

message! {
    OffsetFetchRequest {
        group_id: String, ..=7;
        topics: Option<Vec<OffsetFetchRequestTopic>>, ..=7, null 2..=7;
        groups: Vec<OffsetFetchRequestGroup>, 8..;
        require_stable: bool, 7..;
    }

    OffsetFetchRequestTopic {
        name: String, ..=7;
        partition_indexes: Vec<PartitionId>, ..=7;
    }

    OffsetFetchRequestGroup {
        group_id: String, 8..;
        member_id: Option<String>, 9..;
        member_epoch: Generation, 9.., = Generation::NONE;
        topics: Option<Vec<OffsetFetchRequestTopics>>, 8..;
    }

    OffsetFetchRequestTopics {
        name: String, 8..=9;
        topic_id: TopicId, 10..;
        partition_indexes: Vec<PartitionId>, 8..;
    }

    OffsetFetchResponse {
        throttle_time_ms: i32, 3..;
        topics: Vec<OffsetFetchResponseTopic>, ..=7;
        error_code: ErrorCode, 2..=7;
        groups: Vec<OffsetFetchResponseGroup>, 8..;
    }

    OffsetFetchResponseTopic {
        name: String, ..=7;
        partitions: Vec<OffsetFetchResponsePartition>, ..=7;
    }

    OffsetFetchResponsePartition {
        partition_index: PartitionId, ..=7;
        committed_offset: Offset, ..=7;
        committed_leader_epoch: LeaderEpoch, 5..=7, = LeaderEpoch::NONE;
        metadata: Option<String>, ..=7;
        error_code: ErrorCode, ..=7;
    }

    OffsetFetchResponseGroup {
        group_id: String, 8..;
        topics: Vec<OffsetFetchResponseTopics>, 8..;
        error_code: ErrorCode, 8..;
    }

    OffsetFetchResponseTopics {
        name: String, 8..=9;
        topic_id: TopicId, 10..;
        partitions: Vec<OffsetFetchResponsePartitions>, 8..;
    }

    OffsetFetchResponsePartitions {
        partition_index: PartitionId, 8..;
        committed_offset: Offset, 8..;
        committed_leader_epoch: LeaderEpoch, 8.., = LeaderEpoch::NONE;
        metadata: Option<String>, 8..;
        error_code: ErrorCode, 8..;
    }
}
