//! Truncation.
use crate::disk::Disk;
use crate::log::{Log, Sealed};
use dejaq_wire::ids::Offset;
use std::io;
use std::marker::PhantomData;

/// Why a truncation cannot be.
#[derive(Debug, thiserror::Error)]
pub enum TruncateError {
    /// A flush, a start move or another truncation is under way: try again after it.
    #[error("the log is busy")]
    Busy,
    /// The log takes no writes.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// Below the start.
    #[error("{to} is below the start {start}")]
    BelowStart {
        /// Asked for.
        to: Offset,
        /// The start.
        start: Offset,
    },
}
/// Work for the disk.
#[must_use = "run it"]
pub struct Truncation<D: Disk> {
    _disk: PhantomData<D>,
}
/// Its result.
#[must_use = "give it to end_truncate"]
pub struct Truncated<D: Disk> {
    _disk: PhantomData<D>,
}
#[expect(clippy::unimplemented, reason = "signatures first")]
impl<D: Disk> Truncation<D> {
    /// Truncates durably.
    ///
    /// # Errors
    /// The log is sealed by `end_truncate`.
    pub async fn run(self) -> io::Result<Truncated<D>> {
        unimplemented!()
    }
}
#[expect(unused_variables, clippy::unimplemented, reason = "signatures first")]
impl<D: Disk> Log<D> {
    /// Begins.
    ///
    /// # Errors
    /// See [`TruncateError`].
    pub fn begin_truncate(&mut self, to: Offset) -> Result<Truncation<D>, TruncateError> {
        unimplemented!()
    }
    /// Ends; returns the new end, at most what was asked for.
    ///
    /// # Errors
    /// Sealed.
    pub fn end_truncate(&mut self, done: io::Result<Truncated<D>>) -> Result<Offset, Sealed> {
        unimplemented!()
    }
    /// All in one.
    ///
    /// # Errors
    /// See [`TruncateError`].
    pub async fn truncate_to(&mut self, to: Offset) -> Result<Offset, TruncateError> {
        unimplemented!()
    }
}
