//! Metadata (key 3): brokers, topics, partitions and their leaders.
//!
//! Flexible from 9. 1 tells all topics (null) from none (empty); 4 may forbid auto-creation; 7 has
//! leader epochs; 10 topic ids; 12 asks by id; 13 has an error of its own (KIP-1102).

use crate::ErrorCode;
use crate::ids::{BrokerId, LeaderEpoch, PartitionId, TopicId};
use crate::kafka::message::message;

message! {
    MetadataRequest {
        topics: Option<Vec<MetadataRequestTopic>>, .., null 1..;
        allow_auto_topic_creation: bool, 4.., = true;
        include_cluster_authorized_operations: bool, 8..=10;
        include_topic_authorized_operations: bool, 8..;
    }

    MetadataRequestTopic {
        topic_id: TopicId, 10..;
        name: Option<String>, .., null 10..;
    }

    MetadataResponse {
        throttle_time_ms: i32, 3..;
        brokers: Vec<MetadataResponseBroker>, ..;
        cluster_id: Option<String>, 2..;
        controller_id: BrokerId, 1.., = BrokerId::NONE;
        topics: Vec<MetadataResponseTopic>, ..;
        cluster_authorized_operations: i32, 8..=10, = i32::MIN;
        error_code: ErrorCode, 13..;
    }

    MetadataResponseBroker {
        node_id: BrokerId, ..;
        host: String, ..;
        port: i32, ..;
        rack: Option<String>, 1..;
    }

    MetadataResponseTopic {
        error_code: ErrorCode, ..;
        name: Option<String>, .., null 12..;
        topic_id: TopicId, 10..;
        is_internal: bool, 1..;
        partitions: Vec<MetadataResponsePartition>, ..;
        topic_authorized_operations: i32, 8.., = i32::MIN;
    }

    MetadataResponsePartition {
        error_code: ErrorCode, ..;
        partition_index: PartitionId, ..;
        leader_id: BrokerId, ..;
        leader_epoch: LeaderEpoch, 7.., = LeaderEpoch::NONE;
        replica_nodes: Vec<BrokerId>, ..;
        isr_nodes: Vec<BrokerId>, ..;
        offline_replicas: Vec<BrokerId>, 5..;
    }
}
