//! DescribeGroups (key 15): state and members of classic groups.
//!
//! Flexible from 5. 3 can tell authorized operations; 4 static members; 6 has an error message.

use bytes::Bytes;

use crate::ErrorCode;
use crate::kafka::message::message;

message! {
    DescribeGroupsRequest {
        groups: Vec<String>, ..;
        include_authorized_operations: bool, 3..;
    }

    DescribeGroupsResponse {
        throttle_time_ms: i32, 1..;
        groups: Vec<DescribedGroup>, ..;
    }

    DescribedGroup {
        error_code: ErrorCode, ..;
        error_message: Option<String>, 6..;
        group_id: String, ..;
        group_state: String, ..;
        protocol_type: String, ..;
        protocol_data: String, ..;
        members: Vec<DescribedGroupMember>, ..;
        authorized_operations: i32, 3.., = i32::MIN;
    }

    DescribedGroupMember {
        member_id: String, ..;
        group_instance_id: Option<String>, 4..;
        client_id: String, ..;
        client_host: String, ..;
        member_metadata: Bytes, ..;
        member_assignment: Bytes, ..;
    }
}
