//! The replicas that this node holds.
//!
//! - [`directory`] (SHELL): which partitions there are, by topic name or id; `open`s, creates and deletes them;
//!   `unopened` (SHELL): what becomes of those that do not open
//! - [`partition`] (SHELL): one partition's log behind its inbox and turn; `assignment` (pure): where the metadata places it; [`view`]: what readers see of it;
//!   [`write`]: a batch on its way in and what became of it
//! - [`role`] (pure): [`leader`] with [`acks`], [`isr`]; or [`follower`]; both by [`policy`], [`unsynced`]: when a write
//!   is safe, what a follower keeps
//! - `fetcher` (SHELL): follows one leader; [`serve`] (SHELL): answers followers, by [`sessions`] (pure);
//!   `following` (SHELL): a partition's steps in both; [`hub`]: who is to be told what; [`links`]: seams to the others
//! - `insync` (SHELL): proposes in-sync sets to the controller; [`inspect`]: what a replica believes, for those who watch
//! - [`flusher`] (SHELL): group commit over the data directory; [`health`]: whether it failed; `scrub` (SHELL):
//!   looks for damage;
//!   [`retention`] (SHELL): what goes with time, and room on the disk; [`cleaner`] (SHELL): compaction of logs;
//!   `guarded_clock` (pure): the time that both go by
//!
//! ```text
//!  produce ─► directory ─► partition ─ turn ─► log.append ─► leader ─► flusher ─► leader ─► watermark ─► acks
//!  fetch   ─► directory ─► view (no turn) ─► log reader
//!  fetcher ═══ peers ═══► serve ─► report ─► leader ─► watermark           ◄── batches ─► hear ─► follower ─► flusher
//! ```

pub mod acks;
mod assignment;
pub mod cleaner;
pub mod directory;
mod fetcher;
pub mod flusher;
pub mod follower;
mod following;
mod guarded_clock;
pub mod health;
pub mod hub;
pub mod inspect;
mod insync;
pub mod isr;
pub mod leader;
pub mod links;
mod mending;
mod open;
pub mod partition;
pub mod policy;
pub mod retention;
pub mod role;
mod scrub;
pub mod serve;
pub mod sessions;
mod unopened;
pub mod unsynced;
pub mod view;
pub mod write;

pub use directory::{Directory, NoPartition, NotClean, Replication, Settings, Table, TopicEntry};
pub use links::{Answer, AskController, Links, Transport};
pub use open::NotStarted;
pub use partition::Partition;
pub use scrub::Scrub;
pub use serve::Serve;

#[cfg(test)]
mod cleaner_tests;
#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod shell_tests;
