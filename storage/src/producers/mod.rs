//! Idempotent producers of one partition: what was appended last, so that a retry is answered and not appended.
//!
//! Owns: for every producer id its epoch, its last batches (sixteen in memory, five behind a snapshot), its open transaction.
//! Promises: a batch is accepted only if it follows (IDM-3, wrapping at 2^31-1), a retry of any that is remembered is recognised
//! (IDM-1, IDM-2), one of an earlier batch is told that it is there if the log shows that it had it (DUPLICATE_SEQUENCE_NUMBER,
//! which clients take for success: Java has five batches in flight to each of two leaders, and sends those of the old one again
//! behind those that the new one took), an older epoch is fenced (IDM-6), none is forgotten while it may send again (IDM-9), nothing changes until the write succeeded (IDM-5: [`Staged`]), the state is what a
//! replay of the log gives (IDM-4), and an unknown producer may start at any sequence (IDM-7, Kafka's rule).
//! Transactions: the last stable offset is the least of the watermark and the first offset of any transaction that has no
//! marker, or whose marker lies at or beyond the watermark (TXN-3); a marker ends at most one transaction, fences what is
//! older than it, and the same marker again is answered like a retry (TXN-5), unless a later coordinator sends it: that one
//! is appended, so that nothing of the earlier coordinator counts from there on (TXN-9).
//! Leaves out: who may write (`log::append`), where snapshots lie (`log::roll`), the aborted lists (`aborted`).
//!
//! ```text
//! batch ─► Staged::check ─► Accept / Duplicate / refuse        write ok ─► Producers::commit
//!                                                              write failed ─► drop the Staged
//! ```

pub(crate) mod snapshot;
mod stable;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dejaq_wire::ids::{CoordinatorEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
use dejaq_wire::record::BatchHeader;
use dejaq_wire::record::control::EndTxnMarker;

use crate::aborted::AbortedTxn;
use crate::batch::{TxnGuard, TxnStanding, has_sane_producer};
use crate::compaction::LastOf;
use crate::log::ProducerSummary;
use crate::{mark, mutant};

/// For so long a producer may send a batch again whose answer it missed, ms: it is not forgotten for lack of room before.
/// Five times the default of `delivery.timeout.ms`.
pub(crate) const RETRY_MS: i64 = 10 * 60 * 1000;

/// Batches remembered of a producer at least, and in a snapshot: Kafka's clients have at most five in flight on a connection.
pub(crate) const WINDOW: usize = 5;
/// Batches remembered of a producer in memory: five that an old leader has not answered, and what the new one took meanwhile.
pub(crate) const RECENT: usize = 16;

/// So many records in a row are counted at most: what is further back is not told from what is still to come.
const MOST_IN_A_ROW: i32 = 1 << 30;

fn window() -> usize {
    if mutant!(47) { WINDOW - 1 } else { RECENT }
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
    /// Oldest first; `len() <= RECENT`, fewer behind a snapshot; all of `epoch`.
    pub(crate) batches: VecDeque<BatchMemory>,
    /// So many records the log had one after the other, the last of `batches` at their end; at most [`MOST_IN_A_ROW`]. Less
    /// where a replay began in the midst of them.
    in_a_row: i32,
    /// Epoch of the coordinator that wrote the last marker, or -1.
    pub(crate) coordinator_epoch: i32,
    /// First offset of the transaction that has no marker yet.
    pub(crate) txn_start: Option<Offset>,
    /// Offset of the last marker of `epoch`: the same one again is answered with it.
    pub(crate) marker: Option<Offset>,
    /// Wall clock of the last append or marker; not part of what a replay must reproduce.
    pub(crate) active_ms: i64,
}

impl Producer {
    fn new(epoch: ProducerEpoch, now_ms: i64) -> Producer {
        Producer {
            epoch,
            batches: VecDeque::new(),
            in_a_row: 0,
            coordinator_epoch: -1,
            txn_start: None,
            marker: None,
            active_ms: now_ms,
        }
    }

    /// Offset of its last batch or marker, as far as that is remembered.
    fn last_at(&self) -> Offset {
        let batch = self.batches.back().map(|batch| batch.last);
        batch.max(self.marker).unwrap_or(Offset::NONE)
    }

    fn begin_epoch(&mut self, epoch: ProducerEpoch) {
        self.epoch = epoch;
        self.batches.clear();
        self.in_a_row = 0;
        self.marker = None;
    }

