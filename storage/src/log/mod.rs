//! One partition's log: the single writer. Sits behind the partition's short mutex; never waits for the disk.
//!
//! Owns: the order of things. Every change is decided in memory, written inline to the page cache, and made durable by
//! work that the caller runs without the lock. Promises: LOG-1 to LOG-14 of the catalogue; what each step leaves on disk
//! at any crash point is recovered by `recovery`. Leaves out: watermarks, acks, who leads (node).
//!
//! ```text
//! append (inline) ─► begin_flush ─► sync_flushes (async, no lock) ─► end_flush ─► flushed end ─► acks
//! retention_plan  ─► begin_advance_start ─► StartWrite::run ─► end_advance_start ─► Removal::run
//! begin_truncate  ─► Truncation::run ─► end_truncate
//! begin_compaction ─► Compaction::look, next (async, no lock) ─► begin_swap ─► … ─► finish_swap
//! ```

pub mod append;
pub mod flush;
pub mod open;
pub mod roll;
pub mod start;
pub mod swap;
pub mod truncate;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use dejaq_wire::ids::{CoordinatorEpoch, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

use crate::batch::TxnStanding;
use crate::compaction::LastOf;
use crate::config::{LogConfig, LogIdentity, SpaceGuard};
use crate::disk::Disk;
use crate::epochs::EpochStart;
use crate::producers::Producers;
use crate::reader::LogReader;
use crate::segment::Shared;
use flush::Commit;

/// The offsets `from..to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OffsetRange {
    /// The first.
    pub from: Offset,
    /// After the last.
    pub to: Offset,
}

/// Why a log takes no writes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealReason {
    /// A sync failed: what the disk holds is unknown (LOG-9).
    SyncFailed,
    /// A write failed for another reason than a full disk, or a failed write could not be taken back.
    WriteFailed,
}

/// The log takes no writes until the process restarts: take the data directory offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log is sealed: {0:?}")]
pub struct Sealed(pub SealReason);

/// What the log knows of one producer (DescribeProducers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerSummary {
    /// Who.
    pub producer_id: ProducerId,
    /// Its current incarnation.
    pub epoch: ProducerEpoch,
    /// Sequence of its last record, or none.
    pub last_sequence: Sequence,
    /// Timestamp of its last batch, unix milliseconds.
    pub last_timestamp_ms: i64,
    /// Epoch of the coordinator that wrote its last marker, or -1.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction.
    pub txn_start: Option<Offset>,
}

/// What excludes other work on the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Busy {
    Nothing,
    MovingStart { to: Offset },
    Truncating,
    Swapping,
}

/// The writer of one log.
pub struct Log<D: Disk> {
    pub(crate) shared: Arc<Shared<D>>,
    identity: LogIdentity,
    config: LogConfig,
    space: SpaceGuard,
    producers: Producers,
    commit: Commit<D>,
    busy: Busy,
    sealed: Option<SealReason>,
    /// The latest time that a caller told, for work that has no caller's time.
    now_ms: i64,
    /// Bytes appended since the last snapshot of the producers.
    unsnapped_bytes: u64,
    /// Whether a snapshot exists for exactly this end.
    snapped_end: Option<Offset>,
    /// Everything below was compacted.
    cleaned: Offset,
    /// A roll failed and may have left files of a segment that begins at the end: nothing is appended before there is one.
    roll_owed: bool,
    /// It was read back around damage, so that what was made of it (the producers' state) may lack something.
    loaded_around: bool,
}

impl<D: Disk> Log<D> {
    /// A handle for readers.
    #[must_use]
    pub fn reader(&self) -> LogReader<D> {
        LogReader { shared: Arc::clone(&self.shared) }
    }

    /// Whether it was read back around damage: once that is mended it should be read back again.
    pub fn was_loaded_around_damage(&self) -> bool {
        self.loaded_around
    }

    /// Nobody else has what is damaged: the log is as whole as it ever will be.
    pub fn accept_damage(&mut self) {
        self.loaded_around = false;
    }

