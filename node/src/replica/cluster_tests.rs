//! Three directories in one process, each on a disk in memory, with a transport and a controller made for the test: the
//! shells of replication together, one claim a test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::model_disk::{CrashMode, Fault, ModelDisk, Plan, Platter, Setup};
use dejaq_storage::{DataDir, Expect, ReadAsk, VerifiedBatch};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{
    BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId,
};
use dejaq_wire::kafka::fetch::{FetchRequest, NodeEndpoint, PartitionData};
use dejaq_wire::peer::Body;
use dejaq_wire::peer::replica::{Found, Place, ReplicaFetch, ReplicaFetched, Standing, Talk, Why};
use dejaq_wire::record::{BatchBuilder, Compression};
use tokio::sync::oneshot;

use super::isr::Proposal;
use super::leader::{Refused, Required, Resigned};
use super::links::{Answer, AskController, Later, Links, Transport};
use super::write::{Outcome, Write, WriteError, Written};
use super::*;
use crate::api::data_plane::{DataPlane, FetchLimits};
use crate::api::test_kit::{Node, batch, batch_of, fetch_request, values};
use crate::controller::succession::{Election, Rules, Wanted, settle};
use crate::metadata::record::{
    BrokerRegistered, ConfigChanged, Endpoint, PartitionChanged, PartitionState, Record, Resource,
    TopicCreated,
};
use crate::metadata::{Image, Published};
use crate::peer::AskError;
use crate::runtime::{Mono, Runtime};
use crate::server::service::Session;

const TOPIC: TopicId = TopicId([5; 16]);
const PLACE: Place = Place { topic: TOPIC, partition: PartitionId(0) };
const PATIENCE: Duration = Duration::from_secs(20);

/// What is between the nodes, and what they are told.
struct Between {
    serving: Mutex<BTreeMap<BrokerId, Arc<Serve<Node>>>>,
    cut: Mutex<BTreeSet<(BrokerId, BrokerId)>>,
    fetches: AtomicI64,
    image: Mutex<Arc<Image>>,
    told: Mutex<BTreeMap<BrokerId, Published>>,
    /// The controller does not answer proposals, though it takes them.
    loses_answers: Mutex<bool>,
    /// Hears nothing of the metadata for now.
    deaf: Mutex<Option<BrokerId>>,
    /// `min.insync.replicas`, as the controller knows it.
    min_isr: Mutex<usize>,
    /// The controller is of the release before: it does not read who lost records.
    is_old: Mutex<bool>,
    /// Proposals that changed nothing.
    unchanged: AtomicI64,
}

impl Between {
    /// Commits records and tells everyone.
    fn commit(&self, records: &[Record]) {
        let mut image = self.image.lock().unwrap();
        let end = image.end().next();
        *image = Arc::new(image.after(records, end).expect("they fit"));
        let deaf = *self.deaf.lock().unwrap();
        for (_, published) in self.told.lock().unwrap().iter().filter(|(node, _)| Some(**node) != deaf) {
            published.publish(image.clone());
        }
    }

    fn state(&self) -> PartitionState {
        let image = self.image.lock().unwrap().clone();
        image.topic(TOPIC).expect("created").partition(PartitionId(0)).expect("there").state()
    }

    fn change(&self, change: impl FnOnce(&mut PartitionState)) {
        let mut state = self.state();
        state.partition_epoch += 1;
        change(&mut state);
        self.commit(&[PartitionChanged { topic_id: TOPIC, partition: PartitionId(0), state }.into()]);
    }

    fn is_cut(&self, one: BrokerId, other: BrokerId) -> bool {
        let cut = self.cut.lock().unwrap();
        cut.contains(&(one, other)) || cut.contains(&(other, one))
    }

