//! Fetch through the service and its bytes: one claim a test.

use std::time::Duration;

use bytes::Bytes;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId};
use dejaq_wire::kafka::delete_topics::DeleteTopicsRequest;
use dejaq_wire::kafka::fetch::{FetchPartition, FetchRequest};

use super::test_kit::{Life, World, answer_of, batch, fetch_request, produce_request, values};
use crate::runtime::Runtime;
use crate::server::service::Reply;

#[tokio::test]
async fn a_fetch_waits_for_the_first_record_and_no_longer() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let request = life.request(11, &fetch_request("t", 0, 10_000));
    let started = life.node.now();
    let waiting = life.finish(life.turn(vec![request]).await.remove(0));
    let (reply, _) = tokio::join!(waiting, async {
        life.node.sleep(Duration::from_millis(50)).await;
        life.produce("t", &["a"]).await
    });
    let took = life.node.now().since(started);
    assert!(took < Duration::from_secs(5), "{took:?}");
    let part = answer_of::<FetchRequest>(11, reply).responses.remove(0).partitions.remove(0);
    assert_eq!(values(part.records.expect("never null")).0, ["a"]);
}

#[tokio::test]
async fn a_fetch_ends_at_its_deadline_with_what_is_there() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    life.produce("t", &["a"]).await;
    let mut request = fetch_request("t", 0, 100);
    request.min_bytes = 1 << 20;
    let started = life.node.now();
    let part = life.ask(11, &request).await.responses.remove(0).partitions.remove(0);
    let took = life.node.now().since(started);
    assert!(took >= Duration::from_millis(100), "{took:?}");
    assert_eq!(values(part.records.expect("never null")).0, ["a"]);
}

#[tokio::test]
async fn a_waiting_fetch_ends_at_once_when_its_topic_is_deleted() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let request = life.request(11, &fetch_request("t", 0, 15_000));
    let waiting = life.finish(life.turn(vec![request]).await.remove(0));
    let delete =
        DeleteTopicsRequest { topic_names: vec!["t".into()], timeout_ms: 10_000, ..Default::default() };
    let started = life.node.now();
    let (reply, _) = tokio::join!(waiting, async {
        life.node.sleep(Duration::from_millis(50)).await;
        life.ask(3, &delete).await
    });
    assert!(life.node.now().since(started) < Duration::from_secs(5));
    let part = answer_of::<FetchRequest>(11, reply).responses.remove(0).partitions.remove(0);
    assert_eq!(part.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}

#[tokio::test]
async fn the_first_batch_comes_whatever_its_size_and_limits_hold_for_the_rest() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    for index in 0..2 {
        for _ in 0..3 {
            let request = produce_request(-1, "t", index, batch(life.node.unix_ms(), &[&"x".repeat(500)]));
            life.ask(9, &request).await;
        }
    }
    let counts = async |max_bytes, partition_max_bytes| {
        let mut request = fetch_request("t", 0, 0);
        request.max_bytes = max_bytes;
        let first = FetchPartition { partition_max_bytes, ..request.topics[0].partitions[0].clone() };
        let second = FetchPartition { partition: PartitionId(1), ..first.clone() };
        request.topics[0].partitions = vec![first, second];
        let parts = life.ask(11, &request).await.responses.remove(0).partitions;
        parts.into_iter().map(|part| values(part.records.expect("never null")).0.len()).collect::<Vec<_>>()
    };
    assert_eq!(counts(1, 1 << 20).await, [1, 0]);
    assert_eq!(counts(1300, 1 << 20).await, [2, 0]);
    assert_eq!(counts(1 << 20, 1).await, [1, 0]);
    assert_eq!(counts(1 << 20, 1300).await, [2, 2]);
    assert_eq!(counts(1 << 20, 1 << 20).await, [3, 3]);
}

#[tokio::test]
async fn offsets_outside_the_log_and_wrong_epochs_are_refused() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    life.produce("t", &["a", "b"]).await;
    for offset in [-1, 3] {
        let part = life.fetch("t", offset).await;
        assert_eq!(part.error_code, ErrorCode::OFFSET_OUT_OF_RANGE, "{offset}");
        assert_eq!((part.log_start_offset, part.high_watermark), (Offset(0), Offset(2)));
    }
    let in_epoch = async |epoch| {
        let mut request = fetch_request("t", 0, 0);
        request.topics[0].partitions[0].current_leader_epoch = LeaderEpoch(epoch);
        life.ask(11, &request).await.responses.remove(0).partitions.remove(0).error_code
    };
    let now = life.partition("t", 0).view().epoch().0;
    assert_eq!(in_epoch(now).await, ErrorCode::NONE);
    assert_eq!(in_epoch(now + 1).await, ErrorCode::UNKNOWN_LEADER_EPOCH);
    life.kill().await;
    let life = world.start().await;
    let mut request = fetch_request("t", 0, 0);
    request.topics[0].partitions[0].current_leader_epoch = LeaderEpoch(now);
    let part = life.ask(11, &request).await.responses.remove(0).partitions.remove(0);
    assert_eq!(part.error_code, ErrorCode::FENCED_LEADER_EPOCH);
}

