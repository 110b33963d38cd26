//! SyncGroup (key 14): the leader hands in the plan, every member gets its part.
//!
//! Flexible from 4. 3 has static members; 5 checks the protocol's type and name.

use bytes::Bytes;

use crate::ErrorCode;
use crate::ids::Generation;
use crate::kafka::message::message;

message! {
    SyncGroupRequest {
        group_id: String, ..;
        generation_id: Generation, ..;
        member_id: String, ..;
        group_instance_id: Option<String>, 3..;
        protocol_type: Option<String>, 5..;
        protocol_name: Option<String>, 5..;
        assignments: Vec<SyncGroupRequestAssignment>, ..;
    }

    SyncGroupRequestAssignment {
        member_id: String, ..;
        assignment: Bytes, ..;
    }

    SyncGroupResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, ..;
        protocol_type: Option<String>, 5..;
        protocol_name: Option<String>, 5..;
        assignment: Bytes, ..;
    }
}
