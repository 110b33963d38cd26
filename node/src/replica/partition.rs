//! SHELL. One partition that this node holds: a log and its role behind an inbox and a turn.
//!
//! Owns: the log's writer and the pure [`Role`] (leader or follower), behind one short mutex that is never held across an await; the
//! inbox of writes; the view that it publishes.
//! Promises: whoever brings writes takes the turn if it is free and drains the inbox, so that contention becomes
//! batching: all batches of a turn go down with one append; outcomes leave in the order of the log; a write is
//! answered once; the role changes only forward, by leader epoch and partition epoch (REP-10). When the data directory
//! fails, everything is refused from then on.
//! Leaves out: rules (`leader`, `follower`), syncs (`flusher`), moving the start (`retention`), reading (`view`), what
//! a follower does (`following`).
//! Called by `api::produce` with writes, by `flusher`, `retention` and `directory` for their part.
//!
//! ```text
//!  write ─► inbox ─► turn free? ─ yes ─► drain ─► log.append_leader ─► leader.step ─► effects, in order
//!                        └ no ─► whoever has it drains (looks again after giving it up)
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use dejaq_storage::{
    AppendError, Appended, Disk, Flush, FlushError, Log, LogConfig, LogIdentity, ProducerSummary,
    TxnStanding, mark, mutant,
};
use dejaq_wire::ids::{BrokerId, CoordinatorEpoch, Offset, ProducerEpoch, ProducerId};
use dejaq_wire::peer::replica::Place;
use tokio::sync::oneshot;

use super::acks::{self, Token};
pub use super::assignment::Assignment;
use super::flusher::Flusher;
use super::follower::{self, Follower};
use super::health::Health;
use super::hub::Hub;
use super::leader::{Effect, Event, Leader, Refused, Required, Resigned, Start};
use super::mending::Mending;
use super::policy::Policy;
use super::role::Role;
use super::view::{Part, View};
use super::write::{Outcome, Write, WriteError, Written};
use crate::runtime::{Mono, Runtime};

/// Most writes in the inbox: more than one turn's worth of every connection, so that only a stuck turn fills it.
const INBOX: usize = acks::LIMIT;

/// What all partitions of a node share.
#[derive(Clone)]
pub struct Shared<R: Runtime> {
    /// Time and tasks.
    pub runtime: R,
    /// Whether the data directory failed.
    pub health: Arc<Health>,
    /// Who syncs.
    pub flusher: Arc<Flusher<R>>,
    /// Who is to be told what.
    pub hub: Arc<Hub>,
}

/// One partition.
pub struct Partition<R: Runtime> {
    identity: LogIdentity,
    pub(super) shared: Shared<R>,
    pub(super) view: View<R::Disk>,
    inbox: Mutex<VecDeque<Write>>,
    /// Short: pure steps and page-cache writes. Never held across an await; no other lock of ours is taken before it.
    pub(super) turn: Mutex<Turn<R::Disk>>,
    /// Whoever moves the start, closes or deletes: one at a time.
    pub(super) start_moves: tokio::sync::Mutex<()>,
    pub(super) flush_queued: AtomicBool,
    pub(super) idle_queued: AtomicBool,
}

/// What the turn owns.
pub(super) struct Turn<D: Disk> {
    /// `None` once closed or deleted; the role has resigned then.
    pub log: Option<Log<D>>,
    pub role: Role,
    /// The newest state of the partition that was acted on.
    pub partition_epoch: i32,
    /// Somebody may count on what is in the log.
    pub is_eligible: bool,
    /// Who may be elected though it is not in sync.
    pub eligible: Vec<BrokerId>,
    /// It is a replica that only comes.
    pub is_coming: bool,
    /// How many replicas only come, and are not in sync yet.
    pub coming: usize,
    /// A follower needs of us, the leader, what is damaged here.
    pub starves: bool,
    /// How the mending of damage stands.
    pub mending: Mending,
    /// What was told to the hub: the ends of the log.
    told: Told,
    waiting: BTreeMap<Token, Waiting>,
    next_token: u64,
    pub effects: Vec<Effect>,
}

