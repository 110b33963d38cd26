//! A told story of transactions: a decision that only its coordinator has, and that the next one never hears of (TXN-6).
//!
//! Owns: the script, of a fleet that is large enough for the followers of the coordinator's log to be other brokers than the
//! leader of a partition that the transaction wrote to. Promises: the interleaving is brought about, or the run is stuck;
//! no marker is in any log before its decision is replicated, looked at every ten simulated milliseconds; what was never
//! decided is aborted everywhere when it has been open too long, its client is fenced, and the id's next life goes on.
//! Drawn: brokers, timeouts, records, how and when the coordinator ends, when it comes back.
//! Leaves out: faults by chance (`transactor`). Run by `scenarios::group_stories`.
//!
//! ```text
//!  C coordinates, F and F have copies of its log; P leads p, Q leads q       C ✂ F, F, Q; P hears C, and C hears it
//!
//!  write p, q ─ cut ─ commit? ─ C writes PrepareCommit, F and F do not have it ─ no answer ─ C ends, or hears nobody
//!       markers now: p is committed (M52) ┘                                                      │
//!  p and q aborted ◄── it has been open too long ◄── one of F leads, and knows of an open transaction
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dejaq::client::group::coordinator::Coordinator;
use dejaq::coordinator::home::{TRANSACTIONS_TOPIC, partition_of};
use dejaq::runtime::Runtime;
use dejaq_storage::model_disk::CrashMode;
use dejaq_wire::ids::{BrokerId, PartitionId};

use super::meetings::{begin, claim};
use super::rebalance::quiet;
use super::recorder::Recorder;
use super::telling::{Life, PATIENCE, born, put, soon, stuck, visible};
use super::{BrokerNode, DURABLE, Stage, Stop, producers, report};
use crate::invariants::Broken;
use crate::invariants::decisions::{self, Ending};
use crate::invariants::image as files;
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::runtime::SimRuntime;
use crate::world::{NOBODY, World};

const TOPIC: &str = "accounts";
const PARTITIONS: i32 = 12;
/// The machine of the first life of the client; the next life and the reader follow.
const CLIENT: u32 = 500;
/// How often the logs are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// How the coordinator ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    PowerCut,
    /// It lives, and hears no other broker.
    Isolate,
}

/// What the seed decides.
#[derive(Debug, Clone, Copy)]
struct Drawn {
    brokers: u32,
    latency: Duration,
    /// How long the transaction may be open.
    timeout: Duration,
    /// How many records each partition gets.
    records: u64,
    /// Whether a transaction was committed before.
    is_second: bool,
    /// How long the client waits for its commit.
    asks_for: Duration,
    /// How long its coordinator goes on then.
    lives_for: Duration,
    end: End,
    /// How long after another one leads it is back.
    away_for: Duration,
}

impl Drawn {
    fn of(dice: &mut Dice) -> Drawn {
        let ms = Duration::from_millis;
        Drawn {
            brokers: dice.between(5, 7) as u32,
            latency: Duration::from_micros(dice.log_between(200, 4000)),
            timeout: ms(dice.between(12_000, 20_000)),
            records: dice.between(1, 3),
            is_second: dice.chance(500),
            asks_for: ms(dice.between(300, 1500)),
            lives_for: ms(dice.log_between(1, 800)),
            end: *dice.pick(&[End::Kill, End::PowerCut, End::Isolate]),
            away_for: ms(dice.log_between(1, 5000)),
        }
    }
}

/// Runs it.
#[must_use]
pub fn undecided(params: &RunParams) -> RunReport {
    let ended = World::run(params.seed, params.trace.as_deref(), |world| async move {
        let mut dice = world.streams().dice("undecided", 0);
        let drawn = Drawn::of(&mut dice);
        let mut plan = quiet(&world, (TOPIC, PARTITIONS), DURABLE).fleet((drawn.brokers, 3), (3, 2));
        plan.latency = (drawn.latency, drawn.latency * 2);
        let plan = Arc::new(plan);
        let recorder = Recorder::new(&world, &plan);
        let stage = Stage::new(&world, plan, recorder, false);
        let outcome = play(&stage, drawn, &mut dice).await;
        report(&stage, outcome)
    });
    ended.unwrap_or_else(RunReport::crash)
}

