//! A disk over a disk: reads go through, writes stay in memory and are gone with it.
//!
//! Owns: what would have been written, renamed, removed. Promises: not one byte below changes, so the real recovery
//! may run on a data directory that only is looked at. Leaves out: durability (there is none), writing over the middle
//! of a file (a log only appends and cuts), removing directories.
//! Called by `dejaq log`.
//!
//! ```text
//!   file = [ below, up to `kept` ][ tail, in memory ]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::{Bytes, BytesMut};
use dejaq_storage::{DirEntry, Disk, DiskFile, Open};

#[derive(Debug)]
struct Layer<F> {
    below: Option<F>,
    /// Bytes of the file below that are still seen.
    kept: u64,
    tail: BytesMut,
    /// What recovery wrote again inside of `kept`, by position; they may overlap, the later one lies over the earlier.
    patches: Vec<(u64, Bytes)>,
}

impl<F> Layer<F> {
    fn new(below: Option<F>, kept: u64) -> Layer<F> {
        Layer { below, kept, tail: BytesMut::new(), patches: Vec::new() }
    }

    /// Writes `bytes` over what is there or behind it; `at` is at most the length.
    fn write(&mut self, at: u64, bytes: &Bytes) {
        let inside = self.kept.saturating_sub(at).min(bytes.len() as u64) as usize;
        if inside > 0 {
            self.patches.push((at, bytes.slice(..inside)));
        }
        let rest = &bytes[inside..];
        let from = (at + inside as u64).saturating_sub(self.kept) as usize;
        let over = rest.len().min(self.tail.len().saturating_sub(from));
        self.tail[from..from + over].copy_from_slice(&rest[..over]);
        self.tail.extend_from_slice(&rest[over..]);
    }
}

#[derive(Debug)]
enum Node<F> {
    /// Removed or renamed away.
    Gone,
    /// Changed: held here for good.
    Changed(Arc<Mutex<Layer<F>>>),
    /// Opened and not changed: found as long as somebody holds it, so that all handles are one file.
    Opened(Weak<Mutex<Layer<F>>>),
}

#[derive(Debug)]
struct Over<F> {
    files: BTreeMap<PathBuf, Node<F>>,
    dirs: BTreeSet<PathBuf>,
}

/// A disk that only reads the one below.
#[derive(Debug, Clone)]
pub(super) struct Overlay<D: Disk> {
    below: D,
    over: Arc<Mutex<Over<D::File>>>,
}

/// A file of it.
#[derive(Debug, Clone)]
pub(super) struct OverlayFile<F> {
    layer: Arc<Mutex<Layer<F>>>,
    path: PathBuf,
    over: Arc<Mutex<Over<F>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl<D: Disk> Overlay<D> {
    /// Looks at `below` without touching it.
    pub(super) fn new(below: D) -> Overlay<D> {
        Overlay { below, over: Arc::new(Mutex::new(Over { files: BTreeMap::new(), dirs: BTreeSet::new() })) }
    }

    /// The layer of a file that exists, shared by everyone who has it open.
    fn layer(&self, path: &Path) -> io::Result<Arc<Mutex<Layer<D::File>>>> {
        let mut over = lock(&self.over);
        match over.files.get(path) {
            Some(Node::Gone) => return Err(missing(path)),
            Some(Node::Changed(layer)) => return Ok(layer.clone()),
            Some(Node::Opened(layer)) => {
                if let Some(layer) = layer.upgrade() {
                    return Ok(layer);
                }
            }
            None => {}
        }
        let below = self.below.open(path, Open::Read)?;
        let kept = below.len()?;
        let layer = Arc::new(Mutex::new(Layer::new(Some(below), kept)));
        over.files.insert(path.to_owned(), Node::Opened(Arc::downgrade(&layer)));
        Ok(layer)
    }

    fn file(&self, path: &Path, layer: Arc<Mutex<Layer<D::File>>>) -> OverlayFile<D::File> {
        OverlayFile { layer, path: path.to_owned(), over: self.over.clone() }
    }
}

impl<D: Disk> Disk for Overlay<D> {
    type File = OverlayFile<D::File>;

