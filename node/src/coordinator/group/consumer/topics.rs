//! Which topics a group reads, and what they are now.
//!
//! Owns: [`Known`]: the metadata that groups look at, with a count of its changes; patterns, and which names match
//! them; [`hash`], by which a group notices that its topics changed since its plan was made.
//! Promises: a pattern that comes from a client takes bounded memory and time: it has no back references, and its
//! compiled form is bounded. A pattern matches whole names, as RE2 does for Kafka. Internal topics match none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dejaq_wire::ids::TopicId;
use regex::{Regex, RegexBuilder};

use crate::metadata::Image;

/// Longest pattern in bytes.
const MAX_PATTERN_BYTES: usize = 8192;
/// Most bytes of a compiled pattern.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// The metadata that groups look at.
#[derive(Debug, Clone)]
pub struct Known {
    /// The image.
    pub image: Arc<Image>,
    /// Counts its changes; 0 for a group that never looked.
    pub version: u64,
}

impl Default for Known {
    fn default() -> Known {
        Known { image: Arc::default(), version: 1 }
    }
}

impl Known {
    /// Takes a newer image.
    pub(in super::super) fn see(&mut self, image: Arc<Image>) {
        if !Arc::ptr_eq(&self.image, &image) {
            self.image = image;
            self.version += 1;
        }
    }
}

/// A pattern that can be matched.
///
/// # Errors
/// The text for the client.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(format!("the pattern is longer than {MAX_PATTERN_BYTES} bytes"));
    }
    let build = |text: &str| RegexBuilder::new(text).size_limit(MAX_COMPILED_BYTES).build();
    // Alone first: brackets that only fit because of ours are not the client's.
    build(pattern).and_then(|_| build(&format!(r"\A(?:{pattern})\z"))).map_err(|error| error.to_string())
}

/// The topics whose names match a pattern; none for one that cannot be read, which was refused when it came.
#[must_use]
pub fn matching(pattern: &str, image: &Image) -> BTreeSet<Arc<str>> {
    let Ok(pattern) = compile(pattern) else { return BTreeSet::new() };
    let all = image.topics_by_name().filter(|topic| !topic.is_internal());
    all.filter(|topic| pattern.is_match(&topic.name)).map(|topic| topic.name.clone()).collect()
}

/// Of all topics that are read and exist: ids and numbers of partitions.
#[must_use]
pub fn counts(topics: &BTreeSet<Arc<str>>, image: &Image) -> BTreeMap<TopicId, i32> {
    let count = |count: usize| i32::try_from(count).expect("partition counts are below 2^31");
    let found = topics.iter().filter_map(|name| image.topic_named(name));
    found.map(|topic| (topic.id, count(topic.partitions.len()))).collect()
}

/// Differs when a topic came, went, was made anew or grew; 0 for no topics. FNV-1a, which is enough to notice.
#[must_use]
pub fn hash(counts: &BTreeMap<TopicId, i32>) -> i64 {
    if counts.is_empty() {
        return 0;
    }
    let bytes = counts.iter().flat_map(|(topic, count)| topic.0.into_iter().chain(count.to_be_bytes()));
    let mixed = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    i64::from_be_bytes(mixed.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names_and_nonsense_is_refused() {
        let one = compile("a.*|b").expect("a pattern");
        assert!(one.is_match("abc") && one.is_match("b"));
        assert!(!one.is_match("xb") && !one.is_match("bx") && !one.is_match("b\n"));
        for bad in ["(", "a)|(b", "[", "\\1", &"x".repeat(MAX_PATTERN_BYTES + 1), "(?:x{1000}){1000}"] {
            assert!(compile(bad).is_err(), "{bad:.20}");
        }
    }

    #[test]
    fn a_hash_notices_what_a_plan_depends_on() {
        let of = |topic: u8, count| BTreeMap::from([(TopicId([topic; 16]), count)]);
        assert_eq!(hash(&BTreeMap::new()), 0);
        assert_ne!(hash(&of(1, 1)), hash(&of(1, 2)));
        assert_ne!(hash(&of(1, 1)), hash(&of(2, 1)));
    }
}
