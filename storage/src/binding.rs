//! Ties our own checksums to the place where the bytes belong, so that good bytes at the wrong place are bad bytes.
//!
//! Owns: the seed that every checksum of a partition's files starts from: topic id and partition index.
//! Promises: a block that a disk misdirects from another partition, another life of the topic, another segment or
//! another position does not pass (S23). Leaves out: the batch's own CRC-32C, which Kafka defines and clients make.

use crc32fast::Hasher;
use dejaq_wire::ids::{Offset, PartitionId, TopicId};

use crate::mutant;

/// The seed of one partition's checksums.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    seed: Hasher,
}

impl Binding {
    pub(crate) fn new(topic_id: TopicId, partition: PartitionId) -> Binding {
        let mut seed = Hasher::new();
        if !mutant!(29) {
            seed.update(&topic_id.0);
            seed.update(&partition.0.to_be_bytes());
        }
        Binding { seed }
    }

    /// For files of the data directory itself, and for the file that tells whose directory it is.
    pub(crate) fn none() -> Binding {
        Binding { seed: Hasher::new() }
    }

    /// The same, further bound to one segment.
    pub(crate) fn segment(&self, base: Offset) -> Binding {
        let mut seed = self.seed.clone();
        seed.update(&base.0.to_be_bytes());
        Binding { seed }
    }

    /// Sums up the parts in order.
    pub(crate) fn sum(&self, parts: &[&[u8]]) -> u32 {
        let mut hasher = self.seed.clone();
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_depends_on_topic_partition_and_segment() {
        let topic = TopicId([1; 16]);
        let here = Binding::new(topic, PartitionId(0)).segment(Offset(5)).sum(&[b"x"]);
        assert_ne!(here, Binding::new(TopicId([2; 16]), PartitionId(0)).segment(Offset(5)).sum(&[b"x"]));
        assert_ne!(here, Binding::new(topic, PartitionId(1)).segment(Offset(5)).sum(&[b"x"]));
        assert_ne!(here, Binding::new(topic, PartitionId(0)).segment(Offset(6)).sum(&[b"x"]));
        assert_eq!(here, Binding::new(topic, PartitionId(0)).segment(Offset(5)).sum(&[b"", b"x"]));
    }
}
