//! ListOffsets (2): the offset of a time, or of one end of the log.
//!
//! Promises: nothing beyond the watermark is told, and to a reader of committed records nothing beyond the stable end; a leader that has not caught up with what it inherited answers
//! OFFSET_NOT_AVAILABLE for the end (KIP-207), so that the end never seems to go back. Nothing found is -1 and -1.
//! Leaves out: the archive: "earliest local" is the earliest, "latest tiered" is nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use dejaq_storage::{Disk, LogReader, ReadError, TimestampOffset, mark, mutant};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId};
use dejaq_wire::kafka::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};

use super::data_plane::{DataPlane, READ_COMMITTED, partition_in_epoch};
use super::fetch_session::TopicRef;
use crate::replica::{Partition, Table};
use crate::runtime::Runtime;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

/// Answers one request.
pub async fn answer<R: Runtime>(
    data: &DataPlane<R>,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let table = data.directory.table();
    let is_committed = request.isolation_level == READ_COMMITTED;
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = TopicRef::Name(topic.name.as_str().into());
        let mut partitions: Vec<ListOffsetsPartitionResponse> = Vec::with_capacity(topic.partitions.len());
        let mut answered: BTreeMap<PartitionId, usize> = BTreeMap::new();
        for part in topic.partitions {
            match answered.entry(part.partition_index) {
                // Two answers for one partition could contradict each other; Kafka refuses both in one.
                Entry::Occupied(first) => {
                    partitions[*first.get()] = refused(&part, ErrorCode::INVALID_REQUEST)
                }
                Entry::Vacant(new) => {
                    new.insert(partitions.len());
                    partitions.push(match is_known_in(version, part.timestamp) {
                        true => one(&table, &name, &part, is_committed).await,
                        false => refused(&part, ErrorCode::UNSUPPORTED_VERSION),
                    });
                }
            }
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    ListOffsetsResponse { topics, ..Default::default() }
}

/// Whether the version of the request has this timestamp, if it is one of the special ones.
fn is_known_in(version: i16, timestamp: i64) -> bool {
    match timestamp {
        MAX_TIMESTAMP => version >= 7,
        EARLIEST_LOCAL => version >= 8,
        LATEST_TIERED => version >= 9,
        other => other >= EARLIEST,
    }
}

fn refused(part: &ListOffsetsPartition, error_code: ErrorCode) -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse { partition_index: part.partition_index, error_code, ..Default::default() }
}

async fn one<R: Runtime>(
    table: &Table<R>,
    topic: &TopicRef,
    part: &ListOffsetsPartition,
    is_committed: bool,
) -> ListOffsetsPartitionResponse {
    let found = match partition_in_epoch(table, topic, part.partition_index, part.current_leader_epoch) {
        Ok(partition) => find(partition, part.timestamp, is_committed).await,
        Err(code) => Err(code),
    };
    let mut answer =
        ListOffsetsPartitionResponse { partition_index: part.partition_index, ..Default::default() };
    match found {
        Ok(Some(found)) => {
            answer.offset = found.offset;
            answer.timestamp = found.timestamp_ms;
            answer.leader_epoch = found.epoch;
        }
        Ok(None) => {}
        Err(code) => answer.error_code = code,
    }
    answer
}

async fn find<R: Runtime>(
    partition: &Partition<R>,
    timestamp: i64,
    is_committed: bool,
) -> Result<Option<TimestampOffset>, ErrorCode> {
    let view = partition.view();
    let reader = view.reader();
    let end = if is_committed { view.stable_end() } else { view.watermark() };
    match timestamp {
        EARLIEST | EARLIEST_LOCAL => Ok(Some(end_of(reader, reader.start()))),
        LATEST_TIERED => Ok(None),
        // The planted bug M280: a new leader tells of the end that it knows.
        _ if !view.is_caught_up() && !mutant!(280) => {
            mark!("the end of a log is not known yet");
            Err(ErrorCode::OFFSET_NOT_AVAILABLE)
        }
        LATEST => Ok(Some(TimestampOffset { epoch: view.epoch(), ..end_of(reader, end) })),
        MAX_TIMESTAMP => reader.max_timestamp(end).await.map_err(code_of),
        at if at >= 0 => reader.offset_for_timestamp(at, end).await.map_err(code_of),
        _ => Err(ErrorCode::UNSUPPORTED_VERSION),
    }
}

/// One end of the log, which is no record and has no time.
fn end_of<D: Disk>(reader: &LogReader<D>, offset: Offset) -> TimestampOffset {
    let epoch = reader.epoch_at(offset).or(reader.latest_epoch()).unwrap_or(LeaderEpoch::NONE);
    TimestampOffset { offset, timestamp_ms: -1, epoch }
}

fn code_of(error: ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OFFSET_OUT_OF_RANGE,
        ReadError::Damaged { .. } => ErrorCode::CORRUPT_MESSAGE,
        ReadError::Io(_) => ErrorCode::KAFKA_STORAGE_ERROR,
    }
}
