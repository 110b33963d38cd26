//! EndTxn (key 26): commits or aborts. Flexible from 3; 5 answers the next producer epoch (KIP-890).

use crate::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::kafka::message::message;

message! {
    EndTxnRequest {
        transactional_id: String, ..;
        producer_id: ProducerId, ..;
        producer_epoch: ProducerEpoch, ..;
        committed: bool, ..;
    }

    EndTxnResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        producer_id: ProducerId, 5.., = ProducerId::NONE;
        producer_epoch: ProducerEpoch, 5.., = ProducerEpoch::NONE;
    }
}
