//! DescribeProducers (61): what partitions remember of their producers, for `kafka-transactions.sh`.
//!
//! Promises: the memory of all answers together is bounded, since each is claimed for before it is made and until it is
//! sent; a partition is described once, however often the request names it; others are served meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use dejaq_storage::{ProducerSummary, mark};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{CoordinatorEpoch, CorrelationId, Offset, PartitionId};
use dejaq_wire::kafka::describe_producers::{
    DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicRequest,
    TopicResponse,
};

use super::claims::PATIENCE;
use super::data_plane::{DataPlane, Refusal, partition};
use super::fetch_session::TopicRef;
use super::reply;
use crate::replica::Table;
use crate::runtime::{Mono, Runtime};
use crate::server::service::Reply;

/// Producers that one answer may describe: those of ten partitions that remember as many as they may.
const MAX_PRODUCERS: usize = 500_000;
/// Producers that may come between the counting and the describing: as many as one partition remembers.
const MEANWHILE: usize = 50_000;
/// What one of them takes while its answer is made and encoded.
const EACH_BYTES: usize = 256;

/// Answers one request, once there is memory for the answer.
pub async fn answer<R: Runtime>(
    data: &DataPlane<R>,
    (at, version, correlation_id): (Mono, i16, CorrelationId),
    request: DescribeProducersRequest,
) -> Reply {
    let table = data.directory.table();
    let mut left = (count(&table, &request.topics).await + MEANWHILE).min(MAX_PRODUCERS);
    let room = left * EACH_BYTES;
    let Some(claim) = data.runtime.before(at.plus(PATIENCE), data.descriptions.claim(room)).await else {
        mark!("an answer about producers finds no memory");
        return Reply::Close("there was no memory for the answer: others do not read theirs".to_owned());
    };
    let mut seen: BTreeMap<String, BTreeSet<PartitionId>> = BTreeMap::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = TopicRef::Name(topic.name.as_str().into());
        let seen = seen.entry(topic.name.clone()).or_default();
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for index in topic.partition_indexes {
            partitions.push(match seen.insert(index) {
                true => told(index, one(&table, &name, index, &mut left)),
                false => told(index, Err(refusal("The request asks for this partition twice."))),
            });
            tokio::task::yield_now().await; // ten thousand producers take a while, and others want this thread
        }
        topics.push(TopicResponse { name: topic.name, partitions });
    }
    let answer = DescribeProducersResponse { topics, ..Default::default() };
    reply::held(reply::frame(version, correlation_id, &answer), Some(claim))
}

/// How many producers the partitions remember, each partition as often as it is named, up to where that does not matter.
async fn count<R: Runtime>(table: &Table<R>, topics: &[TopicRequest]) -> usize {
    let mut producers = 0;
    for topic in topics {
        let name = TopicRef::Name(topic.name.as_str().into());
        for index in &topic.partition_indexes {
            if producers >= MAX_PRODUCERS {
                return producers;
            }
            producers += partition(table, &name, *index).map_or(0, |partition| partition.producers());
            tokio::task::yield_now().await;
        }
    }
    producers
}

/// The producers of one partition, if the answer has place for `left` or fewer.
fn one<R: Runtime>(
    table: &Table<R>,
    topic: &TopicRef,
    index: PartitionId,
    left: &mut usize,
) -> Result<Vec<ProducerState>, Refusal> {
    let partition = partition(table, topic, index).map_err(Refusal::from)?;
    let producers = partition.describe_producers();
    match left.checked_sub(producers.len()) {
        Some(rest) => *left = rest,
        None => return Err(refusal("The answer has no place for its producers: ask for fewer partitions.")),
    }
    Ok(producers.into_iter().map(state).collect())
}

fn refusal(why: &str) -> Refusal {
    Refusal::new(ErrorCode::INVALID_REQUEST, why)
}

fn told(index: PartitionId, found: Result<Vec<ProducerState>, Refusal>) -> PartitionResponse {
    let mut answer = PartitionResponse { partition_index: index, ..Default::default() };
    match found {
        Ok(producers) => answer.active_producers = producers,
        Err(Refusal { code, message }) => {
            answer.error_code = code;
            answer.error_message = message.or_else(|| Some(code.message().to_owned()));
        }
    }
    answer
}

fn state(summary: ProducerSummary) -> ProducerState {
    ProducerState {
        producer_id: summary.producer_id,
        producer_epoch: i32::from(summary.epoch.0),
        last_sequence: summary.last_sequence.0,
        last_timestamp: summary.last_timestamp_ms,
        coordinator_epoch: CoordinatorEpoch(summary.coordinator_epoch),
        current_txn_start_offset: summary.txn_start.unwrap_or(Offset::NONE),
    }
}
