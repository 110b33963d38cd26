//! What the nodes of the metadata quorum say to each other: Raft in Kafka's pull shape.
//!
//! Owns: the messages of KIP-595, 853 and 996 in our own words, and the ids that they are about.
//! Promises: a position names one log for ever (offset and epoch of its last entry), and every answer to a fetch
//! repeats the position that it answers, so that an answer that was late, doubled or overtaken is told by looking.
//! Leaves out: what to do about them (`controller::raft`), connections.
//!
//! ```text
//!  candidate ── Vote ──► voter            leader ── Leading ──► voters       (who does not fetch yet)
//!            ◄─ VoteReply ──              follower ── Fetch (end, durable end) ──► leader
//!                                                  ◄─ FetchReply: batches │ diverged │ snapshot │ not leader
//!  leader that goes ── Resigning ──► voters        ── FetchSnapshot ──► ◄─ SnapshotChunk ──
//! ```

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Ask, Body, Parts, PeerError};
use crate::ids::{BrokerId, LeaderEpoch, Offset};

/// Most voters of a quorum.
pub const MAX_VOTERS: usize = 31;
/// Longest address of a voter in bytes.
pub const MAX_ADDRESS_BYTES: usize = 255;
/// Most batches in one answer to a fetch.
pub const MAX_BATCHES: usize = 4096;
/// Most bytes of one piece of a snapshot.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;
/// Largest snapshot.
pub const MAX_SNAPSHOT_BYTES: u64 = 1 << 30;

/// Names a data directory: random, made with it, so that a wiped disk is told from the one that voted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DirectoryId(pub [u8; 16]);

impl DirectoryId {
    /// Of a voter that was only configured, and not yet seen.
    pub const UNKNOWN: DirectoryId = DirectoryId([0; 16]);
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            &DirectoryId::UNKNOWN => f.write_str("d?"),
            DirectoryId([a, b, c, d, ..]) => write!(f, "d{a:02x}{b:02x}{c:02x}{d:02x}"),
        }
    }
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A node with one data directory: what votes, and what is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReplicaKey {
    /// The node.
    pub id: BrokerId,
    /// Its data directory.
    pub directory: DirectoryId,
}

impl fmt::Debug for ReplicaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{:?}", self.id, self.directory)
    }
}

/// A member of the quorum.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Voter {
    /// Who.
    pub key: ReplicaKey,
    /// Where its peers reach it, as `host:port`; at most [`MAX_ADDRESS_BYTES`].
    pub address: String,
}

/// The end of a log: names everything before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Epoch of the last entry before `end`; [`LeaderEpoch::NONE`] if there is none.
    pub epoch: LeaderEpoch,
    /// First offset after it.
    pub end: Offset,
}

impl Position {
    /// The end of a log without entries.
    pub const EMPTY: Position = Position { epoch: LeaderEpoch::NONE, end: Offset::ZERO };
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}", self.end, self.epoch)
    }
}

/// What a batch of the metadata log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A leader begins; nothing else. Its commit commits what is before it.
    LeaderChange,
    /// From here on these are the voters.
    Voters(Vec<Voter>),
    /// What the state machine is about; opaque here.
    Records(Bytes),
}

/// An entry of the metadata log: in it whole, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Its first offset.
    pub base: Offset,
    /// First offset after it; more than `base`.
    pub end: Offset,
    /// Of the leader that appended it.
    pub epoch: LeaderEpoch,
    /// What it says.
    pub content: Content,
}

/// What there is to know of a snapshot before it is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotId {
    /// What it stands for.
    pub position: Position,
    /// How long it is; at most [`MAX_SNAPSHOT_BYTES`].
    pub bytes: u64,
    /// The voters at its position.
    pub voters: Vec<Voter>,
}

/// What a fetch found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fetched {
    /// The batches from the fetched position on; none if there is nothing new.
    Batches(Vec<Batch>),
    /// The logs part: up to `epoch`, the log of the leader ends here.
    Diverged {
        /// The largest epoch of the leader's log that is not above the fetched one, and where it ends.
        to: Position,
    },
    /// The log does not go back that far: fetch this.
    Snapshot(SnapshotId),
    /// Ask who leads; the envelope may say who.
    NotLeader,
}

/// What one node of the quorum says to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Asks for a vote in the epoch of the envelope; `pre`: whether it would get one in the next.
    Vote {
        /// Whether it only asks.
        pre: bool,
        /// The end of the candidate's log.
        log: Position,
    },
    /// Answers it.
    VoteReply {
        /// As asked.
        pre: bool,
        /// Whether it got it.
        granted: bool,
    },
    /// The sender leads the epoch of the envelope: fetch.
    Leading,
    /// The sender led the epoch of the envelope and goes; the first of these should stand at once.
    Resigning {
        /// The others, best first.
        successors: Vec<BrokerId>,
    },
    /// Asks for what is behind `log`, and tells how far the sender is.
    Fetch {
        /// The end of the follower's log.
        log: Position,
        /// How far it would survive a power cut; not after `log.end`.
        durable: Offset,
        /// How far it knows it to be committed.
        commit: Offset,
        /// The last `round` that it was told in this epoch.
        round: u64,
    },
    /// Answers it.
    FetchReply {
        /// The fetched position.
        at: Position,
        /// What is there.
        fetched: Fetched,
        /// How far the leader's log is committed.
        commit: Offset,
        /// Counts the questions whether the sender still leads; the next fetch repeats it.
        round: u64,
    },
    /// Asks for a piece of a snapshot.
    FetchSnapshot {
        /// The end of the follower's log.
        log: Position,
        /// Which snapshot.
        snapshot: Position,
        /// First byte wanted.
        from: u64,
    },
    /// A piece of it.
    SnapshotChunk {
        /// The end of the follower's log, as asked.
        at: Position,
        /// Which snapshot.
        snapshot: Position,
        /// First byte.
        from: u64,
        /// At most [`MAX_CHUNK_BYTES`].
        bytes: Bytes,
    },
}

