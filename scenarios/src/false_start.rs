//! Starts that end early after a clean stop (an address in use, a power cut, a kill), then rot in a side file that none of
//! them has opened: what the stop said of that log still holds. So the damage is reported, and nothing is cut (LOG-5).

use std::time::Duration;

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const FALSE_START: Scenario = Scenario {
    name: "false_start",
    about: "starts end early after a clean stop, then a side file rots: the stop is believed of what nobody opened since",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).all_idempotent();
        plan.chaos = Duration::from_secs(dice.between(5, 15));
        plan.gap = (Duration::from_millis(50), Duration::from_millis(2000));
        plan.fault(4, Fault::FalseStart)
            .fault(1, Fault::Kill)
            .fault(1, Fault::PowerCut)
            .fault(1, Fault::Restart)
    })
}