    /// Which partition this is.
    pub fn identity(&self) -> &LogIdentity {
        &self.identity
    }

    /// The configuration in force.
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Replaces the configuration, from the next append on.
    pub fn set_config(&mut self, config: LogConfig) {
        config.check();
        self.config = config;
    }

    /// The first offset.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.shared.lock().start
    }

    /// The next offset to be assigned.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.shared.lock().end
    }

    /// Everything below survives a power cut.
    #[must_use]
    pub fn flushed(&self) -> Offset {
        self.shared.lock().flushed
    }

    /// Bytes of all batches.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.shared.lock().size_bytes()
    }

    /// Why the log takes no writes, if it does not.
    #[must_use]
    pub fn sealed(&self) -> Option<SealReason> {
        self.sealed
    }

    /// The latest leader epoch that the log knows.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.shared.lock().epochs.latest().map(|latest| latest.epoch)
    }

    /// Offsets that are known to be damaged.
    #[must_use]
    pub fn damaged(&self) -> Vec<OffsetRange> {
        self.shared.lock().damaged.clone()
    }

    /// The leader epochs and their first offsets, oldest first.
    #[must_use]
    pub fn epochs(&self) -> Vec<EpochStart> {
        self.shared.lock().epochs.list().to_vec()
    }

    /// Number of producers that are remembered.
    #[must_use]
    pub fn producers(&self) -> usize {
        self.producers.count()
    }

    /// Every producer that is remembered, by id.
    #[must_use]
    pub fn describe_producers(&self) -> Vec<ProducerSummary> {
        self.producers.summaries()
    }

    /// The epoch of this producer here, and that of the coordinator that wrote its last marker, -1 if none did; `None` is a producer
    /// that is not known here.
    #[must_use]
    pub fn epochs_of(&self, producer: ProducerId) -> Option<(ProducerEpoch, CoordinatorEpoch)> {
        self.producers.epochs_of(producer)
    }

    /// End of what readers of committed records may see when `watermark` is the end of what others may (TXN-3). The
    /// watermarks told must not go back while the log is open, but for what a truncation takes.
    pub fn stable_end(&mut self, watermark: Offset) -> Offset {
        // What is open may begin below a start that records were deleted up to.
        self.producers.stable_end(watermark).max(self.start().min(watermark))
    }

    /// Whether this producer has a transaction open here in this epoch.
    #[must_use]
    pub fn txn_standing(&self, producer: ProducerId, epoch: ProducerEpoch) -> TxnStanding {
        self.producers.standing(producer, epoch)
    }

    /// Forgets producers that were silent for longer than the configuration allows; returns how many. Call once a minute.
    pub fn expire_producers(&mut self, now_ms: i64) -> usize {
        self.producers.expire(now_ms, self.config.producer_expiry_ms)
    }

    /// Gives back what an idle log does not need: open files, most of the index, the newest entries.
    pub fn shed_idle(&mut self) {
        if self.needs_flush() || self.commit.is_in_flight() {
            return; // a file with unsynced bytes stays open: its handle is what reports a failed write-back
        }
        let mut view = self.shared.lock();
        for segment in &mut view.segments {
            segment.shed();
        }
    }

    /// See `Producers::agree_with_replay`.
    pub(crate) fn producers_agree(&self, replayed: &Producers, first: Offset) -> Result<(), String> {
        self.producers.agree_with_replay(replayed, first, self.config.gaps)
    }

    /// What a compaction must keep of each producer.
    pub(crate) fn last_of_producers(&self) -> BTreeMap<ProducerId, LastOf> {
        self.producers.last_of()
    }

    pub(crate) fn seal(&mut self, reason: SealReason) -> Sealed {
        let reason = *self.sealed.get_or_insert(reason);
        tracing::error!(topic = %self.identity.topic, partition = self.identity.partition.0, ?reason, "log sealed");
        Sealed(reason)
    }
}

impl<D: Disk> fmt::Debug for Log<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({}-{} {:?})", self.identity.topic, self.identity.partition, self.reader())
    }
}
