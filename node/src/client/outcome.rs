//! What an attempt to produce proves: stored, certainly not stored, or nobody knows.
//!
//! Owns: the classification of Kafka's error codes for produce (CORRECTNESS 2.1), the next move that each code asks
//! for, and [`Observer`], through which an oracle sees every attempt.
//! Promises: `DefiniteNo` is said only where the protocol proves that nothing was appended. In doubt it is `Maybe`:
//! above all for 6 and 3, which a broker also answers after an append when leadership moves meanwhile.
//! Leaves out: counting attempts and waiting (`sequence`, `retry`).
//!
//!   a record's verdict = Ok if one attempt was Ok; DefiniteNo if every attempt was; else Maybe

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{Offset, PartitionId, ProducerEpoch, ProducerId, Sequence};

use crate::runtime::Mono;

/// What is known about the effect of an attempt, or of a whole operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The broker said that it is stored, under the promise of the `acks` that were asked for.
    Ok,
    /// It is proven that nothing was stored.
    DefiniteNo,
    /// It may be stored, now or a little later.
    Maybe,
}

impl Verdict {
    /// The verdict of an operation after one more attempt.
    #[must_use]
    pub fn and(self, next: Verdict) -> Verdict {
        match (self, next) {
            (Verdict::Ok, _) | (_, Verdict::Ok) => Verdict::Ok,
            (Verdict::DefiniteNo, Verdict::DefiniteNo) => Verdict::DefiniteNo,
            (Verdict::Maybe, _) | (_, Verdict::Maybe) => Verdict::Maybe,
        }
    }
}

/// Codes that a broker answers only when it appended nothing.
const DEFINITE_NO: &[ErrorCode] = &[
    ErrorCode::NOT_ENOUGH_REPLICAS,
    ErrorCode::MESSAGE_TOO_LARGE,
    ErrorCode::RECORD_LIST_TOO_LARGE,
    ErrorCode::CORRUPT_MESSAGE,
    ErrorCode::INVALID_RECORD,
    ErrorCode::INVALID_TIMESTAMP,
    ErrorCode::TOPIC_AUTHORIZATION_FAILED,
    ErrorCode::CLUSTER_AUTHORIZATION_FAILED,
    ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
    ErrorCode::INVALID_PRODUCER_EPOCH,
    ErrorCode::UNKNOWN_PRODUCER_ID,
    ErrorCode::INVALID_TXN_STATE,
    ErrorCode::TRANSACTION_ABORTABLE,
    // The transaction before is still being ended: no partition takes a record of the next one.
    ErrorCode::CONCURRENT_TRANSACTIONS,
    ErrorCode::UNKNOWN_TOPIC_ID,
    ErrorCode::FENCED_LEADER_EPOCH,
    ErrorCode::UNKNOWN_LEADER_EPOCH,
    ErrorCode::INVALID_REQUIRED_ACKS,
    // Found while the request is read, before any log is looked up.
    ErrorCode::INVALID_TOPIC_EXCEPTION,
    ErrorCode::UNSUPPORTED_VERSION,
    ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
    ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
];

/// What the answer `code` to one partition of a produce request proves.
#[must_use]
pub fn produce_verdict(code: ErrorCode) -> Verdict {
    if code.is_none() || code == ErrorCode::DUPLICATE_SEQUENCE_NUMBER {
        Verdict::Ok
    } else if DEFINITE_NO.contains(&code) {
        Verdict::DefiniteNo
    } else {
        Verdict::Maybe
    }
}

/// What a client does next after an answer to produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// The records are stored.
    Done,
    /// Send the same again after a while.
    Retry,
    /// Ask who leads the partition now, then send the same again.
    RetryElsewhere,
    /// The broker's memory of this producer and ours differ: `sequence` decides.
    Sequence,
    /// Sending the same again would fail again: tell the user.
    GiveUp,
}

