//! What readers see of a partition: published by its turn, read without it.
//!
//! Owns: the watermark, the stable end (for readers of committed records), the epoch and its start, whether the
//! partition leads or follows, and the waiting fetches.
//! Promises: the watermark is published after the records below it can be read, and never goes back while it leads;
//! a fetch that waits is woken at most once a turn, after the watermark moved or the partition stopped serving; no
//! wake is lost between looking and waiting.
//! Leaves out: deciding (`leader`), bytes (`LogReader`).
//! Written by `partition` under its turn; read by `api::fetch` and its neighbours.
//!
//! ```text
//!  turn: store watermark ─► lock waiters ─► wake all      fetch: lock waiters ─► look at watermark ─► enlist or go on
//! ```

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use dejaq_storage::{Disk, LogReader, mark};
use dejaq_wire::ids::{LeaderEpoch, Offset};
use tokio::sync::Notify;

use super::leader::Resigned;

/// Most fetches that wait on one partition; one more waits for its deadline only.
const WAITERS: usize = 16_384;
/// First number of waiters at which those that gave up are looked for.
const PRUNE_FROM: usize = 32;

/// The published state of one partition.
pub struct View<D: Disk> {
    reader: LogReader<D>,
    watermark: AtomicI64,
    /// `stable <= watermark`: written after it, read before it.
    stable: AtomicI64,
    epoch: AtomicI32,
    epoch_start: AtomicI64,
    /// 0 while it leads, [`FOLLOWS`], else 1 + the reason's place in [`REASONS`].
    part: AtomicU8,
    unsynced_bytes: AtomicU64,
    waiters: Mutex<Waiters>,
}

/// What a partition does here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It leads.
    Leads,
    /// It follows: readers who ask for that may read what it knows to be visible.
    Follows,
    /// It does nothing any more, or nothing yet.
    Stopped(Resigned),
}

const FOLLOWS: u8 = 5;
const REASONS: [Resigned; 4] = [Resigned::Moved, Resigned::Deleted, Resigned::Offline, Resigned::Stopping];

/// Weak, because one fetch waits on many partitions and drops its waiter when one of them moves.
#[derive(Default)]
struct Waiters {
    list: Vec<Weak<Notify>>,
    prune_at: usize,
}

impl Waiters {
    fn add(&mut self, waiter: &Arc<Notify>) {
        if self.list.len() >= self.prune_at.max(PRUNE_FROM) {
            self.list.retain(|waiter| waiter.strong_count() > 0);
            self.prune_at = 2 * self.list.len();
        }
        if self.list.len() < WAITERS {
            self.list.push(Arc::downgrade(waiter));
        } else {
            mark!("too many fetches wait on a partition");
        }
        assert!(self.list.len() <= WAITERS, "{} fetches wait", self.list.len());
    }
}

impl<D: Disk> View<D> {
    /// A view of a partition that does not serve yet.
    pub(super) fn new(reader: LogReader<D>) -> View<D> {
        View {
            watermark: AtomicI64::new(reader.start().0),
            stable: AtomicI64::new(reader.start().0),
            reader,
            epoch: AtomicI32::new(LeaderEpoch::NONE.0),
            epoch_start: AtomicI64::new(0),
            part: AtomicU8::new(1),
            unsynced_bytes: AtomicU64::new(0),
            waiters: Mutex::default(),
        }
    }

    /// The log below the watermark; the caller bounds its reads by it.
    pub fn reader(&self) -> &LogReader<D> {
        &self.reader
    }

    /// End of what readers may see (REP-8).
    pub fn watermark(&self) -> Offset {
        Offset(self.watermark.load(Ordering::Acquire))
    }

    /// End of what readers of committed records may see: every transaction that has a record below is decided, and its
    /// decision is below the watermark (TXN-3). Ask for it before the watermark.
    pub fn stable_end(&self) -> Offset {
        Offset(self.stable.load(Ordering::Acquire))
    }

