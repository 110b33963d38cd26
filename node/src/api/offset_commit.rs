//! OffsetCommit (8): keeps a group's positions, each partition with its own result.
//!
//! Promises: OK only when the position is as durable as the offsets topic is (always `durable`), in the epoch that
//! wrote it. Leaves out: who may commit (`coordinator::group`).

use std::collections::BTreeMap;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::PartitionId;
use dejaq_wire::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitResponse, OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
};

use super::group_plane::{GroupPlane, check_partition, named};
use crate::coordinator::group::ask::CommitAsk;
use crate::coordinator::group::{Ask, Reply};
use crate::coordinator::record::{At, Committed};
use crate::runtime::Runtime;

/// First version that names topics by id.
const FIRST_BY_ID: i16 = 10;

/// Answers one request.
pub async fn answer<R: Runtime>(
    groups: &GroupPlane<R>,
    version: i16,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let now_ms = groups.runtime.unix_ms();
    let image = groups.published.current();
    // Clients of before 2018 may say for how long to keep it.
    let expires_ms =
        (request.retention_time_ms >= 0).then(|| now_ms.saturating_add(request.retention_time_ms));
    let mut offsets = Vec::new();
    let mut refused: BTreeMap<(usize, usize), ErrorCode> = BTreeMap::new();
    for (row, topic) in request.topics.iter().enumerate() {
        let found = named(&image, version >= FIRST_BY_ID, &topic.name, topic.topic_id);
        for (column, part) in topic.partitions.iter().enumerate() {
            let known = found.and_then(|known| check_partition(known, part.partition_index).map(|()| known));
            match known {
                Err(code) => drop(refused.insert((row, column), code)),
                Ok(known) => {
                    let at = At { topic: known.name.clone(), partition: part.partition_index };
                    offsets.push((at, committed(part, now_ms, expires_ms)));
                }
            }
        }
    }
    let mut told = if offsets.is_empty() {
        Vec::new()
    } else {
        let asked: Vec<At> = offsets.iter().map(|(at, _)| at.clone()).collect();
        let ask = CommitAsk {
            group: request.group_id.clone(),
            member: request.member_id,
            instance: request.group_instance_id,
            generation: request.generation_id_or_member_epoch,
            offsets,
        };
        match groups.ask(&request.group_id, Ask::Commit(ask)).await {
            Ok(Reply::Partitions(results)) => results,
            Ok(other) => unreachable!("a commit is answered with {other:?}"),
            Err(code) => {
                // While it loads, clients of every age try a commit again that is told so.
                asked.into_iter().map(|at| (at, code)).collect()
            }
        }
    }
    .into_iter();
    let topics = request.topics.into_iter().enumerate().map(|(row, topic)| {
        let partitions = topic.partitions.iter().enumerate().map(|(column, part)| {
            let code = refused.get(&(row, column)).copied();
            let code = code.unwrap_or_else(|| told.next().expect("one result a partition, in order").1);
            result(part.partition_index, code)
        });
        OffsetCommitResponseTopic {
            partitions: partitions.collect(),
            name: topic.name,
            topic_id: topic.topic_id,
        }
    });
    OffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}

fn committed(part: &OffsetCommitRequestPartition, now_ms: i64, expires_ms: Option<i64>) -> Committed {
    Committed {
        offset: part.committed_offset,
        leader_epoch: part.committed_leader_epoch,
        metadata: part.committed_metadata.clone().unwrap_or_default(),
        committed_ms: now_ms,
        expires_ms,
    }
}

fn result(partition_index: PartitionId, error_code: ErrorCode) -> OffsetCommitResponsePartition {
    OffsetCommitResponsePartition { partition_index, error_code }
}
