//! How many power cuts `durability=replicated` bears: one fewer than `min.insync.replicas` in one era lose nothing; one more may, and
//! what it takes is told, and is the end of the log (S18, R3 of CORRECTNESS.md 5).
//!
//! Owns: whose power fails when; nothing is synced meanwhile, so that each takes all that the machine had. Promises: the run fails
//! unless the set was as small as it may be, unless a machine lost acknowledged records, and, beyond the budget, unless they are gone
//! (`told::lost`). Who finds what comes of it: within, god (REP-14, REP-1) and the oracle, which excuses nothing; beyond, the script, if
//! somebody leads while a copy that may be whole is only away (`REP-5`), or is not told of (`REPORTED`); the oracle, if a record is gone
//! before the place that was told (`given_up`).
//! Drawn: within or beyond, the partition, whose power fails first, how long after the other, who comes back first, the load before.
//! Leaves out: a set with a third member, which bears the same; chance (`cluster_replicated`, `cluster_replicated_beyond`).
//!
//! ```text
//!  far ✂ ─► {leader, near} acknowledge, nothing is synced │ within: ⚡ one ─► the other has it ─► far comes, then it: all is there
//!  beyond: ⚡ one ⚡ other ─► one of them comes back: it waits │ both are back: the one that was in sync last leads, a loss is told
//! ```

use dejaq_storage::model_disk::CrashMode;

use super::told::{Cast, lost, told};
use super::told_isr::{PARTITIONS, Trio, plan, unsynced};
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;
use crate::story::meetings::claim;

/// Tells it.
#[must_use]
pub fn budget(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |drawn, dice| {
            plan(drawn, 5, dice);
            unsynced(drawn);
            drawn.gives_up = true;
        },
        |cast: Cast| async move {
            let mut trio = Trio::gather(cast).await?;
            let (first, more) = (trio.dice.between(1, 20), trio.dice.between(1, 20));
            trio.hand.sends(first).await?;
            trio.far_leaves().await?;
            trio.hand.sends(more).await?;
            let (one, other) =
                if trio.dice.chance(500) { (trio.leader, trio.near) } else { (trio.near, trio.leader) };
            if trio.dice.chance(500) {
                within(&mut trio, one, other).await
            } else {
                beyond(&mut trio, one, other).await
            }
        },
    )
}

/// The power of one of two fails: the other one has it all.
async fn within(trio: &mut Trio, one: u32, other: u32) -> Result<(), Stop> {
    let end = trio.end_at(trio.leader);
    let flushed = trio.scene.belief(one).and_then(|sight| sight.inside).map_or(end, |inside| inside.flushed);
    if flushed >= end {
        return Err(lost("the power takes what was acknowledged"));
    }
    trio.node(one).power_cut(CrashMode::Lose);
    let alone = |trio: &Trio| trio.in_sync_are(other, &[other]);
    trio.until("the other one is left", || alone(trio)).await?;
    let pause = trio.span_ms(1, 2000);
    trio.part_from(other, &[trio.far], false);
    trio.until("the far one comes in its place", || trio.in_sync_are(other, &[other, trio.far])).await?;
    trio.hand.sends(5).await?;
    trio.pause(pause).await;
    trio.part_from(trio.far, &[one], false);
    trio.node(one).begin_start();
    let came = || trio.scene.belief(one).is_some_and(|sight| !sight.leads && sight.end >= end);
    trio.until("it has again what it lost", came).await?;
    let told = trio.losses()?;
    claim("REPORTED", told.is_empty(), || format!("nothing is lost, and told of is {told:?}"))?;
    trio.count("power cuts within what is borne");
    Ok(())
}

/// The power of both fails: nobody is left who has all, and the one that was in sync last leads, once both are there.
async fn beyond(trio: &mut Trio, one: u32, other: u32) -> Result<(), Stop> {
    let (end, pause) = (trio.end_at(trio.leader), trio.span_ms(0, 8000));
    trio.node(one).power_cut(CrashMode::Lose);
    trio.pause(pause).await;
    trio.node(other).power_cut(CrashMode::Lose);
    let is_missed =
        |now: super::told_isr::Standing| now.leader.is_none_or(|leader| ![one, other].contains(&leader));
    trio.until("both are missed", || trio.standing().is_ok_and(is_missed)).await?;
    let now = trio.standing()?;
    claim("REP-5", now.leader.is_none(), || {
        format!("the others may have all, and are not waited for: {now:?}")
    })?;
    trio.part_from(trio.far, &[one, other], false);
    let (first, second) = if trio.dice.chance(500) { (one, other) } else { (other, one) };
    trio.node(first).begin_start();
    trio.until("the first one is back", || trio.standing().is_ok_and(|now| !now.elr.contains(&first)))
        .await?;
    let pause = trio.span_ms(1000, 4000);
    trio.pause(pause).await;
    let now = trio.standing()?;
    let waits = now.leader.is_none() && now.known == [first] && now.elr == [second];
    claim("REP-5", waits, || format!("{second} may have all, and is not waited for: {now:?}"))?;
    trio.node(second).begin_start();
    let leads = |node: u32| trio.scene.belief(node).is_some_and(|sight| sight.leads);
    trio.until("one of them leads", || leads(first) || leads(second)).await?;
    let heir = if leads(first) { first } else { second };
    let (now, told, left) = (trio.standing()?, trio.losses()?, trio.end_at(heir));
    if left >= end {
        return Err(lost("both lost what was acknowledged"));
    }
    claim("REPORTED", told == [(heir, now.epoch)], || {
        format!("{now:?} lost records, and told of is {told:?}")
    })?;
    trio.count("power cuts beyond what is borne");
    Ok(())
}
