//! What the offsets topic holds of a group of KIP-848: its epochs, its members, what each shall own and what it owns.
//!
//! Owns: [`ConsumerRecord`], its bytes. Promises: as `record`: no bytes make it panic, and what was encoded decodes to
//! the same. Pure. Called by `record`, which tells the kinds apart by the first two bytes of the key.
//!
//! Decided: Kafka's schemas here, too, in the form of Kafka 4.1: a hash of the subscribed topics in a tagged field of
//! the epoch's record, instead of a record with all topics. The time since when the group is empty has no place in
//! them; it is a tagged field of a number that is far from Kafka's, which readers of the schema pass over.
//!
//! ```text
//!  epoch    key 3 │ group             value 0 │ epoch 4 │ tags: 0 hash of the topics 8, 848 empty since 8
//!  member   key 5 │ group │ member    value 0 │ instance? │ rack? │ client │ host │ topics │ pattern? │ timeout 4
//!                                             │ assignor? │ tag 0: session 4, protocols (name, metadata)
//!  target   key 6 │ group             value 0 │ epoch 4 │ tags
//!           key 7 │ group │ member    value 0 │ topics (id 16, partitions) │ tags
//!  current  key 8 │ group │ member    value 0 │ epoch 4 │ previous 4 │ state 1 │ assigned │ to be revoked │ tags
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use dejaq_wire::ids::{Generation, PartitionId, TopicId};

use super::record::{In, Malformed, Out};

/// Partitions of topics, by the topics' ids.
pub type Parts = BTreeSet<(TopicId, PartitionId)>;

/// Where a group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEpoch {
    /// Its epoch.
    pub epoch: Generation,
    /// Of the topics that it reads, as they were then.
    pub topics_hash: i64,
    /// Since when it has no members, in ms since 1970.
    pub empty_since_ms: Option<i64>,
}

/// What a member said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredConsumer {
    /// Its instance id, if it is static.
    pub instance: Option<String>,
    /// Where it stands.
    pub rack: Option<String>,
    /// What its client calls itself.
    pub client_id: String,
    /// From where it came.
    pub client_host: String,
    /// Topics that it reads.
    pub topics: Vec<String>,
    /// And those whose names match this.
    pub pattern: Option<String>,
    /// How long it may take to give partitions up.
    pub rebalance_timeout_ms: i32,
    /// The assignor that it wants.
    pub assignor: Option<String>,
    /// Set if it speaks the classic protocol: its session timeout and what it offers.
    pub classic: Option<(i32, Vec<(String, Bytes)>)>,
}

/// What a member owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCurrent {
    /// Its epoch.
    pub epoch: Generation,
    /// The one before.
    pub previous: Generation,
    /// Kafka's number: 0 stable, 1 has to give up, 2 waits for what others have to give up.
    pub phase: i8,
    /// What it owns and keeps.
    pub assigned: Parts,
    /// What it owns and has to give up.
    pub revoking: Parts,
}

/// One record of a group of KIP-848. No value deletes the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsumerRecord {
    /// The group's epoch.
    Epoch(Option<StoredEpoch>),
    /// A member.
    Member(Arc<str>, Option<StoredConsumer>),
    /// For which epoch the plan is.
    TargetEpoch(Option<Generation>),
    /// What a member shall own.
    Target(Arc<str>, Option<Parts>),
    /// What a member owns.
    Current(Arc<str>, Option<StoredCurrent>),
}

const EPOCH_KEY: i16 = 3;
const MEMBER_KEY: i16 = 5;
const TARGET_EPOCH_KEY: i16 = 6;
const TARGET_KEY: i16 = 7;
const CURRENT_KEY: i16 = 8;
/// Version of all values.
const VALUE: i16 = 0;
const TAG_HASH: u32 = 0;
const TAG_CLASSIC: u32 = 0;
const TAG_SINCE: u32 = 848;
/// Stands before a structure that could be missing.
const PRESENT: u8 = 1;

