//! AlterConfigs (key 33): replaces all settings of a resource. Flexible from 2.

use crate::ErrorCode;
use crate::kafka::message::message;

message! {
    AlterConfigsRequest {
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
        value: Option<String>, ..;
    }

    AlterConfigsResponse {
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
