//! The shells together, on a disk in memory: one claim a test.

use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::model_disk::{CrashMode, Fault, ModelDisk, Op, Plan};
use dejaq_storage::{DataDir, Log, VerifiedBatch};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset, PartitionId, TopicId};
use tokio::sync::oneshot;

use super::leader::{Required, Resigned};
use super::open::{NotStarted, remove_strays};
use super::retention::{MoveError, move_start};
use super::write::{Outcome, Write, WriteError};
use crate::api::test_kit::{World, batch};
use crate::metadata::Image;
use crate::runtime::Runtime;

fn write(values: &[&str]) -> (Write, oneshot::Receiver<Outcome>) {
    let batch = VerifiedBatch::verify(batch(1_800_000_000_000, values)).expect("we built it");
    let (outcome, receiver) = oneshot::channel();
    (Write { batch, required: Required::All, only_in: LeaderEpoch::NONE, outcome }, receiver)
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    for value in ["a", "b", "c"] {
        assert!(life.produce("t", &[value]).await.error_code.is_none());
    }
    life.cut_power(CrashMode::Lose).await;
    let life = world.start().await;
    assert_eq!(life.values("t").await, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_replicated_topic_is_acknowledged_before_its_sync_and_may_lose_it() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[("durability", "replicated"), ("durability.flush.ms", "3600000")]).await;
    let synced = world.platter.counter(Op::Sync).done;
    assert!(life.produce("t", &["a"]).await.error_code.is_none());
    assert_eq!(world.platter.counter(Op::Sync).done, synced);
    assert!(life.partition("t", 0).view().unsynced_bytes() > 0);
    life.cut_power(CrashMode::Lose).await;
    assert!(world.start().await.values("t").await.is_empty());
}

#[tokio::test]
async fn a_replicated_topic_is_synced_in_the_background() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[("durability", "replicated"), ("durability.flush.ms", "20")]).await;
    life.produce("t", &["a"]).await;
    let partition = life.partition("t", 0);
    while partition.view().unsynced_bytes() > 0 {
        life.node.sleep(Duration::from_millis(5)).await;
    }
    life.cut_power(CrashMode::Lose).await;
    assert_eq!(world.start().await.values("t").await, ["a"]);
}

#[tokio::test]
async fn all_writes_of_a_turn_go_down_with_one_append() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    let partition = life.partition("t", 0);
    let before = world.platter.counter(Op::Write).done;
    let (writes, outcomes): (Vec<_>, Vec<_>) = (0..50).map(|_| write(&["v"])).unzip();
    partition.write(writes);
    assert_eq!(world.platter.counter(Op::Write).done, before + 1);
    for (at, outcome) in outcomes.into_iter().enumerate() {
        let written = outcome.await.expect("answered").expect("acknowledged");
        assert_eq!(written.base, Offset(at as i64));
    }
}

#[tokio::test]
async fn many_producers_at_once_get_one_offset_each() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    let partition = life.partition("t", 0);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let partition = partition.clone();
            #[allow(clippy::disallowed_methods, reason = "contention on the turn needs real threads")]
            std::thread::spawn(move || {
                let mut outcomes = Vec::new();
                for _ in 0..100 {
                    let (one, outcome) = write(&["v"]);
                    partition.write(vec![one]);
                    outcomes.push(outcome);
                }
                outcomes
            })
        })
        .collect();
    let mut offsets = Vec::new();
    for thread in threads {
        for outcome in thread.join().expect("no panic") {
            offsets.push(outcome.await.expect("answered").expect("acknowledged").base.0);
        }
    }
    offsets.sort_unstable();
    assert_eq!(offsets, (0..400).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_failed_sync_takes_the_directory_offline_and_acknowledges_nothing() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    life.create("other", 1, &[]).await;
    life.produce("t", &["a"]).await;
    world.platter.plan(Plan { fault: Fault::SyncError, path_contains: ".log".into(), after: 0 });
    let (one, outcome) = write(&["b"]);
    life.partition("t", 0).write(vec![one]);
    let refused = outcome.await.expect("answered");
    assert_eq!(refused, Err(WriteError::Abandoned(Resigned::Offline)));
    assert!(life.directory.health().is_offline());
    let codes = [life.produce("t", &["c"]).await.error_code, life.produce("other", &["c"]).await.error_code];
    assert_eq!(codes, [ErrorCode::KAFKA_STORAGE_ERROR; 2]);
    assert_eq!(life.fetch("t", 0).await.error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    assert!(life.stop().await.is_err(), "an offline directory is never marked clean");
}

#[tokio::test]
async fn a_failed_sync_of_a_start_takes_the_directory_offline_too() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    life.produce("t", &["a"]).await;
    world.platter.plan(Plan { fault: Fault::DirSyncError, path_contains: String::new(), after: 0 });
    assert_eq!(move_start(&life.partition("t", 0), None).await, Err(MoveError::NotNow));
    assert!(life.directory.health().is_offline());
    assert_eq!(life.produce("t", &["b"]).await.error_code, ErrorCode::KAFKA_STORAGE_ERROR);
}

