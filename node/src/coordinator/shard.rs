//! SHELL. One partition of the offsets topic, and the groups that live in it, for one leader epoch.
//!
//! Owns: the groups while this node leads the partition in that epoch; requests that wait; writes on their way.
//! Promises: it serves only after everything was read to the end that the log had when the epoch began, and that end
//! is below the watermark (GRP-8); every record goes through the partition's one way in, with acks=all and only in
//! this epoch, and a reply leaves when its own record is below the watermark of this epoch (GRP-9); when the epoch is
//! over, whoever waits is dropped, which `shards` answers as NOT_COORDINATOR in one place.
//! Leaves out: rules (`group`), which partitions are led here (`shards`).
//!
//! ```text
//!  load ─► mail, outcomes of writes, time ─► Groups::step ─► replies
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
use dejaq_wire::record::{BatchBuilder, Batches, Compression, NewRecord};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{debug, error, warn};

use super::group::ask::{Now, Ticket, Token};
use super::group::load::Loading;
use super::group::{Ask, Effect, Event, Groups, Reply, Settings};
use super::record::Record;
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

/// What comes into a shard.
pub(super) enum Mail {
    /// A request, and where its reply goes.
    Ask(Ask, oneshot::Sender<Reply>),
    /// Topics are deleted.
    TopicsDeleted(Vec<Arc<str>>),
}

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
    pub(super) groups: AtomicU64,
    pub(super) members: AtomicU64,
    pub(super) rebalances: AtomicU64,
}

