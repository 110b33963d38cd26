//! Metadata (3): brokers, topics and who leads their partitions, seen by the listener by which the client came.
//!
//! Null topics (and, in version 0, none) mean all topics; topics are named by name, from version 12 on also by id, and
//! a request that names any by id is answered for its ids only, as Kafka does. A topic that does not exist is created
//! if the broker's setting and the request allow it: the answer waits for it, so that it comes with its partitions.

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, TopicId};
use dejaq_wire::kafka::create_topics::CreatableTopic;
use dejaq_wire::kafka::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
    MetadataResponsePartition, MetadataResponseTopic,
};
use dejaq_wire::topic_name::validate_topic_name;

use super::control_plane::{CLUSTER_OPERATIONS, ControlPlane, OPERATIONS_NOT_ASKED, TOPIC_OPERATIONS};
use crate::controller::decide::create_topics::CreateTopics;
use crate::metadata::image::is_internal;
use crate::metadata::{Image, Partition, Topic};
use crate::runtime::Runtime;
use crate::server::service::Session;

/// Time that an automatic creation may take before the client is told to ask again.
const CREATION_TIMEOUT_MS: i32 = 10_000;
/// Topics that one request may have created; the others are unknown until it asks again.
const MAX_CREATED: usize = 100;

/// Answers one request.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    session: &Session,
    version: i16,
    request: MetadataRequest,
) -> MetadataResponse {
    let operations = request.include_topic_authorized_operations;
    let found = match select(&request, version) {
        Err(code) => {
            // Versions below 13 have no place for an error of the whole request: every topic carries it.
            let topics = request.topics.unwrap_or_default();
            let named = topics.into_iter().map(|topic| missing(topic.name.as_deref(), topic.topic_id, code));
            named.collect()
        }
        Ok(Selection::All) => {
            let image = control.published.current();
            image.topics_by_name().map(|topic| describe(&image, topic)).collect()
        }
        Ok(Selection::Ids(ids)) => {
            let image = control.published.current();
            ids.into_iter().map(|id| by_id(&image, id)).collect()
        }
        Ok(Selection::Names(names)) => {
            let create = request.allow_auto_topic_creation && control.config.topics.auto_create;
            by_name(control, names, create).await
        }
    };
    let mut topics: Vec<MetadataResponseTopic> = found;
    if version >= 8 && operations {
        topics.iter_mut().for_each(|topic| topic.topic_authorized_operations = TOPIC_OPERATIONS);
    }
    let cluster = (8..=10).contains(&version) && request.include_cluster_authorized_operations;
    MetadataResponse {
        brokers: brokers(control, session),
        cluster_id: Some(control.cluster_id.to_string()),
        controller_id: control.controller_id(),
        topics,
        cluster_authorized_operations: if cluster { CLUSTER_OPERATIONS } else { OPERATIONS_NOT_ASKED },
        ..Default::default()
    }
}

enum Selection {
    All,
    Ids(Vec<TopicId>),
    Names(Vec<String>),
}

fn select(request: &MetadataRequest, version: i16) -> Result<Selection, ErrorCode> {
    let Some(topics) = &request.topics else { return Ok(Selection::All) };
    if version == 0 && topics.is_empty() {
        return Ok(Selection::All);
    }
    let by_id = |topic: &MetadataRequestTopic| !topic.topic_id.is_zero();
    if version < 12 && topics.iter().any(|topic| topic.name.is_none() || by_id(topic)) {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    if topics.iter().any(by_id) {
        return Ok(Selection::Ids(unique(
            topics.iter().map(|topic| topic.topic_id).filter(|id| !id.is_zero()),
        )));
    }
    Ok(Selection::Names(unique(topics.iter().filter_map(|topic| topic.name.clone()))))
}

/// Each once, in the order of their first appearance.
fn unique<T: Ord + Clone>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = std::collections::BTreeSet::new();
    all.filter(|one| seen.insert(one.clone())).collect()
}

fn by_id(image: &Image, id: TopicId) -> MetadataResponseTopic {
    match image.topic(id) {
        Some(topic) => describe(image, topic),
        None => missing(None, id, ErrorCode::UNKNOWN_TOPIC_ID),
    }
}