#[tokio::test]
async fn a_start_writes_down_how_far_an_idle_log_is_durable_also_if_the_disk_was_full_for_a_while() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    assert!(life.produce("t", &["a"]).await.error_code.is_none());
    life.kill().await; // within the second after which an idle log is marked
    let life = world.start().await;
    let partition = life.partition("t", 0);
    let marked = || partition.with_turn(|turn| turn.log.as_ref().map(Log::marked_durable));
    assert_eq!(marked(), Some(Offset(0)));
    let used: u64 = world.platter.lengths().iter().map(|(_, length)| length).sum();
    world.platter.set_capacity(Some(used));
    life.node.sleep(Duration::from_millis(1500)).await;
    assert_eq!(marked(), Some(Offset(0)), "there is no room");
    assert!(!life.directory.health().is_offline());
    world.platter.set_capacity(None);
    let deadline = life.node.now().plus(Duration::from_secs(10));
    while marked() != Some(Offset(1)) {
        assert!(life.node.now() < deadline, "marked to {:?}", marked());
        life.node.sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_mark_that_meets_a_new_batch_is_followed_by_another() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    life.create("other", 1, &[]).await;
    assert!(life.produce("t", &["a"]).await.error_code.is_none());
    life.node.sleep(Duration::from_millis(700)).await;
    world.gate.close();
    let (one, other) = write(&["x"]);
    life.partition("other", 0).write(vec![one]); // the flusher is busy with it while the mark of `t` becomes due
    life.node.sleep(Duration::from_millis(500)).await;
    let (two, outcome) = write(&["b"]);
    life.partition("t", 0).write(vec![two]);
    world.gate.open();
    assert!(other.await.expect("answered").is_ok() && outcome.await.expect("answered").is_ok());
    let partition = life.partition("t", 0);
    let marked = || partition.with_turn(|turn| turn.log.as_ref().map(Log::marked_durable));
    let deadline = life.node.now().plus(Duration::from_secs(5));
    while marked() != Some(Offset(2)) {
        assert!(life.node.now() < deadline, "nobody wrote to it since, and it is marked to {:?}", marked());
        life.node.sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_stop_leaves_a_clean_directory_and_everything_in_it() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 2, &[("durability", "none")]).await;
    life.produce("t", &["a", "b"]).await;
    life.stop().await.expect("clean");
    assert_eq!(world.platter.unsynced_bytes(), 0, "a clean stop leaves nothing to lose");
    let life = world.start().await;
    assert_eq!(life.values("t").await, ["a", "b"]);
    assert_eq!(life.partition("t", 0).view().epoch().0, 1, "every start leads in a new epoch");
}

#[tokio::test]
async fn a_deleted_topic_leaves_no_file_and_does_not_come_back() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 2, &[]).await;
    life.produce("t", &["a"]).await;
    let old = life.topic_id("t");
    delete(&life, "t").await;
    assert!(life.directory.table().named("t").is_none());
    assert!(!has_files_of(&world, old));
    life.create("t", 1, &[]).await;
    assert_ne!(life.topic_id("t"), old);
    assert!(life.values("t").await.is_empty());
    life.kill().await;
    let life = world.start().await;
    assert!(life.values("t").await.is_empty());
}

