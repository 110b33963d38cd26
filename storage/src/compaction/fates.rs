//! Which transactional batches were aborted, and which markers have outlived their data. Pure.
//!
//! Owns: the aborted transactions below a bound, and the walk past batches in the order of the log that tells of each what
//! may go. Promises: what is true of a transaction is carried from segment to segment (RET-9; KAFKA-8335: a marker whose
//! data lies in another segment); a marker stays while a batch of its transaction is there, be it an emptied one, since a
//! replay of that batch opens the transaction again. Leaves out: time (the filter keeps markers for a while longer).
//!
//! ```text
//! scan: data of p ─► open[p]      abort ─► aborted.push(first..=marker)      commit ─► open.remove(p)
//! walk: data ─► aborted?          marker ─► was there no data?
//! ```

use std::collections::{BTreeMap, BTreeSet};

use dejaq_wire::ids::{Offset, ProducerId};
use dejaq_wire::record::control::ControlType;
use dejaq_wire::record::{Batch, BatchHeader};

/// Bytes that a control batch may decompress to; they hold one small record.
const CONTROL_BYTES: usize = 64 << 10;

/// What a control batch says; `None` if it was emptied or cannot be read.
pub(super) fn control_type(batch: &Batch) -> Option<ControlType> {
    let record = batch.records(CONTROL_BYTES).ok()?.next()?.ok()?;
    ControlType::of(&record)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Aborted {
    producer: ProducerId,
    first: Offset,
    /// Its marker.
    last: Offset,
}

/// Finds the transactions: give it every batch in order.
#[derive(Debug, Default)]
pub(super) struct Scan {
    open: BTreeMap<ProducerId, Offset>,
    aborted: Vec<Aborted>,
}

impl Scan {
    pub(super) fn see(&mut self, batch: &Batch) {
        let header = &batch.header;
        if !header.is_control() {
            if header.is_transactional() {
                self.open.entry(header.producer_id).or_insert(header.base_offset);
            }
            return;
        }
        let first = self.open.remove(&header.producer_id);
        if let Some(first) = first
            && control_type(batch) == Some(ControlType::Abort)
        {
            self.aborted.push(Aborted { producer: header.producer_id, first, last: header.base_offset });
        }
    }

    /// First offset of the oldest transaction whose end was not seen.
    pub(super) fn first_open(&self) -> Option<Offset> {
        self.open.values().min().copied()
    }

    pub(super) fn fates(mut self) -> Fates {
        self.aborted.sort_unstable_by_key(|txn| (txn.first, txn.producer));
        Fates {
            aborted: self.aborted,
            from: Offset::ZERO,
            next: 0,
            in_abort: BTreeMap::new(),
            in_commit: BTreeSet::new(),
        }
    }
}

/// Walks past the batches.
#[derive(Debug, Default)]
pub(super) struct Fates {
    /// By first offset.
    aborted: Vec<Aborted>,
    /// Where the walk began.
    from: Offset,
    next: usize,
    /// Whether a batch of it was passed.
    in_abort: BTreeMap<ProducerId, bool>,
    in_commit: BTreeSet<ProducerId>,
}

impl Fates {
    /// Begins again, at `from`.
    pub(super) fn rewind(&mut self, from: Offset) {
        self.from = from;
        self.next = 0;
        self.in_abort.clear();
        self.in_commit.clear();
    }

    fn reach(&mut self, offset: Offset) {
        while let Some(txn) = self.aborted.get(self.next).filter(|txn| txn.first <= offset) {
            if txn.last >= self.from {
                self.in_abort.entry(txn.producer).or_insert(false);
            }
            self.next += 1;
        }
    }

    /// Passes a data batch; whether its transaction was aborted.
    pub(super) fn pass_data(&mut self, header: &BatchHeader) -> bool {
        self.reach(header.last_offset());
        if !header.is_transactional() {
            return false;
        }
        if let Some(passed) = self.in_abort.get_mut(&header.producer_id) {
            *passed = true;
            return true;
        }
        self.in_commit.insert(header.producer_id);
        false
    }

    /// Passes a control batch; whether nothing is left that needs it.
    pub(super) fn pass_control(&mut self, batch: &Batch) -> bool {
        self.reach(batch.header.last_offset());
        let producer = batch.header.producer_id;
        match control_type(batch) {
            Some(ControlType::Abort) => self.in_abort.remove(&producer) != Some(true),
            Some(ControlType::Commit) => !self.in_commit.remove(&producer),
            Some(ControlType::LeaderChange | ControlType::Other(_)) => false,
            None => batch.header.records == 0,
        }
    }
}
