//! DescribeTopicPartitions (75): topics in pages of partitions (KIP-966).
//!
//! No topics means all. Topics are answered in the order of their names, from the cursor on, until the limit of
//! partitions is reached; then the next cursor says where to go on.

use std::collections::BTreeSet;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::PartitionId;
use dejaq_wire::kafka::describe_topic_partitions::{
    Cursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use dejaq_wire::topic_name::validate_topic_name;

use super::control_plane::TOPIC_OPERATIONS;
use super::metadata::{offline, partition_error};
use crate::metadata::image::is_internal;
use crate::metadata::{Image, Partition, Topic};

/// Most partitions of one answer, as Kafka's `max.request.partition.size.limit`.
const MAX_PARTITIONS: usize = 2000;

/// Answers one request.
#[must_use]
pub fn answer(image: &Image, request: DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, MAX_PARTITIONS);
    let from = request.cursor.unwrap_or_default();
    let mut page = Page { left: limit, from, answer: DescribeTopicPartitionsResponse::default() };
    if request.topics.is_empty() {
        let start = page.from.topic_name.clone();
        let mut topics = image.topics_from(&start);
        while topics.next().is_some_and(|topic| page.add(image, &topic.name, Some(topic))) {}
    } else {
        let names: BTreeSet<String> = request.topics.into_iter().map(|topic| topic.name).collect();
        let start = page.from.topic_name.clone();
        let mut names = names.into_iter().filter(|name| *name >= start);
        while names
            .next()
            .is_some_and(|name| page.add(image, &name, image.topic_named(&name).map(|topic| &**topic)))
        {
        }
    }
    page.answer
}

struct Page {
    left: usize,
    from: Cursor,
    answer: DescribeTopicPartitionsResponse,
}

impl Page {
    /// Adds what fits of a topic; `false` if the page is full.
    fn add(&mut self, image: &Image, name: &str, topic: Option<&Topic>) -> bool {
        if self.left == 0 {
            let partition_index = PartitionId(0);
            self.answer.next_cursor = Some(Cursor { topic_name: name.to_owned(), partition_index });
            return false;
        }
        let Some(topic) = topic else {
            self.answer.topics.push(missing(name));
            return true;
        };
        let start = if self.from.topic_name == name { self.from.partition_index } else { PartitionId(0) };
        let rest = topic.partitions().filter(|(index, _)| *index >= start);
        let partitions: Vec<_> = rest.take(self.left).map(|one| describe(image, one)).collect();
        let next = match partitions.last() {
            Some(last) => PartitionId(last.partition_index.0 + 1),
            None => start,
        };
        self.left -= partitions.len();
        self.answer.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(name.to_owned()),
            topic_id: topic.id,
            is_internal: topic.is_internal(),
            partitions,
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..Default::default()
        });
        if topic.partition(next).is_some() {
            self.answer.next_cursor = Some(Cursor { topic_name: name.to_owned(), partition_index: next });
            return false;
        }
        true
    }
}

fn missing(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let known = validate_topic_name(name).is_ok();
    DescribeTopicPartitionsResponseTopic {
        error_code: if known {
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        } else {
            ErrorCode::INVALID_TOPIC_EXCEPTION
        },
        name: Some(name.to_owned()),
        is_internal: is_internal(name),
        topic_authorized_operations: TOPIC_OPERATIONS,
        ..Default::default()
    }
}

fn describe(
    image: &Image,
    (index, partition): (PartitionId, &Partition),
) -> DescribeTopicPartitionsResponsePartition {
    DescribeTopicPartitionsResponsePartition {
        error_code: partition_error(partition),
        partition_index: index,
        leader_id: partition.leader,
        leader_epoch: partition.leader_epoch,
        replica_nodes: partition.replicas.to_vec(),
        isr_nodes: partition.isr.to_vec(),
        eligible_leader_replicas: Some(partition.elr.to_vec()),
        last_known_elr: Some(partition.last_known_elr.to_vec()),
        offline_replicas: offline(image, partition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::decide::tests::{Desk, topic};
    use dejaq_wire::kafka::describe_topic_partitions::TopicRequest;

    fn pages(desk: &Desk, names: &[&str], limit: i32) -> Vec<Vec<(String, Vec<i32>)>> {
        let mut pages = Vec::new();
        let mut cursor = None;
        loop {
            let topics = names.iter().map(|name| TopicRequest { name: (*name).to_owned() }).collect();
            let request = DescribeTopicPartitionsRequest { topics, response_partition_limit: limit, cursor };
            let response = answer(&desk.image, request);
            let shown = response.topics.iter().map(|topic| {
                let indexes = topic.partitions.iter().map(|partition| partition.partition_index.0).collect();
                (topic.name.clone().unwrap_or_default(), indexes)
            });
            pages.push(shown.collect());
            match response.next_cursor {
                Some(next) => cursor = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn pages_together_show_every_partition_once() {
        let mut desk = Desk::with_brokers(1);
        for (name, partitions) in [("a", 3), ("b", 1), ("c", 4)] {
            desk.create(topic(name, partitions, 1)).expect("valid");
        }
        let entry = |name: &str, indexes: &[i32]| (name.to_owned(), indexes.to_vec());
        let all = [
            vec![entry("a", &[0, 1])],
            vec![entry("a", &[2]), entry("b", &[0])],
            vec![entry("c", &[0, 1])],
            vec![entry("c", &[2, 3])],
        ];
        assert_eq!(pages(&desk, &[], 2), all);
        assert_eq!(pages(&desk, &["c", "a", "b"], 2), all);
        assert_eq!(pages(&desk, &["b", "x"], 2), [vec![entry("b", &[0]), entry("x", &[])]]);
        assert_eq!(pages(&desk, &[], 100).len(), 1);
    }
}
