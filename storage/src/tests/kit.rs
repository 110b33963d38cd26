//! A log beside its reference: a list of batches. Every check of the tests compares the two.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId};
use dejaq_wire::record::{Batch, BatchBuilder, Compression, NewRecord};

use crate::layout::PARTITIONS;
use crate::model_disk::{ModelDisk, Platter, Setup};
use crate::{
    AppendError, Appended, DataDir, Disk, LastStop, Log, LogConfig, LogIdentity, Open, OpenError,
    OpenOptions, ReadAsk, ReadError, RecoveryReport, SpaceGuard, VerifiedBatch,
};

pub(super) const NOW_MS: i64 = 1_700_000_000_000;

/// The model disk completes everything at once, so that one poll is enough.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the model disk never waits"),
    }
}

/// What a test wants in a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    pub(super) records: usize,
    pub(super) value_bytes: usize,
    pub(super) timestamp_ms: i64,
    pub(super) producer: Option<(i64, i16, i32)>,
}

impl Spec {
    pub(super) fn plain(records: usize, value_bytes: usize) -> Spec {
        Spec { records, value_bytes, timestamp_ms: NOW_MS, producer: None }
    }

    pub(super) fn of(producer: i64, sequence: i32, records: usize) -> Spec {
        Spec { producer: Some((producer, 0, sequence)), ..Spec::plain(records, 10) }
    }

    pub(super) fn build(&self, salt: u64) -> VerifiedBatch {
        let mut builder = BatchBuilder::new(Compression::None);
        if let Some((id, epoch, sequence)) = self.producer {
            builder.producer_id = ProducerId(id);
            builder.producer_epoch = ProducerEpoch(epoch);
            builder.base_sequence = Sequence(sequence);
        }
        for at in 0..self.records {
            let mut value = vec![b'v'; self.value_bytes.max(8)];
            value[..8].copy_from_slice(&(salt * 1000 + at as u64).to_be_bytes());
            let timestamp_ms = self.timestamp_ms + at as i64;
            builder.append(&NewRecord { timestamp_ms, value: Some(&value), ..NewRecord::default() });
        }
        VerifiedBatch::verify(builder.build().expect("no compression").to_bytes()).expect("our own batch")
    }
}

/// One batch as it must read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) base: Offset,
    pub(super) last: Offset,
    pub(super) bytes: Bytes,
}

pub(super) fn identity() -> LogIdentity {
    LogIdentity { topic: "orders".to_owned(), topic_id: TopicId([7; 16]), partition: PartitionId(3) }
}

pub(super) fn dir() -> PathBuf {
    DataDir::<ModelDisk>::partition_path(identity().topic_id, identity().partition)
}

pub(super) fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 1200,
        index_interval_bytes: 128,
        snapshot_bytes: 700,
        retention_ms: None,
        ..LogConfig::default()
    }
}

pub(super) fn options() -> OpenOptions {
    OpenOptions {
        last_stop: LastStop::KILLED,
        now_ms: NOW_MS,
        space: SpaceGuard::default(),
        verify_all: false,
    }
}

/// A log and what it must hold.
pub(super) struct Pair {
    pub(super) platter: Platter,
    pub(super) log: Log<ModelDisk>,
    pub(super) batches: Vec<Expected>,
    pub(super) start: Offset,
    /// End of what a flush covered.
    pub(super) durable: Offset,
    pub(super) epoch: LeaderEpoch,
    pub(super) salt: u64,
}

pub(super) fn try_open(
    platter: &Platter,
    config: LogConfig,
) -> Result<(Log<ModelDisk>, RecoveryReport), OpenError> {
    // As `DataDir::note_boot`: a start that got through remembers the run of the machine.
    let disk = platter.mount();
    let noted = PathBuf::from(format!("boot-{}", disk.boot_id().expect("a model knows")));
    let last_stop = if disk.exists(&noted) { LastStop::KILLED } else { LastStop::POWER_CUT };
    let options = OpenOptions { last_stop, ..options() };
    let opened = now(Log::create(disk.clone(), dir(), identity(), config, options))?;
    if !disk.exists(&noted) {
        drop(disk.open(&noted, Open::CreateNew)); // without it the next start is more careful, no more
    }
    Ok(opened)
}

impl Pair {
    pub(super) fn new(config: LogConfig) -> Pair {
        Pair::on(Platter::new(Setup::default()), config)
    }

    pub(super) fn on(platter: Platter, config: LogConfig) -> Pair {
        let disk = platter.mount();
        disk.create_dir_all(Path::new(PARTITIONS)).expect("a healthy disk");
        now(disk.sync_dir(Path::new(""))).expect("a healthy disk");
        let (log, _) = try_open(&platter, config).expect("a new log");
        Pair {
            platter,
            log,
            batches: Vec::new(),
            start: Offset::ZERO,
            durable: Offset::ZERO,
            epoch: LeaderEpoch(1),
            salt: 0,
        }
    }

