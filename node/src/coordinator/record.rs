//! What stands in the offsets topic: keys and values of groups and of their offsets.
//!
//! Owns: [`Record`], its bytes. Promises: decoding never panics and takes no more memory than the bytes are long; what
//! was encoded decodes to the same; a key of a kind that this version does not know is passed over, a damaged one is
//! an error. Pure. Called by `shard` (encode, decode) and by tests.
//!
//! Decided: Kafka's own schemas (key versions 1 and 2, value versions 3, 1 with an expiry), not ours.
//! Because: stock tools read `__consumer_offsets` (kafka-dump-log, monitoring that tails it), and the schema's age is
//! its proof. Instead of: postcard, which is shorter by some bytes. Revisit when a field of ours has no place in it.
//!
//! ```text
//!  offset  key  1 │ group │ topic │ partition           value  3 │ offset 8 │ leader epoch 4 │ metadata │ committed 8
//!                                                             1 │ offset 8 │ metadata │ committed 8 │ expires 8
//!  of KIP-848  key 3 to 8: see `consumer_record`
//!  group   key  2 │ group                               value  3 │ protocol type │ generation 4 │ protocol? │ leader?
//!                                                               │ since 8 │ members: id │ instance? │ client │ host
//!                                                               │   rebalance 4 │ session 4 │ subscription │ assignment
//! ```

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use dejaq_wire::ids::{Generation, LeaderEpoch, Offset, PartitionId};

use super::consumer_record::ConsumerRecord;

/// A partition whose offset is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// How far a group is in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: Offset,
    /// Leader epoch of the record before it, if the client told.
    pub leader_epoch: LeaderEpoch,
    /// What the client wrote beside it.
    pub metadata: String,
    /// When it was committed, in ms since 1970.
    pub committed_ms: i64,
    /// When it goes whatever the group does, for clients of before 2018 that say so.
    pub expires_ms: Option<i64>,
}

/// A member as the topic keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMember {
    /// Its id.
    pub id: String,
    /// Its instance id, if it is static.
    pub instance: Option<String>,
    /// What its client calls itself.
    pub client_id: String,
    /// From where it came.
    pub client_host: String,
    /// How long a rebalance waits for it.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent.
    pub session_timeout_ms: i32,
    /// What it told of itself under the chosen protocol.
    pub subscription: Bytes,
    /// Its part of the plan.
    pub assignment: Bytes,
}

/// A group as the topic keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredGroup {
    /// Such as `consumer`.
    pub protocol_type: String,
    /// The generation.
    pub generation: Generation,
    /// The assignor; none while the group is empty.
    pub protocol: Option<String>,
    /// Who made the plan; none while the group is empty, and when it has members and a rebalance is due.
    pub leader: Option<String>,
    /// Since when it is as it is, in ms since 1970; -1 if not known.
    pub since_ms: i64,
    /// Its members.
    pub members: Vec<StoredMember>,
}

/// One record of the topic. No value deletes the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An offset of a group.
    Offset {
        /// The group.
        group: Arc<str>,
        /// Where.
        at: At,
        /// How far.
        value: Option<Committed>,
    },
    /// A group.
    Group {
        /// The group.
        group: Arc<str>,
        /// How it stands.
        value: Option<StoredGroup>,
    },
    /// Something of a group of KIP-848.
    Consumer {
        /// The group.
        group: Arc<str>,
        /// What.
        record: ConsumerRecord,
    },
}

/// The bytes are not what any version of this format writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of the offsets topic is malformed: {0}")]
pub struct Malformed(&'static str);

impl Malformed {
    pub(super) const MISSING: Malformed = Malformed("something is missing");
    pub(super) const NUMBER: Malformed = Malformed("a number is too large");
    pub(super) const TEXT: Malformed = Malformed("a text is not UTF-8");
    pub(super) const VERSION: Malformed = Malformed("a value of an unknown version");
}

const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
const OFFSET_VALUE: i16 = 3;
const OFFSET_VALUE_WITH_EXPIRY: i16 = 1;
const GROUP_VALUE: i16 = 3;
/// Longest string of the format.
pub const MAX_STRING_BYTES: usize = i16::MAX as usize;

impl Record {
    /// Key and value; every string is at most [`MAX_STRING_BYTES`] long.
    #[must_use]
    pub fn encode(&self) -> (Bytes, Option<Bytes>) {
        match self {
            Record::Offset { group, at, value } => {
                let mut key = Out::new(OFFSET_KEY);
                key.string(group);
                key.string(&at.topic);
                key.i32(at.partition.0);
                (key.finish(), value.as_ref().map(encode_committed))
            }
            Record::Group { group, value } => {
                let mut key = Out::new(GROUP_KEY);
                key.string(group);
                (key.finish(), value.as_ref().map(encode_group))
            }
            Record::Consumer { group, record } => record.encode(group),
        }
    }

    /// Reads a record; `None` for a kind that this version does not know.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(key: &Bytes, value: Option<&Bytes>) -> Result<Option<Record>, Malformed> {
        let mut from = In::new(key);
        match from.i16()? {
            0 | OFFSET_KEY => {
                let group = from.string()?.into();
                let at = At { topic: from.string()?.into(), partition: PartitionId(from.i32()?) };
                let value = value.map(decode_committed).transpose()?;
                Ok(Some(Record::Offset { group, at, value }))
            }
            GROUP_KEY => {
                let group = from.string()?.into();
                let value = value.map(decode_group).transpose()?;
                Ok(Some(Record::Group { group, value }))
            }
            kind => {
                let found = ConsumerRecord::decode(kind, &mut from, value)?;
                Ok(found.map(|(group, record)| Record::Consumer { group, record }))
            }
        }
    }
}

