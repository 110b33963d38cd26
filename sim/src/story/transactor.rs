//! Transactional producers of a story, and readers of committed records: raw, on the protocol itself.
//!
//! Owns: one transactional id each, which begins, writes to several partitions, commits, aborts, falls silent, and takes
//! its id anew while its old life goes on sending; one reader of committed records; the final read of committed records.
//! With transfers each transaction moves amounts between two places, half of the ids speak the transactions of before
//! KIP-890 (partitions are added by hand, one epoch a life), and some clients die while they commit.
//! Promises: what it was told is written down, with "maybe" kept as such; in the calm act every partition's last stable
//! offset reaches its end, or the run is stuck (TXN-4).
//! Leaves out: judging (the oracle: aborted, torn, of another outcome, before its commit was asked). Source: CORRECTNESS.md
//! 1.6; S47 to S55. Called by the story.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use dejaq::client::connection::Connection;
use dejaq::client::group::coordinator::ask_over;
use dejaq::client::outcome::{Verdict, produce_verdict};
use dejaq::runtime::Runtime;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId};
use dejaq_wire::kafka::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use dejaq_wire::kafka::end_txn::EndTxnRequest;
use dejaq_wire::kafka::find_coordinator::FindCoordinatorRequest;
use dejaq_wire::kafka::init_producer_id::InitProducerIdRequest;
use dejaq_wire::kafka::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use dejaq_wire::record::{BatchBuilder, Compression, NewRecord};

use super::reader::{Fetched, Reader};
use super::{Stage, producers};
use crate::oracle::{Acks, Event, Outcome, PollOp, SendOp, Told, TxnAct, TxnOp};
use crate::rng::Dice;
use crate::runtime::SimRuntime;

/// The machine of the first one; the others follow.
pub const FIRST_MACHINE: u32 = 180;
/// The machine of the reader of committed records.
const READER_MACHINE: u32 = 195;
/// How often one thing is tried while nothing is heard.
const MOST_ATTEMPTS: u32 = 60;
/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(8);
/// Newest versions that do not speak of `transaction.version` 2; of AddPartitionsToTxn the newest that is a client's.
pub(super) const LAST_OLD_ADD: i16 = 3;
pub(super) const LAST_OLD_END: i16 = 4;
pub(super) const LAST_OLD_PRODUCE: i16 = 11;

/// The machines of the plan's transactors and of their reader.
pub fn machines(stage: &Stage) -> Vec<u32> {
    let count = stage.plan.transactors as u32;
    (FIRST_MACHINE..FIRST_MACHINE + count).chain(has_reader(stage).then_some(READER_MACHINE)).collect()
}

/// Whether somebody writes transactions, so that there is something to read.
fn has_reader(stage: &Stage) -> bool {
    stage.plan.transactors > 0 || stage.plan.pipes.is_some()
}

/// Starts the plan's transactors, each on a machine of its own, and a reader.
pub fn start(stage: &Stage) {
    for number in 0..stage.plan.transactors {
        let stage = stage.clone();
        stage.recorder.working(1);
        stage.clone().broker.client(FIRST_MACHINE + number as u32, move |runtime| async move {
            let dice = stage.world.streams().dice("transactor", number as u64);
            Transactor::new(&stage, runtime, dice, number).run().await;
            stage.recorder.working(-1);
        });
    }
    if has_reader(stage) {
        let stage = stage.clone();
        stage
            .clone()
            .broker
            .client(READER_MACHINE, move |runtime| async move { read(&stage, &runtime).await });
    }
}

/// One life of a transactional id.
#[derive(Debug, Clone)]
struct Life {
    process: u32,
    producer: (ProducerId, ProducerEpoch),
    next: BTreeMap<(String, i32), Sequence>,
    /// What is in the open transaction; before KIP-890 only.
    joined: BTreeSet<(String, i32)>,
}

/// What goes into one batch.
struct Load {
    topic: (String, i32, TopicId),
    index: i32,
    /// Number and content.
    values: Vec<(u64, Vec<u8>)>,
}

