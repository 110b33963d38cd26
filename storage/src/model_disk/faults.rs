//! Faults of the device: planned ones that strike once, and errors by chance.
//!
//! Owns: which operation fails, and the ledger of what struck and what was noticed.
//! Promises: with no plan and zero rates nothing fails but for a full disk; draws of one kind of operation do not
//! shift those of another. Leaves out: the damage itself (see `content`, `state`).

use std::ops::Range;
use std::path::PathBuf;

use rand_chacha::ChaCha8Rng;

use super::content::Scar;
use super::random::{chance, stream};
use super::tree::Id;

/// Chances in a million, each for one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// A warm read answers "cold".
    pub cold_read_ppm: u32,
    /// A read fails with EIO.
    pub read_error_ppm: u32,
    /// An append fails with EIO after any part of it was written.
    pub write_error_ppm: u32,
    /// The sync of a file or directory fails; what it covered counts as clean and is durable or not.
    pub sync_error_ppm: u32,
}

/// What happens to one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A read answers EIO.
    ReadError,
    /// An append answers EIO; any prefix of it is written.
    WriteError,
    /// A sync of the file answers EIO. Its pages are clean now, their content on the platter is old or new, and
    /// the next sync answers `Ok`.
    SyncError,
    /// A sync of the directory answers EIO; the names that it covered are old or new.
    DirSyncError,
    /// As [`Fault::DirSyncError`], and the file system is read-only until the power is cut: what ext4, XFS and Btrfs do
    /// when their journal cannot be written.
    JournalAbort,
    /// A sync answers `Ok`, and one sector of what it covered keeps its old content.
    LostWrite,
    /// A sync answers `Ok`, and one sector of what it covered lies in another file instead.
    MisdirectedWrite,
}

/// A place that was damaged in silence: rot, a lost or a misdirected write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file, by its present name.
    pub path: PathBuf,
    /// Where it begins.
    pub at: u64,
    /// What should stand there.
    pub was: Vec<u8>,
    /// What stood there right after.
    pub is: Vec<u8>,
}

impl Damage {
    /// Puts back what should stand there, if `content` (of that file) still holds the damaged bytes. Several damages
    /// are undone in the opposite order.
    pub fn undo(&self, content: &mut [u8]) -> bool {
        let at = usize::try_from(self.at).unwrap_or(usize::MAX);
        let place = content.get_mut(at..at.saturating_add(self.is.len())).filter(|place| **place == *self.is);
        place.map(|place| place.copy_from_slice(&self.was)).is_some()
    }
}

/// A fault that waits for its operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What happens.
    pub fault: Fault,
    /// Only to files (or directories) whose path contains this.
    pub path_contains: String,
    /// Matching operations that pass before it strikes.
    pub after: u64,
}

/// Faults that struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultReport {
    /// Errors answered to reads.
    pub read_errors: u64,
    /// Errors answered to appends, a full disk not counted.
    pub write_errors: u64,
    /// Appends and creations refused for lack of room.
    pub disk_full: u64,
    /// Errors answered to syncs of files and directories.
    pub sync_errors: u64,
    /// Places damaged in silence: rot, lost and misdirected writes.
    pub damaged: u64,
    /// Of these, how many a later read has met. The rest were inert.
    pub damage_read: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Faults {
    pub rates: Rates,
    pub plans: Vec<Plan>,
    report: FaultReport,
    /// Damaged places that no read has met.
    damage: Vec<(Id, Range<u64>)>,
    /// All damaged places, oldest first.
    pub scars: Vec<(Id, Scar)>,
    /// Misdirected writes land only in files whose path contains this.
    pub victims: String,
    cold: ChaCha8Rng,
    read: ChaCha8Rng,
    write: ChaCha8Rng,
    sync: ChaCha8Rng,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Faults {
        Faults {
            rates: Rates::default(),
            plans: Vec::new(),
            report: FaultReport::default(),
            damage: Vec::new(),
            scars: Vec::new(),
            victims: String::new(),
            cold: stream(seed, "disk cold", 0),
            read: stream(seed, "disk read", 0),
            write: stream(seed, "disk write", 0),
            sync: stream(seed, "disk sync", 0),
        }
    }

    pub(super) fn report(&self) -> FaultReport {
        self.report
    }

    pub(super) fn is_cold(&mut self) -> bool {
        self.rates.cold_read_ppm > 0 && chance(&mut self.cold, self.rates.cold_read_ppm)
    }

    /// Whether this read fails.
    pub(super) fn strikes_read(&mut self, path: &str) -> bool {
        let strikes = self.planned(Fault::ReadError, path)
            || self.rates.read_error_ppm > 0 && chance(&mut self.read, self.rates.read_error_ppm);
        self.report.read_errors += u64::from(strikes);
        strikes
    }

    /// Whether this append fails.
    pub(super) fn strikes_write(&mut self, path: &str) -> bool {
        let strikes = self.planned(Fault::WriteError, path)
            || self.rates.write_error_ppm > 0 && chance(&mut self.write, self.rates.write_error_ppm);
        self.report.write_errors += u64::from(strikes);
        strikes
    }

    /// Whether this sync (`kind` says of what) fails.
    pub(super) fn strikes_sync(&mut self, kind: Fault, path: &str) -> bool {
        let strikes = self.planned(kind, path)
            || self.rates.sync_error_ppm > 0 && chance(&mut self.sync, self.rates.sync_error_ppm);
        self.report.sync_errors += u64::from(strikes);
        strikes
    }

    /// Whether a plan of this kind strikes now; the plan is used up.
    pub(super) fn planned(&mut self, fault: Fault, path: &str) -> bool {
        let matching =
            self.plans.iter().position(|plan| plan.fault == fault && path.contains(&plan.path_contains));
        match matching {
            None => false,
            Some(index) if self.plans[index].after > 0 => {
                self.plans[index].after -= 1;
                false
            }
            Some(index) => {
                self.plans.remove(index);
                true
            }
        }
    }

    pub(super) fn write_rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.write
    }

    pub(super) fn sync_rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.sync
    }

    pub(super) fn refused(&mut self) {
        self.report.disk_full += 1;
    }

    pub(super) fn damaged(&mut self, id: Id, scar: Scar) {
        self.report.damaged += 1;
        self.damage.push((id, scar.at..scar.at + scar.is.len() as u64));
        self.scars.push((id, scar));
    }

    pub(super) fn met(&mut self, id: Id, read: &Range<u64>) {
        if self.damage.is_empty() {
            return;
        }
        let before = self.damage.len();
        self.damage.retain(|(file, place)| *file != id || place.end <= read.start || read.end <= place.start);
        self.report.damage_read += (before - self.damage.len()) as u64;
    }
}
