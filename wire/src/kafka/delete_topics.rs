//! DeleteTopics (key 20). Flexible from 4; 5 has error messages; 6 can name topics by id.

use crate::ErrorCode;
use crate::ids::TopicId;
use crate::kafka::message::message;

message! {
    DeleteTopicsRequest {
        topics: Vec<DeleteTopicState>, 6..;
        topic_names: Vec<String>, ..=5;
        timeout_ms: i32, ..;
    }

    DeleteTopicState {
        name: Option<String>, 6..;
        topic_id: TopicId, 6..;
    }

    DeleteTopicsResponse {
        throttle_time_ms: i32, ..;
        responses: Vec<DeletableTopicResult>, ..;
    }

    DeletableTopicResult {
        name: Option<String>, .., null 6..;
        topic_id: TopicId, 6..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, 5..;
    }
}
