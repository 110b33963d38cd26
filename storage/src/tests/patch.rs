//! Damaged batches put back from a copy: only the bytes that were there, durably, and nothing else is touched.

use std::path::{Path, PathBuf};

use super::kit::*;
use crate::layout::FileKind;
use crate::model_disk::random::stream;
use crate::model_disk::{CrashMode, Platter};
use crate::{LogConfig, Patched, VerifiedBatch};
use dejaq_wire::ids::Offset;

fn log_path(base: i64) -> PathBuf {
    dir().join(FileKind::Log.name(Offset(base)))
}

fn content(platter: &Platter, path: &Path) -> Vec<u8> {
    platter.files().into_iter().find(|(name, _)| name == path).map(|(_, bytes)| bytes).expect("it is there")
}

/// Ten durable batches in one segment.
fn filled() -> Pair {
    let mut pair = Pair::new(LogConfig { segment_bytes: 1 << 20, ..small() });
    pair.fill(10);
    pair.flush();
    pair
}

/// Rots the last byte of these batches, and has a scrub find it.
fn rot(pair: &Pair, which: &[usize]) {
    for at in which {
        let end: usize = pair.batches[..=*at].iter().map(|batch| batch.bytes.len()).sum();
        assert!(pair.platter.rot(&log_path(0), (end - 1) as u64, 1));
    }
    now(pair.log.reader().scrub_segment(Offset(0), |_| async { true })).expect("healthy");
    assert!(!pair.log.damaged().is_empty());
}

fn copies(pair: &Pair, which: std::ops::Range<usize>) -> Vec<VerifiedBatch> {
    let copy = |expected: &Expected| VerifiedBatch::verify(expected.bytes.clone()).expect("it was verified");
    pair.batches[which].iter().map(copy).collect()
}

#[test]
fn what_is_put_back_is_what_was_there_and_survives_a_power_cut() {
    for hit in 0..10 {
        let pair = filled();
        let before = content(&pair.platter, &log_path(0));
        rot(&pair, &[hit]);
        assert_ne!(content(&pair.platter, &log_path(0)), before);
        let patched = now(pair.log.reader().patch(&copies(&pair, hit..10))).expect("healthy");
        let (from, to) = (pair.batches[hit].base, pair.batches[hit].last.next());
        assert_eq!(patched, Patched::Whole(crate::OffsetRange { from, to }));
        assert_eq!(content(&pair.platter, &log_path(0)), before);
        assert!(pair.log.damaged().is_empty());
        assert!(read_all(&pair.log).expect("whole") == pair.batches);
        now(pair.log.check_deep()).expect("the log agrees with itself");
        pair.platter.crash(&mut stream(7, "crash", 0), CrashMode::Lose);
        let (log, report) = try_open(&pair.platter, small()).expect("recovery");
        assert_eq!((log.end(), report.cut), (pair.end(), None));
        assert!(read_all(&log).expect("it was durable") == pair.batches, "batch {hit}");
        assert_eq!(now(log.reader().patch(&copies(&pair, 0..10))).expect("healthy"), Patched::Nothing);
    }
}

/// The start moves to any offset, also into a batch; damage begins at the start then, and copies begin before it.
#[test]
fn a_batch_that_holds_the_start_is_put_back_whole() {
    for hits in [&[3][..], &[3, 4], &[3, 7]] {
        let mut pair = filled();
        let before = content(&pair.platter, &log_path(0));
        let start = pair.batches[3].last;
        assert!(pair.batches[3].base < start, "it has more than one record");
        now(pair.log.advance_start(start)).expect("healthy");
        rot(&pair, hits);
        let reader = pair.log.reader();
        assert_eq!(now(reader.patch(&copies(&pair, 4..10))).expect("healthy"), Patched::Foreign);
        let patched = now(reader.patch(&copies(&pair, 3..10))).expect("healthy");
        assert!(matches!(patched, Patched::Whole(range) if range.from == start), "{patched:?}");
        if let [_, 7] = hits {
            assert_eq!(pair.log.damaged().len(), 1);
            now(reader.patch(&copies(&pair, 7..10))).expect("healthy");
        }
        assert_eq!(pair.log.damaged(), [], "nothing is left below the start");
        assert_eq!(content(&pair.platter, &log_path(0)), before);
    }
}

