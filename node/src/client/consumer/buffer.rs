//! One partition of a consumer: its position, and what was fetched and not handed out yet. Pure.
//!
//! Owns: the position, the fetched batches, the error that stops the partition. Promises: records come in offset order,
//! each once, none before the position; a batch whose checksum fails is never looked into; what lies before a damaged
//! batch is handed out first; control batches are never handed out, nor, where committed records are read, batches of
//! transactions that the answer names as aborted. Leaves out: fetching, and what the error means to the user.
//!
//!   fetched batches ─► check CRC ─► aborted? control? ─► decompress one ─► skip below the position ─► hand out
//!
//! A transaction counts as aborted from the first offset that the answer names for its producer until that producer's next
//! abort marker: the same producer may have committed before, and may commit behind it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use dejaq_wire::ids::{LeaderEpoch, Offset, ProducerId};
use dejaq_wire::kafka::fetch::AbortedTransaction;
use dejaq_wire::record::control::ControlType;
use dejaq_wire::record::{Batch, BatchError, Batches, Record, RecordIter};

/// No partition comes near this offset: at a million records a second it takes 146 000 years.
const MAX_OFFSET: i64 = 1 << 62;

/// Why a fetched batch cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the batch at offset {offset} is damaged: {reason}")]
pub struct Damage {
    /// The first offset that cannot be read.
    pub offset: Offset,
    /// The first offset behind the batch, where its header can be trusted that far: seek there to pass over it.
    pub next: Option<Offset>,
    /// What is wrong.
    pub reason: String,
}

/// What was fetched from one partition.
#[derive(Debug)]
pub struct Buffer {
    position: Offset,
    /// Batches that were not opened yet, whole and with a good checksum.
    batches: VecDeque<Batch>,
    /// The batch that is being handed out.
    open: Option<Open>,
    /// Told once everything before it was handed out.
    damage: Option<Damage>,
    /// Of what was fetched: where aborted transactions begin, and not reached yet.
    aborted: BTreeMap<Offset, BTreeSet<ProducerId>>,
    /// Producers of whose transaction, an aborted one, we are in the middle.
    skipped: BTreeSet<ProducerId>,
    decompressed_limit: usize,
}

#[derive(Debug)]
struct Open {
    records: RecordIter,
    next: Offset,
    epoch: LeaderEpoch,
}

impl Buffer {
    /// An empty buffer at this position. A batch may decompress to at most `decompressed_limit` bytes.
    #[must_use]
    pub fn at(position: Offset, decompressed_limit: usize) -> Buffer {
        assert!(position.is_valid(), "{position:?} is no position");
        Buffer {
            position,
            batches: VecDeque::new(),
            open: None,
            damage: None,
            aborted: BTreeMap::new(),
            skipped: BTreeSet::new(),
            decompressed_limit,
        }
    }

