//! Opening, creating and closing a log.
//!
//! Owns: the identity file and the order of a clean close. Promises: a directory of another partition or another format
//! is refused; [`Log::create`] is durable on return and may be repeated after a crash inside it; after [`Log::close`]
//! everything is durable and a marker says so, so that the next start scans nothing. Leaves out: recovery itself.
//!
//! ```text
//! file `partition` (see `small_file`): topic id 16 | index 4 | name length 2 | name          big-endian
//! ```

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dejaq_wire::ids::{Offset, PartitionId, TopicId};

use super::flush::{Commit, FlushError, sync_flushes};
use super::{Busy, Log, OffsetRange};
use crate::binding::Binding;
use crate::config::{LogConfig, LogIdentity, OpenOptions};
use crate::disk::Disk;
use crate::mark;
use crate::recovery::{self, Loader};
use crate::segment::Shared;
use crate::small_file::{self, Kind, SmallFileError};

pub(crate) const PARTITION: &str = "partition";
const PARTITION_KIND: Kind = Kind { magic: *b"DJpa", version: 1 };
/// Flushes that a close may need: what is appended, then the marker about it.
const CLOSE_FLUSHES: usize = 3;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such partition here: create it.
    #[error("{0} holds no partition")]
    Missing(PathBuf),
    /// A clean stop closed this log, and its files are gone. An empty one in its place would be a lie.
    #[error(
        "{0} was closed cleanly and its files are gone; stop the broker and restore them, unless another replica has everything: \
         then it leads, and this one is made anew from it"
    )]
    Gone(PathBuf),
    /// The directory belongs to another partition: stop.
    #[error("the directory belongs to {found:?}")]
    Foreign {
        /// Who it belongs to.
        found: LogIdentity,
    },
    /// Written by another version of DejaQ, or not readable at all: stop.
    #[error("{path}: {why}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a log was not closed cleanly: the data directory must not be marked clean.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// Not everything is durable.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// Other work on the log was never ended.
    #[error("work on the log is still under way")]
    Busy,
    /// A small file could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A tail that was cut away because no sync had covered it and it does not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// First offset that is gone.
    pub from: Offset,
    /// Bytes that are gone from that segment.
    pub bytes: u64,
    /// What was wrong with the first of them.
    pub reason: String,
}

/// What opening a log found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoveryReport {
    /// The caller said that the directory was closed cleanly.
    pub clean: bool,
    /// The first offset.
    pub start: Offset,
    /// The next offset.
    pub end: Offset,
    /// Everything below was known to be durable before this start.
    pub durable_end: Offset,
    /// The torn tail, if there was one.
    pub cut: Option<Cut>,
    /// Offsets that were durable and are damaged: refused on read. Someone must look.
    pub damaged: Vec<OffsetRange>,
    /// Bytes of log that were read to find all this out.
    pub scanned_bytes: u64,
    /// Index files that were made again.
    pub rebuilt_indexes: u32,
    /// Batches that were replayed for the producers.
    pub replayed_batches: u64,
    /// Small files whose bytes are not those that were written: they are done without, and each has a note.
    pub damaged_files: Vec<String>,
    /// Anything else worth a line in the log.
    pub notes: Vec<String>,
}

fn encode_identity(identity: &LogIdentity) -> Bytes {
    let mut payload = BytesMut::with_capacity(22 + identity.topic.len());
    payload.put_slice(&identity.topic_id.0);
    payload.put_i32(identity.partition.0);
    payload.put_u16(u16::try_from(identity.topic.len()).expect("topic names have at most 249 letters"));
    payload.put_slice(identity.topic.as_bytes());
    small_file::encode(PARTITION_KIND, &Binding::none(), &payload)
}

fn decode_identity(mut payload: Bytes) -> Option<LogIdentity> {
    if payload.len() < 22 {
        return None;
    }
    let topic_id = TopicId(payload.split_to(16).as_ref().try_into().ok()?);
    let partition = PartitionId(payload.get_i32());
    let length = usize::from(payload.get_u16());
    let topic = String::from_utf8(payload.to_vec()).ok().filter(|topic| topic.len() == length)?;
    Some(LogIdentity { topic, topic_id, partition })
}

