//! LeaveGroup (key 13): members leave a classic group.
//!
//! Flexible from 4. 3 removes several members in one request; 5 gives a reason.

use crate::ErrorCode;
use crate::kafka::message::message;

message! {
    LeaveGroupRequest {
        group_id: String, ..;
        member_id: String, ..=2;
        members: Vec<MemberIdentity>, 3..;
    }

    MemberIdentity {
        member_id: String, 3..;
        group_instance_id: Option<String>, 3..;
        reason: Option<String>, 5..;
    }

    LeaveGroupResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, ..;
        members: Vec<MemberResponse>, 3..;
    }

    MemberResponse {
        member_id: String, 3..;
        group_instance_id: Option<String>, 3..;
        error_code: ErrorCode, 3..;
    }
}
