//! Swarms: every run draws which faults there are at all, how dense they are, which parts stay calm, and lets the product
//! have whims (`buggify!`). What the other stories hold apart meets here.
//!
//! A fault's weight is 0 in half of the runs, else between 1 and 8: the runs differ from each other far more than if
//! everything struck a little in each. Left out: damage that must keep its distance from crashes (rot, a lying disk, lost
//! metadata), and groups of consumers, for which a network that fails is not excused yet.

use std::time::Duration;

use dejaq_sim::rng::Dice;
use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, DURABLE, Fault, NONE, Plan, REPLICATED};
use dejaq_sim::world::World;

/// One broker.
pub const ONE: Scenario = Scenario {
    name: "swarm",
    about: "one broker under a drawn mix of everything, at a drawn density, with whims of the product itself",
    run: one,
    random: true,
};

/// Several.
pub const FLEET: Scenario = Scenario {
    name: "cluster_swarm",
    about: "one to three replicas on three to seven brokers under a drawn mix of everything, with whims of the product itself",
    run: fleet,
    random: true,
};

const PROCESS: [Fault; 3] = [Fault::Kill, Fault::Restart, Fault::Pause];
const POWER: [Fault; 1] = [Fault::PowerCut];
const DISK: [Fault; 3] = [Fault::SlowDisk, Fault::FailedSync, Fault::FailedWrite];
const NETWORK: [Fault; 2] = [Fault::CutOff, Fault::Reset];

fn one(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let durability = *dice.pick(&[DURABLE, DURABLE, REPLICATED, NONE]);
        let mut plan = Plan::drawn(&mut dice).with_durability(durability);
        if dice.chance(500) {
            plan = plan.with_segments(dice.log_between(1024, 65_536));
        }
        if dice.chance(300) {
            plan.capacity = Some(64 << 20);
        }
        plan.hostiles = usize::from(dice.chance(200));
        plan = mixed(plan, &mut dice, &[Fault::PowerCutTwice, Fault::FailedReads]);
        if plan.capacity.is_some() {
            plan = plan.fault(weight(&mut dice), Fault::DiskFull);
        }
        resettled(shaped(plan, &mut dice), world)
    })
}

fn fleet(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let plan = Plan::drawn(&mut dice).with_durability(DURABLE);
        let size = (*dice.pick(&[3, 3, 4, 5]), *dice.pick(&[1, 3, 3, 3]));
        let size = large(world).unwrap_or(size);
        let (replicas, min_insync) = *dice.pick(&[(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 2), (3, 3)]);
        let mut plan = plan.fleet(size, (replicas, min_insync)).settled();
        plan.racks = *dice.pick(&[0, 0, 2, 3]);
        let plan = mixed(plan, &mut dice, &[Fault::PowerCutAll, Fault::Isolate, Fault::Swizzle]);
        resettled(shaped(plan, &mut dice), world)
    })
}

/// How many brokers there are and how many of them vote, in the fifth of the stories that are of large fleets; by a stream of its
/// own, so that the seeds of the others are the stories that they were.
pub(crate) fn large(world: &World) -> Option<(u32, u32)> {
    let mut dice = world.streams().dice("large", 0);
    dice.chance(200).then(|| (*dice.pick(&[6, 7]), *dice.pick(&[3, 5])))
}

/// In a quarter of the stories each start of a broker has settings of its own; by a stream of its own, so that the seeds of
/// the others are the stories that they were.
fn resettled(mut plan: Plan, world: &World) -> Plan {
    plan.resettles = world.streams().dice("resettles", 0).chance(250);
    plan
}

/// 0 as often as not.
fn weight(dice: &mut Dice) -> u64 {
    if dice.chance(500) { 0 } else { dice.log_between(1, 9) }
}

/// Draws the faults, whole families of which may be missing.
fn mixed(mut plan: Plan, dice: &mut Dice, more: &[Fault]) -> Plan {
    for family in [&PROCESS[..], &POWER, &DISK, &NETWORK, &[Fault::ClockStep], more] {
        let is_calm = dice.chance(250);
        for fault in family {
            let weight = weight(dice);
            plan = plan.fault(if is_calm { 0 } else { weight }, *fault);
        }
    }
    plan
}

/// Draws how dense the faults are, and whether the product has whims.
fn shaped(mut plan: Plan, dice: &mut Dice) -> Plan {
    let ms = Duration::from_millis;
    match dice.below(4) {
        0 => plan.gap = (ms(1), ms(dice.between(20, 200))),
        1 => plan.gap = (ms(1_000), ms(dice.between(2_000, 6_000))),
        _ => {}
    }
    plan.buggify = dice.chance(700);
    plan
}
