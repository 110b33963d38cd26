//! The two acts of a story with several brokers.
//!
//! Owns: their order. Promises: in the calm act every broker must serve, every partition must get all its replicas in sync
//! (REP-15), the fresh reader must find everything that was acknowledged, all must stop gracefully, and the copies must be
//! the same (REP-16), each within its bound (`bounds`).
//! Leaves out: faults (`nemesis`), what holds at every moment (`god`).

mod desk;
mod given_up;
mod god;
mod harm;
mod nemesis;
mod operator;
mod overwrite;
mod rot;
mod scripts;
mod told;
mod told_alone;
mod told_blackout;
mod told_bounce;
mod told_budget;
mod told_cut_off;
mod told_elections;
mod told_eligible;
mod told_failover;
mod told_harm;
mod told_isr;
mod told_last;
mod told_maximal;
mod told_nearest;
mod told_old_epoch;
mod told_overwrite;
mod told_pipelined;
mod told_readd;
mod told_restarted;
mod told_retries;
mod told_script;
mod told_shrink;
mod told_snapshot;
mod told_stale;
mod told_stopping;
mod told_turns;
mod told_unclean;
mod told_under_way;
mod told_unseen;
mod told_watermark;
mod upgrade;
mod watched;

use std::time::Duration;

use dejaq::client::admin::Admin;
use dejaq::runtime::Runtime;

use super::bounds::{self, within};
use super::{SETTLE, Stage, Stop, consumers, drain, edges, groups, pipes, producers};
use crate::invariants::image::Logs;
use crate::invariants::{Broken, order};
use god::God;
use operator::Operator;
use rot::Rot;
pub use told_alone::alone;
pub use told_blackout::blackout;
pub use told_bounce::bounced;
pub use told_budget::budget;
pub use told_cut_off::cut_off;
pub use told_elections::elections;
pub use told_eligible::eligible;
pub use told_failover::failed_over;
pub use told_harm::harmed;
pub use told_last::last_standing;
pub use told_maximal::maximal;
pub use told_nearest::nearest;
pub use told_old_epoch::old_epoch;
pub use told_overwrite::overwritten;
pub use told_pipelined::pipelined;
pub use told_readd::readded;
pub use told_restarted::restarted;
pub use told_retries::retries;
pub use told_shrink::shrinks;
pub use told_snapshot::half_made;
pub use told_stale::stale;
pub use told_stopping::stopping;
pub use told_unclean::unclean;
pub use told_under_way::under_way;
pub use told_unseen::unseen;
pub use told_watermark::watermark;
use upgrade::Upgrade;

/// The machine from which the calm act looks at the in-sync sets.
const LOOKER: u32 = 91;

pub(super) async fn acts(stage: &Stage) -> Result<(), Stop> {
    upgrade::prepare(stage);
    let first = &stage.brokers[..(stage.plan.brokers - stage.plan.late) as usize];
    first.iter().for_each(super::BrokerNode::begin_start);
    within(stage, bounds::FIRST_READY, ready(first)).await?;
    within(stage, bounds::TOPICS, producers::create_topics(stage)).await?;
    producers::start(stage);
    consumers::start(stage);
    consumers::start_neighbour(stage);
    groups::start(stage);
    super::transactor::start(stage);
    pipes::start(stage);
    let crew = Crew::begin(stage);
    nemesis::strike(stage, &crew.god, (&crew.operator, &crew.rot)).await;
    let ended = calm(stage, &crew).await;
    crew.found().map_or(ended, |broken| Err(Stop::Broken(broken)))
}

/// Who looks at a fleet, and who works at it beside the clients.
struct Crew {
    operator: Operator,
    rot: Rot,
    god: God,
    upgrade: Upgrade,
    asked: edges::Asked,
}

impl Crew {
    fn begin(stage: &Stage) -> Crew {
        let (operator, rot) = (Operator::default(), Rot::default());
        let god = God::watch(stage, &operator);
        Crew { operator, rot, god, upgrade: Upgrade::begin(stage), asked: edges::start(stage) }
    }

    /// What was found, which is the reason also of a story that was stuck over it.
    fn found(&self) -> Option<Broken> {
        self.god.broken().or_else(|| self.upgrade.broken())
    }
}

