//! The replicas that this node holds.
//!
//! - [`directory`]: which partitions there are, by topic name or id; opens, creates and deletes them
//! - [`partition`] (SHELL): one partition's log behind its inbox and turn; [`view`]: what readers see of it
//! - [`leader`], [`acks`], [`isr`], [`policy`] (pure): when a write is safe
//! - [`flusher`] (SHELL): group commit over the data directory; [`retention`] (SHELL): what goes, and room on the disk
//!
//! ```text
//!  produce ─► directory ─► partition ─ turn ─► log.append ─► leader ─► flusher ─► leader ─► watermark ─► acks
//!  fetch   ─► directory ─► view (no turn) ─► log reader
//! ```

pub mod acks;
pub mod isr;
pub mod leader;
pub mod policy;
