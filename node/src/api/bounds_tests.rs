//! What one request may cost: memory beyond its bytes, and time in which nothing else runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{PartitionId, ProducerEpoch, ProducerId, Sequence};
use dejaq_wire::kafka::Records;
use dejaq_wire::kafka::describe_producers::{DescribeProducersRequest, TopicRequest};
use dejaq_wire::kafka::metadata::{MetadataRequest, MetadataRequestTopic};
use dejaq_wire::kafka::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use dejaq_wire::record::{BatchBuilder, Compression};

use super::claims::CLAIMS_BYTES;
use super::test_kit::{Life, World, answer_of, batch, batch_of, produce_request};
use crate::runtime::Runtime;
use crate::server::service::{Reply, Request, Service, Started, Starting};

/// A request with one batch for each of these partitions of `t`.
fn produce(parts: impl IntoIterator<Item = (i32, Option<Bytes>)>) -> ProduceRequest {
    let part = |(index, batch): (i32, Option<Bytes>)| PartitionProduceData {
        index: PartitionId(index),
        records: batch.map(Records::from),
    };
    let partition_data = parts.into_iter().map(part).collect();
    let topic = TopicProduceData { name: "t".into(), partition_data, ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 5_000, topic_data: vec![topic], ..Default::default() }
}

fn names(count: usize) -> MetadataRequest {
    let topic = |at: usize| MetadataRequestTopic { name: Some(format!("n{at}")), ..Default::default() };
    MetadataRequest { topics: Some((0..count).map(topic).collect()), ..Default::default() }
}

/// Bytes that are claimed while the reply is there, and the reply's own.
async fn claimed(life: &Life, request: Request) -> (usize, usize) {
    let Reply::Frame(frame) = life.reply(request).await else { panic!("no frame") };
    let claimed = life.data.claims.claimed();
    let bytes = frame.iter().map(Bytes::len).sum();
    drop(frame);
    assert_eq!(life.data.claims.claimed(), 0, "nothing stays behind");
    (claimed, bytes)
}

#[tokio::test]
async fn a_request_of_many_elements_is_claimed_for_until_its_answer_is_sent() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let little = claimed(&life, life.request(9, &produce((0..50).map(|index| (index, None))))).await;
    assert_eq!(little.0, 0, "most requests need no claim");
    let (held, bytes) =
        claimed(&life, life.request(9, &produce((0..3_000).map(|index| (index, None))))).await;
    assert_eq!(held, bytes);
    let (held, bytes) = claimed(&life, life.request(9, &names(3_000))).await;
    assert_eq!(held, bytes, "as every API");
}

#[tokio::test]
async fn a_large_request_waits_for_memory_while_little_ones_are_answered() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let all = life.data.claims.claim(CLAIMS_BYTES).await;
    let mut large =
        Box::pin(life.turn(vec![life.request(9, &produce((0..3_000).map(|index| (index, None))))]));
    let mut named = Box::pin(life.reply(life.request(9, &names(3_000))));
    let soon = || life.node.now().plus(Duration::from_millis(50));
    assert!(life.node.before(soon(), large.as_mut()).await.is_none(), "others hold the memory");
    assert!(life.node.before(soon(), named.as_mut()).await.is_none(), "others hold the memory");
    assert_eq!(life.produce("t", &["a"]).await.error_code, ErrorCode::NONE);
    drop(all);
    let reply = life.finish(large.await.remove(0)).await;
    let answered = answer_of::<ProduceRequest>(9, reply).responses[0].partition_responses.len();
    assert_eq!(answered, 3_000);
    assert!(matches!(named.await, Reply::Frame(_)));
}

/// Most bytes of a large request are records, which take nothing more than they are.
#[tokio::test]
async fn what_a_request_is_claimed_for_goes_by_its_elements_and_not_by_its_records() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let others = life.data.claims.claim(CLAIMS_BYTES - (2 << 20)).await;
    let records = "x".repeat(10_000);
    let unix_ms = life.node.unix_ms();
    let parts = (0..140).map(|index| (index, Some(batch(unix_ms, &[&records]))));
    let soon = life.node.now().plus(Duration::from_secs(5));
    let reply = life.node.before(soon, life.reply(life.request(9, &produce(parts)))).await;
    assert!(matches!(reply, Some(Reply::Frame(_))), "it finds room beside others: {reply:?}");
    drop(others);
}

#[tokio::test]
async fn a_request_of_more_elements_than_any_client_sends_closes_its_connection() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let request = life.request(9, &produce((0..300_000).map(|index| (index, None))));
    let started = life.turn(vec![request]).await.remove(0);
    let Started::Done(Reply::Close(why)) = started else { panic!("{started:?}") };
    assert!(why.contains("300000 elements"), "{why}");
    assert_eq!(life.data.claims.claimed(), 0);
}

#[tokio::test]
async fn both_batches_of_a_partition_that_is_named_twice_are_refused() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let one = |value: &str| Some(batch(life.node.unix_ms(), &[value]));
    let request = produce([(0, one("a")), (1, one("b")), (0, one("c"))]);
    let parts = life.ask(9, &request).await.responses.remove(0).partition_responses;
    let codes: Vec<_> = parts.iter().map(|part| (part.index.0, part.error_code)).collect();
    let twice = ErrorCode::INVALID_REQUEST;
    assert_eq!(codes, [(0, twice), (1, ErrorCode::NONE), (0, twice)]);
    assert!(life.values("t").await.is_empty(), "partition 0 took nothing");
    let mut split = produce([(0, one("a"))]);
    split.topic_data.extend(produce([(0, one("b"))]).topic_data);
    let answers = life.ask(9, &split).await.responses;
    let codes: Vec<_> = answers.iter().map(|topic| topic.partition_responses[0].error_code).collect();
    assert_eq!(codes, [twice, twice], "also where the topic is named twice");
}

