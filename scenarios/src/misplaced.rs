//! Blocks of one partition in the files of another (S23): every CRC that a producer made is right, and still nothing of it
//! may be served as the other's. What stood there before is gone, reported as damage; everything else is there.

use std::time::Duration;

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const MISPLACED: Scenario = Scenario {
    name: "misplaced",
    about: "a whole segment of one partition lies in the files of another at a start: refused, never served as its own",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).all_idempotent().with_segments(dice.log_between(2048, 16_384));
        plan.chaos = Duration::from_secs(dice.between(4, 12));
        for topic in &mut plan.topics {
            topic.partitions = topic.partitions.max(2);
        }
        plan.fault(4, Fault::Misplaced).fault(1, Fault::Restart)
    })
}
