//! ListPartitionReassignments (46): moves that are under way. What does not exist, or does not move, is left out.

use dejaq_wire::ids::PartitionId;
use dejaq_wire::kafka::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, OngoingPartitionReassignment,
    OngoingTopicReassignment,
};

use crate::metadata::{Image, Partition, Topic};

/// Answers one request.
#[must_use]
pub fn answer(
    image: &Image,
    request: &ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let topics: Vec<OngoingTopicReassignment> = match &request.topics {
        None => image.topics_by_name().filter_map(|topic| ongoing(topic, |_| true)).collect(),
        Some(named) => {
            let topics = named.iter().filter_map(|asked| {
                let topic = image.topic_named(&asked.name)?;
                ongoing(topic, |index| asked.partition_indexes.contains(&index))
            });
            topics.collect()
        }
    };
    ListPartitionReassignmentsResponse { topics, ..Default::default() }
}

fn ongoing(topic: &Topic, asked: impl Fn(PartitionId) -> bool) -> Option<OngoingTopicReassignment> {
    let moving = topic.partitions().filter(|(index, partition)| partition.is_moving() && asked(*index));
    let partition = |(partition_index, partition): (PartitionId, &Partition)| OngoingPartitionReassignment {
        partition_index,
        replicas: partition.replicas.to_vec(),
        adding_replicas: partition.adding.to_vec(),
        removing_replicas: partition.removing.to_vec(),
    };
    let partitions: Vec<_> = moving.map(partition).collect();
    (!partitions.is_empty()).then(|| OngoingTopicReassignment { name: topic.name.to_string(), partitions })
}
