//! The consumer against a small broker, over real sockets.

use super::super::producer::{Producer, ProducerConfig, Record};
use super::super::testing::{TestBroker, quick};
use super::*;
use crate::runtime::tokio::TokioRuntime;

const SOON: Duration = Duration::from_secs(5);

fn at(partition: i32) -> TopicPartition {
    TopicPartition { topic: "t".into(), partition: PartitionId(partition) }
}

fn config() -> ConsumerConfig {
    let retry = RetryPolicy { backoff: Duration::from_millis(2), ..RetryPolicy::default() };
    ConsumerConfig { max_wait: Duration::from_millis(5), retry, ..ConsumerConfig::default() }
}

/// A broker with `counts[p]` records in partition p of topic t, at times 1000, 1001, ….
async fn filled(counts: &[usize]) -> TestBroker {
    let broker = TestBroker::start().await;
    broker.create("t", counts.len());
    let mut settings = ProducerConfig::default();
    settings.batch.batch_bytes = 200;
    let producer = Producer::start(quick(&broker), settings).expect("the settings fit");
    for (partition, count) in counts.iter().enumerate() {
        for n in 0..*count {
            let mut record = Record::new("t", n.to_string())
                .key("k")
                .header("h", "v")
                .partition(PartitionId(partition as i32));
            record.timestamp_ms = Some(1000 + n as i64);
            let _settled_by_the_flush = producer.send(record).await.expect("taken");
        }
    }
    producer.flush().await;
    broker
}

async fn consumer(
    broker: &TestBroker,
    starts: &[(i32, StartAt)],
    config: ConsumerConfig,
) -> Consumer<TokioRuntime> {
    let mut consumer = Consumer::new(quick(broker), config);
    let starts = starts.iter().map(|(partition, start)| (at(*partition), *start)).collect();
    let deadline = broker.runtime.now().plus(SOON);
    consumer.assign(starts, deadline).await.expect("the partitions are there");
    consumer
}

async fn take(consumer: &mut Consumer<TokioRuntime>, count: usize) -> Vec<(i32, i64)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let records = consumer.poll(SOON).await.expect("nothing is wrong");
        assert!(!records.is_empty(), "only {} of {count} came", taken.len());
        taken.extend(records.iter().map(|r| (r.at.partition.0, r.offset.0)));
    }
    taken
}

#[tokio::test]
async fn every_record_comes_once_and_in_order() {
    let broker = filled(&[100, 50]).await;
    let config = ConsumerConfig { max_poll_records: 7, partition_max_bytes: 100, ..config() };
    let mut consumer = consumer(&broker, &[(0, StartAt::Beginning), (1, StartAt::Beginning)], config).await;
    let taken = take(&mut consumer, 150).await;
    for (partition, count) in [(0, 100), (1, 50)] {
        let offsets: Vec<_> = taken.iter().filter(|(p, _)| *p == partition).map(|(_, o)| *o).collect();
        assert_eq!(offsets, (0..count).collect::<Vec<_>>());
    }
    assert_eq!(
        (consumer.position(&at(0)), consumer.watermark(&at(0))),
        (Some(Offset(100)), Some(Offset(100)))
    );
    assert!(consumer.poll(Duration::from_millis(30)).await.expect("nothing is wrong").is_empty());
}

#[tokio::test]
async fn a_record_has_everything_that_was_sent() {
    let broker = filled(&[2]).await;
    let mut consumer = consumer(&broker, &[(0, StartAt::Offset(Offset(1)))], config()).await;
    let records = consumer.poll(SOON).await.expect("nothing is wrong");
    let record = &records[0];
    assert_eq!((record.offset, record.timestamp_ms), (Offset(1), 1001));
    assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"k"[..]), Some(&b"1"[..])));
    let headers: Vec<_> = record.headers.iter().collect();
    assert_eq!(headers, [(Bytes::from_static(b"h"), Some(Bytes::from_static(b"v")))]);
}

