//! A replica loses its place and its log, and gets the place back, between two looks of its leader at the metadata: who it was
//! does not count for who it is (RSG-3).
//!
//! Owns: the order of cuts and moves, by what the brokers know and hold. Promises: the run fails unless the replica's log was
//! gone and begun anew while its leader counted what the old one had told (`told::lost`), and unless the leader heard of both
//! moves before it heard the replica again. Nothing is written meanwhile: a report of the old log that lacks nothing is the
//! worst one to believe. Drawn: which partition, how long each state stays, the network, the load
//! before. An answer of the controller that was under way may still tell of one move alone: then it is tried again. Who finds
//! what comes of it: REP-5, since the replica would be let in with nothing.
//! Leaves out: the same by chance, under load (`scripts`, `Readd`).
//!
//! ```text
//!  leader ✂ controller, replica │ moved away ─► its log deleted ─► moved back ─► a new log, empty │ leader ─ controller:
//!  both moves at once; M14: "it has everything", and is in sync │ leader ─ replica: it fetches, and is in sync
//! ```

use std::time::Duration;

use super::desk::Desk;
use super::in_sync;
use super::scripts::Scene;
use super::told::{Cast, TOPIC, lost, shape, told};
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::story::{Stage, Stop, bounds, producers, within};

const BROKERS: u32 = 3;
/// So many that some leader is not the active controller, whoever that is.
const PARTITIONS: i32 = 6;
/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether a step is done.
const GLANCE: Duration = Duration::from_millis(1);
/// What the leader makes of both moves is asked of the controller, at its next look at all of its sets, and answered.
const HEARD: Duration = Duration::from_millis(1200);
/// How often it is tried to let the leader hear of both moves at once.
const TRIES: u32 = 5;
/// One way between machines, in milliseconds.
const WAY_MS: (u64, u64) = (1, 6);

/// Tells it.
#[must_use]
pub fn readded(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |plan, dice| shape(plan, BROKERS, WAY_MS, dice),
        |Cast { stage, mut dice }: Cast| async move {
            within(&stage, bounds::PRODUCERS, producers::finish(&stage)).await?;
            within(&stage, bounds::IN_SYNC, in_sync(&stage)).await?;
            for _ in 0..TRIES {
                let scene = partition(&stage, &mut dice);
                let scene = scene.ok_or_else(|| lost("a leader that is not the controller"))?;
                let stays = [(); 3].map(|()| Duration::from_millis(dice.between(1, 500)));
                if (Readd { scene, stays }).play().await? {
                    return Ok(());
                }
                stage.recorder.count("leaders that heard of each move by itself");
                within(&stage, bounds::IN_SYNC, in_sync(&stage)).await?;
            }
            Err(lost("the leader hears of both moves at once"))
        },
    )
}

/// One with records whose leader is not the active controller.
fn partition(stage: &Stage, dice: &mut Dice) -> Option<Scene> {
    let scene = |index| Scene { stage: stage.clone(), topic: TOPIC.into(), index };
    let fits = |scene: &Scene| {
        let leader = scene.three().and_then(|(state, _, _)| scene.belief(state.leader));
        leader.is_some_and(|leader| leader.leads && leader.watermark > 0)
    };
    let mut all: Vec<Scene> = (0..PARTITIONS).map(scene).filter(fits).collect();
    (!all.is_empty()).then(|| all.swap_remove(dice.below(all.len() as u64) as usize))
}

struct Readd {
    scene: Scene,
    /// How long each state stays.
    stays: [Duration; 3],
}

impl Readd {
    /// False if the leader heard of each move by itself: what its controller answered to an earlier question was not lost.
    async fn play(self) -> Result<bool, Stop> {
        let Readd { scene, stays } = &self;
        let (state, follower, active) =
            scene.three().ok_or_else(|| lost("three brokers with a part each"))?;
        let leader = state.leader;
        let desk = Desk::at(&scene.stage, active);
        if !desk.sits_down().await {
            return Err(lost("the active controller answers its operator"));
        }
        self.until("the leader knows that all have everything", || self.counts_all_of(leader, follower))
            .await?;
        scene.cut(leader, active, true);
        scene.cut(leader, follower, true);
        self.pause(stays[0]).await;
        let rest: Vec<u32> = state.replicas.iter().copied().filter(|one| *one != follower).collect();
        if !desk.reassign(scene.index, &rest).await {
            return Err(lost("the replica is taken away"));
        }
        let folder = scene.stage.recorder.folder_of(TOPIC, scene.index).expect("it was made");
        let folder = format!("partitions/{folder}");
        let is_gone = || scene.node(follower).device().platter.files_in(&folder, false).is_empty();
        self.until("its log is gone", is_gone).await?;
        self.count("replicas taken away");
        self.pause(stays[1]).await;
        if !desk.reassign(scene.index, &state.replicas).await {
            return Err(lost("the replica is given its place back"));
        }
        let is_new = || scene.belief(follower).is_some_and(|sight| !sight.leads && sight.end == 0);
        self.until("its log is begun anew", is_new).await?;
        let moved = scene.moves().ok_or_else(|| lost("the metadata tells of the partition"))?;
        let known = scene.moves_known_at(leader);
        if known.is_none_or(|known| known + 2 > moved) || !self.counts_all_of(leader, follower) {
            return Err(lost("the leader has heard of neither move"));
        }
        self.count("replicas given back behind their leader");
        scene.forget_answers(leader, active);
        scene.cut(leader, active, false);
        let is_news = || scene.moves_known_at(leader) > known;
        self.until("the leader hears of the moves", is_news).await?;
        if scene.moves_known_at(leader) < Some(moved) {
            scene.cut(leader, follower, false);
            return Ok(false);
        }
        self.pause(stays[2] + HEARD).await;
        if scene.belief(follower).is_none_or(|sight| sight.end != 0) {
            return Err(lost("the replica has heard nothing of its leader"));
        }
        self.count("replicas that have nothing yet, and whose leader knows it");
        scene.cut(leader, follower, false);
        Ok(true)
    }

    fn count(&self, what: &str) {
        self.scene.stage.recorder.count(what);
    }

    async fn pause(&self, wait: Duration) {
        self.scene.stage.world.sleep(wait).await;
    }

    async fn until(&self, step: &str, is_so: impl FnMut() -> bool) -> Result<(), Stop> {
        if self.scene.until_seen(PATIENCE, GLANCE, is_so).await { Ok(()) } else { Err(lost(step)) }
    }

    /// Whether a leader shows all that it has, and a follower told it that it has all of that for certain.
    fn counts_all_of(&self, leader: u32, follower: u32) -> bool {
        let Some(sight) = self.scene.belief(leader).filter(|sight| sight.leads) else { return false };
        let leading = sight.inside.as_ref().and_then(|inside| inside.leading.as_ref());
        let told = leading.and_then(|leading| leading.reports.get(&follower));
        sight.watermark == sight.end && told.is_some_and(|told| told.durable == sight.end)
    }
}
