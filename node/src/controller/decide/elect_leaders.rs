//! ElectLeaders: leaderships go to the preferred replicas, or, unclean, to whoever is left.

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, PartitionId, TopicId};
use serde::{Deserialize, Serialize};

use crate::controller::draft::{Context, Decide, Draft, Refusal};
use crate::controller::succession::{Election, Wanted};
use crate::controller::sweep::change;
use crate::metadata::Partition;

/// The request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ElectLeaders {
    /// Whether anyone who is live may lead what nobody can lead; else the preferred replica leads.
    pub unclean: bool,
    /// Which partitions; `None` is all that need it.
    pub partitions: Option<Vec<(String, Vec<PartitionId>)>>,
}

/// What became of one partition.
pub type Elected = (String, PartitionId, Result<(), Refusal>);

impl Decide for ElectLeaders {
    type Answer = Vec<Elected>;

    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) -> Vec<Elected> {
        let image = draft.image().clone();
        let Some(named) = self.partitions else {
            let all = image.topics_by_name().flat_map(|topic| {
                topic.partitions().map(|(index, _)| (topic.name.to_string(), topic.id, index))
            });
            let results = all.map(|(name, id, index)| {
                let result = elect(self.unclean, draft, context, Some((id, index)));
                (name, index, result)
            });
            let needed = |result: &Result<(), Refusal>| !matches!(result, Err(refusal) if refusal.code == ErrorCode::ELECTION_NOT_NEEDED);
            return results.filter(|(_, _, result)| needed(result)).collect();
        };
        let mut answer = Vec::new();
        for (name, indexes) in named {
            let topic = image.topic_named(&name).cloned();
            for index in indexes {
                let known = topic.as_ref().filter(|topic| topic.partition(index).is_some());
                let result = elect(self.unclean, draft, context, known.map(|topic| (topic.id, index)));
                answer.push((name.clone(), index, result));
            }
        }
        answer
    }
}

fn elect(
    unclean: bool,
    draft: &mut Draft,
    context: &Context<'_>,
    at: Option<(TopicId, PartitionId)>,
) -> Result<(), Refusal> {
    let found = at.and_then(|(topic, index)| draft.image().topic(topic)?.partition(index).cloned());
    let (Some(at), Some(partition)) = (at, found) else {
        return Err(Refusal::of(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    };
    let not_needed = |partition: &Partition| match unclean {
        true => partition.leader != BrokerId::NONE,
        false => partition.leader == partition.replicas[0],
    };
    if not_needed(&partition) {
        return Err(Refusal::of(ErrorCode::ELECTION_NOT_NEEDED));
    }
    let election = if unclean { Election::Unclean } else { Election::Preferred };
    change(draft, context, at, &Wanted { election, ..Wanted::default() });
    let after = draft.image().topic(at.0).and_then(|topic| topic.partition(at.1));
    match (after.is_some_and(not_needed), unclean) {
        (true, _) => Ok(()),
        (false, true) => Err(Refusal::of(ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE)),
        (false, false) => {
            let why = format!("The preferred leader {} is not in sync, or not live.", partition.replicas[0]);
            Err(Refusal::new(ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE, why))
        }
    }
}
