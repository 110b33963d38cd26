//! A story: a broker, clients with their workload, faults for a while, then calm, then the judgement.
//!
//! Owns: the two acts that every scenario has. Promises: faults stop before the calm act; in it the broker must come
//! up, serve, and still hold every acknowledged record, each step within its bound (`bounds`), or the run is stuck.
//! Leaves out: which faults and which workload (the scenario's [`Plan`]).
//!
//! ```text
//! chaos ── nemesis strikes, clients send and poll, invariants after each recovery ──┐
//! calm  ── heal, (re)start, clients finish, drain by a fresh reader, graceful stop, ┴─► deep check, oracle
//! ```

mod admins;
mod bounds;
mod broker;
mod consumers;
mod damage;
mod directed;
mod drain;
mod edges;
mod faults;
mod fleet;
mod floods;
mod ghost;
mod glance;
mod groups;
mod hostiles;
mod ids;
mod images;
mod late;
mod late_marker;
mod meetings;
mod native;
mod nemesis;
mod pipes;
mod plan;
mod producers;
mod reader;
mod rebalance;
mod recorder;
mod revenant;
mod sequencer;
mod settings;
mod starts;
mod telling;
mod transactor;
mod undecided;

use std::time::Duration;

use dejaq_storage::model_disk::Rates;
use dejaq_storage::probe;

pub use broker::BROKER;
pub use directed::{Scene, direct};
pub use faults::Fault;
pub use fleet::{
    alone, blackout, bounced, budget, cut_off, elections, eligible, failed_over, half_made, harmed,
    last_standing, maximal, nearest, old_epoch, overwritten, pipelined, readded, restarted, retries, shrinks,
    stale, stopping, unclean, under_way, unseen, watermark,
};
pub use groups::{GroupPlan, Speaks};
pub use ids::{comes_back, forgotten, used_up};
pub use late::late_end;
pub use late_marker::late_marker;
pub use meetings::{behind_the_end, compacted_offsets, moving_coordinator, staged_offsets, zombie};
pub use pipes::PipePlan;
pub use plan::{ConsumerPlan, DURABLE, NONE, Plan, ProducerPlan, REPLICATED, TopicPlan};
pub use rebalance::rebalance;
pub use recorder::Recorder;
pub use revenant::revenant;
pub use undecided::undecided;

use crate::invariants::Broken;
use crate::ledger::Entry;
use crate::oracle;
use crate::runner::{RunParams, RunReport, Status};
use crate::world::World;
use bounds::within;
use broker::BrokerNode;

/// How long the last syncs may take before the final read asks for the end; no device of a story is slower.
const SETTLE: Duration = Duration::from_secs(5);

/// Everything that the parts of a running story share. Cheap to clone.
#[derive(Clone)]
pub struct Stage {
    /// The world.
    pub world: World,
    /// The broker's machine; in a fleet the first one.
    pub broker: BrokerNode,
    /// All brokers' machines.
    pub brokers: std::sync::Arc<[BrokerNode]>,
    /// What clients saw.
    pub recorder: Recorder,
    /// What was seen of the consumer group.
    pub group: groups::Watched,
    /// The plan.
    pub plan: std::sync::Arc<Plan>,
}

impl Stage {
    fn new(world: &World, plan: std::sync::Arc<Plan>, recorder: Recorder, keeps_page_cache: bool) -> Stage {
        let brokers = BrokerNode::fleet(world, &plan, &recorder, keeps_page_cache);
        let (broker, group) = (brokers[0].clone(), groups::Watched::default());
        Stage { world: world.clone(), broker, brokers: brokers.into(), recorder, group, plan }
    }

    /// The second act begins: the product has no whims any more.
    pub(crate) fn begin_calm(&self) {
        probe::set_whims(None);
        self.recorder.phase("calm");
    }

    /// What the device of this plan does by chance when it is well.
    pub(crate) fn rates(&self) -> Rates {
        Rates { cold_read_ppm: self.plan.cold_ppm, ..Rates::default() }
    }
}

/// Runs `plan` (made from the world's streams by the scenario) and reports.
#[must_use]
pub fn run(params: &RunParams, plan: impl FnOnce(&World) -> Plan) -> RunReport {
    let keeps_page_cache = params.tester == 1;
    let ended = World::run(params.seed, params.trace.as_deref(), |world| async move {
        let mut plan = plan(&world).cut(&params.cuts);
        plan.nothing_late = params.tester == 2;
        let plan = std::sync::Arc::new(plan);
        let recorder = Recorder::new(&world, &plan);
        probe::set_whims(plan.buggify.then(|| world.streams().dice("whims", 0).any()));
        let stage = Stage::new(&world, plan, recorder, keeps_page_cache);
        let outcome = if stage.plan.brokers > 1 { fleet::acts(&stage).await } else { acts(&stage).await };
        (report(&stage, outcome), stage.recorder.history())
    });
    let (report, history) = match ended {
        Ok((report, history)) => (report, Some(history)),
        Err(panic) => (RunReport::crash(panic), None),
    };
    if let Some(history) = &history {
        params.write_history(history);
    }
    report
}

