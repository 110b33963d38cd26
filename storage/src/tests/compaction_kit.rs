//! A compacted log beside everything that was ever appended to it, and the rules between the two.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use dejaq_wire::ids::{CoordinatorEpoch, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
use dejaq_wire::record::control::{ControlType, EndTxnMarker};
use dejaq_wire::record::{Batch, BatchBuilder, Compression, NewRecord};

use super::kit::*;
use crate::layout::PARTITIONS;
use crate::model_disk::{ModelDisk, Platter};
use crate::{CleanAsk, CompactError, Disk, Log, LogConfig, VerifiedBatch};

pub(super) const RETENTION_MS: i64 = 1000;
const LIMIT: usize = 1 << 20;

pub(super) fn compacted() -> LogConfig {
    LogConfig { gaps: true, segment_bytes: 700, snapshot_bytes: 900, ..small() }
}

/// What a test wants in a batch: keys, and whether each has a value.
#[derive(Debug, Clone)]
pub(super) struct Data {
    pub(super) records: Vec<(u8, bool)>,
    /// Producer, and whether it is in a transaction.
    pub(super) producer: Option<(i64, bool)>,
    pub(super) codec: Compression,
}

/// A record as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) offset: Offset,
    pub(super) key: Bytes,
    pub(super) value: Option<Bytes>,
    pub(super) timestamp_ms: i64,
    /// Which transaction it belongs to.
    pub(super) txn: Option<usize>,
}

/// The whole story of a log.
#[derive(Debug, Clone, Default)]
pub(super) struct Story {
    pub(super) records: Vec<Kept>,
    /// Whether each transaction was committed; `None` while it is open. And where its marker is.
    pub(super) txns: Vec<Option<(bool, Offset)>>,
    pub(super) open: BTreeMap<i64, usize>,
    sequences: BTreeMap<i64, i32>,
    pub(super) end: Offset,
    salt: u64,
}

impl Story {
    /// The next batch, and what it will be in the story if it is appended.
    pub(super) fn build(&mut self, data: &Data, now_ms: i64) -> VerifiedBatch {
        self.salt += 1;
        let mut builder = BatchBuilder::new(data.codec);
        let mut txn = None;
        if let Some((id, transactional)) = data.producer {
            builder.producer_id = ProducerId(id);
            builder.producer_epoch = ProducerEpoch(0);
            let sequence = self.sequences.entry(id).or_default();
            builder.base_sequence = Sequence(*sequence);
            *sequence += data.records.len() as i32;
            builder.transactional = transactional;
            if transactional {
                let fresh = self.txns.len();
                let index = *self.open.entry(id).or_insert(fresh);
                if index == fresh {
                    self.txns.push(None);
                }
                txn = Some(index);
            }
        }
        for (at, (key, has_value)) in data.records.iter().enumerate() {
            let key = Bytes::from(vec![b'k', *key]);
            let value = has_value.then(|| Bytes::from(format!("{:08}-{at}-{}", self.salt, "v".repeat(20))));
            let timestamp_ms = now_ms + at as i64;
            builder.append(&NewRecord {
                timestamp_ms,
                key: Some(&key),
                value: value.as_deref(),
                headers: &[("h", Some(b"1"))],
            });
            let offset = self.end.plus(at as i64);
            self.records.push(Kept { offset, key, value, timestamp_ms, txn });
        }
        self.end = self.end.plus(data.records.len() as i64);
        VerifiedBatch::verify(builder.build().expect("safe").to_bytes()).expect("our own")
    }

    pub(super) fn marker(&mut self, id: i64, commit: bool, now_ms: i64) -> VerifiedBatch {
        if let Some(index) = self.open.remove(&id) {
            self.txns[index] = Some((commit, self.end));
        }
        self.end = self.end.next();
        let marker = EndTxnMarker {
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(0),
            commit,
            coordinator_epoch: CoordinatorEpoch(0),
        };
        VerifiedBatch::verify(marker.batch(now_ms).to_bytes()).expect("our own")
    }

    /// The story of a log that ends at `end`: what came after never was.
    pub(super) fn cut(&mut self, end: Offset) {
        self.records.retain(|record| record.offset < end);
        for txn in &mut self.txns {
            *txn = txn.filter(|(_, marker)| *marker < end);
        }
        self.end = self.end.min(end);
    }

    fn is_aborted(&self, record: &Kept) -> bool {
        record.txn.is_some_and(|txn| matches!(self.txns[txn], Some((false, _))))
    }

    /// Not decided yet, or decided behind `bound` only.
    fn is_open(&self, record: &Kept) -> bool {
        record.txn.is_some_and(|txn| self.txns[txn].is_none())
    }

