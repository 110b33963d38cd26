//! A consumer that shares topics with the other members of its group, by the classic protocol or by the new one (KIP-848).
//!
//! The tour: [`member`] (SHELL) is the consumer that a user polls: it joins, heartbeats, commits and reads, all from
//! within `poll`; [`coordinator`] (SHELL) finds the group's broker and talks to it over a connection of its own;
//! [`join`] (SHELL) is one way through a rebalance; [`protocol`] (pure) is what members tell each other; [`assignor`]
//! (pure) makes the plan when this member leads; [`beats`] (pure) is what a member of the new protocol tells of itself;
//! [`delivery`] (pure) says when an offset is committed; `reading` is what the consumer below is told and asked.
//!
//! ```text
//!   poll ─► join ─► sync ─► my part ─► committed offsets ─► consumer reads ─► records ─► user
//!     │       ▲                                                 commit before or behind: Delivery
//!     └ heartbeat: REBALANCE_IN_PROGRESS ─► give up (all, or what moved) ─┘
//!
//!   new:  poll ─► heartbeat ─► what I shall own ─► give up, say so ─► take ─► the same from committed offsets on
//! ```

pub mod assignor;
mod beats;
pub mod coordinator;
pub mod delivery;
mod join;
pub mod member;
pub mod protocol;
mod reading;
pub mod standing;

pub use assignor::Assignor;
pub use delivery::Delivery;
pub use member::{GroupConfig, GroupConsumer, GroupError, Protocol, Rebalance};
pub use standing::Standing;
