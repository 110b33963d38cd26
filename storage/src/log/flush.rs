//! Group commit: many appends, one sync. The next sync starts when the last one ended and takes everything since.
//!
//! Owns: [`Commit`] (pure: what is dirty, what is in flight, what is marked) and [`Flush`], the work for the disk.
//! Promises: the flushed end moves only after the sync of everything below it returned `Ok`, names included (LOG-12);
//! one flush in flight a log; a failed sync seals the log for ever and is never retried (LOG-9). A flush also writes
//! the side file's entries and the durable point of the flush before it (`sum`), and the epochs when they changed.
//! Leaves out: when to flush (the node's flusher: at once, no timer) and who waits for it.
//!
//! ```text
//! append append append          append append
//!        begin ──── sync ──── end ─► begin ──── sync ──── end          each begin takes all that came before it
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;

use dejaq_wire::ids::Offset;

use super::{Busy, Log, SealReason, Sealed};
use crate::disk::{Disk, DiskFile, is_want};
use crate::epochs::EPOCHS_KIND;
use crate::segment::{Files, Shared};
use crate::sum::{Marker, RECORD_BYTES};
use crate::{mark, mutant, small_file};

/// Why no flush could begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// No room for the side file now: the log stays dirty, try again later.
    #[error("the disk is full")]
    Full,
    /// Never again in this process.
    #[error(transparent)]
    Sealed(#[from] Sealed),
}

/// A place in the log: what is true of everything below `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) end: Offset,
    pub(crate) segment_base: Offset,
    /// In that segment.
    pub(crate) position: u32,
    pub(crate) max_timestamp: i64,
}

/// What is dirty and what is known to be durable. Pure but for the handles that it keeps for the next flush.
pub(crate) struct Commit<D: Disk> {
    /// `marked <= flushed.end <= in flight`
    flushed: Point,
    in_flight: Option<Point>,
    /// End of the last marker written, and of the last one that is durable itself.
    marked: Offset,
    marked_durable: Offset,
    /// Files of segments that were rolled since the last flush began, each with the base of its segment.
    rolled: Vec<(Offset, D::File)>,
    /// Index files and snapshots that no sync covered, with the offset in their name. They ride along with the next flush, but
    /// do not ask for one.
    derived: Vec<(Offset, D::File)>,
    /// The active side file has bytes that no sync covered.
    pub(crate) side_dirty: bool,
    /// A name in the directory is not durable.
    pub(crate) names_dirty: bool,
    /// The last process may have left a name that is not durable; the first flush makes sure.
    names_unsure: bool,
    pub(crate) epochs_dirty: bool,
}

impl<D: Disk> Commit<D> {
    /// Everything below `flushed` is durable, and a marker says so up to `marked`.
    pub(crate) fn new(flushed: Point, marked: Offset) -> Commit<D> {
        assert!(marked <= flushed.end, "marked {marked:?} beyond {:?}", flushed.end);
        Commit {
            flushed,
            in_flight: None,
            marked,
            marked_durable: marked,
            rolled: Vec::new(),
            derived: Vec::new(),
            side_dirty: false,
            names_dirty: false,
            names_unsure: true,
            epochs_dirty: false,
        }
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    fn is_dirty(&self, end: Offset) -> bool {
        end > self.flushed.end || !self.rolled.is_empty() || self.names_dirty || self.epochs_dirty
    }

    /// What is durable is not written down, or not durably.
    fn is_unmarked(&self) -> bool {
        self.flushed.end > self.marked || self.side_dirty || !self.derived.is_empty()
    }

    fn begin(&mut self, point: Point) {
        assert!(self.in_flight.is_none(), "a second flush beside {:?}", self.in_flight);
        assert!(point.end >= self.flushed.end, "{point:?} behind {:?}", self.flushed);
        self.in_flight = Some(point);
        self.rolled.clear();
        self.derived.clear();
        self.side_dirty = false;
        self.names_dirty = false;
        self.names_unsure = false;
        self.epochs_dirty = false;
    }

    fn succeed(&mut self, end: Offset, marked: Offset) -> Offset {
        let point = self.in_flight.take().expect("the flush that ends is in flight");
        assert!(point.end == end, "flush of {end:?} ends while {:?} is in flight", point.end);
        assert!(marked <= self.flushed.end, "marker {marked:?} beyond what was durable when it was written");
        self.flushed = point;
        self.marked_durable = marked;
        end
    }

    /// The marker that is due, as it reads in the segment `base`.
    pub(crate) fn marker(&self, base: Offset, start: Offset) -> Option<Marker> {
        (self.flushed.end > self.marked).then(|| self.marker_now(base, start))
    }

    /// The marker for what is durable now.
    pub(crate) fn marker_now(&self, base: Offset, start: Offset) -> Marker {
        let here = self.flushed.segment_base == base;
        Marker {
            position: if here { self.flushed.position } else { 0 },
            end: self.flushed.end,
            start,
            max_timestamp: if here { self.flushed.max_timestamp } else { -1 },
        }
    }

    pub(crate) fn note_derived(&mut self, base: Offset, file: D::File) {
        self.derived.push((base, file));
        self.names_unsure = true;
    }

    pub(crate) fn note_rolled(&mut self, base: Offset, files: Files<D>) {
        self.rolled.extend([(base, files.log), (base, files.sum)]);
    }

    /// Forgets the files of segments below the durable start: they need no sync any more, and an open file keeps its room on
    /// the disk though its name is gone.
    pub(crate) fn forget_below(&mut self, first_base: Offset) {
        self.rolled.retain(|(base, _)| *base >= first_base);
        self.derived.retain(|(base, _)| *base >= first_base);
    }

    pub(crate) fn note_marked(&mut self) {
        self.marked = self.flushed.end;
    }
}

/// Work for the disk: run it with [`sync_flushes`], then give it back to [`Log::end_flush`].
#[must_use = "a flush that is not ended blocks the log"]
pub struct Flush<D: Disk> {
    files: Vec<D::File>,
    /// Small files written aside that take their place after the sync.
    renames: Vec<(PathBuf, PathBuf)>,
    /// Directories whose names must be durable.
    dirs: Vec<PathBuf>,
    end: Offset,
    marked: Offset,
}

impl<D: Disk> Flush<D> {
    /// The flushed end if it succeeds.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }
}

impl<D: Disk> fmt::Debug for Flush<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flush({} files, {} dirs, to {:?})", self.files.len(), self.dirs.len(), self.end)
    }
}

