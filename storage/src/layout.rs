//! The data directory: its names, its lock, whose it is, and whether it was closed cleanly.
//!
//! Owns: every file name. Promises: one process at a time; a directory of another cluster, node or format version is
//! refused with a message that says what to do; the clean marker exists only from a clean close to the next start. What
//! it says of a partition stays on the disk until that partition is open, however many starts end before, and is gone
//! durably before anything is appended to it (LOG-8). Leaves out: what is in a partition (`log::open`).
//! Called by the broker at start and stop.
//!
//! ```text
//! lock   meta.properties
//! closed                                    the clean marker: the life of the broker that closed it, and the logs that were
//!                                           closed and that nobody has opened since
//! boot                                      the run of the machine that wrote last, and what is not open since it began
//! reserve                                   room that is given up when the disk is full
//! partitions/<topic id, 32 hex>-<index>/    partition  start  epochs  truncate
//!     00000000000000000000.log .sum .index       one segment, named by its first offset
//!     00000000000000000000.aborted               transactions aborted in that segment, if there are any
//!     00000000000000000042.producers             the producers' state at that offset
//!     cleaned   swap                             how far a log was compacted; a swap of segments that is under way
//!     *.tmp *.deleted *.cleaned                  leftovers: ignored, removed at the next start
//! partitions/<...>.deleted/                      a partition being removed
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, Offset, PartitionId, TopicId};

use crate::binding::Binding;
use crate::disk::{Disk, DiskFile, Open};
use crate::reserve;
use crate::small_file;
use crate::unopened::{self, Name};
use crate::{mark, mutant};

/// The version of the whole layout; another one is refused.
pub const FORMAT_VERSION: u32 = 1;
/// The run of the machine in which the last process served.
const BOOT: &str = "boot";
const BOOT_MAGIC: [u8; 4] = *b"DJbt";

/// The marker of a clean close: what is listed in it is as that close left it.
pub const CLEAN_MARKER: &str = "closed";
const CLEAN_MAGIC: [u8; 4] = *b"DJcl";
/// The marker before there was a list; whoever finds it takes it away and scans.
const OLD_MARKER: &str = "clean";
/// Listed as long as no start was tried since.
pub(crate) const UNTRIED: Name = (TopicId([0xff; 16]), PartitionId(-1));
/// Listed as long as no partition but the metadata log was opened since, one that is new among them.
pub(crate) const UNOPENED: Name = (TopicId([0xff; 16]), PartitionId(-2));
/// Index of the entry that tells the life which closed the directory: the last half of its topic id is the broker epoch.
/// An entry like the others, because a release that does not know it reads the list all the same.
const LIFE: PartitionId = PartitionId(-3);
/// The file that the lock is taken on.
pub const LOCK: &str = "lock";
/// The file that is given up when the disk is full.
pub const RESERVE: &str = "reserve";
/// Whose directory it is.
pub const META: &str = "meta.properties";
/// The directory of the partitions.
pub const PARTITIONS: &str = "partitions";
/// Suffix of what is being removed.
pub const DELETED: &str = ".deleted";
/// Suffix of a segment that the cleaner writes beside those that it will replace.
pub const CLEANED: &str = ".cleaned";
const META_MAX_BYTES: u64 = 64 << 10;

/// What the start must find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// Another cluster's directory is refused; "" takes what is there.
    pub cluster_id: String,
    /// Another node's directory is refused.
    pub node_id: BrokerId,
    /// Written into a new directory when `cluster_id` is "".
    pub new_cluster_id: String,
    /// Written into a new directory: random, so that a wiped disk is told apart.
    pub new_directory_id: [u8; 16],
}

/// Who a data directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirMeta {
    /// The cluster.
    pub cluster_id: String,
    /// The node.
    pub node_id: BrokerId,
    /// Random, made with the directory.
    pub directory_id: [u8; 16],
}

