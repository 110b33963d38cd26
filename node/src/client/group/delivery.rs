//! When an offset is committed: before the user sees the records, or after.
//!
//! ```text
//!  at-most-once   fetch ─► commit ─► hand out            a crash behind the commit loses them, nobody sees them twice
//!  at-least-once  fetch ─► hand out ─► next poll: commit  a crash before the commit shows them again, nothing is lost
//! ```

use std::str::FromStr;
use std::time::Duration;

/// The delivery semantics of a group's member: one setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Committed before they are handed out: a record is seen once at most, and may be lost with a crash. Records whose
    /// commit did not end well are not handed out.
    AtMostOnce,
    /// Committed after they were handed out, with the poll that follows and at most this often; and before partitions
    /// are given up. Nothing is lost, and some are seen again after a crash or a rebalance that came unasked.
    AtLeastOnce {
        /// Shortest time between two commits; zero commits with every poll.
        every: Duration,
    },
    /// The user commits.
    Manual,
}

impl Default for Delivery {
    fn default() -> Delivery {
        // Kafka's auto.commit.interval.ms.
        Delivery::AtLeastOnce { every: Duration::from_secs(5) }
    }
}

impl FromStr for Delivery {
    type Err = String;

    fn from_str(text: &str) -> Result<Delivery, String> {
        match text {
            "at-most-once" => Ok(Delivery::AtMostOnce),
            "at-least-once" => Ok(Delivery::AtLeastOnce { every: Duration::ZERO }),
            _ => Err("use at-least-once or at-most-once".into()),
        }
    }
}
