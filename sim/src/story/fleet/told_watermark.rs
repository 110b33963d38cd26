//! A new leader has everything that was visible, and does not know yet that it was (KIP-207): nobody is told of an end before the
//! one that was told already (S07).
//!
//! Owns: what is asked, of whom and when, around the end of a leader. Promises: the run fails unless the old leader told of an
//! end that the new one, with a lower watermark, must not contradict, and unless the new one said that it does not know the end,
//! and told of it when the other replica was back (`told::lost`). Both replicas are needed, so that it is in the dark until then.
//! The fetch of a follower beyond that watermark is the old leader's own when it comes back. Drawn: who is who, how many
//! records, how long the new leader is alone, the network, the load before. Who finds what comes of it: the oracle, REP-3
//! (StaleEndOffset) and REP-17 (FalseOutOfRange).
//!
//! ```text
//!  A  shows 100: "the end is 100" ─ ✝                                    starts, fetches
//!  B  has 100, shows 90            leads: the end? "not available"       "100"
//!                                         95? nothing yet, not "out of range"
//! ```

use std::time::Duration;

use dejaq_wire::ErrorCode;

use super::scripts::State;
use super::told::{Cast, lost, told};
use super::told_restarted::{shown_by_leader_only, two_of_three};
use super::told_script::{Given, Onlooker, Script, Sender};
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;

/// So many that the replicas of some are not on the active controller, whoever that is.
const PARTITIONS: i32 = 6;

/// Tells it.
#[must_use]
pub fn watermark(params: &RunParams) -> RunReport {
    told(params, PARTITIONS, two_of_three, |Cast { stage, mut dice }: Cast| async move {
        let (script, state, _) = Script::begin(&stage, &mut dice).await?;
        let alone = Duration::from_millis(dice.log_between(1, 3000));
        let sender = Sender::new(&script, &mut dice);
        let onlooker = Onlooker::new(&script).await?;
        let (follower, end) = shown_by_leader_only(&script, &sender, &state, &mut dice).await?;
        play(&script, &onlooker, &state, (follower, end), alone).await
    })
}

async fn play(
    script: &Script,
    onlooker: &Onlooker,
    state: &State,
    (follower, end): (u32, i64),
    alone: Duration,
) -> Result<(), Stop> {
    let (scene, leader) = (&script.scene, state.leader);
    let told = onlooker.end_at(leader).await;
    if told != Some(Ok(end)) {
        return Err(lost(&format!("the leader tells of the end {end}: {told:?}")));
    }
    scene.node(leader).kill();
    let heir = script.deposed(state).await?;
    let knows = script.sight(follower)?.watermark;
    if heir.leader != follower || knows >= end {
        return Err(lost("the follower leads, and does not know what was visible"));
    }
    script.count("leaders that do not know what was visible");
    ask(script, onlooker, follower, (knows, end)).await?;
    script.pause(alone).await;
    ask(script, onlooker, follower, (knows, end)).await?;
    scene.cut(leader, follower, false);
    scene.node(leader).begin_start();
    script
        .until("the new leader learns what was visible", || script.sees(follower, |it| it.watermark >= end))
        .await?;
    if !matches!(onlooker.end_at(follower).await, Some(Ok(told)) if told >= end) {
        return Err(lost("the new leader tells of the end when it knows it"));
    }
    script.count("ends told again when they were known");
    Ok(())
}

/// What a leader answers that shows only what is below `knows`, to those who have heard of `end`.
pub(super) async fn ask(
    script: &Script,
    onlooker: &Onlooker,
    leader: u32,
    (knows, end): (i64, i64),
) -> Result<(), Stop> {
    match onlooker.end_at(leader).await {
        Some(Err(ErrorCode::OFFSET_NOT_AVAILABLE)) => script.count("ends that a new leader did not know"),
        told => {
            return Err(lost(&format!(
                "the new leader does not tell of an end that it does not know: {told:?}"
            )));
        }
    }
    for from in knows..=end {
        match onlooker.read_at(leader, from).await {
            Given::Records(0) => script.count("reads beyond what a new leader shows"),
            Given::OutOfRange => {} // the oracle's, when it has seen the whole log
            told => {
                return Err(lost(&format!("a reader at {from} is given nothing, and not refused: {told:?}")));
            }
        }
    }
    if !script.sees(leader, |it| it.leads && it.watermark < end) {
        return Err(lost("the new leader is still in the dark when it has answered"));
    }
    Ok(())
}
