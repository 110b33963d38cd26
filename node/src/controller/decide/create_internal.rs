//! A topic that brokers make for themselves, on first use: clients may neither create nor write it.
//!
//! Promises: exactly one such topic, whoever asks at the same time; as many replicas as asked for, or as there are
//! live brokers if these are fewer.

use dejaq_wire::ErrorCode;
use serde::{Deserialize, Serialize};

use super::create_topics::fresh_id;
use super::replicas::check_room;
use crate::controller::draft::{Context, Decide, Draft, Refusal};
use crate::controller::placement::Loads;
use crate::metadata::image::is_internal;
use crate::metadata::record::{ConfigChanged, PartitionState, Resource, TopicCreated};

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateInternal {
    /// An internal name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// Most replicas of each.
    pub max_replicas: u16,
    /// What it is created with; these need not be allowed to clients.
    pub configs: Vec<(String, String)>,
}

/// The topic is there, now or since before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// How many partitions it has.
    pub partitions: i32,
}

impl Made {
    fn of(draft: &Draft, name: &str) -> Made {
        let topic = draft.image().topic_named(name).expect("the caller looked or made it");
        Made { partitions: i32::try_from(topic.partitions.len()).expect("counts are below 2^31") }
    }
}

impl Decide for CreateInternal {
    type Answer = Result<Made, Refusal>;

    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) -> Result<Made, Refusal> {
        if !is_internal(&self.name) {
            return Err(Refusal::new(
                ErrorCode::INVALID_REQUEST,
                format!("{} is no internal topic", self.name),
            ));
        }
        if draft.image().topic_named(&self.name).is_some() {
            return Ok(Made::of(draft, &self.name));
        }
        let Some(count) = usize::try_from(self.partitions).ok().filter(|count| *count > 0) else {
            return Err(Refusal::of(ErrorCode::INVALID_PARTITIONS));
        };
        check_room(draft.image(), count, context.settings.max_partitions)?;
        let mut loads = Loads::of(draft.image());
        let live = draft.image().brokers().filter(|broker| broker.is_live() && !broker.draining).count();
        let replicas = usize::from(self.max_replicas).min(live).max(1);
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            let placed = loads.place(replicas).map_err(|few| {
                Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, format!("{}: {few}", self.name))
            })?;
            partitions.push(PartitionState::born(placed));
        }
        let topic_id = fresh_id(draft, context);
        draft.push(TopicCreated { topic_id, name: self.name.clone(), partitions });
        for (name, value) in self.configs {
            draft.push(ConfigChanged { resource: Resource::Topic(topic_id), name, value: Some(value) });
        }
        Ok(Made::of(draft, &self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Desk;
    use super::*;

    fn offsets(max_replicas: u16) -> CreateInternal {
        CreateInternal {
            name: "__consumer_offsets".into(),
            partitions: 4,
            max_replicas,
            configs: vec![("cleanup.policy".into(), "compact".into())],
        }
    }

    #[test]
    fn an_internal_topic_is_made_once_with_as_many_replicas_as_there_are_brokers() {
        let mut desk = Desk::with_brokers(2);
        for _ in 0..2 {
            assert_eq!(desk.decide(offsets(3)), Ok(Made { partitions: 4 }));
        }
        let topic = desk.image.topic_named("__consumer_offsets").expect("it was made").clone();
        assert_eq!(desk.image.topic_count(), 1);
        assert_eq!(topic.partitions.len(), 4);
        assert!(topic.partitions.iter().all(|partition| partition.replicas.len() == 2));
        assert_eq!(topic.configs.get("cleanup.policy").map(String::as_str), Some("compact"));
    }

    #[test]
    fn another_name_is_refused() {
        let ask = CreateInternal { name: "orders".into(), ..offsets(1) };
        assert_eq!(
            Desk::with_brokers(1).decide(ask).map_err(|why| why.code),
            Err(ErrorCode::INVALID_REQUEST)
        );
    }
}
