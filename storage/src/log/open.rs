//! Open, create, close.
use crate::config::{LogConfig, LogIdentity, OpenOptions};
use crate::disk::Disk;
use crate::log::flush::FlushError;
use crate::log::{Log, OffsetRange};
use dejaq_wire::ids::Offset;
use std::io;
use std::path::{Path, PathBuf};

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such partition here.
    #[error("{0} holds no partition")]
    Missing(PathBuf),
    /// The directory belongs to another partition.
    #[error("the directory belongs to {found:?}")]
    Foreign {
        /// Who it belongs to.
        found: LogIdentity,
    },
    /// Written by another version of DejaQ, or not readable at all.
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

/// Why a log was not closed cleanly.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// Not all is durable.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// A small file could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A tail that was cut away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// First offset that is gone.
    pub from: Offset,
    /// Bytes that are gone.
    pub bytes: u64,
    /// What was wrong with the first of them.
    pub reason: String,
}

/// What opening a log found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoveryReport {
    /// The caller said that the directory was closed cleanly.
    pub clean: bool,
    /// First offset.
    pub start: Offset,
    /// Next offset.
    pub end: Offset,
    /// Everything below was known to be durable before this start.
    pub durable_end: Offset,
    /// The torn tail, if there was one.
    pub cut: Option<Cut>,
    /// Offsets that were durable and are damaged: refused on read.
    pub damaged: Vec<OffsetRange>,
    /// Bytes of log read to find that out.
    pub scanned_bytes: u64,
    /// Index files made again.
    pub rebuilt_indexes: u32,
    /// Batches replayed for the producers.
    pub replayed_batches: u64,
    /// Anything else worth a line in the log.
    pub notes: Vec<String>,
}

#[expect(unused_variables, clippy::unimplemented, reason = "signatures first")]
impl<D: Disk> Log<D> {
    /// Opens.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        disk: D,
        dir: PathBuf,
        identity: LogIdentity,
        config: LogConfig,
        options: OpenOptions,
    ) -> Result<(Log<D>, RecoveryReport), OpenError> {
        unimplemented!()
    }
    /// Creates durably, or opens.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn create(
        disk: D,
        dir: PathBuf,
        identity: LogIdentity,
        config: LogConfig,
        options: OpenOptions,
    ) -> Result<(Log<D>, RecoveryReport), OpenError> {
        unimplemented!()
    }
    /// The identity written in a directory.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn identity_of(disk: &D, dir: &Path) -> Result<LogIdentity, OpenError> {
        unimplemented!()
    }
    /// Closes cleanly.
    ///
    /// # Errors
    /// Then the data directory must not be marked clean.
    pub async fn close(self) -> Result<(), CloseError> {
        unimplemented!()
    }
}
