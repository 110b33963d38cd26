//! SHELL. One partition of an internal topic, and the machine that lives in it, for one leader epoch.
//!
//! Owns: the machine while this node leads the partition in that epoch; requests that wait; writes on their way.
//! Promises: it serves only after everything was read to the end that the log had when the epoch began, and that end
//! is below the watermark (GRP-8); every record goes through the partition's one way in, with acks=all and only in
//! this epoch, and a reply leaves when its own record is below the watermark of this epoch (GRP-9); when the epoch is
//! over, whoever waits is dropped, which `shards` answers as NOT_COORDINATOR in one place.
//! Leaves out: rules (`group`, `txn`), which partitions are led here (`shards`), errands (`markers`).
//!
//! ```text
//!  load ─► mail, outcomes of writes, time ─► Machine ─► replies, errands
//!            ▲                                   └─ records ─► Partition::write ─► outcomes
//!            └ one turn: all mail that is there, all its records in one append, one sync for all
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use dejaq_storage::{AppendError, ReadAsk, ReadError, VerifiedBatch, mark, mutant};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::LeaderEpoch;
use dejaq_wire::record::control::EndTxnMarker;
use dejaq_wire::record::{BatchBuilder, Batches, Compression, NewRecord};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{debug, error, warn};

use super::machine::{Batch, Carrier, Counts, Machine, Mail, Now, Teller, Ticket, Todo, Token, Who};
use crate::metadata::Published;
use crate::replica::Partition;
use crate::replica::leader::{Refused, Required};
use crate::replica::write::{Outcome, Write, WriteError};
use crate::runtime::Runtime;

/// Requests that may wait in a shard; more wait at the door until their deadline.
const MAILBOX: usize = 1024;
/// Requests of one turn at most, so that time passes under load, too.
const TURN: usize = 256;
/// Bytes of one read while loading.
const LOAD_BYTES: usize = 1 << 20;
/// Most bytes that one batch of the topic may hold; ours are not compressed.
const BATCH_LIMIT: usize = 128 << 20;
/// How long a shard that could not be loaded answers so before it is tried again.
const FAILED_PAUSE: Duration = Duration::from_secs(5);

/// How far a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Loading,
    Active,
    /// Its log cannot be read; it is tried again.
    Failed,
}

/// What others may see of a shard.
#[derive(Debug, Default)]
pub(super) struct Shared {
    phase: AtomicU8,
    is_stopping: AtomicBool,
    stop: Notify,
    held: AtomicU64,
    active: AtomicU64,
    turns: AtomicU64,
}

impl Shared {
    /// What its machine counts.
    pub(super) fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { held: of(&self.held), active: of(&self.active), turns: of(&self.turns) }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Loading,
            1 => Phase::Active,
            _ => Phase::Failed,
        }
    }

    fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Ends the shard. Whoever waits in it is dropped.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.stop.notify_one();
    }
}

/// Starts a shard.
pub(super) fn start<R: Runtime, M: Machine>(
    runtime: &R,
    partition: Arc<Partition<R>>,
    epoch: LeaderEpoch,
    published: Published,
    settings: M::Settings,
    carrier: Arc<dyn Carrier<M>>,
) -> (mpsc::Sender<Mail<M>>, Arc<Shared>) {
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    let shared = Arc::new(Shared::default());
    let shard = Shard {
        runtime: runtime.clone(),
        partition,
        epoch,
        published,
        settings,
        carrier,
        door: sender.downgrade(),
        mailbox,
        shared: shared.clone(),
        next_token: 0,
        asked: BTreeMap::new(),
        writing: VecDeque::new(),
    };
    runtime.spawn(M::TASK, shard.run());
    (sender, shared)
}

struct Shard<R: Runtime, M: Machine> {
    runtime: R,
    partition: Arc<Partition<R>>,
    epoch: LeaderEpoch,
    published: Published,
    settings: M::Settings,
    carrier: Arc<dyn Carrier<M>>,
    /// Its own mailbox, for those who do errands.
    door: mpsc::WeakSender<Mail<M>>,
    mailbox: mpsc::Receiver<Mail<M>>,
    shared: Arc<Shared>,
    next_token: u64,
    asked: BTreeMap<Token, oneshot::Sender<M::Reply>>,
    /// In the order of the log.
    writing: VecDeque<(Ticket, oneshot::Receiver<Outcome>)>,
}

/// Why a shard was not loaded.
enum NotLoaded {
    /// Its epoch is over.
    Over,
    /// The log cannot be read.
    Unreadable(String),
}

/// This node leads the partition in this epoch no longer.
struct Over;

