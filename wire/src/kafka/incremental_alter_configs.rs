//! IncrementalAlterConfigs (key 44): sets (0), deletes (1), appends to (2) or subtracts from (3)
//! settings. Flexible from 1.

use crate::ErrorCode;
use crate::kafka::message::message;

message! {
    IncrementalAlterConfigsRequest {
        resources: Vec<AlterConfigsResource>, ..;
        validate_only: bool, ..;
    }

    AlterConfigsResource {
        resource_type: i8, ..;
        resource_name: String, ..;
        configs: Vec<AlterableConfig>, ..;
    }

    AlterableConfig {
        name: String, ..;
        config_operation: i8, ..;
        value: Option<String>, ..;
    }

    IncrementalAlterConfigsResponse {
        throttle_time_ms: i32, ..;
        responses: Vec<AlterConfigsResourceResponse>, ..;
    }

    AlterConfigsResourceResponse {
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        resource_type: i8, ..;
        resource_name: String, ..;
    }
}
