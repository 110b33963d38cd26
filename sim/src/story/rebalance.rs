//! How long a rebalance takes: a member leaves a large group, and the others read everything again.
//!
//! Owns: a story of one broker, one wide topic and one group for each assignor, with fixed latencies. Promises, each a
//! finding (GRP-TIME): all members together own every partition once; after one of them has left, the others do within
//! [`BOUND`] of simulated time from the moment at which it began to leave. The report tells how long it took.
//! Leaves out: faults. Not drawn: `scenarios::rebalance` runs it.
//!
//! ```text
//! ten members settle ─► one leaves ─► nine learn of it by their heartbeats ─► join, plan, sync ─► 900 partitions owned
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dejaq::client::consumer::{ConsumerConfig, StartAt};
use dejaq::client::group::{Assignor, Delivery, GroupConfig, GroupConsumer};
use dejaq::runtime::Runtime;

use super::recorder::Recorder;
use super::{DURABLE, Plan, Stage, Stop, TopicPlan, producers, report};
use crate::disk::Speed;
use crate::invariants::Broken;
use crate::runner::{RunParams, RunReport};
use crate::runtime::SimRuntime;
use crate::world::World;

/// The members of a group, before one leaves.
const MEMBERS: usize = 10;
/// What they read.
const PARTITIONS: i32 = 900;
/// How long a rebalance may take, in simulated time.
const BOUND: Duration = Duration::from_secs(1);
/// How long a group may take to settle at first.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a member is heard, and so learns that another has left.
const HEARTBEAT: Duration = Duration::from_millis(300);
const TOPIC: &str = "wide";
const FIRST_MACHINE: u32 = 500;

const ASSIGNORS: [(&str, Assignor); 3] = [
    ("range", Assignor::Range),
    ("roundrobin", Assignor::RoundRobin),
    ("cooperative-sticky", Assignor::CooperativeSticky),
];

/// What each member that lives says that it owns.
type Owned = Arc<Mutex<BTreeMap<usize, BTreeSet<i32>>>>;

/// Runs the story.
#[must_use]
pub fn rebalance(params: &RunParams) -> RunReport {
    let ended = World::run(params.seed, params.trace.as_deref(), |world| async move {
        let plan = Arc::new(quiet(&world, (TOPIC, PARTITIONS), DURABLE));
        let recorder = Recorder::new(&world, &plan);
        let stage = Stage::new(&world, plan, recorder, false);
        let outcome = play(&stage).await;
        report(&stage, outcome)
    });
    ended.unwrap_or_else(RunReport::crash)
}

/// A plan without clients and faults, with one topic and fixed latencies: for stories that are told rather than drawn.
pub(super) fn quiet(world: &World, (topic, partitions): (&str, i32), (word, durable): (&str, bool)) -> Plan {
    let mut plan = Plan::drawn(&mut world.streams().dice("plan", 0));
    let ms = Duration::from_millis;
    plan.config = dejaq::config::Config {
        admin_listen: String::new(),
        listen: plan.config.listen.clone(),
        min_free_bytes: 0,
        ..dejaq::config::Config::default()
    };
    plan.config.groups.initial_delay = ms(500);
    plan.topics = vec![TopicPlan {
        name: topic.into(),
        partitions,
        configs: BTreeMap::from([("durability".to_owned(), word.to_owned())]),
        durable,
        trims: false,
        survives_one: false,
        keys: None,
        replicas: 1,
        min_insync: 1,
        acks_required: 0,
    }];
    (plan.producers, plan.consumers) = (vec![], vec![]);
    (plan.admins, plan.sequencers, plan.hostiles) = (0, 0, 0);
    plan.latency = (ms(1), ms(1));
    plan.disk = Speed { sync_from: ms(4), sync_to: ms(4), stall: Duration::ZERO };
    plan.cold_ppm = 0;
    plan
}

