//! A sparse index over a segment: from an offset or a timestamp to a place near it in the side file.
//!
//! Owns: at most [`MAX_ENTRIES`] entries a segment, sorted; when full, every second one goes and the interval doubles,
//! so that a segment of any size costs at most 80 KiB, and an idle one as little as wanted. Promises: the entry found
//! lies at or before the place asked for. Leaves out: the exact place (the side file is the dense index).
//! Derived: kept in memory for the active segment, written when a segment is sealed, made again when missing or bad.
//!
//! ```text
//! "DJQI" 4 | version 2 | has aborted 2 | segment base 8 | end 8 | log bytes 4 | records 4 | max ts 8 | interval 4 | count 4 | check 4
//! then count x ( base - segment 4 | position 4 | ordinal 4 | max ts before 8 ), then check 4           big-endian
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dejaq_wire::ids::Offset;

use crate::binding::Binding;
use crate::sum::Entry;

/// Entries of one segment's index at most.
pub(crate) const MAX_ENTRIES: usize = 4096;
/// Bytes of the summary at the front of an index file.
pub(crate) const SUMMARY_BYTES: usize = 52;
/// Version of the index file's layout.
pub(crate) const INDEX_VERSION: u16 = 1;
const ENTRY_BYTES: usize = 20;
const MAGIC: [u8; 4] = *b"DJQI";
const _: () = assert!(MAX_ENTRIES.is_multiple_of(2));

/// One place in a segment: a batch begins here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) base: Offset,
    pub(crate) position: u32,
    /// Number of the batch's record in the side file.
    pub(crate) ordinal: u32,
    /// Largest timestamp of all batches before this one, or -1.
    pub(crate) max_timestamp_before: i64,
}

/// What is true of a sealed segment as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) bytes: u32,
    pub(crate) records: u32,
    pub(crate) max_timestamp: i64,
    /// It has, or may have, a file of aborted transactions beside it.
    pub(crate) has_aborted: bool,
}

/// The index of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseIndex {
    interval: u32,
    places: Vec<Place>,
}

impl SparseIndex {
    pub(crate) fn new(interval_bytes: u32) -> SparseIndex {
        SparseIndex { interval: interval_bytes, places: Vec::new() }
    }

    /// Takes the batch at `ordinal` in, if it is far enough from the last one taken.
    pub(crate) fn push(&mut self, entry: &Entry, ordinal: u32, max_timestamp_before: i64) {
        if let Some(last) = self.places.last() {
            assert!(entry.base > last.base, "{:?} after {:?}", entry.base, last.base);
            assert!(ordinal > last.ordinal, "ordinal {ordinal} after {}", last.ordinal);
            if entry.position - last.position < self.interval {
                return;
            }
        }
        if self.places.len() == MAX_ENTRIES {
            self.halve();
        }
        let place = Place { base: entry.base, position: entry.position, ordinal, max_timestamp_before };
        self.places.push(place);
        assert!(self.places.len() <= MAX_ENTRIES, "{} places", self.places.len());
    }

    fn halve(&mut self) {
        let mut index = 0;
        self.places.retain(|_| {
            index += 1;
            index % 2 == 1
        });
        self.interval = self.interval.saturating_mul(2).max(1);
    }

    /// Gives memory back: at most `count` entries stay.
    pub(crate) fn coarsen_to(&mut self, count: usize) {
        while self.places.len() > count.max(1) {
            self.halve();
        }
        self.places.shrink_to_fit();
    }

    /// The last place at or before `offset`, and the ordinal of the place after it.
    pub(crate) fn around(&self, offset: Offset) -> (Option<Place>, Option<u32>) {
        let after = self.places.partition_point(|place| place.base <= offset);
        let floor = after.checked_sub(1).map(|at| self.places[at]);
        (floor, self.places.get(after).map(|place| place.ordinal))
    }

