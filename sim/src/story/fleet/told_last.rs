//! The last one standing: all others have left the in-sync set, the power of the only one fails, and everybody waits for it, whatever
//! it comes back with (S16).
//!
//! Owns: who leaves in which order, and the power. With `min.insync.replicas=1`, since with two our leader alone commits nothing, and who
//! left last stays eligible. Under `durability=durable` it comes back with all that it acknowledged. Under `replicated` (nothing was synced) it
//! lost even what the others have, leads all the same, as nobody knows better, and good copies are cut: then the metadata tell of it.
//! Promises: the run fails unless the last one alone had acknowledged records, and under `replicated` unless it lost some (`told::lost`).
//! Who finds what comes of it: the script, if another one leads meanwhile (`REP-5`), if a loss is told where there is none or the other
//! way round (`REPORTED`); god and the oracle, if anything is gone beyond what was told (`given_up`).
//! Drawn: durability, partition, who leaves first, how much is acknowledged when, how long the others wait, the load before.
//! Leaves out: an operator who does not wait (`partition elect --unclean`).
//!
//! ```text
//!  near ✂ far ✂ (in drawn order) ─► in sync {leader}: acknowledges alone ─► its power fails: nobody leads
//!  near and far live, and are not elected │ it comes back after a bad end ─► "last known" leads: durable: whole; replicated: a loss is told
//! ```

use dejaq_storage::model_disk::CrashMode;

use super::told::{Cast, lost, told};
use super::told_isr::{PARTITIONS, Trio, plan, unsynced};
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;
use crate::story::meetings::claim;

/// Tells it.
#[must_use]
pub fn last_standing(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |drawn, dice| {
            plan(drawn, 5, dice);
            drawn.gives_up = true;
            for topic in &mut drawn.topics {
                topic.min_insync = 1;
                topic.configs.insert("min.insync.replicas".into(), "1".into());
            }
            if dice.chance(500) {
                unsynced(drawn);
            }
        },
        |cast: Cast| async move { play(Trio::gather(cast).await?).await },
    )
}

async fn play(mut trio: Trio) -> Result<(), Stop> {
    let [first, more, last] = [(); 3].map(|()| trio.dice.between(1, 20));
    let durable = trio.stage().plan.topics[0].durable;
    let (leader, mut leaving) = (trio.leader, vec![trio.near, trio.far]);
    if trio.dice.chance(500) {
        leaving.reverse();
    }
    trio.hand.sends(first).await?;
    trio.part_from(leaving[0], &[leader], true);
    trio.until("one leaves", || trio.in_sync_are(leader, &[leader, leaving[1]])).await?;
    trio.hand.sends(more).await?;
    trio.part_from(leaving[1], &[leader], true);
    trio.until("the other one leaves", || trio.in_sync_are(leader, &[leader])).await?;
    trio.hand.sends(last).await?;
    let end = trio.end_at(leader);
    if trio.end_at(leaving[0]) >= end || trio.end_at(leaving[1]) >= end {
        return Err(lost("the last one has acknowledged alone"));
    }
    let late = trio.hand.sets_out(2).await; // under way when the power fails
    let pause = trio.span_ms(0, 10);
    trio.pause(pause).await;
    trio.node(leader).power_cut(CrashMode::Lose);
    trio.part_from(leader, &leaving, false);
    trio.until("its power is missed", || trio.standing().is_ok_and(|now| now.leader != Some(leader))).await?;
    let pause = trio.span_ms(500, 4000);
    trio.pause(pause).await;
    let now = trio.standing()?;
    claim("REP-5", now.leader.is_none() && now.elr == [leader], || {
        format!("{leader} alone has what was acknowledged, and {now:?}")
    })?;
    trio.node(leader).begin_start();
    trio.until("it leads again", || trio.scene.belief(leader).is_some_and(|sight| sight.leads)).await?;
    let (now, told, left) = (trio.standing()?, trio.losses()?, trio.scene.belief(leader));
    let left = left.and_then(|sight| Some(sight.inside?.leading?.epoch_start)).unwrap_or(0);
    if durable {
        claim("REPORTED", told.is_empty(), || format!("{now:?} has all, and told of is {told:?}"))?;
        claim("REP-1", left >= end, || {
            format!("{end} were acknowledged, the last one comes back with {left}")
        })?;
        trio.count("last ones that came back with everything");
    } else if left >= end {
        return Err(lost("the power took what was acknowledged"));
    } else {
        let due = [(leader, now.epoch)];
        claim("REPORTED", told == due, || format!("{now:?} lost records, and told of is {told:?}"))?;
        trio.count("last ones that came back with less than others have");
    }
    trio.until("what was under way is over", || late.is_over(2)).await
}
