//! Groups: a pure state machine for the members of every group of one shard, and for their offsets.
//!
//! The tour: [`ask`] is what goes in and comes out; [`groups`] holds all groups of a shard, hands each event to its
//! group, keeps deadlines and what waits for a write; [`classic`] is one group of the classic protocol, with joining
//! in [`join`], static members in [`instance`], plans and heartbeats in [`sync`], leaving in [`leave`]; [`offsets`] is
//! how far a group is in each partition, with commits, deletions and expiry in [`commit`]; [`load`] is the way from
//! the log and back to it; [`member`] one member; [`subscription`] what a consumer says that it reads; [`turn`] what
//! one step may use; [`consumer`] groups of KIP-848, whose members a group has instead of its own while it is one;
//! `machine` is how a shard drives all of it.
//!
//! Promises: no clock, no IO; the same events give the same effects. A reply that speaks of a record leaves only after
//! the record was reported as written.
//!
//! ```text
//!        join              all joined, or deadline              plan written
//!  Empty ────► Preparing ──────────────────────────► Completing ─────────────► Stable
//!    ▲            │ ▲  nobody left                       │  join, leave, crash   │
//!    └────────────┘ └────────────────────────────────────┴──────────────────────┘
//!  Empty ─► Dead (deletion written) ─► gone
//! ```

pub mod ask;
pub mod classic;
mod commit;
pub mod consumer;
pub mod groups;
mod instance;
mod join;
mod leave;
pub mod load;
mod machine;
pub mod member;
pub mod offsets;
pub mod settings;
pub mod subscription;
mod sync;
pub mod turn;

pub use ask::{Ask, Effect, Event, Reply};
pub use groups::Groups;
pub use settings::Settings;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod txn_tests;