    fn decide(&self, from: BrokerId, proposal: &Proposal) -> Answer {
        let (state, image) = (self.state(), self.image.lock().unwrap().clone());
        let of_itself = proposal.lost == [from] && state.leader.is_valid();
        if !(state.leader == from || of_itself) || state.leader_epoch != proposal.leader_epoch {
            return Answer::Refused(ErrorCode::FENCED_LEADER_EPOCH);
        }
        if state.partition_epoch != proposal.partition_epoch {
            return Answer::Refused(ErrorCode::INVALID_UPDATE_VERSION);
        }
        let known = |(broker, life): &(BrokerId, BrokerEpoch)| {
            image.broker(*broker).is_some_and(|broker| broker.epoch == *life)
        };
        if !proposal.isr.iter().all(known) {
            return Answer::Refused(ErrorCode::INELIGIBLE_REPLICA);
        }
        let rules = Rules {
            live: &|broker| image.is_live(broker),
            leaving: &|_| false,
            min_isr: *self.min_isr.lock().unwrap(),
            durable: true,
            unclean: false,
        };
        let isr = proposal.isr.iter().map(|(broker, _)| *broker).collect();
        let heirs = if state.elr.is_empty() { &state.last_known_elr } else { &state.elr };
        if proposal.isr.is_empty() && !heirs.iter().any(|heir| image.is_live(*heir)) {
            return Answer::Refused(ErrorCode::INELIGIBLE_REPLICA);
        }
        let wiped = if *self.is_old.lock().unwrap() { Vec::new() } else { proposal.lost.clone() };
        let steps_aside = proposal.isr.is_empty() && proposal.lost.is_empty();
        let election = if steps_aside { Election::StepDown } else { Election::Keep };
        let wanted = Wanted { isr: Some(isr), wiped, election, ..Wanted::default() };
        let Some(settled) = settle(&state, &wanted, &rules) else {
            self.unchanged.fetch_add(1, Ordering::Relaxed);
            return Answer::Unchanged;
        };
        self.change(|state| *state = settled.state);
        if *self.loses_answers.lock().unwrap() { Answer::Unsure } else { Answer::Taken }
    }
}

/// The links of one node.
struct Wire {
    me: BrokerId,
    between: Arc<Between>,
}

impl Transport for Wire {
    fn fetch(
        &self,
        leader: BrokerId,
        fetch: ReplicaFetch,
        _deadline: Mono,
    ) -> Later<Result<ReplicaFetched, AskError>> {
        let (me, between) = (self.me, self.between.clone());
        Box::pin(async move {
            between.fetches.fetch_add(1, Ordering::Relaxed);
            let lost = AskError::Lost(leader);
            let serve = between.serving.lock().unwrap().get(&leader).cloned();
            let serve = serve.filter(|_| !between.is_cut(me, leader)).ok_or(lost.clone())?;
            let fetch = ReplicaFetch::from_parts(fetch.into_parts().expect("it fits")).expect("it reads");
            let fetched = match serve.begin(me, fetch) {
                Ok(round) => round.run().await,
                Err(talk) => ReplicaFetched { talk, news: Vec::new() },
            };
            if between.is_cut(me, leader) { Err(lost) } else { Ok(fetched) }
        })
    }
}

impl AskController for Wire {
    fn propose(&self, proposals: Vec<(Place, Proposal)>) -> Later<Vec<Answer>> {
        let (me, between) = (self.me, self.between.clone());
        Box::pin(async move { proposals.iter().map(|(_, proposal)| between.decide(me, proposal)).collect() })
    }
}

struct Live {
    node: Node,
    directory: Arc<Directory<Node>>,
    data_dir: Arc<DataDir<ModelDisk>>,
}

impl Live {
    fn partition(&self) -> Arc<Partition<Node>> {
        self.directory.partition(PLACE).expect("it is here")
    }

    fn write(&self, value: &str, required: Required) -> oneshot::Receiver<Outcome> {
        let batch = VerifiedBatch::verify(batch(1_800_000_000_000, &[value])).expect("we built it");
        let (outcome, receiver) = oneshot::channel();
        self.partition().write(vec![Write { batch, required, only_in: LeaderEpoch::NONE, outcome }]);
        receiver
    }

    /// Writes until it is acknowledged; a set that shrank for a moment, on a slow machine, is waited for.
    async fn acked(&self, value: &str) -> i64 {
        let deadline = self.node.now() + PATIENCE;
        loop {
            let outcome = self.node.before(deadline, self.write(value, Required::All)).await;
            match outcome.expect("answered in time").expect("answered") {
                Err(WriteError::Refused(Refused::NotEnoughReplicas)) => {
                    self.node.sleep(Duration::from_millis(20)).await;
                }
                written => return written.expect("acknowledged").base.0,
            }
        }
    }

    /// Every byte from the start to the end of the log.
    async fn bytes(&self) -> Bytes {
        let reader = self.partition().view().reader().clone();
        let mut all = Vec::new();
        let mut at = reader.start();
        while at < reader.end() {
            let ask = ReadAsk { offset: at, max_bytes: 1 << 20, at_least_one: true, end_bound: reader.end() };
            let read = reader.read(ask).await.expect("it reads");
            assert!(read.next > at);
            all.extend_from_slice(&read.batches);
            at = read.next;
        }
        all.into()
    }

