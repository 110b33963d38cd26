//! Messages between our own brokers and controllers: postcard inside of a versioned envelope.
//!
//! Owns: the envelope, the greeting that opens every connection, in [`call`] what asks and what answers. Promises: tag and version
//! of a message never change their meaning (golden files stand against it); decoding never panics,
//! refuses what is longer than its bound, and takes memory in proportion to the bytes.
//! Leaves out: frames and their length prefix (the Net), and who may connect.
//!
//! ```text
//! tag 2 │ version 2 │ postcard body        1 Hello 0, 2 HelloReply 0, 3 Refused 0, 4 Ping 0, 5 Pong 0
//! tag 2 │ version 2 │ …                    from 0x0100 on: see `call`
//! ```
//!
//! Decided: a version names one exact body, and both sides speak the lower feature level of the two
//! greetings; Hello and HelloReply keep version 0 for ever. Because postcard has no field names, so
//! that "append and let the old reader ignore it" cannot be told from damage. Which body belongs to which level says
//! one table, [`level_of`]; who asks hands both bodies over ([`Body::older`]), the connection picks. Revisit when a rolling
//! upgrade needs to add a field to a message that is hot.

pub mod call;
pub mod raft;
pub mod replica;
pub mod txn;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::BrokerId;
pub use call::{Ask, Body, Call, Parts, Refusal, Room, level_of};

/// Longest text in a greeting, in bytes.
pub const MAX_TEXT_BYTES: usize = 255;
/// The feature level that this build speaks; the lower one of two greetings is spoken.
///
/// One number for every form that a node of the last release does not know: of messages between nodes (see
/// [`call::level_of`]), and, as the feature `dejaq.version` of the cluster, of metadata records and configs. 1 is what the first
/// release speaks.
pub const FEATURE_LEVEL: u16 = 2;
/// The oldest feature level that this build still speaks.
pub const OLDEST_FEATURE_LEVEL: u16 = 1;

const _: () = assert!(OLDEST_FEATURE_LEVEL <= FEATURE_LEVEL);

const ENVELOPE_BYTES: usize = 4;
const HELLO: u16 = 1;
const HELLO_REPLY: u16 = 2;
const REFUSED: u16 = 3;
const PING: u16 = 4;
const PONG: u16 = 5;
/// Tags from here on are of calls.
const FIRST_CALL: u16 = 0x0100;

/// What the peer that connects says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster that the peer belongs to; at most [`MAX_TEXT_BYTES`].
    pub cluster_id: String,
    /// Who it is.
    pub node_id: BrokerId,
    /// Newest feature level that it speaks.
    pub feature_level: u16,
    /// Its version, for the log; at most [`MAX_TEXT_BYTES`].
    pub build: String,
}

/// The answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// Who answers.
    pub hello: Hello,
    /// Whether the connection goes on.
    pub verdict: HelloVerdict,
}

/// Whether a peer is taken. The order of the variants is their number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelloVerdict {
    /// The connection goes on at the lower feature level.
    Accepted,
    /// The peer belongs to another cluster; it must not try again by itself.
    OtherCluster,
    /// The peer has the number of the one that answers.
    SameNodeId,
    /// The peer's feature level is older than this broker still speaks.
    TooOld,
}

/// A message between our own nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerMessage {
    /// Opens a connection.
    Hello(Hello),
    /// Answers it.
    HelloReply(HelloReply),
    /// Asks, or answers.
    Call(Call),
    /// Answers a call that cannot be answered.
    Refused {
        /// The number of the call.
        correlation: u64,
        /// Why.
        why: Refusal,
    },
    /// Asks whether anyone is there, when nothing was heard for a while.
    Ping,
    /// Answers [`PeerMessage::Ping`].
    Pong,
}

/// Why bytes are no peer message; close the connection and back off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no whole envelope.
    #[error("a peer message of {0} bytes has no envelope")]
    TooShort(usize),
    /// A newer build sends what this one does not know, or the peer is no broker of ours.
    #[error("the peer message {tag} in version {version} is not known")]
    Unknown {
        /// What it is.
        tag: u16,
        /// Its version.
        version: u16,
    },
    /// The body is not what tag and version say.
    #[error("the body of the peer message {tag} is damaged")]
    Damaged {
        /// What it should be.
        tag: u16,
    },
    /// A text is longer than its bound.
    #[error("a text of {0} bytes in a peer message is too long")]
    TextTooLong(usize),
    /// A message, or what one claims, is longer than its bound.
    #[error("a peer message with a part of {bytes} bytes is too long")]
    TooLong {
        /// How long.
        bytes: usize,
    },
    /// A list has more elements than its bound.
    #[error("a peer message with a list of {0} elements is too long")]
    TooMany(usize),
}

impl Hello {
    fn check(&self) -> Result<(), PeerError> {
        match [&self.cluster_id, &self.build].into_iter().find(|text| text.len() > MAX_TEXT_BYTES) {
            Some(text) => Err(PeerError::TextTooLong(text.len())),
            None => Ok(()),
        }
    }
}

impl PeerMessage {
    fn tag_and_version(&self) -> (u16, u16) {
        match self {
            PeerMessage::Hello(_) => (HELLO, 0),
            PeerMessage::HelloReply(_) => (HELLO_REPLY, 0),
            PeerMessage::Call(call) => (call.parts.tag, call.parts.version),
            PeerMessage::Refused { .. } => (REFUSED, 0),
            PeerMessage::Ping => (PING, 0),
            PeerMessage::Pong => (PONG, 0),
        }
    }

