//! The simulated stories, one file each, and the tables of planted bugs.
//!
//! Every story has two acts (see `dejaq_sim::story`): faults strike while clients send and read; then everything is
//! healed, the broker must serve and still hold every acknowledged record. A story here is a [`Plan`] drawn from the
//! seed, with its faults: about ten lines. See TESTING.md for how to write one.
//!
//! [`Plan`]: dejaq_sim::story::Plan

mod bit_rot;
mod compaction;
mod disk_full;
mod failed_sync;
mod false_start;
mod fleet;
mod fleet_groups;
mod fleet_replicated;
mod fleet_stories;
mod group_stories;
mod groups;
mod hostile_client;
mod idempotent_retries;
mod kill_restart;
mod lying_disk;
mod metadata;
mod misplaced;
mod mutants;
mod network;
mod pipelines;
mod power_cut;
mod rebalance;
mod resettled;
mod retention_roll;
mod slow_disk;
mod steady;
mod stories;
mod substrate;
mod swarm;
#[cfg(test)]
mod telling;
mod timestamps;
mod told_isr;
mod told_quorum;
mod told_replication;
mod torn_tail;
mod transactions;

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
    false_start::FALSE_START,
    failed_sync::FAILED_SYNC,
    disk_full::DISK_FULL,
    disk_full::DISK_BRIM,
    slow_disk::SLOW_DISK,
    hostile_client::HOSTILE_CLIENT,
    retention_roll::RETENTION_ROLL,
    compaction::COMPACTION,
    idempotent_retries::IDEMPOTENT_RETRIES,
    network::NETWORK,
    lying_disk::LYING_DISK,
    misplaced::MISPLACED,
    groups::AT_LEAST_ONCE,
    groups::AT_MOST_ONCE,
    groups::COMPACTED,
    groups::STATIC,
    metadata::METADATA,
    metadata::METADATA_LOST,
    fleet::STEADY,
    fleet::FAILOVER,
    fleet::POWER,
    fleet::NETWORK,
    fleet::CHAOS,
    fleet::MOVES,
    fleet::JOINS,
    fleet::ROT,
    fleet::ROT_EVERYWHERE,
    fleet::WIPED,
    fleet::REPLICATED,
    fleet_replicated::NETWORK,
    fleet_replicated::MOVES,
    fleet_replicated::JOINS,
    fleet::BEYOND,
    fleet::TAILS,
    fleet::BEHIND,
    fleet::STRAGGLERS,
    fleet::OVERWRITES,
    fleet::REPLACED,
    fleet::PUT_BACK,
    fleet_stories::OLD_ENTRY,
    fleet_stories::READDED,
    told_isr::UNCLEAN,
    told_isr::MAXIMAL,
    told_isr::LAST_STANDING,
    told_isr::BUDGET,
    told_isr::SHRINKS,
    told_isr::ELIGIBLE,
    told_isr::STOPPING,
    told_isr::ALONE,
    told_isr::BOUNCE,
    told_isr::STALE,
    told_replication::RESTARTED,
    told_replication::WATERMARK,
    told_replication::OLD_EPOCH,
    told_replication::RETRIES,
    told_replication::PIPELINED,
    told_replication::ELECTIONS,
    told_replication::UNDER_WAY,
    told_replication::NEAREST,
    told_replication::CUT_OFF,
    told_replication::UNSEEN_EPOCH,
    told_replication::BLACKOUT,
    told_quorum::HARMED,
    told_quorum::METADATA_LOST,
    told_quorum::FAILED_OVER,
    told_quorum::HALF_MADE,
    fleet::UPGRADE,
    transactions::ONE,
    transactions::FLEET,
    transactions::TRANSFERS,
    transactions::FLEET_TRANSFERS,
    pipelines::ONE,
    pipelines::FLEET,
    swarm::ONE,
    swarm::FLEET,
    resettled::ONE,
    resettled::FLEET,
    timestamps::TIMESTAMPS,
    fleet_groups::AT_LEAST_ONCE,
    fleet_groups::AT_MOST_ONCE,
    fleet_groups::NEW_AT_LEAST_ONCE,
    fleet_groups::NEW_AT_MOST_ONCE,
    fleet_groups::BOTH,
    fleet_groups::TEN_AT_LEAST_ONCE,
    fleet_groups::TEN_AT_MOST_ONCE,
    substrate::SUBSTRATE,
    stories::KILL,
    stories::POWER_CUT,
    stories::FAILED_SYNC,
    stories::TORN_TAIL,
    stories::DISK_FULL,
    stories::RETENTION,
    rebalance::REBALANCE,
    group_stories::ZOMBIE,
    group_stories::MOVING,
    group_stories::COMPACTED,
    group_stories::STAGED,
    group_stories::BEHIND,
    group_stories::LATE_END,
    group_stories::LATE_MARKER,
    group_stories::UNDECIDED,
    group_stories::REVENANT,
    group_stories::FORGOTTEN,
    group_stories::USED_UP,
    group_stories::COMES_BACK,
];

/// What `dejaq-sim` offers.
pub const TABLES: Tables = Tables {
    scenarios: SCENARIOS,
    mutants: mutants::MUTANTS,
    testers: mutants::TESTERS,
    regressions: include_str!("../regressions.txt"),
    marks: include_str!("../marks.txt"),
};

#[cfg(test)]
mod tests {
    use dejaq_sim::runner::{Regression, RunParams, Status};

    use super::*;

    #[test]
    fn seeds_that_once_found_something_find_nothing() {
        for known in Regression::all(TABLES.regressions).expect("the file is of its form") {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == known.scenario);
            let scenario = scenario.unwrap_or_else(|| panic!("{known:?} names no scenario"));
            let report = (scenario.run)(&RunParams {
                seed: known.seed,
                cuts: known.cuts.clone(),
                ..RunParams::default()
            });
            assert_eq!((report.status, &*report.message), (Status::Pass, ""), "{known:?}");
        }
    }
}