    /// What a log must hold and may hold. `clean`: below it no older value may be left; `is_exact`: beyond it all is there.
    pub(super) fn judge(&self, found: &[Batch], start: Offset, clean: Offset, is_exact: bool) {
        let mut there: BTreeMap<Offset, Kept> = BTreeMap::new();
        let mut next = Offset::ZERO;
        let mut open: BTreeMap<ProducerId, Vec<usize>> = BTreeMap::new();
        for batch in found {
            assert!(batch.header.base_offset >= next, "{:?} before {next:?}", batch.header.base_offset);
            next = batch.header.next_offset();
            batch.check_crc().expect("a right checksum");
            if batch.header.is_control() {
                self.judge_marker(batch, &mut open);
                continue;
            }
            for record in batch.records(LIMIT).expect("a known codec") {
                let record = record.expect("whole");
                let known = self.records.binary_search_by_key(&record.offset, |kept| kept.offset);
                let known = &self.records[known.expect("it was appended")];
                assert_eq!(Some(&known.key), record.key.as_ref(), "{:?}", record.offset);
                assert_eq!((&known.value, known.timestamp_ms), (&record.value, record.timestamp_ms));
                if let Some(txn) = known.txn {
                    open.entry(batch.header.producer_id).or_default().push(txn);
                }
                assert!(there.insert(record.offset, known.clone()).is_none(), "{:?} twice", record.offset);
            }
        }
        for txns in open.values() {
            for txn in txns {
                assert_eq!(self.txns[*txn], None, "the marker of transaction {txn} is gone before its data");
            }
        }
        self.judge_values(&there, start, clean, is_exact);
    }

    /// A marker decides what is before it as it did when it was written.
    fn judge_marker(&self, batch: &Batch, open: &mut BTreeMap<ProducerId, Vec<usize>>) {
        let commit = match batch.records(LIMIT).expect("plain").next() {
            Some(record) => ControlType::of(&record.expect("whole")) == Some(ControlType::Commit),
            None => return, // emptied
        };
        for txn in open.remove(&batch.header.producer_id).unwrap_or_default() {
            assert_eq!(self.txns[txn], Some((commit, batch.header.base_offset)), "transaction {txn}");
        }
    }

    fn judge_values(&self, there: &BTreeMap<Offset, Kept>, start: Offset, clean: Offset, is_exact: bool) {
        let counts = |record: &&Kept| record.offset >= start && !self.is_aborted(record);
        let mut newest: BTreeMap<&Bytes, &Kept> = BTreeMap::new();
        let mut newest_clean: BTreeMap<&Bytes, &Kept> = BTreeMap::new();
        for record in self.records.iter().filter(counts) {
            if self.is_open(record) {
                continue;
            }
            newest.insert(&record.key, record);
            if record.offset < clean {
                newest_clean.insert(&record.key, record);
            }
        }
        if is_exact {
            for record in self.records.iter().filter(|record| record.offset >= clean.max(start)) {
                assert_eq!(there.get(&record.offset), Some(record), "it is not below {clean:?}");
            }
        }
        for record in newest.values().filter(|record| record.value.is_some()) {
            assert!(there.contains_key(&record.offset), "the value {record:?} is lost");
        }
        for record in there.values().filter(|record| record.offset < clean && record.offset >= start) {
            assert!(!self.is_aborted(record), "{record:?} was aborted");
            let known = newest_clean.get(&record.key).map(|newest| newest.offset);
            assert_eq!(known, Some(record.offset), "{record:?} is not the newest below {clean:?}");
        }
    }
}

/// A log and its story.
pub(super) struct World {
    pub(super) platter: Platter,
    pub(super) log: Log<ModelDisk>,
    pub(super) story: Story,
    pub(super) start: Offset,
    pub(super) epoch: LeaderEpoch,
    pub(super) now_ms: i64,
}

pub(super) fn ask(now_ms: i64, bound: Offset, map_bytes: usize) -> CleanAsk {
    CleanAsk { now_ms, bound, delete_retention_ms: RETENTION_MS, min_lag_ms: 0, map_bytes, seed: [3, 5] }
}

pub(super) fn batches_of(log: &Log<ModelDisk>) -> Vec<Batch> {
    let read = read_all(log).expect("no damage");
    read.iter().map(|one| Batch::parse(&one.bytes).expect("whole")).collect()
}

impl World {
    pub(super) fn new(platter: Platter) -> World {
        let disk = platter.mount();
        disk.create_dir_all(Path::new(PARTITIONS)).expect("healthy");
        now(disk.sync_dir(Path::new(""))).expect("healthy");
        let (log, _) = try_open(&platter, compacted()).expect("a new log");
        let (start, epoch) = (Offset::ZERO, LeaderEpoch(1));
        World { platter, log, story: Story::default(), start, epoch, now_ms: NOW_MS }
    }

    pub(super) fn append(&mut self, data: &Data) {
        let batch = self.story.build(data, self.now_ms);
        self.put(batch);
    }

