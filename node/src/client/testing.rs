//! A small broker for tests of the client: one process, topics in memory, faults by script.
//!
//! Owns: Kafka's sequence rules for idempotent producers, offsets, long-poll-free fetch, and [`Fault`]s that strike the
//! produce requests one after the other. Leaves out: everything that the client's tests do not need.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::file_disk::FileDisk;
use dejaq_wire::api::{ApiKey, advertise};
use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::frame::{decode_request_header, encode_response};
use dejaq_wire::ids::{
    BrokerId, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId,
};
use dejaq_wire::kafka::api_versions::ApiVersionsResponse;
use dejaq_wire::kafka::fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData};
use dejaq_wire::kafka::init_producer_id::InitProducerIdResponse;
use dejaq_wire::kafka::list_offsets::{
    ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use dejaq_wire::kafka::metadata::{
    MetadataRequest, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition,
    MetadataResponseTopic,
};
use dejaq_wire::kafka::produce::{
    PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceResponse,
};
use dejaq_wire::kafka::{Request, Response};
use dejaq_wire::record::Batch;
use dejaq_wire::record::produced::check_produced;

use crate::runtime::Runtime;
use crate::runtime::net::{Frame, FrameReader, FrameWriter, Listener, Net};
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::tokio_net::SocketOptions;

/// What happens to one produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is stored and answered.
    None,
    /// The connection ends before it is stored.
    DropBefore,
    /// It is stored, and the connection ends before it is answered.
    DropAfter,
    /// It is not stored, and answered by this code.
    Refuse(ErrorCode),
    /// It is stored, and answered by this code.
    StoreAndSay(ErrorCode),
    /// It is stored and never answered.
    Stall,
}

/// One partition.
#[derive(Debug, Default)]
pub struct Partition {
    /// What is stored, in order, with offsets.
    pub batches: Vec<Batch>,
    /// First offset that a fetch may ask for.
    pub start: i64,
    producers: BTreeMap<ProducerId, Remembered>,
}

/// The epoch of a producer, its last five batches with their offsets, and the sequence that comes next.
type Remembered = (ProducerEpoch, VecDeque<(Sequence, i64)>, Sequence);

impl Partition {
    /// The offset behind the last record.
    pub fn end(&self) -> Offset {
        self.batches.last().map_or(Offset(0), |batch| batch.header.next_offset())
    }

    /// Every value, in order.
    pub fn values(&self) -> Vec<Bytes> {
        let records = self.batches.iter().flat_map(|b| b.records(1 << 30).expect("readable"));
        records.map(|record| record.expect("whole").value.unwrap_or_default()).collect()
    }

    fn append(&mut self, mut batch: Batch) -> Result<i64, ErrorCode> {
        let header = &batch.header;
        let end = self.end();
        if header.has_producer() {
            let fresh = (header.producer_epoch, VecDeque::new(), header.base_sequence);
            let (epoch, recent, next) = self.producers.entry(header.producer_id).or_insert(fresh);
            if header.producer_epoch < *epoch {
                return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
            }
            if header.producer_epoch > *epoch {
                (*epoch, *next) = (header.producer_epoch, Sequence::ZERO);
                recent.clear();
            }
            if let Some((_, offset)) = recent.iter().find(|(base, _)| *base == header.base_sequence) {
                return Ok(*offset);
            }
            if header.base_sequence != *next {
                return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
            }
            *next = header.base_sequence.plus(header.records);
            recent.push_back((header.base_sequence, end.0));
            if recent.len() > 5 {
                recent.pop_front();
            }
        }
        batch.place(end, LeaderEpoch(0));
        self.batches.push(batch);
        Ok(end.0)
    }
}

#[derive(Default)]
struct State {
    topics: BTreeMap<String, (TopicId, Vec<Partition>)>,
    faults: VecDeque<Fault>,
    producers: i64,
    hang_ups: usize,
}

/// The broker. Clones are the same broker.
#[derive(Clone)]
pub struct TestBroker {
    state: Arc<Mutex<State>>,
    /// Where it listens, as `host:port`.
    pub address: String,
    /// Its world.
    pub runtime: TokioRuntime,
}

/// A world for tests; its disk is never touched.
pub fn runtime() -> TokioRuntime {
    let disk = FileDisk::open(&std::env::temp_dir()).expect("a folder for temporary files");
    TokioRuntime::new(disk, SocketOptions::default())
}

impl TestBroker {
    /// Listens on a free port of the loopback interface.
    pub async fn start() -> TestBroker {
        let runtime = runtime();
        let mut listener = runtime.net().listen("127.0.0.1:0").await.expect("a free port");
        let broker =
            TestBroker { state: Arc::default(), address: listener.local_address(), runtime: runtime.clone() };
        let serving = broker.clone();
        runtime.clone().spawn("test broker", async move {
            while let Ok(accepted) = listener.accept().await {
                let broker = serving.clone();
                serving.runtime.spawn("test connection", async move {
                    broker.serve(accepted.reader, accepted.writer).await;
                });
            }
        });
        broker
    }

