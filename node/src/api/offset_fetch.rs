//! OffsetFetch (9): a group's positions; from version 8 on of several groups.
//!
//! A partition without a position is answered with -1 and no error. A client that wants stable positions only (KIP-447)
//! is told to come again for those that a transaction may still change. Who may have been replaced tells none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId, TopicId};
use dejaq_wire::kafka::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};

use super::group_plane::{GroupPlane, Until, named};
use crate::coordinator::group::{Ask, Reply};
use crate::coordinator::record::{At, Committed};
use crate::metadata::Image;
use crate::runtime::Runtime;

/// First version for several groups.
const FIRST_WITH_GROUPS: i16 = 8;
/// First version that names topics by id.
const FIRST_BY_ID: i16 = 10;
/// Last version without a place for an error of the whole group.
const LAST_WITHOUT_ERROR: i16 = 1;

/// Answers one request.
pub async fn answer<R: Runtime>(
    groups: &GroupPlane<R>,
    version: i16,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    let until = groups.until();
    if version >= FIRST_WITH_GROUPS {
        let mut answers = Vec::with_capacity(request.groups.len());
        let mut seen = BTreeSet::new();
        for group in request.groups {
            // Each is told once (and once by name), or a few bytes that name a large group many times would become any number.
            if !seen.insert((group.group_id.clone(), group.topics.is_none())) {
                let error_code = ErrorCode::INVALID_REQUEST;
                answers.push(OffsetFetchResponseGroup {
                    group_id: group.group_id,
                    error_code,
                    ..Default::default()
                });
                continue;
            }
            answers.push(one(groups, version, request.require_stable, group, until).await);
        }
        return OffsetFetchResponse { groups: answers, ..Default::default() };
    }
    let topics = request.topics.map(|topics| {
        let named = topics.into_iter().map(|topic| OffsetFetchRequestTopics {
            name: topic.name,
            partition_indexes: topic.partition_indexes,
            ..Default::default()
        });
        named.collect()
    });
    let group = OffsetFetchRequestGroup { group_id: request.group_id, topics, ..Default::default() };
    let answer = one(groups, version, request.require_stable, group, until).await;
    let whole = answer.error_code;
    let topic = |topic: OffsetFetchResponseTopics| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(|part| older(part, version, whole)).collect(),
    };
    OffsetFetchResponse {
        topics: answer.topics.into_iter().map(topic).collect(),
        error_code: whole,
        ..Default::default()
    }
}

fn older(
    part: OffsetFetchResponsePartitions,
    version: i16,
    whole: ErrorCode,
) -> OffsetFetchResponsePartition {
    let carries = version <= LAST_WITHOUT_ERROR && whole.is_error();
    OffsetFetchResponsePartition {
        partition_index: part.partition_index,
        committed_offset: part.committed_offset,
        committed_leader_epoch: part.committed_leader_epoch,
        metadata: part.metadata,
        error_code: if carries { whole } else { part.error_code },
    }
}

