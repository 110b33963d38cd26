//! What stands in the transaction log: the key and the value of one transactional id.
//!
//! Owns: [`Record`], its bytes. Promises: decoding never panics and takes no more memory than the bytes are long; what
//! was encoded decodes to the same; a key of another kind is passed over, a damaged one is an error. Pure.
//! Kafka's own schemas (TransactionLogKey 0, TransactionLogValue 1), so that stock tools read the topic.
//!
//! ```text
//! key    0 2 | id (length 2, text)
//! value  1 2 | producer id 8 | epoch 2 | timeout 4 | state 1 | partitions (compact, or 0 for none): topic | indexes | tags
//!        | updated 8 | started 8 | tags: 0 previous producer id 8, 1 next producer id 8, 2 the client's version 2
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use dejaq_wire::ids::{PartitionId, ProducerEpoch, ProducerId};

use super::ask::{At, Who};
use super::state::State;

/// How one transactional id stands, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Whose it is.
    pub who: Who,
    /// The producer id before this one, or none.
    pub previous: ProducerId,
    /// The producer id that follows when the decision is carried out, or none.
    pub next: ProducerId,
    /// How long a transaction may be open.
    pub timeout_ms: i32,
    /// Its state.
    pub state: State,
    /// Partitions that are in it.
    pub partitions: BTreeSet<At>,
    /// When it changed last, in ms since 1970.
    pub updated_ms: i64,
    /// Since when it is open, or -1.
    pub start_ms: i64,
    /// The client takes a new epoch with every transaction.
    pub bumps: bool,
}

/// One record of the log. No value deletes the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The transactional id.
    pub id: Arc<str>,
    /// How it stands.
    pub value: Option<Stored>,
}

/// The bytes are not what any version of this format writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of the transaction log is malformed: {0}")]
pub struct Malformed(&'static str);

const KEY: i16 = 0;
const VALUE: i16 = 1;

impl Record {
    /// Key and value; the id is at most 32 767 bytes long.
    #[must_use]
    pub fn encode(&self) -> (Bytes, Option<Bytes>) {
        let mut key = Vec::with_capacity(4 + self.id.len());
        key.put_i16(KEY);
        key.put_i16(i16::try_from(self.id.len()).expect("ids are bounded"));
        key.put_slice(self.id.as_bytes());
        (key.into(), self.value.as_ref().map(encode_value))
    }

    /// Reads a record; `None` for a kind that this version does not know.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(mut key: &[u8], value: Option<&[u8]>) -> Result<Option<Record>, Malformed> {
        let cut = Malformed("it is too short");
        if key.try_get_i16().map_err(|_| cut)? != KEY {
            return Ok(None);
        }
        let length = usize::try_from(key.try_get_i16().map_err(|_| cut)?)
            .map_err(|_| Malformed("the id is missing"))?;
        let id = key.get(..length).ok_or(cut)?;
        let id = std::str::from_utf8(id).map_err(|_| Malformed("the id is not UTF-8"))?;
        let value = value.map(decode_value).transpose()?;
        Ok(Some(Record { id: id.into(), value }))
    }
}

fn encode_value(stored: &Stored) -> Bytes {
    let mut out = Vec::with_capacity(64);
    out.put_i16(VALUE);
    out.put_i64(stored.who.producer_id.0);
    out.put_i16(stored.who.epoch.0);
    out.put_i32(stored.timeout_ms);
    out.put_i8(stored.state.id());
    if stored.partitions.is_empty() {
        put_varint(&mut out, 0);
    } else {
        let mut topics: BTreeMap<&str, Vec<PartitionId>> = BTreeMap::new();
        for at in &stored.partitions {
            topics.entry(&at.topic).or_default().push(at.partition);
        }
        put_varint(&mut out, topics.len() + 1);
        for (topic, indexes) in topics {
            put_varint(&mut out, topic.len() + 1);
            out.put_slice(topic.as_bytes());
            put_varint(&mut out, indexes.len() + 1);
            indexes.iter().for_each(|index| out.put_i32(index.0));
            put_varint(&mut out, 0);
        }
    }
    out.put_i64(stored.updated_ms);
    out.put_i64(stored.start_ms);
    let ids = [(0, stored.previous), (1, stored.next)];
    let told: Vec<_> = ids.into_iter().filter(|(_, id)| id.is_valid()).collect();
    put_varint(&mut out, told.len() + usize::from(stored.bumps));
    for (tag, id) in told {
        put_varint(&mut out, tag);
        put_varint(&mut out, 8);
        out.put_i64(id.0);
    }
    if stored.bumps {
        put_varint(&mut out, 2);
        put_varint(&mut out, 2);
        out.put_i16(2);
    }
    out.into()
}

