//! What carries the metadata quorum: Raft's inputs in, its turns out, on a disk and over peers.
//!
//! The tour: everything that happens comes through the [`inbox`], which the driver (`controller::driver`) empties; it
//! steps `raft` and hands on what comes out: writes to the [`writer`] (SHELL), which makes them durable by the `journal`;
//! messages to `peer`, from where they arrive in the [`room`] of another node; committed entries to the image.
//! [`entry`] (pure) is how an entry lies in the log, [`calls`] what operators ask its leader for.
//!
//! ```text
//!  peers ─► room ─┐                    ┌─► writer ─► journal ─► disk ─┐
//!  requests ──────┼─► inbox ─► driver ─┼─► peers                      │
//!  time ──────────┘     ▲              └─► image ─► published         │
//!                       └─────────────────── durable, failed, full ◄──┘
//! ```

pub mod calls;
pub mod entry;
pub(super) mod inbox;
pub mod room;
pub(super) mod writer;

pub use room::RaftRoom;
