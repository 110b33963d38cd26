//! Clients that cannot reach the broker, answers that do not come back, half-open connections, pauses.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const NETWORK: Scenario = Scenario {
    name: "network",
    about: "one-way cuts, resets, pauses and power cuts that leave connections half open; nothing acked is lost",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        Plan::drawn(&mut dice)
            .fault(5, Fault::CutOff)
            .fault(3, Fault::Reset)
            .fault(2, Fault::Pause)
            .fault(1, Fault::PowerCut)
            .fault(1, Fault::SlowDisk)
    })
}
