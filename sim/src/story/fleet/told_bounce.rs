//! A follower's power fails, and it is back before its session ends: who it was does not count for who it is (S14, KIP-903 and KIP-966;
//! KAFKA-14617).
//!
//! Owns: two bounces of one follower, both while neither its leader nor the other follower can reach it, so that whatever counts it
//! after that counts it for what it had. First it is one of only two in sync: it would be eligible, and alone has what its leader
//! acknowledged. Then it is out of sync and has everything, and the question to let it in waits on its way to the controller.
//! Promises: the run fails unless its new life was let in within half a session, unless the power took what it had where nothing was
//! synced, and unless the old question was decided after that (`told::lost`). Who finds what comes of it: god (REP-14, REP-13); the script,
//! if it is counted on (`REP-14`, `REP-13`) or leads (`REP-5`); the oracle, if it led without what it lost.
//! Drawn: durable or replicated (nothing is synced), the partition, which follower, how long it is away, how much is acknowledged when, the load.
//! Leaves out: a follower whose process alone ends, under load (`scripts`, `Bounce`).
//!
//! ```text
//!  1  near ✂: in sync {leader, far} │ ⚡ far, back: neither in sync nor eligible │ controller ✂ leader: fenced, nobody leads │ mended: it leads
//!  2  far ✂ out of sync, ─ leader: "let far in" ✂ on its way │ ⚡ far, back │ the question arrives: refused │ leader ✝ ─► near leads
//! ```

use dejaq_storage::model_disk::CrashMode;
use dejaq_storage::probe;

use super::told::{Cast, lost, told};
use super::told_isr::{PARTITIONS, Trio, plan, unsynced};
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;
use crate::story::meetings::claim;

/// The product's mark for it.
const KEPT_OUT: &str = "a replica that restarted since it fetched is kept out";

/// Tells it.
#[must_use]
pub fn bounced(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |drawn, dice| {
            // Who does not vote stands for no election while it hears nothing of the quorum's leader.
            plan(drawn, 1, dice);
            let ms = std::time::Duration::from_millis;
            drawn.config.healing.session_timeout = ms(dice.between(8000, 12_000));
            let way = ms(dice.between(2, 4)); // a question is under way for longer than it takes to be seen
            drawn.latency = (way, way);
            if dice.chance(500) {
                unsynced(drawn);
            }
        },
        |cast: Cast| async move {
            let mut trio = Trio::gather(cast).await?;
            let first = trio.dice.between(1, 20);
            trio.hand.sends(first).await?;
            one_of_two(&mut trio).await?;
            asked_for(&mut trio).await
        },
    )
}

/// The power of the far one fails, and it is back in time; only the controller hears it.
async fn bounces(trio: &mut Trio) -> Result<(), Stop> {
    let (leader, near, far, active) = (trio.leader, trio.near, trio.far, trio.active);
    let (life, had, begun) = (trio.scene.life(far), trio.end_at(far), trio.stage().world.now_ns());
    trio.part_from(far, &[leader, near], true);
    trio.node(far).power_cut(CrashMode::Lose);
    let pause = trio.span_ms(1, 400);
    trio.pause(pause).await;
    trio.node(far).begin_start();
    let is_back = || trio.scene.life(far) > life && trio.scene.is_known_at(active, far);
    trio.until("it is back, and let in", is_back).await?;
    let away = trio.stage().world.now_ns() - begun;
    if u128::from(away) * 2 > trio.stage().plan.config.healing.session_timeout.as_nanos() {
        return Err(lost("it is back before its session ends"));
    }
    trio.until("its log is open", || trio.scene.belief(far).is_some()).await?;
    if !trio.stage().plan.topics[0].durable && trio.end_at(far) >= had {
        return Err(lost("the power takes what it had"));
    }
    Ok(())
}

async fn one_of_two(trio: &mut Trio) -> Result<(), Stop> {
    let (leader, near, far, active) = (trio.leader, trio.near, trio.far, trio.active);
    trio.part_from(near, &[leader, far], true);
    trio.until("two are in sync", || trio.in_sync_are(leader, &[leader, far])).await?;
    let more = trio.dice.between(1, 20);
    trio.hand.sends(more).await?;
    let before = trio.standing()?;
    bounces(trio).await?;
    let now = trio.standing()?;
    let is_out = now.isr == [leader] && now.elr.is_empty() && now.known == [far];
    claim("REP-14", is_out && now.epoch > before.epoch, || {
        format!("the power of {far} failed, and {before:?} became {now:?}")
    })?;
    trio.scene.cut(leader, active, true);
    trio.until("the leader is missed", || trio.standing().is_ok_and(|now| now.leader != Some(leader)))
        .await?;
    let pause = trio.span_ms(1, 2000);
    trio.pause(pause).await;
    let now = trio.standing()?;
    claim("REP-5", now.leader.is_none() && now.elr == [leader], || {
        format!("{leader} alone has what was acknowledged, and {now:?}")
    })?;
    trio.scene.cut(leader, active, false);
    let others = [near, far];
    trio.until("it leads again", || trio.scene.belief(leader).is_some_and(|sight| sight.leads)).await?;
    others.iter().for_each(|one| trio.part_from(*one, &[leader, near, far], false));
    trio.until("all are in sync again", || trio.in_sync_are(leader, &[leader, near, far])).await?;
    let told = trio.losses()?;
    claim("REPORTED", told.is_empty(), || format!("nothing is lost, and told of is {told:?}"))?;
    trio.count("followers in sync that bounced, and were counted on no more");
    Ok(())
}

async fn asked_for(trio: &mut Trio) -> Result<(), Stop> {
    let (leader, near, far, active) = (trio.leader, trio.near, trio.far, trio.active);
    trio.far_leaves().await?;
    let more = trio.dice.between(1, 20);
    trio.hand.sends(more).await?;
    trio.part_from(far, &[leader, near], false);
    trio.until("its leader asks to let it in", || trio.asks_for(3)).await?;
    trio.scene.cut(leader, active, true);
    bounces(trio).await?;
    let later = trio.span_ms(1, 500);
    let counts = || trio.standing().is_ok_and(|now| now.isr.contains(&far) || now.elr.contains(&far));
    if counts() || probe::marks_reached().contains(&KEPT_OUT) {
        return Err(lost("the question is on its way"));
    }
    trio.scene.cut(leader, active, false);
    let is_decided = || counts() || probe::marks_reached().contains(&KEPT_OUT);
    trio.until("the question arrives", is_decided).await?;
    trio.pause(later).await;
    claim("REP-13", !counts(), || {
        format!("{far} has told nobody anything in its new life, and {:?}", trio.standing().ok())
    })?;
    trio.node(leader).kill();
    trio.until("another one leads", || {
        trio.standing().is_ok_and(|now| now.leader.is_some_and(|now| now != leader))
    })
    .await?;
    let (now, told) = (trio.standing()?, trio.losses()?);
    claim("REP-5", now.leader == Some(near) && told.is_empty(), || {
        format!("{near} was in sync and lives: {now:?}, told of is {told:?}")
    })?;
    trio.part_from(far, &[leader, near], false);
    trio.until("it is in sync for what it has now", || trio.in_sync_are(near, &[near, far])).await?;
    trio.hand.sends(5).await?;
    trio.count("followers that bounced, and were not let in for what they had");
    Ok(())
}
