//! What a clean stop says of each partition, over starts that end early, crashes and rot.

use std::path::{Path, PathBuf};

use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionId, TopicId};

use super::kit::*;
use crate::layout::{CLEAN_MARKER, FileKind, UNOPENED, UNTRIED, clean_marker, named_clean};
use crate::model_disk::random::stream;
use crate::model_disk::{CrashMode, Fault, ModelDisk, Plan, Platter, Setup};
use crate::{DataDir, Disk, Expect, LastStop, Log, LogConfig, OpenOptions};

type Name = (TopicId, PartitionId);

const LIFE: BrokerEpoch = BrokerEpoch(0x0102_0304);
const METADATA: Name = (TopicId::METADATA, PartitionId(0));

fn start(platter: &Platter) -> DataDir<ModelDisk> {
    let expect = Expect {
        cluster_id: "c".into(),
        node_id: BrokerId(1),
        new_cluster_id: "c".into(),
        new_directory_id: [4; 16],
    };
    now(DataDir::open(platter.mount(), expect)).expect("the directory is ours")
}

fn names(count: i32) -> Vec<Name> {
    (0..count).map(|n| (TopicId([7; 16]), PartitionId(n))).collect()
}

/// A directory with the metadata and some partitions, closed cleanly.
fn closed(partitions: i32) -> Platter {
    closed_on(Setup::default(), partitions)
}

fn closed_on(setup: Setup, partitions: i32) -> Platter {
    let platter = Platter::new(setup);
    let data = start(&platter);
    let disk = platter.mount();
    for (topic, index) in names(partitions).into_iter().chain([METADATA]) {
        disk.create_dir_all(&DataDir::<ModelDisk>::partition_path(topic, index)).expect("healthy");
    }
    now(disk.sync_dir(Path::new("partitions"))).expect("healthy");
    data.note_boot().expect("healthy");
    now(data.mark_clean(LIFE, &names(partitions))).expect("healthy");
    platter
}

fn said(data: &DataDir<ModelDisk>, name: Name) -> LastStop {
    data.last_stop(name.0, name.1)
}

#[test]
fn a_clean_stop_is_believed_of_what_no_start_has_opened_however_many_ended_early() {
    let all = names(3);
    for (seed, mode) in [CrashMode::Lose, CrashMode::Subset, CrashMode::Garbage].into_iter().enumerate() {
        let platter = closed(3);
        let data = start(&platter);
        assert!(data.was_clean() && all.iter().all(|name| said(&data, *name) == LastStop::CLEAN));
        assert!(said(&data, METADATA).clean);
        drop(data); // no more than an address in use
        let data = start(&platter);
        let tried = LastStop { untried: false, ..LastStop::CLEAN };
        assert!(data.was_clean() && said(&data, METADATA) == tried);
        now(data.opened(&[METADATA])).expect("healthy");
        drop(data);
        platter.crash(&mut stream(seed as u64, "t", 0), mode);
        let data = start(&platter);
        assert!(data.was_clean(), "no partition was open: {mode:?}");
        assert!(!said(&data, METADATA).clean);
        assert!(all.iter().all(|name| said(&data, *name).clean && !said(&data, *name).same_boot));
        now(data.opened(&[METADATA, all[1]])).expect("healthy");
        assert!(!said(&data, all[1]).clean && said(&data, all[0]).clean);
        drop(data);
        platter.crash(&mut stream(seed as u64, "t", 1), mode);
        let data = start(&platter);
        assert!(!data.was_clean(), "a partition was open: {mode:?}");
        assert_eq!(all.iter().map(|name| said(&data, *name).clean).collect::<Vec<_>>(), [true, false, true]);
        now(data.opened(&all)).expect("healthy");
        drop(data);
        platter.crash(&mut stream(seed as u64, "t", 2), mode);
        let data = start(&platter);
        assert!(!data.was_clean() && all.iter().all(|name| !said(&data, *name).clean));
    }
}

