//! Two failovers in a row: the second leader takes records that nobody else gets, and dies; the third one never saw that epoch. When
//! the second comes back and names it, both go back to where their logs part: nothing of that epoch stays, and nothing goes that both
//! have (S04; KIP-279, KAFKA-6361, KAFKA-7164).
//!
//! Owns: who gets which records before each leader ends. Promises: the run fails unless the third leader had records of the first epoch
//! that the second lacked, unless the second came back with records of its own epoch at their offsets, of which the third one's list of
//! epochs knows nothing, and unless the third had committed more by then (`told::lost`). The first leader is back before the second
//! ends, for the sake of the quorum, and cannot ask it for anything. Drawn: who is who, how many records each takes (so that the
//! second's log ends before, at or behind the end of the first epoch), how long each leads, the network, the load before. Who finds
//! what comes of it: REP-16, REP-8, REP-2; the bound of the calm act, if the second one does not get on.
//!
//! ```text
//!  A  x x x e1 ✝ ─ back, cut off from C │                        follows B: x x x z z
//!  C  ✂ A B     leads: y y e2           │ ✝                      back: "e2 up to 2" ─► "e1, up to 3" ─► has e1 up to 0: cuts y y
//!  B  x x x                             │ leads: x x x z z e3    (M320: never heard of e2, "so all is well")
//! ```

use std::time::Duration;

use super::scripts::State;
use super::told::{Cast, lost, told};
use super::told_script::{SENDER, Script, Sender, Sent};
use super::told_turns::three_of_four;
use crate::runner::{RunParams, RunReport};
use crate::story::{Stop, bounds, within};

/// So many that the replicas of some are not on the active controller, whoever that is.
const PARTITIONS: i32 = 8;
/// The machine of the second leader's producer.
const OTHER: u32 = 96;

/// Tells it.
#[must_use]
pub fn unseen(params: &RunParams) -> RunReport {
    told(params, PARTITIONS, three_of_four, |Cast { stage, mut dice }: Cast| async move {
        let (script, state, _) = Script::begin(&stage, &mut dice).await?;
        let [a, c, b] = state.replicas[..] else { return Err(lost("three replicas")) };
        if state.leader != a {
            return Err(lost("the preferred replica leads"));
        }
        let senders = [SENDER, OTHER].map(|machine| Sender::on(machine, &script, &mut dice));
        let base = script.sight(a)?.end + senders.len() as i64;
        let (first_end, second_end) = (base + dice.between(1, 6) as i64, base + dice.between(1, 6) as i64);
        let more = dice.between(0, 4);
        let leads = [(); 3].map(|()| Duration::from_millis(dice.log_between(1, 1500)));
        let [first, second] = senders;
        let twice = Twice { script, first, second, a, b, c, base, first_end, second_end, more, leads };
        twice.play(&state).await
    })
}

struct Twice {
    script: Script,
    /// The producer of the first leader's records, and then of more.
    first: Sender,
    /// The producer of the second leader's.
    second: Sender,
    /// The first leader, the third and the second.
    a: u32,
    b: u32,
    c: u32,
    /// What all have.
    base: i64,
    /// Where the first epoch ends, and the log of the second leader.
    first_end: i64,
    second_end: i64,
    /// Records of the third leader beside those that are sent again.
    more: u64,
    /// How long the second one leads, the third, and the second is back before it reaches the others.
    leads: [Duration; 3],
}

impl Twice {
    async fn play(&self, state: &State) -> Result<(), Stop> {
        let mut sent = self.first_epoch(state).await?;
        let second = self.second_epoch(state, &mut sent).await?;
        self.third_epoch(&second, &mut sent).await?;
        self.comes_back(&second, state).await
    }

