//! SHELL. One partition that this node leads: a log and its leader behind an inbox and a turn.
//!
//! Owns: the log's writer and the pure [`Leader`], behind one short mutex that is never held across an await; the
//! inbox of writes; the view that it publishes.
//! Promises: whoever brings writes takes the turn if it is free and drains the inbox, so that contention becomes
//! batching: all batches of a turn go down with one append; outcomes leave in the order of the log; a write is
//! answered once. When the data directory fails, everything is refused from then on.
//! Leaves out: rules (`leader`), syncs (`flusher`), moving the start (`retention`), reading (`view`).
//! Called by `api::produce` with writes, by `flusher`, `retention` and `directory` for their part.
//!
//! ```text
//!  write ─► inbox ─► turn free? ─ yes ─► drain ─► log.append_leader ─► leader.step ─► effects, in order
//!                        └ no ─► whoever has it drains (looks again after giving it up)
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use dejaq_storage::{
    AppendError, Appended, CloseError, Disk, Flush, FlushError, Log, LogConfig, LogIdentity, ProducerSummary,
    mark, mutant,
};
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};
use tokio::sync::oneshot;

use super::acks::{self, Token};
use super::flusher::Flusher;
use super::health::Health;
use super::leader::{Effect, Event, Leader, Refused, Required, Resigned, Start};
use super::policy::Policy;
use super::view::View;
use super::write::{Outcome, Write, WriteError, Written};
use crate::runtime::Runtime;

/// Most writes in the inbox: more than one turn's worth of every connection, so that only a stuck turn fills it.
const INBOX: usize = acks::LIMIT;

/// Who leads, and with whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// Our own id.
    pub me: BrokerId,
    /// The epoch to lead in.
    pub epoch: LeaderEpoch,
    /// All replicas, us among them.
    pub replicas: Vec<BrokerId>,
    /// The in-sync ones, us among them.
    pub isr: Vec<BrokerId>,
}

/// One partition.
pub struct Partition<R: Runtime> {
    identity: LogIdentity,
    runtime: R,
    health: Arc<Health>,
    flusher: Arc<Flusher<R>>,
    view: View<R::Disk>,
    inbox: Mutex<VecDeque<Write>>,
    /// Short: pure steps and page-cache writes. Never held across an await; no other lock of ours is taken before it.
    turn: Mutex<Turn<R::Disk>>,
    /// Whoever moves the start, closes or deletes: one at a time.
    pub(super) start_moves: tokio::sync::Mutex<()>,
    pub(super) flush_queued: AtomicBool,
    pub(super) idle_queued: AtomicBool,
}

/// What the turn owns.
struct Turn<D: Disk> {
    /// `None` once closed or deleted; the leader has resigned then.
    log: Option<Log<D>>,
    leader: Leader,
    waiting: BTreeMap<Token, Waiting>,
    next_token: u64,
    effects: Vec<Effect>,
}

struct Waiting {
    outcome: oneshot::Sender<Outcome>,
    written: Written,
}

impl<R: Runtime> Partition<R> {
    /// Takes over an open log and starts to lead.
    ///
    /// # Errors
    /// The log refuses the epoch: it was written by a later leader, or it is sealed.
    pub fn start(
        mut log: Log<R::Disk>,
        leadership: &Leadership,
        policy: Policy,
        runtime: R,
        health: Arc<Health>,
        flusher: Arc<Flusher<R>>,
    ) -> Result<Arc<Partition<R>>, AppendError> {
        log.begin_epoch(leadership.epoch)?;
        let mut effects = Vec::new();
        let start = start_of(&log, log.start(), leadership, policy);
        let leader = Leader::start(start, &mut effects);
        let view = View::new(log.reader());
        let turn = Turn { log: Some(log), leader, waiting: BTreeMap::new(), next_token: 0, effects };
        let identity = turn.log.as_ref().map(Log::identity).expect("just put there").clone();
        let partition = Arc::new(Partition {
            identity,
            runtime,
            health,
            flusher,
            view,
            inbox: Mutex::default(),
            turn: Mutex::new(turn),
            start_moves: tokio::sync::Mutex::default(),
            flush_queued: AtomicBool::new(false),
            idle_queued: AtomicBool::new(false),
        });
        partition.with_turn(|turn| {
            partition.carry_out(turn);
            partition.view.publish_epoch(turn.leader.epoch(), turn.leader.epoch_start());
        });
        Ok(partition)
    }

