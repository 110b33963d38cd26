//! A consumer group in a story: members that hang, die and come back, and an observer of their offsets.
//!
//! Owns: what the group was handed, who says that it owns what, how far the offsets are. Promises, each a finding:
//! - GRP-3: an offset that was read once is never smaller later, nor gone;
//! - GRP-5 (commit after): when the group is at the end, every record was handed out at least once;
//! - ONCE (commit before): no record is handed out twice;
//! - GRP-11: in the calm act the group settles: each partition has one owner, and the offsets reach the end.
//!
//! GRP-3 presumes that no commit is under way that its sender gave up: faults of the network and pauses of a broker are
//! not for these stories, since a request on a connection that its client left may be answered late. Called by the story.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dejaq::client::admin::{Admin, ConfigChange, ConfigOwner};
use dejaq::client::admin_groups::committed;
use dejaq::client::cluster::Cluster;
use dejaq::client::consumer::{ConsumedRecord, ConsumerConfig, StartAt};
use dejaq::client::group::coordinator::Coordinator;
use dejaq::client::group::{Assignor, Delivery, GroupConfig, GroupConsumer, Protocol};
use dejaq::client::offsets::{self, OffsetSpec};
use dejaq::client::producer::core::TopicPartition;
use dejaq::runtime::Runtime;
use dejaq_wire::ids::PartitionId;

use super::{Stage, producers};
use crate::invariants::Broken;
use crate::rng::Dice;
use crate::runtime::SimRuntime;

/// The machine of the observer; the members follow.
const FIRST_MACHINE: u32 = 500;
const OFFSETS_TOPIC: &str = "__consumer_offsets";
const GROUP: &str = "the-group";
/// The shortest that a broker allows.
const SESSION: Duration = Duration::from_secs(6);

/// By which protocol members are members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// The classic one.
    Classic,
    /// The new one (KIP-848).
    New,
    /// Each member draws one with each of its lives: the group goes from one to the other and back while it lives.
    Both,
}

/// A group.
#[derive(Debug, Clone, Copy)]
pub struct GroupPlan {
    /// How many members.
    pub members: usize,
    /// Whether they commit before they look.
    pub at_most_once: bool,
    /// Whether the log of their offsets is compacted all the time.
    pub compacts: bool,
    /// By which protocol they are members.
    pub speaks: Speaks,
    /// Whether they are static: each comes back as who it was.
    pub statics: bool,
}

type Place = (String, i32);

/// What was seen of the group. Clones are the same.
#[derive(Clone, Default)]
pub struct Watched(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// How often each record was handed out.
    handed: BTreeMap<Place, BTreeMap<i64, u32>>,
    /// What each member that lives says that it owns.
    owned: BTreeMap<usize, BTreeSet<Place>>,
    /// The largest offset that the observer read.
    offsets: BTreeMap<Place, i64>,
    /// When a member was last gone, and how, if the others do not have everything since.
    gone: Option<(u64, &'static str)>,
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it is locked")
    }
}

fn place(at: &TopicPartition) -> Place {
    (at.topic.to_string(), at.partition.0)
}

/// Starts the plan's group, each member and the observer on a machine of its own.
pub fn start(stage: &Stage) {
    let Some(plan) = stage.plan.group else { return };
    let mut dice = stage.world.streams().dice("group", 0);
    let assignor = *dice.pick(&[Assignor::Range, Assignor::RoundRobin, Assignor::CooperativeSticky]);
    for number in 0..plan.members {
        let stage = stage.clone();
        let machine = FIRST_MACHINE + 1 + u32::try_from(number).expect("few members");
        stage.clone().broker.client(machine, move |runtime| async move {
            let dice = stage.world.streams().dice("member", number as u64);
            Member { stage, runtime, dice, number, plan, assignor }.run().await;
        });
    }
    let stage = stage.clone();
    stage.clone().broker.client(FIRST_MACHINE, move |runtime| async move {
        if plan.compacts {
            squeeze(&stage, &runtime).await;
        }
        observe(&stage, &runtime).await;
    });
}

/// Makes the log of the offsets, once there is one, roll and be compacted all the time.
pub(super) async fn squeeze(stage: &Stage, runtime: &SimRuntime) {
    let admin = Admin::new(producers::cluster(stage, runtime.clone()));
    let owner = ConfigOwner::Topic(OFFSETS_TOPIC.to_owned());
    let set = |(name, value): (&str, &str)| (name.to_owned(), ConfigChange::Set(value.to_owned()));
    let small = [
        ("internal.segment.bytes", "1024"),
        ("segment.ms", "500"),
        ("min.cleanable.dirty.ratio", "0"),
        ("delete.retention.ms", "100"),
    ];
    let changes: BTreeMap<String, ConfigChange> = small.into_iter().map(set).collect();
    loop {
        let deadline = runtime.now().plus(Duration::from_secs(5));
        if admin.alter_configs(&owner, &changes, deadline).await.is_ok() {
            break;
        }
        runtime.sleep(Duration::from_millis(200)).await;
    }
    stage.recorder.count("offsets topics that are compacted all the time");
}