    async fn values(&self) -> Vec<String> {
        values(self.bytes().await.into()).0
    }
}

struct Cluster {
    between: Arc<Between>,
    platters: BTreeMap<i32, Platter>,
    live: BTreeMap<i32, Live>,
    dir: tempfile::TempDir,
    unix_ms: Arc<AtomicI64>,
    lag: Duration,
    max_wait: Duration,
    scrub_every: Duration,
}

impl Cluster {
    async fn start(configs: &[(&str, &str)]) -> Cluster {
        Cluster::new().born(configs).await
    }

    /// Three nodes with one partition on each, led by the first.
    async fn born(mut self, configs: &[(&str, &str)]) -> Cluster {
        let partitions = vec![PartitionState::born(vec![BrokerId(1), BrokerId(2), BrokerId(3)])];
        for id in 1..=3 {
            self.register(id);
        }
        let mut records: Vec<Record> =
            vec![TopicCreated { topic_id: TOPIC, name: "t".into(), partitions }.into()];
        for (name, value) in configs {
            if *name == "min.insync.replicas" {
                *self.between.min_isr.lock().unwrap() = value.parse().expect("a number");
            }
            let (name, value) = ((*name).into(), Some((*value).into()));
            records.push(ConfigChanged { resource: Resource::Topic(TOPIC), name, value }.into());
        }
        self.between.commit(&records);
        for id in 1..=3 {
            self.open(id).await;
        }
        self
    }

    fn new() -> Cluster {
        let between = Between {
            serving: Mutex::default(),
            cut: Mutex::default(),
            fetches: AtomicI64::new(0),
            image: Mutex::default(),
            told: Mutex::default(),
            loses_answers: Mutex::default(),
            deaf: Mutex::default(),
            min_isr: Mutex::new(1),
            is_old: Mutex::default(),
            unchanged: AtomicI64::new(0),
        };
        let platters = (1..=3).map(|id| (id, Platter::new(Setup::default()))).collect();
        Cluster {
            between: Arc::new(between),
            platters,
            live: BTreeMap::new(),
            dir: tempfile::tempdir().expect("a temporary directory"),
            unix_ms: Arc::new(AtomicI64::new(1_800_000_000_000)),
            lag: Duration::from_secs(30),
            max_wait: Duration::from_millis(500),
            scrub_every: Duration::from_secs(3600),
        }
    }

    fn register(&self, id: i32) -> BrokerEpoch {
        let epoch = self.between.image.lock().unwrap().last_broker_epoch().next();
        self.between.commit(&[BrokerRegistered {
            broker: BrokerId(id),
            epoch,
            incarnation: epoch.0 as u128,
            endpoints: vec![Endpoint { listener: "PLAINTEXT".into(), host: format!("h{id}"), port: 9092 }],
            rack: Some(format!("r{id}")),
            directory_id: [0; 16],
            clean: true,
            fenced: false,
        }
        .into()]);
        epoch
    }

    async fn open(&mut self, id: i32) {
        let me = BrokerId(id);
        let node = Node::on(self.platters[&id].mount(), self.dir.path(), self.unix_ms.clone());
        let expect = Expect {
            cluster_id: "c".into(),
            node_id: me,
            new_cluster_id: "c".into(),
            new_directory_id: [id as u8; 16],
        };
        let data_dir = Arc::new(DataDir::open(node.disk.clone(), expect).await.expect("it is ours"));
        let image = self.between.image.lock().unwrap().clone();
        let life = image.broker(me).expect("registered").epoch;
        let mut settings = Settings::of(me);
        settings.scrub.every = self.scrub_every;
        let directory = Directory::start(node.clone(), settings, data_dir.clone(), image.clone())
            .await
            .expect("it starts");
        let published = Published::new(image.clone());
        self.between.told.lock().unwrap().insert(me, published.clone());
        node.spawn(
            "apply",
            crate::api::test_kit::follow_partitions(published, directory.clone(), image.end()),
        );
        let wire = Arc::new(Wire { me, between: self.between.clone() });
        let (lag, max_wait) = (self.lag, self.max_wait);
        directory.connect(Links { life, transport: wire.clone(), controller: wire, lag, max_wait });
        self.between.serving.lock().unwrap().insert(me, Arc::new(Serve::new(directory.clone())));
        self.live.insert(id, Live { node, directory, data_dir });
    }

