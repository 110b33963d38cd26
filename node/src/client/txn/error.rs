//! Why a transaction does not go on: cause, what is certain, and cure.
//!
//! Promises: [`TxnErrorKind`] alone says what the caller does next; [`TxnError::verdict`] whether the transaction may be
//! committed all the same. Pure.

use std::fmt;

use dejaq_wire::error_code::ErrorCode;

use crate::client::advice::cure_of;
use crate::client::cluster::ClusterError;
use crate::client::outcome::Verdict;
use crate::client::producer::ProduceError;

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnErrorKind {
    /// This producer is over: another one has its transactional id, or the transaction was open too long.
    Fenced,
    /// This producer is over, for another reason.
    Fatal,
    /// The transaction cannot be committed: abort it; then what it held may be done again.
    Abortable,
    /// Nobody answered in time: call the same again. An end that was asked for is not to be changed into the other one.
    Retriable,
    /// The call does not fit: nothing was done.
    Misuse,
}

/// Why.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TxnCause {
    /// A coordinator refuses.
    #[error("the coordinator answers {0}")]
    Refused(ErrorCode),
    /// A coordinator asked for patience until time was up.
    #[error("not done in time; the last answer was {0}")]
    Slow(ErrorCode),
    /// No coordinator could be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A record of the transaction was given up.
    #[error("a record was given up: {0}")]
    Record(Box<ProduceError>),
    /// The producer is somewhere else in its life.
    #[error("{0}")]
    State(&'static str),
}

/// A step of a transaction that did not succeed.
#[derive(Debug, Clone)]
pub struct TxnError {
    /// What the caller does next.
    pub kind: TxnErrorKind,
    /// What was to be done, as in `cannot …`.
    pub what: &'static str,
    /// Why not.
    pub cause: TxnCause,
    /// Whether the transaction may be committed all the same: [`Verdict::Maybe`] where a commit was asked for and its
    /// answer is not known.
    pub verdict: Verdict,
}

impl TxnError {
    /// An error of a transaction that is certainly not committed.
    #[must_use]
    pub fn new(kind: TxnErrorKind, what: &'static str, cause: impl Into<TxnCause>) -> TxnError {
        TxnError { kind, what, cause: cause.into(), verdict: Verdict::DefiniteNo }
    }

    /// With this verdict.
    #[must_use]
    pub fn with(mut self, verdict: Verdict) -> TxnError {
        self.verdict = verdict;
        self
    }

    /// What a person can do about it.
    #[must_use]
    pub fn cure(&self) -> String {
        let refused = match &self.cause {
            TxnCause::Refused(code) | TxnCause::Slow(code) => Some(*code),
            TxnCause::Cluster(_) | TxnCause::Record(_) | TxnCause::State(_) => None,
        };
        match (self.kind, &self.cause) {
            (TxnErrorKind::Fenced, _) => {
                "let one producer at a time have the transactional id, keep transactions shorter than their timeout, and \
                 start anew"
                    .into()
            }
            (TxnErrorKind::Misuse, _) => "begin, then send, then commit or abort".into(),
            (_, TxnCause::Record(error)) => format!("{}; then do the transaction again", error.cure()),
            (_, TxnCause::Cluster(error)) => error.cure(),
            (TxnErrorKind::Fatal, _) if refused == Some(ErrorCode::INVALID_TRANSACTION_TIMEOUT) => {
                "shorten the transaction timeout, or raise transaction-max-timeout-ms of the brokers".into()
            }
            (TxnErrorKind::Fatal, _) if refused == Some(ErrorCode::INVALID_TXN_STATE) => {
                "see how it stands: dejaq txn describe; then start a new producer".into()
            }
            (TxnErrorKind::Retriable, _) => "try again; see dejaq txn describe".into(),
            _ => refused.map_or("do the transaction again", cure_of).into(),
        }
    }
}

impl fmt::Display for TxnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.what, self.cause)?;
        match (self.kind, self.verdict) {
            (TxnErrorKind::Fenced, _) => {
                f.write_str(
                    "; another producer has this transactional id, or the transaction was open too long",
                )?;
            }
            (
                TxnErrorKind::Fatal
                | TxnErrorKind::Abortable
                | TxnErrorKind::Retriable
                | TxnErrorKind::Misuse,
                _,
            ) => {}
        }
        match self.verdict {
            Verdict::Maybe => f.write_str("; the transaction may be committed all the same"),
            Verdict::DefiniteNo | Verdict::Ok => Ok(()),
        }
    }
}

impl std::error::Error for TxnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}
