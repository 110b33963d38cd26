//! SHELL. Group commit without a timer, over all partitions of a data directory.
//!
//! Owns: the queue of partitions that asked for a sync, the times at which background syncs and idle marks are due.
//! Promises: the next sync starts when the last one ended and covers everything that was appended by then, in every
//! partition that asked; a failed sync is never retried: the directory goes offline and every producer that waits is
//! refused (LOG-9); an idle node is not woken, unless its disk is full and a mark is owed (each second).
//! Leaves out: what a flushed end means (`leader`), what is synced (`dejaq_storage::sync_flushes`).
//! `partition` queues itself; one task runs [`Flusher::run`]; `directory` stops it.
//!
//! ```text
//!  asked: p1 p7 p3 ─► begin_flush each ─► one sync for all ─► end_flush each ─► Flushed ─► acks
//!                     (p1 asks again meanwhile ─────────────────────────────► next round)
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dejaq_storage::{Flush, FlushError, buggify, mark, sync_flushes};
use tokio::sync::Notify;

use super::health::Health;
use super::leader::Resigned;
use super::partition::Partition;
use crate::runtime::{Mono, Runtime};

/// A partition that was not flushed for this long writes down its durable point.
const IDLE_AFTER: Duration = Duration::from_secs(1);
/// When there is no room for the side file, this long until the next try.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// Syncs the partitions of one data directory.
pub struct Flusher<R: Runtime> {
    runtime: R,
    health: Arc<Health>,
    queues: Mutex<Queues<R>>,
    wake: Notify,
    /// Held from before the first flush of a round begins until the last has ended; whoever gets it knows that no
    /// flush is under way that began before.
    running: tokio::sync::Mutex<()>,
    is_stopping: AtomicBool,
    counters: Counters,
}

/// What the flusher did so far, for the metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Syncs that ended well.
    pub syncs: AtomicU64,
    /// Partitions that they covered, summed up.
    pub partitions: AtomicU64,
    /// Time that they took, in microseconds, summed up.
    pub micros: AtomicU64,
}

struct Queues<R: Runtime> {
    asked: Vec<Arc<Partition<R>>>,
    /// By time and a number that keeps equal times apart.
    timed: BTreeMap<(Mono, u64), Timed<R>>,
    next_number: u64,
}

struct Timed<R: Runtime> {
    due: Due,
    partition: Arc<Partition<R>>,
}

/// A flush that began and was not synced yet.
struct Begun<R: Runtime> {
    partition: Arc<Partition<R>>,
    flush: Flush<R::Disk>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Background,
    Retry,
    Idle,
}

impl<R: Runtime> Flusher<R> {
    /// A flusher that nobody runs yet.
    pub fn new(runtime: R, health: Arc<Health>) -> Arc<Flusher<R>> {
        Arc::new(Flusher {
            runtime,
            health,
            queues: Mutex::new(Queues { asked: Vec::new(), timed: BTreeMap::new(), next_number: 0 }),
            wake: Notify::new(),
            running: tokio::sync::Mutex::default(),
            is_stopping: AtomicBool::new(false),
            counters: Counters::default(),
        })
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Puts `partition` into the next round. Inline, called within its turn.
    pub(super) fn flush_soon(&self, partition: &Arc<Partition<R>>) {
        if !partition.flush_queued.swap(true, Ordering::AcqRel) {
            self.lock().asked.push(partition.clone());
            self.wake.notify_one();
        }
    }

    /// Tells `partition` that its time is over, after `wait`.
    pub(super) fn flush_within(&self, partition: &Arc<Partition<R>>, wait: Duration) {
        self.at(partition, Due::Background, wait);
        self.wake.notify_one(); // its time may come before the one that is waited for
    }

    /// Lets `partition` write down its durable point soon: a log that was just recovered or truncated may owe it, and
    /// if nobody writes to it no flush will ever do it. (Found by `bit_rot` seed 185514384600981 in simulation.)
    pub(super) fn mark_soon(&self, partition: &Arc<Partition<R>>) {
        self.mark_idle(partition);
        self.wake.notify_one();
    }

    /// Waits until no sync runs that began before this call.
    pub(super) async fn settled(&self) {
        drop(self.running.lock().await);
    }

    /// Ends [`Flusher::run`]; returns when no sync runs any more. What was not synced is left to closing the logs.
    pub(super) async fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.wake.notify_one();
        self.settled().await;
    }

    /// Lets go of the partitions that are queued: they hold this flusher, and with it would outlive their directory.
    pub(super) fn forget(&self) {
        let mut queues = self.lock();
        let queued = (std::mem::take(&mut queues.asked), std::mem::take(&mut queues.timed));
        drop(queues);
        drop(queued); // not under the lock
    }

