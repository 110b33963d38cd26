//! The production disk: a data directory on a real file system. The only user of `std::fs` in the product.
//!
//! Owns: the root directory, its lock files, and how many files become durable at once ([`sync`]).
//! Promises: the contract of [`crate::disk`], asserted by [`crate::contract`] on a temporary directory.
//! Leaves out: formats and retries. An error is handed up; after a failed sync every later sync of this disk
//! fails too, because the kernel reports a lost page once and to one caller only (fsyncgate).
//!
//! ```text
//! append_at, truncate, try_read_at ──► page cache, inline, on the caller's thread
//! sync_many, sync_dir, remove, read_at ──► tokio's blocking pool
//! ```

#![allow(clippy::disallowed_methods, reason = "this file is the production side of the Disk seam")]

mod platform;
mod sync;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::FlockOperation;

use crate::disk::{DirEntry, Disk, DiskFile, Open};

/// Above this a read first asks for the file's length, so that a generous limit reserves no more than there is.
const TRUSTED_READ_BYTES: usize = 64 << 10;

/// A data directory. Clones share its locks and its verdict on syncs.
#[derive(Debug, Clone)]
pub struct FileDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Device number of the root: files on another file system are left out of one `syncfs`.
    device: u64,
    syncer: Arc<sync::Syncer>,
    /// Lock files held, by path. Closing them releases the locks.
    locks: Mutex<BTreeMap<PathBuf, File>>,
}

/// A file of a [`FileDisk`].
#[derive(Debug, Clone)]
pub struct RealFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    /// Whether it lies on the file system of the disk's root.
    on_root_device: bool,
    /// One sync of this descriptor at a time: the kernel tells an error to one of them only.
    sync_turn: Mutex<()>,
}

impl FileDisk {
    /// Takes `root` as the data directory; it is created, durably and with its parents, if it does not exist.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(root: &Path) -> io::Result<FileDisk> {
        let new: Vec<PathBuf> = missing(root).map(Path::to_owned).collect();
        if !new.is_empty() {
            fs::create_dir_all(root)?;
        }
        let root = fs::canonicalize(root)?;
        if !new.is_empty() || fs::read_dir(&root)?.next().is_none() {
            // It is new, or nobody got further than its making: then nobody knows which of the names above it are durable.
            for (up, parent) in root.ancestors().skip(1).enumerate() {
                let synced = File::open(parent).and_then(|parent| parent.sync_all());
                if up < new.len() {
                    synced?;
                } // above what this start made, a directory may be none of ours to open
            }
        }
        // Opened now, because `syncfs` reports the errors that happened after its descriptor was opened.
        let directory = File::open(&root)?;
        let device = directory.metadata()?.dev();
        let syncer = Arc::new(sync::Syncer::new(directory));
        Ok(FileDisk { shared: Arc::new(Shared { root, device, syncer, locks: Mutex::new(BTreeMap::new()) }) })
    }

    /// The path on the real file system, if `path` stays inside the data directory.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        if path.components().all(|part| matches!(part, Component::Normal(_))) {
            Ok(self.shared.root.join(path))
        } else {
            let message = format!("{} leaves the data directory", path.display());
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
    }
}

/// The directories that must be made for `dir` to be there, `dir` first: the name of each is to be made durable.
fn missing(dir: &Path) -> impl Iterator<Item = &Path> {
    dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.is_dir())
}

/// Runs a system call that waits for the device on the blocking pool.
/// The work starts now, not at the first await, so that several can run side by side.
fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> impl Future<Output = io::Result<T>> + Send {
    let task = tokio::task::spawn_blocking(work);
    // The pool drops work only when the runtime shuts down; a panic in it is passed on as an error.
    async move { task.await.unwrap_or_else(|gone| Err(io::Error::other(gone))) }
}

impl Disk for FileDisk {
    type File = RealFile;

    fn open(&self, path: &Path, how: Open) -> io::Result<RealFile> {
        let full = self.resolve(path)?;
        let mut options = OpenOptions::new();
        options.read(true);
        match how {
            Open::Read => {}
            Open::Write => _ = options.write(true),
            Open::CreateNew => _ = options.write(true).create_new(true),
        }
        let file = options.open(full)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, path.display().to_string()));
        }
        let on_root_device = metadata.dev() == self.shared.device;
        Ok(RealFile { inner: Arc::new(Inner { file, on_root_device, sync_turn: Mutex::new(()) }) })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.resolve(from)?, self.resolve(to)?)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(self.resolve(path)?)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.resolve(dir)?)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::new(io::ErrorKind::InvalidData, format!("name {} is not UTF-8", name.display()))
            })?;
            entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
        }
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> bool {
        self.resolve(path).is_ok_and(|full| full.exists())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let full = self.resolve(path)?;
        off_thread(move || fs::remove_file(full)).await
    }

    async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let full = self.resolve(path)?;
        off_thread(move || fs::remove_dir_all(full)).await
    }

    fn sync_many(&self, files: Vec<RealFile>) -> impl Future<Output = io::Result<()>> + Send {
        let syncer = Arc::clone(&self.shared.syncer);
        async move { syncer.sync_many(files).await }
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let full = self.resolve(dir)?;
        let syncer = Arc::clone(&self.shared.syncer);
        off_thread(move || syncer.sync_dirs(&[full])).await
    }

    async fn sync_dirs(&self, dirs: Vec<PathBuf>) -> io::Result<()> {
        let all = dirs.iter().map(|dir| self.resolve(dir)).collect::<io::Result<Vec<PathBuf>>>()?;
        let syncer = Arc::clone(&self.shared.syncer);
        off_thread(move || syncer.sync_dirs(&all)).await
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.shared.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn total_bytes(&self) -> io::Result<Option<u64>> {
        let stat = rustix::fs::statvfs(&self.shared.root)?;
        Ok(Some(stat.f_blocks.saturating_mul(stat.f_frsize)))
    }

    fn lock(&self, path: &Path) -> io::Result<()> {
        let full = self.resolve(path)?;
        let mut locks = self.shared.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.contains_key(&full) {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&full)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        locks.insert(full, file);
        Ok(())
    }

    fn boot_id(&self) -> Option<u128> {
        platform::boot_id()
    }

    fn display(&self, path: &Path) -> PathBuf {
        self.shared.root.join(path)
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inner.file.metadata()?.len())
    }

    fn append_at(&self, at: u64, parts: &[Bytes]) -> io::Result<()> {
        debug_assert!(
            self.len().is_ok_and(|len| at <= len),
            "append at {at} leaves a hole in {:?}",
            self.inner
        );
        platform::write_all_vectored(&self.inner.file, at, parts)
    }

    fn try_read_at(&self, at: u64, len: usize) -> io::Result<Option<Bytes>> {
        platform::try_read(&self.inner.file, at, self.readable(at, len)?)
    }

    async fn read_at(&self, at: u64, len: usize) -> io::Result<Bytes> {
        let file = self.clone();
        off_thread(move || {
            let len = file.readable(at, len)?;
            let mut buffer = Vec::with_capacity(len);
            read_spare(&file.inner.file, at, &mut buffer)?;
            Ok(Bytes::from(buffer))
        })
        .await
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        debug_assert!(self.len().is_ok_and(|now| len <= now), "truncate to {len} extends {:?}", self.inner);
        self.inner.file.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        platform::preallocate(&self.inner.file, len)
    }
}

