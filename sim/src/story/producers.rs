//! The producers of a story, on the native client: unique values, many under way, every outcome written down.
//!
//! Owns: the sending workload and the admin calls of a story. Promises: each value is sent by one call; its outcome
//! is what the client was told, with "maybe" kept as such. Leaves out: judging.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dejaq::client::batching::BatchLimits;
use dejaq::client::cluster::{Cluster, ClusterConfig};
use dejaq::client::outcome::Verdict;
use dejaq::client::producer::{Acks, ProduceError, Producer, ProducerConfig, Record, Stored};
use dejaq::runtime::Runtime;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{Offset, PartitionId};
use dejaq_wire::kafka::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use dejaq_wire::kafka::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use tokio::sync::Semaphore;

use super::plan::ProducerPlan;
use super::{BROKER, Stage};
use crate::oracle::{self, Event, Outcome, SendOp};
use crate::rng::Dice;
use crate::runtime::SimRuntime;

/// The machine of the first producer; the others follow.
const FIRST_MACHINE: u32 = 100;
/// The machine from which topics are made and trimmed.
const ADMIN_MACHINE: u32 = 90;
/// How long a record may be under way before its client gives it up.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);

/// The checksum by which a changed record is found.
#[must_use]
pub fn digest(key: Option<&[u8]>, value: &[u8], headers: &[(String, Option<Bytes>)]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&key.map_or(u32::MAX, |key| key.len() as u32).to_le_bytes());
    hasher.update(key.unwrap_or_default());
    hasher.update(&(value.len() as u32).to_le_bytes());
    hasher.update(value);
    for (name, value) in headers {
        hasher.update(name.as_bytes());
        hasher.update(value.as_deref().unwrap_or(b"\0null"));
    }
    hasher.finalize()
}

/// The header in which a delete marker has its number.
const NUMBER: &str = "number";

/// The unique number in a value, or beside the lack of one, if it is one of ours.
#[must_use]
pub fn number_of(value: Option<&[u8]>, headers: &[(String, Option<Bytes>)]) -> u64 {
    let beside = || headers.iter().find(|(name, _)| name == NUMBER)?.1.as_deref();
    let bytes = value.or_else(beside).and_then(|bytes| bytes.first_chunk::<8>());
    bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// How a client of the story reaches the brokers.
#[must_use]
pub fn cluster(stage: &Stage, runtime: SimRuntime) -> Cluster<SimRuntime> {
    let nodes = BROKER..BROKER + stage.plan.brokers;
    let config = ClusterConfig {
        bootstrap: nodes.map(|node| format!("n{node}:9092")).collect(),
        request_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(2),
        allow_auto_create: false,
        ..ClusterConfig::default()
    };
    Cluster::new(runtime, config)
}

/// The machines on which clients run.
#[must_use]
pub fn machines(stage: &Stage) -> Vec<u32> {
    let producers = stage.plan.producers.len() as u32;
    let consumers = stage.plan.consumers.len() as u32;
    let consumers = super::consumers::FIRST_MACHINE..super::consumers::FIRST_MACHINE + consumers;
    let admins = (0..stage.plan.admins as u32).map(|number| super::admins::FIRST_MACHINE + number);
    let sequencers = (0..stage.plan.sequencers as u32).map(|number| super::sequencer::FIRST_MACHINE + number);
    let others = admins.chain(sequencers).chain(super::transactor::machines(stage));
    let others = others.chain(super::pipes::machines(stage));
    (FIRST_MACHINE..FIRST_MACHINE + producers).chain(consumers).chain(others).collect()
}

/// Makes the plan's topics; returns when all exist.
pub async fn create_topics(stage: &Stage) {
    let admin = cluster(stage, stage.broker.machine(ADMIN_MACHINE));
    let topics = stage.plan.topics.iter().map(|topic| CreatableTopic {
        name: topic.name.as_str().into(),
        num_partitions: topic.partitions,
        replication_factor: topic.replicas,
        configs: topic
            .configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig {
                name: name.as_str().into(),
                value: Some(value.as_str().into()),
            })
            .collect(),
        ..Default::default()
    });
    let request = CreateTopicsRequest { topics: topics.collect(), timeout_ms: 5000, ..Default::default() };
    loop {
        let deadline = admin.runtime().now().plus(Duration::from_secs(10));
        let answer = admin.ask_any(&request, deadline).await;
        let codes: Vec<ErrorCode> =
            answer.iter().flat_map(|answer| &answer.topics).map(|topic| topic.error_code).collect();
        let made = |code: &ErrorCode| code.is_none() || *code == ErrorCode::TOPIC_ALREADY_EXISTS;
        if !codes.is_empty() && codes.iter().all(made) {
            break;
        }
        // In a fleet that has just begun some brokers are not registered yet.
        let early =
            |code: &ErrorCode| stage.plan.brokers > 1 && *code == ErrorCode::INVALID_REPLICATION_FACTOR;
        let hopeless = codes.iter().find(|code| !made(code) && !code.is_retriable() && !early(code));
        assert!(hopeless.is_none(), "the topics of the plan are refused: {codes:?}");
        stage.world.sleep(Duration::from_millis(200)).await;
    }
    let reader = super::reader::Reader { cluster: admin };
    for topic in &stage.plan.topics {
        let id = loop {
            match reader.topic_id(&topic.name).await {
                Some(id) => break id,
                None => stage.world.sleep(Duration::from_millis(100)).await,
            }
        };
        stage.recorder.topic_has_id(&topic.name, id.0);
    }
}