#[tokio::test]
async fn a_partition_is_described_once_and_the_answer_is_claimed_for() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    for id in 0..40 {
        let mut builder = BatchBuilder::new(Compression::None);
        (builder.producer_id, builder.producer_epoch) = (ProducerId(id), ProducerEpoch(0));
        builder.base_sequence = Sequence(0);
        life.produce_with(-1, "t", batch_of(builder, life.node.unix_ms(), &["v"])).await;
    }
    let ask = |name: &str, times| TopicRequest {
        name: name.into(),
        partition_indexes: vec![PartitionId(0); times],
    };
    let request = DescribeProducersRequest { topics: vec![ask("t", 300), ask("t", 1), ask("none", 1)] };
    let reply = life.reply(life.request(0, &request)).await;
    let Reply::Frame(frame) = &reply else { panic!("{reply:?}") };
    let bytes: usize = frame.iter().map(Bytes::len).sum();
    assert_eq!(life.data.descriptions.claimed(), bytes);
    let topics = answer_of::<DescribeProducersRequest>(0, reply).topics;
    assert_eq!((life.data.descriptions.claimed(), life.data.claims.claimed()), (0, 0));
    let told = |topic: usize, part: usize| {
        let part = &topics[topic].partitions[part];
        (part.error_code, part.active_producers.len())
    };
    assert_eq!(told(0, 0), (ErrorCode::NONE, 40));
    for (topic, part) in [(0, 1), (0, 299), (1, 0)] {
        assert_eq!(told(topic, part), (ErrorCode::INVALID_REQUEST, 0));
    }
    assert_eq!(told(2, 0), (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, 0));
}

/// A few kilobytes that become `mib` MiB.
fn bomb(life: &Life, mib: usize) -> Bytes {
    let value = "x".repeat(mib << 20);
    batch_of(BatchBuilder::new(Compression::Zstd), life.node.unix_ms(), &[&value])
}

#[tokio::test]
async fn others_run_between_batches_that_unpack_to_much() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 4, &[]).await;
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = turns.clone();
    life.node.spawn("others", async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    for (mib, least) in [(20, 4), (3, 1)] {
        let batch = bomb(&life, mib);
        let request = life.request(9, &produce((0..4).map(|index| (index, Some(batch.clone())))));
        let before = turns.load(Ordering::Relaxed);
        let started = life.turn(vec![request]).await.remove(0);
        let during = turns.load(Ordering::Relaxed) - before;
        assert!(during >= least, "{during} turns of others during four batches of {mib} MiB");
        let parts = answer_of::<ProduceRequest>(9, life.finish(started).await).responses.remove(0);
        assert!(parts.partition_responses.iter().all(|part| part.error_code.is_none()), "{parts:?}");
    }
    let small = life.request(9, &produce_request(1, "t", 0, batch(life.node.unix_ms(), &["v"])));
    let before = turns.load(Ordering::Relaxed);
    let _ = life.turn(vec![small]).await;
    assert_eq!(turns.load(Ordering::Relaxed), before, "what honest clients send waits for nobody");
}

#[tokio::test]
async fn a_turn_that_waits_in_between_is_started_in_order_and_one_that_does_not_at_once() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 4, &[]).await;
    let one = |index: i32, batch: Bytes| life.request(9, &produce([(index, Some(batch))]));
    let small = |value: &str| one(0, batch(life.node.unix_ms(), &[value]));
    let many = life.request(9, &produce((0..300).map(|index| (index, None))));
    let at_once = life.api.start_turn(&life.session, vec![small("a"), small("b")]);
    assert!(matches!(at_once, Starting::Done(_)), "no future is made for what waits for nothing");
    let all = life.data.claims.claim(CLAIMS_BYTES).await;
    let mut turn = Box::pin(life.turn(vec![small("c"), one(1, bomb(&life, 20)), many, small("d")]));
    let soon = life.node.now().plus(Duration::from_millis(50));
    assert!(life.node.before(soon, turn.as_mut()).await.is_none(), "others hold the memory");
    assert_eq!(life.values("t").await, ["a", "b"]);
    drop(all);
    let mut counts = Vec::new();
    for started in turn.await {
        let topic = answer_of::<ProduceRequest>(9, life.finish(started).await).responses.remove(0);
        let taken = topic.partition_responses.iter().filter(|part| part.error_code.is_none());
        counts.push((topic.partition_responses.len(), taken.count()));
    }
    assert_eq!(counts, [(1, 1), (1, 1), (300, 0), (1, 1)]);
    assert_eq!(life.values("t").await, ["a", "b", "c", "d"]);
    assert_eq!((life.data.claims.claimed(), life.data.unpacking.available_permits()), (0, 1));
}

#[tokio::test]
async fn one_request_unpacks_to_so_much_and_the_rest_of_it_is_refused() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 6, &[]).await;
    let batch = bomb(&life, 63);
    let request = produce((0..6).map(|index| (index, Some(batch.clone()))));
    let parts = life.ask(9, &request).await.responses.remove(0).partition_responses;
    let codes: Vec<_> = parts.iter().map(|part| part.error_code).collect();
    let (good, late) = (ErrorCode::NONE, ErrorCode::REQUEST_TIMED_OUT);
    assert_eq!(codes, [good, good, good, good, late, late], "four of 63 MiB are in 256 MiB");
    assert!(parts[4].error_message.as_ref().expect("it says why").contains("unpack to more than"));
    let rest = produce((4..6).map(|index| (index, Some(batch.clone()))));
    let parts = life.ask(9, &rest).await.responses.remove(0).partition_responses;
    assert!(parts.iter().all(|part| part.error_code.is_none()), "it comes again, and goes on");
}
