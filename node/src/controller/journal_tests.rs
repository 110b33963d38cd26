//! The quorum's files over failed directory syncs, restarts and power cuts.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use dejaq_storage::model_disk::random::stream;
use dejaq_storage::model_disk::{CrashMode, Fault, ModelDisk, Plan, Platter, Setup};
use dejaq_storage::{DataDir, Disk as _, Expect};
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::raft::{Batch, Content, DirectoryId, Position, ReplicaKey, SnapshotId};

use super::journal::{Found, Journal, JournalError, WriteError};
use super::raft::{HardState, Snapshot, Write};
use crate::metadata::{Image, snapshot};

/// What a node of this device finds at its start.
async fn start(platter: &Platter) -> (Journal<ModelDisk>, Found) {
    try_start(platter).await.expect("what is there is whole")
}

async fn try_start(platter: &Platter) -> Result<(Journal<ModelDisk>, Found), JournalError> {
    let expect = Expect {
        cluster_id: "c".into(),
        node_id: BrokerId(1),
        new_cluster_id: "c".into(),
        new_directory_id: [4; 16],
    };
    let data = DataDir::open(platter.mount(), expect).await.expect("the directory is ours");
    data.note_boot().expect("healthy");
    Journal::open(platter.mount(), &data, 0).await
}

fn vote(epoch: i32, node: i32) -> HardState {
    let voted = ReplicaKey { id: BrokerId(node), directory: DirectoryId([9; 16]) };
    HardState { epoch: LeaderEpoch(epoch), voted: Some(voted) }
}

fn entry(base: i64, epoch: i32) -> Batch {
    Batch {
        base: Offset(base),
        end: Offset(base + 1),
        epoch: LeaderEpoch(epoch),
        content: Content::LeaderChange,
    }
}

pub(super) fn snapshot_at(end: i64, epoch: i32) -> Arc<Snapshot> {
    let bytes = snapshot::encode(&Image::default().after(&[], Offset(end)).expect("nothing changes"));
    let position = Position { epoch: LeaderEpoch(epoch), end: Offset(end) };
    Arc::new(Snapshot { id: SnapshotId { position, bytes: bytes.len() as u64, voters: Vec::new() }, bytes })
}

fn platter(seed: u64) -> Platter {
    Platter::new(Setup { seed, ..Setup::default() })
}

fn directory_sync(path: &str, after: u64) -> Plan {
    Plan { fault: Fault::DirSyncError, path_contains: path.to_owned(), after }
}

#[tokio::test]
async fn a_vote_that_a_start_found_is_not_taken_back_by_the_power() {
    for seed in 0..40 {
        let platter = platter(seed);
        let (mut journal, _) = start(&platter).await;
        journal.carry_out(&Write::HardState(vote(1, 1)), 0).await.expect("healthy");
        platter.plan(directory_sync("quorum", 0));
        let failed = journal.carry_out(&Write::HardState(vote(2, 2)), 0).await;
        assert!(matches!(failed, Err(WriteError::Sealed(_))), "{failed:?}");
        drop(journal);
        platter.kill();

        // From here on it answers that it voted as it found, without a write.
        let found = start(&platter).await.1.hard.expect("there was a vote");
        platter.crash(&mut stream(seed, "power", 0), CrashMode::Lose);
        assert_eq!(start(&platter).await.1.hard, Some(found), "seed {seed}: it would vote twice in an epoch");
        assert_eq!(platter.faults().sync_errors, 1, "seed {seed}");
    }
}

#[tokio::test]
async fn an_install_that_is_over_does_not_come_back_for_what_was_written_since() {
    let mut finished = 0;
    for seed in 0..120 {
        let platter = platter(seed);
        let (mut journal, _) = start(&platter).await;
        journal.carry_out(&Write::HardState(vote(3, 2)), 0).await.expect("healthy");
        journal.carry_out(&Write::Append(vec![entry(0, 1)]), 0).await.expect("healthy");
        journal.sync().await.expect("healthy");
        platter.plan(directory_sync("quorum", seed % 3));
        let installed = journal.carry_out(&Write::Install(snapshot_at(9, 2)), 0).await;
        assert!(installed.is_err(), "seed {seed}: a name of it was not durable");
        drop(journal);
        platter.kill();

        let (mut journal, found) = start(&platter).await;
        let end = found.batches.last().map(|batch| batch.end);
        let end =
            end.or(found.snapshot.map(|snapshot| snapshot.id.position.end)).expect("something is there");
        finished += u32::from(end == Offset(9));
        journal.carry_out(&Write::Append(vec![entry(end.0, 3)]), 0).await.expect("healthy again");
        journal.sync().await.expect("healthy again");
        drop(journal);
        platter.crash(&mut stream(seed, "power", 0), CrashMode::Lose);

        let found = start(&platter).await.1;
        assert_eq!(found.batches.last(), Some(&entry(end.0, 3)), "seed {seed}: it was acknowledged");
    }
    assert!(finished >= 40, "{finished} starts finished the install");
}

#[tokio::test]
async fn an_install_is_finished_after_a_power_cut_at_any_moment() {
    for seed in 0..60 {
        let platter = platter(seed);
        let (mut journal, _) = start(&platter).await;
        journal.carry_out(&Write::HardState(vote(3, 2)), 0).await.expect("healthy");
        journal.carry_out(&Write::Append(vec![entry(0, 1)]), 0).await.expect("healthy");
        journal.sync().await.expect("healthy");
        // The sync that fails is where the power is lost.
        platter.plan(directory_sync("", seed % 6));
        let _ = journal.carry_out(&Write::Install(snapshot_at(9, 2)), 0).await;
        drop(journal);
        let mode = CrashMode::draw(&mut stream(seed, "mode", 0));
        platter.crash(&mut stream(seed, "power", 0), mode);
        let found = start(&platter).await.1;
        match found.snapshot {
            Some(snapshot) => assert_eq!(snapshot.id.position.end, Offset(9)),
            None => assert_eq!(found.batches, vec![entry(0, 1)], "seed {seed}: it is as before"),
        }
    }
}

/// Behind a snapshot the log may hold nothing that tells of a quorum.
#[tokio::test]
async fn a_vote_that_is_missing_beside_a_snapshot_is_not_taken_for_none() {
    let platter = platter(0);
    let (mut journal, _) = start(&platter).await;
    journal.carry_out(&Write::HardState(vote(3, 2)), 0).await.expect("healthy");
    journal.carry_out(&Write::Install(snapshot_at(9, 2)), 0).await.expect("healthy");
    drop(journal);
    platter.mount().remove(Path::new("quorum/vote")).await.expect("it is there");
    let refused = try_start(&platter).await.map(|_| ());
    assert!(matches!(refused, Err(JournalError::VoteLost { .. })), "{refused:?}");
}

/// The bytes of what the quorum keeps beside its log; a change of one is a new version.
#[tokio::test]
async fn the_files_of_the_quorum_are_as_they_were() {
    let platter = platter(0);
    let (mut journal, _) = start(&platter).await;
    journal.carry_out(&Write::HardState(vote(5, 2)), 0).await.expect("healthy");
    journal.carry_out(&Write::Install(snapshot_at(7, 4)), 0).await.expect("healthy");
    drop(journal);
    let mut story = String::new();
    for (path, bytes) in platter.files().into_iter().filter(|(path, _)| path.starts_with("quorum")) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(story, "{} {hex}", path.display()).expect("a string takes all");
    }
    insta::assert_snapshot!(story);
}
