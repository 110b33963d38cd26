//! What a simulator sees of the disk, and where it puts time in.
//!
//! Owns: the names of operations, their counters, the traits [`Observer`] and [`Latency`].
//! Promises: each operation is told once, when its effect is done, in the order of effects.
//! Leaves out: what is done with it (digests and traces are `sim::trace`).

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::pin::Pin;

/// An operation of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Op {
    /// Open of an existing file.
    Open = 1,
    /// Creation of a file.
    Create = 2,
    /// `append_at`.
    Write = 3,
    /// `read_at`, or a warm `try_read_at`.
    Read = 4,
    /// A `try_read_at` that answered "cold".
    ColdRead = 5,
    /// `truncate`.
    Truncate = 6,
    /// `preallocate`.
    Preallocate = 7,
    /// The call of `sync_many`.
    SyncStart = 8,
    /// The end of `sync_many`, for each file.
    Sync = 9,
    /// The end of `sync_dir`.
    SyncDir = 10,
    /// `rename`: the old name.
    Rename = 11,
    /// `rename`: the new name.
    RenameTo = 12,
    /// `create_dir_all`.
    CreateDir = 13,
    /// `remove`.
    Remove = 14,
    /// `remove_dir_all`.
    RemoveDir = 15,
    /// `lock`.
    Lock = 16,
}

/// One operation that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskEvent<'a> {
    /// What was done.
    pub op: Op,
    /// To what, relative to the data directory; for a file the name under which it was opened.
    pub path: &'a str,
    /// Byte position; for a truncation the new length, for a sync the number of changes that it covers.
    pub at: u64,
    /// Bytes carried.
    pub len: u64,
    /// CRC-32 of the bytes carried; 0 without any.
    pub crc: u32,
}

impl<'a> DiskEvent<'a> {
    pub(super) fn named(op: Op, path: &'a str) -> DiskEvent<'a> {
        DiskEvent::sized(op, path, 0, 0)
    }

    pub(super) fn sized(op: Op, path: &'a str, at: u64, len: u64) -> DiskEvent<'a> {
        DiskEvent { op, path, at, len, crc: 0 }
    }
}

/// Is told every operation.
pub trait Observer: Send + Sync {
    /// `event` was done; `error` says how it failed. Called without any lock held.
    fn event(&self, event: &DiskEvent<'_>, error: Option<ErrorKind>);
}

/// A wait in virtual time.
pub type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Says how long an operation takes.
pub trait Latency: Send + Sync {
    /// A future that ends when `op` over `bytes` bytes would have. Called for syncs, reads that wait and removals.
    fn pause(&self, op: Op, bytes: u64) -> Pause;
}

/// How often an operation was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    /// Times it succeeded.
    pub done: u64,
    /// Times it failed.
    pub failed: u64,
    /// Bytes carried when it succeeded.
    pub bytes: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Counters(BTreeMap<Op, Counter>);

impl Counters {
    pub(super) fn count(&mut self, event: &DiskEvent<'_>, ok: bool) {
        let counter = self.0.entry(event.op).or_default();
        if ok {
            counter.done += 1;
            counter.bytes += event.len;
        } else {
            counter.failed += 1;
        }
    }

    pub(super) fn get(&self, op: Op) -> Counter {
        self.0.get(&op).copied().unwrap_or_default()
    }
}