async fn play(stage: &Stage, drawn: Drawn, dice: &mut Dice) -> Result<(), Stop> {
    begin(stage).await?;
    let runtime = stage.broker.machine(CLIENT);
    let cluster = producers::cluster(stage, runtime.clone());
    // Whoever asks first makes the home of transactional ids.
    let known = Coordinator::of_transactions(cluster, "anybody").versions(soon(&runtime)).await;
    known.map_err(|error| Stop::Stuck(format!("nobody coordinates transactions: {error}")))?;
    let scene = Scene { stage: stage.clone(), drawn, cast: cast(stage, dice).await? };
    stage.world.event(NOBODY, "cast", &[], || format!("{drawn:?}, {:?}", scene.cast));
    let god = scene.watch();
    let told = scene.play(&runtime).await;
    // What was found is the reason, also of a story that was stuck over it.
    match god.lock().expect("nothing panics in here").clone() {
        Some(broken) => Err(Stop::Broken(broken)),
        None => told,
    }
}

/// Who is who.
#[derive(Debug, Clone)]
struct Cast {
    /// The transactional id, and its home.
    id: String,
    home: PartitionId,
    coordinator: u32,
    /// Where the other copies of its log are.
    followers: Vec<u32>,
    /// The partition whose leader hears the coordinator, and the one whose leader does not.
    p: i32,
    q: i32,
    /// Who leads `q`.
    deaf: u32,
}

/// Waits until all partitions have their replicas in sync, and finds an id and two partitions for the story.
async fn cast(stage: &Stage, dice: &mut Dice) -> Result<Cast, Stop> {
    let end = stage.world.now_ns() + PATIENCE.as_nanos() as u64;
    loop {
        let found = casts(stage);
        if !found.is_empty() {
            return Ok(dice.pick(&found).clone());
        }
        if stage.world.now_ns() >= end {
            return Err(Stop::Stuck(
                "no coordinator, and no leader beside its followers, for the story".into(),
            ));
        }
        stage.world.sleep(Duration::from_millis(100)).await;
    }
}

fn casts(stage: &Stage) -> Vec<Cast> {
    let mut found = Vec::new();
    let Some(image) = stage.brokers.iter().filter_map(BrokerNode::image).max_by_key(|image| image.end())
    else {
        return found;
    };
    let topics = image.topic_named(TRANSACTIONS_TOPIC).zip(image.topic_named(TOPIC));
    let Some((homes, accounts)) = topics else { return found };
    let all = || homes.partitions.iter().chain(accounts.partitions.iter());
    if all().any(|one| !one.leader.is_valid() || one.isr.len() < one.replicas.len()) {
        return found;
    }
    let leader = |index: i32| accounts.partition(PartitionId(index)).map_or(0, |one| one.leader.0 as u32);
    for number in 0..16 {
        let id = format!("ledger-{number}");
        let home = partition_of(&id, homes.partitions.len());
        let Some(at) = homes.partition(home) else { continue };
        let coordinator = at.leader.0 as u32;
        let followers: Vec<u32> =
            at.replicas.iter().map(|one| one.0 as u32).filter(|one| *one != coordinator).collect();
        let is_near = |leader: u32| leader != coordinator && !followers.contains(&leader);
        for p in (0..PARTITIONS).filter(|p| is_near(leader(*p))) {
            for q in (0..PARTITIONS).filter(|q| leader(*q) != leader(p) && leader(*q) != coordinator) {
                let (id, followers) = (id.clone(), followers.clone());
                found.push(Cast { id, home, coordinator, followers, p, q, deaf: leader(q) });
            }
        }
    }
    found
}

struct Scene {
    stage: Stage,
    drawn: Drawn,
    cast: Cast,
}

impl Scene {
    /// The partition of the transaction log: leader, leader epoch and folder, by the newest metadata.
    fn home(&self) -> Option<(u32, i32, String)> {
        let images = self.stage.brokers.iter().filter_map(BrokerNode::image);
        let image = images.max_by_key(|image| image.end())?;
        let topic = image.topic_named(TRANSACTIONS_TOPIC)?;
        let at = topic.partition(self.cast.home)?;
        let leader = Some(at.leader).filter(|leader| *leader != BrokerId::NONE)?;
        Some((leader.0 as u32, at.leader_epoch.0, files::folder(topic.id.0, self.cast.home.0)))
    }

