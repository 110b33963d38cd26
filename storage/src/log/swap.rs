//! One new segment takes the place of several old ones, atomically whatever crashes (LOG-11).
//!
//! Owns: the file `swap`, which makes the change certain, and the order around it; the file `cleaned`, which remembers how
//! far a log was cleaned. Promises: before `swap` is durable, a crash leaves the old segments and leftovers that recovery
//! sweeps; after it, recovery finishes what it says (`recovery::swap`); readers go on with what they hold and look again.
//! While a swap is under way there is no truncation and no move of the start; appends and flushes go on.
//! A failure whose outcome is unknown seals the log: the next start finishes the swap, or never saw it.
//!
//! ```text
//! *.cleaned durable (compaction::output)
//! begin ─► write `swap`, sync ─► end: rename, rename *.deleted, swap the view
//!       ─► sync directory ─► remove `swap`, sync directory ─► finish ─► unlink *.deleted
//! ```

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dejaq_wire::ids::Offset;

use super::{Busy, Log, SealReason, Sealed};
use crate::compaction::{CleanAsk, Cleaned, CompactError, FullPace, path_aside};
use crate::disk::Disk;
use crate::layout::{DELETED, FileKind, with_suffix};
use crate::segment::Segment;
use crate::small_file::{self, Kind};
use crate::{mark, mutant};

/// The file that says which segments are being replaced.
pub(crate) const SWAP: &str = "swap";
/// base 8 | end 8 | log bytes 4 | side records 4 | count 4, then count x base 8 of the other segments, big-endian.
pub(crate) const SWAP_KIND: Kind = Kind { magic: *b"DJsw", version: 1 };
/// The file that says how far the log was cleaned: 8 bytes, big-endian. Losing it costs a longer cleaning.
pub(crate) const CLEANED_TO: &str = "cleaned";
/// See [`CLEANED_TO`].
pub(crate) const CLEANED_KIND: Kind = Kind { magic: *b"DJcl", version: 1 };

/// A decoded `swap`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SwapRecord {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) bytes: u32,
    pub(crate) records: u32,
    /// Segments that go.
    pub(crate) others: Vec<Offset>,
}

impl SwapRecord {
    fn of(cleaned: &Cleaned) -> SwapRecord {
        let summary = &cleaned.summary;
        let others = cleaned.inputs[1..].to_vec();
        SwapRecord {
            base: summary.base,
            end: summary.end,
            bytes: summary.bytes,
            records: summary.records,
            others,
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(28 + self.others.len() * 8);
        bytes.put_i64(self.base.0);
        bytes.put_i64(self.end.0);
        bytes.put_u32(self.bytes);
        bytes.put_u32(self.records);
        bytes.put_u32(self.others.len() as u32);
        self.others.iter().for_each(|other| bytes.put_i64(other.0));
        bytes.freeze()
    }

    pub(crate) fn decode(mut payload: Bytes) -> Option<SwapRecord> {
        if payload.len() < 28 {
            return None;
        }
        let (base, end) = (Offset(payload.get_i64()), Offset(payload.get_i64()));
        let (bytes, records) = (payload.get_u32(), payload.get_u32());
        let count = payload.get_u32() as usize;
        if payload.len() != count.checked_mul(8)? {
            return None;
        }
        let others: Vec<Offset> = (0..count).map(|_| Offset(payload.get_i64())).collect();
        let sane = base.is_valid() && base < end && others.iter().all(|other| base < *other && *other < end);
        sane.then_some(SwapRecord { base, end, bytes, records, others })
    }
}

/// Why a swap cannot begin; the new segment is of no use then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SwapError {
    /// Segments went or were cut since the round began.
    #[error("the log changed meanwhile")]
    Moved,
    /// A truncation or a move of the start is under way.
    #[error("the log is busy")]
    Busy,
    /// The log takes no writes.
    #[error(transparent)]
    Sealed(#[from] Sealed),
}

/// Makes a swap certain. Run it, then give the result to [`Log::end_swap`].
#[must_use = "a swap that is not ended blocks the log"]
pub struct SwapWrite<D: Disk> {
    disk: D,
    path: PathBuf,
    bytes: Bytes,
}

/// What [`SwapWrite::run`] did.
#[derive(Debug)]
#[must_use = "give it to end_swap"]
pub enum SwapWritten {
    /// The swap is certain.
    Certain,
    /// There was no room, and nothing has happened: give the new segment to `Compaction::discard`.
    Full,
    /// Nobody knows.
    Unknown(io::Error),
}

impl<D: Disk> SwapWrite<D> {
    /// Makes the swap durable.
    pub async fn run(self) -> SwapWritten {
        // The planted bug M220: the names change before anything says so durably.
        if mutant!(220) {
            return SwapWritten::Certain;
        }
        let file = match small_file::write_aside(&self.disk, &self.path, self.bytes) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return SwapWritten::Full,
            Err(error) => return SwapWritten::Unknown(error),
        };
        let dir = self.path.parent().expect("it lies in the log's directory").to_owned();
        let rest = async {
            self.disk.sync_many(vec![file]).await?;
            self.disk.rename(&small_file::aside(&self.path), &self.path)?;
            self.disk.sync_dir(&dir).await
        };
        match rest.await {
            Ok(()) => SwapWritten::Certain,
            Err(error) => SwapWritten::Unknown(error),
        }
    }
}

