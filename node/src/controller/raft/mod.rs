//! The metadata quorum: Raft in Kafka's pull shape, as a pure step machine.
//!
//! The tour: [`facade`] is the door, an `Input` goes in and a `Turn` comes out. [`machine`] makes the step: `receiving`
//! looks at epochs first, `settling` says what follows from it; what a node is at the moment is its [`role`].
//! `election` gives and counts votes, `following` fetches the log, `leading` serves it and commits, `change` adds and
//! removes voters. [`entries`] is the log in memory, [`store`] knows what of it is durable, [`voters`] counts
//! majorities, [`restore`] makes fit what a crash left.
//!
//! ```text
//!  tick, message, proposal, read, durable ─► step ─► writes · sends · applies · answers · view
//! ```
//!
//! The messages are in `dejaq_wire::peer::raft`. The driver that carries the turns out is `controller::quorum`.

mod change;
mod election;
pub mod entries;
pub mod facade;
mod following;
mod leading;
pub mod machine;
mod receiving;
pub mod restore;
pub mod role;
mod settling;
pub mod store;
pub mod voters;

pub use facade::{
    Apply, Change, ChangeRefused, HardState, Input, Limits, Lost, Restored, Settings, Snapshot, Standing,
    Ticket, Timing, Token, Turn, View, Write,
};
pub use machine::Raft;
pub use voters::{BadVoters, VoterSet};
