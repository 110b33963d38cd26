//! CreateTopics: names, counts, assignments and configs in; a topic or a reason out, for each topic apart.

use std::collections::{BTreeMap, BTreeSet};

use dejaq_storage::{mark, mutant};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, TopicId};
use dejaq_wire::kafka::create_topics::CreatableTopic;
use dejaq_wire::topic_name::validate_topic_name;
use serde::{Deserialize, Serialize};

use super::replicas::{born, check_manual, check_room};
use crate::controller::draft::{Context, Decide, Draft, MAX_PARTITIONS_PER_REQUEST, Refusal};
use crate::controller::placement::Loads;
use crate::metadata::Image;
use crate::metadata::config_table::InvalidConfig;
use crate::metadata::image::is_internal;
use crate::metadata::level;
use crate::metadata::record::{ConfigChanged, PartitionState, Resource, TopicCreated};
use crate::metadata::topic_config::{Overrides, check_topic};

/// The request.
#[derive(Debug, Clone)]
pub struct CreateTopics {
    /// What to create.
    pub topics: Vec<CreatableTopic>,
    /// Whether to say only what would happen.
    pub validate_only: bool,
}

/// A topic that was created, or would have been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Its id; [`TopicId::ZERO`] if it was only validated.
    pub topic_id: TopicId,
    /// How many partitions it has.
    pub partitions: i32,
    /// How many replicas each of them has.
    pub replicas: i16,
    /// What was set on it, as stored.
    pub configs: Overrides,
}

/// One result for each topic of the request, in its order; a name that comes twice has one result.
pub type Answer = Vec<(String, Result<Created, Refusal>)>;

impl Decide for CreateTopics {
    type Answer = Answer;

    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) -> Answer {
        let before = draft.savepoint();
        let mut answer = Answer::new();
        let excess = too_many(&self.topics, context);
        let mut loads = Loads::of(draft.image());
        for (topic, twice) in by_name(self.topics) {
            let result = match (&excess, twice) {
                (Some(refusal), _) => Err(refusal.clone()),
                (None, true) => Err(Refusal::new(ErrorCode::INVALID_REQUEST, "Duplicate topic name.")),
                (None, false) => create(&topic, draft, &mut loads, context),
            };
            answer.push((topic.name, result));
        }
        if self.validate_only {
            draft.roll_back(before);
            for created in answer.iter_mut().filter_map(|(_, result)| result.as_mut().ok()) {
                created.topic_id = TopicId::ZERO;
            }
        }
        answer
    }
}

/// The topics in their order, each name once, and whether it came several times.
fn by_name(topics: Vec<CreatableTopic>) -> Vec<(CreatableTopic, bool)> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for topic in &topics {
        *count.entry(topic.name.clone()).or_default() += 1;
    }
    let mut seen = BTreeSet::new();
    let first = topics.into_iter().filter(|topic| seen.insert(topic.name.clone()));
    first.map(|topic| (count[&topic.name] > 1, topic)).map(|(twice, topic)| (topic, twice)).collect()
}

fn too_many(topics: &[CreatableTopic], context: &Context<'_>) -> Option<Refusal> {
    let default = context.settings.default_partitions;
    let total = topics.iter().fold(0usize, |sum, topic| {
        let count = match (topic.assignments.len(), topic.num_partitions) {
            (0, -1) => usize::try_from(default).unwrap_or(0),
            (0, count) => usize::try_from(count).unwrap_or(0),
            (assigned, _) => assigned,
        };
        sum.saturating_add(count)
    });
    (total > MAX_PARTITIONS_PER_REQUEST).then(|| {
        let why = format!(
            "Excessively large number of partitions per request: {total}, at most {MAX_PARTITIONS_PER_REQUEST} are \
             allowed."
        );
        Refusal::new(ErrorCode::POLICY_VIOLATION, why)
    })
}

fn create(
    topic: &CreatableTopic,
    draft: &mut Draft,
    loads: &mut Loads,
    context: &mut Context<'_>,
) -> Result<Created, Refusal> {
    check_name(&topic.name, draft)?;
    let configs = configs(topic)?;
    check_level(configs.keys(), draft.image())?;
    // A refused topic must leave no trace, so that placing works on a copy.
    let mut after = loads.clone();
    let placed = partitions(topic, draft, &mut after, context)?;
    check_room(draft.image(), placed.len(), context.settings.max_partitions)?;
    *loads = after;
    let topic_id = fresh_id(draft, context);
    let created = Created {
        topic_id,
        partitions: i32::try_from(placed.len()).expect("bounded by the limit of a request"),
        replicas: i16::try_from(placed[0].replicas.len()).expect("replicas are different brokers, and few"),
        configs: configs.clone(),
    };
    draft.push(TopicCreated { topic_id, name: topic.name.clone(), partitions: placed });
    for (name, value) in configs {
        draft.push(ConfigChanged { resource: Resource::Topic(topic_id), name, value: Some(value) });
    }
    Ok(created)
}

