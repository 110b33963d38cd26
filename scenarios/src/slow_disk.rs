//! A disk that stalls: latency rises, nothing else happens. No timeout may turn into a loss, a repeat or a hang.

use std::time::Duration;

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const SLOW_DISK: Scenario = Scenario {
    name: "slow_disk",
    about: "syncs and cold reads stall for up to seconds; acks wait, nothing is lost or doubled",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice);
        plan.cold_ppm = *dice.pick(&[100_000, 1_000_000]);
        plan.disk.sync_to = Duration::from_millis(dice.log_between(20, 800));
        plan.fault(6, Fault::SlowDisk).fault(dice.below(2), Fault::Kill).fault(dice.below(2), Fault::CutOff)
    })
}
