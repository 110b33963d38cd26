//! What members of a group tell each other through the coordinator, which does not look: Kafka's consumer protocol.
//!
//! Promises: writes version 3, reads every version from 0 on; never panics; takes no more memory than the bytes are
//! long. Pure.
//!
//! ```text
//!  subscription  version 2 │ topics │ user data │ 1: owned partitions │ 2: generation 4 │ 3: rack
//!  assignment    version 2 │ partitions by topic │ user data
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use dejaq_wire::ids::{Generation, PartitionId};

use crate::client::producer::core::TopicPartition;

/// The type of these groups.
pub const PROTOCOL_TYPE: &str = "consumer";
const VERSION: i16 = 3;

/// What a member reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its topics, ascending.
    pub topics: Vec<String>,
    /// What it owns now; only members that rebalance in steps go on reading it.
    pub owned: Vec<TopicPartition>,
    /// The generation that gave it that; none for a new member.
    pub generation: Generation,
    /// Where it stands.
    pub rack: Option<String>,
}

impl Subscription {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_be_bytes().to_vec();
        put_count(&mut out, self.topics.len());
        self.topics.iter().for_each(|topic| put_text(&mut out, topic));
        put_i32(&mut out, -1);
        put_partitions(&mut out, &self.owned);
        put_i32(&mut out, self.generation.0);
        match &self.rack {
            Some(rack) => put_text(&mut out, rack),
            None => out.extend_from_slice(&(-1i16).to_be_bytes()),
        }
        out
    }

    /// Reads what a member of any version told; `None` for what no version writes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Subscription> {
        let mut rest = bytes;
        let version = take_i16(&mut rest)?;
        let mut topics = Vec::new();
        for _ in 0..take_i32(&mut rest)? {
            topics.push(take_text(&mut rest)??);
        }
        topics.sort_unstable();
        topics.dedup();
        skip_bytes(&mut rest)?;
        let owned = if version >= 1 { take_partitions(&mut rest)? } else { Vec::new() };
        let generation = if version >= 2 { Generation(take_i32(&mut rest)?) } else { Generation::NONE };
        let rack = if version >= 3 { take_text(&mut rest)? } else { None };
        Some(Subscription { topics, owned, generation, rack })
    }
}

/// The bytes of a member's part of the plan.
#[must_use]
pub fn encode_assignment(partitions: &[TopicPartition]) -> Vec<u8> {
    let mut out = VERSION.to_be_bytes().to_vec();
    put_partitions(&mut out, partitions);
    put_i32(&mut out, -1);
    out
}

/// A member's part of the plan; nothing at all stands for no partitions. `None` for what no version writes.
#[must_use]
pub fn decode_assignment(bytes: &[u8]) -> Option<Vec<TopicPartition>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut rest = bytes;
    take_i16(&mut rest)?;
    take_partitions(&mut rest)
}

fn put_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    put_i32(out, i32::try_from(count).expect("far fewer than 2^31"));
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = i16::try_from(text.len()).expect("names are at most 249 bytes long");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_partitions(out: &mut Vec<u8>, partitions: &[TopicPartition]) {
    let mut topics: BTreeMap<&str, Vec<PartitionId>> = BTreeMap::new();
    for at in partitions {
        topics.entry(&at.topic).or_default().push(at.partition);
    }
    put_count(out, topics.len());
    for (topic, partitions) in topics {
        put_text(out, topic);
        put_count(out, partitions.len());
        partitions.iter().for_each(|partition| put_i32(out, partition.0));
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*taken)
}

fn take_i16(rest: &mut &[u8]) -> Option<i16> {
    take::<2>(rest).map(i16::from_be_bytes)
}

fn take_i32(rest: &mut &[u8]) -> Option<i32> {
    take::<4>(rest).map(i32::from_be_bytes)
}

/// A text, or null.
fn take_text(rest: &mut &[u8]) -> Option<Option<String>> {
    let Ok(length) = usize::try_from(take_i16(rest)?) else { return Some(None) };
    let (text, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(Some(std::str::from_utf8(text).ok()?.to_owned()))
}

fn skip_bytes(rest: &mut &[u8]) -> Option<()> {
    let length = usize::try_from(take_i32(rest)?).unwrap_or(0);
    *rest = rest.split_at_checked(length)?.1;
    Some(())
}

fn take_partitions(rest: &mut &[u8]) -> Option<Vec<TopicPartition>> {
    let mut all = Vec::new();
    for _ in 0..take_i32(rest)? {
        let topic: Arc<str> = take_text(rest)??.into();
        for _ in 0..take_i32(rest)? {
            all.push(TopicPartition { topic: topic.clone(), partition: PartitionId(take_i32(rest)?) });
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition: PartitionId(partition) }
    }

    #[test]
    fn what_members_tell_reads_back() {
        let told = Subscription {
            topics: vec!["a".into(), "b".into()],
            owned: vec![at("a", 0), at("b", 1), at("b", 2)],
            generation: Generation(7),
            rack: Some("r".into()),
        };
        assert_eq!(Subscription::decode(&told.encode()), Some(told.clone()));
        assert_eq!(decode_assignment(&encode_assignment(&told.owned)), Some(told.owned));
        assert_eq!(decode_assignment(&[]), Some(Vec::new()));
    }

    #[test]
    fn an_old_member_owns_nothing_that_it_tells() {
        // Version 0, as librdkafka writes it for range: one topic, empty user data.
        let bytes = [0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 0];
        let told = Subscription::decode(&bytes).expect("a good one");
        assert_eq!(
            (told.topics, told.owned, told.generation),
            (vec!["t".to_owned()], vec![], Generation::NONE)
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Subscription::decode(&bytes);
            let _ = decode_assignment(&bytes);
        }
    }
}
