//! Transactions of the native client against a whole broker, over real sockets and a real disk: what is committed is seen
//! whole, what is aborted never; earlier lives are fenced; offsets travel with records; both versions of the protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dejaq::broker::Broker;
use dejaq::client::admin::{Admin, NewTopic};
use dejaq::client::admin_groups;
use dejaq::client::cluster::{Cluster, ClusterConfig};
use dejaq::client::consumer::{Consumer, ConsumerConfig, Isolation, StartAt};
use dejaq::client::group::coordinator::Coordinator;
use dejaq::client::group::{GroupConfig, Standing};
use dejaq::client::offsets::{OffsetSpec, find_as};
use dejaq::client::producer::core::TopicPartition;
use dejaq::client::producer::{Producer, ProducerConfig, Record};
use dejaq::client::retry::RetryPolicy;
use dejaq::client::txn::{
    Pipeline, PipelineConfig, Step, TxnCause, TxnConfig, TxnErrorKind, TxnProducer, TxnVersion, tools,
};
use dejaq::config::Config;
use dejaq::replica::leader::Required;
use dejaq::replica::write::Write;
use dejaq::runtime::tokio::TokioRuntime;
use dejaq::runtime::tokio_net::SocketOptions;
use dejaq::runtime::{Mono, Runtime};
use dejaq_storage::VerifiedBatch;
use dejaq_storage::file_disk::FileDisk;
use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{
    CoordinatorEpoch, Generation, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence,
};
use dejaq_wire::kafka::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest,
};
use dejaq_wire::record::{BatchBuilder, Compression, NewRecord};
use tokio::sync::oneshot;

const SOON: Duration = Duration::from_secs(30);
const BOTH: [TxnVersion; 2] = [TxnVersion::Newest, TxnVersion::One];

struct World {
    _data: tempfile::TempDir,
    outside: TokioRuntime,
    address: String,
    broker: Broker<TokioRuntime>,
}

impl World {
    /// A broker with topics `t`, `in` and `out` of two partitions.
    async fn start() -> World {
        let data = tempfile::tempdir().expect("a folder");
        let disk = FileDisk::open(data.path()).expect("a disk");
        let outside = TokioRuntime::new(disk.clone(), SocketOptions::default());
        let mut config = Config { listen: "127.0.0.1:0".into(), min_free_bytes: 0, ..Config::default() };
        config.groups.initial_delay = Duration::from_millis(50);
        config.groups.min_session = Duration::from_millis(100);
        let runtime = TokioRuntime::new(disk, SocketOptions::default());
        let broker = Broker::start(runtime, config).await.expect("the broker starts");
        let world = World { _data: data, outside, address: broker.address().to_owned(), broker };
        let admin = Admin::new(world.cluster());
        for name in ["t", "in", "out"] {
            let topic = NewTopic {
                name: name.into(),
                partitions: Some(2),
                replication: None,
                configs: BTreeMap::from([("max.message.bytes".to_owned(), "10000".to_owned())]),
            };
            admin.create_topic(&topic, false, world.deadline()).await.expect("created");
        }
        world
    }

    async fn stop(self) {
        self.broker.shutdown().await.expect("it stops cleanly");
    }

    fn cluster(&self) -> Cluster<TokioRuntime> {
        let retry = RetryPolicy { backoff: Duration::from_millis(10), ..RetryPolicy::default() };
        let config =
            ClusterConfig { bootstrap: vec![self.address.clone()], retry, ..ClusterConfig::default() };
        Cluster::new(self.outside.clone(), config)
    }

    fn deadline(&self) -> Mono {
        self.outside.now().plus(SOON)
    }

    async fn producer(&self, id: &str, version: TxnVersion) -> TxnProducer<TokioRuntime> {
        let config = TxnConfig { version, ..TxnConfig::of(id) };
        let mut producer = TxnProducer::start(self.cluster(), config).expect("the settings fit");
        producer.init(self.deadline()).await.expect("it takes the id");
        producer
    }

