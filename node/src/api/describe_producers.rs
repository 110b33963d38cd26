//! DescribeProducers (61): what partitions remember of their producers, for `kafka-transactions.sh`.

use dejaq_storage::ProducerSummary;
use dejaq_wire::ids::{CoordinatorEpoch, Offset, PartitionId};
use dejaq_wire::kafka::describe_producers::{
    DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};

use super::data_plane::{DataPlane, partition};
use super::fetch_session::TopicRef;
use crate::replica::Table;
use crate::runtime::Runtime;

/// Answers one request.
pub fn answer<R: Runtime>(
    data: &DataPlane<R>,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let table = data.directory.table();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = TopicRef::Name(topic.name.as_str().into());
        let partitions = topic.partition_indexes.iter().map(|index| one(&table, &name, *index)).collect();
        topics.push(TopicResponse { name: topic.name, partitions });
    }
    DescribeProducersResponse { topics, ..Default::default() }
}

fn one<R: Runtime>(table: &Table<R>, topic: &TopicRef, index: PartitionId) -> PartitionResponse {
    let mut answer = PartitionResponse { partition_index: index, ..Default::default() };
    match partition(table, topic, index) {
        Ok(partition) => {
            answer.active_producers = partition.describe_producers().into_iter().map(state).collect();
        }
        Err(code) => {
            answer.error_code = code;
            answer.error_message = Some(code.message().to_owned());
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
