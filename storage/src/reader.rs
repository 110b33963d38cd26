//! Reads.
use crate::disk::Disk;
use crate::epochs::EpochEnd;
use crate::log::OffsetRange;
use bytes::Bytes;
use dejaq_wire::ids::{LeaderEpoch, Offset};
use std::io;
use std::marker::PhantomData;

/// A handle for readers: cheap to clone, no writer lock.
#[derive(Clone)]
pub struct LogReader<D: Disk> {
    _disk: PhantomData<D>,
}

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadAsk {
    /// The batch that holds this offset comes first.
    pub offset: Offset,
    /// Bytes at most.
    pub max_bytes: usize,
    /// The first batch comes even if it is larger than `max_bytes`.
    pub at_least_one: bool,
    /// Only batches all of whose offsets are below.
    pub end_bound: Offset,
}

/// Whole batches, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The batches.
    pub batches: Bytes,
    /// Where to read on; the offset asked for when there is nothing.
    pub next: Offset,
}

/// A record found by its timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampOffset {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp, unix milliseconds.
    pub timestamp_ms: i64,
    /// Epoch of the leader that appended it.
    pub epoch: LeaderEpoch,
}

/// Why a read gives nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Answer OFFSET_OUT_OF_RANGE.
    #[error("offset is outside {start}..={end}")]
    OutOfRange {
        /// First.
        start: Offset,
        /// Next.
        end: Offset,
    },
    /// These offsets are damaged on this disk: never served. Reads from `to` go on.
    #[error("offsets {from}..{to} are damaged")]
    Damaged {
        /// First.
        from: Offset,
        /// After the last.
        to: Offset,
    },
    /// The disk.
    #[error("the read failed: {0:?}")]
    Io(io::ErrorKind),
}

#[expect(unused_variables, clippy::unimplemented, reason = "signatures first")]
impl<D: Disk> LogReader<D> {
    /// First offset.
    pub fn start(&self) -> Offset {
        unimplemented!()
    }
    /// Next offset.
    pub fn end(&self) -> Offset {
        unimplemented!()
    }
    /// Durable end.
    pub fn flushed(&self) -> Offset {
        unimplemented!()
    }
    /// Bytes.
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }
    /// Reads what is in memory; `None` = cold.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn try_read(&self, ask: ReadAsk) -> Result<Option<Read>, ReadError> {
        unimplemented!()
    }
    /// Reads.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, ask: ReadAsk) -> Result<Read, ReadError> {
        unimplemented!()
    }
    /// First record at or after a time.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn offset_for_timestamp(
        &self,
        timestamp_ms: i64,
        end_bound: Offset,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        unimplemented!()
    }
    /// Record with the largest timestamp.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn max_timestamp(&self, end_bound: Offset) -> Result<Option<TimestampOffset>, ReadError> {
        unimplemented!()
    }
    /// Where an epoch ends.
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> EpochEnd {
        unimplemented!()
    }
    /// Latest epoch.
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        unimplemented!()
    }
    /// Epoch of an offset.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        unimplemented!()
    }
    /// Known damage.
    pub fn damaged(&self) -> Vec<OffsetRange> {
        unimplemented!()
    }
}
