//! What readers of committed records are given, through the service and its bytes: one claim a test.

use dejaq_storage::VerifiedBatch;
use dejaq_wire::ids::{
    CoordinatorEpoch, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence,
};
use dejaq_wire::kafka::fetch::PartitionData;
use dejaq_wire::kafka::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use dejaq_wire::record::control::EndTxnMarker;
use dejaq_wire::record::{BatchBuilder, Compression};
use tokio::sync::oneshot;

use super::test_kit::{Life, World, batch_of, fetch_request};
use crate::replica::leader::Required;
use crate::replica::write::{Outcome, Write};
use crate::runtime::Runtime;

async fn append(life: &Life, batch: bytes::Bytes) -> Outcome {
    let (sender, outcome) = oneshot::channel();
    let batch = VerifiedBatch::verify(batch).expect("our own");
    life.partition("t", 0).write(vec![Write {
        batch,
        required: Required::All,
        only_in: LeaderEpoch::NONE,
        outcome: sender,
    }]);
    outcome.await.expect("it is answered")
}

async fn write(life: &Life, producer: i64, sequence: i32) -> i64 {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.transactional = true;
    builder.producer_id = ProducerId(producer);
    builder.producer_epoch = ProducerEpoch(0);
    builder.base_sequence = Sequence(sequence);
    append(life, batch_of(builder, life.node.unix_ms(), &["x"])).await.expect("it follows").base.0
}

async fn end(life: &Life, producer: i64, commit: bool) -> i64 {
    let (producer_id, producer_epoch) = (ProducerId(producer), ProducerEpoch(1));
    let marker = EndTxnMarker { producer_id, producer_epoch, commit, coordinator_epoch: CoordinatorEpoch(0) };
    append(life, marker.batch(life.node.unix_ms()).to_bytes()).await.expect("it is new").base.0
}

async fn committed(life: &Life, from: i64) -> PartitionData {
    let request =
        dejaq_wire::kafka::fetch::FetchRequest { isolation_level: 1, ..fetch_request("t", from, 0) };
    life.ask(11, &request).await.responses.remove(0).partitions.remove(0)
}

fn end_of(part: &PartitionData) -> Option<i64> {
    let batches = dejaq_wire::record::Batches::new(part.records.clone().expect("never null").into_bytes());
    batches.last().map(|batch| batch.expect("whole").header.next_offset().0)
}

fn aborted(part: &PartitionData) -> Vec<(i64, i64)> {
    let told = part.aborted_transactions.as_ref().expect("told to readers of committed records");
    told.iter().map(|txn| (txn.producer_id.0, txn.first_offset.0)).collect()
}

async fn latest(life: &Life, isolation_level: i8) -> i64 {
    let part = ListOffsetsPartition { partition_index: PartitionId(0), timestamp: -1, ..Default::default() };
    let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![part] };
    let request = ListOffsetsRequest { isolation_level, topics: vec![topic], ..Default::default() };
    life.ask(5, &request).await.topics.remove(0).partitions.remove(0).offset.0
}

#[tokio::test]
async fn undecided_records_are_shown_to_those_only_who_want_all() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    life.produce("t", &["plain"]).await; // 0
    write(&life, 1, 0).await; // 1
    life.produce("t", &["plain"]).await; // 2
    let part = committed(&life, 0).await;
    assert_eq!(
        (end_of(&part), part.last_stable_offset, part.high_watermark),
        (Some(1), Offset(1), Offset(3))
    );
    assert_eq!(aborted(&part), []);
    assert_eq!(end_of(&committed(&life, 1).await), None, "no error, and nothing");
    assert_eq!(end_of(&life.fetch("t", 0).await), Some(3));
    assert_eq!(life.fetch("t", 0).await.aborted_transactions, None);
    assert_eq!((latest(&life, 1).await, latest(&life, 0).await), (1, 3));
    end(&life, 1, true).await; // 3
    assert_eq!(end_of(&committed(&life, 0).await), Some(4));
    assert_eq!((latest(&life, 1).await, latest(&life, 0).await), (4, 4));
}

#[tokio::test]
async fn aborted_transactions_are_told_also_after_a_restart() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    write(&life, 1, 0).await; // 0
    write(&life, 2, 0).await; // 1
    end(&life, 1, false).await; // 2
    write(&life, 2, 1).await; // 3
    assert_eq!(aborted(&committed(&life, 0).await), [(1, 0)]);
    end(&life, 2, false).await; // 4
    assert_eq!(aborted(&committed(&life, 0).await), [(1, 0), (2, 1)]);
    assert_eq!(aborted(&committed(&life, 3).await), [(2, 1)]);
    life.kill().await;
    let life = world.start().await;
    let part = committed(&life, 0).await;
    assert_eq!((end_of(&part), aborted(&part)), (Some(5), vec![(1, 0), (2, 1)]));
}

#[tokio::test]
async fn a_transaction_that_was_open_at_a_kill_holds_readers_back_after_it() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    write(&life, 1, 0).await; // 0
    life.produce("t", &["plain"]).await; // 1
    life.kill().await;
    let life = world.start().await;
    assert_eq!((latest(&life, 1).await, latest(&life, 0).await), (0, 2));
    assert_eq!(end(&life, 1, true).await, 2);
    assert_eq!(end(&life, 1, true).await, 2, "once more is answered, and not appended");
    assert_eq!((latest(&life, 1).await, latest(&life, 0).await), (3, 3));
}
