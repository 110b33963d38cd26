//! What asks and what answers: any number of them on one connection, told apart by a correlation number.
//!
//! Owns: the layout of a call, the traits [`Body`] and [`Ask`] by which a room (raft, replica, control) brings its own
//! messages, the table of tags. Promises: a tail of raw bytes (record batches) is not copied on its way in or out.
//! Leaves out: what the messages mean; each room has a file of its own beside this one.
//!
//! ```text
//!  tag 2 │ version 2 │ correlation 8 │ head length 4 │ head (postcard) │ tail (raw, to the end of the frame)
//! ```
//!
//! The high byte of a tag is its room; bit 7 of the low byte says that it answers.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{PeerError, decode_body};

/// Longest postcard part of a call, in bytes. A fetch of 100 000 partitions has about 4 MB.
pub const MAX_HEAD_BYTES: usize = 16 << 20;
/// Bytes before the head.
const PREFIX_BYTES: usize = 16;
const ANSWER: u16 = 0x80;

/// Who takes a call: the high byte of its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// The metadata quorum: votes, fetches of the metadata log, snapshots. Tags 0x0101 to 0x01ff.
    Raft,
    /// Followers of partitions. Tags 0x0201 to 0x02ff.
    Replica,
    /// What brokers ask the active controller for. Tags 0x0301 to 0x03ff.
    Control,
    /// Transactions: coordinators and leaders of partitions. Tags 0x0401 to 0x04ff.
    Txn,
}

impl Room {
    /// The room of a tag.
    #[must_use]
    pub const fn of(tag: u16) -> Option<Room> {
        match tag >> 8 {
            1 => Some(Room::Raft),
            2 => Some(Room::Replica),
            3 => Some(Room::Control),
            4 => Some(Room::Txn),
            _ => None,
        }
    }
}

/// Whether this tag is of a call that answers.
#[must_use]
pub const fn is_answer(tag: u16) -> bool {
    tag & ANSWER != 0
}

/// The feature level from which on this message is spoken; see [`super::FEATURE_LEVEL`]. A connection of a lower level carries
/// none of it, either way.
///
/// ```text
/// 0x0201 fetches of followers (answer 0x0281): version 2 says of which partitions a follower wants to give up what is damaged, and that
///        its leader lets it; a follower of an older leader keeps what cannot be put back, and waits
/// 0x0301 registration, 0x0302 heartbeat: version 1 says which levels the broker supports
/// 0x0303 in-sync sets: version 1 says who lost records to damage; an older controller is not told: it keeps who lost them eligible where
///        that leaves too few in sync, and nothing is mended there until it is of this level
/// 0x0318 features of the cluster (answer 0x0398)
/// 0x0331 who leads, and where (answer 0x03B1)
/// ```
#[must_use]
pub const fn level_of(tag: u16, version: u16) -> u16 {
    match (tag, version) {
        (0x0201 | 0x0281, 2..) | (0x0301..=0x0303, 1..) | (0x0318 | 0x0398 | 0x0331 | 0x03B1, _) => 2,
        _ => 1,
    }
}

/// A request or an answer as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Chosen by the one that asks, unique on its connection; the answer carries it back.
    pub correlation: u64,
    /// What it says.
    pub parts: Parts,
}

/// A message without the number that it travels under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// What it is.
    pub tag: u16,
    /// Which body that tag has.
    pub version: u16,
    /// Postcard; at most [`MAX_HEAD_BYTES`].
    pub head: Bytes,
    /// Raw bytes behind it, in chunks to send; at most one when it was received.
    pub tail: Vec<Bytes>,
}

/// A message of some room.
pub trait Body: Sized + Send {
    /// Its number; see [`Room`].
    const TAG: u16;
    /// Names this exact body.
    const VERSION: u16;

    /// Checks its bounds and takes it apart for the wire.
    ///
    /// # Errors
    /// [`PeerError`]: a fault of the caller; nothing may be sent.
    fn into_parts(self) -> Result<Parts, PeerError>;

    /// The same in an older version, for a peer that does not speak the level of [`Body::VERSION`] yet; `None` if no older
    /// version can say it.
    ///
    /// # Errors
    /// As for [`Body::into_parts`].
    fn older(&self) -> Result<Option<Parts>, PeerError> {
        Ok(None)
    }