    pub(super) fn end(&self) -> Offset {
        self.batches.last().map_or(self.start, |batch| batch.last.next()).max(self.start)
    }

    pub(super) fn append_all(&mut self, specs: &[Spec]) -> Vec<Result<Appended, AppendError>> {
        let batches: Vec<VerifiedBatch> = specs
            .iter()
            .map(|spec| {
                self.salt += 1;
                spec.build(self.salt)
            })
            .collect();
        self.append_built(&batches)
    }

    pub(super) fn append_built(&mut self, batches: &[VerifiedBatch]) -> Vec<Result<Appended, AppendError>> {
        let results = self.log.append_leader(batches, self.epoch, NOW_MS);
        for (batch, result) in batches.iter().zip(&results) {
            if let Ok(Appended { base, last, duplicate: false }) = result {
                let mut placed = Batch::parse(batch.bytes()).expect("verified");
                placed.place(*base, self.epoch);
                assert_eq!(*base, self.end(), "offsets follow each other");
                self.batches.push(Expected { base: *base, last: *last, bytes: placed.to_bytes() });
            }
        }
        results
    }

    pub(super) fn append(&mut self, spec: Spec) -> Result<Appended, AppendError> {
        self.append_all(&[spec]).remove(0)
    }

    pub(super) fn fill(&mut self, count: usize) {
        for _ in 0..count {
            self.append(Spec::plain(2, 60)).expect("room");
        }
    }

    pub(super) fn flush(&mut self) {
        self.durable = now(self.log.flush()).expect("a healthy disk");
        assert_eq!(self.durable, self.end());
    }

    pub(super) fn advance_start(&mut self, to: Offset) {
        self.start = now(self.log.advance_start(to)).expect("a healthy disk");
        self.batches.retain(|batch| batch.last >= self.start);
        self.durable = self.durable.max(self.start);
    }

    pub(super) fn truncate(&mut self, to: Offset) {
        let end = now(self.log.truncate_to(to)).expect("a healthy disk");
        self.batches.retain(|batch| batch.last < to);
        assert_eq!(end, self.end());
        self.durable = self.durable.min(end);
    }

    /// What is read must be what was appended, and everything derived must agree with it.
    pub(super) fn check(&self) {
        assert_eq!(self.log.start(), self.start);
        assert_eq!(self.log.end(), self.end());
        assert!(self.log.flushed() >= self.durable, "{:?} < {:?}", self.log.flushed(), self.durable);
        assert_eq!(read_all(&self.log).expect("no damage"), self.batches);
        now(self.log.check_deep()).expect("the log agrees with itself");
    }

    /// Opens again after the platter was killed or crashed, and takes over what survived.
    pub(super) fn reopen(self, config: LogConfig) -> (Pair, RecoveryReport) {
        let Pair { platter, batches, start, durable, epoch, salt, log } = self;
        drop(log);
        let (log, report) = try_open(&platter, config).expect("recovery");
        let mut pair = Pair { platter, log, batches, start, durable, epoch, salt };
        pair.adopt();
        (pair, report)
    }

    /// LOG-3: what a sync covered is there, what is there was appended, in order and unchanged.
    pub(super) fn adopt(&mut self) {
        let end = self.log.end();
        assert!(end >= self.durable, "{:?} was durable, the log ends at {end:?}", self.durable);
        let known = end == self.end() || self.batches.iter().any(|batch| batch.base == end);
        assert!(known, "the log ends at {end:?}, which no batch does");
        self.batches.retain(|batch| batch.last < end);
        self.durable = end;
        self.epoch = self.epoch.next();
        self.check();
    }
}

pub(super) fn read_all(log: &Log<ModelDisk>) -> Result<Vec<Expected>, ReadError> {
    read_from(log, log.start(), 300)
}

pub(super) fn read_from(
    log: &Log<ModelDisk>,
    from: Offset,
    max_bytes: usize,
) -> Result<Vec<Expected>, ReadError> {
    let reader = log.reader();
    let mut found = Vec::new();
    let mut offset = from;
    while offset < reader.end() {
        let ask = ReadAsk { offset, max_bytes, at_least_one: true, end_bound: Offset(i64::MAX) };
        let read = now(reader.read(ask))?;
        assert!(read.next > offset, "a read at {offset:?} gives nothing before the end");
        for batch in dejaq_wire::record::Batches::new(read.batches) {
            let batch = batch.expect("whole batches");
            let (base, last) = (batch.header.base_offset, batch.header.last_offset());
            found.push(Expected { base, last, bytes: batch.to_bytes() });
        }
        offset = read.next;
    }
    Ok(found)
}
