//! Finds records inside of a batch by their timestamps, for ListOffsets.

use super::batch::Batch;
use super::record::RecordError;
use crate::ids::Offset;

/// A record's offset and timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampedOffset {
    /// Offset of the record.
    pub offset: Offset,
    /// Its timestamp in ms.
    pub timestamp_ms: i64,
}

/// The first record at or after `start` whose timestamp is at least `timestamp_ms`.
///
/// Decompresses at most `limit_bytes`, and nothing at all if the header rules every record out.
///
/// # Errors
/// [`RecordError`]: the batch cannot be read.
pub fn find_timestamp(
    batch: &Batch,
    start: Offset,
    timestamp_ms: i64,
    limit_bytes: usize,
) -> Result<Option<TimestampedOffset>, RecordError> {
    let header = &batch.header;
    if header.is_append_time() {
        // All records have the same timestamp.
        let is_new = header.max_timestamp_ms >= timestamp_ms;
        let found = is_new && header.records > 0 && start <= header.last_offset();
        let offset = start.max(header.base_offset);
        return Ok(found.then_some(TimestampedOffset { offset, timestamp_ms: header.max_timestamp_ms }));
    }
    for record in batch.records(limit_bytes)? {
        let record = record?;
        if record.offset >= start && record.timestamp_ms >= timestamp_ms {
            let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
            return Ok(Some(TimestampedOffset { offset, timestamp_ms }));
        }
    }
    Ok(None)
}

/// The first of the records that have the largest timestamp of the batch; `None` if it is empty.
///
/// # Errors
/// [`RecordError`]: the batch cannot be read.
pub fn find_max_timestamp(
    batch: &Batch,
    limit_bytes: usize,
) -> Result<Option<TimestampedOffset>, RecordError> {
    let mut found: Option<TimestampedOffset> = None;
    for record in batch.records(limit_bytes)? {
        let record = record?;
        if found.is_none_or(|best| record.timestamp_ms > best.timestamp_ms) {
            found = Some(TimestampedOffset { offset: record.offset, timestamp_ms: record.timestamp_ms });
        }
    }
    Ok(found)
}
