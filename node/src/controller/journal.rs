//! What the metadata quorum keeps on this node's disk: its log, on an ordinary partition log, its vote and its snapshot.
//!
//! Owns: opening and reading it back, carrying out the quorum's writes.
//! Promises: what cannot be read is never taken for "nothing was there" (MQ-10): damage, a missing log beside
//! partitions or beside a vote, a log that does not reach its snapshot, an unknown record, a lost vote are all reasons
//! not to start. A vote and a snapshot are durable when their write returned, appends after [`Journal::sync`]. An
//! install of a snapshot that a crash interrupted is finished at the next start, and once only. What a start sees need
//! not be durable (the directory may have failed to sync in an earlier life), so after any stop but a clean one the files
//! are written anew before anything is said on their word. Not on a disk without room for them: then a power cut may
//! still take back what an earlier life failed to sync.
//! Leaves out: what records mean (`metadata::replay`), who decides them (`decide`), the order of writes (`raft`).
//! Called by the driver at start, and by `quorum::writer`.
//!
//! ```text
//!  partitions/<metadata topic id>-0:  [voters] [leader change] [register, bump] [topic, configs] […]
//!                                      one entry of the quorum = one batch: in the log whole, or not at all
//!  quorum/vote       epoch and vote              quorum/install    a snapshot is taking the place of the log; empty: none is
//!  quorum/snapshot   the newest snapshot: position, voters, image
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dejaq_storage::disk::is_want;
use dejaq_storage::whole_file::{self, WholeFileError, WholeFileKind};
use dejaq_storage::{
    AppendError, DataDir, Disk, FlushError, LastStop, Log, LogConfig, LogIdentity, OpenError, OpenOptions,
    ReadAsk, ReadError, RecoveryReport, mark, mutant, sync_flushes,
};
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset, PartitionId, TopicId};
use dejaq_wire::peer::raft::{Batch, Content, MAX_SNAPSHOT_BYTES, Position, ReplicaKey, SnapshotId};
use serde::{Deserialize, Serialize};

use super::batch::{self, NotOurs};
use super::quorum::entry::{self, NoEntry};
use super::raft::restore::{Fit, fit};
use super::raft::{BadVoters, HardState, Snapshot, Write};
use crate::metadata::level::{Readable, TooNew};
use crate::metadata::replay::Inapplicable;
use crate::metadata::{Image, snapshot};

