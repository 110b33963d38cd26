//! Compaction and what is remembered of producers beside the log: snapshots that are older than a cleaning.

use dejaq_wire::ids::Offset;

use super::compaction::{roll, txn, world};
use super::compaction_kit::*;
use super::kit::*;
use crate::Disk;
use crate::layout::FileKind;
use crate::model_disk::CrashMode;
use crate::model_disk::random::stream;

const MAP_BYTES: usize = 1 << 16;

/// The offsets of the snapshots of the producers that are there.
fn snapshots(world: &World) -> Vec<Offset> {
    let entries = world.platter.mount().list(&dir()).expect("healthy");
    let parsed = entries.iter().filter_map(|entry| FileKind::parse(&entry.name));
    parsed.filter_map(|(kind, offset)| (kind == FileKind::Producers).then_some(offset)).collect()
}

fn markers(world: &World) -> Vec<i64> {
    let found = batches_of(&world.log);
    found.iter().filter(|batch| batch.header.is_control()).map(|batch| batch.header.base_offset.0).collect()
}

/// A transaction of producer 7 that a snapshot tells of as open, and whose data and marker were cleaned away since; then
/// another one of the same producer, which is open. Returns its first offset, and where the lost marker was.
fn after_a_lost_marker(world: &mut World) -> (Offset, Offset) {
    world.append(&txn(7, &[(1, true)]));
    roll(world);
    let open_at = snapshots(world);
    assert!(open_at.iter().any(|offset| *offset > Offset::ZERO), "{open_at:?} tell of it as open");
    let marker = world.story.end;
    world.end_txn(7, true);
    world.plain(&[(1, true)]);
    let mut bounds = Vec::new();
    for _ in 0..3 {
        roll(world);
        bounds.push(world.log.flushed());
    }
    let open = world.story.end;
    world.append(&txn(7, &[(2, true)]));
    world.settle();
    for (bound, wait_ms) in bounds.iter().zip([0, 0, RETENTION_MS]) {
        world.now_ms += wait_ms;
        let cleaned = now(world.log.compact(ask(world.now_ms, *bound, MAP_BYTES))).expect("healthy");
        assert!(cleaned.is_some(), "there is something new below each bound");
        world.check();
    }
    assert_eq!(markers(world), [], "its time is over");
    (open, marker)
}

#[test]
pub(super) fn no_snapshot_tells_of_a_transaction_whose_marker_is_gone() {
    let mut world = world();
    let (open, marker) = after_a_lost_marker(&mut world);
    let left = snapshots(&world);
    assert!(left.iter().all(|offset| *offset > marker), "{left:?}, of which none may be below {marker:?}");
    // The newer ones are lost: recovery takes the newest that is left, or replays the log.
    let disk = world.platter.mount();
    for offset in left.into_iter().filter(|offset| *offset > marker) {
        now(disk.remove(&dir().join(FileKind::Producers.name(offset)))).expect("healthy");
    }
    world.platter.kill();
    let mut world = world.reopen();
    assert_eq!(world.log.stable_end(world.log.end()), open, "the first transaction has ended long ago");
    world.end_txn(7, false);
    world.check();
}

#[test]
fn what_comes_behind_a_cleaned_transaction_is_none_of_its_own_after_any_restart() {
    for power in [false, true] {
        let mut world = world();
        let (open, _) = after_a_lost_marker(&mut world);
        if power {
            world.platter.crash(&mut stream(1, "marker", 0), CrashMode::Lose);
        } else {
            world.platter.kill();
        }
        let mut world = world.reopen();
        assert_eq!(world.log.stable_end(world.log.end()), open);
        world.end_txn(7, false);
        let listed = world.log.reader().aborted(Offset::ZERO, world.log.end());
        assert_eq!(listed.iter().map(|txn| txn.first).collect::<Vec<_>>(), [open]);
        world.check();
    }
}
