//! Fetch (key 1): reads record batches; followers replicate by it too.
//!
//! Flexible from 12. 7 has sessions (KIP-227); 9 fences by leader epoch; 11 names the rack; 12 detects
//! divergence; 13 names topics by id; 15 moves the replica id into a tag; 16 tells leaders' endpoints;
//! 17 names the follower's directory; 18 carries the follower's high watermark (KIP-1166).

use crate::ErrorCode;
use crate::ids::{BrokerEpoch, BrokerId, DirectoryId, LeaderEpoch, Offset, PartitionId, ProducerId, TopicId};
use crate::kafka::Records;
use crate::kafka::message::message;

message! {
    FetchRequest {
        cluster_id: Option<String>, 12.., tag 0;
        replica_id: BrokerId, ..=14, = BrokerId::NONE;
        replica_state: ReplicaState, 15.., tag 1;
        max_wait_ms: i32, ..;
        min_bytes: i32, ..;
        max_bytes: i32, .., = i32::MAX;
        isolation_level: i8, ..;
        session_id: i32, 7..;
        session_epoch: i32, 7.., = -1;
        topics: Vec<FetchTopic>, ..;
        forgotten_topics_data: Vec<ForgottenTopic>, 7..;
        rack_id: String, 11..;
    }

    ReplicaState {
        replica_id: BrokerId, 15.., = BrokerId::NONE;
        replica_epoch: BrokerEpoch, 15.., = BrokerEpoch::NONE;
    }

    FetchTopic {
        topic: String, ..=12;
        topic_id: TopicId, 13..;
        partitions: Vec<FetchPartition>, ..;
    }

    FetchPartition {
        partition: PartitionId, ..;
        current_leader_epoch: LeaderEpoch, 9.., = LeaderEpoch::NONE;
        fetch_offset: Offset, ..;
        last_fetched_epoch: LeaderEpoch, 12.., = LeaderEpoch::NONE;
        log_start_offset: Offset, 5.., = Offset::NONE;
        partition_max_bytes: i32, ..;
        replica_directory_id: DirectoryId, 17.., tag 0;
        high_watermark: Offset, 18.., tag 1, = Offset(i64::MAX);
    }

    ForgottenTopic {
        topic: String, 7..=12;
        topic_id: TopicId, 13..;
        partitions: Vec<PartitionId>, 7..;
    }

    FetchResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, 7..;
        session_id: i32, 7..;
        responses: Vec<FetchableTopicResponse>, ..;
        node_endpoints: Vec<NodeEndpoint>, 16.., tag 0;
    }

    FetchableTopicResponse {
        topic: String, ..=12;
        topic_id: TopicId, 13..;
        partitions: Vec<PartitionData>, ..;
    }

    PartitionData {
        partition_index: PartitionId, ..;
        error_code: ErrorCode, ..;
        high_watermark: Offset, ..;
        last_stable_offset: Offset, .., = Offset::NONE;
        log_start_offset: Offset, 5.., = Offset::NONE;
        diverging_epoch: EpochEndOffset, 12.., tag 0;
        current_leader: LeaderIdAndEpoch, 12.., tag 1;
        snapshot_id: SnapshotId, 12.., tag 2;
        aborted_transactions: Option<Vec<AbortedTransaction>>, ..;
        preferred_read_replica: BrokerId, 11.., = BrokerId::NONE;
        records: Option<Records>, .., = Some(Records::default());
    }

    EpochEndOffset {
        epoch: LeaderEpoch, 12.., = LeaderEpoch::NONE;
        end_offset: Offset, 12.., = Offset::NONE;
    }

    LeaderIdAndEpoch {
        leader_id: BrokerId, 12.., = BrokerId::NONE;
        leader_epoch: LeaderEpoch, 12.., = LeaderEpoch::NONE;
    }

    SnapshotId {
        end_offset: Offset, .., = Offset::NONE;
        epoch: LeaderEpoch, .., = LeaderEpoch::NONE;
    }

    AbortedTransaction {
        producer_id: ProducerId, ..;
        first_offset: Offset, ..;
    }

    NodeEndpoint {
        node_id: BrokerId, 16..;
        host: String, 16..;
        port: i32, 16..;
        rack: Option<String>, 16..;
    }
}
