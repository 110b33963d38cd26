//! CreatePartitions (key 37): grows topics. Flexible from 2.

use crate::ErrorCode;
use crate::ids::BrokerId;
use crate::kafka::message::message;

message! {
    CreatePartitionsRequest {
        topics: Vec<CreatePartitionsTopic>, ..;
        timeout_ms: i32, ..;
        validate_only: bool, ..;
    }

    CreatePartitionsTopic {
        name: String, ..;
        count: i32, ..;
        assignments: Option<Vec<CreatePartitionsAssignment>>, ..;
    }

    CreatePartitionsAssignment {
        broker_ids: Vec<BrokerId>, ..;
    }

    CreatePartitionsResponse {
        throttle_time_ms: i32, ..;
        results: Vec<CreatePartitionsTopicResult>, ..;
    }

    CreatePartitionsTopicResult {
        name: String, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
    }
}
