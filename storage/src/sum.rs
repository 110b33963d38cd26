//! The side file of a segment: one 32-byte record a batch, and the durable points.
//!
//! Owns: the record layout. Promises: a record that decodes is the one that was written for this partition, segment
//! and position in the file; torn, stale-from-elsewhere or rotten records do not decode. 32 divides every sector size,
//! so that a torn write damages whole records only. Leaves out: reading and writing the file (`segment`, `walk`).
//!
//! The batch record holds what the batch's own CRC leaves open: `bind` sums the first 21 bytes of the batch
//! (base offset, length, leader epoch, magic, and the CRC itself). It is also the dense index of the segment.
//!
//! The marker says "everything below `end` was synced before this was written". It is written with the *next* flush, or
//! when the log goes idle, or at close. So recovery can tell damage from a torn tail below the last marker (CTRL, FAST'18),
//! and cannot in one window: what was synced by the very last flush before a crash, when its marker did not get out.
//! Damage there, in the same crash, looks like a torn tail and is cut.
//!
//! ```text
//! header  "DJQS" 4 | version 2 | 0 2 | segment base 8 | created ms 8 | 0 4                   | check 4
//! batch   0 | position 31 bits | length 4 | base - segment 4 | last - segment 4 | max ts 8 | bind 4 | check 4
//! marker  1 | position 31 bits | end 8 | log start 8 | max ts 8                              | check 4      big-endian
//! ```
//! `check` covers binding, segment base, the record's ordinal and its first 28 bytes.

use dejaq_wire::ids::Offset;

use crate::batch::BOUND_BYTES;
use crate::binding::Binding;

/// Bytes of a record.
pub(crate) const RECORD_BYTES: usize = 32;
/// Version of the side file's layout.
pub(crate) const SUM_VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"DJQS";
const MARKER_BIT: u32 = 1 << 31;

/// Where one batch lies and what its uncovered bytes sum up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) position: u32,
    pub(crate) length: u32,
    pub(crate) base: Offset,
    /// `last >= base`
    pub(crate) last: Offset,
    pub(crate) max_timestamp: i64,
    pub(crate) bind: u32,
}

impl Entry {
    pub(crate) fn position_after(&self) -> u32 {
        self.position + self.length
    }
}

/// Everything below `end` is durable; `position` is where that is in this segment (0 if before it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) position: u32,
    pub(crate) end: Offset,
    /// The log's start at that time: a second copy, should the file that owns it be damaged.
    pub(crate) start: Offset,
    /// Largest timestamp below `position`, or -1.
    pub(crate) max_timestamp: i64,
}

/// A record of a side file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    Header { created_ms: i64 },
    Batch(Entry),
    Marker(Marker),
}

/// A record that cannot be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadRecord {
    Corrupt,
    /// Only for the header: the file was written by another version.
    Version(u16),
}

/// Writes and reads the records of one segment.
#[derive(Debug, Clone)]
pub(crate) struct SumCodec {
    binding: Binding,
    base: Offset,
}

fn number<const N: usize>(bytes: &[u8; RECORD_BYTES], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("N bytes inside a record")
}

impl SumCodec {
    pub(crate) fn new(partition: &Binding, base: Offset) -> SumCodec {
        SumCodec { binding: partition.segment(base), base }
    }

    /// The sum over the bytes of a batch that its own CRC does not cover.
    pub(crate) fn bind(&self, front: &[u8]) -> u32 {
        self.binding.sum(&[&front[..BOUND_BYTES]])
    }

    fn check(&self, ordinal: u32, record: &[u8; RECORD_BYTES]) -> u32 {
        self.binding.sum(&[&ordinal.to_be_bytes(), &record[..RECORD_BYTES - 4]])
    }

    fn seal(&self, ordinal: u32, mut record: [u8; RECORD_BYTES]) -> [u8; RECORD_BYTES] {
        let check = self.check(ordinal, &record);
        record[28..].copy_from_slice(&check.to_be_bytes());
        record
    }

