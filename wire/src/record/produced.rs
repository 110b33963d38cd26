//! What a client may send in a produce request.
//!
//! Owns: Kafka's rules for a batch from outside (LogValidator, ProduceRequest.validateRecords), by
//! the header alone or by every record. Promises: a batch that passes [`check_produced`] is whole,
//! has its CRC, and counts as it says.
//! Leaves out: rules that depend on the topic (size, timestamp bounds, keys of compacted topics) and
//! on the producer's state (sequences).
//!
//! Decided: a producer id of -1 may come with any epoch and sequence, because kafkajs sends 0 and 0
//! and Kafka looks at them only when there is an id. Instead of refusing them as INVALID_RECORD.

use bytes::Bytes;

use super::batch::Batch;
use super::compression::Compression;
use super::header::{BatchError, BatchHeader};
use super::record::RecordError;
use crate::ids::Offset;

/// Kafka's "this record has no timestamp".
pub const NO_TIMESTAMP: i64 = -1;
/// First version of Produce that may carry zstd (KIP-110).
const FIRST_ZSTD_VERSION: i16 = 7;

/// Checks the one batch that a produce request of `version` carries for a partition.
///
/// # Errors
/// [`BatchError`]; answer its code.
pub fn check_produced(records: &Bytes, version: i16) -> Result<Batch, BatchError> {
    if records.is_empty() {
        return Err(BatchError::NotOneBatch);
    }
    let batch = Batch::parse(records)?;
    if batch.bytes() != records.len() {
        return Err(BatchError::NotOneBatch);
    }
    batch.check_crc()?;
    check_client_rules(&batch.header, version)?;
    Ok(batch)
}

/// The rules of [`check_produced`] that the header alone decides, for a caller that has verified the
/// CRC of the one batch already.
///
/// # Errors
/// [`BatchError`]; answer its code.
pub fn check_client_rules(header: &BatchHeader, version: i16) -> Result<(), BatchError> {
    let BatchHeader { records, last_offset_delta, .. } = *header;
    if records == 0 || records - 1 != last_offset_delta {
        return Err(BatchError::BadCounts { records, last_offset_delta });
    }
    let compression = header.compression()?;
    if compression == Compression::Zstd && version < FIRST_ZSTD_VERSION {
        return Err(BatchError::CodecNotAllowed(compression));
    }
    if header.is_control() {
        return Err(BatchError::ControlFromClient);
    }
    if header.is_append_time() {
        return Err(BatchError::AppendTimeFromClient);
    }
    let stamped = header.producer_epoch.is_valid() && header.base_sequence.is_valid();
    if (header.has_producer() && !stamped) || (header.is_transactional() && !header.has_producer()) {
        let (epoch, sequence) = (header.producer_epoch, header.base_sequence);
        return Err(BatchError::BadProducer(header.producer_id, epoch, sequence));
    }
    Ok(())
}

/// What a walk over all records of a batch tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSummary {
    /// Largest timestamp in ms.
    pub max_timestamp_ms: i64,
    /// Offset of the first record that has it.
    pub max_timestamp_offset: Offset,
    /// Smallest timestamp in ms of the records that have one.
    pub oldest_timestamp_ms: Option<i64>,
    /// Index of the first record without a key, which a compacted topic refuses.
    pub first_without_key: Option<i32>,
    /// Size of all records, decompressed.
    pub payload_bytes: usize,
}

/// Looks at every record of a batch that passed [`check_produced`], decompressing at most
/// `limit_bytes`.
///
/// # Errors
/// [`RecordError`]: the payload is not what the header says; answer INVALID_RECORD.
pub fn check_records(batch: &Batch, limit_bytes: usize) -> Result<RecordSummary, RecordError> {
    let mut summary = None;
    let mut first_without_key = None;
    let mut oldest_timestamp_ms: Option<i64> = None;
    let mut records = batch.records(limit_bytes)?;
    let payload_bytes = records.payload_bytes();
    // Looked at only: taking hold of key, value and headers costs more than reading their lengths.
    for (index, record) in (0i32..).zip(std::iter::from_fn(|| records.skim())) {
        let record = record?;
        if record.offset_delta != index {
            return Err(RecordError::OffsetDelta { index, delta: record.offset_delta });
        }
        if !record.has_key {
            first_without_key.get_or_insert(index);
        }
        if record.timestamp_ms != NO_TIMESTAMP {
            let oldest = oldest_timestamp_ms.get_or_insert(record.timestamp_ms);
            *oldest = record.timestamp_ms.min(*oldest);
        }
        let (_, max) = *summary.get_or_insert((record.offset, record.timestamp_ms));
        if record.timestamp_ms > max {
            summary = Some((record.offset, record.timestamp_ms));
        }
    }
    let (max_timestamp_offset, max_timestamp_ms) = summary.ok_or(RecordError::Empty)?;
    Ok(RecordSummary {
        max_timestamp_ms,
        max_timestamp_offset,
        oldest_timestamp_ms,
        first_without_key,
        payload_bytes,
    })
}