/// Ends that the hub knows of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    local_end: Offset,
    flushed_end: Offset,
    watermark: Offset,
    start: Offset,
}

struct Waiting {
    outcome: oneshot::Sender<Outcome>,
    written: Written,
}

impl<R: Runtime> Partition<R> {
    /// Takes over an open log and starts to lead or to follow.
    ///
    /// # Errors
    /// The log refuses the epoch: it was written by a later leader, or it is sealed.
    pub fn start(
        mut log: Log<R::Disk>,
        assignment: &Assignment,
        policy: Policy,
        shared: Shared<R>,
    ) -> Result<Arc<Partition<R>>, AppendError> {
        let mut effects = Vec::new();
        let watermark = log.start();
        let role = begin(&mut log, assignment, watermark, policy, shared.runtime.now(), &mut effects)?;
        let view = View::new(log.reader());
        let told = told(&role);
        let owes_marker = log.owes_marker();
        let identity = log.identity().clone();
        let turn = Turn {
            log: Some(log),
            role,
            partition_epoch: assignment.partition_epoch,
            is_eligible: assignment.is_eligible(),
            eligible: assignment.eligible.clone(),
            is_coming: assignment.is_coming(),
            coming: assignment.still_coming(),
            starves: false,
            mending: Mending::default(),
            told,
            waiting: BTreeMap::new(),
            next_token: 0,
            effects,
        };
        let partition = Arc::new(Partition {
            identity,
            shared,
            view,
            inbox: Mutex::default(),
            turn: Mutex::new(turn),
            start_moves: tokio::sync::Mutex::default(),
            flush_queued: AtomicBool::new(false),
            idle_queued: AtomicBool::new(false),
        });
        partition.with_turn(|turn| {
            partition.carry_out(turn);
            partition.publish_role(turn);
        });
        if owes_marker {
            mark!("a log that was just opened owes a durable point");
            partition.shared.flusher.mark_soon(&partition);
        }
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

    /// Whether the data directory under it failed.
    pub fn is_offline(&self) -> bool {
        self.shared.health.is_offline()
    }

    /// Why nothing may be read or written here now, if so.
    pub fn stopped(&self) -> Option<Resigned> {
        if self.shared.health.is_offline() { Some(Resigned::Offline) } else { self.view.stopped() }
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
    pub(super) fn with_turn<T>(self: &Arc<Self>, work: impl FnOnce(&mut Turn<R::Disk>) -> T) -> T {
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
            if self.shared.health.is_offline() {
                turn.resign(Resigned::Offline);
            }
            if let Err(error) =
                turn.append(writes, &self.view, &self.shared.health, self.shared.runtime.unix_ms())
            {
                self.shared.health.fail(&format!("{}: {error}", self.name()));
                turn.resign(Resigned::Offline);
            }
            self.carry_out(turn);
        }
    }

    pub(super) fn carry_out(self: &Arc<Self>, turn: &mut Turn<R::Disk>) {
        let mut moved = false;
        for effect in std::mem::take(&mut turn.effects) {
            match effect {
                Effect::Flush => self.shared.flusher.flush_soon(self),
                Effect::FlushWithin(wait) => self.shared.flusher.flush_within(self, wait),
                Effect::Watermark(end) => {
                    let stable =
                        turn.log.as_mut().map_or(self.view.stable_end().min(end), |log| log.stable_end(end));
                    self.view.publish_watermark(end, stable);
                    moved = true;
                }
                Effect::Ack { token, after } => {
                    let seen = self.view.watermark();
                    assert!(seen >= after, "{token:?} is told {after:?} while readers see {seen:?}");
                    turn.answer(token, Ok);
                }
                Effect::TooFew { token } => turn.answer(token, |_| Err(WriteError::TooFew)),
                Effect::Refuse { token, why } => turn.answer(token, |_| Err(WriteError::Abandoned(why))),
            }
        }
        self.view.publish_unsynced(turn.role.unsynced_bytes());
        match turn.role.resigned() {
            Some(why) if !matches!(self.view.part(), Part::Stopped(_)) => self.view.publish_stop(why),
            _ if moved => self.view.wake(),
            _ => {}
        }
        self.tell_hub(turn);
    }

    /// Tells those who fetch from us, or whom we fetch from, what moved.
    fn tell_hub(&self, turn: &mut Turn<R::Disk>) {
        let now = told(&turn.role);
        let before = std::mem::replace(&mut turn.told, now);
        if before == now || turn.role.resigned().is_some() {
            return;
        }
        match &turn.role {
            Role::Leader(leader) => {
                let isr = leader.isr();
                if isr.replicas().len() < 2 {
                    return;
                }
                let followers = isr.replicas().iter().copied().filter(|replica| *replica != isr.me());
                if before.local_end != now.local_end {
                    self.shared.hub.appended(self.place(), followers.clone());
                }
                if before.watermark != now.watermark || before.start != now.start {
                    self.shared.hub.moved(self.place(), followers);
                }
            }
            Role::Follower(follower) => {
                // A log of which all is gone stands elsewhere, as its leader knows it: no last record names it any more.
                let is_emptied = before.start != now.start && now.start == now.local_end;
                if (before.flushed_end != now.flushed_end || is_emptied)
                    && let Some(feed) = self.shared.hub.feed(follower.leader())
                {
                    feed.change(self.place());
                }
            }
        }
    }

    /// Shows the role that the partition has now; its watermark is shown already.
    pub(super) fn publish_role(&self, turn: &Turn<R::Disk>) {
        match &turn.role {
            Role::Leader(leader) => {
                self.view.publish_epoch(leader.epoch(), leader.epoch_start());
                self.shared.hub.follow(self.place(), BrokerId::NONE);
                let isr = leader.isr();
                self.shared.hub.lead(self.place(), isr.replicas().len() > 1);
                let followers = isr.replicas().iter().copied().filter(|replica| *replica != isr.me());
                self.shared.hub.appended(self.place(), followers);
            }
            Role::Follower(follower) => {
                self.view.publish_following(follower.epoch());
                self.shared.hub.follow(self.place(), follower.leader());
            }
        }
    }

    /// Its name for ever.
    pub fn place(&self) -> Place {
        Place { topic: self.identity.topic_id, partition: self.identity.partition }
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
                turn.role.flush_began(&mut turn.effects);
                if mutant!(23) {
                    // The planted bug: the flushed end is told before the sync has returned.
                    turn.role.flushed(flush.end(), &mut turn.effects);
                }
            } else if flushed > turn.role.flushed_end() {
                turn.role.flushed(flushed, &mut turn.effects);
            }
            Ok(flush)
        })
    }

    /// Whether its durable point is to be written down and nothing is left to be synced.
    pub(super) fn owes_marker(self: &Arc<Self>) -> bool {
        self.with_turn(|turn| turn.log.as_ref().is_some_and(|log| log.owes_marker() && !log.needs_flush()))
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
                Ok(end) => turn.role.flushed(end, &mut turn.effects),
                Err(_) => turn.resign(Resigned::Offline),
            }
        });
    }

    /// The time of a background flush has come.
    pub(super) fn flush_overdue(self: &Arc<Self>) {
        self.with_turn(|turn| turn.role.flush_overdue(&mut turn.effects));
    }
}

