//! A raw idempotent producer whose sequence numbers begin just below 2^31 and wrap, and which repeats itself on purpose.
//!
//! Owns: one producer id on one partition, its batches in order, deliberate retries of any of its last forty. Promises: on a
//! durable topic whose start nobody moves and whose batches nobody destroys, a batch that follows is never refused (IDM-3), a
//! retry of one of the last five is told its first offset (IDM-1, IDM-2), and one of an earlier batch that offset, that it is
//! there, or a refusal, across restarts and power cuts, and that nothing is told to be there which it never sent; else the checker of that name fires.
//! Leaves out: judging what is in the log (the oracle does). Source: CORRECTNESS.md 1.5. Called by the story, and by
//! `fleet::told_pipelined`.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use dejaq::client::outcome::{Verdict, produce_verdict};
use dejaq::runtime::Runtime;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId};
use dejaq_wire::kafka::init_producer_id::InitProducerIdRequest;
use dejaq_wire::kafka::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use dejaq_wire::record::{BatchBuilder, Compression, NewRecord};

use super::reader::Reader;
use super::{Stage, TopicPlan, producers};
use crate::invariants::Broken;
use crate::oracle::{Acks, Event, Outcome, SendOp};
use crate::rng::Dice;
use crate::runtime::SimRuntime;

/// The machine of the first one; the others follow.
pub const FIRST_MACHINE: u32 = 170;
/// Batches whose place a broker must remember.
const WINDOW: usize = 5;
/// Batches that are sent again at most.
const KEPT: usize = 40;

/// Starts the plan's sequencers, each on a machine of its own.
pub fn start(stage: &Stage) {
    for number in 0..stage.plan.sequencers {
        let stage = stage.clone();
        stage.recorder.working(1);
        stage.clone().broker.client(FIRST_MACHINE + number as u32, move |runtime| async move {
            let dice = stage.world.streams().dice("sequencer", number as u64);
            Sequencer::new(&stage, runtime, dice).run().await;
            stage.recorder.working(-1);
        });
    }
}

/// A batch as it was sent, and where it stands.
struct Sent {
    bytes: Bytes,
    base: i64,
}

/// What one request proved.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    /// It is there, at this offset, or at -1: the broker does not know any more where.
    Ok(i64),
    No(ErrorCode),
    Maybe,
}

pub(super) struct Sequencer {
    stage: Stage,
    runtime: SimRuntime,
    reader: Reader,
    dice: Dice,
    topic: String,
    index: i32,
    /// Whether the broker promises to remember: the topic is durable and keeps its start.
    remembers: bool,
    id: TopicId,
    producer: (ProducerId, ProducerEpoch),
    process: u32,
    /// What the producer of now began with.
    first: Sequence,
    next: Sequence,
    window: VecDeque<Sent>,
}

impl Sequencer {
    fn new(stage: &Stage, runtime: SimRuntime, mut dice: Dice) -> Self {
        let topic = dice.pick(&stage.plan.topics).clone();
        let index = dice.below(topic.partitions as u64) as i32;
        Sequencer::of(stage, runtime, dice, (topic, index))
    }

    /// For one partition.
    pub(super) fn of(
        stage: &Stage,
        runtime: SimRuntime,
        mut dice: Dice,
        (topic, index): (TopicPlan, i32),
    ) -> Self {
        Sequencer {
            stage: stage.clone(),
            reader: Reader { cluster: producers::cluster(stage, runtime.clone()) },
            runtime,
            topic: topic.name,
            index,
            remembers: topic.durable && !topic.trims,
            id: TopicId::ZERO,
            producer: (ProducerId::NONE, ProducerEpoch(0)),
            process: 0,
            first: Sequence::ZERO,
            next: Sequence(i32::MAX - dice.below(40) as i32),
            window: VecDeque::new(),
            dice,
        }
    }

    async fn run(mut self) {
        self.ready().await;
        for _ in 0..self.dice.between(20, 120) {
            if self.stage.recorder.is_calm() && self.dice.chance(900) {
                break;
            }
            let wait = self.dice.log_between(1, 60);
            self.pause(wait).await;
            // A broker that may forget would take a repetition for a new batch, as it may.
            if self.dice.chance(300) && self.must_remember() {
                self.repeat().await;
            } else if self.dice.chance(50) && self.must_remember() {
                self.claim().await;
            } else {
                self.send().await;
            }
        }
    }