    /// What a reader sees of a topic, sorted, once `count` are there; and nothing beyond them.
    async fn seen(&self, topic: &str, isolation: Isolation, count: usize) -> Vec<String> {
        let config = ConsumerConfig { isolation, max_wait: Duration::from_millis(20), ..Default::default() };
        let mut consumer = Consumer::new(self.cluster(), config);
        let starts = [0, 1].map(|partition| (at(topic, partition), StartAt::Beginning));
        consumer.assign(starts.into(), self.deadline()).await.expect("the partitions are there");
        let mut seen = Vec::new();
        let mut quiet = 0;
        let deadline = self.deadline();
        while (seen.len() < count || quiet < 3) && self.outside.now() < deadline {
            let records = consumer.poll(Duration::from_millis(50)).await.expect("nothing is wrong");
            quiet = if records.is_empty() { quiet + 1 } else { 0 };
            seen.extend(records.into_iter().map(|r| text(r.value.as_deref())));
        }
        seen.sort();
        seen
    }

    async fn stable_end(&self, topic: &str, partition: i32) -> Offset {
        let at = at(topic, partition);
        let wanted = BTreeMap::from([(at.clone(), OffsetSpec::Latest)]);
        let found = find_as(&self.cluster(), Isolation::ReadCommitted, &wanted, self.deadline()).await;
        found.expect("told")[&at].offset.expect("there is an end")
    }

    async fn committed(&self, group: &str) -> BTreeMap<TopicPartition, Offset> {
        let wanted = BTreeSet::from([at("t", 0)]);
        let coordinator = Coordinator::new(self.cluster(), group);
        let (cluster, isolation) = (self.cluster(), Isolation::ReadCommitted);
        let kept =
            admin_groups::read(&cluster, &coordinator, Some(&wanted), isolation, self.deadline()).await;
        kept.expect("told").into_iter().map(|(at, kept)| (at, kept.offset)).collect()
    }
}

fn text(value: Option<&[u8]>) -> String {
    String::from_utf8(value.expect("has one").to_vec()).expect("text")
}

fn at(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition: PartitionId(partition) }
}

fn record(topic: &str, value: impl ToString, partition: i32) -> Record {
    Record::new(topic, value.to_string()).partition(PartitionId(partition))
}

/// Nobody in particular, of a group without members.
fn nobody(group: &str) -> Standing {
    Standing { group: group.into(), member: String::new(), generation: Generation::NONE, instance: None }
}

#[tokio::test]
async fn what_is_committed_is_seen_and_what_is_aborted_never_is() {
    let world = World::start().await;
    for (life, version) in BOTH.into_iter().enumerate() {
        let mut producer = world.producer("id", version).await;
        for number in 0..12 {
            producer.begin().expect("it is ready");
            for partition in [0, 1, 0] {
                let value = format!("{life}-{number:02}-{partition}");
                let _settled_by_the_end = producer.send(record("t", value, partition)).await.expect("taken");
            }
            match number % 3 {
                0 => producer.abort(world.deadline()).await.expect("aborted"),
                _ => producer.commit(world.deadline()).await.expect("committed"),
            }
        }
        let (_, epoch) = producer.identity_now().expect("it has one");
        match version {
            TxnVersion::Newest => assert_eq!(epoch.0, 12, "each end gives a new epoch"),
            // Only an abort that left something behind asks for one.
            TxnVersion::One => assert!((13..=13 + 4).contains(&epoch.0), "{epoch:?}"),
        }
    }
    let wanted: BTreeSet<String> = (0..2)
        .flat_map(|life| (0..12).filter(|n| n % 3 != 0).map(move |n| (life, n)))
        .flat_map(|(life, n)| [0, 1].map(|partition| format!("{life}-{n:02}-{partition}")))
        .collect();
    let seen = world.seen("t", Isolation::ReadCommitted, 48).await;
    assert_eq!((seen.len(), seen.into_iter().collect::<BTreeSet<_>>()), (48, wanted));
    assert!(world.seen("t", Isolation::ReadUncommitted, 48).await.len() >= 48);
    world.stop().await;
}

#[tokio::test]
async fn an_open_transaction_is_not_seen_and_hides_what_comes_behind_it() {
    let world = World::start().await;
    let mut producer = world.producer("id", TxnVersion::Newest).await;
    producer.begin().expect("it is ready");
    producer.send(record("t", "open", 0)).await.expect("taken").wait().await.expect("stored");
    let plain = Producer::start(world.cluster(), ProducerConfig::default()).expect("the settings fit");
    plain.send_and_wait(record("t", "behind", 0)).await.expect("stored");
    assert_eq!(world.seen("t", Isolation::ReadCommitted, 0).await, Vec::<String>::new());
    assert_eq!(world.seen("t", Isolation::ReadUncommitted, 2).await, ["behind", "open"]);
    assert_eq!(world.stable_end("t", 0).await, Offset(0));
    producer.commit(world.deadline()).await.expect("committed");
    assert_eq!(world.seen("t", Isolation::ReadCommitted, 2).await, ["behind", "open"]);
    world.stop().await;
}