    /// Which partition this is.
    pub fn identity(&self) -> &LogIdentity {
        &self.identity
    }

    /// What readers see.
    pub fn view(&self) -> &View<R::Disk> {
        &self.view
    }

    /// Why nothing may be read or written here now, if so.
    pub fn stopped(&self) -> Option<Resigned> {
        if self.health.is_offline() { Some(Resigned::Offline) } else { self.view.stopped() }
    }

    /// Appends batches, in order; each outcome comes by its own channel, often before this returns.
    ///
    /// Returns once the batches are in the inbox of a running turn or in the log. Nothing is durable yet.
    pub fn write(self: &Arc<Self>, writes: Vec<Write>) {
        {
            let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            if inbox.len() + writes.len() > INBOX {
                drop(inbox);
                mark!("a partition's inbox is full");
                for write in writes {
                    refuse(write, Refused::Overloaded);
                }
                return;
            }
            inbox.extend(writes);
        }
        self.take_turn();
    }

    /// Drains the inbox unless somebody else does it. The look after the unlock closes the gap between that one's
    /// last look and its unlock.
    fn take_turn(self: &Arc<Self>) {
        loop {
            let mut turn = match self.turn.try_lock() {
                Ok(turn) => turn,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            self.drain(&mut turn);
            drop(turn);
            if self.inbox.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                return;
            }
        }
    }

    /// Runs `work` in a turn of its own, carries out what follows, then drains the inbox.
    fn with_turn<T>(self: &Arc<Self>, work: impl FnOnce(&mut Turn<R::Disk>) -> T) -> T {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut turn);
        self.carry_out(&mut turn);
        drop(turn);
        if !self.inbox.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            self.take_turn();
        }
        result
    }

    fn drain(self: &Arc<Self>, turn: &mut MutexGuard<'_, Turn<R::Disk>>) {
        loop {
            let writes = std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
            if writes.is_empty() {
                return;
            }
            if self.health.is_offline() {
                turn.resign(Resigned::Offline);
            }
            if let Err(error) = turn.append(writes, &self.view, self.runtime.unix_ms()) {
                self.health.fail(&format!("{}: {error}", self.name()));
                turn.resign(Resigned::Offline);
            }
            self.carry_out(turn);
        }
    }

    fn carry_out(self: &Arc<Self>, turn: &mut Turn<R::Disk>) {
        let mut moved = false;
        for effect in std::mem::take(&mut turn.effects) {
            match effect {
                Effect::Flush => self.flusher.flush_soon(self),
                Effect::FlushWithin(wait) => self.flusher.flush_within(self, wait),
                Effect::Watermark(end) => {
                    self.view.publish_watermark(end);
                    moved = true;
                }
                Effect::Ack { token, after } => {
                    let seen = self.view.watermark();
                    assert!(seen >= after, "{token:?} is told {after:?} while readers see {seen:?}");
                    turn.answer(token, Ok);
                }
                Effect::Refuse { token, why } => turn.answer(token, |_| Err(WriteError::Abandoned(why))),
            }
        }
        self.view.publish_unsynced(turn.leader.unsynced_bytes());
        match turn.leader.resigned() {
            Some(why) if self.view.stopped().is_none() => self.view.publish_stop(why),
            _ if moved => self.view.wake(),
            _ => {}
        }
    }

    /// Topic and index, for messages.
    pub fn name(&self) -> String {
        format!("{}-{}", self.identity.topic, self.identity.partition)
    }
}

/// For `flusher`.
impl<R: Runtime> Partition<R> {
    /// Begins a flush of everything that was appended; `None` if there is nothing to do.
    ///
    /// # Errors
    /// No room for the side file now, or sealed.
    pub(super) fn begin_flush(self: &Arc<Self>) -> Result<Option<Flush<R::Disk>>, FlushError> {
        self.with_turn(|turn| {
            let Some(log) = turn.log.as_mut() else { return Ok(None) };
            let flush = log.begin_flush()?;
            let flushed = log.flushed();
            if let Some(flush) = &flush {
                turn.step(Event::FlushBegan);
                if mutant!(23) {
                    // The planted bug: the flushed end is told before the sync has returned.
                    turn.step(Event::Flushed { end: flush.end() });
                }
            } else if flushed > turn.leader.flushed_end() {
                turn.step(Event::Flushed { end: flushed });
            }
            Ok(flush)
        })
    }

