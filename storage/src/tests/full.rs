//! A full disk at every operation, failed writes, failed syncs.

use crate::model_disk::random::stream;
use std::path::Path;

use crate::layout::PARTITIONS;
use crate::model_disk::{CrashMode, Fault, Plan, Platter, Setup};
use crate::{AppendError, Disk, FlushError, LogConfig, SealReason, Sealed, SpaceGuard};
use dejaq_wire::ids::{LeaderEpoch, Offset};

use super::kit::*;

fn plan(fault: Fault, path: &str, after: u64) -> Plan {
    Plan { fault, path_contains: path.to_owned(), after }
}

#[test]
fn a_full_disk_refuses_and_leaves_the_log_as_it_was_and_room_heals() {
    for spare in (0..3000).step_by(37) {
        let mut pair = Pair::new(small());
        pair.fill(3);
        pair.flush();
        let used: u64 = pair.platter.lengths().iter().map(|(_, len)| len).sum();
        pair.platter.set_capacity(Some(used + spare));
        let mut refused = 0;
        for at in 0..30 {
            match pair.append(Spec::plain(2, 60)) {
                Ok(_) => {}
                Err(AppendError::DiskFull) => refused += 1,
                Err(error) => panic!("{spare} bytes: {error}"),
            }
            if at % 3 == 0 {
                match now(pair.log.flush()) {
                    Ok(flushed) => pair.durable = flushed,
                    Err(FlushError::Full) => {}
                    Err(error) => panic!("{spare} bytes: {error}"),
                }
            }
            pair.check();
        }
        assert!(refused > 0, "{spare} bytes were never too few");
        // A crash on the full disk, and a start with no more room than that.
        let fork = pair.platter.fork();
        fork.crash(&mut stream(spare, "full", 0), CrashMode::Subset);
        fork.set_capacity(None);
        let (log, report) = try_open(&fork, small()).expect("recovery");
        assert!(log.end() >= pair.durable && report.damaged.is_empty(), "{report:?}");

        pair.platter.set_capacity(None);
        pair.fill(10);
        pair.flush();
        pair.check();
    }
}

#[test]
fn the_low_water_mark_refuses_before_the_disk_is_full() {
    let mut pair = Pair::new(small());
    let guard = SpaceGuard::new(100, 200);
    let mut options = options();
    options.space = guard.clone();
    pair.platter.kill();
    let opened = now(crate::Log::open(pair.platter.mount(), dir(), identity(), small(), options));
    pair.log = opened.expect("a log").0;
    guard.update(99);
    assert_eq!(pair.append(Spec::plain(1, 1)), Err(AppendError::DiskFull));
    guard.update(200);
    pair.fill(1);
    pair.check();
}

#[test]
fn a_failed_append_is_taken_back_and_seals_the_log() {
    let mut pair = Pair::new(small());
    pair.fill(3);
    pair.flush();
    pair.platter.plan(plan(Fault::WriteError, ".log", 0));
    assert!(matches!(pair.append(Spec::of(5, 0, 1)), Err(AppendError::Io(_))));
    pair.check();
    assert!(pair.log.describe_producers().is_empty(), "producers change only with a write");
    assert_eq!(pair.log.sealed(), Some(SealReason::WriteFailed));
    assert_eq!(pair.append(Spec::plain(1, 1)), Err(AppendError::Sealed));
    pair.platter.kill();
    let (mut pair, _) = pair.reopen(small());
    pair.fill(1);
    pair.check();
}

#[test]
fn a_failed_sync_seals_for_ever_and_acks_nothing() {
    for (fault, path) in [(Fault::SyncError, ".log"), (Fault::SyncError, ".sum"), (Fault::DirSyncError, "")] {
        let mut pair = Pair::new(small());
        pair.fill(3);
        pair.flush();
        pair.fill(20);
        pair.platter.plan(plan(fault, path, 0));
        let failed = now(pair.log.flush());
        assert_eq!(failed, Err(FlushError::Sealed(Sealed(SealReason::SyncFailed))), "{fault:?} {path}");
        assert_eq!(pair.log.flushed(), Offset(6));
        assert_eq!(pair.append(Spec::plain(1, 1)), Err(AppendError::Sealed));
        assert!(now(pair.log.flush()).is_err(), "the next sync would say Ok");
        assert!(!pair.log.needs_flush());
        pair.check();
        pair.platter.crash(&mut stream(1, "t", 0), CrashMode::Lose);
        let (pair, report) = pair.reopen(small());
        assert!(report.damaged.is_empty(), "{report:?}");
        assert!(pair.end() >= Offset(6));
    }
}

