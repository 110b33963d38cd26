//! Groups as an operator sees them, and the commits of members and operators.
//!
//! Owns: listing, describing and deleting groups; their offsets: read, set, forgotten.
//! Promises: a commit that returns Ok is durable; one that a coordinator which moved did not answer is sent again, with
//! the same fencing. Leaves out: what is set (`cli::group` computes resets), membership (`group`).
//! SHELL.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{BrokerId, Generation, LeaderEpoch, Offset, PartitionId};
use dejaq_wire::kafka::consumer_group_describe::{ConsumerGroupDescribeRequest, Member as Consumer};
use dejaq_wire::kafka::delete_groups::DeleteGroupsRequest;
use dejaq_wire::kafka::describe_groups::{DescribeGroupsRequest, DescribedGroupMember};
use dejaq_wire::kafka::list_groups::ListGroupsRequest;
use dejaq_wire::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use dejaq_wire::kafka::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};

use super::cluster::{Cluster, ClusterError};
use super::connection::RequestError;
use super::group::GroupError;
use super::group::coordinator::Coordinator;
use super::group::protocol::decode_assignment;
use super::offsets::Isolation;
use super::producer::core::TopicPartition;
use crate::runtime::{Mono, Runtime};

/// Newest versions of OffsetCommit and OffsetFetch that name topics by name.
const LAST_BY_NAME: i16 = 9;

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEntry {
    /// Its name.
    pub group: String,
    /// Such as `Stable`.
    pub state: String,
    /// Such as `consumer`; empty if nobody ever joined.
    pub protocol_type: String,
    /// Who coordinates it.
    pub coordinator: BrokerId,
}

/// A group in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPicture {
    /// Its name.
    pub group: String,
    /// Such as `Stable`; `Dead` if it does not exist.
    pub state: String,
    /// How its plan was made; empty between plans.
    pub assignor: String,
    /// Its members.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub id: String,
    /// Its instance id, if it is static.
    pub instance: Option<String>,
    /// What its client calls itself.
    pub client_id: String,
    /// From where it came.
    pub host: String,
    /// What it owns.
    pub owned: Vec<TopicPartition>,
}

/// An offset that a group keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The next offset to read.
    pub offset: Offset,
    /// What was written beside it.
    pub metadata: String,
}

/// Every group of every broker that answers before `deadline`, by name.
///
/// # Errors
/// [`GroupError`]: a broker did not answer, or does not know all of its groups yet.
pub async fn list<R: Runtime>(cluster: &Cluster<R>, deadline: Mono) -> Result<Vec<GroupEntry>, GroupError> {
    let seen = cluster.with_routes(|routes| routes.generation);
    cluster.refresh(seen, deadline).await?;
    let brokers: Vec<BrokerId> = cluster.with_routes(|routes| routes.brokers().map(|b| b.id).collect());
    let mut all = Vec::new();
    for broker in brokers {
        let mut rounds = 0;
        loop {
            let connection = cluster.broker(broker, deadline).await?;
            let due = cluster.request_deadline(deadline);
            let answer = connection.call(&ListGroupsRequest::default(), due).await;
            let answer = answer.map_err(ClusterError::Request)?;
            if answer.error_code.is_none() {
                all.extend(answer.groups.into_iter().map(|group| GroupEntry {
                    group: group.group_id,
                    state: group.group_state,
                    protocol_type: group.protocol_type,
                    coordinator: broker,
                }));
                break;
            }
            rounds += 1;
            let code = answer.error_code;
            if !code.is_retriable() || !cluster.pause(rounds, deadline).await {
                return Err(GroupError::Refused {
                    what: format!("list the groups of broker {broker}"),
                    code,
                });
            }
        }
    }
    all.sort_by(|a, b| a.group.cmp(&b.group));
    Ok(all)
}

/// A group with its members.
///
/// # Errors
/// [`GroupError`].
pub async fn describe<R: Runtime>(
    coordinator: &Coordinator<R>,
    cluster: &Cluster<R>,
    deadline: Mono,
) -> Result<GroupPicture, GroupError> {
    let group = coordinator.group().to_owned();
    let request = DescribeGroupsRequest { groups: vec![group.clone()], ..Default::default() };
    let mut rounds = 0;
    loop {
        let answer = coordinator.ask(&request, i16::MAX, cluster.request_deadline(deadline)).await?;
        let Some(told) = answer.groups.into_iter().next() else {
            return Err(GroupError::Protocol { what: format!("group {group} is missing from the answer") });
        };
        match told.error_code {
            ErrorCode::NONE | ErrorCode::GROUP_ID_NOT_FOUND => {
                if told.group_state == "Dead"
                    && let Some(picture) = describe_consumers(coordinator, cluster, deadline).await?
                {
                    return Ok(picture);
                }
                return Ok(GroupPicture {
                    group,
                    state: told.group_state,
                    assignor: told.protocol_data,
                    members: told.members.into_iter().map(member).collect(),
                });
            }
            code => {
                again(coordinator, cluster, code, &mut rounds, "describe the group", deadline).await?;
            }
        }
    }
}