    fn node(&self, node: u32) -> &BrokerNode {
        self.stage.brokers.iter().find(|broker| broker.node() == node).expect("a member of the fleet")
    }

    /// Looks at the logs of all brokers until the story ends; what is found first counts.
    fn watch(&self) -> Arc<Mutex<Option<Broken>>> {
        let found = Arc::new(Mutex::new(None));
        let (told, stage) = (found.clone(), self.stage.clone());
        let home = self.home().map(|(_, _, folder)| folder);
        let places = [self.cast.p, self.cast.q].map(|index| self.stage.recorder.folder_of(TOPIC, index));
        self.stage.broker.aside(async move {
            let mut watermark = 0;
            loop {
                if let Some(home) = &home
                    && let Some(broken) = look(&stage, home, &places, &mut watermark)
                {
                    stage.world.event(NOBODY, "broken", &[], || format!("{broken:?}"));
                    *told.lock().expect("nothing panics in here") = Some(broken);
                    return;
                }
                stage.world.sleep(LOOK).await;
            }
        });
        found
    }

    fn cut(&self, one: u32, others: impl IntoIterator<Item = u32>) {
        for other in others.into_iter().filter(|other| *other != one) {
            self.stage.world.network().set_cut(one, other, true);
            self.stage.world.network().set_cut(other, one, true);
        }
    }

    async fn play(&self, runtime: &SimRuntime) -> Result<(), Stop> {
        let mut first = self.born(runtime).await?;
        let mut committed = 0;
        if self.drawn.is_second {
            committed = self.write(&mut first, runtime, 0).await?;
            first.commit(soon(runtime)).await.map_err(stuck("a commit that nothing hinders"))?;
        }
        let written = self.write(&mut first, runtime, committed).await?;
        let (producer, epoch) = first.identity_now().ok_or_else(|| Stop::Stuck("nobody".into()))?;
        // The client takes the next epoch with its commit.
        let decision = Ending { producer: producer.0, epoch: i64::from(epoch.0) + 1, commit: true };
        self.commit_alone(&mut first, runtime, decision).await?;
        self.succeed().await?;
        let seen = self.decided().await?;
        let before: Vec<u64> = (0..committed).collect();
        let (all, part) = (seen.len() == written as usize, seen != before);
        claim("TXN-1", !part || all, || {
            format!("{committed} records are committed, {written} written, and readers see {seen:?}")
        })?;
        claim("TXN-6", !part, || {
            "readers see what only one log had decided, and its coordinator is not that any more".into()
        })?;
        let late = first.commit(soon(runtime)).await;
        claim("TXN-8", late.is_err(), || "who was open too long commits after all".into())?;
        self.stage.recorder.count("transactions aborted that one log alone had decided");
        self.next_life(written, committed).await
    }

    async fn born(&self, runtime: &SimRuntime) -> Result<Life, Stop> {
        let cluster = producers::cluster(&self.stage, runtime.clone());
        born(cluster, &self.cast.id, self.drawn.timeout).await
    }

    /// Begins a transaction and writes values from `next` on into both partitions, acknowledged; the value behind them.
    async fn write(&self, life: &mut Life, runtime: &SimRuntime, next: u64) -> Result<u64, Stop> {
        life.begin().map_err(stuck("a transaction"))?;
        let mut value = next;
        for index in [self.cast.p, self.cast.q] {
            for _ in 0..self.drawn.records {
                put(life, runtime, (TOPIC, index), value).await?;
                value += 1;
            }
        }
        Ok(value)
    }

    /// The client asks for its commit when nobody who has a copy of the coordinator's log hears it.
    async fn commit_alone(
        &self,
        life: &mut Life,
        runtime: &SimRuntime,
        decision: Ending,
    ) -> Result<(), Stop> {
        let Cast { coordinator, followers, deaf, .. } = &self.cast;
        let (leader, _, folder) = self.home().ok_or_else(|| Stop::Stuck("the log has no leader".into()))?;
        if leader != *coordinator {
            return Err(Stop::Stuck("another coordinator came too early".into()));
        }
        self.cut(*coordinator, followers.iter().copied().chain([*deaf]));
        let told = life.commit(runtime.now().plus(self.drawn.asks_for)).await;
        claim("TXN-6", told.is_err(), || {
            "a commit is answered, and nobody but its coordinator has the decision".into()
        })?;
        let has = |node: u32| {
            let files = self.node(node).device().platter.files_in(&format!("partitions/{folder}"), false);
            decisions::decisions(&files, i64::MAX).contains(&decision)
        };
        let holders: Vec<u32> =
            self.stage.brokers.iter().map(BrokerNode::node).filter(|one| has(*one)).collect();
        if holders != [*coordinator] {
            return Err(Stop::Stuck(format!("{holders:?} have the decision, not {coordinator} alone")));
        }
        self.stage.recorder.count("decisions that one log alone had");
        self.stage.world.sleep(self.drawn.lives_for).await;
        Ok(())
    }

