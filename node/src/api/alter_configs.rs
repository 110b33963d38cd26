//! AlterConfigs (33): replaces every config of a resource. Also what both ways of altering share.

use std::collections::{BTreeMap, BTreeSet};

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::BrokerId;
use dejaq_wire::kafka::alter_configs::{
    AlterConfigsRequest, AlterConfigsResourceResponse, AlterConfigsResponse,
};
use dejaq_wire::topic_name::validate_topic_name;

use super::control_plane::{ControlPlane, outcome};
use crate::controller::Refusal;
use crate::controller::decide::alter_configs::{AlterConfigs, Change, Operation, Target};
use crate::runtime::Runtime;

/// How long altering may take; the requests have no timeout of their own.
const TIMEOUT_MS: i32 = 30_000;

/// Kafka's numbers of what a config can belong to.
pub(super) const TOPIC: i8 = 2;
/// A broker; with an empty name, all brokers.
pub(super) const BROKER: i8 = 4;

/// Answers one request.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let asked = request.resources.iter().map(|resource| {
        let set = resource
            .configs
            .iter()
            .map(|config| (config.name.clone(), config.value.clone().map(Operation::Set)));
        Asked::new(resource.resource_type, &resource.resource_name, set, true)
    });
    let results = alter(control, asked.collect(), request.validate_only).await;
    let response = |(resource, (error_code, error_message)): (
        &dejaq_wire::kafka::alter_configs::AlterConfigsResource,
        _,
    )| AlterConfigsResourceResponse {
        error_code,
        error_message,
        resource_type: resource.resource_type,
        resource_name: resource.resource_name.clone(),
    };
    let responses = request.resources.iter().zip(results).map(response).collect();
    AlterConfigsResponse { responses, ..Default::default() }
}

/// One resource of a request, as far as it can be understood without the image.
pub(super) struct Asked {
    key: (i8, String),
    change: Result<Change, Refusal>,
}

fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::INVALID_REQUEST, why)
}

impl Asked {
    /// An operation of `None` stands for a null value where there must be one.
    pub(super) fn new(
        resource_type: i8,
        resource_name: &str,
        operations: impl Iterator<Item = (String, Option<Operation>)>,
        replace: bool,
    ) -> Asked {
        let change = target(resource_type, resource_name).and_then(|target| {
            let operations = checked(operations)?;
            Ok(Change { target, operations, replace })
        });
        Asked { key: (resource_type, resource_name.to_owned()), change }
    }

    /// A resource that is refused as a whole.
    pub(super) fn refused(resource_type: i8, resource_name: &str, why: Refusal) -> Asked {
        Asked { key: (resource_type, resource_name.to_owned()), change: Err(why) }
    }
}

fn target(resource_type: i8, name: &str) -> Result<Target, Refusal> {
    match resource_type {
        TOPIC if name.is_empty() => Err(invalid("Default topic resources are not allowed.")),
        TOPIC => match validate_topic_name(name) {
            Ok(()) => Ok(Target::Topic(name.to_owned())),
            Err(why) => Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, why.to_string())),
        },
        BROKER if name.is_empty() => Ok(Target::AllBrokers),
        BROKER => broker_id(name).map(Target::Broker),
        other => Err(invalid(format!("Unknown resource type {other}"))),
    }
}

/// The number of the broker that a resource names.
pub(super) fn broker_id(name: &str) -> Result<BrokerId, Refusal> {
    match name.parse::<i32>() {
        Ok(id) if id >= 0 => Ok(BrokerId(id)),
        _ => Err(invalid(format!("Node id must be an integer, but it is: {name}"))),
    }
}

fn checked(
    operations: impl Iterator<Item = (String, Option<Operation>)>,
) -> Result<BTreeMap<String, Operation>, Refusal> {
    let mut by_name = BTreeMap::new();
    let mut nulls = Vec::new();
    for (name, operation) in operations {
        match operation {
            None => nulls.push(name),
            Some(operation) => {
                if by_name.insert(name, operation).is_some() {
                    return Err(invalid("Error due to duplicate config keys"));
                }
            }
        }
    }
    if nulls.is_empty() {
        return Ok(by_name);
    }
    Err(invalid(format!("Null value not supported for : {}", nulls.join(", "))))
}

/// Has everything decided that can be, and gives code and text for each resource, in order.
pub(super) async fn alter<R: Runtime>(
    control: &ControlPlane<R>,
    asked: Vec<Asked>,
    validate_only: bool,
) -> Vec<(ErrorCode, Option<String>)> {
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<(i8, String)> =
        asked.iter().filter(|one| !seen.insert(one.key.clone())).map(|one| one.key.clone()).collect();
    let mut changes = Vec::new();
    let mut refused: Vec<Option<Refusal>> = Vec::new();
    for one in asked {
        let change = match twice.contains(&one.key) {
            true => Err(invalid("Each resource must appear at most once.")),
            false => one.change,
        };
        match change {
            Ok(change) => {
                changes.push(change);
                refused.push(None);
            }
            Err(refusal) => refused.push(Some(refusal)),
        }
    }
    let count = changes.len();
    let decided = match count {
        0 => Ok(Vec::new()),
        _ => control.change(AlterConfigs { changes, validate_only }, TIMEOUT_MS).await,
    };
    let results = decided.unwrap_or_else(|refusal| vec![Err(refusal); count]);
    assert_eq!(results.len(), count, "one result for each change");
    let mut results = results.into_iter();
    let each = refused.into_iter().map(|refusal| match refusal {
        Some(refusal) => Err(refusal),
        None => results.next().expect("one result for each change that was not refused"),
    });
    each.map(|result| outcome(&result)).collect()
}