/// At any instant a crash may come, and what it leaves of the list never names what was open.
#[test]
fn no_crash_brings_a_name_back_to_the_list() {
    let all = names(60);
    for seed in 0..200 {
        let platter = closed_on(Setup { seed, ..Setup::default() }, 60);
        let data = start(&platter);
        now(data.opened(&[METADATA])).expect("healthy");
        now(data.opened(&all[..30])).expect("healthy");
        if seed % 2 == 0 {
            // The call is made, its sync fails: nobody may write these, and the list may say either.
            platter.plan(Plan { fault: Fault::SyncError, path_contains: String::new(), after: 0 });
            assert!(now(data.opened(&all[30..40])).is_err());
            platter.heal();
        }
        drop(data);
        platter.crash(&mut stream(seed, "t", 0), CrashMode::Garbage);
        let data = start(&platter);
        assert!(all[..30].iter().chain([&METADATA]).all(|name| !said(&data, *name).clean), "seed {seed}");
    }
}

#[test]
fn a_full_disk_does_not_keep_a_name_on_the_list_nor_take_the_others_away() {
    let (platter, all) = (closed(5), names(5));
    let used: u64 = platter.lengths().iter().map(|(_, length)| length).sum();
    platter.set_capacity(Some(used));
    let data = start(&platter);
    now(data.opened(&[METADATA, all[3]])).expect("no room is needed");
    drop(data);
    platter.crash(&mut stream(1, "t", 0), CrashMode::Lose);
    let data = start(&platter);
    assert_eq!(all.iter().filter(|name| said(&data, **name).clean).count(), 4);
    assert!(!said(&data, all[3]).clean);
}

#[test]
fn what_is_removed_comes_back_as_something_new() {
    let (platter, all) = (closed(2), names(2));
    let data = start(&platter);
    now(data.remove_partition(all[0].0, all[0].1)).expect("healthy");
    drop(data);
    platter
        .mount()
        .create_dir_all(&DataDir::<ModelDisk>::partition_path(all[0].0, all[0].1))
        .expect("healthy");
    let data = start(&platter);
    assert!(!said(&data, all[0]).clean && said(&data, all[1]).clean);
}

#[test]
fn a_marker_that_cannot_be_read_says_nothing_and_never_will() {
    let (platter, all) = (closed(2), names(2));
    assert!(platter.rot(Path::new(CLEAN_MARKER), 2, 1));
    for _ in 0..2 {
        let data = start(&platter);
        assert!(!data.was_clean() && !all.iter().any(|name| said(&data, *name).clean));
        drop(data);
        platter.rot(Path::new(CLEAN_MARKER), 2, 1); // as if it came back
    }
}

/// The controller is told that nothing was lost: so no partition may have been written, a new one least of all.
#[test]
fn a_start_that_opened_a_new_partition_was_no_clean_stop() {
    let (platter, all) = (closed(1), names(1));
    let data = start(&platter);
    now(data.opened(&[METADATA])).expect("healthy");
    now(data.opened(&[(TopicId([9; 16]), PartitionId(0))])).expect("healthy");
    drop(data);
    platter.crash(&mut stream(1, "t", 0), CrashMode::Lose);
    let data = start(&platter);
    assert!(!data.was_clean() && said(&data, all[0]).clean, "the old one is as it was, the broker is not");
}

#[test]
fn a_clean_stop_tells_the_life_that_it_ended_until_something_is_opened() {
    let (platter, all) = (closed(2), names(2));
    let older = platter.fork();
    for _ in 0..2 {
        assert_eq!(start(&platter).closed_in(), LIFE, "however many starts ended early");
    }
    let data = start(&platter);
    now(data.opened(&all)).expect("healthy");
    assert_eq!(data.closed_in(), LIFE, "of the stop before this start");
    now(data.mark_clean(LIFE.next(), &all)).expect("healthy");
    assert_eq!(start(&platter).closed_in(), LIFE.next());
    assert_eq!(start(&older).closed_in(), LIFE, "an older copy");
    let data = start(&platter);
    now(data.opened(&all[..1])).expect("healthy");
    drop(data);
    assert_eq!(start(&platter).closed_in(), BrokerEpoch::NONE, "it was killed");
    let data = start(&older);
    now(data.begins()).expect("healthy");
    drop(data);
    older.crash(&mut stream(1, "t", 0), CrashMode::Lose);
    let data = start(&older);
    assert_eq!((data.was_clean(), data.closed_in()), (false, BrokerEpoch::NONE), "it was let in, and killed");
    assert!(all.iter().all(|name| said(&data, *name).clean), "its logs are as they were");
}