impl RealFile {
    /// `len`, or less if that much cannot be there.
    fn readable(&self, at: u64, len: usize) -> io::Result<usize> {
        if len <= TRUSTED_READ_BYTES {
            return Ok(len);
        }
        let rest = self.len()?.saturating_sub(at);
        Ok(len.min(usize::try_from(rest).unwrap_or(usize::MAX)))
    }
}

/// Fills the spare capacity of `buffer` from byte `at`, stopping only at the end of the file.
fn read_spare(file: &File, at: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    let start = buffer.len();
    while buffer.len() < buffer.capacity() {
        let from = at + (buffer.len() - start) as u64;
        match rustix::io::pread(file.as_fd(), spare_capacity(buffer), from) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// `write_all_at`, part by part: for systems without a positioned vectored write.
#[allow(
    dead_code,
    reason = "used by the fallback of `platform` only; compiled everywhere so that it cannot rot"
)]
fn write_parts(file: &File, mut at: u64, parts: &[Bytes]) -> io::Result<()> {
    for part in parts {
        file.write_all_at(part, at)?;
        at += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, FileDisk) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = FileDisk::open(&dir.path().join("data")).expect("a fresh directory opens");
        (dir, disk)
    }

    #[tokio::test]
    async fn an_append_of_more_parts_than_one_call_takes_is_written_whole() {
        let (_dir, disk) = disk();
        let file = disk.open(Path::new("a"), Open::CreateNew).expect("create");
        let parts: Vec<Bytes> = (0..5000u32).map(|n| Bytes::from(n.to_be_bytes().to_vec())).collect();
        file.append_at(0, &parts).expect("append");
        let read = file.read_at(0, 1 << 20).await.expect("read");
        assert_eq!(read, parts.concat());
        write_parts(&file.inner.file, 20_000, &parts[..2]).expect("the fallback writes");
        assert_eq!(file.len().expect("len"), 20_008);
    }

    struct Directories(Vec<tempfile::TempDir>);

    impl crate::contract::Ground for Directories {
        type Disk = FileDisk;
        fn fresh(&mut self) -> FileDisk {
            self.0.push(tempfile::tempdir().expect("a temporary directory"));
            self.reopened()
        }
        fn reopened(&mut self) -> FileDisk {
            let dir = self.0.last().expect("fresh() comes first");
            FileDisk::open(&dir.path().join("data")).expect("the directory opens")
        }
    }

    #[tokio::test]
    async fn the_real_disk_keeps_the_contract() {
        crate::contract::run_all(&mut Directories(Vec::new())).await;
    }

    #[test]
    fn every_new_directory_above_the_root_is_seen() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("a/b/c");
        let new: Vec<PathBuf> = missing(&root).map(Path::to_owned).collect();
        assert_eq!(new, ["a/b/c", "a/b", "a"].map(|name| dir.path().join(name)));
        FileDisk::open(&root).expect("it is made");
        assert_eq!(missing(&root).count(), 0);
        assert_eq!(missing(Path::new("no-such/place")).count(), 2, "a relative path ends at its first name");
    }

    #[test]
    fn a_path_that_leaves_the_data_directory_is_refused() {
        let (_dir, disk) = disk();
        for path in ["/etc/passwd", "../x", "a/../../x"] {
            let refused = disk.open(Path::new(path), Open::Read).expect_err("must not open");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
    }

    #[tokio::test]
    async fn many_dirty_files_are_synced_at_once() {
        let (_dir, disk) = disk();
        for count in [0, 1, 3, 4, 40] {
            let files: Vec<RealFile> = (0..count)
                .map(|n| disk.open(Path::new(&format!("{count}-{n}")), Open::CreateNew).expect("create"))
                .collect();
            for file in &files {
                file.append_at(0, &[Bytes::from_static(b"x")]).expect("append");
            }
            disk.sync_many(files).await.expect("sync");
        }
    }
}