fn encode_committed(committed: &Committed) -> Bytes {
    let version = if committed.expires_ms.is_some() { OFFSET_VALUE_WITH_EXPIRY } else { OFFSET_VALUE };
    let mut out = Out::new(version);
    out.i64(committed.offset.0);
    if committed.expires_ms.is_none() {
        out.i32(committed.leader_epoch.0);
    }
    out.string(&committed.metadata);
    out.i64(committed.committed_ms);
    if let Some(expires_ms) = committed.expires_ms {
        out.i64(expires_ms);
    }
    out.finish()
}

fn decode_committed(bytes: &Bytes) -> Result<Committed, Malformed> {
    let mut from = In::new(bytes);
    let version = from.i16()?;
    if !(0..=3).contains(&version) {
        return Err(Malformed("an offset of an unknown version"));
    }
    let offset = Offset(from.i64()?);
    let leader_epoch = if version >= 3 { LeaderEpoch(from.i32()?) } else { LeaderEpoch::NONE };
    let metadata = from.string()?;
    let committed_ms = from.i64()?;
    let expires_ms = if version == 1 { Some(from.i64()?).filter(|ms| *ms >= 0) } else { None };
    Ok(Committed { offset, leader_epoch, metadata, committed_ms, expires_ms })
}

fn encode_group(group: &StoredGroup) -> Bytes {
    let mut out = Out::new(GROUP_VALUE);
    out.string(&group.protocol_type);
    out.i32(group.generation.0);
    out.nullable(group.protocol.as_deref());
    out.nullable(group.leader.as_deref());
    out.i64(group.since_ms);
    out.i32(i32::try_from(group.members.len()).expect("groups are bounded"));
    for member in &group.members {
        out.string(&member.id);
        out.nullable(member.instance.as_deref());
        out.string(&member.client_id);
        out.string(&member.client_host);
        out.i32(member.rebalance_timeout_ms);
        out.i32(member.session_timeout_ms);
        out.bytes(&member.subscription);
        out.bytes(&member.assignment);
    }
    out.finish()
}

fn decode_group(bytes: &Bytes) -> Result<StoredGroup, Malformed> {
    let mut from = In::new(bytes);
    let version = from.i16()?;
    if !(0..=3).contains(&version) {
        return Err(Malformed("a group of an unknown version"));
    }
    let protocol_type = from.string()?;
    let generation = Generation(from.i32()?);
    let protocol = from.nullable()?;
    let leader = from.nullable()?;
    let since_ms = if version >= 2 { from.i64()? } else { -1 };
    let count = from.i32()?;
    let mut members = Vec::new(); // grows as members come, whatever the count claims
    for _ in 0..count {
        let id = from.string()?;
        let instance = if version >= 3 { from.nullable()? } else { None };
        let (client_id, client_host) = (from.string()?, from.string()?);
        let told_ms = if version >= 1 { Some(from.i32()?) } else { None };
        let session_timeout_ms = from.i32()?;
        let rebalance_timeout_ms = told_ms.unwrap_or(session_timeout_ms);
        let (subscription, assignment) = (from.bytes()?, from.bytes()?);
        members.push(StoredMember {
            id,
            instance,
            client_id,
            client_host,
            rebalance_timeout_ms,
            session_timeout_ms,
            subscription,
            assignment,
        });
    }
    Ok(StoredGroup { protocol_type, generation, protocol, leader, since_ms, members })
}

pub(super) struct Out(Vec<u8>);

impl Out {
    pub(super) fn new(version: i16) -> Out {
        Out(version.to_be_bytes().to_vec())
    }
    pub(super) fn empty() -> Out {
        Out(Vec::new())
    }
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    pub(super) fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    pub(super) fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    pub(super) fn string(&mut self, text: &str) {
        let length = i16::try_from(text.len()).unwrap_or_else(|_| panic!("a text of {} bytes", text.len()));
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }
    fn nullable(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.string(text),
            None => self.0.extend_from_slice(&(-1i16).to_be_bytes()),
        }
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.i32(i32::try_from(bytes.len()).expect("requests are far below 2^31 bytes"));
        self.0.extend_from_slice(bytes);
    }
    pub(super) fn finish(self) -> Bytes {
        self.0.into()
    }
}

