//! A broker without sockets, on a disk in memory: for tests of partitions and of APIs through the service.
//!
//! Everything is real but the disk and the wall clock: metadata log, controller, directory, dispatch.

use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::file_disk::FileDisk;
use dejaq_storage::model_disk::random::stream;
use dejaq_storage::model_disk::{CrashMode, Latency, ModelDisk, Op, Pause, Platter, Setup};
use dejaq_storage::{DataDir, Expect};
use dejaq_wire::frame::{decode_response, encode_request};
use dejaq_wire::ids::{BrokerEpoch, BrokerId, CorrelationId, LeaderEpoch, Offset, PartitionId, TopicId};
use dejaq_wire::kafka;
use dejaq_wire::kafka::Records;
use dejaq_wire::kafka::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use dejaq_wire::kafka::fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionData};
use dejaq_wire::kafka::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData,
};
use dejaq_wire::peer::FEATURE_LEVEL;
use dejaq_wire::record::{BatchBuilder, Batches, Compression, NewRecord};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::control_plane::ControlPlane;
use super::data_plane::{DataPlane, FetchLimits};
use super::dispatch::{Api, Parts};
use super::group_plane::GroupPlane;
use super::init_producer_id::ProducerIds;
use crate::config::Config;
use crate::controller::driver::tests::{alone, start_alone};
use crate::controller::lease::Lease;
use crate::controller::member::Member;
use crate::controller::{Controller, Reach, Settings as ControllerSettings};
use crate::coordinator::group::{Groups, Settings as GroupSettings};
use crate::coordinator::transactions::Transactions;
use crate::coordinator::{Coordinators, Shards, coordinators};
use crate::metadata::Published;
use crate::metadata::level::Levels;
use crate::peer::{ClusterId, Identity, PeerLimits, Peers};
use crate::replica::{Directory, NotClean, NotStarted, Partition, Settings};
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::tokio_net::{SocketOptions, TokioNet};
use crate::runtime::{Mono, Runtime};
use crate::server::service::{Reply, Request, Service, Session, Started};

const ME: BrokerId = BrokerId(1);

/// One incarnation of a node: the real monotonic clock, a wall clock that tests set, tasks that a kill drops.
#[derive(Clone)]
pub(crate) struct Node {
    real: TokioRuntime,
    pub disk: ModelDisk,
    tasks: Arc<Mutex<JoinSet<()>>>,
    unix_ms: Arc<AtomicI64>,
}

impl Node {
    /// A node on this disk; `dir` is for what it never uses of the real one.
    pub fn on(disk: ModelDisk, dir: &std::path::Path, unix_ms: Arc<AtomicI64>) -> Node {
        let real = FileDisk::open(dir).expect("the directory is there");
        Node { real: TokioRuntime::new(real, SocketOptions::default()), disk, tasks: Arc::default(), unix_ms }
    }