/// A partition's directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionDir {
    /// The topic.
    pub topic_id: TopicId,
    /// The index.
    pub partition: PartitionId,
    /// Relative to the data directory.
    pub path: PathBuf,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Stop the other process or choose another directory.
    #[error("{0} is in use by another process; stop it or choose another --data-dir")]
    InUse(PathBuf),
    /// Use the program version that wrote it.
    #[error(
        "{path} has format version {found}, this program reads version {expected}; use the DejaQ version that wrote it"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// What this program reads.
        expected: u32,
    },
    /// The directory of another cluster or node was given.
    #[error("{path} belongs to {found}, not to {expected}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What the configuration says.
        expected: String,
    },
    /// The file cannot be read; restore it, or start with an empty directory.
    #[error("{path}: {why}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The disk, or who may do what on it.
    #[error("{path}: {error}{cure}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
        /// What else may be done, as the end of the sentence.
        cure: &'static str,
    },
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Names the file that an error is about.
fn at<D: Disk>(disk: &D, path: &str, cure: &'static str) -> impl FnOnce(io::Error) -> LayoutError {
    let path = disk.display(Path::new(path));
    move |error| LayoutError::Unreadable { path, error, cure }
}

/// Of the note of the boot.
const CUT_INSTEAD: &str =
    "; if it stays so, remove this file: what no sync had covered is then cut, as after a power cut";
/// Of the clean marker.
const SCAN_INSTEAD: &str =
    "; if it stays so, remove this file: the start then reads all logs, which is slower and as safe";

impl DirMeta {
    fn encode(&self) -> Bytes {
        let directory_id: String = self.directory_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!(
            "dejaq.format={FORMAT_VERSION}\ncluster.id={}\nnode.id={}\ndirectory.id={directory_id}\n",
            self.cluster_id, self.node_id
        );
        let sum = Binding::none().sum(&[text.as_bytes()]);
        Bytes::from(format!("{text}crc32={sum:08x}\n"))
    }

    /// The version comes before the checksum: a later format may sum differently.
    fn decode(text: &str) -> Result<DirMeta, MetaError> {
        let value = |key: &str| {
            text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).ok_or(MetaError::Corrupt)
        };
        let version: u32 = value("dejaq.format")?.parse().map_err(|_| MetaError::Corrupt)?;
        if version != FORMAT_VERSION {
            return Err(MetaError::Version(version));
        }
        let body = text.find("crc32=").ok_or(MetaError::Corrupt)?;
        let sum = u32::from_str_radix(value("crc32")?, 16).map_err(|_| MetaError::Corrupt)?;
        if Binding::none().sum(&[&text.as_bytes()[..body]]) != sum {
            return Err(MetaError::Corrupt);
        }
        Ok(DirMeta {
            cluster_id: value("cluster.id")?.to_owned(),
            node_id: BrokerId(value("node.id")?.parse().map_err(|_| MetaError::Corrupt)?),
            directory_id: hex16(value("directory.id")?).ok_or(MetaError::Corrupt)?,
        })
    }
}

enum MetaError {
    Corrupt,
    Version(u32),
}

fn hex16(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

/// How the last process left a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastStop {
    /// It closed it, and nobody has opened it since: everything in it was durable then.
    pub clean: bool,
    /// No start was tried since that close, so that nobody can have failed to make a name durable.
    pub untried: bool,
    /// The machine ran on since it was last open, so that what was written is all there, synced or not. True where the
    /// system cannot say ([`Disk::boot_id`]).
    pub same_boot: bool,
}

impl LastStop {
    /// Closed, and not touched since.
    pub const CLEAN: LastStop = LastStop { clean: true, untried: true, same_boot: true };
    /// The process was killed, the machine was not.
    pub const KILLED: LastStop = LastStop { clean: false, untried: false, same_boot: true };
    /// The machine went down under it.
    pub const POWER_CUT: LastStop = LastStop { clean: false, untried: false, same_boot: false };
}

