//! Which batches of a segment have a record in its side file, read by a parser of the checker's own.
//!
//! Source: the layout in `storage/src/sum.rs`. A batch counts as durable only together with its record: after a power
//! cut nothing else says that the bytes were meant for this place (see `storage/src/recovery/tail.rs`).

use std::collections::BTreeMap;

use super::crc::crc32;

/// Bytes of a record.
const RECORD: usize = 32;

/// The records of one segment that pass their checks: by position, the batch's length, first and last offset, and the
/// sum over its first 21 bytes.
#[derive(Debug, Default)]
pub struct Records {
    seed: u32,
    by_position: BTreeMap<u64, (u64, i64, i64, u32)>,
}

impl Records {
    /// Reads the side file of the segment that begins at `base`, of the partition with this folder name.
    #[must_use]
    pub fn of(folder: &str, base: u64, bytes: &[u8]) -> Records {
        let Some(seed) = seed(folder, base) else { return Records::default() };
        let mut records = Records { seed, by_position: BTreeMap::new() };
        for (ordinal, record) in bytes.chunks_exact(RECORD).enumerate().skip(1) {
            let word = |at: usize| u32::from_be_bytes(record[at..at + 4].try_into().expect("four bytes"));
            let ordinal = u32::try_from(ordinal).expect("a side file is small");
            let is_batch = word(0) >> 31 == 0;
            if is_batch && !crc32(crc32(seed, &ordinal.to_be_bytes()), &record[..28]) == word(28) {
                let offset = |at: usize| base as i64 + i64::from(word(at));
                let entry = (u64::from(word(4)), offset(8), offset(12), word(24));
                records.by_position.insert(u64::from(word(0)), entry);
            }
        }
        records
    }

    /// Whether the batch at `at` with this front, length and offsets has its record.
    #[must_use]
    pub fn has(&self, at: u64, front: &[u8], bytes: u64, base: i64, last: i64) -> bool {
        let bind = || !crc32(self.seed, &front[..21]);
        self.by_position.get(&at).is_some_and(|known| *known == (bytes, base, last, bind()))
    }
}

/// One record of a side file that passes its check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// A batch, by its place in the segment and its first offset.
    Batch {
        /// Where it begins.
        at: u64,
        /// Its first offset.
        base: i64,
    },
    /// What was durable when it was written.
    Marker {
        /// Everything below is durable.
        end: i64,
    },
}

/// The records of a side file that pass their checks, by their number.
#[must_use]
pub fn lines(folder: &str, base: u64, bytes: &[u8]) -> BTreeMap<u32, Line> {
    let Some(seed) = seed(folder, base) else { return BTreeMap::new() };
    let read = |(ordinal, record): (usize, &[u8])| {
        let word = |at: usize| u32::from_be_bytes(record[at..at + 4].try_into().expect("four bytes"));
        let ordinal = u32::try_from(ordinal).expect("a side file is small");
        let good = !crc32(crc32(seed, &ordinal.to_be_bytes()), &record[..28]) == word(28);
        let line = if word(0) >> 31 == 0 {
            Line::Batch { at: u64::from(word(0)), base: base as i64 + i64::from(word(8)) }
        } else {
            Line::Marker { end: i64::from_be_bytes(record[4..12].try_into().expect("eight bytes")) }
        };
        good.then_some((ordinal, line))
    };
    bytes.chunks_exact(RECORD).enumerate().skip(1).filter_map(read).collect()
}

/// The state of the sum after topic id and partition.
pub(super) fn partition_seed(folder: &str) -> Option<u32> {
    let (topic, partition) = folder.split_once('-')?;
    let topic = u128::from_str_radix(topic, 16).ok()?;
    let partition: i32 = partition.parse().ok()?;
    Some(crc32(crc32(!0, &topic.to_be_bytes()), &partition.to_be_bytes()))
}

/// The state of the sum after topic id, partition and segment base.
pub(super) fn seed(folder: &str, base: u64) -> Option<u32> {
    Some(crc32(partition_seed(folder)?, &base.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_record_at_its_own_place_counts() {
        let folder = "07070707070707070707070707070707-3";
        let front = [9_u8; 21];
        let seed = seed(folder, 5).expect("a folder");
        let mut record = [0, 0, 0, 0, 0, 0, 0, 95, 0, 0, 0, 0, 0, 0, 0, 1].to_vec();
        record.extend_from_slice(&7_u64.to_be_bytes());
        record.extend_from_slice(&(!crc32(seed, &front)).to_be_bytes());
        let check = !crc32(crc32(seed, &1_u32.to_be_bytes()), &record);
        record.extend_from_slice(&check.to_be_bytes());
        let file = [vec![0; RECORD], record].concat();
        let has = |folder, base, file: &[u8]| Records::of(folder, base, file).has(0, &front, 95, 5, 6);
        assert!(has(folder, 5, &file));
        assert!(!has("07070707070707070707070707070707-4", 5, &file), "another partition");
        assert!(!has(folder, 6, &file), "another segment");
        assert!(!has(folder, 5, &file[..60]), "torn");
        assert!(!Records::of(folder, 5, &file).has(0, &[8; 21], 95, 5, 6), "another batch");
    }
}
