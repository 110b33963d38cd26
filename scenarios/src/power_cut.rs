//! The power fails at any instant (S29): under `durable` nothing acknowledged is lost; under the others what is lost
//! was never promised, and is a suffix.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// Nothing that acks=all acknowledged is lost, ever.
pub const DURABLE: Scenario = Scenario {
    name: "power_cut",
    about: "power cuts at any instant, also during recovery; durability=durable loses nothing acked with acks=all",
    run: |params| run(params, story::DURABLE),
    random: true,
};

/// What was not synced yet may be lost, as a suffix.
pub const REPLICATED: Scenario = Scenario {
    name: "power_cut_replicated",
    about: "power cuts under durability=replicated: only an unsynced suffix is lost, the log stays whole",
    run: |params| run(params, story::REPLICATED),
    random: true,
};

/// As replicated, with no syncs at all while it runs.
pub const NONE: Scenario = Scenario {
    name: "power_cut_none",
    about: "power cuts under durability=none: anything unsynced is lost, and only as a suffix",
    run: |params| run(params, story::NONE),
    random: true,
};

fn run(params: &RunParams, durability: (&str, bool)) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        Plan::drawn(&mut dice)
            .with_durability(durability)
            .fault(6, Fault::PowerCut)
            .fault(2, Fault::PowerCutTwice)
            .fault(dice.below(3), Fault::Kill)
            .fault(dice.below(3), Fault::Restart)
            .fault(dice.below(2), Fault::SlowDisk)
    })
}
