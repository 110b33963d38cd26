//! A disk in memory that knows what is durable: the page cache, the platter, and everything that goes wrong.
//!
//! Owns: files and directories as a process sees them *and* as they would be after a power cut; injected faults.
//! Promises: the contract of [`crate::disk`]; every state that the contract allows after a crash is reachable from
//! some seed, and no other (`tests` enumerates small programs); all behaviour is a function of seeds and calls.
//! Leaves out: time. Whoever simulates supplies it as [`Latency`]; this module knows no executor.
//!
//! ```text
//! Platter  the device, outlives processes: crash, faults, rot, inspection (the simulator holds it)
//!    └─ mount() ─► ModelDisk  what one incarnation of a node sees: `Disk`, its lock, its open files
//! ```
//!
//! Called by tests of the log, and by `sim::disk`.

mod content;
mod faults;
mod observe;
pub mod random;
mod state;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;

pub use content::{CrashMode, SECTOR};
pub use faults::{Damage, Fault, FaultReport, Plan, Rates};
pub use observe::{Counter, DiskEvent, Latency, Observer, Op, Pause};

use crate::disk::{DirEntry, Disk, DiskFile, Open};
use state::State;

/// How a [`Platter`] is made.
#[derive(Default)]
pub struct Setup {
    /// Seeds every draw that the disk itself makes (cold reads, errors by rate, what a failed sync keeps).
    pub seed: u64,
    /// Size of the device in bytes; `None` is without a limit.
    pub capacity: Option<u64>,
    /// Tester mutant T1: a power cut keeps the page cache. Mutants that forget a sync must then survive.
    pub crash_keeps_page_cache: bool,
    /// How long the operations that may wait take; without it they complete at once.
    pub latency: Option<Arc<dyn Latency>>,
    /// Is told every operation, with a checksum of what it carried.
    pub observer: Option<Arc<dyn Observer>>,
}

/// The device. Clones are the same device.
#[derive(Clone)]
pub struct Platter {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    latency: Option<Arc<dyn Latency>>,
    observer: Option<Arc<dyn Observer>>,
}

/// A [`Platter`] as one incarnation of a process sees it.
#[derive(Clone)]
pub struct ModelDisk {
    mount: Arc<Mount>,
}

struct Mount {
    shared: Arc<Shared>,
    incarnation: u64,
}

/// A file of a [`ModelDisk`].
#[derive(Clone)]
pub struct ModelFile {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    incarnation: u64,
    id: tree::Id,
    path: String,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pause(&self, op: Op, bytes: u64) {
        if let Some(latency) = &self.latency {
            latency.pause(op, bytes).await;
        }
    }

    /// Counts the operation, tells the observer, and hands `outcome` through.
    fn note<T>(&self, event: DiskEvent<'_>, outcome: io::Result<T>) -> io::Result<T> {
        self.state().counters.count(&event, outcome.is_ok());
        if let Some(observer) = &self.observer {
            observer.event(&event, outcome.as_ref().err().map(io::Error::kind));
        }
        outcome
    }
}

impl Platter {
    /// An empty device.
    #[must_use]
    pub fn new(setup: Setup) -> Platter {
        let state = State::new(setup.seed, setup.capacity, setup.crash_keeps_page_cache);
        let Setup { latency, observer, .. } = setup;
        Platter { shared: Arc::new(Shared { state: Mutex::new(state), latency, observer }) }
    }

    /// The next incarnation of a process on this device. Several may be mounted: the lock file tells them apart.
    #[must_use]
    pub fn mount(&self) -> ModelDisk {
        let incarnation = self.shared.state().mount();
        ModelDisk { mount: Arc::new(Mount { shared: Arc::clone(&self.shared), incarnation }) }
    }

    /// Ends every incarnation as `kill -9` does: locks are free, old handles answer errors, all content is kept.
    pub fn kill(&self) {
        self.shared.state().kill();
    }

    /// Cuts the power: [`Platter::kill`], then what was not synced is lost, kept, torn or garbled as `mode` allows.
    pub fn crash(&self, rng: &mut ChaCha8Rng, mode: CrashMode) {
        self.shared.state().crash(rng, mode);
    }

    /// A copy of the device in its present state, without latency, observer or planned faults: to try a crash on.
    #[must_use]
    pub fn fork(&self) -> Platter {
        let state = self.shared.state().clone();
        let fork =
            Platter { shared: Arc::new(Shared { state: Mutex::new(state), latency: None, observer: None }) };
        fork.shared.state().forget_faults();
        fork.kill();
        fork
    }

    /// Ends every incarnation, and puts in the place of all content what `copy` holds: an operator restores a backup.
    pub fn put_back(&self, copy: &Platter) {
        let copy = copy.shared.state().clone();
        self.shared.state().put_back(copy);
    }

    /// Errors and cold reads by chance, from now on.
    pub fn set_rates(&self, rates: Rates) {
        self.shared.state().faults.rates = rates;
    }

