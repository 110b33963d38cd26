//! Questions about the data plane: Produce, Fetch, ListOffsets, OffsetForLeaderEpoch, DeleteRecords, InitProducerId.
//!
//! They run in order against one broker whose topic `single` holds ten records of known timestamps.

use super::Case;
use super::session::Session;
use anyhow::{Context, Result};
use bytes::Bytes;
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId};
use dejaq_wire::kafka::Records;
use dejaq_wire::kafka::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use dejaq_wire::kafka::describe_producers::{DescribeProducersRequest, TopicRequest};
use dejaq_wire::kafka::fetch::{FetchPartition, FetchRequest, FetchTopic};
use dejaq_wire::kafka::init_producer_id::InitProducerIdRequest;
use dejaq_wire::kafka::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use dejaq_wire::kafka::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use dejaq_wire::kafka::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use dejaq_wire::record::{BatchBuilder, Compression, NewRecord};

/// Timestamps of the records in `single`: 2020, a second apart.
const BASE_MS: i64 = 1_600_000_000_000;

pub const CASES: &[Case] = &[
    ("produce appends and answers the base offset", |s| s.ask(9, &produce("single", batches(&[0, 1])))),
    ("the rest of the ten records", |s| {
        for first in [2, 4, 6, 8] {
            s.ask(9, &produce("single", batches(&[first, first + 1])))?;
        }
        s.ask(3, &list("single", 0, -1))
    }),
    ("produce to an unknown topic", |s| s.ask(9, &produce("nowhere", batches(&[0])))),
    ("produce to an unknown partition", |s| s.ask(9, &produce_to("single", 7, 1, batches(&[0])))),
    ("produce to an unknown topic id", |s| {
        let mut request = produce("single", batches(&[0]));
        request.topic_data[0].topic_id = TopicId([7; 16]);
        s.ask(13, &request)
    }),
    ("produce by topic id", |s| {
        let mut request = produce("keys", batches(&[0]));
        request.topic_data[0].topic_id = s.single;
        s.answer(13, &request)?;
        s.ask_fetch(11, &fetch("single", 10))
    }),
    ("produce with acks 2", |s| s.ask(9, &produce_to("single", 0, 2, batches(&[0])))),
    ("produce with a wrong checksum", |s| s.ask(9, &produce("single", patched(17, &[1, 2, 3, 4])))),
    ("produce with magic 1", |s| s.ask(9, &produce("single", patched(16, &[1])))),
    ("produce with magic 3", |s| s.ask(9, &produce("single", patched(16, &[3])))),
    ("produce with a length beyond the bytes", |s| s.ask(9, &produce("single", patched(8, &[0, 1, 0, 0])))),
    ("produce two batches for one partition", |s| {
        let two = [batches(&[0]), batches(&[1])].concat();
        s.ask(9, &produce("single", two.into()))
    }),
    ("produce no records", |s| s.ask(9, &produce("single", Bytes::new()))),
    ("produce an unknown codec", |s| s.ask(9, &produce("single", resealed(21, &[0, 5])))),
    ("produce a control batch", |s| s.ask(9, &produce("single", resealed(21, &[0, 0x20])))),
    ("produce a count that does not fit the last offset", |s| {
        s.ask(9, &produce("single", resealed(23, &[0, 0, 0, 9])))
    }),
    ("produce zstd by version 6", |s| {
        let mut builder = BatchBuilder::new(Compression::Zstd);
        builder.append(&record(0));
        s.ask(6, &produce("keys", builder.build()?.to_bytes()))
    }),
    ("produce a transactional batch without a transaction", |s| {
        s.ask(9, &produce("single", resealed(21, &[0, 0x10])))
    }),
    ("produce from sequence 0, again, and beyond a gap", |s| {
        let mut told = Vec::new();
        for (epoch, sequence) in [(0, 0), (0, 1), (0, 0), (0, 1), (0, 9), (1, 5), (1, 0), (0, 2)] {
            let request = produce("idem", idempotent(4242, epoch, sequence)?);
            told.push(format!("epoch {epoch} sequence {sequence}: {}", s.ask(9, &request)?));
        }
        Ok(told.join("\n"))
    }),
    ("an unknown producer that starts at sequence 7", |s| s.ask(9, &produce("idem", idempotent(777, 0, 7)?))),
    ("describe producers", |s| {
        let asked = |name: &str, indexes: &[i32]| TopicRequest {
            name: name.into(),
            partition_indexes: indexes.iter().map(|index| PartitionId(*index)).collect(),
        };
        let topics = vec![asked("idem", &[0]), asked("single", &[0, 9]), asked("nowhere", &[0])];
        let answer = s.answer(0, &DescribeProducersRequest { topics })?.context("closed")?;
        let mut told = Vec::new();
        for topic in &answer.topics {
            for p in &topic.partitions {
                let mut last: Vec<_> =
                    p.active_producers.iter().map(|p| (p.producer_epoch, p.last_sequence)).collect();
                last.sort_unstable();
                told.push(format!("{} {:?}: {:?} {last:?}", topic.name, p.partition_index, p.error_code));
            }
        }
        told.sort();
        Ok(told.join("\n"))
    }),
    ("a producer id without a transaction", |s| {
        let request = InitProducerIdRequest { transaction_timeout_ms: 60_000, ..Default::default() };
        let mut answer = s.ask(4, &request)?;
        for _ in 0..50 {
            // Kafka gives out blocks of ids and may have to fetch the first one.
            if !answer.contains("COORDINATOR_LOAD_IN_PROGRESS") {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
            answer = s.ask(4, &request)?;
        }
        Ok(answer)
    }),
    ("fetch from the start", |s| s.ask_fetch(11, &fetch("single", 0))),
    ("fetch from the middle of a batch", |s| s.ask_fetch(11, &fetch("single", 3))),
    ("fetch by version 4", |s| s.ask_fetch(4, &fetch("single", 8))),
    ("fetch at least one batch whatever the limits", |s| {
        let mut request = fetch("single", 0);
        request.max_bytes = 1;
        request.topics[0].partitions[0].partition_max_bytes = 1;
        s.ask_fetch(11, &request)
    }),
    ("fetch at the end without waiting", |s| {
        let mut request = fetch("single", 11);
        request.max_wait_ms = 0;
        s.ask_fetch(11, &request)
    }),
    ("fetch at the end with a wait that ends", |s| {
        let mut request = fetch("single", 11);
        request.max_wait_ms = 300;
        s.ask_fetch(11, &request)
    }),
    ("fetch beyond the end", |s| s.ask_fetch(11, &fetch("single", 100))),
    ("fetch at a negative offset", |s| s.ask_fetch(11, &fetch("single", -5))),
    ("fetch an unknown topic", |s| s.ask_fetch(11, &fetch("nowhere", 0))),
    ("fetch an unknown partition", |s| {
        let mut request = fetch("single", 0);
        request.topics[0].partitions[0].partition = PartitionId(9);
        s.ask_fetch(11, &request)
    }),
    ("fetch by topic id", |s| {
        let mut request = fetch("single", 8);
        request.topics[0].topic_id = s.single;
        s.ask_fetch(16, &request)
    }),
    ("fetch an unknown topic id", |s| {
        let mut request = fetch("single", 0);
        request.topics[0].topic_id = TopicId([9; 16]);
        s.ask_fetch(13, &request)
    }),
    ("fetch with a future leader epoch", |s| {
        let mut request = fetch("single", 0);
        request.topics[0].partitions[0].current_leader_epoch = LeaderEpoch(1000);
        s.ask_fetch(11, &request)
    }),
    ("fetch in an unknown session", |s| {
        let mut request = fetch("single", 0);
        (request.session_id, request.session_epoch) = (123_456, 5);
        s.ask_fetch(11, &request)
    }),
    ("fetch in a session of its own", fetch_session),
    ("fetch with read committed", |s| {
        let mut request = fetch("single", 8);
        request.isolation_level = 1;
        s.ask_fetch(11, &request)
    }),
    ("list the earliest offset", |s| s.ask(7, &list("single", 0, -2))),
    ("list the latest offset", |s| s.ask(7, &list("single", 0, -1))),
    ("list the max timestamp", |s| s.ask(7, &list("single", 0, -3))),
    ("list the earliest local offset", |s| s.ask(8, &list("single", 0, -4))),
    ("list the latest tiered offset", |s| s.ask(9, &list("single", 0, -5))),
    ("list a special timestamp of nobody", |s| s.ask(9, &list("single", 0, -9))),
    ("list by a timestamp between two", |s| s.ask(7, &list("single", 0, BASE_MS + 3500))),
    ("list by a timestamp before all", |s| s.ask(7, &list("single", 0, 5))),
    ("list by a timestamp after all", |s| s.ask(7, &list("single", 0, BASE_MS + 900_000))),
    ("list the max timestamp by a version that lacks it", |s| s.ask(6, &list("single", 0, -3))),
    ("list an unknown topic", |s| s.ask(7, &list("nowhere", 0, -1))),
    ("list an unknown partition", |s| s.ask(7, &list("single", 9, -1))),
    ("list one partition twice", |s| {
        let mut request = list("single", 0, -1);
        let again = request.topics[0].partitions[0].clone();
        request.topics[0].partitions.push(again);
        s.ask(7, &request)
    }),
    ("the max timestamp of an empty topic", |s| s.ask(7, &list("empty", 0, -3))),
    ("the end of an epoch of the future", |s| s.ask(4, &epoch_end("single", 0, 1000))),
    ("the end of an epoch of an unknown topic", |s| s.ask(4, &epoch_end("nowhere", 0, 0))),
    ("the end of an epoch of an unknown partition", |s| s.ask(4, &epoch_end("single", 9, 0))),
    ("delete records below 4", |s| s.ask(2, &cut("single", 0, 4))),
    ("delete records below 2 again", |s| s.ask(2, &cut("single", 0, 2))),
    ("the earliest offset after it", |s| s.ask(7, &list("single", 0, -2))),
    ("fetch below the start after it", |s| s.ask_fetch(11, &fetch("single", 1))),
    ("delete records beyond the end", |s| s.ask(2, &cut("single", 0, 1000))),
    ("delete records below -2", |s| s.ask(2, &cut("single", 0, -2))),
    ("delete records up to the end", |s| s.ask(2, &cut("single", 0, -1))),
    ("delete records of an unknown topic", |s| s.ask(2, &cut("nowhere", 0, 1))),
    ("delete records of an unknown partition", |s| s.ask(2, &cut("single", 9, 1))),
];

/// A session answers in full, then only what changed, and refuses an epoch out of turn.
fn fetch_session(session: &mut Session) -> Result<String> {
    let mut request = fetch("single", 8);
    (request.session_id, request.session_epoch, request.max_wait_ms) = (0, 0, 0);
    let first = session.answer(11, &request)?.context("the connection was closed")?;
    let mut told = vec![format!("id given: {}; {}", first.session_id != 0, summary(&first))];
    request.session_id = first.session_id;
    request.session_epoch = 1;
    request.topics.clear();
    for epoch in [1, 2, 7] {
        request.session_epoch = epoch;
        told.push(format!("epoch {epoch}: {}", session.ask_fetch(11, &request)?));
    }
    Ok(told.join("\n"))
}

type FetchResponse = <FetchRequest as dejaq_wire::kafka::Request>::Response;

/// A fetch as text, with the base offsets of its whole batches instead of a count of bytes, because a
/// broker may cut the last batch or leave it out.
fn summary(answer: &FetchResponse) -> String {
    let mut text = format!("{:?}", answer.error_code);
    for topic in &answer.responses {
        for p in &topic.partitions {
            text.push_str(&format!(
                "\n{} {:?}: {:?} watermark {:?} stable {:?} start {:?} aborted {:?} batches {:?}",
                topic.topic,
                p.partition_index,
                p.error_code,
                p.high_watermark,
                p.last_stable_offset,
                p.log_start_offset,
                p.aborted_transactions.as_ref().map_or(0, Vec::len),
                base_offsets(p.records.clone()),
            ));
        }
    }
    text
}

fn base_offsets(records: Option<Records>) -> Vec<i64> {
    let bytes = records.map(Records::into_bytes).unwrap_or_default();
    let mut rest = &bytes[..];
    let mut offsets = Vec::new();
    while let Some((head, _)) = rest.split_first_chunk::<12>() {
        let (base, length) = head.split_at(8);
        let length = 12 + u32::from_be_bytes(length.try_into().unwrap_or_default()) as usize;
        if rest.len() < length {
            break;
        }
        offsets.push(i64::from_be_bytes(base.try_into().unwrap_or_default()));
        rest = &rest[length..];
    }
    offsets
}

impl Session {
    fn ask_fetch(&mut self, version: i16, request: &FetchRequest) -> Result<String> {
        Ok(self.answer(version, request)?.map_or_else(|| "closed".to_owned(), |answer| summary(&answer)))
    }
}

fn record(index: i64) -> NewRecord<'static> {
    NewRecord { timestamp_ms: BASE_MS + index * 1000, key: None, value: Some(b"value"), headers: &[] }
}

