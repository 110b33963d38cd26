//! What a cleaning leaves of one batch. Pure.
//!
//! Promises (RET-9): the newest record of a key below the bound stays; a delete marker stays for `delete.retention.ms`
//! after the first cleaning that saw it (KIP-534: the horizon is written into the batch); data of aborted transactions
//! goes; the last batch of a producer and the last one of a segment stay, emptied if need be, so that sequences, epochs
//! and the segment's end are what they were; keys of control records are no keys. A batch that loses nothing keeps its
//! bytes. One that cannot be read stays as it is. Semantics are Kafka's (`Cleaner`, `MemoryRecords.filterTo`).
//!
//! ```text
//! control: data gone? ─ no ─► whole           data: aborted? ─ yes ─► emptied or nothing
//!             └ yes ─► horizon set, then gone         └ no ─► records that are the newest of their key
//! ```

use std::collections::BTreeMap;

use dejaq_wire::ids::{Offset, ProducerEpoch, ProducerId};
use dejaq_wire::record::rewrite::{empty, rewrite};
use dejaq_wire::record::{Batch, BatchHeader, Record};

use super::fates::Fates;
use super::key_map::KeyMap;
use crate::{mark, mutant};

/// A batch may decompress to this at most; one that is larger stays as it is.
pub(super) const DECOMPRESSED_BYTES: usize = 64 << 20;

/// What must stay of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastOf {
    /// Last offset of its last data batch; `None` if its epoch came with a marker.
    pub(crate) data: Option<Offset>,
    pub(crate) epoch: ProducerEpoch,
}

/// What is true during one cleaning.
pub(super) struct Rules<'a> {
    pub(super) map: &'a KeyMap,
    /// The map speaks of offsets below.
    pub(super) until: Offset,
    pub(super) now_ms: i64,
    pub(super) delete_retention_ms: i64,
    pub(super) last_of: &'a BTreeMap<ProducerId, LastOf>,
}

/// What is left of a batch.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Left {
    Nothing,
    /// As it is, byte for byte.
    Whole,
    Less(Batch),
}

impl Rules<'_> {
    /// Decides; `is_end`: the batch ends its segment.
    pub(super) fn left_of(&self, batch: &Batch, fates: &mut Fates, is_end: bool) -> Left {
        let header = &batch.header;
        // The planted bug M222: a producer whose last batch has nothing left is forgotten by the next recovery.
        let keeps_header = is_end || (self.is_last_of_producer(header) && !mutant!(222));
        let (may_go, is_aborted) = if header.is_control() {
            (fates.pass_control(batch), false)
        } else {
            (false, fates.pass_data(header))
        };
        if header.base_offset >= self.until {
            return Left::Whole;
        }
        let emptied = || match (keeps_header, header.records) {
            (false, _) => Left::Nothing,
            (true, 0) => Left::Whole,
            (true, _) => Left::Less(empty(batch)),
        };
        if header.records == 0 || is_aborted {
            return emptied();
        }
        if header.is_control() {
            return self.left_of_control(batch, may_go, keeps_header);
        }
        self.left_of_data(batch, emptied)
    }

    /// A marker that must stay is not emptied: without its record it says nothing.
    fn left_of_control(&self, batch: &Batch, may_go: bool, must_stay: bool) -> Left {
        if !may_go {
            return Left::Whole;
        }
        match batch.header.delete_horizon_ms() {
            Some(horizon_ms) if horizon_ms <= self.now_ms && !must_stay => {
                mark!("a transaction marker goes after its data");
                Left::Nothing
            }
            Some(_) => Left::Whole,
            None => match records_of(batch) {
                Some(records) => self.with_horizon(batch, &records),
                None => Left::Whole,
            },
        }
    }

    fn left_of_data(&self, batch: &Batch, emptied: impl Fn() -> Left) -> Left {
        let Some(mut records) = records_of(batch) else {
            mark!("a batch that cannot be read stays");
            return Left::Whole;
        };
        let header = &batch.header;
        records.retain(|record| self.keeps(header, record));
        if records.is_empty() {
            return emptied();
        }
        let has_tombstone = records.iter().any(|record| record.value.is_none());
        if has_tombstone && !header.has_delete_horizon() {
            return self.with_horizon(batch, &records);
        }
        if records.len() == header.records as usize {
            return Left::Whole;
        }
        rewrite(batch, &records, None).map_or(Left::Whole, Left::Less)
    }

    fn with_horizon(&self, batch: &Batch, records: &[Record]) -> Left {
        let horizon_ms = self.now_ms.saturating_add(self.delete_retention_ms);
        rewrite(batch, records, Some(horizon_ms)).map_or(Left::Whole, Left::Less)
    }

    /// Records without a key go: in a compacted topic they mean nothing (KAFKA-4808).
    fn keeps(&self, header: &BatchHeader, record: &Record) -> bool {
        let Some(key) = &record.key else { return false };
        let newest = self.map.get(key);
        if newest.is_some_and(|newest| newest > record.offset.0) {
            return false;
        }
        let expired = header.delete_horizon_ms().is_some_and(|horizon_ms| horizon_ms <= self.now_ms);
        // The planted bug M221: a delete marker goes with the first cleaning that sees it.
        record.value.is_some() || !(expired || mutant!(221))
    }

    fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        let last = header.has_producer().then(|| self.last_of.get(&header.producer_id)).flatten();
        last.is_some_and(|last| match last.data {
            Some(offset) => !header.is_control() && header.last_offset() == offset,
            None => header.is_control() && header.producer_epoch == last.epoch,
        })
    }
}

/// All records, if all can be read.
fn records_of(batch: &Batch) -> Option<Vec<Record>> {
    batch.records(DECOMPRESSED_BYTES).ok()?.collect::<Result<Vec<Record>, _>>().ok()
}
