//! JoinGroup (key 11): enters a classic group.
//!
//! Flexible from 6. 1 splits the rebalance timeout from the session's; 4 answers MEMBER_ID_REQUIRED
//! first; 5 has static members; 7 echoes the protocol type; 8 gives a reason; 9 lets the leader skip
//! its plan.

use bytes::Bytes;

use crate::ErrorCode;
use crate::ids::Generation;
use crate::kafka::message::message;

message! {
    JoinGroupRequest {
        group_id: String, ..;
        session_timeout_ms: i32, ..;
        rebalance_timeout_ms: i32, 1.., = -1;
        member_id: String, ..;
        group_instance_id: Option<String>, 5..;
        protocol_type: String, ..;
        protocols: Vec<JoinGroupRequestProtocol>, ..;
        reason: Option<String>, 8..;
    }

    JoinGroupRequestProtocol {
        name: String, ..;
        metadata: Bytes, ..;
    }

    JoinGroupResponse {
        throttle_time_ms: i32, 2..;
        error_code: ErrorCode, ..;
        generation_id: Generation, .., = Generation::NONE;
        protocol_type: Option<String>, 7..;
        protocol_name: Option<String>, .., null 7..;
        leader: String, ..;
        skip_assignment: bool, 9..;
        member_id: String, ..;
        members: Vec<JoinGroupResponseMember>, ..;
    }

    JoinGroupResponseMember {
        member_id: String, ..;
        group_instance_id: Option<String>, 5..;
        metadata: Bytes, ..;
    }
}
