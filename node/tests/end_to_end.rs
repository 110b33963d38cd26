//! A whole broker and the native client in one process, over real sockets and a real disk: what a user does, and
//! what they may rely on. Each test has a broker and a data directory of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use dejaq::broker::Broker;
use dejaq::client::admin::{Admin, ConfigChange, ConfigOwner, NewTopic};
use dejaq::client::cluster::{Cluster, ClusterConfig};
use dejaq::client::consumer::{ConsumeError, ConsumedRecord, Consumer, ConsumerConfig, OutOfRange, StartAt};
use dejaq::client::outcome::Verdict;
use dejaq::client::partitioner::partition_of_key;
use dejaq::client::producer::core::TopicPartition;
use dejaq::client::producer::{Acks, Producer, ProducerConfig, Record};
use dejaq::client::retry::RetryPolicy;
use dejaq::config::Config;
use dejaq::runtime::tokio::TokioRuntime;
use dejaq::runtime::tokio_net::SocketOptions;
use dejaq::runtime::{Mono, Runtime};
use dejaq_storage::file_disk::FileDisk;
use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{Offset, PartitionId};
use dejaq_wire::record::Compression;

const SOON: Duration = Duration::from_secs(20);

/// A broker that can be stopped and started again under its old address.
struct World {
    data: tempfile::TempDir,
    /// The client's own world: a client has nothing in the broker's directory.
    outside: TokioRuntime,
    _scratch: tempfile::TempDir,
    address: String,
    broker: Option<Broker<TokioRuntime>>,
}

impl World {
    async fn start() -> World {
        let (data, scratch) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let disk = FileDisk::open(scratch.path()).expect("a disk");
        let outside = TokioRuntime::new(disk, SocketOptions::default());
        let mut world =
            World { data, outside, _scratch: scratch, address: "127.0.0.1:0".into(), broker: None };
        world.resume().await;
        world
    }

    async fn resume(&mut self) {
        let disk = FileDisk::open(self.data.path()).expect("a disk");
        let config = Config { listen: self.address.clone(), min_free_bytes: 0, ..Config::default() };
        let runtime = TokioRuntime::new(disk, SocketOptions::default());
        let broker = Broker::start(runtime, config).await.expect("the broker starts");
        self.address = broker.address().to_owned();
        self.broker = Some(broker);
    }

    async fn stop(&mut self) {
        self.broker.take().expect("it runs").shutdown().await.expect("it stops cleanly");
    }

    fn cluster(&self) -> Cluster<TokioRuntime> {
        let retry = RetryPolicy { backoff: Duration::from_millis(10), ..RetryPolicy::default() };
        let config = ClusterConfig {
            bootstrap: vec![self.address.clone()],
            allow_auto_create: false,
            retry,
            ..ClusterConfig::default()
        };
        Cluster::new(self.outside.clone(), config)
    }

    fn admin(&self) -> Admin<TokioRuntime> {
        Admin::new(self.cluster())
    }

    fn deadline(&self) -> Mono {
        self.outside.now().plus(SOON)
    }

    async fn create(&self, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
        let configs = configs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let topic = NewTopic { name: topic.into(), partitions: Some(partitions), replication: None, configs };
        self.admin().create_topic(&topic, false, self.deadline()).await.expect("created");
    }

    fn producer(&self, config: ProducerConfig) -> Producer<TokioRuntime> {
        Producer::start(self.cluster(), config).expect("the settings fit")
    }

    async fn consumer(
        &self,
        starts: &[(&str, i32, StartAt)],
        config: ConsumerConfig,
    ) -> Consumer<TokioRuntime> {
        let mut consumer = Consumer::new(self.cluster(), config);
        let starts = starts.iter().map(|(topic, partition, start)| (at(topic, *partition), *start)).collect();
        consumer.assign(starts, self.deadline()).await.expect("assigned");
        consumer
    }

    async fn values(&self, topic: &str, partition: i32, count: usize) -> Vec<Bytes> {
        let mut consumer =
            self.consumer(&[(topic, partition, StartAt::Beginning)], ConsumerConfig::default()).await;
        take(&mut consumer, count).await.into_iter().map(|record| record.value.unwrap_or_default()).collect()
    }
}

fn at(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition: PartitionId(partition) }
}