/// A group of the new protocol (KIP-848); `None` if there is none of this name, or the broker does not know of them.
async fn describe_consumers<R: Runtime>(
    coordinator: &Coordinator<R>,
    cluster: &Cluster<R>,
    deadline: Mono,
) -> Result<Option<GroupPicture>, GroupError> {
    let group = coordinator.group().to_owned();
    let request = ConsumerGroupDescribeRequest { group_ids: vec![group.clone()], ..Default::default() };
    let mut rounds = 0;
    loop {
        let answer = coordinator.ask(&request, i16::MAX, cluster.request_deadline(deadline)).await;
        let answer = match answer {
            Err(ClusterError::Request(RequestError::Unsupported(_))) => return Ok(None),
            other => other?,
        };
        let Some(told) = answer.groups.into_iter().next() else {
            return Err(GroupError::Protocol { what: format!("group {group} is missing from the answer") });
        };
        match told.error_code {
            ErrorCode::NONE => {
                return Ok(Some(GroupPicture {
                    group,
                    state: told.group_state,
                    assignor: told.assignor_name,
                    members: told.members.into_iter().map(consumer).collect(),
                }));
            }
            ErrorCode::GROUP_ID_NOT_FOUND => return Ok(None),
            code => {
                again(coordinator, cluster, code, &mut rounds, "describe the group", deadline).await?;
            }
        }
    }
}

fn consumer(told: Consumer) -> GroupMember {
    let topics = told.assignment.topic_partitions.into_iter();
    let owned = topics.flat_map(|topic| {
        let name: Arc<str> = topic.topic_name.into();
        let at = move |partition| TopicPartition { topic: name.clone(), partition };
        topic.partitions.into_iter().map(at).collect::<Vec<_>>()
    });
    GroupMember {
        id: told.member_id,
        instance: told.instance_id,
        client_id: told.client_id,
        host: told.client_host.trim_start_matches('/').to_owned(),
        owned: owned.collect(),
    }
}

fn member(told: DescribedGroupMember) -> GroupMember {
    GroupMember {
        id: told.member_id,
        instance: told.group_instance_id,
        client_id: told.client_id,
        host: told.client_host.trim_start_matches('/').to_owned(),
        owned: decode_assignment(&told.member_assignment).unwrap_or_default(),
    }
}

/// Forgets a group without members, with all its offsets.
///
/// # Errors
/// [`GroupError`]; NON_EMPTY_GROUP and GROUP_ID_NOT_FOUND among them.
pub async fn delete<R: Runtime>(
    coordinator: &Coordinator<R>,
    cluster: &Cluster<R>,
    deadline: Mono,
) -> Result<(), GroupError> {
    let request = DeleteGroupsRequest { groups_names: vec![coordinator.group().to_owned()] };
    let mut rounds = 0;
    loop {
        let answer = coordinator.ask(&request, i16::MAX, cluster.request_deadline(deadline)).await?;
        match answer.results.first().map(|result| result.error_code) {
            Some(ErrorCode::NONE) => return Ok(()),
            Some(code) => {
                again(coordinator, cluster, code, &mut rounds, "delete the group", deadline).await?
            }
            None => return Err(GroupError::Protocol { what: "the group is missing from the answer".into() }),
        }
    }
}

/// Pauses if the code is worth another try, else gives it back as the error.
async fn again<R: Runtime>(
    coordinator: &Coordinator<R>,
    cluster: &Cluster<R>,
    code: ErrorCode,
    rounds: &mut u32,
    what: &str,
    deadline: Mono,
) -> Result<(), GroupError> {
    *rounds += 1;
    let worth = coordinator.is_elsewhere(code)
        || matches!(code, ErrorCode::REQUEST_TIMED_OUT | ErrorCode::UNSTABLE_OFFSET_COMMIT);
    if worth && cluster.pause(*rounds, deadline).await {
        return Ok(());
    }
    Err(GroupError::Refused { what: what.to_owned(), code })
}

