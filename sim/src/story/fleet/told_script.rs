//! What the told stories of one replicated partition have in common: roles, waits that name their step, and two clients whose
//! every answer is written down.
//!
//! Owns: [`Script`], [`Sender`], [`Onlooker`]. Promises: a wait that ends without what it waited for fails the run and names the
//! step (`told::lost`); what a client was told is in the history that the oracle judges. Leaves out: the scripts.
//!
//! ```text
//!  Script: until(step, is_so) ─ cut ─ count          Sender: send ─► Sent (offset, or why not)      Onlooker: end, read at one broker
//! ```

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dejaq::client::producer::{Acks, Producer, Record};
use dejaq::runtime::Runtime;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, PartitionId, TopicId};
use dejaq_wire::kafka::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};

use super::in_sync;
use super::scripts::{Scene, State};
use super::told::{TOPIC, lost};
use crate::invariants::insight::Sight;
use crate::oracle::{self, Event, Outcome, PollOp, SendOp};
use crate::rng::Dice;
use crate::runtime::SimRuntime;
use crate::story::reader::{Fetched, Reader};
use crate::story::{ProducerPlan, Stage, Stop, bounds, consumers, producers, within};

/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether a step is done: less than anything takes from one machine to another.
const GLANCE: Duration = Duration::from_micros(500);
/// The latest offset of a log.
const LATEST: i64 = -1;
/// Where the sender sits, and who asks single brokers.
pub(super) const SENDER: u32 = 94;
const ONLOOKER: u32 = 95;

/// One partition, and what a script does around it.
pub(super) struct Script {
    pub scene: Scene,
}

impl Script {
    /// For a partition whose replicas do without the active controller, so that they can be cut off and ended and the quorum
    /// goes on; when the drawn producers have ended and all have everything.
    pub async fn begin(stage: &Stage, dice: &mut Dice) -> Result<(Script, State, u32), Stop> {
        within(stage, bounds::PRODUCERS, producers::finish(stage)).await?;
        within(stage, bounds::IN_SYNC, in_sync(stage)).await?;
        let partitions = stage.plan.topics[0].partitions;
        let fits = |index| {
            let scene = Scene { stage: stage.clone(), topic: TOPIC.into(), index };
            let state = scene.state()?;
            let active = scene.node(state.leader).active_controller()?;
            (!state.replicas.contains(&active)).then_some((Script { scene }, state, active))
        };
        let mut all: Vec<(Script, State, u32)> = (0..partitions).filter_map(fits).collect();
        if all.is_empty() {
            return Err(lost("a partition that is not the active controller's"));
        }
        let (script, state, active) = all.swap_remove(dice.below(all.len() as u64) as usize);
        let cast = || format!("{TOPIC}-{} {state:?}, {active} is the controller", script.scene.index);
        stage.world.event(crate::world::NOBODY, "cast", &[], cast);
        script.level(&state.replicas).await?;
        Ok((script, state, active))
    }

    pub fn stage(&self) -> &Stage {
        &self.scene.stage
    }

    pub fn count(&self, what: &str) {
        self.stage().recorder.count(what);
    }

    pub async fn pause(&self, wait: Duration) {
        self.stage().world.sleep(wait).await;
    }

    /// Waits until it is so, or the story was not brought about.
    pub async fn until(&self, step: &str, is_so: impl FnMut() -> bool) -> Result<(), Stop> {
        if self.scene.until_seen(PATIENCE, GLANCE, is_so).await { Ok(()) } else { Err(lost(step)) }
    }

    /// What a broker that runs believes of the partition, or the story is lost.
    pub fn sight(&self, node: u32) -> Result<Sight, Stop> {
        self.scene.belief(node).ok_or_else(|| lost(&format!("broker {node} has the partition open")))
    }

    /// Whether what a broker believes is so.
    pub fn sees(&self, node: u32, is_so: impl FnOnce(&Sight) -> bool) -> bool {
        self.scene.belief(node).is_some_and(|sight| is_so(&sight))
    }