/// A data directory that this process owns until the last clone of its disk is gone.
pub struct DataDir<D: Disk> {
    disk: D,
    meta: DirMeta,
    was_clean: bool,
    closed_in: BrokerEpoch,
    is_untried: bool,
    unopened: Mutex<Unopened<D>>,
}

/// What is not open yet, with the place of each name in its file. The files are kept open, so that striking a name out
/// needs no handle.
struct Unopened<D: Disk> {
    since_stop: BTreeMap<Name, u64>,
    closed: Option<D::File>,
    since_boot: BTreeMap<Name, u64>,
    /// `None`: no file speaks of this run of the machine yet.
    boot: Option<D::File>,
}

impl<D: Disk> DataDir<D> {
    /// Takes the directory: the lock, then `meta.properties` (made if the directory is new), then what the clean marker
    /// and the note of the boot say.
    ///
    /// # Errors
    /// [`LayoutError`]; no log was touched then.
    pub async fn open(disk: D, expect: Expect) -> Result<DataDir<D>, LayoutError> {
        disk.create_dir_all(Path::new(PARTITIONS)).map_err(at(&disk, PARTITIONS, ""))?;
        disk.lock(Path::new(LOCK)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => LayoutError::InUse(disk.display(Path::new(""))),
            _ => at(&disk, LOCK, "")(error),
        })?;
        let meta = match read_meta(&disk).await? {
            Some(meta) => meta,
            None => make_meta(&disk, &expect).await?,
        };
        refuse_foreign(&disk, &meta, &expect)?;
        reserve::make_room_to_start(&disk).await.map_err(at(&disk, RESERVE, ""))?;
        let marker = take_marker(&disk, &meta.directory_id).await;
        let (closed, since_stop) = marker.map_err(at(&disk, CLEAN_MARKER, SCAN_INSTEAD))?.unzip();
        let mut since_stop = since_stop.unwrap_or_default();
        let is_untried = since_stop.remove(&UNTRIED).is_some();
        let closed_in = take_life(&mut since_stop);
        let was_clean = since_stop.contains_key(&UNOPENED);
        let noted = read_boot(&disk).map_err(at(&disk, BOOT, CUT_INSTEAD))?.read().await;
        let (boot, since_boot) = noted.map_err(at(&disk, BOOT, CUT_INSTEAD))?;
        let since_boot = match since_boot {
            Some(names) => names,
            None => {
                let all = list_partitions(&disk).map_err(at(&disk, PARTITIONS, ""))?;
                all.iter().map(|dir| (dir.name(), 0)).collect()
            }
        };
        let unopened = Mutex::new(Unopened { since_stop, closed, since_boot, boot });
        Ok(DataDir { disk, meta, was_clean, closed_in, is_untried, unopened })
    }

    /// Whose it is.
    pub fn meta(&self) -> &DirMeta {
        &self.meta
    }

    /// Writes down which cluster this directory belongs to, once a new node has learned it.
    ///
    /// # Errors
    /// [`LayoutError::Foreign`] if it belongs to another one already; the disk's.
    pub async fn adopt_cluster(&mut self, cluster_id: &str) -> Result<(), LayoutError> {
        assert!(!cluster_id.is_empty() && !cluster_id.contains('\n'), "{cluster_id:?} is no id");
        if self.meta.cluster_id.is_empty() {
            let meta = DirMeta { cluster_id: cluster_id.to_owned(), ..self.meta.clone() };
            small_file::replace(&self.disk, Path::new(META), meta.encode()).await?;
            self.meta = meta;
        }
        let (node_id, new) = (self.meta.node_id, String::new());
        let expect = Expect {
            cluster_id: cluster_id.to_owned(),
            node_id,
            new_cluster_id: new,
            new_directory_id: [0; 16],
        };
        refuse_foreign(&self.disk, &self.meta, &expect)
    }

    /// Whether every partition is as a clean close left it, whatever starts were tried since.
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// In which life of the broker the clean close was that [`DataDir::was_clean`] speaks of. [`BrokerEpoch::NONE`] if there
    /// was none, or if a release made it that did not say so.
    pub fn closed_in(&self) -> BrokerEpoch {
        if self.was_clean { self.closed_in } else { BrokerEpoch::NONE }
    }

    /// How the last process left this log.
    pub fn last_stop(&self, topic_id: TopicId, partition: PartitionId) -> LastStop {
        let (unopened, name) = (self.unopened(), (topic_id, partition));
        LastStop {
            clean: unopened.since_stop.contains_key(&name),
            untried: self.is_untried,
            same_boot: !unopened.since_boot.contains_key(&name),
        }
    }

    /// Says that these logs are open: what recovery accepted is durable, and they are about to be written. The clean stop
    /// speaks of them no more, durably on return; and if this run of the machine is noted, it is noted of them as well.
    ///
    /// # Errors
    /// The disk's: none of them may be written then, take the directory offline.
    pub async fn opened(&self, partitions: &[(TopicId, PartitionId)]) -> io::Result<()> {
        self.strike(partitions, false).await
    }

    /// Says that the broker is about to be let in: from here on its directory is not as the clean stop left it, though it may
    /// have opened no partition. Durably on return.
    ///
    /// # Errors
    /// The disk's: it must not be let in then.
    pub async fn begins(&self) -> io::Result<()> {
        self.strike(&[UNOPENED], false).await
    }

    /// Says that these logs are about to be removed: the clean stop speaks of them no more, durably on return.
    ///
    /// # Errors
    /// As [`DataDir::opened`].
    pub async fn removing(&self, partitions: &[(TopicId, PartitionId)]) -> io::Result<()> {
        self.strike(partitions, true).await
    }

    /// What is only removed was never looked at: of the run of the machine nothing is said then.
    async fn strike(&self, partitions: &[(TopicId, PartitionId)], removed: bool) -> io::Result<()> {
        let is_more = !removed && partitions.iter().any(|name| *name != METADATA_LOG);
        let names: BTreeSet<Name> = partitions.iter().copied().chain(is_more.then_some(UNOPENED)).collect();
        let at = |map: &BTreeMap<Name, u64>| -> Vec<u64> {
            names.iter().filter_map(|name| map.get(name).copied()).collect()
        };
        let closed = {
            let unopened = self.unopened();
            unopened.closed.clone().map(|file| (file, at(&unopened.since_stop)))
        };
        if let Some((file, entries)) = closed.filter(|(_, entries)| !entries.is_empty() && !mutant!(26)) {
            self.strike_out(file, &entries).await?;
        }
        // Without an await from here on, or the note of the boot could be made in between.
        let mut unopened = self.unopened();
        unopened.since_stop.retain(|name, _| !names.contains(name));
        if removed {
            return Ok(());
        }
        if let (Some(file), Some(boot)) = (&unopened.boot, self.disk.boot_id()) {
            match unopened::strike(file, &boot.to_be_bytes(), &at(&unopened.since_boot)) {
                Err(error) if lacks_room(&error) => {
                    mark!("the run of the machine is not noted of a partition");
                }
                other => other?,
            }
        }
        unopened.since_boot.retain(|name, _| !names.contains(name));
        Ok(())
    }

    async fn strike_out(&self, file: D::File, entries: &[u64]) -> io::Result<()> {
        match unopened::strike(&file, &self.meta.directory_id, entries) {
            // A file system that writes nothing in place, and is full: all of them are read with more care.
            Err(error) if lacks_room(&error) => {
                let blanked = unopened::blank(&file, CLEAN_MAGIC, self.meta.directory_id);
                self.unopened().since_stop.clear();
                blanked?;
            }
            other => other?,
        }
        self.disk.sync_many(vec![file]).await
    }

    fn unopened(&self) -> std::sync::MutexGuard<'_, Unopened<D>> {
        self.unopened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers this run of the machine: every log that is open was read back, and what it accepted is durable. Before
    /// that, a process that is killed inside of recovery must find what this one found; those that are not open yet are
    /// listed as such. Not synced: it speaks of the page cache, and goes with it.
    ///
    /// # Errors
    /// The disk's; the next start is then as careful as after a power cut.
    pub fn note_boot(&self) -> io::Result<()> {
        let Some(boot) = self.disk.boot_id() else { return Ok(()) };
        let mut unopened = self.unopened();
        if unopened.boot.is_some() {
            return Ok(());
        }
        let names: Vec<Name> = unopened.since_boot.keys().copied().collect();
        let bytes = unopened::encode(BOOT_MAGIC, boot.to_be_bytes(), &names);
        let listed = unopened::decode(BOOT_MAGIC, &bytes).expect("it was just made");
        let path = Path::new(BOOT);
        if listed.bad > 0 {
            return Err(io::Error::other("too many partitions are not open"));
        }
        let file = small_file::write_aside(&self.disk, path, bytes)?;
        self.disk.rename(&small_file::aside(path), path)?;
        (unopened.since_boot, unopened.boot) = (listed.names, Some(file));
        Ok(())
    }

    /// Where a partition lives.
    #[must_use]
    pub fn partition_path(topic_id: TopicId, partition: PartitionId) -> PathBuf {
        let hex: String = topic_id.0.iter().map(|byte| format!("{byte:02x}")).collect();
        PathBuf::from(format!("{PARTITIONS}/{hex}-{partition}"))
    }

    /// Every partition that has a directory, sorted.
    ///
    /// # Errors
    /// The disk's.
    pub fn partitions(&self) -> io::Result<Vec<PartitionDir>> {
        list_partitions(&self.disk)
    }

    /// Finishes removals that a crash interrupted.
    ///
    /// # Errors
    /// The disk's.
    pub async fn sweep(&self) -> io::Result<()> {
        for entry in self.disk.list(Path::new(PARTITIONS))? {
            if entry.is_dir && entry.name.ends_with(DELETED) {
                self.disk.remove_dir_all(&Path::new(PARTITIONS).join(entry.name)).await?;
            }
        }
        Ok(())
    }

    /// Removes a partition for good. On return it does not come back, whatever crashes; no error if it is not there.
    ///
    /// # Errors
    /// The disk's; the next [`DataDir::sweep`] or call finishes it.
    pub async fn remove_partition(&self, topic_id: TopicId, partition: PartitionId) -> io::Result<()> {
        let path = DataDir::<D>::partition_path(topic_id, partition);
        // Before its name can come again.
        self.removing(&[(topic_id, partition)]).await?;
        if !self.disk.exists(&path) {
            return Ok(());
        }
        let aside = with_suffix(&path, DELETED);
        if self.disk.exists(&aside) {
            self.disk.remove_dir_all(&aside).await?;
        }
        self.disk.rename(&path, &aside)?;
        self.disk.sync_dir(Path::new(PARTITIONS)).await?;
        self.opened(&[(topic_id, partition)]).await?; // what comes under its name is of this run of the machine
        self.disk.remove_dir_all(&aside).await
    }

    /// Says that everything in the directory is durable and complete, as the life with this epoch left it. Only after every
    /// log was closed without an error: `closed`, and that of the metadata.
    ///
    /// # Errors
    /// The disk's; the next start then scans, which is slower and just as safe.
    pub async fn mark_clean(self, life: BrokerEpoch, closed: &[(TopicId, PartitionId)]) -> io::Result<()> {
        // Nothing may be left in the list that the new one replaces: if its name is not durable, that one comes back.
        let left: Vec<Name> = self.unopened().since_stop.keys().copied().collect();
        self.opened(&left).await?;
        let logs: Vec<Name> = closed.iter().copied().chain([METADATA_LOG]).collect();
        let bytes = clean_marker(self.meta.directory_id, life, &logs);
        small_file::replace(&self.disk, Path::new(CLEAN_MARKER), bytes).await
    }
}

