//! All transactional ids of one shard: hands each ask to its id, and remembers what is being written and marked.
//!
//! Owns: [`Txns`], [`Loading`]; what waits for a write or for markers; deadlines.
//! Promises: one change of an id is under way at a time, who comes meanwhile is told CONCURRENT_TRANSACTIONS; a state is
//! believed when its record is below the watermark, and not before, so that markers leave only for a decision that
//! nobody can take back (TXN-6, M52); a decision is complete when every marker is in, counted for that decision alone
//! (TXN-15); what a restart finds prepared is carried out; what is open too long is aborted with a higher epoch (TXN-13);
//! an id that was silent long enough is forgotten.
//! Leaves out: rules of one id (`state`), bytes (`record`), how markers travel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::{mark, mutant};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::CoordinatorEpoch;
use dejaq_wire::record::control::EndTxnMarker;

use super::ask::{Ask, At, Described, Effect, Errand, Event, Listed, Now, Reply, Ticket, Token};
use super::record::{Record, Stored};
use super::state::{State, Step, Txn};
use crate::runtime::Mono;

/// How long what could not be written waits until it is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often silent ids are looked for.
const SWEEP: Duration = Duration::from_secs(3600);
/// Longest transactional id.
pub const MAX_ID_BYTES: usize = 8192;

/// What transactions are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Longest time that a client may keep one open (transaction.max.timeout.ms).
    pub max_timeout_ms: i32,
    /// How long a silent id is remembered (transactional.id.expiration.ms).
    pub expiry_ms: i64,
    /// Most ids of one shard.
    pub max_ids: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { max_timeout_ms: 15 * 60_000, expiry_ms: 7 * 24 * 3_600_000, max_ids: 100_000 }
    }
}

/// A change that is being written.
#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    /// `None`: the id is forgotten.
    to: Option<Box<Txn>>,
    reply: Option<(Token, Reply)>,
}

/// Markers that are on their way.
#[derive(Debug)]
struct Marking {
    number: u64,
    left: BTreeSet<At>,
}

#[derive(Debug, Default)]
struct Slot {
    /// `None`: its first record is being written.
    txn: Option<Txn>,
    pending: Option<Pending>,
    marking: Option<Marking>,
    /// When the open transaction has been open too long.
    deadline: Option<Mono>,
    wake: Option<Mono>,
}

/// The transactional ids of one shard.
#[derive(Debug)]
pub struct Txns {
    settings: Settings,
    epoch: CoordinatorEpoch,
    slots: BTreeMap<Arc<str>, Slot>,
    tickets: BTreeMap<Ticket, Arc<str>>,
    queue: BTreeSet<(Mono, Arc<str>)>,
    next_number: u64,
    next_sweep: Mono,
    /// Ids of which a transaction is open or being ended.
    open: usize,
    timed_out: u64,
}

/// Ids that are being read back.
#[derive(Debug, Default)]
pub struct Loading {
    ids: BTreeMap<Arc<str>, Stored>,
}

impl Loading {
    /// Takes the next record of the log.
    pub fn replay(&mut self, record: Record) {
        match record.value {
            Some(stored) => drop(self.ids.insert(record.id, stored)),
            None => drop(self.ids.remove(&record.id)),
        }
    }

    /// The ids as they stand at the end of the log. What is prepared is carried out again, by a coordinator of `epoch`.
    #[must_use]
    pub fn finish(
        self,
        settings: Settings,
        epoch: CoordinatorEpoch,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Txns {
        let mut txns = Txns::new(settings, epoch, now.mono);
        for (id, stored) in self.ids {
            let open_ms = now.unix_ms.saturating_sub(stored.start_ms).max(0);
            let left_ms = i64::from(stored.timeout_ms).saturating_sub(open_ms).max(0);
            let left = Duration::from_millis(u64::try_from(left_ms).expect("not negative"));
            let deadline = (stored.state == State::Ongoing).then(|| now.mono.plus(left));
            let slot = Slot { txn: Some(Txn::loaded(stored)), deadline, ..Slot::default() };
            txns.open += usize::from(is_open(&slot));
            txns.slots.insert(id.clone(), slot);
            txns.settle(&id, now, effects);
        }
        txns
    }
}

impl Txns {
    /// No ids, for a coordinator of this epoch.
    #[must_use]
    pub fn new(settings: Settings, epoch: CoordinatorEpoch, now: Mono) -> Txns {
        Txns {
            settings,
            epoch,
            slots: BTreeMap::new(),
            tickets: BTreeMap::new(),
            queue: BTreeSet::new(),
            next_number: 0,
            next_sweep: now.plus(SWEEP),
            open: 0,
            timed_out: 0,
        }
    }

