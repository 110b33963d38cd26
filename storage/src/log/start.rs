//! The start of the log moves on: DeleteRecords and retention, persisted before anything is removed (LOG-14).
//!
//! Owns: what retention wants ([`Log::retention_plan`], pure on sizes and timestamps), and the three steps of a move.
//! Promises: the start never moves back (RET-1); readers see the new start only when it is durable; files go only after
//! that, and a crash in between leaves segments that the next start removes. Time-based removal asks for
//! `newest record < now - retention`, so a clock step shows as soon as it is undone (RET-2; the caller guards `now_ms`).
//! Leaves out: compaction.
//!
//! ```text
//! begin ─► write `start`, sync ─► end: publish, detach, rename *.deleted ─► sync directory ─► unlink
//! ```

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dejaq_wire::ids::Offset;

use super::append::AppendError;
use super::{Busy, Log, SealReason, Sealed};
use crate::binding::Binding;
use crate::config::SpaceGuard;
use crate::disk::{Disk, failed_sync, is_failed_sync};
use crate::layout::{DELETED, FileKind, with_suffix};
use crate::segment::{Segment, View};
use crate::small_file::{self, Kind};
use crate::{mark, mutant};

/// The file that keeps the start: 8 bytes, big-endian.
pub(crate) const START_KIND: Kind = Kind { magic: *b"DJst", version: 1 };

/// Why the start cannot move.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Answer OFFSET_OUT_OF_RANGE.
    #[error("start {to} is beyond the end {end}")]
    BeyondEnd {
        /// Asked for.
        to: Offset,
        /// The log's end.
        end: Offset,
    },
    /// Another move or a truncation is under way: try again after it.
    #[error("the log is busy")]
    Busy,
    /// The disk refused; the start is where it was.
    #[error("the start could not be persisted: {0}")]
    Io(#[from] io::Error),
}

/// Persists a new start. Run it, then give the result to [`Log::end_advance_start`] or call [`Log::abandon_start`].
#[must_use = "a move that is not ended blocks the next one"]
pub struct StartWrite<D: Disk> {
    disk: D,
    path: PathBuf,
    bytes: Bytes,
    to: Offset,
    space: SpaceGuard,
}

/// The new start is durable.
#[must_use = "give it to end_advance_start"]
#[derive(Debug)]
pub struct StartWritten {
    to: Offset,
}

/// Files that are out of use and may go, any time later; a crash before leaves them to the next start.
#[must_use = "run it to give the space back"]
pub struct Removal<D: Disk> {
    disk: D,
    dir: PathBuf,
    /// Renamed already.
    files: Vec<PathBuf>,
    /// Snapshots below are of no use, except the newest of all.
    first_base: Offset,
}

pub(crate) fn encode_start(binding: &Binding, start: Offset) -> Bytes {
    small_file::encode(START_KIND, binding, &start.0.to_be_bytes())
}

/// See [`Log::reserve`].
pub struct Reserve<D: Disk> {
    disk: D,
    space: SpaceGuard,
}

impl<D: Disk> Reserve<D> {
    /// Gives it up; returns whether there is more room now.
    pub async fn give_up(self) -> bool {
        self.space.give_up_reserve(&self.disk).await
    }
}

impl<D: Disk> StartWrite<D> {
    /// Makes the start durable. On a full disk the reserve is given up for it.
    ///
    /// # Errors
    /// The disk's; call [`Log::abandon_start`] then.
    pub async fn run(self) -> io::Result<StartWritten> {
        let written = small_file::write_aside(&self.disk, &self.path, self.bytes.clone());
        let file = match written {
            // Nothing was synced yet, so that trying again proves as much as the first try.
            Err(error)
                if error.kind() == io::ErrorKind::StorageFull
                    && self.space.give_up_reserve(&self.disk).await =>
            {
                small_file::write_aside(&self.disk, &self.path, self.bytes)?
            }
            other => other?,
        };
        self.disk.sync_many(vec![file]).await.map_err(failed_sync)?;
        self.disk.rename(&small_file::aside(&self.path), &self.path)?;
        self.disk.sync_dir(self.path.parent().unwrap_or(Path::new(""))).await.map_err(failed_sync)?;
        Ok(StartWritten { to: self.to })
    }
}

