//! The door of the quorum: what goes into one step, and what comes out.
//!
//! Owns: [`Input`], [`Turn`], and the duties of the driver between them:
//! 1. carry out `writes` in their order, before those of any later turn; any failure stops the process;
//! 2. when everything up to `ticket` would survive a power cut, say [`Input::Durable`] with it;
//! 3. send `sends` at once. What may be said only after a write is held back inside and comes out of that `Durable`;
//! 4. apply `applies` in their order; a failure to apply stops the process (MQ-18);
//! 5. step with [`Input::Tick`] no later than `Raft::deadline`.
//!
//! Leaves out: how a step is made (`machine` and its neighbours).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::raft::{Batch, Envelope, MAX_CHUNK_BYTES, ReplicaKey, SnapshotId, Voter};
use serde::{Deserialize, Serialize};

use super::voters::BadVoters;

/// Names a turn's writes; a larger one is later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Names a proposal, change or read; chosen by the driver, unique among those without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What must survive everything: never two votes in one epoch (MQ-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HardState {
    /// The newest epoch that this node has seen.
    pub epoch: LeaderEpoch,
    /// Who got its vote in it.
    pub voted: Option<ReplicaKey>,
}

/// The state machine at one position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where, and how long.
    pub id: SnapshotId,
    /// The state; opaque here.
    pub bytes: Bytes,
}

/// What happens to a node.
#[derive(Debug, Clone)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A message came. One connection per peer in order is best; loss, copies and any other order are borne.
    Received(Envelope),
    /// Every write up to this ticket would survive a power cut.
    Durable(Ticket),
    /// Append these records if this node leads.
    Propose {
        /// To be answered in [`Turn::done`].
        token: Token,
        /// How many offsets they take; at least one.
        count: u32,
        /// The records.
        records: Bytes,
    },
    /// Change who votes, by one.
    Change {
        /// To be answered in [`Turn::done`].
        token: Token,
        /// What.
        change: Change,
    },
    /// From which offset on does a read see everything that was committed before it was asked?
    Read(Token),
    /// A snapshot of what was applied is durable.
    Compacted(Arc<Snapshot>),
    /// No entry is kept for followers that the newest snapshot covers: who lacks it gets the snapshot. For entries that not
    /// everybody may be able to read.
    Forget,
    /// This node is about to stop: let another one lead.
    Resign,
    /// The process of this node is gone, as far as can be seen. If it leads, that is as if it had been silent for long
    /// enough: others are asked, and those who hear it refuse.
    Gone(BrokerId),
}

/// A change of the voters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A node that follows already becomes a voter.
    Add(Voter),
    /// A voter is one no more.
    Remove(ReplicaKey),
}

/// What the driver writes to disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Replace the hard state, whole or not at all.
    HardState(HardState),
    /// Append to the log; each batch whole or not at all.
    Append(Vec<Batch>),
    /// Cut the log at this offset.
    Truncate(Offset),
    /// Write this snapshot durably, *then* let the log begin, empty, at its end.
    Install(Arc<Snapshot>),
    /// The log before this offset is not needed; when and whether it is removed is the driver's choice.
    Trim(Offset),
    /// Sync the log as it was found at the start.
    Resync,
}

/// What is committed, for the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Apply {
    /// Forget what was, this is the state.
    Snapshot(Arc<Snapshot>),
    /// The next entry.
    Batch(Batch),
}

/// Why a proposal, change or read has no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Nothing was done; ask the leader.
    #[error("this node does not lead")]
    NotLeader,
    /// Nothing was done; ask again soon: it is not certain yet that everything of the leaders before is committed,
    /// or there is too much waiting.
    #[error("the leader is not ready")]
    NotReady,
    /// It may take effect, or not: this node does not lead any more.
    #[error("the leader changed before it was known whether this is committed")]
    Unknown,
    /// Nothing was done.
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
}