    fn remember(&mut self, batch: BatchMemory) {
        let goes_on =
            self.batches.back().is_some_and(|last| last.last_sequence.next() == batch.first_sequence);
        let before = if goes_on || mutant!(332) { self.in_a_row } else { 0 };
        let more = batch.first_sequence.until(batch.last_sequence).saturating_add(1);
        self.in_a_row = before.saturating_add(more).min(MOST_IN_A_ROW);
        self.batches.push_back(batch);
        while self.batches.len() > window() {
            self.batches.pop_front();
        }
    }

    /// Where a batch of these sequences lies below, that the log had for sure and that is not remembered any more.
    fn had(&self, first: Sequence, last: Sequence) -> Option<Offset> {
        let (oldest, newest) = (self.batches.front()?, self.batches.back()?);
        let is_before = last.until(newest.last_sequence) > oldest.first_sequence.until(newest.last_sequence);
        let is_of_the_row = first.until(newest.last_sequence) < self.in_a_row || mutant!(336);
        let is_whole = first.until(newest.last_sequence) >= last.until(newest.last_sequence);
        (is_before && is_of_the_row && is_whole && !mutant!(333)).then_some(oldest.base)
    }

    fn apply_data(&mut self, header: &BatchHeader, base: Offset, now_ms: i64) {
        if header.producer_epoch != self.epoch {
            self.begin_epoch(header.producer_epoch);
        }
        let last = base.plus(i64::from(header.last_offset_delta));
        if let Some(previous) = self.batches.back() {
            assert!(base > previous.last, "batch at {base:?} after {:?}", previous.last);
        }
        if header.base_sequence.is_valid() {
            self.remember(BatchMemory {
                first_sequence: header.base_sequence,
                last_sequence: last_sequence(header),
                base,
                last,
                timestamp_ms: header.max_timestamp_ms,
            });
        }
        if header.is_transactional() && self.txn_start.is_none() {
            self.txn_start = Some(base);
        }
        self.active_ms = now_ms;
    }

    /// A marker ends the transaction; with KIP-890 it may carry the next epoch already. Returns where the transaction
    /// that it ended began.
    fn apply_marker(
        &mut self,
        header: &BatchHeader,
        told: &EndTxnMarker,
        at: Offset,
        now_ms: i64,
    ) -> Option<Offset> {
        if header.producer_epoch > self.epoch {
            mark!("a marker bumps the producer's epoch");
            self.begin_epoch(header.producer_epoch);
        }
        self.coordinator_epoch = self.coordinator_epoch.max(told.coordinator_epoch.0);
        self.marker = Some(at);
        self.active_ms = now_ms;
        self.txn_start.take()
    }
}

/// What to do with a batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    /// It is in the log. Where it is not remembered where, `base` is [`Offset::NONE`], and `last` is at or beyond its end.
    Duplicate {
        base: Offset,
        last: Offset,
    },
    StaleEpoch {
        current: ProducerEpoch,
    },
    OutOfOrder {
        expected: Sequence,
    },
    /// A marker of a coordinator that was replaced.
    StaleCoordinator {
        current: CoordinatorEpoch,
    },
    /// A batch outside of a transaction while its producer has one open.
    NotInTransaction,
    /// The transaction that it belongs to has ended since its coordinator was asked.
    NotVerified,
    TooMany,
}

/// All producers of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    by_id: BTreeMap<ProducerId, Producer>,
    /// Every producer without an open transaction, by its last batch or marker: the one silent longest first, on every
    /// replica and after a replay, too.
    idle: BTreeSet<(Offset, ProducerId)>,
    /// First offsets of the transactions without a marker.
    open: BTreeSet<(Offset, ProducerId)>,
    /// Transactions whose marker is not known to be below the watermark.
    ended: stable::Ended,
    /// Producers forgotten by expiry or for lack of room since the log was opened.
    forgotten: u64,
}

/// The producers as they will be if the write succeeds.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    changed: BTreeMap<ProducerId, Producer>,
    ended: Vec<stable::EndedTxn>,
    /// In the order of their markers.
    aborted: Vec<AbortedTxn>,
    /// When a leader judged them, wall clock in ms. Who follows takes what it gets, and forgets whom the leader forgot.
    judged_ms: Option<i64>,
}

impl Staged {
    fn get<'a>(&'a self, committed: &'a Producers, id: ProducerId) -> Option<&'a Producer> {
        self.changed.get(&id).or_else(|| committed.by_id.get(&id))
    }