/// Moves the start of a random partition forward, to a place below its end.
pub async fn trim(stage: &Stage, dice: &mut Dice) {
    let trimmed: Vec<_> = stage.plan.topics.iter().filter(|topic| topic.trims).collect();
    if trimmed.is_empty() {
        return;
    }
    let topic = *dice.pick(&trimmed);
    let index = dice.below(topic.partitions as u64) as i32;
    let acked = stage.recorder.highest_acked(stage.recorder.part(&topic.name, index));
    let Some(to) = acked.map(|acked| dice.below(acked as u64 + 2) as i64) else { return };
    if trim_to(stage, &topic.name, index, to).await {
        stage.recorder.count("trims answered");
    }
}

/// Asks for a start; tells whether there was an answer.
pub async fn trim_to(stage: &Stage, topic: &str, index: i32, to: i64) -> bool {
    let part = stage.recorder.part(topic, index);
    // Written down before it is asked: from here on the records below may be gone, whatever the answer.
    stage.recorder.event(crate::world::NOBODY, Event::Trimmed { part, to });
    let admin = cluster(stage, stage.broker.machine(ADMIN_MACHINE));
    let partitions = vec![DeleteRecordsPartition { partition_index: PartitionId(index), offset: Offset(to) }];
    let topics = vec![DeleteRecordsTopic { name: topic.into(), partitions }];
    let request = DeleteRecordsRequest { topics, timeout_ms: 2000 };
    let deadline = admin.runtime().now().plus(Duration::from_secs(3));
    admin.ask_any(&request, deadline).await.is_ok()
}

/// Starts the producers, each on a machine of its own.
pub fn start(stage: &Stage) {
    let plans = stage.plan.producers.iter().enumerate();
    for (number, plan) in plans.filter(|(number, _)| !stage.plan.cuts.producers.contains(&(*number as u64))) {
        let (stage, plan) = (stage.clone(), plan.clone());
        let machine = FIRST_MACHINE + number as u32;
        stage.recorder.working(1);
        stage.clone().broker.client(machine, move |runtime| async move {
            produce(&stage, &runtime, &plan, number as u64).await;
            stage.recorder.working(-1);
        });
    }
}

/// Waits until every producer sent what it wanted and knows what became of it.
pub async fn finish(stage: &Stage) {
    while stage.recorder.is_working() {
        stage.world.sleep(Duration::from_millis(50)).await;
    }
}

/// How a producer of the story behaves.
#[must_use]
pub fn config(plan: &ProducerPlan) -> ProducerConfig {
    ProducerConfig {
        acks: plan.acks,
        compression: plan.compression,
        idempotent: plan.idempotent,
        // Without sequence numbers only one request at a time keeps the order.
        max_in_flight: if plan.idempotent { 5 } else { 1 },
        batch: BatchLimits { batch_bytes: 16 << 10, linger: plan.linger, batch_records: 1000 },
        delivery_timeout: DELIVERY_TIMEOUT,
        ..ProducerConfig::default()
    }
}

