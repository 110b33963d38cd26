//! Several brokers with a quorum (S01 to S20, S29, S36): they are killed, lose their power, stand still, are cut off from
//! each other; under `durability=durable` and `min.insync.replicas=2` of three nothing that acks=all acknowledged is lost,
//! whatever and how many of them fail, and when everything is healed all copies are the same.

use dejaq_sim::rng::Dice;
use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, Fault, Plan};
use dejaq_sim::world::World;

use crate::swarm;

/// Nothing strikes: what is found here is no fault's doing.
pub const STEADY: Scenario = Scenario {
    name: "cluster_steady",
    about: "three brokers without faults: elected, replicated, read back, stopped gracefully, all copies the same",
    run: |params| run_asking(params, 3, |plan, _| plan),
    random: true,
};

/// Processes end or stand still.
pub const FAILOVER: Scenario = Scenario {
    name: "cluster_failover",
    about: "brokers of three are killed, paused and restarted at any moment: leaders move, nothing acked is lost; in a quarter of the \
            stories topics are durability=replicated, which promises as much where no power fails",
    run: |params| {
        story::run(params, |world| {
            // By a stream of its own: the seeds of the others are the stories that they were.
            let is_replicated = world.streams().dice("durability", 0).chance(250);
            let (mut plan, _) = three(world, (3, !is_replicated));
            if is_replicated {
                plan = plan.with_durability(story::REPLICATED);
                plan.topics.iter_mut().for_each(|topic| topic.survives_one = true);
            }
            plan.fault(4, Fault::Kill).fault(2, Fault::Pause).fault(2, Fault::Restart)
        })
    },
    random: true,
};

/// The power fails, at one or at all.
pub const POWER: Scenario = Scenario {
    name: "cluster_power",
    about: "the power of one or of all three brokers fails: durability=durable loses nothing acked, ever",
    run: |params| {
        run_asking(params, 3, |plan, dice| {
            plan.fault(4, Fault::PowerCut)
                .fault(3, Fault::PowerCutAll)
                .fault(dice.below(2), Fault::Kill)
                .fault(dice.below(2), Fault::SlowDisk)
        })
    },
    random: true,
};

/// The network between them fails.
pub const NETWORK: Scenario = Scenario {
    name: "cluster_network",
    about: "one-way and two-way cuts and resets between three brokers: never two leaders that both acknowledge",
    run: |params| {
        run_asking(params, 3, |plan, dice| {
            plan.fault(4, Fault::Isolate)
                .fault(2, Fault::CutOff)
                .fault(2, Fault::Reset)
                .fault(dice.below(2), Fault::Pause)
        })
    },
    random: true,
};

/// Everything, on three to seven brokers.
pub const CHAOS: Scenario = Scenario {
    name: "cluster_chaos",
    about: "three to seven brokers under kills, power cuts, pauses, cuts, slow and failing disks and clock steps at once",
    run: |params| {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice).with_durability(story::DURABLE);
            let size = (*dice.pick(&[3, 3, 4, 5]), 3);
            let mut plan = plan.fleet(swarm::large(world).unwrap_or(size), (3, 2)).settled();
            plan.racks = *dice.pick(&[0, 0, 3]);
            plan.fault(dice.below(4), Fault::Kill)
                .fault(dice.below(4), Fault::PowerCut)
                .fault(dice.below(2), Fault::PowerCutAll)
                .fault(dice.below(3), Fault::Restart)
                .fault(dice.below(3), Fault::Pause)
                .fault(dice.below(3), Fault::Isolate)
                .fault(dice.below(3), Fault::CutOff)
                .fault(dice.below(2), Fault::Reset)
                .fault(dice.below(2), Fault::SlowDisk)
                .fault(dice.below(2), Fault::FailedSync)
                .fault(dice.below(2), Fault::FailedWrite)
                .fault(dice.below(2), Fault::ClockStep)
        })
    },
    random: true,
};

