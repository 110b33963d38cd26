//! OffsetDelete (47): forgets positions of topics that the group does not read.

use std::sync::Arc;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::TopicId;
use dejaq_wire::kafka::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};

use super::group_plane::{GroupPlane, check_partition, named};
use crate::coordinator::group::{Ask, Reply};
use crate::coordinator::record::At;
use crate::runtime::Runtime;

/// The partitions of one topic, each with the refusal that needs no coordinator.
type Row = Vec<(At, Option<ErrorCode>)>;

/// Answers one request.
pub async fn answer<R: Runtime>(
    groups: &GroupPlane<R>,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let image = groups.published.current();
    let mut known: Vec<At> = Vec::new();
    let mut rows: Vec<(String, Row)> = Vec::new();
    for topic in request.topics {
        let name: Arc<str> = topic.name.as_str().into();
        let found = named(&image, false, &topic.name, TopicId::ZERO);
        let row = topic.partitions.into_iter().map(|part| {
            let at = At { topic: name.clone(), partition: part.partition_index };
            let refused = found.and_then(|topic| check_partition(topic, part.partition_index)).err();
            if refused.is_none() {
                known.push(at.clone());
            }
            (at, refused)
        });
        let row = row.collect();
        rows.push((topic.name, row));
    }
    let ask = Ask::Forget { group: request.group_id.clone(), offsets: known };
    let results = match groups.ask(&request.group_id, ask).await {
        Ok(Reply::Partitions(results)) => results,
        Ok(Reply::Refused(error_code)) | Err(error_code) => {
            return OffsetDeleteResponse { error_code, ..Default::default() };
        }
        Ok(other) => unreachable!("a deletion of offsets is answered with {other:?}"),
    };
    let mut results = results.into_iter();
    let topics = rows.into_iter().map(|(name, row)| {
        let partitions = row.into_iter().map(|(at, refused)| OffsetDeleteResponsePartition {
            partition_index: at.partition,
            error_code: refused
                .unwrap_or_else(|| results.next().expect("one result a partition, in order").1),
        });
        OffsetDeleteResponseTopic { name, partitions: partitions.collect() }
    });
    OffsetDeleteResponse { topics: topics.collect(), ..Default::default() }
}