impl<D: Disk> Log<D> {
    /// Makes the log's directory durably; opens it if it is there already.
    ///
    /// # Errors
    /// [`OpenError`] other than `Missing`; may be tried again.
    pub async fn create(
        disk: D,
        dir: PathBuf,
        identity: LogIdentity,
        config: LogConfig,
        options: OpenOptions,
    ) -> Result<(Log<D>, RecoveryReport), OpenError> {
        if !disk.exists(&dir.join(PARTITION)) {
            if options.last_stop.clean {
                return Err(OpenError::Gone(disk.display(&dir)));
            }
            make(&disk, &dir, &identity, None).await?;
            return Log::load(disk, dir, identity, config, options, false).await;
        }
        Log::open(disk, dir, identity, config, options).await
    }

    /// Makes the log's directory durably, for a replica that begins at `start` because nothing before is to be had any
    /// more. The directory must not hold a log.
    ///
    /// # Errors
    /// [`OpenError`]; remove the directory and try again.
    pub async fn create_at(
        disk: D,
        dir: PathBuf,
        identity: LogIdentity,
        config: LogConfig,
        options: OpenOptions,
        start: Offset,
    ) -> Result<(Log<D>, RecoveryReport), OpenError> {
        assert!(!disk.exists(&dir.join(PARTITION)), "{} holds a log already", dir.display());
        assert!(start.is_valid(), "a log begins at {start:?}");
        make(&disk, &dir, &identity, Some(start)).await?;
        Log::load(disk, dir, identity, config, options, false).await
    }

    /// Opens the log of `identity` in `dir`, after a clean close or any crash.
    ///
    /// On return everything below `end` is durable. Work is bounded by what no sync had covered.
    ///
    /// # Errors
    /// [`OpenError`]. Nothing was given up then: a later try finds what this one found.
    pub async fn open(
        disk: D,
        dir: PathBuf,
        identity: LogIdentity,
        config: LogConfig,
        options: OpenOptions,
    ) -> Result<(Log<D>, RecoveryReport), OpenError> {
        let renew_names = !(options.last_stop.clean && options.last_stop.untried);
        Log::load(disk, dir, identity, config, options, renew_names).await
    }

    async fn load(
        disk: D,
        dir: PathBuf,
        identity: LogIdentity,
        config: LogConfig,
        options: OpenOptions,
        renew_names: bool,
    ) -> Result<(Log<D>, RecoveryReport), OpenError> {
        config.check();
        let restored = check_identity(&disk, &dir, &identity).await?;
        let binding = Binding::new(identity.topic_id, identity.partition);
        let loader = Loader {
            disk,
            dir,
            binding,
            config: config.clone(),
            now_ms: options.now_ms,
            clean: options.last_stop.clean,
            same_boot: options.last_stop.same_boot,
            renew_names,
        };
        let loaded = recovery::load(&loader).await?;
        let mut report = loaded.report;
        if let Some(note) = restored {
            report.damaged_files.push(PARTITION.to_owned());
            report.notes.push(note);
        }
        let Loader { disk, dir, binding, .. } = loader;
        let shared = Shared::new(disk, dir, binding, loaded.view);
        let log = Log {
            commit: Commit::new(Log::point_of(&shared), loaded.marked),
            shared,
            identity,
            config,
            space: options.space,
            producers: loaded.producers,
            busy: Busy::Nothing,
            sealed: None,
            now_ms: options.now_ms,
            unsnapped_bytes: 0,
            snapped_end: loaded.snapped_end,
            cleaned: loaded.cleaned,
            loaded_around: !report.damaged.is_empty(),
            roll_owed: false,
        };
        if options.verify_all {
            crate::scrub::note_damage(&log.reader(), &mut report).await?;
        }
        Ok((log, report))
    }

    /// The identity that a directory holds, for a start that does not know yet.
    ///
    /// # Errors
    /// [`OpenError::Missing`], [`OpenError::Format`].
    pub async fn identity_of(disk: &D, dir: &Path) -> Result<LogIdentity, OpenError> {
        let path = dir.join(PARTITION);
        let format = |why: String| OpenError::Format { path: disk.display(&path), why };
        match small_file::read(disk, &path, PARTITION_KIND, &Binding::none()).await {
            Ok(payload) => decode_identity(payload).ok_or_else(|| format("it makes no sense".to_owned())),
            Err(SmallFileError::Missing) => Err(OpenError::Missing(disk.display(dir))),
            Err(SmallFileError::Io(error)) => Err(OpenError::Io(error)),
            Err(error) => Err(format(error.to_string())),
        }
    }

    /// Makes everything durable, says so durably, and writes what a fast start wants. Not cancel safe.
    ///
    /// # Errors
    /// [`CloseError`]: the data directory must not be marked clean then.
    pub async fn close(self) -> Result<(), CloseError> {
        let disk = self.shared.disk.clone();
        close_many(&disk, vec![self]).await.pop().expect("one result a log")
    }

