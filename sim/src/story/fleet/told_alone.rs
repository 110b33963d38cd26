//! A leader is cut off from everybody but its clients, goes on alone, and dies; another one leads (S20; Jepsen's look at Kafka 0.8).
//!
//! Owns: who is cut off, and when it ends. With `min.insync.replicas=1` nothing but the set keeps a leader from committing alone, and
//! the set shrinks only with the controller, which it cannot reach: what asks for all is not acknowledged there, and is stored
//! once by the next leader. What asks for the leader alone (acks=1) is acknowledged, and is gone: nobody promised more, and the
//! oracle counts it as excused. Promises: the run fails unless the lonely one acknowledged such records, unless what asks for
//! all had reached its log, and unless another one leads before it is back (`told::lost`). Who finds what comes of it: the script,
//! if something was acknowledged with acks=all (`REP-1`); god (`REP-6`) and the oracle.
//! Drawn: partition, how much of either kind, how it ends, how long it stays away, the load before.
//!
//! ```text
//!  leader ✂ all brokers │ acks=all ─► waits │ acks=1 ─► acknowledged │ fenced: another leads ─► leader ✝, mended ─► follows, cuts its tail
//! ```

use dejaq_storage::model_disk::CrashMode;

use super::told::{Cast, lost, told};
use super::told_isr::{Hand, PARTITIONS, Trio, plan};
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;
use crate::story::meetings::claim;

/// Tells it.
#[must_use]
pub fn alone(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |drawn, dice| {
            plan(drawn, 5, dice);
            for topic in &mut drawn.topics {
                topic.min_insync = 1;
                topic.configs.insert("min.insync.replicas".into(), "1".into());
            }
        },
        |cast: Cast| async move { play(Trio::gather(cast).await?).await },
    )
}

async fn play(mut trio: Trio) -> Result<(), Stop> {
    let [first, asked, lone] = [(); 3].map(|()| trio.dice.between(1, 20));
    let leader = trio.leader;
    let careless = Hand::careless(trio.stage(), trio.scene.index, 96);
    trio.hand.sends(first).await?;
    careless.sends(1).await?; // it knows who leads
    let others: Vec<u32> = trio.stage().brokers.iter().map(crate::story::BrokerNode::node).collect();
    let base = trio.end_at(leader);
    trio.part_from(leader, &others, true);
    let (waiting, told) = (trio.hand.sets_out(asked).await, careless.sets_out(lone).await);
    trio.until("the lonely one acknowledges what asks for nobody else", || told.acked() == lone).await?;
    let all = base + i64::try_from(asked + lone).unwrap_or(i64::MAX);
    trio.until("what asks for all is in its log", || trio.end_at(leader) >= all).await?;
    let is_deposed = || trio.standing().is_ok_and(|now| now.leader.is_some_and(|other| other != leader));
    let mut early = 0;
    let is_over = || {
        let is_over = is_deposed();
        early = if is_over { early } else { waiting.acked() };
        is_over
    };
    trio.until("another one leads", is_over).await?;
    claim("REP-1", early == 0, || format!("{leader} is alone, and acknowledged {early} records for all"))?;
    trio.count("records that a lonely leader acknowledged, and that asked for no more");
    if trio.dice.chance(500) {
        trio.node(leader).kill();
    } else {
        let mode = CrashMode::draw(trio.dice.rng());
        trio.node(leader).power_cut(mode);
    }
    let pause = trio.span_ms(0, 2000);
    trio.pause(pause).await;
    trio.part_from(leader, &others, false);
    trio.node(leader).begin_start();
    trio.until("what asks for all is acknowledged by the next leader", || waiting.acked() == asked).await?;
    let now = trio.standing()?;
    if now.leader == Some(leader) {
        return Err(lost("the next leader goes on leading"));
    }
    Ok(())
}