#[tokio::test]
async fn every_kind_of_start_finds_its_offset() {
    let broker = filled(&[10]).await;
    for (start, first) in [
        (StartAt::Beginning, 0),
        (StartAt::End, 10),
        (StartAt::Offset(Offset(4)), 4),
        (StartAt::Timestamp(1007), 7),
        (StartAt::Timestamp(9999), 10),
    ] {
        let consumer = consumer(&broker, &[(0, start)], config()).await;
        assert_eq!(consumer.position(&at(0)), Some(Offset(first)), "{start:?}");
    }
}

#[tokio::test]
async fn an_offset_out_of_range_follows_the_policy() {
    let broker = filled(&[10]).await;
    broker.with("t", 0, |p| {
        p.batches.retain(|b| b.header.base_offset.0 >= 5);
        p.start = p.batches.first().map_or(10, |b| b.header.base_offset.0);
    });
    let start = broker.with("t", 0, |p| p.start);
    let begin = [(0, StartAt::Offset(Offset(1)))];
    let with = |out_of_range| ConsumerConfig { out_of_range, ..config() };
    let mut earliest = consumer(&broker, &begin, with(OutOfRange::Earliest)).await;
    assert_eq!(take(&mut earliest, 1).await[0], (0, start));
    let mut latest = consumer(&broker, &begin, with(OutOfRange::Latest)).await;
    assert!(latest.poll(Duration::from_millis(60)).await.expect("nothing is wrong").is_empty());
    assert_eq!(latest.position(&at(0)), Some(Offset(10)));
    let mut strict = consumer(&broker, &begin, with(OutOfRange::Error)).await;
    let error = strict.poll(SOON).await.expect_err("offset 1 is gone");
    assert!(matches!(error, ConsumeError::OutOfRange { offset: Offset(1), .. }), "{error}");
    strict.seek(&at(0), StartAt::Beginning, broker.runtime.now().plus(SOON)).await.expect("found");
    assert_eq!(take(&mut strict, 1).await[0], (0, start));
}

#[tokio::test]
async fn damage_is_an_error_and_never_a_record() {
    let broker = filled(&[30]).await;
    let damaged = broker.with("t", 0, |p| {
        let mut payload = bytes::BytesMut::from(&*p.batches[1].payload);
        payload[5] ^= 1;
        p.batches[1].payload = payload.freeze();
        p.batches[1].header.base_offset
    });
    let mut consumer = consumer(&broker, &[(0, StartAt::Beginning)], config()).await;
    assert_eq!(take(&mut consumer, damaged.0 as usize).await.len() as i64, damaged.0);
    let error = consumer.poll(SOON).await.expect_err("the second batch is damaged");
    assert!(matches!(&error, ConsumeError::Damaged { damage, .. } if damage.offset == damaged), "{error}");
}

#[tokio::test]
async fn a_paused_partition_is_silent_and_loses_nothing() {
    let broker = filled(&[10, 10]).await;
    let mut consumer = consumer(&broker, &[(0, StartAt::Beginning), (1, StartAt::Beginning)], config()).await;
    consumer.set_paused(&at(0), true);
    assert!(take(&mut consumer, 10).await.iter().all(|(partition, _)| *partition == 1));
    consumer.set_paused(&at(0), false);
    assert_eq!(take(&mut consumer, 10).await, (0..10).map(|n| (0, n)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_broker_that_hangs_up_is_asked_again() {
    let broker = filled(&[20]).await;
    let mut consumer = consumer(&broker, &[(0, StartAt::Beginning)], config()).await;
    broker.hang_up(3);
    assert_eq!(take(&mut consumer, 20).await.len(), 20);
}

#[tokio::test]
async fn a_partition_that_does_not_exist_is_an_error() {
    let broker = filled(&[1]).await;
    let mut consumer = Consumer::new(quick(&broker), config());
    let starts = BTreeMap::from([(at(7), StartAt::Beginning)]);
    let error =
        consumer.assign(starts, broker.runtime.now().plus(SOON)).await.expect_err("there is one only");
    assert!(error.to_string().contains("partitions 0 to 0, not 7"), "{error}");
}