    /// Whether the leader may append this data batch, which carries `guard`.
    pub(crate) fn check(
        &mut self,
        committed: &Producers,
        header: &BatchHeader,
        guard: Option<TxnGuard>,
        (limit, now_ms): (usize, i64),
    ) -> Verdict {
        self.judged_ms = Some(now_ms);
        let verdict = self.check_order(committed, header, limit);
        if verdict == Verdict::Accept && !self.is_vouched_for(committed, header, guard) {
            mark!("a batch of a transaction that has ended meanwhile is refused");
            return Verdict::NotVerified;
        }
        verdict
    }

    /// Whether the transaction of a batch is open here, or no marker came since its coordinator said that it is open.
    fn is_vouched_for(&self, committed: &Producers, header: &BatchHeader, guard: Option<TxnGuard>) -> bool {
        let Some(guard) = guard.filter(|_| header.is_transactional()) else { return true };
        let known = self.get(committed, header.producer_id);
        let known = known.filter(|known| known.epoch == header.producer_epoch);
        known.is_some_and(|known| known.txn_start.is_some())
            || known.and_then(|known| known.marker) == guard.marker
    }

    /// Whether this data batch follows what the log has of its producer.
    fn check_order(&self, committed: &Producers, header: &BatchHeader, limit: usize) -> Verdict {
        let Some(known) = self.get(committed, header.producer_id) else {
            return if self.has_room(committed, limit) { Verdict::Accept } else { Verdict::TooMany };
        };
        if header.producer_epoch < known.epoch {
            return Verdict::StaleEpoch { current: known.epoch };
        }
        if known.txn_start.is_some() && !header.is_transactional() {
            return Verdict::NotInTransaction;
        }
        if !header.base_sequence.is_valid() {
            return Verdict::Accept; // a coordinator writes for the producer, and nobody counts
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
        if let Some(below) = known.had(header.base_sequence, last_sequence(header)) {
            mark!("a retry of a batch that is not remembered any more is told that it is there");
            return Verdict::Duplicate { base: Offset::NONE, last: below.previous() };
        }
        let expected = known.batches.back().map_or(Sequence::ZERO, |batch| following(batch.last_sequence));
        if header.base_sequence == expected { Verdict::Accept } else { Verdict::OutOfOrder { expected } }
    }

    /// Whether one more producer can be remembered: there is room, or one that was silent for long enough to be forgotten.
    fn has_room(&self, committed: &Producers, limit: usize) -> bool {
        let more = self.changed.keys().filter(|id| !committed.by_id.contains_key(id)).count() + 1;
        let beyond = (committed.by_id.len() + more).saturating_sub(limit);
        let silent = committed
            .idle
            .iter()
            .take_while(|(_, id)| self.may_forget(committed.by_id[id].active_ms))
            .filter(|(_, id)| !self.changed.contains_key(id));
        beyond == 0 || silent.take(beyond).count() == beyond
    }

    /// A leader judges what comes, at this time.
    pub(crate) fn judge_at(&mut self, now_ms: i64) {
        self.judged_ms = Some(now_ms);
    }

    /// Whether a producer may be forgotten for lack of room that was active then.
    fn may_forget(&self, active_ms: i64) -> bool {
        self.judged_ms.is_none_or(|now_ms| now_ms.saturating_sub(active_ms) > RETRY_MS)
    }

    /// Whether the leader may append this marker.
    pub(crate) fn check_marker(
        &mut self,
        committed: &Producers,
        told: &EndTxnMarker,
        now_ms: i64,
    ) -> Verdict {
        self.judged_ms = Some(now_ms);
        let Some(known) = self.get(committed, told.producer_id) else { return Verdict::Accept };
        if told.coordinator_epoch.0 < known.coordinator_epoch {
            return Verdict::StaleCoordinator { current: CoordinatorEpoch(known.coordinator_epoch) };
        }
        if told.producer_epoch < known.epoch {
            return Verdict::StaleEpoch { current: known.epoch };
        }
        // One of a later coordinator is appended, though it ends nothing: what the earlier one still has on its way would
        // else end the transaction after this one.
        let is_same = known.txn_start.is_none()
            && told.producer_epoch == known.epoch
            && (told.coordinator_epoch.0 == known.coordinator_epoch || mutant!(271));
        match known.marker.filter(|_| is_same) {
            Some(at) => {
                mark!("a repeated marker is answered and not appended");
                Verdict::Duplicate { base: at, last: at }
            }
            None => Verdict::Accept,
        }
    }

    /// Takes a batch in, as data or as the marker `told`, at `base`.
    pub(crate) fn apply(
        &mut self,
        committed: &Producers,
        header: &BatchHeader,
        told: Option<&EndTxnMarker>,
        base: Offset,
        now_ms: i64,
    ) {
        if !header.has_producer() || !has_sane_producer(header) {
            return;
        }
        let id = header.producer_id;
        let producer = self.changed.entry(id).or_insert_with(|| {
            let known = committed.by_id.get(&id).cloned();
            known.unwrap_or_else(|| Producer::new(header.producer_epoch, now_ms))
        });
        if !header.is_control() {
            producer.apply_data(header, base, now_ms);
            return;
        }
        let Some(told) = told else { return };
        let Some(first) = producer.apply_marker(header, told, base, now_ms) else { return };
        assert!(first < base, "the transaction of {id:?} begins at {first:?}, its marker is at {base:?}");
        self.ended.push(stable::EndedTxn { first, marker: base });
        if !told.commit {
            let stable = self.first_open(committed).unwrap_or(base.next()).min(base.next());
            self.aborted.push(AbortedTxn { producer_id: id, first, marker: base, stable });
        }
    }

    /// First offset of the oldest transaction that is open after what is staged.
    fn first_open(&self, committed: &Producers) -> Option<Offset> {
        let untouched =
            committed.open.iter().find(|(_, id)| !self.changed.contains_key(id)).map(|(first, _)| *first);
        let staged = self.changed.values().filter_map(|producer| producer.txn_start);
        staged.chain(untouched).min()
    }

    /// Transactions that were aborted by what is staged.
    pub(crate) fn aborted(&self) -> &[AbortedTxn] {
        &self.aborted
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }
}

impl Producers {
    /// The write succeeded: what was staged is true now. Forgets whoever was silent longest beyond `limit`, on a leader only
    /// who will not send again what it sent ([`RETRY_MS`]).
    pub(crate) fn commit(&mut self, mut staged: Staged, limit: usize) {
        for (id, producer) in std::mem::take(&mut staged.changed) {
            self.insert(id, producer);
        }
        std::mem::take(&mut staged.ended).into_iter().for_each(|ended| self.ended.add(ended));
        while self.by_id.len() > limit
            && let Some((last, id)) = self.idle.first().copied()
            && (staged.may_forget(self.by_id[&id].active_ms) || self.by_id.len() > 2 * limit)
        {
            mark!("a producer is forgotten for lack of room");
            self.idle.remove(&(last, id));
            self.by_id.remove(&id);
            self.forgotten += 1;
        }
        self.check();
    }