    /// Returns when it knows its topic, and has an id.
    pub(super) async fn ready(&mut self) {
        self.id = loop {
            match self.reader.topic_id(&self.topic).await {
                Some(id) => break id,
                None => self.pause(100).await,
            }
        };
        self.begin().await;
    }

    /// Where batches were destroyed, the last word of a producer may be among them, and a replay does not see it.
    fn must_remember(&self) -> bool {
        self.remembers && !self.stage.broker.has_damage(&self.topic, self.index)
    }

    async fn pause(&self, ms: u64) {
        self.runtime.sleep(Duration::from_millis(ms)).await;
    }

    /// Another producer id, with sequences from the same place on: an unknown producer may start anywhere (IDM-7).
    async fn begin(&mut self) {
        self.window.clear();
        self.first = self.next;
        self.process = self.stage.recorder.fresh_process();
        loop {
            let deadline = self.runtime.now().plus(Duration::from_secs(5));
            let request = InitProducerIdRequest { transaction_timeout_ms: 60_000, ..Default::default() };
            if let Ok(answer) = self.reader.cluster.ask_any(&request, deadline).await
                && answer.error_code.is_none()
            {
                self.producer = (answer.producer_id, answer.producer_epoch);
                return;
            }
            self.pause(100).await;
        }
    }

