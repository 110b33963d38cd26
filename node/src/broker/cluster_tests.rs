//! Three brokers in one process, on loopback, each on a disk in memory of which the power can be cut.

use std::sync::Mutex;
use std::sync::PoisonError;

use dejaq_storage::file_disk::FileDisk;
use dejaq_storage::model_disk::random::stream;
use dejaq_storage::model_disk::{CrashMode, ModelDisk, Platter, Setup};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, Offset, PartitionId, ProducerId};
use dejaq_wire::kafka::create_topics::CreatableTopic;
use dejaq_wire::peer::raft::Voter;
use tokio::task::JoinSet;

use super::*;
use crate::config::QuorumNode;
use crate::controller::decide::create_topics::CreateTopics;
use crate::controller::decide::producer_ids::AllocateProducerIds;
use crate::controller::decide::register_broker::{Entry, RegisterBroker};
use crate::controller::raft::Change;
use crate::runtime::Mono;
use crate::runtime::net::{Listener, Net};
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::tokio_net::{SocketOptions, TokioNet};

const PATIENCE: Duration = Duration::from_secs(20);

/// One life of a node: the real clock and network, a disk in memory, tasks that a kill drops.
#[derive(Clone)]
struct Node {
    real: TokioRuntime,
    disk: ModelDisk,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Runtime for Node {
    type Disk = ModelDisk;
    type Net = TokioNet;
    fn now(&self) -> Mono {
        self.real.now()
    }
    fn unix_ms(&self) -> i64 {
        self.real.unix_ms()
    }
    async fn sleep_until(&self, at: Mono) {
        self.real.sleep_until(at).await;
    }
    fn spawn(&self, _name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }
    fn random_u64(&self) -> u64 {
        self.real.random_u64()
    }
    fn disk(&self) -> &ModelDisk {
        &self.disk
    }
    fn net(&self) -> &TokioNet {
        self.real.net()
    }
}

impl Node {
    /// Every task ends where it is.
    async fn end(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

/// What outlives the lives of three nodes.
struct Trio {
    platters: Vec<Platter>,
    configs: Vec<Config>,
    lives: Vec<Option<(Node, Broker<Node>)>>,
    clock: TokioRuntime,
    dir: tempfile::TempDir,
    cuts: u64,
}

async fn free_ports(clock: &TokioRuntime, count: usize) -> Vec<String> {
    let mut bound = Vec::new();
    for _ in 0..count {
        bound.push(clock.net().listen("127.0.0.1:0").await.expect("a free port"));
    }
    bound.iter().map(Listener::local_address).collect()
}

impl Trio {
    async fn new(snapshot_bytes: u64) -> Trio {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = FileDisk::open(dir.path()).expect("the directory is there");
        let clock = TokioRuntime::new(real, SocketOptions::default());
        let addresses = free_ports(&clock, 6).await;
        let address = |at: usize| addresses[at].clone();
        let quorum: Vec<QuorumNode> =
            (0..3).map(|at| QuorumNode { id: at as u32 + 1, address: address(at) }).collect();
        let config = |at: usize| Config {
            node_id: at as u32 + 1,
            listen: address(at + 3),
            peer_listen: address(at),
            quorum: quorum.clone(),
            snapshot_bytes,
            min_free_bytes: 0,
            ..Config::default()
        };
        let mut trio = Trio {
            clock,
            platters: (0..3).map(|_| Platter::new(Setup::default())).collect(),
            configs: (0..3).map(config).collect(),
            lives: (0..3).map(|_| None).collect(),
            dir,
            cuts: 0,
        };
        trio.start(&[0, 1, 2]).await;
        trio
    }

    async fn start(&mut self, which: &[usize]) {
        let mut starting = JoinSet::new();
        for at in which.iter().copied() {
            let real = FileDisk::open(self.dir.path()).expect("the directory is there");
            let node = Node {
                real: TokioRuntime::new(real, SocketOptions::default()),
                disk: self.platters[at].mount(),
                tasks: Arc::default(),
            };
            let config = self.configs[at].clone();
            starting.spawn(async move { (at, node.clone(), Broker::start(node, config).await) });
        }
        while let Some(started) = starting.join_next().await {
            let (at, node, broker) = started.expect("no panic");
            self.lives[at] = Some((node, broker.unwrap_or_else(|why| panic!("node {}: {why}", at + 1))));
        }
    }

    /// `kill -9`: every task ends where it is, every connection breaks; the page cache stays.
    async fn kill(&mut self, at: usize) {
        let (node, broker) = self.lives[at].take().expect("it runs");
        drop(broker);
        node.end().await;
        drop(node);
        self.platters[at].kill();
    }

    async fn cut_power(&mut self, at: usize) {
        self.kill(at).await;
        self.cuts += 1;
        self.platters[at].crash(&mut stream(self.cuts, "cut", at as u64), CrashMode::Lose);
    }

    fn broker(&self, at: usize) -> &Broker<Node> {
        &self.lives[at].as_ref().expect("it runs").1
    }

    fn node(&self, at: usize) -> &Node {
        &self.lives[at].as_ref().expect("it runs").0
    }

    fn running(&self) -> Vec<usize> {
        (0..3).filter(|at| self.lives[*at].is_some()).collect()
    }

    /// The node that leads, once all that run agree.
    async fn leader(&self) -> usize {
        let agreed = || {
            let mut seen = self.running().into_iter().map(|at| self.broker(at).cluster.controller.leader());
            let first = seen.next()??;
            seen.all(|leader| leader == Some(first)).then_some((first.0 - 1) as usize)
        };
        self.until("a leader that all agree on", || agreed().filter(|at| self.lives[*at].is_some())).await
    }

    async fn until<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        let give_up = self.clock.now().plus(PATIENCE);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(self.clock.now() < give_up, "no {what} within {PATIENCE:?}");
            self.clock.sleep(Duration::from_millis(5)).await;
        }
    }

