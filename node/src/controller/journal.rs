//! The metadata log: records in order, on an ordinary partition log.
//!
//! Owns: opening and reading it back, and appending one batch durably.
//! Promises: what cannot be read is never taken for "nothing was there" (MQ-10): damage, a missing log beside
//! partitions that exist, a log that does not begin at 0, an unknown record are all reasons not to start.
//! An append that returned is durable; one that failed says whether the log is as before or must be given up.
//! Leaves out: what records mean (`metadata::replay`), who decides them (`decide`).
//! Called by `driver`.
//!
//! ```text
//!  partitions/<metadata topic id>-0:  [batch: register, bump] [batch: topic, configs] [batch: …]
//!                                      one turn of the driver = one batch: in the log whole, or not at all
//! ```

use std::io;

use dejaq_storage::{
    AppendError, DataDir, Disk, FlushError, Log, LogConfig, LogIdentity, OpenError, OpenOptions, ReadAsk,
    ReadError, RecoveryReport, mark, mutant, sync_flushes,
};
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId, TopicId};

use super::batch::{self, NotOurs};
use crate::metadata::replay::Inapplicable;
use crate::metadata::{Image, Record};

/// Name of the topic that stands for the metadata log in messages.
pub const TOPIC: &str = "__cluster_metadata";
/// Bytes of log that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// Why the metadata cannot be used: the node does not start.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The log itself does not open.
    #[error("the metadata log does not open: {0}")]
    Open(#[from] OpenError),
    /// There are partitions, but no metadata that would say what they are.
    #[error(
        "the data directory holds {partitions} partition(s) but no metadata log; nothing is deleted: \
         restore the directory of the metadata log ({TOPIC})"
    )]
    Lost {
        /// How many partition directories there are.
        partitions: usize,
    },
    /// Bytes that were durable do not read any more.
    #[error(
        "the metadata log is damaged from offset {from} to {to}; nothing is deleted: restore it from a backup"
    )]
    Damaged {
        /// First offset that is damaged.
        from: Offset,
        /// First offset after the damage.
        to: Offset,
    },
    /// The first records are missing.
    #[error("the metadata log begins at offset {start} instead of 0")]
    Beheaded {
        /// Where it begins.
        start: Offset,
    },
    /// Reading fails.
    #[error("reading the metadata log at offset {at}: {why}")]
    Read {
        /// Where.
        at: Offset,
        /// Why.
        why: ReadError,
    },
    /// A batch that no controller of ours wrote.
    #[error("the metadata log at offset {at}: {why}")]
    Record {
        /// Where.
        at: Offset,
        /// Why.
        why: NotOurs,
    },
    /// A record that does not fit what is before it.
    #[error("the metadata log before offset {before}: {why}")]
    Replay {
        /// End of the batch that holds it.
        before: Offset,
        /// Why.
        why: Inapplicable,
    },
    /// The disk.
    #[error("the data directory does not list: {0}")]
    Io(#[from] io::Error),
    /// The first append of this life failed.
    #[error("the metadata log does not take a write: {0}")]
    Write(#[from] WriteError),
}

/// Why an append failed; each variant names the caller's next move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The log is as before: refuse the requests of this turn, go on with the next.
    #[error("the disk is full")]
    Full,
    /// What is durable is not known: stop the controller. It is known again after a restart.
    #[error("the metadata log is sealed: {0}")]
    Sealed(&'static str),
}

/// The metadata log of this node.
pub struct Journal<D: Disk> {
    log: Log<D>,
    disk: D,
    epoch: LeaderEpoch,
}

impl<D: Disk> std::fmt::Debug for Journal<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("epoch", &self.epoch).field("end", &self.log.end()).finish()
    }
}

impl<D: Disk> Journal<D> {
    /// Opens the log, or makes it in an empty data directory, and reads it back.
    ///
    /// The image may hold records that were written but not synced in the last life; the first append of this life
    /// makes them durable, and until then nobody may be told of them.
    ///
    /// # Errors
    /// [`JournalError`]: the node does not start, and deletes nothing.
    pub async fn open(disk: D, data: &DataDir<D>, now_ms: i64) -> Result<(Journal<D>, Image), JournalError> {
        let identity =
            LogIdentity { topic: TOPIC.into(), topic_id: TopicId::METADATA, partition: PartitionId(0) };
        let dirs = data.partitions()?;
        let others = dirs.iter().filter(|dir| dir.topic_id != TopicId::METADATA).count();
        let options = OpenOptions {
            clean: data.was_clean(),
            same_boot: data.is_same_boot(),
            now_ms,
            space: Default::default(),
            verify_all: true,
        };
        let path = DataDir::<D>::partition_path(identity.topic_id, identity.partition);
        let (log, report) = if others < dirs.len() {
            Log::open(disk.clone(), path, identity, config(), options).await?
        } else if others > 0 && !mutant!(40) {
            return Err(JournalError::Lost { partitions: others });
        } else {
            Log::create(disk.clone(), path, identity, config(), options).await?
        };
        check_report(&report, others)?;
        let image = read_back(&log).await?;
        let epoch = log.latest_epoch().map_or(LeaderEpoch(0), LeaderEpoch::next);
        let mut journal = Journal { log, disk, epoch };
        journal.log.begin_epoch(epoch).map_err(|_| WriteError::Sealed("a new epoch was refused"))?;
        Ok((journal, image))
    }