/// For `retention` and `directory`.
impl<R: Runtime> Partition<R> {
    /// Stops serving: everyone who waits is told, everyone who comes is refused.
    pub(super) fn resign(self: &Arc<Self>, why: Resigned) {
        self.with_turn(|turn| turn.resign(why));
    }

    /// Becomes what the metadata says: leads or follows in a later epoch, or with other replicas. What is old is
    /// ignored.
    ///
    /// # Errors
    /// The log refuses the epoch.
    pub(super) async fn assign(self: &Arc<Self>, assignment: &Assignment) -> Result<(), AppendError> {
        if self.take_state(assignment) {
            return Ok(());
        }
        // A cut, or a move of the start, ends first: what it began on the log is its to end.
        let _one = self.start_moves.lock().await;
        self.with_turn(|turn| {
            let Some(log) = turn.log.as_mut() else { return Ok(()) };
            if assignment.epoch < turn.role.epoch() || assignment.partition_epoch < turn.partition_epoch {
                mark!("a partition ignores an old state of the metadata");
                return Ok(());
            }
            let (watermark, policy) = (turn.role.watermark(), turn.role.policy());
            let now = self.shared.runtime.now();
            let mut effects = Vec::new();
            let role = begin(log, assignment, watermark, policy, now, &mut effects)?;
            turn.partition_epoch = assignment.partition_epoch;
            turn.is_eligible = assignment.is_eligible();
            turn.eligible.clone_from(&assignment.eligible);
            (turn.is_coming, turn.coming) = (assignment.is_coming(), assignment.still_coming());
            turn.starves = false;
            turn.mending.begin();
            if let Role::Leader(leader) = &turn.role
                && assignment.leads()
            {
                self.count_change(leader.isr().members().len(), assignment.isr.len());
            }
            turn.resign(Resigned::Moved);
            self.carry_out(turn);
            turn.role = role;
            turn.told = told(&turn.role);
            turn.effects.append(&mut effects);
            self.carry_out(turn); // readers see the new watermark before the new epoch
            self.publish_role(turn);
            Ok(())
        })
    }