/// Partitions move, brokers are emptied, voters change, under faults.
pub const MOVES: Scenario = Scenario {
    name: "cluster_moves",
    about: "four or five brokers: partitions are reassigned and moves taken back, brokers drained, voters changed, metadata \
            snapshots small, under kills and power cuts, and DeleteRecords at any offset in every other story; a drained broker is \
            empty and stops",
    run: |params| {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice).with_durability(story::DURABLE);
            let mut plan = plan.fleet((*dice.pick(&[4, 5]), 3), (3, 2)).settled();
            plan.config.snapshot_bytes = 4096;
            plan.drains = dice.chance(700);
            let plan = plan
                .fault(4, Fault::Reassign)
                .fault(2, Fault::Drain)
                .fault(dice.below(3), Fault::Voters)
                .fault(dice.below(3), Fault::Kill)
                .fault(dice.below(2), Fault::PowerCut)
                .fault(dice.below(2), Fault::Pause)
                .fault(dice.below(2), Fault::Restart)
                .fault(dice.below(2), Fault::Isolate);
            // By a stream of its own: the seeds of the other half are the stories that they were.
            let mut trims = world.streams().dice("trims", 0);
            if trims.chance(500) { trimming(plan, &mut trims) } else { plan }
        })
    },
    random: true,
};

/// Lets the start of logs move, to any offset: inside of batches, which hold many records here.
fn trimming(mut plan: Plan, dice: &mut Dice) -> Plan {
    plan.topics.iter_mut().for_each(|topic| topic.trims = true);
    for producer in &mut plan.producers {
        producer.window = producer.window.max(8);
        producer.linger = producer.think * dice.between(2, 6) as u32;
    }
    plan.fault(4, Fault::Trim)
}

/// Brokers come that were never there.
pub const JOINS: Scenario = Scenario {
    name: "cluster_joins",
    about: "one or two brokers with empty disks join three under load, kills, power cuts and cuts of the network: replicas flow to \
            them until all hold the same number, to within one, and nothing acked is lost",
    run: |params| {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice).with_durability(story::DURABLE);
            let late = dice.between(1, 3) as u32;
            let mut plan = plan.fleet((3 + late, 3), (*dice.pick(&[3, 3, 2]), 2)).settled();
            (plan.late, plan.chaos) = (late, plan.chaos * 2);
            plan.fault(5, Fault::Join)
                .fault(dice.below(3), Fault::Kill)
                .fault(dice.below(2), Fault::PowerCut)
                .fault(dice.below(2), Fault::Pause)
                .fault(dice.below(2), Fault::Restart)
                .fault(dice.below(2), Fault::Isolate)
        })
    },
    random: true,
};

/// What stands beside the rot: some topics need every replica, and logs are looked through often.
fn rotting(plan: Plan, dice: &mut Dice, weight: u64) -> Plan {
    let mut plan = if dice.chance(500) { plan.with_strict_topics(dice) } else { plan };
    plan.config.healing.scrub_interval = std::time::Duration::from_millis(dice.log_between(200, 4000));
    plan.fault(weight, Fault::Rot)
        .fault(dice.below(2), Fault::Kill)
        .fault(dice.below(2), Fault::PowerCut)
        .fault(dice.below(2), Fault::Restart)
        .fault(dice.below(2), Fault::Pause)
        .fault(dice.below(2), Fault::Isolate)
}

/// The disk of one member rots, wherever it leads and wherever it follows.
pub const ROT: Scenario = Scenario {
    name: "cluster_rot",
    about: "bits rot on the disk of one of three brokers, under kills and power cuts: never served, mended from a peer, nothing lost, \
            also where every replica must be in sync",
    run: |params| run(params, 3, |plan, dice| rotting(plan, dice, 6)),
    random: true,
};

/// The disks of all members rot, each batch on one of them.
pub const ROT_EVERYWHERE: Scenario = Scenario {
    name: "cluster_rot_everywhere",
    about: "bits rot on all disks of three brokers, each batch on one of them, under kills and power cuts: never served, mended from each \
            other, nothing lost",
    run: |params| {
        run(params, 3, |plan, dice| {
            let mut plan = rotting(plan, dice, 9);
            plan.rots_everywhere = true;
            plan
        })
    },
    random: true,
};

