//! One batch on its way into a partition, and what became of it.
//!
//! Owns: [`Write`], [`Written`], [`WriteError`]. Promises: nothing; these are values. Every write gets exactly one
//! outcome, or its sender is dropped with the process.
//! Made by `api::produce`; answered by `partition`.

use dejaq_storage::{AppendError, VerifiedBatch};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{LeaderEpoch, Offset};
use tokio::sync::oneshot;

use super::leader::{Refused, Required, Resigned};

/// One batch to append.
#[derive(Debug)]
pub struct Write {
    /// The batch, checked.
    pub batch: VerifiedBatch,
    /// When its producer takes it for written.
    pub required: Required,
    /// The one leader epoch in which it may be appended; [`LeaderEpoch::NONE`] for any. A coordinator writes by what
    /// it knows of its epoch, and must not write into another.
    pub only_in: LeaderEpoch,
    /// Where the outcome goes; a dropped receiver means that nobody waits.
    pub outcome: oneshot::Sender<Outcome>,
}

/// What became of a write.
pub type Outcome = Result<Written, WriteError>;

/// The batch is in the log, as safe as was required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Offset of its first record: the original one, if the batch is a retry; [`Offset::NONE`] if it is the retry of a batch
    /// whose place is not remembered any more.
    pub base: Offset,
    /// First offset of the log at that moment.
    pub log_start: Offset,
    /// Whether it was in the log before.
    pub is_duplicate: bool,
}

/// Why a write is not acknowledged; each variant names what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A definite no: nothing was appended.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A definite no, but for `Io` and `Sealed`, whose outcome is unknown.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A definite no: the coordinator does not say that the batch belongs to an open transaction.
    #[error("the transaction of the batch is not vouched for: {0:?}")]
    NotVouched(ErrorCode),
    /// Appended, and fewer replicas are in sync now than `min.insync.replicas`: it may become safe, or not.
    #[error("the batch is appended, and fewer replicas are in sync now than min.insync.replicas")]
    TooFew,
    /// Appended, but the leader stopped before it was safe: the outcome is unknown.
    #[error("the leader stopped before the batch was safe: {0:?}")]
    Abandoned(Resigned),
}
