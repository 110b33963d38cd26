//! The header of a record batch, and what can be wrong with it.
//!
//! Promises: a header that was parsed has a length of at least 61 bytes, counts that are possible,
//! and offsets that do not overflow; `parse` and `encode` are each other's inverse.
//! Leaves out: what clients may send (`produced`), the payload (`record`).

use crc_fast::{CrcAlgorithm, Digest};

use super::compression::Compression;
use crate::ErrorCode;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

/// Why bytes are not a batch that we take. [`BatchError::code`] is what a produce request answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end inside of the batch; in a log, this is a torn tail.
    #[error("the batch needs {needed} bytes, {left} are there")]
    TooShort {
        /// Bytes of the batch, or of its header where its length is not known yet.
        needed: usize,
        /// Bytes that are there.
        left: usize,
    },
    /// The length field is impossible.
    #[error("the batch states a length of {0}")]
    BadLength(i32),
    /// A message set of the formats before Kafka 0.11.
    #[error("the message format {0} is not supported; 2 is")]
    OldMagic(i8),
    /// No magic that Kafka ever had.
    #[error("the magic {0} is not known")]
    UnknownMagic(i8),
    /// The bytes are not what the producer wrote.
    #[error("the checksum is {computed:#010x}, the batch states {stated:#010x}")]
    BadCrc {
        /// In the header.
        stated: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The number of records contradicts the offsets.
    #[error("{records} records do not fit a last offset delta of {last_offset_delta}")]
    BadCounts {
        /// Number of records that the header states.
        records: i32,
        /// Offset of the last record less the base offset.
        last_offset_delta: i32,
    },
    /// The offsets overflow.
    #[error("the base offset {0} is impossible")]
    BadOffset(Offset),
    /// The attributes name no codec.
    #[error("the compression codec {0} is not known")]
    UnknownCodec(u8),
    /// The codec is newer than the version of the request.
    #[error("{0:?} is not allowed in this version of the request")]
    CodecNotAllowed(Compression),
    /// Only brokers write control batches.
    #[error("a client may not send a control batch")]
    ControlFromClient,
    /// Producer id, epoch, sequence and the transactional flag contradict each other.
    #[error("producer {0:?} sends epoch {1:?} and sequence {2:?}")]
    BadProducer(ProducerId, ProducerEpoch, Sequence),
    /// Only brokers set the append time.
    #[error("a client may not set the timestamp type LogAppendTime")]
    AppendTimeFromClient,
    /// A produce request has exactly one batch for a partition.
    #[error("a produce request has exactly one batch per partition")]
    NotOneBatch,
}

impl BatchError {
    /// What a produce request answers for this.
    pub const fn code(self) -> ErrorCode {
        match self {
            BatchError::TooShort { .. }
            | BatchError::BadLength(_)
            | BatchError::UnknownMagic(_)
            | BatchError::BadCrc { .. } => ErrorCode::CORRUPT_MESSAGE,
            BatchError::OldMagic(_) => ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
            BatchError::UnknownCodec(_) | BatchError::CodecNotAllowed(_) => {
                ErrorCode::UNSUPPORTED_COMPRESSION_TYPE
            }
            BatchError::AppendTimeFromClient => ErrorCode::INVALID_TIMESTAMP,
            BatchError::BadCounts { .. }
            | BatchError::BadOffset(_)
            | BatchError::ControlFromClient
            | BatchError::BadProducer(..)
            | BatchError::NotOneBatch => ErrorCode::INVALID_RECORD,
        }
    }
}

const CODEC: i16 = 0b111;
const APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// Bytes before the part that the length field counts: base offset and length itself.
const LENGTH_FROM: usize = 12;
/// First byte that the CRC covers.
const CRC_FROM: usize = 21;

/// The first 61 bytes of a batch; the magic is always 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; set by the leader, outside of the CRC.
    pub base_offset: Offset,
    /// The length field: bytes of the batch after the first 12.
    pub length: i32,
    /// Epoch of the leader that appended the batch; set by it, outside of the CRC.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec, timestamp type, transactional, control, delete horizon.
    pub attributes: i16,
    /// Offset of the last record less the base offset; never negative.
    pub last_offset_delta: i32,
    /// Timestamp of the first record in ms, or the delete horizon of a compacted batch.
    pub base_timestamp_ms: i64,
    /// Largest timestamp of the records in ms, as the producer states it, or the append time.
    pub max_timestamp_ms: i64,
    /// Idempotent producer, or none.
    pub producer_id: ProducerId,
    /// Epoch of the producer.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the first record.
    pub base_sequence: Sequence,
    /// Number of records; `records <= last_offset_delta + 1`, less only after compaction.
    pub records: i32,
}

impl BatchHeader {
    /// Length of the header in bytes.
    pub const BYTES: usize = 61;

