//! A broker that stops is let in no in-sync set and leads nothing, though it lives and has everything (S15, KIP-841, KAFKA-13916).
//!
//! Owns: what keeps it stopping: it may go when every live broker has heard of it, and one of them hears nothing. Promises: the run fails
//! unless it followed its leader to the end while it stopped, and while both others were fenced (`told::lost`). Who finds what comes
//! of it: the script (`MQ-15`: it is in sync or leads), god, and the oracle.
//! Drawn: the partition, how much is acknowledged meanwhile, which of the others ends first, the load before.
//! Leaves out: a stop that hurries (`cluster_failover`).
//!
//! ```text
//!  one ✂ controller │ far stops: out of sync, and waits for that one │ more is acknowledged: far has it, and is not let in
//!  leader ✝ near ✝ ─► nobody leads, though far is there │ they come back: one of them leads
//! ```

use dejaq_wire::ids::BrokerId;

use super::told::{Cast, lost, told};
use super::told_isr::{PARTITIONS, Trio, plan};
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;
use crate::story::meetings::claim;

/// Tells it.
#[must_use]
pub fn stopping(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |drawn, dice| {
            // Who hears nothing of the controller votes on nothing, and is missed only when the story is over.
            plan(drawn, 1, dice);
            drawn.config.healing.session_timeout =
                std::time::Duration::from_millis(dice.between(20_000, 30_000));
        },
        |cast: Cast| async move { play(Trio::gather(cast).await?).await },
    )
}

async fn play(mut trio: Trio) -> Result<(), Stop> {
    let (leader, near, far, active) = (trio.leader, trio.near, trio.far, trio.active);
    let records = trio.dice.between(1, 20);
    let nodes = trio.stage().brokers.iter().map(crate::story::BrokerNode::node);
    let deaf = nodes.into_iter().find(|one| ![leader, near, far, active].contains(one));
    let deaf = deaf.ok_or_else(|| lost("a fifth broker"))?;
    trio.scene.cut(deaf, active, true);
    let node = trio.node(far).clone();
    trio.stage().broker.clone().aside(async move { node.stop().await });
    trio.until("it stops, and has left", || stops(&trio) && trio.in_sync_are(leader, &[leader, near]))
        .await?;
    trio.hand.sends(records).await?;
    trio.until("it has all there is", || trio.end_at(far) == trio.end_at(leader)).await?;
    let pause = trio.span_ms(1200, 2500); // its leader looks at all of its sets every second
    let none = trio.scene.until_seen(pause, std::time::Duration::from_millis(1), || counts(&trio)).await;
    claim("MQ-15", !none, || format!("{far} stops, and {:?}", trio.standing().ok()))?;
    let pair = if trio.dice.chance(500) { [leader, near] } else { [near, leader] };
    for one in pair {
        trio.node(one).kill();
    }
    let is_away = |one: u32| {
        let image = trio.image().ok();
        image.is_some_and(|image| image.broker(BrokerId(one as i32)).is_some_and(|known| known.fenced))
    };
    trio.until("both others are away", || counts(&trio) || is_away(leader) && is_away(near)).await?;
    let now = trio.standing()?;
    claim("MQ-15", !counts(&trio) && now.leader.is_none(), || format!("{far} stops, and {now:?}"))?;
    if !stops(&trio) {
        return Err(lost("it stops still"));
    }
    trio.count("brokers that stopped, had everything, and were not elected");
    trio.scene.cut(deaf, active, false);
    for one in pair {
        trio.node(one).begin_start();
    }
    trio.until("another one leads", || {
        trio.standing().is_ok_and(|now| now.leader.is_some_and(|now| now != far))
    })
    .await?;
    let gone = trio.node(far).clone();
    trio.until("it has stopped", || !gone.runs()).await
}

/// Whether the far broker stops, by the newest metadata, and lives.
fn stops(trio: &Trio) -> bool {
    let image = trio.image().ok();
    let known = image.and_then(|image| image.broker(BrokerId(trio.far as i32)).cloned());
    known.is_some_and(|known| known.shutting_down && !known.fenced) && trio.node(trio.far).runs()
}

/// Whether anybody counts on the far broker: it leads, is in sync, or is to be let in.
fn counts(trio: &Trio) -> bool {
    let asks = || {
        let leading = trio.scene.belief(trio.leader)?.inside?.leading?;
        Some(leading.proposed?.isr.iter().any(|(one, _)| *one == trio.far))
    };
    trio.standing().is_ok_and(|now| now.isr.contains(&trio.far)) || asks().unwrap_or(false)
}
