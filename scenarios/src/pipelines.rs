//! Consume, transform, produce under faults (TXN-11): members of a group die and stand still at any instant, brokers and
//! coordinators are killed, and each input that is committed has exactly one output that is.

use std::time::Duration;

use dejaq_sim::rng::Dice;
use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, DURABLE, Fault, PipePlan, Plan, Speaks};

/// On one broker.
pub const ONE: Scenario = Scenario {
    name: "transactions_ctp",
    about: "pipelines that consume, transform and produce, killed and paused as their broker is: each input once",
    run: |params: &RunParams| -> RunReport {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let mut plan = Plan::drawn(&mut dice).with_durability(DURABLE);
            // Sessions take six seconds to end.
            plan.chaos *= 5;
            plan.gap.1 *= 5;
            let plan = piped(plan, &mut dice);
            plan.fault(4, Fault::Kill)
                .fault(3, Fault::PowerCut)
                .fault(2, Fault::Restart)
                .fault(dice.below(2), Fault::Pause)
        })
    },
    random: true,
};

/// On three brokers.
pub const FLEET: Scenario = Scenario {
    name: "cluster_transactions_ctp",
    about: "the same over three brokers: both coordinators move while offsets and outputs are in one transaction",
    run: |params: &RunParams| -> RunReport {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice).with_durability(DURABLE);
            let plan = piped(plan.fleet((3, 3), (3, 2)).settled(), &mut dice);
            plan.fault(5, Fault::Kill)
                .fault(2, Fault::PowerCut)
                .fault(2, Fault::Restart)
                .fault(dice.below(2), Fault::Isolate)
        })
    },
    random: true,
};

/// With pipelines, few other clients, and inputs of which some are aborted.
fn piped(mut plan: Plan, dice: &mut Dice) -> Plan {
    plan.transactors = dice.below(3) as usize;
    plan.producers.truncate(2);
    // To the end of the first act.
    for producer in &mut plan.producers {
        producer.think = plan.chaos * 2 / u32::try_from(producer.records).expect("some hundreds");
    }
    plan.consumers.truncate(1);
    plan.config.transactions.partitions = dice.between(1, 3) as u32;
    plan.config.groups.partitions = dice.between(1, 3) as u32;
    plan.config.groups.initial_delay = Duration::from_millis(dice.log_between(1, 2000));
    plan.config.groups.consumer_session = Duration::from_secs(6);
    plan.config.groups.consumer_heartbeat = Duration::from_secs(1);
    let members = dice.between(2, 4) as usize;
    let speaks = *dice.pick(&[Speaks::Classic, Speaks::New, Speaks::Both]);
    plan.with_pipes(PipePlan { members, speaks, old: dice.chance(400) })
}
