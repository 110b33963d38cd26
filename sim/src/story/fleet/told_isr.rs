//! What told stories of in-sync sets share: who is who at one partition, a hand that sends to it, what the metadata say of it.
//!
//! Owns: the choice of a partition whose three replicas are no active controller's, so that whatever is done to them, somebody decides
//! about them; the plan. Promises: every wait has an end (`told::lost`); what the hand sends is in the history, so that the
//! oracle judges it. Drawn: which partition, which follower is which, the load before.
//! Leaves out: the scripts (`told_unclean`, `told_maximal`, `told_last`, `told_budget`, `told_shrink`, `told_eligible`, `told_stopping`, `told_alone`,
//! `told_bounce`, `told_stale`).
//!
//! ```text
//!  five brokers, one or all of them vote │ leader ─ near, far (its followers) │ two more, the active controller among them
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dejaq::client::batching::BatchLimits;
use dejaq::client::cluster::Cluster;
use dejaq::client::producer::{Acks, Producer, ProducerConfig, Record};
use dejaq::metadata::Image;
use dejaq::runtime::Runtime;
use dejaq_wire::ids::{BrokerId, PartitionId};
use dejaq_wire::record::Compression;

use super::in_sync;
use super::scripts::Scene;
use super::told::{Cast, TOPIC, lost, shape};
use crate::oracle::{self, Outcome, SendOp};
use crate::rng::Dice;
use crate::runtime::SimRuntime;
use crate::story::{BrokerNode, Plan, ProducerPlan, Stage, Stop, bounds, producers, within};

/// Brokers of these stories.
const BROKERS: u32 = 5;
/// So many that some partition has no replica at the active controller, whoever that is.
pub(super) const PARTITIONS: i32 = 12;
/// One way between machines, in milliseconds.
const WAY_MS: (u64, u64) = (1, 4);
/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether a step is done.
const GLANCE: Duration = Duration::from_millis(1);
/// How long a record of the hand may be under way: longer than any script keeps one from being acknowledged.
const DELIVERY: Duration = Duration::from_secs(60);

/// The plan of these stories: `voters` of five brokers vote, replicas are out of sync after seconds.
pub(super) fn plan(plan: &mut Plan, voters: u32, dice: &mut Dice) {
    shape(plan, BROKERS, WAY_MS, dice);
    plan.voters = voters;
    plan.config.healing.replica_lag = Duration::from_millis(dice.between(1500, 3000));
    plan.config.healing.session_timeout = Duration::from_millis(dice.between(3000, 6000));
    // What a leader alone acknowledged is promised by nobody, and would be excused where nothing else may be.
    plan.producers.iter_mut().for_each(|producer: &mut ProducerPlan| producer.acks = Acks::All);
}

/// Lets the topic promise less than its disks: nothing is synced while the story lasts. The oracle excuses nothing of it but what
/// the cluster tells to be given up.
pub(super) fn unsynced(plan: &mut Plan) {
    *plan = plan.clone().with_durability(crate::story::REPLICATED);
    for topic in &mut plan.topics {
        topic.survives_one = true;
        topic.configs.insert("durability.flush.ms".into(), "3600000".into());
    }
}

/// A partition, and who is who at it. See the module.
pub(super) struct Trio {
    pub scene: Scene,
    pub dice: Dice,
    pub leader: u32,
    pub near: u32,
    pub far: u32,
    pub active: u32,
    pub hand: Hand,
}

/// A partition as the newest metadata has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub leader: Option<u32>,
    pub epoch: i32,
    pub isr: Vec<u32>,
    pub elr: Vec<u32>,
    /// Who was eligible before a bad end, the latest last.
    pub known: Vec<u32>,
}

