//! What a person can do about an error code: the cure beside the cause.
//!
//! Owns: one sentence for each code that a user of the client can meet. Pure.

use dejaq_wire::error_code::ErrorCode;

/// What to do about `code`, as a sentence without its first capital.
#[must_use]
pub fn cure_of(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID => {
            "see which topics there are: dejaq topic list"
        }
        ErrorCode::TOPIC_ALREADY_EXISTS => "choose another name, or look at it: dejaq topic describe",
        ErrorCode::INVALID_TOPIC_EXCEPTION => {
            "use letters, digits, '.', '_' and '-', at most 249; names that differ only in '.' and '_' collide"
        }
        ErrorCode::INVALID_PARTITIONS => {
            "ask for at least one partition, and for more than there are when growing"
        }
        ErrorCode::INVALID_REPLICATION_FACTOR => "ask for at most as many replicas as there are brokers",
        ErrorCode::INVALID_CONFIG => "see the names and values: dejaq topic describe TOPIC --configs",
        ErrorCode::OFFSET_OUT_OF_RANGE => {
            "start from beginning or end; the partition no longer, or not yet, holds it"
        }
        ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => {
            "send smaller records or batches (--batch-bytes), or raise max.message.bytes of the topic"
        }
        ErrorCode::NOT_ENOUGH_REPLICAS | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND => {
            "bring back brokers that are down, or lower min.insync.replicas of the topic"
        }
        ErrorCode::KAFKA_STORAGE_ERROR => {
            "look at the broker's log and disk; it takes no writes until it restarts"
        }
        ErrorCode::CORRUPT_MESSAGE => "look for damage: dejaq log verify DATA_DIR on the broker's machine",
        ErrorCode::INVALID_TIMESTAMP => {
            "give timestamps near the present, or change message.timestamp.*.max.ms"
        }
        ErrorCode::UNSUPPORTED_VERSION => "use a client and a broker of closer versions",
        ErrorCode::UNSUPPORTED_COMPRESSION_TYPE => "choose another --compression",
        ErrorCode::TOPIC_AUTHORIZATION_FAILED
        | ErrorCode::GROUP_AUTHORIZATION_FAILED
        | ErrorCode::CLUSTER_AUTHORIZATION_FAILED => "ask for the right to do this",
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER => {
            "check what was stored: the broker has lost records that it had confirmed"
        }
        ErrorCode::FEATURE_UPDATE_FAILED | ErrorCode::INVALID_UPDATE_VERSION => {
            "look at what each broker supports: dejaq cluster features"
        }
        ErrorCode::POLICY_VIOLATION => "the broker's message says which rule it breaks",
        ErrorCode::NOT_CONTROLLER | ErrorCode::LEADER_NOT_AVAILABLE | ErrorCode::NOT_LEADER_OR_FOLLOWER => {
            "try again in a moment; an election is under way"
        }
        ErrorCode::REQUEST_TIMED_OUT => "see whether brokers are down (dejaq cluster status), then try again",
        code if code.is_retriable() => "try again",
        _ => "the broker's log may say more",
    }
}