    /// Counts that the in-sync set that we lead shrank, or grew.
    fn count_change(&self, before: usize, after: usize) {
        let counter = match after.cmp(&before) {
            std::cmp::Ordering::Less => &self.shared.hub.shrinks,
            std::cmp::Ordering::Greater => &self.shared.hub.expands,
            std::cmp::Ordering::Equal => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes over a state that leaves the role as it is; false if it is a matter of another role.
    fn take_state(self: &Arc<Self>, assignment: &Assignment) -> bool {
        self.with_turn(|turn| {
            let is_old =
                assignment.epoch < turn.role.epoch() || assignment.partition_epoch < turn.partition_epoch;
            if is_old || turn.log.is_none() {
                return true;
            }
            let is_same = assignment.epoch == turn.role.epoch()
                && match &turn.role {
                    Role::Leader(_) => assignment.leads(),
                    // A follower never leads in an epoch that it followed in.
                    Role::Follower(follower) => assignment.leads() || assignment.leader == follower.leader(),
                };
            if !is_same {
                return false;
            }
            let skips = assignment.partition_epoch > turn.partition_epoch + 1;
            turn.partition_epoch = assignment.partition_epoch;
            turn.is_eligible = assignment.is_eligible();
            turn.eligible.clone_from(&assignment.eligible);
            (turn.is_coming, turn.coming) = (assignment.is_coming(), assignment.still_coming());
            if let Role::Follower(follower) = &turn.role
                && !turn.is_eligible
                && !self.view.reader().damaged().is_empty()
                && let Some(feed) = self.shared.hub.feed(follower.leader())
            {
                feed.change(self.place()); // it may be mended now
            }
            if let Role::Leader(leader) = &turn.role {
                let before = leader.isr().members().len();
                let (replicas, members) = sets(assignment);
                self.count_change(before, members.len());
                // Who is new may have told its position before we knew that it is a replica; after states that were not
                // seen, all that was told is void. They tell it again.
                for follower in replicas.iter().filter(|replica| **replica != assignment.me) {
                    let is_new = !leader.isr().replicas().contains(follower);
                    if (skips && !mutant!(14)) || is_new {
                        self.shared.hub.end_session(*follower);
                    }
                }
                self.shared.hub.lead(self.place(), replicas.len() > 1);
                let partition_epoch = assignment.partition_epoch;
                let moving = assignment.moving();
                turn.step(Event::Committed { partition_epoch, replicas, members, moving });
                self.look_at_lost(turn);
            }
            true
        })
    }

    /// Takes over a changed configuration.
    pub(super) fn configure(self: &Arc<Self>, config: LogConfig, policy: Policy) {
        self.with_turn(|turn| {
            let Some(log) = turn.log.as_mut() else { return };
            log.set_config(config);
            if turn.role.policy() != policy {
                turn.role.policy_changed(policy, &mut turn.effects);
            }
        });
    }

    /// Runs `work` on the log and tells the role if its start moved; `None` once it is closed.
    pub(super) fn with_log<T>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Log<R::Disk>, &Role) -> T,
    ) -> Option<T> {
        self.with_turn(|turn| {
            let log = turn.log.as_mut()?;
            let result = work(log, &turn.role);
            let start = log.start();
            if start > turn.role.log_start() {
                turn.role.start_moved(start, &mut turn.effects);
                // The stable end is not below the start, and moves with it though the watermark stays.
                turn.effects.push(Effect::Watermark(turn.role.watermark()));
            }
            Some(result)
        })
    }