    /// The last place before which no record is as new as `timestamp_ms`.
    pub(crate) fn before_time(&self, timestamp_ms: i64) -> Option<Place> {
        let after = self.places.partition_point(|place| place.max_timestamp_before < timestamp_ms);
        after.checked_sub(1).map(|at| self.places[at])
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// The index file of a sealed segment.
    pub(crate) fn encode(&self, binding: &Binding, summary: &Summary) -> Bytes {
        let mut bytes = BytesMut::with_capacity(SUMMARY_BYTES + self.places.len() * ENTRY_BYTES + 4);
        bytes.put_slice(&MAGIC);
        bytes.put_u16(INDEX_VERSION);
        bytes.put_u16(u16::from(summary.has_aborted));
        bytes.put_i64(summary.base.0);
        bytes.put_i64(summary.end.0);
        bytes.put_u32(summary.bytes);
        bytes.put_u32(summary.records);
        bytes.put_i64(summary.max_timestamp);
        bytes.put_u32(self.interval);
        bytes.put_u32(self.places.len() as u32);
        let binding = binding.segment(summary.base);
        let check = binding.sum(&[&bytes]);
        bytes.put_u32(check);
        assert!(bytes.len() == SUMMARY_BYTES, "summary of {} bytes", bytes.len());
        for place in &self.places {
            bytes.put_u32(
                u32::try_from(place.base.since(summary.base)).expect("a segment spans less than 2^31"),
            );
            bytes.put_u32(place.position);
            bytes.put_u32(place.ordinal);
            bytes.put_i64(place.max_timestamp_before);
        }
        let check = binding.sum(&[&bytes]);
        bytes.put_u32(check);
        bytes.freeze()
    }

    /// The summary, interval and number of places of an index file, if its front is good.
    pub(crate) fn decode_summary(
        binding: &Binding,
        base: Offset,
        mut bytes: &[u8],
    ) -> Option<(Summary, u32, usize)> {
        if bytes.len() < SUMMARY_BYTES {
            return None;
        }
        let check = binding.segment(base).sum(&[&bytes[..SUMMARY_BYTES - 4]]);
        if bytes[SUMMARY_BYTES - 4..SUMMARY_BYTES] != check.to_be_bytes() || bytes[..4] != MAGIC {
            return None;
        }
        bytes.advance(4);
        let version = bytes.get_u16();
        let has_aborted = bytes.get_u16() != 0;
        let summary = Summary {
            base: Offset(bytes.get_i64()),
            end: Offset(bytes.get_i64()),
            bytes: bytes.get_u32(),
            records: bytes.get_u32(),
            max_timestamp: bytes.get_i64(),
            has_aborted,
        };
        let (interval, count) = (bytes.get_u32(), bytes.get_u32() as usize);
        let good = version == INDEX_VERSION && summary.base == base && count <= MAX_ENTRIES;
        good.then_some((summary, interval, count))
    }

    /// The whole index file, if it is good.
    pub(crate) fn decode(binding: &Binding, base: Offset, bytes: &[u8]) -> Option<(Summary, SparseIndex)> {
        let (summary, interval, count) = SparseIndex::decode_summary(binding, base, bytes)?;
        let length = SUMMARY_BYTES + count * ENTRY_BYTES;
        if bytes.len() != length + 4 {
            return None;
        }
        if binding.segment(base).sum(&[&bytes[..length]]).to_be_bytes() != bytes[length..] {
            return None;
        }
        let mut entries = &bytes[SUMMARY_BYTES..length];
        let places = (0..count)
            .map(|_| Place {
                base: base.plus(i64::from(entries.get_u32())),
                position: entries.get_u32(),
                ordinal: entries.get_u32(),
                max_timestamp_before: entries.get_i64(),
            })
            .collect();
        Some((summary, SparseIndex { interval, places }))
    }

    /// Bytes of the largest index file.
    pub(crate) const fn max_file_bytes() -> usize {
        SUMMARY_BYTES + MAX_ENTRIES * ENTRY_BYTES + 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejaq_wire::ids::{PartitionId, TopicId};

    fn entry(base: i64, position: u32) -> Entry {
        Entry { position, length: 10, base: Offset(base), last: Offset(base), max_timestamp: base, bind: 0 }
    }

    fn index(count: u32) -> SparseIndex {
        let mut index = SparseIndex::new(10);
        for at in 0..count {
            index.push(&entry(i64::from(at) + 100, at * 10), at + 1, i64::from(at) + 99);
        }
        index
    }

    #[test]
    fn the_place_found_is_at_or_before_the_offset() {
        let index = index(50);
        for offset in 90..160 {
            let (floor, next) = index.around(Offset(offset));
            match floor {
                None => assert!(offset < 100, "{offset}"),
                Some(place) => {
                    assert_eq!(place.base.0, offset.min(149));
                    assert_eq!(next, (offset < 149).then_some((offset - 100) as u32 + 2));
                }
            }
        }
    }

    #[test]
    fn the_place_found_by_time_has_nothing_as_new_before_it() {
        let index = index(50);
        assert_eq!(index.before_time(99), None);
        assert_eq!(index.before_time(120).expect("some").max_timestamp_before, 119);
    }

    #[test]
    fn a_huge_segment_costs_no_more_than_the_limit() {
        let index = index(100_000);
        assert!(index.places().len() <= MAX_ENTRIES);
        assert!(index.places().len() >= MAX_ENTRIES / 2);
        assert_eq!(index.around(Offset(100)).0.expect("first stays").position, 0);
        let mut small = index;
        small.coarsen_to(16);
        assert!(small.places().len() <= 16);
    }

    #[test]
    fn no_flipped_bit_of_the_file_is_believed() {
        let binding = Binding::new(TopicId([3; 16]), PartitionId(4));
        let summary = Summary {
            base: Offset(100),
            end: Offset(105),
            bytes: 50,
            records: 6,
            max_timestamp: 104,
            has_aborted: true,
        };
        let file = index(5).encode(&binding, &summary);
        assert_eq!(SparseIndex::decode(&binding, Offset(100), &file), Some((summary, index(5))));
        for bit in 0..file.len() * 8 {
            let mut bad = file.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SparseIndex::decode(&binding, Offset(100), &bad), None, "bit {bit}");
        }
    }
}
