//! The data plane's answers, through the service and its bytes: one claim a test.

use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::model_disk::CrashMode;
use dejaq_wire::ErrorCode;
use dejaq_wire::api::ApiKey;
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId};
use dejaq_wire::kafka::api_versions::ApiVersionsRequest;
use dejaq_wire::kafka::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use dejaq_wire::kafka::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use dejaq_wire::kafka::describe_log_dirs::DescribeLogDirsRequest;
use dejaq_wire::kafka::describe_producers::{DescribeProducersRequest, TopicRequest};
use dejaq_wire::kafka::fetch::FetchRequest;
use dejaq_wire::kafka::init_producer_id::InitProducerIdRequest;
use dejaq_wire::kafka::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsTopic,
};
use dejaq_wire::kafka::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use dejaq_wire::kafka::produce::ProduceRequest;
use dejaq_wire::record::{BatchBuilder, Compression};

use super::dispatch::SERVED;
use super::test_kit::{Life, World, answer_of, batch, batch_of, fetch_request, produce_request, values};
use crate::runtime::Runtime;
use crate::server::service::{Reply, Started};

fn sequenced(life: &Life, epoch: i16, sequence: i32, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.producer_id = ProducerId(4000);
    builder.producer_epoch = ProducerEpoch(epoch);
    builder.base_sequence = Sequence(sequence);
    batch_of(builder, life.node.unix_ms(), values)
}

#[tokio::test]
async fn every_version_of_produce_and_fetch_carries_a_batch() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let id = life.topic_id("t");
    for (at, version) in (3..=ApiKey::Produce.max_version()).enumerate() {
        let mut request = produce_request(-1, "t", 0, batch(life.node.unix_ms(), &["v"]));
        if version >= 13 {
            request.topic_data[0].name.clear();
            request.topic_data[0].topic_id = id;
        }
        let part = life.ask(version, &request).await.responses.remove(0).partition_responses.remove(0);
        assert_eq!((part.error_code, part.base_offset.0), (ErrorCode::NONE, at as i64), "version {version}");
    }
    for version in 4..=ApiKey::Fetch.max_version() {
        let mut request = fetch_request("t", 2, 0);
        if version >= 13 {
            request.topics[0].topic.clear();
            request.topics[0].topic_id = id;
        }
        let part = life.ask(version, &request).await.responses.remove(0).partitions.remove(0);
        let (found, next) = values(part.records.expect("never null"));
        assert_eq!((found.len(), next), (9, Some(Offset(11))), "version {version}");
        assert_eq!(part.high_watermark, Offset(11));
    }
}

#[tokio::test]
async fn requests_of_one_turn_are_appended_in_order_and_answered_each() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let ask = |value| life.request(9, &produce_request(-1, "t", 0, batch(life.node.unix_ms(), &[value])));
    let fetch = life.request(11, &fetch_request("t", 0, 0));
    let started = life.turn(vec![ask("a"), ask("b"), fetch, ask("c")]).await;
    let mut replies = Vec::new();
    for one in started {
        replies.push(life.finish(one).await);
    }
    let offset = |reply| {
        let response = answer_of::<ProduceRequest>(9, reply);
        response.responses[0].partition_responses[0].base_offset.0
    };
    let third = replies.remove(2);
    assert_eq!(replies.into_iter().map(offset).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(matches!(third, Reply::Frame(_)));
    assert_eq!(life.values("t").await, ["a", "b", "c"]);
}

#[tokio::test]
async fn acks_0_has_no_answer_and_its_errors_close_the_connection() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let good = life.request(9, &produce_request(0, "t", 0, batch(life.node.unix_ms(), &["a"])));
    assert!(matches!(life.reply(good).await, Reply::Nothing));
    let bad = life.request(9, &produce_request(0, "none", 0, batch(life.node.unix_ms(), &["a"])));
    assert!(matches!(life.reply(bad).await, Reply::Close(_)));
}

#[tokio::test]
async fn acks_1_is_answered_in_the_turn_and_seen_after_the_sync() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let request = life.request(9, &produce_request(1, "t", 0, batch(life.node.unix_ms(), &["a"])));
    let started = life.turn(vec![request]).await.remove(0);
    assert!(matches!(started, Started::Done(_)), "{started:?}");
    assert!(life.fetch("t", 0).await.records.expect("never null").is_empty(), "not synced, not seen");
    let request = life.request(11, &fetch_request("t", 0, 5_000));
    let part =
        answer_of::<FetchRequest>(11, life.reply(request).await).responses.remove(0).partitions.remove(0);
    assert_eq!(values(part.records.expect("never null")).0, ["a"]);
}