#[tokio::test]
async fn a_topic_deleted_during_a_sync_refuses_its_producers_and_harms_nobody() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    life.create("other", 1, &[]).await;
    let id = life.topic_id("t");
    let partition = life.partition("t", 0);
    world.gate.close();
    let (one, outcome) = write(&["a"]);
    partition.write(vec![one]);
    life.node.sleep(Duration::from_millis(20)).await; // the flusher is in its sync
    let deleted = tokio::join!(partition.abandon(Resigned::Deleted), outcome).1.expect("answered");
    assert_eq!(deleted, Err(WriteError::Abandoned(Resigned::Deleted)));
    tokio::join!(delete(&life, "t"), async {
        life.node.sleep(Duration::from_millis(20)).await;
        world.gate.open();
    });
    assert!(!has_files_of(&world, id));
    assert!(life.produce("other", &["b"]).await.error_code.is_none());
    assert!(!life.directory.health().is_offline());
}

async fn delete(life: &crate::api::test_kit::Life, name: &str) {
    use dejaq_wire::kafka::delete_topics::DeleteTopicsRequest;
    let request =
        DeleteTopicsRequest { topic_names: vec![name.into()], timeout_ms: 10_000, ..Default::default() };
    let response = life.ask(3, &request).await;
    assert!(response.responses[0].error_code.is_none(), "{response:?}");
}

fn has_files_of(world: &World, id: TopicId) -> bool {
    let hex: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
    world.platter.files().iter().any(|(path, _)| path.to_string_lossy().contains(&hex))
}

#[tokio::test]
async fn a_start_moved_by_a_client_is_durable() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    for value in ["a", "b", "c"] {
        life.produce("t", &[value]).await;
    }
    let partition = life.partition("t", 0);
    assert_eq!(move_start(&partition, Some(Offset(2))).await, Ok(Offset(2)));
    assert_eq!(move_start(&partition, Some(Offset(4))).await, Err(MoveError::BeyondWatermark(Offset(3))));
    assert_eq!(life.fetch("t", 1).await.error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
    life.cut_power(CrashMode::Lose).await;
    let life = world.start().await;
    assert_eq!(life.values("t").await, ["c"]);
    assert_eq!(move_start(&life.partition("t", 0), None).await, Ok(Offset(3)));
}

