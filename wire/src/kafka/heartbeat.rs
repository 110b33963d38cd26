//! Heartbeat (key 12): a classic member is alive. Flexible from 4; 3 has static members.

use crate::ErrorCode;
use crate::ids::Generation;
use crate::kafka::message::message;

message! {
    HeartbeatRequest {
        group_id: String, ..;
        generation_id: Generation, ..;
        member_id: String, ..;
        group_instance_id: Option<String>, 3..;
    }

    HeartbeatResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, ..;
    }
}