    /// As `kill -9`, or a power cut.
    async fn kill(&mut self, id: i32, crash: Option<CrashMode>) {
        self.between.serving.lock().unwrap().remove(&BrokerId(id));
        self.between.told.lock().unwrap().remove(&BrokerId(id));
        let live = self.live.remove(&id).expect("it runs");
        match crash {
            None => self.platters[&id].kill(),
            Some(mode) => {
                self.platters[&id].crash(&mut dejaq_storage::model_disk::random::stream(7, "crash", 0), mode);
            }
        }
        live.node.drop_tasks().await;
    }

    async fn restart(&mut self, id: i32) {
        self.register(id);
        let state = self.between.state();
        if state.leader == BrokerId(id) {
            self.elect(id, &state.isr.iter().map(|one| one.0).collect::<Vec<_>>());
        }
        self.open(id).await;
    }

    fn elect(&self, leader: i32, isr: &[i32]) {
        self.between.change(|state| {
            state.leader = BrokerId(leader);
            state.leader_epoch = state.leader_epoch.next();
            state.isr = isr.iter().map(|id| BrokerId(*id)).collect();
        });
    }

    fn cut(&self, one: i32, other: i32) {
        self.between.cut.lock().unwrap().insert((BrokerId(one), BrokerId(other)));
    }