struct Member {
    stage: Stage,
    runtime: SimRuntime,
    dice: Dice,
    number: usize,
    plan: GroupPlan,
    assignor: Assignor,
}

impl Member {
    async fn run(mut self) {
        loop {
            let mut consumer = self.born();
            self.live(&mut consumer).await;
            let leaves = self.dice.chance(300);
            let how = if leaves { "a member left to all owned" } else { "a member died to all owned" };
            {
                let mut state = self.stage.group.lock();
                state.owned.remove(&self.number);
                state.gone = Some((self.stage.world.now_ns(), how));
            }
            if leaves {
                let deadline = self.runtime.now().plus(Duration::from_secs(5));
                let _late = consumer.close(deadline).await;
                self.stage.recorder.count("members left");
            } else {
                drop(consumer);
                self.stage.recorder.count("members died");
            }
            let pause = self.dice.log_between(1, 3000);
            self.runtime.sleep(Duration::from_millis(pause)).await;
        }
    }

    fn born(&mut self) -> GroupConsumer<SimRuntime> {
        let every = Duration::from_millis(*self.dice.pick(&[0, 0, 500]));
        let protocol = match self.plan.speaks {
            Speaks::Classic => Protocol::Classic,
            Speaks::New => Protocol::Consumer,
            Speaks::Both => *self.dice.pick(&[Protocol::Classic, Protocol::Consumer]),
        };
        let config = GroupConfig {
            protocol,
            session_timeout: SESSION,
            heartbeat_every: Duration::from_secs(1),
            rebalance_timeout: Duration::from_secs(10),
            assignors: vec![self.assignor],
            delivery: if self.plan.at_most_once {
                Delivery::AtMostOnce
            } else {
                Delivery::AtLeastOnce { every }
            },
            start: Some(StartAt::Beginning),
            instance: self.plan.statics.then(|| format!("instance-{}", self.number)),
            consumer: ConsumerConfig {
                max_wait: Duration::from_millis(100),
                max_poll_records: self.dice.log_between(1, 300) as usize,
                ..ConsumerConfig::default()
            },
            ..GroupConfig::of(GROUP)
        };
        let topics: Vec<&str> = self.stage.plan.topics.iter().map(|topic| topic.name.as_str()).collect();
        let cluster = producers::cluster(&self.stage, self.runtime.clone());
        GroupConsumer::subscribe(cluster, config, &topics, |_| {})
    }

    /// Reads until it is to die; in the calm act nobody dies.
    async fn live(&mut self, consumer: &mut GroupConsumer<SimRuntime>) {
        let dies = self.runtime.now().plus(Duration::from_millis(self.dice.log_between(500, 20_000)));
        loop {
            match consumer.poll(Duration::from_millis(100)).await {
                Ok(records) => self.note(&records),
                Err(_) => {
                    self.stage.recorder.count("polls of members failed");
                    self.runtime.sleep(Duration::from_millis(50)).await;
                }
            }
            let owned = consumer.assignment().map(place).collect();
            self.owns(owned);
            if self.stage.recorder.is_calm() {
                continue;
            }
            if self.runtime.now() >= dies {
                return;
            }
            if self.dice.chance(15) {
                self.hang(consumer).await;
            }
            let think = self.dice.log_between(1, 30);
            self.runtime.sleep(Duration::from_millis(think)).await;
        }
    }

    /// Notes what it says that it owns; if all is owned again since a member was gone, how long that took.
    fn owns(&self, owned: BTreeSet<Place>) {
        let mut state = self.stage.group.lock();
        state.owned.insert(self.number, owned);
        let Some((since, how)) = state.gone else { return };
        let count: usize = state.owned.values().map(BTreeSet::len).sum();
        let distinct: BTreeSet<&Place> = state.owned.values().flatten().collect();
        let wanted: i32 = self.stage.plan.topics.iter().map(|topic| topic.partitions).sum();
        if count == distinct.len() && count == wanted as usize {
            state.gone = None;
            self.stage.recorder.took(how, (self.stage.world.now_ns() - since) / 1_000_000);
        }
    }

