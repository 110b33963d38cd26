//! The power of both replicas fails when one of them has synced a record and the other has not; the one that lost it leads, and has
//! another record at that offset before they meet (KIP-101, case 2): there is one record there in the end (S03).
//!
//! Owns: whose disk is slow, the two ends, who comes back when. Promises: the run fails unless the record was on both machines and on
//! one disk, unless the one that lost it led and took others from that offset on, and unless the other one had its own there still
//! (`told::lost`). The record was not acknowledged, as both replicas are needed and have to have synced it: what was acknowledged is
//! on both disks. Mostly a further one is under way that both lose. The one without it leads only when both are back: who may have
//! more is waited for, and then the one that came first leads. Drawn: who is who (leader or follower may be the one that keeps it),
//! how many records, whose power fails first and how long before the other's, how long they are away, the network, the load before.
//! Who finds what comes of it: REP-16, REP-8, REP-2; REP-1g and the oracle, if an acknowledged record goes with it.
//!
//! ```text
//!  A  m1 m2 synced     m3 written ⚡                 back: m1 m2   ✂    m1 m2 │ hears: cuts m2, takes n2 (M5: keeps it)
//!  B  m1    m2 written m3 written ⚡ back: m1, waits         leads ✂ m1 n2 e2 │
//! ```

use std::time::Duration;

use dejaq_storage::model_disk::CrashMode;

use super::scripts::State;
use super::told::{Cast, lost, shape, told};
use super::told_script::{SENDER, Script, Sender, Sent};
use crate::disk::Speed;
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::story::{Plan, Stop, bounds, within};

/// So many that three of them are a quorum without both replicas.
const BROKERS: u32 = 5;
/// So many that the replicas of some are not on the active controller, whoever that is.
const PARTITIONS: i32 = 10;
/// One way between machines, in milliseconds.
const WAY_MS: (u64, u64) = (1, 6);
/// The machine of a second producer.
const OTHER: u32 = 96;
/// A sync that is not over before the power fails.
const LATE: Duration = Duration::from_secs(300);

/// Tells it.
#[must_use]
pub fn blackout(params: &RunParams) -> RunReport {
    told(params, PARTITIONS, two_of_five, |Cast { stage, mut dice }: Cast| async move {
        let (script, state, _) = Script::begin(&stage, &mut dice).await?;
        let own = Sender::new(&script, &mut dice);
        // Too few are in sync when it leads: it takes only what is content with that.
        let other = Sender::content(OTHER, &script, &mut dice);
        let mut pair = state.replicas.clone();
        if dice.chance(500) {
            pair.reverse();
        }
        let base = script.sight(state.leader)?.end + 2;
        let blackout = Blackout {
            keeper: pair[0],
            loser: pair[1],
            base,
            kept: base + dice.between(1, 4) as i64,
            lost_by_both: if dice.chance(700) { dice.between(1, 3) } else { 0 },
            instead: dice.between(1, 5),
            is_keeper_first: dice.chance(500),
            between: Duration::from_millis(dice.between(0, 300)),
            away: [(); 2].map(|()| Duration::from_millis(dice.log_between(1, 3000))),
            script,
            own,
            other,
        };
        blackout.play(&state).await
    })
}

/// Five brokers, two replicas that are both needed.
fn two_of_five(plan: &mut Plan, dice: &mut Dice) {
    shape(plan, BROKERS, WAY_MS, dice);
    *plan = plan.clone().fleet((BROKERS, BROKERS), (2, 2));
    (plan.config.healing.leader_interval, plan.config.healing.auto_rebalance) = (None, false);
    plan.config.healing.session_timeout = Duration::from_millis(dice.between(2500, 6000));
}

struct Blackout {
    script: Script,
    own: Sender,
    other: Sender,
    /// Who has synced the records, and who has not.
    keeper: u32,
    loser: u32,
    /// What both disks have.
    base: i64,
    /// What the keeper's disk has.
    kept: i64,
    /// Records behind these that both have written, and neither synced.
    lost_by_both: u64,
    /// Records that are taken in their place.
    instead: u64,
    /// Whose power fails first.
    is_keeper_first: bool,
    between: Duration,
    /// How long the loser is away, and it alone is back.
    away: [Duration; 2],
}

