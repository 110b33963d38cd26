//! What a node is in its epoch, and what it keeps only while it is that.
//!
//! Owns: the states and their drawing. Promises: everything about a leadership or a following dies with it.
//! Leaves out: the transitions (`machine`, `election`, `following`, `leading`).
//!
//! ```text
//!               hears of a leader                       timeout           majority would         majority did
//!  Unattached ─────────────────────► Follower ────────► Prospective ────► Candidate ──────────► Leader
//!      │  ▲         timeout                               ▲   │  ▲            │                   │
//!      └──┼───────────────────────────────────────────────┘   │  └─ timeout ──┘                   │
//!         │                    hears the leader after all ◄───┘                                   │
//!         └────────────── a higher epoch, from any state; a leader that resigns or is alone ──────┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use dejaq_wire::ids::{BrokerId, Offset};
use dejaq_wire::peer::raft::{DirectoryId, Position, ReplicaKey, SnapshotId};

use super::facade::Token;
use crate::runtime::Mono;

/// The states.
#[derive(Debug)]
pub enum Role {
    /// Knows no leader of its epoch.
    Unattached {
        /// A voter stands, an observer asks around.
        wake: Mono,
    },
    /// Fetches from a leader.
    Follower(Following),
    /// Would like to stand, and asks whether it would win.
    Prospective {
        /// The leader that fell silent; it is asked on.
        silent: Option<Box<Following>>,
        /// The votes.
        poll: Poll,
    },
    /// Stands.
    Candidate(Poll),
    /// Leads.
    Leader(Box<Leading>),
}

/// A count of votes.
#[derive(Debug)]
pub struct Poll {
    /// Who said yes, and with which directory.
    pub yes: BTreeMap<BrokerId, DirectoryId>,
    /// When it is given up.
    pub end: Mono,
    /// When those who did not answer are asked again.
    pub again: Mono,
}

/// What a follower knows of its leader.
#[derive(Debug)]
pub struct Following {
    /// Who.
    pub leader: BrokerId,
    /// Last answer.
    pub heard: Mono,
    /// When it is given up; drawn anew with the role, moved on by every answer.
    pub patience: std::time::Duration,
    /// The fetch that has no answer yet.
    pub asked: Option<Asked>,
    /// The newest round that it said.
    pub round: u64,
    /// A snapshot that is coming.
    pub download: Option<Download>,
}

/// A fetch under way.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The end of the log in it.
    pub at: Position,
    /// The durable end in it.
    pub durable: Offset,
    /// The round in it.
    pub round: u64,
    /// When.
    pub since: Mono,
}

/// A snapshot that is coming.
#[derive(Debug)]
pub struct Download {
    /// The end of the log when it was begun: it stays so.
    pub at: Position,
    /// Which.
    pub id: SnapshotId,
    /// What is there of it.
    pub bytes: BytesMut,
}

/// What a leader keeps.
#[derive(Debug)]
pub struct Leading {
    /// First offset of its epoch; what is committed behind it commits all before.
    pub first: Offset,
    /// Behind its leader-change entry.
    pub ready: Offset,
    /// Everyone who fetches; bounded.
    pub replicas: BTreeMap<ReplicaKey, Progress>,
    /// Counts the questions whether it still leads.
    pub round: u64,
    /// Reads without an answer; bounded.
    pub reads: VecDeque<Reading>,
    /// When it looks around next.
    pub beat: Mono,
    /// Proposals and changes without an answer, by the offset behind them; bounded.
    pub proposed: VecDeque<(Offset, Token)>,
    /// The newest snapshot's pieces are cut from this one, so that a newer one does not cut a download short.
    pub serving: Option<Arc<super::facade::Snapshot>>,
}

/// How far a replica is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Its log is a beginning of ours up to here.
    pub end: Offset,
    /// Of that, it would keep this much. Never falls within an epoch.
    pub durable: Offset,
    /// Its newest fetch.
    pub heard: Mono,
    /// Newest round that it repeated.
    pub round: u64,
    /// A fetch that waits for something new.
    pub parked: Option<Parked>,
}

/// A fetch that waits.
#[derive(Debug, Clone, Copy)]
pub struct Parked {
    /// The end of its log.
    pub at: Position,
    /// What it knows to be committed.
    pub commit: Offset,
    /// The round it was told.
    pub round: u64,
    /// Answered by then.
    pub until: Mono,
}

/// A read that waits for a majority to confirm that this node still leads.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Whose.
    pub token: Token,
    /// Confirmed by this round.
    pub round: u64,
    /// Everything before was committed when it was asked.
    pub at: Offset,
}
