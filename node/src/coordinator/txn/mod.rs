//! Transactions of one partition of the transaction log: who may write in which, and how each one ends. Pure.
//!
//! The tour: [`ask`] is what comes in and goes out; [`state`] is one transactional id (its states, fencing, epochs, in the
//! way of KIP-890 for clients that bump their epoch with every transaction, and in the old way for those that do not);
//! [`txns`] is all of a shard (what waits for a write or for markers, what time brings); [`record`] is what stands in the
//! log.
//!
//! [`machine`] is how a shard of `coordinator::shard` drives it; `coordinator::markers` brings markers where they belong.
//!
//! ```text
//!          add                 end                    written: markers leave              all markers in
//!  Empty ──────► Ongoing ─────────────► Prepare{Commit,Abort} ─────────────────────────► Complete{Commit,Abort}
//!    ▲  init         │ timeout, init: epoch + 1, abort ▲        ▲ a restart begins here again       │ add ─► Ongoing
//!    └───────────────┴─────────────────────────────────┘                                           │ init ─► Empty
//!                                                                       silent for days ─► Dead ─► forgotten
//! ```

pub mod ask;
pub mod machine;
pub mod record;
pub mod state;
pub mod txns;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

pub use txns::{Settings, Txns};
