//! Idempotent producers whose requests are lost, late and repeated, over restarts of the broker (S47): each record
//! stands once, in the order of its producer, and a retry is told its first offset.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const IDEMPOTENT_RETRIES: Scenario = Scenario {
    name: "idempotent_retries",
    about: "resets, cuts and restarts under five batches in flight: no duplicate, no reordering, the first offset is told",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).all_idempotent().with_segments(dice.log_between(2048, 65_536));
        for producer in &mut plan.producers {
            producer.window = dice.between(20, 80) as usize;
            producer.linger = std::time::Duration::ZERO;
        }
        plan.sequencers = dice.between(1, 3) as usize;
        plan.fault(5, Fault::Reset)
            .fault(3, Fault::CutOff)
            .fault(2, Fault::Kill)
            .fault(2, Fault::PowerCut)
            .fault(1, Fault::Restart)
            .fault(1, Fault::SlowDisk)
    })
}
