//! A reader of one partition at a time, straight on the Fetch API: the oracle's own eyes.
//!
//! Owns: fetch, list offsets, decoding. Promises: what a poll is told is what the broker sent, checked by CRC; an
//! error is an error and moves nothing. Leaves out: the native consumer (another kind of reader uses it).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use dejaq::client::cluster::Cluster;
use dejaq::client::connection::Connection;
use dejaq::runtime::{Mono, Runtime};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, Offset, PartitionId, ProducerId, TopicId};
use dejaq_wire::kafka::fetch::{FetchPartition, FetchRequest, FetchTopic};
use dejaq_wire::kafka::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use dejaq_wire::kafka::metadata::{MetadataRequest, MetadataRequestTopic};
use dejaq_wire::record::Batches;

use super::producers::{digest, number_of};
use crate::oracle::Seen;
use crate::runtime::SimRuntime;

/// A record's batch decompresses to no more than this.
const DECODE_LIMIT: usize = 64 << 20;

/// What one fetch brought.
#[derive(Debug)]
pub enum Fetched {
    /// Records from the position on, and where to read on.
    Records {
        /// The records.
        records: Vec<Seen>,
        /// The next position.
        next: i64,
    },
    /// The broker says that the position is out of range.
    OutOfRange,
    /// The broker refuses.
    Refused,
    /// No answer.
    Failed,
}

/// An answer with what a reader of records does not ask for.
pub struct Answer {
    pub fetched: Fetched,
    /// The watermark and the last stable offset that it told.
    pub ends: Option<(i64, i64)>,
    /// What it holds of transactions: whose, where it begins, and whether it is a marker.
    pub txns: Vec<(ProducerId, i64, bool)>,
    /// Offset and time of each of the records.
    pub times: Vec<(i64, i64)>,
}

impl Answer {
    fn bare(fetched: Fetched) -> Answer {
        Answer { fetched, ends: None, txns: Vec::new(), times: Vec::new() }
    }
}

/// A reader.
pub struct Reader {
    pub cluster: Cluster<SimRuntime>,
}

impl Reader {
    fn deadline(&self, seconds: u64) -> Mono {
        self.cluster.runtime().now().plus(Duration::from_secs(seconds))
    }

    /// The topic's id.
    pub async fn topic_id(&self, topic: &str) -> Option<TopicId> {
        let topics = vec![MetadataRequestTopic { name: Some(topic.into()), ..Default::default() }];
        let request = MetadataRequest { topics: Some(topics), ..Default::default() };
        let answer = self.cluster.ask_any(&request, self.deadline(5)).await.ok()?;
        answer.topics.first().filter(|topic| topic.error_code.is_none()).map(|topic| topic.topic_id)
    }

    /// The earliest (-2) or latest (-1) offset, or the one at a time.
    pub async fn list(&self, topic: &str, index: i32, timestamp: i64) -> Option<i64> {
        self.list_with_epoch(topic, index, timestamp).await.map(|(offset, _)| offset)
    }

    /// As [`Reader::list`], with the leader epoch in the answer.
    pub async fn list_with_epoch(&self, topic: &str, index: i32, timestamp: i64) -> Option<(i64, i32)> {
        let deadline = self.deadline(5);
        let (connection, _) = self.cluster.leader(topic, PartitionId(index), deadline).await.ok()?;
        let partitions = vec![ListOffsetsPartition {
            partition_index: PartitionId(index),
            timestamp,
            ..Default::default()
        }];
        let topics = vec![ListOffsetsTopic { name: topic.into(), partitions }];
        let request = ListOffsetsRequest { replica_id: BrokerId::NONE, topics, ..Default::default() };
        let answer = connection.call(&request, deadline).await.ok()?;
        let partition = answer.topics.first()?.partitions.first()?;
        if partition.error_code.is_error() {
            self.cluster.forget(topic); // another one may lead by now
            return None;
        }
        Some((partition.offset.0, partition.leader_epoch.0))
    }

    /// One fetch from a position, waiting up to `wait_ms` for news.
    pub async fn fetch(&self, topic: &str, id: TopicId, index: i32, from: i64, wait_ms: i32) -> Fetched {
        self.whole(topic, id, index, from, (wait_ms, false)).await.fetched
    }

    /// As [`Reader::fetch`], from one broker, whatever it is to the partition (KIP-392).
    pub async fn fetch_at(
        &self,
        broker: BrokerId,
        topic: &str,
        id: TopicId,
        index: i32,
        from: i64,
    ) -> Fetched {
        let deadline = self.deadline(8);
        match self.cluster.broker(broker, deadline).await {
            Ok(connection) => self.ask_at(&connection, topic, id, index, from, (0, false)).await.fetched,
            Err(_) => Fetched::Failed,
        }
    }