/// After the failed sync the names count as clean, old or new, and the next sync says `Ok`: who believes them loses the
/// segment, the start or the whole partition with the next power cut.
#[test]
fn names_of_which_a_sync_failed_are_durable_after_the_next_start() {
    for seed in 0..40 {
        let platter = Platter::new(Setup { seed, ..Setup::default() });
        let mut pair = Pair::on(platter, LogConfig { segment_bytes: 300, ..small() });
        pair.fill(1);
        pair.flush();
        pair.platter.plan(plan(Fault::DirSyncError, "", 0));
        let moved = seed % 2 == 0;
        if moved {
            assert!(now(pair.log.advance_start(Offset(1))).is_err());
            pair.platter.heal();
        } else {
            pair.append(Spec::plain(2, 200)).expect("it rolls");
            assert!(now(pair.log.flush()).is_err());
        }
        pair.platter.kill();
        drop(pair.log);
        let (mut log, _) = try_open(&pair.platter, small()).expect("recovery");
        let start = log.start();
        let appended = log.append_leader(&[Spec::plain(2, 60).build(9)], LeaderEpoch(2), NOW_MS);
        let last = appended[0].expect("room").last;
        now(log.flush()).expect("the next sync says Ok");
        pair.platter.crash(&mut stream(seed, "names", 0), CrashMode::Lose);
        let (log, report) = try_open(&pair.platter, small()).expect("recovery");
        assert_eq!((log.start(), log.end()), (start, last.next()), "seed {seed}: {report:?}");
        assert!(report.damaged.is_empty(), "seed {seed}: {report:?}");
    }
}

#[test]
fn a_partition_whose_making_failed_at_a_sync_is_durable_after_the_next_start() {
    for seed in 0..40 {
        let after = seed % 4;
        let platter = Platter::new(Setup { seed, ..Setup::default() });
        let disk = platter.mount();
        disk.create_dir_all(Path::new(PARTITIONS)).expect("healthy");
        now(disk.sync_dir(Path::new(""))).expect("healthy");
        drop(disk);
        platter.plan(plan(Fault::DirSyncError, "", after));
        let failed = try_open(&platter, small()).is_err();
        platter.kill();
        platter.heal();
        let mut pair = Pair::on(platter, small());
        pair.fill(3);
        pair.flush();
        pair.platter.crash(&mut stream(after, "making", 0), CrashMode::Lose);
        let (pair, _) = pair.reopen(small());
        assert_eq!(pair.end(), Offset(6), "failed at sync {after}: {failed}");
    }
}

#[test]
fn a_start_that_cannot_be_persisted_removes_nothing() {
    for (fault, path) in
        [(Fault::WriteError, "start"), (Fault::SyncError, "start"), (Fault::DirSyncError, "")]
    {
        let mut pair = Pair::new(small());
        pair.fill(30);
        pair.flush();
        pair.platter.plan(plan(fault, path, 0));
        assert!(now(pair.log.advance_start(Offset(40))).is_err(), "{fault:?} {path}");
        pair.check();
        pair.platter.heal();
        if fault != Fault::WriteError {
            assert_eq!(pair.log.sealed(), Some(SealReason::SyncFailed), "{fault:?} {path}");
            continue;
        }
        pair.advance_start(Offset(40));
        pair.check();
    }
}

/// The directory's sync that a move of the start needs may fail while the name of a new segment waits for one: the name
/// counts as clean then, and a flush that is told `Ok` has not made it durable.
#[test]
fn a_failed_sync_of_a_start_or_a_removal_lets_nothing_be_acknowledged() {
    for seed in 0..40 {
        let after = seed % 2; // the start's own sync, or that of the removal
        let platter = Platter::new(Setup { seed, ..Setup::default() });
        let mut pair = Pair::on(platter, LogConfig { segment_bytes: 300, ..small() });
        pair.fill(3);
        pair.flush();
        pair.append(Spec::plain(2, 200)).expect("it rolls");
        pair.platter.plan(plan(Fault::DirSyncError, "", after));
        assert!(now(pair.log.advance_start(Offset(4))).is_err());
        assert_eq!(pair.log.sealed(), Some(SealReason::SyncFailed), "seed {seed}");
        assert!(now(pair.log.flush()).is_err(), "the next sync would say Ok");
        assert_eq!(pair.append(Spec::plain(1, 1)), Err(AppendError::Sealed));
    }
}

#[test]
fn a_truncation_that_fails_seals_and_is_finished_or_forgotten() {
    for after in 0..4 {
        let mut pair = Pair::new(small());
        pair.fill(30);
        pair.flush();
        pair.platter.plan(plan(Fault::SyncError, "", after));
        let failed = now(pair.log.truncate_to(Offset(31))).is_err();
        pair.platter.heal();
        pair.platter.crash(&mut stream(after, "t", 0), CrashMode::Subset);
        pair.durable = Offset(30);
        let (pair, _) = pair.reopen(small());
        assert!(pair.end() == Offset(30) || (failed && pair.end() == Offset(60)), "{:?}", pair.end());
    }
}

