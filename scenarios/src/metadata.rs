//! Admin clients under fire: what was answered about topics, their partitions and their settings survives every crash, and
//! is seen by the next request (MQ-12 on one node).

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// Answers hold.
pub const METADATA: Scenario = Scenario {
    name: "metadata",
    about: "topics are made, altered, grown and deleted while the power fails: every answer holds, and is seen at once",
    run: answers,
    random: true,
};

/// Lost metadata is never taken for none.
pub const METADATA_LOST: Scenario = Scenario {
    name: "metadata_lost",
    about: "the metadata log is gone, cut or rotten at a start: the broker refuses to start, deletes nothing, and goes on when it is back",
    run: lost,
    random: true,
};

fn answers(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice);
        plan.admins = dice.between(1, 5) as usize;
        plan.producers.truncate(1);
        plan.fault(6, Fault::PowerCut)
            .fault(2, Fault::PowerCutTwice)
            .fault(2, Fault::Kill)
            .fault(1, Fault::Restart)
            .fault(dice.below(2), Fault::FailedSync)
            .fault(dice.below(2), Fault::Reset)
    })
}

fn lost(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice);
        plan.admins = dice.below(2) as usize;
        plan.fault(4, Fault::MetadataLost).fault(1, Fault::PowerCut).fault(1, Fault::Kill)
    })
}