    /// Runs until stopped.
    pub async fn run(self: Arc<Self>) {
        while !self.is_stopping.load(Ordering::Acquire) {
            let next = self.lock().timed.keys().next().map(|(at, _)| *at);
            match next {
                _ if !self.lock().asked.is_empty() => {}
                None => self.wake.notified().await,
                Some(at) => {
                    self.runtime.before(at, self.wake.notified()).await;
                }
            }
            self.flush_due().await;
            self.flush_asked().await;
        }
        assert!(self.is_stopping.load(Ordering::Acquire), "the flusher ends only when it is told to");
    }

    async fn flush_asked(&self) {
        let _running = self.running.lock().await;
        let asked = std::mem::take(&mut self.lock().asked);
        if asked.is_empty() || self.is_stopping.load(Ordering::Acquire) {
            return;
        }
        if self.health.is_offline() {
            asked.iter().for_each(|partition| partition.resign(Resigned::Offline));
            return;
        }
        let mut begun = Vec::with_capacity(asked.len());
        for partition in asked {
            partition.flush_queued.store(false, Ordering::Release);
            match partition.begin_flush() {
                Ok(Some(flush)) => begun.push(Begun { partition, flush }),
                Ok(None) => {}
                Err(why) => self.not_begun(&partition, why),
            }
        }
        self.sync(begun, true).await;
    }

    async fn flush_due(&self) {
        let _running = self.running.lock().await;
        if self.is_stopping.load(Ordering::Acquire) {
            return;
        }
        let now = self.runtime.now();
        let mut idle = Vec::new();
        while let Some(Timed { due, partition }) = self.take_due(now) {
            match due {
                Due::Background => partition.flush_overdue(),
                Due::Retry => self.flush_soon(&partition),
                Due::Idle => {
                    partition.idle_queued.store(false, Ordering::Release);
                    match partition.begin_idle_flush() {
                        Ok(Some(flush)) => idle.push(Begun { partition, flush }),
                        Ok(None) => {}
                        Err(FlushError::Full) => {
                            mark!("no room for the durable point of an idle log");
                            self.mark_idle(&partition);
                        }
                        Err(why @ FlushError::Sealed(_)) => self.not_begun(&partition, why),
                    }
                }
            }
        }
        self.sync(idle, false).await;
    }

    /// One sync for all; then every partition learns of it. The caller holds `running`.
    async fn sync(&self, begun: Vec<Begun<R>>, marks_idle: bool) {
        if begun.is_empty() {
            return;
        }
        let started = self.runtime.now();
        if buggify!("a sync begins late", 50) {
            self.runtime.sleep(Duration::from_millis(30)).await;
        }
        let (partitions, mut flushes): (Vec<_>, Vec<_>) =
            begun.into_iter().map(|one| (one.partition, one.flush)).unzip();
        let result = sync_flushes(self.runtime.disk(), &mut flushes).await;
        match &result {
            Ok(()) => self.count(partitions.len() as u64, self.runtime.now().since(started)),
            Err(error) => {
                mark!("a sync failed");
                self.health.counts.failed_syncs.add(1);
                self.health.fail(&format!("a sync failed: {error}"));
            }
        }
        for (partition, flush) in partitions.iter().zip(flushes) {
            partition.end_flush(flush, &result);
            // A mark may meet a batch that came right before it: it speaks of what was durable then, and its sync covers the
            // batch, for which nobody asks again. While more is not synced, whoever syncs that sees to the mark.
            if result.is_ok() && (marks_idle || partition.owes_marker()) {
                self.mark_idle(partition);
            }
        }
    }

    fn not_begun(&self, partition: &Arc<Partition<R>>, why: FlushError) {
        match why {
            FlushError::Full => {
                mark!("no room for the side file of a flush");
                self.at(partition, Due::Retry, FULL_RETRY);
            }
            FlushError::Sealed(sealed) => {
                self.health.fail(&format!("{}: {sealed}", partition.name()));
                partition.resign(Resigned::Offline);
            }
        }
    }

    fn mark_idle(&self, partition: &Arc<Partition<R>>) {
        if !partition.idle_queued.swap(true, Ordering::AcqRel) {
            self.at(partition, Due::Idle, IDLE_AFTER);
        }
    }

    fn at(&self, partition: &Arc<Partition<R>>, due: Due, wait: Duration) {
        let at = self.runtime.now().plus(wait);
        let mut queues = self.lock();
        let number = queues.next_number;
        queues.next_number += 1;
        queues.timed.insert((at, number), Timed { due, partition: partition.clone() });
    }

    fn take_due(&self, now: Mono) -> Option<Timed<R>> {
        let mut queues = self.lock();
        let first = queues.timed.first_entry()?;
        if first.key().0 <= now { Some(first.remove()) } else { None }
    }

    fn count(&self, partitions: u64, took: Duration) {
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.counters.partitions.fetch_add(partitions, Ordering::Relaxed);
        self.counters.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues<R>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
