//! From typed answers to frames, the same for every API.

use bytes::Bytes;
use dejaq_wire::frame::encode_response;
use dejaq_wire::ids::CorrelationId;
use dejaq_wire::kafka::{DecodeError, Response};

use crate::runtime::memory::Claim;
use crate::server::service::Reply;

/// The frame of an answer. One that cannot be encoded closes the connection, since its client waits for it.
pub fn frame<A: Response>(version: i16, correlation_id: CorrelationId, answer: &A) -> Reply {
    match encode_response(version, correlation_id, answer) {
        Ok(frame) => Reply::Frame(frame),
        Err(error) => Reply::Close(format!("the answer to {} does not fit: {error}", A::API.name())),
    }
}

/// Ties of a claim what the answer takes to its bytes, until they are sent; the rest goes back.
#[must_use]
pub fn held(reply: Reply, claim: Option<Claim>) -> Reply {
    match (reply, claim) {
        (Reply::Frame(mut frame), Some(mut claim)) => {
            let bytes = frame.iter().map(Bytes::len).sum();
            if let Some(largest) = frame.iter_mut().max_by_key(|part| part.len()) {
                *largest = claim.split(bytes).hold(std::mem::take(largest));
            }
            Reply::Frame(frame)
        }
        (reply, _) => reply,
    }
}

/// Bytes that are no request close the connection (a client cannot tell which of its requests an error would be for).
pub fn malformed(error: &DecodeError) -> Reply {
    Reply::Close(format!("the request is malformed: {error}"))
}