/// The bytes of [`CLEAN_MARKER`] right after a clean stop, in this life, that closed `logs`.
#[must_use]
pub fn clean_marker(directory: [u8; 16], life: BrokerEpoch, logs: &[(TopicId, PartitionId)]) -> Bytes {
    let names: Vec<Name> = [UNTRIED, UNOPENED, name_of(life)].iter().chain(logs).copied().collect();
    unopened::encode(CLEAN_MAGIC, directory, &names)
}

fn name_of(life: BrokerEpoch) -> Name {
    let mut topic = UNTRIED.0;
    topic.0[8..].copy_from_slice(&life.0.to_be_bytes());
    (topic, LIFE)
}

/// Takes the entry of the life out of a list; none if it does not say it.
fn take_life(names: &mut BTreeMap<Name, u64>) -> BrokerEpoch {
    let Some(name) = names.keys().copied().find(|(_, index)| *index == LIFE) else {
        return BrokerEpoch::NONE;
    };
    names.remove(&name);
    let (_, epoch) = name.0.0.split_at(8);
    BrokerEpoch(i64::from_be_bytes(epoch.try_into().expect("eight of sixteen bytes")))
}

/// The log that every start opens first of all.
const METADATA_LOG: Name = (TopicId::METADATA, PartitionId(0));