    /// Takes one event; what must follow is appended to `effects`.
    pub fn step(&mut self, event: Event, now: Now, effects: &mut Vec<Effect>) {
        match event {
            Event::Asked { token, id, ask } => self.asked(token, &id, ask, now, effects),
            Event::Written { ticket, result } => self.written(ticket, result, now, effects),
            Event::Marked { errand, at } => self.marked(&errand, &at, now, effects),
            Event::Tick => self.tick(now, effects),
        }
    }

    /// When [`Event::Tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        self.queue.first().map_or(self.next_sweep, |(at, _)| (*at).min(self.next_sweep))
    }

    /// How many ids there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no id.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many transactions are open or being ended.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open
    }

    /// How many were aborted for their age since the shard began.
    #[must_use]
    pub fn timed_out(&self) -> u64 {
        self.timed_out
    }

    fn list(&self) -> Vec<Listed> {
        let listed = |(id, slot): (&Arc<str>, &Slot)| {
            let Stored { who, state, start_ms, .. } = slot.txn.as_ref()?.stored;
            Some(Listed { id: id.clone(), who, state, start_ms })
        };
        self.slots.iter().filter_map(listed).collect()
    }

    fn asked(&mut self, token: Token, id: &Arc<str>, ask: Ask, now: Now, effects: &mut Vec<Effect>) {
        let answer = |effects: &mut Vec<Effect>, reply| effects.push(Effect::Reply { token, reply });
        if ask == Ask::List {
            return answer(effects, Reply::Listed(self.list()));
        }
        if let Err(code) = self.check(id, &ask) {
            return answer(effects, Reply::Refused(code));
        }
        let slot = self.slots.get(id);
        if slot.is_some_and(|slot| slot.pending.is_some()) && ask != Ask::Describe {
            return answer(effects, Reply::Refused(ErrorCode::CONCURRENT_TRANSACTIONS));
        }
        let step = match (slot.and_then(|slot| slot.txn.as_ref()), ask) {
            (Some(txn), ask) => txn.step(ask, now.unix_ms),
            (None, Ask::Init { timeout_ms, fresh, .. }) => {
                let to = Box::new(Txn::born(fresh, timeout_ms, now.unix_ms));
                let reply = Reply::Producer(to.stored.who);
                Step::Change { to, reply }
            }
            (None, Ask::Describe) => Step::Reply(Reply::Refused(ErrorCode::TRANSACTIONAL_ID_NOT_FOUND)),
            (None, Ask::List) => unreachable!("it is answered above"),
            (None, Ask::Add { .. } | Ask::Verify { .. } | Ask::End { .. }) => {
                Step::Reply(Reply::Refused(ErrorCode::INVALID_PRODUCER_ID_MAPPING))
            }
        };
        match step {
            Step::Reply(reply) => answer(effects, reply),
            Step::Change { to, reply } => {
                self.slots.entry(id.clone()).or_default();
                self.write(id, Some(to), Some((token, reply)), effects);
            }
        }
    }

    fn check(&self, id: &Arc<str>, ask: &Ask) -> Result<(), ErrorCode> {
        let Ask::Init { timeout_ms, .. } = ask else { return Ok(()) };
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        if *timeout_ms <= 0 || *timeout_ms > self.settings.max_timeout_ms {
            return Err(ErrorCode::INVALID_TRANSACTION_TIMEOUT);
        }
        if self.slots.len() >= self.settings.max_ids && !self.slots.contains_key(id) {
            mark!("a shard holds as many transactional ids as it may");
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        Ok(())
    }

    fn write(
        &mut self,
        id: &Arc<str>,
        to: Option<Box<Txn>>,
        reply: Option<(Token, Reply)>,
        effects: &mut Vec<Effect>,
    ) {
        let ticket = Ticket(self.next());
        let number = self.next();
        let slot = self.slots.get_mut(id).expect("only an id that is there is written");
        assert!(slot.pending.is_none(), "{id:?} is being written: {:?}", slot.pending);
        if let (Some(from), Some(to)) = (&slot.txn, &to) {
            to.check_invariants();
            let (from, to) = (from.stored.state, to.stored.state);
            assert!(from.may_become(to), "{id:?} goes from {from:?} to {to:?}");
        }
        let record = Record { id: id.clone(), value: to.as_ref().map(|to| to.stored.clone()) };
        if mutant!(52)
            && let Some(to) = to.as_ref().filter(|to| to.stored.state.prepared().is_some())
        {
            // The planted bug: markers leave while the decision is being written.
            effects.push(mark_effect(self.epoch, id, number, to));
        }
        slot.pending = Some(Pending { ticket, to, reply });
        self.tickets.insert(ticket, id.clone());
        effects.push(Effect::Write { ticket, record });
    }

    fn next(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn written(
        &mut self,
        ticket: Ticket,
        result: Result<(), ErrorCode>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let id = self.tickets.remove(&ticket).expect("every write ends once");
        let slot = self.slots.get_mut(&id).expect("an id stays while it is written");
        let Pending { ticket: awaited, to, reply } = slot.pending.take().expect("it was being written");
        assert!(awaited == ticket, "{ticket:?} ends while {id:?} waits for {awaited:?}");
        let reply = reply.map(|(token, reply)| match result {
            Ok(()) => Effect::Reply { token, reply },
            Err(code) => Effect::Reply { token, reply: Reply::Refused(code) },
        });
        self.open -= usize::from(is_open(slot));
        match (result, to) {
            (Ok(()), Some(to)) => {
                let was_open = slot.txn.as_ref().is_some_and(|txn| txn.stored.state == State::Ongoing);
                if to.stored.state != State::Ongoing {
                    slot.deadline = None;
                } else if !was_open {
                    let timeout = u64::try_from(to.stored.timeout_ms).expect("it was checked");
                    slot.deadline = Some(now.mono.plus(Duration::from_millis(timeout)));
                }
                if to.stored.state.prepared().is_none() {
                    slot.marking = None;
                }
                slot.txn = Some(*to);
            }
            (Ok(()), None) => {
                mark!("a silent transactional id is forgotten");
                slot.txn = None;
            }
            (Err(_), _) => mark!("a transaction could not be written"),
        }
        self.open += usize::from(is_open(slot));
        effects.extend(reply);
        if result.is_ok() {
            self.settle(&id, now, effects);
        } else if self.slots.get(&id).is_some_and(|slot| slot.txn.is_none()) {
            self.slots.remove(&id); // it never began
        } else {
            self.wake_at(&id, Some(now.mono.plus(RETRY)));
        }
    }

    fn marked(&mut self, errand: &Errand, at: &At, now: Now, effects: &mut Vec<Effect>) {
        let marking = self.slots.get_mut(&errand.id).and_then(|slot| slot.marking.as_mut());
        let Some(marking) = marking.filter(|marking| marking.number == errand.number) else {
            mark!("a late answer about markers changes nothing");
            return;
        };
        marking.left.remove(at);
        self.settle(&errand.id.clone(), now, effects);
    }

    fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some((at, id)) = self.queue.first().cloned()
            && at <= now.mono
        {
            self.queue.pop_first();
            self.slots.get_mut(&id).expect("an id is there while it is to be woken").wake = None;
            self.settle(&id, now, effects);
        }
        if self.next_sweep <= now.mono {
            self.next_sweep = now.mono.plus(SWEEP);
            let before_ms = now.unix_ms.saturating_sub(self.settings.expiry_ms);
            let is_silent = |slot: &Slot| {
                let stored = slot.txn.as_ref().map(|txn| &txn.stored).filter(|_| slot.pending.is_none());
                stored.is_some_and(|stored| {
                    let is_idle = stored.state != State::Ongoing && stored.state.prepared().is_none();
                    // M261: what is open is forgotten, too.
                    (is_idle || mutant!(261)) && stored.updated_ms < before_ms
                })
            };
            let silent: Vec<_> =
                self.slots.iter().filter(|(_, slot)| is_silent(slot)).map(|(id, _)| id.clone()).collect();
            for id in silent {
                self.write(&id, None, None, effects);
            }
        }
    }

    /// Does for one id what is to be done now, and remembers when to look again.
    fn settle(&mut self, id: &Arc<str>, now: Now, effects: &mut Vec<Effect>) {
        let slot = self.slots.get_mut(id).expect("only an id that is there is settled");
        if slot.pending.is_some() {
            return; // it is settled when that is written
        }
        let Some(txn) = &slot.txn else {
            self.wake_at(id, None);
            self.slots.remove(id);
            return;
        };
        match txn.stored.state {
            State::Ongoing if slot.deadline.is_some_and(|deadline| deadline <= now.mono) => {
                mark!("a transaction that is open too long is aborted");
                self.timed_out += 1;
                let to = Box::new(txn.fenced(now.unix_ms));
                self.write(id, Some(to), None, effects);
            }
            State::PrepareCommit | State::PrepareAbort => match &slot.marking {
                Some(marking) if marking.left.is_empty() => {
                    let to = Box::new(txn.completed(now.unix_ms));
                    self.write(id, Some(to), None, effects);
                }
                Some(_) => {}
                None => self.carry_out(id, now, effects),
            },
            State::Ongoing | State::Empty | State::CompleteCommit | State::CompleteAbort => {}
        }
        self.sleep(id);
    }

    /// Begins to send the markers of a decision.
    fn carry_out(&mut self, id: &Arc<str>, now: Now, effects: &mut Vec<Effect>) {
        let number = self.next();
        let slot = self.slots.get_mut(id).expect("only an id that is there decides");
        let txn = slot.txn.as_ref().expect("it is prepared");
        let left = txn.stored.partitions.clone();
        let is_done = left.is_empty();
        if !is_done {
            effects.push(mark_effect(self.epoch, id, number, txn));
        }
        slot.marking = Some(Marking { number, left });
        if is_done {
            self.settle(id, now, effects);
        }
    }

    fn sleep(&mut self, id: &Arc<str>) {
        let Some(slot) = self.slots.get(id) else { return };
        let deadline = slot.deadline.filter(|_| slot.pending.is_none());
        let at = [slot.wake, deadline].into_iter().flatten().min();
        self.wake_at(id, at);
    }

    fn wake_at(&mut self, id: &Arc<str>, at: Option<Mono>) {
        let slot = self.slots.get_mut(id).expect("only an id that is there is woken");
        if let Some(old) = std::mem::replace(&mut slot.wake, at) {
            self.queue.remove(&(old, id.clone()));
        }
        if let Some(at) = at {
            self.queue.insert((at, id.clone()));
        }
    }
}

fn is_open(slot: &Slot) -> bool {
    let state = slot.txn.as_ref().map(|txn| txn.stored.state);
    state.is_some_and(|state| state == State::Ongoing || state.prepared().is_some())
}

fn mark_effect(epoch: CoordinatorEpoch, id: &Arc<str>, number: u64, txn: &Txn) -> Effect {
    let stored = &txn.stored;
    let marker = EndTxnMarker {
        producer_id: stored.who.producer_id,
        producer_epoch: stored.who.epoch,
        commit: stored.state.prepared().expect("only a decision is marked"),
        coordinator_epoch: epoch,
    };
    let errand = Errand { id: id.clone(), number };
    Effect::Mark { errand, marker, partitions: stored.partitions.iter().cloned().collect() }
}

/// How a described transaction is told to clients: the partitions by topic.
#[must_use]
pub fn by_topic(described: &Described) -> BTreeMap<Arc<str>, Vec<dejaq_wire::ids::PartitionId>> {
    let mut topics: BTreeMap<Arc<str>, Vec<_>> = BTreeMap::new();
    for at in &described.partitions {
        topics.entry(at.topic.clone()).or_default().push(at.partition);
    }
    topics
}