fn check_name(name: &str, draft: &Draft) -> Result<(), Refusal> {
    let invalid = |why: String| Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, why));
    if let Err(why) = validate_topic_name(name) {
        return invalid(format!("Topic name '{name}' is illegal: {why}"));
    }
    if is_internal(name) {
        let why = format!("Creation of internal topic {name} is prohibited.");
        return Err(Refusal::new(ErrorCode::INVALID_REQUEST, why));
    }
    match draft.image().collides_with(name) {
        Some(same) if same == name => {
            Err(Refusal::new(ErrorCode::TOPIC_ALREADY_EXISTS, format!("Topic '{name}' already exists.")))
        }
        Some(other) => invalid(format!("Topic '{name}' collides with existing topic: {other}")),
        None => Ok(()),
    }
}

fn configs(topic: &CreatableTopic) -> Result<Overrides, Refusal> {
    let mut given = Overrides::new();
    for config in &topic.configs {
        let Some(value) = &config.value else {
            return Err(invalid_config(&InvalidConfig::Null { name: config.name.clone() }));
        };
        given.insert(config.name.clone(), value.clone());
    }
    check_topic(&given).map_err(|why| invalid_config(&why))
}

/// Configs that brokers of the last release do not know wait until the cluster has none of them any more.
pub(super) fn check_level<'a>(
    mut names: impl Iterator<Item = &'a String>,
    image: &Image,
) -> Result<(), Refusal> {
    // The planted bug M232: what an older broker does not know is written while one may be there.
    let newer = names.find(|name| level::of_config(name) > image.level() && !mutant!(232));
    let Some(name) = newer else { return Ok(()) };
    mark!("a config of a newer level is refused");
    let why = format!(
        "Topic config {name} needs {} {}, and the cluster stands at {}: when every broker runs the newer release, raise it \
         with `dejaq cluster upgrade`.",
        level::DEJAQ_VERSION,
        level::of_config(name),
        image.level()
    );
    Err(Refusal::new(ErrorCode::INVALID_CONFIG, why))
}

/// The refusal of a config.
pub(super) fn invalid_config(why: &InvalidConfig) -> Refusal {
    Refusal::new(ErrorCode::INVALID_CONFIG, why.to_string())
}

fn partitions(
    topic: &CreatableTopic,
    draft: &Draft,
    loads: &mut Loads,
    context: &Context<'_>,
) -> Result<Vec<PartitionState>, Refusal> {
    if !topic.assignments.is_empty() {
        return assigned(topic, draft);
    }
    let replicas = match topic.replication_factor {
        -1 => context.settings.replication_factor(draft.image()),
        count => count,
    };
    let Some(replicas) = usize::try_from(replicas).ok().filter(|count| *count > 0) else {
        let why = "Replication factor must be larger than 0, or -1 to use the default value.";
        return Err(Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, why));
    };
    let count = match topic.num_partitions {
        -1 => context.settings.default_partitions,
        count => count,
    };
    if count <= 0 {
        let why = "Number of partitions was set to an invalid non-positive value.";
        return Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, why));
    }
    let place = |_| {
        loads.place(replicas).map(|chosen| born(draft.image(), chosen)).map_err(|few| {
            let why = format!("Unable to replicate the partition {replicas} time(s): {few}");
            Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, why)
        })
    };
    (0..count).map(place).collect()
}

fn assigned(topic: &CreatableTopic, draft: &Draft) -> Result<Vec<PartitionState>, Refusal> {
    for (set, what) in [
        (topic.replication_factor != -1, "replication factor was not set to -1."),
        (topic.num_partitions != -1, "numPartitions was not set to -1."),
    ] {
        if set {
            let why = format!("A manual partition assignment was specified, but {what}");
            return Err(Refusal::new(ErrorCode::INVALID_REQUEST, why));
        }
    }
    let refuse = |why: String| Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, why));
    let mut by_index: BTreeMap<i32, &[BrokerId]> = BTreeMap::new();
    let mut expected = None;
    for assignment in &topic.assignments {
        let index = assignment.partition_index;
        if by_index.insert(index.0, &assignment.broker_ids).is_some() {
            return refuse(format!("Found multiple manual partition assignments for partition {index}"));
        }
        check_manual(draft.image(), &assignment.broker_ids, expected)?;
        expected = Some(assignment.broker_ids.len());
    }
    if !by_index.keys().copied().eq((0..).take(by_index.len())) {
        return refuse("partitions should be a consecutive 0-based integer sequence".into());
    }
    Ok(by_index.into_values().map(|replicas| born(draft.image(), replicas.to_vec())).collect())
}

pub(super) fn fresh_id(draft: &Draft, context: &mut Context<'_>) -> TopicId {
    /// Each draw fails with a chance of 1 in 64 (an id that begins with `-`), if the randomness is any good.
    const DRAWS: usize = 1000;
    for _ in 0..DRAWS {
        let (high, low) = ((context.entropy)(), (context.entropy)());
        if let Some(id) = TopicId::from_random(high, low)
            && draft.image().topic(id).is_none()
        {
            return id;
        }
    }
    panic!("{DRAWS} draws gave no new topic id: the source of randomness is broken");
}