#[tokio::test]
async fn a_new_life_fences_the_one_before_and_aborts_what_it_left() {
    let world = World::start().await;
    for version in BOTH {
        let mut old = world.producer("id", version).await;
        old.begin().expect("it is ready");
        old.send(record("t", "old", 0)).await.expect("taken").wait().await.expect("stored");
        let mut new = world.producer("id", version).await;
        let fenced = old.commit(world.deadline()).await.expect_err("another life has the id");
        assert_eq!(fenced.kind, TxnErrorKind::Fenced, "{fenced}");
        assert_eq!(old.begin().expect_err("it is over").kind, TxnErrorKind::Fenced);
        new.begin().expect("it is ready");
        let _settled = new.send(record("t", format!("new {version:?}"), 0)).await.expect("taken");
        new.commit(world.deadline()).await.expect("committed");
    }
    assert_eq!(world.seen("t", Isolation::ReadCommitted, 2).await, ["new Newest", "new One"]);
    world.stop().await;
}

#[tokio::test]
async fn one_record_that_is_refused_takes_the_transaction_with_it_and_no_other() {
    let world = World::start().await;
    for version in BOTH {
        let mut producer = world.producer("id", version).await;
        for (turn, is_large) in [false, true, false, true].into_iter().enumerate() {
            producer.begin().expect("it is ready");
            let value = format!("{version:?} {turn}");
            let _settled_by_the_end = producer.send(record("t", &value, 1)).await.expect("taken");
            if is_large {
                let large = producer.send(record("t", "x".repeat(20_000), 0)).await.expect("taken");
                large.wait().await.expect_err("it is too large for the topic");
                let error = producer.send(record("t", "late", 1)).await.expect_err("the transaction is lost");
                assert_eq!(error.kind, TxnErrorKind::Abortable, "{error}");
                let error = producer.commit(world.deadline()).await.expect_err("and cannot be committed");
                assert!(matches!(error.cause, TxnCause::Record(_)), "{error:?}");
                producer.abort(world.deadline()).await.expect("aborted");
            } else {
                producer.commit(world.deadline()).await.expect("committed");
            }
        }
    }
    let seen = world.seen("t", Isolation::ReadCommitted, 4).await;
    assert_eq!(seen, ["Newest 0", "Newest 2", "One 0", "One 2"]);
    world.stop().await;
}

#[tokio::test]
async fn offsets_are_committed_with_the_transaction_or_not_at_all() {
    let world = World::start().await;
    for (turn, version) in BOTH.into_iter().enumerate() {
        let group = format!("g{turn}");
        let mut producer = world.producer("id", version).await;
        let offsets = |offset| BTreeMap::from([(at("t", 0), Offset(offset))]);
        for (offset, is_kept) in [(5, true), (9, false)] {
            producer.begin().expect("it is ready");
            let sent = producer.send_offsets(offsets(offset), nobody(&group), world.deadline()).await;
            sent.expect("taken");
            match is_kept {
                true => producer.commit(world.deadline()).await.expect("committed"),
                false => producer.abort(world.deadline()).await.expect("aborted"),
            }
            assert_eq!(world.committed(&group).await, offsets(5));
        }
        // A member that nobody knows is put out, and its transaction with it.
        producer.begin().expect("it is ready");
        let stranger = Standing { member: "stranger".into(), generation: Generation(7), ..nobody(&group) };
        let error =
            producer.send_offsets(offsets(77), stranger, world.deadline()).await.expect_err("refused");
        assert_eq!(error.kind, TxnErrorKind::Abortable, "{error}");
        producer.commit(world.deadline()).await.expect_err("only an abort is left");
        producer.abort(world.deadline()).await.expect("aborted");
        assert_eq!(world.committed(&group).await, offsets(5));
    }
    world.stop().await;
}

