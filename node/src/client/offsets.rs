//! Offsets by meaning: the first, the last, the one at a time.
//!
//! Owns: asking the leaders (ListOffsets), again where leadership moved. Promises: one answer for every partition that
//! was asked about, or an error. Leaves out: what is done with them (`consumer` seeks, `admin` shows).
//! SHELL.

use std::collections::BTreeMap;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};
use dejaq_wire::kafka::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsTopic,
};

use super::cluster::{Cluster, ClusterError};
use super::producer::core::TopicPartition;
use crate::runtime::{Mono, Runtime};

/// Which records of transactions count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// All, whatever becomes of their transaction.
    #[default]
    ReadUncommitted,
    /// Those of committed transactions: reading ends where the first one begins that is not decided.
    ReadCommitted,
}

impl Isolation {
    /// The number on the wire.
    #[must_use]
    pub fn level(self) -> i8 {
        match self {
            Isolation::ReadUncommitted => 0,
            Isolation::ReadCommitted => 1,
        }
    }
}

/// Which offset is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first that the partition still holds.
    Earliest,
    /// The one that the next record gets, as far as consumers may see.
    Latest,
    /// The record with the largest timestamp.
    MaxTimestamp,
    /// The first record whose timestamp is at least this, in ms since 1970.
    At(i64),
}

impl OffsetSpec {
    fn timestamp(self) -> i64 {
        match self {
            OffsetSpec::Latest => -1,
            OffsetSpec::Earliest => -2,
            OffsetSpec::MaxTimestamp => -3,
            OffsetSpec::At(ms) => ms,
        }
    }
}

/// An offset that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundOffset {
    /// The offset; `None` if no record is that late, or there is none.
    pub offset: Option<Offset>,
    /// The timestamp of its record in ms, where it was found by one.
    pub timestamp_ms: Option<i64>,
    /// The leader epoch of its record, if the broker tells.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// Why an offset is not known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OffsetsError {
    /// The partition's leader could not be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The leader refuses.
    #[error("{}-{}: {code}", at.topic, at.partition)]
    Refused {
        /// Which partition.
        at: TopicPartition,
        /// Its answer.
        code: ErrorCode,
    },
}

impl OffsetsError {
    /// What a person can do about it.
    #[must_use]
    pub fn cure(&self) -> String {
        match self {
            OffsetsError::Cluster(error) => error.cure(),
            OffsetsError::Refused { code, .. } => super::advice::cure_of(*code).into(),
        }
    }
}

/// Finds the offset that is meant for each partition, until `deadline`. Open transactions count.
///
/// # Errors
/// [`OffsetsError`]; nothing was changed, so it may be tried again.
pub async fn find<R: Runtime>(
    cluster: &Cluster<R>,
    wanted: &BTreeMap<TopicPartition, OffsetSpec>,
    deadline: Mono,
) -> Result<BTreeMap<TopicPartition, FoundOffset>, OffsetsError> {
    find_as(cluster, Isolation::ReadUncommitted, wanted, deadline).await
}

/// As [`find`], for a reader that reads so: of committed records the end is where the first open transaction begins.
///
/// # Errors
/// [`OffsetsError`]; nothing was changed, so it may be tried again.
pub async fn find_as<R: Runtime>(
    cluster: &Cluster<R>,
    isolation: Isolation,
    wanted: &BTreeMap<TopicPartition, OffsetSpec>,
    deadline: Mono,
) -> Result<BTreeMap<TopicPartition, FoundOffset>, OffsetsError> {
    let mut found = BTreeMap::new();
    let mut rounds = 0;
    loop {
        let mut failure = None;
        let seen = cluster.with_routes(|routes| routes.generation);
        let missing: BTreeMap<_, _> = wanted.iter().filter(|(at, _)| !found.contains_key(*at)).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let mut by_leader: BTreeMap<BrokerId, Vec<(&TopicPartition, OffsetSpec, LeaderEpoch)>> =
            BTreeMap::new();
        for (at, spec) in missing {
            let route = cluster.topic(&at.topic, deadline).await?;
            if route.partition(at.partition).is_none() {
                let (topic, last) = (at.topic.to_string(), route.partitions.len() as i32 - 1);
                return Err(ClusterError::UnknownPartition { topic, partition: at.partition, last }.into());
            }
            match cluster.with_routes(|routes| routes.leader(&at.topic, at.partition)) {
                Some((leader, epoch)) => by_leader.entry(leader).or_default().push((at, *spec, epoch)),
                None => {
                    let (topic, partition) = (at.topic.to_string(), at.partition);
                    failure = Some(ClusterError::NoLeader { topic, partition }.into());
                }
            }
        }
        for (leader, asked) in by_leader {
            match ask(cluster, isolation, leader, &asked, deadline).await {
                Ok(answers) => {
                    for (at, answer) in answers {
                        match answer {
                            Ok(offset) => drop(found.insert(at, offset)),
                            Err(code) if code.is_retriable() => {
                                failure = Some(OffsetsError::Refused { at, code });
                            }
                            Err(code) => return Err(OffsetsError::Refused { at, code }),
                        }
                    }
                }
                Err(error) => failure = Some(error.into()),
            }
        }
        let Some(failure) = failure else { continue };
        rounds += 1;
        if !cluster.pause(rounds, deadline).await {
            return Err(failure);
        }
        cluster.refresh(seen, deadline).await?;
    }
}

type Answers = Vec<(TopicPartition, Result<FoundOffset, ErrorCode>)>;

async fn ask<R: Runtime>(
    cluster: &Cluster<R>,
    isolation: Isolation,
    leader: BrokerId,
    asked: &[(&TopicPartition, OffsetSpec, LeaderEpoch)],
    deadline: Mono,
) -> Result<Answers, ClusterError> {
    let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for (at, spec, current_leader_epoch) in asked {
        topics.entry(&at.topic).or_default().push(ListOffsetsPartition {
            partition_index: at.partition,
            current_leader_epoch: *current_leader_epoch,
            timestamp: spec.timestamp(),
        });
    }
    let topic = |(name, partitions): (&str, _)| ListOffsetsTopic { name: name.into(), partitions };
    let connection = cluster.broker(leader, deadline).await?;
    let due = cluster.request_deadline(deadline);
    let timeout_ms = i32::try_from(due.since(cluster.runtime().now()).as_millis()).unwrap_or(i32::MAX);
    let request = ListOffsetsRequest {
        replica_id: BrokerId::NONE,
        isolation_level: isolation.level(),
        topics: topics.into_iter().map(topic).collect(),
        timeout_ms,
    };
    let answer = connection.call(&request, due).await.map_err(ClusterError::Request)?;
    let of = |at: &TopicPartition| {
        let topic = answer.topics.iter().find(|topic| *topic.name == *at.topic)?;
        topic.partitions.iter().find(|partition| partition.partition_index == at.partition)
    };
    let told = |at: &TopicPartition| match of(at) {
        None => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        Some(told) if told.error_code.is_error() => Err(told.error_code),
        Some(told) => Ok(found(told)),
    };
    Ok(asked.iter().map(|(at, _, _)| ((*at).clone(), told(at))).collect())
}

fn found(told: &ListOffsetsPartitionResponse) -> FoundOffset {
    FoundOffset {
        offset: Some(told.offset).filter(|offset| offset.is_valid()),
        timestamp_ms: Some(told.timestamp).filter(|ms| *ms >= 0),
        leader_epoch: Some(told.leader_epoch).filter(|epoch| epoch.is_valid()),
    }
}