#[tokio::test]
async fn a_client_that_has_records_of_a_lost_epoch_is_told_where_it_diverges() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    life.produce("t", &["a"]).await;
    let old = life.partition("t", 0).view().epoch();
    life.kill().await;
    let life = world.start().await;
    life.produce("t", &["b"]).await;
    let diverging = async |offset, epoch| {
        let mut request = fetch_request("t", offset, 0);
        request.topics[0].partitions[0].last_fetched_epoch = epoch;
        life.ask(12, &request).await.responses.remove(0).partitions.remove(0).diverging_epoch.end_offset
    };
    assert_eq!(diverging(1, old).await, Offset::NONE, "it has what we have");
    assert_eq!(diverging(2, old).await, Offset(1), "the old epoch ended at 1");
}

#[tokio::test]
async fn a_session_tells_only_what_is_new() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    life.produce("t", &["a"]).await;
    let mut request = fetch_request("t", 0, 0);
    request.session_epoch = 0;
    let first = life.ask(11, &request).await;
    assert!(first.session_id != 0);
    assert_eq!(first.responses[0].partitions.len(), 1);
    let mut next =
        FetchRequest { session_id: first.session_id, session_epoch: 1, ..fetch_request("t", 1, 0) };
    assert!(life.ask(11, &next).await.responses.is_empty(), "nothing is new at 1");
    life.produce("t", &["b"]).await;
    next.topics.clear();
    next.session_epoch = 2;
    let third = life.ask(11, &next).await;
    assert_eq!(values(third.responses[0].partitions[0].records.clone().expect("never null")).0, ["b"]);
    assert_eq!(life.ask(11, &next).await.error_code, ErrorCode::INVALID_FETCH_SESSION_EPOCH);
    next.session_id ^= 1;
    assert_eq!(life.ask(11, &next).await.error_code, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
}

#[tokio::test]
async fn the_bytes_of_unsent_answers_are_bounded() {
    let mut world = World::new();
    world.limits.memory_bytes = 4 << 20;
    let life = world.with_topic(&[]).await;
    let value = "x".repeat(900_000);
    for _ in 0..3 {
        life.produce("t", &[&value]).await;
    }
    let ask = || {
        let mut request = fetch_request("t", 0, 100);
        request.max_bytes = 3 << 20;
        request.topics[0].partitions[0].partition_max_bytes = 3 << 20;
        life.request(11, &request)
    };
    let unsent = life.reply(ask()).await;
    assert!(bytes(&unsent) > 2_700_000);
    assert!(life.data.answers.claimed() > 2_700_000);
    assert!(bytes(&life.reply(ask()).await) < 1000, "no room until the first is sent");
    drop(unsent);
    assert_eq!(life.data.answers.claimed(), 0);
    assert!(bytes(&life.reply(ask()).await) > 2_700_000);
}

/// A reply's size.
fn bytes(reply: &Reply) -> usize {
    match reply {
        Reply::Frame(frame) => frame.iter().map(Bytes::len).sum::<usize>(),
        Reply::Nothing | Reply::Close(_) => panic!("{reply:?}"),
    }
}

/// A fetch that allows one byte, and so is answered with one batch whatever its size.
fn smallest_fetch(max_wait_ms: i32) -> FetchRequest {
    let mut request = fetch_request("t", 0, max_wait_ms);
    request.max_bytes = 1;
    request.topics[0].partitions[0].partition_max_bytes = 1;
    request
}

/// A topic with one record of 900 kB.
async fn with_large_batch(world: &World) -> Life {
    let life = world.with_topic(&[]).await;
    life.produce("t", &[&"x".repeat(900_000)]).await;
    life
}