    /// Begins to write the durable point of a log that went idle.
    pub(super) fn begin_idle_flush(self: &Arc<Self>) -> Result<Option<Flush<R::Disk>>, FlushError> {
        self.with_turn(|turn| turn.log.as_mut().map_or(Ok(None), Log::begin_idle_flush))
    }

    /// Tells what became of a flush. A failed one seals the log.
    pub(super) fn end_flush(self: &Arc<Self>, flush: Flush<R::Disk>, result: &io::Result<()>) {
        self.with_turn(|turn| {
            let Some(log) = turn.log.as_mut() else { return };
            match log.end_flush(flush, result) {
                Ok(end) => turn.step(Event::Flushed { end }),
                Err(_) => turn.resign(Resigned::Offline),
            }
        });
    }

    /// The time of a background flush has come.
    pub(super) fn flush_overdue(self: &Arc<Self>) {
        self.with_turn(|turn| turn.step(Event::FlushOverdue));
    }
}

/// For `retention` and `directory`.
impl<R: Runtime> Partition<R> {
    /// Stops serving: everyone who waits is told, everyone who comes is refused.
    pub(super) fn resign(self: &Arc<Self>, why: Resigned) {
        self.with_turn(|turn| turn.resign(why));
    }

    /// Leads in a later epoch or with other replicas. An equal epoch only takes over the in-sync set.
    ///
    /// # Errors
    /// The log refuses the epoch.
    pub(super) fn lead(self: &Arc<Self>, leadership: &Leadership) -> Result<(), AppendError> {
        self.with_turn(|turn| {
            let Some(log) = turn.log.as_mut() else { return Ok(()) };
            if leadership.epoch <= turn.leader.epoch() {
                if leadership.epoch == turn.leader.epoch() {
                    let members = leadership.isr.iter().copied().collect();
                    turn.step(Event::Committed { members });
                }
                return Ok(());
            }
            log.begin_epoch(leadership.epoch)?;
            let (watermark, policy) = (turn.leader.watermark(), turn.leader.policy());
            let start = start_of(log, watermark, leadership, policy);
            turn.resign(Resigned::Moved);
            self.carry_out(turn);
            turn.leader = Leader::start(start, &mut turn.effects);
            self.carry_out(turn); // readers see the new watermark before the new epoch
            self.view.publish_epoch(leadership.epoch, turn.leader.epoch_start());
            Ok(())
        })
    }

    /// Takes over a changed configuration.
    pub(super) fn configure(self: &Arc<Self>, config: LogConfig, policy: Policy) {
        self.with_turn(|turn| {
            let Some(log) = turn.log.as_mut() else { return };
            log.set_config(config);
            if turn.leader.policy() != policy {
                turn.step(Event::PolicyChanged(policy));
            }
        });
    }

    /// Runs `work` on the log and tells the leader if its start moved; `None` once it is closed.
    pub(super) fn with_log<T>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Log<R::Disk>, Offset) -> T,
    ) -> Option<T> {
        self.with_turn(|turn| {
            let watermark = turn.leader.watermark();
            let log = turn.log.as_mut()?;
            let result = work(log, watermark);
            let start = log.start();
            if start > turn.leader.log_start() {
                turn.step(Event::StartMoved { start });
            }
            Some(result)
        })
    }

    /// What the log knows of its producers.
    pub fn describe_producers(self: &Arc<Self>) -> Vec<ProducerSummary> {
        self.with_log(|log, _| log.describe_producers()).unwrap_or_default()
    }

    /// Stops serving and closes the log cleanly: flushed, with its marker. The flusher must have stopped.
    ///
    /// # Errors
    /// The data directory must not be marked clean then.
    pub(super) async fn close(self: &Arc<Self>) -> Result<(), CloseError> {
        let _one = self.start_moves.lock().await;
        match self.take_log(Resigned::Stopping) {
            Some(log) => log.close().await,
            None => Ok(()),
        }
    }

    /// Stops serving and gives up the log. What a running flush still does to its files is waited for by the caller.
    pub(super) async fn abandon(self: &Arc<Self>) {
        let _one = self.start_moves.lock().await;
        drop(self.take_log(Resigned::Deleted));
    }

    fn take_log(self: &Arc<Self>, why: Resigned) -> Option<Log<R::Disk>> {
        self.with_turn(|turn| {
            turn.resign(why);
            turn.log.take()
        })
    }
}

