//! Which partition a record goes to: by its key as Java does it, or sticky where it has none.
//!
//! Owns: Kafka's murmur2, the mapping of keys, the stickiness of records without a key.
//! Promises: a key lands where Java's default partitioner puts it, so producers in several languages agree; records
//! without a key fill a batch in one partition before the next is drawn, and are even over time (KIP-794).
//! Leaves out: which partitions have a leader (the caller passes those), and entropy (passed in).
//!
//!   key   ─► murmur2 ─► clear the sign bit ─► modulo the number of ALL partitions (also leaderless ones)
//!   none  ─► stay for one batch's worth of bytes ─► draw among partitions with a leader ─► stay …

use std::sync::Arc;

use dejaq_wire::ids::PartitionId;

/// A user's own mapping (S08). Called once for every record whose partition was not given.
pub trait Partitioner: Send + Sync + 'static {
    /// The partition for a record, from 0 up to `partitions` exclusive; `None` leaves it to the default rule.
    fn partition(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        partitions: i32,
    ) -> Option<i32>;
}

/// The rule that a producer uses for records whose partition was not given.
#[derive(Clone, Default)]
pub enum Partitioning {
    /// Keys as Java does, sticky without a key.
    #[default]
    Default,
    /// The user's own.
    Custom(Arc<dyn Partitioner>),
}

impl std::fmt::Debug for Partitioning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Partitioning::Default => "default",
            Partitioning::Custom(_) => "custom",
        })
    }
}

/// Where `key` goes among `partitions` partitions, exactly as Java's default partitioner has it.
#[must_use]
pub fn partition_of_key(key: &[u8], partitions: i32) -> PartitionId {
    assert!(partitions > 0, "a topic has at least one partition, not {partitions}");
    let positive = murmur2(key) & 0x7fff_ffff;
    PartitionId((positive % partitions.cast_unsigned()).cast_signed())
}

/// Kafka's variant of the 32-bit murmur2 hash (seed 0x9747b28c), over the bytes of a key.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const MULTIPLIER: u32 = 0x5bd1_e995;
    const SHIFT: u32 = 24;

    // The length enters as Java's int; a key is far below 2^31 bytes.
    let mut hash = SEED ^ (data.len() as u32);
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> SHIFT;
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed.wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

/// Where records of one topic without a key go: one partition until it got a batch's worth, then another.
#[derive(Debug, Clone, Default)]
pub struct Sticky {
    current: Option<PartitionId>,
    bytes: usize,
}

impl Sticky {
    /// The partition for a record of `bytes` bytes.
    ///
    /// `candidates` are the partitions that have a leader, not empty; `batch_bytes` is how much one of them gets
    /// before the next draw; `entropy` is used if this call draws.
    pub fn choose(
        &mut self,
        candidates: &[PartitionId],
        bytes: usize,
        batch_bytes: usize,
        entropy: u64,
    ) -> PartitionId {
        assert!(!candidates.is_empty(), "the caller waits until some partition has a leader");
        let stay = self.current.filter(|held| self.bytes < batch_bytes && candidates.contains(held));
        let chosen = stay.unwrap_or_else(|| {
            self.bytes = 0;
            self.draw(candidates, entropy)
        });
        self.current = Some(chosen);
        self.bytes = self.bytes.saturating_add(bytes);
        chosen
    }

    /// Another partition than the current one where there is a choice: two batches in a row would only queue up.
    fn draw(&self, candidates: &[PartitionId], entropy: u64) -> PartitionId {
        let at = (entropy % candidates.len() as u64) as usize;
        let drawn = candidates[at];
        if Some(drawn) == self.current { candidates[(at + 1) % candidates.len()] } else { drawn }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn murmur2_is_javas() {
        // The vectors of Kafka's own test of the hash.
        let vectors: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key).cast_signed(), hash, "{:?}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn a_negative_hash_has_its_sign_cleared_and_is_not_negated() {
        // "21" hashes to -973932308 = 0xC5F306AC; without the sign bit 1173551340.
        assert_eq!(partition_of_key(b"21", 1000), PartitionId(1_173_551_340 % 1000));
    }

    #[test]
    fn keys_spread_evenly_over_three_and_over_four_partitions() {
        for partitions in [3, 4] {
            let mut counts = vec![0u32; partitions];
            for key in 0..100_000u32 {
                let partition = partition_of_key(format!("key-{key}").as_bytes(), partitions as i32);
                counts[partition.0 as usize] += 1;
            }
            let fair = 100_000 / partitions as u32;
            assert!(counts.iter().all(|c| c.abs_diff(fair) < fair / 20), "{counts:?} around {fair}");
        }
    }

    #[test]
    fn records_without_a_key_are_even_over_time() {
        let candidates: Vec<_> = (0..4).map(PartitionId).collect();
        let mut sticky = Sticky::default();
        let mut counts = [0u32; 4];
        let mut entropy = 1u64;
        for _ in 0..100_000 {
            entropy = entropy.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            counts[sticky.choose(&candidates, 100, 1000, entropy >> 33).0 as usize] += 1;
        }
        assert!(counts.iter().all(|c| c.abs_diff(25_000) < 2_500), "{counts:?}");
    }

    #[test]
    fn a_partition_that_lost_its_leader_is_left_at_once() {
        let mut sticky = Sticky::default();
        let first = sticky.choose(&[PartitionId(0)], 1, 1000, 0);
        assert_eq!(first, PartitionId(0));
        assert_eq!(sticky.choose(&[PartitionId(1)], 1, 1000, 0), PartitionId(1));
    }

    proptest! {
        #[test]
        fn a_key_always_has_the_same_partition_within_range(key: Vec<u8>, partitions in 1i32..1000) {
            let partition = partition_of_key(&key, partitions);
            prop_assert!((0..partitions).contains(&partition.0));
            prop_assert_eq!(partition, partition_of_key(&key, partitions));
        }

        #[test]
        fn stickiness_changes_only_after_a_batchs_worth(sizes in proptest::collection::vec(1usize..500, 1..200)) {
            let candidates: Vec<_> = (0..3).map(PartitionId).collect();
            let mut sticky = Sticky::default();
            let (mut held, mut run) = (None, 0);
            for (at, bytes) in sizes.into_iter().enumerate() {
                let chosen = sticky.choose(&candidates, bytes, 1000, at as u64);
                if held != Some(chosen) {
                    prop_assert!(held.is_none() || run >= 1000, "left after {} bytes", run);
                    (held, run) = (Some(chosen), 0);
                } else {
                    prop_assert!(run < 1000, "stayed beyond a batch");
                }
                run += bytes;
            }
        }
    }
}
