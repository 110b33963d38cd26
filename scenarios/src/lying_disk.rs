//! A disk that lies (S23): a sync says `Ok`, and one sector keeps its old content, or lies in the log of another partition.
//!
//! What may be claimed with one copy: the damage is found and never served, no acknowledged record is changed in silence,
//! and what is lost is exactly the struck batches, reported as damage: everything else is there. A lie in the very last
//! group that was synced before a crash cannot be told from a torn tail (`storage::sum`); so crashes keep a distance of
//! three seconds to each lie here.

use std::time::Duration;

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const LYING_DISK: Scenario = Scenario {
    name: "lying_disk",
    about: "syncs say Ok and lose or misdirect a sector: struck batches are refused, never served, all others are there",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).all_idempotent();
        plan.chaos = Duration::from_secs(dice.between(10, 40));
        plan.gap = (Duration::from_millis(50), Duration::from_millis(800));
        for producer in &mut plan.producers {
            producer.think = Duration::from_millis(dice.log_between(5, 100));
        }
        plan.fault(5, Fault::LyingDisk)
            .fault(1, Fault::Kill)
            .fault(1, Fault::PowerCut)
            .fault(1, Fault::Restart)
    })
}
