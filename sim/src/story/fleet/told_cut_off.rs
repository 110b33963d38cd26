//! A leader is cut off from the controller and from its followers, not from its clients, and another one leads: it shows readers
//! nothing of what it alone has, neither while it takes itself for the leader nor when it follows, and cuts that (S08; KAFKA-14704).
//!
//! Owns: who reaches whom, and what is asked of the former leader at each step. Promises: the run fails unless it had records of its
//! own that nobody else had, unless another one led meanwhile and committed others at the same offsets, and unless the former leader
//! answered readers at each step: in the dark; where it is drawn, when it had heard that it leads no more and could not ask who does;
//! and, its disk slow, while it cut (`told::lost`). Drawn: who is who, how many records each has, how long it is alone, whether the
//! controller reaches it first, its disk, the network, the load before. Who finds what comes of it: the script, if a reader is given
//! any of it or is told of an end behind it (`REP-8`); god (REP-8, what it shows beside the disks), REP-16, the oracle.
//!
//! ```text
//!  A  shows 10, has 15 │ ✂ B C K: reader at 10: nothing │ K: "B leads" ─ reader: nothing │ B: "part at 10, 18 is visible" ─ cuts
//!  B  shows 10, has 10 │ leads, e2: shows 18            │                                │ (M9: shows 15, and has still to cut)
//! ```

use std::time::Duration;

use super::scripts::State;
use super::told::{Cast, lost, told};
use super::told_script::{Given, Onlooker, SENDER, Script, Sender};
use super::told_turns::three_of_four;
use crate::disk::Speed;
use crate::runner::{RunParams, RunReport};
use crate::story::meetings::claim;
use crate::story::{BrokerNode, Stop};

/// So many that the replicas of some are not on the active controller, whoever that is.
const PARTITIONS: i32 = 8;
/// The machine of a second producer, which does not reach the former leader.
const OTHER: u32 = 96;
/// How long it may take until the former leader has cut its log.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells it.
#[must_use]
pub fn cut_off(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |plan, dice| {
            three_of_four(plan, dice);
            plan.config.healing.session_timeout = Duration::from_millis(dice.between(2500, 6000));
        },
        |Cast { stage, mut dice }: Cast| async move {
            let (script, old, active) = Script::begin(&stage, &mut dice).await?;
            let senders = [SENDER, OTHER].map(|machine| Sender::on(machine, &script, &mut dice));
            let onlooker = Onlooker::new(&script).await?;
            let base = script.sight(old.leader)?.end + senders.len() as i64;
            let former = Former {
                tail: base + dice.between(1, 6) as i64,
                more: dice.between(1, 9),
                alone: Duration::from_millis(dice.log_between(1, 2000)),
                hears_first: dice.chance(500),
                sync: Duration::from_millis(dice.between(50, 400)),
                script,
                senders,
                onlooker,
                old,
                active,
                base,
            };
            former.play().await
        },
    )
}

struct Former {
    script: Script,
    /// One that reaches nobody else, and one that does not reach it.
    senders: [Sender; 2],
    onlooker: Onlooker,
    /// When it leads.
    old: State,
    active: u32,
    /// Where its log parts from the others', and what is visible ends.
    base: i64,
    /// Where its log ends.
    tail: i64,
    /// Records that the next leader takes.
    more: u64,
    /// How long it is alone when another one leads.
    alone: Duration,
    /// Whether it hears the controller before it reaches the other replicas.
    hears_first: bool,
    /// How long its disk takes for a sync when it has to cut.
    sync: Duration,
}

impl Former {
    async fn play(&self) -> Result<(), Stop> {
        let Former { script, senders: [_, other], old, .. } = self;
        self.has_a_tail().await?;
        self.shows_nothing().await?;
        let heir = script.deposed(old).await?;
        for number in 0..self.more as i64 {
            let sent = other.send().await;
            let is_there = || sent.offset() == Some(self.base + number);
            script
                .until("the next leader commits records where the former one has its own", is_there)
                .await?;
        }
        script.pause(self.alone).await;
        self.shows_nothing().await?;
        let is_in_the_dark =
            script.sees(old.leader, |it| it.leads && it.epoch == old.epoch && it.end == self.tail);
        if !is_in_the_dark {
            return Err(lost("the former leader still takes itself for the leader"));
        }
        script.count("former leaders that were asked in the dark");
        if self.hears_first {
            self.hears(&heir).await?;
        }
        self.comes_back(&heir).await?;
        self.others().for_each(|node| script.scene.cut(SENDER, node, false));
        script.level(&old.replicas).await?;
        script.count("former leaders that cut what they alone had");
        Ok(())
    }

