//! One record, and the walk over the records of a batch.
//!
//! Promises: keys, values and headers are slices of the (decompressed) payload; a record is checked
//! as a whole before it is handed out; the walk ends after the first error.
//!
//! ```text
//! length │ attributes 1 │ timestamp delta │ offset delta │ key length │ key │ value length │ value
//!        │ number of headers │ { key length │ key │ value length │ value }        all but 1: varints
//! ```

use bytes::Bytes;

use super::batch::Batch;
use super::compression::{CodecError, Compression};
use super::header::BatchError;
use super::varint;
use crate::ids::Offset;

/// Why the payload of a batch cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The attributes name no codec.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The payload does not decompress, or to more than the limit.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A record ends early, or a length in it is impossible.
    #[error("record {index} is damaged")]
    Damaged {
        /// Which record of the batch, from 0.
        index: i32,
    },
    /// Bytes are left after the last record that the header counts.
    #[error("{0} bytes are left after the last record")]
    TrailingBytes(usize),
    /// The offset delta of a record is out of order or out of range.
    #[error("record {index} has offset delta {delta}")]
    OffsetDelta {
        /// Which record of the batch, from 0.
        index: i32,
        /// What the record states.
        delta: i32,
    },
    /// There is no record.
    #[error("the batch has no record")]
    Empty,
}

/// A record of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Offset in the partition.
    pub offset: Offset,
    /// Offset less the base offset of the batch.
    pub offset_delta: i32,
    /// Timestamp in ms: the producer's, or that of the append if the batch says so.
    pub timestamp_ms: i64,
    /// Key, or null.
    pub key: Option<Bytes>,
    /// Value, or null (a tombstone in a compacted topic).
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Headers,
}

/// The headers of a record: checked, but not yet cut into pieces.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Headers {
    count: i32,
    bytes: Bytes,
}

impl Headers {
    /// Number of headers.
    pub fn len(&self) -> usize {
        usize::try_from(self.count).expect("a checked count is not negative")
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All headers as they stand in the record, without their number.
    pub(super) fn encoded(&self) -> &[u8] {
        &self.bytes
    }

    /// Name and value of each header, in order. Names should be UTF-8 but nobody checks.
    pub fn iter(&self) -> impl Iterator<Item = (Bytes, Option<Bytes>)> {
        let mut rest = self.bytes.as_ref();
        (0..self.count).map(move |_| {
            let key = take(&self.bytes, &mut rest).flatten().expect("headers were checked");
            (key, take(&self.bytes, &mut rest).expect("headers were checked"))
        })
    }
}

/// Walks over the records of one batch.
#[derive(Debug, Clone)]
pub struct RecordIter {
    /// The whole payload, decompressed.
    payload: Bytes,
    /// Where the next record starts in `payload`.
    at: usize,
    index: i32,
    count: i32,
    base_offset: Offset,
    last_offset_delta: i32,
    previous_delta: i32,
    base_timestamp_ms: i64,
    append_time_ms: Option<i64>,
}

impl RecordIter {
    pub(super) fn new(batch: &Batch, limit_bytes: usize) -> Result<RecordIter, RecordError> {
        let header = &batch.header;
        let payload = match header.compression()? {
            Compression::None => batch.payload.clone(),
            codec => codec.decompress(&batch.payload, limit_bytes)?.into(),
        };
        Ok(RecordIter {
            payload,
            at: 0,
            index: 0,
            count: header.records,
            base_offset: header.base_offset,
            last_offset_delta: header.last_offset_delta,
            previous_delta: -1,
            base_timestamp_ms: header.base_timestamp_ms,
            append_time_ms: header.is_append_time().then_some(header.max_timestamp_ms),
        })
    }

    /// Size of all records of the batch, decompressed.
    pub fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    fn step(&mut self) -> Result<Record, RecordError> {
        let index = self.index;
        let parts = self.parse().ok_or(RecordError::Damaged { index })?;
        let slice = |run: &[u8]| self.payload.slice_ref(run);
        let record = Record {
            offset: parts.offset,
            offset_delta: parts.offset_delta,
            timestamp_ms: parts.timestamp_ms,
            key: parts.key.map(slice),
            value: parts.value.map(slice),
            headers: Headers { count: parts.header_count, bytes: slice(parts.headers) },
        };
        let (delta, end) = (parts.offset_delta, parts.end);
        self.pass(delta, end)?;
        Ok(record)
    }

