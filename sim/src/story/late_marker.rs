//! A told story of transactions: a marker that a coordinator still had on its way when another one followed it arrives when
//! the next transaction has begun (TXN-9).
//!
//! Owns: the script, for clients that get an epoch with each transaction (KIP-890) and for older ones. The first coordinator ends
//! while its marker is written and being synced, so that the second one finds a transaction to end and repeats the marker; the
//! first one's copy is sent as it would send it. Promises: the interleaving is brought about, or the run is stuck; the late one
//! is refused, and the next transaction is aborted as its client says. Leaves out: chance (`transactor`); the way of markers
//! between brokers. Run by `scenarios::group_stories`.
//!
//! ```text
//!  coordinator 1  begin n ─ write A ─ commit n ─ its marker, synced··· ✗ ···(once more, on a slow way)··► arrives
//!  coordinator 2                                      the same marker ─ begin n+1 ─ write B ─┴─ abort n+1
//! ```

use std::time::Duration;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{CoordinatorEpoch, PartitionId, ProducerEpoch, ProducerId};
use dejaq_wire::kafka::describe_producers::{DescribeProducersRequest, TopicRequest};
use dejaq_wire::kafka::describe_transactions::DescribeTransactionsRequest;
use dejaq_wire::kafka::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};

use super::late::{Client, TOPIC, staged};
use super::meetings::{begin, claim};
use super::{Stage, Stop};
use crate::disk::Speed;
use crate::runner::{RunParams, RunReport};

/// How long the disk needs for a sync while the first coordinator ends a transaction.
const SYNC: Duration = Duration::from_secs(2);

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
        let (broker, normal) = (self.stage.broker.clone(), Speed::default());
        broker.device().set_speed(Speed { sync_from: SYNC, sync_to: SYNC, ..normal });
        self.end(true).await?;
        let first = self.ended().await?;
        let state = self.state().await?;
        if state != "PrepareCommit" {
            return Err(Stop::Stuck(format!("nothing is left to end for the next coordinator: {state}")));
        }
        broker.kill();
        broker.device().set_speed(normal);
        broker.start().await;
        // Only when the second one has ended the transaction.
        self.write(0, if self.old { 1 } else { 0 }, 2).await?;
        let late = self.mark(first).await?;
        self.stage.recorder.count(format!("late markers {late:?}"));
        self.end(false).await?;
        self.visible().await
    }

    /// What its coordinator says of its transaction.
    async fn state(&self) -> Result<String, Stop> {
        let request = DescribeTransactionsRequest { transactional_ids: vec![self.id.clone()] };
        let answer = self
            .done("the transaction", (&request, i16::MAX), |answer| {
                answer
                    .transaction_states
                    .first()
                    .map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |one| one.error_code)
            })
            .await?;
        Ok(answer.transaction_states.into_iter().map(|one| one.transaction_state).collect())
    }

    /// How its transaction ended in the partition, as soon as the marker is written there.
    async fn ended(&self) -> Result<Ended, Stop> {
        for _ in 0..100 {
            let ended = self.known().await?;
            if ended.coordinator.0 >= 0 {
                return Ok(ended);
            }
            self.stage.world.sleep(Duration::from_millis(1)).await;
        }
        Err(Stop::Stuck("no marker comes".into()))
    }

    /// What the partition knows of its producer.
    async fn known(&self) -> Result<Ended, Stop> {
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
