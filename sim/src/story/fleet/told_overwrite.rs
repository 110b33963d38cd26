//! Raft, figure 8, with the metadata of five whole brokers: an entry of an older epoch stands on a majority, and is no more
//! committed for that than it was.
//!
//! Owns: the order of cuts among five voters, by what stands on their disks. Promises: the run fails unless the old entry
//! stood on three of five disks beside no newer one on one of them, and was overwritten (`told::lost`). Drawn: who is who, how
//! fast network and disks are, how long elections take, how long a state stays, the load. Who finds what comes of it: MQ-4.
//! Leaves out: the same with three voters, by chance (`overwrite`).
//!
//! ```text
//!        1  A leads, B hears it     2  ✂, C D E: E leads    3  A, B, C: A (or B) leads     4  B D E: E leads, its log
//!                                      alone with its entry     again; B does not hear it     is the newest of these
//!  A     1 ─ 2                      1 ─ 2                   1 ─ 2 ─ 4                      1 ─ 2 ─ 4   ✂
//!  B     1 ─ 2                      1 ─ 2                   1 ─ 2          M32: "committed" 1 ─ 3 ─ 5
//!  C     1                          1                       1 ─ 2 ─ 4                      1 ─ 2 ─ 4   ✂
//!  D     1                          1                       1                              1 ─ 3 ─ 5
//!  E     1                          1 ─ 3                   1 ─ 3                          1 ─ 3 ─ 5
//! ```

use std::time::Duration;

use super::desk::Desk;
use super::overwrite::Scene;
use super::told::{Cast, lost, shape, told};
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;

const VOTERS: u32 = 5;
/// How long the quorum is waited for at each step.
const PATIENCE: Duration = Duration::from_secs(40);
/// The quorum's log has rested for so long when the script begins.
const REST: Duration = Duration::from_millis(300);
/// One way between machines, in milliseconds: longer than a look at the disks takes to come round.
const WAY_MS: (u64, u64) = (8, 25);

/// Tells it.
#[must_use]
pub fn overwritten(params: &RunParams) -> RunReport {
    told(
        params,
        2,
        |plan, dice| shape(plan, VOTERS, WAY_MS, dice),
        |cast: Cast| async move {
            let (scene, mut dice) = (Scene { stage: cast.stage, patience: PATIENCE }, cast.dice);
            let stays = Duration::from_millis(dice.between(1, 200));
            Figure { scene, dice, stays }.play().await
        },
    )
}

struct Figure {
    scene: Scene,
    dice: Dice,
    /// How long the old entry stands on a majority.
    stays: Duration,
}

impl Figure {
    async fn play(mut self) -> Result<(), Stop> {
        let leader = self.rested().await?;
        let desk = Desk::at(&self.scene.stage, self.scene.voters()[leader].node());
        if !desk.sits_down().await {
            return Err(lost("the leader answers its operator"));
        }
        if self.rested().await? != leader {
            return Err(lost("the same one leads still"));
        }
        let mut rest: Vec<usize> = (0..VOTERS as usize).filter(|one| *one != leader).collect();
        let second = rest.remove(self.dice.below(rest.len() as u64) as usize);
        let old = self.scene.epoch(leader);
        self.two_have_it([leader, second], &rest, desk).await?;
        let winner = self.another_leads(old, &mut rest).await?;
        let third = rest.remove(self.dice.below(2) as usize);
        let deaf = self.majority_has_it(old, [leader, second, third], winner).await?;
        self.overwritten(deaf, [winner, rest[0]]).await
    }

    fn wait(&self, ways: u32) -> Duration {
        self.scene.stage.plan.latency.0 * ways
    }

    async fn until<T>(&self, step: &str, is_so: impl FnMut() -> Option<T>) -> Result<T, Stop> {
        self.scene.until(is_so).await.ok_or_else(|| lost(step))
    }

    fn count(&self, what: &str) {
        self.scene.stage.recorder.count(what);
    }

    /// Who leads when all logs have ended at one place for a while.
    async fn rested(&self) -> Result<usize, Stop> {
        let scene = &self.scene;
        let state = || {
            let ends: Vec<i64> = (0..VOTERS as usize).map(|one| scene.end(one)).collect();
            let is_level = ends.iter().all(|end| *end == ends[0]);
            scene.leader().filter(|_| is_level).map(|leader| (leader, ends[0]))
        };
        for _ in 0..100 {
            let found = self.until("one leads, and all have the same log", state).await?;
            scene.stage.world.sleep(REST).await;
            if state() == Some(found) {
                return Ok(found.0);
            }
        }
        Err(lost("the quorum has nothing to do"))
    }