impl<D: Disk> Removal<D> {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Makes the removal durable and gives the space back.
    ///
    /// # Errors
    /// The disk's; the next start finishes it. Tell [`Log::end_removal`] of it.
    pub async fn run(self) -> io::Result<()> {
        if self.files.is_empty() {
            return Ok(());
        }
        self.disk.sync_dir(&self.dir).await.map_err(failed_sync)?;
        for file in self.files {
            self.disk.remove(&file).await?;
        }
        let entries = self.disk.list(&self.dir)?;
        let snapshots: Vec<Offset> = entries
            .iter()
            .filter_map(|entry| FileKind::parse(&entry.name))
            .filter_map(|(kind, offset)| (kind == FileKind::Producers).then_some(offset))
            .collect();
        for offset in snapshots.iter().take(snapshots.len().saturating_sub(1)) {
            if *offset < self.first_base {
                self.disk.remove(&self.dir.join(FileKind::Producers.name(*offset))).await?;
            }
        }
        Ok(())
    }
}

/// What retention looks at. Records without a timestamp are as old as the end of their segment: when the one behind it
/// (`next_ms`) was made, or the last append.
fn keeps<D: Disk>(log: &Log<D>, segment: &Segment<D>, next_ms: Option<i64>, total: u64, now_ms: i64) -> bool {
    let config = log.config();
    let closed_ms = next_ms.unwrap_or(log.now_ms);
    let newest = Some(segment.max_timestamp).filter(|at| *at >= 0).or(Some(closed_ms).filter(|at| *at > 0));
    let oldest_kept = config.retention_ms.map(|keep_ms| now_ms.saturating_sub(keep_ms));
    let expired = newest.zip(oldest_kept).is_some_and(|(newest, oldest_kept)| newest < oldest_kept);
    let spare = config.retention_bytes.is_some_and(|keep| total - u64::from(segment.bytes) >= keep);
    !expired && !spare
}

impl<D: Disk> Log<D> {
    /// The start that retention wants now, at most `limit` (the watermark); `None` if it is content. Follow with
    /// [`Log::roll_below`] and [`Log::begin_advance_start`].
    #[must_use]
    pub fn retention_plan(&self, now_ms: i64, limit: Offset) -> Option<Offset> {
        let view = self.shared.lock();
        let mut total = view.size_bytes();
        let holds = total > 0;
        let ends = view.segments.iter().skip(1).map(|next| Some(next.created_ms)).chain([None]);
        let going = view.segments.iter().zip(ends).take_while(|(segment, next_ms)| {
            let goes =
                segment.bytes > 0 && segment.end <= limit && !keeps(self, segment, *next_ms, total, now_ms);
            total -= if goes { u64::from(segment.bytes) } else { 0 };
            goes
        });
        let target = going.last().map(|(segment, _)| segment.end).filter(|target| *target > view.start);
        // All was deleted before, and for want of room the active segment stayed.
        let is_left = view.start == view.end && holds && view.end <= limit;
        target.or(is_left.then_some(view.start))
    }

    /// Rolls the active segment if nothing of it stays when the start moves to `to`, so that it goes with the others.
    ///
    /// # Errors
    /// [`AppendError`]. `DiskFull`: there is no room for another segment; it stays until [`Reserve::give_up`] or somebody else
    /// has made some, and [`Log::retention_plan`] asks for it again.
    pub fn roll_below(&mut self, to: Offset, now_ms: i64) -> Result<(), AppendError> {
        let goes = {
            let mut view = self.shared.lock();
            to == view.end && to >= view.start && view.active().bytes > 0
        };
        if !goes || self.busy != Busy::Nothing {
            return Ok(());
        }
        mark!("nothing of the active segment stays");
        self.may_append()?;
        self.roll(self.now_ms.max(now_ms))
    }

    /// The room that may be given up for a move of the start.
    #[must_use]
    pub fn reserve(&self) -> Reserve<D> {
        Reserve { disk: self.shared.disk.clone(), space: self.space.clone() }
    }

