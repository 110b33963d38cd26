//! Collects the records of one partition into batches: by size and by linger.
//!
//! Owns: the batch that still takes records, and the full ones that wait for their turn.
//! Promises: batches leave in the order of their records; a batch is at most `batch_bytes` unless one record alone
//! is larger; no record waits longer than `linger` for company, and none waits once the batch is full.
//! Leaves out: memory (the shell holds a permit for every byte), encoding, sending. Pure: `now` is an argument.
//!
//!   push ─► [ open batch ] ── full, or lingered, or flushed ──► [ ready | ready | ready ] ─► take

use std::collections::VecDeque;
use std::time::Duration;

use super::outcome::BatchId;
use crate::runtime::Mono;

/// When a batch is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// A batch takes no further record that would make it larger than this, in bytes before compression.
    pub batch_bytes: usize,
    /// A batch that is not full is sent this long after its first record.
    pub linger: Duration,
    /// Records in a batch, at most; Kafka's deltas are 32 bits, ours stop far earlier.
    pub batch_records: usize,
}

/// Records that travel together.
#[derive(Debug)]
pub struct Batch<T> {
    /// Its number in this producer.
    pub id: BatchId,
    /// The records in the order in which they came; never empty.
    pub records: Vec<T>,
    /// Their size in bytes before compression, as the caller measured it.
    pub bytes: usize,
    /// When the first of them came.
    pub born: Mono,
}

/// Where a record was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The batch.
    pub batch: BatchId,
    /// Its index in the batch, from 0 up.
    pub index: usize,
    /// Whether this record began the batch.
    pub opened: bool,
    /// Whether a batch is ready now that was not before.
    pub ready: bool,
}

/// The batches of one partition that were never sent.
#[derive(Debug)]
pub struct Batcher<T> {
    limits: BatchLimits,
    open: Option<Batch<T>>,
    ready: VecDeque<Batch<T>>,
}

impl<T> Batcher<T> {
    /// An empty collector.
    #[must_use]
    pub fn new(limits: BatchLimits) -> Batcher<T> {
        assert!(limits.batch_bytes > 0, "a batch holds at least one byte");
        assert!(limits.batch_records > 0, "a batch holds at least one record");
        Batcher { limits, open: None, ready: VecDeque::new() }
    }

    /// Adds a record of `bytes` bytes; `fresh` numbers a new batch if one begins.
    pub fn push(&mut self, record: T, bytes: usize, now: Mono, fresh: impl FnOnce() -> BatchId) -> Placed {
        let waiting = self.ready.len();
        if self.open.as_ref().is_some_and(|open| open.bytes.saturating_add(bytes) > self.limits.batch_bytes) {
            self.close();
        }
        let opened = self.open.is_none();
        let open =
            self.open.get_or_insert_with(|| Batch { id: fresh(), records: Vec::new(), bytes: 0, born: now });
        open.records.push(record);
        open.bytes = open.bytes.saturating_add(bytes);
        let (batch, index) = (open.id, open.records.len() - 1);
        let full = open.bytes >= self.limits.batch_bytes || open.records.len() >= self.limits.batch_records;
        if full {
            self.close();
        }
        self.check();
        Placed { batch, index, opened, ready: self.ready.len() > waiting }
    }

    /// Completes the open batch, full or not: nothing waits for company any more.
    pub fn close(&mut self) {
        if let Some(open) = self.open.take() {
            assert!(!open.records.is_empty(), "{:?} was opened without a record", open.id);
            self.ready.push_back(open);
        }
    }

    /// When the first batch may leave: `None` if there is none.
    #[must_use]
    pub fn ready_at(&self) -> Option<Mono> {
        match (self.ready.front(), &self.open) {
            (Some(first), _) => Some(first.born),
            (None, Some(open)) => Some(open.born + self.limits.linger),
            (None, None) => None,
        }
    }

    /// Takes the next batch if it is complete or has lingered.
    pub fn take(&mut self, now: Mono) -> Option<Batch<T>> {
        if self.ready.is_empty() && self.ready_at().is_some_and(|at| at <= now) {
            self.close();
        }
        self.ready.pop_front()
    }

    /// The size of the batch that [`Batcher::take`] would give next.
    #[must_use]
    pub fn next_bytes(&self) -> usize {
        self.ready.front().or(self.open.as_ref()).map_or(0, |batch| batch.bytes)
    }

    /// When the oldest record here came.
    #[must_use]
    pub fn oldest(&self) -> Option<Mono> {
        self.ready.front().or(self.open.as_ref()).map(|batch| batch.born)
    }

    /// Removes the batches that were begun at or before `deadline`.
    pub fn expire(&mut self, deadline: Mono) -> Vec<Batch<T>> {
        if self.open.as_ref().is_some_and(|open| open.born <= deadline) {
            self.close();
        }
        let expired = self.ready.iter().take_while(|batch| batch.born <= deadline).count();
        self.ready.drain(..expired).collect()
    }