#[tokio::test]
async fn retention_removes_what_is_too_old_and_only_that() {
    let mut world = World::new();
    world.settings.retention_every = Duration::from_millis(20);
    world.settings.clock_patience = Duration::from_millis(40);
    let life = world.start().await;
    life.create("t", 1, &[("retention.ms", "60000"), ("segment.ms", "1000")]).await;
    life.produce("t", &["old"]).await;
    world.pass_ms(50_000);
    life.produce("t", &["new"]).await;
    world.pass_ms(20_000);
    let partition = life.partition("t", 0);
    while partition.view().reader().start() < Offset(1) {
        life.node.sleep(Duration::from_millis(5)).await;
    }
    life.node.sleep(Duration::from_millis(60)).await;
    assert_eq!(life.values("t").await, ["new"]);
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_writes_and_takes_them_again() {
    let mut world = World::new();
    world.settings.min_free_bytes = 1 << 20;
    world.platter.set_capacity(Some(64 << 20));
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    assert!(life.produce("t", &["a"]).await.error_code.is_none());
    world.platter.set_capacity(Some(1 << 20));
    while !life.directory.space().is_refusing() {
        life.node.sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(life.produce("t", &["b"]).await.error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(life.values("t").await, ["a"], "reads go on");
    world.platter.set_capacity(None);
    while life.directory.space().is_refusing() {
        life.node.sleep(Duration::from_millis(20)).await;
    }
    assert!(life.produce("t", &["c"]).await.error_code.is_none());
    assert!(!life.directory.health().is_offline());
    assert_eq!(life.values("t").await, ["a", "c"]);
}

#[tokio::test]
async fn a_partition_that_found_no_room_is_served_once_there_is_some() {
    let mut hits = 0;
    // How much of a creation fits before the disk is full: nothing, its directory, its identity, half a segment.
    for spare in (200..2400).step_by(50) {
        let world = World::new();
        let life = world.start().await;
        let used: u64 = world.platter.lengths().iter().map(|(_, length)| length).sum();
        world.platter.set_capacity(Some(used + spare));
        if !life.try_create("t", 1).await {
            continue; // not even the metadata had room
        }
        let is_open =
            || life.directory.table().named("t").is_some_and(|topic| topic.partitions().count() == 1);
        hits += u32::from(!is_open());
        world.platter.set_capacity(None);
        while !is_open() {
            life.node.sleep(Duration::from_millis(20)).await;
        }
        assert!(life.produce("t", &["a"]).await.error_code.is_none());
        life.cut_power(CrashMode::Lose).await;
        let life = world.start().await;
        assert_eq!(life.values("t").await, ["a"]);
        life.stop().await.expect("clean: nothing is left that did not open");
    }
    assert!(hits >= 2, "no creation failed half-way: {hits}");
}

#[tokio::test]
async fn a_topic_deleted_before_it_found_room_leaves_no_file() {
    for spare in (200..2400).step_by(50) {
        let world = World::new();
        let life = world.start().await;
        let used: u64 = world.platter.lengths().iter().map(|(_, length)| length).sum();
        world.platter.set_capacity(Some(used + spare));
        if !life.try_create("t", 1).await {
            continue;
        }
        let entry = life.directory.table().named("t").cloned().expect("it is known");
        if entry.partitions().count() == 1 {
            continue;
        }
        world.platter.set_capacity(Some(used + spare + 1000));
        delete(&life, "t").await;
        assert!(!has_files_of(&world, entry.id));
        return;
    }
    panic!("no creation failed half-way");
}

#[tokio::test]
async fn partitions_of_lost_metadata_are_not_deleted() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    let id = life.topic_id("t");
    life.kill().await;
    let disk = world.platter.mount();
    let expect = dejaq_storage::Expect {
        cluster_id: "c".into(),
        node_id: BrokerId(1),
        new_cluster_id: "c".into(),
        new_directory_id: [1; 16],
    };
    let data_dir = dejaq_storage::DataDir::open(disk, expect).await.expect("the directory is ours");
    let refused = remove_strays(&data_dir, &Image::default(), BrokerId(1)).await;
    assert!(matches!(refused, Err(NotStarted::MetadataLost(1))), "{refused:?}");
    assert!(has_files_of(&world, id));
}

#[tokio::test]
async fn a_disk_without_one_free_byte_is_freed_by_moving_a_start() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[("internal.segment.bytes", "300")]).await;
    for value in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        life.produce("t", &[value; 4]).await;
    }
    let used: u64 = world.platter.lengths().iter().map(|(_, length)| length).sum();
    world.platter.set_capacity(Some(used));
    assert_eq!(life.produce("t", &["no"; 40]).await.error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    while !life.directory.health().lacks_room() {
        life.node.sleep(Duration::from_millis(20)).await;
    }
    assert!(life.directory.health().counts.refused_for_room.get() > 0);
    assert_eq!(move_start(&life.partition("t", 0), Some(Offset(20))).await, Ok(Offset(20)));
    world.platter.set_capacity(Some(used + (1 << 20)));
    while life.directory.space().is_refusing() {
        life.node.sleep(Duration::from_millis(20)).await;
    }
    assert!(life.produce("t", &["yes"]).await.error_code.is_none());
    assert!(!life.directory.health().is_offline());
    life.stop().await.expect("clean");
}

#[tokio::test]
async fn a_fetch_that_waits_is_answered_when_a_stop_begins() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    let request = life.request(11, &crate::api::test_kit::fetch_request("t", 0, 15_000));
    let started = life.turn(vec![request]).await.remove(0);
    let begun = life.node.now();
    let answered = tokio::join!(life.finish(started), async {
        life.node.sleep(Duration::from_millis(30)).await;
        life.directory.end_waits();
    });
    drop(answered);
    assert!(life.node.now().since(begun) < Duration::from_secs(5), "it waited for its deadline");
    let request = life.request(11, &crate::api::test_kit::fetch_request("t", 0, 15_000));
    life.reply(request).await;
    assert!(life.node.now().since(begun) < Duration::from_secs(5), "the next one does not wait either");
}