/// The files of a swap that took place in memory. Run it, then give the result to [`Log::finish_swap`].
#[must_use = "a swap that is not finished blocks the log"]
pub struct SwapFiles<D: Disk> {
    disk: D,
    dir: PathBuf,
    files: Vec<PathBuf>,
    end: Offset,
}

impl<D: Disk> SwapFiles<D> {
    /// Makes the new names durable and the old snapshots go, then forgets the swap durably.
    ///
    /// # Errors
    /// The disk's; [`Log::finish_swap`] seals the log then.
    pub async fn run(&self) -> io::Result<()> {
        remove_snapshots(&self.disk, &self.dir, self.end).await?;
        self.disk.sync_dir(&self.dir).await?;
        if !mutant!(220) {
            self.disk.remove(&self.dir.join(SWAP)).await?;
        }
        self.disk.sync_dir(&self.dir).await
    }

    /// Gives back the room of the old segments. Any time after the swap is finished.
    ///
    /// # Errors
    /// The disk's; the next start finishes it.
    pub async fn remove(self) -> io::Result<()> {
        for file in &self.files {
            self.disk.remove(file).await?;
        }
        Ok(())
    }
}

/// Removes the snapshots of the producers below the end of a cleaned segment: they may tell of a transaction as open whose
/// marker is gone, and a replay from there would take what came behind it for a part of it.
pub(crate) async fn remove_snapshots<D: Disk>(disk: &D, dir: &Path, end: Offset) -> io::Result<()> {
    for entry in disk.list(dir)? {
        // The planted bug M223: they stay.
        if let Some((FileKind::Producers, offset)) = FileKind::parse(&entry.name)
            && offset < end
            && !mutant!(223)
        {
            mark!("a snapshot goes because what it tells of was cleaned");
            disk.remove(&dir.join(&entry.name)).await?;
        }
    }
    Ok(())
}

impl<D: Disk> Log<D> {
    /// Everything below was cleaned.
    pub(crate) fn cleaned(&self) -> Offset {
        self.cleaned
    }

    /// Begins to put `cleaned` into the place of its inputs.
    ///
    /// # Errors
    /// [`SwapError`]: give it to [`Compaction::discard`](crate::Compaction::discard).
    pub fn begin_swap(&mut self, cleaned: &Cleaned) -> Result<SwapWrite<D>, SwapError> {
        if let Some(reason) = self.sealed {
            return Err(SwapError::Sealed(Sealed(reason)));
        }
        if self.busy != Busy::Nothing {
            return Err(SwapError::Busy);
        }
        if self.shared.lock().generation != cleaned.generation {
            return Err(SwapError::Moved);
        }
        self.busy = Busy::Swapping;
        let record = SwapRecord::of(cleaned).encode();
        let bytes = small_file::encode(SWAP_KIND, &self.shared.binding, &record);
        Ok(SwapWrite { disk: self.shared.disk.clone(), path: self.shared.dir.join(SWAP), bytes })
    }