    /// The offset of the next record to be handed out, or a later one if there is none with that offset.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.position
    }

    /// Whether more must be fetched before more can be handed out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_none() && self.batches.is_empty() && self.damage.is_none()
    }

    /// Takes the record set of an answer to a fetch from the position. A batch that is cut off at the end is left out.
    ///
    /// `aborted` is what the answer says of transactions; it is empty where aborted records are read, too.
    pub fn fill(&mut self, records: Bytes, aborted: &[AbortedTransaction]) {
        assert!(self.is_empty(), "fetched at {:?} while there was something left", self.position);
        // Each answer names all that concern it, also those that begin before the position.
        self.skipped.clear();
        self.aborted.clear();
        for one in aborted {
            self.aborted.entry(one.first_offset).or_default().insert(one.producer_id);
        }
        let mut expected = self.position;
        for batch in Batches::new(records) {
            let batch = match batch {
                Ok(batch) => batch,
                Err(BatchError::TooShort { .. }) if !self.batches.is_empty() => return,
                Err(error) => {
                    self.damage = Some(Damage { offset: expected, next: None, reason: error.to_string() });
                    return;
                }
            };
            let base = batch.header.base_offset;
            if !(0..=MAX_OFFSET).contains(&base.0) {
                // The base offset lies outside of the checksum; this one was never assigned.
                let reason = format!("it claims the offset {base}");
                self.damage = Some(Damage { offset: expected, next: None, reason });
                return;
            }
            let last = batch.header.last_offset();
            if let Err(error) = batch.check_crc() {
                // The base offset is outside of the checksum, the rest of the header is not to be trusted.
                let offset = base.max(expected);
                self.damage = Some(Damage { offset, next: None, reason: error.to_string() });
                return;
            }
            if last < self.position {
                continue;
            }
            if base < expected && !self.batches.is_empty() {
                let reason = format!("it begins at {base}, the one before it ends at {expected}");
                self.damage = Some(Damage { offset: expected, next: None, reason });
                return;
            }
            expected = last.next();
            self.batches.push_back(batch);
        }
    }

    /// Hands out the next record with the epoch of the leader that stored it.
    ///
    /// # Errors
    /// [`Damage`], again and again until the partition is sought elsewhere.
    pub fn take(&mut self) -> Result<Option<(Record, LeaderEpoch)>, Damage> {
        loop {
            let Some(open) = &mut self.open else {
                match self.batches.pop_front() {
                    Some(batch) => self.open(&batch),
                    None => return self.damage.clone().map_or(Ok(None), Err),
                }
                continue;
            };
            match open.records.next() {
                Some(Ok(record)) if record.offset < self.position => {}
                Some(Ok(record)) => {
                    self.position = record.offset.next();
                    return Ok(Some((record, open.epoch)));
                }
                Some(Err(error)) => {
                    let next = Some(open.next);
                    self.stop(Damage { offset: self.position, next, reason: error.to_string() });
                }
                None => {
                    // Compaction may have taken the last records of a batch: its end counts, not the last record's.
                    self.position = self.position.max(open.next);
                    self.open = None;
                }
            }
        }
    }

    fn open(&mut self, batch: &Batch) {
        let next = batch.header.last_offset().next();
        self.begin_skipping(batch.header.last_offset());
        if batch.header.is_control() {
            if is_abort(batch, self.decompressed_limit) {
                self.skipped.remove(&batch.header.producer_id);
            }
            self.position = self.position.max(next); // markers are not for users
            return;
        }
        if batch.header.is_transactional() && self.skipped.contains(&batch.header.producer_id) {
            self.position = self.position.max(next);
            return;
        }
        match batch.records(self.decompressed_limit) {
            Ok(records) => self.open = Some(Open { records, next, epoch: batch.header.leader_epoch }),
            Err(error) => {
                let offset = self.position.max(batch.header.base_offset);
                self.stop(Damage { offset, next: Some(next), reason: error.to_string() });
            }
        }
    }

    /// Aborted transactions that begin up to `last` have begun.
    fn begin_skipping(&mut self, last: Offset) {
        while let Some(first) = self.aborted.first_entry()
            && *first.key() <= last
        {
            self.skipped.append(&mut first.remove());
        }
    }

    fn stop(&mut self, damage: Damage) {
        self.open = None;
        self.batches.clear();
        self.damage = Some(damage);
    }
}

