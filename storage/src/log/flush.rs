//! Group commit.
use crate::disk::Disk;
use crate::log::{Log, Sealed};
use dejaq_wire::ids::Offset;
use std::io;
use std::marker::PhantomData;

/// Why no flush could begin or end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// No room for the side file now: stay dirty, try again later.
    #[error("the disk is full")]
    Full,
    /// Never again in this process.
    #[error(transparent)]
    Sealed(#[from] Sealed),
}

/// Work for the disk; run it with [`sync_flushes`], then give it back to [`Log::end_flush`].
#[must_use = "a flush that is not ended blocks the log"]
pub struct Flush<D: Disk> {
    _disk: PhantomData<D>,
}

/// The only way to run flushes.
///
/// # Errors
/// Nothing may be believed durable then.
#[expect(unused_variables, clippy::unimplemented, reason = "signatures first")]
pub async fn sync_flushes<D: Disk>(disk: &D, flushes: &mut [Flush<D>]) -> io::Result<()> {
    unimplemented!()
}

#[expect(unused_variables, clippy::unimplemented, reason = "signatures first")]
impl<D: Disk> Log<D> {
    /// Whether anything is not durable and no flush is in flight.
    pub fn needs_flush(&self) -> bool {
        unimplemented!()
    }
    /// Begins.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub fn begin_flush(&mut self) -> Result<Option<Flush<D>>, FlushError> {
        unimplemented!()
    }
    /// Begins the flush of an idle log.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub fn begin_idle_flush(&mut self) -> Result<Option<Flush<D>>, FlushError> {
        unimplemented!()
    }
    /// Ends.
    ///
    /// # Errors
    /// Sealed for ever if the sync failed.
    pub fn end_flush(&mut self, flush: Flush<D>, result: &io::Result<()>) -> Result<Offset, Sealed> {
        unimplemented!()
    }
    /// All in one.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub async fn flush(&mut self) -> Result<Offset, FlushError> {
        unimplemented!()
    }
}
