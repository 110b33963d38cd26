//! What a shard drives: a pure machine that keeps its state in one partition of an internal topic.
//!
//! Owns: [`Machine`], what goes into one and what comes out ([`Todo`]), the names [`Token`] and [`Ticket`].
//! Promises: nothing; these are values. The promises are those of `shard`, which are the same for every machine.
//! Leaves out: rules (`group`, `txn`), time, bytes on disk. Implemented in `group::machine` and `txn::machine`.
//!
//! ```text
//!  asked, written, heard, tick ─► Machine ─► Todo: Reply │ Write │ Errand (what is to be done outside of the log)
//! ```

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use dejaq_storage::TxnGuard;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use dejaq_wire::record::control::EndTxnMarker;
use tokio::sync::mpsc;

use crate::metadata::Image;
use crate::runtime::Mono;

/// Names one request that waits for its reply. Never used twice in a shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "q{}", self.0)
    }
}

/// Names one write that was asked for. Never used twice in a shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.0)
    }
}

/// The two clocks at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For deadlines.
    pub mono: Mono,
    /// For what outlives the process.
    pub unix_ms: i64,
}

/// A producer in one of its epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who {
    /// Its producer id.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
}

/// Key and value of one record; no value deletes the key.
pub type KeyValue = (Bytes, Option<Bytes>);

/// One batch for the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Batch {
    /// Records that stand for themselves.
    Plain(Vec<KeyValue>),
    /// Records that count when the transaction of their producer is committed.
    InTxn(Who, TxnGuard, Vec<KeyValue>),
    /// The end of a transaction.
    Marker(EndTxnMarker),
}

/// What must be done, in this order.
pub enum Todo<M: Machine> {
    /// Answer a request. Everything that the answer speaks of is durable.
    Reply(Token, M::Reply),
    /// Append this batch, and tell [`Machine::written`]. Batches are appended in the order given.
    Write(Ticket, Batch),
    /// Have this done elsewhere, and tell [`Machine::heard`].
    Errand(M::Errand),
}

/// What all shards of a kind count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Groups, or transactional ids.
    pub held: u64,
    /// Members of groups, or open transactions.
    pub active: u64,
    /// Rebalances, or transactions that were aborted for their age, since the node began.
    pub turns: u64,
}

/// A pure machine that lives in one partition of an internal topic.
pub trait Machine: Sized + Send + 'static {
    /// The topic.
    const TOPIC: &'static str;
    /// What a task of it is called.
    const TASK: &'static str;
    /// What it is allowed.
    type Settings: Clone + Send + Sync + 'static;
    /// A request.
    type Ask: Send + 'static;
    /// Its answer.
    type Reply: Send + 'static;
    /// What happened outside.
    type News: Clone + Send + 'static;
    /// What is to be done outside.
    type Errand: Send + 'static;
    /// One that is being read back.
    type Loading: Default + Send;

    /// Takes the next record of the log; `of` is the producer whose transaction it is in.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn replay(
        loading: &mut Self::Loading,
        of: Option<Who>,
        key: &Bytes,
        value: Option<&Bytes>,
    ) -> Result<(), String>;

    /// Takes the end of a transaction, from the log.
    fn replay_marker(loading: &mut Self::Loading, marker: &EndTxnMarker);

    /// The machine as it stands at the end of the log, for a leader in `epoch`.
    fn begin(
        loading: Self::Loading,
        settings: Self::Settings,
        epoch: LeaderEpoch,
        now: Now,
        todo: &mut Vec<Todo<Self>>,
    ) -> Self;

    /// Takes the metadata of now.
    fn see(&mut self, image: Arc<Image>);

    /// A request came.
    fn asked(&mut self, token: Token, ask: Self::Ask, now: Now, todo: &mut Vec<Todo<Self>>);

    /// A write ended: its records are below the watermark of the epoch that wrote them, or for certain not in the log.
    fn written(
        &mut self,
        ticket: Ticket,
        result: Result<(), ErrorCode>,
        now: Now,
        todo: &mut Vec<Todo<Self>>,
    );

    /// Something happened outside.
    fn heard(&mut self, news: Self::News, now: Now, todo: &mut Vec<Todo<Self>>);

    /// Time passed.
    fn tick(&mut self, now: Now, todo: &mut Vec<Todo<Self>>);

    /// When [`Machine::tick`] has something to do.
    fn next_deadline(&self) -> Mono;

    /// What it counts.
    fn counts(&self) -> Counts;

    /// What it is to hear of topics that are gone.
    fn deleted(topics: &[Arc<str>]) -> Option<Self::News>;
}

/// What comes into a shard.
pub enum Mail<M: Machine> {
    /// A request, and where its reply goes.
    Ask(M::Ask, tokio::sync::oneshot::Sender<M::Reply>),
    /// What happened outside.
    News(M::News),
}

/// Tells one shard, in one epoch, what happened outside.
pub struct Teller<M: Machine>(pub(super) mpsc::Sender<Mail<M>>);

impl<M: Machine> Teller<M> {
    /// Whether the shard is over: nobody needs to know any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until the shard is over. Cancel safe.
    pub async fn over(&self) {
        self.0.closed().await;
    }

    /// Tells it; a shard that is over does not hear it.
    pub async fn tell(&self, news: M::News) {
        let _over = self.0.send(Mail::News(news)).await;
    }
}

/// Has errands done.
pub trait Carrier<M: Machine>: Send + Sync + 'static {
    /// Begins one; it ends by itself when the shard is over.
    fn carry(&self, errand: M::Errand, teller: Teller<M>);
}

/// For machines that have none.
pub struct NoErrands;

impl<M: Machine<Errand = std::convert::Infallible>> Carrier<M> for NoErrands {
    fn carry(&self, errand: M::Errand, _: Teller<M>) {
        match errand {}
    }
}
