//! ListGroups (key 16): all groups of a broker. Flexible from 3; 4 filters by state, 5 by type.

use crate::ErrorCode;
use crate::kafka::message::message;

message! {
    ListGroupsRequest {
        states_filter: Vec<String>, 4..;
        types_filter: Vec<String>, 5..;
    }

    ListGroupsResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, ..;
        groups: Vec<ListedGroup>, ..;
    }

    ListedGroup {
        group_id: String, ..;
        protocol_type: String, ..;
        group_state: String, 4..;
        group_type: String, 5..;
    }
}