/// One member comes back with an empty disk.
pub const WIPED: Scenario = Scenario {
    name: "cluster_wiped",
    about: "one broker of three to five comes back with an empty disk: it neither votes nor is counted for what it had, and \
            nothing acked is lost",
    run: |params| {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice).with_durability(story::DURABLE);
            let mut plan = plan.fleet((*dice.pick(&[3, 4, 5]), 3), (3, 2)).settled();
            plan.config.snapshot_bytes = *dice.pick(&[4096, 8 << 20]);
            plan.fault(3, Fault::Wipe)
                .fault(dice.between(1, 3), Fault::Kill)
                .fault(dice.below(2), Fault::Pause)
                .fault(dice.below(2), Fault::Restart)
                .fault(dice.below(2), Fault::Isolate)
        })
    },
    random: true,
};

/// One that does not vote comes back with an older copy of its disk.
pub const PUT_BACK: Scenario = Scenario {
    name: "cluster_put_back",
    about: "an older copy of the disk of one broker of four, which does not vote, is put back after a clean stop: it is not counted for \
            what it had, and nothing acked is lost",
    run: |params| {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice).with_durability(story::DURABLE);
            let mut plan = plan.fleet((4, 3), (*dice.pick(&[2, 2, 3]), 2)).settled();
            plan.config.snapshot_bytes = *dice.pick(&[4096, 8 << 20]);
            plan.fault(6, Fault::PutBack)
                .fault(dice.between(1, 3), Fault::Kill)
                .fault(dice.between(1, 3), Fault::Restart)
                .fault(dice.below(2), Fault::Pause)
                .fault(dice.below(2), Fault::Isolate)
        })
    },
    random: true,
};

/// `durability=replicated` within its tolerance.
pub const REPLICATED: Scenario = Scenario {
    name: "cluster_replicated",
    about: "durability=replicated: the power of one broker of three at a time fails, again when all are in sync: nothing acked is lost",
    run: |params| {
        run(params, 3, |plan, dice| {
            let mut plan = plan.with_durability(story::REPLICATED);
            plan.topics.iter_mut().for_each(|topic| topic.survives_one = true);
            (plan.spaced, plan.chaos) = (true, plan.chaos * 3);
            plan.fault(4, Fault::PowerCut).fault(dice.below(2), Fault::Kill)
        })
    },
    random: true,
};

/// `durability=replicated` beyond its tolerance.
pub const BEYOND: Scenario = Scenario {
    name: "cluster_replicated_beyond",
    about: "durability=replicated: the power of all brokers fails: what is lost is a suffix, and the cluster says so",
    run: |params| {
        run(params, 3, |plan, dice| {
            let mut plan = plan.with_durability(story::REPLICATED).all_idempotent();
            plan.reports = true;
            plan.fault(3, Fault::PowerCutAll).fault(dice.below(3), Fault::PowerCut)
        })
    },
    random: true,
};

/// Leaders that go on alone, and come back with what nobody has.
pub const TAILS: Scenario = Scenario {
    name: "cluster_tails",
    about: "leaders of three brokers are cut off from their peers, but not from their clients, until another leads: what they \
            took alone is cut, never shown; under kills and slow disks",
    run: |params| {
        run(params, 3, |plan, dice| {
            let plan = busy(plan).fault(5, Fault::Depose);
            plan.fault(dice.below(3), Fault::Kill).fault(dice.below(3), Fault::SlowDisk)
        })
    },
    random: true,
};

/// Followers that begin anew, or lose their place, behind the back of their leader.
pub const BEHIND: Scenario = Scenario {
    name: "cluster_behind",
    about: "a follower of three brokers begins anew, or loses its place and gets it back, while its leader cannot hear of it: \
            who it was does not count for who it is",
    run: |params| {
        run(params, 3, |plan, dice| {
            busy(plan).fault(3, Fault::Bounce).fault(3, Fault::Readd).fault(dice.below(2), Fault::SlowDisk)
        })
    },
    random: true,
};

/// To the next release, one broker after the other, and back.
pub const UPGRADE: Scenario = Scenario {
    name: "cluster_upgrade",
    about: "three brokers go to the next release one by one, live mixed for a while, and go back, under load, kills, cuts and \
            power cuts: nobody reads what it does not know, and nothing acked is lost",
    run: |params| {
        run(params, 3, |mut plan, dice| {
            plan.upgrades = true;
            plan.chaos = std::time::Duration::from_millis(dice.between(15_000, 50_000));
            plan.config.snapshot_bytes = *dice.pick(&[4096, 8 << 20, 8 << 20]);
            plan.producers.iter_mut().for_each(|producer| producer.records *= 4);
            plan.fault(3, Fault::Kill)
                .fault(2, Fault::Isolate)
                .fault(dice.below(2), Fault::CutOff)
                .fault(1, Fault::Reset)
                .fault(dice.below(2), Fault::Pause)
                .fault(dice.below(2), Fault::PowerCut)
        })
    },
    random: true,
};