/// Name of the topic that stands for the metadata log in messages.
pub const TOPIC: &str = "__cluster_metadata";
/// Bytes of log that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// Why the metadata cannot be used: the node does not start.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The log itself does not open.
    #[error("the metadata log does not open: {0}")]
    Open(#[from] OpenError),
    /// There are partitions, but no metadata that would say what they are.
    #[error(
        "the data directory holds {partitions} partition(s) but no metadata log; nothing is deleted: \
         restore the directory of the metadata log ({TOPIC})"
    )]
    Lost {
        /// How many partition directories there are.
        partitions: usize,
    },
    /// Bytes that were durable do not read any more.
    #[error(
        "the metadata log is damaged from offset {from} to {to}; nothing is deleted: restore it from a backup"
    )]
    Damaged {
        /// First offset that is damaged.
        from: Offset,
        /// First offset after the damage.
        to: Offset,
    },
    /// The first records are missing, and no snapshot has what was in them.
    #[error("the metadata log begins at offset {start}, and what is before is only there up to {snapshot}")]
    Beheaded {
        /// Where it begins.
        start: Offset,
        /// Where the snapshot ends; 0 if there is none.
        snapshot: Offset,
    },
    /// It would lead itself, and its operator would believe that it joined.
    #[error(
        "this data directory is of a cluster in which node {node} votes alone, and quorum names {named} nodes; to \
         make that cluster larger, start the others with --quorum naming node {node} alone and give them votes with \
         `dejaq quorum add`; to join another cluster, give an empty data directory"
    )]
    OtherQuorum {
        /// This node.
        node: BrokerId,
        /// How many are configured.
        named: usize,
    },
    /// It would wait for ever for a leader that it cannot reach.
    #[error(
        "this data directory is of a cluster in which {voters} vote, and peer-listen is empty, so that node {node} could \
         reach none of them; start it with --peer-listen HOST:PORT --quorum {voters}, or give an empty data \
         directory to begin a cluster of its own"
    )]
    NoPeers {
        /// This node.
        node: BrokerId,
        /// The voters, as quorum takes them.
        voters: String,
    },
    /// The voters make no quorum.
    #[error("the voters of the quorum: {0}")]
    Voters(#[from] BadVoters),
    /// Reading fails.
    #[error("reading the metadata log at offset {at}: {why}")]
    Read {
        /// Where.
        at: Offset,
        /// Why.
        why: ReadError,
    },
    /// A batch that is no entry of the quorum.
    #[error("the metadata log at offset {at}: {why}")]
    Entry {
        /// Where.
        at: Offset,
        /// Why.
        why: NoEntry,
    },
    /// The vote or the snapshot cannot be read.
    #[error(
        "{path}: {why}; nothing is deleted: restore it from a backup, or give this node an empty data directory \
             and a new node-id"
    )]
    Damage {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The log says that there was a quorum, but nothing says how this node voted in it.
    #[error(
        "{path} is missing beside a metadata log that a quorum wrote; nothing is deleted: restore it from a \
             backup, or give this node an empty data directory and a new node-id"
    )]
    VoteLost {
        /// The file.
        path: PathBuf,
    },
    /// A batch that no controller of ours wrote.
    #[error("the metadata log at offset {at}: {why}")]
    Record {
        /// Where.
        at: Offset,
        /// Why.
        why: NotOurs,
    },
    /// A record that does not fit what is before it.
    #[error("the metadata log before offset {before}: {why}")]
    Replay {
        /// End of the batch that holds it.
        before: Offset,
        /// Why.
        why: Inapplicable,
    },
    /// This node is of an older release than what it reads.
    #[error("the metadata is of a newer release: {0}")]
    TooNew(#[from] TooNew),
    /// The disk.
    #[error("the data directory does not list: {0}")]
    Io(#[from] io::Error),
    /// The first append of this life failed.
    #[error("the metadata log does not take a write: {0}")]
    Write(#[from] WriteError),
}

/// Why an append failed; each variant names the caller's next move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The log is as before: refuse the requests of this turn, go on with the next.
    #[error("the disk is full")]
    Full,
    /// What is durable is not known: stop the controller. It is known again after a restart.
    #[error("the metadata log is sealed: {0}")]
    Sealed(&'static str),
}

const QUORUM: &str = "quorum";
const VOTE: &str = "quorum/vote";
const SNAPSHOT: &str = "quorum/snapshot";
const INSTALL: &str = "quorum/install";
const VOTE_KIND: WholeFileKind = WholeFileKind { magic: *b"DJqv", version: 1, max_bytes: 4096 };
const INSTALL_KIND: WholeFileKind = WholeFileKind { magic: *b"DJqi", version: 1, max_bytes: 4096 };
/// The image, and before it the id of the snapshot.
const SNAPSHOT_KIND: WholeFileKind =
    WholeFileKind { magic: *b"DJqs", version: 1, max_bytes: MAX_SNAPSHOT_BYTES + (1 << 20) };

/// The vote as it lies on disk, with the directory that it was given in: a copied file is no vote of another's.
#[derive(Serialize, Deserialize)]
struct Vote {
    directory: [u8; 16],
    epoch: LeaderEpoch,
    voted: Option<ReplicaKey>,
}

/// What was found on the disk, made fit.
#[derive(Debug)]
pub struct Found {
    /// The vote, if there ever was one.
    pub hard: Option<HardState>,
    /// The newest snapshot.
    pub snapshot: Option<Arc<Snapshot>>,
    /// What the snapshot holds; empty if there is none.
    pub image: Image,
    /// The log behind it.
    pub batches: Vec<Batch>,
}

impl Found {
    /// Whether a node reads all of it that supports nothing above `level`: what is behind the snapshot, committed or not, too.
    ///
    /// # Errors
    /// [`JournalError`]: do not start.
    pub fn check_level(&self, level: i16) -> Result<(), JournalError> {
        let readable = Readable { up_to: level };
        readable.image(&self.image)?;
        for found in &self.batches {
            let Content::Records(bytes) = &found.content else { continue };
            let records = batch::decode(bytes.clone());
            readable.records(&records.map_err(|why| JournalError::Record { at: found.base, why })?)?;
        }
        Ok(())
    }
}

/// The metadata of this node on its disk.
pub struct Journal<D: Disk> {
    log: Log<D>,
    disk: D,
    directory: [u8; 16],
}

impl<D: Disk> std::fmt::Debug for Journal<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("end", &self.log.end()).finish_non_exhaustive()
    }
}