impl ConsumerRecord {
    pub(super) fn encode(&self, group: &str) -> (Bytes, Option<Bytes>) {
        let key = |kind, member: Option<&str>| {
            let mut key = Out::new(kind);
            key.string(group);
            if let Some(member) = member {
                key.string(member);
            }
            key.finish()
        };
        match self {
            ConsumerRecord::Epoch(value) => (key(EPOCH_KEY, None), value.as_ref().map(encode_epoch)),
            ConsumerRecord::Member(id, value) => {
                (key(MEMBER_KEY, Some(id)), value.as_ref().map(encode_member))
            }
            ConsumerRecord::TargetEpoch(value) => {
                let encode = |epoch: Generation| {
                    let mut out = Out::new(VALUE);
                    out.i32(epoch.0);
                    out.varint(0);
                    out.finish()
                };
                (key(TARGET_EPOCH_KEY, None), value.map(encode))
            }
            ConsumerRecord::Target(id, value) => {
                let encode = |parts: &Parts| {
                    let mut out = Out::new(VALUE);
                    put_parts(&mut out, parts);
                    out.varint(0);
                    out.finish()
                };
                (key(TARGET_KEY, Some(id)), value.as_ref().map(encode))
            }
            ConsumerRecord::Current(id, value) => {
                (key(CURRENT_KEY, Some(id)), value.as_ref().map(encode_current))
            }
        }
    }

    /// Reads the rest of a key, and its value; `None` for a kind that is not one of ours.
    pub(super) fn decode(
        kind: i16,
        key: &mut In<'_>,
        value: Option<&Bytes>,
    ) -> Result<Option<(Arc<str>, ConsumerRecord)>, Malformed> {
        if ![EPOCH_KEY, MEMBER_KEY, TARGET_EPOCH_KEY, TARGET_KEY, CURRENT_KEY].contains(&kind) {
            return Ok(None);
        }
        let group = key.string()?.into();
        let mut member = || key.string().map(Arc::from);
        let record = match kind {
            EPOCH_KEY => ConsumerRecord::Epoch(value.map(decode_epoch).transpose()?),
            MEMBER_KEY => ConsumerRecord::Member(member()?, value.map(decode_member).transpose()?),
            TARGET_EPOCH_KEY => {
                let epoch = |value| Ok(Generation(In::value(value)?.i32()?));
                ConsumerRecord::TargetEpoch(value.map(epoch).transpose()?)
            }
            TARGET_KEY => {
                let parts = |value| take_parts(&mut In::value(value)?);
                ConsumerRecord::Target(member()?, value.map(parts).transpose()?)
            }
            _ => ConsumerRecord::Current(member()?, value.map(decode_current).transpose()?),
        };
        Ok(Some((group, record)))
    }
}

fn encode_epoch(value: &StoredEpoch) -> Bytes {
    let mut out = Out::new(VALUE);
    out.i32(value.epoch.0);
    out.varint(1 + u32::from(value.empty_since_ms.is_some()));
    out.tag(TAG_HASH, |out| out.i64(value.topics_hash));
    if let Some(since_ms) = value.empty_since_ms {
        out.tag(TAG_SINCE, |out| out.i64(since_ms));
    }
    out.finish()
}