#[tokio::test]
async fn batches_above_what_their_fetch_allows_are_in_the_bound_of_unsent_answers() {
    let mut world = World::new();
    world.limits.memory_bytes = 2 << 20;
    let life = with_large_batch(&world).await;
    let mut unsent = Vec::new();
    for _ in 0..6 {
        unsent.push(life.reply(life.request(11, &smallest_fetch(20))).await);
    }
    assert_eq!(unsent.iter().filter(|reply| bytes(reply) > 900_000).count(), 2, "two fit in 2 MiB");
    assert!(life.data.answers.claimed() > 1_800_000);
    let waiting = life.finish(life.turn(vec![life.request(11, &smallest_fetch(15_000))]).await.remove(0));
    let (reply, ()) = tokio::join!(waiting, async {
        life.node.sleep(Duration::from_millis(50)).await;
        unsent.clear();
    });
    assert!(bytes(&reply) > 900_000, "it waited for its turn");
    drop(reply);
    assert_eq!(life.data.answers.claimed(), 0);
}

#[tokio::test]
async fn a_batch_above_the_whole_memory_for_answers_comes_when_it_is_alone() {
    let mut world = World::new();
    world.limits.memory_bytes = 500_000;
    let life = with_large_batch(&world).await;
    let first = life.reply(life.request(11, &smallest_fetch(20))).await;
    assert!(bytes(&first) > 900_000);
    assert_eq!(life.data.answers.claimed(), 500_000);
    assert!(bytes(&life.reply(life.request(11, &smallest_fetch(20))).await) < 1000);
    drop(first);
    assert!(bytes(&life.reply(life.request(11, &smallest_fetch(20))).await) > 900_000);
}

#[tokio::test]
async fn a_fetch_that_waits_for_more_than_there_is_holds_no_memory_and_gets_it_in_the_end() {
    let mut world = World::new();
    world.limits.memory_bytes = 1 << 20;
    let life = with_large_batch(&world).await;
    let mut request = fetch_request("t", 0, 500);
    request.min_bytes = i32::MAX;
    let waiting = life.finish(life.turn(vec![life.request(11, &request)]).await.remove(0));
    let (reply, ()) = tokio::join!(waiting, async {
        life.node.sleep(Duration::from_millis(50)).await;
        assert_eq!(life.data.answers.claimed(), 0);
        assert!(bytes(&life.reply(life.request(11, &smallest_fetch(0))).await) > 900_000);
    });
    assert!(bytes(&reply) > 900_000);
}

#[tokio::test]
async fn a_fetch_waits_no_longer_than_the_broker_allows() {
    let mut world = World::new();
    world.limits.longest_wait = Duration::from_millis(100);
    let life = world.with_topic(&[]).await;
    let part = life.ask(11, &fetch_request("t", 0, i32::MAX)).await.responses.remove(0).partitions.remove(0);
    assert_eq!((part.error_code, part.high_watermark), (ErrorCode::NONE, Offset(0)));
}

#[tokio::test]
async fn a_fetch_of_a_client_that_has_closed_ends_at_once_with_what_is_there() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    life.produce("t", &["a"]).await;
    let mut request = fetch_request("t", 0, i32::MAX);
    request.min_bytes = i32::MAX;
    let waiting = life.finish(life.turn(vec![life.request(11, &request)]).await.remove(0));
    let (reply, ()) = tokio::join!(waiting, async {
        life.node.sleep(Duration::from_millis(50)).await;
        life.session.close();
    });
    let part = answer_of::<FetchRequest>(11, reply).responses.remove(0).partitions.remove(0);
    assert_eq!(values(part.records.expect("never null")).0, ["a"]);
    let later = life.ask(11, &request).await.responses.remove(0).partitions.remove(0);
    assert_eq!(values(later.records.expect("never null")).0, ["a"], "one that begins then does not wait");
}

#[tokio::test]
async fn damage_is_not_served_and_does_not_stop_the_rest() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    for value in ["first", "second", "third"] {
        life.produce("t", &[value]).await;
    }
    let id: String = life.topic_id("t").0.iter().map(|byte| format!("{byte:02x}")).collect();
    let files = world.platter.files();
    let is_log = |path: &std::path::Path| {
        let path = path.to_string_lossy();
        path.contains(&format!("{id}-0")) && path.ends_with(".log")
    };
    let (path, content) = files.into_iter().find(|(path, _)| is_log(path)).expect("the log is there");
    let at = content.windows(6).position(|window| window == b"second").expect("it is not compressed");
    assert!(world.platter.rot(&path, at as u64, 1));
    let second = life.fetch("t", 1).await;
    assert_eq!(second.error_code, ErrorCode::CORRUPT_MESSAGE);
    let third = life.fetch("t", 2).await;
    assert_eq!(values(third.records.expect("never null")).0, ["third"]);
    assert!(life.produce("t", &["fourth"]).await.error_code.is_none());
}
