//! What a group is asked, what it answers, and what must be done in between.
//!
//! Owns: [`Event`] (in), [`Effect`] (out), and the shapes of asks and replies. Requests and answers that the protocol
//! has for one group are the wire's own; the rest is ours, because the wire asks for several groups at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use dejaq_storage::TxnGuard;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::Generation;
use dejaq_wire::kafka::consumer_group_describe::DescribedGroup as DescribedConsumers;
use dejaq_wire::kafka::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
};
use dejaq_wire::kafka::describe_groups::DescribedGroup;
use dejaq_wire::kafka::heartbeat::HeartbeatRequest;
use dejaq_wire::kafka::join_group::{JoinGroupRequest, JoinGroupResponse};
use dejaq_wire::kafka::leave_group::{MemberIdentity, MemberResponse};
use dejaq_wire::kafka::list_groups::ListedGroup;
use dejaq_wire::kafka::sync_group::{SyncGroupRequest, SyncGroupResponse};
use dejaq_wire::record::control::EndTxnMarker;

use crate::coordinator::machine::Who;
pub use crate::coordinator::machine::{Now, Ticket, Token};
use crate::coordinator::record::{At, Committed, Record};

/// A request to join.
#[derive(Debug, Clone)]
pub struct JoinAsk {
    /// As it came.
    pub request: JoinGroupRequest,
    /// What the client calls itself.
    pub client_id: String,
    /// From where it came.
    pub client_host: String,
    /// The client knows MEMBER_ID_REQUIRED (KIP-394).
    pub knows_member_ids: bool,
    /// The client knows that a leader may have nothing to do (KIP-814).
    pub knows_skipping: bool,
    /// For the id of a new member.
    pub entropy: u128,
}

/// A heartbeat of KIP-848.
#[derive(Debug, Clone)]
pub struct BeatAsk {
    /// As it came.
    pub request: ConsumerGroupHeartbeatRequest,
    /// What the client calls itself.
    pub client_id: String,
    /// From where it came.
    pub client_host: String,
    /// For the id of a new member that brings none.
    pub entropy: u128,
}

/// A request to leave.
#[derive(Debug, Clone)]
pub struct LeaveAsk {
    /// The group.
    pub group: String,
    /// Who leaves.
    pub members: Vec<MemberIdentity>,
}

/// A request to keep offsets.
#[derive(Debug, Clone)]
pub struct CommitAsk {
    /// The group.
    pub group: String,
    /// Who commits; empty for nobody in particular.
    pub member: String,
    /// Its instance id, if it is static.
    pub instance: Option<String>,
    /// Its generation; none for nobody in particular.
    pub generation: Generation,
    /// What to keep.
    pub offsets: Vec<(At, Committed)>,
}

/// A request to keep offsets if the transaction of a producer is committed (KIP-447). Its coordinator has said that the
/// partition of the offsets topic is in the transaction.
#[derive(Debug, Clone)]
pub struct TxnCommitAsk {
    /// Whose transaction.
    pub who: Who,
    /// How that stood in the log before the coordinator was asked.
    pub guard: TxnGuard,
    /// What to keep.
    pub commit: CommitAsk,
}

/// One request, for one group (or, to list, for all).
#[derive(Debug, Clone)]
pub enum Ask {
    /// Enter, or enter again.
    Join(Box<JoinAsk>),
    /// Hand in the plan, or get one's part.
    Sync(SyncGroupRequest),
    /// Say that one lives.
    Heartbeat(HeartbeatRequest),
    /// Join, live, give up or leave, by KIP-848.
    Beat(Box<BeatAsk>),
    /// Leave.
    Leave(LeaveAsk),
    /// Keep offsets.
    Commit(CommitAsk),
    /// Keep offsets when a transaction is committed.
    CommitInTxn(TxnCommitAsk),
    /// A transaction has ended: its offsets are kept or forgotten, in every group of the shard.
    EndTxn(EndTxnMarker),
    /// Tell offsets: of these partitions, or of all.
    Fetch {
        /// The group.
        group: String,
        /// Which; `None` for all.
        wanted: Option<Vec<At>>,
        /// Who asks, and its epoch; `None` for nobody in particular.
        member: Option<(String, Generation)>,
    },
    /// Forget offsets.
    Forget {
        /// The group.
        group: String,
        /// Which.
        offsets: Vec<At>,
    },
    /// Tell state and members.
    Describe {
        /// The group.
        group: String,
    },
    /// Tell state and members of a group of KIP-848.
    DescribeConsumers {
        /// The group.
        group: String,
    },
    /// Forget the group.
    Delete {
        /// The group.
        group: String,
    },
    /// Tell which groups there are.
    List,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To [`Ask::Join`].
    Join(JoinGroupResponse),
    /// To [`Ask::Sync`].
    Sync(SyncGroupResponse),
    /// To [`Ask::Beat`].
    Beat(Box<ConsumerGroupHeartbeatResponse>),
    /// To [`Ask::Heartbeat`], [`Ask::Delete`] and [`Ask::EndTxn`].
    Code(ErrorCode),
    /// To [`Ask::Leave`]: each member's result.
    Leave(Vec<MemberResponse>),
    /// To [`Ask::Commit`], [`Ask::CommitInTxn`] and [`Ask::Forget`]: each partition's result.
    Partitions(Vec<(At, ErrorCode)>),
    /// To [`Ask::Fetch`]: the partitions that were wanted, each with its offset if one is kept; and of which of them a
    /// transaction that is not decided may change the offset.
    Offsets(Vec<(At, Option<Committed>)>, BTreeSet<At>),
    /// To [`Ask::Describe`]; `None` if there is no such group.
    Described(Option<Box<DescribedGroup>>),
    /// To [`Ask::DescribeConsumers`]; `None` if there is no such group of that kind.
    DescribedConsumers(Option<Box<DescribedConsumers>>),
    /// To [`Ask::List`].
    Listed(Vec<ListedGroup>),
    /// To [`Ask::Forget`] and [`Ask::Fetch`]: nothing was even looked at.
    Refused(ErrorCode),
}

/// Something happened to a shard.
#[derive(Debug, Clone)]
pub enum Event {
    /// A request came.
    Asked {
        /// Where its reply goes.
        token: Token,
        /// What it asks.
        ask: Ask,
    },
    /// A write ended: its records are below the watermark of the epoch that wrote them, or for certain not in the log.
    Written {
        /// Which.
        ticket: Ticket,
        /// How.
        result: Result<(), ErrorCode>,
    },
    /// Time passed.
    Tick,
    /// These topics are deleted: nobody needs to know how far anyone was in them.
    TopicsDeleted(Vec<Arc<str>>),
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
    /// Append these records in one batch, and report [`Event::Written`]. Writes are appended in the order given.
    Write {
        /// To report by.
        ticket: Ticket,
        /// What.
        records: Vec<Record>,
    },
    /// As [`Effect::Write`], in a transaction.
    WriteInTxn {
        /// To report by.
        ticket: Ticket,
        /// Whose.
        who: Who,
        /// How it stood.
        guard: TxnGuard,
        /// What.
        records: Vec<Record>,
    },
    /// As [`Effect::Write`], the end of a transaction.
    WriteMarker {
        /// To report by.
        ticket: Ticket,
        /// What.
        marker: EndTxnMarker,
    },
}
