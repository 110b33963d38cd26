//! Kafka's wire protocol: bytes ⇄ typed messages. No IO, no async, no clock, no randomness.
//!
//! Owns: ids, error codes, frames, the messages of every API. Promises: decoding bytes from outside
//! never panics and takes memory in proportion to their number; record sets are never copied.
//! Leaves out: disks, sockets, and what an answer should say.
//!
//! A server reads a frame (without its 4-byte length prefix), looks at the header, and decodes the
//! body as the type of that API; the answer is a list of chunks to send:
//!
//! ```
//! use dejaq_wire::api::ApiKey;
//! use dejaq_wire::frame::{decode_request_header, decode_response, encode_request, encode_response};
//! use dejaq_wire::ids::{BrokerId, CorrelationId};
//! use dejaq_wire::kafka::Request;
//! use dejaq_wire::kafka::metadata::{MetadataRequest, MetadataResponse};
//!
//! let sent = encode_request(12, CorrelationId(1), Some("me"), &MetadataRequest::default())?;
//!
//! let (header, body) = decode_request_header(sent.concat().into())?;
//! assert_eq!((header.api, header.version), (ApiKey::Metadata, 12));
//! let request = MetadataRequest::decode(header.version, body)?;
//! assert_eq!(request.topics, None); // null: all topics
//! let response = MetadataResponse { controller_id: BrokerId(1), ..Default::default() };
//! let chunks = encode_response(header.version, header.correlation_id, &response)?;
//!
//! let (id, answer) = decode_response::<MetadataRequest>(12, chunks.concat().into())?;
//! assert_eq!((id, answer), (CorrelationId(1), response));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod api;
pub mod error_code;
pub mod frame;
pub mod fuzz;
pub mod ids;
pub mod kafka;
pub mod peer;
pub mod record;
pub mod topic_name;

pub use api::ApiKey;
pub use error_code::ErrorCode;
