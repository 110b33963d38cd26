//! A leader reads for a follower while its log is cut and other records are appended there: what it then sends is not of the log
//! that the follower asked for, and is neither sent nor taken (S10; KAFKA-18723).
//!
//! Owns: how long the read takes, and what becomes of the log meanwhile. Promises: the run fails unless the read began before and
//! ended after the log was cut and was longer again (`told::lost`; the product's mark for such a read). The reader of a log looks
//! a second time then, and finds a good batch at the same offset, of the next epoch; so the leader must see that it leads no more,
//! and the follower, whose record before it is of the old epoch, that the batch is of a later one than it asked in. If neither
//! does, its log is another one for ever, and nothing shows it, since the last epochs agree. Drawn: who is who, the network, the
//! load before. Who finds what comes of it: REP-16, REP-2.
//!
//! ```text
//!  C                              elected, e2: y1 y2
//!  A  x1 x2, reads x2 for B ····· hears, cuts x1 x2, takes y1 y2 ····· has read: y2!
//!  B  x1, asks A in e1 for what follows ·····························► x1 y2 (M284), for ever
//! ```

use std::time::Duration;

use dejaq_storage::model_disk::{Op, Rates};
use dejaq_storage::probe;

use super::desk::Desk;
use super::scripts::State;
use super::told::{Cast, lost, told};
use super::told_script::{SENDER, Script, Sender};
use super::told_turns::{first_elected, second_leads, takes_the_log_of, three_of_four};
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;

/// So many that the replicas of some are not on the active controller, whoever that is.
const PARTITIONS: i32 = 8;
/// The machine of a second producer.
const OTHER: u32 = 96;
/// How long the read takes: longer than an election, and what follows from it; and less than the follower waits for an answer.
const READS: Duration = Duration::from_millis(1500);
/// How often it is tried.
const TRIES: u32 = 5;
/// What was read has arrived, or was refused.
const ARRIVES: Duration = Duration::from_millis(200);
/// The product's mark for a read that was begun in another log.
const RACE: &str = "a read races with a truncation or a removal";

/// Tells it.
#[must_use]
pub fn under_way(params: &RunParams) -> RunReport {
    told(params, PARTITIONS, three_of_four, |Cast { stage, mut dice }: Cast| async move {
        let (script, state, active) = Script::begin(&stage, &mut dice).await?;
        let senders = [SENDER, OTHER].map(|machine| Sender::on(machine, &script, &mut dice));
        let mut state = state;
        for _ in 0..TRIES {
            let second = second_leads(&script, &state).await?;
            if play(&script, &senders, &second, active).await? {
                return Ok(());
            }
            script.count("reads that were over too soon");
            script.level(&second.replicas).await?;
            state = script.scene.state().ok_or_else(|| lost("somebody leads"))?;
        }
        Err(lost("the read is still under way when the log is another one"))
    })
}

/// False if the read was over too soon: a producer may ask the follower, which knows nothing, who leads.
async fn play(
    script: &Script,
    [sender, other]: &[Sender; 2],
    state: &State,
    active: u32,
) -> Result<bool, Stop> {
    let (scene, leader, first) = (&script.scene, state.leader, state.replicas[0]);
    let follower = state.replicas.iter().copied().find(|one| *one != leader && *one != first);
    let follower = follower.ok_or_else(|| lost("a third replica"))?;
    let desk = Desk::at(script.stage(), active);
    if !desk.sits_down().await {
        return Err(lost("the active controller answers its operator"));
    }
    // A producer has one batch under way until its first is acknowledged.
    let opening = sender.send().await;
    script.until("the producer's first record is acknowledged", || opening.offset().is_some()).await?;
    script.level(&state.replicas).await?;
    for (one, other) in [(leader, first), (follower, first), (follower, active)] {
        scene.cut(one, other, true);
    }
    let base = script.sight(leader)?.end;
    let mut sent = vec![sender.send().await];
    script
        .until("the follower has the first record", || script.sees(follower, |it| it.end == base + 1))
        .await?;
    script.pause(ARRIVES).await; // it has asked for what follows
    let begun = script.stage().world.now_ns();
    sent.push(reads_slowly(script, sender, leader, base + 2).await?);
    let elected = first_elected(script, &desk, state).await?;
    // The first one sends its first record again, and waits; so that there is another at the place of its second.
    sent.push(other.send().await);
    takes_the_log_of(script, &elected, (leader, base + 2)).await?;
    let over = begun + READS.as_nanos() as u64;
    let is_slow = script.stage().world.now_ns() < over;
    let is_old = script.sees(follower, |it| it.epoch == state.epoch && it.end == base + 1);
    if is_slow && !is_old {
        return Err(lost("the follower has heard nothing"));
    }
    if is_slow {
        arrives(script, over).await?;
    }
    scene.cut(follower, active, false);
    scene.cut(follower, first, false);
    script.until("all is acknowledged", || sent.iter().all(|one| one.offset().is_some())).await?;
    Ok(is_slow)
}

/// Waits until the read is over and what comes of it has arrived.
async fn arrives(script: &Script, over: u64) -> Result<(), Stop> {
    script.count("logs cut while they are read for a follower");
    script.stage().world.sleep_until(over).await;
    script
        .until("the read is over, and was begun in another log", || probe::marks_reached().contains(&RACE))
        .await?;
    script.pause(ARRIVES).await;
    script.count("answers under way while the log became another one");
    Ok(())
}

/// The leader takes a record, and its disk a long time to read that for the follower.
async fn reads_slowly(
    script: &Script,
    sender: &Sender,
    leader: u32,
    end: i64,
) -> Result<super::told_script::Sent, Stop> {
    let device = script.scene.node(leader).device();
    let cold = || device.platter.counter(Op::ColdRead).done;
    let before = cold();
    device.platter.set_rates(Rates { cold_read_ppm: 1_000_000, ..Rates::default() });
    device.set_slow_reads(READS);
    let sent = sender.send().await;
    let reads = || cold() > before && script.sees(leader, |it| it.end == end);
    let begun = script.until("the leader reads the second record for the follower", reads).await;
    device.platter.set_rates(script.stage().rates());
    device.set_slow_reads(Duration::ZERO);
    begun.map(|()| sent)
}