/// The next move after the answer `code` to one partition of a produce request.
#[must_use]
pub fn produce_move(code: ErrorCode) -> Move {
    const ELSEWHERE: &[ErrorCode] = &[
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode::LEADER_NOT_AVAILABLE,
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::KAFKA_STORAGE_ERROR,
        ErrorCode::FENCED_LEADER_EPOCH,
        ErrorCode::UNKNOWN_LEADER_EPOCH,
        ErrorCode::UNKNOWN_TOPIC_ID,
        ErrorCode::INCONSISTENT_TOPIC_ID,
        ErrorCode::REPLICA_NOT_AVAILABLE,
    ];
    const SEQUENCE: &[ErrorCode] = &[
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode::UNKNOWN_PRODUCER_ID,
        ErrorCode::INVALID_PRODUCER_EPOCH,
    ];
    if produce_verdict(code) == Verdict::Ok {
        Move::Done
    } else if ELSEWHERE.contains(&code) {
        Move::RetryElsewhere
    } else if SEQUENCE.contains(&code) {
        Move::Sequence
    } else if code.is_retriable() {
        Move::Retry
    } else {
        Move::GiveUp
    }
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The broker answered with this code and base offset (-1 where it gave none).
    Answered(ErrorCode, Offset),
    /// The request never left this process.
    NotSent(String),
    /// The connection broke, or the deadline passed, after the request may have left.
    Lost(String),
    /// Written to a connection with `acks=0`: no answer is ever given.
    NoReply,
}

impl AttemptEnd {
    /// What this end proves.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            AttemptEnd::Answered(code, _) => produce_verdict(*code),
            AttemptEnd::NotSent(_) => Verdict::DefiniteNo,
            AttemptEnd::Lost(_) | AttemptEnd::NoReply => Verdict::Maybe,
        }
    }
}

/// Producer id, epoch and first sequence number of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The producer id that the cluster gave.
    pub producer: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// The sequence number of the first record.
    pub base: Sequence,
}

/// One batch's number within its producer, from 1 up; a record is named by it and its index in the batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

impl std::fmt::Debug for BatchId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "batch{}", self.0)
    }
}

/// One attempt to store one batch, told when it ended.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The topic.
    pub topic: std::sync::Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The batch; the same over all its attempts.
    pub batch: BatchId,
    /// Records in the batch.
    pub records: u32,
    /// Its stamp; `None` without idempotence.
    pub stamp: Option<Stamp>,
    /// 1 for the first attempt of the batch.
    pub number: u32,
    /// When the request was handed to the connection.
    pub started: Mono,
    /// When the answer, or the news that there will be none, came.
    pub ended: Mono,
    /// How it ended.
    pub end: AttemptEnd,
}

/// Hears of every attempt of a producer. Called inline on the sender's path: be quick, never block.
pub trait Observer: Send + Sync + 'static {
    /// An attempt has ended. Attempts of one partition are told in the order in which they end.
    fn attempt(&self, attempt: &Attempt);
}

/// An observer that does not look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn attempt(&self, _: &Attempt) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_may_follow_an_append_is_never_a_definite_no() {
        for code in [
            ErrorCode::NOT_LEADER_OR_FOLLOWER,
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode::REQUEST_TIMED_OUT,
            ErrorCode::NETWORK_EXCEPTION,
            ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
            ErrorCode::KAFKA_STORAGE_ERROR,
            ErrorCode::UNKNOWN_SERVER_ERROR,
            ErrorCode(9999),
        ] {
            assert_eq!(produce_verdict(code), Verdict::Maybe, "{code:?}");
        }
    }

    #[test]
    fn every_code_has_one_move_and_only_success_is_done() {
        for code in ErrorCode::ALL {
            let done = produce_move(*code) == Move::Done;
            assert_eq!(done, produce_verdict(*code) == Verdict::Ok, "{code:?}");
            if produce_move(*code) == Move::GiveUp {
                assert!(!code.is_retriable(), "{code:?} could be tried again");
            }
        }
    }

    #[test]
    fn one_doubtful_attempt_makes_the_operation_doubtful_until_one_succeeds() {
        use Verdict::{DefiniteNo, Maybe, Ok};
        assert_eq!(DefiniteNo.and(DefiniteNo), DefiniteNo);
        assert_eq!(DefiniteNo.and(Maybe).and(DefiniteNo), Maybe);
        assert_eq!(Maybe.and(Ok), Ok);
    }

    #[test]
    fn a_lost_connection_is_a_maybe_and_an_unsent_request_is_not() {
        assert_eq!(AttemptEnd::Lost("reset".into()).verdict(), Verdict::Maybe);
        assert_eq!(AttemptEnd::NotSent("refused".into()).verdict(), Verdict::DefiniteNo);
        assert_eq!(AttemptEnd::NoReply.verdict(), Verdict::Maybe);
    }
}
