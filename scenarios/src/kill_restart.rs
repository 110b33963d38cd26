//! `kill -9` and restart, again and again: what was written is kept, so nothing acknowledged may be missing, at any acks.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, DURABLE, Fault, NONE, Plan, REPLICATED};

/// The story.
pub const KILL_RESTART: Scenario = Scenario {
    name: "kill_restart",
    about: "the process is killed, stopped or paused at any moment, under each durability; nothing acked is lost",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let durability = *dice.pick(&[DURABLE, REPLICATED, NONE]);
        Plan::drawn(&mut dice)
            .with_durability(durability)
            .fault(5, Fault::Kill)
            .fault(2, Fault::Restart)
            .fault(dice.below(3), Fault::Pause)
            .fault(dice.below(2), Fault::ClockStep)
    })
}
