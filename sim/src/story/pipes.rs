//! Consume, transform, produce in a story: members of a group that make one record of each that they read, each input once.
//!
//! Owns: the pipelines of the native client, their machines' deaths and pauses, an observer of the group's stable offsets.
//! Promises: every transaction is written down with what it read, what it made and where it set the group, with "maybe" kept
//! as such, so that the oracle can say which input was lost and which is there twice (TXN-11); stable offsets only grow
//! (GRP-3); in the calm act the group comes to the end of everything that is committed, or the run is stuck (TXN-4).
//! Leaves out: judging (the oracle). Source: CORRECTNESS.md 1.6, S51, S53; KIP-447. Called by the story.
//!
//! ```text
//!  inputs: all topics but the last ──► members (one machine each: killed, paused; steps dropped half way) ──► the last topic
//!             └ written by producers and transactors, aborted records among them
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use dejaq::client::admin_groups;
use dejaq::client::consumer::{ConsumedRecord, ConsumerConfig, Isolation, StartAt};
use dejaq::client::group::coordinator::Coordinator;
use dejaq::client::group::{Assignor, GroupConfig, Protocol};
use dejaq::client::producer::{ProducerConfig, Record};
use dejaq::client::txn::{Pipeline, PipelineConfig, PipelineError, Step, TxnConfig, TxnVersion};
use dejaq::runtime::Runtime;
use dejaq_wire::ids::PartitionId;

use super::groups::Speaks;
use super::reader::{Fetched, Reader};
use super::{Stage, native, producers};
use crate::invariants::Broken;
use crate::oracle::{Acks, Event, GroupAct, GroupOp, Outcome, PollOp, Seen, SendOp, Told, TxnAct, TxnOp};
use crate::rng::Dice;
use crate::runtime::SimRuntime;
use crate::trace::Who;

/// The machine of the observer; the members follow.
const FIRST_MACHINE: u32 = 600;
const GROUP: &str = "the-pipe";
/// The shortest that a broker allows.
const SESSION: Duration = Duration::from_secs(6);

/// A group of pipelines. They read all topics of the plan but the last one, into which they write.
#[derive(Debug, Clone, Copy)]
pub struct PipePlan {
    /// How many members.
    pub members: usize,
    /// By which protocol they are members of the group.
    pub speaks: Speaks,
    /// Whether some lives speak the transactions of before KIP-890.
    pub old: bool,
}

/// The machines of the plan's pipelines.
pub fn machines(stage: &Stage) -> impl Iterator<Item = u32> {
    let members = stage.plan.pipes.map_or(0, |plan| plan.members);
    (0..members).map(machine)
}

fn machine(number: usize) -> u32 {
    FIRST_MACHINE + 1 + u32::try_from(number).expect("few members")
}

/// Starts the plan's pipelines and their observer.
pub fn start(stage: &Stage) {
    let Some(plan) = stage.plan.pipes else { return };
    for number in 0..plan.members {
        let owner = stage.clone();
        stage.broker.aside(async move { lives(&owner, plan, number).await });
    }
    let owner = stage.clone();
    stage.broker.client(FIRST_MACHINE, move |runtime| async move { observe(&owner, &runtime).await });
}

/// One machine's lives: it dies at any instant, stands still at any instant, and comes back. In the calm act it lives on.
async fn lives(stage: &Stage, plan: PipePlan, number: usize) {
    let mut dice = stage.world.streams().dice("pipe", number as u64);
    let machine = machine(number);
    for life in 0_u64.. {
        let who = Who { node: machine, incarnation: u32::try_from(life).expect("few lives") + 1 };
        let paper = Paper::blank(0, who);
        let drawn = stage.world.streams().dice("pipe life", (number as u64) << 32 | life);
        let (owner, notes) = (stage.clone(), paper.clone());
        stage.broker.reborn(machine, move |runtime| async move {
            Member { stage: owner, runtime, paper: notes, dice: drawn, plan, number }.run().await;
        });
        let end = stage.world.now_ns() + dice.log_between(2_000, 30_000) * 1_000_000;
        if dice.chance(500) {
            stand_still(stage, &paper, machine, &mut dice, end).await;
        }
        stage.world.sleep_until(end).await;
        if stage.recorder.is_calm() {
            return;
        }
        stage.broker.strike_machine(machine);
        stage.recorder.count("pipelines killed");
        paper.over(stage);
        let pause = dice.log_between(1, 3000);
        stage.world.sleep(Duration::from_millis(pause)).await;
    }
}

