//! Members of a consumer group on three brokers hang, die and come back while brokers are killed, the coordinator of the
//! group among them (S41, S42, S44): what the two delivery semantics promise, and offsets that never go back, whoever
//! coordinates.
//!
//! Faults that leave a request alive behind its sender (pauses, cuts of the network) are not for these stories: see
//! `dejaq_sim::story::GroupPlan`.

use std::time::Duration;

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, DURABLE, Fault, GroupPlan, Plan};

/// Commit after: nothing is skipped.
pub const AT_LEAST_ONCE: Scenario = Scenario {
    name: "cluster_group_at_least_once",
    about: "a group on three brokers that are killed, its coordinator among them: nothing is skipped, no offset goes back",
    run: |params| run(params, false),
    random: true,
};

/// Commit before: nothing is seen twice.
pub const AT_MOST_ONCE: Scenario = Scenario {
    name: "cluster_group_at_most_once",
    about: "the same with commits before records are handed out: none is handed out twice",
    run: |params| run(params, true),
    random: true,
};

fn run(params: &RunParams, at_most_once: bool) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let plan = Plan::drawn(&mut dice).with_durability(DURABLE);
        let mut plan = plan.fleet((3, 3), (3, 2)).settled();
        plan.consumers.clear(); // the group reads
        plan.config.groups.initial_delay = Duration::from_millis(dice.log_between(1, 3000));
        plan.config.groups.partitions = dice.between(1, 4) as u32;
        let members = dice.between(2, 5) as usize;
        plan.group = Some(GroupPlan { members, at_most_once, compacts: false });
        plan.fault(5, Fault::Kill).fault(2, Fault::PowerCut).fault(1, Fault::Restart)
    })
}