    /// `ordinal` is the record's number in the file; the header has number 0.
    pub(crate) fn encode(&self, ordinal: u32, record: &Record) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        match record {
            Record::Header { created_ms } => {
                assert!(ordinal == 0, "a header at {ordinal}");
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4..6].copy_from_slice(&SUM_VERSION.to_be_bytes());
                bytes[8..16].copy_from_slice(&self.base.0.to_be_bytes());
                bytes[16..24].copy_from_slice(&created_ms.to_be_bytes());
            }
            Record::Batch(entry) => {
                assert!(entry.position & MARKER_BIT == 0, "position {} needs 32 bits", entry.position);
                assert!(entry.last >= entry.base, "batch {:?}..={:?}", entry.base, entry.last);
                let base =
                    u32::try_from(entry.base.since(self.base)).expect("a segment spans less than 2^31");
                let last =
                    u32::try_from(entry.last.since(self.base)).expect("a segment spans less than 2^31");
                bytes[..4].copy_from_slice(&entry.position.to_be_bytes());
                bytes[4..8].copy_from_slice(&entry.length.to_be_bytes());
                bytes[8..12].copy_from_slice(&base.to_be_bytes());
                bytes[12..16].copy_from_slice(&last.to_be_bytes());
                bytes[16..24].copy_from_slice(&entry.max_timestamp.to_be_bytes());
                bytes[24..28].copy_from_slice(&entry.bind.to_be_bytes());
            }
            Record::Marker(marker) => {
                assert!(marker.position & MARKER_BIT == 0, "position {} needs 32 bits", marker.position);
                bytes[..4].copy_from_slice(&(marker.position | MARKER_BIT).to_be_bytes());
                bytes[4..12].copy_from_slice(&marker.end.0.to_be_bytes());
                bytes[12..20].copy_from_slice(&marker.start.0.to_be_bytes());
                bytes[20..28].copy_from_slice(&marker.max_timestamp.to_be_bytes());
            }
        }
        self.seal(ordinal, bytes)
    }

    /// What the record at `ordinal` says.
    pub(crate) fn decode(&self, ordinal: u32, bytes: &[u8; RECORD_BYTES]) -> Result<Record, BadRecord> {
        if self.check(ordinal, bytes) != u32::from_be_bytes(number(bytes, 28)) {
            return Err(BadRecord::Corrupt);
        }
        if ordinal == 0 {
            return self.decode_header(bytes);
        }
        let first = u32::from_be_bytes(number(bytes, 0));
        if first & MARKER_BIT != 0 {
            return Ok(Record::Marker(Marker {
                position: first & !MARKER_BIT,
                end: Offset(i64::from_be_bytes(number(bytes, 4))),
                start: Offset(i64::from_be_bytes(number(bytes, 12))),
                max_timestamp: i64::from_be_bytes(number(bytes, 20)),
            }));
        }
        let entry = Entry {
            position: first,
            length: u32::from_be_bytes(number(bytes, 4)),
            base: self.base.plus(i64::from(u32::from_be_bytes(number(bytes, 8)))),
            last: self.base.plus(i64::from(u32::from_be_bytes(number(bytes, 12)))),
            max_timestamp: i64::from_be_bytes(number(bytes, 16)),
            bind: u32::from_be_bytes(number(bytes, 24)),
        };
        // The check passed, so that only a writer's bug could give such numbers; they must not reach arithmetic.
        let fits = entry.position.checked_add(entry.length).is_some_and(|end| end & MARKER_BIT == 0);
        if entry.last < entry.base || !fits { Err(BadRecord::Corrupt) } else { Ok(Record::Batch(entry)) }
    }

    fn decode_header(&self, bytes: &[u8; RECORD_BYTES]) -> Result<Record, BadRecord> {
        if bytes[..4] != MAGIC || i64::from_be_bytes(number(bytes, 8)) != self.base.0 {
            return Err(BadRecord::Corrupt);
        }
        let version = u16::from_be_bytes(number(bytes, 4));
        if version != SUM_VERSION {
            return Err(BadRecord::Version(version));
        }
        Ok(Record::Header { created_ms: i64::from_be_bytes(number(bytes, 16)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejaq_wire::ids::{PartitionId, TopicId};

    fn codec(partition: i32, base: i64) -> SumCodec {
        SumCodec::new(&Binding::new(TopicId([9; 16]), PartitionId(partition)), Offset(base))
    }

    const ENTRY: Entry = Entry {
        position: 4096,
        length: 100,
        base: Offset(1007),
        last: Offset(1009),
        max_timestamp: 1_700_000_000_123,
        bind: 0xdead_beef,
    };

    #[test]
    fn records_come_back_as_they_went() {
        let codec = codec(0, 1000);
        let marker = Marker { position: 5, end: Offset(1003), start: Offset(2), max_timestamp: -1 };
        for (ordinal, record) in
            [(0, Record::Header { created_ms: 77 }), (1, Record::Batch(ENTRY)), (9, Record::Marker(marker))]
        {
            assert_eq!(codec.decode(ordinal, &codec.encode(ordinal, &record)), Ok(record));
        }
    }

    #[test]
    fn no_flipped_bit_and_no_other_place_is_believed() {
        let good = codec(0, 1000).encode(3, &Record::Batch(ENTRY));
        for bit in 0..RECORD_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(codec(0, 1000).decode(3, &bad), Err(BadRecord::Corrupt), "bit {bit}");
        }
        assert_eq!(codec(0, 1000).decode(4, &good), Err(BadRecord::Corrupt), "another ordinal");
        assert_eq!(codec(1, 1000).decode(3, &good), Err(BadRecord::Corrupt), "another partition");
        assert_eq!(codec(0, 1001).decode(3, &good), Err(BadRecord::Corrupt), "another segment");
        assert_eq!(codec(0, 1000).decode(0, &[0; RECORD_BYTES]), Err(BadRecord::Corrupt), "zeros");
    }
}