    fn begin_close(&mut self) -> Result<(), CloseError> {
        if self.busy != Busy::Nothing || self.commit.is_in_flight() {
            return Err(CloseError::Busy);
        }
        if self.end() > Offset::ZERO {
            self.snapshot_producers();
        }
        Ok(())
    }

    fn check_closed(&self) {
        let (end, flushed, marked) = (self.end(), self.flushed(), self.marked_durable());
        assert!(flushed == end, "closed at {flushed:?} of {end:?}");
        assert!(marked == end, "marked to {marked:?} of {end:?}");
    }
}

/// Closes logs of one disk as [`Log::close`] does, with syncs that they share: each step is one sync for all of them.
/// The results come in the order of `logs`. Not cancel safe.
pub async fn close_many<D: Disk>(disk: &D, mut logs: Vec<Log<D>>) -> Vec<Result<(), CloseError>> {
    let mut results: Vec<Result<(), CloseError>> = logs.iter_mut().map(Log::begin_close).collect();
    for _ in 0..CLOSE_FLUSHES {
        let (mut flushes, mut owners) = (Vec::new(), Vec::new());
        for (at, log) in logs.iter_mut().enumerate() {
            if results[at].is_err() {
                continue;
            }
            match log.begin_idle_flush() {
                Ok(Some(flush)) => {
                    flushes.push(flush);
                    owners.push(at);
                }
                Ok(None) => {}
                Err(error) => results[at] = Err(error.into()),
            }
        }
        if flushes.is_empty() {
            break;
        }
        let synced = sync_flushes(disk, &mut flushes).await;
        for (at, flush) in owners.into_iter().zip(flushes) {
            if let Err(sealed) = logs[at].end_flush(flush, &synced) {
                results[at] = Err(CloseError::Flush(sealed.into()));
            }
        }
    }
    for (log, _) in logs.iter().zip(&results).filter(|(_, result)| result.is_ok()) {
        log.check_closed();
    }
    results
}

/// Makes the directory of a partition with its identity, and its start if it does not begin at 0. Durable on return; may
/// be repeated.
async fn make<D: Disk>(
    disk: &D,
    dir: &Path,
    identity: &LogIdentity,
    start: Option<Offset>,
) -> Result<(), OpenError> {
    if disk.exists(dir) && !has_segments(disk, dir)? {
        mark!("a half-made partition is made anew");
        disk.remove_dir_all(dir).await?; // its name may be one that a failed sync left undurable for ever
    }
    disk.create_dir_all(dir)?;
    // First, so that who finds an identity need not ask whether its directory is durable.
    disk.sync_dir(dir.parent().unwrap_or(Path::new(""))).await?;
    if let Some(start) = start {
        let binding = Binding::new(identity.topic_id, identity.partition);
        let bytes = super::start::encode_start(&binding, start);
        small_file::replace(disk, &dir.join(recovery::START), bytes).await?;
    }
    small_file::replace(disk, &dir.join(PARTITION), encode_identity(identity)).await?;
    Ok(())
}

fn has_segments<D: Disk>(disk: &D, dir: &Path) -> io::Result<bool> {
    Ok(disk.list(dir)?.iter().any(|entry| entry.name.contains(".log")))
}

/// Refuses another partition's directory. An identity file that rotted is written again: the caller knows who it is, and
/// every other file is bound to that identity. Returns what is worth a note.
async fn check_identity<D: Disk>(
    disk: &D,
    dir: &Path,
    identity: &LogIdentity,
) -> Result<Option<String>, OpenError> {
    let path = dir.join(PARTITION);
    let read = small_file::read(disk, &path, PARTITION_KIND, &Binding::none()).await;
    let found = match read {
        Ok(payload) => decode_identity(payload),
        Err(SmallFileError::Corrupt(_)) => None,
        Err(SmallFileError::Missing) => return Err(OpenError::Missing(disk.display(dir))),
        Err(SmallFileError::Io(error)) => return Err(OpenError::Io(error)),
        Err(error @ SmallFileError::Version { .. }) => {
            return Err(OpenError::Format { path: disk.display(&path), why: error.to_string() });
        }
    };
    match found {
        Some(found) if found.topic_id == identity.topic_id && found.partition == identity.partition => {
            Ok(None)
        }
        Some(found) => Err(OpenError::Foreign { found }),
        None => {
            small_file::replace(disk, &path, encode_identity(identity)).await?;
            Ok(Some("the identity file was damaged and is written again".to_owned()))
        }
    }
}