    /// Waits until all of them have the same, and show all of it.
    pub async fn level(&self, replicas: &[u32]) -> Result<(), Stop> {
        let first = replicas[0];
        let end = || self.scene.belief(first).map(|sight| sight.end);
        let is_level = || {
            let end = end();
            replicas.iter().all(|one| self.sees(*one, |it| Some(it.end) == end && it.watermark == it.end))
        };
        self.until("all replicas have the same, and show it", is_level).await
    }

    /// Waits until another than `old` leads.
    pub async fn deposed(&self, old: &State) -> Result<State, Stop> {
        let newer = || self.scene.state().filter(|now| now.leader != old.leader && now.epoch > old.epoch);
        let leads =
            || newer().is_some_and(|now| self.sees(now.leader, |it| it.leads && it.epoch == now.epoch));
        self.until("another replica leads", leads).await?;
        newer().ok_or_else(|| lost("the new leader goes on leading"))
    }
}

/// A producer that sends one record at a time, each a batch of its own; idempotent, or content with the leader alone.
pub(super) struct Sender {
    stage: Stage,
    runtime: SimRuntime,
    producer: Producer<SimRuntime>,
    process: u32,
    index: i32,
    acks: oracle::Acks,
    dead: Arc<AtomicUsize>,
}

/// What became of a send, once that is known.
#[derive(Clone, Default)]
pub(super) struct Sent(Arc<Mutex<Option<Option<i64>>>>);

impl Sent {
    /// The offset that was told; `None` while nothing was told, or if it was not acknowledged.
    pub fn offset(&self) -> Option<i64> {
        self.0.lock().expect("nobody panics with it").flatten()
    }
}

impl Sender {
    pub fn new(script: &Script, dice: &mut Dice) -> Sender {
        Sender::on(SENDER, script, dice)
    }

    /// On a machine of its own.
    pub fn on(machine: u32, script: &Script, dice: &mut Dice) -> Sender {
        Sender::with(machine, oracle::Acks::All, script, dice)
    }

    /// On a machine of its own, and content with what the leader alone has: it is not refused where too few are in sync.
    pub fn content(machine: u32, script: &Script, dice: &mut Dice) -> Sender {
        Sender::with(machine, oracle::Acks::Leader, script, dice)
    }

    fn with(machine: u32, acks: oracle::Acks, script: &Script, dice: &mut Dice) -> Sender {
        let stage = script.stage().clone();
        let waits_for_all = acks == oracle::Acks::All;
        let plan = ProducerPlan {
            acks: if waits_for_all { Acks::All } else { Acks::Leader },
            idempotent: waits_for_all,
            linger: Duration::ZERO,
            ..ProducerPlan::drawn(dice)
        };
        let runtime = stage.broker.machine(machine);
        let cluster = producers::cluster(&stage, runtime.clone());
        let producer = Producer::start(cluster, producers::config(&plan)).expect("its settings are valid");
        let process = stage.recorder.fresh_process();
        Sender { stage, runtime, producer, process, index: script.scene.index, acks, dead: Arc::default() }
    }

    /// Sends a record; returns when it has its place in the order. The calm act waits until its outcome is known.
    pub async fn send(&self) -> Sent {
        let number = self.stage.recorder.fresh_value();
        let value = number.to_be_bytes().to_vec();
        let op = SendOp {
            process: self.process,
            part: self.stage.recorder.part(TOPIC, self.index),
            value: number,
            digest: producers::digest(None, &value, &[]),
            acks: self.acks,
            idempotent: self.acks == oracle::Acks::All,
            attempts: 0,
            begun: self.stage.world.now_ns(),
            done: 0,
            outcome: Outcome::Info,
        };
        self.stage.recorder.working(1);
        let record = Record::new(TOPIC, value).partition(PartitionId(self.index));
        let delivery = self.producer.send(record).await;
        let (stage, who, dead, sent) =
            (self.stage.clone(), self.runtime.who(), self.dead.clone(), Sent::default());
        let told = sent.clone();
        self.runtime.spawn("send", async move {
            let outcome = match delivery {
                Ok(delivery) => delivery.wait().await,
                Err(error) => Err(error),
            };
            let offset = outcome.as_ref().ok().and_then(|stored| stored.offset).map(|offset| offset.0);
            *told.0.lock().expect("nobody panics with it") = Some(offset);
            producers::settle(&stage, who, op, outcome, &dead);
            stage.recorder.working(-1);
        });
        sent
    }
}

