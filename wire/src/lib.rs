//! Kafka's wire protocol: bytes ⇄ typed messages. No IO, no async, no clock.

pub mod error_code;
pub mod ids;
pub mod topic_name;

pub use error_code::ErrorCode;