async fn produce(stage: &Stage, runtime: &SimRuntime, plan: &ProducerPlan, number: u64) {
    let mut dice = stage.world.streams().dice("producer", number);
    let window = Arc::new(Semaphore::new(plan.window));
    let open = Arc::new(AtomicUsize::new(0));
    let cluster = cluster(stage, runtime.clone());
    let mut session = new_session(stage, &cluster, plan);
    for _ in 0..plan.records {
        if stage.recorder.is_calm() && dice.chance(900) {
            break; // a few records in the calm act show that it serves
        }
        runtime.sleep(Duration::from_micros(dice.below(plan.think.as_micros() as u64 + 1))).await;
        let room = window.clone().acquire_owned().await.expect("the window is never closed");
        if session.dead.load(Ordering::Relaxed) > 0 {
            session = new_session(stage, &cluster, plan);
        }
        let (record, op) = draw(stage, plan, &session, &mut dice);
        let (stage, owner, opened, who) = (stage.clone(), session.clone(), open.clone(), runtime.who());
        open.fetch_add(1, Ordering::Relaxed);
        // `send` takes its place in the order at its first poll and may wait for room: so it is awaited here.
        let delivery = owner.producer.send(record).await;
        runtime.spawn("send", async move {
            let outcome = match delivery {
                Ok(delivery) => delivery.wait().await,
                Err(error) => Err(error),
            };
            settle(&stage, who, op, outcome, &owner.dead);
            opened.fetch_sub(1, Ordering::Relaxed);
            drop(room);
        });
    }
    while open.load(Ordering::Relaxed) > 0 {
        runtime.sleep(Duration::from_millis(20)).await;
    }
}

/// One producer id: when it fails for good another one takes its place.
struct Session {
    runtime: SimRuntime,
    producer: Producer<SimRuntime>,
    process: u32,
    dead: AtomicUsize,
}

fn new_session(stage: &Stage, cluster: &Cluster<SimRuntime>, plan: &ProducerPlan) -> Arc<Session> {
    let producer = Producer::start(cluster.clone(), config(plan)).expect("the plan's settings are valid");
    let runtime = cluster.runtime().clone();
    Arc::new(Session {
        runtime,
        producer,
        process: stage.recorder.fresh_process(),
        dead: AtomicUsize::new(0),
    })
}

impl Session {
    fn now_ms(&self) -> i64 {
        self.runtime.unix_ms()
    }
}

fn draw(stage: &Stage, plan: &ProducerPlan, session: &Session, dice: &mut Dice) -> (Record, SendOp) {
    let topic = dice.pick(&stage.plan.topics);
    let index = dice.below(topic.partitions as u64) as i32;
    let number = stage.recorder.fresh_value();
    let length = dice.log_between(1, plan.value_bytes.max(2) as u64) as usize;
    let mut value = number.to_be_bytes().to_vec();
    value.extend(dice.bytes(length));
    let mut record = Record::new(topic.name.as_str(), value.clone()).partition(PartitionId(index));
    if dice.chance(500) {
        let length = dice.below(40) as usize;
        record = record.key(dice.bytes(length));
    }
    if dice.chance(200) {
        record = record.header(format!("h{}", dice.below(5)), dice.bytes(5));
    }
    if dice.chance(100) {
        // Late records: retention goes by the newest record of a segment, not by its last.
        record.timestamp_ms = Some(session.now_ms() - dice.below(20_000) as i64);
    }
    if let Some(edge) = super::edges::time_of(stage, number, session.now_ms()) {
        record.timestamp_ms = Some(edge);
    }
    if let Some(keys) = topic.keys {
        let (key, deletes) = (dice.below(keys), dice.chance(150));
        record.key = Some(format!("key-{key}").into());
        if deletes {
            record.value = None;
            record = record.header(NUMBER, number.to_be_bytes().to_vec());
        }
        let keyed = Event::Keyed { value: number, key, deletes };
        stage.recorder.event(session.runtime.who(), keyed);
    }
    let op = SendOp {
        process: session.process,
        part: stage.recorder.part(&topic.name, index),
        value: number,
        digest: digest(record.key.as_deref(), record.value.as_deref().unwrap_or_default(), &record.headers),
        acks: match plan.acks {
            Acks::None => oracle::Acks::None,
            Acks::Leader => oracle::Acks::Leader,
            Acks::All if topic.is_weak() => oracle::Acks::Leader,
            Acks::All => oracle::Acks::All,
        },
        idempotent: plan.idempotent,
        attempts: 0,
        begun: stage.world.now_ns(),
        done: 0,
        outcome: Outcome::Info,
    };
    (record, op)
}

/// Writes down what became of a send.
pub fn settle(
    stage: &Stage,
    who: crate::trace::Who,
    mut op: SendOp,
    outcome: Result<Stored, ProduceError>,
    dead: &AtomicUsize,
) {
    op.done = stage.world.now_ns();
    (op.outcome, op.attempts) = match outcome {
        Ok(stored) => (Outcome::Ok { offset: stored.offset.map(|offset| offset.0) }, stored.attempts),
        Err(error) => {
            dead.fetch_add(1, Ordering::Relaxed);
            let outcome = match error.verdict {
                Verdict::Ok => Outcome::Ok { offset: None },
                Verdict::DefiniteNo => Outcome::Fail,
                Verdict::Maybe => Outcome::Info,
            };
            (outcome, error.attempts)
        }
    };
    stage.recorder.event(who, Event::Send(op));
}