    /// Stands still, perhaps until its session is over, and then commits what it did before: a zombie.
    async fn hang(&mut self, consumer: &mut GroupConsumer<SimRuntime>) {
        self.stage.recorder.count("members hung");
        let while_ms = self.dice.between(1_000, 12_000);
        self.runtime.sleep(Duration::from_millis(while_ms)).await;
        if !self.plan.at_most_once {
            let deadline = self.runtime.now().plus(Duration::from_secs(2));
            if consumer.commit(deadline).await.is_err() {
                self.stage.recorder.count("commits refused or lost");
            }
        }
    }

    fn note(&self, records: &[ConsumedRecord]) {
        let mut twice = None;
        let mut state = self.stage.group.lock();
        for record in records {
            self.stage.recorder.count("records handed to the group");
            let times =
                state.handed.entry(place(&record.at)).or_default().entry(record.offset.0).or_default();
            *times += 1;
            if *times > 1 {
                twice = Some(format!(
                    "{:?} at {} was handed out {times} times",
                    place(&record.at),
                    record.offset
                ));
            }
        }
        drop(state);
        if let Some(evidence) = twice.filter(|_| self.plan.at_most_once) {
            self.stage.broker.blame(Broken { name: "ONCE", evidence });
        }
    }
}

/// Reads the group's offsets again and again: they only grow.
async fn observe(stage: &Stage, runtime: &SimRuntime) {
    let cluster = producers::cluster(stage, runtime.clone());
    let coordinator = Coordinator::new(cluster.clone(), GROUP);
    loop {
        let deadline = runtime.now().plus(Duration::from_secs(5));
        if let Ok(now) = committed(&cluster, &coordinator, None, deadline).await {
            let now: BTreeMap<Place, i64> = now.iter().map(|(at, kept)| (place(at), kept.offset.0)).collect();
            let before = std::mem::replace(&mut stage.group.lock().offsets, now.clone());
            for (at, offset) in before {
                let after = now.get(&at).copied();
                if after.is_none_or(|after| after < offset) {
                    let evidence = format!("the offset of {at:?} was {offset}, and is {after:?} now");
                    stage.broker.blame(Broken { name: "GRP-3", evidence });
                }
            }
        }
        runtime.sleep(Duration::from_millis(150)).await;
    }
}

/// Waits until the group is settled and at the end, then judges what it was handed.
pub async fn finish(stage: &Stage) {
    let Some(plan) = stage.plan.group else { return };
    let runtime = stage.broker.machine(FIRST_MACHINE + 99);
    let cluster = producers::cluster(stage, runtime.clone());
    let ends = loop {
        if let Some(ends) = ends(stage, &cluster, &runtime).await
            && is_settled(stage, &ends)
        {
            break ends;
        }
        runtime.sleep(Duration::from_millis(200)).await;
    };
    if plan.at_most_once {
        return;
    }
    let state = stage.group.lock();
    for (at, end) in ends {
        let handed = state.handed.get(&at);
        let missing = (0..end).find(|offset| handed.is_none_or(|handed| !handed.contains_key(offset)));
        if let Some(offset) = missing {
            let evidence = format!("{at:?} at {offset} was never handed out, and the group is at {end}");
            stage.broker.blame(Broken { name: "GRP-5", evidence });
        }
    }
}

async fn ends(
    stage: &Stage,
    cluster: &Cluster<SimRuntime>,
    runtime: &SimRuntime,
) -> Option<BTreeMap<Place, i64>> {
    let of = |topic: &super::TopicPlan| {
        let name: Arc<str> = topic.name.as_str().into();
        (0..topic.partitions)
            .map(move |index| TopicPartition { topic: name.clone(), partition: PartitionId(index) })
    };
    let wanted = stage.plan.topics.iter().flat_map(of).map(|at| (at, OffsetSpec::Latest)).collect();
    let found = offsets::find(cluster, &wanted, runtime.now().plus(Duration::from_secs(5))).await.ok()?;
    found.iter().map(|(at, found)| Some((place(at), found.offset?.0))).collect()
}

/// Each partition has one owner, and the offsets are at the ends.
fn is_settled(stage: &Stage, ends: &BTreeMap<Place, i64>) -> bool {
    let state = stage.group.lock();
    let mut owned: Vec<&Place> = state.owned.values().flatten().collect();
    owned.sort_unstable();
    let at_end = |(at, end): (&Place, &i64)| *end == 0 || state.offsets.get(at) == Some(end);
    owned.into_iter().eq(ends.keys()) && ends.iter().all(at_end)
}