impl<D: Disk> Journal<D> {
    /// Opens what is there, or makes it in an empty data directory, and reads it back.
    ///
    /// # Errors
    /// [`JournalError`]: the node does not start, and deletes nothing.
    pub async fn open(disk: D, data: &DataDir<D>, now_ms: i64) -> Result<(Journal<D>, Found), JournalError> {
        let directory = data.meta().directory_id;
        if !disk.exists(Path::new(QUORUM)) {
            disk.create_dir_all(Path::new(QUORUM))?;
            disk.sync_dir(Path::new("")).await?;
        }
        let vote = read_vote(&disk, directory).await?;
        let snapshot = read_snapshot(&disk).await?;
        let last_stop = data.last_stop(TopicId::METADATA, PartitionId(0));
        let seen = snapshot.as_ref().map(|(snapshot, _)| &**snapshot);
        if !last_stop.clean {
            renew(&disk, directory, vote, seen).await?;
        }
        finish_install(&disk, seen, now_ms).await?;
        let dirs = data.partitions()?;
        let others = dirs.iter().filter(|dir| dir.topic_id != TopicId::METADATA).count();
        let options = options(last_stop, now_ms);
        let (log, report) = if others < dirs.len() {
            Log::open(disk.clone(), log_path::<D>(), identity(), config(), options).await?
        } else if (others > 0 || vote.is_some() || snapshot.is_some()) && !mutant!(40) {
            return Err(JournalError::Lost { partitions: others });
        } else {
            Log::create(disk.clone(), log_path::<D>(), identity(), config(), options).await?
        };
        check_report(&report, others, snapshot.is_some())?;
        data.opened(&[(TopicId::METADATA, PartitionId(0))]).await?;
        let mut journal = Journal { log, disk, directory };
        let found = journal.read_all(vote, snapshot, now_ms).await?;
        Ok((journal, found))
    }

    async fn read_all(
        &mut self,
        vote: Option<HardState>,
        snapshot: Option<(Arc<Snapshot>, Image)>,
        now_ms: i64,
    ) -> Result<Found, JournalError> {
        let start = self.log.start();
        let position = snapshot.as_ref().map_or(Position::EMPTY, |(snapshot, _)| snapshot.id.position);
        let (snapshot, image) =
            snapshot.map_or((None, Image::default()), |(snapshot, image)| (Some(snapshot), image));
        let batches = match read_entries(&self.log).await {
            Err(_) if mutant!(40) => Vec::new(),
            other => other?,
        };
        let known = |batch: &Batch| !matches!(batch.content, Content::Records(_));
        // Only a quorum writes snapshots; the log behind one may hold nothing else that tells.
        if vote.is_none() && (snapshot.is_some() || batches.iter().any(known)) {
            return Err(JournalError::VoteLost { path: self.disk.display(Path::new(VOTE)) });
        }
        let fitted = fit(position, start, batches)
            .map_err(|gap| JournalError::Beheaded { start: gap.log, snapshot: gap.snapshot })?;
        let batches = match fitted {
            Fit::Follows(batches) => batches,
            Fit::Reset => {
                mark!("the install of a snapshot is finished after a crash");
                self.reset_log(position, now_ms).await?;
                Vec::new()
            }
        };
        try_out(&image, &batches)?;
        // A log from before there was a quorum: its epochs count, nobody voted in them.
        let begun = self.log.latest_epoch().map(|epoch| HardState { epoch, voted: None });
        Ok(Found { hard: vote.or(begun), snapshot, image, batches })
    }