    /// Two of three get records that the other one does not get; then their leader ends.
    async fn first_epoch(&self, state: &State) -> Result<Vec<Sent>, Stop> {
        let Twice { script, a, b, c, base, .. } = self;
        // A producer has one batch under way until its first is acknowledged.
        for sender in [&self.first, &self.second] {
            let opening = sender.send().await;
            script.until("a producer's first record is acknowledged", || opening.offset().is_some()).await?;
        }
        script.level(&state.replicas).await?;
        // Its producer would send the second leader the same records again.
        [*a, *b, SENDER].iter().for_each(|other| script.scene.cut(*c, *other, true));
        let mut sent = Vec::new();
        for end in base + 1..=self.first_end {
            sent.push(self.first.send().await);
            let have_it = || [*a, *b].iter().all(|one| script.sees(*one, |it| it.end == end));
            script.until("two of three have a record more", have_it).await?;
        }
        script.scene.node(*a).kill();
        Ok(sent)
    }

    /// The second one takes records that nobody else gets, and ends when the first is back, which the quorum needs.
    async fn second_epoch(&self, state: &State, sent: &mut Vec<Sent>) -> Result<State, Stop> {
        let Twice { script, a, b, c, base, .. } = self;
        let second = script.deposed(state).await?;
        if second.leader != *c || !script.sees(*c, |it| it.leads && it.end == *base) {
            return Err(lost("the replica leads that lacks the records"));
        }
        for end in base + 1..=self.second_end {
            sent.push(self.second.send().await);
            let has_it = || script.sees(*c, |it| it.end == end && it.watermark == *base);
            script.until("the second leader has a record more", has_it).await?;
        }
        script.pause(self.leads[0]).await;
        let node = script.scene.node(*a);
        node.begin_start();
        within(script.stage(), bounds::READY, node.ready()).await?;
        let is_alone = script.sees(*c, |it| it.leads && it.end == self.second_end)
            && [*a, *b].iter().all(|one| script.sees(*one, |it| it.end == self.first_end));
        if !is_alone {
            return Err(lost("nobody gets what the second leader has"));
        }
        script.scene.node(*c).kill();
        script.count("second leaders that ended with what they alone had");
        Ok(second)
    }

    /// The third leads with the records of the first epoch, takes those of the second again and more, and commits all.
    async fn third_epoch(&self, second: &State, sent: &mut Vec<Sent>) -> Result<(), Stop> {
        let Twice { script, b, .. } = self;
        let third = script.deposed(second).await?;
        if third.leader != *b || !script.sees(*b, |it| it.leads && it.end >= self.first_end) {
            return Err(lost("the third replica leads"));
        }
        for _ in 0..self.more {
            sent.push(self.first.send().await);
        }
        let are_told = || sent.iter().all(|one| one.offset().is_some());
        script.until("all records are acknowledged under the third leader", are_told).await?;
        if sent[0].offset() != Some(self.base) {
            return Err(lost("the records of the first epoch are where they were"));
        }
        script.pause(self.leads[1]).await;
        Ok(())
    }

    /// The second one comes back with its epoch, of which the third never saw a record, and gets the other log.
    async fn comes_back(&self, second: &State, state: &State) -> Result<(), Stop> {
        let Twice { script, a, b, c, .. } = self;
        let node = script.scene.node(*c);
        node.begin_start();
        within(script.stage(), bounds::READY, node.ready()).await?;
        script.until("the second leader has its log open", || script.scene.belief(*c).is_some()).await?;
        script.pause(self.leads[2]).await;
        let has_tail = script.sees(*c, |it| {
            let latest = it.inside.as_ref().map(|inside| inside.latest_epoch);
            !it.leads && it.end == self.second_end && latest == Some(second.epoch)
        });
        if !has_tail || !script.sees(*b, |it| it.leads && it.watermark > self.first_end) {
            return Err(lost("the second leader comes back with what it alone has, and the third one leads"));
        }
        script.count("replicas that come back with an epoch that their leader never saw");
        [*a, *b, SENDER].iter().for_each(|other| script.scene.cut(*c, *other, false));
        let is_rid = || script.sees(*c, |it| it.end > self.first_end && it.watermark == it.end);
        let came = script.until("the second leader has the third one's log", is_rid).await;
        came.map_err(|_| Stop::Stuck("a replica with an epoch that its leader never saw goes on".into()))?;
        script.level(&state.replicas).await?;
        script.count("replicas that were rid of an epoch that their leader never saw");
        Ok(())
    }
}