    fn heal(&self) {
        self.between.cut.lock().unwrap().clear();
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Cluster) -> bool) {
        let deadline = self.live.values().next().expect("somebody lives").node.now() + PATIENCE;
        loop {
            if is_so(self) {
                return;
            }
            let node = &self.live.values().next().expect("somebody lives").node;
            assert!(node.now() < deadline, "in vain: {what}; {:?}", self.between.state());
            node.sleep(Duration::from_millis(5)).await;
        }
    }

    fn leads(&self, id: i32) -> bool {
        self.live[&id].directory.partition(PLACE).is_some_and(|one| one.view().stopped().is_none())
    }

    fn isr(&self) -> BTreeSet<i32> {
        self.between.state().isr.iter().map(|one| one.0).collect()
    }

    /// Everyone has everything and knows it; all logs are the same.
    async fn converged(&self, leader: i32) {
        let end = self.live[&leader].partition().view().reader().end();
        self.until("all have all", |cluster| {
            cluster.live.values().all(|live| {
                let Some(partition) = live.directory.partition(PLACE) else { return false };
                let view = partition.view();
                view.reader().end() == end && view.watermark() == end && view.reader().flushed() == end
            })
        })
        .await;
        let expected = self.live[&leader].bytes().await;
        let start = self.live[&leader].partition().view().reader().start();
        for (id, live) in &self.live {
            assert_eq!(live.partition().view().reader().start(), start, "node {id}");
            assert_eq!(live.bytes().await, expected, "node {id} has another log than node {leader}");
            let producers = |live: &Live| live.partition().describe_producers();
            assert_eq!(producers(live), producers(&self.live[&leader]), "node {id}");
        }
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_durable_on_all_and_comes_at_once() {
    let mut cluster = Cluster::new();
    cluster.max_wait = Duration::from_secs(60); // nothing of what follows may wait for the end of a wait
    let mut cluster = cluster.born(&[("min.insync.replicas", "2")]).await;
    for at in 0..20 {
        assert_eq!(cluster.live[&1].acked(&format!("v{at}")).await, at);
        for live in cluster.live.values() {
            assert!(
                live.partition().view().reader().flushed() > Offset(at),
                "acknowledged before it is durable"
            );
        }
    }
    for id in 1..=3 {
        cluster.kill(id, Some(CrashMode::Lose)).await;
    }
    cluster.max_wait = Duration::from_millis(100);
    for id in [3, 2, 1] {
        cluster.restart(id).await;
    }
    cluster
        .until("the watermark is known again", |cluster| {
            cluster.live[&1].partition().view().watermark() == Offset(20)
        })
        .await;
    let values: Vec<String> = (0..20).map(|at| format!("v{at}")).collect();
    assert_eq!(cluster.live[&1].values().await, values);
    cluster.converged(1).await;
}

#[tokio::test]
async fn a_new_leader_has_all_that_was_acknowledged_and_the_old_one_comes_back() {
    let mut cluster = Cluster::start(&[("min.insync.replicas", "2")]).await;
    for at in 0..5 {
        cluster.live[&1].acked(&format!("a{at}")).await;
    }
    cluster.kill(1, None).await;
    cluster.elect(2, &[2, 3]);
    cluster.until("node 2 leads", |cluster| cluster.leads(2)).await;
    for at in 0..5 {
        assert_eq!(cluster.live[&2].acked(&format!("b{at}")).await, 5 + at);
    }
    cluster.restart(1).await;
    cluster.until("node 1 is in sync again", |cluster| cluster.isr() == BTreeSet::from([1, 2, 3])).await;
    cluster.live[&2].acked("c").await;
    cluster.converged(2).await;
    assert_eq!(cluster.live[&1].values().await.len(), 11);
}

#[tokio::test]
async fn what_only_the_old_leader_has_is_cut_and_nobody_saw_it() {
    let cluster = Cluster::start(&[("min.insync.replicas", "2")]).await;
    cluster.live[&1].acked("both").await;
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    for value in ["x", "y", "z"] {
        let written = cluster.live[&1].write(value, Required::Leader).await.expect("answered");
        written.expect("acks=1 needs nobody else");
    }
    let waits = cluster.live[&1].write("w", Required::All);
    assert_eq!(cluster.live[&1].partition().view().watermark(), Offset(1));
    cluster.elect(2, &[2, 3]);
    assert_eq!(waits.await.expect("answered"), Err(WriteError::Abandoned(Resigned::Moved)));
    cluster.until("node 2 leads", |cluster| cluster.leads(2)).await;
    assert_eq!(cluster.live[&2].acked("new").await, 1);
    cluster.heal();
    cluster.until("node 1 is in sync again", |cluster| cluster.isr() == BTreeSet::from([1, 2, 3])).await;
    cluster.converged(2).await;
    assert_eq!(cluster.live[&1].values().await, ["both", "new"]);
}

#[tokio::test]
async fn a_follower_that_is_cut_off_leaves_the_set_and_comes_back() {
    let mut cluster = Cluster::new();
    cluster.lag = Duration::from_millis(1000);
    let mut cluster = cluster.born(&[("min.insync.replicas", "2")]).await;
    cluster.live[&1].acked("a").await;
    *cluster.between.loses_answers.lock().unwrap() = true;
    cluster.cut(1, 3);
    assert_eq!(cluster.live[&1].acked("b").await, 1, "the watermark moves when the set shrinks");
    cluster.until("only node 3 has left", |cluster| cluster.isr() == BTreeSet::from([1, 2])).await;
    cluster.kill(2, None).await;
    let waits = cluster.live[&1].write("c", Required::All);
    cluster.until("the set shrinks", |cluster| cluster.isr() == BTreeSet::from([1])).await;
    let refused = cluster.live[&1].write("d", Required::All).await.expect("answered");
    assert!(matches!(refused, Err(WriteError::Refused(_))), "{refused:?}");
    cluster.heal();
    cluster.until("node 3 is in sync again", |cluster| cluster.isr() == BTreeSet::from([1, 3])).await;
    waits.await.expect("answered").expect("acknowledged once two are in sync");
    cluster.restart(2).await;
    cluster.until("all are in sync", |cluster| cluster.isr().len() == 3).await;
    cluster.converged(1).await;
}

#[tokio::test]
async fn a_follower_that_fell_behind_the_leaders_start_begins_anew() {
    let mut cluster = Cluster::new();
    cluster.lag = Duration::from_millis(200);
    let cluster = cluster.born(&[]).await;
    cluster.live[&1].acked("a").await;
    cluster.cut(1, 3);
    for at in 0..9 {
        cluster.live[&1].acked(&format!("b{at}")).await;
    }
    let moved = retention::move_start(&cluster.live[&1].partition(), Some(Offset(6))).await;
    assert_eq!(moved, Ok(Offset(6)));
    cluster.heal();
    cluster.until("node 3 is in sync again", |cluster| cluster.isr().len() == 3).await;
    cluster.live[&1].acked("c").await;
    cluster
        .until("the start is followed", |cluster| {
            cluster.live.values().all(|live| live.partition().view().reader().start() == Offset(6))
        })
        .await;
    cluster.converged(1).await;
}

#[tokio::test]
async fn a_replica_that_is_removed_loses_its_files_and_fetches_all_when_it_is_added_again() {
    let cluster = Cluster::start(&[]).await;
    cluster.live[&1].acked("a").await;
    let has_files = |cluster: &Cluster| {
        let hex: String = TOPIC.0.iter().map(|byte| format!("{byte:02x}")).collect();
        cluster.platters[&3].files().iter().any(|(path, _)| path.to_string_lossy().contains(&hex))
    };
    assert!(has_files(&cluster));
    let of = |ids: &[i32]| -> Vec<BrokerId> { ids.iter().map(|id| BrokerId(*id)).collect() };
    cluster.between.change(|state| (state.replicas, state.isr) = (of(&[1, 2]), of(&[1, 2])));
    cluster.until("the files are gone", |cluster| !has_files(cluster)).await;
    cluster.live[&1].acked("b").await;
    cluster.between.change(|state| state.replicas = of(&[1, 2, 3]));
    cluster.until("node 3 is in sync", |cluster| cluster.isr().len() == 3).await;
    cluster.live[&1].acked("c").await;
    cluster.converged(1).await;
    assert_eq!(cluster.live[&3].values().await, ["a", "b", "c"]);
}

/// Kafka's clients take a topic that is not known for one that was deleted sooner or later; its leader is only elsewhere.
#[tokio::test]
async fn who_waits_at_a_leader_that_is_removed_is_told_that_it_moved() {
    let cluster = Cluster::start(&[("min.insync.replicas", "2")]).await;
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    let waits = cluster.live[&1].write("w", Required::All);
    cluster.between.change(|state| {
        (state.leader, state.leader_epoch) = (BrokerId(2), state.leader_epoch.next());
        (state.replicas, state.isr) = (vec![BrokerId(2), BrokerId(3)], vec![BrokerId(2), BrokerId(3)]);
    });
    assert_eq!(waits.await.expect("answered"), Err(WriteError::Abandoned(Resigned::Moved)));
}

#[tokio::test]
async fn an_idle_cluster_talks_little() {
    let cluster = Cluster::start(&[]).await;
    cluster.live[&1].acked("a").await;
    cluster.converged(1).await;
    let before = cluster.between.fetches.load(Ordering::Relaxed);
    cluster.live[&1].node.sleep(Duration::from_millis(1200)).await;
    let fetches = cluster.between.fetches.load(Ordering::Relaxed) - before;
    assert!(fetches <= 8, "{fetches} fetches of two followers in 1.2 s");
}

fn session() -> Session {
    Session::new(1, "peer:1".into(), "front:9092".into())
}

/// A consumer's fetch of one partition from `offset`, at the broker `live`, by a client in `rack`.
async fn fetched(live: &Live, version: i16, offset: i64, rack: &str) -> (PartitionData, Vec<NodeEndpoint>) {
    let data = DataPlane::new(live.node.clone(), live.directory.clone(), FetchLimits::default());
    let request = FetchRequest { rack_id: rack.into(), ..fetch_request("t", offset, 0) };
    let mut response = crate::api::fetch::answer(&data, &session(), live.node.now(), version, request).await;
    (response.responses.remove(0).partitions.remove(0), response.node_endpoints)
}

#[tokio::test]
async fn a_reader_is_sent_to_its_rack_and_sees_there_what_is_committed() {
    let mut cluster = Cluster::start(&[]).await;
    for value in ["a", "b"] {
        cluster.live[&1].acked(value).await;
    }
    cluster.converged(1).await;
    let (sent, _) = fetched(&cluster.live[&1], 11, 0, "r3").await;
    assert_eq!(sent.preferred_read_replica, BrokerId(3));
    assert!(sent.records.is_none_or(|records| records.is_empty()));
    for rack in ["", "r1", "elsewhere"] {
        let (served, _) = fetched(&cluster.live[&1], 11, 0, rack).await;
        assert_eq!((served.preferred_read_replica, served.error_code), (BrokerId::NONE, ErrorCode::NONE));
        assert_eq!(values(served.records.unwrap_or_default()).0, ["a", "b"]);
    }
    let (served, _) = fetched(&cluster.live[&3], 11, 0, "r3").await;
    assert_eq!(values(served.records.unwrap_or_default()).0, ["a", "b"]);
    let (behind, _) = fetched(&cluster.live[&3], 11, 3, "r3").await;
    assert_eq!(behind.error_code, ErrorCode::OFFSET_NOT_AVAILABLE);
    let (old, _) = fetched(&cluster.live[&3], 10, 0, "").await;
    assert_eq!(old.error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);

    // What only the leader has is shown by nobody.
    cluster.cut(1, 2);
    let _waits = cluster.live[&1].write("c", Required::All);
    cluster
        .until("node 3 has it", |cluster| cluster.live[&3].partition().view().reader().end() == Offset(3))
        .await;
    let (served, _) = fetched(&cluster.live[&3], 11, 0, "r3").await;
    assert_eq!(values(served.records.unwrap_or_default()).0, ["a", "b"]);
    cluster.heal();

    cluster.kill(3, None).await;
    cluster.elect(2, &[1, 2]);
    cluster.until("node 1 follows", |cluster| !cluster.leads(1) && cluster.leads(2)).await;
    let mut request = fetch_request("t", 0, 0);
    request.topics[0].partitions[0].current_leader_epoch = LeaderEpoch(0);
    let live = &cluster.live[&1];
    let data = DataPlane::new(live.node.clone(), live.directory.clone(), FetchLimits::default());
    let mut response = crate::api::fetch::answer(&data, &session(), live.node.now(), 12, request).await;
    let fenced = response.responses.remove(0).partitions.remove(0);
    assert_eq!(fenced.error_code, ErrorCode::FENCED_LEADER_EPOCH);
    assert_eq!(fenced.current_leader.leader_id, BrokerId(2));
    assert_eq!(
        (response.node_endpoints[0].node_id, response.node_endpoints[0].host.as_str()),
        (BrokerId(2), "h2")
    );
}

/// A batch of an idempotent producer.
fn numbered(sequence: i32, value: &str) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    (builder.producer_id, builder.producer_epoch) = (ProducerId(7), ProducerEpoch(0));
    builder.base_sequence = Sequence(sequence);
    batch_of(builder, 1_800_000_000_000, &[value])
}

