//! How our own nodes talk: one connection to each other node, any number of calls on it.
//!
//! - [`peers`]: the handle to ask others, [`Peers::request`]; `link` (SHELL): the connection to one of them
//! - [`listener`] (SHELL): accepts; `served` (SHELL): one connection that was accepted
//! - [`service`]: what answers, chosen by the room of a call (raft, replica, control)
//! - [`late`]: a room that is opened after the door
//! - `greeting`: who may talk to whom; `outbox` (SHELL): the sending half of a connection
//!
//! ```text
//!  Peers::request ─► link ─► outbox ═══ net ═══► served ─► Routes ─► Service::start ─► outbox ═══► link ─► answer
//! ```
//!
//! Everything is bounded: calls in flight per link, frames, connections, waits; a lost link is opened again with
//! backoff when somebody asks.

mod greeting;
pub mod late;
mod link;
pub mod listener;
mod outbox;
pub mod peers;
mod served;
pub mod service;

pub use greeting::{ClusterId, Identity};
pub use late::LateRoom;
pub use listener::{PeerBound, PeerServer};
pub use peers::{AskError, Peers};
pub use service::{Answering, PeerAnswer, PeerService, PeerSession, Routes, answer, read};

use std::time::Duration;

/// Bounds of the talk between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// Calls of one link that are not answered, after which no more is sent or read.
    pub in_flight: usize,
    /// Largest frame.
    pub frame_max_bytes: usize,
    /// Received bytes of all accepted connections (and, apart, of all links) that are not worked off.
    pub memory_bytes: usize,
    /// Connecting and greeting together take no longer.
    pub connect_timeout: Duration,
    /// When nothing was heard for so long while an answer is awaited, a ping is sent; after as long again without a
    /// word the connection is given up.
    pub silence: Duration,
    /// A frame is taken by the other side within this time, or the connection is given up.
    pub send_timeout: Duration,
    /// First and longest pause between two attempts to connect.
    pub backoff: (Duration, Duration),
    /// How long a stop waits for calls that are being answered.
    pub drain_timeout: Duration,
}

impl Default for PeerLimits {
    fn default() -> PeerLimits {
        PeerLimits {
            in_flight: 256,
            frame_max_bytes: 101 << 20,
            memory_bytes: 256 << 20,
            connect_timeout: Duration::from_secs(2),
            silence: Duration::from_secs(1),
            send_timeout: Duration::from_secs(30),
            backoff: (Duration::from_millis(20), Duration::from_millis(500)),
            drain_timeout: Duration::from_secs(2),
        }
    }
}

#[cfg(test)]
mod tests;
