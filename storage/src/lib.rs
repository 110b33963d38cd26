//! One partition's log on an abstract disk: segments, indexes, recovery, group commit.
//!
//! `wire` is below (batches are its business), `node` above (topics, replication and clients are its business).

#[cfg(any(test, feature = "model"))]
pub mod contract;
pub mod disk;
pub mod file_disk;
pub mod probe;

pub use disk::{DirEntry, Disk, DiskFile, Open};