    /// Puts it together and checks its bounds.
    ///
    /// # Errors
    /// [`PeerError::Unknown`] for other parts than its own, or what is damaged in them.
    fn from_parts(parts: Parts) -> Result<Self, PeerError>;
}

/// A message that asks.
pub trait Ask: Body {
    /// What answers it.
    type Answer: Body;
    /// Whether asking twice does no more than asking once. Then it is asked again, once, when the connection broke
    /// before the answer came.
    const REPEATABLE: bool;
}

impl Parts {
    /// A message that is all postcard.
    ///
    /// # Errors
    /// [`PeerError::TooLong`].
    pub fn plain<B: Body + Serialize>(body: &B) -> Result<Parts, PeerError> {
        Parts::with_tail::<B>(body, Vec::new())
    }

    /// The message `B` of a postcard part and raw bytes behind it.
    ///
    /// # Errors
    /// [`PeerError::TooLong`].
    pub fn with_tail<B: Body>(head: &impl Serialize, tail: Vec<Bytes>) -> Result<Parts, PeerError> {
        let head = postcard::to_allocvec(head).expect("a vector takes everything, and lengths are known");
        if head.len() > MAX_HEAD_BYTES {
            return Err(PeerError::TooLong { bytes: head.len() });
        }
        Ok(Parts { tag: B::TAG, version: B::VERSION, head: head.into(), tail })
    }

    /// The message `B` in an older version, all postcard.
    ///
    /// # Errors
    /// [`PeerError::TooLong`].
    pub fn older_plain<B: Body>(version: u16, head: &impl Serialize) -> Result<Parts, PeerError> {
        assert!(version < B::VERSION, "version {version} of {:#06x} is not older", B::TAG);
        let parts = Parts::with_tail::<B>(head, Vec::new())?;
        Ok(Parts { version, ..parts })
    }

    /// The other way of [`Parts::older_plain`].
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn into_older_plain<B: Body, H: for<'a> Deserialize<'a>>(self, version: u16) -> Result<H, PeerError> {
        let Parts { tag, version: told, head, tail } = self;
        if (tag, told) != (B::TAG, version) {
            return Err(PeerError::Unknown { tag, version: told });
        }
        if !tail.is_empty() {
            return Err(PeerError::Damaged { tag });
        }
        decode_body(tag, &head)
    }

    /// The other way of [`Parts::plain`].
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn into_plain<B: Body + for<'a> Deserialize<'a>>(self) -> Result<B, PeerError> {
        match self.into_head_and_tail::<B, B>()? {
            (body, tail) if tail.is_empty() => Ok(body),
            _ => Err(PeerError::Damaged { tag: B::TAG }),
        }
    }

    /// The other way of [`Parts::with_tail`].
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn into_head_and_tail<B: Body, H: for<'a> Deserialize<'a>>(self) -> Result<(H, Bytes), PeerError> {
        let Parts { tag, version, head, tail } = self;
        if (tag, version) != (B::TAG, B::VERSION) {
            return Err(PeerError::Unknown { tag, version });
        }
        let head = decode_body(tag, &head)?;
        let mut tail = tail.into_iter();
        let only = tail.next().unwrap_or_default();
        assert!(tail.next().is_none(), "what was received has at most one chunk");
        Ok((head, only))
    }
}

impl Call {
    /// The frame to send, without its length prefix; the tail is not copied.
    #[must_use]
    pub fn encode(self) -> Vec<Bytes> {
        let Parts { tag, version, head, tail } = self.parts;
        assert!(Room::of(tag).is_some(), "the tag {tag:#06x} has no room");
        assert!(head.len() <= MAX_HEAD_BYTES, "a head of {} bytes", head.len());
        let mut out = BytesMut::with_capacity(PREFIX_BYTES + head.len());
        out.put_u16(tag);
        out.put_u16(version);
        out.put_u64(self.correlation);
        out.put_u32(u32::try_from(head.len()).expect("far below 4 GiB"));
        out.put_slice(&head);
        let mut frame = Vec::with_capacity(1 + tail.len());
        frame.push(out.freeze());
        frame.extend(tail.into_iter().filter(|chunk| !chunk.is_empty()));
        frame
    }

