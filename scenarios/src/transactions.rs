//! Transactions under faults (S47 to S55): all or nothing in every partition, never seen before they are committed, never
//! flipped, never left open; a life of a transactional id that is over does nothing any more.

use dejaq_sim::rng::Dice;
use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, DURABLE, Fault, Plan};

/// On one broker.
pub const ONE: Scenario = Scenario {
    name: "transactions",
    about: "transactions of several producers, killed, without power, paused: all or nothing, and none left open",
    run: |params: &RunParams| -> RunReport {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let mut plan = Plan::drawn(&mut dice).with_durability(DURABLE);
            plan.transactors = dice.between(1, 3) as usize;
            plan.producers.truncate(1);
            plan.config.transactions.partitions = dice.between(1, 3) as u32;
            plan.fault(3, Fault::Kill)
                .fault(3, Fault::PowerCut)
                .fault(2, Fault::Restart)
                .fault(dice.below(2), Fault::Pause)
        })
    },
    random: true,
};

/// Amounts move, on one broker.
pub const TRANSFERS: Scenario = Scenario {
    name: "transactions_transfers",
    about: "amounts move between partitions, by old clients too, some of which die while they commit: the books balance",
    run: |params: &RunParams| -> RunReport {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice).with_durability(DURABLE);
            transfers(plan, &mut dice)
                .fault(3, Fault::Kill)
                .fault(5, Fault::PowerCut)
                .fault(1, Fault::Restart)
                .fault(dice.below(2), Fault::Pause)
        })
    },
    random: true,
};

/// Amounts move, on three brokers.
pub const FLEET_TRANSFERS: Scenario = Scenario {
    name: "cluster_transactions_transfers",
    about: "the same over three brokers that are killed, cut off, without power",
    run: |params: &RunParams| -> RunReport {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice).with_durability(DURABLE);
            let plan = plan.fleet((3, 3), (3, 2)).settled();
            transfers(plan, &mut dice)
                .fault(4, Fault::Kill)
                .fault(2, Fault::PowerCut)
                .fault(1, Fault::Restart)
                .fault(dice.between(1, 3), Fault::Isolate)
        })
    },
    random: true,
};

fn transfers(mut plan: Plan, dice: &mut Dice) -> Plan {
    plan.transactors = dice.between(2, 6) as usize;
    plan.transfers = true;
    plan.producers.truncate(1);
    plan.consumers.truncate(1);
    plan.config.transactions.partitions = dice.between(1, 3) as u32;
    plan
}

/// On three brokers.
pub const FLEET: Scenario = Scenario {
    name: "cluster_transactions",
    about: "transactions over three brokers that are killed, cut off, without power: coordinators move, nothing tears",
    run: |params: &RunParams| -> RunReport {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice).with_durability(DURABLE);
            let mut plan = plan.fleet((3, 3), (3, 2)).settled();
            plan.transactors = dice.between(1, 3) as usize;
            plan.producers.truncate(1);
            plan.config.transactions.partitions = dice.between(1, 3) as u32;
            plan.fault(4, Fault::Kill)
                .fault(2, Fault::PowerCut)
                .fault(2, Fault::Restart)
                .fault(dice.below(2), Fault::Isolate)
        })
    },
    random: true,
};