fn decode_epoch(value: &Bytes) -> Result<StoredEpoch, Malformed> {
    let mut from = In::value(value)?;
    let epoch = Generation(from.i32()?);
    let (mut topics_hash, mut empty_since_ms) = (0, None);
    from.tags(|tag, from| {
        match tag {
            TAG_HASH => topics_hash = from.i64()?,
            TAG_SINCE => empty_since_ms = Some(from.i64()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(StoredEpoch { epoch, topics_hash, empty_since_ms })
}

fn encode_member(value: &StoredConsumer) -> Bytes {
    let mut out = Out::new(VALUE);
    out.compact(value.instance.as_deref());
    out.compact(value.rack.as_deref());
    out.compact(Some(&value.client_id));
    out.compact(Some(&value.client_host));
    out.count(value.topics.len());
    value.topics.iter().for_each(|topic| out.compact(Some(topic)));
    out.compact(value.pattern.as_deref());
    out.i32(value.rebalance_timeout_ms);
    out.compact(value.assignor.as_deref());
    match &value.classic {
        None => out.varint(0),
        Some((session_ms, protocols)) => {
            out.varint(1);
            out.tag(TAG_CLASSIC, |out| {
                out.raw(&[PRESENT]);
                out.i32(*session_ms);
                out.count(protocols.len());
                for (name, metadata) in protocols {
                    out.compact(Some(name));
                    out.count(metadata.len());
                    out.raw(metadata);
                    out.varint(0);
                }
                out.varint(0);
            });
        }
    }
    out.finish()
}

fn decode_member(value: &Bytes) -> Result<StoredConsumer, Malformed> {
    let mut from = In::value(value)?;
    let (instance, rack) = (from.compact()?, from.compact()?);
    let mut text = || from.compact()?.ok_or(Malformed::MISSING);
    let (client_id, client_host) = (text()?, text()?);
    let mut topics = Vec::new();
    for _ in 0..from.count()? {
        topics.push(from.compact()?.ok_or(Malformed::MISSING)?);
    }
    let pattern = from.compact()?;
    let rebalance_timeout_ms = from.i32()?;
    let assignor = from.compact()?;
    let mut classic = None;
    from.tags(|tag, from| {
        if tag == TAG_CLASSIC && from.take(1)?[0] == PRESENT {
            let session_ms = from.i32()?;
            let mut protocols = Vec::new();
            for _ in 0..from.count()? {
                let name = from.compact()?.ok_or(Malformed::MISSING)?;
                let length = from.count()?;
                protocols.push((name, Bytes::copy_from_slice(&from.take(length)?)));
                from.tags(|_, _| Ok(()))?;
            }
            classic = Some((session_ms, protocols));
        }
        Ok(())
    })?;
    Ok(StoredConsumer {
        instance,
        rack,
        client_id,
        client_host,
        topics,
        pattern,
        rebalance_timeout_ms,
        assignor,
        classic,
    })
}

fn encode_current(value: &StoredCurrent) -> Bytes {
    let mut out = Out::new(VALUE);
    out.i32(value.epoch.0);
    out.i32(value.previous.0);
    out.raw(&value.phase.to_be_bytes());
    put_parts(&mut out, &value.assigned);
    put_parts(&mut out, &value.revoking);
    out.varint(0);
    out.finish()
}

fn decode_current(value: &Bytes) -> Result<StoredCurrent, Malformed> {
    let mut from = In::value(value)?;
    let (epoch, previous) = (Generation(from.i32()?), Generation(from.i32()?));
    let phase = i8::from_be_bytes([from.take(1)?[0]]);
    let (assigned, revoking) = (take_parts(&mut from)?, take_parts(&mut from)?);
    Ok(StoredCurrent { epoch, previous, phase, assigned, revoking })
}

fn put_parts(out: &mut Out, parts: &Parts) {
    let mut topics: BTreeMap<TopicId, Vec<PartitionId>> = BTreeMap::new();
    for (topic, partition) in parts {
        topics.entry(*topic).or_default().push(*partition);
    }
    out.count(topics.len());
    for (topic, partitions) in topics {
        out.raw(&topic.0);
        out.count(partitions.len());
        partitions.iter().for_each(|partition| out.i32(partition.0));
        out.varint(0);
    }
}

fn take_parts(from: &mut In<'_>) -> Result<Parts, Malformed> {
    let mut parts = Parts::new();
    for _ in 0..from.count()? {
        let topic = TopicId(from.take(16)?[..].try_into().expect("sixteen bytes"));
        for _ in 0..from.count()? {
            parts.insert((topic, PartitionId(from.i32()?)));
        }
        from.tags(|_, _| Ok(()))?;
    }
    Ok(parts)
}

impl Out {
    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.raw(&[(value as u8 & 0x7f) | 0x80]);
            value >>= 7;
        }
        self.raw(&[value as u8]);
    }

    /// A length or count of the compact forms: one more than it is.
    fn count(&mut self, count: usize) {
        self.varint(u32::try_from(count).expect("requests are far below 2^31 bytes") + 1);
    }

    fn compact(&mut self, text: Option<&str>) {
        match text {
            None => self.varint(0),
            Some(text) => {
                self.count(text.len());
                self.raw(text.as_bytes());
            }
        }
    }

    fn tag(&mut self, tag: u32, put: impl FnOnce(&mut Out)) {
        let mut inner = Out::empty();
        put(&mut inner);
        let bytes = inner.finish();
        self.varint(tag);
        self.varint(u32::try_from(bytes.len()).expect("requests are far below 2^31 bytes"));
        self.raw(&bytes);
    }
}

impl<'a> In<'a> {
    /// Begins to read a value of the one version there is.
    fn value(bytes: &'a Bytes) -> Result<In<'a>, Malformed> {
        let mut from = In::new(bytes);
        if from.i16()? != VALUE { Err(Malformed::VERSION) } else { Ok(from) }
    }

    fn varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::NUMBER)
    }

    fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.varint()?.checked_sub(1).ok_or(Malformed::MISSING)?;
        usize::try_from(count).map_err(|_| Malformed::NUMBER)
    }

    fn compact(&mut self) -> Result<Option<String>, Malformed> {
        let Some(length) = self.varint()?.checked_sub(1) else { return Ok(None) };
        let bytes = self.take(usize::try_from(length).map_err(|_| Malformed::NUMBER)?)?;
        String::from_utf8(bytes.to_vec()).map(Some).map_err(|_| Malformed::TEXT)
    }

    /// Every tagged field; those that are not known are passed over.
    fn tags(
        &mut self,
        mut each: impl FnMut(u32, &mut In<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let length = usize::try_from(self.varint()?).map_err(|_| Malformed::NUMBER)?;
            let bytes = self.take(length)?;
            each(tag, &mut In::new(&bytes))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::Record;
    use super::*;

    fn parts(of: &[(u8, i32)]) -> Parts {
        of.iter().map(|(topic, partition)| (TopicId([*topic; 16]), PartitionId(*partition))).collect()
    }

    fn member(classic: Option<(i32, Vec<(String, Bytes)>)>) -> StoredConsumer {
        StoredConsumer {
            instance: Some("i".into()),
            rack: None,
            client_id: "c".into(),
            client_host: "/h".into(),
            topics: vec!["a".into(), "b".into()],
            pattern: Some("x.*".into()),
            rebalance_timeout_ms: 45_000,
            assignor: Some("uniform".into()),
            classic,
        }
    }

    fn records() -> Vec<Record> {
        let epoch = StoredEpoch { epoch: Generation(3), topics_hash: 7, empty_since_ms: Some(9) };
        let current = StoredCurrent {
            epoch: Generation(3),
            previous: Generation(2),
            phase: 1,
            assigned: parts(&[(1, 0), (1, 300), (2, 1)]),
            revoking: parts(&[(2, 0)]),
        };
        let classic = Some((6000, vec![("range".to_owned(), Bytes::from_static(b"meta"))]));
        [
            ConsumerRecord::Epoch(Some(epoch)),
            ConsumerRecord::Epoch(None),
            ConsumerRecord::Member("m".into(), Some(member(None))),
            ConsumerRecord::Member("m".into(), Some(member(classic))),
            ConsumerRecord::Member("m".into(), None),
            ConsumerRecord::TargetEpoch(Some(Generation(3))),
            ConsumerRecord::Target("m".into(), Some(parts(&[(1, 0)]))),
            ConsumerRecord::Target("m".into(), None),
            ConsumerRecord::Current("m".into(), Some(current)),
        ]
        .into_iter()
        .map(|record| Record::Consumer { group: "g".into(), record })
        .collect()
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
        0003000167 0000000000030200080000000000000007d006080000000000000009
        0003000167 -
        000500016700016d 00000269000263032f68030261026204782e2a0000afc808756e69666f726d00
        000500016700016d 00000269000263032f68030261026204782e2a0000afc808756e69666f726d0100130100001770020672616e6765056d6574610000
        000500016700016d -
        0006000167 00000000000300
        000700016700016d 0000020101010101010101010101010101010102000000000000
        000700016700016d -
        000800016700016d 0000000000030000000201030101010101010101010101010101010103000000000000012c0002020202020202020202020202020202020000000100020202020202020202020202020202020202000000000000
        ");
    }

    #[test]
    fn what_was_written_reads_back_and_what_was_cut_is_an_error() {
        for record in records() {
            let (key, value) = record.encode();
            assert_eq!(Record::decode(&key, value.as_ref()), Ok(Some(record)));
            assert!(Record::decode(&key.slice(..key.len() - 1), None).is_err());
            if let Some(value) = value {
                // The last byte of the plan's epoch counts tags, and nobody looks for them there.
                let end = value.len() - 2;
                assert!(Record::decode(&key, Some(&value.slice(..end))).is_err());
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(key: Vec<u8>, value: Vec<u8>, kind in 3u8..9) {
            let (mut key, mut value) = (key, value);
            key.splice(0..0, [0, kind, 0, 0, 0, 0]);
            value.splice(0..0, [0, 0]);
            let _ = Record::decode(&key.into(), Some(&value.into()));
        }
    }
}
