//! From typed answers to frames, the same for every API.

use dejaq_wire::frame::encode_response;
use dejaq_wire::ids::CorrelationId;
use dejaq_wire::kafka::{DecodeError, Response};

use crate::server::service::Reply;

/// The frame of an answer. One that cannot be encoded closes the connection, since its client waits for it.
pub fn frame<A: Response>(version: i16, correlation_id: CorrelationId, answer: &A) -> Reply {
    match encode_response(version, correlation_id, answer) {
        Ok(frame) => Reply::Frame(frame),
        Err(error) => Reply::Close(format!("the answer to {} does not fit: {error}", A::API.name())),
    }
}

/// Bytes that are no request close the connection (a client cannot tell which of its requests an error would be for).
pub fn malformed(error: &DecodeError) -> Reply {
    Reply::Close(format!("the request is malformed: {error}"))
}
