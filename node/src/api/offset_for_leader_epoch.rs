//! OffsetForLeaderEpoch (23): where a leader epoch ended, so that a client finds out whether its log was cut (KIP-320).
//!
//! Promises: for an epoch that we do not know, the largest one below it and its end; nothing at all for one that is
//! newer than ours or older than everything that we have.

use dejaq_wire::ids::{LeaderEpoch, Offset};
use dejaq_wire::kafka::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};

use super::data_plane::{DataPlane, partition_in_epoch};
use super::fetch_session::TopicRef;
use crate::replica::Table;
use crate::runtime::Runtime;

/// Answers one request.
pub fn answer<R: Runtime>(
    data: &DataPlane<R>,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let table = data.directory.table();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = TopicRef::Name(topic.topic.as_str().into());
        let partitions = topic.partitions.iter().map(|part| one(&table, &name, part)).collect();
        topics.push(OffsetForLeaderTopicResult { topic: topic.topic, partitions });
    }
    OffsetForLeaderEpochResponse { topics, ..Default::default() }
}

fn one<R: Runtime>(table: &Table<R>, topic: &TopicRef, part: &OffsetForLeaderPartition) -> EpochEndOffset {
    let mut answer = EpochEndOffset { partition: part.partition, ..Default::default() };
    match partition_in_epoch(table, topic, part.partition, part.current_leader_epoch) {
        Ok(partition) => {
            let ours = partition.view().epoch();
            if part.leader_epoch.is_valid() && part.leader_epoch <= ours {
                let end = partition.view().reader().end_offset_for_epoch(part.leader_epoch);
                assert!(end.epoch <= part.leader_epoch, "{:?} for {:?}", end.epoch, part.leader_epoch);
                (answer.leader_epoch, answer.end_offset) = (end.epoch, end.end);
            } else {
                (answer.leader_epoch, answer.end_offset) = (LeaderEpoch::NONE, Offset::NONE);
            }
        }
        Err(code) => answer.error_code = code,
    }
    answer
}