    /// Sends the batch that follows, until its outcome is known.
    pub(super) async fn send(&mut self) {
        let count = self.dice.between(1, 5) as i32;
        let begun = self.stage.world.now_ns();
        let mut builder = BatchBuilder::new(Compression::None);
        (builder.producer_id, builder.producer_epoch) = self.producer;
        builder.base_sequence = self.next;
        let values: Vec<(u64, Vec<u8>)> = (0..count)
            .map(|_| {
                let number = self.stage.recorder.fresh_value();
                let length = self.dice.below(200) as usize;
                (number, [number.to_be_bytes().to_vec(), self.dice.bytes(length)].concat())
            })
            .collect();
        let timestamp_ms = self.runtime.unix_ms();
        for (_, value) in &values {
            let record = NewRecord { timestamp_ms, key: None, value: Some(value), headers: &[] };
            builder.append(&record);
        }
        let bytes = builder.build().expect("nothing is compressed").to_bytes();
        let mut attempts = 0;
        let outcome = loop {
            attempts += 1;
            match self.ask(&bytes).await {
                Told::Ok(base) => break Outcome::Ok { offset: Some(base) },
                Told::No(code) => {
                    self.refused(code, attempts);
                    break if attempts == 1 { Outcome::Fail } else { Outcome::Info };
                }
                Told::Maybe => self.pause(50).await,
            }
        };
        let done = self.stage.world.now_ns();
        for (place, (value, content)) in values.iter().enumerate() {
            let offset = |base: i64| base + place as i64;
            let outcome = match outcome {
                Outcome::Ok { offset: base } => Outcome::Ok { offset: base.map(offset) },
                other => other,
            };
            let op = SendOp {
                process: self.process,
                part: self.stage.recorder.part(&self.topic, self.index),
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
        let Outcome::Ok { offset: Some(base) } = outcome else { return self.begin().await };
        self.next = (0..count).fold(self.next, |sequence, _| sequence.next());
        self.window.push_back(Sent { bytes, base });
        if self.window.len() > KEPT {
            self.window.pop_front();
        }
    }

    /// How many batches it has sent since it began, at most as many as it keeps.
    pub(super) fn kept(&self) -> usize {
        self.window.len()
    }

    /// Sends one of the batches that it keeps again, the oldest is 0: where it stands, and what was told.
    pub(super) async fn again(&self, nth: usize) -> (i64, Told) {
        let Sent { bytes, base } = &self.window[nth];
        self.stage.recorder.count("deliberate retries");
        (*base, self.ask(bytes).await)
    }

    /// A batch that follows was refused for certain.
    fn refused(&self, code: ErrorCode, attempts: u32) {
        let sequence =
            code == ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER || code == ErrorCode::UNKNOWN_PRODUCER_ID;
        if self.must_remember() && sequence {
            let evidence = format!(
                "{}-{}: the batch with sequence {:?} follows, and was refused with {code} at attempt {attempts}",
                self.topic, self.index, self.next
            );
            self.stage.broker.blame(Broken { name: "IDM-3", evidence });
        }
    }

    /// Sends a batch again: the answer names the offset where it stands, which an earlier one than the last five need not know.
    async fn repeat(&mut self) {
        if self.window.is_empty() {
            return;
        }
        let of_window = self.window.len().min(WINDOW) as u64;
        let most = if self.dice.chance(700) { of_window } else { self.window.len() as u64 };
        let back = self.dice.below(most) as usize + 1;
        let (base, told) = self.again(self.window.len() - back).await;
        let is_early = back > WINDOW;
        let answer = match told {
            Told::Ok(offset) if offset == base || (is_early && offset == -1) => return,
            // Who has begun in the midst of its batches knows nothing of those before.
            Told::No(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) if is_early => return,
            Told::Maybe => return,
            Told::Ok(offset) => format!("told offset {offset}"),
            Told::No(code) => format!("refused with {code}"),
        };
        if self.must_remember() {
            let evidence = format!(
                "{}-{}: batch {back} from the last stands at {base}, its retry was {answer}",
                self.topic, self.index
            );
            self.stage.broker.blame(Broken { name: "IDM-1", evidence });
        }
    }

    /// Sends what would be from before its first batch, and never was: nobody may say that it is there.
    async fn claim(&mut self) {
        if self.window.is_empty() {
            return;
        }
        let (back, count) = (self.dice.between(1, 30) as i32, self.dice.between(1, 3) as i32);
        let mut builder = BatchBuilder::new(Compression::None);
        (builder.producer_id, builder.producer_epoch) = self.producer;
        builder.base_sequence = Sequence(self.first.0.wrapping_sub(back + count - 1) & i32::MAX);
        for _ in 0..count {
            let record = NewRecord { timestamp_ms: 0, key: None, value: Some(b"never sent"), headers: &[] };
            builder.append(&record);
        }
        let bytes = builder.build().expect("nothing is compressed").to_bytes();
        self.stage.recorder.count("batches claimed that never were");
        if let Told::Ok(offset) = self.ask(&bytes).await
            && self.must_remember()
        {
            let (topic, index, first) = (&self.topic, self.index, self.first);
            let evidence = format!(
                "{topic}-{index}: it began with {first:?}, and a batch before that is said to be at {offset}"
            );
            self.stage.broker.blame(Broken { name: "IDM-3", evidence });
        }
    }

    /// Asks whoever leads; who has no answer looks anew who that is before it asks again.
    async fn ask(&self, batch: &Bytes) -> Told {
        let told = self.ask_leader(batch).await;
        if matches!(told, Told::Maybe) {
            self.reader.cluster.forget(&self.topic);
        }
        told
    }

    async fn ask_leader(&self, batch: &Bytes) -> Told {
        let deadline = self.runtime.now().plus(Duration::from_secs(8));
        let leader = self.reader.cluster.leader(&self.topic, PartitionId(self.index), deadline).await;
        let Ok((connection, _)) = leader else { return Told::Maybe };
        let partition =
            PartitionProduceData { index: PartitionId(self.index), records: Some(batch.clone().into()) };
        let topic = TopicProduceData {
            name: self.topic.as_str().into(),
            topic_id: self.id,
            partition_data: vec![partition],
        };
        let request =
            ProduceRequest { acks: -1, timeout_ms: 5000, topic_data: vec![topic], ..Default::default() };
        let Ok(answer) = connection.call(&request, deadline).await else { return Told::Maybe };
        let answer = answer.responses.first().and_then(|topic| topic.partition_responses.first());
        let Some(answer) = answer else { return Told::Maybe };
        match produce_verdict(answer.error_code) {
            Verdict::Ok => Told::Ok(answer.base_offset.0),
            Verdict::DefiniteNo => Told::No(answer.error_code),
            Verdict::Maybe => Told::Maybe,
        }
    }
}
