//! Steady produce and consume: nothing goes wrong, and nothing may be missing, doubled, late or out of order.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Plan};

/// The story.
pub const STEADY: Scenario = Scenario {
    name: "steady",
    about: "no faults: every codec and batch size, acks all and 1; each record comes back once, in order, unchanged",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| Plan::drawn(&mut world.streams().dice("plan", 0)))
}