    /// Ends every task where it stands.
    pub async fn drop_tasks(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

impl Runtime for Node {
    type Disk = ModelDisk;
    type Net = TokioNet;
    fn now(&self) -> Mono {
        self.real.now()
    }
    fn unix_ms(&self) -> i64 {
        self.unix_ms.load(Ordering::Relaxed)
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

/// Lets syncs through, or holds them.
pub(crate) struct Gate(watch::Sender<bool>);

impl Gate {
    pub fn close(&self) {
        self.0.send_replace(false);
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }
}

impl Latency for Gate {
    fn pause(&self, op: Op, _bytes: u64) -> Pause {
        let mut is_open = self.0.subscribe();
        Box::pin(async move {
            if op == Op::Sync {
                let _ = is_open.wait_for(|is_open| *is_open).await; // the world is gone
            }
        })
    }
}

/// What outlives a node: its disk and the time.
pub(crate) struct World {
    pub platter: Platter,
    pub gate: Arc<Gate>,
    unix_ms: Arc<AtomicI64>,
    dir: tempfile::TempDir,
    pub settings: Settings,
    pub limits: FetchLimits,
    pub groups: GroupSettings,
    pub config: Config,
    /// Until when nobody else coordinates for certain.
    pub lease: Lease,
}

/// One life of a broker.
pub(crate) struct Life {
    pub node: Node,
    pub directory: Arc<Directory<Node>>,
    pub api: Api<Node>,
    pub data: Arc<DataPlane<Node>>,
    data_dir: Arc<DataDir<ModelDisk>>,
    controller: Controller,
    pub session: Arc<Session>,
    pub shards: Arc<Shards<Node, Groups>>,
    pub transactions: Arc<Transactions<Node>>,
}

impl World {
    pub fn new() -> World {
        let _ = tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::DEBUG).try_init();
        let gate = Arc::new(Gate(watch::Sender::new(true)));
        let latency: Arc<dyn Latency> = gate.clone();
        World {
            platter: Platter::new(Setup { latency: Some(latency), ..Setup::default() }),
            gate,
            unix_ms: Arc::new(AtomicI64::new(1_800_000_000_000)),
            dir: tempfile::tempdir().expect("a temporary directory"),
            settings: Settings::of(ME),
            limits: FetchLimits::default(),
            groups: GroupSettings { initial_delay: Duration::ZERO, ..GroupSettings::default() },
            config: few_homes(),
            lease: Lease::endless(),
        }
    }

    /// Lets the wall clock jump.
    pub fn pass_ms(&self, ms: i64) {
        self.unix_ms.fetch_add(ms, Ordering::Relaxed);
    }

    pub async fn start(&self) -> Life {
        self.try_start().await.expect("the node starts")
    }

    /// A broker with a topic `t` of two partitions.
    pub async fn with_topic(&self, configs: &[(&str, &str)]) -> Life {
        let life = self.start().await;
        life.create("t", 2, configs).await;
        life
    }

    pub async fn try_start(&self) -> Result<Life, NotStarted> {
        let node = Node::on(self.platter.mount(), self.dir.path(), self.unix_ms.clone());
        let expect = Expect {
            cluster_id: String::new(),
            node_id: ME,
            new_cluster_id: "c".into(),
            new_directory_id: [1; 16],
        };
        let data_dir = DataDir::open(node.disk.clone(), expect).await.expect("the directory is ours");
        let boot = alone(ControllerSettings::default());
        let started = start_alone(&node, &data_dir, boot).await.expect("the metadata reads back");
        let data_dir = Arc::new(data_dir);
        let published = started.published.clone();
        let image = published.current();
        let settings = self.settings.clone();
        let directory = Directory::start(node.clone(), settings, data_dir.clone(), image.clone()).await?;
        published.applied(&image);
        let peers = Peers::new(
            node.clone(),
            Identity { node: ME, cluster: ClusterId::default(), speaks: FEATURE_LEVEL },
            PeerLimits::default(),
        );
        let settings = coordinators::Settings { groups: self.groups.clone(), ..Default::default() };
        let coordinators = Coordinators::new(&node, &directory, &published, &peers, settings);
        coordinators.apply(&image);
        let shards = coordinators.groups.clone();
        let transactions = coordinators.transactions.clone();
        let member = Member::new(ME, started.broker_epoch, Levels::default(), self.lease.clone());
        let (runtime, of_groups) = (node.clone(), shards.clone());
        let groups = GroupPlane { runtime, shards: of_groups, published: published.clone(), member };
        node.spawn("apply", follow(published.clone(), directory.clone(), coordinators, image.end()));
        let data = Arc::new(DataPlane::new(node.clone(), directory.clone(), self.limits));
        let control = ControlPlane {
            runtime: node.clone(),
            reach: Reach::alone(node.clone(), started.controller.clone(), ME),
            published,
            cluster_id: "c".into(),
            settings: Arc::new(ControllerSettings::default()),
            config: Arc::new(self.config.clone()),
        };
        let producer_ids = ProducerIds::new(ME, started.broker_epoch);
        let of_tests = transactions.clone();
        let api = Api::new(Parts { data: data.clone(), control, groups, transactions, producer_ids });
        let session = Arc::new(Session::new(1, "peer:1".into(), "front:9092".into()));
        let controller = started.controller;
        Ok(Life { node, directory, api, data, data_dir, controller, session, shards, transactions: of_tests })
    }
}

/// Tests are about one group; few partitions of the offsets topic make them faster.
fn few_homes() -> Config {
    let mut config = Config::default();
    config.groups.partitions = 2;
    config
}

/// Brings the partitions in line with every new image.
pub(crate) async fn follow_partitions(
    published: Published,
    directory: Arc<Directory<Node>>,
    mut seen: Offset,
) {
    loop {
        let image = published.after(seen).await;
        directory.apply(&image).await;
        published.applied(&image);
        seen = image.end();
    }
}

async fn follow(
    published: Published,
    directory: Arc<Directory<Node>>,
    coordinators: Coordinators<Node>,
    mut seen: Offset,
) {
    loop {
        let image = published.after(seen).await;
        directory.apply(&image).await;
        coordinators.apply(&image);
        published.applied(&image);
        seen = image.end();
    }
}

impl Life {
    /// As SIGTERM: everything is closed, the data directory is marked clean.
    pub async fn stop(self) -> Result<(), NotClean> {
        let Life { node, directory, api, data, data_dir, controller, shards, .. } = self;
        shards.stop();
        let closed = directory.open_partitions();
        directory.shutdown().await?;
        controller.close().await.expect("the metadata log closes");
        node.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        drop((directory, api, data, shards));
        let data_dir = Arc::into_inner(data_dir).expect("nobody else has it after the shutdown");
        data_dir.mark_clean(BrokerEpoch::NONE, &closed).await.expect("the marker is written");
        node.disk.platter().kill();
        Ok(())
    }

    /// As `kill -9`.
    pub async fn kill(self) {
        let platter = self.node.disk.platter();
        platter.kill();
        self.node.drop_tasks().await;
    }

    /// As a power cut that takes all that may be taken.
    pub async fn cut_power(self, mode: CrashMode) {
        let platter = self.node.disk.platter();
        platter.crash(&mut stream(7, "crash", 0), mode);
        self.node.drop_tasks().await;
    }

    /// Starts several requests in one turn.
    pub async fn turn(&self, requests: Vec<Request>) -> Vec<Started> {
        self.api.start_turn(&self.session, requests).done().await
    }

    pub async fn reply(&self, request: Request) -> Reply {
        self.finish(self.turn(vec![request]).await.remove(0)).await
    }

    /// The reply of a request that was started, or a panic after 20 seconds.
    pub async fn finish(&self, started: Started) -> Reply {
        match started {
            Started::Done(reply) => reply,
            Started::Later(pending) => {
                let alarm = self.node.now().plus(Duration::from_secs(20));
                self.node.before(alarm, pending).await.expect("an answer within 20 s")
            }
        }
    }

    /// Asks as a client does, through the bytes.
    pub async fn ask<Q: kafka::Request>(&self, version: i16, request: &Q) -> Q::Response {
        let reply = self.reply(self.request(version, request)).await;
        answer_of::<Q>(version, reply)
    }

    pub fn request<Q: kafka::Request>(&self, version: i16, request: &Q) -> Request {
        let frame = encode_request(version, CorrelationId(5), Some("t"), request).expect("it fits").concat();
        let (header, body) = dejaq_wire::frame::decode_request_header(frame.into()).expect("we wrote it");
        Request {
            api: header.api,
            version,
            correlation_id: header.correlation_id,
            client_id: None,
            body,
            received_at: self.node.now(),
        }
    }

    /// Whether a topic was made.
    pub async fn try_create(&self, name: &str, partitions: i32) -> bool {
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
        self.ask(7, &request).await.topics[0].error_code.is_none()
    }

    pub async fn create(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
            name: (*name).into(),
            value: Some((*value).into()),
        };
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
        let response = self.ask(7, &request).await;
        let result = &response.topics[0];
        assert!(result.error_code.is_none(), "{result:?}");
    }

    pub fn partition(&self, topic: &str, index: i32) -> Arc<Partition<Node>> {
        let table = self.directory.table();
        let entry = table.named(topic).expect("the topic is here");
        entry.partition(PartitionId(index)).expect("the partition is here").clone()
    }

    pub fn topic_id(&self, topic: &str) -> TopicId {
        self.directory.table().named(topic).expect("the topic is here").id
    }

    /// Produces one batch with acks=all and returns its answer.
    pub async fn produce(&self, topic: &str, values: &[&str]) -> PartitionProduceResponse {
        self.produce_with(-1, topic, batch(self.node.unix_ms(), values)).await
    }

    /// The same to a certain partition.
    pub async fn produce_to(&self, topic: &str, index: i32, values: &[&str]) -> PartitionProduceResponse {
        let request = produce_request(-1, topic, index, batch(self.node.unix_ms(), values));
        let response = self.ask(12, &request).await;
        response.responses[0].partition_responses[0].clone()
    }

    pub async fn produce_with(&self, acks: i16, topic: &str, batch: Bytes) -> PartitionProduceResponse {
        let request = produce_request(acks, topic, 0, batch);
        self.ask(9, &request).await.responses.remove(0).partition_responses.remove(0)
    }

    /// Fetches partition 0 from `offset` without waiting.
    pub async fn fetch(&self, topic: &str, offset: i64) -> PartitionData {
        let request = fetch_request(topic, offset, 0);
        self.ask(11, &request).await.responses.remove(0).partitions.remove(0)
    }

    /// Every value of partition 0, read from the start of its log.
    pub async fn values(&self, topic: &str) -> Vec<String> {
        let mut at = self.partition(topic, 0).view().reader().start().0;
        let mut all = Vec::new();
        loop {
            let answer = self.fetch(topic, at).await;
            assert!(answer.error_code.is_none(), "{answer:?}");
            let (values, next) = values(answer.records.unwrap_or_default());
            let Some(next) = next else { return all };
            assert!(next.0 > at, "the fetch at {at} moves on");
            all.extend(values);
            at = next.0;
        }
    }
}

pub(crate) fn answer_of<Q: kafka::Request>(version: i16, reply: Reply) -> Q::Response {
    match reply {
        Reply::Frame(frame) => {
            let frame = Bytes::from(frame.concat());
            let (correlation_id, response) = decode_response::<Q>(version, frame).expect("it decodes");
            assert_eq!(correlation_id, CorrelationId(5));
            response
        }
        Reply::Nothing => panic!("no answer"),
        Reply::Close(why) => panic!("closed: {why}"),
    }
}

pub(crate) fn batch(timestamp_ms: i64, values: &[&str]) -> Bytes {
    batch_of(BatchBuilder::new(Compression::None), timestamp_ms, values)
}

pub(crate) fn batch_of(mut builder: BatchBuilder, timestamp_ms: i64, values: &[&str]) -> Bytes {
    for value in values {
        builder.append(&NewRecord { timestamp_ms, value: Some(value.as_bytes()), ..Default::default() });
    }
    builder.build().expect("small batches build").to_bytes()
}

pub(crate) fn produce_request(acks: i16, topic: &str, index: i32, batch: Bytes) -> ProduceRequest {
    let part = PartitionProduceData { index: PartitionId(index), records: Some(Records::from(batch)) };
    let topic = TopicProduceData { name: topic.into(), partition_data: vec![part], ..Default::default() };
    ProduceRequest { acks, timeout_ms: 5_000, topic_data: vec![topic], ..Default::default() }
}

pub(crate) fn fetch_request(topic: &str, offset: i64, max_wait_ms: i32) -> FetchRequest {
    let part = FetchPartition {
        partition: PartitionId(0),
        fetch_offset: Offset(offset),
        partition_max_bytes: 1 << 20,
        current_leader_epoch: LeaderEpoch::NONE,
        ..Default::default()
    };
    let topic = FetchTopic { topic: topic.into(), partitions: vec![part], ..Default::default() };
    FetchRequest { max_wait_ms, min_bytes: 1, max_bytes: 1 << 20, topics: vec![topic], ..Default::default() }
}

/// The values of a fetch answer, and where to read on if there is any.
pub(crate) fn values(records: Records) -> (Vec<String>, Option<Offset>) {
    let mut values = Vec::new();
    let mut next = None;
    for batch in Batches::new(records.into_bytes()) {
        let batch = batch.expect("whole batches");
        batch.check_crc().expect("a good crc");
        for record in batch.records(1 << 20).expect("it reads") {
            let value = record.expect("it reads").value.expect("no tombstones here");
            values.push(String::from_utf8(value.to_vec()).expect("text"));
        }
        next = Some(batch.header.next_offset());
    }
    (values, next)
}
