//! DeleteTopics: by name or by id.

use std::collections::BTreeMap;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::TopicId;
use serde::{Deserialize, Serialize};

use crate::controller::draft::{Context, Decide, Draft, Refusal};
use crate::metadata::record::TopicDeleted;

/// How a topic is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Target {
    /// By its name.
    Name(String),
    /// By its id.
    Id(TopicId),
}

/// The request. Every target is different from the others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteTopics {
    /// What to delete.
    pub targets: Vec<Target>,
}

/// What became of one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The topic's name, if it was given or found.
    pub name: Option<String>,
    /// The topic's id, or zero.
    pub topic_id: TopicId,
    /// Whether it is gone.
    pub result: Result<(), Refusal>,
}

impl Decide for DeleteTopics {
    type Answer = Vec<Deleted>;

    fn decide(self, draft: &mut Draft, _context: &mut Context<'_>) -> Vec<Deleted> {
        let mut answer = Vec::new();
        let mut found: BTreeMap<TopicId, Vec<Deleted>> = BTreeMap::new();
        for target in self.targets {
            let (topic, name, topic_id, missing) = match target {
                Target::Name(name) => {
                    let topic = draft.image().topic_named(&name);
                    (topic, Some(name), TopicId::ZERO, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
                }
                Target::Id(id) => (draft.image().topic(id), None, id, ErrorCode::UNKNOWN_TOPIC_ID),
            };
            match topic {
                None => answer.push(Deleted { name, topic_id, result: Err(Refusal::of(missing)) }),
                Some(topic) => found.entry(topic.id).or_default().push(Deleted {
                    name: Some(topic.name.to_string()),
                    topic_id: topic.id,
                    result: Ok(()),
                }),
            }
        }
        for (topic_id, mut results) in found {
            // A name and an id that mean one topic contradict each other, in case they were meant for two.
            let is_own = draft.image().topic(topic_id).is_some_and(|topic| topic.is_internal());
            if is_own {
                let why = "The topic is the cluster's own: offsets and transactions that were told to last are kept there.";
                results
                    .iter_mut()
                    .for_each(|one| one.result = Err(Refusal::new(ErrorCode::INVALID_REQUEST, why)));
            } else if results.len() > 1 {
                let why = "The provided topic name maps to an ID that was already supplied.";
                for deleted in &mut results {
                    deleted.result = Err(Refusal::new(ErrorCode::INVALID_REQUEST, why));
                }
                results.truncate(1);
            } else {
                draft.push(TopicDeleted { topic_id });
            }
            answer.extend(results);
        }
        answer
    }
}