    /// Takes a frame apart without copying.
    ///
    /// # Errors
    /// [`PeerError::TooShort`] and [`PeerError::TooLong`]: close the connection.
    pub(super) fn decode(frame: &Bytes) -> Result<Call, PeerError> {
        let Some(prefix) = frame.first_chunk::<PREFIX_BYTES>() else {
            return Err(PeerError::TooShort(frame.len()));
        };
        let [t0, t1, v0, v1, c0, c1, c2, c3, c4, c5, c6, c7, l0, l1, l2, l3] = *prefix;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_HEAD_BYTES {
            return Err(PeerError::TooLong { bytes: length });
        }
        let end = PREFIX_BYTES + length;
        if frame.len() < end {
            return Err(PeerError::TooShort(frame.len()));
        }
        let tail = frame.slice(end..);
        let parts = Parts {
            tag: u16::from_be_bytes([t0, t1]),
            version: u16::from_be_bytes([v0, v1]),
            head: frame.slice(PREFIX_BYTES..end),
            tail: if tail.is_empty() { Vec::new() } else { vec![tail] },
        };
        Ok(Call { correlation: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]), parts })
    }
}

/// Why a call got no answer of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The one that was asked does not know the message, or has no such room: it is older, or no broker.
    #[error("the peer does not know this message")]
    Unknown,
    /// The body is not what tag and version say.
    #[error("the peer could not read this message")]
    Damaged,
    /// It has too much to do; back off.
    #[error("the peer is overloaded")]
    Busy,
    /// It stops; ask another.
    #[error("the peer stops")]
    Stopping,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::PeerMessage;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Sum {
        of: Vec<u32>,
    }

    impl Body for Sum {
        const TAG: u16 = 0x0301;
        const VERSION: u16 = 2;
        fn into_parts(self) -> Result<Parts, PeerError> {
            Parts::plain(&self)
        }
        fn from_parts(parts: Parts) -> Result<Self, PeerError> {
            parts.into_plain()
        }
    }

    #[test]
    fn a_call_comes_back_as_it_went_and_its_tail_is_the_frame_itself() {
        let head = Parts::plain(&Sum { of: vec![1, 300] }).expect("short").head;
        let tail = vec![Bytes::from_static(b"raw"), Bytes::new(), Bytes::from_static(b"bytes")];
        let sent = Call { correlation: 7, parts: Parts { tag: 0x0281, version: 1, head, tail } };
        let frame: Bytes = sent.clone().encode().concat().into();
        let PeerMessage::Call(got) = PeerMessage::decode(&frame).expect("whole") else { panic!("a call") };
        assert_eq!((got.correlation, &got.parts.head), (7, &sent.parts.head));
        assert_eq!(got.parts.tail, [Bytes::from_static(b"rawbytes")]);
        let at = frame.len() - 8;
        assert_eq!(got.parts.tail[0].as_ptr(), frame[at..].as_ptr(), "not copied");
        for at in 0..PREFIX_BYTES + sent.parts.head.len() {
            assert!(PeerMessage::decode(&frame.slice(..at)).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_body_of_another_version_or_with_something_behind_it_is_refused() {
        let parts = Sum { of: vec![5] }.into_parts().expect("short");
        assert_eq!(Sum::from_parts(parts.clone()), Ok(Sum { of: vec![5] }));
        let newer = Parts { version: 3, ..parts.clone() };
        assert_eq!(Sum::from_parts(newer), Err(PeerError::Unknown { tag: 0x0301, version: 3 }));
        let longer = Parts { tail: vec![Bytes::from_static(b"x")], ..parts };
        assert_eq!(Sum::from_parts(longer), Err(PeerError::Damaged { tag: 0x0301 }));
    }

    #[test]
    fn a_head_that_claims_too_much_is_refused_before_it_is_read() {
        let mut frame =
            Call { correlation: 1, parts: Sum { of: vec![] }.into_parts().expect("short") }.encode().concat();
        frame[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
        let refused = PeerMessage::decode(&frame.into());
        assert_eq!(refused, Err(PeerError::TooLong { bytes: u32::MAX as usize }));
    }
}