/// Why a story ended before the judgement.
enum Stop {
    Stuck(String),
    Broken(Broken),
}

async fn acts(stage: &Stage) -> Result<(), Stop> {
    glance::watch(stage);
    let ended = both_acts(stage).await;
    // What was found is the reason, also of a story that was stuck over it.
    stage.broker.broken().map_or(ended, |broken| Err(Stop::Broken(broken)))
}

async fn both_acts(stage: &Stage) -> Result<(), Stop> {
    let stuck = |what: &str| Stop::Stuck(what.to_owned());
    stage.broker.start().await;
    let begun = stage.world.now_ns();
    within(stage, bounds::TOPICS, producers::create_topics(stage)).await?;
    producers::start(stage);
    consumers::start(stage);
    hostiles::start(stage);
    floods::start(stage);
    let asked = edges::start(stage);
    admins::start(stage);
    sequencer::start(stage);
    transactor::start(stage);
    groups::start(stage);
    pipes::start(stage);
    nemesis::strike(stage).await;
    calm(stage, &asked).await?;
    if stage.world.now_ns() <= begun {
        return Err(stuck("time did not pass"));
    }
    Ok(())
}

/// The second act: everything is healed; the broker must serve, hold what it promised, and stop gracefully.
async fn calm(stage: &Stage, asked: &edges::Asked) -> Result<(), Stop> {
    stage.begin_calm();
    nemesis::heal(stage).await;
    within(stage, bounds::READY, stage.broker.ready()).await?;
    within(stage, bounds::PRODUCERS, producers::finish(stage)).await?;
    within(stage, bounds::GROUP, groups::finish(stage)).await?;
    within(stage, bounds::PIPES, pipes::finish(stage)).await?;
    // What acks=1 confirmed may still wait for its sync, and so for its place below the watermark.
    stage.world.sleep(SETTLE).await;
    within(stage, bounds::DRAIN, drain::drain(stage)).await?;
    within(stage, bounds::EDGES, edges::judge(stage, asked)).await??;
    within(stage, bounds::FLOOD, floods::judge(stage)).await?;
    consumers::finish(stage).await;
    within(stage, bounds::STOP, stage.broker.stop()).await?;
    if let Some(broken) = images::check(&stage.broker.device(), |folder| stage.recorder.has_gaps(folder)) {
        return Err(Stop::Broken(broken));
    }
    if let Err(text) = stage.broker.check_deep().await {
        return Err(Stop::Broken(Broken { name: "DEEP", evidence: text }));
    }
    bounds::overdue(stage)
}

fn report(stage: &Stage, outcome: Result<(), Stop>) -> RunReport {
    let history = stage.recorder.history();
    let verdict = oracle::judge(&history);
    let (status, checker, message) = match (verdict.violations.first(), outcome) {
        (_, Err(Stop::Broken(broken))) => (Status::Violation, broken.name.to_owned(), broken.evidence),
        (Some(first), _) => {
            let more = verdict.violations.len() - 1;
            (Status::Violation, format!("{:?}", first.anomaly), format!("{first} (and {more} more)"))
        }
        (None, Err(Stop::Stuck(what))) => (Status::Stuck, "liveness".into(), what),
        (None, Ok(())) => match verdict.undecided.first() {
            Some(reason) => (Status::Stuck, "undecided".into(), reason.clone()),
            None => (Status::Pass, String::new(), String::new()),
        },
    };
    let (digest, events) = stage.world.trace().digest();
    let mut spans = stage.world.trace().ledger(crate::ledger::Ledger::spans_ms);
    spans.extend(stage.recorder.spans());
    let mut counts = stage.recorder.counts();
    for (name, count) in [
        ("records acknowledged", verdict.counts.acked),
        ("records unknown", verdict.counts.unknown),
        ("records refused", verdict.counts.failed),
        ("records polled", verdict.counts.polled),
        ("records in the final read", verdict.counts.drained),
        ("losses excused", verdict.counts.excused),
    ] {
        counts.insert(name.into(), count as u64);
    }
    counts.extend(probe::whims().into_iter().map(|(site, count)| (format!("whim: {site}"), count)));
    counts.insert("plan producers".into(), stage.plan.producers.len() as u64);
    counts.insert("plan consumers".into(), stage.plan.consumers.len() as u64);
    stage.brokers.iter().for_each(|broker| broker.fault_counts(&mut counts));
    stage.world.trace().ledger(|ledger| {
        let had = |(name, entry): (&String, &Entry)| (format!("consequence {name}"), entry.effective);
        counts.extend(ledger.entries().iter().map(had));
    });
    RunReport {
        status,
        checker,
        message,
        digest,
        events,
        sim_ms: stage.world.now_ns() / 1_000_000,
        counts,
        spans,
        marks: probe::marks_reached().into_iter().map(str::to_owned).collect(),
    }
}
