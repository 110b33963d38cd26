//! A batch: its header, and the payload as it came.
//!
//! Promises: placing or stamping a batch changes the header only; the payload is never copied.

use bytes::{Bytes, BytesMut};

use super::header::{BatchError, BatchHeader};
use super::record::{RecordError, RecordIter};
use crate::ids::{LeaderEpoch, Offset};

/// A header and the bytes after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The first 61 bytes, parsed.
    pub header: BatchHeader,
    /// The records, compressed if the header says so.
    pub payload: Bytes,
}

impl Batch {
    /// Parses the batch at the front of `bytes`; more may follow it.
    ///
    /// # Errors
    /// [`BatchError`]; the CRC is not checked (see [`Batch::check_crc`]).
    pub fn parse(bytes: &Bytes) -> Result<Batch, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        let needed = header.batch_bytes();
        if bytes.len() < needed {
            return Err(BatchError::TooShort { needed, left: bytes.len() });
        }
        Ok(Batch { header, payload: bytes.slice(BatchHeader::BYTES..needed) })
    }

    /// Length of the whole batch in bytes.
    pub fn bytes(&self) -> usize {
        assert_eq!(self.header.batch_bytes(), BatchHeader::BYTES + self.payload.len(), "header and payload");
        self.header.batch_bytes()
    }

    /// Checks the CRC.
    ///
    /// # Errors
    /// [`BatchError::BadCrc`].
    pub fn check_crc(&self) -> Result<(), BatchError> {
        self.header.check_crc(&self.payload)
    }

    /// Gives the batch its place in a log; the CRC does not cover either.
    pub fn place(&mut self, base_offset: Offset, leader_epoch: LeaderEpoch) {
        assert!(base_offset.is_valid(), "{base_offset:?} is no place");
        self.header.base_offset = base_offset;
        self.header.leader_epoch = leader_epoch;
    }

    /// Makes every record's timestamp the time of the append, in ms; computes the CRC anew.
    pub fn stamp_append_time(&mut self, now_ms: i64) {
        self.header.set_append_time(now_ms);
        self.header.crc = self.header.compute_crc(&self.payload);
    }

    /// Corrects the largest timestamp, in ms, which the producer told wrong; computes the CRC anew.
    pub fn set_max_timestamp(&mut self, max_timestamp_ms: i64) {
        self.header.max_timestamp_ms = max_timestamp_ms;
        self.header.crc = self.header.compute_crc(&self.payload);
    }

    /// The batch as chunks: a header of its own and the payload as it came.
    pub fn chunks(&self) -> [Bytes; 2] {
        [Bytes::copy_from_slice(&self.header.encode()), self.payload.clone()]
    }

    /// The batch as one run of bytes; copies.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.bytes());
        bytes.extend_from_slice(&self.header.encode());
        bytes.extend_from_slice(&self.payload);
        bytes.freeze()
    }

    /// Looks at the records, decompressing into at most `limit_bytes`.
    ///
    /// # Errors
    /// [`RecordError`]: the codec is not known, or the payload is damaged or too large.
    pub fn records(&self, limit_bytes: usize) -> Result<RecordIter, RecordError> {
        RecordIter::new(self, limit_bytes)
    }
}

/// Walks over a run of batches; ends after the first error.
///
/// An answer to a fetch may end inside of a batch, which shows as [`BatchError::TooShort`].
#[derive(Debug, Clone)]
pub struct Batches {
    rest: Bytes,
}

impl Batches {
    /// Starts at the front of `run`.
    pub fn new(run: Bytes) -> Batches {
        Batches { rest: run }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = Batch::parse(&self.rest);
        self.rest = match &batch {
            Ok(batch) => self.rest.slice(batch.bytes()..),
            Err(_) => Bytes::new(),
        };
        Some(batch)
    }
}