/// Stops a machine in the middle of a transaction, for longer than its session as often as not: its group goes on without
/// it, and when it wakes it goes on as if nothing had been.
async fn stand_still(stage: &Stage, paper: &Paper, machine: u32, dice: &mut Dice, end: u64) {
    let (before, after) = (dice.log_between(1, 5_000), dice.log_between(10, 30_000));
    let still = dice.between(3_000, 15_000);
    stage.world.sleep(Duration::from_millis(before)).await;
    while paper.lock().open.is_none() && stage.world.now_ns() < end {
        stage.world.sleep(Duration::from_millis(1)).await;
    }
    stage.world.sleep(Duration::from_micros(after)).await;
    if stage.recorder.is_calm() || stage.world.now_ns() >= end {
        return;
    }
    stage.recorder.count("pipelines stood still");
    stage.broker.pause_machine(machine, true);
    stage.world.sleep(Duration::from_millis(still)).await;
    stage.broker.pause_machine(machine, false);
}

/// The transactions of one life, as far as they are not written down. Clones are the same: it outlives its machine.
#[derive(Clone)]
struct Paper(Arc<Mutex<Notes>>);

struct Notes {
    /// The producer session.
    process: u32,
    who: Who,
    /// What the step under way has begun.
    open: Option<Batch>,
    /// What an earlier step left, its end unknown.
    left: Option<Batch>,
}

/// One transaction.
#[derive(Default)]
struct Batch {
    /// When the last record was made: nobody has asked for its end before.
    last: u64,
    read: BTreeMap<(String, i32), Vec<Seen>>,
}

