//! TxnOffsetCommit (key 28): offsets that are committed with a transaction.
//!
//! Flexible from 3, which also names the member; 2 has leader epochs; 5 joins the transaction
//! implicitly (KIP-890).

use crate::ErrorCode;
use crate::ids::{Generation, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId};
use crate::kafka::message::message;

message! {
    TxnOffsetCommitRequest {
        transactional_id: String, ..;
        group_id: String, ..;
        producer_id: ProducerId, ..;
        producer_epoch: ProducerEpoch, ..;
        generation_id: Generation, 3.., = Generation::NONE;
        member_id: String, 3..;
        group_instance_id: Option<String>, 3..;
        topics: Vec<TxnOffsetCommitRequestTopic>, ..;
    }

    TxnOffsetCommitRequestTopic {
        name: String, ..;
        partitions: Vec<TxnOffsetCommitRequestPartition>, ..;
    }

    TxnOffsetCommitRequestPartition {
        partition_index: PartitionId, ..;
        committed_offset: Offset, ..;
        committed_leader_epoch: LeaderEpoch, 2.., = LeaderEpoch::NONE;
        committed_metadata: Option<String>, ..;
    }

    TxnOffsetCommitResponse {
        throttle_time_ms: i32, ..;
        topics: Vec<TxnOffsetCommitResponseTopic>, ..;
    }

    TxnOffsetCommitResponseTopic {
        name: String, ..;
        partitions: Vec<TxnOffsetCommitResponsePartition>, ..;
    }

    TxnOffsetCommitResponsePartition {
        partition_index: PartitionId, ..;
        error_code: ErrorCode, ..;
    }
}