async fn by_name<R: Runtime>(
    control: &ControlPlane<R>,
    names: Vec<String>,
    create: bool,
) -> Vec<MetadataResponseTopic> {
    let mut image = control.published.current();
    let absent = |name: &&String| {
        image.topic_named(name).is_none() && validate_topic_name(name).is_ok() && !is_internal(name)
    };
    let wanted: Vec<String> = match create {
        true => names.iter().filter(absent).take(MAX_CREATED).cloned().collect(),
        false => Vec::new(),
    };
    let mut refused: Vec<(String, ErrorCode)> = Vec::new();
    if !wanted.is_empty() {
        refused = create_all(control, &wanted).await;
        image = control.published.current();
    }
    let answer = |name: &String| match image.topic_named(name) {
        Some(topic) => describe(&image, topic),
        None => {
            let why = refused.iter().find(|(refused, _)| refused == name).map(|(_, code)| *code);
            missing(Some(name), TopicId::ZERO, why.unwrap_or_else(|| absence(name)))
        }
    };
    names.iter().map(answer).collect()
}

fn absence(name: &str) -> ErrorCode {
    match validate_topic_name(name) {
        Ok(()) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        Err(_) => ErrorCode::INVALID_TOPIC_EXCEPTION,
    }
}

/// Creates the topics with the broker's defaults; what is left out of the answer was created, or was there already.
async fn create_all<R: Runtime>(control: &ControlPlane<R>, names: &[String]) -> Vec<(String, ErrorCode)> {
    let topic = |name: &String| CreatableTopic {
        name: name.clone(),
        num_partitions: -1,
        replication_factor: -1,
        ..Default::default()
    };
    let request = CreateTopics { topics: names.iter().map(topic).collect(), validate_only: false };
    match control.change(request, CREATION_TIMEOUT_MS).await {
        // The client asks again; by then the topic is there, or the controller is.
        Err(_) => names.iter().map(|name| (name.clone(), ErrorCode::LEADER_NOT_AVAILABLE)).collect(),
        Ok(results) => {
            let refused = results.into_iter().filter_map(|(name, result)| Some((name, result.err()?.code)));
            refused.map(|(name, code)| (name, creation_code(code))).collect()
        }
    }
}

/// What Kafka answers when an automatic creation fails.
fn creation_code(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::INVALID_TOPIC_EXCEPTION | ErrorCode::INVALID_REPLICATION_FACTOR => code,
        // Somebody else was faster; it is on its way into the image that the client sees next.
        ErrorCode::TOPIC_ALREADY_EXISTS => ErrorCode::LEADER_NOT_AVAILABLE,
        _ => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    }
}

fn missing(name: Option<&str>, topic_id: TopicId, error_code: ErrorCode) -> MetadataResponseTopic {
    MetadataResponseTopic {
        error_code,
        name: name.map(str::to_owned),
        topic_id,
        is_internal: name.is_some_and(is_internal),
        ..Default::default()
    }
}

fn describe(image: &Image, topic: &Topic) -> MetadataResponseTopic {
    let partition = |(index, partition): (_, &Partition)| MetadataResponsePartition {
        error_code: partition_error(partition),
        partition_index: index,
        leader_id: partition.leader,
        leader_epoch: partition.leader_epoch,
        replica_nodes: partition.replicas.to_vec(),
        isr_nodes: partition.isr.to_vec(),
        offline_replicas: offline(image, partition),
    };
    MetadataResponseTopic {
        name: Some(topic.name.to_string()),
        topic_id: topic.id,
        is_internal: topic.is_internal(),
        partitions: topic.partitions().map(partition).collect(),
        ..Default::default()
    }
}

/// The replicas whose brokers are fenced, stopping or gone.
pub(super) fn offline(image: &Image, partition: &Partition) -> Vec<BrokerId> {
    partition.replicas.iter().copied().filter(|replica| !image.is_live(*replica)).collect()
}

/// The error that stands beside a partition.
pub(super) fn partition_error(partition: &Partition) -> ErrorCode {
    if partition.leader == BrokerId::NONE { ErrorCode::LEADER_NOT_AVAILABLE } else { ErrorCode::NONE }
}

fn brokers<R: Runtime>(control: &ControlPlane<R>, session: &Session) -> Vec<MetadataResponseBroker> {
    let image = control.published.current();
    // A fenced broker serves nobody: clients should not try it.
    let seen = image.brokers().filter(|broker| !broker.fenced).filter_map(|broker| {
        let address = control.address_of(broker, session)?;
        Some(MetadataResponseBroker {
            node_id: broker.id,
            host: address.host,
            port: i32::from(address.port),
            rack: broker.rack.clone(),
        })
    });
    seen.collect()
}
