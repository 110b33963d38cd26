//! What a consumer tells of itself, and what it is told that it owns: Kafka's consumer protocol, as far as a coordinator
//! looks into it.
//!
//! Owns: reading subscriptions and assignments, writing assignments. Promises: never panics; takes no more memory than
//! the bytes are long; what cannot be read is `None`, and the caller then assumes the most careful. Pure.
//!
//! ```text
//!  subscription  version 2 │ topics: count 4, each length 2 + text │ user data │ 1: owned │ 2: generation 4 │ 3: rack
//!  assignment    version 2 │ topics with partitions │ user data
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use dejaq_wire::ids::PartitionId;

/// The type of protocol whose members tell subscriptions.
pub const CONSUMER: &str = "consumer";
/// The newest version that there is.
const NEWEST: i16 = 3;

/// A partition by the name of its topic.
pub type Named = (Arc<str>, PartitionId);

/// What a member reads and owns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Its topics.
    pub topics: BTreeSet<String>,
    /// What it owns; nothing in versions that do not tell.
    pub owned: Vec<Named>,
    /// Where it stands.
    pub rack: Option<String>,
}

/// The topics of one member.
#[must_use]
pub fn topics(metadata: &[u8]) -> Option<BTreeSet<String>> {
    let mut rest = metadata;
    let version = i16::from_be_bytes(*take::<2>(&mut rest)?);
    if version < 0 {
        return None;
    }
    take_topics(&mut rest)
}

/// All that a member tells and a coordinator looks at.
#[must_use]
pub fn read(metadata: &[u8]) -> Option<Subscription> {
    let mut rest = metadata;
    let version = i16::from_be_bytes(*take::<2>(&mut rest)?);
    if version < 0 {
        return None;
    }
    let topics = take_topics(&mut rest)?;
    skip_bytes(&mut rest)?;
    // Some clients write a newer version than they fill.
    let owned = if version >= 1 && !rest.is_empty() { take_partitions(&mut rest)? } else { Vec::new() };
    if version >= 2 && !rest.is_empty() {
        take::<4>(&mut rest)?; // the generation that gave it that
    }
    let rack = if version >= 3 && !rest.is_empty() { take_text(&mut rest)? } else { None };
    Some(Subscription { topics, owned, rack })
}

/// The version of what a member told; the oldest for what cannot be read.
#[must_use]
pub fn version(metadata: &[u8]) -> i16 {
    let told = metadata.first_chunk::<2>().map_or(0, |bytes| i16::from_be_bytes(*bytes));
    told.clamp(0, NEWEST)
}

/// What a plan gives to a member; nothing at all stands for no partitions.
#[must_use]
pub fn assignment(bytes: &[u8]) -> Option<Vec<Named>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut rest = bytes;
    if i16::from_be_bytes(*take::<2>(&mut rest)?) < 0 {
        return None;
    }
    take_partitions(&mut rest)
}

/// The bytes of a member's part. Every version has the same.
#[must_use]
pub fn encode_assignment(version: i16, parts: &[Named]) -> Bytes {
    let count = |count: usize| i32::try_from(count).expect("far fewer than 2^31").to_be_bytes();
    let mut topics: BTreeMap<&str, Vec<PartitionId>> = BTreeMap::new();
    for (topic, partition) in parts {
        topics.entry(topic).or_default().push(*partition);
    }
    let mut out = version.to_be_bytes().to_vec();
    out.extend(count(topics.len()));
    for (topic, partitions) in topics {
        let length = i16::try_from(topic.len()).expect("names are at most 249 bytes long");
        out.extend(length.to_be_bytes());
        out.extend(topic.as_bytes());
        out.extend(count(partitions.len()));
        partitions.iter().for_each(|partition| out.extend(partition.0.to_be_bytes()));
    }
    out.extend((-1i32).to_be_bytes());
    out.into()
}

fn take_topics(rest: &mut &[u8]) -> Option<BTreeSet<String>> {
    let mut topics = BTreeSet::new();
    for _ in 0..i32::from_be_bytes(*take::<4>(rest)?) {
        topics.insert(take_text(rest)??);
    }
    Some(topics)
}

fn take_partitions(rest: &mut &[u8]) -> Option<Vec<Named>> {
    let mut all = Vec::new();
    for _ in 0..i32::from_be_bytes(*take::<4>(rest)?) {
        let topic: Arc<str> = take_text(rest)??.into();
        for _ in 0..i32::from_be_bytes(*take::<4>(rest)?) {
            all.push((topic.clone(), PartitionId(i32::from_be_bytes(*take::<4>(rest)?))));
        }
    }
    Some(all)
}

/// A text, or null.
fn take_text(rest: &mut &[u8]) -> Option<Option<String>> {
    let Ok(length) = usize::try_from(i16::from_be_bytes(*take::<2>(rest)?)) else { return Some(None) };
    let (text, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(Some(std::str::from_utf8(text).ok()?.to_owned()))
}

fn skip_bytes(rest: &mut &[u8]) -> Option<()> {
    let length = usize::try_from(i32::from_be_bytes(*take::<4>(rest)?)).unwrap_or(0);
    *rest = rest.split_at_checked(length)?.1;
    Some(())
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(taken)
}

#[cfg(test)]
pub(crate) fn encode(topics: &[&str]) -> bytes::Bytes {
    let mut out = vec![0, 1];
    out.extend_from_slice(&(topics.len() as i32).to_be_bytes());
    for topic in topics {
        out.extend_from_slice(&(topic.len() as i16).to_be_bytes());
        out.extend_from_slice(topic.as_bytes());
    }
    out.extend_from_slice(&(-1i32).to_be_bytes());
    out.into()
}

/// What a member that owns something tells: [`encode`], and what a plan would give it.
#[cfg(test)]
pub(crate) fn encode_owning(topics: &[&str], owned: &[Named]) -> bytes::Bytes {
    let part = encode_assignment(1, owned);
    let mut out = encode(topics).to_vec();
    out.extend_from_slice(&part[2..part.len() - 4]);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_and_nonsense_is_none() {
        assert_eq!(topics(&encode(&["b", "a"])), Some(["a".to_owned(), "b".to_owned()].into()));
        assert_eq!(topics(&encode(&[])), Some(BTreeSet::new()));
        assert_eq!(topics(b""), None);
        assert_eq!(topics(&[0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 1]), None, "a count that nothing follows");
        assert_eq!(topics(&[0xff, 0xff, 0, 0, 0, 0]), None, "a version that does not exist");
    }

    #[test]
    fn a_part_reads_back_and_what_is_owned_is_read() {
        let parts: Vec<Named> = vec![("a".into(), PartitionId(0)), ("b".into(), PartitionId(7))];
        let bytes = encode_assignment(1, &parts);
        assert_eq!(assignment(&bytes), Some(parts.clone()));
        assert_eq!((assignment(b""), assignment(&bytes[..bytes.len() - 6])), (Some(Vec::new()), None));
        let told = read(&encode_owning(&["a"], &parts)).expect("a subscription");
        assert_eq!((told.topics, told.owned), (["a".to_owned()].into(), parts));
        let bare = read(&encode(&["a"])).expect("version 1 without what is owned");
        assert_eq!(bare.owned, Vec::new());
        assert_eq!((version(&[0, 1]), version(&[0, 9]), version(b"")), (1, 3, 0));
    }
}