    /// Plans one fault; it strikes once.
    pub fn plan(&self, plan: Plan) {
        self.shared.state().faults.plans.push(plan);
    }

    /// Forgets planned faults and chances: the device is healthy from now on. What is damaged stays damaged.
    pub fn heal(&self) {
        self.shared.state().forget_faults();
    }

    /// Changes the size of the device; what is there stays, even if it is more.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.state().capacity = bytes;
    }

    /// Flips the bits of `mask` in one byte, on the device and in the cache. False if the file is not that long.
    pub fn rot(&self, path: &Path, byte: u64, mask: u8) -> bool {
        self.shared.state().rot(path, byte, mask)
    }

    /// Every place that was damaged in silence (rot, lost and misdirected writes) in a file that still has a name, oldest
    /// first: with [`Damage::undo`] a checker sees what the disk should hold.
    #[must_use]
    pub fn damage(&self) -> Vec<Damage> {
        self.shared.state().damage()
    }

    /// Misdirected writes land only in files whose path contains this; empty: in any.
    pub fn set_victims(&self, path_contains: &str) {
        self.shared.state().faults.victims = path_contains.to_owned();
    }

    /// Whether an aborted journal left the file system read-only ([`Fault::JournalAbort`]).
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.shared.state().is_read_only()
    }

    /// Writes what file `from` durably holds over file `onto`, as far as both go: blocks that landed in the wrong file.
    /// False if either is not there, or nothing changed.
    pub fn misplace(&self, from: &Path, onto: &Path) -> bool {
        self.shared.state().misplace(from, onto)
    }

    /// Faults that struck so far, and of those that damaged content how many were met by a read.
    #[must_use]
    pub fn faults(&self) -> FaultReport {
        self.shared.state().faults.report()
    }

    /// Operations counted since the device was made.
    #[must_use]
    pub fn counter(&self, op: Op) -> Counter {
        self.shared.state().counters.get(op)
    }

    /// Bytes that a power cut could take now.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.shared.state().unsynced_bytes()
    }

    /// Every file with its content as a process sees it, by path.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.shared.state().files(false)
    }

    /// Every file with its content as it would be if a power cut now lost all that may be lost.
    #[must_use]
    pub fn durable_files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.shared.state().files(true)
    }

    /// The files of one folder, not of those in it, by name: as a process sees them, or as they would be if a power cut now
    /// lost all that may be lost.
    #[must_use]
    pub fn files_in(&self, folder: &str, durable: bool) -> Vec<(String, Vec<u8>)> {
        self.shared.state().files_in(folder, durable)
    }

    /// How many bytes the files of one folder have, as a process sees them.
    #[must_use]
    pub fn bytes_in(&self, folder: &str) -> u64 {
        self.shared.state().bytes_in(folder)
    }

    /// CRC-32 over the names and contents of all files as a process sees them: what a digest needs after a crash.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        self.shared.state().checksum()
    }

    /// Length of every file, as a process sees it, by path.
    #[must_use]
    pub fn lengths(&self) -> Vec<(PathBuf, u64)> {
        self.shared.state().lengths()
    }
}

impl ModelDisk {
    /// The device below.
    #[must_use]
    pub fn platter(&self) -> Platter {
        Platter { shared: Arc::clone(&self.mount.shared) }
    }

    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.mount.shared.state();
        state.alive(self.mount.incarnation)?;
        Ok(state)
    }

    fn note<T>(&self, op: Op, path: &Path, outcome: io::Result<T>) -> io::Result<T> {
        self.mount.shared.note(DiskEvent::named(op, &path.to_string_lossy()), outcome)
    }
}

impl fmt::Debug for Platter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Platter")
    }
}

impl fmt::Debug for ModelDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelDisk#{}", self.mount.incarnation)
    }
}

impl fmt::Debug for ModelFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelFile({})", self.handle.path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.shared.state().unmount(self.incarnation);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state().close(self.id, self.incarnation);
    }
}

impl Disk for ModelDisk {
    type File = ModelFile;

    fn open(&self, path: &Path, how: Open) -> io::Result<ModelFile> {
        let opened = self.state().and_then(|mut state| state.open(path, how));
        let op = if how == Open::CreateNew { Op::Create } else { Op::Open };
        let id = self.note(op, path, opened)?;
        let mount = &self.mount;
        let path = path.to_string_lossy().into_owned();
        let handle = Handle { shared: Arc::clone(&mount.shared), incarnation: mount.incarnation, id, path };
        Ok(ModelFile { handle: Arc::new(handle) })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let renamed = self.state().and_then(|mut state| state.rename(from, to));
        self.note(Op::Rename, from, Ok(()))?;
        self.note(Op::RenameTo, to, renamed)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let made = self.state().and_then(|mut state| state.create_dir_all(path));
        self.note(Op::CreateDir, path, made)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.state()?.list(dir)
    }

    fn exists(&self, path: &Path) -> bool {
        self.state().is_ok_and(|state| state.exists(path))
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.mount.shared.pause(Op::Remove, 0).await;
        let removed = self.state().and_then(|mut state| state.remove(path));
        self.note(Op::Remove, path, removed)
    }

