//! A follower begins anew without knowing what is visible, and its leader dies before it has asked twice (KIP-101, case 1): it
//! has kept what it had, and leads with it (S02).
//!
//! Owns: the order of cuts, a stop, a start and a kill around two replicas that are both needed. Promises: the run fails unless
//! the follower had a record for certain that its leader showed and it did not; stopped cleanly, so that it may be elected; and
//! had heard its leader once in its new life when that one was killed (`told::lost`). A watermark is written down nowhere with
//! us: who begins anew knows of none above its start, so that "cut to the own watermark" costs everything. A follower that is
//! killed instead is in no set until its leader lets it in (REP-14), and then it has everything by that. Drawn: who is who, how
//! many records, how long it is away, the network, the load before. Who finds what comes of it: REP-5, REP-1, LostWrite.
//!
//! ```text
//!  A  m1 m2 │ shows 2                                         answers ─ ✝
//!  B  m1 m2 │ shows 1, A ✂ B │ stops: eligible │ starts, asks ─► hears (M6: cuts) ─► leads: m1 m2
//! ```

use std::time::Duration;

use super::scripts::State;
use super::told::{Cast, lost, shape, told};
use super::told_script::{Script, Sender};
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::story::{Plan, Stop, bounds, within};

const BROKERS: u32 = 3;
/// So many that the replicas of some are not on the active controller, whoever that is.
const PARTITIONS: i32 = 6;
/// One way between machines, in milliseconds.
const WAY_MS: (u64, u64) = (2, 8);

/// Tells it.
#[must_use]
pub fn restarted(params: &RunParams) -> RunReport {
    told(params, PARTITIONS, two_of_three, |Cast { stage, mut dice }: Cast| async move {
        let (script, state, _) = Script::begin(&stage, &mut dice).await?;
        let away = Duration::from_millis(dice.between(1, 2000));
        let sender = Sender::new(&script, &mut dice);
        let (follower, end) = shown_by_leader_only(&script, &sender, &state, &mut dice).await?;
        play(&script, &state, (follower, end), away).await
    })
}

/// Three brokers, two replicas that are both needed.
pub(super) fn two_of_three(plan: &mut Plan, dice: &mut Dice) {
    shape(plan, BROKERS, WAY_MS, dice);
    *plan = plan.clone().fleet((BROKERS, BROKERS), (2, 2));
    (plan.config.healing.leader_interval, plan.config.healing.auto_rebalance) = (None, false);
}

/// One to four records are on both replicas and visible at the leader; the follower does not know that, and nothing of its leader
/// comes to it any more. Returns who follows, and where the logs end.
pub(super) async fn shown_by_leader_only(
    script: &Script,
    sender: &Sender,
    state: &State,
    dice: &mut Dice,
) -> Result<(u32, i64), Stop> {
    let leader = state.leader;
    let other = state.replicas.iter().copied().find(|one| *one != leader);
    let follower = other.ok_or_else(|| lost("a replica that follows"))?;
    let had = script.sight(leader)?.end;
    let end = had + dice.between(1, 5) as i64;
    let mut sent = Vec::new();
    for _ in had..end {
        sent.push(sender.send().await);
    }
    script.until("the follower has the records", || script.sees(follower, |it| it.end == end)).await?;
    script.scene.stage.world.network().set_cut(leader, follower, true);
    let is_shown = || script.sees(leader, |it| it.leads && it.watermark == end);
    script.until("the leader shows the records", is_shown).await?;
    script.until("they are acknowledged", || sent.iter().all(|one| one.offset().is_some())).await?;
    let knows = script.sight(follower)?.watermark;
    if knows >= end {
        return Err(lost("the follower does not know that the records are visible"));
    }
    script.count("followers that have what is visible, and do not know it");
    Ok((follower, end))
}

async fn play(
    script: &Script,
    state: &State,
    (follower, end): (u32, i64),
    away: Duration,
) -> Result<(), Stop> {
    let (scene, leader) = (&script.scene, state.leader);
    let node = scene.node(follower).clone();
    within(script.stage(), bounds::STOP, node.stop()).await?;
    script.pause(away).await;
    let is_alone = || scene.state().is_some_and(|now| now.leader == leader && now.isr == [leader]);
    script.until("the leader is alone in sync", is_alone).await?;
    node.begin_start();
    script.until("the follower has its log open", || scene.belief(follower).is_some()).await?;
    let begun = script.sight(follower)?;
    if begun.watermark >= end {
        return Err(lost("the follower begins without knowing what is visible"));
    }
    scene.cut(leader, follower, false);
    let hears = |it: &crate::invariants::insight::Sight| it.watermark > begun.watermark || it.end < end;
    script.until("the follower hears its leader", || script.sees(follower, hears)).await?;
    scene.node(leader).kill();
    script.count("leaders ended when their follower had heard them once");
    let heir = script.deposed(state).await?;
    if heir.leader != follower {
        return Err(lost("the follower leads"));
    }
    script.count("followers that lead after they began anew");
    Ok(())
}