    /// Parses the header at the front of `bytes`, which may hold less or more than the batch.
    ///
    /// # Errors
    /// [`BatchError`]; the CRC is not checked here (see [`BatchHeader::check_crc`]).
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        // The magic stands at the same place in all formats, and old sets can be shorter.
        match bytes.get(16).map(|magic| magic.cast_signed()) {
            None | Some(2) => {}
            Some(old @ (0 | 1)) => return Err(BatchError::OldMagic(old)),
            Some(other) => return Err(BatchError::UnknownMagic(other)),
        }
        let Some(fixed) = bytes.first_chunk::<{ Self::BYTES }>() else {
            return Err(BatchError::TooShort { needed: Self::BYTES, left: bytes.len() });
        };
        let header = Self::fields(fixed);
        header.check_shape()?;
        Ok(header)
    }

    fn fields(bytes: &[u8; Self::BYTES]) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(i64::from_be_bytes(at(bytes, 0))),
            length: i32::from_be_bytes(at(bytes, 8)),
            leader_epoch: LeaderEpoch(i32::from_be_bytes(at(bytes, 12))),
            crc: u32::from_be_bytes(at(bytes, 17)),
            attributes: i16::from_be_bytes(at(bytes, 21)),
            last_offset_delta: i32::from_be_bytes(at(bytes, 23)),
            base_timestamp_ms: i64::from_be_bytes(at(bytes, 27)),
            max_timestamp_ms: i64::from_be_bytes(at(bytes, 35)),
            producer_id: ProducerId(i64::from_be_bytes(at(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(at(bytes, 51))),
            base_sequence: Sequence(i32::from_be_bytes(at(bytes, 53))),
            records: i32::from_be_bytes(at(bytes, 57)),
        }
    }

    fn check_shape(&self) -> Result<(), BatchError> {
        let BatchHeader { records, last_offset_delta, .. } = *self;
        if self.length < (Self::BYTES - LENGTH_FROM) as i32 {
            return Err(BatchError::BadLength(self.length));
        }
        let span = i64::from(last_offset_delta) + 1;
        if last_offset_delta < 0 || records < 0 || i64::from(records) > span {
            return Err(BatchError::BadCounts { records, last_offset_delta });
        }
        if self.base_offset.0.checked_add(span).is_none() {
            return Err(BatchError::BadOffset(self.base_offset));
        }
        Ok(())
    }

    /// The 61 bytes of the header.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..8].copy_from_slice(&self.base_offset.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.leader_epoch.0.to_be_bytes());
        bytes[16] = 2;
        bytes[17..21].copy_from_slice(&self.crc.to_be_bytes());
        bytes[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        bytes[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        bytes[27..35].copy_from_slice(&self.base_timestamp_ms.to_be_bytes());
        bytes[35..43].copy_from_slice(&self.max_timestamp_ms.to_be_bytes());
        bytes[43..51].copy_from_slice(&self.producer_id.0.to_be_bytes());
        bytes[51..53].copy_from_slice(&self.producer_epoch.0.to_be_bytes());
        bytes[53..57].copy_from_slice(&self.base_sequence.0.to_be_bytes());
        bytes[57..61].copy_from_slice(&self.records.to_be_bytes());
        bytes
    }

    /// Length of the whole batch in bytes, at least 61.
    pub fn batch_bytes(&self) -> usize {
        let bytes = usize::try_from(self.length).expect("a parsed length is positive") + LENGTH_FROM;
        assert!(bytes >= Self::BYTES, "a batch of {bytes} bytes");
        bytes
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// The offset after the last record.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().next()
    }

    /// Sequence of the last record; `None` if the batch has no sequences.
    pub fn last_sequence(&self) -> Option<Sequence> {
        self.base_sequence.is_valid().then(|| self.base_sequence.plus(self.last_offset_delta))
    }

    /// The codec of the payload.
    ///
    /// # Errors
    /// [`BatchError::UnknownCodec`].
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let id = (self.attributes & CODEC) as u8;
        Compression::from_id(id).ok_or(BatchError::UnknownCodec(id))
    }

    /// Whether the timestamps of the records are the time of the append.
    pub fn is_append_time(&self) -> bool {
        self.attributes & APPEND_TIME != 0
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether the batch holds a control record.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Whether the base timestamp is the delete horizon of a compacted batch (KIP-534).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON != 0
    }

    /// When its delete markers may go, in ms (KIP-534), if the cleaner has said so.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        self.has_delete_horizon().then_some(self.base_timestamp_ms)
    }

    pub(super) fn set_delete_horizon(&mut self, horizon_ms: i64) {
        self.attributes |= DELETE_HORIZON;
        self.base_timestamp_ms = horizon_ms;
    }

    pub(super) fn clear_records(&mut self, base_timestamp_ms: i64) {
        self.attributes &= !(DELETE_HORIZON | CODEC);
        self.base_timestamp_ms = base_timestamp_ms;
        self.records = 0;
    }

    pub(super) fn set_payload_bytes(&mut self, bytes: usize) {
        let length = bytes + Self::BYTES - LENGTH_FROM;
        self.length = i32::try_from(length).expect("fewer records take less than 2^31 bytes");
    }

    /// Whether an idempotent producer wrote the batch.
    pub fn has_producer(&self) -> bool {
        self.producer_id.is_valid()
    }

    pub(super) fn flags(compression: Compression, transactional: bool, control: bool) -> i16 {
        let flag = |set: bool, bit: i16| if set { bit } else { 0 };
        i16::from(compression.id()) | flag(transactional, TRANSACTIONAL) | flag(control, CONTROL)
    }

    pub(super) fn set_append_time(&mut self, now_ms: i64) {
        self.attributes |= APPEND_TIME;
        self.max_timestamp_ms = now_ms;
    }

    /// CRC-32C of this header from the attributes on, followed by `payload`.
    pub fn compute_crc(&self, payload: &[u8]) -> u32 {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&self.encode()[CRC_FROM..]);
        digest.update(payload);
        u32::try_from(digest.finalize()).expect("CRC-32C has 32 bits")
    }

    /// Checks the CRC over the payload that follows the header.
    ///
    /// # Errors
    /// [`BatchError::BadCrc`]: the bytes are not what the producer wrote.
    pub fn check_crc(&self, payload: &[u8]) -> Result<(), BatchError> {
        let computed = self.compute_crc(payload);
        if computed == self.crc { Ok(()) } else { Err(BatchError::BadCrc { stated: self.crc, computed }) }
    }
}

