//! The whole device: names, contents, room, locks, incarnations, faults. Everything behind the one lock.
//!
//! Owns: [`State`]; every operation is one method, run to its end. Promises: nothing here waits or draws from
//! anything but seeded streams. Leaves out: time and observers (the parent puts them around).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;

use super::content::{Content, CrashMode, SECTOR, Scar};
use super::faults::{Damage, Fault, Faults, Rates};
use super::observe::Counters;
use super::random::{below, chance};
use super::tree::{Id, Tree};
use crate::disk::{DirEntry, Open, failed_sync};

/// Sectors of other files that a garbage crash may leave in a new place.
const STALE_SECTORS: usize = 16;
/// Names removed before the inodes that nothing names any more are looked for.
const SWEEP_AFTER: u32 = 64;

#[derive(Debug, Clone)]
pub(super) struct State {
    tree: Tree,
    files: BTreeMap<Id, FileNode>,
    pub capacity: Option<u64>,
    used: u64,
    crash_keeps_page_cache: bool,
    pub faults: Faults,
    pub counters: Counters,
    locks: BTreeMap<PathBuf, u64>,
    next_incarnation: u64,
    /// Power cuts so far.
    pub boots: u128,
    live: BTreeSet<u64>,
    removed: u32,
    /// The journal was aborted: nothing can be changed until the power is cut.
    read_only: bool,
}

#[derive(Debug, Clone, Default)]
struct FileNode {
    content: Content,
    /// Room taken beyond the content by preallocation: the file owns `max(len, reserved)` bytes.
    reserved: u64,
    open: u32,
    linked: bool,
}

impl FileNode {
    fn room(&self) -> u64 {
        if self.linked || self.open > 0 { self.content.len().max(self.reserved) } else { 0 }
    }
}

fn eio() -> io::Error {
    io::Error::other("the device answered EIO")
}