    /// Carries out one write. Appends are durable only after [`Journal::sync`], everything else on return.
    ///
    /// # Errors
    /// [`WriteError::Full`]: nothing was done; try the same again when there is room. [`WriteError::Sealed`]: never
    /// again in this process.
    pub async fn carry_out(&mut self, write: &Write, now_ms: i64) -> Result<(), WriteError> {
        match write {
            Write::HardState(hard) => self.write_vote(*hard).await,
            Write::Append(batches) => batches.iter().try_for_each(|batch| self.append(batch, now_ms)),
            Write::Truncate(to) => self.truncate(*to).await,
            Write::Install(snapshot) => {
                self.write_snapshot(snapshot).await?;
                let reset = self.reset_log(snapshot.id.position, now_ms).await;
                reset.map_err(|why| match why {
                    JournalError::Io(why) => failed(&why, "the log was not begun behind a snapshot"),
                    _ => WriteError::Sealed("the log was not begun behind a snapshot"),
                })
            }
            Write::Trim(before) => {
                if let Err(why) = self.log.advance_start(*before).await {
                    tracing::warn!(%why, "what a snapshot covers stays in the metadata log");
                }
                Ok(())
            }
            // Opening the log has synced what it accepted.
            Write::Resync => Ok(()),
        }
    }

    /// Writes a snapshot durably, in the place of the one before.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), WriteError> {
        let written = put_snapshot(&self.disk, snapshot).await;
        written.map_err(|why| failed(&why, "a snapshot was not written"))
    }

    /// Makes everything that was appended durable.
    ///
    /// # Errors
    /// [`WriteError::Full`]: not yet, try again when there is room. [`WriteError::Sealed`]: never in this process.
    pub async fn sync(&mut self) -> Result<(), WriteError> {
        match self.log.flush().await {
            Ok(flushed) => {
                assert_eq!(flushed, self.log.end(), "a flush takes all that was appended before it");
                Ok(())
            }
            Err(FlushError::Full) => Err(WriteError::Full),
            Err(FlushError::Sealed(_)) => Err(WriteError::Sealed("a sync failed")),
        }
    }

    /// Writes down how far the log is durable, once it has been idle for a while: damage of what lies below can
    /// then be told from a torn tail.
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub async fn sync_idle(&mut self) -> Result<(), WriteError> {
        let begun = match self.log.begin_idle_flush() {
            Ok(begun) => begun,
            Err(FlushError::Full) => return Err(WriteError::Full),
            Err(FlushError::Sealed(_)) => return Err(WriteError::Sealed("a sync failed before")),
        };
        let Some(flush) = begun else { return Ok(()) };
        let mut flushes = [flush];
        let result = sync_flushes(&self.disk, &mut flushes).await;
        let [flush] = flushes;
        match self.log.end_flush(flush, &result) {
            Ok(_) => Ok(()),
            Err(_) => Err(WriteError::Sealed("a sync failed")),
        }
    }

    /// Closes the log cleanly.
    ///
    /// # Errors
    /// Then the data directory must not be marked clean.
    pub async fn close(self) -> Result<(), dejaq_storage::CloseError> {
        self.log.close().await
    }

    async fn write_vote(&mut self, hard: HardState) -> Result<(), WriteError> {
        let written = put_vote(&self.disk, self.directory, hard).await;
        written.map_err(|why| failed(&why, "the vote was not written"))
    }

    fn append(&mut self, entry: &Batch, now_ms: i64) -> Result<(), WriteError> {
        if entry.base < self.log.end() {
            mark!("an entry of the metadata is in the log already when it is tried again");
            return Ok(()); // the disk was full behind it
        }
        let batch = entry::encode(entry);
        match self.log.append_leader(&[batch], entry.epoch, now_ms).as_slice() {
            [Ok(appended)] => {
                assert_eq!((appended.base, appended.last.next()), (entry.base, entry.end), "another place");
                assert!(!appended.duplicate, "metadata has no producer that could repeat itself");
                Ok(())
            }
            [Err(AppendError::DiskFull)] => {
                mark!("metadata waits because the disk is full");
                Err(WriteError::Full)
            }
            [Err(AppendError::Sealed | AppendError::Io(_))] => Err(WriteError::Sealed("a write failed")),
            other => panic!("one entry at the end of the metadata log cannot end with {other:?}"),
        }
    }

    async fn truncate(&mut self, to: Offset) -> Result<(), WriteError> {
        match self.log.truncate_to(to).await {
            Ok(end) => {
                assert_eq!(end, to, "the quorum cuts between entries");
                Ok(())
            }
            Err(dejaq_storage::TruncateError::Full) => Err(WriteError::Full),
            Err(_) => Err(WriteError::Sealed("the log was not cut")),
        }
    }

    /// Lets the log begin, empty, at the end of a snapshot that is durable.
    async fn reset_log(&mut self, position: Position, now_ms: i64) -> Result<(), JournalError> {
        put_install(&self.disk, Some(position)).await?;
        self.log = begin_anew(&self.disk, position, now_ms).await?;
        Ok(())
    }
}