impl Blackout {
    async fn play(&self, state: &State) -> Result<(), Stop> {
        let Blackout { script, keeper, loser, base, kept, .. } = self;
        let mut sent = self.half_synced(state).await?;
        self.power_fails().await?;
        let next = self.loser_leads().await?;
        sent.extend(self.takes_others().await?);
        let is_parted = script.sees(*keeper, |it| {
            let latest = it.inside.as_ref().map(|inside| inside.latest_epoch);
            !it.leads && it.epoch == next.epoch && it.end == *kept && latest == Some(state.epoch)
        });
        let has_others = script.sees(*loser, |it| it.leads && it.end == base + self.instead as i64);
        if !is_parted || !has_others {
            return Err(lost("at one offset the two have different records"));
        }
        script.count("offsets with two records after a power cut of both");
        script.scene.cut(*keeper, *loser, false);
        let end = base + self.instead as i64;
        let is_one = || script.sees(*keeper, |it| it.end >= end && it.watermark >= end);
        script.until("the one that kept the record has the other one", is_one).await?;
        [*keeper, *loser].iter().for_each(|node| script.scene.cut(SENDER, *node, false));
        script.until("all is acknowledged", || sent.iter().all(|one| one.offset().is_some())).await?;
        script.level(&state.replicas).await?;
        script.count("offsets with one record again");
        Ok(())
    }

    /// Both have the records, and one of them has synced those that it is to keep.
    async fn half_synced(&self, state: &State) -> Result<Vec<Sent>, Stop> {
        let Blackout { script, own, other, keeper, loser, base, kept, .. } = self;
        // A producer has one batch under way until its first is acknowledged.
        for sender in [own, other] {
            let opening = sender.send().await;
            script.until("a producer's first record is acknowledged", || opening.offset().is_some()).await?;
        }
        script.level(&state.replicas).await?;
        let late = Speed { sync_from: LATE, sync_to: LATE, stall: Duration::ZERO };
        let has = |node: u32, end: i64, flushed: i64| {
            script.sees(node, |it| {
                it.end == end && it.inside.as_ref().is_some_and(|inside| inside.flushed == flushed)
            })
        };
        let both = || has(*keeper, *base, *base) && has(*loser, *base, *base);
        script.until("both have synced all of before", both).await?;
        script.scene.node(*loser).device().set_speed(late);
        let mut sent = Vec::new();
        for end in base + 1..=*kept {
            sent.push(own.send().await);
            let is_so = || has(*keeper, end, end) && has(*loser, end, *base);
            script.until("both have a record more, and one has synced it", is_so).await?;
        }
        script.scene.node(*keeper).device().set_speed(late);
        for number in 1..=self.lost_by_both as i64 {
            sent.push(own.send().await);
            let is_so = || has(*keeper, kept + number, *kept) && has(*loser, kept + number, *base);
            script.until("both have a record more, and neither has synced it", is_so).await?;
        }
        Ok(sent)
    }

    /// The power of both fails, and nobody leads.
    async fn power_fails(&self) -> Result<(), Stop> {
        let Blackout { script, keeper, loser, .. } = self;
        // Who sends the records again does so when there are others.
        [*keeper, *loser].iter().for_each(|node| script.scene.cut(SENDER, *node, true));
        script.scene.cut(*keeper, *loser, true);
        let order = if self.is_keeper_first { [*keeper, *loser] } else { [*loser, *keeper] };
        for node in order {
            script.scene.node(node).power_cut(CrashMode::Lose);
            script.scene.node(node).device().set_speed(script.stage().plan.disk);
            script.pause(self.between).await;
        }
        script.until("nobody leads", || script.scene.state().is_none()).await
    }

    /// Both come back, the one that lost the records first; it leads, and they do not meet.
    async fn loser_leads(&self) -> Result<State, Stop> {
        let Blackout { script, keeper, loser, base, kept, .. } = self;
        for ((node, end), away) in [(*loser, *base), (*keeper, *kept)].into_iter().zip(self.away) {
            script.pause(away).await;
            script.scene.node(node).begin_start();
            within(script.stage(), bounds::READY, script.scene.node(node).ready()).await?;
            script.until("it has its log open", || script.scene.belief(node).is_some()).await?;
            if !script.sees(node, |it| it.end == end) {
                return Err(lost("it comes back with what it had synced"));
            }
        }
        let leads = || script.scene.state().is_some_and(|now| now.leader == *loser);
        script.until("the one that lost the records leads", leads).await?;
        script.until("it knows", || script.sees(*loser, |it| it.leads)).await?;
        script.scene.state().ok_or_else(|| lost("it leads on"))
    }

    /// It takes records of another producer at their place.
    async fn takes_others(&self) -> Result<Vec<Sent>, Stop> {
        let Blackout { script, loser, base, .. } = self;
        let mut sent = Vec::new();
        for number in 1..=self.instead as i64 {
            sent.push(self.other.send().await);
            let has_it = || script.sees(*loser, |it| it.leads && it.end == base + number);
            script.until("the new leader has a record more", has_it).await?;
        }
        Ok(sent)
    }
}
