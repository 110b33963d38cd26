//! Told stories of a fleet: a script instead of strikes, between the same clients, the same god and the same calm act.
//!
//! Owns: the frame. Promises: god looks from the first record on, and what it found is the verdict, also of a story that could
//! not go on over it; a script that did not bring about what it is for fails the run and names the step, so that a story which
//! shows nothing is never green. What differs from seed to seed is drawn by the script from one stream, `told`.
//! Leaves out: the scripts (`told_*`); chance (`nemesis`).
//!
//! ```text
//!  up ─ topics ─ producers ─► script: cuts, waits, counts ─► calm act (`fleet::calm`) ─► verdict
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::{Crew, calm};
use crate::disk::Speed;
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::story::meetings::begin;
use crate::story::rebalance::quiet;
use crate::story::{DURABLE, Plan, ProducerPlan, Recorder, Stage, Stop, producers, report};
use crate::world::World;

/// The topic of a told story.
pub(super) const TOPIC: &str = "told";
/// Longer than any script: nobody is fenced or out of sync unless a script wants it.
const NEVER: Duration = Duration::from_secs(120);

/// What a script has to do with.
pub(super) struct Cast {
    pub stage: Stage,
    pub dice: Dice,
}

/// The script stops here: the cluster did not do what it needs, and the story shows nothing.
pub(super) fn lost(step: &str) -> Stop {
    Stop::Stuck(format!("the story was not brought about: {step}"))
}

/// A plan of `brokers` that all vote, with `partitions`; how fast the network and the disks are is drawn, and stays so.
pub(super) fn shape(plan: &mut Plan, brokers: u32, way_ms: (u64, u64), dice: &mut Dice) {
    *plan = plan.clone().fleet((brokers, brokers), (3, 2));
    let ms = Duration::from_millis;
    let way = ms(dice.between(way_ms.0, way_ms.1));
    // A sync is over before anything that was sent with it has arrived.
    let sync = way / dice.between(4, 20) as u32;
    (plan.latency, plan.disk) = ((way, way), Speed { sync_from: sync, sync_to: sync, stall: Duration::ZERO });
    plan.config.election_timeout = ms(dice.between(500, 1000));
    (plan.config.healing.session_timeout, plan.config.healing.replica_lag) = (NEVER, NEVER);
    plan.producers = (0..dice.between(1, 4)).map(|_| ProducerPlan::drawn(dice)).collect();
}

/// Tells a story of one topic with `partitions`.
pub(super) fn told<F>(
    params: &RunParams,
    partitions: i32,
    shape: impl FnOnce(&mut Plan, &mut Dice),
    script: impl FnOnce(Cast) -> F,
) -> RunReport
where
    F: Future<Output = Result<(), Stop>>,
{
    let ended = World::run(params.seed, params.trace.as_deref(), |world| async move {
        let mut dice = world.streams().dice("told", 0);
        let mut plan = quiet(&world, (TOPIC, partitions), DURABLE);
        shape(&mut plan, &mut dice);
        let plan = Arc::new(plan);
        let recorder = Recorder::new(&world, &plan);
        let stage = Stage::new(&world, plan, recorder, false);
        let outcome = play(&stage, dice, script).await;
        (report(&stage, outcome), stage.recorder.history())
    });
    match ended {
        Ok((report, history)) => {
            params.write_history(&history);
            report
        }
        Err(panic) => RunReport::crash(panic),
    }
}

async fn play<F>(stage: &Stage, dice: Dice, script: impl FnOnce(Cast) -> F) -> Result<(), Stop>
where
    F: Future<Output = Result<(), Stop>>,
{
    begin(stage).await?;
    producers::start(stage);
    let crew = Crew::begin(stage);
    let mut ended = script(Cast { stage: stage.clone(), dice }).await;
    if ended.is_ok() && crew.found().is_none() {
        ended = calm(stage, &crew).await;
    }
    crew.found().map_or(ended, |broken| Err(Stop::Broken(broken)))
}
