//! Produce (key 0): appends record batches, one per partition.
//!
//! Flexible from 9. 10 tells the current leader after NOT_LEADER_OR_FOLLOWER (KIP-951); 11 may answer
//! TRANSACTION_ABORTABLE; 12 adds partitions to the transaction implicitly (KIP-890); 13 names topics
//! by id (KIP-516). With acks 0 there is no answer at all.

use crate::ErrorCode;
use crate::ids::{BrokerId, LeaderEpoch, Offset, PartitionId, TopicId};
use crate::kafka::Records;
use crate::kafka::message::message;

message! {
    ProduceRequest {
        transactional_id: Option<String>, ..;
        acks: i16, ..;
        timeout_ms: i32, ..;
        topic_data: Vec<TopicProduceData>, ..;
    }

    TopicProduceData {
        name: String, ..=12;
        topic_id: TopicId, 13..;
        partition_data: Vec<PartitionProduceData>, ..;
    }

    PartitionProduceData {
        index: PartitionId, ..;
        records: Option<Records>, ..;
    }

    ProduceResponse {
        responses: Vec<TopicProduceResponse>, ..;
        throttle_time_ms: i32, ..;
        node_endpoints: Vec<NodeEndpoint>, 10.., tag 0;
    }

    TopicProduceResponse {
        name: String, ..=12;
        topic_id: TopicId, 13..;
        partition_responses: Vec<PartitionProduceResponse>, ..;
    }

    PartitionProduceResponse {
        index: PartitionId, ..;
        error_code: ErrorCode, ..;
        base_offset: Offset, ..;
        log_append_time_ms: i64, .., = -1;
        log_start_offset: Offset, 5.., = Offset::NONE;
        record_errors: Vec<BatchIndexAndErrorMessage>, 8..;
        error_message: Option<String>, 8..;
        current_leader: LeaderIdAndEpoch, 10.., tag 0;
    }

    BatchIndexAndErrorMessage {
        batch_index: i32, 8..;
        batch_index_error_message: Option<String>, 8..;
    }

    LeaderIdAndEpoch {
        leader_id: BrokerId, 10.., = BrokerId::NONE;
        leader_epoch: LeaderEpoch, 10.., = LeaderEpoch::NONE;
    }

    NodeEndpoint {
        node_id: BrokerId, 10..;
        host: String, 10..;
        port: i32, 10..;
        rack: Option<String>, 10..;
    }
}