#[tokio::test]
async fn a_refusal_by_the_log_tells_where_the_log_starts_and_one_by_the_request_does_not() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let told = async |batch| {
        let part = life.produce_with(-1, "t", batch).await;
        (part.error_code, part.base_offset, part.log_start_offset)
    };
    told(sequenced(&life, 0, 0, &["a"])).await;
    let gap = told(sequenced(&life, 0, 9, &["b"])).await;
    assert_eq!(gap, (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, Offset::NONE, Offset(0)));
    let late = told(batch(life.node.unix_ms() + 100 * 3_600_000, &["c"])).await;
    assert_eq!(late, (ErrorCode::INVALID_TIMESTAMP, Offset::NONE, Offset(0)));
    let empty = told(Bytes::new()).await;
    assert_eq!(empty, (ErrorCode::INVALID_RECORD, Offset::NONE, Offset::NONE));
}

#[tokio::test]
async fn what_produce_refuses_and_with_which_code() {
    let world = World::new();
    let life = world.with_topic(&[("max.message.bytes", "200")]).await;
    let now = life.node.unix_ms();
    let code = async |acks, topic: &str, index, batch| {
        let request = produce_request(acks, topic, index, batch);
        life.ask(9, &request).await.responses.remove(0).partition_responses.remove(0)
    };
    let good = || batch(now, &["a"]);
    assert_eq!(code(2, "t", 0, good()).await.error_code, ErrorCode::INVALID_REQUIRED_ACKS);
    assert_eq!(code(-1, "none", 0, good()).await.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(code(-1, "t", 2, good()).await.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(code(-1, "t", -1, good()).await.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let large = code(-1, "t", 0, batch(now, &[&"x".repeat(300)])).await;
    assert_eq!((large.error_code, large.base_offset), (ErrorCode::MESSAGE_TOO_LARGE, Offset::NONE));
    assert!(large.error_message.expect("it says why").contains("max.message.bytes"));
    let mut request = produce_request(-1, "", 0, good());
    request.topic_data[0].topic_id = TopicId([7; 16]);
    let by_id = life.ask(13, &request).await;
    assert_eq!(by_id.responses[0].partition_responses[0].error_code, ErrorCode::UNKNOWN_TOPIC_ID);
    assert!(life.values("t").await.is_empty());
}

#[tokio::test]
async fn a_retry_is_answered_with_its_first_offset_also_after_a_power_cut() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let send = async |life: &Life, epoch, sequence, values: &[&str]| {
        let part = life.produce_with(-1, "t", sequenced(life, epoch, sequence, values)).await;
        (part.error_code, part.base_offset.0)
    };
    assert_eq!(send(&life, 0, 0, &["a", "b"]).await, (ErrorCode::NONE, 0));
    assert_eq!(send(&life, 0, 2, &["c"]).await, (ErrorCode::NONE, 2));
    assert_eq!(send(&life, 0, 0, &["a", "b"]).await, (ErrorCode::NONE, 0), "a retry");
    assert_eq!(send(&life, 0, 5, &["x"]).await, (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1), "a gap");
    life.cut_power(CrashMode::Lose).await;
    let life = world.start().await;
    assert_eq!(send(&life, 0, 2, &["c"]).await, (ErrorCode::NONE, 2), "a retry to the next life");
    assert_eq!(send(&life, 1, 0, &["d"]).await, (ErrorCode::NONE, 3));
    assert_eq!(send(&life, 0, 3, &["x"]).await, (ErrorCode::INVALID_PRODUCER_EPOCH, -1));
    assert_eq!(life.values("t").await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_produce_request_waits_no_longer_than_the_broker_allows() {
    let mut world = World::new();
    world.limits.longest_wait = Duration::from_millis(100);
    let life = world.with_topic(&[]).await;
    world.gate.close();
    let mut request = produce_request(-1, "t", 0, batch(life.node.unix_ms(), &["a"]));
    request.timeout_ms = i32::MAX;
    let part = life.ask(9, &request).await.responses.remove(0).partition_responses.remove(0);
    assert_eq!(part.error_code, ErrorCode::REQUEST_TIMED_OUT);
    world.gate.open();
}

#[tokio::test]
async fn while_a_sync_is_stuck_nothing_is_acknowledged_or_seen_not_even_a_retry() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    world.gate.close();
    let mut request = produce_request(-1, "t", 0, sequenced(&life, 0, 0, &["a"]));
    request.timeout_ms = 60;
    for attempt in ["the first", "a retry"] {
        let part = life.ask(9, &request).await.responses.remove(0).partition_responses.remove(0);
        assert_eq!(part.error_code, ErrorCode::REQUEST_TIMED_OUT, "{attempt}");
    }
    let seen = life.fetch("t", 0).await;
    assert_eq!((seen.high_watermark, seen.error_code), (Offset(0), ErrorCode::NONE));
    assert!(seen.records.expect("never null").is_empty());
    let beyond = life.fetch("t", 1).await;
    assert_eq!(beyond.error_code, ErrorCode::NONE, "between watermark and end is no error");
    world.gate.open();
    request.timeout_ms = 5_000;
    let part = life.ask(9, &request).await.responses.remove(0).partition_responses.remove(0);
    assert_eq!((part.error_code, part.base_offset), (ErrorCode::NONE, Offset(0)));
    assert_eq!(life.values("t").await, ["a"]);
}

#[tokio::test]
async fn log_append_time_is_told_and_stored() {
    let world = World::new();
    let life = world.with_topic(&[("message.timestamp.type", "LogAppendTime")]).await;
    let part = life.produce_with(-1, "t", batch(5, &["a"])).await;
    assert_eq!(part.log_append_time_ms, life.node.unix_ms());
    assert_eq!(list(&life, -3).await.timestamp, life.node.unix_ms());
}

async fn list(life: &Life, timestamp: i64) -> ListOffsetsPartitionResponse {
    let part = ListOffsetsPartition { timestamp, ..Default::default() };
    let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![part] };
    let request = ListOffsetsRequest { topics: vec![topic], ..Default::default() };
    life.ask(9, &request).await.topics.remove(0).partitions.remove(0)
}

#[tokio::test]
async fn offsets_are_found_by_end_and_by_time() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let start = life.node.unix_ms();
    for (at, value) in [(10, "a"), (30, "b"), (20, "c")] {
        life.produce_with(-1, "t", batch(start + at, &[value])).await;
    }
    let offset = async |timestamp| list(&life, timestamp).await.offset.0;
    assert_eq!(offset(-1).await, 3);
    assert_eq!(offset(-2).await, 0);
    assert_eq!(offset(-3).await, 1);
    assert_eq!(offset(-4).await, 0);
    assert_eq!(offset(-5).await, -1);
    assert_eq!(offset(start).await, 0);
    assert_eq!(offset(start + 11).await, 1);
    assert_eq!(offset(start + 31).await, -1);
    let latest = list(&life, -1).await;
    assert_eq!((latest.timestamp, latest.error_code), (-1, ErrorCode::NONE));
    assert_eq!(list(&life, -9).await.error_code, ErrorCode::UNSUPPORTED_VERSION);
}

#[tokio::test]
async fn a_special_time_needs_its_version_and_a_partition_is_asked_for_once() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let ask = async |version: i16, timestamps: &[i64]| {
        let part = |timestamp: &i64| ListOffsetsPartition { timestamp: *timestamp, ..Default::default() };
        let partitions = timestamps.iter().map(part).collect();
        let topics = vec![ListOffsetsTopic { name: "t".into(), partitions }];
        let response = life.ask(version, &ListOffsetsRequest { topics, ..Default::default() }).await;
        let codes = response.topics[0].partitions.iter().map(|part| part.error_code);
        codes.collect::<Vec<_>>()
    };
    for (timestamp, first) in [(-3, 7), (-4, 8), (-5, 9)] {
        assert_eq!(ask(first - 1, &[timestamp]).await, [ErrorCode::UNSUPPORTED_VERSION], "{timestamp}");
        assert_eq!(ask(first, &[timestamp]).await, [ErrorCode::NONE], "{timestamp}");
    }
    assert_eq!(ask(7, &[-1, -2]).await, [ErrorCode::INVALID_REQUEST]);
}

