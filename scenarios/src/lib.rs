//! The simulated stories, one file each, and the tables of planted bugs.
//!
//! Every story has two acts (see `dejaq_sim::story`): faults strike while clients send and read; then everything is
//! healed, the broker must serve and still hold every acknowledged record. A story here is a [`Plan`] drawn from the
//! seed, with its faults: about ten lines. See TESTING.md for how to write one.
//!
//! [`Plan`]: dejaq_sim::story::Plan

mod bit_rot;
mod disk_full;
mod failed_sync;
mod hostile_client;
mod idempotent_retries;
mod kill_restart;
mod mutants;
mod network;
mod power_cut;
mod retention_roll;
mod slow_disk;
mod steady;
mod torn_tail;

use dejaq_sim::runner::{Scenario, Tables};

/// Every scenario.
pub const SCENARIOS: &[Scenario] = &[
    steady::STEADY,
    kill_restart::KILL_RESTART,
    power_cut::DURABLE,
    power_cut::REPLICATED,
    power_cut::NONE,
    torn_tail::TORN_TAIL,
    bit_rot::BIT_ROT,
    failed_sync::FAILED_SYNC,
    disk_full::DISK_FULL,
    slow_disk::SLOW_DISK,
    hostile_client::HOSTILE_CLIENT,
    retention_roll::RETENTION_ROLL,
    idempotent_retries::IDEMPOTENT_RETRIES,
    network::NETWORK,
];

/// What `dejaq-sim` offers.
pub const TABLES: Tables =
    Tables { scenarios: SCENARIOS, mutants: mutants::MUTANTS, testers: mutants::TESTERS };