fn batches(indexes: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for index in indexes {
        builder.append(&record(*index));
    }
    // Without a codec nothing can fail.
    builder.build().map(|batch| batch.to_bytes()).unwrap_or_default()
}

fn idempotent(producer: i64, epoch: i16, sequence: i32) -> Result<Bytes> {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.producer_id = ProducerId(producer);
    builder.producer_epoch = ProducerEpoch(epoch);
    builder.base_sequence = Sequence(sequence);
    builder.append(&record(i64::from(sequence)));
    Ok(builder.build()?.to_bytes())
}

/// A batch with some bytes overwritten; its checksum is that of the batch before.
fn patched(at: usize, with: &[u8]) -> Bytes {
    let mut bytes = batches(&[0]).to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes.into()
}

/// A batch with some bytes overwritten and the checksum made right again.
fn resealed(at: usize, with: &[u8]) -> Bytes {
    let mut bytes = patched(at, with).to_vec();
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// CRC-32C (Castagnoli), bit by bit: a dozen short batches need no table.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & 0_u32.wrapping_sub(crc & 1)))
    })
}

fn produce(topic: &str, records: Bytes) -> ProduceRequest {
    produce_to(topic, 0, -1, records)
}

fn produce_to(topic: &str, partition: i32, acks: i16, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData { index: PartitionId(partition), records: Some(Records::from(records)) };
    let topic = TopicProduceData { name: topic.into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

fn fetch(topic: &str, offset: i64) -> FetchRequest {
    let partition =
        FetchPartition { fetch_offset: Offset(offset), partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = FetchTopic { topic: topic.into(), partitions: vec![partition], ..Default::default() };
    FetchRequest {
        max_wait_ms: 200,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: vec![topic],
        ..Default::default()
    }
}

fn list(topic: &str, partition: i32, timestamp: i64) -> ListOffsetsRequest {
    let partition =
        ListOffsetsPartition { partition_index: PartitionId(partition), timestamp, ..Default::default() };
    let topics = vec![ListOffsetsTopic { name: topic.into(), partitions: vec![partition] }];
    ListOffsetsRequest { replica_id: dejaq_wire::ids::BrokerId(-1), topics, ..Default::default() }
}

fn epoch_end(topic: &str, partition: i32, epoch: i32) -> OffsetForLeaderEpochRequest {
    let partition = OffsetForLeaderPartition {
        partition: PartitionId(partition),
        leader_epoch: LeaderEpoch(epoch),
        ..Default::default()
    };
    let topics = vec![OffsetForLeaderTopic { topic: topic.into(), partitions: vec![partition] }];
    OffsetForLeaderEpochRequest { replica_id: dejaq_wire::ids::BrokerId(-1), topics }
}

fn cut(topic: &str, partition: i32, offset: i64) -> DeleteRecordsRequest {
    let partition =
        DeleteRecordsPartition { partition_index: PartitionId(partition), offset: Offset(offset) };
    let topics = vec![DeleteRecordsTopic { name: topic.into(), partitions: vec![partition] }];
    DeleteRecordsRequest { topics, timeout_ms: 10_000 }
}

#[cfg(test)]
mod tests {
    use super::super::session::render;
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_codec() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(resealed(0, &[0]), batches(&[0]));
        assert!(render(&produce("a", Bytes::new())).contains("acks: -1"));
    }
}