/// Followers that come back to a leader which has not heard what was committed.
pub const STRAGGLERS: Scenario = Scenario {
    name: "cluster_stragglers",
    about: "a follower of one of five brokers is down while more is committed, and comes back to a leader that has all of it and \
            does not know yet that it is committed: who lacks it is not let in",
    run: |params| {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice).with_durability(story::DURABLE);
            one_by_one(busy(plan.fleet((5, 3), (3, 2)).settled())).fault(4, Fault::Straggle)
        })
    },
    random: true,
};

/// An old entry of the metadata on a majority, and a newer log elsewhere.
pub const OVERWRITES: Scenario = Scenario {
    name: "cluster_overwrites",
    about: "the quorum of three brokers parts into two logs, and an entry of an older epoch gets a majority before the newer log \
            wins: it was never committed",
    run: |params| {
        run(params, 3, |mut plan, dice| {
            plan.buggify = true;
            plan.chaos *= 2;
            let ms = std::time::Duration::from_millis;
            plan.latency = (ms(1), ms(dice.between(2, 5)));
            one_by_one(plan).fault(4, Fault::Overwrite)
        })
    },
    random: true,
};

/// A broker that comes with another disk under a number that lives.
pub const REPLACED: Scenario = Scenario {
    name: "cluster_replaced",
    about: "one of three brokers comes back with an empty disk at once: it waits until the session of the old one is over",
    run: |params| run(params, 3, |plan, _| plan.fault(1, Fault::Wipe)),
    random: true,
};

/// Strikes that wait for the cluster, so far from each other that none heals what another one cut.
fn one_by_one(mut plan: Plan) -> Plan {
    let seconds = std::time::Duration::from_secs;
    (plan.gap, plan.chaos) = ((seconds(6), seconds(12)), plan.chaos * 2);
    plan
}

/// Clients that do not run out of records while strikes wait for the cluster, and sessions that end soon.
fn busy(mut plan: Plan) -> Plan {
    plan.chaos *= 2;
    plan.neighbour = true;
    plan.config.healing.session_timeout = std::time::Duration::from_secs(5);
    for producer in &mut plan.producers {
        producer.records *= 4;
        producer.think = producer.think.min(std::time::Duration::from_millis(40));
    }
    plan
}

fn run(
    params: &RunParams,
    brokers: u32,
    faults: impl FnOnce(Plan, &mut dejaq_sim::rng::Dice) -> Plan,
) -> RunReport {
    drawn(params, (brokers, false), faults)
}

/// As [`run`], where topics ask for a number of copies of their own, too (`acks.required`, `replica.lag.max.messages`).
fn run_asking(
    params: &RunParams,
    brokers: u32,
    faults: impl FnOnce(Plan, &mut dejaq_sim::rng::Dice) -> Plan,
) -> RunReport {
    drawn(params, (brokers, true), faults)
}

fn drawn(
    params: &RunParams,
    (brokers, asks): (u32, bool),
    faults: impl FnOnce(Plan, &mut dejaq_sim::rng::Dice) -> Plan,
) -> RunReport {
    story::run(params, |world| {
        let (plan, mut dice) = three(world, (brokers, asks));
        faults(plan, &mut dice)
    })
}

/// Topics of three copies on so many brokers, and the stream from which the rest is drawn.
fn three(world: &World, (brokers, asks): (u32, bool)) -> (Plan, Dice) {
    let mut dice = world.streams().dice("plan", 0);
    let plan = Plan::drawn(&mut dice).with_durability(story::DURABLE);
    let mut plan = plan.fleet((brokers, brokers), (3, 2)).settled();
    if asks {
        plan = plan.with_acks(&mut world.streams().dice("acks", 0));
    }
    (plan, dice)
}