async fn told(live: &Live, batch: Bytes) -> Written {
    let batch = VerifiedBatch::verify(batch).expect("we built it");
    let (outcome, receiver) = oneshot::channel();
    live.partition().write(vec![Write {
        batch,
        required: Required::All,
        only_in: LeaderEpoch::NONE,
        outcome,
    }]);
    let outcome = live.node.before(live.node.now() + PATIENCE, receiver).await;
    outcome.expect("answered in time").expect("answered").expect("acknowledged")
}

#[tokio::test]
async fn a_producer_that_tries_again_at_the_new_leader_gets_its_old_offset() {
    let mut cluster = Cluster::start(&[]).await;
    for sequence in 0..5 {
        told(&cluster.live[&1], numbered(sequence, "v")).await;
    }
    cluster.converged(1).await;
    cluster.kill(1, None).await;
    cluster.elect(2, &[2, 3]);
    cluster.until("node 2 leads", |cluster| cluster.leads(2)).await;
    assert_eq!(cluster.live[&2].partition().view().reader().latest_epoch().map(|epoch| epoch.0), Some(1));
    for sequence in 1..5 {
        let again = told(&cluster.live[&2], numbered(sequence, "v")).await;
        assert!(again.is_duplicate && again.base == Offset(i64::from(sequence)), "{again:?}");
    }
    assert_eq!(told(&cluster.live[&2], numbered(5, "v")).await.base, Offset(5));
    cluster.converged(2).await;
}