impl PartitionDir {
    fn name(&self) -> Name {
        (self.topic_id, self.partition)
    }
}

fn list_partitions<D: Disk>(disk: &D) -> io::Result<Vec<PartitionDir>> {
    let entries = disk.list(Path::new(PARTITIONS))?;
    let parse = |name: &str| {
        let (hex, index) = name.split_once('-')?;
        let partition = PartitionId(index.parse().ok().filter(|index| *index >= 0)?);
        let topic_id = TopicId(hex16(hex)?);
        Some(PartitionDir { topic_id, partition, path: Path::new(PARTITIONS).join(name) })
    };
    Ok(entries.iter().filter(|entry| entry.is_dir).filter_map(|entry| parse(&entry.name)).collect())
}

fn lacks_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn existing<D: Disk>(disk: &D, path: &str, how: Open) -> io::Result<Option<D::File>> {
    match disk.open(Path::new(path), how) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Reads the clean marker, and strikes out that no start was tried. A list that cannot be believed is emptied, or it
/// might be believed by a later start, when it is no longer true.
async fn take_marker<D: Disk>(
    disk: &D,
    directory: &[u8; 16],
) -> io::Result<Option<(D::File, BTreeMap<Name, u64>)>> {
    if disk.exists(Path::new(OLD_MARKER)) {
        disk.remove(Path::new(OLD_MARKER)).await?;
        disk.sync_dir(Path::new("")).await?;
    }
    let Some(file) = existing(disk, CLEAN_MARKER, Open::Write)? else { return Ok(None) };
    // Who cannot read it does not start: it may be readable, and untrue, another time.
    let read = unopened::read(&file, CLEAN_MAGIC).await?;
    let mut listed = read.filter(|(listed, _)| listed.since == *directory && !mutant!(230));
    let written = match &listed {
        None => unopened::blank(&file, CLEAN_MAGIC, *directory),
        Some((listed, bytes)) => match listed.names.get(&UNTRIED) {
            Some(at) => unopened::strike(&file, directory, &[*at]),
            // As it was read: the process that changed it last may have died of a sync that failed, after which the pages
            // count as written though they are not (fsyncgate).
            None => {
                mark!("a start after one that ended early reads what a clean stop said");
                file.append_at(0, std::slice::from_ref(bytes))
            }
        },
    };
    match written {
        Err(error) if lacks_room(&error) => {
            (listed, _) = (None, file.truncate(0)?);
        }
        other => other?,
    }
    disk.sync_many(vec![file.clone()]).await?;
    Ok(listed.map(|(listed, _)| (file, listed.names)))
}

/// The note of the boot as it is on the disk.
struct Note<F> {
    file: Option<F>,
    boot: Option<u128>,
}

fn read_boot<D: Disk>(disk: &D) -> io::Result<Note<D::File>> {
    Ok(Note { file: existing(disk, BOOT, Open::Write)?, boot: disk.boot_id() })
}

impl<F: DiskFile> Note<F> {
    /// The file if it speaks of this run of the machine, and the partitions that were not opened in it; `None`: none was,
    /// as far as anybody knows. What a power cut left of it is no error, what the disk does not hand out is: taken for
    /// nothing, it would cut records that a killed process left in the page cache.
    async fn read(self) -> io::Result<(Option<F>, Option<BTreeMap<Name, u64>>)> {
        let Some(boot) = self.boot else { return Ok((None, Some(BTreeMap::new()))) };
        let Some(file) = self.file else { return Ok((None, None)) };
        Ok(match unopened::read(&file, BOOT_MAGIC).await? {
            // A name that cannot be read would count as one that was opened.
            Some((noted, _)) if noted.since == boot.to_be_bytes() && noted.bad == 0 => {
                (Some(file), Some(noted.names))
            }
            _ => (None, None),
        })
    }
}

/// The partitions that are as a clean stop left them, for who only looks. Changes nothing.
///
/// # Errors
/// The disk's.
pub async fn closed_cleanly<D: Disk>(disk: &D) -> io::Result<Vec<(TopicId, PartitionId)>> {
    let Some(file) = existing(disk, CLEAN_MARKER, Open::Read)? else { return Ok(Vec::new()) };
    let listed = unopened::read(&file, CLEAN_MAGIC).await?;
    Ok(listed.map_or_else(Vec::new, |(listed, _)| listed.names.into_keys().collect()))
}

/// Whether a file [`CLEAN_MARKER`] with these bytes says that no start was tried since, and the logs that it names. For
/// checks.
#[must_use]
pub fn named_clean(bytes: &[u8]) -> (bool, Vec<(TopicId, PartitionId)>) {
    let Some(mut listed) = unopened::decode(CLEAN_MAGIC, bytes) else { return (false, Vec::new()) };
    let is_untried = listed.names.remove(&UNTRIED).is_some();
    listed.names.remove(&UNOPENED);
    take_life(&mut listed.names);
    (is_untried, listed.names.into_keys().collect())
}

async fn read_meta<D: Disk>(disk: &D) -> Result<Option<DirMeta>, LayoutError> {
    let path = Path::new(META);
    let file = match disk.open(path, Open::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(at(disk, META, ""))?,
    };
    let corrupt = |why: &str| LayoutError::Corrupt { path: disk.display(path), why: why.to_owned() };
    let length = file.len().map_err(at(disk, META, ""))?;
    if length > META_MAX_BYTES {
        return Err(corrupt("it is too long to be ours"));
    }
    let bytes = file.read_at(0, length as usize).await.map_err(at(disk, META, ""))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| corrupt("it is not text"))?;
    match DirMeta::decode(text) {
        Ok(meta) => Ok(Some(meta)),
        Err(MetaError::Corrupt) => {
            Err(corrupt("it is damaged (checksum or fields); restore it from a backup"))
        }
        Err(MetaError::Version(found)) => {
            Err(LayoutError::Version { path: disk.display(path), found, expected: FORMAT_VERSION })
        }
    }
}