struct Transactor {
    stage: Stage,
    runtime: SimRuntime,
    reader: Reader,
    dice: Dice,
    id: String,
    timeout_ms: i32,
    topics: Vec<(String, i32, TopicId)>,
    /// Whether it speaks the transactions of before KIP-890.
    old: bool,
    /// An earlier life that does not know that it is over.
    zombie: Option<Life>,
}

impl Transactor {
    fn new(stage: &Stage, runtime: SimRuntime, mut dice: Dice, number: usize) -> Self {
        Transactor {
            stage: stage.clone(),
            reader: Reader { cluster: producers::cluster(stage, runtime.clone()) },
            runtime,
            id: format!("x{number}"),
            timeout_ms: dice.log_between(800, 20_000) as i32,
            old: stage.plan.transfers && dice.chance(500),
            dice,
            topics: Vec::new(),
            zombie: None,
        }
    }

    async fn run(mut self) {
        for topic in &self.stage.plan.topics.clone() {
            let id = loop {
                match self.reader.topic_id(&topic.name).await {
                    Some(id) => break id,
                    None => self.pause(100).await,
                }
            };
            self.topics.push((topic.name.clone(), topic.partitions, id));
        }
        let mut life = self.begin().await;
        for _ in 0..self.dice.between(20, 80) {
            if self.stage.recorder.is_calm() && self.dice.chance(800) {
                break;
            }
            let wait = self.dice.log_between(1, 100);
            self.pause(wait).await;
            let goes_on = self.transaction(&mut life).await;
            self.haunt().await;
            if !goes_on || self.dice.chance(60) {
                let next = self.begin().await;
                self.zombie = Some(std::mem::replace(&mut life, next));
            }
        }
    }

    async fn pause(&self, ms: u64) {
        self.runtime.sleep(Duration::from_millis(ms)).await;
    }

    async fn coordinator(&self) -> Option<Connection<SimRuntime>> {
        let deadline = self.runtime.now().plus(Duration::from_secs(5));
        let request = FindCoordinatorRequest {
            key: self.id.clone(),
            key_type: 1,
            coordinator_keys: vec![self.id.clone()],
        };
        let found =
            self.reader.cluster.ask_any(&request, deadline).await.ok()?.coordinators.into_iter().next()?;
        if found.error_code.is_error() {
            return None;
        }
        // So that the client knows where the brokers are; this one may have been away when it asked last.
        let cluster = &self.reader.cluster;
        cluster.topic(&self.topics.first()?.0, deadline).await.ok()?;
        let (seen, is_known) =
            cluster.with_routes(|routes| (routes.generation, routes.broker(found.node_id).is_some()));
        if !is_known {
            cluster.refresh(seen, deadline).await.ok()?;
        }
        cluster.broker(found.node_id, deadline).await.ok()
    }

    /// A new life of the id.
    async fn begin(&mut self) -> Life {
        loop {
            if let Some(connection) = self.coordinator().await {
                let deadline = self.runtime.now().plus(Duration::from_secs(8));
                let request = InitProducerIdRequest {
                    transactional_id: Some(self.id.clone()),
                    transaction_timeout_ms: self.timeout_ms,
                    ..Default::default()
                };
                if let Ok(told) = connection.call(&request, deadline).await
                    && told.error_code.is_none()
                {
                    return Life {
                        process: self.stage.recorder.fresh_process(),
                        producer: (told.producer_id, told.producer_epoch),
                        next: BTreeMap::new(),
                        joined: BTreeSet::new(),
                    };
                }
            }
            self.pause(50).await;
        }
    }

