//! The judge of client histories: what was acknowledged is there, once, in order, unchanged, and nothing else is.
//!
//! Owns: the anomalies of CORRECTNESS.md 2.2 that concern sends, polls, groups, transactions and topics.
//! Promises: pure; sees only what clients saw; "unknown" is never "passed": a history without a final read of a
//! partition is [`Verdict::undecided`]. Leaves out: node internals (see `invariants`).
//!
//! ```text
//! History ─► index (who wrote what, which value stands at which offset)
//!              ├─► presence: lost, phantom, changed, duplicate, inconsistent, offset mismatch
//!              ├─► order:    nonmonotonic send, realtime append, stale end offset
//!              ├─► reading:  poll skip, poll going back, false out-of-range
//!              ├─► compaction: what may be missing of a compacted partition, what came back
//!              ├─► transactions: aborted, not yet committed, torn, of another outcome, made twice or not at all
//!              ├─► transfers: sums of what committed readers were given
//!              ├─► groups:   a start behind or in front of what is committed, commits of those who are not the owner
//!              └─► metadata: topics that do not stand as was answered
//! ```
//!
//! The excuses are counted, not hidden: a record that was never promised to survive a power cut may be missing after
//! one, but only together with everything behind it ([`Verdict::excused`]).

mod compaction;
#[cfg(test)]
mod compaction_tests;
#[cfg(test)]
mod group_tests;
mod groups;
mod history;
mod index;
mod metadata;
mod order;
mod presence;
mod reading;
#[cfg(test)]
mod tests;
mod transactions;
mod transfers;

use std::fmt;

pub use history::{
    Acks, AdminAct, AdminOp, BadHistory, Compacted, Event, GroupAct, GroupOp, History, Outcome, Part,
    PartInfo, PollOp, Seen, SendOp, Told, TopicSeen, TxnAct, TxnOp,
};

/// What is wrong with a history. Names follow Jepsen's Kafka tests where those have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// An acknowledged record is not in the final log.
    LostWrite,
    /// A record that nobody sent, or that was sent elsewhere.
    Phantom,
    /// A record whose every attempt was refused for certain, and which is there all the same.
    FailedWriteVisible,
    /// Key, value or headers differ from what was sent.
    Changed,
    /// One value at two offsets although the session or the attempts exclude it.
    Duplicate,
    /// One offset had two values.
    InconsistentOffsets,
    /// The reply named one offset, a reader found the record at another.
    OffsetMismatch,
    /// A producer's records stand in another order than it sent them.
    NonmonotonicSend,
    /// A record that was acknowledged before another was sent stands behind it.
    RealtimeAppend,
    /// An end offset that was asked for after an acknowledgement does not cover it.
    StaleEndOffset,
    /// A consumer's position passed a record without giving it.
    PollSkip,
    /// A consumer was given records out of order, or from before its position.
    NonmonotonicPoll,
    /// A position inside the log was called out of range.
    FalseOutOfRange,
    /// What survived a power cut is not a prefix of what was there.
    HoleAfterPowerCut,
    /// An idempotent producer was told that its record is stored, but not where: the broker forgot one of its last five
    /// batches.
    OffsetUntold,
    /// In a compacted partition a record is there again, or still, and the delete marker behind it is gone (RET-9).
    Resurrected,
    /// A topic does not stand as an admin client was answered.
    LostMetadata,
    /// A group passed records that none of its members was given.
    GroupSkip,
    /// A group was told an older position than one that was committed before it asked (GRP-3).
    CommitRegression,
    /// A group was told a position that nobody committed.
    PhantomCommit,
    /// A commit was taken from a member that was no longer the owner (GRP-4).
    ZombieCommit,
    /// Two members of one generation were told that they own a partition (GRP-1).
    DoubleOwner,
    /// A reader of committed records was given one of an aborted transaction (G1a, TXN-2).
    AbortedRead,
    /// A reader of committed records was given one before anybody had asked to commit it (TXN-2).
    PrecommittedRead,
    /// A last stable offset lies behind a transaction whose marker was not below the watermark (TXN-3).
    EarlyStable,
    /// A reader of committed records passed all sides of a transfer, and what it was given does not add up to nothing.
    BooksDoNotBalance,
    /// Of one transaction some records are visible and some are not (TXN-1).
    TornTxn,
    /// A transaction ended otherwise than was answered (TXN-7).
    OutcomeMismatch,
    /// Of a record that a group consumed there is not exactly one visible outcome (TXN-11).
    EosMultiplicity,
}

/// One anomaly at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What.
    pub anomaly: Anomaly,
    /// Where: the partition's name.
    pub part: String,
    /// The evidence, for a person.
    pub evidence: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}: {}", self.anomaly, self.part, self.evidence)
    }
}

/// How much the judgement rests on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sends that were acknowledged.
    pub acked: usize,
    /// Sends whose outcome is unknown.
    pub unknown: usize,
    /// Sends that failed for certain.
    pub failed: usize,
    /// Records that consumers were given, before the final read.
    pub polled: usize,
    /// Records of the final read.
    pub drained: usize,
    /// Acknowledged records that are gone and were not promised to survive.
    pub excused: usize,
}

/// What the judge says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Every anomaly found; the run is good only if there is none.
    pub violations: Vec<Violation>,
    /// Why the history cannot be judged whole; counts as a failure of liveness.
    pub undecided: Vec<String>,
    /// What it rests on.
    pub counts: Counts,
}

impl Verdict {
    /// Whether nothing is wrong and nothing is unknown.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.undecided.is_empty()
    }

    fn report(&mut self, anomaly: Anomaly, part: &str, evidence: String) {
        self.violations.push(Violation { anomaly, part: part.to_owned(), evidence });
    }
}

/// Judges a history. O(n log n) in its records.
#[must_use]
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let index = index::Index::of(history, &mut verdict);
    presence::check(&index, &mut verdict);
    order::check(&index, &mut verdict);
    compaction::check(&index, &mut verdict);
    let txns = transactions::Txns::of(history, &index);
    reading::check(&index, &txns, &mut verdict);
    transactions::check(&index, &txns, &mut verdict);
    transfers::check(history, &index, &mut verdict);
    groups::check(history, &index, &txns, &mut verdict);
    metadata::check(history, &mut verdict);
    verdict
}