async fn make_meta<D: Disk>(disk: &D, expect: &Expect) -> Result<DirMeta, LayoutError> {
    if disk.list(Path::new(PARTITIONS))?.iter().any(|entry| entry.is_dir) {
        let why = "it is missing, but there are partitions; restore it from a backup".to_owned();
        return Err(LayoutError::Corrupt { path: disk.display(Path::new(META)), why });
    }
    let given = if expect.cluster_id.is_empty() { &expect.new_cluster_id } else { &expect.cluster_id };
    let meta =
        DirMeta { cluster_id: given.clone(), node_id: expect.node_id, directory_id: expect.new_directory_id };
    small_file::replace(disk, Path::new(META), meta.encode()).await?;
    Ok(meta)
}

fn refuse_foreign<D: Disk>(disk: &D, meta: &DirMeta, expect: &Expect) -> Result<(), LayoutError> {
    let path = disk.display(Path::new(META));
    if !expect.cluster_id.is_empty() && expect.cluster_id != meta.cluster_id {
        let (found, expected) =
            (format!("cluster {}", meta.cluster_id), format!("cluster {}", expect.cluster_id));
        return Err(LayoutError::Foreign { path, found, expected });
    }
    if expect.node_id != meta.node_id {
        let (found, expected) = (format!("node {}", meta.node_id), format!("node {}", expect.node_id));
        return Err(LayoutError::Foreign { path, found, expected });
    }
    Ok(())
}