impl<D: Disk> Turn<D> {
    fn step(&mut self, event: Event) {
        self.leader.step(event, &mut self.effects);
    }

    fn resign(&mut self, why: Resigned) {
        if self.leader.resigned().is_none() {
            self.step(Event::Resigned(why));
        }
    }

    fn answer(&mut self, token: Token, outcome: impl FnOnce(Written) -> Outcome) {
        let waiting = self.waiting.remove(&token).expect("every token waits until it is answered");
        let _ = waiting.outcome.send(outcome(waiting.written)); // the producer may be gone
    }

    /// Appends everything that may come in, with one append.
    ///
    /// # Errors
    /// The disk failed: whatever waits is to be refused, the directory goes offline.
    fn append(&mut self, writes: VecDeque<Write>, view: &View<D>, now_ms: i64) -> Result<(), AppendError> {
        let mut batches = Vec::with_capacity(writes.len());
        let mut owners = Vec::with_capacity(writes.len());
        for write in writes {
            match self.admit(&write, owners.len()) {
                Ok(()) => {
                    batches.push(write.batch);
                    owners.push((write.required, write.outcome));
                }
                Err(why) => refuse(write, why),
            }
        }
        if batches.is_empty() {
            return Ok(());
        }
        let epoch = self.leader.epoch();
        let log = self.log.as_mut().expect("a closed log's leader admits nothing");
        let results = log.append_leader(&batches, epoch, now_ms);
        let end = log.end();
        assert_eq!(results.len(), batches.len(), "one result a batch");
        let mut failed = Ok(());
        for ((batch, (required, outcome)), result) in batches.iter().zip(owners).zip(results) {
            match result {
                Ok(appended) => {
                    self.settle(appended, batch.bytes().len() as u64, required, outcome, view);
                }
                Err(why) => {
                    if matches!(why, AppendError::Io(_) | AppendError::Sealed) {
                        failed = Err(why);
                    }
                    let _ = outcome.send(Err(why.into())); // the producer may be gone
                }
            }
        }
        assert!(self.leader.local_end() == end, "{:?} is counted, {end:?} is there", self.leader.local_end());
        failed
    }

    fn admit(&mut self, write: &Write, ahead: usize) -> Result<(), Refused> {
        if write.only_in.is_valid() && write.only_in != self.leader.epoch() {
            mark!("a coordinator of an epoch that is over writes nothing");
            return Err(Refused::Resigned(Resigned::Moved));
        }
        let required = write.required;
        let admitted = self.leader.admit(required, ahead);
        if admitted != Err(Refused::Overloaded) {
            return admitted;
        }
        let waiting = &mut self.waiting;
        waiting.retain(|_, one| !one.outcome.is_closed());
        self.leader.forget(|token| waiting.contains_key(&token));
        self.leader.admit(required, ahead)
    }

    fn settle(
        &mut self,
        appended: Appended,
        bytes: u64,
        required: Required,
        outcome: oneshot::Sender<Outcome>,
        view: &View<D>,
    ) {
        let end = appended.last.next();
        if !appended.duplicate {
            self.step(Event::Appended { end, bytes });
        }
        let token = Token(self.next_token);
        self.next_token += 1;
        let written = Written {
            base: appended.base,
            log_start: view.reader().start(),
            is_duplicate: appended.duplicate,
        };
        self.waiting.insert(token, Waiting { outcome, written });
        self.step(Event::Promised { token, required, end });
    }
}

fn start_of<D: Disk>(log: &Log<D>, watermark: Offset, leadership: &Leadership, policy: Policy) -> Start {
    Start {
        watermark,
        me: leadership.me,
        epoch: leadership.epoch,
        log_start: log.start(),
        local_end: log.end(),
        flushed_end: log.flushed(),
        policy,
        replicas: leadership.replicas.iter().copied().collect(),
        members: leadership.isr.iter().copied().collect(),
    }
}

fn refuse(write: Write, why: Refused) {
    let _ = write.outcome.send(Err(why.into())); // the producer may be gone
}
