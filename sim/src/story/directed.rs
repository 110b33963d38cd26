//! A directed story: one partition, one producer, fixed latencies, scripted faults, and a timeline that a person can read.
//!
//! Owns: the [`Scene`] that a script acts on, and its lines. Promises: a line is written when the script does something, when
//! a send is settled, and when what is written or durable has moved (looked at ten times a simulated millisecond); the
//! calm act and the judgement are those of every story. Leaves out: what happens (the script's).
//!
//! ```text
//!        ms  broker   start  durable    end
//!      34.1  up 1         0        1      2  B is written
//! ```
//! `broker`: up or down, and how often it was started. `start`, `end`: the offsets that the process has on disk;
//! `durable`: the end of what a power cut at this moment would leave for certain.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dejaq::client::producer::{Acks, Producer, Record};
use dejaq::runtime::Runtime;
use dejaq_storage::model_disk::{CrashMode, Op, Platter};
use dejaq_wire::ids::PartitionId;
use dejaq_wire::record::Compression;

use super::drain::MACHINE as READER;
use super::reader::{Fetched, Reader};
use super::recorder::Recorder;
use super::{DURABLE, Plan, ProducerPlan, Stage, Stop, TopicPlan, calm, producers, report};
use crate::disk::Speed;
use crate::invariants::image::Logs;
use crate::invariants::recovery::promised;
use crate::oracle::{self, Event, Outcome, SendOp};
use crate::runner::{RunParams, RunReport};
use crate::runtime::SimRuntime;
use crate::world::{NOBODY, World};

/// The topic of every directed story.
const TOPIC: &str = "orders";
/// The machine of its producer.
const PRODUCER: u32 = 100;
/// How often the disk is looked at.
const LOOK: Duration = Duration::from_micros(100);

/// What a script acts on. Cheap to clone.
#[derive(Clone)]
pub struct Scene(Arc<Inner>);

