//! The reserve: a truly full disk can be freed, and appends do not eat what is given up for that.

use std::path::Path;

use dejaq_wire::ids::Offset;

use super::kit::*;
use crate::model_disk::random::stream;
use crate::model_disk::{CrashMode, Platter, Setup};
use crate::{AppendError, Disk, Log, LogConfig, RESERVE_BYTES, SpaceGuard};

fn used(platter: &Platter) -> u64 {
    platter.lengths().iter().map(|(_, length)| length).sum()
}

#[test]
fn what_is_given_up_is_room_and_refuses_appends_until_it_is_back() {
    let platter = Platter::new(Setup::default());
    let (disk, guard) = (platter.mount(), SpaceGuard::default());
    assert!(now(guard.hold_reserve(&disk)).is_ok() && !guard.is_refusing());
    platter.set_capacity(Some(used(&platter)));
    assert!(now(guard.give_up_reserve(&disk)));
    assert_eq!(disk.free_bytes().expect("it says"), RESERVE_BYTES);
    assert!(guard.is_refusing());
    assert!(!now(guard.give_up_reserve(&disk)), "only once");
    platter.set_capacity(Some(RESERVE_BYTES - 1));
    assert!(now(guard.hold_reserve(&disk)).is_err() && guard.is_refusing());
    platter.set_capacity(None);
    assert!(now(guard.hold_reserve(&disk)).is_ok() && !guard.is_refusing());
}

#[test]
fn a_guard_without_a_reserve_refuses_nothing_for_it() {
    let platter = Platter::new(Setup::default());
    let guard = SpaceGuard::default();
    assert!(!now(guard.give_up_reserve(&platter.mount())) && !guard.is_refusing());
}

#[test]
fn on_a_disk_without_one_free_byte_the_start_moves_and_room_comes_back() {
    for holds in [false, true] {
        let config = LogConfig { segment_bytes: 300, ..small() };
        let mut pair = Pair::new(config.clone());
        let guard = SpaceGuard::default();
        pair.platter.kill();
        let disk = pair.platter.mount();
        if holds {
            assert!(now(guard.hold_reserve(&disk)).is_ok());
        }
        let options = crate::OpenOptions { space: guard.clone(), ..options() };
        pair.log = now(Log::open(disk, dir(), identity(), config.clone(), options)).expect("a log").0;
        pair.fill(30);
        pair.flush();
        pair.platter.set_capacity(Some(used(&pair.platter)));
        assert_eq!(pair.append(Spec::plain(2, 60)), Err(AppendError::DiskFull));
        if !holds {
            assert!(now(pair.log.advance_start(Offset(40))).is_err(), "without a reserve nothing helps");
            continue;
        }
        pair.advance_start(Offset(40));
        assert_eq!(pair.append(Spec::plain(2, 60)), Err(AppendError::DiskFull), "refused until it is back");
        pair.check();
        let fork = pair.platter.fork();
        fork.crash(&mut stream(1, "full", 0), CrashMode::Lose);
        fork.set_capacity(None);
        assert_eq!(try_open(&fork, config.clone()).expect("recovery").0.start(), Offset(40));
        pair.platter.set_capacity(Some(used(&pair.platter) + RESERVE_BYTES + 1000));
        assert!(now(guard.hold_reserve(&pair.log.shared.disk)).is_ok());
        pair.fill(2);
        pair.check();
    }
}

#[test]
fn a_start_on_a_full_disk_takes_the_room_of_the_reserve_and_only_then() {
    let platter = Platter::new(Setup::default());
    let open = || {
        let expect = crate::Expect {
            cluster_id: "c".into(),
            node_id: dejaq_wire::ids::BrokerId(1),
            new_cluster_id: "c".into(),
            new_directory_id: [4; 16],
        };
        now(crate::DataDir::open(platter.mount(), expect)).map(drop)
    };
    let reserve = || platter.lengths().iter().any(|(path, _)| path == Path::new(crate::layout::RESERVE));
    open().expect("an empty directory");
    let guard = SpaceGuard::new(0, 0);
    now(guard.hold_reserve(&platter.mount())).expect("there is room");
    open().expect("there is room");
    assert!(reserve(), "a start with room leaves it");
    platter.set_capacity(Some(used(&platter)));
    open().expect("the reserve made room");
    assert!(!reserve(), "its room is for the start");
}

#[test]
fn a_log_opens_on_a_disk_without_any_room_and_serves_what_it_has() {
    for mode in [None, Some(CrashMode::Lose), Some(CrashMode::Subset)] {
        let mut pair = Pair::new(small());
        pair.fill(4);
        pair.flush();
        let end = pair.end();
        drop(pair.log);
        match mode {
            None => pair.platter.kill(),
            Some(mode) => pair.platter.crash(&mut stream(1, "full", 0), mode),
        }
        pair.platter.set_capacity(Some(used(&pair.platter)));
        let (log, report) = try_open(&pair.platter, small()).expect("a full disk is no damage");
        assert_eq!((log.end(), report.damaged.len()), (end, 0), "{mode:?}");
    }
}
