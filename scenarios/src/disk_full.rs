//! The disk is full, and freed again (S25): writes are refused and leave the log as it was, reads go on, and when there
//! is room the broker serves by itself.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const DISK_FULL: Scenario = Scenario {
    name: "disk_full",
    about: "no room in appends, rolls, side files and checkpoints, at any moment; nothing acked is lost, service resumes",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).with_segments(dice.log_between(2048, 65_536));
        plan.config.min_free_bytes = *dice.pick(&[0, 0, 4096, 32_768]);
        plan.capacity = Some(64 << 20);
        plan.fault(6, Fault::DiskFull).fault(dice.below(2), Fault::Kill).fault(dice.below(2), Fault::PowerCut)
    })
}
