//! A told story of transactions: the end of one arrives when the next has begun (S50, KAFKA-17754).
//!
//! Owns: the script, for clients that get an epoch with each transaction (KIP-890) and for older ones. Promises: with
//! version 2 the late request has no effect (TXN-9, a finding if it has); with older clients it ends the wrong transaction, as
//! the protocol cannot help, and that is counted, and asserted, so that the script is known to bite.
//! Leaves out: chance (`transactor`). Run by `scenarios::group_stories`.
//!
//! ```text
//!  begin n ─ write A ─ commit n ····(slow way)·································► arrives
//!                        └ no answer ─ commit n once more ─ Ok ─ begin n+1 ─ write B ─┴─ write C ─ abort n+1
//!  version 2: A is there, B and C are not           before: A and B are there: n+1 is torn, and nobody is told
//! ```

use std::sync::Arc;
use std::time::Duration;

use dejaq::client::cluster::Cluster;
use dejaq::client::group::coordinator::ask_over;
use dejaq::runtime::Runtime;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId};
use dejaq_wire::kafka::Request;
use dejaq_wire::kafka::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use dejaq_wire::kafka::end_txn::{EndTxnRequest, EndTxnResponse};
use dejaq_wire::kafka::find_coordinator::FindCoordinatorRequest;
use dejaq_wire::kafka::init_producer_id::InitProducerIdRequest;
use dejaq_wire::kafka::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use dejaq_wire::record::{BatchBuilder, Compression, NewRecord};

use super::meetings::{begin, claim};
use super::reader::Reader;
use super::rebalance::quiet;
use super::recorder::Recorder;
use super::telling::{PATIENCE, visible};
use super::transactor::{LAST_OLD_ADD, LAST_OLD_END, LAST_OLD_PRODUCE};
use super::{BROKER, DURABLE, Stage, Stop, producers, report};
use crate::runner::{RunParams, RunReport};
use crate::runtime::SimRuntime;
use crate::world::World;

pub(super) const TOPIC: &str = "accounts";
/// The machine of the client; its reader has the next one.
const CLIENT: u32 = 500;
/// How late the first request is.
const LATE: Duration = Duration::from_secs(4);

/// Runs S50, with both versions.
#[must_use]
pub fn late_end(params: &RunParams) -> RunReport {
    staged(params, play)
}

/// Runs a script on one broker with a topic of four partitions.
pub(super) fn staged<F>(params: &RunParams, play: impl FnOnce(Stage) -> F) -> RunReport
where
    F: Future<Output = Result<(), Stop>>,
{
    let ended = World::run(params.seed, params.trace.as_deref(), |world| async move {
        let plan = Arc::new(quiet(&world, (TOPIC, 4), DURABLE));
        let recorder = Recorder::new(&world, &plan);
        let stage = Stage::new(&world, plan, recorder, false);
        let outcome = play(stage.clone()).await;
        report(&stage, outcome)
    });
    ended.unwrap_or_else(RunReport::crash)
}

async fn play(stage: Stage) -> Result<(), Stop> {
    begin(&stage).await?;
    let new = Client::new(&stage, false, 0).await?.play().await?;
    claim("TXN-9", new == [1], || {
        format!("version 2: of values 1 to 3 readers see {new:?}, committed is 1")
    })?;
    let old = Client::new(&stage, true, 2).await?.play().await?;
    match old[..] {
        [1] => {
            Err(Stop::Stuck("the late end of an old client had no effect: the story shows nothing".into()))
        }
        [1, 2] => {
            stage.recorder.count("late ends of old clients that ended the next transaction");
            Ok(())
        }
        _ => claim("TXN-7", false, || format!("before version 2: of values 1 to 3 readers see {old:?}")),
    }
}

/// A client with two connections, one of which is slow when it matters.
pub(super) struct Client {
    pub(super) stage: Stage,
    runtime: SimRuntime,
    /// The connection of the late request, and that of all others.
    clusters: [Cluster<SimRuntime>; 2],
    pub(super) old: bool,
    /// Its first partition; it has the next one, too.
    pub(super) first: i32,
    topic: TopicId,
    pub(super) id: String,
    pub(super) producer: (ProducerId, ProducerEpoch),
}

impl Client {
    pub(super) async fn new(stage: &Stage, old: bool, first: i32) -> Result<Client, Stop> {
        let runtime = stage.broker.machine(CLIENT);
        let clusters = [(), ()].map(|()| producers::cluster(stage, runtime.clone()));
        for cluster in &clusters {
            // So that it knows where the broker is.
            let deadline = runtime.now().plus(Duration::from_secs(10));
            let known = cluster.topic(TOPIC, deadline).await;
            known.map_err(|error| Stop::Stuck(format!("the topic is not to be had: {error}")))?;
        }
        let reader = Reader { cluster: clusters[1].clone() };
        let topic = reader.topic_id(TOPIC).await.ok_or_else(|| Stop::Stuck("there is no topic".into()))?;
        let id = if old { "old" } else { "new" }.to_owned();
        let nobody = (ProducerId::NONE, ProducerEpoch::NONE);
        let mut client =
            Client { stage: stage.clone(), runtime, clusters, old, first, topic, id, producer: nobody };
        client.init().await?;
        Ok(client)
    }

    /// What readers of committed records see when all is over.
    async fn play(mut self) -> Result<Vec<u64>, Stop> {
        self.write(0, 0, 1).await?;
        self.late_commit().await?;
        self.end(true).await?;
        let next = if self.old { 1 } else { 0 };
        self.write(0, next, 2).await?;
        self.stage.world.sleep(LATE + LATE).await;
        self.write(1, 0, 3).await?;
        self.end(false).await?;
        self.visible().await
    }