    /// Creates a topic.
    pub fn create(&self, topic: &str, partitions: usize) {
        let mut state = self.state.lock().expect("no test panics with it");
        let id = TopicId([state.topics.len() as u8 + 1; 16]);
        let empty = (0..partitions).map(|_| Partition::default()).collect();
        state.topics.insert(topic.into(), (id, empty));
    }

    /// Makes the next produce requests fail so, one after the other.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().expect("no test panics with it").faults.extend(faults);
    }

    /// Looks at a partition.
    pub fn with<T>(&self, topic: &str, partition: usize, look: impl FnOnce(&mut Partition) -> T) -> T {
        let mut state = self.state.lock().expect("no test panics with it");
        look(&mut state.topics.get_mut(topic).expect("created").1[partition])
    }

    /// Ends the connections of the next `count` requests of any kind but ApiVersions.
    pub fn hang_up(&self, count: usize) {
        self.state.lock().expect("no test panics with it").hang_ups = count;
    }

    async fn serve(
        &self,
        mut reader: <<TokioRuntime as Runtime>::Net as Net>::Reader,
        mut writer: <<TokioRuntime as Runtime>::Net as Net>::Writer,
    ) {
        let mut frames = Vec::new();
        loop {
            let received = reader.recv(&mut frames, 16, 1 << 26).await;
            for frame in frames.drain(..) {
                match self.answer(frame) {
                    Ok(Some(reply)) => {
                        if writer.send(vec![reply]).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => {}
                    Err(HangUp) => return,
                }
            }
            if received.is_err() {
                return;
            }
        }
    }

    fn answer(&self, frame: Bytes) -> Result<Option<Frame>, HangUp> {
        let (header, body) = decode_request_header(frame).expect("the client sends what it may");
        let version = header.version;
        let mut state = self.state.lock().expect("no test panics with it");
        if header.api != ApiKey::ApiVersions && state.hang_ups > 0 {
            state.hang_ups -= 1;
            return Err(HangUp);
        }
        fn reply<A: Response>(version: i16, id: dejaq_wire::ids::CorrelationId, answer: &A) -> Option<Frame> {
            Some(encode_response(version, id, answer).expect("it fits"))
        }
        let id = header.correlation_id;
        Ok(match header.api {
            ApiKey::ApiVersions => {
                let api_keys = advertise(ApiKey::ALL.iter().copied());
                reply(version, id, &ApiVersionsResponse { api_keys, ..Default::default() })
            }
            ApiKey::Metadata => {
                let request = MetadataRequest::decode(version, body).expect("decodes");
                reply(version, id, &self.metadata(&state, &request))
            }
            ApiKey::InitProducerId => {
                state.producers += 1;
                let producer_id = ProducerId(state.producers);
                reply(version, id, &InitProducerIdResponse { producer_id, ..Default::default() })
            }
            ApiKey::Produce => {
                let request = ProduceRequest::decode(version, body).expect("decodes");
                let acks = request.acks;
                let answer = produce(&mut state, version, request)?;
                answer.filter(|_| acks != 0).and_then(|answer| reply(version, id, &answer))
            }
            ApiKey::Fetch => {
                let request = FetchRequest::decode(version, body).expect("decodes");
                reply(version, id, &fetch(&state, &request))
            }
            ApiKey::ListOffsets => {
                let request = ListOffsetsRequest::decode(version, body).expect("decodes");
                reply(version, id, &list_offsets(&state, &request))
            }
            // Never answered, as by one that waits for a controller.
            ApiKey::DescribeQuorum | ApiKey::AddRaftVoter => None,
            other => panic!("the test broker does not serve {other:?}"),
        })
    }

    fn metadata(&self, state: &State, request: &MetadataRequest) -> MetadataResponse {
        let (host, port) = self.address.rsplit_once(':').expect("host:port");
        let broker = MetadataResponseBroker {
            node_id: BrokerId(1),
            host: host.into(),
            port: port.parse().expect("a port"),
            rack: None,
        };
        let names = request.topics.iter().flatten().filter_map(|topic| topic.name.clone());
        let topics = names.map(|name| {
            let known = state.topics.get(&name);
            let partition = |index: usize| MetadataResponsePartition {
                partition_index: PartitionId(index as i32),
                leader_id: BrokerId(1),
                leader_epoch: LeaderEpoch(0),
                ..Default::default()
            };
            MetadataResponseTopic {
                error_code: match known {
                    Some(_) => ErrorCode::NONE,
                    None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                },
                topic_id: known.map_or(TopicId::ZERO, |(id, _)| *id),
                partitions: (0..known.map_or(0, |(_, p)| p.len())).map(partition).collect(),
                name: Some(name),
                ..Default::default()
            }
        });
        MetadataResponse {
            brokers: vec![broker],
            cluster_id: Some("test".into()),
            controller_id: BrokerId(1),
            topics: topics.collect(),
            ..Default::default()
        }
    }
}

/// The connection ends here.
struct HangUp;

