//! UnregisterBroker (key 64): forgets a broker. Always flexible.

use crate::ErrorCode;
use crate::ids::BrokerId;
use crate::kafka::message::message;

message! {
    UnregisterBrokerRequest {
        broker_id: BrokerId, ..;
    }

    UnregisterBrokerResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
    }
}