    fn insert(&mut self, id: ProducerId, producer: Producer) {
        assert!(producer.batches.len() <= RECENT, "{id:?} remembers {} batches", producer.batches.len());
        if let Some(old) = self.by_id.get(&id) {
            self.idle.remove(&(old.last_at(), id));
            self.open.remove(&(old.txn_start.unwrap_or(Offset::NONE), id));
        }
        match producer.txn_start {
            Some(first) => self.open.insert((first, id)),
            None => self.idle.insert((producer.last_at(), id)),
        };
        self.by_id.insert(id, producer);
    }

    /// End of what readers of committed records may see, when `watermark` is the end of what others may (TXN-3).
    /// Forgets what it need not remember as the watermark goes up.
    pub(crate) fn stable_end(&mut self, watermark: Offset) -> Offset {
        if mutant!(50) {
            return watermark; // the planted bug: undecided transactions are shown
        }
        let open = self.open.first().map(|(first, _)| *first);
        let ended = self.ended.first_at_or_beyond(watermark);
        // M51: a transaction is over when its marker is appended.
        let ended = if mutant!(51) { None } else { ended };
        [open, ended].into_iter().flatten().fold(watermark, Offset::min)
    }

    /// Whether this producer has a transaction open in this epoch, and what tells whether that has changed.
    pub(crate) fn standing(&self, id: ProducerId, epoch: ProducerEpoch) -> TxnStanding {
        let known = self.by_id.get(&id).filter(|producer| producer.epoch == epoch);
        TxnStanding {
            is_open: known.is_some_and(|producer| producer.txn_start.is_some()),
            guard: TxnGuard { marker: known.and_then(|producer| producer.marker) },
        }
    }

    fn check(&self) {
        let (idle, open, all) = (self.idle.len(), self.open.len(), self.by_id.len());
        assert!(idle + open == all, "{idle} idle and {open} in transactions of {all} producers");
    }