#[test]
fn a_segment_that_cannot_be_made_is_tried_again() {
    let mut pair = Pair::new(LogConfig { segment_bytes: 300, ..small() });
    pair.fill(1);
    let used: u64 = pair.platter.lengths().iter().map(|(_, len)| len).sum();
    pair.platter.set_capacity(Some(used + 40));
    for _ in 0..3 {
        assert_eq!(pair.append(Spec::plain(2, 100)), Err(AppendError::DiskFull));
        pair.check();
    }
    pair.platter.set_capacity(None);
    pair.fill(5);
    pair.check();
    pair.flush();
    pair.platter.crash(&mut stream(1, "t", 0), CrashMode::Lose);
    let (pair, _) = pair.reopen(small());
    assert_eq!(pair.end(), Offset(12));
}

/// The batch that needed a new segment did not find room for it; a smaller one then found room in the old segment.
#[test]
fn what_follows_a_segment_that_could_not_be_made_survives() {
    for spare in [0, 10, 40, 64, 100] {
        let mut pair = Pair::new(LogConfig { segment_bytes: 700, ..small() });
        pair.fill(2);
        pair.flush();
        let used: u64 = pair.platter.lengths().iter().map(|(_, len)| len).sum();
        pair.platter.set_capacity(Some(used + spare));
        assert_eq!(pair.append(Spec::plain(2, 300)), Err(AppendError::DiskFull), "{spare} bytes");
        pair.platter.set_capacity(None);
        pair.append(Spec::plain(1, 20)).expect("it fits into the old segment");
        pair.flush();
        pair.fill(9);
        pair.flush();
        pair.check();
        pair.platter.kill();
        let (pair, report) = pair.reopen(small());
        assert!(report.damaged.is_empty(), "{spare} bytes: {report:?}");
        assert_eq!(pair.end(), Offset(23), "{spare} bytes");
    }
}

/// An open file keeps its room after its name is gone: nobody flushes a log that takes no writes.
#[test]
fn the_room_of_a_segment_that_retention_rolls_away_comes_back_without_a_flush() {
    let mut pair = Pair::new(LogConfig { retention_ms: Some(1000), segment_bytes: 1 << 20, ..small() });
    pair.platter.set_capacity(Some(1 << 20));
    pair.fill(20);
    pair.flush();
    let free = |pair: &Pair| pair.log.shared.disk.free_bytes().expect("it says");
    let (before, size) = (free(&pair), pair.log.reader().size_bytes());
    let end = pair.log.end();
    let target = pair.log.retention_plan(NOW_MS + 10_000, end).expect("all of it is old");
    assert_eq!(target, end);
    pair.log.roll_below(target, NOW_MS).expect("room");
    now(pair.log.advance_start(target)).expect("healthy");
    assert!(free(&pair) >= before + size - 4096, "{} of {size} bytes came back", free(&pair) - before);
    pair.flush();
}

#[test]
fn the_active_segment_goes_when_all_its_records_are_deleted() {
    let mut pair = Pair::new(LogConfig { segment_bytes: 1 << 20, ..small() });
    pair.fill(5);
    pair.flush();
    let end = pair.log.end();
    pair.log.roll_below(Offset(end.0 - 1), NOW_MS).expect("room");
    assert!(pair.log.reader().size_bytes() > 0, "a record stays");
    // Without room the start moves alone, and what is left goes once there is some.
    let used: u64 = pair.platter.lengths().iter().map(|(_, len)| len).sum();
    pair.platter.set_capacity(Some(used));
    assert_eq!(pair.log.roll_below(end, NOW_MS), Err(AppendError::DiskFull));
    pair.platter.set_capacity(Some(used + 30));
    now(pair.log.advance_start(end)).expect("room for that");
    assert!(pair.log.reader().size_bytes() > 0);
    pair.platter.set_capacity(None);
    assert_eq!(pair.log.retention_plan(NOW_MS, end), Some(end));
    let kept = pair.log.config().clone();
    pair.log.set_config(LogConfig { retention_ms: Some(1), ..kept.clone() });
    assert_eq!(pair.log.retention_plan(NOW_MS + 10_000, end), Some(end), "and when it has expired besides");
    pair.log.set_config(kept);
    pair.log.roll_below(end, NOW_MS).expect("room");
    now(pair.log.advance_start(end)).expect("healthy");
    assert_eq!((pair.log.reader().size_bytes(), pair.log.start()), (0, end));
    pair.log.roll_below(end, NOW_MS).expect("nothing is left to roll");
    assert_eq!(pair.log.retention_plan(NOW_MS, end), None);
    pair.durable = end;
    pair.fill(2);
    pair.flush();
}

#[test]
fn a_log_in_steady_use_keeps_few_segments_open() {
    let mut pair = Pair::new(LogConfig { segment_bytes: 300, ..small() });
    for _ in 0..10 {
        pair.fill(4);
        pair.flush();
        let view = pair.log.shared.lock();
        let open = view.segments.iter().filter(|segment| segment.files.is_some()).count();
        assert!(open <= 3, "{open} of {} segments are open", view.segments.len());
    }
    assert!(pair.log.shared.lock().segments.len() > 10);
}
