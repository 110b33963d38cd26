//! The torn tail (S21): power cuts so close to each other, with batches so small and segments so short, that every
//! place of a header, a body, a side file, an index and a snapshot is torn sooner or later.

use std::time::Duration;

use dejaq_sim::disk::Speed;
use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const TORN_TAIL: Scenario = Scenario {
    name: "torn_tail",
    about: "power cuts every few syncs over tiny segments: recovery keeps what was durable and cuts only a torn tail",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).with_segments(dice.log_between(1024, 32_768));
        for producer in &mut plan.producers {
            producer.value_bytes = dice.log_between(16, 1500) as usize;
            producer.think = Duration::from_millis(dice.log_between(1, 8));
        }
        plan.gap = (Duration::from_millis(5), Duration::from_millis(120));
        // Syncs that take long: most cuts hit one under way.
        plan.disk = Speed {
            sync_from: Duration::from_millis(1),
            sync_to: Duration::from_millis(dice.log_between(2, 60)),
            stall: Duration::ZERO,
        };
        plan.fault(8, Fault::PowerCut).fault(3, Fault::PowerCutTwice)
    })
}