    /// As [`Reader::fetch`], of committed records only.
    pub async fn committed(&self, topic: &str, id: TopicId, index: i32, from: i64, wait_ms: i32) -> Fetched {
        self.whole(topic, id, index, from, (wait_ms, true)).await.fetched
    }

    /// One fetch with all that it tells; `how`: how long to wait, and whether of committed records only.
    pub async fn whole(&self, topic: &str, id: TopicId, index: i32, from: i64, how: (i32, bool)) -> Answer {
        match self.cluster.leader(topic, PartitionId(index), self.deadline(8)).await {
            Ok((connection, _)) => {
                let answer = self.ask_at(&connection, topic, id, index, from, how).await;
                if matches!(answer.fetched, Fetched::Refused) {
                    self.cluster.forget(topic); // another one may lead by now
                }
                answer
            }
            Err(_) => Answer::bare(Fetched::Failed),
        }
    }

    async fn ask_at(
        &self,
        connection: &Connection<SimRuntime>,
        topic: &str,
        id: TopicId,
        index: i32,
        from: i64,
        (wait_ms, committed): (i32, bool),
    ) -> Answer {
        let deadline = self.deadline(8);
        let partition = FetchPartition {
            partition: PartitionId(index),
            fetch_offset: Offset(from),
            partition_max_bytes: 64 << 10,
            ..Default::default()
        };
        let topics = vec![FetchTopic { topic: topic.into(), topic_id: id, partitions: vec![partition] }];
        let request = FetchRequest {
            max_wait_ms: wait_ms,
            min_bytes: 1,
            max_bytes: 256 << 10,
            isolation_level: i8::from(committed),
            topics,
            ..Default::default()
        };
        let Ok(answer) = connection.call(&request, deadline).await else {
            return Answer::bare(Fetched::Failed);
        };
        let data = answer.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
        let Some(data) = data else { return Answer::bare(Fetched::Refused) };
        if data.error_code == ErrorCode::OFFSET_OUT_OF_RANGE {
            return Answer::bare(Fetched::OutOfRange);
        }
        if !data.error_code.is_none() {
            return Answer::bare(Fetched::Refused);
        }
        let ends = Some((data.high_watermark.0, data.last_stable_offset.0));
        let run = data.records.map(|records| records.into_bytes()).unwrap_or_default();
        let aborted = data.aborted_transactions.unwrap_or_default();
        let mut aborted: Vec<(i64, ProducerId)> =
            aborted.into_iter().map(|txn| (txn.first_offset.0, txn.producer_id)).collect();
        aborted.sort_unstable();
        Answer { ends, ..decode(run, from, aborted.into()) }
    }
}

/// The records at or behind `from`, but for those of transactions that were told as aborted. Panics on bytes that no broker
/// may send: that is a finding.
fn decode(run: Bytes, from: i64, mut aborted: VecDeque<(i64, ProducerId)>) -> Answer {
    let (mut records, mut next, mut txns, mut times) = (Vec::new(), from, Vec::new(), Vec::new());
    let mut hidden: BTreeSet<ProducerId> = BTreeSet::new();
    for batch in Batches::new(run) {
        let batch = batch.unwrap_or_else(|error| panic!("the broker sent a broken run at {next}: {error}"));
        batch.check_crc().unwrap_or_else(|error| panic!("the broker served damage at {next}: {error}"));
        let (id, last) = (batch.header.producer_id, batch.header.last_offset().0);
        if batch.header.is_control() || batch.header.is_transactional() {
            txns.push((id, batch.header.base_offset.0, batch.header.is_control()));
        }
        while let Some((_, id)) = aborted.pop_front_if(|(first, _)| *first <= last) {
            hidden.insert(id);
        }
        if batch.header.is_control() || (batch.header.is_transactional() && hidden.contains(&id)) {
            if batch.header.is_control() {
                hidden.remove(&id); // its transaction is over, whichever way
            }
            next = next.max(last + 1);
            continue;
        }
        let all = batch
            .records(DECODE_LIMIT)
            .unwrap_or_else(|error| panic!("undecodable batch at {next}: {error}"));
        for record in all {
            let record = record.unwrap_or_else(|error| panic!("undecodable record at {next}: {error}"));
            if record.offset.0 < from {
                continue;
            }
            let headers: Vec<(String, Option<Bytes>)> = record
                .headers
                .iter()
                .map(|(name, value)| (String::from_utf8_lossy(&name).into_owned(), value))
                .collect();
            let value = number_of(record.value.as_deref(), &headers);
            let digest = digest(record.key.as_deref(), record.value.as_deref().unwrap_or_default(), &headers);
            records.push(Seen { offset: record.offset.0, value, digest });
            times.push((record.offset.0, record.timestamp_ms));
        }
        next = next.max(batch.header.last_offset().0 + 1);
    }
    Answer { fetched: Fetched::Records { records, next }, ends: None, txns, times }
}