async fn play(stage: &Stage) -> Result<(), Stop> {
    stage.broker.start().await;
    producers::create_topics(stage).await;
    for (number, (name, assignor)) in ASSIGNORS.into_iter().enumerate() {
        let took = one_group(stage, number as u32, name, assignor).await?;
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        for _ in 0..ms {
            stage.recorder.count(format!("rebalance ms after a leave, {name}"));
        }
        if took > BOUND {
            let evidence = format!("{name}: a member left, and the others had everything after {took:?}");
            return Err(Stop::Broken(Broken { name: "GRP-TIME", evidence }));
        }
    }
    Ok(())
}

/// From the moment at which the first member begins to leave to that at which the others own everything.
async fn one_group(stage: &Stage, number: u32, name: &str, assignor: Assignor) -> Result<Duration, Stop> {
    let owned = Owned::default();
    let (leaves, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    for member in 0..MEMBERS {
        let machine = FIRST_MACHINE + number * 100 + u32::try_from(member).expect("few members");
        let (stage, owned, group) = (stage.clone(), owned.clone(), format!("group-{name}"));
        let (leaves, over) = (leaves.clone(), over.clone());
        stage.clone().broker.client(machine, move |runtime| async move {
            let mut consumer = born(&stage, &runtime, &group, assignor);
            let is_done = || over.load(Ordering::Relaxed) || (member == 0 && leaves.load(Ordering::Relaxed));
            while !is_done() {
                let _nothing = consumer.poll(Duration::from_millis(50)).await;
                let own = consumer.assignment().map(|at| at.partition.0).collect();
                owned.lock().expect("nobody panics with it").insert(member, own);
            }
            owned.lock().expect("nobody panics with it").remove(&member);
            let _late = consumer.close(runtime.now().plus(Duration::from_secs(5))).await;
        });
    }
    until_settled(stage, &owned, MEMBERS).await?;
    leaves.store(true, Ordering::Relaxed);
    let began = stage.world.now_ns();
    while owned.lock().expect("nobody panics with it").contains_key(&0) {
        stage.world.sleep(Duration::from_millis(1)).await;
    }
    until_settled(stage, &owned, MEMBERS - 1).await?;
    let took = Duration::from_nanos(stage.world.now_ns() - began);
    over.store(true, Ordering::Relaxed);
    Ok(took)
}

fn born(stage: &Stage, runtime: &SimRuntime, group: &str, assignor: Assignor) -> GroupConsumer<SimRuntime> {
    let config = GroupConfig {
        session_timeout: Duration::from_secs(6),
        heartbeat_every: HEARTBEAT,
        rebalance_timeout: Duration::from_secs(10),
        assignors: vec![assignor],
        delivery: Delivery::AtLeastOnce { every: Duration::ZERO },
        start: Some(StartAt::Beginning),
        consumer: ConsumerConfig { max_wait: Duration::from_millis(100), ..ConsumerConfig::default() },
        ..GroupConfig::of(group)
    };
    GroupConsumer::subscribe(producers::cluster(stage, runtime.clone()), config, &[TOPIC], |_| {})
}

/// Waits until `members` members own every partition once, and each of them some.
async fn until_settled(stage: &Stage, owned: &Owned, members: usize) -> Result<(), Stop> {
    let end = stage.world.now_ns() + PATIENCE.as_nanos() as u64;
    loop {
        let (count, total, distinct) = {
            let owned = owned.lock().expect("nobody panics with it");
            let busy = owned.values().filter(|own| !own.is_empty()).count();
            let all: BTreeSet<i32> = owned.values().flatten().copied().collect();
            (busy, owned.values().map(BTreeSet::len).sum::<usize>(), all.len())
        };
        let wanted = PARTITIONS as usize;
        if (count, total, distinct) == (members, wanted, wanted) {
            return Ok(());
        }
        if stage.world.now_ns() > end {
            return Err(Stop::Stuck(format!(
                "after {PATIENCE:?} {count} of {members} members own {total} partitions, {distinct} different ones"
            )));
        }
        stage.world.sleep(Duration::from_millis(1)).await;
    }
}
