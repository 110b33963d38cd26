//! The controller: the one place that changes the cluster's metadata.
//!
//! The tour: an API handler puts a request into the mailbox of the [`driver`] (the shell: one task), which asks
//! [`decide`] (pure: image and request to records and answer, in a [`draft`]), makes the records durable, publishes
//! the new image, and only then answers. [`placement`] (pure) says which brokers get new partitions.
//!
//! ```text
//!  api ─► mailbox ─► decide ─► records ─► metadata log ─► sync ─► publish ─► answer
//! ```
//!
//! One node is a quorum of one. A cluster replaces the driver by Raft over the same log; the rest stays.

mod batch;
pub mod calls;
pub mod decide;
pub mod draft;
pub mod driver;
pub mod errands;
pub mod journal;
mod leader;
pub mod liveness;
pub mod placement;
pub mod planner;
pub mod raft;
pub mod reach;
pub mod room;
pub mod settings;
pub mod succession;
pub mod sweep;

pub use draft::{Decide, Draft, Refusal};
pub use driver::{Boot, Committed, Controller, Started, Unavailable, start};
pub use journal::JournalError;
pub use liveness::Liveness;
pub use reach::Reach;
pub use settings::Settings;

#[cfg(test)]
mod model_tests;