    /// Number of producers that the log remembers.
    pub fn producers(self: &Arc<Self>) -> usize {
        self.with_log(|log, _| log.producers()).unwrap_or(0)
    }

    /// What the log knows of its producers.
    pub fn describe_producers(self: &Arc<Self>) -> Vec<ProducerSummary> {
        self.with_log(|log, _| log.describe_producers()).unwrap_or_default()
    }

    /// The epoch of a producer, and that of the coordinator that wrote its last marker, -1 if none did; `None` is a producer that the
    /// log does not know, or a log that is closed.
    pub fn epochs_of(self: &Arc<Self>, id: ProducerId) -> Option<(ProducerEpoch, CoordinatorEpoch)> {
        self.with_turn(|turn| turn.log.as_ref().and_then(|log| log.epochs_of(id)))
    }

    /// How the transaction of a producer stands in the log; `None` once it is closed.
    pub fn txn_standing(self: &Arc<Self>, id: ProducerId, epoch: ProducerEpoch) -> Option<TxnStanding> {
        self.with_turn(|turn| turn.log.as_ref().map(|log| log.txn_standing(id, epoch)))
    }

    /// Stops serving and hands the log over, to be closed cleanly. The flusher must have stopped, and the caller holds
    /// `start_moves`.
    pub(super) fn give_up_log(self: &Arc<Self>) -> Option<Log<R::Disk>> {
        self.take_log(Resigned::Stopping)
    }

    /// Stops serving and gives up the log. What a running flush still does to its files is waited for by the caller.
    pub(super) async fn abandon(self: &Arc<Self>, why: Resigned) {
        let _one = self.start_moves.lock().await;
        drop(self.take_log(why));
    }

    fn take_log(self: &Arc<Self>, why: Resigned) -> Option<Log<R::Disk>> {
        self.with_turn(|turn| {
            turn.resign(why);
            turn.log.take()
        })
    }
}

impl<D: Disk> Turn<D> {
    /// Tells the leader of an event; a follower is not concerned.
    pub fn step(&mut self, event: Event) {
        if let Role::Leader(leader) = &mut self.role {
            leader.step(event, &mut self.effects);
        }
    }

    fn resign(&mut self, why: Resigned) {
        self.role.resign(why, &mut self.effects);
    }

    fn answer(&mut self, token: Token, outcome: impl FnOnce(Written) -> Outcome) {
        let waiting = self.waiting.remove(&token).expect("every token waits until it is answered");
        let _ = waiting.outcome.send(outcome(waiting.written)); // the producer may be gone
    }