    async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.mount.shared.pause(Op::RemoveDir, 0).await;
        let removed = self.state().and_then(|mut state| state.remove_dir_all(path));
        self.note(Op::RemoveDir, path, removed)
    }

    /// Covers exactly what was written before the call: what comes while it runs stays at risk.
    fn sync_many(&self, files: Vec<ModelFile>) -> impl Future<Output = io::Result<()>> + Send {
        let shared = Arc::clone(&self.mount.shared);
        let incarnation = self.mount.incarnation;
        let mut covered = Vec::with_capacity(files.len());
        let mut bytes = 0;
        {
            let state = shared.state();
            for file in &files {
                assert!(Arc::ptr_eq(&file.handle.shared, &shared), "{} is on another disk", file.handle.path);
                let (mark, dirty) = state.sync_mark(file.handle.id);
                covered.push(mark);
                bytes += dirty;
            }
        }
        async move {
            _ = shared.note(DiskEvent::sized(Op::SyncStart, "", files.len() as u64, bytes), Ok(()));
            shared.pause(Op::Sync, bytes).await;
            let mut all = Ok(());
            for (file, mark) in files.iter().zip(covered) {
                let handle = &file.handle;
                let synced = {
                    let mut state = shared.state();
                    state.alive(incarnation).and_then(|()| state.sync_file(handle.id, &handle.path, mark))
                };
                all = all.and(shared.note(DiskEvent::sized(Op::Sync, &handle.path, mark, 0), synced));
            }
            all
        }
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mark = self.state().and_then(|state| state.dir_mark(dir));
        self.mount.shared.pause(Op::SyncDir, 0).await;
        let synced = mark.and_then(|(id, mark)| self.state()?.sync_dir(id, dir, mark));
        self.note(Op::SyncDir, dir, synced)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.state()?.free_bytes())
    }

    fn total_bytes(&self) -> io::Result<Option<u64>> {
        Ok(self.state()?.capacity())
    }

    fn lock(&self, path: &Path) -> io::Result<()> {
        let locked = self.state().and_then(|mut state| state.lock(path, self.mount.incarnation));
        self.note(Op::Lock, path, locked)
    }

    fn boot_id(&self) -> Option<u128> {
        Some(self.mount.shared.state().boots)
    }

    fn display(&self, path: &Path) -> PathBuf {
        Path::new("model:").join(path)
    }
}

impl ModelFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.handle.shared.state();
        state.alive(self.handle.incarnation)?;
        Ok(state)
    }

    fn note_read<T>(&self, at: u64, outcome: io::Result<T>, bytes: impl Fn(&T) -> &[u8]) -> io::Result<T> {
        let data: &[u8] = outcome.as_ref().map_or(&[], &bytes);
        let event = DiskEvent { crc: crc32fast::hash(data), ..self.event(Op::Read, at, data.len() as u64) };
        self.handle.shared.note(event, outcome)
    }

    fn event(&self, op: Op, at: u64, len: u64) -> DiskEvent<'_> {
        DiskEvent::sized(op, &self.handle.path, at, len)
    }
}

impl DiskFile for ModelFile {
    fn len(&self) -> io::Result<u64> {
        self.state().map(|mut state| state.content(self.handle.id).len())
    }

    fn append_at(&self, at: u64, parts: &[Bytes]) -> io::Result<()> {
        let mut crc = crc32fast::Hasher::new();
        let mut len = 0;
        for part in parts {
            crc.update(part);
            len += part.len() as u64;
        }
        let handle = &self.handle;
        let written = self.state().and_then(|mut state| state.append(handle.id, &handle.path, at, parts));
        let event = DiskEvent { crc: crc.finalize(), ..self.event(Op::Write, at, len) };
        handle.shared.note(event, written)
    }

    fn try_read_at(&self, at: u64, len: usize) -> io::Result<Option<Bytes>> {
        let mut state = self.state()?;
        if state.is_cold() {
            drop(state);
            return self.handle.shared.note(self.event(Op::ColdRead, at, len as u64), Ok(None));
        }
        let read = state.read(self.handle.id, &self.handle.path, at, len);
        drop(state);
        self.note_read(at, read, |bytes| bytes).map(Some)
    }

    async fn read_at(&self, at: u64, len: usize) -> io::Result<Bytes> {
        self.handle.shared.pause(Op::Read, len as u64).await;
        let read = self.state().and_then(|mut state| state.read(self.handle.id, &self.handle.path, at, len));
        self.note_read(at, read, |bytes| bytes)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let cut = self.state().and_then(|mut state| state.truncate(self.handle.id, &self.handle.path, len));
        self.handle.shared.note(self.event(Op::Truncate, len, 0), cut)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let reserved = self.state().and_then(|mut state| state.preallocate(self.handle.id, len));
        self.handle.shared.note(self.event(Op::Preallocate, len, 0), reserved)
    }
}