fn failed(why: &io::Error, what: &'static str) -> WriteError {
    if is_want(why) {
        return WriteError::Full;
    }
    tracing::error!(%why, what, "the disk fails under the metadata");
    WriteError::Sealed(what)
}

/// The intent is durable, and so is the snapshot: the old log goes, the new one comes, then the intent is over.
async fn begin_anew<D: Disk>(disk: &D, position: Position, now_ms: i64) -> Result<Log<D>, JournalError> {
    let path = log_path::<D>();
    if disk.exists(&path) {
        disk.remove_dir_all(&path).await?;
        disk.sync_dir(path.parent().unwrap_or(Path::new(""))).await?;
    }
    if mutant!(315) {
        put_install(disk, None).await?;
    }
    let options = options(LastStop::KILLED, now_ms);
    let made = Log::create_at(disk.clone(), path, identity(), config(), options, position.end).await?;
    let (log, _) = made;
    assert_eq!((log.start(), log.end()), (position.end, position.end), "a log that begins behind a snapshot");
    put_install(disk, None).await?;
    Ok(log)
}

async fn put_vote<D: Disk>(disk: &D, directory: [u8; 16], hard: HardState) -> io::Result<()> {
    let vote = Vote { directory, epoch: hard.epoch, voted: hard.voted };
    let bytes = postcard::to_allocvec(&vote).expect("a vector takes everything").into();
    whole_file::replace(disk, Path::new(VOTE), VOTE_KIND, &[bytes]).await
}

async fn put_snapshot<D: Disk>(disk: &D, snapshot: &Snapshot) -> io::Result<()> {
    let id = postcard::to_allocvec(&snapshot.id).expect("a vector takes everything");
    let length = u32::try_from(id.len()).expect("voters are few").to_be_bytes();
    let parts = [Bytes::copy_from_slice(&length), Bytes::from(id), snapshot.bytes.clone()];
    whole_file::replace(disk, Path::new(SNAPSHOT), SNAPSHOT_KIND, &parts).await
}

/// Says which install is under way. That none is, is written and not removed: a name that was removed may come back when
/// its directory failed to sync, and the log would be thrown away a second time, with what was acknowledged since.
async fn put_install<D: Disk>(disk: &D, position: Option<Position>) -> io::Result<()> {
    let bytes = position.map(|position| postcard::to_allocvec(&position).expect("a vector takes everything"));
    let bytes = Bytes::from(bytes.unwrap_or_default());
    whole_file::replace(disk, Path::new(INSTALL), INSTALL_KIND, &[bytes]).await
}

/// Makes durable what this start sees: were it not, the power could take back a vote that others count on.
async fn renew<D: Disk>(
    disk: &D,
    directory: [u8; 16],
    vote: Option<HardState>,
    snapshot: Option<&Snapshot>,
) -> Result<(), JournalError> {
    if let Some(hard) = vote {
        unless_full(VOTE, put_vote(disk, directory, hard).await)?;
    }
    let Some(snapshot) = snapshot else { return Ok(()) };
    let under_way = read_install(disk).await?;
    unless_full(INSTALL, put_install(disk, under_way).await)?;
    // The large one last: it must not take the room of the small ones.
    Ok(unless_full(SNAPSHOT, put_snapshot(disk, snapshot).await)?)
}

