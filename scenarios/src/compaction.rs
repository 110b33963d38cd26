//! Compaction while the process is killed and the power fails (S31, S27): per key the newest acknowledged value survives,
//! offsets never change, nothing is reordered or comes back, delete markers go after what they delete and not too early.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, DURABLE, Fault, Plan};

/// The story.
pub const COMPACTION: Scenario = Scenario {
    name: "compaction",
    about: "few keys, tiny segments, a cleaner at work through kills and power cuts: the newest value of each key stays",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let segment_bytes = dice.log_between(512, 8192);
        Plan::drawn(&mut dice)
            .with_durability(DURABLE)
            .with_segments(segment_bytes)
            .with_compaction(&mut dice)
            .all_idempotent()
            .fault(6, Fault::PowerCut)
            .fault(3, Fault::Kill)
            .fault(2, Fault::PowerCutTwice)
            .fault(2, Fault::Restart)
            .fault(dice.below(2), Fault::SlowDisk)
            .fault(dice.below(2), Fault::DiskFull)
    })
}