impl State {
    pub(super) fn new(seed: u64, capacity: Option<u64>, crash_keeps_page_cache: bool) -> State {
        State {
            tree: Tree::new(),
            files: BTreeMap::new(),
            capacity,
            used: 0,
            crash_keeps_page_cache,
            faults: Faults::new(seed),
            counters: Counters::default(),
            locks: BTreeMap::new(),
            next_incarnation: 1,
            boots: 0,
            live: BTreeSet::new(),
            removed: 0,
            read_only: false,
        }
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn writable(&self) -> io::Result<()> {
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    // Incarnations.

    pub(super) fn mount(&mut self) -> u64 {
        let incarnation = self.next_incarnation;
        self.next_incarnation += 1;
        self.live.insert(incarnation);
        incarnation
    }

    /// The process is gone, or dropped its disk; open files of a process that lives stay usable.
    pub(super) fn unmount(&mut self, incarnation: u64) {
        self.locks.retain(|_, holder| *holder != incarnation);
    }

    pub(super) fn alive(&self, incarnation: u64) -> io::Result<()> {
        if self.live.contains(&incarnation) {
            Ok(())
        } else {
            Err(io::Error::other("this incarnation was killed"))
        }
    }

    pub(super) fn kill(&mut self) {
        self.live.clear();
        self.locks.clear();
        for file in self.files.values_mut() {
            file.open = 0;
        }
        self.sweep();
    }

    pub(super) fn put_back(&mut self, copy: State) {
        self.kill();
        (self.tree, self.files, self.used) = (copy.tree, copy.files, copy.used);
        self.removed = copy.removed;
    }

    pub(super) fn crash(&mut self, rng: &mut ChaCha8Rng, mode: CrashMode) {
        self.kill();
        if self.crash_keeps_page_cache {
            return self.keep_page_cache();
        }
        self.boots += 1;
        let stale = if mode == CrashMode::Garbage { self.stale_sectors(rng) } else { Vec::new() };
        self.tree.crash(rng, mode);
        self.read_only = false;
        for file in self.files.values_mut() {
            file.content.crash(rng, mode, &stale);
            file.reserved = 0;
            file.linked = false;
        }
        for (_, id) in self.tree.files(false) {
            self.files.entry(id).or_default().linked = true;
        }
        self.sweep();
    }

    /// Tester mutant T1: whatever the process saw is on the platter, as if the machine had gone on.
    fn keep_page_cache(&mut self) {
        self.read_only = false;
        self.tree.keep();
        self.files.values_mut().for_each(|file| file.content.keep());
        self.sweep();
    }

    fn stale_sectors(&self, rng: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
        let full: Vec<&Content> = self
            .files
            .values()
            .map(|file| &file.content)
            .filter(|content| !content.durable().is_empty())
            .collect();
        if full.is_empty() {
            return Vec::new();
        }
        let mut sectors = Vec::new();
        for _ in 0..STALE_SECTORS {
            let content = full[below(rng, full.len() as u64) as usize];
            let count = (content.durable().len() as u64).div_ceil(SECTOR);
            sectors.push(content.sector(below(rng, count)));
        }
        sectors
    }

    /// Forgets inodes that nothing names, now or after any crash, and recounts the room.
    fn sweep(&mut self) {
        let reachable = self.tree.reachable();
        self.tree.retain(&reachable);
        self.files.retain(|id, file| file.open > 0 || reachable.contains(id));
        self.used = self.files.values().map(FileNode::room).sum();
        self.removed = 0;
    }

    // Names.

    pub(super) fn open(&mut self, path: &Path, how: Open) -> io::Result<Id> {
        let id = match how {
            Open::Read | Open::Write => {
                let id = self.tree.find(path)?;
                if self.tree.is_dir(id) {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                id
            }
            Open::CreateNew => {
                self.writable()?;
                let (dir, name) = self.tree.parent(path)?;
                if self.tree.lookup(dir, &name).is_some() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                self.room_for(1)?;
                let id = self.tree.create(dir, name, false);
                self.files.insert(id, FileNode { linked: true, ..FileNode::default() });
                id
            }
        };
        self.node(id).open += 1;
        Ok(id)
    }

    pub(super) fn close(&mut self, id: Id, incarnation: u64) {
        if self.alive(incarnation).is_ok()
            && let Some(file) = self.files.get_mut(&id)
        {
            assert!(file.open > 0, "inode {id} was closed more often than opened");
            let before = file.room();
            file.open -= 1;
            self.used -= before - file.room();
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.writable()?;
        if let Some(replaced) = self.tree.rename(from, to)? {
            self.unlinked(replaced);
        }
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        if self.read_only && self.tree.find(path).is_ok_and(|id| self.tree.is_dir(id)) {
            return Ok(());
        }
        self.writable()?;
        self.tree.create_dir_all(path)
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.tree.list(self.tree.find(dir)?)
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.tree.find(path).is_ok()
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.writable()?;
        let id = self.tree.find(path)?;
        if self.tree.is_dir(id) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (dir, name) = self.tree.parent(path)?;
        self.tree.unlink(dir, name);
        self.unlinked(id);
        Ok(())
    }

    /// Name by name, the deepest first: a crash between them leaves any part.
    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let id = self.tree.find(path)?;
        for entry in self.tree.list(id)? {
            let child = path.join(entry.name);
            if entry.is_dir { self.remove_dir_all(&child)? } else { self.remove(&child)? }
        }
        let (dir, name) = self.tree.parent(path)?;
        self.tree.unlink(dir, name);
        Ok(())
    }

    fn unlinked(&mut self, id: Id) {
        if let Some(file) = self.files.get_mut(&id) {
            let before = file.room();
            file.linked = false;
            self.used -= before - file.room();
        }
        self.removed += 1;
    }

    pub(super) fn dir_mark(&self, dir: &Path) -> io::Result<(Id, u64)> {
        let id = self.tree.find(dir)?;
        if self.tree.is_dir(id) {
            Ok((id, self.tree.mark()))
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    pub(super) fn sync_dir(&mut self, id: Id, path: &Path, mark: u64) -> io::Result<()> {
        self.writable()?;
        let aborts = self.faults.strikes_sync(Fault::JournalAbort, &path.to_string_lossy());
        if aborts || self.faults.strikes_sync(Fault::DirSyncError, &path.to_string_lossy()) {
            self.tree.lose(id, mark, self.faults.sync_rng());
            self.read_only = aborts;
            return Err(failed_sync(eio()));
        }
        self.tree.settle(id, mark);
        if self.removed >= SWEEP_AFTER {
            self.sweep();
        }
        Ok(())
    }

    pub(super) fn lock(&mut self, path: &Path, incarnation: u64) -> io::Result<()> {
        self.tree.parent(path)?;
        match self.locks.get(path) {
            Some(holder) if *holder != incarnation => return Err(io::ErrorKind::WouldBlock.into()),
            Some(_) => return Ok(()),
            None => _ = self.locks.insert(path.to_path_buf(), incarnation),
        }
        if !self.exists(path) {
            self.writable()?;
            let (dir, name) = self.tree.parent(path)?;
            let id = self.tree.create(dir, name, false);
            self.files.insert(id, FileNode { linked: true, ..FileNode::default() });
        }
        Ok(())
    }

    // Contents.

    fn node(&mut self, id: Id) -> &mut FileNode {
        self.files.get_mut(&id).expect("an inode lives while a live incarnation has it open")
    }

    pub(super) fn content(&mut self, id: Id) -> &mut Content {
        &mut self.node(id).content
    }

    pub(super) fn append(&mut self, id: Id, path: &str, at: u64, parts: &[Bytes]) -> io::Result<()> {
        self.writable()?;
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if self.faults.strikes_write(path) {
            let written = below(self.faults.write_rng(), len + 1);
            self.put(id, at, &prefix(parts, written));
            return Err(eio());
        }
        let room_before = self.node(id).room();
        let needed = (at + len).saturating_sub(room_before);
        if let Err(full) = self.room_for(needed) {
            let fits = len - (needed - self.free_bytes());
            self.put(id, at, &prefix(parts, fits));
            return Err(full);
        }
        self.put(id, at, parts);
        Ok(())
    }

    fn put(&mut self, id: Id, at: u64, parts: &[Bytes]) {
        let node = self.node(id);
        let before = node.room();
        node.content.write(at, parts);
        let grown = node.room() - before;
        self.used += grown;
    }

    pub(super) fn truncate(&mut self, id: Id, path: &str, len: u64) -> io::Result<()> {
        self.writable()?;
        if self.faults.strikes_write(path) {
            return Err(eio());
        }
        let node = self.node(id);
        let before = node.room();
        node.content.cut(len);
        node.reserved = node.reserved.min(len);
        let freed = before - node.room();
        self.used -= freed;
        Ok(())
    }

    pub(super) fn preallocate(&mut self, id: Id, len: u64) -> io::Result<()> {
        self.writable()?;
        let needed = len.saturating_sub(self.node(id).room());
        self.room_for(needed)?;
        let node = self.node(id);
        node.reserved = node.reserved.max(len);
        self.used += needed;
        Ok(())
    }

    pub(super) fn is_cold(&mut self) -> bool {
        self.faults.is_cold()
    }

    pub(super) fn read(&mut self, id: Id, path: &str, at: u64, len: usize) -> io::Result<Bytes> {
        if self.faults.strikes_read(path) {
            return Err(eio());
        }
        let cached = self.node(id).content.cached();
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(cached.len());
        let end = start.saturating_add(len).min(cached.len());
        let bytes = Bytes::copy_from_slice(&cached[start..end]);
        self.faults.met(id, &(start as u64..end as u64));
        Ok(bytes)
    }

    /// The changes that a sync starting now covers, and their bytes.
    pub(super) fn sync_mark(&self, id: Id) -> (u64, u64) {
        self.files.get(&id).map_or((0, 0), |file| (file.content.mark(), file.content.unsynced()))
    }

    pub(super) fn sync_file(&mut self, id: Id, path: &str, mark: u64) -> io::Result<()> {
        self.writable()?;
        if self.faults.strikes_sync(Fault::SyncError, path) {
            let rng = self.faults.sync_rng();
            let evict = chance(rng, 500_000);
            let file = self.files.get_mut(&id).expect("a file that is synced is open");
            file.content.lose(mark, rng, evict);
            return Err(failed_sync(eio()));
        }
        let lost = self.faults.planned(Fault::LostWrite, path);
        let misdirected = self.faults.planned(Fault::MisdirectedWrite, path);
        if lost || misdirected {
            self.settle_elsewhere(id, mark, misdirected);
        } else {
            self.content(id).settle(mark);
        }
        Ok(())
    }

    /// Settles all but one sector, which keeps its old content; its new content may land in another file.
    fn settle_elsewhere(&mut self, id: Id, mark: u64, misdirected: bool) {
        let rng = self.faults.sync_rng();
        let file = self.files.get_mut(&id).expect("a file that is synced is open");
        let Some(sector) = file.content.unsynced_sector(mark, rng) else {
            file.content.settle(mark);
            return;
        };
        let old = file.content.sector(sector);
        file.content.settle(mark);
        let new = file.content.sector(sector);
        let Some(scar) = file.content.overwrite_sector(sector, &old) else { return };
        self.faults.damaged(id, scar);
        if misdirected {
            let victims = &self.faults.victims;
            let named: BTreeSet<Id> = self
                .tree
                .files(false)
                .into_iter()
                .filter(|(path, _)| path.contains(victims.as_str()))
                .map(|(_, id)| id)
                .collect();
            let others: Vec<(Id, u64)> = self
                .files
                .iter()
                .filter(|(other, file)| {
                    **other != id && named.contains(*other) && !file.content.durable().is_empty()
                })
                .map(|(other, file)| (*other, (file.content.durable().len() as u64).div_ceil(SECTOR)))
                .collect();
            if !others.is_empty() {
                let rng = self.faults.sync_rng();
                let (victim, sectors) = others[below(rng, others.len() as u64) as usize];
                let place = below(rng, sectors);
                if let Some(scar) = self.content(victim).overwrite_sector(place, &new) {
                    self.faults.damaged(victim, scar);
                }
            }
        }
    }

    // Room.

    pub(super) fn capacity(&self) -> Option<u64> {
        self.capacity
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity.map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(self.used))
    }

    fn room_for(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.free_bytes() {
            self.faults.refused();
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    // The simulator's view.

    #[cfg(test)]
    pub(super) fn inodes(&self) -> usize {
        self.files.len()
    }

    pub(super) fn forget_faults(&mut self) {
        self.faults.rates = Rates::default();
        self.faults.plans.clear();
    }

    pub(super) fn rot(&mut self, path: &Path, byte: u64, mask: u8) -> bool {
        let Ok(id) = self.tree.find(path) else { return false };
        let Some(scar) = self.files.get_mut(&id).and_then(|file| file.content.flip(byte, mask)) else {
            return false;
        };
        self.faults.damaged(id, scar);
        true
    }

    /// Writes what one file durably holds over another, as far as that goes.
    pub(super) fn misplace(&mut self, from: &Path, onto: &Path) -> bool {
        let (Ok(from), Ok(onto)) = (self.tree.find(from), self.tree.find(onto)) else { return false };
        let Some(bytes) = self.files.get(&from).map(|file| file.content.durable().to_vec()) else {
            return false;
        };
        let Some(file) = self.files.get_mut(&onto) else { return false };
        let Some(scar) = file.content.overwrite(0, &bytes) else { return false };
        self.faults.damaged(onto, scar);
        true
    }

    /// Every place that was damaged in silence in a file that still has a name, oldest first.
    pub(super) fn damage(&self) -> Vec<Damage> {
        let names: BTreeMap<Id, String> =
            self.tree.files(false).into_iter().map(|(path, id)| (id, path)).collect();
        let of = |(id, scar): &(Id, Scar)| {
            let Scar { at, was, is } = scar.clone();
            Some(Damage { path: PathBuf::from(names.get(id)?), at, was, is })
        };
        self.faults.scars.iter().filter_map(of).collect()
    }

    pub(super) fn unsynced_bytes(&self) -> u64 {
        self.files.values().map(|file| file.content.unsynced()).sum()
    }

    pub(super) fn files(&self, durable: bool) -> Vec<(PathBuf, Vec<u8>)> {
        // Tester mutant T1: what a power cut keeps is the page cache, so that is what counts as durable.
        let durable = durable && !self.crash_keeps_page_cache;
        let named = self.tree.files(durable);
        let content = |id: &Id| {
            let content = self.files.get(id).map(|file| &file.content);
            content
                .map_or(&[][..], |content| if durable { content.durable() } else { content.cached() })
                .to_vec()
        };
        named.iter().map(|(path, id)| (PathBuf::from(path), content(id))).collect()
    }

    pub(super) fn files_in(&self, folder: &str, durable: bool) -> Vec<(String, Vec<u8>)> {
        let durable = durable && !self.crash_keeps_page_cache;
        let content = |id: &Id| {
            let content = self.files.get(id).map(|file| &file.content);
            content
                .map_or(&[][..], |content| if durable { content.durable() } else { content.cached() })
                .to_vec()
        };
        self.tree.files_in(folder, durable).into_iter().map(|(name, id)| (name, content(&id))).collect()
    }

    pub(super) fn bytes_in(&self, folder: &str) -> u64 {
        let len = |(_, id): &(String, Id)| self.files.get(id).map_or(0, |file| file.content.len());
        self.tree.files_in(folder, false).iter().map(len).sum()
    }

    /// A checksum over every name and content that a process sees.
    pub(super) fn checksum(&self) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        for (path, id) in self.tree.files(false) {
            let content = self.files.get(&id).map_or(&[][..], |file| file.content.cached());
            sum.update(path.as_bytes());
            sum.update(&(content.len() as u64).to_le_bytes());
            sum.update(content);
        }
        sum.finalize()
    }

    pub(super) fn lengths(&self) -> Vec<(PathBuf, u64)> {
        let named = self.tree.files(false);
        let len = |id: &Id| self.files.get(id).map_or(0, |file| file.content.len());
        named.iter().map(|(path, id)| (PathBuf::from(path), len(id))).collect()
    }
}

/// The first `len` bytes of `parts`.
fn prefix(parts: &[Bytes], len: u64) -> Vec<Bytes> {
    let mut rest = len as usize;
    let mut kept = Vec::new();
    for part in parts {
        let take = rest.min(part.len());
        kept.push(part.slice(..take));
        rest -= take;
    }
    kept
}