#[test]
fn neighbours_are_mended_as_far_as_copies_reach_and_others_one_after_the_other() {
    let pair = filled();
    rot(&pair, &[2, 3, 7]);
    let reader = pair.log.reader();
    let from = pair.batches[3].base;
    assert_eq!(now(reader.patch(&copies(&pair, 2..3))).expect("healthy"), Patched::Below(from));
    assert_eq!(pair.log.damaged()[0].from, from);
    assert!(matches!(now(reader.patch(&copies(&pair, 3..8))).expect("healthy"), Patched::Whole(_)));
    assert_eq!(pair.log.damaged().len(), 1);
    assert_eq!(
        now(reader.patch(&copies(&pair, 3..5))).expect("healthy"),
        Patched::Foreign,
        "not of this hole"
    );
    assert!(matches!(now(reader.patch(&copies(&pair, 7..8))).expect("healthy"), Patched::Whole(_)));
    assert!(read_all(&pair.log).expect("whole") == pair.batches);
}

#[test]
fn a_range_over_two_segments_is_mended_one_after_the_other() {
    let mut pair = Pair::new(small());
    pair.fill(20);
    pair.flush();
    let reader = pair.log.reader();
    let second = reader.freeze(pair.batches[0].base).expect("healthy").expect("a segment").end;
    let at = pair.batches.iter().position(|batch| batch.base == second).expect("a batch begins there");
    let before: usize = pair.batches[..at].iter().map(|batch| batch.bytes.len()).sum();
    assert!(pair.platter.rot(&log_path(0), (before - 1) as u64, 1));
    assert!(pair.platter.rot(&log_path(second.0), 70, 1));
    for from in [Offset(0), second] {
        now(reader.scrub_segment(from, |_| async { true })).expect("healthy");
    }
    assert_eq!(pair.log.damaged().len(), 1, "they touch");
    let all = |from: usize| now(reader.patch(&copies(&pair, from..20))).expect("healthy");
    assert_eq!(all(at - 1), Patched::Below(second));
    assert!(matches!(all(at), Patched::Whole(_)));
    assert!(read_all(&pair.log).expect("whole") == pair.batches);
}

#[test]
fn a_scrub_that_read_the_damage_before_it_was_put_back_notes_none() {
    let pair = filled();
    rot(&pair, &[4]);
    let reader = pair.log.reader();
    let batches = copies(&pair, 4..5);
    let late = now(reader.scrub_segment(Offset(0), |_| {
        let patched = now(reader.patch(&batches)).expect("healthy");
        assert!(matches!(patched, Patched::Whole(_)));
        async { true }
    }));
    assert!(late.expect("healthy").damage.is_empty());
    assert!(pair.log.damaged().is_empty());
}

#[test]
fn another_batch_at_the_same_offsets_is_not_written() {
    let pair = filled();
    let mut other = Pair::new(LogConfig { segment_bytes: 1 << 20, ..small() });
    other.salt = 900; // as many batches of the same lengths, with other values
    other.fill(10);
    rot(&pair, &[4]);
    let rotten = content(&pair.platter, &log_path(0));
    assert_eq!(pair.batches[4].base, other.batches[4].base);
    assert_ne!(pair.batches[4].bytes, other.batches[4].bytes);
    assert_eq!(now(pair.log.reader().patch(&copies(&other, 4..5))).expect("healthy"), Patched::Foreign);
    assert_eq!(content(&pair.platter, &log_path(0)), rotten, "nothing was written");
}

#[test]
fn what_the_side_file_does_not_know_is_not_guessed() {
    let pair = filled();
    let side = dir().join(FileKind::Sum.name(Offset(0)));
    assert!(pair.platter.rot(&side, 32 * 5 + 9, 1)); // the record of the fifth batch or so: behind the header
    now(pair.log.reader().scrub_segment(Offset(0), |_| async { true })).expect("healthy");
    let damaged = pair.log.damaged();
    assert_eq!(damaged.len(), 1);
    assert_eq!(now(pair.log.reader().patch(&copies(&pair, 0..10))).expect("healthy"), Patched::Foreign);
    assert_eq!(pair.log.damaged(), damaged);
}