    /// One transaction; whether this life of the id goes on.
    async fn transaction(&mut self, life: &mut Life) -> bool {
        self.note(life, TxnAct::Begin, Told::Ok, self.stage.world.now_ns());
        let mut is_whole = true;
        let most = if self.stage.plan.transfers { 4 } else { 6 };
        for _ in 0..self.dice.between(1, most) {
            is_whole &= match self.stage.plan.transfers {
                true => self.transfer(life).await,
                false => self.send(life, MOST_ATTEMPTS).await,
            };
            if !is_whole {
                break;
            }
        }
        if self.dice.chance(50) {
            self.stage.recorder.count("transactions left open");
            return false; // it fell silent: the next life, or time, aborts what it left
        }
        let commit = is_whole && self.dice.chance(750);
        if self.stage.plan.transfers && self.dice.chance(200) {
            // It dies while it asks for the end; its next life finds what it left.
            let alive = Duration::from_micros(self.dice.log_between(300, 60_000));
            self.end(life, commit, 1, alive).await;
            self.stage.recorder.count("lives that ended while they ended a transaction");
            return false;
        }
        // Before KIP-890 a life goes on under one epoch: not if nobody knows what of it is still on its way.
        self.end(life, commit, MOST_ATTEMPTS, PATIENCE).await && (is_whole || !self.old)
    }

    /// An earlier life sends, and ends what it takes for its transaction.
    async fn haunt(&mut self) {
        if !self.dice.chance(300) {
            return;
        }
        let Some(mut zombie) = self.zombie.take().filter(|_| !self.stage.plan.nothing_late) else { return };
        if self.dice.chance(500) {
            self.send(&mut zombie, 1).await;
        }
        let commit = self.dice.chance(700);
        self.end(&mut zombie, commit, 1, PATIENCE).await;
        self.stage.recorder.count("earlier lives that went on");
    }

    fn note(&self, life: &Life, act: TxnAct, told: Told, begun: u64) {
        let op = TxnOp { process: life.process, act, told, begun, done: self.stage.world.now_ns() };
        self.stage.recorder.event(self.runtime.who(), Event::Txn(op));
    }

    /// Ends the transaction; whether the life goes on.
    async fn end(&mut self, life: &mut Life, commit: bool, most: u32, patience: Duration) -> bool {
        let begun = self.stage.world.now_ns();
        let mut told = Told::No;
        let mut goes_on = false;
        for attempt in 0..most {
            if attempt > 0 {
                self.pause(50).await;
            }
            let Some(connection) = self.coordinator().await else { continue };
            let deadline = self.runtime.now().plus(patience);
            let request = EndTxnRequest {
                transactional_id: self.id.clone(),
                producer_id: life.producer.0,
                producer_epoch: life.producer.1,
                committed: commit,
            };
            let newest = if self.old { LAST_OLD_END } else { i16::MAX };
            let Ok(answer) = ask_over(&connection, &request, newest, deadline).await else {
                told = Told::Maybe;
                continue;
            };
            match answer.error_code {
                ErrorCode::NONE => {
                    (told, goes_on) = (Told::Ok, true);
                    life.joined.clear();
                    if !self.old {
                        life.producer = (answer.producer_id, answer.producer_epoch);
                        life.next.clear();
                    }
                    break;
                }
                ErrorCode::CONCURRENT_TRANSACTIONS | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS => {}
                // Whether it was decided before the coordinator was over is not known.
                ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE => told = Told::Maybe,
                _ => break,
            }
        }
        let act = if commit { TxnAct::Commit } else { TxnAct::Abort };
        self.note(life, act, told, begun);
        self.stage.recorder.count(format!("{} {told:?}", if commit { "commits" } else { "aborts" }));
        goes_on
    }

    /// Sends some records to one partition; whether they are there.
    async fn send(&mut self, life: &mut Life, most: u32) -> bool {
        let topic = self.dice.pick(&self.topics).clone();
        let index = self.dice.below(topic.1 as u64) as i32;
        let count = self.dice.between(1, 4) as i32;
        let values = (0..count)
            .map(|_| {
                let number = self.stage.recorder.fresh_value();
                let length = self.dice.below(100) as usize;
                (number, [number.to_be_bytes().to_vec(), self.dice.bytes(length)].concat())
            })
            .collect();
        self.put(life, Load { topic, index, values }, most).await
    }

