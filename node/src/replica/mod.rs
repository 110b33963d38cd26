//! The replicas that this node holds.
//!
//! - [`directory`] (SHELL): which partitions there are, by topic name or id; `open`s, creates and deletes them
//! - [`partition`] (SHELL): one partition's log behind its inbox and turn; [`view`]: what readers see of it;
//!   [`write`]: a batch on its way in and what became of it
//! - [`leader`], [`acks`], [`isr`], [`policy`] (pure): when a write is safe
//! - [`flusher`] (SHELL): group commit over the data directory; [`health`]: whether it failed;
//!   [`retention`] (SHELL): what goes with time, and room on the disk
//!
//! ```text
//!  produce ─► directory ─► partition ─ turn ─► log.append ─► leader ─► flusher ─► leader ─► watermark ─► acks
//!  fetch   ─► directory ─► view (no turn) ─► log reader
//! ```

pub mod acks;
pub mod directory;
pub mod flusher;
pub mod health;
pub mod isr;
pub mod leader;
mod open;
pub mod partition;
pub mod policy;
pub mod retention;
pub mod view;
pub mod write;

pub use directory::{Directory, NoPartition, NotClean, Settings, Table, TopicEntry};
pub use open::NotStarted;
pub use partition::Partition;

#[cfg(test)]
mod shell_tests;