struct Inner {
    stage: Stage,
    runtime: SimRuntime,
    producer: Arc<Producer<SimRuntime>>,
    process: u32,
    lines: Mutex<String>,
    seen: Mutex<State>,
    under_way: AtomicUsize,
    starts: AtomicUsize,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
struct State {
    start: i64,
    durable: i64,
    end: i64,
}

/// Runs a script on a fresh broker, then the calm act; returns the report and the timeline.
#[must_use]
pub fn direct<F>(
    params: &RunParams,
    shape: impl FnOnce(&mut Plan),
    script: impl FnOnce(Scene) -> F,
) -> (RunReport, String)
where
    F: Future<Output = ()>,
{
    let ended = World::run(params.seed, params.trace.as_deref(), |world| async move {
        let mut plan = plan(&world);
        shape(&mut plan);
        let plan = Arc::new(plan);
        let recorder = Recorder::new(&world, &plan);
        let stage = Stage::new(&world, plan, recorder, params.tester == 1);
        let (outcome, timeline) = play(&stage, script).await;
        (report(&stage, outcome), timeline)
    });
    ended.unwrap_or_else(|panic| (RunReport::crash(panic), String::new()))
}

fn plan(world: &World) -> Plan {
    let mut plan = Plan::drawn(&mut world.streams().dice("plan", 0)).with_durability(DURABLE);
    let ms = Duration::from_millis;
    let drawn = &plan.topics[0].configs;
    let mut configs = drawn.clone();
    configs.insert("internal.segment.bytes".into(), (1 << 20).to_string());
    configs.insert("index.interval.bytes".into(), "4096".into());
    plan.config = dejaq::config::Config {
        admin_listen: String::new(),
        listen: plan.config.listen.clone(),
        min_free_bytes: 0,
        ..dejaq::config::Config::default()
    };
    plan.topics = vec![TopicPlan {
        name: TOPIC.into(),
        partitions: 1,
        configs,
        durable: true,
        trims: true,
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

async fn play<F>(stage: &Stage, script: impl FnOnce(Scene) -> F) -> (Result<(), Stop>, String)
where
    F: Future<Output = ()>,
{
    stage.broker.start().await;
    producers::create_topics(stage).await;
    let runtime = stage.broker.machine(PRODUCER);
    let wanted = ProducerPlan {
        acks: Acks::All,
        idempotent: true,
        compression: Compression::None,
        records: 0,
        think: Duration::ZERO,
        window: 1,
        value_bytes: 0,
        linger: Duration::ZERO,
    };
    let config = producers::config(&wanted);
    let producer =
        Producer::start(producers::cluster(stage, runtime.clone()), config).expect("the settings are valid");
    let scene = Scene(Arc::new(Inner {
        stage: stage.clone(),
        producer: Arc::new(producer),
        process: stage.recorder.fresh_process(),
        lines: Mutex::default(),
        seen: Mutex::default(),
        under_way: AtomicUsize::new(0),
        starts: AtomicUsize::new(1),
        runtime,
    }));
    scene.head();
    let watched = scene.clone();
    scene.0.runtime.spawn("watch", async move { watched.watch().await });
    script(scene.clone()).await;
    scene.settle().await;
    scene.read().await;
    let outcome = calm(stage, &super::edges::Asked::default()).await;
    let timeline = scene.0.lines.lock().expect("nothing panics while lines are written").clone();
    (outcome, timeline)
}

impl Scene {
    fn head(&self) {
        let head = format!("{:>9}  {:<6} {:>6} {:>8} {:>6}", "ms", "broker", "start", "durable", "end");
        self.lines().push_str(&(head + "\n"));
        self.say("orders-0 exists: acks=all, durability=durable, syncs take 4 ms, the network 1 ms");
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, String> {
        self.0.lines.lock().expect("nothing panics while lines are written")
    }

    /// Writes a line.
    pub fn say(&self, text: &str) {
        let now = self.0.stage.world.now_ns() / 100_000;
        let State { start, durable, end } = self.state();
        let up = if self.0.stage.broker.runs() { "up" } else { "down" };
        let starts = self.0.starts.load(Ordering::Relaxed);
        let (ms, tenth) = (now / 10, now % 10);
        let broker = format!("{up} {starts}");
        let line = format!("{ms:>7}.{tenth}  {broker:<6} {start:>6} {durable:>8} {end:>6}  {text}");
        self.0.stage.world.event(NOBODY, "tell", &[], || text.to_owned());
        let _infallible = writeln!(self.lines(), "{line}");
    }

    /// The device, for faults.
    #[must_use]
    pub fn platter(&self) -> Platter {
        self.0.stage.broker.device().platter
    }

    fn state(&self) -> State {
        let platter = self.platter();
        let of_topic = |logs: &Logs| {
            let folder = self.0.stage.recorder.folder_of(TOPIC, 0)?;
            logs.0.get(&folder).cloned().filter(|log| !log.is_empty())
        };
        let volatile = Logs::of(&platter.files());
        let durable = promised(&Logs::of(&platter.durable_files()), &volatile);
        let end = |logs: &Logs| of_topic(logs).and_then(|log| Some(log.last()?.last + 1));
        let start = of_topic(&volatile).map_or(0, |log| log[0].base);
        State { start, durable: end(&durable).unwrap_or(start), end: end(&volatile).unwrap_or(start) }
    }

    /// Tells when what is written or durable has moved.
    async fn watch(&self) {
        let mut counted = [0; 3];
        *self.0.seen.lock().expect("nothing panics in here") = self.state();
        loop {
            self.0.stage.world.sleep(LOOK).await;
            let platter = self.platter();
            let now = [Op::Write, Op::Sync, Op::SyncDir].map(|op| platter.counter(op).done);
            if now != counted && self.0.stage.broker.runs() {
                counted = now;
                self.tell_moves();
            }
        }
    }

    fn tell_moves(&self) {
        let now = self.state();
        let before = std::mem::replace(&mut *self.0.seen.lock().expect("nothing panics in here"), now);
        if now.end > before.end {
            self.say(&format!("{} written", span(before.end, now.end)));
        }
        if now.durable > before.durable {
            self.say(&format!("{} durable", span(before.durable, now.durable)));
        }
    }

    /// Lets time pass.
    pub async fn wait(&self, ms: u64) {
        self.0.stage.world.sleep(Duration::from_millis(ms)).await;
    }

    /// Waits until the log ends at `end` for the process, synced or not.
    pub async fn until_written(&self, end: i64) {
        while self.state().end < end {
            self.0.stage.world.sleep(LOOK).await;
        }
    }

    /// Sends a record of about `bytes` bytes, named by the next letter; the timeline tells when it is settled.
    pub async fn send(&self, bytes: usize) {
        let number = self.0.stage.recorder.fresh_value();
        let name = letter(number);
        let value = [number.to_be_bytes().to_vec(), vec![b'.'; bytes]].concat();
        let record = Record::new(TOPIC, value.clone()).partition(PartitionId(0));
        let op = SendOp {
            process: self.0.process,
            part: self.0.stage.recorder.part(TOPIC, 0),
            value: number,
            digest: producers::digest(None, &value, &[]),
            acks: oracle::Acks::All,
            idempotent: true,
            attempts: 0,
            begun: self.0.stage.world.now_ns(),
            done: 0,
            outcome: Outcome::Info,
        };
        self.say(&format!("{name} is sent"));
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        let delivery = self.0.producer.send(record).await;
        let scene = self.clone();
        self.0.runtime.spawn("send", async move {
            let outcome = match delivery {
                Ok(delivery) => delivery.wait().await,
                Err(error) => Err(error),
            };
            let text = match &outcome {
                Ok(stored) => {
                    let offset = stored
                        .offset
                        .map_or_else(|| "an unknown offset".into(), |o| format!("offset {}", o.0));
                    let attempts = if stored.attempts > 1 { " (sent again meanwhile)" } else { "" };
                    format!("{name} is acknowledged at {offset}{attempts}")
                }
                Err(error) => format!("{name} failed: {error}"),
            };
            scene.say(&text);
            producers::settle(&scene.0.stage, scene.0.runtime.who(), op, outcome, &AtomicUsize::new(0));
            scene.0.under_way.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Waits until every send is settled.
    pub async fn settle(&self) {
        while self.0.under_way.load(Ordering::Relaxed) > 0 {
            self.wait(1).await;
        }
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.0.stage.broker.kill();
        self.say("the process is killed");
    }

    /// The power fails.
    pub fn power_cut(&self, mode: CrashMode) {
        self.0.stage.broker.power_cut(mode);
        self.say("the power fails");
    }

    /// Starts the broker and waits until it serves.
    pub async fn start(&self) {
        self.0.starts.fetch_add(1, Ordering::Relaxed);
        let started = self.0.stage.broker.try_start().await;
        *self.0.seen.lock().expect("nothing panics in here") = self.state();
        match started {
            Ok(()) => self.say("the broker serves"),
            Err(why) => self.say(&format!("the broker does not start: {why}")),
        }
    }

    /// DeleteRecords below `offset`.
    pub async fn trim(&self, offset: i64) {
        self.say(&format!("DeleteRecords below {offset} is asked for"));
        let answered = producers::trim_to(&self.0.stage, TOPIC, 0, offset).await;
        self.say(if answered { "it is answered" } else { "no answer came" });
    }

    /// Reads the partition from its start to its end.
    pub async fn read(&self) {
        let runtime = self.0.stage.broker.machine(READER);
        let reader = Reader { cluster: producers::cluster(&self.0.stage, runtime) };
        let Some(id) = reader.topic_id(TOPIC).await else { return self.say("nobody tells of the topic") };
        let (start, end) = (reader.list(TOPIC, 0, -2).await, reader.list(TOPIC, 0, -1).await);
        let (Some(start), Some(end)) = (start, end) else {
            return self.say("nobody tells where it begins and ends");
        };
        let (mut at, mut found) = (start, String::new());
        while at < end {
            match reader.fetch(TOPIC, id, 0, at, 100).await {
                Fetched::Records { records, next } => {
                    for record in &records {
                        let _infallible = write!(found, " {}@{}", letter(record.value), record.offset);
                    }
                    at = next;
                }
                other => return self.say(&format!("a reader at {at} gets {other:?}")),
            }
        }
        self.say(&format!("a reader finds [{start}, {end}):{found}"));
    }

    /// Writes down that the log start may move: for a script that asks by other ways than [`Scene::trim`].
    pub fn lets_go(&self, to: i64) {
        let part = self.0.stage.recorder.part(TOPIC, 0);
        self.0.stage.recorder.event(NOBODY, Event::Trimmed { part, to });
    }
}

fn letter(number: u64) -> char {
    char::from_u32('A' as u32 + (number.saturating_sub(1) % 26) as u32).expect("a letter")
}

/// In words, the offsets `[from, end)`.
fn span(from: i64, end: i64) -> String {
    if end - from == 1 { format!("offset {from} is") } else { format!("offsets {from} to {} are", end - 1) }
}
