//! Names: directories as processes see them, as they are on the platter, and the changes between the two.
//!
//! Owns: [`Tree`], which maps paths to inode numbers. Promises: each change of names (create, rename, remove) is
//! durable as a whole or not at all; changes of the same name keep their order; changes of different names do not.
//! A name is reachable after a crash only if all its parents are. Leaves out: what files hold (see `content`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

use rand_chacha::ChaCha8Rng;

use super::content::CrashMode;
use super::random::{below, chance};
use crate::disk::DirEntry;

pub(super) type Id = u64;

/// The data directory itself.
pub(super) const ROOT: Id = 0;

#[derive(Debug, Clone, Default)]
struct Directory {
    now: BTreeMap<String, Id>,
    durable: BTreeMap<String, Id>,
}

/// One change of names, in both directories that a rename across them touches.
#[derive(Debug, Clone)]
struct Change {
    number: u64,
    bindings: Vec<(Id, String, Option<Id>)>,
    /// Directories that must still be synced before it is durable for sure.
    unsynced: BTreeSet<Id>,
}

impl Change {
    fn shares_a_name(&self, names: &BTreeSet<(Id, String)>) -> bool {
        self.bindings.iter().any(|(dir, name, _)| names.contains(&(*dir, name.clone())))
    }

    fn names(&self) -> impl Iterator<Item = (Id, String)> + '_ {
        self.bindings.iter().map(|(dir, name, _)| (*dir, name.clone()))
    }
}

#[derive(Debug, Clone)]
pub(super) struct Tree {
    dirs: BTreeMap<Id, Directory>,
    changes: Vec<Change>,
    next_change: u64,
    next_id: Id,
}

impl Tree {
    pub(super) fn new() -> Tree {
        Tree {
            dirs: BTreeMap::from([(ROOT, Directory::default())]),
            changes: Vec::new(),
            next_change: 0,
            next_id: ROOT + 1,
        }
    }

