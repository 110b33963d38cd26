//! Verify and dump over a real directory: what is whole, what is damaged, and that nothing is changed by looking.

use std::collections::BTreeMap;

use clap::Parser;
use dejaq_storage::{DataDir, Expect, LastStop, VerifiedBatch};
use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionId, TopicId};
use dejaq_wire::record::{BatchBuilder, Compression, NewRecord};

use super::*;
use crate::broker::Broker;
use crate::config::Config;

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
        |topic: &str, topic_id| LogIdentity { topic: topic.into(), topic_id, partition: PartitionId(0) };
    let path = |topic_id| DataDir::<FileDisk>::partition_path(topic_id, PartitionId(0));
    let options = OpenOptions {
        last_stop: LastStop::KILLED,
        now_ms: 0,
        space: SpaceGuard::new(0, 0),
        verify_all: false,
    };
    let metadata = identity("__cluster_metadata", TopicId::METADATA);
    let made = Log::create(
        disk.clone(),
        path(TopicId::METADATA),
        metadata,
        LogConfig::default(),
        OpenOptions { space: SpaceGuard::new(0, 0), ..options },
    );
    made.await.expect("created").0.close().await.expect("closed");
    let (orders, path) = (identity("orders", TopicId([9; 16])), path(TopicId([9; 16])));
    let (mut log, _) =
        Log::create(disk, path.clone(), orders, LogConfig::default(), options).await.expect("created");
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

/// What verify says of the directory, and what of that is about no partition.
async fn judged(dir: &Path) -> (bool, String) {
    let disk = FileDisk::open(dir).expect("a disk");
    let found = files::look(&Overlay::new(disk), 0).await.expect("looked at");
    (verify(&look(dir)).await.expect("looked at"), found.join("\n"))
}

/// The files that a broker leaves which was a cluster of its own for a moment.
async fn served(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let disk = FileDisk::open(dir).expect("a directory");
    let config = Config { listen: "127.0.0.1:0".to_owned(), min_free_bytes: 0, ..Config::default() };
    let runtime = TokioRuntime::new(disk, SocketOptions::default());
    let broker = Broker::start(runtime, config).await.expect("started");
    broker.shutdown().await.expect("a clean stop");
    image(dir)
}

#[tokio::test]
async fn one_flipped_bit_of_any_small_file_is_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    let before = served(dir.path()).await;
    assert_eq!(judged(dir.path()).await, (true, String::new()));
    let mut flipped = Vec::new();
    for (path, bytes) in &before {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let of_all = ["meta.properties", "vote", "closed", "boot"].contains(&name);
        if !of_all && !["start", "epochs", "partition"].contains(&name) && !name.ends_with(".producers") {
            continue;
        }
        let mut changed = bytes.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        std::fs::write(path, changed).expect("written");
        let (whole, found) = judged(dir.path()).await;
        assert!(!whole, "{}", path.display());
        assert_eq!(found.contains(name), of_all, "{name}: {found}");
        std::fs::write(path, bytes).expect("written");
        flipped.push(name);
    }
    for name in ["meta.properties", "vote", "closed", "boot", "partition"] {
        assert!(flipped.contains(&name), "{flipped:?}");
    }
    assert!(flipped.iter().any(|name| name.ends_with(".producers")), "{flipped:?}");
    assert_eq!(judged(dir.path()).await, (true, String::new()));
    assert_eq!(image(dir.path()), before, "nothing is changed by looking");
}

#[tokio::test]
async fn a_vote_that_is_missing_beside_the_log_of_a_quorum_is_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    served(dir.path()).await;
    std::fs::remove_file(dir.path().join("quorum/vote")).expect("removed");
    let (whole, found) = judged(dir.path()).await;
    assert!(!whole && found.contains("vote is missing"), "{found}");
}

#[tokio::test]
async fn a_partition_that_was_closed_and_is_gone_is_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = filled(dir.path(), 3).await;
    assert_eq!(judged(dir.path()).await, (true, String::new()));
    let folder = log.parent().expect("a folder");
    std::fs::remove_dir_all(folder).expect("removed");
    let (whole, found) = judged(dir.path()).await;
    assert!(!whole && found.contains("it is gone") && found.contains("0909-0"), "{found}");
}

#[tokio::test]
async fn a_list_that_was_emptied_for_want_of_room_is_no_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path(), 3).await;
    std::fs::write(dir.path().join("closed"), b"").expect("written");
    assert_eq!(judged(dir.path()).await, (true, String::new()));
}