/// A client that asks single brokers, whoever leads; each question is by a process of its own.
pub(super) struct Onlooker {
    stage: Stage,
    reader: Reader,
    id: TopicId,
    index: i32,
}

impl Onlooker {
    pub async fn new(script: &Script) -> Result<Onlooker, Stop> {
        let stage = script.stage().clone();
        let reader = Reader { cluster: producers::cluster(&stage, stage.broker.machine(ONLOOKER)) };
        let id = reader.topic_id(TOPIC).await.ok_or_else(|| lost("a broker names the topic to a reader"))?;
        let index = script.scene.index;
        // So that it knows where the brokers are.
        reader.list(TOPIC, index, LATEST).await.ok_or_else(|| lost("a reader is told of the end"))?;
        Ok(Onlooker { stage, reader, id, index })
    }

    /// The latest offset, as a broker tells it, or why it does not; `None` without an answer.
    pub async fn end_at(&self, node: u32) -> Option<Result<i64, ErrorCode>> {
        let (runtime, begun) = (self.reader.cluster.runtime(), self.stage.world.now_ns());
        let deadline = runtime.now().plus(Duration::from_secs(3));
        let connection = self.reader.cluster.broker(BrokerId(node as i32), deadline).await.ok()?;
        let (partition_index, timestamp) = (PartitionId(self.index), LATEST);
        let part = ListOffsetsPartition { partition_index, timestamp, ..Default::default() };
        let topics = vec![ListOffsetsTopic { name: TOPIC.into(), partitions: vec![part] }];
        let request = ListOffsetsRequest { replica_id: BrokerId::NONE, topics, ..Default::default() };
        let answer = connection.call(&request, deadline).await.ok()?;
        let told = answer.topics.first()?.partitions.first()?;
        if told.error_code.is_error() {
            return Some(Err(told.error_code));
        }
        let ask = (self.id, self.index, told.leader_epoch.0);
        let event = Event::EndOffset {
            part: self.stage.recorder.part(TOPIC, self.index),
            offset: told.offset.0,
            begun,
            done: self.stage.world.now_ns(),
            epoch: told.leader_epoch.0,
            superseded: consumers::is_superseded(&self.stage, TOPIC, ask),
        };
        self.stage.recorder.event(runtime.who(), event);
        Some(Ok(told.offset.0))
    }

    /// Reads at a broker from a position on.
    pub async fn read_at(&self, node: u32, from: i64) -> Given {
        let process = self.stage.recorder.fresh_process();
        let (part, begun) = (self.stage.recorder.part(TOPIC, self.index), self.stage.world.now_ns());
        let broker = BrokerId(node as i32);
        let fetched = self.reader.fetch_at(broker, TOPIC, self.id, self.index, from).await;
        let (records, next, given) = match fetched {
            Fetched::Records { records, next } => (records.clone(), next, Given::Records(records.len())),
            Fetched::OutOfRange => (Vec::new(), from, Given::OutOfRange),
            Fetched::Refused => return Given::Refused,
            Fetched::Failed => return Given::Nothing,
        };
        let (done, out_of_range) = (self.stage.world.now_ns(), given == Given::OutOfRange);
        let op = PollOp { process, part, from, records, next, out_of_range, begun, done };
        self.stage.recorder.event(self.reader.cluster.runtime().who(), Event::Poll(op));
        given
    }
}

/// What a reader was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// So many records.
    Records(usize),
    OutOfRange,
    /// Another error: it may ask again, there or elsewhere.
    Refused,
    /// No answer.
    Nothing,
}
