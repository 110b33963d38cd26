//! What a log is told from outside: who it is, how it is cut into segments, what it may keep.
//!
//! Owns: [`LogIdentity`], [`LogConfig`], [`OpenOptions`] and [`SpaceGuard`]. Promises: a config that passed
//! [`LogConfig::check`] cannot make a log divide by zero, overflow a position or grow without a bound.
//! Leaves out: names and texts of topic configs (the node's table). Called by whoever opens a log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use dejaq_wire::ids::{PartitionId, TopicId};

use crate::layout::LastStop;

/// Positions in a segment are 31 bits, so that one bit is left to tell side-file records apart.
pub const MAX_SEGMENT_BYTES: u32 = i32::MAX as u32;

/// Which partition a log belongs to. Every checksum of our own is bound to the id and the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIdentity {
    /// The topic's name, for people and tools; never part of a checksum.
    pub topic: String,
    /// The topic's id, which another life of the same name does not share.
    pub topic_id: TopicId,
    /// The partition's index in its topic.
    pub partition: PartitionId,
}

/// How one log is cut and what it keeps. Replaceable at run time with [`Log::set_config`](crate::Log::set_config).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment that would grow beyond this is rolled first. A single larger batch gets a segment of its own.
    pub segment_bytes: u32,
    /// A segment whose first batch is older than this is rolled before the next append.
    pub segment_ms: i64,
    /// Bytes of log between two entries of the sparse index (which halves its density when it grows too large).
    pub index_interval_bytes: u32,
    /// Segments whose newest record is older than this may be deleted; `None` keeps them for ever.
    pub retention_ms: Option<i64>,
    /// The oldest segments may be deleted while at least this much stays; `None` keeps them for ever.
    pub retention_bytes: Option<u64>,
    /// Producers remembered at most; the one that was silent longest and has no open transaction goes first, but none that was
    /// active in the last ten minutes: a new one is refused then, and tries again.
    pub max_producers: usize,
    /// A producer silent for longer than this may be forgotten.
    pub producer_expiry_ms: i64,
    /// Offsets may have gaps because the topic is compacted, or was: a follower takes batches that do not follow each
    /// other, and recovery believes them. False keeps LOG-1 in its strict form.
    pub gaps: bool,
    /// A snapshot of the producers is taken after so many appended bytes, which bounds what a restart replays.
    pub snapshot_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3600 * 1000,
            index_interval_bytes: 4096,
            retention_ms: Some(14 * 24 * 3600 * 1000),
            retention_bytes: None,
            max_producers: 50_000,
            producer_expiry_ms: 24 * 3600 * 1000,
            gaps: false,
            snapshot_bytes: 64 << 20,
        }
    }
}

impl LogConfig {
    /// Panics with the value of the first field that is out of its range: configs are validated at the door.
    pub fn check(&self) {
        assert!(self.segment_bytes >= 1, "segment_bytes {} is below 1", self.segment_bytes);
        assert!(
            self.segment_bytes <= MAX_SEGMENT_BYTES,
            "segment_bytes {} exceeds 2^31-1",
            self.segment_bytes
        );
        assert!(self.segment_ms >= 1, "segment_ms {} is below 1", self.segment_ms);
        assert!(self.max_producers >= 1, "max_producers {} is below 1", self.max_producers);
        assert!(self.snapshot_bytes >= 1, "snapshot_bytes {} is below 1", self.snapshot_bytes);
        assert!(self.producer_expiry_ms >= 1, "producer_expiry_ms {} is below 1", self.producer_expiry_ms);
    }
}

/// How a log is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// How the last process left it. After a clean stop nothing needs a scan; if the machine ran on since, a batch whose
    /// record in the side file is missing was still written by us. Otherwise it may be a stale sector of another file,
    /// and is cut.
    pub last_stop: LastStop,
    /// The caller's wall clock, unix milliseconds.
    pub now_ms: i64,
    /// Shared by all logs of one data directory.
    pub space: SpaceGuard,
    /// Read and verify every byte before the log opens, and report the damage.
    pub verify_all: bool,
}

/// Refuses appends before the disk is full: one switch for all logs of a data directory, with hysteresis.
#[derive(Debug, Clone)]
pub struct SpaceGuard {
    refusing: Arc<AtomicBool>,
    /// See `reserve`.
    pub(crate) reserve: Arc<AtomicU8>,
    low_bytes: u64,
    high_bytes: u64,
}

impl SpaceGuard {
    /// Refuses below `low_bytes` free bytes and accepts again at `high_bytes`, which is at least as large.
    #[must_use]
    pub fn new(low_bytes: u64, high_bytes: u64) -> SpaceGuard {
        assert!(low_bytes <= high_bytes, "low-water mark {low_bytes} above high-water mark {high_bytes}");
        let reserve = Arc::new(AtomicU8::new(crate::reserve::UNWANTED));
        SpaceGuard { refusing: Arc::new(AtomicBool::new(false)), reserve, low_bytes, high_bytes }
    }

    /// Takes what the disk says is free now; returns whether appends are refused from here on.
    pub fn update(&self, free_bytes: u64) -> bool {
        if free_bytes < self.low_bytes {
            self.refusing.store(true, Ordering::Relaxed);
        } else if free_bytes >= self.high_bytes {
            self.refusing.store(false, Ordering::Relaxed);
        }
        self.is_refusing()
    }

    /// Whether appends are refused now.
    #[must_use]
    pub fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed) || self.lacks_reserve()
    }
}

impl Default for SpaceGuard {
    /// Never refuses.
    fn default() -> SpaceGuard {
        SpaceGuard::new(0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_ends_only_at_the_high_water_mark() {
        let guard = SpaceGuard::new(10, 20);
        let said: Vec<bool> = [30, 10, 9, 15, 19, 20, 15].map(|free| guard.update(free)).to_vec();
        assert_eq!(said, [false, false, true, true, true, false, false]);
    }
}
