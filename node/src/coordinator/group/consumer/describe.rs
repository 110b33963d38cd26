//! What operators are told of a group of KIP-848.

use std::collections::BTreeMap;
use std::sync::Arc;

use dejaq_wire::ids::{PartitionId, TopicId};
use dejaq_wire::kafka::consumer_group_describe::{
    Assignment, DescribedGroup, Member as Told, TopicPartitions,
};

use super::member::Member;
use super::members::Members;
use crate::coordinator::consumer_record::Parts;
use crate::metadata::Image;

/// Kafka's numbers of who speaks which protocol.
const SPEAKS_CLASSIC: i8 = 0;
const SPEAKS_CONSUMER: i8 = 1;

impl Members {
    /// The group in full.
    pub(in super::super) fn describe(&self, group: &str, image: &Image) -> DescribedGroup {
        let told = |member: &Member| Told {
            member_id: member.id.to_string(),
            instance_id: member.instance.as_deref().map(str::to_owned),
            rack_id: member.rack.clone(),
            member_epoch: member.epoch,
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            subscribed_topic_names: member.topics.iter().map(|topic| topic.to_string()).collect(),
            subscribed_topic_regex: member.pattern.as_deref().map(str::to_owned),
            assignment: named(&member.assigned, image),
            target_assignment: named(self.target.get(&member.id).unwrap_or(&Parts::new()), image),
            member_type: if member.face.is_some() { SPEAKS_CLASSIC } else { SPEAKS_CONSUMER },
        };
        DescribedGroup {
            group_id: group.to_owned(),
            group_state: self.state().to_owned(),
            group_epoch: self.epoch,
            assignment_epoch: self.target_epoch,
            assignor_name: self.assignor.name().to_owned(),
            members: self.members.values().map(told).collect(),
            ..Default::default()
        }
    }
}

/// Partitions with the names of their topics; those of topics that are gone are left out.
fn named(parts: &Parts, image: &Image) -> Assignment {
    let mut topics: BTreeMap<(Arc<str>, TopicId), Vec<PartitionId>> = BTreeMap::new();
    for (id, partition) in parts {
        if let Some(topic) = image.topic(*id) {
            topics.entry((topic.name.clone(), *id)).or_default().push(*partition);
        }
    }
    let told = |((name, topic_id), partitions): ((Arc<str>, TopicId), _)| TopicPartitions {
        topic_id,
        topic_name: name.to_string(),
        partitions,
    };
    Assignment { topic_partitions: topics.into_iter().map(told).collect() }
}
