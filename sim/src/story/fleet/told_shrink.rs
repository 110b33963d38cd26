//! A set shrinks, and what waited for who left is acknowledged at once: producers do not hang (S13, KAFKA-13091 and 15021).
//!
//! Owns: what waits, and who leaves how: one that lags, and one that stops gracefully and is counted no more though its process goes on.
//! Promises: the run fails unless records waited for the one that leaves, and for nothing else, until it left (`told::lost`). Nothing
//! else is sent meanwhile: whatever happens next to the partition would look at the watermark again. Who finds what comes of it: REP-15,
//! by god, and by the script, which gives an acknowledgement a second from the moment at which the leader knows.
//! Drawn: the partition, which way comes first, the load before.
//! Leaves out: a set that becomes too small (the client is told so: `acks=all` in README).
//!
//! ```text
//!  far ✂ │ one batch: leader and near have it, the watermark waits for far │ far lags, or stops ─► {leader, near} ─► acknowledged
//! ```

use std::time::Duration;

use super::told::{Cast, lost, told};
use super::told_isr::{PARTITIONS, Trio, plan};
use crate::runner::{RunParams, RunReport};
use crate::story::meetings::claim;
use crate::story::{Stop, bounds, within};

/// From the moment at which the leader knows the smaller set to the acknowledgement: a way to the client, and nothing else.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Tells it.
#[must_use]
pub fn shrinks(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |drawn, dice| {
            plan(drawn, 5, dice);
            // Who stops has left before it would for its lag.
            drawn.config.healing.replica_lag = Duration::from_millis(dice.between(5000, 8000));
        },
        |cast: Cast| async move {
            let mut trio = Trio::gather(cast).await?;
            let stops_first = trio.dice.chance(500);
            for stops in [stops_first, !stops_first] {
                one(&mut trio, stops).await?;
                trio.part_from(trio.far, &[trio.leader, trio.near], false);
                let far = trio.node(trio.far).clone();
                trio.until("who stops has stopped", || !stops || !far.runs()).await?;
                far.begin_start();
                within(trio.stage(), bounds::IN_SYNC, super::in_sync(trio.stage())).await?;
            }
            Ok(())
        },
    )
}

async fn one(trio: &mut Trio, stops: bool) -> Result<(), Stop> {
    let (leader, near, far) = (trio.leader, trio.near, trio.far);
    let records = trio.dice.between(1, 20);
    if trio.standing()?.leader != Some(leader) {
        return Err(lost("the same one leads still"));
    }
    trio.part_from(far, &[leader, near], true);
    let fate = trio.hand.sets_out(records).await;
    trio.until("the others have it", || {
        trio.end_at(leader) > trio.end_at(far) && trio.end_at(near) == trio.end_at(leader)
    })
    .await?;
    if stops {
        let node = trio.node(far).clone();
        trio.stage().broker.clone().aside(async move { node.stop().await });
    }
    trio.until("who lags leaves", || trio.members_at(leader).is_some_and(|set| !set.contains(&far))).await?;
    let image = trio.image()?;
    let known = image.broker(dejaq_wire::ids::BrokerId(far as i32));
    if known.is_none_or(|known| known.shutting_down != stops) {
        return Err(lost(if stops { "it leaves because it stops" } else { "it leaves because it lags" }));
    }
    if fate.acked() == records {
        return Err(lost("something waited for who left"));
    }
    let done = trio.scene.until_seen(AT_ONCE, Duration::from_millis(1), || fate.acked() == records).await;
    claim("REP-15", done, || {
        format!(
            "{far} left the set, {near} and {leader} have it all, and {} of {records} are acknowledged",
            fate.acked()
        )
    })?;
    trio.count(if stops {
        "records acknowledged when who stopped had left"
    } else {
        "records acknowledged when who lagged had left"
    });
    Ok(())
}
