//! The controller: the one place that changes the cluster's metadata.
//!
//! The tour: who wants something asks by [`reach`], which finds the node that is the active controller; its [`driver`]
//! (the shell: one task on every node) has it decided by [`decide`] (pure: image and request to records and answer, in a
//! [`draft`]), has the records committed by the [`quorum`] ([`raft`] is its pure core), publishes the new image, and only
//! then answers. [`placement`] (pure) says which brokers get new partitions, [`liveness`] who is heard; [`member`] is
//! what a broker does to be one, and [`lease`] (pure) until when it is heard for certain.
//!
//! ```text
//!  api ─► reach ─► driver ─► decide ─► records ─► quorum ─► committed ─► publish on every node ─► answer
//! ```
//!
//! One node is a quorum of one, by the same code.

mod batch;
pub mod calls;
pub mod decide;
pub mod draft;
pub mod driver;
pub mod errands;
pub mod handle;
pub mod introduce;
pub mod journal;
mod leader;
pub mod lease;
pub mod liveness;
pub mod member;
pub mod placement;
pub mod planner;
mod probe;
pub mod quorum;
pub mod raft;
pub mod reach;
pub mod room;
pub mod settings;
pub mod succession;
pub mod sweep;
mod tell;

pub use draft::{Decide, Draft, Refusal};
pub use driver::{Boot, Started, start};
pub use handle::{Committed, Controller, Unavailable};
pub use journal::JournalError;
pub use liveness::Liveness;
pub use reach::Reach;
pub use settings::Settings;

#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod model_tests;
