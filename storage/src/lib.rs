//! One partition's log on an abstract disk: segments, indexes, recovery, group commit.
//!
//! `wire` is below (batches are its business), `node` above (topics, replication and clients are its business).

pub mod aborted;
pub mod batch;
mod binding;
mod check;
mod compaction;
pub mod config;
#[cfg(any(test, feature = "model"))]
pub mod contract;
pub mod disk;
pub mod epochs;
pub mod file_disk;
mod index;
pub mod layout;
pub mod log;
#[cfg(any(test, feature = "model"))]
pub mod model_disk;
pub mod patch;
pub mod probe;
mod producers;
pub mod reader;
mod recovery;
mod reserve;
pub mod scrub;
mod segment;
mod small_file;
mod sum;
#[cfg(test)]
mod tests;
pub mod time_index;
mod unopened;
mod walk;
pub mod whole_file;

pub use aborted::AbortedTxn;
pub use batch::{TxnGuard, TxnStanding, VerifiedBatch};
pub use compaction::{CleanAsk, Cleanable, Cleaned, CompactError, Compaction, FullPace, Pace};
pub use config::{LogConfig, LogIdentity, OpenOptions, SpaceGuard};
pub use disk::{DirEntry, Disk, DiskFile, Open};
pub use epochs::{EpochEnd, EpochStart};
pub use layout::{DataDir, DirMeta, Expect, LastStop, LayoutError, PartitionDir};
pub use log::append::{AppendError, Appended};
pub use log::flush::{Flush, FlushError, sync_flushes};
pub use log::open::{CloseError, Cut, OpenError, RecoveryReport, close_many};
pub use log::start::{Removal, Reserve, StartError, StartWrite, StartWritten};
pub use log::swap::{SwapError, SwapFiles, SwapWrite, SwapWritten};
pub use log::truncate::{TruncateError, Truncated, Truncation};
pub use log::{Log, OffsetRange, ProducerSummary, SealReason, Sealed};
pub use patch::Patched;
pub use reader::{LogReader, Read, ReadAsk, ReadError};
pub use reserve::RESERVE_BYTES;
pub use scrub::{Damage, ScrubReport, Scrubbed, Visit};
pub use time_index::TimestampOffset;
pub use unopened::list_damage;
