//! Verify and dump over a real directory: what is whole, what is damaged, and that nothing is changed by looking.

use std::collections::BTreeMap;

use clap::Parser;
use dejaq_storage::{DataDir, Expect, LastStop, VerifiedBatch};
use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionId, TopicId};
use dejaq_wire::record::{BatchBuilder, Compression, NewRecord};

use super::*;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

fn look(dir: &Path) -> Look {
    let line = Line::try_parse_from(["log", "verify", &dir.to_string_lossy()]).expect("it parses");
    match line.verb {
        Verb::Verify(look) => look,
        Verb::Dump(_) => unreachable!("verify was asked for"),
    }
}

/// A data directory with one partition of `batches` batches; returns the path of its log file.
async fn filled(dir: &Path, batches: usize) -> PathBuf {
    let disk = FileDisk::open(dir).expect("a disk");
    let expect = Expect {
        cluster_id: String::new(),
        node_id: BrokerId(1),
        new_cluster_id: "c".into(),
        new_directory_id: [7; 16],
    };
    let data = DataDir::open(disk.clone(), expect).await.expect("a new directory");
    let identity =
        LogIdentity { topic: "orders".into(), topic_id: TopicId([9; 16]), partition: PartitionId(0) };
    let path = DataDir::<FileDisk>::partition_path(identity.topic_id, identity.partition);
    let options = OpenOptions {
        last_stop: LastStop::KILLED,
        now_ms: 0,
        space: SpaceGuard::new(0, 0),
        verify_all: false,
    };
    let (mut log, _) =
        Log::create(disk, path.clone(), identity, LogConfig::default(), options).await.expect("created");
    for n in 0..batches {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.append(&NewRecord { value: Some(format!("value {n}").as_bytes()), ..NewRecord::default() });
        let batch = VerifiedBatch::verify(builder.build().expect("built").to_bytes()).expect("good");
        for appended in log.append_leader(&[batch], LeaderEpoch(0), 0) {
            appended.expect("appended");
        }
    }
    log.close().await.expect("closed");
    data.mark_clean(BrokerEpoch::NONE, &[(TopicId([9; 16]), PartitionId(0))]).await.expect("marked");
    dir.join(path).join("00000000000000000000.log")
}

/// Every file below `dir` with its bytes.
fn image(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("listed") {
        let path = entry.expect("listed").path();
        match path.is_dir() {
            true => files.extend(image(&path)),
            false => drop(files.insert(path.clone(), std::fs::read(&path).expect("read"))),
        }
    }
    files
}

#[tokio::test]
async fn a_whole_directory_is_whole_and_looking_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path(), 20).await;
    let before = image(dir.path());
    assert!(verify(&look(dir.path())).await.expect("looked at"));
    assert_eq!(image(dir.path()), before);
}

#[tokio::test]
async fn one_flipped_bit_below_the_durable_point_is_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = filled(dir.path(), 20).await;
    let mut bytes = std::fs::read(&log).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).expect("written");
    let before = image(dir.path());
    assert!(!verify(&look(dir.path())).await.expect("looked at"));
    let dump = Dump { look: look(dir.path()), records: true, from_offset: None, to_offset: None };
    assert!(!super::dump(&dump).await.expect("looked at"));
    assert_eq!(image(dir.path()), before, "damage is shown, not repaired");
}

#[tokio::test]
async fn what_is_no_data_directory_is_refused_with_a_cure() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = verify(&look(dir.path())).await.expect_err("it is empty");
    assert!(refused.to_string().contains("no data directory"), "{refused}");
    let absent = dir.path().join("absent");
    assert!(verify(&look(&absent)).await.is_err());
    assert!(!absent.exists(), "looking makes nothing");
}

#[tokio::test]
async fn a_directory_in_use_is_refused_unless_asked_for_live() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path(), 3).await;
    let broker = FileDisk::open(dir.path()).expect("a disk");
    broker.lock(Path::new(LOCK)).expect("free");
    let refused = verify(&look(dir.path())).await.expect_err("it is in use");
    assert!(refused.to_string().contains("a broker uses"), "{refused}");
    assert!(verify(&Look { live: true, ..look(dir.path()) }).await.expect("looked at"));
}
