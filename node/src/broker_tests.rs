//! A whole broker on a real disk and real sockets: starts, answers, stops, starts again.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::file_disk::FileDisk;
use dejaq_wire::ErrorCode;
use dejaq_wire::frame::{decode_response, encode_request};
use dejaq_wire::ids::{CorrelationId, Offset, PartitionId};
use dejaq_wire::kafka::fetch::{FetchPartition, FetchRequest, FetchTopic};
use dejaq_wire::kafka::metadata::{MetadataRequest, MetadataRequestTopic};
use dejaq_wire::kafka::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use dejaq_wire::kafka::{Records, Request, Response};
use dejaq_wire::record::{BatchBuilder, Compression, NewRecord};

use super::cluster::cluster_id;
use super::*;
use crate::runtime::net::{FrameReader, FrameWriter, Net};
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::tokio_net::{SocketOptions, TokioNet, TokioReader, TokioWriter};

async fn start(dir: &Path) -> Result<Broker<TokioRuntime>, StartError> {
    let disk = FileDisk::open(dir).expect("a directory");
    let config = Config { listen: "127.0.0.1:0".to_owned(), min_free_bytes: 0, ..Config::default() };
    Broker::start(TokioRuntime::new(disk, SocketOptions::default()), config).await
}

struct Client {
    reader: TokioReader,
    writer: TokioWriter,
}

impl Client {
    async fn connect(broker: &Broker<TokioRuntime>) -> Client {
        let (reader, writer) = TokioNet::default().connect(broker.address()).await.expect("it listens");
        Client { reader, writer }
    }

    async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response
    where
        R::Response: Response,
    {
        let frame = encode_request(version, CorrelationId(7), Some("test"), request).expect("it fits");
        self.writer.send(vec![frame]).await.expect("sent");
        let mut frames = Vec::new();
        self.reader.recv(&mut frames, 1, 1 << 30).await.expect("an answer");
        let (correlation, response) = decode_response::<R>(version, frames.remove(0)).expect("decodes");
        assert_eq!(correlation, CorrelationId(7));
        response
    }

    /// Makes the topic by asking for it, as an old client does.
    async fn create(&mut self, topic: &str) {
        let asked = MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![asked]), ..Default::default() };
        for _ in 0..100 {
            let answer = self.call(4, &request).await;
            if answer.topics[0].error_code == ErrorCode::NONE {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{topic} is not created");
    }

    /// Returns the offset of `value`, which is durable then.
    async fn produce(&mut self, topic: &str, value: &str) -> Offset {
        let mut batch = BatchBuilder::new(Compression::None);
        batch.append(&NewRecord { timestamp_ms: 1, value: Some(value.as_bytes()), ..Default::default() });
        let records = Records::from(batch.build().expect("it fits").to_bytes());
        let partition = PartitionProduceData { index: PartitionId(0), records: Some(records) };
        let data = TopicProduceData {
            name: topic.to_owned(),
            partition_data: vec![partition],
            ..Default::default()
        };
        let request =
            ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 10_000, topic_data: vec![data] };
        let answer = self.call(7, &request).await;
        let part = &answer.responses[0].partition_responses[0];
        assert_eq!(part.error_code, ErrorCode::NONE, "{:?}", part.error_message);
        part.base_offset
    }

    /// Everything from the start of the topic, as bytes of its batches.
    async fn fetch(&mut self, topic: &str) -> Bytes {
        let partition = FetchPartition {
            partition: PartitionId(0),
            fetch_offset: Offset(0),
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        let topics =
            vec![FetchTopic { topic: topic.to_owned(), partitions: vec![partition], ..Default::default() }];
        let request = FetchRequest { max_wait_ms: 100, min_bytes: 1, topics, ..Default::default() };
        let answer = self.call(11, &request).await;
        let part = answer.responses[0].partitions[0].clone();
        assert_eq!(part.error_code, ErrorCode::NONE);
        part.records.unwrap_or_default().into_bytes()
    }
}