impl Paper {
    /// Of a life that has begun nothing.
    fn blank(process: u32, who: Who) -> Paper {
        Paper(Arc::new(Mutex::new(Notes { process, who, open: None, left: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().expect("nothing panics while it is locked")
    }

    /// The life ended: what is open may be committed, or not.
    fn over(&self, stage: &Stage) {
        let mut notes = self.lock();
        for batch in [notes.left.take(), notes.open.take()].into_iter().flatten() {
            notes.end(stage, &batch, TxnAct::Commit, Told::Maybe);
        }
    }

    /// Takes in what a step said; `None`: it was dropped half way.
    fn settle(&self, stage: &Stage, step: Option<&Result<Step, PipelineError>>) {
        let mut notes = self.lock();
        let (act, word) = match step {
            Some(Ok(Step::Committed { .. })) => (TxnAct::Commit, "pipeline transactions committed"),
            Some(Ok(Step::Aborted { .. })) => (TxnAct::Abort, "pipeline transactions aborted"),
            // It ended what was left before it looked for more.
            Some(Ok(Step::Idle)) => (TxnAct::Abort, "pipeline transactions aborted"),
            Some(Err(_)) | None => {
                if let Some(batch) = notes.open.take() {
                    assert!(notes.left.is_none(), "a step goes on though one before is not ended");
                    notes.left = Some(batch);
                }
                return;
            }
        };
        if let Some(batch) = notes.open.take().or_else(|| notes.left.take()) {
            stage.recorder.count(word);
            notes.end(stage, &batch, act, Told::Ok);
        }
    }
}

impl Notes {
    fn event(&self, stage: &Stage, event: Event) {
        stage.recorder.event(self.who, event);
    }

    fn act(&self, stage: &Stage, act: TxnAct, told: Told, begun: u64) {
        let op = TxnOp { process: self.process, act, told, begun, done: stage.world.now_ns() };
        self.event(stage, Event::Txn(op));
    }

    /// Writes down what a transaction read, where it set the group, and its end.
    fn end(&self, stage: &Stage, batch: &Batch, act: TxnAct, told: Told) {
        // Each batch is a reader of its own: where it goes on is the group's affair, which the observer watches.
        let process = stage.recorder.fresh_process();
        let reader = Event::Consumer { process, read_committed: true, group: Some(GROUP.into()) };
        self.event(stage, reader);
        let mut offsets = Vec::new();
        for ((topic, index), records) in &batch.read {
            let part = stage.recorder.part(topic, *index);
            let (from, next) = (records[0].offset, records[records.len() - 1].offset + 1);
            let records = records.clone();
            let (out_of_range, begun, done) = (false, batch.last, batch.last);
            self.event(
                stage,
                Event::Poll(PollOp { process, part, from, records, next, out_of_range, begun, done }),
            );
            offsets.push((part, next));
        }
        let set = TxnAct::Offsets { group: GROUP.into(), offsets };
        self.act(stage, set, Told::Maybe, batch.last);
        self.act(stage, act, told, batch.last);
    }
}

struct Member {
    stage: Stage,
    runtime: SimRuntime,
    paper: Paper,
    dice: Dice,
    plan: PipePlan,
    number: usize,
}

impl Member {
    async fn run(mut self) {
        let protocol = match self.plan.speaks {
            Speaks::Classic => Protocol::Classic,
            Speaks::New => Protocol::Consumer,
            Speaks::Both => *self.dice.pick(&[Protocol::Classic, Protocol::Consumer]),
        };
        loop {
            self.paper.lock().process = self.stage.recorder.fresh_process();
            match self.begin(protocol).await {
                Ok(mut pipeline) => {
                    self.live(&mut pipeline).await;
                    if self.dice.chance(300) {
                        let deadline = self.runtime.now().plus(Duration::from_secs(5));
                        let _late = pipeline.close(deadline).await;
                    }
                }
                Err(_) => self.stage.recorder.count("pipelines that could not begin"),
            }
            self.paper.over(&self.stage);
            self.pause(100).await;
        }
    }

    async fn pause(&self, ms: u64) {
        self.runtime.sleep(Duration::from_millis(ms)).await;
    }

    async fn begin(&mut self, protocol: Protocol) -> Result<Pipeline<SimRuntime>, PipelineError> {
        let group = GroupConfig {
            protocol,
            session_timeout: SESSION,
            heartbeat_every: Duration::from_secs(1),
            rebalance_timeout: Duration::from_secs(10),
            assignors: vec![Assignor::Range],
            start: Some(StartAt::Beginning),
            consumer: ConsumerConfig {
                max_wait: Duration::from_millis(100),
                max_poll_records: self.dice.log_between(1, 60) as usize,
                ..ConsumerConfig::default()
            },
            ..GroupConfig::of(GROUP)
        };
        let is_old = self.plan.old && self.dice.chance(500);
        let config = PipelineConfig {
            group,
            producer: TxnConfig {
                timeout: Duration::from_millis(self.dice.log_between(3_000, 60_000)),
                version: if is_old { TxnVersion::One } else { TxnVersion::Newest },
                producer: ProducerConfig {
                    delivery_timeout: Duration::from_secs(20),
                    ..ProducerConfig::default()
                },
                ..TxnConfig::of(&format!("pipe-{}", self.number))
            },
            patience: Duration::from_secs(*self.dice.pick(&[1, 20, 60])),
        };
        let topics = inputs(&self.stage).iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>();
        let cluster = producers::cluster(&self.stage, self.runtime.clone());
        let deadline = self.runtime.now().plus(Duration::from_secs(20));
        if is_old {
            self.stage.recorder.count("pipelines of before KIP-890");
        }
        Pipeline::start(cluster, config, &topics, |_| {}, deadline).await
    }

    /// Steps until this pipeline is over.
    async fn live(&mut self, pipeline: &mut Pipeline<SimRuntime>) {
        loop {
            // What drops a step half way aborts it, and goes back: the same inputs once more.
            let drops = (!self.stage.recorder.is_calm() && self.dice.chance(100))
                .then(|| Duration::from_micros(self.dice.log_between(10, 200_000)));
            let Member { stage, runtime, paper, dice, .. } = self;
            let step =
                pipeline.step(Duration::from_millis(100), |record| vec![make(stage, paper, dice, record)]);
            let done = match drops {
                None => Some(step.await),
                Some(after) => tokio::select! {
                    biased; // the step first: a result that is there is not thrown away
                    done = step => Some(done),
                    () = half_way(runtime, paper, after) => None,
                },
            };
            paper.settle(stage, done.as_ref());
            match done {
                Some(Ok(Step::Committed { .. } | Step::Idle)) => {}
                Some(Ok(Step::Aborted { .. })) => self.pause(20).await,
                None => self.stage.recorder.count("steps of pipelines dropped half way"),
                Some(Err(error)) if error.is_transient() => self.pause(50).await,
                Some(Err(error)) => {
                    self.stage.recorder.count(match error {
                        PipelineError::Txn(_) => "pipelines over by their transactions",
                        PipelineError::Config(_) | PipelineError::Group(_) => "pipelines over by their group",
                    });
                    return;
                }
            }
        }
    }
}

/// So long after the step has begun a transaction.
async fn half_way(runtime: &SimRuntime, paper: &Paper, after: Duration) {
    while paper.lock().open.is_none() {
        runtime.sleep(Duration::from_millis(2)).await;
    }
    runtime.sleep(after).await;
}

/// Makes the one output of an input, and writes down that it is on its way.
fn make(stage: &Stage, paper: &Paper, dice: &mut Dice, record: &ConsumedRecord) -> Record {
    let output = stage.plan.topics.last().expect("there are topics");
    let now = stage.world.now_ns();
    let mut notes = paper.lock();
    if notes.open.is_none() {
        if let Some(left) = notes.left.take() {
            notes.end(stage, &left, TxnAct::Abort, Told::Ok); // else the step would not have read on
        }
        notes.open = Some(Batch::default());
        notes.act(stage, TxnAct::Begin, Told::Ok, now);
    }
    let from = native::seen(record);
    let value = stage.recorder.fresh_value();
    let index = dice.below(output.partitions as u64) as i32;
    let length = dice.below(60) as usize;
    let content = [value.to_be_bytes().to_vec(), dice.bytes(length)].concat();
    notes.event(stage, Event::Derived { group: GROUP.into(), from: from.value, value });
    let no_headers: [(String, Option<Bytes>); 0] = [];
    let op = SendOp {
        process: notes.process,
        part: stage.recorder.part(&output.name, index),
        value,
        digest: producers::digest(None, &content, &no_headers),
        acks: Acks::All,
        idempotent: true,
        attempts: 1,
        begun: now,
        done: now,
        outcome: Outcome::Info, // its transaction says what becomes of it
    };
    notes.event(stage, Event::Send(op));
    let batch = notes.open.as_mut().expect("it was begun");
    batch.last = now;
    batch.read.entry((record.at.topic.to_string(), record.at.partition.0)).or_default().push(from);
    stage.recorder.count("records that pipelines made");
    Record::new(output.name.as_str(), content).partition(PartitionId(index))
}

fn inputs(stage: &Stage) -> &[super::TopicPlan] {
    stage.plan.topics.split_last().expect("there are topics").1
}

/// Reads the group's stable offsets again and again: they only grow.
async fn observe(stage: &Stage, runtime: &SimRuntime) {
    let reader = Reader { cluster: producers::cluster(stage, runtime.clone()) };
    let process = stage.recorder.fresh_process();
    let mut before = BTreeMap::new();
    loop {
        if let Some(now) = stable(stage, &reader, process).await {
            for (part, offset) in &before {
                let after = now.get(part).copied();
                if after.is_none_or(|after| after < *offset) {
                    let evidence =
                        format!("the stable offset of partition {part} was {offset}, and is {after:?} now");
                    stage.broker.blame(Broken { name: "GRP-3", evidence });
                }
            }
            before = now;
        }
        runtime.sleep(Duration::from_millis(150)).await;
    }
}

/// Where the group stands: the offsets of which no transaction is undecided.
async fn stable(stage: &Stage, reader: &Reader, process: u32) -> Option<BTreeMap<usize, i64>> {
    let runtime = reader.cluster.runtime().clone();
    let coordinator = Coordinator::new(reader.cluster.clone(), GROUP);
    let begun = stage.world.now_ns();
    let deadline = runtime.now().plus(Duration::from_secs(5));
    let kept = admin_groups::read(&reader.cluster, &coordinator, None, Isolation::ReadCommitted, deadline)
        .await
        .ok()?;
    let part = |topic: &str, index: i32| stage.recorder.part(topic, index);
    let now: BTreeMap<usize, i64> =
        kept.iter().map(|(at, kept)| (part(&at.topic, at.partition.0), kept.offset.0)).collect();
    let offsets = now.iter().map(|(part, offset)| (*part, Some(*offset))).collect();
    let op = GroupOp {
        process,
        group: GROUP.into(),
        generation: -1,
        act: GroupAct::Fetched { offsets },
        told: Told::Ok,
        begun,
        done: stage.world.now_ns(),
    };
    stage.recorder.event(runtime.who(), Event::Group(op));
    Some(now)
}

/// Waits until the group has passed everything that is committed, and nothing is undecided.
pub async fn finish(stage: &Stage) {
    if stage.plan.pipes.is_none() {
        return;
    }
    let runtime = stage.broker.machine(FIRST_MACHINE + 99);
    let reader = Reader { cluster: producers::cluster(stage, runtime.clone()) };
    let process = stage.recorder.fresh_process();
    while !is_at_the_end(stage, &reader, process).await {
        runtime.sleep(Duration::from_millis(200)).await;
    }
}

async fn is_at_the_end(stage: &Stage, reader: &Reader, process: u32) -> bool {
    let Some(offsets) = stable(stage, reader, process).await else { return false };
    for topic in inputs(stage) {
        let Some(id) = reader.topic_id(&topic.name).await else { return false };
        for index in 0..topic.partitions {
            let Some(end) = reader.list(&topic.name, index, -1).await else { return false };
            let mut at = offsets.get(&stage.recorder.part(&topic.name, index)).copied().unwrap_or(0);
            while at < end {
                match reader.committed(&topic.name, id, index, at, 20).await {
                    Fetched::Records { records, next } if records.is_empty() && next > at => at = next,
                    _ => return false,
                }
            }
        }
    }
    true
}
