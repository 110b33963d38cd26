//! A person changes settings between two starts: what is kept with the data wins over what a start says.
//!
//! Every start of a broker but the first draws its limits, its intervals, what topics are that do not say it themselves, and how
//! many partitions internal topics would have if they were made now (`dejaq_sim::story`, `settings`).

use std::time::Duration;

use dejaq_sim::rng::Dice;
use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, DURABLE, Fault, GroupPlan, Plan, Speaks};

/// One broker.
pub const ONE: Scenario = Scenario {
    name: "resettled",
    about: "one broker has other settings at each of its starts, beside a group or transactions: nothing acked is lost, no offset \
            goes back, no transaction is torn",
    run: |params| run(params, 1),
    random: true,
};

/// Four.
pub const FLEET: Scenario = Scenario {
    name: "cluster_resettled",
    about: "four brokers, each with other settings than the others and than before, and partitions that move, some of them slowly: the \
            same, and all copies are alike",
    run: |params| run(params, 4),
    random: true,
};

fn run(params: &RunParams, brokers: u32) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).with_durability(DURABLE);
        if brokers > 1 {
            plan = plan.fleet((brokers, 3), (3, 2)).fault(2, Fault::Reassign);
        }
        let mut plan = busy(plan.settled(), &mut dice);
        plan.resettles = true;
        // What a topic does not say is what the settings say.
        for topic in &mut plan.topics {
            topic.configs.remove("index.interval.bytes");
        }
        plan.fault(3, Fault::Restart).fault(2, Fault::Kill).fault(dice.below(2), Fault::PowerCut)
    })
}

/// Adds a group, or transactions.
fn busy(mut plan: Plan, dice: &mut Dice) -> Plan {
    plan.config.groups.partitions = dice.between(1, 5) as u32;
    plan.config.transactions.partitions = dice.between(1, 5) as u32;
    if dice.chance(500) {
        plan.transactors = dice.between(1, 3) as usize;
        plan.producers.truncate(1);
        return plan;
    }
    plan.consumers.clear(); // the group reads
    plan.config.groups.consumer_session = Duration::from_secs(6);
    plan.config.groups.consumer_heartbeat = Duration::from_secs(1);
    let speaks = *dice.pick(&[Speaks::Classic, Speaks::New]);
    let members = dice.between(2, 4) as usize;
    plan.group = Some(GroupPlan { members, at_most_once: false, compacts: false, speaks, statics: false });
    plan
}

#[cfg(test)]
mod tests {
    use dejaq_sim::runner::Status;

    use super::*;

    #[test]
    fn a_seed_of_each_that_the_gate_runs_in_debug() {
        for scenario in [ONE, FLEET] {
            let report = (scenario.run)(&RunParams { seed: 1, ..RunParams::default() });
            assert_eq!((report.status, &*report.message), (Status::Pass, ""), "{}", scenario.name);
        }
    }
}
