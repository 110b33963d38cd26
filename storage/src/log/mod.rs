//! One partition's log: the single writer.
pub mod append;
pub mod flush;
pub mod open;
pub mod start;
pub mod truncate;

use crate::config::{LogConfig, LogIdentity};
use crate::disk::Disk;
use crate::epochs::EpochStart;
use crate::reader::LogReader;
use dejaq_wire::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
use std::sync::Arc;

/// Offsets `from..to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OffsetRange {
    /// First.
    pub from: Offset,
    /// After the last.
    pub to: Offset,
}

/// Why a log takes no writes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealReason {
    /// A sync failed.
    SyncFailed,
    /// A write failed for another reason than a full disk.
    WriteFailed,
}

/// The log is sealed until the process restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log is sealed: {0:?}")]
pub struct Sealed(pub SealReason);

/// What the log knows of one producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerSummary {
    /// Who.
    pub producer_id: ProducerId,
    /// Its current incarnation.
    pub epoch: ProducerEpoch,
    /// Sequence of its last record, or none.
    pub last_sequence: Sequence,
    /// Timestamp of its last batch.
    pub last_timestamp_ms: i64,
    /// Epoch of the coordinator that wrote its last marker, -1 if none.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction.
    pub txn_start: Option<Offset>,
}

/// The writer.
pub struct Log<D: Disk> {
    _disk: Arc<D>,
}

#[expect(unused_variables, clippy::unimplemented, reason = "signatures first")]
impl<D: Disk> Log<D> {
    /// A handle for readers.
    pub fn reader(&self) -> LogReader<D> {
        unimplemented!()
    }
    /// Who.
    pub fn identity(&self) -> &LogIdentity {
        unimplemented!()
    }
    /// Config.
    pub fn config(&self) -> &LogConfig {
        unimplemented!()
    }
    /// Replaces the config.
    pub fn set_config(&mut self, config: LogConfig) {
        unimplemented!()
    }
    /// First offset.
    pub fn start(&self) -> Offset {
        unimplemented!()
    }
    /// Next offset.
    pub fn end(&self) -> Offset {
        unimplemented!()
    }
    /// Durable end.
    pub fn flushed(&self) -> Offset {
        unimplemented!()
    }
    /// Bytes.
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }
    /// Whether sealed.
    pub fn sealed(&self) -> Option<SealReason> {
        unimplemented!()
    }
    /// Latest epoch.
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        unimplemented!()
    }
    /// Known damage.
    pub fn damaged(&self) -> Vec<OffsetRange> {
        unimplemented!()
    }
    /// Epochs.
    pub fn epochs(&self) -> Vec<EpochStart> {
        unimplemented!()
    }
    /// Producers.
    pub fn describe_producers(&self) -> Vec<ProducerSummary> {
        unimplemented!()
    }
    /// Forgets.
    pub fn expire_producers(&mut self, now_ms: i64) -> usize {
        unimplemented!()
    }
    /// Sheds.
    pub fn shed_idle(&mut self) {
        unimplemented!()
    }
    /// Checks.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn check_deep(&self) -> Result<(), String> {
        unimplemented!()
    }
}