    fn check(&self) -> Result<(), PeerError> {
        match self {
            PeerMessage::Hello(hello) => hello.check(),
            PeerMessage::HelloReply(reply) => reply.hello.check(),
            PeerMessage::Call(_) | PeerMessage::Refused { .. } | PeerMessage::Ping | PeerMessage::Pong => {
                Ok(())
            }
        }
    }

    /// The frame to send, without its length prefix; the tail of a call is not copied.
    ///
    /// # Errors
    /// [`PeerError::TextTooLong`]: a fault of the caller; nothing may be sent.
    pub fn encode(self) -> Result<Vec<Bytes>, PeerError> {
        self.check()?;
        let (tag, version) = self.tag_and_version();
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&tag.to_be_bytes());
        out.extend_from_slice(&version.to_be_bytes());
        let out = match self {
            PeerMessage::Call(call) => return Ok(call.encode()),
            PeerMessage::Hello(hello) => postcard::to_extend(&hello, out),
            PeerMessage::HelloReply(reply) => postcard::to_extend(&reply, out),
            PeerMessage::Refused { correlation, why } => postcard::to_extend(&(correlation, why), out),
            PeerMessage::Ping | PeerMessage::Pong => Ok(out),
        };
        Ok(vec![out.expect("a vector takes everything, and these types have known lengths").into()])
    }

    /// Decodes a message with its envelope; what a call carries are slices of `frame`.
    ///
    /// # Errors
    /// [`PeerError`], see its variants.
    pub fn decode(frame: &Bytes) -> Result<PeerMessage, PeerError> {
        let Some((envelope, body)) = frame.split_first_chunk::<ENVELOPE_BYTES>() else {
            return Err(PeerError::TooShort(frame.len()));
        };
        let [t0, t1, v0, v1] = *envelope;
        let (tag, version) = (u16::from_be_bytes([t0, t1]), u16::from_be_bytes([v0, v1]));
        let message = match (tag, version) {
            (HELLO, 0) => PeerMessage::Hello(decode_body(tag, body)?),
            (HELLO_REPLY, 0) => PeerMessage::HelloReply(decode_body(tag, body)?),
            (REFUSED, 0) => {
                let (correlation, why) = decode_body(tag, body)?;
                PeerMessage::Refused { correlation, why }
            }
            (PING, 0) if body.is_empty() => PeerMessage::Ping,
            (PONG, 0) if body.is_empty() => PeerMessage::Pong,
            (PING | PONG, 0) => return Err(PeerError::Damaged { tag }),
            (FIRST_CALL.., _) if Room::of(tag).is_some() => PeerMessage::Call(Call::decode(frame)?),
            _ => return Err(PeerError::Unknown { tag, version }),
        };
        assert_eq!(message.tag_and_version(), (tag, version), "the envelope of {message:?}");
        message.check()?;
        Ok(message)
    }
}

/// All of `body` as a `T`. Strings are bounded by the bytes that are left; a sequence, should a message
/// have one, reserves at most 1 MiB ahead of its elements (serde's bound).
fn decode_body<'a, T: Deserialize<'a>>(tag: u16, body: &'a [u8]) -> Result<T, PeerError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, [_, ..])) | Err(_) => Err(PeerError::Damaged { tag }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello { cluster_id: "c".repeat(22), node_id: BrokerId(3), feature_level: 1, build: "0.1.0".into() }
    }

    #[test]
    fn a_message_comes_back_as_it_went() {
        let reply = HelloReply { hello: hello(), verdict: HelloVerdict::TooOld };
        let refused = PeerMessage::Refused { correlation: 300, why: Refusal::Busy };
        let greeting = [PeerMessage::Hello(hello()), PeerMessage::HelloReply(reply)];
        for message in greeting.into_iter().chain([refused, PeerMessage::Ping, PeerMessage::Pong]) {
            let bytes: Bytes = message.clone().encode().expect("short texts").concat().into();
            assert_eq!(PeerMessage::decode(&bytes), Ok(message.clone()));
            for at in 0..bytes.len() {
                assert!(PeerMessage::decode(&bytes.slice(..at)).is_err(), "cut at {at}");
            }
            let longer = [bytes.as_ref(), &[0]].concat().into();
            let (tag, _) = message.tag_and_version();
            assert_eq!(PeerMessage::decode(&longer), Err(PeerError::Damaged { tag }));
        }
    }

    #[test]
    fn an_unknown_tag_or_version_says_so() {
        let decode = |bytes: &'static [u8]| PeerMessage::decode(&Bytes::from_static(bytes));
        let unknown = |tag, version| Err(PeerError::Unknown { tag, version });
        assert_eq!(decode(&[0, 1, 0, 1, 9]), unknown(1, 1));
        assert_eq!(decode(&[0x47, 0x45, 0x54, 0x20]), unknown(0x4745, 0x5420));
        assert_eq!(decode(&[0, 1, 0]), Err(PeerError::TooShort(3)));
    }

    #[test]
    fn a_long_text_is_refused_on_both_sides() {
        let long = Hello { build: "x".repeat(256), ..hello() };
        let bytes = [&[0, 1, 0, 0], postcard::to_allocvec(&long).expect("it is short").as_slice()].concat();
        assert_eq!(PeerMessage::Hello(long).encode(), Err(PeerError::TextTooLong(256)));
        assert_eq!(PeerMessage::decode(&bytes.into()), Err(PeerError::TextTooLong(256)));
    }
}
