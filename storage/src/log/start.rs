//! The start of the log moves on.
use crate::disk::Disk;
use crate::log::Log;
use dejaq_wire::ids::Offset;
use std::io;
use std::marker::PhantomData;

/// Why the start cannot move.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Beyond the end of the log.
    #[error("start {to} is beyond the end {end}")]
    BeyondEnd {
        /// Asked for.
        to: Offset,
        /// The end.
        end: Offset,
    },
    /// Another move or a truncation is under way.
    #[error("the log is busy")]
    Busy,
    /// The disk refused; the start is where it was.
    #[error("the start could not be persisted: {0}")]
    Io(#[from] io::Error),
}

/// Persists a new start.
#[must_use = "run it"]
pub struct StartWrite<D: Disk> {
    _disk: PhantomData<D>,
}
/// The new start is durable.
#[must_use = "give it to end_advance_start"]
pub struct StartWritten {
    _to: Offset,
}
/// Files that may go.
#[must_use = "run it"]
pub struct Removal<D: Disk> {
    _disk: PhantomData<D>,
}

#[expect(clippy::unimplemented, reason = "signatures first")]
impl<D: Disk> StartWrite<D> {
    /// Persists.
    ///
    /// # Errors
    /// The start is where it was.
    pub async fn run(self) -> io::Result<StartWritten> {
        unimplemented!()
    }
}
#[expect(clippy::unimplemented, reason = "signatures first")]
impl<D: Disk> Removal<D> {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
    /// Unlinks.
    ///
    /// # Errors
    /// A restart finishes it.
    pub async fn run(self) -> io::Result<()> {
        unimplemented!()
    }
}
#[expect(unused_variables, clippy::unimplemented, reason = "signatures first")]
impl<D: Disk> Log<D> {
    /// New start that retention wants now, never beyond `limit`.
    pub fn retention_plan(&mut self, now_ms: i64, limit: Offset) -> Option<Offset> {
        unimplemented!()
    }
    /// Begins; `None` if the start is there already.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn begin_advance_start(&mut self, to: Offset) -> Result<Option<StartWrite<D>>, StartError> {
        unimplemented!()
    }
    /// The write failed: the start stays.
    pub fn abandon_start(&mut self) {
        unimplemented!()
    }
    /// Publishes the start, detaches segments below it.
    pub fn end_advance_start(&mut self, written: StartWritten) -> Removal<D> {
        unimplemented!()
    }
    /// All in one.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn advance_start(&mut self, to: Offset) -> Result<Offset, StartError> {
        unimplemented!()
    }
}