    /// Takes in a batch that is in the log already: recovery, truncation and followers do not judge, they follow.
    /// Returns the transaction that it aborted.
    pub(crate) fn replay(
        &mut self,
        header: &BatchHeader,
        told: Option<&EndTxnMarker>,
        now_ms: i64,
        limit: usize,
    ) -> Option<AbortedTxn> {
        if !header.producer_id.is_valid() {
            return None;
        }
        let mut staged = Staged::default();
        staged.apply(self, header, told, header.base_offset, now_ms);
        let aborted = staged.aborted.pop();
        self.commit(staged, limit);
        aborted
    }

    /// Forgets producers that were silent for longer than `expiry_ms` and have no open transaction (IDM-7).
    pub(crate) fn expire(&mut self, now_ms: i64, expiry_ms: i64) -> usize {
        let mut count = 0;
        while let Some((_, id)) = self.idle.first().copied()
            && now_ms.saturating_sub(self.by_id[&id].active_ms) > expiry_ms
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

    /// When anyone was active last, wall clock in ms.
    pub(crate) fn latest_ms(&self) -> Option<i64> {
        self.by_id.values().map(|producer| producer.active_ms).max()
    }

    pub(crate) fn count(&self) -> usize {
        self.by_id.len()
    }

    /// The epoch of a producer, and that of the coordinator that wrote its last marker, -1 if none did; `None` is a producer that is
    /// not known.
    pub(crate) fn epochs_of(&self, id: ProducerId) -> Option<(ProducerEpoch, CoordinatorEpoch)> {
        self.by_id.get(&id).map(|producer| (producer.epoch, CoordinatorEpoch(producer.coordinator_epoch)))
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

    /// What a compaction must keep of each producer: its last batch, or the marker that its epoch came with.
    pub(crate) fn last_of(&self) -> BTreeMap<ProducerId, LastOf> {
        let last = |producer: &Producer| LastOf {
            data: producer.batches.back().map(|batch| batch.last),
            epoch: producer.epoch,
        };
        self.by_id.iter().map(|(id, producer)| (*id, last(producer))).collect()
    }

    /// Compares with what a replay of the log from `start` on gives (LOG-13, IDM-4). Batches below `start` may be
    /// remembered here alone; producers that were forgotten may be known to the replay alone. With `gaps` only the last
    /// batch must be there, and of the others none that is not remembered.
    pub(crate) fn agree_with_replay(
        &self,
        replayed: &Producers,
        start: Offset,
        gaps: bool,
    ) -> Result<(), String> {
        for (id, producer) in &self.by_id {
            let mine: Vec<_> = producer.batches.iter().filter(|batch| batch.base >= start).collect();
            let Some(other) = replayed.by_id.get(id) else {
                if mine.is_empty() {
                    continue;
                }
                return Err(format!("{id:?} is not in the log from {start:?} on, but remembered: {mine:?}"));
            };
            let theirs: Vec<_> = other.batches.iter().collect();
            let same = if gaps { is_what_is_left(&mine, &theirs) } else { end_alike(&mine, &theirs) };
            // A transaction that began below `start` begins later for the replay.
            let is_older = producer.txn_start.is_some_and(|first| first < start);
            let same_txn = is_older || producer.txn_start == other.txn_start;
            let marker = producer.marker.filter(|at| *at >= start);
            // A marker that nothing needs any more may be gone, and an older one be there.
            let same_marker = if gaps { other.marker <= marker } else { marker == other.marker };
            if producer.epoch != other.epoch || !same || !same_txn || !same_marker {
                return Err(format!("{id:?} is {producer:?}, a replay from {start:?} gives {other:?}"));
            }
        }
        match replayed.by_id.keys().find(|id| !self.by_id.contains_key(id)) {
            Some(id) if self.forgotten == 0 => Err(format!("{id:?} is in the log but was never forgotten")),
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether the last five are the same, and whatever both have before them: a snapshot holds no more.
fn end_alike(mine: &[&BatchMemory], theirs: &[&BatchMemory]) -> bool {
    let both = mine.len().min(theirs.len());
    both >= WINDOW.min(mine.len().max(theirs.len()))
        && mine[mine.len() - both..] == theirs[theirs.len() - both..]
}

/// Whether `theirs` may be what a compaction left of the log that `mine` remembers.
fn is_what_is_left(mine: &[&BatchMemory], theirs: &[&BatchMemory]) -> bool {
    let from = mine.first().map(|batch| batch.base);
    let known = |batch: &&BatchMemory| from.is_some_and(|from| batch.base < from) || mine.contains(batch);
    mine.last() == theirs.last() && theirs.iter().all(known)
}

#[cfg(test)]
pub(crate) mod tests;