    /// Begins a move of the start to `to`. `None`: it is there already. Between begin and end the log appends and flushes
    /// as usual.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn begin_advance_start(&mut self, to: Offset) -> Result<Option<StartWrite<D>>, StartError> {
        if self.busy != Busy::Nothing {
            return Err(StartError::Busy);
        }
        let (start, end, is_left) = {
            let view = self.shared.lock();
            (view.start, view.end, view.segments.get(1).is_some_and(|next| next.base <= view.start))
        };
        if to > end {
            return Err(StartError::BeyondEnd { to, end });
        }
        // A segment may be left below the start: there was no room to roll it when the start moved.
        if to < start || (to == start && !is_left) {
            return Ok(None);
        }
        if mutant!(28) {
            let mut view = self.shared.lock();
            let _ = self.detach(&mut view, to);
        }
        self.busy = Busy::MovingStart { to };
        let bytes = encode_start(&self.shared.binding, to);
        let path = self.shared.dir.join(crate::recovery::START);
        let (disk, space) = (self.shared.disk.clone(), self.space.clone());
        Ok(Some(StartWrite { disk, path, bytes, to, space }))
    }

    /// The start could not be persisted: it stays. Whether the disk has the new one is unknown, which is safe: nobody was
    /// told, and nothing was removed.
    ///
    /// # Errors
    /// [`Sealed`] if it was a sync that failed: names of the directory that the next flush would have made durable may
    /// count as clean now, so that its `Ok` would say nothing about them.
    pub fn abandon_start(&mut self, error: &io::Error) -> Result<(), Sealed> {
        assert!(matches!(self.busy, Busy::MovingStart { .. }), "no move of the start to abandon");
        self.busy = Busy::Nothing;
        self.seal_if_unsynced(error)
    }

    /// Takes the result of [`Removal::run`].
    ///
    /// # Errors
    /// [`Sealed`] if it was a sync that failed, as for [`Log::abandon_start`].
    pub fn end_removal(&mut self, done: &io::Result<()>) -> Result<(), Sealed> {
        done.as_ref().err().map_or(Ok(()), |error| self.seal_if_unsynced(error))
    }

    fn seal_if_unsynced(&mut self, error: &io::Error) -> Result<(), Sealed> {
        if !is_failed_sync(error) {
            return Ok(());
        }
        Err(self.seal(SealReason::SyncFailed))
    }

    /// Publishes the durable start and takes the segments below it out of use.
    pub fn end_advance_start(&mut self, written: StartWritten) -> Removal<D> {
        assert!(self.busy == Busy::MovingStart { to: written.to }, "{:?} ends, not {written:?}", self.busy);
        self.busy = Busy::Nothing;
        let mut view = self.shared.lock();
        assert!(written.to >= view.start, "start {:?} moves back to {:?}", view.start, written.to);
        view.start = written.to;
        view.damaged.retain(|range| range.to > written.to);
        if view.epochs.advance_start(written.to) {
            self.commit.epochs_dirty = true;
        }
        let files = self.detach(&mut view, written.to);
        view.check();
        let first_base = view.segments[0].base;
        self.commit.forget_below(first_base);
        Removal { disk: self.shared.disk.clone(), dir: self.shared.dir.clone(), files, first_base }
    }

    /// Takes segments that end at or below `to` out of the view and renames their files; the active one stays.
    fn detach(&self, view: &mut View<D>, to: Offset) -> Vec<PathBuf> {
        let count = view.segments.iter().skip(1).take_while(|next| next.base <= to).count();
        if count == 0 {
            return Vec::new();
        }
        mark!("segments are removed at the start");
        view.generation += 1;
        let mut files = Vec::new();
        for segment in view.segments.drain(..count) {
            for kind in FileKind::OF_SEGMENT {
                let path = self.shared.path(kind, segment.base);
                let aside = with_suffix(&path, DELETED);
                // What cannot be renamed lies below the durable start: the next start of the process removes it.
                if self.shared.disk.rename(&path, &aside).is_ok() {
                    files.push(aside);
                }
            }
        }
        files
    }

    /// The whole move in one, removal included, for an owner that may wait. Returns the start.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn advance_start(&mut self, to: Offset) -> Result<Offset, StartError> {
        let Some(write) = self.begin_advance_start(to)? else { return Ok(self.start()) };
        match write.run().await {
            Ok(written) => {
                let done = self.end_advance_start(written).run().await;
                self.end_removal(&done).map_err(io::Error::other)?;
                done?;
                Ok(self.start())
            }
            Err(error) => {
                self.abandon_start(&error).map_err(io::Error::other)?;
                Err(StartError::Io(error))
            }
        }
    }
}