#[tokio::test]
async fn a_fetch_of_another_epoch_or_an_earlier_life_changes_nothing_and_gets_nothing() {
    let mut cluster = Cluster::start(&[]).await;
    cluster.live[&1].acked("a").await;
    cluster.kill(1, None).await;
    cluster.elect(2, &[2, 3]);
    cluster.until("node 2 leads", |cluster| cluster.leads(2)).await;
    cluster.live[&2].acked("b").await;
    cluster.kill(3, None).await;
    let serve = cluster.between.serving.lock().unwrap()[&BrokerId(2)].clone();
    let life = cluster.between.image.lock().unwrap().broker(BrokerId(3)).expect("registered").epoch;
    let fetch = |session, epoch, broker_epoch| ReplicaFetch {
        broker_epoch,
        session,
        round: 0,
        max_wait_ms: 0,
        max_bytes: 1 << 20,
        changed: vec![Standing {
            place: PLACE,
            epoch: LeaderEpoch(epoch),
            end: Offset(1),
            last_epoch: LeaderEpoch(0),
            durable: Offset(1),
            lost: false,
        }],
        gone: Vec::new(),
    };
    for (epoch, why) in [(0, Why::FencedEpoch), (2, Why::UnknownEpoch)] {
        let answer = serve.begin(BrokerId(3), fetch(1, epoch, life)).expect("it begins").run().await;
        assert_eq!(answer.news[0].found, Found::Refused(why));
    }
    let served = serve.begin(BrokerId(3), fetch(2, 1, life)).expect("it begins").run().await;
    assert!(matches!(&served.news[0].found, Found::Batches(batches) if !batches.is_empty()));
    cluster.register(3);
    cluster
        .until("node 2 knows", |cluster| {
            cluster.live[&2].directory.hub.live().get(&BrokerId(3)).is_some_and(|known| *known > life)
        })
        .await;
    let refused = serve.begin(BrokerId(3), fetch(3, 1, life));
    assert_eq!(refused.err(), Some(Talk::StaleBroker));
}

