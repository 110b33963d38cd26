//! The seam between the log and the place where bytes live: a durability contract.
//!
//! Owns: the traits [`Disk`] and [`DiskFile`], and the words for how a file is opened.
//! Promises: nothing by itself; every implementation passes the suite in [`crate::contract`].
//! Leaves out: formats, offsets, topics. A disk knows bytes, names and durability, never Kafka.
//!
//! What survives what (the suite asserts each line, on the real disk and on the model):
//!
//! | after | process kill | power cut |
//! |---|---|---|
//! | `append_at`, `truncate` returned | yes | any subset of the sectors, torn or stale |
//! | `sync_many` of the file returned `Ok` | yes | yes, if the name does |
//! | `create_new`, `rename`, `remove` returned | yes | old or new name, either |
//! | `sync_dir` of the parent returned `Ok` | yes | yes |
//! | `sync_many` returned an error | unknown | unknown: never retry, take the directory offline (LOG-9) |
//!
//! An append reaches the page cache inline and never awaits (measured: 3 µs inline, 15 to 20 µs through a
//! blocking pool); only syncs, cold reads and unlinks leave the thread.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// A sync that failed, in the errors of [`Disk::sync_many`] and [`Disk::sync_dir`].
#[derive(Debug, thiserror::Error)]
#[error("a sync failed: {0}")]
struct FailedSync(io::Error);

/// Marks an error as that of a sync, for whoever meets it far above.
#[must_use]
pub fn failed_sync(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), FailedSync(error))
}

/// Whether a sync failed, so that nobody knows what the disk holds: nothing may be acknowledged on its strength any more.
#[must_use]
pub fn is_failed_sync(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<FailedSync>())
}

/// Whether it failed for want of something that comes back, room or file handles, before a sync: nothing is uncertain, and
/// another try may succeed.
#[must_use]
pub fn is_want(error: &io::Error) -> bool {
    const HANDLES: [i32; 2] = [23, 24]; // ENFILE, EMFILE
    let is_room = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let is_handles = error.raw_os_error().is_some_and(|number| HANDLES.contains(&number));
    (is_room || is_handles) && !is_failed_sync(error)
}

/// How [`Disk::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// The file must exist; writes through this handle are a caller's bug.
    Read,
    /// The file must exist and may be written.
    Write,
    /// The file must not exist and is created empty. The new *name* is durable only after [`Disk::sync_dir`].
    CreateNew,
}

/// What a directory holds under one name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The last component of the path. Names that are not UTF-8 are reported as an error by [`Disk::list`].
    pub name: String,
    /// Whether the name is a directory.
    pub is_dir: bool,
}

/// A file system as the log needs it. Cheap to clone; clones share the same files.
///
/// Paths are relative to the data directory that the disk was made for, so that a trace of a simulated run and
/// of a real one name the same files. Functions that are not `async` complete inline and are short.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Opens a file. See [`Open`] for what must hold.
    ///
    /// # Errors
    /// `NotFound` and `AlreadyExists` as usual; `StorageFull` when a new name finds no room.
    fn open(&self, path: &Path, how: Open) -> io::Result<Self::File>;

    /// Moves `from` over `to`, replacing it, atomically for a reader. Durable after [`Disk::sync_dir`] of the parents.
    ///
    /// # Errors
    /// `NotFound` if `from` does not exist.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Creates a directory and its missing parents; it is no error if it exists.
    /// The name is durable only after [`Disk::sync_dir`] of the parent.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Everything in a directory, sorted by name.
    ///
    /// # Errors
    /// `NotFound` if there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Whether a file or directory has this name.
    fn exists(&self, path: &Path) -> bool;

    /// Removes a file's name; open handles keep reading. Durable after [`Disk::sync_dir`].
    /// A future, because the unlink of a large file can take 100 ms.
    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>> + Send;

    /// Removes a directory with all that it holds. Not atomic: rename it to a name that recovery ignores first.
    fn remove_dir_all(&self, path: &Path) -> impl Future<Output = io::Result<()>> + Send;

    /// Makes the content and length of these files durable, all of them or an error.
    ///
    /// What was appended before the call is covered; what is appended while it runs may be. The implementation
    /// chooses between one `fdatasync` a file and one `syncfs` for many. Not cancel safe in effect: dropping the
    /// future says nothing about what is durable.
    ///
    /// # Errors
    /// After any error nothing may be assumed durable, now or after a later `Ok` (fsyncgate, ATC'20). Those of the device
    /// are marked: [`is_failed_sync`].
    fn sync_many(&self, files: Vec<Self::File>) -> impl Future<Output = io::Result<()>> + Send;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As [`Disk::sync_many`].
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>> + Send;

    /// Makes the names in all of these directories durable, all or an error: one after the other, unless the
    /// implementation knows better.
    ///
    /// # Errors
    /// As [`Disk::sync_many`].
    fn sync_dirs(&self, dirs: Vec<PathBuf>) -> impl Future<Output = io::Result<()>> + Send {
        async move {
            for dir in dirs {
                self.sync_dir(&dir).await?;
            }
            Ok(())
        }
    }

    /// Bytes that can still be written before the file system is full.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Size of the file system in bytes, or `None` where it has no limit.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn total_bytes(&self) -> io::Result<Option<u64>>;

    /// Takes the data directory for this process, by an advisory lock on the file `path` (created if missing),
    /// held until the process ends or the last clone of the disk is dropped.
    ///
    /// # Errors
    /// `WouldBlock` when another process (or another incarnation of this node) holds it.
    fn lock(&self, path: &Path) -> io::Result<()>;

    /// Names the run of the machine: as long as it is the same, what a process wrote and did not sync is still in the
    /// page cache, whoever was killed; when it is another, unsynced bytes may be lost, torn or stale. `None` where the
    /// system cannot say.
    fn boot_id(&self) -> Option<u128>;

    /// The path a person would look for, for messages only.
    fn display(&self, path: &Path) -> PathBuf;
}

/// An open file. Cheap to clone; clones are the same file, also after it was renamed or removed.
#[allow(
    clippy::len_without_is_empty,
    reason = "a length that can fail has no cheap `is_empty`, and nobody asks"
)]
pub trait DiskFile: Clone + Send + Sync + 'static {
    /// Length in bytes as this process sees it.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn len(&self) -> io::Result<u64>;

    /// Writes all of `parts`, one after the other, at byte `at`. Inline; reaches the page cache and nothing more.
    ///
    /// `at` is at most the current length (no holes). The parts are not copied by us on the way down.
    ///
    /// # Errors
    /// On any error a prefix may have been written: the caller truncates back to `at` or seals the file.
    /// `StorageFull` when there is no room.
    fn append_at(&self, at: u64, parts: &[Bytes]) -> io::Result<()>;

    /// Reads up to `len` bytes at `at` without waiting for the device: `None` when they are not in memory.
    /// Shorter than `len` only at the end of the file.
    ///
    /// # Errors
    /// Whatever the device says; the caller treats it as damage of that range.
    fn try_read_at(&self, at: u64, len: usize) -> io::Result<Option<Bytes>>;

    /// Reads up to `len` bytes at `at`, waiting for the device. Shorter than `len` only at the end of the file.
    fn read_at(&self, at: u64, len: usize) -> impl Future<Output = io::Result<Bytes>> + Send;

    /// Cuts the file to `len` bytes (at most its length). Durable after the next successful sync of this file.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// A hint that the file will grow to `len` bytes; the visible length does not change. `Ok` if unsupported.
    ///
    /// # Errors
    /// `StorageFull` when there is no room.
    fn preallocate(&self, len: u64) -> io::Result<()>;
}