    async fn create(&self, from: usize, name: &str) -> Result<(), ErrorCode> {
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: 3,
            replication_factor: -1,
            ..Default::default()
        };
        let request = CreateTopics { topics: vec![topic], validate_only: false };
        let deadline = self.node(from).now().plus(Duration::from_secs(10));
        let answered = self.broker(from).cluster.reach.ask(request, deadline).await;
        answered.result.map_err(|why| why.code)?.remove(0).1.map(drop).map_err(|why| why.code)
    }

    async fn see(&self, name: &str) {
        for at in self.running() {
            let seen = || self.broker(at).image().topic_named(name).map(drop);
            self.until(&format!("topic {name} on node {}", at + 1), seen).await;
        }
    }

    async fn all_live(&self) {
        for at in self.running() {
            let live = || {
                let image = self.broker(at).image();
                let all = self.running().into_iter().all(|other| image.is_live(BrokerId(other as i32 + 1)));
                all.then_some(())
            };
            self.until("life in all brokers", live).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_elect_survive_the_death_of_each_leader_and_the_loss_of_all_power() {
    let _ = tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::INFO).try_init();
    let mut trio = Trio::new(8 << 20).await;
    trio.all_live().await;
    let leader = trio.leader().await;
    let other = (leader + 1) % 3;
    assert_eq!(trio.create(other, "first").await, Ok(()), "asked from a node that does not lead");
    trio.see("first").await;
    let first = trio.broker(other).image().topic_named("first").cloned().expect("seen");
    assert!(first.partitions.iter().all(|partition| partition.replicas.len() == 3), "{first:?}");
    let id = trio.broker(0).image().cluster_id().map(str::to_owned).expect("named");
    assert!(trio.running().iter().all(|at| trio.broker(*at).image().cluster_id() == Some(&id)));

    let died = trio.clock.now();
    trio.kill(leader).await;
    let next = trio.leader().await;
    assert_ne!(next, leader);
    println!("another leader after {:?}", trio.clock.now().since(died));
    let gone = BrokerId(leader as i32 + 1);
    let fenced = || {
        let image = trio.broker(next).image();
        let first = image.topic_named("first").expect("seen");
        let led = first.partitions.iter().all(|one| one.leader != gone && one.leader.is_valid());
        (!image.is_live(gone) && led).then_some(())
    };
    trio.until("leaders elsewhere", fenced).await;
    println!("all partitions are led elsewhere after {:?}", trio.clock.now().since(died));
    assert!(trio.clock.now().since(died) < Duration::from_secs(6), "the session alone takes nine seconds");
    assert_eq!(trio.create(next, "second").await, Ok(()), "two of three are enough");
    trio.see("second").await;

    trio.start(&[leader]).await;
    trio.all_live().await;
    trio.see("second").await;
    for at in 0..3 {
        trio.cut_power(at).await;
    }
    trio.start(&[0, 1, 2]).await;
    trio.all_live().await;
    for name in ["first", "second"] {
        trio.see(name).await;
    }
    for at in 0..3 {
        let broker = trio.broker(at);
        broker.image().check_deep();
        assert_eq!(broker.image().cluster_id(), Some(&*id));
        assert_eq!(broker.data_dir.meta().cluster_id, id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_follows_by_a_snapshot_and_nothing_is_handed_out_twice() {
    let mut trio = Trio::new(4096).await;
    trio.all_live().await;
    let leader = trio.leader().await;
    let away = (leader + 1) % 3;
    trio.kill(away).await;
    let leader = trio.leader().await;
    let asker = trio.running().into_iter().find(|at| *at != leader).expect("two run");
    let broker = BrokerId(asker as i32 + 1);
    let mut starts = Vec::new();
    for number in 0..60 {
        if number % 3 == 0 {
            assert_eq!(trio.create(asker, &format!("t{number}")).await, Ok(()));
        }
        let broker_epoch: BrokerEpoch = trio.broker(asker).image().broker(broker).expect("registered").epoch;
        let ask = AllocateProducerIds { broker, broker_epoch };
        let deadline = trio.node(asker).now().plus(Duration::from_secs(10));
        let block = trio.broker(asker).cluster.reach.ask(ask, deadline).await.result.expect("registered");
        starts.push(block.start);
    }
    let sorted: std::collections::BTreeSet<ProducerId> = starts.iter().copied().collect();
    assert_eq!(sorted.len(), starts.len(), "blocks are disjoint");
    trio.start(&[away]).await;
    trio.all_live().await;
    trio.see("t57").await;
    let quorum = trio.broker(leader).cluster.controller.look_at_quorum().await.expect("it runs");
    assert!(
        quorum.is_leader && quorum.voters.iter().all(|(_, reached)| reached.end > Offset::ZERO),
        "{quorum:?}"
    );
    for at in 0..3 {
        trio.cut_power(at).await;
    }
    trio.start(&[0, 1, 2]).await;
    trio.all_live().await;
    trio.see("t57").await;
    assert_eq!(trio.broker(0).image().topic_count(), 20);
    assert!(trio.broker(0).image().topic_named("t0").expect("there").partition(PartitionId(2)).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_gives_everything_away_first_and_hands_the_quorum_over() {
    let mut trio = Trio::new(8 << 20).await;
    trio.all_live().await;
    assert_eq!(trio.create(0, "t").await, Ok(()));
    trio.see("t").await;
    let leader = trio.leader().await;
    let (node, broker) = trio.lives[leader].take().expect("it runs");
    let begun = trio.clock.now();
    broker.shutdown().await.expect("a clean stop");
    assert!(
        trio.clock.now().since(begun) < Duration::from_secs(6),
        "it took {:?}",
        trio.clock.now().since(begun)
    );
    let gone = BrokerId(leader as i32 + 1);
    let next = trio.leader().await;
    let image = trio.broker(next).image();
    let topic = image.topic_named("t").expect("seen");
    assert!(topic.partitions.iter().all(|one| one.leader != gone && one.leader.is_valid()), "{topic:?}");
    node.end().await;
    drop(node);
    trio.platters[leader].kill();
    trio.start(&[leader]).await;
    trio.all_live().await;
}

impl Trio {
    /// The node that leads partition 0 of `t`, as the metadata and that node itself say.
    async fn partition_leader(&self) -> usize {
        let leads = || {
            let any = self.running().into_iter().next()?;
            let leader = self.broker(any).image().topic_named("t")?.partition(PartitionId(0))?.leader;
            let at = usize::try_from(leader.0 - 1).ok().filter(|at| self.lives[*at].is_some())?;
            self.partition(at)?.stopped().is_none().then_some(at)
        };
        self.until("a leader of the partition", leads).await
    }

    fn partition(&self, at: usize) -> Option<Arc<replica::Partition<Node>>> {
        let table = self.broker(at).directory.table();
        table.named("t")?.partition(PartitionId(0)).ok().cloned()
    }

    /// Writes a value with acks=all until somebody acknowledges it; where it is.
    async fn acknowledged(&self, value: &str) -> Offset {
        let give_up = self.clock.now().plus(PATIENCE);
        loop {
            let leader = self.partition_leader().await;
            let batch = crate::api::test_kit::batch(1_800_000_000_000, &[value]);
            let batch = dejaq_storage::VerifiedBatch::verify(batch).expect("we built it");
            let (outcome, receiver) = tokio::sync::oneshot::channel();
            let only_in = dejaq_wire::ids::LeaderEpoch::NONE;
            let required = replica::leader::Required::All;
            let write = replica::write::Write { batch, required, only_in, outcome };
            self.partition(leader).expect("it leads").write(vec![write]);
            let deadline = self.clock.now().plus(Duration::from_secs(15));
            match self.clock.before(deadline, receiver).await {
                Some(Ok(Ok(written))) => return written.base,
                other => println!("{value} at node {}: {other:?}", leader + 1),
            }
            assert!(self.clock.now() < give_up, "{value} is not acknowledged");
            self.clock.sleep(Duration::from_millis(20)).await;
        }
    }

    async fn all_in_sync(&self) {
        let all = || {
            let topic = self.broker(self.running()[0]).image().topic_named("t").cloned()?;
            topic.partitions.iter().all(|one| one.isr.len() == 3).then_some(())
        };
        self.until("all replicas in sync", all).await;
    }

    /// Every value of the partition as this node has it, by offset.
    async fn log(&self, at: usize) -> Vec<String> {
        let partition = self.partition(at).expect("it is held");
        let reader = partition.view().reader().clone();
        let mut all = Vec::new();
        let mut offset = reader.start();
        while offset < reader.end() {
            let (max_bytes, at_least_one, end_bound) = (1 << 20, true, reader.end());
            let ask = dejaq_storage::ReadAsk { offset, max_bytes, at_least_one, end_bound };
            let read = reader.read(ask).await.expect("it reads");
            all.extend(crate::api::test_kit::values(read.batches.into()).0);
            offset = read.next;
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_survives_its_leaders_and_the_loss_of_all_power() {
    let _ = tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::INFO).try_init();
    let mut trio = Trio::new(8 << 20).await;
    trio.all_live().await;
    assert_eq!(trio.create(0, "t").await, Ok(()));
    trio.see("t").await;
    let mut acked: Vec<(Offset, String)> = Vec::new();
    for round in 0..3 {
        for number in 0..10 {
            let value = format!("r{round} v{number}");
            acked.push((trio.acknowledged(&value).await, value));
        }
        let leader = trio.partition_leader().await;
        match round {
            0 | 1 => trio.kill(leader).await,
            _ => trio.cut_power(leader).await,
        }
        let died = trio.clock.now();
        let value = format!("r{round} after");
        acked.push((trio.acknowledged(&value).await, value));
        println!("acknowledged {:?} after the death of its leader", trio.clock.now().since(died));
        trio.start(&[leader]).await;
        trio.all_live().await;
        trio.all_in_sync().await;
    }
    let value = "the last".to_owned();
    acked.push((trio.acknowledged(&value).await, value));
    for at in 0..3 {
        trio.cut_power(at).await;
    }
    trio.start(&[0, 1, 2]).await;
    trio.all_live().await;
    trio.all_in_sync().await;
    let leader = trio.partition_leader().await;
    let log = trio.log(leader).await;
    for (offset, value) in &acked {
        assert_eq!(log.get(offset.0 as usize), Some(value), "{offset} of {log:?}");
    }
    for at in 0..3 {
        let same = || {
            let (ours, theirs) = (trio.partition(at)?, trio.partition(leader)?);
            (ours.view().reader().end() == theirs.view().reader().end()).then_some(())
        };
        trio.until("everything everywhere", same).await;
        assert_eq!(trio.log(at).await, log, "node {}", at + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_lost_its_disk_follows_but_votes_only_when_it_is_made_one_again() {
    let mut trio = Trio::new(8 << 20).await;
    trio.all_live().await;
    assert_eq!(trio.create(0, "t").await, Ok(()));
    trio.see("t").await;
    let leader = trio.leader().await;
    let wiped = (leader + 1) % 3;
    let other = (leader + 2) % 3;
    let id = BrokerId(wiped as i32 + 1);
    trio.kill(wiped).await;
    trio.platters[wiped] = Platter::new(Setup::default());
    trio.start(&[wiped]).await;
    trio.see("t").await;
    let look = async |trio: &Trio| {
        let deadline = trio.clock.now().plus(PATIENCE);
        trio.broker(other).cluster.reach.quorum(deadline).await.result.expect("a leader")
    };
    let quorum = look(&trio).await;
    let old = quorum.voters.iter().map(|(voter, _)| voter.key).find(|key| key.id == id).expect("it voted");
    let new = quorum.observers.iter().map(|(key, _)| *key).find(|key| key.id == id).expect("it follows");
    assert_ne!(old.directory, new.directory);

    // It does not count: with one of the two others gone, nothing is committed any more.
    trio.kill(other).await;
    trio.clock.sleep(Duration::from_millis(800)).await;
    assert_eq!(trio.broker(leader).cluster.controller.leader(), None, "a leader without a majority goes");
    trio.start(&[other]).await;
    trio.leader().await;

    let reach = &trio.broker(other).cluster.reach;
    let deadline = || trio.clock.now().plus(PATIENCE);
    reach.change_voters(Change::Remove(old), deadline()).await.result.expect("two of three agree");
    let address = trio.configs[wiped].peer_listen.clone();
    let voter = Voter { key: new, address };
    let mut added = reach.change_voters(Change::Add(voter.clone()), deadline()).await.result;
    for _ in 0..100 {
        if added.is_ok() {
            break;
        }
        trio.clock.sleep(Duration::from_millis(50)).await; // it has to be heard since the leader changed
        added = reach.change_voters(Change::Add(voter.clone()), deadline()).await.result;
    }
    added.expect("it follows");
    let now_votes = look(&trio).await;
    assert!(now_votes.voters.iter().any(|(voter, _)| voter.key == new), "{now_votes:?}");
    trio.all_live().await;
    let leader = trio.leader().await;
    let third = (0..3).find(|at| *at != leader && *at != wiped).expect("three");
    trio.kill(third).await;
    assert_eq!(trio.create(leader, "u").await, Ok(()), "two of three, and one of them is the new one");
}

/// It is told the leader's number by whom it asks, and would look for it for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_know_where_the_leader_listens_is_told_by_a_node_that_does() {
    let mut trio = Trio::new(8 << 20).await;
    trio.all_live().await;
    let leader = trio.leader().await;
    let (fresh, contact) = ((leader + 1) % 3, (leader + 2) % 3);
    trio.kill(fresh).await;
    trio.platters[fresh] = Platter::new(Setup::default());
    let named = contact as u32 + 1;
    trio.configs[fresh].quorum.retain(|voter| voter.id == named);
    assert_eq!(trio.configs[fresh].quorum.len(), 1, "it knows of one other node, which does not lead");
    trio.start(&[fresh]).await;
    trio.all_live().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_whose_life_the_cluster_ended_is_not_ready_and_stops_at_once() {
    let mut trio = Trio::new(8 << 20).await;
    let at = (trio.leader().await + 1) % 3;
    let (node, broker) = trio.lives[at].take().expect("it runs");
    let (watch, image) = (broker.watch(), broker.image());
    assert_eq!(watch.problem(), None);
    let known = image.broker(BrokerId(at as i32 + 1)).expect("registered");
    let another = RegisterBroker {
        broker: known.id,
        incarnation: !known.incarnation,
        endpoints: known.endpoints.clone(),
        rack: None,
        directory_id: known.directory_id,
        clean: false,
        closed_in: BrokerEpoch::NONE,
        entry: Entry::Fenced,
        levels: Levels::default(),
    };
    let answered = broker.cluster.reach.ask(another, node.now().plus(PATIENCE)).await;
    answered.result.expect("the same directory proves that the old one is gone");
    let told = || watch.problem().filter(|why| why.contains("restart it"));
    trio.until("word that it is none of the cluster", told).await;
    drop(watch);
    let begun = node.now();
    broker.shutdown().await.expect("clean");
    assert!(node.now().since(begun) < Duration::from_secs(8), "it has nobody to wait for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_removed_from_the_voters_answers_before_it_goes() {
    let trio = Trio::new(8 << 20).await;
    trio.all_live().await;
    let leader = trio.leader().await;
    let reach = &trio.broker((leader + 1) % 3).cluster.reach;
    let deadline = || trio.clock.now().plus(PATIENCE);
    let quorum = reach.quorum(deadline()).await.result.expect("it is led");
    let own = quorum.voters.iter().map(|(voter, _)| voter.key).find(|key| Some(key.id) == quorum.leader);
    let removed = reach.change_voters(Change::Remove(own.expect("a leader votes")), deadline()).await;
    assert!(removed.result.is_ok(), "{:?}", removed.result);
    let after = trio.until("another leads", || {
        let now = trio.broker((leader + 1) % 3).cluster.controller.leader();
        now.filter(|now| Some(*now) != quorum.leader)
    });
    after.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_a_cluster_of_its_own_is_told_so_and_does_not_start() {
    let mut trio = Trio::new(8 << 20).await;
    trio.all_live().await;
    trio.kill(2).await;
    trio.platters[2] = Platter::new(Setup::default());
    let real = FileDisk::open(trio.dir.path()).expect("the directory is there");
    let node = || Node {
        real: TokioRuntime::new(real.clone(), SocketOptions::default()),
        disk: trio.platters[2].mount(),
        tasks: Arc::default(),
    };
    // It was a cluster of its own before.
    let mut alone = trio.configs[2].clone();
    (alone.quorum, alone.peer_listen) = (Vec::new(), String::new());
    let first = node();
    let broker = Broker::start(first.clone(), alone).await.expect("a cluster of one");
    broker.shutdown().await.expect("a clean stop");
    first.end().await;
    drop(first);
    trio.platters[2].kill();
    let second = node();
    let refused =
        Broker::start(second.clone(), trio.configs[2].clone()).await.map(drop).expect_err("another cluster");
    assert!(refused.to_string().contains("votes alone"), "{refused}");
    second.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_a_cluster_that_is_started_alone_is_told_so_and_does_not_wait() {
    let mut trio = Trio::new(8 << 20).await;
    trio.all_live().await;
    trio.kill(2).await;
    let real = FileDisk::open(trio.dir.path()).expect("the directory is there");
    let node = Node {
        real: TokioRuntime::new(real, SocketOptions::default()),
        disk: trio.platters[2].mount(),
        tasks: Arc::default(),
    };
    let mut alone = trio.configs[2].clone();
    let voters: Vec<_> = alone.quorum.iter().map(|named| format!("{}@{}", named.id, named.address)).collect();
    (alone.quorum, alone.peer_listen) = (Vec::new(), String::new());
    let soon = trio.clock.now().plus(PATIENCE);
    let started =
        trio.clock.before(soon, Broker::start(node.clone(), alone)).await.expect("it waits for nobody");
    let refused = started.map(drop).expect_err("it can reach none of the others").to_string();
    assert!(refused.contains("peer-listen is empty"), "{refused}");
    assert!(refused.contains(&format!("--quorum {}", voters.join(","))), "{refused}");
    node.end().await;
}
