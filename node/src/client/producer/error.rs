//! Why a record was not stored, or may not have been: cause, verdict and cure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::PartitionId;

use crate::client::advice::cure_of;
use crate::client::cluster::ClusterError;
use crate::client::outcome::Verdict;

/// Why a record was given up.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProduceCause {
    /// The topic or its leader could not be found.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The broker refuses the batch; `message` is its own explanation, if it gave one.
    #[error("the broker answers {code}{}", .message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default())]
    Refused {
        /// Its code.
        code: ErrorCode,
        /// Its words.
        message: Option<Arc<str>>,
    },
    /// It was not stored in time.
    #[error("not confirmed within {after:?}, {last}")]
    Expired {
        /// The delivery timeout.
        after: Duration,
        /// How the last attempt ended, in words.
        last: Arc<str>,
    },
    /// Every attempt that the retry policy allows failed.
    #[error("given up: {last}")]
    Exhausted {
        /// How the last attempt ended, in words.
        last: Arc<str>,
    },
    /// The record is larger than the producer's whole buffer.
    #[error("a record of {bytes} bytes does not fit into a buffer of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The size of the buffer.
        limit: usize,
    },
    /// No room became free in the producer's buffer.
    #[error("the producer's buffer stayed full for {0:?}")]
    BufferFull(Duration),
    /// The cluster gives no producer id.
    #[error("no producer id: {0}")]
    NoIdentity(Arc<str>),
    /// The partition that the record names, or that the partitioner chose, does not exist.
    #[error("topic {topic} has {partitions} partitions, there is none with number {partition}")]
    NoPartition {
        /// The topic.
        topic: Arc<str>,
        /// What was asked for.
        partition: PartitionId,
        /// How many there are.
        partitions: usize,
    },
    /// The batch cannot be encoded.
    #[error("the batch cannot be encoded: {0}")]
    Unsendable(Arc<str>),
    /// The transaction that it belongs to is not going to be committed; `first` is why.
    #[error("its transaction is over: {first}")]
    TransactionOver {
        /// The first failure, or who ended it.
        first: Arc<str>,
    },
    /// The producer was closed before the record was stored.
    #[error("the producer was closed")]
    Closed,
}

/// A record that was given up.
#[derive(Debug, Clone)]
pub struct ProduceError {
    /// Whether it may be stored all the same.
    pub verdict: Verdict,
    /// Attempts that were made.
    pub attempts: u32,
    /// Why.
    pub cause: ProduceCause,
}

impl ProduceError {
    /// An error of a record that never left.
    #[must_use]
    pub fn unsent(cause: impl Into<ProduceCause>) -> ProduceError {
        ProduceError { verdict: Verdict::DefiniteNo, attempts: 0, cause: cause.into() }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn cure(&self) -> String {
        match &self.cause {
            ProduceCause::Cluster(error) => error.cure(),
            ProduceCause::Refused { code, .. } => cure_of(*code).into(),
            ProduceCause::Expired { .. } | ProduceCause::Exhausted { .. } => match self.verdict {
                Verdict::Maybe => "look whether it is stored before sending it again".into(),
                Verdict::DefiniteNo | Verdict::Ok => "check that the broker runs, then send it again".into(),
            },
            ProduceCause::TooLarge { .. } => "raise the buffer, or send a smaller record".into(),
            ProduceCause::BufferFull(_) => "send slower, or raise the buffer; the broker may be down".into(),
            ProduceCause::NoIdentity(_) => "turn idempotence off, or use a broker that serves it".into(),
            ProduceCause::NoPartition { topic, .. } => {
                format!("see its partitions: dejaq topic describe {topic}")
            }
            ProduceCause::Unsendable(_) => "choose another --compression".into(),
            ProduceCause::TransactionOver { .. } => "abort the transaction, and do it again".into(),
            ProduceCause::Closed => "flush before closing".into(),
        }
    }
}

impl fmt::Display for ProduceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stored = match self.verdict {
            Verdict::DefiniteNo => "not stored",
            Verdict::Maybe => "perhaps stored",
            Verdict::Ok => "stored",
        };
        write!(f, "{stored}: {}", self.cause)
    }
}

impl std::error::Error for ProduceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}
