//! Leaderships that go from one replica to another and back, as told stories need them: by a clean stop, and by an operator.
//!
//! Owns: the plan of four brokers with three replicas, so that one is left for the controller, and the turns. Promises: a turn
//! that is not taken fails the run and is named. Leaves out: what it is for (the scripts).
//!
//! ```text
//!  first leads ─ stops, starts ─► second leads, all in sync ─ operator ─► first leads ─ second hears it, and takes its log
//! ```

use super::desk::Desk;
use super::scripts::State;
use super::told::{lost, shape};
use super::told_script::Script;
use crate::rng::Dice;
use crate::story::{Plan, Stop, bounds, within};

const BROKERS: u32 = 4;
/// One way between machines, in milliseconds.
const WAY_MS: (u64, u64) = (1, 6);

/// Four brokers, three replicas of which two are needed.
pub(super) fn three_of_four(plan: &mut Plan, dice: &mut Dice) {
    shape(plan, BROKERS, WAY_MS, dice);
    *plan = plan.clone().fleet((BROKERS, 3), (3, 2));
    (plan.config.healing.leader_interval, plan.config.healing.auto_rebalance) = (None, false);
}

/// The preferred replica stops cleanly, and comes back as a follower of another one. Returns the state when all are in sync.
pub(super) async fn second_leads(script: &Script, state: &State) -> Result<State, Stop> {
    let first = state.replicas[0];
    if state.leader != first {
        return Err(lost("the preferred replica leads"));
    }
    within(script.stage(), bounds::STOP, script.scene.node(first).stop()).await?;
    let second = script.deposed(state).await?;
    script.scene.node(first).begin_start();
    let is_whole = || script.scene.state().is_some_and(|now| now.isr.len() == now.replicas.len());
    script.until("all are in sync under the second leader", is_whole).await?;
    script.level(&second.replicas).await?;
    let state = script.scene.state().filter(|now| now.leader == second.leader);
    state.ok_or_else(|| lost("the second one leads on"))
}

/// An operator has the preferred replica elected, which the leader hears; the way between these two is open then.
pub(super) async fn first_elected(script: &Script, desk: &Desk, state: &State) -> Result<State, Stop> {
    if !desk.elect_first(script.scene.index).await {
        return Err(lost("the preferred replica is elected"));
    }
    let elected = script.deposed(state).await?;
    let hears = || script.sees(state.leader, |it| !it.leads && it.epoch == elected.epoch);
    script.until("the leader hears that it leads no more", hears).await?;
    script.scene.cut(state.leader, elected.leader, false);
    Ok(elected)
}

/// Waits until a replica has the leader's records of this epoch up to `end`. A producer sends again what was not told to it.
pub(super) async fn takes_the_log_of(
    script: &Script,
    state: &State,
    (node, end): (u32, i64),
) -> Result<(), Stop> {
    let has_it = |node: u32| {
        script.sees(node, |it| {
            let latest = it.inside.as_ref().map(|inside| inside.latest_epoch);
            it.epoch == state.epoch && it.end >= end && latest == Some(state.epoch)
        })
    };
    script
        .until("the leader of before has the other one's log", || has_it(state.leader) && has_it(node))
        .await
}