/// The second act: see the module.
async fn calm(stage: &Stage, crew: &Crew) -> Result<(), Stop> {
    let Crew { operator, rot, god, upgrade, asked } = crew;
    stage.begin_calm();
    nemesis::heal(stage);
    within(stage, bounds::READY, ready(&stage.brokers)).await?;
    if stage.plan.upgrades {
        within(stage, bounds::UPGRADED, upgrade.settle(stage)).await?;
        within(stage, bounds::READY, ready(&stage.brokers)).await?;
    }
    within(stage, bounds::OPERATOR, operator.settle(stage)).await?;
    within(stage, bounds::PRODUCERS, producers::finish(stage)).await?;
    within(stage, bounds::MENDED, rot.mended(stage)).await?;
    within(stage, bounds::GROUP, groups::finish(stage)).await?;
    within(stage, bounds::PIPES, pipes::finish(stage)).await?;
    within(stage, bounds::IN_SYNC, in_sync(stage)).await?;
    if stage.plan.late > 0 {
        within(stage, bounds::LEVEL, level(stage)).await?;
        within(stage, bounds::IN_SYNC, in_sync(stage)).await?;
    }
    if stage.plan.drains {
        let last = stage.brokers.last().expect("a fleet has brokers");
        if let Some(broken) = within(stage, bounds::EMPTIED, operator.empty(stage, last)).await? {
            return Err(Stop::Broken(broken));
        }
    }
    stage.world.sleep(SETTLE).await;
    within(stage, bounds::DRAIN, drain::drain(stage)).await?;
    within(stage, bounds::EDGES, edges::judge(stage, asked)).await??;
    consumers::finish(stage).await;
    god.look(stage);
    god.reported(stage);
    upgrade.judge(stage);
    for broker in stage.brokers.iter() {
        within(stage, bounds::STOP, broker.retire()).await?;
    }
    god.at_rest(stage);
    god.look_back(stage);
    let at_rest = |broker: &super::BrokerNode| {
        let gaps = |folder: &str| stage.recorder.has_gaps(folder);
        let platter = broker.device().platter;
        let logs = Logs::undamaged(platter.files(), &platter.damage());
        let disordered = order::check(&logs, gaps).into_iter().next();
        broker.broken().or(disordered).or_else(|| super::images::check(&broker.device(), gaps))
    };
    let found = crew.found().or_else(|| stage.brokers.iter().find_map(at_rest));
    if let Some(broken) = found {
        return Err(Stop::Broken(broken));
    }
    for broker in stage.brokers.iter() {
        if let Err(text) = broker.check_deep().await {
            let evidence = format!("broker {}: {text}", broker.node());
            return Err(Stop::Broken(Broken { name: "DEEP", evidence }));
        }
    }
    bounds::overdue(stage)
}

async fn ready(brokers: &[super::BrokerNode]) {
    for broker in brokers {
        broker.ready().await;
    }
}

/// Waits until every broker holds as many replicas as every other, to within one, and none is on its way.
async fn level(stage: &Stage) {
    loop {
        let images = stage.brokers.iter().filter_map(super::BrokerNode::image);
        let image = images.max_by_key(|image| image.end()).expect("all of them serve");
        let all = || image.topics().flat_map(|topic| topic.partitions.iter());
        let held = |broker: &super::BrokerNode| {
            let id = dejaq_wire::ids::BrokerId(broker.node() as i32);
            all().filter(|partition| partition.replicas.contains(&id)).count()
        };
        let loads: Vec<usize> = stage.brokers.iter().map(held).collect();
        let spread = loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0);
        if spread <= 1 && all().all(|partition| !partition.is_moving()) {
            return;
        }
        stage.world.event(crate::world::NOBODY, "loads", &[spread as u64], || format!("{loads:?}"));
        stage.world.sleep(Duration::from_millis(300)).await;
    }
}

/// Waits until the cluster itself says that every replica of every topic of the plan is in sync.
async fn in_sync(stage: &Stage) {
    let runtime = stage.broker.machine(LOOKER);
    let admin = Admin::new(producers::cluster(stage, runtime.clone()));
    for topic in &stage.plan.topics {
        loop {
            let deadline = runtime.now().plus(Duration::from_secs(5));
            let described = admin.describe_topic(&topic.name, deadline).await;
            let is_whole = described.as_ref().is_ok_and(|route| {
                let whole = |part: &dejaq::client::routes::PartitionRoute| {
                    part.isr.len() == part.replicas.len() && part.replicas.len() >= topic.replicas as usize
                };
                route.partitions.len() == topic.partitions as usize && route.partitions.iter().all(whole)
            });
            if is_whole {
                break;
            }
            if let Ok(route) = &described {
                let sets: Vec<_> = route.partitions.iter().map(|part| (part.leader, &part.isr)).collect();
                stage.world.event(crate::world::NOBODY, "isr", &[], || format!("{}: {sets:?}", topic.name));
            }
            runtime.sleep(Duration::from_millis(200)).await;
        }
    }
}
