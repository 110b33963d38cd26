//! Whether the data directory may still be trusted, and what was found wrong with it.
//!
//! Owns: one switch that is thrown once; what was counted of damage, cuts and refusals; how much room the disk has.
//! Promises: after [`Health::fail`] every partition of the directory refuses reads and writes (LOG-9: nothing acknowledged
//! may depend on bytes around a failed sync), until the process ends.
//! Leaves out: telling the world; readiness and metrics ask, and the caller of `fail` logs.
//! Used by `flusher`, `partition`, `open` and `retention` (who see it) and by everyone who answers.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use dejaq_storage::RecoveryReport;
use dejaq_storage::disk::is_failed_sync;

use crate::metrics::Counter;

/// What was found since the process started.
#[derive(Debug, Default)]
pub struct Counts {
    /// Ranges of offsets below the durable point that are damaged, found at an open or by a scrub.
    pub damaged_ranges: Counter,
    /// Reads that met damage.
    pub damaged_reads: Counter,
    /// Damaged ranges that were cut, to be fetched again from the leader.
    pub mended_ranges: Counter,
    /// Bytes that scrubs have read.
    pub scrubbed_bytes: Counter,
    /// Torn tails that were cut at an open.
    pub tails_cut: Counter,
    /// Bytes of those tails.
    pub cut_bytes: Counter,
    /// Batches that were refused because the disk is full, or nearly.
    pub refused_for_room: Counter,
    /// Syncs that failed.
    pub failed_syncs: Counter,
}

/// The state of one data directory. Shared by all its partitions.
#[derive(Debug, Default)]
pub struct Health {
    failure: Mutex<Option<String>>,
    is_offline: AtomicBool,
    /// What was found.
    pub counts: Counts,
    free_bytes: AtomicU64,
    lacks_room: AtomicBool,
}

impl Health {
    /// Takes the directory offline for good, and says so once in the log.
    pub fn fail(&self, reason: &str) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            tracing::error!(
                reason,
                "the data directory is offline: nothing is read or written until a restart"
            );
            *failure = Some(reason.to_owned());
        }
        self.is_offline.store(true, Ordering::SeqCst);
    }

    /// Looks at an error of the disk that its caller can live with, unless a sync failed.
    pub fn mind(&self, what: &str, error: &io::Error) {
        if is_failed_sync(error) {
            self.counts.failed_syncs.add(1);
            self.fail(&format!("{what}: {error}"));
        }
    }

    /// Whether the directory failed.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.is_offline.load(Ordering::SeqCst)
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts what opening a log found.
    pub(super) fn count_recovery(&self, report: &RecoveryReport) {
        self.counts.damaged_ranges.add(report.damaged.len() as u64);
        if let Some(cut) = &report.cut {
            self.counts.tails_cut.add(1);
            self.counts.cut_bytes.add(cut.bytes);
        }
    }

    /// Takes what the disk says of its room; `lacks_room`: writes are refused, or will be by the disk itself.
    pub(super) fn see_room(&self, free_bytes: u64, lacks_room: bool) {
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        self.lacks_room.store(lacks_room, Ordering::Relaxed);
    }

    /// Bytes that the disk had free when it was last asked.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Whether the disk is full, or so nearly full that writes are refused.
    #[must_use]
    pub fn lacks_room(&self) -> bool {
        self.lacks_room.load(Ordering::Relaxed)
    }
}
