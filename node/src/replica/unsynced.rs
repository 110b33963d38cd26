//! When to ask for a sync: the bytes between the flushed end and the local end, and the policy over them.
//!
//! Owns: the count of those bytes and which asks are outstanding. Promises: at most one [`Due::Now`] until a sync
//! ended, at most one [`Due::Within`] until its time is over.
//! Leaves out: offsets (the caller has them). Called by `leader` and by `follower`, which are never both alive.

use std::time::Duration;

use dejaq_wire::ids::Offset;

use super::policy::{Durability, Policy};

/// Bytes that no finished sync covers.
#[derive(Debug, Default)]
pub struct Unsynced {
    bytes: u64,
    /// The part of `bytes` that the running sync covers.
    covered: u64,
    /// A [`Due::Now`] is outstanding.
    asked: bool,
    /// A [`Due::Within`] is outstanding.
    timed: bool,
}

/// What is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// A sync, soon.
    Now,
    /// To be told when this time is over.
    Within(Duration),
}

impl Unsynced {
    /// Number of bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// So many were appended.
    pub fn append(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// A sync of all of them begins.
    pub fn begin(&mut self) {
        self.covered = self.bytes;
    }

    /// A sync ended; `is_all`: nothing was appended since it began.
    pub fn end(&mut self, is_all: bool) {
        assert!(self.covered <= self.bytes, "{self:?}");
        self.bytes -= self.covered;
        self.covered = 0;
        self.asked = false;
        if is_all {
            self.bytes = 0;
        }
    }

    /// The time of a [`Due::Within`] is over: what to ask for now.
    pub fn overdue(&mut self, local_end: Offset, flushed_end: Offset) -> Option<Due> {
        self.timed = false;
        self.ask(local_end, flushed_end)
    }

    /// What the policy asks for now.
    pub fn due(&mut self, policy: &Policy, local_end: Offset, flushed_end: Offset) -> Option<Due> {
        let is_due = match policy.durability {
            Durability::Durable => true,
            Durability::Replicated | Durability::None => {
                self.bytes >= policy.flush_bytes || local_end.since(flushed_end) >= policy.flush_records
            }
        };
        if is_due {
            return self.ask(local_end, flushed_end);
        }
        let interval = policy.flush_interval?;
        if flushed_end < local_end && !self.asked && !self.timed {
            self.timed = true;
            return Some(Due::Within(interval));
        }
        None
    }

    fn ask(&mut self, local_end: Offset, flushed_end: Offset) -> Option<Due> {
        if flushed_end < local_end && !self.asked {
            self.asked = true;
            return Some(Due::Now);
        }
        None
    }
}