    /// The epoch of the leader here.
    pub fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.epoch.load(Ordering::Acquire))
    }

    /// Whether the watermark has reached what earlier leaders left: before, the end is not known (KIP-207).
    pub fn is_caught_up(&self) -> bool {
        self.watermark.load(Ordering::Acquire) >= self.epoch_start.load(Ordering::Acquire)
    }

    /// What it does.
    pub fn part(&self) -> Part {
        match self.part.load(Ordering::Acquire) {
            0 => Part::Leads,
            FOLLOWS => Part::Follows,
            place => Part::Stopped(REASONS[usize::from(place) - 1]),
        }
    }

    /// Why it does not lead, if it does not; a follower has "moved".
    pub fn stopped(&self) -> Option<Resigned> {
        match self.part() {
            Part::Leads => None,
            Part::Follows => Some(Resigned::Moved),
            Part::Stopped(why) => Some(why),
        }
    }

    /// Appended bytes that no finished sync covers.
    pub fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes.load(Ordering::Relaxed)
    }

    /// Wakes `waiter` once when the watermark passes `seen` or the partition stops serving.
    ///
    /// Returns true, and enlists nobody, when that is so already. Use a fresh waiter for every wait: one that its
    /// fetch has dropped is forgotten by and by.
    pub fn watch(&self, waiter: &Arc<Notify>, seen: Offset) -> bool {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if self.watermark() > seen || matches!(self.part(), Part::Stopped(_)) {
            return true;
        }
        waiters.add(waiter);
        false
    }

    /// Starts to lead in `epoch`.
    pub(super) fn publish_epoch(&self, epoch: LeaderEpoch, start: Offset) {
        assert!(epoch > self.epoch(), "{epoch:?} after {:?}", self.epoch());
        self.epoch_start.store(start.0, Ordering::Release);
        self.epoch.store(epoch.0, Ordering::Release);
        self.part.store(0, Ordering::Release);
    }

    /// Starts to follow in `epoch`.
    pub(super) fn publish_following(&self, epoch: LeaderEpoch) {
        assert!(epoch >= self.epoch(), "{epoch:?} after {:?}", self.epoch());
        self.epoch.store(epoch.0, Ordering::Release);
        self.part.store(FOLLOWS, Ordering::Release);
    }

    /// Shows records up to `end`, and up to `stable` to those who want committed ones. Call [`View::wake`] after the turn.
    pub(super) fn publish_watermark(&self, end: Offset, stable: Offset) {
        assert!(end <= self.reader.end(), "{end:?} is beyond the log end {:?}", self.reader.end());
        assert!(stable <= end, "{stable:?} is stable, and beyond the watermark {end:?}");
        self.watermark.store(end.0, Ordering::Release);
        self.stable.store(stable.0, Ordering::Release);
    }

    /// Stops serving and wakes everyone.
    pub(super) fn publish_stop(&self, why: Resigned) {
        let place = REASONS.iter().position(|reason| *reason == why).expect("every reason is listed");
        self.part.store(place as u8 + 1, Ordering::Release);
        self.wake();
    }

    pub(super) fn publish_unsynced(&self, bytes: u64) {
        self.unsynced_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Wakes every waiting fetch.
    pub(super) fn wake(&self) {
        let woken = {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut waiters.list)
        };
        for waiter in woken.iter().filter_map(Weak::upgrade) {
            waiter.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetches_that_gave_up_are_forgotten_also_when_they_wait_on_many_partitions() {
        let mut partitions = [Waiters::default(), Waiters::default()];
        let stays = Arc::new(Notify::new());
        partitions.iter_mut().for_each(|waiters| waiters.add(&stays));
        for _ in 0..10_000 {
            let gives_up = Arc::new(Notify::new());
            partitions.iter_mut().for_each(|waiters| waiters.add(&gives_up));
        }
        for waiters in &partitions {
            assert!(waiters.list.len() <= PRUNE_FROM, "{} are kept", waiters.list.len());
            assert_eq!(waiters.list.iter().filter_map(Weak::upgrade).count(), 1);
        }
    }

    #[test]
    fn the_number_of_waiting_fetches_is_bounded() {
        let mut waiters = Waiters::default();
        let all: Vec<_> = (0..=WAITERS).map(|_| Arc::new(Notify::new())).collect();
        all.iter().for_each(|waiter| waiters.add(waiter));
        assert_eq!(waiters.list.len(), WAITERS);
    }
}
