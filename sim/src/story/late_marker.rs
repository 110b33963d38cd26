//! A told story of transactions: a marker that a coordinator still had on its way when another one followed it arrives when
//! the next transaction has begun (TXN-9).
//!
//! Owns: the script, for clients that get an epoch with each transaction (KIP-890) and for older ones; the second coordinator's
//! repetition of the marker and the first one's copy are sent as they would send them. Promises: the late one is refused, and
//! the next transaction is aborted as its client says. Leaves out: chance (`transactor`); the way of markers between brokers.
//! Run by `scenarios::group_stories`.
//!
//! ```text
//!  coordinator 1  begin n ─ write A ─ commit n ─ its marker ············(once more, on a slow way)······► arrives
//!  coordinator 2                                   └ restart ─ the same marker ─ begin n+1 ─ write B ─┴─ abort n+1
//! ```

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{CoordinatorEpoch, PartitionId, ProducerEpoch, ProducerId};
use dejaq_wire::kafka::describe_producers::{DescribeProducersRequest, TopicRequest};
use dejaq_wire::kafka::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};

use super::late::{Client, TOPIC, staged};
use super::meetings::{begin, claim};
use super::{Stage, Stop};
use crate::runner::{RunParams, RunReport};

/// Runs it, with both versions.
#[must_use]
pub fn late_marker(params: &RunParams) -> RunReport {
    staged(params, play)
}

async fn play(stage: Stage) -> Result<(), Stop> {
    begin(&stage).await?;
    for (old, first) in [(false, 0), (true, 2)] {
        let seen = Client::new(&stage, old, first).await?.outlive_a_coordinator().await?;
        claim("TXN-9", seen == [1], || {
            format!("old client {old}: of values 1 and 2 readers see {seen:?}, committed is 1")
        })?;
    }
    Ok(())
}

/// How a coordinator ended the last transaction of a producer in a partition.
#[derive(Clone, Copy)]
struct Ended {
    producer: (ProducerId, ProducerEpoch),
    coordinator: CoordinatorEpoch,
}

impl Client {
    async fn outlive_a_coordinator(mut self) -> Result<Vec<u64>, Stop> {
        self.write(0, 0, 1).await?;
        self.end(true).await?;
        let first = self.ended().await?;
        self.stage.broker.kill();
        self.stage.broker.start().await;
        let second = Ended { coordinator: CoordinatorEpoch(first.coordinator.0 + 1), ..first };
        let code = self.mark(second).await?;
        claim("TXN-5", code == ErrorCode::NONE, || format!("who follows repeats a marker: {code:?}"))?;
        self.write(0, if self.old { 1 } else { 0 }, 2).await?;
        let late = self.mark(first).await?;
        self.stage.recorder.count(format!("late markers {late:?}"));
        self.end(false).await?;
        self.visible().await
    }

    /// What the partition knows of it.
    async fn ended(&self) -> Result<Ended, Stop> {
        let topic = TopicRequest { name: TOPIC.into(), partition_indexes: vec![PartitionId(self.first)] };
        let request = DescribeProducersRequest { topics: vec![topic] };
        let answer = self
            .done("the producers", (&request, i16::MAX), |answer| {
                let mut parts = answer.topics.iter().flat_map(|topic| &topic.partitions);
                parts.next().map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |one| one.error_code)
            })
            .await?;
        let known = answer.topics.into_iter().flat_map(|topic| topic.partitions);
        let mut known = known.flat_map(|one| one.active_producers);
        let known = known.find(|one| one.producer_id == self.producer.0);
        let known = known.ok_or_else(|| Stop::Stuck("the partition knows nothing of its producer".into()))?;
        let epoch = i16::try_from(known.producer_epoch).expect("an epoch has 16 bits");
        Ok(Ended {
            producer: (known.producer_id, ProducerEpoch(epoch)),
            coordinator: known.coordinator_epoch,
        })
    }

    /// A coordinator's word that the transaction is committed; what the partition says to it.
    async fn mark(&self, ended: Ended) -> Result<ErrorCode, Stop> {
        let topic =
            WritableTxnMarkerTopic { name: TOPIC.into(), partition_indexes: vec![PartitionId(self.first)] };
        let marker = WritableTxnMarker {
            producer_id: ended.producer.0,
            producer_epoch: ended.producer.1,
            transaction_result: true,
            topics: vec![topic],
            coordinator_epoch: ended.coordinator,
        };
        let request = WriteTxnMarkersRequest { markers: vec![marker] };
        let code = |answer: &WriteTxnMarkersResponse| {
            let topics = answer.markers.iter().flat_map(|marker| &marker.topics);
            let mut parts = topics.flat_map(|topic| &topic.partitions);
            parts.next().map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |one| one.error_code)
        };
        let is_final = |code| match code {
            ErrorCode::TRANSACTION_COORDINATOR_FENCED | ErrorCode::INVALID_PRODUCER_EPOCH => ErrorCode::NONE,
            passing => passing,
        };
        let answer = self.done("a marker", (&request, i16::MAX), |answer| is_final(code(answer))).await?;
        Ok(code(&answer))
    }
}