#[tokio::test]
async fn a_replica_that_is_known_to_itself_first_joins_though_nothing_is_written() {
    let cluster = Cluster::start(&[]).await;
    cluster.live[&1].acked("a").await;
    let of = |ids: &[i32]| -> Vec<BrokerId> { ids.iter().map(|id| BrokerId(*id)).collect() };
    cluster.between.change(|state| (state.replicas, state.isr) = (of(&[1, 2]), of(&[1, 2])));
    cluster
        .until("node 3 has nothing", |cluster| cluster.live[&3].directory.partition(PLACE).is_none())
        .await;
    *cluster.between.deaf.lock().unwrap() = Some(BrokerId(1));
    cluster.between.change(|state| state.replicas = of(&[1, 2, 3]));
    cluster
        .until("node 3 has all", |cluster| {
            let partition = cluster.live[&3].directory.partition(PLACE);
            partition.is_some_and(|one| one.view().reader().flushed() == Offset(1))
        })
        .await;
    cluster.live[&1].node.sleep(Duration::from_millis(50)).await; // it has told so
    *cluster.between.deaf.lock().unwrap() = None;
    let image = cluster.between.image.lock().unwrap().clone();
    cluster.between.told.lock().unwrap()[&BrokerId(1)].publish(image);
    cluster.until("node 3 is in sync", |cluster| cluster.isr().len() == 3).await;
}

/// What follows a leader that is followed already: its fetcher runs while the new partitions are opened.
#[tokio::test]
async fn every_replica_of_a_second_topic_is_counted_though_nothing_is_written() {
    let cluster = Cluster::start(&[]).await;
    cluster.live[&1].acked("a").await;
    let second = TopicId([6; 16]);
    let partitions = vec![PartitionState::born(vec![BrokerId(1), BrokerId(2), BrokerId(3)]); 16];
    let created = TopicCreated { topic_id: second, name: "second".into(), partitions };
    cluster.between.commit(&[created.into()]);
    let is_heard = |cluster: &Cluster, index: i32| {
        let place = Place { topic: second, partition: PartitionId(index) };
        let Some(leader) = cluster.live[&1].directory.partition(place) else { return false };
        [2, 3].iter().all(|id| !leader.has_not_heard(BrokerId(*id)))
    };
    cluster.until("all are counted", |cluster| (0..16).all(|index| is_heard(cluster, index))).await;
}

#[tokio::test]
async fn a_replica_that_was_removed_and_added_unseen_is_not_taken_for_what_it_was() {
    let cluster = Cluster::start(&[]).await;
    cluster.live[&1].acked("a").await;
    cluster.converged(1).await;
    let of = |ids: &[i32]| -> Vec<BrokerId> { ids.iter().map(|id| BrokerId(*id)).collect() };
    cluster.cut(1, 3); // node 3 cannot tell that it gave its log up
    *cluster.between.deaf.lock().unwrap() = Some(BrokerId(1));
    cluster.between.change(|state| (state.replicas, state.isr) = (of(&[1, 2]), of(&[1, 2])));
    cluster
        .until("node 3 has nothing", |cluster| cluster.live[&3].directory.partition(PLACE).is_none())
        .await;
    cluster.between.change(|state| state.replicas = of(&[1, 2, 3]));
    *cluster.between.deaf.lock().unwrap() = None;
    let image = cluster.between.image.lock().unwrap().clone();
    cluster.between.told.lock().unwrap()[&BrokerId(1)].publish(image);
    cluster.live[&1].node.sleep(Duration::from_millis(1300)).await; // the sets were looked at
    assert_eq!(cluster.isr(), BTreeSet::from([1, 2]), "node 3 has lost what it had");
    cluster.live[&1].acked("b").await;
    cluster.heal();
    cluster.until("node 3 is in sync", |cluster| cluster.isr().len() == 3).await;
    cluster.live[&1].acked("c").await;
    cluster.converged(1).await;
}

mod mending;
mod starts;
mod unopened;

#[tokio::test]
async fn a_follower_whose_old_log_does_not_go_begins_no_other() {
    let cluster = Cluster::start(&[]).await;
    cluster.live[&1].acked("a").await;
    let follower = &cluster.live[&3];
    let partition = follower.partition();
    let plan = Plan { fault: Fault::DirSyncError, path_contains: "partitions".to_owned(), after: 0 };
    cluster.platters[&3].plan(plan);
    follower.directory.restart(PLACE, &partition, Offset(0)).await;
    assert!(follower.directory.partition(PLACE).is_none(), "it may be there again after a power cut");
    assert!(follower.directory.health().is_offline());
}
