//! InitProducerId (key 22): gives out a producer id and epoch.
//!
//! Flexible from 2. 3 bumps the epoch of a producer that names its own; 4 may answer PRODUCER_FENCED,
//! 5 TRANSACTION_ABORTABLE.

use crate::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::kafka::message::message;

message! {
    InitProducerIdRequest {
        transactional_id: Option<String>, ..;
        transaction_timeout_ms: i32, ..;
        producer_id: ProducerId, 3.., = ProducerId::NONE;
        producer_epoch: ProducerEpoch, 3.., = ProducerEpoch::NONE;
    }

    InitProducerIdResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        producer_id: ProducerId, .., = ProducerId::NONE;
        producer_epoch: ProducerEpoch, ..;
    }
}