#[tokio::test]
async fn an_epoch_ends_where_the_next_begins() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    life.produce("t", &["a", "b"]).await;
    let first = life.partition("t", 0).view().epoch();
    life.kill().await;
    let life = world.start().await;
    life.produce("t", &["c"]).await;
    let end = async |leader_epoch| {
        let part = OffsetForLeaderPartition { leader_epoch, ..Default::default() };
        let topic = OffsetForLeaderTopic { topic: "t".into(), partitions: vec![part] };
        let request = OffsetForLeaderEpochRequest { topics: vec![topic], ..Default::default() };
        life.ask(4, &request).await.topics.remove(0).partitions.remove(0).end_offset.0
    };
    assert_eq!(end(first).await, 2);
    assert_eq!(end(first.next()).await, 3);
    assert_eq!(end(LeaderEpoch(99)).await, -1);
}

#[tokio::test]
async fn deleted_records_are_gone_and_the_new_start_is_told() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    for value in ["a", "b", "c"] {
        life.produce("t", &[value]).await;
    }
    let delete = async |offset| {
        let part = DeleteRecordsPartition { partition_index: PartitionId(0), offset: Offset(offset) };
        let topic = DeleteRecordsTopic { name: "t".into(), partitions: vec![part] };
        let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 5_000 };
        let part = life.ask(2, &request).await.topics.remove(0).partitions.remove(0);
        (part.error_code, part.low_watermark.0)
    };
    assert_eq!(delete(1).await, (ErrorCode::NONE, 1));
    assert_eq!(delete(9).await, (ErrorCode::OFFSET_OUT_OF_RANGE, -1));
    assert_eq!(life.values("t").await, ["b", "c"]);
    assert_eq!(delete(-1).await, (ErrorCode::NONE, 3));
    assert_eq!(list(&life, -2).await.offset, Offset(3));
}

