//! DescribeQuorum (key 55): state of the metadata quorum. Always flexible; 1 tells when voters fetched;
//! 2 names directories and endpoints.

use crate::ErrorCode;
use crate::ids::{BrokerId, DirectoryId, LeaderEpoch, Offset, PartitionId};
use crate::kafka::message::message;

message! {
    DescribeQuorumRequest {
        topics: Vec<TopicData>, ..;
    }

    TopicData {
        topic_name: String, ..;
        partitions: Vec<PartitionData>, ..;
    }

    PartitionData {
        partition_index: PartitionId, ..;
    }

    DescribeQuorumResponse {
        error_code: ErrorCode, ..;
        error_message: Option<String>, 2..;
        topics: Vec<TopicState>, ..;
        nodes: Vec<Node>, 2..;
    }

    TopicState {
        topic_name: String, ..;
        partitions: Vec<PartitionState>, ..;
    }

    PartitionState {
        partition_index: PartitionId, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, 2..;
        leader_id: BrokerId, ..;
        leader_epoch: LeaderEpoch, ..;
        high_watermark: Offset, ..;
        current_voters: Vec<ReplicaState>, ..;
        observers: Vec<ReplicaState>, ..;
    }

    Node {
        node_id: BrokerId, 2..;
        listeners: Vec<Listener>, 2..;
    }

    Listener {
        name: String, 2..;
        host: String, 2..;
        port: u16, 2..;
    }

    ReplicaState {
        replica_id: BrokerId, ..;
        replica_directory_id: DirectoryId, 2..;
        log_end_offset: Offset, ..;
        last_fetch_timestamp: i64, 1.., = -1;
        last_caught_up_timestamp: i64, 1.., = -1;
    }
}