/// As a release wrote it, and reads it, that does not know the entry of the life.
#[test]
fn a_list_without_a_life_is_believed_and_one_with_it_is_still_a_list() {
    const GOLDEN: &str = "444a636c000100000005040404040404040404040404040404043fb6d17f\
        ffffffffffffffffffffffffffffffffffffffffcdd8eb35fffffffffffffffffffffffffffffffffffffffebadfdba3\
        ffffffffffffffff0000000001020304fffffffd150056c607070707070707070707070707070707000000004123538b\
        0000000000000000000000000000000100000000d39a2bb8";
    let (platter, all) = (closed(1), names(1));
    let logs: Vec<Name> = all.iter().copied().chain([METADATA]).collect();
    let bytes = clean_marker([4; 16], LIFE, &logs);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN);
    assert_eq!(named_clean(&bytes), (true, vec![METADATA, all[0]]), "the life is no log");
    let old = crate::unopened::encode(*b"DJcl", [4; 16], &[UNTRIED, UNOPENED, all[0], METADATA]);
    now(crate::small_file::replace(&platter.mount(), Path::new(CLEAN_MARKER), old)).expect("healthy");
    let data = start(&platter);
    assert!(data.was_clean() && said(&data, all[0]).clean && said(&data, METADATA).clean);
    assert_eq!(data.closed_in(), BrokerEpoch::NONE);
}

#[test]
fn the_run_of_the_machine_is_noted_of_what_is_open() {
    let (platter, all) = (closed(3), names(3));
    platter.crash(&mut stream(1, "t", 0), CrashMode::Lose);
    let data = start(&platter);
    assert!(all.iter().all(|name| !said(&data, *name).same_boot), "the machine is another");
    now(data.opened(&[METADATA, all[0]])).expect("healthy");
    data.note_boot().expect("healthy");
    drop(data);
    platter.kill();
    let data = start(&platter);
    let same =
        |data: &DataDir<ModelDisk>| all.iter().map(|name| said(data, *name).same_boot).collect::<Vec<_>>();
    assert_eq!(
        same(&data),
        [true, false, false],
        "nobody has looked at the others since the machine started"
    );
    now(data.opened(&all[..2])).expect("healthy");
    drop(data);
    platter.kill();
    let data = start(&platter);
    assert_eq!(same(&data), [true, true, false]);
    data.note_boot().expect("healthy");
    drop(data);
    platter.crash(&mut stream(2, "t", 0), CrashMode::Lose);
    assert_eq!(same(&start(&platter)), [false, false, false]);
}

/// The whole of it: a clean stop, a start that ends early, a reboot, and a young segment's side file is rotten.
#[test]
fn a_side_file_that_rots_behind_a_start_that_ended_early_makes_damage_and_no_torn_tail() {
    let platter = Platter::new(Setup::default());
    let data = start(&platter);
    let mut pair = Pair::on(platter.clone(), LogConfig { segment_bytes: 1 << 20, ..small() });
    pair.fill(5);
    now(pair.log.close()).expect("a clean close");
    let (topic, partition) = (identity().topic_id, identity().partition);
    now(data.mark_clean(LIFE, &[(topic, partition)])).expect("healthy");
    drop(start(&platter));
    platter.crash(&mut stream(1, "t", 0), CrashMode::Lose);
    let path = |kind: FileKind| -> PathBuf { dir().join(kind.name(Offset(0))) };
    for record in 0..16 {
        platter.rot(&path(FileKind::Sum), record * 32 + 3, 1);
    }
    let data = start(&platter);
    let options = OpenOptions { last_stop: data.last_stop(topic, partition), ..options() };
    let opened = now(Log::open(platter.mount(), dir(), identity(), small(), options));
    let (mut log, report) = opened.expect("it opens");
    assert_eq!((log.end(), &report.cut), (Offset(10), &None), "{report:?}");
    assert!(!report.damaged.is_empty());
    now(data.opened(&[(topic, partition)])).expect("healthy");
    // And the same again behind a crash before anything was appended: recovery wrote down what it knew.
    drop((log, data));
    platter.crash(&mut stream(2, "t", 0), CrashMode::Lose);
    let data = start(&platter);
    assert!(!data.last_stop(topic, partition).clean);
    let last_stop = data.last_stop(topic, partition);
    let opened = now(Log::open(
        platter.mount(),
        dir(),
        identity(),
        small(),
        OpenOptions { last_stop, ..super::kit::options() },
    ));
    (log, _) = opened.expect("it opens");
    assert_eq!(log.end(), Offset(10));
    let appended = log.append_leader(&[Spec::plain(1, 9).build(9)], LeaderEpoch(2), NOW_MS);
    assert_eq!(appended[0].expect("room").base, Offset(10));
}

