//! A producer has five batches under way when another replica begins to lead, which has the first two of them: it sends again
//! what it was not told of, and each is there once (S01).
//!
//! Owns: how far each batch gets before the leader stands still, and when that one wakes. Promises: the run fails unless the first
//! batch was acknowledged, the second was on all replicas and the last three on the leader alone when it stood still; unless
//! another one led then; and unless all five were acknowledged and the old leader followed with the new one's log (`told::lost`).
//! It may wake before the producer has given it up, and then it still takes itself for the leader. Drawn: who is who, how long it
//! stands still, when it is fenced, the network, the load before. Who finds what comes of it: the oracle (Duplicate,
//! OffsetMismatch, NonmonotonicSend; IDM-1, IDM-2), REP-6 and REP-7, if it says yes to what it alone has.
//!
//! ```text
//!  A  0 1 2 3 4 │ shows 0, ✂ B C │ stands still ····· wakes: it leads? ─► follows, cuts 2 3 4
//!  B  0 1       │                │ leads ◄─ 1 2 3 4 again: "1 is at its place", 2 3 4
//! ```

use std::time::Duration;

use super::scripts::State;
use super::told::{Cast, lost, told};
use super::told_script::{Script, Sender, Sent};
use super::told_turns::three_of_four;
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;

/// So many that the replicas of some are not on the active controller, whoever that is.
const PARTITIONS: i32 = 8;
/// Batches that a producer may have under way.
const BATCHES: i64 = 5;

/// Tells it.
#[must_use]
pub fn retries(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |plan, dice| {
            three_of_four(plan, dice);
            plan.config.healing.session_timeout = Duration::from_millis(dice.between(2500, 6000));
        },
        |Cast { stage, mut dice }: Cast| async move {
            let (script, state, _) = Script::begin(&stage, &mut dice).await?;
            let sleeps = Duration::from_millis(dice.log_between(1, 8000));
            let sender = Sender::new(&script, &mut dice);
            let sent = under_way(&script, &sender, &state).await?;
            play(&script, &state, &sent, sleeps).await
        },
    )
}

/// The first batch is acknowledged, the second is on all replicas and not known to be, the others are on the leader alone.
async fn under_way(script: &Script, sender: &Sender, state: &State) -> Result<Vec<Sent>, Stop> {
    let (leader, base) = (state.leader, script.sight(state.leader)?.end);
    let others: Vec<u32> = state.replicas.iter().copied().filter(|one| *one != leader).collect();
    let mut sent = vec![sender.send().await];
    script.until("the first batch is acknowledged", || sent[0].offset() == Some(base)).await?;
    script.level(&state.replicas).await?;
    sent.push(sender.send().await);
    let have_it = || others.iter().all(|one| script.sees(*one, |it| it.end == base + 2));
    script.until("all replicas have the second batch", have_it).await?;
    others.iter().for_each(|other| script.scene.cut(leader, *other, true));
    for number in 2..BATCHES {
        sent.push(sender.send().await);
        let end = base + number + 1;
        script.until("the leader has a batch more", || script.sees(leader, |it| it.end == end)).await?;
    }
    let is_alone = script.sees(leader, |it| it.leads && it.watermark == base + 1);
    if !is_alone || !have_it() || sent[1..].iter().any(|one| one.offset().is_some()) {
        return Err(lost("the leader knows of the first batch only that all have it"));
    }
    script.count("producers with five batches under way");
    Ok(sent)
}

async fn play(script: &Script, state: &State, sent: &[Sent], sleeps: Duration) -> Result<(), Stop> {
    let (scene, leader) = (&script.scene, state.leader);
    scene.node(leader).pause();
    let heir = script.deposed(state).await?;
    script.count("leaders that stand still while another one leads");
    script.pause(sleeps).await;
    state.replicas.iter().for_each(|other| scene.cut(leader, *other, false));
    if sent.iter().any(|one| one.offset().is_none()) {
        script.count("leaders that wake before their producer has given them up, or just then");
    }
    scene.node(leader).resume();
    script.until("all batches are acknowledged", || sent.iter().all(|one| one.offset().is_some())).await?;
    let end = script.sight(heir.leader)?.end;
    let follows = || script.sees(leader, |it| !it.leads && it.epoch >= heir.epoch && it.end == end);
    script.until("the leader of before follows, with the log of the one that leads", follows).await?;
    script.count("leaders that woke, and follow");
    Ok(())
}
