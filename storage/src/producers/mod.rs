//! Idempotent producers of one partition: what was appended last, so that a retry is answered and not appended.
//!
//! Owns: for every producer id its epoch, its last five batches, its open transaction. Promises: a batch is accepted
//! only if it follows (IDM-3, wrapping at 2^31-1), a retry of any of the last five is recognised (IDM-1, IDM-2), an
//! older epoch is fenced (IDM-6), nothing changes until the write succeeded (IDM-5: [`Staged`]), the state is what a
//! replay of the log gives (IDM-4), and an unknown producer may start at any sequence (IDM-7, Kafka's rule).
//! Leaves out: who may write (`log::append`), where snapshots lie (`log::roll`), the last stable offset (issue 5 reads
//! `txn_start` and adds the aborted index at [`Producers::replay`]'s control branch).
//!
//! ```text
//! batch ─► Staged::check ─► Accept / Duplicate / refuse        write ok ─► Producers::commit
//!                                                              write failed ─► drop the Staged
//! ```

pub(crate) mod snapshot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dejaq_wire::ids::{Offset, ProducerEpoch, ProducerId, Sequence};
use dejaq_wire::record::BatchHeader;

use crate::batch::has_sane_producer;
use crate::log::ProducerSummary;
use crate::{mark, mutant};

/// Batches remembered a producer: Kafka's clients have at most five in flight.
pub(crate) const WINDOW: usize = 5;

fn window() -> usize {
    if mutant!(47) { WINDOW - 1 } else { WINDOW }
}

fn following(last: Sequence) -> Sequence {
    if mutant!(58) { Sequence(last.0.wrapping_add(1)) } else { last.next() }
}

/// Of a batch that has a producer.
fn last_sequence(header: &BatchHeader) -> Sequence {
    header.last_sequence().expect("a verified batch of a producer has a sequence")
}

/// One batch of a producer, as far as a retry needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchMemory {
    pub(crate) first_sequence: Sequence,
    pub(crate) last_sequence: Sequence,
    pub(crate) base: Offset,
    pub(crate) last: Offset,
    pub(crate) timestamp_ms: i64,
}

/// What is known of one producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Producer {
    pub(crate) epoch: ProducerEpoch,
    /// Oldest first; `len() <= WINDOW`; all of `epoch`.
    pub(crate) batches: VecDeque<BatchMemory>,
    /// Epoch of the coordinator that wrote the last marker, or -1.
    pub(crate) coordinator_epoch: i32,
    /// First offset of the transaction that has no marker yet.
    pub(crate) txn_start: Option<Offset>,
    /// Wall clock of the last append or marker; not part of what a replay must reproduce.
    pub(crate) active_ms: i64,
}

impl Producer {
    fn new(epoch: ProducerEpoch, now_ms: i64) -> Producer {
        Producer {
            epoch,
            batches: VecDeque::new(),
            coordinator_epoch: -1,
            txn_start: None,
            active_ms: now_ms,
        }
    }

    fn apply_data(&mut self, header: &BatchHeader, base: Offset, now_ms: i64) {
        if header.producer_epoch != self.epoch {
            self.epoch = header.producer_epoch;
            self.batches.clear();
        }
        let last = base.plus(i64::from(header.last_offset_delta));
        if let Some(previous) = self.batches.back() {
            assert!(base > previous.last, "batch at {base:?} after {:?}", previous.last);
        }
        self.batches.push_back(BatchMemory {
            first_sequence: header.base_sequence,
            last_sequence: last_sequence(header),
            base,
            last,
            timestamp_ms: header.max_timestamp_ms,
        });
        while self.batches.len() > window() {
            self.batches.pop_front();
        }
        if header.is_transactional() && self.txn_start.is_none() {
            self.txn_start = Some(base);
        }
        self.active_ms = now_ms;
    }

    /// A marker ends the transaction; with KIP-890 it may carry the next epoch already.
    fn apply_marker(&mut self, header: &BatchHeader, now_ms: i64) {
        if header.producer_epoch > self.epoch {
            mark!("a marker bumps the producer's epoch");
            self.epoch = header.producer_epoch;
            self.batches.clear();
        }
        self.txn_start = None;
        self.active_ms = now_ms;
    }
}

/// What to do with a batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Duplicate { base: Offset, last: Offset },
    StaleEpoch { current: ProducerEpoch },
    OutOfOrder { expected: Sequence },
    TooMany,
}

/// All producers of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    by_id: BTreeMap<ProducerId, Producer>,
    /// Every producer without an open transaction, the one silent longest first.
    idle: BTreeSet<(i64, ProducerId)>,
    /// Producers forgotten by expiry or for lack of room since the log was opened.
    forgotten: u64,
}

/// The producers as they will be if the write succeeds.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    changed: BTreeMap<ProducerId, Producer>,
}

impl Staged {
    fn get<'a>(&'a self, committed: &'a Producers, id: ProducerId) -> Option<&'a Producer> {
        self.changed.get(&id).or_else(|| committed.by_id.get(&id))
    }

