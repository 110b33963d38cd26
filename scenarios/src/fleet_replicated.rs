//! Fleets whose topics are `durability=replicated` (CORRECTNESS 5.3): where no power fails, it promises what `durable` does,
//! through cuts of the network, moves and brokers that come.
//!
//! Leaves out: power cuts, within what is borne and beyond (`cluster_replicated`, `…_beyond`, `cluster_lossy_budget`), and disks that
//! rot or are replaced: a copy that was not synced anywhere is no copy then.

use dejaq_sim::runner::Scenario;
use dejaq_sim::story::{self, Fault, Plan};

/// The network between them fails.
pub const NETWORK: Scenario = Scenario {
    name: "cluster_replicated_network",
    about: "durability=replicated: three to five brokers under cuts, resets, leaders that are cut off, kills, pauses and clock steps; nothing \
            acked is lost",
    run: |params| {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice).fleet((*dice.pick(&[3, 3, 4, 5]), 3), (3, 2)).settled();
            survives(plan)
                .fault(4, Fault::Isolate)
                .fault(2, Fault::CutOff)
                .fault(2, Fault::Reset)
                .fault(dice.below(4), Fault::Depose)
                .fault(dice.below(3), Fault::Kill)
                .fault(dice.below(2), Fault::Pause)
                .fault(dice.below(2), Fault::SlowDisk)
                .fault(dice.below(2), Fault::ClockStep)
        })
    },
    random: true,
};

/// Partitions move.
pub const MOVES: Scenario = Scenario {
    name: "cluster_replicated_moves",
    about: "durability=replicated: partitions of four or five brokers are reassigned, brokers drained, voters changed, under kills, restarts \
            and cuts; nothing acked is lost",
    run: |params| {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let mut plan = Plan::drawn(&mut dice).fleet((*dice.pick(&[4, 5]), 3), (3, 2)).settled();
            plan.config.snapshot_bytes = 4096;
            plan.drains = dice.chance(700);
            survives(plan)
                .fault(4, Fault::Reassign)
                .fault(2, Fault::Drain)
                .fault(dice.below(3), Fault::Voters)
                .fault(dice.below(3), Fault::Kill)
                .fault(dice.below(2), Fault::Pause)
                .fault(dice.below(2), Fault::Restart)
                .fault(dice.below(2), Fault::Isolate)
        })
    },
    random: true,
};

/// Brokers come that were never there.
pub const JOINS: Scenario = Scenario {
    name: "cluster_replicated_joins",
    about: "durability=replicated: one or two brokers with empty disks join three under load, kills, restarts and cuts; nothing acked is lost",
    run: |params| {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice);
            let late = dice.between(1, 3) as u32;
            let mut plan = plan.fleet((3 + late, 3), (3, 2)).settled();
            (plan.late, plan.chaos) = (late, plan.chaos * 2);
            survives(plan)
                .fault(5, Fault::Join)
                .fault(dice.below(3), Fault::Kill)
                .fault(dice.below(2), Fault::Pause)
                .fault(dice.below(2), Fault::Restart)
                .fault(dice.below(2), Fault::Isolate)
        })
    },
    random: true,
};

fn survives(plan: Plan) -> Plan {
    let mut plan = plan.with_durability(story::REPLICATED);
    plan.topics.iter_mut().for_each(|topic| topic.survives_one = true);
    plan
}
