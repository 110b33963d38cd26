//! Appends.
use crate::batch::VerifiedBatch;
use crate::disk::Disk;
use crate::log::Log;
use dejaq_wire::ids::{LeaderEpoch, Offset, ProducerEpoch, Sequence};
use std::io;

/// Where a batch is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base: Offset,
    /// Offset of its last record.
    pub last: Offset,
    /// It was there already: these are the original offsets; still wait for the watermark to pass `last`.
    pub duplicate: bool,
}

/// Why an append was refused; each variant names the caller's next move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A sync or a write failed: the log takes no writes until the process restarts.
    #[error("the log is sealed after a failed write or sync")]
    Sealed,
    /// Answer NOT_LEADER_OR_FOLLOWER; a newer leader has appended.
    #[error("epoch is fenced, the log is at {latest}")]
    FencedEpoch {
        /// The log's latest epoch.
        latest: LeaderEpoch,
    },
    /// Answer INVALID_PRODUCER_EPOCH; a newer incarnation of the producer is known.
    #[error("the producer is fenced, its epoch is {current}")]
    StaleProducer {
        /// The epoch that fences it.
        current: ProducerEpoch,
    },
    /// Answer OUT_OF_ORDER_SEQUENCE_NUMBER.
    #[error("sequence {found} instead of {expected}")]
    OutOfOrderSequence {
        /// What must follow.
        expected: Sequence,
        /// What came.
        found: Sequence,
    },
    /// Answer a retriable error: every remembered producer has an open transaction.
    #[error("too many producers")]
    TooManyProducers,
    /// Answer KAFKA_STORAGE_ERROR; the log is exactly as before and takes writes again when there is room.
    #[error("the disk is full")]
    DiskFull,
    /// Answer KAFKA_STORAGE_ERROR; the log has sealed itself.
    #[error("the write failed: {0:?}")]
    Io(io::ErrorKind),
    /// Follower only: the batch does not follow the log's end.
    #[error("batch at {found} where {expected} must follow")]
    NotNext {
        /// The log's end.
        expected: Offset,
        /// The batch's base.
        found: Offset,
    },
    /// A truncation is under way.
    #[error("the log is being truncated")]
    Busy,
    /// The batch is larger than any segment may be.
    #[error("the batch is larger than a segment can be")]
    TooLarge,
}

#[expect(unused_variables, clippy::unimplemented, reason = "signatures first")]
impl<D: Disk> Log<D> {
    /// New leader start.
    ///
    /// # Errors
    /// Fenced, sealed.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) -> Result<(), AppendError> {
        unimplemented!()
    }
    /// Appends as leader.
    pub fn append_leader(
        &mut self,
        batches: &[VerifiedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Vec<Result<Appended, AppendError>> {
        unimplemented!()
    }
    /// Appends as follower.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append_follower(
        &mut self,
        batches: &[VerifiedBatch],
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        unimplemented!()
    }
}