    /// 1: the leader writes an entry that one other voter gets.
    async fn two_have_it(
        &self,
        [leader, second]: [usize; 2],
        rest: &[usize],
        desk: Desk,
    ) -> Result<(), Stop> {
        let (scene, base) = (&self.scene, self.scene.end(leader));
        for other in rest {
            scene.cut_both(leader, *other, true);
            scene.cut_both(second, *other, true);
        }
        let number = u64::from(scene.voters()[leader].node());
        scene.stage.broker.clone().aside(async move { desk.alter(number).await });
        let has = || (scene.end(second) > base && scene.end(second) == scene.end(leader)).then_some(());
        self.until("a second voter has the entry", has).await?;
        scene.cut_both(leader, second, true);
        if rest.iter().any(|other| scene.end(*other) > base) {
            return Err(lost("nobody else has the entry"));
        }
        Ok(())
    }

    /// 2: the others elect one of them, which is left alone with the entry that begins its epoch. It is taken out of `rest`.
    async fn another_leads(&self, old: i32, rest: &mut Vec<usize>) -> Result<usize, Stop> {
        let scene = &self.scene;
        let begun = || rest.iter().position(|one| scene.epoch(*one) > old);
        let place = self.until("the others elect one of them", begun).await?;
        let winner = rest.remove(place);
        rest.iter().for_each(|other| scene.cut_both(winner, *other, true));
        if rest.iter().any(|other| scene.epoch(*other) > old) {
            return Err(lost("the new leader is alone with its entry"));
        }
        self.count("quorums parted in two logs");
        Ok(winner)
    }

    /// 3: with a third voter, one of those that have the old entry leads again, and the third takes all that it has; the other
    /// one hears who leads and nothing else. That one is returned.
    async fn majority_has_it(&self, old: i32, three: [usize; 3], winner: usize) -> Result<usize, Stop> {
        let (scene, newer) = (&self.scene, self.scene.epoch(winner));
        let [first, second, third] = three;
        (0..VOTERS as usize)
            .filter(|one| !three.contains(one))
            .for_each(|other| scene.cut_both(third, other, true));
        for (one, other) in [(first, second), (first, third), (second, third)] {
            scene.cut_both(one, other, false);
        }
        let begun = || [first, second].into_iter().find(|one| scene.epoch(*one) > newer);
        let again = self.until("one that has the old entry leads again", begun).await?;
        let deaf = first + second - again;
        // That it leads has arrived then, and the first entries have not: one way, and three.
        scene.stage.world.sleep(self.wait(3) / 2).await;
        scene.cut(again, deaf, true);
        let epoch = scene.epoch(again);
        let has = || (scene.epoch(third) == epoch).then_some(());
        self.until("the third voter has all that its leader has", has).await?;
        scene.stage.world.sleep(self.wait(4) + self.stays).await;
        if scene.epoch(deaf) != old || scene.epoch(again) != epoch {
            return Err(lost("the old entry is the last one of a majority's member"));
        }
        self.count("old entries on a majority");
        Ok(deaf)
    }

    /// 4: of those that are left the one with the newest log leads, and the old entry goes.
    async fn overwritten(&self, deaf: usize, newest: [usize; 2]) -> Result<(), Stop> {
        let (scene, left) = (&self.scene, [deaf, newest[0], newest[1]]);
        for one in left {
            let others = (0..VOTERS as usize).filter(|other| !left.contains(other));
            others.for_each(|other| scene.cut_both(one, other, true));
        }
        for (one, other) in [(left[0], left[1]), (left[0], left[2]), (left[1], left[2])] {
            scene.cut_both(one, other, false);
        }
        let newer = scene.epoch(newest[0]);
        let gone = || (scene.epoch(deaf) > newer && scene.epoch(newest[0]) > newer).then_some(());
        self.until("the newer log wins", gone).await?;
        self.count("old entries overwritten");
        scene.stage.world.sleep(self.wait(8)).await; // its leader hears that it is committed, and god looks
        Ok(())
    }
}