/// A message with its sender, and what the sender knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Who says it.
    pub from: ReplicaKey,
    /// To which node.
    pub to: BrokerId,
    /// The sender's epoch.
    pub epoch: LeaderEpoch,
    /// Who leads that epoch, if the sender knows.
    pub leader: Option<BrokerId>,
    /// What it says.
    pub message: Message,
}

impl Envelope {
    /// Whether every list and length in it is within its bound: asked before it is sent and after it came.
    ///
    /// # Errors
    /// [`PeerError`]; do not send it, or close the connection.
    pub fn check(&self) -> Result<(), PeerError> {
        match &self.message {
            Message::FetchReply { fetched: Fetched::Batches(batches), .. } => check_batches(batches),
            Message::FetchReply { fetched: Fetched::Snapshot(id), .. } => {
                bounded(id.bytes, MAX_SNAPSHOT_BYTES)?;
                check_voters(&id.voters)
            }
            Message::SnapshotChunk { bytes, .. } => bounded(bytes.len() as u64, MAX_CHUNK_BYTES as u64),
            Message::Resigning { successors } => bounded(successors.len() as u64, MAX_VOTERS as u64),
            Message::Vote { .. }
            | Message::VoteReply { .. }
            | Message::Leading
            | Message::Fetch { .. }
            | Message::FetchReply { fetched: Fetched::Diverged { .. } | Fetched::NotLeader, .. }
            | Message::FetchSnapshot { .. } => Ok(()),
        }
    }
}

impl Body for Envelope {
    const TAG: u16 = 0x0101;
    const VERSION: u16 = 1;

    fn into_parts(self) -> Result<Parts, PeerError> {
        self.check()?;
        Parts::plain(&self)
    }

    fn from_parts(parts: Parts) -> Result<Envelope, PeerError> {
        let envelope: Envelope = parts.into_plain()?;
        envelope.check()?;
        Ok(envelope)
    }
}

/// The answer to every message of the quorum: it came. What there is to say to it comes as a message of its own, when
/// it may be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Came;

impl Body for Came {
    const TAG: u16 = 0x0181;
    const VERSION: u16 = 1;

    fn into_parts(self) -> Result<Parts, PeerError> {
        Parts::plain(&self)
    }

    fn from_parts(parts: Parts) -> Result<Came, PeerError> {
        parts.into_plain()
    }
}

impl Ask for Envelope {
    type Answer = Came;
    /// Copies are borne.
    const REPEATABLE: bool = true;
}

fn check_batches(batches: &[Batch]) -> Result<(), PeerError> {
    bounded(batches.len() as u64, MAX_BATCHES as u64)?;
    batches.iter().try_for_each(|batch| match &batch.content {
        Content::Voters(voters) => check_voters(voters),
        Content::LeaderChange | Content::Records(_) => Ok(()),
    })
}

fn check_voters(voters: &[Voter]) -> Result<(), PeerError> {
    bounded(voters.len() as u64, MAX_VOTERS as u64)?;
    voters.iter().try_for_each(|voter| bounded(voter.address.len() as u64, MAX_ADDRESS_BYTES as u64))
}

fn bounded(length: u64, most: u64) -> Result<(), PeerError> {
    if length <= most {
        return Ok(());
    }
    Err(PeerError::TooLong { bytes: usize::try_from(length).unwrap_or(usize::MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(message: Message) -> Envelope {
        let from = ReplicaKey { id: BrokerId(1), directory: DirectoryId([7; 16]) };
        Envelope { from, to: BrokerId(2), epoch: LeaderEpoch(5), leader: Some(BrokerId(1)), message }
    }

    fn reply(fetched: Fetched) -> Envelope {
        envelope(Message::FetchReply { at: Position::EMPTY, fetched, commit: Offset(0), round: 0 })
    }

    #[test]
    fn a_message_comes_back_as_it_went() {
        let content = Content::Records(Bytes::from_static(b"records"));
        let batch = Batch { base: Offset(3), end: Offset(5), epoch: LeaderEpoch(4), content };
        for sent in
            [envelope(Message::Leading), reply(Fetched::Batches(vec![batch])), reply(Fetched::NotLeader)]
        {
            let parts = sent.clone().into_parts().expect("within bounds");
            assert_eq!(Envelope::from_parts(parts), Ok(sent));
        }
    }

    #[test]
    fn what_is_too_long_is_refused_on_both_sides() {
        let voter = Voter {
            key: ReplicaKey { id: BrokerId(1), directory: DirectoryId::UNKNOWN },
            address: "x".repeat(MAX_ADDRESS_BYTES + 1),
        };
        let id = |voters, bytes| SnapshotId { position: Position::EMPTY, bytes, voters };
        let long = [
            reply(Fetched::Snapshot(id(vec![voter], 1))),
            reply(Fetched::Snapshot(id(vec![], MAX_SNAPSHOT_BYTES + 1))),
            envelope(Message::Resigning { successors: vec![BrokerId(1); MAX_VOTERS + 1] }),
        ];
        for sent in long {
            let parts = Parts::plain(&sent).expect("short enough for a frame");
            assert!(matches!(Envelope::from_parts(parts), Err(PeerError::TooLong { .. })), "{sent:?}");
            assert!(matches!(sent.into_parts(), Err(PeerError::TooLong { .. })));
        }
    }
}