async fn one<R: Runtime>(
    groups: &GroupPlane<R>,
    version: i16,
    stable_only: bool,
    request: OffsetFetchRequestGroup,
    until: Until,
) -> OffsetFetchResponseGroup {
    let image = groups.published.current();
    let by_id = version >= FIRST_BY_ID;
    let group = request.group_id.clone();
    // What is asked for: the topics as they were named, and what they are called.
    let mut named_topics = Vec::new();
    let wanted = request.topics.map(|topics| {
        let mut wanted = BTreeSet::new();
        for topic in topics {
            let name = match by_id {
                true => named(&image, true, "", topic.topic_id).map(|known| known.name.clone()),
                // A name needs no topic: positions outlive it.
                false => Ok(Arc::from(topic.name.as_str())),
            };
            if let Ok(name) = &name {
                let at = |partition: &PartitionId| At { topic: name.clone(), partition: *partition };
                wanted.extend(topic.partition_indexes.iter().map(at));
            }
            named_topics.push((topic, name));
        }
        wanted.into_iter().collect()
    });
    let is_all = wanted.is_none();
    // Told by members of KIP-848 only, from version 9 on.
    let member = request.member_id.filter(|id| !id.is_empty()).map(|id| (id, request.member_epoch));
    let ask = Ask::Fetch { group: group.clone(), wanted, member };
    let result = groups.ask_newest(&group, ask, until).await;
    let mut withheld = BTreeSet::new();
    let (offsets, error_code) = match result {
        Ok(Reply::Offsets(offsets, unstable)) => {
            if stable_only {
                withheld = unstable;
            }
            (offsets, ErrorCode::NONE)
        }
        Ok(Reply::Refused(code)) => (Vec::new(), code),
        Ok(other) => unreachable!("a fetch of offsets is answered with {other:?}"),
        Err(code) if version <= LAST_WITHOUT_ERROR => (Vec::new(), code),
        Err(code) => {
            return OffsetFetchResponseGroup { group_id: group, error_code: code, ..Default::default() };
        }
    };
    if error_code.is_error() && version > LAST_WITHOUT_ERROR {
        return OffsetFetchResponseGroup { group_id: group, error_code, ..Default::default() };
    }
    let topics = if is_all {
        every(&image, by_id, offsets, &withheld)
    } else {
        let kept: BTreeMap<At, Option<Committed>> = offsets.into_iter().collect();
        let mut told = BTreeSet::new();
        let chosen = |(topic, name)| chosen(topic, name, (&kept, &withheld), &mut told);
        named_topics.into_iter().map(chosen).collect()
    };
    OffsetFetchResponseGroup { group_id: group, topics, error_code }
}

/// The answer for all that is kept. A topic that is gone has no id and cannot be told by one.
fn every(
    image: &Image,
    by_id: bool,
    offsets: Vec<(At, Option<Committed>)>,
    withheld: &BTreeSet<At>,
) -> Vec<OffsetFetchResponseTopics> {
    let mut topics: BTreeMap<Arc<str>, Vec<OffsetFetchResponsePartitions>> = BTreeMap::new();
    for (at, kept) in offsets {
        let told = stable(&at, kept.as_ref(), withheld);
        topics.entry(at.topic).or_default().push(told);
    }
    let told = topics.into_iter().filter_map(|(name, partitions)| {
        let topic_id = image.topic_named(&name).map_or(TopicId::ZERO, |topic| topic.id);
        if by_id && topic_id.is_zero() {
            return None;
        }
        Some(OffsetFetchResponseTopics { name: name.to_string(), topic_id, partitions })
    });
    told.collect()
}

/// The answer for a topic of which partitions are named; each is told once, since the text of a position may be long.
fn chosen(
    topic: OffsetFetchRequestTopics,
    name: Result<Arc<str>, ErrorCode>,
    (kept, withheld): (&BTreeMap<At, Option<Committed>>, &BTreeSet<At>),
    told: &mut BTreeSet<At>,
) -> OffsetFetchResponseTopics {
    let told = |index: &PartitionId| match &name {
        Err(code) => part(*index, None, *code),
        Ok(name) => {
            let at = At { topic: name.clone(), partition: *index };
            if !told.insert(at.clone()) {
                return part(*index, None, ErrorCode::INVALID_REQUEST);
            }
            stable(&at, kept.get(&at).and_then(Option::as_ref), withheld)
        }
    };
    OffsetFetchResponseTopics {
        partitions: topic.partition_indexes.iter().map(told).collect(),
        name: topic.name,
        topic_id: topic.topic_id,
    }
}

fn stable(at: &At, kept: Option<&Committed>, withheld: &BTreeSet<At>) -> OffsetFetchResponsePartitions {
    if withheld.contains(at) {
        return part(at.partition, None, ErrorCode::UNSTABLE_OFFSET_COMMIT);
    }
    part(at.partition, kept, ErrorCode::NONE)
}

fn part(
    index: PartitionId,
    kept: Option<&Committed>,
    error_code: ErrorCode,
) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index: index,
        committed_offset: kept.map_or(Offset::NONE, |kept| kept.offset),
        committed_leader_epoch: kept.map_or(LeaderEpoch::NONE, |kept| kept.leader_epoch),
        metadata: Some(kept.map_or_else(String::new, |kept| kept.metadata.clone())),
        error_code,
    }
}
