//! A quorum in which an entry of an older epoch reaches a majority before one of its leader's own does, and another log wins
//! then (Raft, figure 8): whoever counts the old entry as committed loses what is committed.
//!
//! Owns: the order of cuts and elections among three voters. Promises: every wait has an end, nothing stays cut; it gives up
//! where the quorum does not do what it needs. It reads what stands on the voters' disks, never what the product says.
//! Leaves out: who finds what comes of it (`watched`: MQ-4; the product's own assertion that nothing committed is cut). With
//! three voters an old entry reaches a majority alone only where a leader sends one entry at a time, which a whim decides; with
//! five it always can (`told_overwrite`).
//!
//! ```text
//!  1  A leads, alone: e2 ────────────────┐            B votes for C, C ✂ B: C leads, alone: e3
//!  2  A ─ B, C alone: A leads again, e4; B has e2 and not e4 (M32: "committed") ── A ✂
//!  3  B ─ C: C's log is the newer one, it leads, and B cuts e2
//! ```

use std::time::Duration;

use super::desk::Desk;
use super::watched::{durable_vote, end_for_certain, last_epoch};
use crate::rng::Dice;
use crate::story::{BrokerNode, Stage};

/// How long the quorum is waited for, where a strike can be given up.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often the disks are looked at while a moment must not be missed.
const GLANCE: Duration = Duration::from_micros(300);
/// What is on its way arrives.
const ARRIVES: Duration = Duration::from_millis(100);

/// Runs it beside everything else.
pub(super) fn strike(stage: &Stage, dice: &mut Dice) {
    let (stage, number) = (stage.clone(), dice.below(1 << 20));
    stage.broker.clone().aside(async move {
        let scene = Scene { stage: stage.clone(), patience: PATIENCE };
        if let Some(first) = scene.leader() {
            scene.play(first, number).await;
            scene.cut_all(false);
        }
    });
}

/// The voters, by their places.
pub(super) struct Scene {
    pub stage: Stage,
    /// How long it waits for the quorum to do what it must.
    pub patience: Duration,
}

impl Scene {
    pub fn voters(&self) -> &[BrokerNode] {
        &self.stage.brokers[..self.stage.plan.voters as usize]
    }

    /// Who leads the quorum, if all voters agree on that.
    pub fn leader(&self) -> Option<usize> {
        let active: Vec<Option<u32>> = self.voters().iter().map(BrokerNode::active_controller).collect();
        let is_one = active.iter().all(|one| *one == active[0]);
        let is_it = |voter: &BrokerNode| Some(voter.node()) == active[0];
        self.voters().iter().position(is_it).filter(|_| is_one)
    }

    /// Cuts the way from one voter to another, or mends it.
    pub fn cut(&self, from: usize, to: usize, cut: bool) {
        if !(cut && self.stage.recorder.is_calm()) {
            let (from, to) = (self.voters()[from].node(), self.voters()[to].node());
            self.stage.world.network().set_cut(from, to, cut);
        }
    }

    pub fn cut_both(&self, one: usize, other: usize, cut: bool) {
        self.cut(one, other, cut);
        self.cut(other, one, cut);
    }

    fn cut_all(&self, cut: bool) {
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            self.cut_both(one, other, cut);
        }
    }

    pub async fn until<T>(&self, mut is_so: impl FnMut() -> Option<T>) -> Option<T> {
        let end = self.stage.world.now_ns() + self.patience.as_nanos() as u64;
        loop {
            if let Some(found) = is_so() {
                return Some(found);
            }
            if self.stage.world.now_ns() >= end || self.stage.recorder.is_calm() {
                return None;
            }
            self.stage.world.sleep(GLANCE).await;
        }
    }

    fn vote(&self, voter: usize) -> i32 {
        durable_vote(&self.voters()[voter]).unwrap_or(0)
    }

    pub fn end(&self, voter: usize) -> i64 {
        end_for_certain(&self.voters()[voter])
    }

    pub fn epoch(&self, voter: usize) -> i32 {
        last_epoch(&self.voters()[voter])
    }

    async fn play(&self, first: usize, number: u64) -> Option<()> {
        if self.voters().len() != 3 {
            return None;
        }
        let others = [(first + 1) % 3, (first + 2) % 3];
        let (old, before) = (self.epoch(first), self.end(first));
        others.iter().for_each(|other| self.cut_both(first, *other, true));
        self.tell_alone(first, number).await;
        // Whose vote for another epoch is durable first asked for the other one, and the other one's answer is under way
        // when its own is durable: from then on nothing more comes to it.
        let votes = others.map(|other| self.vote(other));
        let risen = |at: usize| self.vote(others[at]) > votes[at];
        let candidate = self.until(|| (0..2).find(|at| risen(*at))).await?;
        let (winner, voter) = (others[candidate], others[1 - candidate]);
        self.until(|| risen(1 - candidate).then_some(())).await?;
        self.cut(winner, voter, true);
        let newer = self.until(|| Some(self.epoch(winner)).filter(|epoch| *epoch > old)).await?;
        self.cut(voter, winner, true);
        if self.epoch(voter) >= newer || self.end(first) <= before || self.epoch(first) != old {
            return None;
        }
        self.stage.recorder.count("quorums parted in two logs");
        let had = self.end(voter);
        self.cut_both(first, voter, false);
        self.until(|| (self.end(voter) > had).then_some(())).await?;
        self.cut(first, voter, true);
        let is_old = self.epoch(voter) == old;
        self.stage.world.sleep(ARRIVES).await;
        self.cut(voter, first, true);
        if !is_old || self.epoch(voter) != old {
            return None;
        }
        self.stage.recorder.count("old entries on a majority");
        self.cut_both(winner, voter, false);
        self.until(|| (self.epoch(voter) > old).then_some(())).await?;
        self.stage.recorder.count("old entries overwritten");
        self.stage.world.sleep(ARRIVES).await;
        Some(())
    }

    /// Asks a leader that nobody hears for a change: it writes it down, and cannot commit it.
    async fn tell_alone(&self, leader: usize, number: u64) {
        Desk::at(&self.stage, self.voters()[leader].node()).alter(number).await;
    }
}