    /// Moves an amount from one place to another; whether both sides are there.
    async fn transfer(&mut self, life: &mut Life) -> bool {
        let amount = self.dice.between(1, 1000) as i64;
        let transfer = self.stage.recorder.fresh_value();
        for amount in [-amount, amount] {
            let topic = self.dice.pick(&self.topics).clone();
            let index = self.dice.below(topic.1 as u64) as i32;
            let value = self.stage.recorder.fresh_value();
            self.stage.recorder.event(self.runtime.who(), Event::Moved { value, transfer, amount });
            let content = [value.to_be_bytes(), amount.to_be_bytes()].concat();
            if !self.put(life, Load { topic, index, values: vec![(value, content)] }, MOST_ATTEMPTS).await {
                return false;
            }
        }
        true
    }

    /// Before KIP-890: adds a partition to the transaction; whether it is in.
    async fn join(&self, life: &mut Life, place: (&str, i32), most: u32) -> bool {
        let place = (place.0.to_owned(), place.1);
        if life.joined.contains(&place) {
            return true;
        }
        for _ in 0..most {
            if let Some(connection) = self.coordinator().await {
                let partitions = vec![PartitionId(place.1)];
                let request = AddPartitionsToTxnRequest {
                    v3_and_below_transactional_id: self.id.clone(),
                    v3_and_below_producer_id: life.producer.0,
                    v3_and_below_producer_epoch: life.producer.1,
                    v3_and_below_topics: vec![AddPartitionsToTxnTopic { name: place.0.clone(), partitions }],
                    ..Default::default()
                };
                let deadline = self.runtime.now().plus(PATIENCE);
                if let Ok(answer) = ask_over(&connection, &request, LAST_OLD_ADD, deadline).await {
                    let topics = answer.results_by_topic_v3_and_below.iter();
                    let mut codes = topics.flat_map(|topic| &topic.results_by_partition);
                    match codes.next().map(|one| one.partition_error_code) {
                        Some(ErrorCode::NONE) => {
                            life.joined.insert(place);
                            return true;
                        }
                        Some(code) if !code.is_retriable() => return false,
                        Some(_) | None => {}
                    }
                }
            }
            self.pause(30).await;
        }
        false
    }

    /// Sends one batch; whether its records are there.
    async fn put(&mut self, life: &mut Life, load: Load, most: u32) -> bool {
        let Load { topic: (topic, _, id), index, values } = load;
        if self.old && !self.join(life, (&topic, index), most).await {
            return false;
        }
        let begun = self.stage.world.now_ns();
        let sequence = *life.next.entry((topic.clone(), index)).or_insert(Sequence::ZERO);
        let mut builder = BatchBuilder::new(Compression::None);
        (builder.producer_id, builder.producer_epoch) = life.producer;
        (builder.base_sequence, builder.transactional) = (sequence, true);
        let timestamp_ms = self.runtime.unix_ms();
        for (_, value) in &values {
            builder.append(&NewRecord { timestamp_ms, key: None, value: Some(value), headers: &[] });
        }
        let batch = builder.build().expect("nothing is compressed").to_bytes();
        let mut outcome = Outcome::Info;
        let mut attempts = 0;
        let mut is_unsure = false;
        while attempts < most {
            attempts += 1;
            match self.ask(&topic, id, index, &batch).await {
                Some((ErrorCode::NONE, base)) => {
                    outcome = Outcome::Ok { offset: Some(base) };
                    break;
                }
                Some((code, _)) if produce_verdict(code) == Verdict::DefiniteNo => {
                    let again = code == ErrorCode::NOT_ENOUGH_REPLICAS || code.is_retriable();
                    if !again {
                        outcome = if is_unsure { Outcome::Info } else { Outcome::Fail };
                        break;
                    }
                }
                Some((code, _)) if !code.is_retriable() && code != ErrorCode::REQUEST_TIMED_OUT => break,
                Some(_) | None => is_unsure = true,
            }
            self.pause(30).await;
        }
        let done = self.stage.world.now_ns();
        for (place, (value, content)) in values.iter().enumerate() {
            let outcome = match outcome {
                Outcome::Ok { offset } => Outcome::Ok { offset: offset.map(|base| base + place as i64) },
                other => other,
            };
            let op = SendOp {
                process: life.process,
                part: self.stage.recorder.part(&topic, index),
                value: *value,
                digest: producers::digest(None, content, &[]),
                acks: Acks::All,
                idempotent: true,
                attempts,
                begun,
                done,
                outcome,
            };
            self.stage.recorder.event(self.runtime.who(), Event::Send(op));
        }
        if !matches!(outcome, Outcome::Ok { .. }) {
            return false;
        }
        let next = values.iter().fold(sequence, |sequence, _| sequence.next());
        life.next.insert((topic, index), next);
        true
    }