impl Trio {
    /// Waits until the load is over and all is in sync; then takes a partition.
    pub async fn gather(cast: Cast) -> Result<Trio, Stop> {
        let Cast { stage, mut dice } = cast;
        within(&stage, bounds::PRODUCERS, producers::finish(&stage)).await?;
        within(&stage, bounds::IN_SYNC, in_sync(&stage)).await?;
        let mut all: Vec<(Scene, u32, u32, Vec<u32>)> = Vec::new();
        for index in 0..PARTITIONS {
            let scene = Scene { stage: stage.clone(), topic: TOPIC.into(), index };
            let Some(state) = scene.state() else { continue };
            let Some(active) = scene.node(state.leader).active_controller() else { continue };
            let followers: Vec<u32> =
                state.replicas.iter().copied().filter(|one| *one != state.leader).collect();
            if !state.replicas.contains(&active) && state.isr.len() == 3 {
                all.push((scene, state.leader, active, followers));
            }
        }
        if all.is_empty() {
            return Err(lost("a partition without the active controller"));
        }
        let (scene, leader, active, mut followers) = all.swap_remove(dice.below(all.len() as u64) as usize);
        if dice.chance(500) {
            followers.reverse();
        }
        let hand = Hand::of(&stage, scene.index, 94);
        let (near, far) = (followers[0], followers[1]);
        stage.world.event(crate::world::NOBODY, "roles", &[], || {
            format!("{TOPIC}-{}: {leader} leads, {near} is near, {far} far, {active} decides", scene.index)
        });
        Ok(Trio { scene, dice, leader, near, far, active, hand })
    }

    pub fn stage(&self) -> &Stage {
        &self.scene.stage
    }

    pub fn count(&self, what: &str) {
        self.stage().recorder.count(what);
    }

    pub fn node(&self, node: u32) -> &BrokerNode {
        self.scene.node(node)
    }

    /// The newest metadata.
    pub fn image(&self) -> Result<Arc<Image>, Stop> {
        let images = self.stage().brokers.iter().filter_map(BrokerNode::image);
        images.max_by_key(|image| image.end()).ok_or_else(|| lost("somebody serves"))
    }

    /// The partition, by the newest metadata.
    pub fn standing(&self) -> Result<Standing, Stop> {
        let image = self.image()?;
        let topic = image.topic_named(TOPIC).ok_or_else(|| lost("the topic is known"))?;
        let part =
            topic.partition(PartitionId(self.scene.index)).ok_or_else(|| lost("the partition is known"))?;
        let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.0 as u32).collect::<Vec<u32>>();
        let sorted = |ids: &[BrokerId]| {
            let mut numbers = numbers(ids);
            numbers.sort_unstable();
            numbers
        };
        Ok(Standing {
            leader: Some(part.leader).filter(|leader| *leader != BrokerId::NONE).map(|one| one.0 as u32),
            epoch: part.leader_epoch.0,
            isr: sorted(&part.isr),
            elr: sorted(&part.elr),
            known: numbers(&part.last_known_elr),
        })
    }

    /// Whether exactly these are in sync, by the newest metadata and by the leader, which leads.
    pub fn in_sync_are(&self, leader: u32, set: &[u32]) -> bool {
        let mut set = set.to_vec();
        set.sort_unstable();
        let stands = |now: Standing| now.leader == Some(leader) && now.isr == set;
        self.standing().is_ok_and(stands) && self.members_at(leader).is_some_and(|members| members == set)
    }

    /// Who is in sync as far as this leader knows, ascending.
    pub fn members_at(&self, leader: u32) -> Option<Vec<u32>> {
        let sight = self.scene.belief(leader).filter(|sight| sight.leads)?;
        let leading = sight.inside?.leading?;
        Some(leading.members.iter().copied().collect())
    }

    /// Whether the leader has asked for a set of so many, and does not know of the answer.
    pub fn asks_for(&self, size: usize) -> bool {
        let sight = self.scene.belief(self.leader).filter(|sight| sight.leads);
        let leading = sight.and_then(|sight| sight.inside).and_then(|inside| inside.leading);
        leading.is_some_and(|leading| {
            let asked = leading.proposed.map_or(0, |proposed| proposed.isr.len());
            asked == size && leading.members.len() != size
        })
    }

    /// Where the log of a broker ends.
    pub fn end_at(&self, node: u32) -> i64 {
        self.scene.belief(node).map_or(0, |sight| sight.end)
    }

    /// How many elections of this partition tell of a loss, and who leads since the newest.
    pub fn losses(&self) -> Result<Vec<(u32, i32)>, Stop> {
        let image = self.image()?;
        let of_us = |topic| image.topic(topic).is_some_and(|topic| &*topic.name == TOPIC);
        let losses = image.losses().filter(|(topic, index, _)| of_us(*topic) && index.0 == self.scene.index);
        Ok(losses.map(|(_, _, loss)| (loss.leader.0 as u32, loss.leader_epoch.0)).collect())
    }

    pub async fn until(&self, step: &str, is_so: impl FnMut() -> bool) -> Result<(), Stop> {
        if self.scene.until_seen(PATIENCE, GLANCE, is_so).await { Ok(()) } else { Err(lost(step)) }
    }

    pub async fn pause(&self, wait: Duration) {
        self.stage().world.sleep(wait).await;
    }

    /// Some time of so many milliseconds.
    pub fn span_ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.dice.between(from, to))
    }

    /// Cuts one broker off from the others of the partition, or mends that; it hears the controller, and clients.
    pub fn part_from(&self, one: u32, others: &[u32], cut: bool) {
        others.iter().filter(|other| **other != one).for_each(|other| self.scene.cut(one, *other, cut));
    }

    /// Parts the far follower from the others, until it is out of sync.
    pub async fn far_leaves(&self) -> Result<(), Stop> {
        self.part_from(self.far, &[self.leader, self.near], true);
        self.until("the far follower is out of sync", || {
            self.in_sync_are(self.leader, &[self.leader, self.near])
        })
        .await
    }
}

