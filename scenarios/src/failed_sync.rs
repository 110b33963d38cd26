//! A sync or a write fails (S24): the directory goes offline, nothing later is acknowledged on the strength of it, and
//! after a restart (here with or without a power cut) everything acknowledged is there.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const FAILED_SYNC: Scenario = Scenario {
    name: "failed_sync",
    about: "syncs, directory syncs and appends fail once; the second would succeed, and must not be believed",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        Plan::drawn(&mut dice)
            .all_idempotent()
            .fault(5, Fault::FailedSync)
            .fault(3, Fault::FailedWrite)
            .fault(dice.below(2), Fault::FailedReads)
            .fault(dice.below(2), Fault::PowerCut)
    })
}
