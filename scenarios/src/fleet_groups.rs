//! Members of a consumer group on three brokers hang, die and come back while brokers are killed, the coordinator of the
//! group among them (S41, S42, S44): what the two delivery semantics promise, and offsets that never go back, whoever
//! coordinates. Of the classic protocol, of the new one (KIP-848), and of both at a time.
//!
//! Faults that leave a request alive behind its sender (pauses, cuts of the network) are not for these stories: see
//! `dejaq_sim::story::GroupPlan`.

use std::time::Duration;

use dejaq_sim::rng::Dice;
use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, DURABLE, Fault, GroupPlan, Plan, Speaks};

/// Commit after: nothing is skipped.
pub const AT_LEAST_ONCE: Scenario = Scenario {
    name: "cluster_group_at_least_once",
    about: "a group on three brokers that are killed, its coordinator among them: nothing is skipped, no offset goes back",
    run: |params| run(params, Speaks::Classic, false),
    random: true,
};

/// Commit before: nothing is seen twice.
pub const AT_MOST_ONCE: Scenario = Scenario {
    name: "cluster_group_at_most_once",
    about: "the same with commits before records are handed out: none is handed out twice",
    run: |params| run(params, Speaks::Classic, true),
    random: true,
};

/// The same by KIP-848.
pub const NEW_AT_LEAST_ONCE: Scenario = Scenario {
    name: "cluster_group_new_at_least_once",
    about: "members of the new protocol (KIP-848) on three brokers that are killed: nothing is skipped, no offset goes back",
    run: |params| run(params, Speaks::New, false),
    random: true,
};

/// The same by KIP-848, commit before.
pub const NEW_AT_MOST_ONCE: Scenario = Scenario {
    name: "cluster_group_new_at_most_once",
    about: "members of the new protocol that commit before records are handed out: none is handed out twice",
    run: |params| run(params, Speaks::New, true),
    random: true,
};

/// A live group that goes from one protocol to the other and back.
pub const BOTH: Scenario = Scenario {
    name: "cluster_group_both",
    about: "members of both protocols in one group, brokers killed: it goes to the new one and back, and skips nothing",
    run: |params| run(params, Speaks::Both, false),
    random: true,
};

/// As large and as long as a bad day.
pub const TEN_AT_LEAST_ONCE: Scenario = Scenario {
    name: "cluster_group_ten_at_least_once",
    about: "ten members over thirty partitions, members and brokers killed for minutes: nothing is skipped, one owner each",
    run: |params| ten(params, false),
    random: true,
};

/// As large and as long as a bad day, commit before.
pub const TEN_AT_MOST_ONCE: Scenario = Scenario {
    name: "cluster_group_ten_at_most_once",
    about: "the same with commits before records are handed out: none is handed out twice",
    run: |params| ten(params, true),
    random: true,
};

/// A fleet of three whose group may be read by anyone.
fn drawn(dice: &mut Dice) -> Plan {
    let plan = Plan::drawn(dice).with_durability(DURABLE);
    let mut plan = plan.fleet((3, 3), (3, 2)).settled();
    plan.consumers.clear(); // the group reads
    plan.config.groups.initial_delay = Duration::from_millis(dice.log_between(1, 3000));
    plan.config.groups.partitions = dice.between(1, 4) as u32;
    plan
}

/// What the coordinator decides for members of the new protocol: as short as what the classic ones ask for.
fn quick_sessions(plan: &mut Plan) {
    plan.config.groups.consumer_session = Duration::from_secs(6);
    plan.config.groups.consumer_heartbeat = Duration::from_secs(1);
}

fn struck(plan: Plan) -> Plan {
    plan.fault(5, Fault::Kill).fault(2, Fault::PowerCut).fault(1, Fault::Restart)
}

fn run(params: &RunParams, speaks: Speaks, at_most_once: bool) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = drawn(&mut dice);
        let members = dice.between(2, 5) as usize;
        plan.group = Some(GroupPlan { members, at_most_once, compacts: false, speaks, statics: false });
        quick_sessions(&mut plan);
        struck(plan)
    })
}

/// Ten members, thirty partitions; every other story by KIP-848. One of six lasts two to four minutes, which take half a
/// minute of ours each, the others some seconds: what comes with size shows in these, what comes with time in those.
fn ten(params: &RunParams, at_most_once: bool) -> RunReport {
    const PARTITIONS: i32 = 30;
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = drawn(&mut dice);
        let is_long = dice.chance(160);
        let (from, to) = if is_long { (120, 240) } else { (5, 20) };
        plan.chaos = Duration::from_secs(dice.between(from, to));
        let pause = if is_long { dice.between(5, 20) } else { 3 };
        plan.gap = (Duration::from_millis(500), Duration::from_secs(pause));
        let mut left = PARTITIONS;
        let (first, rest) = plan.topics.split_first_mut().expect("a plan has topics");
        for topic in rest {
            topic.partitions = dice.between(1, 12) as i32;
            left -= topic.partitions;
        }
        first.partitions = left;
        for producer in &mut plan.producers {
            // To the end of the first act: half of the longest pause is the usual one.
            producer.records *= 2;
            producer.think = plan.chaos * 2 / u32::try_from(producer.records).expect("some hundreds");
        }
        let speaks = *dice.pick(&[Speaks::Classic, Speaks::New]);
        plan.group = Some(GroupPlan { members: 10, at_most_once, compacts: false, speaks, statics: false });
        quick_sessions(&mut plan);
        struck(plan)
    })
}

#[cfg(test)]
mod tests {
    use dejaq_sim::runner::Status;

    use super::*;

    #[test]
    fn one_seed_of_each_that_the_gate_runs_in_debug() {
        for scenario in [NEW_AT_LEAST_ONCE, NEW_AT_MOST_ONCE, BOTH] {
            let report = (scenario.run)(&RunParams { seed: 1, ..RunParams::default() });
            assert_eq!((report.status, &*report.message), (Status::Pass, ""), "{}", scenario.name);
        }
    }
}
