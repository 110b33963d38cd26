//! Bit rot below the durable point (S22): it is found, never served, never answered by cutting the log, and everything
//! else is still there. With one copy the rotten batch itself is gone; that must be reported, and is excused (R4).

use std::time::Duration;

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const BIT_ROT: Scenario = Scenario {
    name: "bit_rot",
    about: "bytes rot in durable batches, then reads and restarts: damage is refused, all other records are served",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).all_idempotent();
        plan.chaos = Duration::from_secs(dice.between(8, 30));
        plan.gap = (Duration::from_millis(50), Duration::from_millis(800));
        plan.fault(4, Fault::Rot).fault(1, Fault::Kill).fault(1, Fault::PowerCut).fault(1, Fault::Restart)
    })
}