pub(super) struct In<'a> {
    whole: &'a Bytes,
    at: usize,
}

impl<'a> In<'a> {
    pub(super) fn new(whole: &'a Bytes) -> In<'a> {
        In { whole, at: 0 }
    }
    pub(super) fn take(&mut self, count: usize) -> Result<Bytes, Malformed> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.whole.len());
        let end = end.ok_or(Malformed("it is too short"))?;
        let taken = self.whole.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }
    pub(super) fn i16(&mut self) -> Result<i16, Malformed> {
        let bytes = self.take(2)?;
        Ok(i16::from_be_bytes([bytes[0], bytes[1]]))
    }
    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        let bytes = self.take(4)?;
        Ok(i32::from_be_bytes(bytes[..].try_into().expect("four bytes")))
    }
    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        let bytes = self.take(8)?;
        Ok(i64::from_be_bytes(bytes[..].try_into().expect("eight bytes")))
    }
    fn nullable(&mut self) -> Result<Option<String>, Malformed> {
        let length = self.i16()?;
        if length < 0 {
            return Ok(None);
        }
        let bytes = self.take(usize::try_from(length).expect("not negative"))?;
        let text = String::from_utf8(bytes.to_vec()).map_err(|_| Malformed("a text is not UTF-8"))?;
        Ok(Some(text))
    }
    pub(super) fn string(&mut self) -> Result<String, Malformed> {
        self.nullable()?.ok_or(Malformed("a text is missing"))
    }
    fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = usize::try_from(self.i32()?).map_err(|_| Malformed("bytes are missing"))?;
        // A copy: the record must not keep its whole batch in memory.
        self.take(length).map(|bytes| Bytes::copy_from_slice(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn committed(expires_ms: Option<i64>) -> Committed {
        let leader_epoch = if expires_ms.is_some() { LeaderEpoch::NONE } else { LeaderEpoch(3) };
        Committed { offset: Offset(7), leader_epoch, metadata: "m".into(), committed_ms: 5, expires_ms }
    }

    fn group() -> StoredGroup {
        let member = StoredMember {
            id: "m-1".into(),
            instance: Some("i".into()),
            client_id: "c".into(),
            client_host: "/h".into(),
            rebalance_timeout_ms: 300_000,
            session_timeout_ms: 45_000,
            subscription: Bytes::from_static(b"s"),
            assignment: Bytes::from_static(b"a"),
        };
        StoredGroup {
            protocol_type: "consumer".into(),
            generation: Generation(2),
            protocol: Some("range".into()),
            leader: Some("m-1".into()),
            since_ms: 9,
            members: vec![member],
        }
    }

    fn records() -> Vec<Record> {
        let at = At { topic: "t".into(), partition: PartitionId(4) };
        let offset = |value| Record::Offset { group: "g".into(), at: at.clone(), value };
        vec![
            offset(Some(committed(None))),
            offset(Some(committed(Some(99)))),
            offset(None),
            Record::Group { group: "g".into(), value: Some(group()) },
            Record::Group { group: "g".into(), value: None },
        ]
    }

    #[test]
    fn the_bytes_are_kafkas_and_never_change() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let line = |record: &Record| {
            let (key, value) = record.encode();
            format!("{} {}", hex(&key), value.map_or("-".into(), |value| hex(&value)))
        };
        let lines: Vec<String> = records().iter().map(line).collect();
        insta::assert_snapshot!(lines.join("\n"), @"
        000100016700017400000004 000300000000000000070000000300016d0000000000000005
        000100016700017400000004 0001000000000000000700016d00000000000000050000000000000063
        000100016700017400000004 -
        0002000167 00030008636f6e73756d657200000002000572616e676500036d2d3100000000000000090000000100036d2d3100016900016300022f68000493e00000afc800000001730000000161
        0002000167 -
        ");
    }

    #[test]
    fn what_was_written_reads_back() {
        for record in records() {
            let (key, value) = record.encode();
            assert_eq!(Record::decode(&key, value.as_ref()), Ok(Some(record)));
        }
    }

    #[test]
    fn a_kind_that_is_not_known_is_passed_over_and_a_cut_one_is_an_error() {
        assert_eq!(Record::decode(&Bytes::from_static(&[0, 9, 0, 1, b'g']), None), Ok(None));
        assert!(Record::decode(&Bytes::new(), None).is_err());
        for record in records() {
            let (key, value) = record.encode();
            assert!(Record::decode(&key.slice(..key.len() - 1), None).is_err());
            if let Some(value) = value {
                assert!(Record::decode(&key, Some(&value.slice(..value.len() - 1))).is_err());
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(key: Vec<u8>, value: Option<Vec<u8>>, kind in 0u8..4) {
            let mut key = key;
            if key.len() > 1 {
                (key[0], key[1]) = (0, kind);
            }
            let _ = Record::decode(&key.into(), value.map(Bytes::from).as_ref());
        }
    }
}