/// A producer of the script: what it sends is acknowledged, or the script knows that it is not.
pub(super) struct Hand {
    stage: Stage,
    runtime: SimRuntime,
    producer: Arc<Producer<SimRuntime>>,
    process: u32,
    index: i32,
    acks: Acks,
}

/// What became of what a hand sent.
#[derive(Default)]
pub(super) struct Fate {
    acked: AtomicU64,
    failed: AtomicUsize,
}

impl Fate {
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    pub fn is_over(&self, records: u64) -> bool {
        self.acked() + self.failed.load(Ordering::Relaxed) as u64 >= records
    }
}

impl Hand {
    /// At one partition, with a machine of its own.
    pub fn of(stage: &Stage, index: i32, machine: u32) -> Hand {
        Hand::with(stage, index, machine, Acks::All)
    }

    /// One that asks for nobody but the leader.
    pub fn careless(stage: &Stage, index: i32, machine: u32) -> Hand {
        Hand::with(stage, index, machine, Acks::Leader)
    }

    fn with(stage: &Stage, index: i32, machine: u32, acks: Acks) -> Hand {
        let runtime = stage.broker.machine(machine);
        let cluster: Cluster<SimRuntime> = producers::cluster(stage, runtime.clone());
        let config = ProducerConfig {
            acks,
            compression: Compression::None,
            idempotent: acks == Acks::All,
            max_in_flight: 5,
            batch: BatchLimits { batch_bytes: 16 << 10, linger: Duration::ZERO, batch_records: 1000 },
            delivery_timeout: DELIVERY,
            ..ProducerConfig::default()
        };
        let producer = Producer::start(cluster, config).expect("the settings are valid");
        let process = stage.recorder.fresh_process();
        Hand { stage: stage.clone(), runtime, producer: Arc::new(producer), process, index, acks }
    }

    fn drawn(&self) -> (Record, SendOp) {
        let value = self.stage.recorder.fresh_value();
        let bytes = value.to_be_bytes().to_vec();
        let op = SendOp {
            process: self.process,
            part: self.stage.recorder.part(TOPIC, self.index),
            value,
            digest: producers::digest(None, &bytes, &[]),
            acks: if self.acks == Acks::All { oracle::Acks::All } else { oracle::Acks::Leader },
            idempotent: self.acks == Acks::All,
            attempts: 0,
            begun: self.stage.world.now_ns(),
            done: 0,
            outcome: Outcome::Info,
        };
        (Record::new(TOPIC, bytes).partition(PartitionId(self.index)), op)
    }

    /// Sends so many records, and does not wait for them.
    pub async fn sets_out(&self, records: u64) -> Arc<Fate> {
        let fate = Arc::new(Fate::default());
        for _ in 0..records {
            let (record, op) = self.drawn();
            let delivery = self.producer.send(record).await;
            let (stage, who, fate) = (self.stage.clone(), self.runtime.who(), fate.clone());
            self.runtime.spawn("hand", async move {
                let outcome = match delivery {
                    Ok(delivery) => delivery.wait().await,
                    Err(error) => Err(error),
                };
                fate.acked.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
                producers::settle(&stage, who, op, outcome, &fate.failed);
            });
        }
        fate
    }

    /// Sends so many records, all of which must be acknowledged.
    pub async fn sends(&self, records: u64) -> Result<(), Stop> {
        let fate = self.sets_out(records).await;
        let end = self.stage.world.now_ns() + PATIENCE.as_nanos() as u64;
        while !fate.is_over(records) && self.stage.world.now_ns() < end {
            self.stage.world.sleep(GLANCE).await;
        }
        if fate.acked() == records { Ok(()) } else { Err(lost("what the script sends is acknowledged")) }
    }
}