    async fn ask<Q: Request>(
        &self,
        at: usize,
        request: &Q,
        newest: i16,
        wait: Duration,
    ) -> Option<Q::Response> {
        let deadline = self.runtime.now().plus(wait);
        let connection = self.clusters[at].broker(BrokerId(BROKER as i32), deadline).await.ok()?;
        ask_over(&connection, request, newest, deadline).await.ok()
    }

    /// Asks until it is done; the broker may still be loading, or carry out what was decided before.
    pub(super) async fn done<Q: Request>(
        &self,
        what: &'static str,
        (request, newest): (&Q, i16),
        code: impl Fn(&Q::Response) -> ErrorCode,
    ) -> Result<Q::Response, Stop> {
        let mut last = None;
        for _ in 0..100 {
            if let Some(answer) = self.ask(1, request, newest, Duration::from_secs(5)).await {
                match code(&answer) {
                    ErrorCode::NONE => return Ok(answer),
                    refused => last = Some(refused),
                }
            }
            self.stage.world.sleep(Duration::from_millis(50)).await;
        }
        Err(Stop::Stuck(format!("{what} of the client `{}`: {last:?}", self.id)))
    }

    async fn init(&mut self) -> Result<(), Stop> {
        let find = FindCoordinatorRequest {
            key: self.id.clone(),
            key_type: 1,
            coordinator_keys: vec![self.id.clone()],
        };
        let code = |answer: &dejaq_wire::kafka::find_coordinator::FindCoordinatorResponse| {
            answer.coordinators.first().map_or(answer.error_code, |one| one.error_code)
        };
        self.done("the coordinator", (&find, i16::MAX), code).await?;
        let _warm = self.ask(0, &find, i16::MAX, Duration::from_secs(5)).await;
        let request = InitProducerIdRequest {
            transactional_id: Some(self.id.clone()),
            transaction_timeout_ms: 60_000,
            ..Default::default()
        };
        let told = self.done("the init", (&request, i16::MAX), |answer| answer.error_code).await?;
        self.producer = (told.producer_id, told.producer_epoch);
        Ok(())
    }

    fn end_request(&self, committed: bool) -> (EndTxnRequest, i16) {
        let request = EndTxnRequest {
            transactional_id: self.id.clone(),
            producer_id: self.producer.0,
            producer_epoch: self.producer.1,
            committed,
        };
        (request, if self.old { LAST_OLD_END } else { i16::MAX })
    }

    /// A commit that is on its way when its client has given it up.
    async fn late_commit(&self) -> Result<(), Stop> {
        let network = self.stage.world.network();
        network.set_slow(CLIENT, BROKER, LATE);
        let (request, newest) = self.end_request(true);
        let answer: Option<EndTxnResponse> = self.ask(0, &request, newest, Duration::from_secs(1)).await;
        network.set_slow(CLIENT, BROKER, Duration::ZERO);
        match answer {
            None => Ok(()),
            Some(answer) => Err(Stop::Stuck(format!("the late commit was in time: {answer:?}"))),
        }
    }

    pub(super) async fn end(&mut self, commit: bool) -> Result<(), Stop> {
        let (request, newest) = self.end_request(commit);
        let told =
            self.done("the end", (&request, newest), |answer: &EndTxnResponse| answer.error_code).await?;
        if !self.old {
            self.producer = (told.producer_id, told.producer_epoch);
        }
        Ok(())
    }

    /// Writes one value into the first or the second partition of this client.
    pub(super) async fn write(&self, which: i32, sequence: i32, value: u64) -> Result<(), Stop> {
        let index = PartitionId(self.first + which);
        if self.old {
            let topic = AddPartitionsToTxnTopic { name: TOPIC.into(), partitions: vec![index] };
            let request = AddPartitionsToTxnRequest {
                v3_and_below_transactional_id: self.id.clone(),
                v3_and_below_producer_id: self.producer.0,
                v3_and_below_producer_epoch: self.producer.1,
                v3_and_below_topics: vec![topic],
                ..Default::default()
            };
            self.done("a partition that joins", (&request, LAST_OLD_ADD), |answer| {
                let mut parts =
                    answer.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition);
                parts.next().map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |one| one.partition_error_code)
            })
            .await?;
        }
        let mut builder = BatchBuilder::new(Compression::None);
        (builder.producer_id, builder.producer_epoch) = self.producer;
        (builder.base_sequence, builder.transactional) = (Sequence(sequence), true);
        let timestamp_ms = self.runtime.unix_ms();
        let content = value.to_be_bytes();
        builder.append(&NewRecord { timestamp_ms, key: None, value: Some(&content), headers: &[] });
        let batch = builder.build().expect("nothing is compressed").to_bytes();
        let part = PartitionProduceData { index, records: Some(batch.into()) };
        let data = TopicProduceData { name: TOPIC.into(), topic_id: self.topic, partition_data: vec![part] };
        let request = ProduceRequest {
            transactional_id: Some(self.id.clone()),
            acks: -1,
            timeout_ms: 5000,
            topic_data: vec![data],
        };
        let newest = if self.old { LAST_OLD_PRODUCE } else { i16::MAX };
        self.done("a write", (&request, newest), |answer| {
            let mut parts = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
            parts.next().map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |one| one.error_code)
        })
        .await?;
        Ok(())
    }

    pub(super) async fn visible(&self) -> Result<Vec<u64>, Stop> {
        visible(&self.stage, CLIENT + 1, (TOPIC, &[self.first, self.first + 1]), PATIENCE).await
    }
}
