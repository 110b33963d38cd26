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
    /// `acks.required`: copies with which acks=all is answered; 0 is every one in sync.
    pub acks_required: u32,
    /// `replica.lag.max.messages`: records that a replica may lack and be in sync. At least 1.
    pub lag_records: i64,
    /// Unless durable: a flush is asked for when this many bytes are not synced.
    pub flush_bytes: u64,
    /// Unless durable: a flush is asked for when this many records are not synced. At least 1.
    pub flush_records: i64,
    /// Unless durable: a flush is asked for when bytes are not synced for this long; `None` is never.
    pub flush_interval: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            durability: Durability::Durable,
            min_insync: 1,
            acks_required: 0,
            lag_records: i64::MAX,
            flush_bytes: u64::MAX,
            flush_records: i64::MAX,
            flush_interval: None,
        }
    }
}