    /// Appends everything that may come in, with one append.
    ///
    /// # Errors
    /// The disk failed: whatever waits is to be refused, the directory goes offline.
    fn append(
        &mut self,
        writes: VecDeque<Write>,
        view: &View<D>,
        health: &Health,
        now_ms: i64,
    ) -> Result<(), AppendError> {
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
        let epoch = self.role.epoch();
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
                    match why {
                        AppendError::Io(_) | AppendError::Sealed => failed = Err(why),
                        AppendError::DiskFull => health.counts.refused_for_room.add(1),
                        _ => {}
                    }
                    let _ = outcome.send(Err(why.into())); // the producer may be gone
                }
            }
        }
        assert!(self.role.local_end() == end, "{:?} is counted, {end:?} is there", self.role.local_end());
        failed
    }

    fn admit(&mut self, write: &Write, ahead: usize) -> Result<(), Refused> {
        let Role::Leader(leader) = &mut self.role else {
            return Err(Refused::Resigned(self.role.resigned().unwrap_or(Resigned::Moved)));
        };
        if write.only_in.is_valid() && write.only_in != leader.epoch() {
            mark!("a coordinator of an epoch that is over writes nothing");
            return Err(Refused::Resigned(Resigned::Moved));
        }
        let admitted = leader.admit(write.required, ahead);
        if admitted != Err(Refused::Overloaded) {
            return admitted;
        }
        let waiting = &mut self.waiting;
        waiting.retain(|_, one| !one.outcome.is_closed());
        leader.forget(|token| waiting.contains_key(&token));
        leader.admit(write.required, ahead)
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

/// Takes a log into the role that the metadata gives it. The log is as before if that fails.
fn begin<D: Disk>(
    log: &mut Log<D>,
    assignment: &Assignment,
    watermark: Offset,
    policy: Policy,
    now: Mono,
    effects: &mut Vec<Effect>,
) -> Result<Role, AppendError> {
    let (log_start, local_end, flushed_end) = (log.start(), log.end(), log.flushed());
    // We led in this epoch in an earlier life, and may have lost what we gave offsets to (REP-2). The controller gives
    // every life of a leader an epoch of its own; until that is heard of, nobody leads here.
    let led_before = assignment.leads() && log.latest_epoch() == Some(assignment.epoch);
    if led_before {
        mark!("a partition does not lead again in an epoch that it led in before");
    }
    if !assignment.leads() || led_before {
        if log.sealed().is_some() {
            return Err(AppendError::Sealed);
        }
        if !led_before {
            log.begin_following();
        }
        let start = follower::Start {
            leader: if led_before { BrokerId::NONE } else { assignment.leader },
            epoch: assignment.epoch,
            log_start,
            local_end,
            flushed_end,
            watermark,
            policy,
        };
        return Ok(Role::Follower(Follower::start(start, effects)));
    }
    // The planted bug M08: an epoch without a record of its own is nowhere written down.
    if !mutant!(8) {
        log.begin_epoch(assignment.epoch)?;
    }
    let (replicas, members) = sets(assignment);
    let start = Start {
        me: assignment.me,
        epoch: assignment.epoch,
        log_start,
        local_end,
        flushed_end,
        watermark: watermark.max(log_start),
        policy,
        replicas,
        members,
        partition_epoch: assignment.partition_epoch,
        moving: assignment.moving(),
        now,
    };
    Ok(Role::Leader(Box::new(Leader::start(start, effects))))
}

fn sets(assignment: &Assignment) -> (BTreeSet<BrokerId>, BTreeSet<BrokerId>) {
    (assignment.replicas.iter().copied().collect(), assignment.isr.iter().copied().collect())
}

fn told(role: &Role) -> Told {
    Told {
        local_end: role.local_end(),
        flushed_end: role.flushed_end(),
        watermark: role.watermark(),
        start: role.log_start(),
    }
}

fn refuse(write: Write, why: Refused) {
    let _ = write.outcome.send(Err(why.into())); // the producer may be gone
}
