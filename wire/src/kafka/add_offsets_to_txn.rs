//! AddOffsetsToTxn (key 25): a group's offsets join a transaction. Flexible from 3.

use crate::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::kafka::message::message;

message! {
    AddOffsetsToTxnRequest {
        transactional_id: String, ..;
        producer_id: ProducerId, ..;
        producer_epoch: ProducerEpoch, ..;
        group_id: String, ..;
    }

    AddOffsetsToTxnResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
    }
}
