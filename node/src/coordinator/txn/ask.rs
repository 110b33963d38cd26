//! What a transaction is asked, what it answers, and what must be done in between.
//!
//! Owns: [`Event`] (in), [`Effect`] (out), the shapes of asks and replies.

use std::sync::Arc;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{CoordinatorEpoch, PartitionId, ProducerId};
use dejaq_wire::record::control::EndTxnMarker;

use super::record::Record;
use super::state::State;
pub use crate::coordinator::machine::{Now, Ticket, Token, Who};

/// A partition that a transaction writes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
}

/// One request about one transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Begin a new life of the id: whoever had it is fenced, what it left open is aborted.
    Init {
        /// How long a transaction may be open.
        timeout_ms: i32,
        /// Who the client was, if it goes on.
        was: Option<Who>,
        /// An id that nobody has, for one who has none yet or whose epochs are used up.
        fresh: ProducerId,
    },
    /// Partitions join the transaction, which begins if none is open.
    Add {
        /// Who.
        who: Who,
        /// Which.
        partitions: Vec<At>,
    },
    /// Tell whether these partitions are in the open transaction.
    Verify {
        /// Who.
        who: Who,
        /// Which.
        partitions: Vec<At>,
    },
    /// Commit or abort.
    End {
        /// Who.
        who: Who,
        /// Whether to commit.
        commit: bool,
        /// The client takes a new epoch with the answer (KIP-890, transaction version 2).
        bumps: bool,
        /// An id that nobody has, in case its epochs are used up.
        fresh: ProducerId,
    },
    /// Tell how it stands.
    Describe,
    /// Tell how all ids of the shard stand; the id is not looked at.
    List,
}

/// One id of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The transactional id.
    pub id: Arc<str>,
    /// Whose it is.
    pub who: Who,
    /// Its state.
    pub state: State,
    /// Since when a transaction is open, or -1.
    pub start_ms: i64,
}

/// How a transaction stands (DescribeTransactions, ListTransactions).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its state.
    pub state: State,
    /// Whose.
    pub who: Who,
    /// How long a transaction may be open.
    pub timeout_ms: i32,
    /// Since when it is open, or -1.
    pub start_ms: i64,
    /// Partitions that are in it.
    pub partitions: Vec<At>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To [`Ask::Init`] and [`Ask::End`]: who the client is from now on.
    Producer(Who),
    /// To [`Ask::Add`] and [`Ask::Verify`].
    Done,
    /// To [`Ask::Describe`].
    Described(Box<Described>),
    /// To [`Ask::List`].
    Listed(Vec<Listed>),
    /// To any: nothing was changed for it.
    Refused(ErrorCode),
}

/// Something happened to a shard.
#[derive(Debug, Clone)]
pub enum Event {
    /// A request came.
    Asked {
        /// Where its reply goes.
        token: Token,
        /// About which transactional id.
        id: Arc<str>,
        /// What it asks.
        ask: Ask,
    },
    /// A write ended: its record is below the watermark of the epoch that wrote it, or for certain not in the log.
    Written {
        /// Which.
        ticket: Ticket,
        /// How.
        result: Result<(), ErrorCode>,
    },
    /// The marker of this errand is below the watermark of this partition, or the partition is gone for good.
    Marked {
        /// Which errand.
        errand: Errand,
        /// Where.
        at: At,
    },
    /// Time passed.
    Tick,
}

/// Names one decision and its markers, so that a late answer about another one changes nothing (TXN-15).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Errand {
    /// Of which transactional id.
    pub id: Arc<str>,
    /// Never used twice in a shard.
    pub number: u64,
}

/// What the shell must do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Answer a request. Everything that the answer speaks of is durable.
    Reply {
        /// Which request.
        token: Token,
        /// What.
        reply: Reply,
    },
    /// Append this record, and report [`Event::Written`]. Writes are appended in the order given.
    Write {
        /// To report by.
        ticket: Ticket,
        /// What.
        record: Record,
    },
    /// Bring this marker into each partition, trying until it is there, and report [`Event::Marked`] for each. The
    /// decision is durable.
    Mark {
        /// To report by.
        errand: Errand,
        /// What; its coordinator epoch is that of the shard.
        marker: EndTxnMarker,
        /// Where.
        partitions: Vec<At>,
    },
}

/// The epoch of a coordinator is the leader epoch of its partition.
#[must_use]
pub fn coordinator_epoch(leader_epoch: dejaq_wire::ids::LeaderEpoch) -> CoordinatorEpoch {
    CoordinatorEpoch(leader_epoch.0)
}
