//! A DejaQ cluster in one thread, from a seed: the broker of production on a simulated disk, network and clock.
//!
//! ```text
//! runner   dejaq-sim: one process a seed, twice, hunt, mutants
//!   scenarios (their own crate): cluster + workload + faults + claims
//!     world    virtual time, trace, streams of randomness      cluster   machines and their processes
//!     runtime · disk · net · clock                             the seams of `dejaq`, simulated
//!     oracle   judges what clients saw
//! ```

pub mod clock;
pub mod cluster;
#[cfg(test)]
mod cluster_tests;
pub mod cuts;
pub mod disk;
pub mod invariants;
pub mod ledger;
mod logs;
pub mod net;
pub mod oracle;
pub mod rng;
pub mod runner;
pub mod runtime;
pub mod story;
pub mod substrate;
pub mod timeline;
pub mod trace;
pub mod world;
