//! When a replica's copy of a record counts: the durability policy of a topic.
//!
//! Owns: [`Durability`] and [`Policy`], the part of a topic's configuration that the leader decides by.
//! Promises: nothing; these are values. Leaves out: how a topic is configured (`metadata`) and who flushes.
//! Used by the pure parts beside it and by the shells that feed them.

use std::time::Duration;

/// What a replica must have done with a record before it counts (`durability` of the topic).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Synced to the device. A power cut of every replica at once loses nothing that was acknowledged.
    #[default]
    Durable,
    /// Written; synced in the background. Survives a process kill, and power cuts of fewer replicas than are in sync.
    Replicated,
    /// Written; synced only when a segment is rolled or the broker stops.
    None,
}

/// The part of a topic's configuration that acknowledging depends on. May change at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What counts.
    pub durability: Durability,
    /// `min.insync.replicas`: fewer members in sync refuse acks=all and hold the watermark.
    pub min_insync: u32,
    /// Under [`Durability::Replicated`]: a flush is asked for when this many bytes are not synced.
    pub flush_bytes: u64,
    /// Under [`Durability::Replicated`]: a flush is asked for when the oldest unsynced byte is this old.
    pub flush_interval: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            durability: Durability::Durable,
            min_insync: 1,
            // Half a second at the speed of one disk of 100 MB/s: the loss window that `replicated` names.
            flush_bytes: 64 * 1024 * 1024,
            flush_interval: Duration::from_millis(500),
        }
    }
}
