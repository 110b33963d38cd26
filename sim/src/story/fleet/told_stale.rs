//! A leader's question for another in-sync set waits on its way to the controller, and the partition moves on meanwhile: it is decided on
//! the state that it was asked on, which is over, and changes nothing (S12, KIP-497; KAFKA-14154, 14144, 14010).
//!
//! Owns: one question, which arrives when its follower can tell nobody anything any more, so that whatever lets it in, or shuts out who
//! leads by now, is the old question. Until then two believe that they lead, or one believes in a state that is over.
//! Promises: the run fails unless the question was on its way when the partition moved on, unless its leader knew nothing of that, and
//! unless the controller refused it for its epochs (`told::lost`). Who finds what comes of it: the script, if the set is what was asked for
//! (`REP-12`); god: REP-4 and REP-13; REP-5, if who was let in lacks what was committed.
//! Drawn: what moves on, the partition, who is who, how long the question waits, how much is acknowledged when, the load before.
//! Leaves out: a follower that began anew meanwhile (`told_bounce`), or has another log (`told_readd`); a controller that is behind its
//! leaders, and an answer that is lost (`decide/cluster_tests.rs`).
//!
//! ```text
//!  join    far ─ leader: "let far in" ✂   │ an operator has near lead; it can let in nobody whom it does not hear │ arrives: fenced
//!  shrink  far ✂ leader: "without far" ✂  │ an operator has far lead, which was in sync │ arrives: fenced, far leads on
//!  turn    far ─ leader: "let far in" ✂   │ the replicas are put in another order; far ✂, and lacks records │ arrives: of an old state
//! ```

use std::time::Duration;

use dejaq_storage::probe;

use super::desk::Desk;
use super::told::{Cast, lost, told};
use super::told_isr::{PARTITIONS, Standing, Trio, plan};
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;
use crate::story::meetings::claim;

/// The product's marks for it.
const FENCED: &str = "a proposal of a leader that was replaced is refused";
const OLD: &str = "a proposal for a state that is over is refused";

/// What moves on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Move {
    Join,
    Shrink,
    Turn,
}

/// Tells it.
#[must_use]
pub fn stale(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |drawn, dice| {
            // Who does not vote stands for no election while it hears nothing of the quorum's leader.
            plan(drawn, 1, dice);
            let ms = Duration::from_millis;
            drawn.config.healing.session_timeout = ms(dice.between(20_000, 30_000));
            (drawn.config.healing.leader_interval, drawn.config.healing.auto_rebalance) = (None, false);
            let way = ms(dice.between(2, 4)); // a question is under way for longer than it takes to be seen
            drawn.latency = (way, way);
        },
        |cast: Cast| async move {
            let mut trio = Trio::gather(cast).await?;
            let first = trio.dice.between(1, 20);
            trio.hand.sends(first).await?;
            let moved = *trio.dice.pick(&[Move::Join, Move::Shrink, Move::Turn]);
            play(&mut trio, moved).await
        },
    )
}

async fn play(trio: &mut Trio, moved: Move) -> Result<(), Stop> {
    let (leader, near, far, active) = (trio.leader, trio.near, trio.far, trio.active);
    let desk = Desk::at(trio.stage(), active);
    if !desk.sits_down().await {
        return Err(lost("the active controller answers its operator"));
    }
    let before = is_asked(trio, moved).await?;
    let more = trio.dice.between(1, 5);
    let fate = trio.hand.sets_out(more).await;
    let lacks = || trio.end_at(far) < trio.end_at(leader) && trio.end_at(near) == trio.end_at(leader);
    trio.until("the far one lacks records", lacks).await?;
    let first = if moved == Move::Shrink { far } else { near };
    let order = match moved {
        Move::Join => vec![near, leader, far],
        Move::Shrink => vec![far, leader, near],
        // Any order but the one that is.
        Move::Turn => {
            trio.scene.state().iter().flat_map(|state| state.replicas.iter().rev().copied()).collect()
        }
    };
    moves_on(trio, &desk, (moved, &order)).await?;
    let (pause, later) = (trio.span_ms(1, 800), trio.span_ms(1, 500));
    trio.pause(pause).await;
    let heir = if moved == Move::Turn { leader } else { first };
    let is_wrong = |now: &Standing| {
        let is_let_in = moved != Move::Shrink && now.isr.contains(&far);
        now.leader != Some(heir) || is_let_in || !now.isr.contains(&heir)
    };
    let refused = if moved == Move::Turn { OLD } else { FENCED };
    let believes = trio.scene.belief(leader).is_some_and(|sight| sight.leads && sight.epoch == before.epoch);
    if !believes || is_wrong(&trio.standing()?) || probe::marks_reached().contains(&refused) {
        return Err(lost("the question is on its way, and its leader has heard nothing"));
    }
    trio.scene.cut(leader, active, false);
    let is_wrong = || trio.standing().is_ok_and(|now| is_wrong(&now));
    let is_decided = || probe::marks_reached().contains(&refused) || is_wrong();
    trio.until("the question arrives, and is decided", is_decided).await?;
    trio.pause(later).await;
    claim("REP-12", !is_wrong(), || {
        format!("{before:?} had moved on, and what {leader} asked then made it {:?}", trio.standing().ok())
    })?;
    trio.part_from(far, &[leader, near], false);
    trio.until("all are in sync", || trio.in_sync_are(heir, &[leader, near, far])).await?;
    trio.until("what was under way is acknowledged", || fate.acked() == more).await?;
    trio.hand.sends(5).await?;
    trio.count(match moved {
        Move::Join => "questions to let somebody in that came when another one led",
        Move::Shrink => "questions to shut somebody out that came when it led",
        Move::Turn => "questions that came when the partition had moved on",
    });
    Ok(())
}

/// The leader asks, and neither the question nor anything else passes between it and the controller; nor does anything to the far one.
/// Returns the partition as it was asked about.
async fn is_asked(trio: &mut Trio, moved: Move) -> Result<Standing, Stop> {
    let (leader, near, far, active) = (trio.leader, trio.near, trio.far, trio.active);
    let size = if moved == Move::Shrink {
        trio.part_from(far, &[leader, near], true);
        2
    } else {
        trio.far_leaves().await?;
        let more = trio.dice.between(1, 20);
        trio.hand.sends(more).await?;
        trio.part_from(far, &[leader, near], false);
        3
    };
    trio.until("the leader asks", || trio.asks_for(size)).await?;
    trio.scene.cut(leader, active, true);
    trio.part_from(far, &[leader, near], true);
    trio.standing()
}

/// The controller decides something else of the partition, of which its leader does not hear.
async fn moves_on(trio: &Trio, desk: &Desk, (moved, order): (Move, &[u32])) -> Result<(), Stop> {
    let (leader, active, index) = (trio.leader, trio.active, trio.scene.index);
    let (before, known) = (trio.standing()?, trio.scene.moves_known_at(leader));
    if !desk.reassign(index, order).await {
        return Err(lost("the replicas are put in another order"));
    }
    if moved != Move::Turn {
        let is_led =
            || trio.standing().is_ok_and(|now| now.leader == Some(order[0]) && now.epoch > before.epoch);
        if !desk.elect_first(index).await || !is_led() {
            return Err(lost("another one is elected"));
        }
        let leads = || trio.scene.belief(order[0]).is_some_and(|sight| sight.leads);
        trio.until("two believe that they lead", leads).await?;
    }
    if trio.scene.moves_known_at(active) <= known || trio.scene.moves_known_at(leader) != known {
        return Err(lost("the controller has moved on, and the leader has not heard"));
    }
    Ok(())
}