/// A disk without room keeps no node down: only one that runs can be told to delete something. The file is there as it
/// was, and durable unless the sync of its directory failed before.
fn unless_full(what: &str, written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(full) if is_want(&full) => {
            mark!("a file of the quorum is not written anew, for want of room");
            tracing::warn!(what, "the disk is full: the file is not written anew at this start");
            Ok(())
        }
        other => other,
    }
}

async fn finish_install<D: Disk>(
    disk: &D,
    snapshot: Option<&Snapshot>,
    now_ms: i64,
) -> Result<(), JournalError> {
    let Some(position) = read_install(disk).await? else { return Ok(()) };
    if snapshot.is_none_or(|snapshot| snapshot.id.position != position) {
        let why = format!("it names a snapshot at {position:?}, which is not there");
        return Err(damage(disk, Path::new(INSTALL), why));
    }
    mark!("a log is begun behind its snapshot after a crash");
    drop(begin_anew(disk, position, now_ms).await?);
    Ok(())
}

async fn read_install<D: Disk>(disk: &D) -> Result<Option<Position>, JournalError> {
    let path = Path::new(INSTALL);
    let intent = match whole_file::read(disk, path, INSTALL_KIND).await {
        Err(WholeFileError::Missing) => return Ok(None),
        other => other.map_err(|why| damage(disk, path, why.to_string()))?,
    };
    if intent.is_empty() {
        return Ok(None);
    }
    postcard::from_bytes(&intent).map(Some).map_err(|why| damage(disk, path, why.to_string()))
}

async fn read_vote<D: Disk>(disk: &D, directory: [u8; 16]) -> Result<Option<HardState>, JournalError> {
    let path = Path::new(VOTE);
    let bytes = match whole_file::read(disk, path, VOTE_KIND).await {
        Err(WholeFileError::Missing) => return Ok(None),
        Err(_) if mutant!(40) => return Ok(None),
        other => other.map_err(|why| damage(disk, path, why.to_string()))?,
    };
    let vote: Vote = postcard::from_bytes(&bytes).map_err(|why| damage(disk, path, why.to_string()))?;
    if vote.directory != directory {
        return Err(damage(disk, path, "it is of another data directory".to_owned()));
    }
    Ok(Some(HardState { epoch: vote.epoch, voted: vote.voted }))
}

async fn read_snapshot<D: Disk>(disk: &D) -> Result<Option<(Arc<Snapshot>, Image)>, JournalError> {
    let path = Path::new(SNAPSHOT);
    let mut bytes = match whole_file::read(disk, path, SNAPSHOT_KIND).await {
        Err(WholeFileError::Missing) => return Ok(None),
        Err(_) if mutant!(40) => return Ok(None),
        other => other.map_err(|why| damage(disk, path, why.to_string()))?,
    };
    let bad = |why: String| damage(disk, path, why);
    let length = bytes.first_chunk().map(|length| u32::from_be_bytes(*length) as usize);
    let length = length.filter(|length| *length <= bytes.len() - 4);
    let length = length.ok_or_else(|| bad("it is cut".to_owned()))?;
    let _ = bytes.split_to(4);
    let id: SnapshotId = postcard::from_bytes(&bytes.split_to(length)).map_err(|why| bad(why.to_string()))?;
    let image = snapshot::decode(&bytes).map_err(|why| bad(why.to_string()))?;
    if id.bytes != bytes.len() as u64 || image.end() != id.position.end {
        return Err(bad("it is not what its name says".to_owned()));
    }
    Ok(Some((Arc::new(Snapshot { id, bytes }), image)))
}

/// What a start would refuse of the files of the quorum, for who only looks. Damage of the log itself is left to those who
/// read it as every other one. Nothing is written that matters: `disk` is one that is thrown away.
pub async fn look<D: Disk>(
    disk: &D,
    data: &DataDir<D>,
    now_ms: i64,
) -> Result<Vec<JournalError>, JournalError> {
    let mut wrong = Vec::new();
    let mut told = |result: Result<bool, JournalError>| result.map_err(|why| wrong.push(why)).ok();
    let vote = told(read_vote(disk, data.meta().directory_id).await.map(|vote| vote.is_some()));
    let snapshot = told(read_snapshot(disk).await.map(|snapshot| snapshot.is_some()));
    let install = told(read_install(disk).await.map(|install| install.is_some()));
    let dirs = data.partitions()?;
    let partitions = dirs.iter().filter(|dir| dir.topic_id != TopicId::METADATA).count();
    let has_log = partitions < dirs.len();
    // Without a log while a snapshot takes its place.
    if !has_log && install == Some(false) && (partitions > 0 || vote == Some(true) || snapshot == Some(true))
    {
        wrong.push(JournalError::Lost { partitions });
    }
    if vote == Some(false) && (snapshot == Some(true) || has_log && is_of_a_quorum(disk, now_ms).await) {
        wrong.push(JournalError::VoteLost { path: disk.display(Path::new(VOTE)) });
    }
    Ok(wrong)
}