/// Whether a control batch ends a transaction, and badly.
fn is_abort(batch: &Batch, decompressed_limit: usize) -> bool {
    let Ok(mut records) = batch.records(decompressed_limit) else { return false };
    let first = records.next().and_then(Result::ok);
    first.is_some_and(|record| ControlType::of(&record) == Some(ControlType::Abort))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use dejaq_wire::ids::{CoordinatorEpoch, ProducerEpoch, Sequence};
    use dejaq_wire::record::control::EndTxnMarker;
    use dejaq_wire::record::{BatchBuilder, Compression, NewRecord};
    use proptest::prelude::*;

    use super::*;

    fn batch(base: i64, count: i64, codec: Compression) -> Batch {
        let mut builder = BatchBuilder::new(codec);
        for n in 0..count {
            let value = (base + n).to_string();
            builder.append(&NewRecord { value: Some(value.as_bytes()), ..NewRecord::default() });
        }
        let mut batch = builder.build().expect("encoded");
        batch.place(Offset(base), LeaderEpoch(3));
        batch
    }

    fn run(batches: &[Batch]) -> Bytes {
        let mut run = BytesMut::new();
        batches.iter().for_each(|batch| run.extend_from_slice(&batch.to_bytes()));
        run.freeze()
    }

    fn drain(buffer: &mut Buffer) -> Vec<i64> {
        let mut out = Vec::new();
        while let Ok(Some((record, epoch))) = buffer.take() {
            assert_eq!(record.value.as_deref(), Some(record.offset.0.to_string().as_bytes()));
            assert_eq!(epoch, LeaderEpoch(3));
            out.push(record.offset.0);
        }
        out
    }

    #[test]
    fn a_fetch_into_the_middle_of_a_batch_begins_at_the_position() {
        let mut buffer = Buffer::at(Offset(3), 1 << 20);
        buffer.fill(run(&[batch(0, 5, Compression::Gzip), batch(5, 2, Compression::None)]), &[]);
        assert_eq!(drain(&mut buffer), [3, 4, 5, 6]);
        assert_eq!((buffer.position(), buffer.is_empty()), (Offset(7), true));
    }

    #[test]
    fn a_batch_that_is_cut_off_is_left_for_the_next_fetch() {
        let mut buffer = Buffer::at(Offset(0), 1 << 20);
        let whole = run(&[batch(0, 2, Compression::None), batch(2, 2, Compression::None)]);
        buffer.fill(whole.slice(..whole.len() - 1), &[]);
        assert_eq!(drain(&mut buffer), [0, 1]);
        assert_eq!(buffer.position(), Offset(2));
    }

    #[test]
    fn what_lies_before_a_damaged_batch_is_handed_out_and_the_damage_is_never_served() {
        let mut bytes =
            BytesMut::from(&*run(&[batch(0, 2, Compression::None), batch(2, 2, Compression::None)]));
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        let mut buffer = Buffer::at(Offset(0), 1 << 20);
        buffer.fill(bytes.freeze(), &[]);
        assert_eq!(drain(&mut buffer), [0, 1]);
        let damage = buffer.take().expect_err("the checksum fails");
        assert_eq!(damage.offset, Offset(2));
        assert_eq!(buffer.take(), Err(damage), "and it stays so");
    }

    #[test]
    fn a_batch_that_decompresses_beyond_the_limit_is_damage_with_a_way_around() {
        let mut buffer = Buffer::at(Offset(0), 100);
        buffer.fill(run(&[batch(0, 500, Compression::Gzip)]), &[]);
        let damage = buffer.take().expect_err("too large");
        assert_eq!((damage.offset, damage.next), (Offset(0), Some(Offset(500))));
    }

    #[test]
    fn old_batches_of_a_broker_that_repeats_itself_are_passed_over() {
        let mut buffer = Buffer::at(Offset(5), 1 << 20);
        buffer.fill(run(&[batch(0, 5, Compression::None)]), &[]);
        assert!(buffer.is_empty(), "nothing of it is wanted");
        assert_eq!(buffer.take(), Ok(None));
    }

    fn of(producer: i64, mut builder: BatchBuilder, base: i64) -> Batch {
        (builder.producer_id, builder.producer_epoch) = (ProducerId(producer), ProducerEpoch(0));
        (builder.base_sequence, builder.transactional) = (Sequence(0), true);
        let mut batch = builder.build().expect("encoded");
        batch.place(Offset(base), LeaderEpoch(3));
        batch
    }

    /// A batch of one record of a transaction.
    fn sent(producer: i64, base: i64) -> Batch {
        let mut builder = BatchBuilder::new(Compression::None);
        let value = base.to_string();
        builder.append(&NewRecord { value: Some(value.as_bytes()), ..NewRecord::default() });
        of(producer, builder, base)
    }

    fn marker(producer: i64, base: i64, commit: bool) -> Batch {
        let (producer_id, producer_epoch) = (ProducerId(producer), ProducerEpoch(0));
        let marker =
            EndTxnMarker { producer_id, producer_epoch, commit, coordinator_epoch: CoordinatorEpoch(0) };
        let mut batch = marker.batch(0);
        batch.place(Offset(base), LeaderEpoch(3));
        batch
    }

    fn aborted(producer: i64, first: i64) -> AbortedTransaction {
        AbortedTransaction { producer_id: ProducerId(producer), first_offset: Offset(first) }
    }

    #[test]
    fn an_aborted_transaction_is_passed_over_and_the_next_one_of_its_producer_is_not() {
        let log = [
            sent(1, 0),
            sent(2, 1),
            marker(1, 2, false),
            sent(1, 3),
            marker(2, 4, false),
            marker(1, 5, true),
        ];
        let mut buffer = Buffer::at(Offset(0), 1 << 20);
        buffer.fill(run(&log), &[aborted(1, 0), aborted(2, 1)]);
        assert_eq!(drain(&mut buffer), [3]);
        assert_eq!(buffer.position(), Offset(6), "and a reader that begins here is at the end");
    }

    #[test]
    fn what_a_producer_committed_before_it_aborted_is_handed_out() {
        let log = [
            sent(1, 0),
            marker(1, 1, true),
            sent(1, 2),
            sent(1, 3),
            marker(1, 4, false),
            batch(5, 1, Compression::None),
        ];
        let mut buffer = Buffer::at(Offset(0), 1 << 20);
        buffer.fill(run(&log), &[aborted(1, 2)]);
        assert_eq!(drain(&mut buffer), [0, 5]);
    }

    #[test]
    fn a_fetch_into_the_middle_of_an_aborted_transaction_hands_out_nothing_of_it() {
        let log = [sent(1, 2), marker(1, 3, false), sent(1, 4), marker(1, 5, true)];
        let mut buffer = Buffer::at(Offset(2), 1 << 20);
        buffer.fill(run(&log), &[aborted(1, 0)]);
        assert_eq!(drain(&mut buffer), [4]);
        buffer.fill(run(&[sent(1, 6)]), &[]);
        assert_eq!(drain(&mut buffer), [6], "the next answer names what it needs");
    }

    #[test]
    fn without_the_list_of_aborted_ones_everything_but_markers_is_handed_out() {
        let mut buffer = Buffer::at(Offset(0), 1 << 20);
        buffer.fill(run(&[sent(1, 0), marker(1, 1, false), sent(1, 2)]), &[]);
        assert_eq!(drain(&mut buffer), [0, 2]);
    }

    proptest! {
        #[test]
        fn a_reader_of_committed_records_sees_what_a_model_says(
            steps in proptest::collection::vec((1i64..4, 0u8..4), 1..60), from in 0usize..60,
        ) {
            // Each step: a producer sends, commits or aborts; the model keeps where its open transaction began.
            let mut open: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
            let (mut log, mut ended, mut list) = (Vec::new(), BTreeSet::new(), Vec::new());
            for (offset, (producer, act)) in steps.iter().enumerate() {
                let offset = offset as i64;
                if *act < 2 {
                    log.push(sent(*producer, offset));
                    open.entry(*producer).or_default().push(offset);
                } else {
                    log.push(marker(*producer, offset, *act == 2));
                    let of_it = open.remove(producer).unwrap_or_default();
                    match (*act, of_it.first()) {
                        (2, _) => ended.extend(of_it),
                        (_, Some(first)) => list.push((aborted(*producer, *first), offset)),
                        (_, None) => {}
                    }
                }
            }
            let from = from.min(steps.len());
            let stable = open.values().flatten().min().map_or(steps.len(), |first| *first as usize);
            let from = from.min(stable);
            let told: Vec<_> = list.iter().filter(|(_, end)| *end >= from as i64).map(|(one, _)| one.clone()).collect();
            let mut buffer = Buffer::at(Offset(from as i64), 1 << 20);
            buffer.fill(run(&log[from..stable]), &told);
            let wanted: Vec<i64> = ended.into_iter().filter(|at| (from..stable).contains(&(*at as usize))).collect();
            prop_assert_eq!(drain(&mut buffer), wanted);
        }

        #[test]
        fn any_bytes_are_damage_or_records_and_never_a_panic(bytes: Vec<u8>, position in 0i64..100) {
            let mut buffer = Buffer::at(Offset(position), 1 << 16);
            buffer.fill(bytes.into(), &[]);
            for _ in 0..1000 {
                match buffer.take() {
                    Ok(Some((record, _))) => prop_assert!(record.offset.0 >= position),
                    Ok(None) | Err(_) => break,
                }
            }
        }

        #[test]
        fn one_flipped_bit_never_changes_a_record(at in 0usize..10_000, bit in 0u8..8) {
            let mut bytes = BytesMut::from(&*run(&[batch(0, 3, Compression::None), batch(3, 3, Compression::Zstd)]));
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let mut buffer = Buffer::at(Offset(0), 1 << 16);
            buffer.fill(bytes.freeze(), &[]);
            while let Ok(Some((record, _))) = buffer.take() {
                // Base offset and epoch lie outside of the batch's checksum, so only what it covers is judged here.
                let n: i64 = String::from_utf8(record.value.expect("has one").to_vec()).expect("digits").parse().expect("digits");
                prop_assert!((0..6).contains(&n));
            }
        }
    }
}
