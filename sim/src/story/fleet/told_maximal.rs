//! A replica is in the in-sync set, and its leader does not know yet: it counts with it all the same (S11, the maximal set of KIP-497,
//! REP-4).
//!
//! Owns: what is cut when. Our leader takes the new set from the metadata, never from the answer to its question; so both are kept
//! from it. Promises: the run fails unless the controller had taken the set while its leader only asked for it, unless records stood on
//! both old members and not on the new one, and unless the new one led next (`told::lost`). Who finds what comes of it: REP-6 (the
//! watermark passed one that may be in sync), REP-1 and the oracle, since the new one leads and is as complete as anybody who may.
//! Drawn: the partition, how many records, how long the leader does not know, how the two end, the load before.
//! Leaves out: a shrink in doubt (`told_shrink` tells one that is not); the same by chance (`cluster_network`).
//!
//! ```text
//!  far ✂ out of sync │ far ─ leader: "let far in", controller ✂→ leader ─► taken {leader, near, far}, and the leader hears nothing
//!  far ✂ │ records on leader and near: not acknowledged; M2: acknowledged │ leader ✝ near ✝ ─► far leads, by right
//! ```

use super::told::{Cast, lost, told};
use super::told_isr::{PARTITIONS, Trio, plan};
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;
use crate::story::meetings::claim;

/// Tells it.
#[must_use]
pub fn maximal(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        // Who does not vote stands for no election while it hears nothing of the quorum's leader.
        |drawn, dice| plan(drawn, 1, dice),
        |cast: Cast| async move { play(Trio::gather(cast).await?).await },
    )
}

async fn play(mut trio: Trio) -> Result<(), Stop> {
    let (first, more) = (trio.dice.between(1, 20), trio.dice.between(1, 20));
    let stays = trio.span_ms(100, 1500);
    let (leader, near, far, active) = (trio.leader, trio.near, trio.far, trio.active);
    trio.far_leaves().await?;
    trio.hand.sends(first).await?;
    let network = trio.stage().world.network().clone();
    trio.part_from(far, &[leader, near], false);
    trio.until("the leader asks to let the far one in", || trio.asks_for(3)).await?;
    network.set_cut(active, leader, true); // the question is on its way
    trio.until("the controller takes the set that its leader asked for", || {
        trio.standing().is_ok_and(|now| now.isr.len() == 3)
    })
    .await?;
    trio.part_from(far, &[leader, near], true);
    let has = trio.end_at(far);
    if !trio.asks_for(3) {
        return Err(lost("the leader knows only that it asked"));
    }
    let fate = trio.hand.sets_out(more).await;
    trio.until("old members have what the new one has not", || {
        trio.end_at(leader) > has && trio.end_at(near) == trio.end_at(leader)
    })
    .await?;
    trio.pause(stays).await;
    if !trio.asks_for(3) || trio.end_at(far) != has {
        return Err(lost("the leader still knows only that it asked"));
    }
    claim("REP-4", fate.acked() == 0, || {
        format!("{} records were acknowledged that {far}, which is in sync, has not", fate.acked())
    })?;
    for node in [near, leader] {
        trio.node(node).kill();
    }
    network.set_cut(active, leader, false);
    trio.until("the one that its leader did not know to be in sync leads", || {
        trio.scene.belief(far).is_some_and(|sight| sight.leads)
    })
    .await?;
    let (now, told) = (trio.standing()?, trio.losses()?);
    claim("REPORTED", told.is_empty(), || format!("{now:?} was in sync, and is told to have lost {told:?}"))?;
    trio.count("leaders that their predecessor did not know to be in sync");
    Ok(())
}