/// Exactly `count` records, and then none.
async fn take(consumer: &mut Consumer<TokioRuntime>, count: usize) -> Vec<ConsumedRecord> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let records = consumer.poll(SOON).await.expect("nothing is wrong");
        assert!(!records.is_empty(), "only {} of {count} records came", taken.len());
        taken.extend(records);
    }
    let more = consumer.poll(Duration::from_millis(20)).await.expect("nothing is wrong");
    assert_eq!((taken.len(), more.len()), (count, 0), "too many records");
    taken
}

fn record(topic: &str, value: impl Into<Bytes>) -> Record {
    Record::new(topic, value).partition(PartitionId(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_comes_back_under_every_codec_also_after_a_restart() {
    let mut world = World::start().await;
    let mut sent = Vec::new();
    world.create("t", 1, &[]).await;
    for compression in Compression::ALL {
        let producer = world.producer(ProducerConfig { compression, ..ProducerConfig::default() });
        for n in 0..300usize {
            let value: Bytes = (0..n).map(|b| (b * 31 + n) as u8).collect::<Vec<_>>().into();
            sent.push(value.clone());
            let _settled_below =
                producer.send(record("t", value).header("n", n.to_string())).await.expect("taken");
        }
        producer.flush().await;
        let last = producer.send_and_wait(record("t", "last")).await.expect("stored");
        sent.push("last".into());
        assert_eq!(last.offset, Some(Offset(sent.len() as i64 - 1)), "{compression:?}");
    }
    assert_eq!(world.values("t", 0, sent.len()).await, sent);
    world.stop().await;
    world.resume().await;
    assert_eq!(world.values("t", 0, sent.len()).await, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_outlives_restarts_without_loss_repeat_or_reorder() {
    let mut world = World::start().await;
    world.create("t", 2, &[]).await;
    let mut config = ProducerConfig::default();
    config.batch.batch_bytes = 500;
    config.batch.linger = Duration::from_millis(1);
    config.retry.backoff = Duration::from_millis(10);
    let producer = world.producer(config);
    let mut deliveries = Vec::new();
    for n in 0..3000i32 {
        let value = Record::new("t", n.to_string()).partition(PartitionId(n % 2));
        deliveries.push(producer.send(value).await.expect("taken"));
        if n % 1000 == 500 {
            world.stop().await;
            world.resume().await;
        }
    }
    producer.flush().await;
    for delivery in &deliveries {
        delivery.wait().await.expect("a restart is no reason to fail");
    }
    for partition in 0..2 {
        let expected: Vec<Bytes> =
            (0..3000).filter(|n| n % 2 == partition).map(|n| n.to_string().into()).collect();
        assert_eq!(world.values("t", partition, expected.len()).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_lives_from_creation_to_deletion() {
    let world = World::start().await;
    let (admin, deadline) = (world.admin(), world.deadline());
    world.create("orders", 2, &[("retention.ms", "60000")]).await;
    let again = NewTopic { name: "orders".into(), ..NewTopic::default() };
    let refused = admin.create_topic(&again, false, deadline).await.expect_err("there is one");
    assert_eq!(refused.code(), Some(ErrorCode::TOPIC_ALREADY_EXISTS), "{refused}");

    let owner = ConfigOwner::Topic("orders".into());
    let changes = BTreeMap::from([
        ("retention.ms".to_owned(), ConfigChange::Delete),
        ("max.message.bytes".to_owned(), ConfigChange::Set("2000".into())),
    ]);
    admin.alter_configs(&owner, &changes, deadline).await.expect("changed");
    let configs = admin.describe_configs(&owner, deadline).await.expect("shown");
    let own: Vec<_> = configs.into_iter().filter(|c| c.own).map(|c| (c.name, c.value)).collect();
    assert_eq!(own, [("max.message.bytes".to_owned(), Some("2000".to_owned()))]);
    let wrong = BTreeMap::from([("nonsense".to_owned(), ConfigChange::Set("1".into()))]);
    let refused = admin.alter_configs(&owner, &wrong, deadline).await.expect_err("no such setting");
    assert_eq!(refused.code(), Some(ErrorCode::INVALID_CONFIG), "{refused}");

    admin.create_partitions("orders", 5, deadline).await.expect("grown");
    let before = admin.describe_topic("orders", deadline).await.expect("shown");
    assert_eq!(before.available().len(), 5, "every partition has a leader");
    let refused = admin.create_partitions("orders", 3, deadline).await.expect_err("it never shrinks");
    assert_eq!(refused.code(), Some(ErrorCode::INVALID_PARTITIONS), "{refused}");

    admin.delete_topic("orders", deadline).await.expect("deleted");
    assert!(admin.list_topics(deadline).await.expect("listed").iter().all(|topic| &*topic.name != "orders"));
    assert!(admin.describe_topic("orders", deadline).await.is_err());
    let refused = admin.delete_topic("orders", deadline).await.expect_err("it is gone");
    assert_eq!(refused.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), "{refused}");
    world.create("orders", 1, &[]).await;
    let after = admin.describe_topic("orders", deadline).await.expect("shown");
    assert_ne!(before.id, after.id, "a new topic under an old name is another one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_created_again_holds_nothing_of_the_old_one() {
    let world = World::start().await;
    world.create("t", 1, &[]).await;
    world.producer(ProducerConfig::default()).send_and_wait(record("t", "old")).await.expect("stored");
    world.admin().delete_topic("t", world.deadline()).await.expect("deleted");
    world.create("t", 1, &[]).await;
    let stored =
        world.producer(ProducerConfig::default()).send_and_wait(record("t", "new")).await.expect("stored");
    assert_eq!(stored.offset, Some(Offset(0)));
    assert_eq!(world.values("t", 0, 1).await, ["new"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_begins_by_offset_by_time_and_after_what_was_deleted() {
    let world = World::start().await;
    world.create("t", 1, &[]).await;
    let now_ms = world.outside.unix_ms();
    let mut config = ProducerConfig::default();
    config.batch.batch_bytes = 300;
    let producer = world.producer(config);
    for n in 0..100i64 {
        let timed = Record { timestamp_ms: Some(now_ms - 1000 + n), ..record("t", n.to_string()) };
        let _settled_by_the_flush = producer.send(timed).await.expect("taken");
    }
    producer.flush().await;
    for (start, first) in [
        (StartAt::Beginning, 0),
        (StartAt::End, 100),
        (StartAt::Offset(Offset(42)), 42),
        (StartAt::Timestamp(now_ms - 1000 + 63), 63),
        (StartAt::Timestamp(now_ms + 1_000_000), 100),
    ] {
        let consumer = world.consumer(&[("t", 0, start)], ConsumerConfig::default()).await;
        assert_eq!(consumer.position(&at("t", 0)), Some(Offset(first)), "{start:?}");
    }
    let low =
        world.admin().delete_records(&at("t", 0), Some(Offset(30)), world.deadline()).await.expect("trimmed");
    assert_eq!(low, Offset(30));
    let begin = [("t", 0, StartAt::Offset(Offset(7)))];
    let strict = world.consumer(&begin, ConsumerConfig::default()).await.poll(SOON).await;
    let error = strict.expect_err("offset 7 is gone");
    assert!(matches!(error, ConsumeError::OutOfRange { offset: Offset(7), .. }), "{error}");
    let lenient = ConsumerConfig { out_of_range: OutOfRange::Earliest, ..ConsumerConfig::default() };
    let mut consumer = world.consumer(&begin, lenient).await;
    let taken = take(&mut consumer, 70).await;
    assert_eq!((taken[0].offset, taken[69].offset), (Offset(30), Offset(99)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_reader_gets_a_new_record_at_once() {
    let world = World::start().await;
    world.create("t", 1, &[]).await;
    let config = ConsumerConfig { max_wait: Duration::from_secs(10), ..ConsumerConfig::default() };
    let mut consumer = world.consumer(&[("t", 0, StartAt::End)], config).await;
    assert!(consumer.poll(Duration::from_millis(200)).await.expect("nothing is wrong").is_empty());
    let begun = world.outside.now();
    let producer = world.producer(ProducerConfig::default());
    producer.send_and_wait(record("t", "now")).await.expect("stored");
    assert_eq!(consumer.poll(SOON).await.expect("nothing is wrong").len(), 1);
    let waited = world.outside.now().since(begun);
    assert!(waited < Duration::from_secs(8), "the long poll slept through it for {waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_keys_share_a_partition_and_keep_their_order() {
    let world = World::start().await;
    world.create("t", 4, &[]).await;
    let producer = world.producer(ProducerConfig::default());
    for n in 0..800 {
        let keyed = Record::new("t", n.to_string()).key(format!("key {}", n % 13));
        let _settled_by_the_flush = producer.send(keyed).await.expect("taken");
    }
    producer.flush().await;
    let starts: Vec<_> = (0..4).map(|partition| ("t", partition, StartAt::Beginning)).collect();
    let mut consumer = world.consumer(&starts, ConsumerConfig::default()).await;
    let mut last: BTreeMap<Bytes, u32> = BTreeMap::new();
    for record in take(&mut consumer, 800).await {
        let key = record.key.expect("it has one");
        assert_eq!(record.at.partition, partition_of_key(&key, 4), "where Java would put it");
        let text = String::from_utf8(record.value.expect("it has one").to_vec()).expect("digits");
        let n: u32 = text.parse().expect("a number");
        assert!(last.insert(key, n).is_none_or(|before| before < n), "{n} came too late");
    }
    assert_eq!(last.len(), 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_is_a_definite_no_and_stops_nobody() {
    let world = World::start().await;
    world.create("t", 1, &[("max.message.bytes", "1000")]).await;
    let producer = world.producer(ProducerConfig::default());
    producer.send_and_wait(record("t", "before")).await.expect("stored");
    let error = producer.send_and_wait(record("t", vec![7; 5000])).await.expect_err("too large");
    assert_eq!(error.verdict, Verdict::DefiniteNo, "{error}");
    assert!(error.to_string().contains("MESSAGE_TOO_LARGE"), "{error}");
    producer.send_and_wait(record("t", "after")).await.expect("the sequence goes on");
    assert_eq!(world.values("t", 0, 2).await, ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_confirmation_stores() {
    let world = World::start().await;
    world.create("t", 1, &[]).await;
    for acks in [Acks::None, Acks::Leader, Acks::All] {
        let config = ProducerConfig { acks, idempotent: false, ..ProducerConfig::default() };
        let stored =
            world.producer(config).send_and_wait(record("t", format!("{acks:?}"))).await.expect("sent");
        assert_eq!(stored.offset.is_none(), acks == Acks::None);
    }
    let mut stored = world.values("t", 0, 3).await;
    stored.sort();
    assert_eq!(stored, ["All", "Leader", "None"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_producers_share_a_partition_and_each_keeps_its_order() {
    let world = World::start().await;
    world.create("t", 1, &[]).await;
    let mut config = ProducerConfig::default();
    config.batch.batch_bytes = 200;
    let producers = [world.producer(config.clone()), world.producer(config)];
    for n in 0..500 {
        for (which, producer) in producers.iter().enumerate() {
            let _settled_by_the_flush =
                producer.send(record("t", format!("{which} {n:04}"))).await.expect("taken");
        }
    }
    for producer in &producers {
        producer.flush().await;
    }
    let all = world.values("t", 0, 1000).await;
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 1000, "nothing twice");
    for which in ["0 ", "1 "] {
        let own: Vec<_> = all.iter().filter(|value| value.starts_with(which.as_bytes())).collect();
        assert!(own.windows(2).all(|pair| pair[0] < pair[1]), "producer {which} is out of order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_tells_what_it_is_and_what_it_holds() {
    let world = World::start().await;
    world.create("t", 2, &[]).await;
    world
        .producer(ProducerConfig::default())
        .send_and_wait(record("t", vec![1; 1000]))
        .await
        .expect("stored");
    let (admin, deadline) = (world.admin(), world.deadline());
    let cluster = admin.describe_cluster(deadline).await.expect("shown");
    assert_eq!((cluster.brokers.len(), cluster.controller), (1, Some(cluster.brokers[0].id)));
    assert_eq!(*cluster.brokers[0].address, *world.address);
    let dirs = admin.describe_log_dirs(deadline).await.expect("shown");
    let held = dirs.iter().find(|entry| entry.at == at("t", 0)).expect("it has a folder");
    assert!(held.size_bytes > 1000, "{held:?}");
    let topic = admin.describe_topic("t", deadline).await.expect("shown");
    let ends = admin.offsets(&topic, deadline).await.expect("found");
    assert_eq!(ends[&PartitionId(0)], (Some(Offset(0)), Some(Offset(1))));
    assert_eq!(ends[&PartitionId(1)], (Some(Offset(0)), Some(Offset(0))));
}