    fn others(&self) -> impl Iterator<Item = u32> {
        let all = self.script.stage().brokers.iter().map(BrokerNode::node);
        all.filter(|node| *node != self.old.leader)
    }

    /// The leader and one of the clients reach nobody else, and it takes records of that one.
    async fn has_a_tail(&self) -> Result<(), Stop> {
        let Former { script, senders: [own, other], old, base, .. } = self;
        let leader = old.leader;
        // A producer has one batch under way until its first is acknowledged.
        for sender in [own, other] {
            let opening = sender.send().await;
            script.until("a producer's first record is acknowledged", || opening.offset().is_some()).await?;
        }
        script.level(&old.replicas).await?;
        for node in self.others() {
            script.scene.cut(leader, node, true);
            script.scene.cut(SENDER, node, true);
        }
        script.scene.cut(leader, OTHER, true);
        for end in base + 1..=self.tail {
            own.send().await;
            script.until("the leader has a record more", || script.sees(leader, |it| it.end == end)).await?;
        }
        if !script.sees(leader, |it| it.leads && it.watermark == *base && it.end == self.tail) {
            return Err(lost("the leader has records that nobody else has"));
        }
        Ok(())
    }

    /// Readers ask the former leader for what it alone has, and for the end.
    async fn shows_nothing(&self) -> Result<(), Stop> {
        let Former { onlooker, old, base, tail, .. } = self;
        for from in *base..=*tail {
            let given = onlooker.read_at(old.leader, from).await;
            claim("REP-8", !matches!(given, Given::Records(1..)), || {
                format!("{} alone has what is behind {base}, and gave {given:?} from {from} on", old.leader)
            })?;
            if given == Given::Nothing {
                return Err(lost("clients reach the former leader"));
            }
        }
        let told = onlooker.end_at(old.leader).await;
        claim("REP-8", !matches!(told, Some(Ok(end)) if end > *base), || {
            format!("{} alone has what is behind {base}, and told of {told:?}", old.leader)
        })
    }

    /// The controller reaches it, the other replicas do not.
    async fn hears(&self, heir: &State) -> Result<(), Stop> {
        let Former { script, old, tail, .. } = self;
        script.scene.cut(old.leader, self.active, false);
        let hears = || script.sees(old.leader, |it| !it.leads && it.epoch >= heir.epoch);
        script.until("the former leader hears that it leads no more", hears).await?;
        self.shows_nothing().await?;
        if !script.sees(old.leader, |it| !it.leads && it.end == *tail) {
            return Err(lost("the former leader follows, and has its records still"));
        }
        script.count("former leaders that were asked before they could cut");
        Ok(())
    }

    /// All reach it; readers ask it until its log is the other one's, which takes a while.
    async fn comes_back(&self, heir: &State) -> Result<(), Stop> {
        let Former { script, onlooker, old, base, tail, .. } = self;
        let (leader, device) = (old.leader, script.scene.node(old.leader).device());
        device.set_speed(Speed { sync_from: self.sync, sync_to: self.sync, stall: Duration::ZERO });
        self.others().for_each(|node| script.scene.cut(leader, node, false));
        script.scene.cut(leader, OTHER, false);
        let end = base + self.more as i64;
        let latest =
            |it: &crate::invariants::insight::Sight| it.inside.as_ref().map(|inside| inside.latest_epoch);
        let has_tail = || script.sees(leader, |it| it.end >= *tail && latest(it) == Some(old.epoch));
        let is_whole =
            || script.sees(leader, |it| it.end >= end && latest(it).is_some_and(|it| it >= heir.epoch));
        let give_up = script.stage().world.now_ns() + PATIENCE.as_nanos() as u64;
        let mut asked = 0;
        while !is_whole() {
            let given = onlooker.read_at(leader, *base).await;
            // What is cut does not come again.
            let is_before = has_tail();
            asked += u32::from(is_before);
            claim("REP-8", !(is_before && matches!(given, Given::Records(1..))), || {
                format!("{leader} has still to cut what is behind {base}, and gave {given:?}")
            })?;
            if script.stage().world.now_ns() > give_up {
                return Err(lost("the former leader has the other one's log"));
            }
        }
        device.set_speed(script.stage().plan.disk);
        if asked == 0 {
            return Err(lost("the former leader is asked while it has still to cut"));
        }
        Ok(())
    }
}