    /// Whether nothing waits here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_none() && self.ready.is_empty()
    }

    fn check(&self) {
        if let (Some(last), Some(open)) = (self.ready.back(), &self.open) {
            assert!(last.id < open.id, "{:?} is complete, {:?} began earlier", last.id, open.id);
            assert!(last.born <= open.born, "the open batch is older than a complete one");
        }
        if let Some(open) = &self.open {
            assert!(!open.records.is_empty(), "{:?} is open and empty", open.id);
            assert!(open.bytes < self.limits.batch_bytes, "{} bytes are a full batch", open.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(batch_bytes: usize, linger_ms: u64) -> BatchLimits {
        BatchLimits { batch_bytes, linger: Duration::from_millis(linger_ms), batch_records: 1000 }
    }

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    struct Feeder {
        batcher: Batcher<u32>,
        next: u64,
    }

    impl Feeder {
        fn new(limits: BatchLimits) -> Feeder {
            Feeder { batcher: Batcher::new(limits), next: 1 }
        }

        fn push(&mut self, record: u32, bytes: usize, now: Mono) -> Placed {
            let next = &mut self.next;
            self.batcher.push(record, bytes, now, || {
                *next += 1;
                BatchId(*next - 1)
            })
        }
    }

    #[test]
    fn a_record_waits_for_company_exactly_as_long_as_the_linger() {
        let mut feeder = Feeder::new(limits(100, 5));
        feeder.push(1, 10, at(0));
        feeder.push(2, 10, at(3));
        assert_eq!(feeder.batcher.ready_at(), Some(at(5)), "counted from the first record");
        assert!(feeder.batcher.take(at(4)).is_none());
        assert_eq!(feeder.batcher.take(at(5)).expect("lingered").records, [1, 2]);
        assert!(feeder.batcher.is_empty());
    }

    #[test]
    fn a_full_batch_does_not_linger() {
        let mut feeder = Feeder::new(limits(20, 1000));
        assert!(!feeder.push(1, 10, at(0)).ready);
        assert!(feeder.push(2, 10, at(0)).ready);
        assert_eq!(feeder.batcher.take(at(0)).expect("full").records, [1, 2]);
    }

    #[test]
    fn a_record_that_does_not_fit_completes_the_batch_before_it() {
        let mut feeder = Feeder::new(limits(20, 1000));
        feeder.push(1, 15, at(0));
        let placed = feeder.push(2, 15, at(0));
        assert!(placed.ready && placed.opened && placed.index == 0, "{placed:?}");
        assert_eq!(feeder.batcher.take(at(0)).expect("completed").records, [1]);
        assert!(feeder.batcher.take(at(0)).is_none(), "the second still lingers");
    }

    #[test]
    fn a_record_larger_than_a_batch_travels_alone() {
        let mut feeder = Feeder::new(limits(20, 1000));
        feeder.push(1, 5, at(0));
        feeder.push(2, 500, at(0));
        assert_eq!(feeder.batcher.take(at(0)).expect("completed").records, [1]);
        assert_eq!(feeder.batcher.take(at(0)).expect("oversized").records, [2]);
    }

    #[test]
    fn expiry_takes_only_what_is_old() {
        let mut feeder = Feeder::new(limits(10, 1000));
        feeder.push(1, 10, at(0));
        feeder.push(2, 10, at(5));
        feeder.push(3, 1, at(7));
        let expired: Vec<_> = feeder.batcher.expire(at(5)).into_iter().flat_map(|b| b.records).collect();
        assert_eq!(expired, [1, 2]);
        assert_eq!(feeder.batcher.expire(at(7)).len(), 1, "an open batch grows old too");
    }

    proptest! {
        #[test]
        fn batches_keep_order_size_and_time(
            steps in proptest::collection::vec((1usize..60, 0u64..4, any::<bool>()), 1..200),
            linger_ms in 0u64..8,
        ) {
            let limits = limits(50, linger_ms);
            let mut feeder = Feeder::new(limits);
            let (mut now, mut out, mut sizes) = (0, Vec::new(), std::collections::BTreeMap::new());
            for (record, (bytes, pause, take)) in steps.iter().enumerate() {
                now += pause;
                feeder.push(record as u32, *bytes, at(now));
                sizes.insert(record as u32, *bytes);
                while *take && let Some(batch) = feeder.batcher.take(at(now)) {
                    let total: usize = batch.records.iter().map(|r| sizes[r]).sum();
                    prop_assert_eq!(total, batch.bytes);
                    prop_assert!(total <= limits.batch_bytes || batch.records.len() == 1);
                    out.extend(batch.records);
                }
                if *take {
                    prop_assert!(feeder.batcher.ready_at().is_none_or(|ready| ready > at(now)), "left behind");
                }
            }
            feeder.batcher.close();
            while let Some(batch) = feeder.batcher.take(at(now)) {
                out.extend(batch.records);
            }
            prop_assert_eq!(out, (0..steps.len() as u32).collect::<Vec<_>>());
        }
    }
}