/// Syncs fail, processes die of it, others come on the same kernel, and at last the power is cut: no partition that was
/// written since is on the list, whatever the failed syncs left in the cache and on the platter.
#[test]
fn no_failed_sync_brings_a_name_back_either() {
    for seed in 0..600_u64 {
        let (platter, all) = (closed_on(Setup { seed, ..Setup::default() }, 2), names(2));
        let mut open = std::collections::BTreeSet::new();
        for round in 0..4 {
            let kinds = [Fault::SyncError, Fault::DirSyncError];
            let fault = kinds[((seed >> round) & 1) as usize];
            platter.plan(Plan { fault, path_contains: String::new(), after: (seed / 16 + round) % 3 });
            let expect = Expect {
                cluster_id: "c".into(),
                node_id: BrokerId(1),
                new_cluster_id: "c".into(),
                new_directory_id: [4; 16],
            };
            if let Ok(data) = now(DataDir::open(platter.mount(), expect)) {
                for name in [METADATA, all[0], all[1]] {
                    assert!(!said(&data, name).clean || !open.contains(&name), "seed {seed}");
                    if now(data.opened(&[name])).is_err() {
                        break; // it dies of that
                    }
                    open.insert(name);
                }
            }
            platter.heal();
            platter.kill();
        }
        let mode = [CrashMode::Lose, CrashMode::Subset, CrashMode::Keep][(seed % 3) as usize];
        platter.crash(&mut stream(seed, "t", 0), mode);
        let data = start(&platter);
        assert!(open.iter().all(|name| !said(&data, *name).clean), "seed {seed}");
        assert!(open.iter().all(|name| *name == METADATA) || !data.was_clean(), "seed {seed}");
    }
}

/// Who reads that a start failed must know over which file, and what to do.
#[test]
fn a_marker_that_cannot_be_read_stops_a_start_and_names_itself_and_the_cure() {
    let platter = closed(1);
    platter.plan(Plan { fault: Fault::ReadError, path_contains: CLEAN_MARKER.into(), after: 0 });
    let expect = || Expect {
        cluster_id: "c".into(),
        node_id: BrokerId(1),
        new_cluster_id: "c".into(),
        new_directory_id: [4; 16],
    };
    let error = now(DataDir::open(platter.mount(), expect())).err().expect("it cannot be read").to_string();
    assert!(error.contains(CLEAN_MARKER) && error.contains("remove this file"), "{error}");
    // The cure works: all is scanned then.
    now(platter.mount().remove(Path::new(CLEAN_MARKER))).expect("healthy");
    assert!(!said(&start(&platter), names(1)[0]).clean);
}

/// Taken for nothing it would cut what a killed process left in the page cache.
#[test]
fn a_note_of_the_boot_that_the_disk_does_not_hand_out_stops_a_start() {
    let (platter, all) = (closed(2), names(2));
    let data = start(&platter);
    now(data.opened(&[METADATA, all[0]])).expect("healthy");
    drop(data);
    platter.kill();
    platter.plan(Plan { fault: Fault::ReadError, path_contains: "boot".into(), after: 0 });
    let expect = Expect {
        cluster_id: "c".into(),
        node_id: BrokerId(1),
        new_cluster_id: "c".into(),
        new_directory_id: [4; 16],
    };
    let error = now(DataDir::open(platter.mount(), expect)).err().expect("it cannot be read").to_string();
    assert!(error.contains("boot") && error.contains("remove this file"), "{error}");
    platter.kill();
    assert!(said(&start(&platter), all[0]).same_boot, "nothing was lost by it");
}

#[test]
fn a_note_of_the_boot_that_found_no_room_is_made_later() {
    let (platter, all) = (closed(1), names(1));
    platter.crash(&mut stream(1, "t", 0), CrashMode::Lose);
    let data = start(&platter);
    now(data.opened(&[METADATA, all[0]])).expect("healthy");
    platter.set_capacity(Some(0));
    let error = data.note_boot().expect_err("there is no room");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    platter.set_capacity(None);
    data.note_boot().expect("there is room again");
    drop(data);
    platter.kill();
    assert!(said(&start(&platter), all[0]).same_boot);
}
