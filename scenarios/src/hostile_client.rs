//! Clients that send garbage, lies about lengths, and requests of many thousand elements, beside honest ones: the hostile ones are refused or cut off,
//! the honest ones notice nothing. Half frames and bounded memory are asked by the tests of `server` and of the wire.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const HOSTILE_CLIENT: Scenario = Scenario {
    name: "hostile_client",
    about: "garbage, wrong versions, huge claims, and in every other story requests of many thousand elements whose answers nobody \
            reads, beside honest clients, who lose nothing; then there is memory for a large request",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice);
        plan.hostiles = dice.between(1, 5) as usize;
        // By a stream of its own: the seeds of the other half are the stories that they were.
        let mut floods = world.streams().dice("floods", 0);
        plan.floods = if floods.chance(500) { floods.between(1, 13) as usize } else { 0 };
        plan.fault(dice.below(2), Fault::Kill).fault(dice.below(2), Fault::Reset)
    })
}