/// Where a topic is, by name or by id.
fn find<'a>(
    state: &'a State,
    name: &str,
    id: TopicId,
) -> Option<(&'a String, &'a (TopicId, Vec<Partition>))> {
    state.topics.iter().find(|(n, (i, _))| *n == name || !id.is_zero() && *i == id)
}

fn produce(
    state: &mut State,
    version: i16,
    request: ProduceRequest,
) -> Result<Option<ProduceResponse>, HangUp> {
    let fault = state.faults.pop_front().unwrap_or(Fault::None);
    if fault == Fault::DropBefore {
        return Err(HangUp);
    }
    let mut responses = Vec::new();
    for topic in request.topic_data {
        let name = find(state, &topic.name, topic.topic_id).map(|(name, _)| name.clone());
        let mut partition_responses = Vec::new();
        for data in topic.partition_data {
            let batch = check_produced(&data.records.unwrap_or_default().into_bytes(), version);
            let partition = name
                .as_ref()
                .and_then(|name| state.topics.get_mut(name))
                .and_then(|(_, partitions)| partitions.get_mut(data.index.0 as usize));
            let appended = match (fault, partition, batch) {
                (Fault::Refuse(code), _, _) => Err(code),
                (_, None, _) => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
                (_, Some(_), Err(error)) => Err(error.code()),
                (_, Some(partition), Ok(batch)) => partition.append(batch),
            };
            let appended = match fault {
                Fault::StoreAndSay(code) => Err(code),
                _ => appended,
            };
            partition_responses.push(PartitionProduceResponse {
                index: data.index,
                error_code: appended.err().unwrap_or(ErrorCode::NONE),
                base_offset: Offset(appended.unwrap_or(-1)),
                ..Default::default()
            });
        }
        let (name, topic_id) = (topic.name, topic.topic_id);
        responses.push(TopicProduceResponse { name, topic_id, partition_responses });
    }
    match fault {
        Fault::DropAfter => Err(HangUp),
        Fault::Stall => Ok(None),
        _ => Ok(Some(ProduceResponse { responses, ..Default::default() })),
    }
}

fn fetch(state: &State, request: &FetchRequest) -> FetchResponse {
    let responses = request.topics.iter().map(|topic| {
        let known = find(state, &topic.topic, topic.topic_id);
        let partitions = topic.partitions.iter().map(|asked| {
            let mut data = PartitionData { partition_index: asked.partition, ..Default::default() };
            match known.and_then(|(_, (_, p))| p.get(asked.partition.0 as usize)) {
                None => data.error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                Some(p) if asked.fetch_offset.0 < p.start || asked.fetch_offset > p.end() => {
                    data.error_code = ErrorCode::OFFSET_OUT_OF_RANGE;
                }
                Some(p) => {
                    data.high_watermark = p.end();
                    data.log_start_offset = Offset(p.start);
                    let wanted = p.batches.iter().filter(|b| b.header.next_offset() > asked.fetch_offset);
                    let mut bytes = 0;
                    let fitting = wanted.take_while(|batch| {
                        let first = bytes == 0;
                        bytes += batch.bytes();
                        first || bytes <= asked.partition_max_bytes as usize
                    });
                    data.records = Some(fitting.flat_map(|batch| batch.chunks()).collect());
                }
            }
            data
        });
        FetchableTopicResponse {
            topic: topic.topic.clone(),
            topic_id: topic.topic_id,
            partitions: partitions.collect(),
        }
    });
    FetchResponse { responses: responses.collect(), ..Default::default() }
}

fn list_offsets(state: &State, request: &ListOffsetsRequest) -> ListOffsetsResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let partition = &state.topics[&topic.name].1[asked.partition_index.0 as usize];
            let records = partition.batches.iter().flat_map(|b| b.records(1 << 30).expect("readable"));
            let mut records = records.map(|record| record.expect("whole"));
            let (offset, timestamp) = match asked.timestamp {
                -1 => (partition.end(), -1),
                -2 => (Offset(partition.start), -1),
                ms => records
                    .find(|record| record.timestamp_ms >= ms)
                    .map_or((Offset::NONE, -1), |record| (record.offset, record.timestamp_ms)),
            };
            let partition_index = asked.partition_index;
            ListOffsetsPartitionResponse { partition_index, offset, timestamp, ..Default::default() }
        });
        ListOffsetsTopicResponse { name: topic.name.clone(), partitions: partitions.collect() }
    });
    ListOffsetsResponse { topics: topics.collect(), ..Default::default() }
}

/// A client of this broker that gives up soon.
pub fn quick(broker: &TestBroker) -> super::cluster::Cluster<TokioRuntime> {
    let config = super::cluster::ClusterConfig {
        bootstrap: vec![broker.address.clone()],
        request_timeout: Duration::from_millis(300),
        retry: super::retry::RetryPolicy {
            backoff: Duration::from_millis(2),
            max_backoff: Duration::from_millis(20),
            max_attempts: u32::MAX,
        },
        ..Default::default()
    };
    super::cluster::Cluster::new(broker.runtime.clone(), config)
}