    /// The next record as [`Iterator::next`] would give it, without taking hold of its bytes.
    pub(super) fn skim(&mut self) -> Option<Result<Skimmed, RecordError>> {
        if self.index >= self.count {
            return None;
        }
        let skimmed = self.skim_step();
        if skimmed.is_err() {
            self.index = self.count;
        }
        Some(skimmed)
    }

    fn skim_step(&mut self) -> Result<Skimmed, RecordError> {
        let index = self.index;
        let Parts { offset, offset_delta, timestamp_ms, key, end, .. } =
            self.parse().ok_or(RecordError::Damaged { index })?;
        let has_key = key.is_some();
        self.pass(offset_delta, end)?;
        Ok(Skimmed { offset, offset_delta, timestamp_ms, has_key })
    }

    /// Goes behind a record that ends at `end`.
    fn pass(&mut self, delta: i32, end: usize) -> Result<(), RecordError> {
        if delta <= self.previous_delta || delta > self.last_offset_delta {
            return Err(RecordError::OffsetDelta { index: self.index, delta });
        }
        assert!(self.at < end && end <= self.payload.len(), "{} < {end} <= {}", self.at, self.payload.len());
        self.previous_delta = delta;
        self.at = end;
        self.index += 1;
        let left = self.payload.len() - end;
        if self.index == self.count && left > 0 {
            return Err(RecordError::TrailingBytes(left));
        }
        Ok(())
    }

    /// The record at `self.at`; `None` if it is damaged.
    fn parse(&self) -> Option<Parts<'_>> {
        let mut rest = &self.payload[self.at..];
        let length = usize::try_from(varint::read_i32(&mut rest)?).ok()?;
        let end = self.payload.len() - rest.len() + length;
        rest = rest.get(..length)?;
        let (_attributes, after) = rest.split_first()?;
        rest = after;
        let timestamp_delta = varint::read_i64(&mut rest)?;
        let offset_delta = varint::read_i32(&mut rest)?;
        let key = take_run(&mut rest)?;
        let value = take_run(&mut rest)?;
        let header_count = varint::read_i32(&mut rest).filter(|count| *count >= 0)?;
        let headers = rest;
        for _ in 0..header_count {
            take_run(&mut rest)??; // a header has a name
            take_run(&mut rest)?;
        }
        if !rest.is_empty() {
            return None;
        }
        let offset = Offset(self.base_offset.0.checked_add(i64::from(offset_delta))?);
        let timestamp_ms = match self.append_time_ms {
            Some(append_time_ms) => append_time_ms,
            None => self.base_timestamp_ms.checked_add(timestamp_delta)?,
        };
        Some(Parts { offset, offset_delta, timestamp_ms, key, value, header_count, headers, end })
    }
}

/// A record that was looked at, not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Skimmed {
    pub(super) offset: Offset,
    pub(super) offset_delta: i32,
    pub(super) timestamp_ms: i64,
    pub(super) has_key: bool,
}

/// A record in its payload.
struct Parts<'p> {
    offset: Offset,
    offset_delta: i32,
    timestamp_ms: i64,
    key: Option<&'p [u8]>,
    value: Option<&'p [u8]>,
    header_count: i32,
    headers: &'p [u8],
    /// Where it ends in the payload.
    end: usize,
}

impl Iterator for RecordIter {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.count {
            return None;
        }
        let record = self.step();
        if record.is_err() {
            self.index = self.count;
        }
        Some(record)
    }
}

/// A run of bytes with its length before it, off the front of `rest`; -1 means null.
/// The outer `None`: the length is impossible.
fn take_run<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match varint::read_i32(rest)? {
        -1 => Some(None),
        length => {
            let (run, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            *rest = after;
            Some(Some(run))
        }
    }
}

fn take(payload: &Bytes, rest: &mut &[u8]) -> Option<Option<Bytes>> {
    Some(take_run(rest)?.map(|run| payload.slice_ref(run)))
}
