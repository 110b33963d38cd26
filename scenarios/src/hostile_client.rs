//! Clients that send garbage, lies about lengths and floods, beside honest ones: the hostile ones are refused or cut off,
//! the honest ones notice nothing. Half frames and bounded memory are asked by the tests of `server` and of the wire.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};

/// The story.
pub const HOSTILE_CLIENT: Scenario = Scenario {
    name: "hostile_client",
    about: "garbage, wrong versions, huge claims and floods beside honest clients, who lose nothing",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice);
        plan.hostiles = dice.between(1, 5) as usize;
        plan.fault(dice.below(2), Fault::Kill).fault(dice.below(2), Fault::Reset)
    })
}
