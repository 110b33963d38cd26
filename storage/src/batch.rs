//! The parts of a v2 record batch that the log reads, patches and trusts; the rest is opaque bytes.
//!
//! Owns: [`BatchHeader`] (the fixed 61 bytes, big-endian, as Kafka has them) and [`VerifiedBatch`], the proof
//! that the bytes are exactly one batch with a good CRC. Promises: parsing reads no byte outside the slice,
//! allocates nothing and never panics. Leaves out: records and compression (`dejaq_wire::record`).
//!
//! ```text
//!  0 base offset 8 | 8 length 4 | 12 leader epoch 4 | 16 magic 1 | 17 crc 4 | 21 attributes 2 | 23 last offset delta 4
//! 27 base timestamp 8 | 35 max timestamp 8 | 43 producer id 8 | 51 producer epoch 2 | 53 base sequence 4 | 57 count 4 | 61 records
//! ```
//! The CRC covers everything from byte 21 on; the log changes only bytes 0..8 and 12..16.

use bytes::Bytes;
use dejaq_wire::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

/// Bytes of a batch before its first record.
pub const HEADER_BYTES: usize = 61;
/// Bytes that the batch length field does not count: base offset and the field itself.
pub const LENGTH_OVERHEAD: usize = 12;
/// Bytes at the front that the batch CRC does not cover, plus the CRC itself: what our own sum binds.
pub const BOUND_BYTES: usize = 21;

const CONTROL: i16 = 1 << 5;
const TRANSACTIONAL: i16 = 1 << 4;

/// Why bytes are not one good batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the header or than its length field says, or more.
    #[error("the batch is {have} bytes long, its header says {want}")]
    Length {
        /// Bytes at hand.
        have: usize,
        /// Bytes that the header asks for.
        want: usize,
    },
    /// Not a v2 batch.
    #[error("magic {0} instead of 2")]
    Magic(i8),
    /// A count, delta or sequence that no producer may send.
    #[error("the header contradicts itself: {0}")]
    Header(&'static str),
    /// The content is not what its producer summed up.
    #[error("crc {found:08x} instead of {stored:08x}")]
    Crc {
        /// As the header says.
        stored: u32,
        /// As computed.
        found: u32,
    },
}

/// The fixed header of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes of the whole batch, header included.
    pub size: usize,
    /// Epoch of the leader that appended it.
    pub leader_epoch: LeaderEpoch,
    /// The producer's CRC-32C over bytes 21 and later.
    pub crc: u32,
    /// Compression, timestamp type, transactional and control bits.
    pub attributes: i16,
    /// Offset of the last record, relative to the base.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, unix milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp of its records, unix milliseconds.
    pub max_timestamp: i64,
    /// Who sent it, or none.
    pub producer_id: ProducerId,
    /// Which incarnation of the producer.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the first record, or none.
    pub base_sequence: Sequence,
    /// Number of records.
    pub record_count: i32,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`, which may end anywhere after it. Checks every field that later
    /// arithmetic relies on, but not the CRC.
    ///
    /// # Errors
    /// [`BatchError`] other than `Crc`.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Length { have: bytes.len(), want: HEADER_BYTES });
        }
        let magic = bytes[16] as i8;
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let length = i32::from_be_bytes(array(bytes, 8));
        if length < (HEADER_BYTES - LENGTH_OVERHEAD) as i32 {
            return Err(BatchError::Header("its length is shorter than a header"));
        }
        let header = BatchHeader {
            base_offset: Offset(i64::from_be_bytes(array(bytes, 0))),
            size: length as usize + LENGTH_OVERHEAD,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(array(bytes, 12))),
            crc: u32::from_be_bytes(array(bytes, 17)),
            attributes: i16::from_be_bytes(array(bytes, 21)),
            last_offset_delta: i32::from_be_bytes(array(bytes, 23)),
            base_timestamp: i64::from_be_bytes(array(bytes, 27)),
            max_timestamp: i64::from_be_bytes(array(bytes, 35)),
            producer_id: ProducerId(i64::from_be_bytes(array(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(array(bytes, 51))),
            base_sequence: Sequence(i32::from_be_bytes(array(bytes, 53))),
            record_count: i32::from_be_bytes(array(bytes, 57)),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), BatchError> {
        if self.last_offset_delta < 0 {
            return Err(BatchError::Header("its last offset lies before its first"));
        }
        if self.base_offset.0 < 0 || self.base_offset.0 > i64::MAX / 2 {
            return Err(BatchError::Header("its base offset is out of range"));
        }
        if self.record_count < 0 {
            return Err(BatchError::Header("it counts less than no record"));
        }
        if self.producer_id.is_valid() && !self.is_control() {
            if self.producer_epoch.0 < 0 {
                return Err(BatchError::Header("a producer without an epoch"));
            }
            if self.base_sequence.0 < 0 {
                return Err(BatchError::Header("a producer without a sequence"));
            }
        }
        Ok(())
    }

    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// The offset after this batch.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.last_offset().next()
    }

    /// Whether it is a marker that a coordinator or controller wrote.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Whether it belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Sequence of the last record.
    #[must_use]
    pub fn last_sequence(&self) -> Sequence {
        self.base_sequence.plus(self.last_offset_delta)
    }
}

/// The CRC-32C of everything that it covers in a batch of at least [`BOUND_BYTES`] bytes.
pub(crate) fn batch_crc(batch: &[u8]) -> u32 {
    dejaq_wire_crc(&batch[BOUND_BYTES..])
}

fn dejaq_wire_crc(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Exactly one v2 batch whose CRC was computed and found good in this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VerifiedBatch {
    bytes: Bytes,
    header: BatchHeader,
}

impl VerifiedBatch {
    /// Checks that `bytes` are one batch and that its CRC is right.
    ///
    /// # Errors
    /// [`BatchError`]; nothing of the batch may be believed then.
    pub fn verify(bytes: Bytes) -> Result<VerifiedBatch, BatchError> {
        let header = BatchHeader::parse(&bytes)?;
        if bytes.len() != header.size {
            return Err(BatchError::Length { have: bytes.len(), want: header.size });
        }
        let found = batch_crc(&bytes);
        if found != header.crc {
            return Err(BatchError::Crc { stored: header.crc, found });
        }
        Ok(VerifiedBatch { bytes, header })
    }

    /// The fixed fields.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch as it came.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}