fn at<const N: usize>(bytes: &[u8; BatchHeader::BYTES], start: usize) -> [u8; N] {
    *bytes[start..].first_chunk().expect("every field lies within the 61 bytes")
}

const _: () = assert!(BatchHeader::BYTES == 61 && CRC_FROM < BatchHeader::BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            base_offset: Offset(0x0102_0304_0506_0708),
            length: 49,
            leader_epoch: LeaderEpoch(0x090a_0b0c),
            crc: 0xdead_beef,
            attributes: 0b0111_1100,
            last_offset_delta: 2,
            base_timestamp_ms: 0x1112_1314_1516_1718,
            max_timestamp_ms: 0x191a_1b1c_1d1e_1f20,
            producer_id: ProducerId(0x2122_2324_2526_2728),
            producer_epoch: ProducerEpoch(0x292a),
            base_sequence: Sequence(i32::MAX),
            records: 3,
        }
    }

    #[test]
    fn the_layout_is_kafkas() {
        let bytes = header().encode();
        let golden = concat!(
            "0102030405060708",
            "00000031",
            "090a0b0c",
            "02",
            "deadbeef",
            "007c",
            "00000002",
            "1112131415161718",
            "191a1b1c1d1e1f20",
            "2122232425262728",
            "292a",
            "7fffffff",
            "00000003"
        );
        assert_eq!(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>(), golden);
        assert_eq!(BatchHeader::parse(&bytes), Ok(header()));
    }

    #[test]
    fn flags_and_ends_are_read_off_the_header() {
        let header = header();
        assert_eq!(header.compression(), Ok(Compression::Zstd));
        assert!(header.is_append_time());
        assert!(header.is_transactional());
        assert!(header.is_control());
        assert!(header.has_delete_horizon());
        assert_eq!(header.batch_bytes(), 61);
        assert_eq!(header.last_offset(), header.base_offset.plus(2));
        assert_eq!(header.last_sequence(), Some(Sequence(1)), "sequences start over");
    }

    #[test]
    fn impossible_headers_are_refused_with_the_reason() {
        let refused = |change: fn(&mut BatchHeader)| {
            let mut header = header();
            change(&mut header);
            BatchHeader::parse(&header.encode()).expect_err("it is impossible")
        };
        assert_eq!(refused(|h| h.length = 48), BatchError::BadLength(48));
        assert_eq!(refused(|h| h.length = i32::MIN), BatchError::BadLength(i32::MIN));
        assert_eq!(refused(|h| h.records = 4), BatchError::BadCounts { records: 4, last_offset_delta: 2 });
        assert_eq!(refused(|h| h.records = -1), BatchError::BadCounts { records: -1, last_offset_delta: 2 });
        assert_eq!(
            refused(|h| (h.records, h.last_offset_delta) = (0, -1)),
            BatchError::BadCounts { records: 0, last_offset_delta: -1 }
        );
        assert_eq!(refused(|h| h.base_offset = Offset(i64::MAX)), BatchError::BadOffset(Offset(i64::MAX)));
    }

    #[test]
    fn old_formats_are_told_from_damage() {
        let mut bytes = header().encode();
        for (magic, error) in [
            (0, BatchError::OldMagic(0)),
            (1, BatchError::OldMagic(1)),
            (3, BatchError::UnknownMagic(3)),
            (0xff, BatchError::UnknownMagic(-1)),
        ] {
            bytes[16] = magic;
            assert_eq!(BatchHeader::parse(&bytes), Err(error));
            assert_eq!(BatchHeader::parse(&bytes[..30]), Err(error), "old messages can be this short");
        }
        bytes[16] = 2;
        assert_eq!(BatchHeader::parse(&bytes[..60]), Err(BatchError::TooShort { needed: 61, left: 60 }));
        assert_eq!(BatchHeader::parse(&[]), Err(BatchError::TooShort { needed: 61, left: 0 }));
    }
}
