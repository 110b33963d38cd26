//! AlterConfigs and IncrementalAlterConfigs: the configs of topics and brokers, all of a resource or none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, TopicId};
use serde::{Deserialize, Serialize};

use super::create_topics::{check_level, invalid_config};
use super::members::DrainBroker;
use crate::controller::draft::{Context, Decide, Draft, Refusal};
use crate::controller::succession::Wanted;
use crate::controller::sweep::{ALL, sweep};
use crate::metadata::config_table::{
    InvalidConfig, MAX_VALUE_BYTES, TopicConfigDef, find, find_by_broker_name, words,
};
use crate::metadata::image::Topic;
use crate::metadata::record::{ConfigChanged, Resource};
use crate::metadata::topic_config::{Overrides, candidates, check_topic};

/// The config of all brokers that names those that are to be emptied, as a list of ids.
pub const DRAIN_BROKERS: &str = "drain.brokers";

/// What is to happen to one config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// It gets this value.
    Set(String),
    /// It goes back to its default.
    Delete,
    /// These words are added to its list.
    Append(String),
    /// These words are taken from its list.
    Subtract(String),
}

/// Whose configs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Target {
    /// The topic of this name.
    Topic(String),
    /// The broker of this number.
    Broker(BrokerId),
    /// Every broker that says nothing itself.
    AllBrokers,
}

/// Changes of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Whose configs.
    pub target: Target,
    /// What is to happen, by name.
    pub operations: BTreeMap<String, Operation>,
    /// Whether what is not named goes back to its default (AlterConfigs).
    pub replace: bool,
}

/// The request. Every change is of another target.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlterConfigs {
    /// What is to change.
    pub changes: Vec<Change>,
    /// Whether to say only what would happen.
    pub validate_only: bool,
}

impl Decide for AlterConfigs {
    /// One result for each change, in their order.
    type Answer = Vec<Result<(), Refusal>>;

    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) -> Self::Answer {
        let before = draft.savepoint();
        let answer = self.changes.into_iter().map(|change| alter_all(change, draft, context)).collect();
        if self.validate_only {
            draft.roll_back(before);
        }
        answer
    }
}

/// What is draining is part of the brokers' state, and is set by a config of all brokers, so that every Kafka tool can.
fn alter_all(mut change: Change, draft: &mut Draft, context: &mut Context<'_>) -> Result<(), Refusal> {
    let drain = match change.target {
        Target::AllBrokers => change.operations.remove(DRAIN_BROKERS),
        Target::Broker(_) | Target::Topic(_) => None,
    };
    let before = draft.savepoint();
    let result = match drain {
        Some(operation) => drain_brokers(&operation, draft, context),
        None => Ok(()),
    };
    let result = result.and_then(|()| alter(&change, draft, context));
    if result.is_err() {
        draft.roll_back(before); // all of a resource or none
    }
    result
}

fn drain_brokers(operation: &Operation, draft: &mut Draft, context: &mut Context<'_>) -> Result<(), Refusal> {
    let named = |list: &str| -> Result<BTreeSet<BrokerId>, Refusal> {
        let id = |word: &str| {
            let bad = || {
                format!("Invalid value {list} for configuration {DRAIN_BROKERS}: not a list of broker ids")
            };
            word.parse().map(BrokerId).map_err(|_| Refusal::new(ErrorCode::INVALID_CONFIG, bad()))
        };
        words(list).map(id).collect()
    };
    let now: BTreeSet<BrokerId> =
        draft.image().brokers().filter(|broker| broker.draining).map(|broker| broker.id).collect();
    let wanted: BTreeSet<BrokerId> = match operation {
        Operation::Set(list) => named(list)?,
        Operation::Delete => BTreeSet::new(),
        Operation::Append(more) => &now | &named(more)?,
        Operation::Subtract(less) => &now - &named(less)?,
    };
    for (broker, draining) in (&now - &wanted).into_iter().map(|broker| (broker, false)) {
        DrainBroker { broker, draining }.decide(draft, context)?;
    }
    for (broker, draining) in (&wanted - &now).into_iter().map(|broker| (broker, true)) {
        DrainBroker { broker, draining }.decide(draft, context)?;
    }
    Ok(())
}