/// Keeps offsets of a group, as this member (id, generation, instance), or as nobody in particular while it is empty.
///
/// # Errors
/// [`GroupError`]: at least one is not kept, or nobody knows.
pub async fn commit<R: Runtime>(
    cluster: &Cluster<R>,
    coordinator: &Coordinator<R>,
    (member, generation, instance): (&str, Generation, Option<&str>),
    offsets: &BTreeMap<TopicPartition, Offset>,
    deadline: Mono,
) -> Result<(), GroupError> {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for (at, offset) in offsets {
        topics.entry(&at.topic).or_default().push(OffsetCommitRequestPartition {
            partition_index: at.partition,
            committed_offset: *offset,
            committed_leader_epoch: LeaderEpoch::NONE,
            committed_metadata: Some(String::new()),
        });
    }
    let topic = |(name, partitions): (&str, _)| OffsetCommitRequestTopic {
        name: name.to_owned(),
        partitions,
        ..Default::default()
    };
    let request = OffsetCommitRequest {
        group_id: coordinator.group().to_owned(),
        generation_id_or_member_epoch: generation,
        member_id: member.to_owned(),
        group_instance_id: instance.map(str::to_owned),
        topics: topics.into_iter().map(topic).collect(),
        ..Default::default()
    };
    let mut rounds = 0;
    loop {
        let answer = coordinator.ask(&request, LAST_BY_NAME, cluster.request_deadline(deadline)).await?;
        let mut codes = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|part| part.error_code);
        match codes.find(|code| code.is_error()) {
            None => return Ok(()),
            Some(code) => again(coordinator, cluster, code, &mut rounds, "commit", deadline).await?,
        }
    }
}

/// The offsets that a group keeps: of these partitions, or all.
///
/// # Errors
/// [`GroupError`].
pub async fn committed<R: Runtime>(
    cluster: &Cluster<R>,
    coordinator: &Coordinator<R>,
    wanted: Option<&BTreeSet<TopicPartition>>,
    deadline: Mono,
) -> Result<BTreeMap<TopicPartition, Kept>, GroupError> {
    read(cluster, coordinator, wanted, Isolation::ReadUncommitted, deadline).await
}

/// As [`committed`]; for a reader of committed records it waits while a transaction that commits one of them is not
/// decided (KIP-447).
///
/// # Errors
/// [`GroupError`].
pub async fn read<R: Runtime>(
    cluster: &Cluster<R>,
    coordinator: &Coordinator<R>,
    wanted: Option<&BTreeSet<TopicPartition>>,
    isolation: Isolation,
    deadline: Mono,
) -> Result<BTreeMap<TopicPartition, Kept>, GroupError> {
    let mut topics: BTreeMap<&str, Vec<PartitionId>> = BTreeMap::new();
    for at in wanted.into_iter().flatten() {
        topics.entry(&at.topic).or_default().push(at.partition);
    }
    let old = |(name, partitions): (&&str, &Vec<PartitionId>)| OffsetFetchRequestTopic {
        name: (*name).to_owned(),
        partition_indexes: partitions.clone(),
    };
    let new = |(name, partitions): (&&str, &Vec<PartitionId>)| OffsetFetchRequestTopics {
        name: (*name).to_owned(),
        partition_indexes: partitions.clone(),
        ..Default::default()
    };
    let group_id = coordinator.group().to_owned();
    let group = OffsetFetchRequestGroup {
        group_id: group_id.clone(),
        topics: wanted.map(|_| topics.iter().map(new).collect()),
        ..Default::default()
    };
    let request = OffsetFetchRequest {
        group_id,
        topics: wanted.map(|_| topics.iter().map(old).collect()),
        groups: vec![group],
        require_stable: isolation == Isolation::ReadCommitted,
    };
    let mut rounds = 0;
    loop {
        let answer = coordinator.ask(&request, LAST_BY_NAME, cluster.request_deadline(deadline)).await?;
        let mut kept = BTreeMap::new();
        let mut code = answer.error_code;
        let mut take = |topic: &str, partition, offset: Offset, metadata: Option<String>, part: ErrorCode| {
            if part.is_error() {
                code = part;
            } else if offset.is_valid() {
                let at = TopicPartition { topic: topic.into(), partition };
                kept.insert(at, Kept { offset, metadata: metadata.unwrap_or_default() });
            }
        };
        for topic in answer.topics {
            for p in topic.partitions {
                take(&topic.name, p.partition_index, p.committed_offset, p.metadata, p.error_code);
            }
        }
        let mut whole = ErrorCode::NONE;
        for group in answer.groups {
            whole = group.error_code;
            for topic in group.topics {
                for p in topic.partitions {
                    take(&topic.name, p.partition_index, p.committed_offset, p.metadata, p.error_code);
                }
            }
        }
        let code = if whole.is_error() { whole } else { code };
        if code.is_none() {
            return Ok(kept);
        }
        again(coordinator, cluster, code, &mut rounds, "read the group's offsets", deadline).await?;
    }
}