#[tokio::test]
async fn producer_ids_are_never_given_out_twice() {
    let world = World::new();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let life = world.start().await;
        for _ in 0..3 {
            let response = life.ask(4, &InitProducerIdRequest::default()).await;
            assert_eq!((response.error_code, response.producer_epoch), (ErrorCode::NONE, ProducerEpoch(0)));
            assert!(seen.insert(response.producer_id), "{:?} again", response.producer_id);
        }
        life.kill().await;
    }
    let life = world.start().await;
    let transactional =
        InitProducerIdRequest { transactional_id: Some("x".into()), ..InitProducerIdRequest::default() };
    assert!(life.ask(4, &transactional).await.error_code.is_error());
}

#[tokio::test]
async fn producers_and_sizes_are_described() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    life.produce_with(-1, "t", sequenced(&life, 3, 0, &["a", "b"])).await;
    let topic = TopicRequest { name: "t".into(), partition_indexes: vec![PartitionId(0)] };
    let response = life.ask(0, &DescribeProducersRequest { topics: vec![topic] }).await;
    let producer = &response.topics[0].partitions[0].active_producers[0];
    assert_eq!((producer.producer_id, producer.producer_epoch), (ProducerId(4000), 3));
    assert_eq!(producer.last_sequence, 1);
    let response = life.ask(4, &DescribeLogDirsRequest { topics: None }).await;
    let result = &response.results[0];
    assert_eq!(result.total_bytes, -1, "the device of this test has no limit");
    assert!(result.usable_bytes > 0);
    let topics = &result.topics;
    assert_eq!((topics.len(), topics[0].partitions.len()), (1, 2));
    assert!(topics[0].partitions[0].partition_size > 61);
    assert_eq!(topics[0].partitions[1].partition_size, 0);
}

#[tokio::test]
async fn bytes_that_are_no_request_and_unserved_apis_close_the_connection() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    for api in ApiKey::ALL {
        let mut request = life.request(3, &ApiVersionsRequest::default());
        request.api = *api;
        request.version = api.max_version();
        request.body = Bytes::from_static(&[0xff; 3]);
        let Reply::Close(why) = life.reply(request).await else { panic!("{api:?} was answered") };
        assert_eq!(why.contains("not served"), !SERVED.contains(api), "{api:?}: {why}");
    }
}

#[tokio::test]
async fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let world = World::new();
    let life = world.start().await;
    let mut request = life.request(3, &ApiVersionsRequest::default());
    (request.version, request.body) = (99, Bytes::new());
    let response = answer_of::<ApiVersionsRequest>(0, life.reply(request).await);
    assert_eq!(response.error_code, ErrorCode::UNSUPPORTED_VERSION);
}

#[tokio::test]
async fn what_configs_are_told_is_claimed_for_until_it_is_sent() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let topic =
        || DescribeConfigsResource { resource_type: 2, resource_name: "t".into(), configuration_keys: None };
    let request = DescribeConfigsRequest {
        resources: vec![topic(), topic()],
        include_synonyms: true,
        include_documentation: true,
    };
    let reply = life.reply(life.request(3, &request)).await;
    let Reply::Frame(frame) = &reply else { panic!("{reply:?}") };
    let bytes: usize = frame.iter().map(Bytes::len).sum();
    assert_eq!(
        life.data.descriptions.claimed(),
        bytes,
        "of what it may take only what it took stays claimed"
    );
    let results = answer_of::<DescribeConfigsRequest>(3, reply).results;
    let codes: Vec<ErrorCode> = results.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::INVALID_REQUEST], "nobody needs one twice");
    assert_eq!(life.data.descriptions.claimed(), 0);
}