fn decode_value(bytes: &[u8]) -> Result<Stored, Malformed> {
    let mut from = In(bytes);
    let version = from.i16()?;
    if !(0..=1).contains(&version) {
        return Err(Malformed("a value of an unknown version"));
    }
    let is_flexible = version >= 1;
    let who = Who { producer_id: ProducerId(from.i64()?), epoch: ProducerEpoch(from.i16()?) };
    let timeout_ms = from.i32()?;
    let state = State::from_id(from.take(1)?[0].cast_signed()).ok_or(Malformed("an unknown state"))?;
    let mut partitions = BTreeSet::new();
    for _ in 0..from.count(is_flexible)? {
        let length = from.length(is_flexible)?;
        let topic = std::str::from_utf8(from.take(length)?).map_err(|_| Malformed("a topic is not UTF-8"))?;
        let topic: Arc<str> = topic.into();
        for _ in 0..from.count(is_flexible)? {
            partitions.insert(At { topic: topic.clone(), partition: PartitionId(from.i32()?) });
        }
        if is_flexible {
            from.tags(|_, _| Ok(()))?;
        }
    }
    let (updated_ms, start_ms) = (from.i64()?, from.i64()?);
    let (mut previous, mut next, mut bumps) = (ProducerId::NONE, ProducerId::NONE, false);
    if is_flexible {
        from.tags(|tag, mut field| {
            match tag {
                0 => previous = ProducerId(field.i64()?),
                1 => next = ProducerId(field.i64()?),
                2 => bumps = field.i16()? >= 2,
                _ => {}
            }
            Ok(())
        })?;
    }
    Ok(Stored { who, previous, next, timeout_ms, state, partitions, updated_ms, start_ms, bumps })
}

fn put_varint(out: &mut Vec<u8>, value: usize) {
    let mut left = u32::try_from(value).expect("lengths are far below 2^32");
    while left >= 0x80 {
        out.put_u8(left as u8 | 0x80);
        left >>= 7;
    }
    out.put_u8(left as u8);
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed("it is too short"))?;
        self.0 = rest;
        Ok(taken)
    }
    fn i16(&mut self) -> Result<i16, Malformed> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into().expect("two bytes")))
    }
    fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }
    fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }
    fn varint(&mut self) -> Result<usize, Malformed> {
        let mut value = 0u64;
        for at in 0..5 {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return usize::try_from(value).map_err(|_| Malformed("a number is too large"));
            }
        }
        Err(Malformed("a number is too long"))
    }
    /// How many follow; none for null. Callers read each, so that a claim alone takes no memory.
    fn count(&mut self, is_flexible: bool) -> Result<usize, Malformed> {
        match is_flexible {
            true => Ok(self.varint()?.saturating_sub(1)),
            false => Ok(usize::try_from(self.i32()?).unwrap_or(0)),
        }
    }
    fn length(&mut self, is_flexible: bool) -> Result<usize, Malformed> {
        match is_flexible {
            true => self.varint()?.checked_sub(1).ok_or(Malformed("a text is missing")),
            false => usize::try_from(self.i16()?).map_err(|_| Malformed("a text is missing")),
        }
    }
    fn tags(
        &mut self,
        mut visit: impl FnMut(usize, In<'a>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        for _ in 0..self.varint()? {
            let (tag, length) = (self.varint()?, self.varint()?);
            visit(tag, In(self.take(length)?))?;
        }
        Ok(())
    }
}
