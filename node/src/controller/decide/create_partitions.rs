//! CreatePartitions: a topic grows; what it has stays where it is.

use std::collections::BTreeMap;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::PartitionId;
use dejaq_wire::kafka::create_partitions::CreatePartitionsTopic;

use super::replicas::{born, check_manual, check_room};
use crate::controller::draft::{Context, Decide, Draft, MAX_PARTITIONS_PER_REQUEST, Refusal};
use crate::controller::placement::Loads;
use crate::metadata::Topic;
use crate::metadata::record::{PartitionState, PartitionsAdded};

/// The request.
#[derive(Debug, Clone)]
pub struct CreatePartitions {
    /// What to grow, and how far.
    pub topics: Vec<CreatePartitionsTopic>,
    /// Whether to say only what would happen.
    pub validate_only: bool,
}

/// One result for each topic, in the order of the request; a name that comes twice has one result.
pub type Answer = Vec<(String, Result<(), Refusal>)>;

impl Decide for CreatePartitions {
    type Answer = Answer;

    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) -> Answer {
        let before = draft.savepoint();
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for topic in &self.topics {
            *count.entry(topic.name.clone()).or_default() += 1;
        }
        let mut answer = Answer::new();
        let mut left = MAX_PARTITIONS_PER_REQUEST;
        for topic in self.topics {
            let result = match count.remove(&topic.name) {
                None => continue, // its result is there already
                Some(1) => grow(&topic, draft, &mut left, context),
                Some(_) => Err(Refusal::new(ErrorCode::INVALID_REQUEST, "Duplicate topic name.")),
            };
            answer.push((topic.name, result));
        }
        if self.validate_only {
            draft.roll_back(before);
        }
        answer
    }
}

fn grow(
    request: &CreatePartitionsTopic,
    draft: &mut Draft,
    left: &mut usize,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let Some(topic) = draft.image().topic_named(&request.name).cloned() else {
        return Err(Refusal::of(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    };
    if topic.is_internal() {
        let why = format!(
            "{} does not grow: names are given to its partitions by their number, and what is kept for them would be lost.",
            topic.name
        );
        return Err(Refusal::new(ErrorCode::INVALID_REQUEST, why));
    }
    let more = additional(request, &topic)?;
    if more > *left {
        let why = format!(
            "Excessively large number of partitions per request; at most {MAX_PARTITIONS_PER_REQUEST} are allowed."
        );
        return Err(Refusal::new(ErrorCode::POLICY_VIOLATION, why));
    }
    check_room(draft.image(), more, context.settings.max_partitions)?;
    let partitions = new_partitions(request, &topic, more, draft)?;
    assert_eq!(partitions.len(), more, "{}", request.name);
    *left -= more;
    let first = i32::try_from(topic.partitions.len()).expect("partition counts fit 31 bits");
    draft.push(PartitionsAdded { topic_id: topic.id, first: PartitionId(first), partitions });
    Ok(())
}

fn additional(request: &CreatePartitionsTopic, topic: &Topic) -> Result<usize, Refusal> {
    let has = topic.partitions.len();
    let refuse = |why: String| Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, why));
    let wanted = usize::try_from(request.count).unwrap_or(0);
    if wanted == has {
        return refuse(format!("Topic already has {has} partition(s)."));
    }
    if wanted < has {
        return refuse(format!(
            "The topic {} currently has {has} partition(s); {} would not be an increase.",
            request.name, request.count
        ));
    }
    let more = wanted - has;
    match &request.assignments {
        Some(given) if given.len() != more => Err(Refusal::new(
            ErrorCode::INVALID_REPLICA_ASSIGNMENT,
            format!(
                "Attempted to add {more} additional partition(s), but only {} assignment(s) were specified.",
                given.len()
            ),
        )),
        _ => Ok(more),
    }
}

fn new_partitions(
    request: &CreatePartitionsTopic,
    topic: &Topic,
    more: usize,
    draft: &Draft,
) -> Result<Vec<PartitionState>, Refusal> {
    let replicas = topic.partitions[0].replicas.len();
    let Some(given) = &request.assignments else {
        let mut loads = Loads::of(draft.image());
        let place = |_| {
            loads.place(replicas).map(|chosen| born(draft.image(), chosen)).map_err(|few| {
                let why = format!("Unable to replicate the partition {replicas} time(s): {few}");
                Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, why)
            })
        };
        return (0..more).map(place).collect();
    };
    for assignment in given {
        check_manual(draft.image(), &assignment.broker_ids, Some(replicas))?;
    }
    Ok(given.iter().map(|assignment| born(draft.image(), assignment.broker_ids.clone())).collect())
}