    /// The coordinator ends, another one leads, and the old one comes back.
    async fn succeed(&self) -> Result<(), Stop> {
        let old = self.cast.coordinator;
        let (_, epoch, folder) = self.home().ok_or_else(|| Stop::Stuck("the log has no leader".into()))?;
        match self.drawn.end {
            End::Kill => self.node(old).kill(),
            End::PowerCut => self.node(old).power_cut(CrashMode::Keep),
            End::Isolate => self.cut(old, self.stage.brokers.iter().map(BrokerNode::node)),
        }
        let end = self.stage.world.now_ns() + PATIENCE.as_nanos() as u64;
        // Its process must lead, too: before it does it may still take in what the old one sent in time.
        let leads = |broker: &BrokerNode| {
            let it = broker.believes().into_iter().find(|sight| sight.folder == folder);
            it.is_some_and(|sight| sight.leads && sight.epoch > epoch)
        };
        while !self.stage.brokers.iter().any(leads) {
            if self.stage.world.now_ns() >= end {
                return Err(Stop::Stuck("no other coordinator came".into()));
            }
            self.stage.world.sleep(LOOK).await;
        }
        self.stage.recorder.count(format!("coordinators that another one followed: {:?}", self.drawn.end));
        self.stage.world.sleep(self.drawn.away_for).await;
        self.stage.world.network().heal();
        self.node(old).begin_start();
        Ok(())
    }

    /// What readers of committed records see when everything is decided.
    async fn decided(&self) -> Result<Vec<u64>, Stop> {
        let places = (TOPIC, &[self.cast.p, self.cast.q][..]);
        visible(&self.stage, CLIENT + 2, places, self.drawn.timeout + PATIENCE).await
    }

    /// The id goes on: its next transaction is there, whole, and of the last one still nothing.
    async fn next_life(&self, written: u64, committed: u64) -> Result<(), Stop> {
        let runtime = self.stage.broker.machine(CLIENT + 1);
        let mut life = self.born(&runtime).await?;
        let end = self.write(&mut life, &runtime, written).await?;
        life.commit(soon(&runtime)).await.map_err(stuck("the commit of the next life"))?;
        let seen = self.decided().await?;
        let wanted: Vec<u64> = (0..committed).chain(written..end).collect();
        claim("TXN-1", seen == wanted, || format!("readers see {seen:?}, committed is {wanted:?}"))
    }
}

/// TXN-5 and TXN-6 of the two partitions, by all disks; `watermark` is the highest that the transaction log was seen to have.
fn look(stage: &Stage, home: &str, places: &[Option<String>; 2], watermark: &mut i64) -> Option<Broken> {
    let sights = stage.brokers.iter().flat_map(BrokerNode::sights).flat_map(|(_, sights)| sights);
    *watermark =
        sights.filter(|sight| sight.folder == home).map(|sight| sight.watermark).fold(*watermark, i64::max);
    let files = |node: &BrokerNode, folder: &str| {
        node.device().platter.files_in(&format!("partitions/{folder}"), false)
    };
    let mut seen: BTreeMap<String, Ending> = BTreeMap::new();
    for (node, folder) in
        stage.brokers.iter().flat_map(|node| places.iter().flatten().map(move |at| (node, at)))
    {
        for (offset, ending) in decisions::markers(&files(node, folder)) {
            seen.insert(format!("broker {}, {folder} at {offset}", node.node()), ending);
        }
    }
    let decided =
        stage.brokers.iter().flat_map(|node| decisions::decisions(&files(node, home), *watermark)).collect();
    decisions::check(&seen.into_iter().collect::<Vec<_>>(), &decided)
}
