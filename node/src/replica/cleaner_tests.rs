//! The log cleaner in a running broker, on a disk in memory.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::model_disk::CrashMode;
use dejaq_wire::ErrorCode;
use dejaq_wire::record::{BatchBuilder, Batches, Compression, NewRecord};

use crate::api::test_kit::{Life, World};
use crate::runtime::Runtime;

const NOW_MS: i64 = 1_800_000_000_000;
const KEYS: i64 = 5;

fn keyed(key: i64, value: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    let (key, value) = (format!("key-{key}"), format!("{value:040}"));
    builder.append(&NewRecord {
        timestamp_ms: NOW_MS,
        key: Some(key.as_bytes()),
        value: Some(value.as_bytes()),
        headers: &[],
    });
    builder.build().expect("small").to_bytes()
}

/// What a fresh reader finds: how many records, and the last value of every key.
async fn read(life: &Life) -> (usize, BTreeMap<Bytes, i64>) {
    let (mut offset, mut count, mut last) = (0, 0, BTreeMap::new());
    loop {
        let part = life.fetch("t", offset).await;
        assert_eq!(part.error_code, ErrorCode::NONE);
        let records = part.records.unwrap_or_default().into_bytes();
        if records.is_empty() {
            return (count, last);
        }
        for batch in Batches::new(records) {
            let batch = batch.expect("whole");
            assert!(batch.header.base_offset.0 >= offset, "offsets ascend");
            offset = batch.header.next_offset().0;
            for record in batch.records(1 << 20).expect("plain") {
                let record = record.expect("whole");
                let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
                last.insert(record.key.expect("a key"), value.parse().expect("a number"));
                count += 1;
            }
        }
    }
}

async fn compacted(world: &World, more: &[(&str, &str)]) -> Life {
    let life = world.start().await;
    let configs = [
        ("cleanup.policy", "compact"),
        ("internal.segment.bytes", "600"),
        ("min.cleanable.dirty.ratio", "0.2"),
    ];
    life.create("t", 1, &[&configs[..], more].concat()).await;
    life
}

async fn produce(life: &Life, values: std::ops::Range<i64>) {
    for value in values {
        let answer = life.produce_with(-1, "t", keyed(value % KEYS, value)).await;
        assert_eq!(answer.error_code, ErrorCode::NONE);
    }
}

fn expected(count: i64) -> BTreeMap<Bytes, i64> {
    (count - KEYS..count).map(|value| (Bytes::from(format!("key-{}", value % KEYS)), value)).collect()
}

#[tokio::test]
async fn a_compacted_topic_keeps_the_last_value_of_every_key_over_a_power_cut() {
    let mut world = World::new();
    world.settings.retention_every = Duration::from_millis(10);
    let life = compacted(&world, &[]).await;
    produce(&life, 0..100).await;
    while read(&life).await.0 > 30 {
        life.node.sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(read(&life).await.1, expected(100));
    assert!(life.directory.cleaned().written_bytes.load(Ordering::Relaxed) > 0);
    produce(&life, 100..140).await;
    life.cut_power(CrashMode::Lose).await;
    let life = world.start().await;
    assert_eq!(read(&life).await.1, expected(140));
    life.stop().await.expect("a clean stop, though the cleaner runs");
    let leftover = |path: &std::path::Path| path.to_string_lossy().contains(".cleaned");
    assert!(!world.platter.files().iter().any(|(path, _)| leftover(path)), "nothing half done is left");
    let life = world.start().await;
    assert_eq!(read(&life).await.1, expected(140));
}

#[tokio::test]
async fn what_is_too_young_is_left_alone_and_what_waits_too_long_is_not() {
    let mut world = World::new();
    world.settings.retention_every = Duration::from_millis(10);
    world.settings.clock_patience = Duration::from_millis(40);
    let life = compacted(&world, &[("min.compaction.lag.ms", "3600000")]).await;
    produce(&life, 0..60).await;
    life.node.sleep(Duration::from_millis(60)).await;
    assert_eq!(read(&life).await.0, 60);
    world.pass_ms(2 * 3_600_000);
    while read(&life).await.0 > 30 {
        life.node.sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(read(&life).await.1, expected(60));
}

#[tokio::test]
async fn a_compacted_topic_refuses_records_without_a_key() {
    let world = World::new();
    let life = compacted(&world, &[]).await;
    let answer = life.produce("t", &["a"]).await;
    assert_eq!(answer.error_code, ErrorCode::INVALID_RECORD);
    assert_eq!(answer.record_errors.len(), 1);
}