/// Runs flushes of any number of logs of one disk: one sync for all files, then small files take their place, then one
/// sync for all directories. The only way to run them.
///
/// # Errors
/// The first failure; nothing may be believed durable then, and trying again proves nothing.
pub async fn sync_flushes<D: Disk>(disk: &D, flushes: &mut [Flush<D>]) -> io::Result<()> {
    let files: Vec<D::File> = flushes.iter_mut().flat_map(|flush| flush.files.drain(..)).collect();
    if !files.is_empty() {
        let again = if mutant!(24) { files.clone() } else { Vec::new() };
        let synced = disk.sync_many(files).await;
        if synced.is_err() && mutant!(24) {
            disk.sync_many(again).await?;
        } else {
            synced?;
        }
    }
    let mut dirs = BTreeSet::new();
    for flush in flushes {
        for (from, to) in flush.renames.drain(..) {
            disk.rename(&from, &to)?;
        }
        dirs.extend(flush.dirs.drain(..));
    }
    if !dirs.is_empty() {
        disk.sync_dirs(dirs.into_iter().collect()).await?;
    }
    Ok(())
}

impl<D: Disk> Log<D> {
    /// Whether there is anything that the next flush would make durable.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.sealed.is_none() && self.commit.is_dirty(self.end())
    }

    /// Whether [`Log::begin_idle_flush`] has a durable point to write down. So it is where a start or a truncation just
    /// accepted a tail and synced it: until a marker says so, rot in it looks like a torn tail to the next start.
    #[must_use]
    pub fn owes_marker(&self) -> bool {
        self.sealed.is_none() && self.commit.is_unmarked()
    }

    /// Everything below survived a sync *and* the side file says so durably: damage below is told apart from a torn tail.
    #[must_use]
    pub fn marked_durable(&self) -> Offset {
        self.commit.marked_durable
    }

    /// Takes everything appended so far into a flush. `None`: nothing to do, one is in flight, or a truncation is.
    ///
    /// # Errors
    /// [`FlushError`].
    pub fn begin_flush(&mut self) -> Result<Option<Flush<D>>, FlushError> {
        self.begin(false)
    }

    /// The same for a log that has gone idle: writes the durable point even if nothing else is dirty. Call about a
    /// second after its last flush.
    ///
    /// # Errors
    /// [`FlushError`].
    pub fn begin_idle_flush(&mut self) -> Result<Option<Flush<D>>, FlushError> {
        self.begin(true)
    }

    fn begin(&mut self, idle: bool) -> Result<Option<Flush<D>>, FlushError> {
        if let Some(reason) = self.sealed {
            return Err(FlushError::Sealed(Sealed(reason)));
        }
        if self.commit.is_in_flight() || self.busy == Busy::Truncating {
            return Ok(None);
        }
        let needed = self.commit.is_dirty(self.end()) || (idle && self.commit.is_unmarked());
        if !needed {
            return Ok(None);
        }
        self.write_side_file().map_err(|error| self.flush_failed(&error))?;
        let renames = self.write_epochs_aside().map_err(|error| self.flush_failed(&error))?;
        let (mut files, renames) =
            renames.map_or((Vec::new(), Vec::new()), |(file, rename)| (vec![file], vec![rename]));
        let names_dirty =
            ((self.commit.names_dirty || self.commit.names_unsure) && !mutant!(25)) || !renames.is_empty();
        let dirs = if names_dirty { vec![self.shared.dir.clone()] } else { Vec::new() };
        let point = self.point();
        let active = {
            let mut view = self.shared.lock();
            let at = view.segments.len() - 1;
            self.shared.files(&mut view, at)
        };
        let active = active.map_err(|error| self.flush_failed(&error))?;
        let waiting = self.commit.rolled.drain(..).chain(self.commit.derived.drain(..));
        files.extend(waiting.map(|(_, file)| file));
        files.push(active.log);
        files.push(active.sum);
        let flush = Flush { files, renames, dirs, end: point.end, marked: self.commit.marked };
        self.commit.begin(point);
        if mutant!(23) {
            self.shared.lock().flushed = point.end;
        }
        Ok(Some(flush))
    }

    /// A full disk is a state, anything else the end.
    fn flush_failed(&mut self, error: &io::Error) -> FlushError {
        if is_want(error) {
            mark!("no room for the side file");
            return FlushError::Full;
        }
        tracing::error!(topic = %self.identity.topic, %error, "a write failed");
        FlushError::Sealed(self.seal(SealReason::WriteFailed))
    }

    pub(crate) fn point(&self) -> Point {
        Log::point_of(&self.shared)
    }

    pub(crate) fn point_of(shared: &Shared<D>) -> Point {
        let mut view = shared.lock();
        let end = view.end;
        let active = view.active();
        let (segment_base, position, max_timestamp) = (active.base, active.bytes, active.max_timestamp);
        Point { end, segment_base, position, max_timestamp }
    }

    /// Writes what the active side file lacks, after the marker if one is due. All or nothing.
    pub(crate) fn write_side_file(&mut self) -> io::Result<()> {
        self.write_records(true)
    }

    /// The same without the marker, which goes to the segment that follows: where everything in this one is durable, its
    /// side file is durable as well, so that a start after a kill need not look at it again.
    pub(crate) fn write_last_records(&mut self) -> io::Result<()> {
        self.write_records(false)
    }

    fn write_records(&mut self, with_marker: bool) -> io::Result<()> {
        let mut view = self.shared.lock();
        let (at, start) = (view.segments.len() - 1, view.start);
        let base = view.segments[at].base;
        let mut marker = self.commit.marker(base, start).filter(|_| with_marker);
        if let Some(marker) = marker.as_mut().filter(|_| mutant!(202)) {
            // The planted bug: the marker speaks of what this flush is about to make durable.
            (marker.end, marker.position) = (view.end, view.segments[at].bytes);
        }
        let (bytes, first) = view.segments[at].records_to_write(&self.shared.codec(base), marker);
        if bytes.is_empty() {
            return Ok(());
        }
        let files = self.shared.files(&mut view, at)?;
        let position = u64::from(view.segments[at].records) * RECORD_BYTES as u64;
        if let Err(error) = files.sum.append_at(position, &[bytes]) {
            // If this fails too, what lies there is overwritten by the next try at the same position.
            let _ = files.sum.truncate(position);
            return Err(error);
        }
        view.segments[at].note_written(first);
        self.commit.side_dirty = true;
        if marker.is_some() {
            self.commit.note_marked();
        }
        Ok(())
    }

    #[expect(clippy::type_complexity, reason = "a file to sync and the rename that follows")]
    fn write_epochs_aside(&mut self) -> io::Result<Option<(D::File, (PathBuf, PathBuf))>> {
        if !self.commit.epochs_dirty {
            return Ok(None);
        }
        let payload = self.shared.lock().epochs.encode();
        let path = self.shared.dir.join(crate::recovery::EPOCHS);
        let bytes = small_file::encode(EPOCHS_KIND, &self.shared.binding, &payload);
        let file = small_file::write_aside(&self.shared.disk, &path, bytes)?;
        Ok(Some((file, (small_file::aside(&path), path))))
    }

    /// Takes the result of [`sync_flushes`] and returns the flushed end: everything below survives a power cut.
    ///
    /// # Errors
    /// [`Sealed`] if the sync failed, now and for ever: no ack may depend on this log again in this process.
    pub fn end_flush(&mut self, flush: Flush<D>, result: &io::Result<()>) -> Result<Offset, Sealed> {
        if let Err(error) = result {
            mark!("a failed sync seals the log");
            tracing::error!(error = %error, "sync failed");
            self.commit.in_flight = None;
            return Err(self.seal(SealReason::SyncFailed));
        }
        if let Some(reason) = self.sealed {
            self.commit.in_flight = None;
            return Err(Sealed(reason));
        }
        let flushed = self.commit.succeed(flush.end, flush.marked);
        let mut view = self.shared.lock();
        view.flushed = view.flushed.max(flushed);
        view.check();
        Ok(flushed)
    }

    /// The three steps in one, for an owner that may wait.
    ///
    /// # Errors
    /// [`FlushError`].
    pub async fn flush(&mut self) -> Result<Offset, FlushError> {
        let Some(flush) = self.begin_flush()? else { return Ok(self.flushed()) };
        self.run_flush(flush).await
    }

    pub(crate) async fn run_flush(&mut self, flush: Flush<D>) -> Result<Offset, FlushError> {
        let mut flushes = [flush];
        let result = sync_flushes(&self.shared.disk, &mut flushes).await;
        let [flush] = flushes;
        Ok(self.end_flush(flush, &result)?)
    }
}