/// The path with something at the end of its last name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The files of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileKind {
    Log,
    Sum,
    Index,
    Aborted,
    Producers,
}

impl FileKind {
    pub(crate) const ALL: [FileKind; 5] =
        [FileKind::Log, FileKind::Sum, FileKind::Index, FileKind::Aborted, FileKind::Producers];
    /// Those that go with their segment.
    pub(crate) const OF_SEGMENT: [FileKind; 4] =
        [FileKind::Log, FileKind::Sum, FileKind::Index, FileKind::Aborted];

    fn extension(self) -> &'static str {
        match self {
            FileKind::Log => "log",
            FileKind::Sum => "sum",
            FileKind::Index => "index",
            FileKind::Aborted => "aborted",
            FileKind::Producers => "producers",
        }
    }

    /// `00000000000000000042.log`
    pub(crate) fn name(self, offset: Offset) -> String {
        format!("{:020}.{}", offset.0, self.extension())
    }

    /// The kind and offset that a name stands for.
    pub(crate) fn parse(name: &str) -> Option<(FileKind, Offset)> {
        let (digits, extension) = name.split_once('.')?;
        if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let kind = FileKind::ALL.into_iter().find(|kind| kind.extension() == extension)?;
        let offset: i64 = digits.parse().ok()?;
        (offset <= i64::MAX / 2).then_some((kind, Offset(offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str =
        "dejaq.format=1\ncluster.id=abc\nnode.id=3\ndirectory.id=000102030405060708090a0b0c0d0e0f\n";

    #[test]
    fn names_are_read_as_they_are_written() {
        for kind in FileKind::ALL {
            let name = kind.name(Offset(42));
            assert!(name.starts_with("00000000000000000042."), "{name}");
            assert_eq!(FileKind::parse(&name), Some((kind, Offset(42))));
        }
        for name in [
            "42.log",
            "00000000000000000042.log.deleted",
            "0000000000000000004x.log",
            "99999999999999999999.log",
            "x",
        ] {
            assert_eq!(FileKind::parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_meta_file_is_readable_text_and_no_change_of_it_is_believed() {
        let mut directory_id = [0; 16];
        directory_id.iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
        let meta = DirMeta { cluster_id: "abc".to_owned(), node_id: BrokerId(3), directory_id };
        let text = String::from_utf8(meta.encode().to_vec()).expect("text");
        assert!(text.starts_with(META), "{text}");
        assert!(matches!(DirMeta::decode(&text), Ok(decoded) if decoded == meta));
        assert!(matches!(DirMeta::decode(&text.replace("node.id=3", "node.id=4")), Err(MetaError::Corrupt)));
        assert!(matches!(DirMeta::decode(&text.replace("format=1", "format=2")), Err(MetaError::Version(2))));
    }
}