impl<R: Runtime, M: Machine> Shard<R, M> {
    async fn run(mut self) {
        let (name, began) = (self.partition.name(), self.runtime.now());
        let loading = match self.load().await {
            Ok(loading) => loading,
            Err(NotLoaded::Over) => return,
            Err(NotLoaded::Unreadable(why)) => {
                error!(
                    partition = name,
                    why, "what this partition coordinates cannot be read: it is not served"
                );
                self.shared.set(Phase::Failed);
                let until = self.runtime.now().plus(FAILED_PAUSE);
                self.runtime.before(until, self.shared.stop.notified()).await;
                return;
            }
        };
        let (now, mut todo) = (self.now(), Vec::new());
        let mut machine = M::begin(loading, self.settings.clone(), self.epoch, now, &mut todo);
        self.carry_out(todo, now.unix_ms);
        let held = machine.counts().held;
        let took_ms = u64::try_from(self.runtime.now().since(began).as_millis()).unwrap_or(u64::MAX);
        debug!(partition = name, epoch = self.epoch.0, held, took_ms, "coordinates");
        self.publish(&machine);
        self.shared.set(Phase::Active);
        while self.turn(&mut machine).await.is_ok() {
            self.publish(&machine);
        }
        debug!(partition = name, epoch = self.epoch.0, waiting = self.asked.len(), "coordinates no longer");
    }

    fn is_over(&self) -> bool {
        let view = self.partition.view();
        self.shared.is_stopping.load(Ordering::Acquire)
            || self.partition.stopped().is_some()
            || view.epoch() != self.epoch
    }

    fn now(&self) -> Now {
        Now { mono: self.runtime.now(), unix_ms: self.runtime.unix_ms() }
    }

    fn publish(&self, machine: &M) {
        let counts = machine.counts();
        self.shared.held.store(counts.held, Ordering::Relaxed);
        self.shared.active.store(counts.active, Ordering::Relaxed);
        self.shared.turns.store(counts.turns, Ordering::Relaxed);
    }

    /// Waits for something to do, and does all that is there.
    async fn turn(&mut self, machine: &mut M) -> Result<(), Over> {
        let deadline = machine.next_deadline();
        let mut outcomes = Vec::new();
        let mut mail = Vec::new();
        tokio::select! {
            biased; // the end first; then replies that others wait for; then requests; then time
            () = self.shared.stop.notified() => return Err(Over),
            outcome = first(&mut self.writing) => outcomes.push(outcome),
            count = self.mailbox.recv_many(&mut mail, TURN) => if count == 0 { return Err(Over) },
            () = self.runtime.sleep_until(deadline) => {}
        }
        while let Some((ticket, receiver)) = self.writing.front_mut()
            && let Ok(outcome) = receiver.try_recv()
        {
            outcomes.push((*ticket, Some(outcome)));
            self.writing.pop_front();
        }
        if self.is_over() {
            return Err(Over);
        }
        let now = self.now();
        machine.see(self.published.current());
        let mut todo = Vec::new();
        for (ticket, outcome) in outcomes {
            machine.written(ticket, judge(outcome)?, now, &mut todo);
        }
        for one in mail {
            match one {
                Mail::News(news) => machine.heard(news, now, &mut todo),
                Mail::Ask(ask, reply) => {
                    let token = Token(self.next_token);
                    self.next_token += 1;
                    self.asked.insert(token, reply);
                    machine.asked(token, ask, now, &mut todo);
                }
            }
        }
        if machine.next_deadline() <= now.mono {
            machine.tick(now, &mut todo);
        }
        self.carry_out(todo, now.unix_ms);
        Ok(())
    }

    fn carry_out(&mut self, todo: Vec<Todo<M>>, unix_ms: i64) {
        let mut writes = Vec::new();
        for one in todo {
            match one {
                Todo::Reply(token, reply) => {
                    let asker = self.asked.remove(&token).expect("every request is answered once");
                    let _ = asker.send(reply); // the client may be gone
                }
                Todo::Write(ticket, batch) => {
                    let (outcome, receiver) = oneshot::channel();
                    // M43: acknowledged when it is appended, whatever becomes of it.
                    let required = if mutant!(43) { Required::Leader } else { Required::All };
                    let batch = encode(batch, unix_ms);
                    writes.push(Write { batch, required, only_in: self.epoch, outcome });
                    self.writing.push_back((ticket, receiver));
                }
                Todo::Errand(errand) => {
                    // A shard whose door is gone is over, and so are its errands.
                    if let Some(door) = self.door.upgrade() {
                        self.carrier.carry(errand, Teller(door));
                    }
                }
            }
        }
        if !writes.is_empty() {
            self.partition.write(writes);
        }
    }

    /// Reads the whole log, as it was when this epoch began.
    async fn load(&mut self) -> Result<M::Loading, NotLoaded> {
        let reader = self.partition.view().reader().clone();
        let end = reader.end();
        self.wait_for_watermark(end).await?;
        let mut loading = M::Loading::default();
        let mut at = reader.start();
        while at < end {
            if self.is_over() {
                return Err(NotLoaded::Over);
            }
            let ask = ReadAsk { offset: at, max_bytes: LOAD_BYTES, at_least_one: true, end_bound: end };
            let read = match reader.read(ask).await {
                Ok(read) => read,
                Err(ReadError::OutOfRange { start, .. }) if start > at => {
                    at = start;
                    continue;
                }
                Err(error) => return Err(NotLoaded::Unreadable(error.to_string())),
            };
            replay::<M>(read.batches, &mut loading).map_err(NotLoaded::Unreadable)?;
            if read.next <= at {
                mark!("an internal topic ends in a gap");
                break;
            }
            at = read.next;
        }
        Ok(loading)
    }