    async fn ask(&self, topic: &str, id: TopicId, index: i32, batch: &Bytes) -> Option<(ErrorCode, i64)> {
        let deadline = self.runtime.now().plus(Duration::from_secs(8));
        let leader = self.reader.cluster.leader(topic, PartitionId(index), deadline).await;
        let (connection, _) = leader.ok()?;
        let part = PartitionProduceData { index: PartitionId(index), records: Some(batch.clone().into()) };
        let data = TopicProduceData { name: topic.into(), topic_id: id, partition_data: vec![part] };
        let request = ProduceRequest {
            transactional_id: Some(self.id.clone()),
            acks: -1,
            timeout_ms: 5000,
            topic_data: vec![data],
        };
        let newest = if self.old { LAST_OLD_PRODUCE } else { i16::MAX };
        let answer = ask_over(&connection, &request, newest, deadline).await.ok()?;
        let answer = answer.responses.first()?.partition_responses.first()?;
        Some((answer.error_code, answer.base_offset.0))
    }
}

/// Reads committed records of every partition while the story runs.
async fn read(stage: &Stage, runtime: &SimRuntime) {
    let reader = Reader { cluster: producers::cluster(stage, runtime.clone()) };
    let process = stage.recorder.fresh_process();
    let told = Event::Consumer { process, read_committed: true, group: None };
    stage.recorder.event(runtime.who(), told);
    let mut positions: BTreeMap<(String, i32), i64> = BTreeMap::new();
    loop {
        for topic in &stage.plan.topics {
            let Some(id) = reader.topic_id(&topic.name).await else { continue };
            for index in 0..topic.partitions {
                let at = positions.entry((topic.name.clone(), index)).or_insert(0);
                let (begun, from) = (stage.world.now_ns(), *at);
                let answer = reader.whole(&topic.name, id, index, from, (20, true)).await;
                let part = stage.recorder.part(&topic.name, index);
                if let Some((watermark, stable)) = answer.ends {
                    let told = Event::Stable { part, watermark, stable };
                    stage.recorder.event(runtime.who(), told);
                }
                let Fetched::Records { records, next } = answer.fetched else { continue };
                *at = next;
                let op = PollOp {
                    process,
                    part,
                    from,
                    records,
                    next,
                    out_of_range: false,
                    begun,
                    done: stage.world.now_ns(),
                };
                stage.recorder.event(runtime.who(), Event::Poll(op));
            }
        }
        runtime.sleep(Duration::from_millis(10)).await;
    }
}

/// The final read of committed records. Waits until nothing is undecided below `end`, the end of each partition.
pub async fn drain(
    stage: &Stage,
    runtime: &SimRuntime,
    reader: &Reader,
    topic: (&str, TopicId, i32),
    end: i64,
) {
    let (name, id, index) = topic;
    let mut at = 0;
    let mut all = Vec::new();
    while at < end {
        match reader.committed(name, id, index, at, 100).await {
            Fetched::Records { records, next } => {
                if next == at {
                    runtime.sleep(Duration::from_millis(50)).await;
                }
                all.extend(records);
                at = next;
            }
            Fetched::OutOfRange => at = reader.list(name, index, -2).await.unwrap_or(at).max(at),
            Fetched::Refused | Fetched::Failed => runtime.sleep(Duration::from_millis(100)).await,
        }
    }
    let part = stage.recorder.part(name, index);
    stage.recorder.event(runtime.who(), Event::DrainedCommitted { part, records: all });
}
