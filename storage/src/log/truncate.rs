//! The end of the log moves back: a follower drops what its leader does not have (KIP-101), durably before it goes on.
//!
//! Owns: the intent file and the order around it. Promises: after a crash at any point the log is as before or as after,
//! never a mixture (LOG-11), and once [`Log::end_truncate`] returned, what was cut does not come back (LOG-4).
//! How: the intent is made durable, then the log is loaded again exactly as after a crash, where recovery finishes what
//! the intent asks for. One path, so that the rare case is the tested one. Leaves out: who may ask for it (node).
//!
//! ```text
//! begin ─► write `truncate`, sync ─► recovery::load (cuts, syncs, removes `truncate`) ─► end: swap the view
//! ```

use std::io;

use dejaq_wire::ids::Offset;

use super::flush::Commit;
use super::open::OpenError;
use super::{Busy, Log, SealReason, Sealed};
use crate::disk::{Disk, is_want};
use crate::mark;
use crate::recovery::{self, Loaded, Loader, TRUNCATE, TRUNCATE_KIND};
use crate::small_file;

/// Why a truncation cannot be.
#[derive(Debug, thiserror::Error)]
pub enum TruncateError {
    /// A flush, a move of the start or another truncation is under way: try again after it.
    #[error("the log is busy")]
    Busy,
    /// The log takes no writes.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// The offset was given away.
    #[error("{to} is below the start {start}")]
    BelowStart {
        /// Asked for.
        to: Offset,
        /// The log's start.
        start: Offset,
    },
    /// No room for the side file; nothing has happened.
    #[error("the disk is full")]
    Full,
}

/// Work for the disk; run it, then give the result to [`Log::end_truncate`].
#[must_use = "a truncation that is not ended blocks the log"]
pub struct Truncation<D: Disk> {
    loader: Loader<D>,
    to: Offset,
    /// Something ends behind `to`; else the log is only read back.
    cuts: bool,
}

/// The log is shorter, durably.
#[must_use = "give it to end_truncate"]
pub struct Truncated<D: Disk> {
    /// `None`: nothing was to be cut, and there was no room to say so: nothing has happened.
    loaded: Option<Loaded<D>>,
}

impl<D: Disk> Truncation<D> {
    /// Truncates durably. Not cancel safe: a truncation that was dropped is finished by the next start.
    ///
    /// # Errors
    /// The disk's; `end_truncate` seals the log then, and the next start finishes the truncation or never saw it.
    pub async fn run(self) -> io::Result<Truncated<D>> {
        let Loader { disk, dir, binding, .. } = &self.loader;
        let intent = small_file::encode(TRUNCATE_KIND, binding, &self.to.0.to_be_bytes());
        match small_file::replace(disk, &dir.join(TRUNCATE), intent).await {
            Err(error) if !self.cuts && is_want(&error) => return Ok(Truncated { loaded: None }),
            done => done?,
        }
        let loaded = recovery::load(&self.loader).await.map_err(|error| match error {
            OpenError::Io(error) => error, // as it is: it may be a failed sync
            other => io::Error::other(other),
        })?;
        Ok(Truncated { loaded: Some(loaded) })
    }
}

impl<D: Disk> Log<D> {
    /// Begins to cut every batch that ends at or after `to`. Readers see nothing at or beyond `to` from now on; appends
    /// answer `Busy` and flushes wait until [`Log::end_truncate`].
    ///
    /// # Errors
    /// [`TruncateError`].
    pub fn begin_truncate(&mut self, to: Offset) -> Result<Truncation<D>, TruncateError> {
        if let Some(reason) = self.sealed {
            return Err(TruncateError::Sealed(Sealed(reason)));
        }
        if self.busy != Busy::Nothing || self.commit.is_in_flight() {
            return Err(TruncateError::Busy);
        }
        let start = self.start();
        if to < start {
            return Err(TruncateError::BelowStart { to, start });
        }
        if let Err(error) = self.write_side_file() {
            if is_want(&error) {
                return Err(TruncateError::Full);
            }
            return Err(TruncateError::Sealed(self.seal(SealReason::WriteFailed)));
        }
        self.busy = Busy::Truncating;
        let mut view = self.shared.lock();
        let cuts = to < view.end;
        view.end = view.end.min(to);
        view.flushed = view.flushed.min(view.end);
        view.generation += 1;
        drop(view);
        let loader = Loader {
            disk: self.shared.disk.clone(),
            dir: self.shared.dir.clone(),
            binding: self.shared.binding.clone(),
            config: self.config.clone(),
            now_ms: self.now_ms,
            clean: false,
            same_boot: true,
            renew_names: false, // readers may open files by their names meanwhile
        };
        Ok(Truncation { loader, to, cuts })
    }

    /// Takes the shorter log in use. Returns its end, which is the last batch boundary at or before what was asked for.
    ///
    /// # Errors
    /// [`Sealed`] if the disk failed.
    pub fn end_truncate(&mut self, done: io::Result<Truncated<D>>) -> Result<Offset, Sealed> {
        assert!(self.busy == Busy::Truncating, "{:?} instead of a truncation", self.busy);
        self.busy = Busy::Nothing;
        let loaded = match done {
            Ok(Truncated { loaded: Some(loaded) }) => loaded,
            Ok(Truncated { loaded: None }) => {
                mark!("a log that is to be read back finds no room");
                return Ok(self.end());
            }
            Err(error) => {
                tracing::error!(error = %error, "truncation failed");
                return Err(self.seal(SealReason::WriteFailed));
            }
        };
        mark!("a truncation ends");
        let mut view = self.shared.lock();
        assert!(loaded.view.end <= view.end, "truncated to {:?}, beyond {:?}", loaded.view.end, view.end);
        assert!(loaded.view.start == view.start, "start {:?} became {:?}", view.start, loaded.view.start);
        let generation = view.generation + 1;
        let mut damaged = std::mem::take(&mut view.damaged);
        damaged.retain(|range| range.to <= loaded.view.end);
        *view = loaded.view;
        view.generation = generation;
        for range in damaged {
            view.note_damage(range);
        }
        let end = view.end;
        view.check();
        drop(view);
        self.loaded_around = !loaded.report.damaged.is_empty();
        self.producers = loaded.producers;
        self.commit = Commit::new(self.point(), loaded.marked);
        self.snapped_end = loaded.snapped_end;
        self.roll_owed = false; // what was half made lay at the old end and is gone
        self.cleaned = self.cleaned.min(end);
        Ok(end)
    }

    /// The whole truncation in one, for an owner that may wait. Returns the new end, at most `to`.
    ///
    /// # Errors
    /// [`TruncateError`].
    pub async fn truncate_to(&mut self, to: Offset) -> Result<Offset, TruncateError> {
        if to >= self.end() {
            return Ok(self.end());
        }
        let truncation = self.begin_truncate(to)?;
        let done = truncation.run().await;
        Ok(self.end_truncate(done)?)
    }
}