    /// What earlier leaders left is ours to serve once it cannot be taken back.
    async fn wait_for_watermark(&self, end: dejaq_wire::ids::Offset) -> Result<(), NotLoaded> {
        loop {
            let (view, waiter) = (self.partition.view(), Arc::new(Notify::new()));
            let seen = view.watermark();
            if self.is_over() {
                return Err(NotLoaded::Over);
            }
            if seen >= end {
                return Ok(());
            }
            if !view.watch(&waiter, seen) {
                tokio::select! {
                    biased; // the end first
                    () = self.shared.stop.notified() => return Err(NotLoaded::Over),
                    () = waiter.notified() => {}
                }
            }
        }
    }
}

/// The outcome of the oldest write; waits for ever if there is none. Cancel safe.
async fn first(writing: &mut VecDeque<(Ticket, oneshot::Receiver<Outcome>)>) -> (Ticket, Option<Outcome>) {
    let Some((ticket, receiver)) = writing.front_mut() else { return future::pending().await };
    let (ticket, outcome) = (*ticket, receiver.await.ok());
    writing.pop_front();
    (ticket, outcome)
}

/// What a machine is told of a write: it is there, or for certain not. Anything else ends the shard, since then only
/// the log knows.
fn judge(outcome: Option<Outcome>) -> Result<Result<(), ErrorCode>, Over> {
    let error = match outcome {
        None => return Err(Over),
        Some(Ok(_)) => return Ok(Ok(())),
        Some(Err(error)) => error,
    };
    match error {
        // A coordinator waits for the watermark, and is never told that too few are in sync.
        WriteError::Abandoned(_) | WriteError::TooFew | WriteError::Refused(Refused::Resigned(_)) => {
            Err(Over)
        }
        WriteError::Refused(Refused::NotEnoughReplicas | Refused::Overloaded) => {
            Ok(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE))
        }
        WriteError::Append(AppendError::DiskFull | AppendError::TooManyProducers) => {
            Ok(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE))
        }
        WriteError::Append(AppendError::StaleProducer { .. }) => Ok(Err(ErrorCode::INVALID_PRODUCER_EPOCH)),
        WriteError::Append(AppendError::StaleCoordinator { .. }) => {
            Ok(Err(ErrorCode::TRANSACTION_COORDINATOR_FENCED))
        }
        WriteError::NotVouched(code) => Ok(Err(code)),
        WriteError::Append(AppendError::NotVerified) => Ok(Err(ErrorCode::INVALID_TXN_STATE)),
        WriteError::Append(AppendError::TooLarge) => Ok(Err(ErrorCode::UNKNOWN_SERVER_ERROR)),
        WriteError::Append(error) => {
            warn!(%error, "a write of a coordinator failed");
            Err(Over)
        }
    }
}

fn encode(batch: Batch, timestamp_ms: i64) -> VerifiedBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    let (records, guard) = match batch {
        Batch::Plain(records) => (records, None),
        Batch::InTxn(who, guard, records) => {
            builder.transactional = true;
            builder.producer_id = who.producer_id;
            builder.producer_epoch = who.epoch;
            (records, Some(guard))
        }
        Batch::Marker(marker) => {
            return VerifiedBatch::verify(marker.batch(timestamp_ms).to_bytes()).expect("we built it");
        }
    };
    for (key, value) in &records {
        builder.append(&NewRecord {
            timestamp_ms,
            key: Some(key),
            value: value.as_deref(),
            ..Default::default()
        });
    }
    let bytes = builder.build().expect("nothing is compressed").to_bytes();
    let batch = VerifiedBatch::verify(bytes).expect("we built it");
    match guard {
        Some(guard) => batch.guarded(guard),
        None => batch,
    }
}

fn replay<M: Machine>(batches: bytes::Bytes, loading: &mut M::Loading) -> Result<(), String> {
    for batch in Batches::new(batches) {
        let batch = batch.map_err(|error| error.to_string())?;
        let header = &batch.header;
        let who = Who { producer_id: header.producer_id, epoch: header.producer_epoch };
        let of = Some(who).filter(|_| header.is_transactional());
        for record in batch.records(BATCH_LIMIT).map_err(|error| error.to_string())? {
            let record = record.map_err(|error| error.to_string())?;
            if header.is_control() {
                EndTxnMarker::of(&batch, &record)
                    .into_iter()
                    .for_each(|marker| M::replay_marker(loading, &marker));
            } else if let Some(key) = &record.key {
                M::replay(loading, of, key, record.value.as_ref())?;
            }
        }
    }
    Ok(())
}