fn alter(change: &Change, draft: &mut Draft, context: &Context<'_>) -> Result<(), Refusal> {
    let resource = resource(&change.target, draft)?;
    let now = current(&resource, draft);
    let mut wanted = if change.replace { Overrides::new() } else { now.clone() };
    for (name, operation) in &change.operations {
        let value = match operation {
            Operation::Set(value) => Some(value.clone()),
            Operation::Delete => None,
            Operation::Append(more) => Some(edited(&resource, (name, more), draft, context, append)?),
            Operation::Subtract(less) => Some(edited(&resource, (name, less), draft, context, subtract)?),
        };
        match value {
            Some(value) => wanted.insert(name.clone(), value),
            None => {
                known(&resource, name)?;
                wanted.remove(name)
            }
        };
    }
    if let Resource::Topic(id) = &resource {
        keep_own(*id, &mut wanted, draft)?;
    }
    if is_policy_dropped(&resource, &now, &wanted, draft) {
        wanted.insert(POLICY.to_owned(), "delete".to_owned());
    }
    let wanted = match &resource {
        Resource::Topic(_) => check_topic(&wanted).map_err(|why| invalid_config(&why))?,
        Resource::Broker(_) | Resource::AllBrokers => check_broker(&wanted)?,
    };
    if matches!(resource, Resource::Topic(_)) {
        let set = wanted.iter().filter(|(name, value)| now.get(*name) != Some(*value));
        check_level(set.map(|(name, _)| name), draft.image())?;
    }
    let changes_minimum = now.get(MIN_INSYNC) != wanted.get(MIN_INSYNC);
    check_everywhere(&resource, &now, &wanted, draft)?;
    if resource == Resource::AllBrokers {
        write_out_policy(&now, &wanted, draft);
    }
    for name in now.keys().filter(|name| !wanted.contains_key(*name)) {
        draft.push(ConfigChanged { resource: resource.clone(), name: name.clone(), value: None });
    }
    for (name, value) in wanted.iter().filter(|(name, value)| now.get(*name) != Some(*value)) {
        let (name, value) = (name.clone(), Some(value.clone()));
        draft.push(ConfigChanged { resource: resource.clone(), name, value });
    }
    if changes_minimum {
        forget_eligible(draft, context);
    }
    Ok(())
}

/// Whether a topic goes back to the default policy. It is written out then: once a topic had a policy of its own it may have
/// been compacted, its log has gaps for ever, and whoever opens it or follows it must expect them (`TopicConfig::gaps`).
fn is_policy_dropped(resource: &Resource, now: &Overrides, wanted: &Overrides, draft: &Draft) -> bool {
    let of_all = current(&Resource::AllBrokers, draft);
    matches!(resource, Resource::Topic(_))
        && now.contains_key(POLICY)
        && !wanted.contains_key(POLICY)
        && !of_all.contains_key(BROKER_POLICY)
}

/// The same where all brokers give up the policy that topics got from them: each that has no other gets it written out.
fn write_out_policy(now: &Overrides, wanted: &Overrides, draft: &mut Draft) {
    if !now.contains_key(BROKER_POLICY) || wanted.contains_key(BROKER_POLICY) {
        return;
    }
    let has_none = |topic: &&Arc<Topic>| !topic.configs.contains_key(POLICY);
    let topics: Vec<TopicId> = draft.image().topics().filter(has_none).map(|topic| topic.id).collect();
    for id in topics {
        let (name, value) = (POLICY.to_owned(), Some("delete".to_owned()));
        draft.push(ConfigChanged { resource: Resource::Topic(id), name, value });
    }
}

/// In a cluster no broker may have a rule of its own for what all must see alike (`SAME_EVERYWHERE`); nor a policy of its own
/// while it is alone, since others may come, and a log that was compacted has gaps for ever.
fn check_everywhere(
    resource: &Resource,
    now: &Overrides,
    wanted: &Overrides,
    draft: &Draft,
) -> Result<(), Refusal> {
    if !matches!(resource, Resource::Broker(_)) {
        return Ok(());
    }
    let is_shared = draft.image().is_shared();
    let is_alike = |name: &&String| match is_shared {
        true => find_by_broker_name(name).is_some_and(TopicConfigDef::is_same_everywhere),
        false => *name == BROKER_POLICY,
    };
    let mut set = wanted.iter().filter(|(name, value)| now.get(*name) != Some(*value)).map(|(name, _)| name);
    match set.find(is_alike) {
        None => Ok(()),
        Some(name) => Err(Refusal::new(
            ErrorCode::INVALID_CONFIG,
            format!("{name} cannot be set for one broker alone; set it for a topic, or for all brokers."),
        )),
    }
}

/// What the broker's own topics were made with stays: offsets and decisions that were told must never go back.
fn keep_own(id: TopicId, wanted: &mut Overrides, draft: &Draft) -> Result<(), Refusal> {
    let topic = draft.image().topic(id).expect("the resource was found");
    if !topic.is_internal() {
        return Ok(());
    }
    for name in [POLICY, "durability"] {
        let Some(kept) = topic.configs.get(name) else { continue };
        let value = wanted.entry(name.to_owned()).or_insert_with(|| kept.clone());
        if value.trim() != kept {
            return Err(Refusal::new(
                ErrorCode::INVALID_CONFIG,
                format!("{name} of {} stays {kept}: what is kept there was promised to last.", topic.name),
            ));
        }
    }
    Ok(())
}

const POLICY: &str = "cleanup.policy";
/// As brokers call it.
const BROKER_POLICY: &str = "log.cleanup.policy";
/// Broker-level and topic-level name of the smallest in-sync set that commits.
const MIN_INSYNC: &str = "min.insync.replicas";

