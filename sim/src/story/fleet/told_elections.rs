//! Five elections in which nobody writes: replicas lead, end and come back with epochs that have no record, and with each other's
//! (S05; KAFKA-7415, KAFKA-10706).
//!
//! Owns: who leads when, and who hears of it. Promises: the run fails unless a replica led in an epoch that nobody else heard of
//! while it lacked a record of an older epoch, which the next leader has; and unless five epochs began without a record
//! (`told::lost`). That replica must take the older record all the same, all must come in sync and no log may be cut, within the
//! bounds of the calm act (REP-15, liveness), and lists of epochs are then what the logs say (LOG-7). Drawn: who is who, how a
//! leader ends, how long it is away, the network, the load before. Nobody moves a log to another folder with us (KAFKA-20961).
//!
//! ```text
//!  A  x, e1 ✝                                             back, follows     leads, e4? ✝
//!  B      ✂ A, C │ elected, e2, has no x     hears e3: takes x of e1, and forgets its own e2, which nobody else has
//!  C  x          │                           elected, e3 ✝ …                leads, e5?
//! ```

use std::time::Duration;

use super::desk::Desk;
use super::in_sync;
use super::scripts::State;
use super::told::{Cast, lost, told};
use super::told_script::{SENDER, Script, Sender};
use super::told_turns::three_of_four;
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::story::{Stop, bounds, within};

/// So many that the replicas of some are not on the active controller, whoever that is.
const PARTITIONS: i32 = 8;
/// Elections behind the first two, of which one is by a script.
const MORE: u32 = 3;

/// Tells it.
#[must_use]
pub fn elections(params: &RunParams) -> RunReport {
    told(params, PARTITIONS, three_of_four, |Cast { stage, mut dice }: Cast| async move {
        let (script, state, active) = Script::begin(&stage, &mut dice).await?;
        let sender = Sender::new(&script, &mut dice);
        let end = script.sight(state.leader)?.end + 1;
        let desk = Desk::at(&stage, active);
        if !desk.sits_down().await {
            return Err(lost("the active controller answers its operator"));
        }
        let mut state = apart(&script, (&sender, &desk), &state, &mut dice).await?;
        for _ in 0..MORE {
            within(&stage, bounds::IN_SYNC, in_sync(&stage)).await?;
            // Nobody lags too long here, and who is in sync may still lack something.
            let level = script.level(&state.replicas).await;
            level
                .map_err(|_| Stop::Stuck("a replica that led in an epoch without a record goes on".into()))?;
            state = another(&script, &state, &mut dice).await?;
        }
        within(&stage, bounds::IN_SYNC, in_sync(&stage)).await?;
        script.level(&state.replicas).await?;
        if script.sight(state.leader)?.end != end {
            return Err(lost("nobody writes while leaders are elected"));
        }
        script.count("replicas in sync after five elections without a record");
        let sent = sender.send().await;
        script.until("a record is taken in the last epoch", || sent.offset() == Some(end)).await
    })
}

/// One replica leads in an epoch of which no other hears, without a record that the next leader has.
async fn apart(
    script: &Script,
    (sender, desk): (&Sender, &Desk),
    state: &State,
    dice: &mut Dice,
) -> Result<State, Stop> {
    let (scene, first, second) = (&script.scene, state.replicas[0], state.replicas[1]);
    if state.leader != first {
        return Err(lost("the preferred replica leads"));
    }
    let others = [first, state.replicas[2]];
    // Its producer would send it the record again, and the epoch would have one.
    let deaf_to = [first, state.replicas[2], SENDER];
    deaf_to.iter().for_each(|other| scene.cut(second, *other, true));
    let end = script.sight(first)?.end + 1;
    sender.send().await;
    script.until("the third replica has the record", || script.sees(others[1], |it| it.end == end)).await?;
    scene.node(first).kill();
    let alone = script.deposed(state).await?;
    if alone.leader != second || script.sight(second)?.end >= end {
        return Err(lost("a replica leads that lacks the record"));
    }
    script.pause(Duration::from_millis(dice.log_between(1, 300))).await;
    // An operator has the third one elected: the second one goes on, and hears that it leads no more.
    let is_taken =
        desk.reassign(scene.index, &[others[1], second, first]).await && desk.elect_first(scene.index).await;
    if !is_taken || script.sight(second)?.end >= end {
        return Err(lost("the third replica is elected, and the second epoch has no record"));
    }
    let next = script.deposed(&alone).await?;
    if next.leader != others[1] || script.sight(next.leader)?.end != end {
        return Err(lost("the third replica leads, and has the record"));
    }
    deaf_to.iter().for_each(|other| scene.cut(second, *other, false));
    script.count("replicas behind an epoch that nobody else has heard of");
    scene.node(first).begin_start();
    Ok(next)
}

/// The leader ends, and comes back when another one leads.
async fn another(script: &Script, state: &State, dice: &mut Dice) -> Result<State, Stop> {
    let node = script.scene.node(state.leader).clone();
    match dice.chance(500) {
        true => node.kill(),
        false => within(script.stage(), bounds::STOP, node.stop()).await?,
    }
    let next = script.deposed(state).await?;
    script.count("elections without a record");
    script.pause(Duration::from_millis(dice.log_between(1, 1000))).await;
    node.begin_start();
    Ok(next)
}