    fn open(&self, path: &Path, how: Open) -> io::Result<OverlayFile<D::File>> {
        if how != Open::CreateNew {
            return Ok(self.file(path, self.layer(path)?));
        }
        if self.exists(path) {
            let message = format!("{} exists", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        let layer = Arc::new(Mutex::new(Layer::new(None, 0)));
        lock(&self.over).files.insert(path.to_owned(), Node::Changed(layer.clone()));
        Ok(self.file(path, layer))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let layer = self.layer(from)?;
        let mut over = lock(&self.over);
        over.files.insert(to.to_owned(), Node::Changed(layer));
        over.files.insert(from.to_owned(), Node::Gone);
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        lock(&self.over).dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let over = lock(&self.over);
        let mut entries: BTreeMap<String, bool> = match self.below.list(dir) {
            Ok(entries) => entries.into_iter().map(|entry| (entry.name, entry.is_dir)).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound && over.dirs.contains(dir) => {
                BTreeMap::new()
            }
            Err(error) => return Err(error),
        };
        let name = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        for (path, node) in over.files.iter().filter(|(path, _)| path.parent() == Some(dir)) {
            let Some(name) = name(path) else { continue };
            match node {
                Node::Gone => drop(entries.remove(&name)),
                Node::Changed(_) => drop(entries.insert(name, false)),
                Node::Opened(_) => {}
            }
        }
        let made = over.dirs.iter().filter(|path| path.parent() == Some(dir)).filter_map(name);
        entries.extend(made.map(|name| (name, true)));
        Ok(entries.into_iter().map(|(name, is_dir)| DirEntry { name, is_dir }).collect())
    }

    fn exists(&self, path: &Path) -> bool {
        let over = lock(&self.over);
        match over.files.get(path) {
            Some(Node::Gone) => false,
            Some(Node::Changed(_)) => true,
            Some(Node::Opened(_)) | None => over.dirs.contains(path) || self.below.exists(path),
        }
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.exists(path) {
            return Err(missing(path));
        }
        lock(&self.over).files.insert(path.to_owned(), Node::Gone);
        Ok(())
    }

    async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let message = format!("{} would be removed, but is only looked at", path.display());
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    async fn sync_many(&self, _files: Vec<Self::File>) -> io::Result<()> {
        Ok(())
    }

    async fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.below.free_bytes()
    }

    fn total_bytes(&self) -> io::Result<Option<u64>> {
        self.below.total_bytes()
    }

    /// Whoever looks has the lock of the disk below, or looks without it; what is written here is seen by nobody else.
    fn lock(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn boot_id(&self) -> Option<u128> {
        self.below.boot_id()
    }

    fn display(&self, path: &Path) -> PathBuf {
        self.below.display(path)
    }
}

impl<F: DiskFile> OverlayFile<F> {
    /// The part of a read that the file below has, and the part that memory has.
    fn split(&self, at: u64, len: usize) -> (Option<(F, usize)>, Bytes) {
        let layer = lock(&self.layer);
        let below_len = layer.kept.saturating_sub(at).min(len as u64) as usize;
        let from = usize::try_from(at.saturating_sub(layer.kept)).unwrap_or(usize::MAX).min(layer.tail.len());
        let tail_len = (len - below_len).min(layer.tail.len() - from);
        let tail = Bytes::copy_from_slice(&layer.tail[from..from + tail_len]);
        (layer.below.clone().filter(|_| below_len > 0).map(|below| (below, below_len)), tail)
    }

    /// What was read below at `at`, with what was written over it since.
    fn patched(&self, at: u64, bytes: Bytes) -> Bytes {
        let layer = lock(&self.layer);
        let end = at + bytes.len() as u64;
        let over = |(from, patch): &&(u64, Bytes)| *from < end && from + patch.len() as u64 > at;
        if !layer.patches.iter().any(|patch| over(&patch)) {
            return bytes;
        }
        let mut bytes = BytesMut::from(bytes);
        for (from, patch) in layer.patches.iter().filter(over) {
            let (first, last) = (at.max(*from), end.min(from + patch.len() as u64));
            let source = &patch[(first - from) as usize..(last - from) as usize];
            bytes[(first - at) as usize..(last - at) as usize].copy_from_slice(source);
        }
        bytes.freeze()
    }

    /// From now on the file is kept, whoever has it open.
    fn keep(&self) {
        lock(&self.over).files.insert(self.path.clone(), Node::Changed(self.layer.clone()));
    }
}

fn joined(below: Bytes, tail: Bytes) -> Bytes {
    if tail.is_empty() {
        return below;
    }
    [below, tail].concat().into()
}

impl<F: DiskFile> DiskFile for OverlayFile<F> {
    fn len(&self) -> io::Result<u64> {
        let layer = lock(&self.layer);
        Ok(layer.kept + layer.tail.len() as u64)
    }

    fn append_at(&self, at: u64, parts: &[Bytes]) -> io::Result<()> {
        {
            let mut layer = lock(&self.layer);
            let mut at = at;
            if at > layer.kept + layer.tail.len() as u64 {
                let message = format!("a write behind the end of {}", self.path.display());
                return Err(io::Error::new(io::ErrorKind::Unsupported, message));
            }
            for part in parts.iter().filter(|part| !part.is_empty()) {
                layer.write(at, part);
                at += part.len() as u64;
            }
        }
        self.keep();
        Ok(())
    }

    fn try_read_at(&self, at: u64, len: usize) -> io::Result<Option<Bytes>> {
        let (below, tail) = self.split(at, len);
        Ok(match below {
            None => Some(tail),
            Some((below, len)) => {
                below.try_read_at(at, len)?.map(|bytes| joined(self.patched(at, bytes), tail))
            }
        })
    }

    async fn read_at(&self, at: u64, len: usize) -> io::Result<Bytes> {
        let (below, tail) = self.split(at, len);
        match below {
            None => Ok(tail),
            Some((below, len)) => {
                let bytes = below.read_at(at, len).await?;
                Ok(joined(self.patched(at, bytes), tail))
            }
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        {
            let mut layer = lock(&self.layer);
            let in_tail = usize::try_from(len.saturating_sub(layer.kept)).unwrap_or(usize::MAX);
            layer.tail.truncate(in_tail);
            layer.kept = layer.kept.min(len);
        }
        self.keep();
        Ok(())
    }

    fn preallocate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the test looks below the disk")]
mod tests {
    use dejaq_storage::file_disk::FileDisk;

    use super::*;

    fn name(text: &str) -> &Path {
        Path::new(text)
    }

    async fn all(disk: &Overlay<FileDisk>, path: &str) -> Bytes {
        let file = disk.open(name(path), Open::Read).expect("it is there");
        let len = file.len().expect("it has a length") as usize;
        file.read_at(0, len).await.expect("readable")
    }

    #[tokio::test]
    async fn a_write_inside_of_a_file_lies_over_it_and_never_below() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("log"), "0123456789").expect("written");
        let disk = Overlay::new(FileDisk::open(dir.path()).expect("a disk"));
        let file = disk.open(name("log"), Open::Write).expect("it is there");
        file.append_at(2, &[Bytes::from_static(b"ab"), Bytes::from_static(b"cd")]).expect("inside");
        file.append_at(8, &[Bytes::from_static(b"wxyz")]).expect("across the end");
        file.append_at(11, &[Bytes::from_static(b"!")]).expect("inside of the tail");
        assert_eq!(all(&disk, "log").await, "01abcd67wxy!");
        assert_eq!(file.read_at(3, 2).await.expect("readable"), "bc");
        assert!(file.append_at(13, &[Bytes::from_static(b"x")]).is_err(), "behind the end");
        file.truncate(4).expect("cut");
        file.append_at(4, &[Bytes::from_static(b"-")]).expect("appended");
        assert_eq!(all(&disk, "log").await, "01ab-");
        drop((file, disk));
        let kept = std::fs::read(dir.path().join("log")).expect("there");
        assert_eq!(kept, b"0123456789", "nothing was written below");
    }

    #[tokio::test]
    async fn changes_are_seen_above_and_never_below() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("log"), "0123456789").expect("written");
        let below = FileDisk::open(dir.path()).expect("a disk");
        let disk = Overlay::new(below);
        let reader = disk.open(name("log"), Open::Read).expect("it is there");
        let writer = disk.open(name("log"), Open::Write).expect("it is there");
        writer.truncate(6).expect("cut");
        writer.append_at(6, &[Bytes::from_static(b"ab"), Bytes::from_static(b"cd")]).expect("appended");
        assert_eq!(reader.read_at(4, 100).await.expect("readable"), "45abcd", "a handle from before sees it");
        drop((reader, writer));
        assert_eq!(all(&disk, "log").await, "012345abcd", "and so does one from after");
        let made = disk.open(name("new.tmp"), Open::CreateNew).expect("made");
        made.append_at(0, &[Bytes::from_static(b"x")]).expect("appended");
        disk.rename(name("new.tmp"), name("new")).expect("renamed");
        disk.remove(name("log")).await.expect("removed");
        let names: Vec<_> =
            disk.list(name("")).expect("listed").into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["new"]);
        assert!(!disk.exists(name("log")) && disk.open(name("log"), Open::Read).is_err());
        let kept = std::fs::read_dir(dir.path()).expect("listed").count();
        assert_eq!((kept, std::fs::read(dir.path().join("log")).expect("read")), (1, b"0123456789".to_vec()));
    }
}