/// Whether the log holds what only a quorum writes.
async fn is_of_a_quorum<D: Disk>(disk: &D, now_ms: i64) -> bool {
    let options = options(LastStop::KILLED, now_ms);
    let Ok((log, _)) = Log::open(disk.clone(), log_path::<D>(), identity(), config(), options).await else {
        return false;
    };
    let entries = read_entries(&log).await.unwrap_or_default();
    entries.iter().any(|batch| !matches!(batch.content, Content::Records(_)))
}

fn damage<D: Disk>(disk: &D, path: &Path, why: String) -> JournalError {
    JournalError::Damage { path: disk.display(path), why }
}

fn log_path<D: Disk>() -> PathBuf {
    DataDir::<D>::partition_path(TopicId::METADATA, PartitionId(0))
}

fn identity() -> LogIdentity {
    LogIdentity { topic: TOPIC.into(), topic_id: TopicId::METADATA, partition: PartitionId(0) }
}

fn options(last_stop: LastStop, now_ms: i64) -> OpenOptions {
    OpenOptions { last_stop, now_ms, space: Default::default(), verify_all: true }
}

/// What snapshots cover is cut off the front of the log; nothing else ends it.
fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 64 << 20,
        segment_ms: i64::MAX,
        retention_ms: None,
        retention_bytes: None,
        ..LogConfig::default()
    }
}

fn check_report(report: &RecoveryReport, partitions: usize, snapshot: bool) -> Result<(), JournalError> {
    if mutant!(40) {
        return Ok(());
    }
    if let Some(range) = report.damaged.first() {
        return Err(JournalError::Damaged { from: range.from, to: range.to });
    }
    // A partition is made only after the metadata that names it was durable.
    if report.end == Offset::ZERO && partitions > 0 && !snapshot {
        return Err(JournalError::Lost { partitions });
    }
    if report.cut.is_some() {
        mark!("metadata was cut behind its durable point");
    }
    Ok(())
}

async fn read_entries<D: Disk>(log: &Log<D>) -> Result<Vec<Batch>, JournalError> {
    let (reader, end) = (log.reader(), log.end());
    let mut at = log.start();
    let mut entries: Vec<Batch> = Vec::new();
    while at < end {
        let ask = ReadAsk { offset: at, max_bytes: READ_BYTES, at_least_one: true, end_bound: end };
        let read = match reader.read(ask).await {
            Ok(read) => read,
            Err(ReadError::Damaged { from, to }) => return Err(JournalError::Damaged { from, to }),
            Err(why) => return Err(JournalError::Read { at, why }),
        };
        assert!(read.next > at, "the log ends at {end:?} but gives nothing at {at:?}");
        entries.extend(entry::decode(read.batches).map_err(|why| JournalError::Entry { at, why })?);
        at = read.next;
    }
    Ok(entries)
}

/// Whether every record in the log reads and applies: said at the start, where a person looks.
fn try_out(image: &Image, batches: &[Batch]) -> Result<(), JournalError> {
    let mut image = image.clone();
    for batch in batches {
        let Content::Records(bytes) = &batch.content else { continue };
        let records = match batch::decode(bytes.clone()) {
            Ok(records) => records,
            Err(_) if mutant!(40) => return Ok(()),
            Err(why) => return Err(JournalError::Record { at: batch.base, why }),
        };
        for record in &records {
            image.apply(record).map_err(|why| JournalError::Replay { before: batch.end, why })?;
        }
    }
    Ok(())
}
