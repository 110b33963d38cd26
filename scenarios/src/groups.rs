//! Members of a consumer group hang, die and come back while their broker is killed and loses power (S41, S42 on one
//! broker): what the two delivery semantics promise, and offsets that never go back.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, DURABLE, Fault, GroupPlan, Plan, Speaks};

/// Commit after: nothing is skipped.
pub const AT_LEAST_ONCE: Scenario = Scenario {
    name: "group_at_least_once",
    about: "members of a group hang and die, the broker is killed and loses power: nothing is skipped, no offset goes back",
    run: |params| run(params, false, false, None),
    random: true,
};

/// Commit before: nothing is seen twice.
pub const AT_MOST_ONCE: Scenario = Scenario {
    name: "group_at_most_once",
    about: "the same with commits before records are handed out: none is handed out twice",
    run: |params| run(params, true, false, None),
    random: true,
};

/// What the coordinator reads back was compacted (S43).
pub const COMPACTED: Scenario = Scenario {
    name: "group_compacted",
    about: "commit after, while the log of the offsets is compacted all the time: no offset goes back, nothing is skipped",
    run: |params| run(params, false, true, None),
    random: true,
};

/// Members that come back as who they were (KIP-345, and KIP-848's pause).
pub const STATIC: Scenario = Scenario {
    name: "group_static",
    about: "static members of either protocol hang, die and come back as who they were: nothing is skipped, one owner each",
    run: |params| run(params, false, false, Some(&[Speaks::Classic, Speaks::New, Speaks::Both])),
    random: true,
};

/// With `statics` the members are static, and speak one of these.
fn run(params: &RunParams, at_most_once: bool, compacts: bool, statics: Option<&[Speaks]>) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).with_durability(DURABLE);
        // Sessions take six seconds to end.
        plan.chaos *= 4;
        plan.gap.1 *= 4;
        plan.consumers.clear(); // the group reads
        plan.config.groups.initial_delay = std::time::Duration::from_millis(dice.log_between(1, 3000));
        plan.config.groups.partitions = dice.between(1, 4) as u32;
        let members = dice.between(2, 5) as usize;
        let speaks = statics.map_or(Speaks::Classic, |some| *dice.pick(some));
        let statics = statics.is_some();
        plan.group = Some(GroupPlan { members, at_most_once, compacts, speaks, statics });
        if statics {
            plan.config.groups.consumer_session = std::time::Duration::from_secs(6);
            plan.config.groups.consumer_heartbeat = std::time::Duration::from_secs(1);
        }
        if compacts {
            plan.config.retention_interval = std::time::Duration::from_millis(dice.log_between(20, 500));
        }
        plan.fault(4, Fault::Kill).fault(3, Fault::PowerCut).fault(1, Fault::Restart)
    })
}
