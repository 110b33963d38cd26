//! What a consumer tells of itself: the topics that it reads (ConsumerProtocolSubscription).
//!
//! Owns: reading the topics, which every version has first. Promises: never panics; what cannot be read is `None`,
//! and the caller then assumes the most careful. Pure.
//!
//! ```text
//!  version 2 │ topics: count 4, each length 2 + text │ user data, owned partitions, generation, rack: not looked at
//! ```

use std::collections::BTreeSet;

/// The type of protocol whose members tell subscriptions.
pub const CONSUMER: &str = "consumer";

/// The topics of one member.
#[must_use]
pub fn topics(metadata: &[u8]) -> Option<BTreeSet<String>> {
    let mut rest = metadata;
    let version = i16::from_be_bytes(*take::<2>(&mut rest)?);
    if version < 0 {
        return None;
    }
    let count = i32::from_be_bytes(*take::<4>(&mut rest)?);
    let mut topics = BTreeSet::new();
    for _ in 0..count {
        let length = usize::try_from(i16::from_be_bytes(*take::<2>(&mut rest)?)).ok()?;
        let (text, behind) = rest.split_at_checked(length)?;
        rest = behind;
        topics.insert(std::str::from_utf8(text).ok()?.to_owned());
    }
    Some(topics)
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
}