    pub(super) fn is_dir(&self, id: Id) -> bool {
        self.dirs.contains_key(&id)
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<Id> {
        let mut id = ROOT;
        for name in names_of(path)? {
            let dir = self.dirs.get(&id).ok_or(io::ErrorKind::NotADirectory)?;
            id = *dir.now.get(&name).ok_or_else(|| not_found(path))?;
        }
        Ok(id)
    }

    /// The directory that holds the last name of `path`, and that name.
    pub(super) fn parent(&self, path: &Path) -> io::Result<(Id, String)> {
        let mut names = names_of(path)?;
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let mut id = ROOT;
        for part in names {
            let dir = self.dirs.get(&id).ok_or(io::ErrorKind::NotADirectory)?;
            id = *dir.now.get(&part).ok_or_else(|| not_found(path))?;
        }
        if self.is_dir(id) { Ok((id, name)) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    pub(super) fn lookup(&self, dir: Id, name: &str) -> Option<Id> {
        self.dirs.get(&dir).and_then(|dir| dir.now.get(name)).copied()
    }

    /// A new inode under a free name.
    pub(super) fn create(&mut self, dir: Id, name: String, is_dir: bool) -> Id {
        let id = self.next_id;
        self.next_id += 1;
        if is_dir {
            self.dirs.insert(id, Directory::default());
        }
        self.change(vec![(dir, name, Some(id))]);
        id
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut id = ROOT;
        for name in names_of(path)? {
            let dir = self.dirs.get(&id).ok_or(io::ErrorKind::NotADirectory)?;
            id = match dir.now.get(&name) {
                Some(child) => *child,
                None => self.create(id, name, true),
            };
        }
        if self.is_dir(id) { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) }
    }

    pub(super) fn unlink(&mut self, dir: Id, name: String) {
        self.change(vec![(dir, name, None)]);
    }

    /// Moves a name; returns the inode that was replaced.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<Option<Id>> {
        let (from_dir, from_name) = self.parent(from)?;
        let id = self.lookup(from_dir, &from_name).ok_or_else(|| not_found(from))?;
        let (to_dir, to_name) = self.parent(to)?;
        let replaced = self.lookup(to_dir, &to_name);
        if replaced == Some(id) {
            return Ok(None);
        }
        if self.is_dir(id) && self.holds(id, to_dir) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Some(old) = replaced {
            match (self.is_dir(id), self.dirs.get(&old)) {
                (false, None) => {}
                (true, None) => return Err(io::ErrorKind::NotADirectory.into()),
                (false, Some(_)) => return Err(io::ErrorKind::IsADirectory.into()),
                (true, Some(dir)) if dir.now.is_empty() => {}
                (true, Some(_)) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            }
        }
        self.change(vec![(from_dir, from_name, None), (to_dir, to_name, Some(id))]);
        Ok(replaced)
    }

    /// Whether `inner` is `outer` or below it.
    fn holds(&self, outer: Id, inner: Id) -> bool {
        outer == inner
            || self
                .dirs
                .get(&outer)
                .is_some_and(|dir| dir.now.values().any(|child| self.holds(*child, inner)))
    }

    pub(super) fn list(&self, dir: Id) -> io::Result<Vec<DirEntry>> {
        let dir = self.dirs.get(&dir).ok_or(io::ErrorKind::NotADirectory)?;
        Ok(dir
            .now
            .iter()
            .map(|(name, id)| DirEntry { name: name.clone(), is_dir: self.is_dir(*id) })
            .collect())
    }

    /// Every file below the root by path, in the order of paths.
    pub(super) fn files(&self, durable: bool) -> Vec<(String, Id)> {
        let mut found = Vec::new();
        self.collect(ROOT, "", durable, &mut found);
        found
    }

    /// The files of one folder, by name; none if there is no such folder.
    pub(super) fn files_in(&self, folder: &str, durable: bool) -> Vec<(String, Id)> {
        let mut id = ROOT;
        for name in folder.split('/') {
            let Some(dir) = self.dirs.get(&id) else { return Vec::new() };
            let entries = if durable { &dir.durable } else { &dir.now };
            let Some(next) = entries.get(name) else { return Vec::new() };
            id = *next;
        }
        let Some(dir) = self.dirs.get(&id) else { return Vec::new() };
        let entries = if durable { &dir.durable } else { &dir.now };
        entries.iter().filter(|(_, id)| !self.is_dir(**id)).map(|(name, id)| (name.clone(), *id)).collect()
    }

    fn collect(&self, dir: Id, prefix: &str, durable: bool, found: &mut Vec<(String, Id)>) {
        let Some(directory) = self.dirs.get(&dir) else { return };
        let entries = if durable { &directory.durable } else { &directory.now };
        for (name, id) in entries {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
            if self.is_dir(*id) {
                self.collect(*id, &path, durable, found);
            } else {
                found.push((path, *id));
            }
        }
    }

    /// Inodes that some present, durable or possible state names.
    pub(super) fn reachable(&self) -> BTreeSet<Id> {
        let named = self.dirs.values().flat_map(|dir| dir.now.values().chain(dir.durable.values()));
        let pending = self
            .changes
            .iter()
            .flat_map(|change| change.bindings.iter().filter_map(|(_, _, id)| id.as_ref()));
        named.chain(pending).copied().chain([ROOT]).collect()
    }

    /// Forgets directories that nothing names.
    pub(super) fn retain(&mut self, reachable: &BTreeSet<Id>) {
        self.dirs.retain(|id, _| reachable.contains(id));
    }

    fn change(&mut self, bindings: Vec<(Id, String, Option<Id>)>) {
        for (dir, name, id) in &bindings {
            let now = &mut self.dirs.get_mut(dir).expect("names change in directories that exist").now;
            match id {
                Some(id) => now.insert(name.clone(), *id),
                None => now.remove(name),
            };
        }
        let unsynced = bindings.iter().map(|(dir, _, _)| *dir).collect();
        self.changes.push(Change { number: self.next_change, bindings, unsynced });
        self.next_change += 1;
    }

    /// A sync that starts now covers all changes of names before this number.
    pub(super) fn mark(&self) -> u64 {
        self.next_change
    }

    /// Makes the changes in `dir` before `mark` durable, with all changes that they build on.
    pub(super) fn settle(&mut self, dir: Id, mark: u64) {
        for change in self.changes.iter_mut().filter(|change| change.number < mark) {
            change.unsynced.remove(&dir);
        }
        let mut names = BTreeSet::new();
        let mut kept = vec![false; self.changes.len()];
        for (index, change) in self.changes.iter().enumerate().rev() {
            if change.unsynced.is_empty() || change.shares_a_name(&names) {
                kept[index] = true;
                names.extend(change.names());
            }
        }
        self.apply(&kept);
    }

    /// What a failed sync of `dir` leaves: any of the changes that it covered, and the rest will never be written.
    pub(super) fn lose(&mut self, dir: Id, mark: u64, rng: &mut ChaCha8Rng) {
        let covered = |change: &Change| change.number < mark && change.unsynced.contains(&dir);
        let drawn: Vec<bool> =
            self.changes.iter().map(|change| covered(change) && chance(rng, 500_000)).collect();
        let kept = self.closed(&drawn);
        let forgotten: BTreeSet<u64> =
            self.changes.iter().filter(|change| covered(change)).map(|change| change.number).collect();
        self.apply(&kept);
        self.changes.retain(|change| !forgotten.contains(&change.number));
    }

    /// The power is cut: the names on the platter are the names.
    pub(super) fn crash(&mut self, rng: &mut ChaCha8Rng, mode: CrashMode) {
        let count = self.changes.len();
        let drawn: Vec<bool> = match mode {
            CrashMode::Lose => vec![false; count],
            CrashMode::Keep => vec![true; count],
            CrashMode::Prefix => {
                let kept = below(rng, count as u64 + 1) as usize;
                (0..count).map(|index| index < kept).collect()
            }
            CrashMode::Subset | CrashMode::Garbage => {
                let ppm = [100_000, 500_000, 900_000][below(rng, 3) as usize];
                (0..count).map(|_| chance(rng, ppm)).collect()
            }
        };
        self.apply(&self.closed(&drawn));
        self.changes.clear();
        for dir in self.dirs.values_mut() {
            dir.now.clone_from(&dir.durable);
        }
    }

    /// All names are durable as they are.
    pub(super) fn keep(&mut self) {
        self.changes.clear();
        for dir in self.dirs.values_mut() {
            dir.durable.clone_from(&dir.now);
        }
    }

    /// Drops from a choice of changes those that build on one that was not chosen.
    fn closed(&self, drawn: &[bool]) -> Vec<bool> {
        let mut lost = BTreeSet::new();
        let mut kept = Vec::with_capacity(drawn.len());
        for (change, drawn) in self.changes.iter().zip(drawn) {
            let keep = *drawn && !change.shares_a_name(&lost);
            if !keep {
                lost.extend(change.names());
            }
            kept.push(keep);
        }
        kept
    }

    fn apply(&mut self, kept: &[bool]) {
        let mut index = 0;
        let dirs = &mut self.dirs;
        self.changes.retain(|change| {
            let keep = kept[index];
            index += 1;
            if keep {
                for (dir, name, id) in &change.bindings {
                    // The directory itself may be forgotten already; then nobody can see the name.
                    let Some(dir) = dirs.get_mut(dir) else { continue };
                    match id {
                        Some(id) => dir.durable.insert(name.clone(), *id),
                        None => dir.durable.remove(name),
                    };
                }
            }
            !keep
        });
    }
}

/// The names of a path that stays inside the data directory.
fn names_of(path: &Path) -> io::Result<Vec<String>> {
    path.components()
        .map(|part| match part {
            Component::Normal(name) => name
                .to_str()
                .map(str::to_owned)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a name that is not UTF-8")),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => Err(
                io::Error::new(io::ErrorKind::InvalidInput, format!("{} leaves the disk", path.display())),
            ),
        })
        .collect()
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}