    /// Whether the leader may append this data batch.
    pub(crate) fn check(&self, committed: &Producers, header: &BatchHeader, limit: usize) -> Verdict {
        let Some(known) = self.get(committed, header.producer_id) else {
            let count = committed.by_id.len() + self.changed.len();
            let full = count >= limit && committed.idle.is_empty();
            return if full { Verdict::TooMany } else { Verdict::Accept };
        };
        if header.producer_epoch < known.epoch {
            return Verdict::StaleEpoch { current: known.epoch };
        }
        if header.producer_epoch > known.epoch {
            return if header.base_sequence == Sequence::ZERO {
                Verdict::Accept
            } else {
                Verdict::OutOfOrder { expected: Sequence::ZERO }
            };
        }
        let same = |batch: &&BatchMemory| {
            batch.first_sequence == header.base_sequence && batch.last_sequence == last_sequence(header)
        };
        if let Some(batch) = known.batches.iter().find(same) {
            mark!("a retried batch is answered with its first offsets");
            return Verdict::Duplicate { base: batch.base, last: batch.last };
        }
        let expected = known.batches.back().map_or(Sequence::ZERO, |batch| following(batch.last_sequence));
        if header.base_sequence == expected { Verdict::Accept } else { Verdict::OutOfOrder { expected } }
    }

    /// Takes a batch in, as data or as a marker, at `base`.
    pub(crate) fn apply(&mut self, committed: &Producers, header: &BatchHeader, base: Offset, now_ms: i64) {
        if !header.has_producer() || !has_sane_producer(header) {
            return;
        }
        let producer = self.changed.entry(header.producer_id).or_insert_with(|| {
            let known = committed.by_id.get(&header.producer_id).cloned();
            known.unwrap_or_else(|| Producer::new(header.producer_epoch, now_ms))
        });
        if header.is_control() {
            producer.apply_marker(header, now_ms);
        } else {
            producer.apply_data(header, base, now_ms);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }
}

impl Producers {
    /// The write succeeded: what was staged is true now. Forgets whoever was silent longest beyond `limit`.
    pub(crate) fn commit(&mut self, staged: Staged, limit: usize) {
        for (id, producer) in staged.changed {
            self.insert(id, producer);
        }
        while self.by_id.len() > limit
            && let Some((_, id)) = self.idle.pop_first()
        {
            mark!("a producer is forgotten for lack of room");
            self.by_id.remove(&id);
            self.forgotten += 1;
        }
        self.check();
    }

    fn insert(&mut self, id: ProducerId, producer: Producer) {
        assert!(producer.batches.len() <= WINDOW, "{id:?} remembers {} batches", producer.batches.len());
        if let Some(old) = self.by_id.get(&id) {
            self.idle.remove(&(old.active_ms, id));
        }
        if producer.txn_start.is_none() {
            self.idle.insert((producer.active_ms, id));
        }
        self.by_id.insert(id, producer);
    }

    fn check(&self) {
        assert!(
            self.idle.len() <= self.by_id.len(),
            "{} idle of {} producers",
            self.idle.len(),
            self.by_id.len()
        );
    }

    /// Takes in a batch that is in the log already: recovery, truncation and followers do not judge, they follow.
    pub(crate) fn replay(&mut self, header: &BatchHeader, now_ms: i64, limit: usize) {
        if !header.producer_id.is_valid() {
            return;
        }
        let mut staged = Staged::default();
        staged.apply(self, header, header.base_offset, now_ms);
        self.commit(staged, limit);
    }

    /// Forgets producers that were silent for longer than `expiry_ms` and have no open transaction (IDM-7).
    pub(crate) fn expire(&mut self, now_ms: i64, expiry_ms: i64) -> usize {
        let mut count = 0;
        while let Some((active_ms, id)) = self.idle.first().copied()
            && now_ms.saturating_sub(active_ms) > expiry_ms
        {
            mark!("a silent producer expires");
            self.idle.pop_first();
            self.by_id.remove(&id);
            self.forgotten += 1;
            count += 1;
        }
        self.check();
        count
    }

    pub(crate) fn summaries(&self) -> Vec<ProducerSummary> {
        let summary = |(id, producer): (&ProducerId, &Producer)| ProducerSummary {
            producer_id: *id,
            epoch: producer.epoch,
            last_sequence: producer.batches.back().map_or(Sequence::NONE, |batch| batch.last_sequence),
            last_timestamp_ms: producer.batches.back().map_or(producer.active_ms, |batch| batch.timestamp_ms),
            coordinator_epoch: producer.coordinator_epoch,
            txn_start: producer.txn_start,
        };
        self.by_id.iter().map(summary).collect()
    }

    /// Compares with what a replay of the log from `start` on gives (LOG-13, IDM-4). Batches below `start` may be
    /// remembered here alone; producers that were forgotten may be known to the replay alone.
    pub(crate) fn agree_with_replay(&self, replayed: &Producers, start: Offset) -> Result<(), String> {
        for (id, producer) in &self.by_id {
            let mine: Vec<_> = producer.batches.iter().filter(|batch| batch.base >= start).collect();
            let Some(other) = replayed.by_id.get(id) else {
                if mine.is_empty() {
                    continue;
                }
                return Err(format!("{id:?} is not in the log from {start:?} on, but remembered: {mine:?}"));
            };
            let theirs: Vec<_> = other.batches.iter().collect();
            if producer.epoch != other.epoch || mine != theirs {
                return Err(format!("{id:?} is {producer:?}, a replay from {start:?} gives {other:?}"));
            }
        }
        match replayed.by_id.keys().find(|id| !self.by_id.contains_key(id)) {
            Some(id) if self.forgotten == 0 => Err(format!("{id:?} is in the log but was never forgotten")),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