/// Why the voters were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// One at a time (MQ-13).
    #[error("another change of the voters is not committed yet")]
    InFlight,
    /// It must follow, and have everything that is committed.
    #[error("{0:?} does not follow closely enough")]
    NotCaughtUp(ReplicaKey),
    /// It is none, or with another directory.
    #[error("{0:?} is not a voter")]
    NoVoter(ReplicaKey),
    /// Its directory is not known.
    #[error("the directory of {0} is not known")]
    NoDirectory(BrokerId),
    /// Too few of the new voters are heard: the change could never be committed, nor taken back.
    #[error("only {heard} of the {voters} new voters are heard")]
    WouldLoseQuorum {
        /// How many fetch.
        heard: usize,
        /// How many there would be.
        voters: usize,
    },
    /// The new set is none.
    #[error(transparent)]
    Bad(#[from] BadVoters),
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Knows no leader.
    Unattached,
    /// Follows; as a voter or as an observer.
    Follower,
    /// Asks whether it would be elected.
    Prospective,
    /// Asks to be elected.
    Candidate,
    /// Leads. Active work starts when the entry of its own epoch is applied: `ready`.
    Leader {
        /// Whether everything of the leaders before is applied here.
        ready: bool,
    },
}

/// What a node thinks of its quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Its epoch.
    pub epoch: LeaderEpoch,
    /// Who leads it.
    pub leader: Option<BrokerId>,
    /// What it is itself.
    pub standing: Standing,
}

/// What came out of a step. Empty it before the next one, or hand in a new one.
#[derive(Debug, Default)]
pub struct Turn {
    /// To be written, in order.
    pub writes: Vec<Write>,
    /// Names them, if there are any.
    pub ticket: Option<Ticket>,
    /// To be sent now.
    pub sends: Vec<Envelope>,
    /// Newly committed and durable here.
    pub applies: Vec<Apply>,
    /// Answers to proposals and changes: the offset after it, once it is committed and in `applies`.
    pub done: Vec<(Token, Result<Offset, Lost>)>,
    /// Answers to reads: wait until this offset is applied, then read.
    pub reads: Vec<(Token, Result<Offset, Lost>)>,
    /// The view, if it changed.
    pub view: Option<View>,
}

/// How patient a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A follower that hears nothing stands after one to two times this.
    pub election: Duration,
    /// A leader answers a fetch at the latest after this.
    pub beat: Duration,
    /// A question without an answer is asked again after this.
    pub retry: Duration,
    /// A leader that a majority does not fetch from goes after this.
    pub quorum: Duration,
}

impl Timing {
    /// Everything from the shortest election timeout.
    #[must_use]
    pub fn of(election: Duration) -> Timing {
        Timing { election, beat: election / 4, retry: election / 2, quorum: election * 2 }
    }
}

/// How much goes into one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of batches in one answer to a fetch, about; at least one batch goes.
    pub fetch_bytes: usize,
    /// Bytes of a piece of a snapshot; at least 1, at most [`MAX_CHUNK_BYTES`].
    pub chunk_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { fetch_bytes: 1 << 20, chunk_bytes: MAX_CHUNK_BYTES }
    }
}

/// What a node is made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who it is.
    pub me: ReplicaKey,
    /// Its patience.
    pub timing: Timing,
    /// The size of its answers.
    pub limits: Limits,
    /// The voters to begin with, if neither log nor snapshot says more; with unknown directories, if need be.
    pub bootstrap: Vec<Voter>,
    /// Nodes that a node without a leader asks, beside the voters that it knows of.
    pub contacts: Vec<BrokerId>,
    /// Whether these bytes are a snapshot that the state machine reads; a damaged one is fetched again.
    pub snapshot_reads: fn(&[u8]) -> bool,
}

/// What a node finds on its disk. The driver has made it fit: see `Raft::open`.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// The hard state, if it was ever written.
    pub hard: Option<HardState>,
    /// The newest whole snapshot; the state machine is as in it.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The log behind the snapshot, or from 0 if there is none.
    pub batches: Vec<Batch>,
}