    /// Puts the new segment in place, for readers and by name. `None`: there was no room, all is as before.
    ///
    /// # Errors
    /// [`Sealed`].
    pub fn end_swap(
        &mut self,
        cleaned: &Cleaned,
        written: SwapWritten,
    ) -> Result<Option<SwapFiles<D>>, Sealed> {
        assert!(self.busy == Busy::Swapping, "{:?} instead of a swap", self.busy);
        match written {
            SwapWritten::Certain => {}
            SwapWritten::Full => {
                self.busy = Busy::Nothing;
                return Ok(None);
            }
            SwapWritten::Unknown(error) => {
                tracing::error!(%error, "a swap of segments failed");
                return Err(self.seal(SealReason::WriteFailed));
            }
        }
        let (base, end) = (cleaned.summary.base, cleaned.summary.end);
        let (disk, dir) = (self.shared.disk.clone(), self.shared.dir.clone());
        // Names and view change under one lock: whoever opens files by name sees one segment, never half of two.
        let mut view = self.shared.lock();
        let first = view.segments.iter().position(|segment| segment.base == base);
        let first = first.expect("no start moves and nothing is cut during a swap");
        let last = first + cleaned.inputs.len();
        assert!(last < view.segments.len(), "the active segment is never cleaned");
        assert!(view.segments[last - 1].end == end, "{:?} ends at {end:?}", view.segments[last - 1].end);
        let mut files = Vec::new();
        let mut renamed = Ok(());
        for kind in FileKind::OF_SEGMENT {
            let fresh = path_aside(&dir, kind, base);
            // Without a list aside, there was none.
            if kind != FileKind::Aborted || disk.exists(&fresh) {
                renamed = renamed.and_then(|()| disk.rename(&fresh, &dir.join(kind.name(base))));
            }
            for other in &cleaned.inputs[1..] {
                let path = dir.join(kind.name(*other));
                let aside = with_suffix(&path, DELETED);
                // The index and the list may be missing; what cannot be renamed is removed by the next start.
                if disk.rename(&path, &aside).is_ok() {
                    files.push(aside);
                } else if disk.exists(&path) {
                    renamed = renamed.and(Err(io::ErrorKind::Other.into()));
                }
            }
        }
        if let Err(error) = renamed {
            drop(view);
            tracing::error!(%error, "a swap of segments failed");
            return Err(self.seal(SealReason::WriteFailed));
        }
        mark!("a cleaned segment takes the place of others");
        // Whatever else a segment keeps in memory or in a file of its own must be carried over here.
        let mut fresh = Segment::empty(base, 0, self.config.index_interval_bytes);
        fresh.end = end;
        fresh.bytes = cleaned.summary.bytes;
        fresh.records = cleaned.summary.records;
        fresh.max_timestamp = cleaned.summary.max_timestamp;
        fresh.written_max_timestamp = cleaned.summary.max_timestamp;
        fresh.aborted.clone_from(&cleaned.aborted);
        fresh.seal();
        view.segments.splice(first..last, [fresh]);
        view.generation += 1;
        view.check();
        drop(view);
        Ok(Some(SwapFiles { disk, dir, files, end }))
    }

    /// Takes the result of [`SwapFiles::run`]; then run [`SwapFiles::remove`].
    ///
    /// # Errors
    /// [`Sealed`] if the disk failed: the next start finishes the swap again.
    pub fn finish_swap(&mut self, done: &io::Result<()>) -> Result<(), Sealed> {
        assert!(self.busy == Busy::Swapping, "{:?} instead of a swap", self.busy);
        if let Err(error) = done {
            tracing::error!(%error, "a swap of segments failed");
            return Err(self.seal(SealReason::SyncFailed));
        }
        self.busy = Busy::Nothing;
        Ok(())
    }

    /// Notes that everything below `to` was cleaned; run what is returned to remember it over a restart.
    pub fn note_cleaned(&mut self, to: Offset) -> impl Future<Output = io::Result<()>> + Send + use<D> {
        self.cleaned = self.cleaned.max(to.min(self.end()));
        let bytes = small_file::encode(CLEANED_KIND, &self.shared.binding, &self.cleaned.0.to_be_bytes());
        let (disk, path) = (self.shared.disk.clone(), self.shared.dir.join(CLEANED_TO));
        async move { small_file::replace(&disk, &path, bytes).await }
    }

    /// A whole round in one, for an owner that may wait. Returns how far the log is clean now; `None`: nothing to do.
    ///
    /// # Errors
    /// [`CompactError`].
    pub async fn compact(&mut self, ask: CleanAsk) -> Result<Option<Offset>, CompactError> {
        let Some(mut round) = self.begin_compaction(ask) else { return Ok(None) };
        let pace = &mut FullPace;
        round.look(pace).await?;
        while let Some(cleaned) = round.next(pace).await? {
            let write = self.begin_swap(&cleaned).map_err(io::Error::other)?;
            let Some(files) = self.end_swap(&cleaned, write.run().await).map_err(io::Error::other)? else {
                round.discard(&cleaned).await;
                return Err(io::Error::from(io::ErrorKind::StorageFull).into());
            };
            let done = files.run().await;
            self.finish_swap(&done).map_err(io::Error::other)?;
            round.note_swapped();
            files.remove().await?;
        }
        self.note_cleaned(round.done()).await?;
        Ok(Some(self.cleaned))
    }
}
