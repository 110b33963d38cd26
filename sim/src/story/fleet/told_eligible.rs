//! Who is eligible, from its leaving to its end (S17, KIP-966; KAFKA-15584, 18106, 18635, 19522).
//!
//! Owns: who leaves, ends and comes back, by what the metadata say. Promises: the run fails unless each state was there (`told::lost`).
//! Who finds what comes of it: the script (`REP-5`), if another one leads than may, or somebody is counted on after a bad end; god: MQ-15
//! (nobody is eligible beside enough in sync, in every image), REP-14, REP-1; the oracle.
//! Drawn: the partition, how the ends follow each other, how much is acknowledged between, the load before.
//! Leaves out: files that are gone (`cluster_wiped`), and damage (`cluster_rot`).
//!
//! ```text
//!  1  far ✂, near ✂: in sync {leader}, eligible {near} │ ⚡ leader ─► near leads, and nothing is lost
//!  2  the old leader comes back after that: eligible no more, the epoch goes up │ it hears nothing of near
//!  3  far ─ near: two are in sync: nobody is eligible or remembered any more
//!  4  far ✂ in sync {near}, eligible {far} │ ⚡ far, back, ⚡ again: remembered, and fenced │ ⚡ near, back ─► near leads, not far
//! ```

use dejaq_storage::model_disk::CrashMode;

use super::told::{Cast, lost, told};
use super::told_isr::{PARTITIONS, Standing, Trio, plan};
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;
use crate::story::meetings::claim;

/// Tells it.
#[must_use]
pub fn eligible(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |drawn, dice| plan(drawn, 5, dice),
        |cast: Cast| async move {
            let mut trio = Trio::gather(cast).await?;
            trio.hand.sends(5).await?;
            near_takes_over(&mut trio).await?;
            old_leader_is_counted_on_no_more(&mut trio).await?;
            enough_are_in_sync(&mut trio).await?;
            who_is_away_is_not_chosen(&mut trio).await
        },
    )
}

async fn stands(trio: &Trio, step: &str, is_so: impl Fn(&Standing) -> bool) -> Result<Standing, Stop> {
    trio.until(step, || trio.standing().is_ok_and(|now| is_so(&now))).await?;
    trio.standing()
}

async fn near_takes_over(trio: &mut Trio) -> Result<(), Stop> {
    let (leader, near) = (trio.leader, trio.near);
    trio.far_leaves().await?;
    let more = trio.dice.between(1, 20);
    trio.hand.sends(more).await?;
    trio.part_from(near, &[leader], true);
    let before = stands(trio, "near is eligible", |now| now.isr == [leader] && now.elr == [near]).await?;
    let pause = trio.span_ms(1, 1000);
    trio.pause(pause).await;
    trio.node(leader).power_cut(CrashMode::Lose);
    let now =
        stands(trio, "another one leads", |now| now.leader != Some(leader) && now.leader.is_some()).await?;
    let told = trio.losses()?;
    claim("REP-5", now.leader == Some(near) && now.epoch > before.epoch && told.is_empty(), || {
        format!("{near} was eligible and lives: {now:?}, told of is {told:?}")
    })?;
    trio.count("eligible replicas that led");
    Ok(())
}

async fn old_leader_is_counted_on_no_more(trio: &mut Trio) -> Result<(), Stop> {
    let (leader, near) = (trio.leader, trio.near);
    let before = stands(trio, "the old leader is eligible", |now| now.elr == [leader]).await?;
    let life = |trio: &Trio| trio.image().ok()?.broker(id(leader)).map(|known| known.epoch);
    let first = life(trio);
    trio.node(leader).begin_start(); // it is cut off from near still
    trio.until("it registers", || life(trio) > first).await?;
    let now = trio.standing()?;
    let is_out = now.elr.is_empty() && now.isr == [near] && now.known == [leader];
    claim("REP-5", is_out && now.epoch > before.epoch, || {
        format!("{leader} came back after a bad end: {before:?} became {now:?}")
    })?;
    trio.count("eligible replicas that were not after a bad end");
    Ok(())
}

async fn enough_are_in_sync(trio: &mut Trio) -> Result<(), Stop> {
    let (near, far) = (trio.near, trio.far);
    trio.part_from(far, &[near], false);
    let now = stands(trio, "the far one is in sync", |now| now.isr.contains(&far)).await?;
    claim("MQ-15", now.elr.is_empty() && now.known.is_empty(), || format!("enough are in sync: {now:?}"))?;
    let more = trio.dice.between(1, 20);
    trio.until("near knows it", || trio.members_at(near).is_some_and(|set| set.contains(&far))).await?;
    trio.hand.sends(more).await?;
    trio.count("sets in which nobody was eligible any more");
    Ok(())
}

async fn who_is_away_is_not_chosen(trio: &mut Trio) -> Result<(), Stop> {
    let (near, far) = (trio.near, trio.far);
    trio.part_from(far, &[near], true);
    stands(trio, "the far one is eligible", |now| now.isr == [near] && now.elr == [far]).await?;
    trio.node(far).power_cut(CrashMode::Lose);
    let pause = trio.span_ms(1, 3000);
    trio.pause(pause).await;
    trio.node(far).begin_start();
    stands(trio, "the far one is remembered", |now| now.isr == [near] && now.known.contains(&far)).await?;
    let is_live = |trio: &Trio| {
        trio.image().is_ok_and(|image| image.broker(id(far)).is_some_and(|known| known.is_live()))
    };
    trio.until("the far one is let in", || is_live(trio)).await?;
    trio.node(far).kill();
    trio.until("the far one is away", || !is_live(trio)).await?;
    trio.node(near).power_cut(CrashMode::Lose);
    let now = stands(trio, "near is missed", |now| now.leader != Some(near)).await?;
    claim("REP-5", now.leader.is_none(), || {
        format!("{near} was in sync last, and is not waited for: {now:?}")
    })?;
    trio.node(near).begin_start();
    let now = stands(trio, "somebody leads", |now| now.leader.is_some()).await?;
    let told = trio.losses()?;
    claim("REP-5", now.leader == Some(near) && told.is_empty(), || {
        format!("{near} was in sync last: {now:?}, told of is {told:?}")
    })?;
    trio.until("it does lead", || trio.scene.belief(near).is_some_and(|sight| sight.leads)).await?;
    if now.known.is_empty() {
        return Err(lost("the far one is remembered still"));
    }
    trio.count("remembered replicas that were away and not chosen");
    Ok(())
}

fn id(node: u32) -> dejaq_wire::ids::BrokerId {
    dejaq_wire::ids::BrokerId(node as i32)
}
