//! The disk is full, and freed again (S25): writes are refused and leave the log as it was, reads go on, and when there
//! is room the broker serves by itself.

use std::time::Duration;

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const DISK_FULL: Scenario = Scenario {
    name: "disk_full",
    about: "no room in appends, rolls, side files and checkpoints, at any moment; nothing acked is lost, service resumes",
    run,
    random: true,
};

/// To the last byte, while starts move.
pub const DISK_BRIM: Scenario = Scenario {
    name: "disk_brim",
    about: "not one byte of room while DeleteRecords and retention free some: starts move by the reserve, service resumes",
    run: brim,
    random: true,
};

fn brim(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).with_segments(dice.log_between(1024, 8192));
        if dice.chance(500) {
            plan = plan.with_retention(&mut dice);
        }
        plan.topics.iter_mut().for_each(|topic| topic.trims = true);
        plan.config.min_free_bytes = *dice.pick(&[1, 4096, 32_768]);
        plan.capacity = Some(64 << 20);
        plan.gap = (Duration::from_millis(20), Duration::from_millis(dice.between(100, 600)));
        plan.fault(5, Fault::DiskBrim)
            .fault(6, Fault::Trim)
            .fault(dice.below(2), Fault::Kill)
            .fault(dice.below(2), Fault::PowerCut)
    })
}

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).with_segments(dice.log_between(2048, 65_536));
        plan.config.min_free_bytes = *dice.pick(&[0, 0, 4096, 32_768]);
        plan.capacity = Some(64 << 20);
        plan.fault(6, Fault::DiskFull).fault(dice.below(2), Fault::Kill).fault(dice.below(2), Fault::PowerCut)
    })
}