/// From here on a smaller set may commit something: who is eligible beside it would lack that. In the same batch, so
/// that no leader ever sees the new minimum beside the old eligible replicas.
fn forget_eligible(draft: &mut Draft, context: &Context<'_>) {
    sweep(draft, context, ALL, |_, _, partition| {
        let some = !partition.elr.is_empty() || !partition.last_known_elr.is_empty();
        (some && !partition.isr.is_empty()).then(Wanted::default)
    });
}

fn resource(target: &Target, draft: &Draft) -> Result<Resource, Refusal> {
    match target {
        Target::Topic(name) => match draft.image().topic_named(name) {
            Some(topic) => Ok(Resource::Topic(topic.id)),
            None => Err(Refusal::new(
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                format!("The topic '{name}' does not exist."),
            )),
        },
        Target::Broker(id) if draft.image().broker(*id).is_none() => {
            Err(Refusal::new(ErrorCode::INVALID_REQUEST, format!("No broker with id {id} found.")))
        }
        Target::Broker(id) => Ok(Resource::Broker(*id)),
        Target::AllBrokers => Ok(Resource::AllBrokers),
    }
}

fn current(resource: &Resource, draft: &Draft) -> Overrides {
    let image = draft.image();
    let found = match resource {
        Resource::Topic(id) => image.topic(*id).map(|topic| &*topic.configs),
        Resource::Broker(id) => image.broker_configs(Some(*id)),
        Resource::AllBrokers => image.broker_configs(None),
    };
    found.cloned().unwrap_or_default()
}

fn known(resource: &Resource, name: &str) -> Result<&'static TopicConfigDef, Refusal> {
    match resource {
        Resource::Topic(_) => {
            crate::metadata::config_table::known(name).map_err(|why| invalid_config(&why))
        }
        Resource::Broker(_) | Resource::AllBrokers => find_by_broker_name(name).ok_or_else(|| {
            let hint = match find(name).and_then(|def| def.broker_name) {
                Some(broker_name) => format!(" (the broker-level name is {broker_name})"),
                None => String::new(),
            };
            let why = format!(
                "Cannot update these configs dynamically: {name}. Only defaults of topic configs can be changed at \
                 run time{hint}; other settings are read when the broker starts."
            );
            Refusal::new(ErrorCode::INVALID_REQUEST, why)
        }),
    }
}

fn check_broker(wanted: &Overrides) -> Result<Overrides, Refusal> {
    let mut checked = Overrides::new();
    for (name, value) in wanted {
        let def = known(&Resource::AllBrokers, name)?;
        let value = def.check(value).map_err(|why| match why {
            // The client knows the config by the name that it gave.
            InvalidConfig::Value { value, why, .. } => {
                invalid_config(&InvalidConfig::Value { name: name.clone(), value, why })
            }
            other @ (InvalidConfig::Unknown { .. }
            | InvalidConfig::Null { .. }
            | InvalidConfig::Alike { .. }) => invalid_config(&other),
        })?;
        checked.insert(name.clone(), value);
    }
    Ok(checked)
}

/// A list config after an edit of the value that is in force.
fn edited(
    resource: &Resource,
    (name, given): (&str, &str),
    draft: &Draft,
    context: &Context<'_>,
    edit: fn(&mut Vec<String>, &str),
) -> Result<String, Refusal> {
    let def = known(resource, name)?;
    if given.len() > MAX_VALUE_BYTES {
        let why = format!("{} bytes are too long, at most {MAX_VALUE_BYTES} are allowed", given.len());
        let value = given[..given.floor_char_boundary(40)].to_owned() + "…";
        return Err(invalid_config(&InvalidConfig::Value { name: name.to_owned(), value, why }));
    }
    if !def.kind.is_list() {
        let why = format!("Can't APPEND or SUBTRACT to key {name} because its type is not LIST.");
        return Err(Refusal::new(ErrorCode::INVALID_CONFIG, why));
    }
    let in_force = match current(resource, draft).remove(name) {
        Some(value) => value,
        None => inherited(resource, def, draft, context),
    };
    let mut list: Vec<String> = words(&in_force).map(str::to_owned).collect();
    edit(&mut list, given);
    Ok(list.join(","))
}

fn inherited(
    resource: &Resource,
    def: &'static TopicConfigDef,
    draft: &Draft,
    context: &Context<'_>,
) -> String {
    let settings = context.settings;
    let brokers = draft.image().broker_defaults(settings.node, &settings.topic_defaults);
    let topic = match resource {
        Resource::Topic(id) => draft.image().topic(*id),
        Resource::Broker(_) | Resource::AllBrokers => None,
    };
    let none = Overrides::new();
    let own = topic.map_or(&none, |topic| &topic.configs);
    candidates(def, own, &brokers).swap_remove(0).value
}

fn append(list: &mut Vec<String>, more: &str) {
    for word in words(more) {
        if !list.iter().any(|known| known == word) {
            list.push(word.to_owned());
        }
    }
}

fn subtract(list: &mut Vec<String>, less: &str) {
    list.retain(|known| words(less).all(|word| word != known));
}