#[tokio::test]
async fn a_pipeline_reflects_every_input_once_though_steps_are_dropped_and_members_change() {
    let world = World::start().await;
    let plain = Producer::start(world.cluster(), ProducerConfig::default()).expect("the settings fit");
    for n in 0..400 {
        let _settled_by_the_flush = plain.send(record("in", n, n % 2)).await.expect("taken");
    }
    plain.flush().await;
    let double = |record: &dejaq::client::consumer::ConsumedRecord| {
        let n: i32 = text(record.value.as_deref()).parse().expect("a number");
        vec![self::record("out", 2 * n, n % 2)]
    };
    for life in 0..4 {
        let mut group = GroupConfig {
            start: Some(StartAt::Beginning),
            session_timeout: Duration::from_secs(2),
            heartbeat_every: Duration::from_millis(100),
            ..GroupConfig::of("pipe")
        };
        group.consumer.max_poll_records = 17;
        group.consumer.max_wait = Duration::from_millis(20);
        let config =
            PipelineConfig { group, producer: TxnConfig::of("pipe-0"), patience: Duration::from_secs(20) };
        let started = Pipeline::start(world.cluster(), config, &["in"], |_| {}, world.deadline()).await;
        let mut pipeline = started.expect("it takes the id");
        let (mut idle, mut steps) = (0, 0);
        while idle < 20 && (life == 3 || steps < 8) {
            // Some steps are dropped wherever they are.
            let allowance = Duration::from_millis(if steps % 3 == 2 { 3 + steps } else { 5_000 });
            let stepped = tokio::select! {
                biased; // what is done counts
                stepped = pipeline.step(Duration::from_millis(100), double) => Some(stepped),
                () = world.outside.sleep_until(world.outside.now().plus(allowance)) => None,
            };
            match stepped {
                Some(Ok(Step::Idle)) => idle += 1,
                Some(Ok(Step::Committed { inputs, outputs })) => {
                    assert_eq!(inputs, outputs);
                    (idle, steps) = (0, steps + 1);
                }
                Some(Ok(Step::Aborted { why })) => panic!("nothing asks for that: {why}"),
                Some(Err(error)) => panic!("{error}"),
                None => steps += 1,
            }
        }
        if life % 2 == 0 {
            pipeline.close(world.deadline()).await.expect("it leaves");
        } // else it dies, and the next life fences it
    }
    let mut wanted: Vec<String> = (0..400).map(|n| (2 * n).to_string()).collect();
    wanted.sort();
    assert_eq!(world.seen("out", Isolation::ReadCommitted, 400).await, wanted);
    world.stop().await;
}

#[tokio::test]
async fn an_operator_sees_what_is_open_and_ends_it() {
    let world = World::start().await;
    let cluster = world.cluster();
    let mut producer = world.producer("left", TxnVersion::Newest).await;
    producer.begin().expect("it is ready");
    producer.send(record("t", "open", 1)).await.expect("taken").wait().await.expect("stored");
    let listed = tools::list(&cluster, &tools::Filter::default(), world.deadline()).await.expect("told");
    assert_eq!((listed[0].id.as_str(), listed[0].state.as_str()), ("left", "Ongoing"));
    let none = tools::Filter { states: vec!["Empty".into()], ..Default::default() };
    assert_eq!(tools::list(&cluster, &none, world.deadline()).await.expect("told"), []);
    let described = tools::describe(&cluster, "left", world.deadline()).await.expect("told");
    assert_eq!(described.partitions, BTreeSet::from([at("t", 1)]));
    let all = [at("t", 0), at("t", 1)];
    let open = tools::open(&cluster, &all, world.deadline()).await.expect("told");
    assert_eq!((open.len(), open[0].id.as_deref(), open[0].start), (1, Some("left"), Offset(0)));
    let hanging = tools::hanging(&cluster, &all, i64::MAX, world.deadline()).await.expect("told");
    assert_eq!(hanging, [], "its coordinator knows of it");
    let missing = tools::take_over(&cluster, "nobody", world.deadline()).await.expect_err("nobody has it");
    let tools::ToolError::Refused { code, .. } = missing else { panic!("{missing}") };
    assert_eq!(code, ErrorCode::TRANSACTIONAL_ID_NOT_FOUND);
    tools::take_over(&cluster, "left", world.deadline()).await.expect("taken over");
    assert_eq!(producer.commit(world.deadline()).await.expect_err("fenced").kind, TxnErrorKind::Fenced);
    assert_eq!(world.seen("t", Isolation::ReadCommitted, 0).await, Vec::<String>::new());
    // By its place: refused, since its coordinator has it.
    let mut producer = world.producer("left", TxnVersion::Newest).await;
    producer.begin().expect("it is ready");
    producer.send(record("t", "open", 0)).await.expect("taken").wait().await.expect("stored");
    let missing = tools::abort_at(&cluster, &at("t", 0), Offset(7), world.deadline()).await;
    missing.expect_err("none begins there");
    let coordinated = tools::abort_at(&cluster, &at("t", 0), Offset(0), world.deadline()).await;
    let error = coordinated.expect_err("its coordinator would end the rest of it otherwise");
    assert!(matches!(&error, tools::ToolError::Coordinated { id } if id == "left"), "{error}");
    assert!(error.cure().contains("dejaq txn abort left"), "{}", error.cure());
    producer.commit(world.deadline()).await.expect("nothing was ended");
    assert_eq!(world.seen("t", Isolation::ReadCommitted, 1).await, ["open"]);
    world.stop().await;
}