impl Shared {
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
pub(super) fn start<R: Runtime>(
    runtime: &R,
    partition: Arc<Partition<R>>,
    epoch: LeaderEpoch,
    published: Published,
    settings: Settings,
) -> (mpsc::Sender<Mail>, Arc<Shared>) {
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    let shared = Arc::new(Shared::default());
    let shard = Shard {
        runtime: runtime.clone(),
        partition,
        epoch,
        published,
        settings,
        mailbox,
        shared: shared.clone(),
        next_token: 0,
        asked: BTreeMap::new(),
        writing: VecDeque::new(),
    };
    runtime.spawn("coordinator", shard.run());
    (sender, shared)
}

struct Shard<R: Runtime> {
    runtime: R,
    partition: Arc<Partition<R>>,
    epoch: LeaderEpoch,
    published: Published,
    settings: Settings,
    mailbox: mpsc::Receiver<Mail>,
    shared: Arc<Shared>,
    next_token: u64,
    asked: BTreeMap<Token, oneshot::Sender<Reply>>,
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

impl<R: Runtime> Shard<R> {
    async fn run(mut self) {
        let (name, began) = (self.partition.name(), self.runtime.now());
        let mut groups = match self.load().await {
            Ok(groups) => groups,
            Err(NotLoaded::Over) => return,
            Err(NotLoaded::Unreadable(why)) => {
                error!(
                    partition = name,
                    why, "the groups of this partition cannot be read: they are not served"
                );
                self.shared.set(Phase::Failed);
                let until = self.runtime.now().plus(FAILED_PAUSE);
                self.runtime.before(until, self.shared.stop.notified()).await;
                return;
            }
        };
        let took_ms = u64::try_from(self.runtime.now().since(began).as_millis()).unwrap_or(u64::MAX);
        debug!(partition = name, epoch = self.epoch.0, groups = groups.len(), took_ms, "coordinates");
        self.publish(&groups);
        self.shared.set(Phase::Active);
        while self.turn(&mut groups).await.is_ok() {
            self.publish(&groups);
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

    fn publish(&self, groups: &Groups) {
        self.shared.groups.store(groups.len() as u64, Ordering::Relaxed);
        self.shared.members.store(groups.members() as u64, Ordering::Relaxed);
        self.shared.rebalances.store(groups.rebalances(), Ordering::Relaxed);
    }

    /// Waits for something to do, and does all that is there.
    async fn turn(&mut self, groups: &mut Groups) -> Result<(), Over> {
        let deadline = groups.next_deadline();
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
        groups.see(self.published.current());
        let mut effects = Vec::new();
        for (ticket, outcome) in outcomes {
            let result = judge(outcome)?;
            groups.step(Event::Written { ticket, result }, now, &mut effects);
        }
        for one in mail {
            let event = match one {
                Mail::TopicsDeleted(names) => Event::TopicsDeleted(names),
                Mail::Ask(ask, reply) => {
                    let token = Token(self.next_token);
                    self.next_token += 1;
                    self.asked.insert(token, reply);
                    Event::Asked { token, ask }
                }
            };
            groups.step(event, now, &mut effects);
        }
        if groups.next_deadline() <= now.mono {
            groups.step(Event::Tick, now, &mut effects);
        }
        self.carry_out(effects, now.unix_ms);
        Ok(())
    }

    fn carry_out(&mut self, effects: Vec<Effect>, unix_ms: i64) {
        let mut writes = Vec::new();
        for effect in effects {
            match effect {
                Effect::Reply { token, reply } => {
                    let asker = self.asked.remove(&token).expect("every request is answered once");
                    let _ = asker.send(reply); // the client may be gone
                }
                Effect::Write { ticket, records } => {
                    let (outcome, receiver) = oneshot::channel();
                    // M43: acknowledged when it is appended, whatever becomes of it.
                    let required = if mutant!(43) { Required::Leader } else { Required::All };
                    let batch = batch(&records, unix_ms);
                    writes.push(Write { batch, required, only_in: self.epoch, outcome });
                    self.writing.push_back((ticket, receiver));
                }
            }
        }
        if !writes.is_empty() {
            self.partition.write(writes);
        }
    }

    /// Reads the whole log, as it was when this epoch began.
    async fn load(&mut self) -> Result<Groups, NotLoaded> {
        let reader = self.partition.view().reader().clone();
        let end = reader.end();
        self.wait_for_watermark(end).await?;
        let mut loading = Loading::default();
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
            replay(read.batches, &mut loading).map_err(NotLoaded::Unreadable)?;
            if read.next <= at {
                mark!("the offsets topic ends in a gap");
                break;
            }
            at = read.next;
        }
        Ok(loading.finish(self.settings.clone(), self.now()))
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

/// What a group is told of a write: it is there, or for certain not. Anything else ends the shard, since then only
/// the log knows.
fn judge(outcome: Option<Outcome>) -> Result<Result<(), ErrorCode>, Over> {
    let error = match outcome {
        None => return Err(Over),
        Some(Ok(_)) => return Ok(Ok(())),
        Some(Err(error)) => error,
    };
    match error {
        WriteError::Abandoned(_) | WriteError::Refused(Refused::Resigned(_)) => Err(Over),
        WriteError::Refused(Refused::NotEnoughReplicas | Refused::Overloaded) => {
            Ok(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE))
        }
        WriteError::Append(AppendError::DiskFull) => Ok(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE)),
        WriteError::Append(AppendError::TooLarge) => Ok(Err(ErrorCode::UNKNOWN_SERVER_ERROR)),
        WriteError::Append(error) => {
            warn!(%error, "a write of groups failed");
            Err(Over)
        }
    }
}

fn batch(records: &[Record], timestamp_ms: i64) -> VerifiedBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    for record in records {
        let (key, value) = record.encode();
        builder.append(&NewRecord {
            timestamp_ms,
            key: Some(&key),
            value: value.as_deref(),
            ..Default::default()
        });
    }
    let bytes = builder.build().expect("nothing is compressed").to_bytes();
    VerifiedBatch::verify(bytes).expect("we built it")
}

fn replay(batches: bytes::Bytes, loading: &mut Loading) -> Result<(), String> {
    for batch in Batches::new(batches) {
        let batch = batch.map_err(|error| error.to_string())?;
        if batch.header.is_control() {
            continue;
        }
        for record in batch.records(BATCH_LIMIT).map_err(|error| error.to_string())? {
            let record = record.map_err(|error| error.to_string())?;
            let Some(key) = &record.key else { continue };
            if let Some(known) =
                Record::decode(key, record.value.as_ref()).map_err(|error| error.to_string())?
            {
                loading.replay(known);
            }
        }
    }
    Ok(())
}