    /// Where the next record goes.
    pub fn end(&self) -> Offset {
        self.log.end()
    }

    /// The controller's epoch: one more than that of every life before.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Writes `records` as one batch, and returns where the log ends then. Not durable yet: see [`Journal::sync`].
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn append(&mut self, records: &[Record], now_ms: i64) -> Result<Offset, WriteError> {
        let before = self.log.end();
        let batch = batch::encode(records, now_ms);
        match self.log.append_leader(&[batch], self.epoch, now_ms).as_slice() {
            [Ok(appended)] => {
                assert_eq!(appended.base, before, "nobody else appends to the metadata log");
                assert!(!appended.duplicate, "metadata has no producer that could repeat itself");
                Ok(appended.last.next())
            }
            [Err(AppendError::DiskFull)] => {
                mark!("metadata refused because the disk is full");
                assert_eq!(self.log.end(), before, "a refused append leaves the log as it was");
                Err(WriteError::Full)
            }
            [Err(AppendError::Sealed | AppendError::Io(_))] => Err(WriteError::Sealed("a write failed")),
            other => panic!("one metadata batch, unfenced, as leader, cannot end with {other:?}"),
        }
    }

    /// Makes everything that was appended durable.
    ///
    /// # Errors
    /// [`WriteError::Full`]: not yet, try again when there is room. [`WriteError::Sealed`]: never in this process.
    pub async fn sync(&mut self) -> Result<(), WriteError> {
        match self.log.flush().await {
            Ok(flushed) => {
                assert_eq!(flushed, self.log.end(), "a flush takes all that was appended before it");
                Ok(())
            }
            Err(FlushError::Full) => Err(WriteError::Full),
            Err(FlushError::Sealed(_)) => Err(WriteError::Sealed("a sync failed")),
        }
    }

    /// Writes down how far the log is durable, once it has been idle for a while: damage of what lies below can
    /// then be told from a torn tail.
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub async fn sync_idle(&mut self) -> Result<(), WriteError> {
        let begun = match self.log.begin_idle_flush() {
            Ok(begun) => begun,
            Err(FlushError::Full) => return Err(WriteError::Full),
            Err(FlushError::Sealed(_)) => return Err(WriteError::Sealed("a sync failed before")),
        };
        let Some(flush) = begun else { return Ok(()) };
        let mut flushes = [flush];
        let result = sync_flushes(&self.disk, &mut flushes).await;
        let [flush] = flushes;
        match self.log.end_flush(flush, &result) {
            Ok(_) => Ok(()),
            Err(_) => Err(WriteError::Sealed("a sync failed")),
        }
    }

    /// Closes the log cleanly.
    ///
    /// # Errors
    /// Then the data directory must not be marked clean.
    pub async fn close(self) -> Result<(), dejaq_storage::CloseError> {
        self.log.close().await
    }
}

/// Metadata is never deleted and its segments are small.
fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 64 << 20,
        segment_ms: i64::MAX,
        retention_ms: None,
        retention_bytes: None,
        ..LogConfig::default()
    }
}

fn check_report(report: &RecoveryReport, partitions: usize) -> Result<(), JournalError> {
    if mutant!(40) {
        return Ok(());
    }
    if let Some(range) = report.damaged.first() {
        return Err(JournalError::Damaged { from: range.from, to: range.to });
    }
    if report.start != Offset::ZERO {
        return Err(JournalError::Beheaded { start: report.start });
    }
    // A partition is made only after the metadata that names it was durable.
    if report.end == Offset::ZERO && partitions > 0 {
        return Err(JournalError::Lost { partitions });
    }
    if report.cut.is_some() {
        mark!("metadata was cut behind its durable point");
    }
    Ok(())
}

async fn read_back<D: Disk>(log: &Log<D>) -> Result<Image, JournalError> {
    let reader = log.reader();
    let end = log.end();
    let mut image = Image::default();
    while image.end() < end {
        let at = image.end();
        let ask = ReadAsk { offset: at, max_bytes: READ_BYTES, at_least_one: true, end_bound: end };
        let read = match reader.read(ask).await {
            Ok(read) => read,
            Err(_) if mutant!(40) => return Ok(Image::default()),
            Err(ReadError::Damaged { from, to }) => return Err(JournalError::Damaged { from, to }),
            Err(why) => return Err(JournalError::Read { at, why }),
        };
        let records = match batch::decode(read.batches) {
            Ok(records) => records,
            Err(_) if mutant!(40) => return Ok(Image::default()),
            Err(why) => return Err(JournalError::Record { at, why }),
        };
        assert!(read.next > at, "the log ends at {end:?} but gives nothing at {at:?}");
        for record in &records {
            image.apply(record).map_err(|why| JournalError::Replay { before: read.next, why })?;
        }
        image = image.after(&[], read.next).expect("no record is left to apply");
    }
    Ok(image)
}