/// What the clean stop said of a partition holds until that partition is open, though others serve meanwhile.
#[tokio::test]
async fn a_partition_that_did_not_open_is_still_one_that_was_closed_cleanly() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 2, &[]).await;
    life.produce("t", &["a"]).await;
    let part = DataDir::<ModelDisk>::partition_path(life.topic_id("t"), PartitionId(0));
    let (log, sum) = (part.join("00000000000000000000.log"), part.join("00000000000000000000.sum"));
    life.stop().await.expect("clean");
    for _ in 0..100 {
        let path_contains = sum.display().to_string();
        world.platter.plan(Plan { fault: Fault::ReadError, path_contains, after: 0 }); // it is tried again
    }
    let life = world.start().await;
    assert!(life.directory.table().named("t").expect("here").partition(PartitionId(0)).is_err());
    assert!(life.produce_to("t", 1, &["b"]).await.error_code.is_none(), "the other one serves");
    let bytes = |path: &std::path::Path| {
        let files = world.platter.durable_files();
        files.into_iter().find(|(known, _)| known == path).map(|(_, bytes)| bytes).expect("it is there")
    };
    let before = bytes(&log);
    life.cut_power(CrashMode::Lose).await;
    world.platter.heal();
    for record in 0..bytes(&sum).len() as u64 / 32 {
        assert!(world.platter.rot(&sum, record * 32 + 3, 1));
    }
    let life = world.start().await;
    let partition = life.partition("t", 0);
    assert!(!partition.damaged().is_empty(), "what cannot be believed is reported");
    assert_eq!(partition.view().reader().end(), Offset(1));
    assert_eq!(bytes(&log), before, "and not a byte of it is cut");
    assert_eq!(life.partition("t", 1).view().reader().end(), Offset(1));
}

#[tokio::test]
async fn a_partition_that_met_a_passing_error_is_served_without_another_start() {
    let world = World::new();
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    life.produce("t", &["a"]).await;
    let part = DataDir::<ModelDisk>::partition_path(life.topic_id("t"), PartitionId(0));
    life.stop().await.expect("clean");
    for _ in 0..2 {
        let path_contains = part.display().to_string();
        world.platter.plan(Plan { fault: Fault::ReadError, path_contains, after: 0 });
    }
    let life = world.start().await;
    let is_open = || life.directory.table().named("t").expect("here").partition(PartitionId(0)).is_ok();
    assert!(!is_open());
    assert_eq!(life.directory.replication().unopened, 1);
    let deadline = life.node.now().plus(Duration::from_secs(20));
    while !is_open() {
        assert!(life.node.now() < deadline, "it is never tried again");
        life.node.sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(life.values("t").await, ["a"]);
    assert!(life.produce("t", &["b"]).await.error_code.is_none());
    life.stop().await.expect("clean: nothing is left that did not open");
}

/// Each try may take as long as a bad disk likes.
#[tokio::test]
async fn many_partitions_that_are_tried_again_let_the_metadata_in_between() {
    const COUNT: usize = 40;
    let world = World::new();
    let life = world.start().await;
    life.create("t", COUNT as i32, &[]).await;
    let id = life.topic_id("t");
    life.stop().await.expect("clean");
    for index in 0..COUNT {
        let path = DataDir::<ModelDisk>::partition_path(id, PartitionId(index as i32));
        let path_contains = format!("{}/", path.display());
        for _ in 0..2 {
            let path_contains = path_contains.clone();
            world.platter.plan(Plan { fault: Fault::ReadError, path_contains, after: 0 });
        }
    }
    let life = world.start().await;
    let directory = life.directory.clone();
    let count = move || directory.table().named("t").map_or(0, |topic| topic.partitions().count());
    assert_eq!(count(), 0);
    world.platter.heal();
    let (directory, seen) = (life.directory.clone(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let (saw, is_open) = (seen.clone(), count.clone());
    life.node.spawn("applies", async move {
        while is_open() < COUNT {
            let applied = directory.applied.lock().await;
            saw.lock().unwrap().push(is_open());
            drop(applied);
            tokio::task::yield_now().await;
        }
    });
    let deadline = life.node.now().plus(Duration::from_secs(20));
    while count() < COUNT {
        assert!(life.node.now() < deadline, "{} are open", count());
        life.node.sleep(Duration::from_millis(20)).await;
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(seen.iter().any(|open| (1..COUNT).contains(open)), "all were tried under one hold");
    life.stop().await.expect("clean: nothing is left that did not open");
}

#[tokio::test]
async fn a_sync_that_fails_while_a_partition_is_made_takes_the_directory_offline() {
    let world = World::new();
    let life = world.start().await;
    let path_contains = "partitions".to_owned();
    world.platter.plan(Plan { fault: Fault::DirSyncError, path_contains, after: 0 });
    life.try_create("t", 1).await;
    assert!(life.directory.health().is_offline());
}
