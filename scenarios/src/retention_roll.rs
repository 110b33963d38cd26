//! Rolling, retention and DeleteRecords under crashes (S27, S30): no crash in the middle loses a live record or brings
//! a deleted one back, and the log start never moves back. Half of the stories leave it to DeleteRecords, the others let
//! retention take by age and size, while the clock jumps.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const RETENTION_ROLL: Scenario = Scenario {
    name: "retention_roll",
    about: "tiny segments roll, DeleteRecords and retention move the start, power cuts and clock steps in between: nothing lost, nothing resurrected",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).with_segments(dice.log_between(1024, 16_384));
        for topic in &mut plan.topics {
            topic.trims = true;
        }
        let retains = dice.chance(500);
        if retains {
            plan = plan.with_retention(&mut dice);
        }
        plan.fault(6, Fault::Trim)
            .fault(if retains { 4 } else { 0 }, Fault::ClockStep)
            .fault(3, Fault::PowerCut)
            .fault(2, Fault::Kill)
            .fault(1, Fault::PowerCutTwice)
            .fault(1, Fault::Restart)
    })
}
