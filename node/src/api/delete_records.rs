//! DeleteRecords (21): moves the start of logs; the new start is durable before it is told.

use std::time::Duration;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::Offset;
use dejaq_wire::kafka::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteRecordsTopicResult,
};

use super::data_plane::{DataPlane, partition, stopped};
use super::fetch_session::TopicRef;
use crate::metadata::image::is_internal;
use crate::replica::Table;
use crate::replica::retention::{MoveError, move_start};
use crate::runtime::{Mono, Runtime};

/// Shortest wait: librdkafka asks with a timeout of 0 and means "do not wait for followers".
const MIN_WAIT: Duration = Duration::from_secs(5);
/// "Everything that is committed."
const TO_WATERMARK: Offset = Offset(-1);

/// Answers one request that was received at `received_at`.
pub async fn answer<R: Runtime>(
    data: &DataPlane<R>,
    received_at: Mono,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let table = data.directory.table();
    let deadline = data.deadline(received_at, request.timeout_ms).max(received_at.plus(MIN_WAIT));
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = TopicRef::Name(topic.name.as_str().into());
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for part in &topic.partitions {
            let (low_watermark, error_code) = match one(data, &table, &name, part, deadline).await {
                Ok(start) => (start, ErrorCode::NONE),
                Err(code) => (Offset::NONE, code),
            };
            let partition_index = part.partition_index;
            partitions.push(DeleteRecordsPartitionResult { partition_index, low_watermark, error_code });
        }
        topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
    }
    DeleteRecordsResponse { topics, ..Default::default() }
}

async fn one<R: Runtime>(
    data: &DataPlane<R>,
    table: &Table<R>,
    topic: &TopicRef,
    part: &DeleteRecordsPartition,
    deadline: Mono,
) -> Result<Offset, ErrorCode> {
    if matches!(topic, TopicRef::Name(name) if is_internal(name)) {
        return Err(ErrorCode::INVALID_TOPIC_EXCEPTION);
    }
    let partition = partition(table, topic, part.partition_index)?.clone();
    let to = match part.offset {
        TO_WATERMARK => None,
        offset if offset.is_valid() => Some(offset),
        _ => return Err(ErrorCode::OFFSET_OUT_OF_RANGE),
    };
    let (done, moved) = tokio::sync::oneshot::channel();
    // In a task of its own: a start that is half moved is finished, whoever still waits for it.
    data.runtime.spawn("delete-records", async move {
        let _ = done.send(move_start(&partition, to).await); // the client may be gone
    });
    match data.runtime.before(deadline, moved).await {
        Some(Ok(Ok(start))) => Ok(start),
        Some(Ok(Err(why))) => Err(code_of(why, topic)),
        Some(Err(_)) => Err(ErrorCode::KAFKA_STORAGE_ERROR), // the node is going down
        None => Err(ErrorCode::REQUEST_TIMED_OUT),
    }
}

fn code_of(error: MoveError, topic: &TopicRef) -> ErrorCode {
    match error {
        MoveError::BeyondWatermark(_) => ErrorCode::OFFSET_OUT_OF_RANGE,
        MoveError::Stopped(why) => stopped(why, topic),
        MoveError::NotNow => ErrorCode::KAFKA_STORAGE_ERROR,
    }
}