fn holds(run: &Bytes, text: &str) -> bool {
    run.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_every_stop() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = start(dir.path()).await.expect("an empty directory");
    let mut client = Client::connect(&broker).await;
    client.create("greetings").await;
    assert_eq!(client.produce("greetings", "hello").await, Offset(0));
    assert!(holds(&client.fetch("greetings").await, "hello"));
    broker.shutdown().await.expect("a clean stop");

    let broker = start(dir.path()).await.expect("its own directory");
    let mut client = Client::connect(&broker).await;
    assert!(holds(&client.fetch("greetings").await, "hello"));
    assert_eq!(client.produce("greetings", "again").await, Offset(1));
    broker.shutdown().await.expect("a clean stop");

    let broker = start(dir.path()).await.expect("its own directory");
    let run = Client::connect(&broker).await.fetch("greetings").await;
    assert!(holds(&run, "hello") && holds(&run, "again"));
    broker.shutdown().await.expect("a clean stop");
}

#[tokio::test]
async fn a_data_directory_serves_one_broker_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = start(dir.path()).await.expect("an empty directory");
    let second = start(dir.path()).await.map(|_| ()).expect_err("it is in use");
    assert!(matches!(second, StartError::DataDir(LayoutError::InUse(_))), "{second}");
    first.shutdown().await.expect("a clean stop");
    // The lock is free when the last task of the first has ended, which may be a moment after its shutdown returned.
    let waiting =
        TokioRuntime::new(FileDisk::open(dir.path()).expect("a directory"), SocketOptions::default());
    for _ in 0..500 {
        match start(dir.path()).await {
            Err(StartError::DataDir(LayoutError::InUse(_))) => waiting.sleep(Duration::from_millis(10)).await,
            free => return free.expect("it is free again").shutdown().await.expect("a clean stop"),
        }
    }
    panic!("the directory stayed in use");
}

#[tokio::test]
async fn a_name_that_is_listened_on_is_what_clients_are_told_with_the_port_that_was_bound() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = FileDisk::open(dir.path()).expect("a directory");
    let config = Config { listen: "localhost:0".to_owned(), min_free_bytes: 0, ..Config::default() };
    let runtime = TokioRuntime::new(disk, SocketOptions::default());
    let broker = Broker::start(runtime, config).await.expect("started");
    let (_, port) = broker.address().rsplit_once(':').expect("host:port");
    assert_eq!(broker.advertised(), format!("localhost:{port}"));
    assert_ne!(port, "0");
    broker.shutdown().await.expect("a clean stop");
    for (listen, bound, told) in [
        ("vm:9092", "127.0.0.1:9092", "vm:9092"),
        ("127.0.0.1:0", "127.0.0.1:4711", "127.0.0.1:4711"),
        ("0.0.0.0:9092", "0.0.0.0:9092", "0.0.0.0:9092"),
        ("[::]:9092", "[::]:9092", "[::]:9092"),
    ] {
        assert_eq!(as_listened(listen, bound.to_owned()), told);
    }
}

#[tokio::test]
async fn a_bad_topic_default_is_refused_before_anything_is_touched() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FileDisk::open(dir.path()).expect("a directory");
    let mut config = Config { listen: "127.0.0.1:0".to_owned(), ..Config::default() };
    config.topics.defaults.insert("retention.ms".to_owned(), "soon".to_owned());
    let started = Broker::start(TokioRuntime::new(disk, SocketOptions::default()), config).await;
    assert!(matches!(started, Err(StartError::TopicDefaults(_))));
    let disk = FileDisk::open(dir.path()).expect("a directory");
    assert_eq!(dejaq_storage::Disk::list(&disk, Path::new("")).expect("readable"), []);
}

#[test]
fn a_crash_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let executor = || tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("an executor");
    let first = executor();
    first.block_on(async {
        let broker = start(dir.path()).await.expect("an empty directory");
        let mut client = Client::connect(&broker).await;
        client.create("greetings").await;
        client.produce("greetings", "hello").await;
        drop(broker);
    });
    drop(first); // every task ends where it stands
    executor().block_on(async {
        let broker = start(dir.path()).await.expect("its own directory");
        assert!(holds(&Client::connect(&broker).await.fetch("greetings").await, "hello"));
        broker.shutdown().await.expect("a clean stop");
    });
}

#[test]
fn a_cluster_id_is_22_letters_that_hold_all_128_bits() {
    assert_eq!(cluster_id(0), "A".repeat(22));
    assert_eq!(cluster_id(u128::MAX), format!("{}w", "_".repeat(21)));
    assert_eq!(cluster_id(1), format!("{}Q", "A".repeat(21)));
    assert_eq!(cluster_id(1 << 127), format!("g{}", "A".repeat(21)));
}