    pub(super) fn plain(&mut self, records: &[(u8, bool)]) {
        self.append(&Data { records: records.to_vec(), producer: None, codec: Compression::None });
    }

    pub(super) fn end_txn(&mut self, id: i64, commit: bool) {
        let batch = self.story.marker(id, commit, self.now_ms);
        self.put(batch);
    }

    fn put(&mut self, batch: VerifiedBatch) {
        let result = self.log.append_leader(&[batch], self.epoch, self.now_ms).remove(0);
        let appended = result.expect("room");
        assert!(!appended.duplicate, "the story repeats itself");
        assert_eq!(appended.last.next(), self.story.end);
    }

    /// Makes everything durable, and the marker about it.
    pub(super) fn settle(&mut self) {
        for _ in 0..3 {
            if let Some(flush) = self.log.begin_idle_flush().expect("healthy") {
                now(self.log.run_flush(flush)).expect("healthy");
            }
        }
    }

    pub(super) fn compact(&mut self, map_bytes: usize) -> Option<Offset> {
        let before = (self.log.start(), self.log.end(), self.log.epochs(), self.log.describe_producers());
        let ask = ask(self.now_ms, self.log.flushed(), map_bytes);
        let done = now(self.log.compact(ask));
        let after = (self.log.start(), self.log.end(), self.log.epochs(), self.log.describe_producers());
        assert_eq!(before, after, "a compaction changes none of this");
        match done {
            Ok(done) => done,
            Err(error @ (CompactError::Io(_) | CompactError::Moved)) => panic!("{error}"),
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) fn check(&self) {
        assert_eq!((self.log.start(), self.log.end()), (self.start, self.story.end));
        self.story.judge(&batches_of(&self.log), self.start, self.log.cleaned(), true);
        now(self.log.check_deep()).expect("the log agrees with itself");
        self.check_committed();
        let scrubbed = now(self.log.reader().scrub()).expect("healthy");
        assert_eq!(scrubbed.damage, []);
    }

    /// A reader of committed records does as Kafka's does: from its list it takes the transactions that have begun, and an
    /// abort marker ends one. It must see all of what is there and committed, and nothing that was aborted.
    pub(super) fn check_committed(&self) {
        let batches = batches_of(&self.log);
        let undecided = self.story.records.iter().filter(|record| self.story.is_open(record));
        let upper = undecided.map(|record| record.offset).min().unwrap_or(self.story.end);
        for from in (self.start.0..self.log.end().0).step_by(7) {
            self.read_committed(&batches, Offset(from), upper);
        }
    }

    fn read_committed(&self, batches: &[Batch], from: Offset, upper: Offset) {
        let mut told = self.log.reader().aborted(from, upper);
        told.reverse();
        let mut in_abort: std::collections::BTreeSet<ProducerId> = std::collections::BTreeSet::new();
        for batch in batches {
            let header = &batch.header;
            if header.last_offset() < from || header.last_offset() >= upper {
                continue;
            }
            while let Some(txn) = told.pop_if(|txn| txn.first <= header.last_offset()) {
                in_abort.insert(txn.producer_id);
            }
            if header.is_control() {
                let record =
                    batch.records(LIMIT).expect("plain").next().expect("never emptied").expect("whole");
                if ControlType::of(&record) == Some(ControlType::Abort) {
                    in_abort.remove(&header.producer_id);
                }
                continue;
            }
            let is_skipped = header.is_transactional() && in_abort.contains(&header.producer_id);
            for record in batch.records(LIMIT).expect("known") {
                let offset = record.expect("whole").offset;
                let known = self.story.records.binary_search_by_key(&offset, |kept| kept.offset);
                let known = &self.story.records[known.expect("it was appended")];
                assert_eq!(is_skipped, self.story.is_aborted(known), "from {from:?}: {known:?}");
            }
        }
    }

    pub(super) fn values(&self) -> Vec<(i64, u8, bool)> {
        let mut values = Vec::new();
        for batch in batches_of(&self.log).iter().filter(|batch| !batch.header.is_control()) {
            for record in batch.records(LIMIT).expect("known") {
                let record = record.expect("whole");
                values.push((record.offset.0, record.key.expect("keyed")[1], record.value.is_some()));
            }
        }
        values
    }

    /// Opens again; everything that was flushed is there.
    pub(super) fn reopen(mut self) -> World {
        let epochs = self.log.epochs();
        drop(self.log);
        let (log, report) = try_open(&self.platter, compacted()).expect("recovery");
        assert!(report.damaged.is_empty(), "{report:?}");
        self.log = log;
        self.story.cut(self.log.end());
        let kept: Vec<_> = epochs.into_iter().filter(|epoch| epoch.start < self.log.end()).collect();
        let found = self.log.epochs();
        assert!(kept.iter().all(|epoch| found.contains(epoch)), "{kept:?} became {found:?}");
        self.epoch = self.epoch.next();
        self
    }
}
