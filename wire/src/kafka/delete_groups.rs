//! DeleteGroups (key 42). Flexible from 2.

use crate::ErrorCode;
use crate::kafka::message::message;

message! {
    DeleteGroupsRequest {
        groups_names: Vec<String>, ..;
    }

    DeleteGroupsResponse {
        throttle_time_ms: i32, ..;
        results: Vec<DeletableGroupResult>, ..;
    }

    DeletableGroupResult {
        group_id: String, ..;
        error_code: ErrorCode, ..;
    }
}