/// What no coordinator knows of: nothing of ours leaves it behind, so it is put into the log directly.
#[tokio::test]
async fn what_hangs_is_found_and_ended_by_its_place() {
    let world = World::start().await;
    let cluster = world.cluster();
    let mut builder = BatchBuilder::new(Compression::None);
    (builder.producer_id, builder.producer_epoch) = (ProducerId(4242), ProducerEpoch(0));
    (builder.base_sequence, builder.transactional) = (Sequence::ZERO, true);
    builder.append(&NewRecord { timestamp_ms: 1, key: None, value: Some(b"left"), headers: &[] });
    let batch = builder.build().expect("nothing is compressed").to_bytes();
    let batch = VerifiedBatch::verify(batch).expect("it is whole");
    let partition =
        world.broker.directory().table().named("t").map(|topic| topic.partition(PartitionId(0)).cloned());
    let Some(Ok(partition)) = partition else { panic!("it is led here") };
    let (outcome, receiver) = oneshot::channel();
    partition.write(vec![Write { batch, required: Required::All, only_in: LeaderEpoch::NONE, outcome }]);
    receiver.await.expect("it is told").expect("it is there");
    assert_eq!(world.stable_end("t", 0).await, Offset(0));
    let all = [at("t", 0), at("t", 1)];
    let young = tools::hanging(&cluster, &all, 0, world.deadline()).await.expect("told");
    assert_eq!(young, [], "it was written to after that");
    let hanging = tools::hanging(&cluster, &all, i64::MAX, world.deadline()).await.expect("told");
    assert_eq!((hanging.len(), hanging[0].producer, hanging[0].start), (1, ProducerId(4242), Offset(0)));
    tools::abort_at(&cluster, &at("t", 0), Offset(0), world.deadline()).await.expect("ended");
    assert_eq!(world.stable_end("t", 0).await, Offset(2));
    let hanging = tools::hanging(&cluster, &all, i64::MAX, world.deadline()).await.expect("told");
    assert_eq!(hanging, [], "it is over");
    assert_eq!(world.seen("t", Isolation::ReadCommitted, 0).await, Vec::<String>::new());
    world.stop().await;
}

/// A marker from outside, with a coordinator epoch, for what a producer has open in `t`-0.
async fn marker_from_outside(world: &World, of: &tools::OpenTxn, epoch: CoordinatorEpoch) -> ErrorCode {
    let (connection, _) =
        world.cluster().leader("t", PartitionId(0), world.deadline()).await.expect("it is led");
    let topic = WritableTxnMarkerTopic { name: "t".into(), partition_indexes: vec![PartitionId(0)] };
    let marker = WritableTxnMarker {
        producer_id: of.producer,
        producer_epoch: of.epoch,
        transaction_result: false,
        topics: vec![topic],
        coordinator_epoch: epoch,
    };
    let request = WriteTxnMarkersRequest { markers: vec![marker] };
    let answer = connection.call(&request, world.deadline()).await.expect("answered");
    answer.markers[0].topics[0].partitions[0].error_code
}

#[tokio::test]
async fn a_marker_of_a_coordinator_that_never_was_does_not_shut_out_those_that_are() {
    let world = World::start().await;
    let mut producer = world.producer("mine", TxnVersion::Newest).await;
    producer.begin().expect("it is ready");
    producer.send(record("t", "kept", 0)).await.expect("taken").wait().await.expect("stored");
    let open = tools::open(&world.cluster(), &[at("t", 0)], world.deadline()).await.expect("told");
    for epoch in [1, 1000, i32::MAX, -2] {
        let code = marker_from_outside(&world, &open[0], CoordinatorEpoch(epoch)).await;
        assert_eq!(code, ErrorCode::INVALID_REQUEST, "{epoch}");
    }
    producer.commit(world.deadline()).await.expect("its own coordinator ends it");
    assert_eq!(world.seen("t", Isolation::ReadCommitted, 0).await, ["kept"]);
    world.stop().await;
}
