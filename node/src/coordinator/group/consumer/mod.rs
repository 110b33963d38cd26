//! Groups of KIP-848: the coordinator makes the plan, and leads each member to its part of it.
//!
//! The tour: [`members`] is one such group (epochs, members, who owns what); [`heartbeat`] the one request of its
//! members; [`plan`] how the plan is made when members or topics change; [`assignor`] the plan itself (pure of pure);
//! [`reconcile`] one member's next step towards it; [`topics`] which topics are read, by name and by pattern; [`face`]
//! members that still speak the classic protocol, translated; [`convert`] a live group's way from the classic protocol
//! and back; [`keep`] what is written, and who is told when it is; [`describe`] what is told to operators.
//!
//! Promises: a partition has one owner at any time: the new one gets it when the old one said that it gave it up, or
//! is out (GRP-1, GRP-6); epochs only rise (GRP-12); what is told is durable before it is told.
//! Leaves out: offsets, which all groups keep alike (`super::offsets`, `super::commit`).
//!
//! ```text
//!  group epoch     rises when members or topics change
//!  target epoch    follows: a new plan                 group ≥ target ≥ every member
//!  member epoch    follows: each member, on its own
//!
//!                      plan changed                  gave up what it had to
//!  member:   Stable ─────────────────► Unrevoked ──────────────────────────► Stable, at the target's epoch
//!              ▲                                              └► Unreleased ───┘  while others hold what it gets
//! ```

pub mod assignor;
pub mod convert;
pub mod describe;
pub mod face;
pub mod heartbeat;
pub mod keep;
pub mod member;
pub mod members;
pub mod plan;
pub mod reconcile;
pub mod topics;

#[cfg(test)]
mod convert_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
