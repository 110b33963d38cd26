//! FindCoordinator (key 10): which broker coordinates a group (key type 0) or transaction (1).
//!
//! Flexible from 3. 4 asks for several keys at once; 5 may answer TRANSACTION_ABORTABLE; 6 knows share
//! groups (key type 2).

use crate::ErrorCode;
use crate::ids::BrokerId;
use crate::kafka::message::message;

message! {
    FindCoordinatorRequest {
        key: String, ..=3;
        key_type: i8, 1..;
        coordinator_keys: Vec<String>, 4..;
    }

    FindCoordinatorResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, ..=3;
        error_message: Option<String>, 1..=3;
        node_id: BrokerId, ..=3;
        host: String, ..=3;
        port: i32, ..=3;
        coordinators: Vec<Coordinator>, 4..;
    }

    Coordinator {
        key: String, 4..;
        node_id: BrokerId, 4..;
        host: String, 4..;
        port: i32, 4..;
        error_code: ErrorCode, 4..;
        error_message: Option<String>, 4..;
    }
}
