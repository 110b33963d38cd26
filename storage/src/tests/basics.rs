//! What a healthy log does.

use super::kit::*;
use crate::model_disk::CrashMode;
use crate::model_disk::random::stream;
use crate::{AppendError, LogConfig, ReadAsk, ReadError};
use dejaq_wire::ids::{LeaderEpoch, Offset, Sequence};

#[test]
fn what_is_appended_is_read_across_many_segments() {
    let mut pair = Pair::new(small());
    pair.check();
    for at in 0..60 {
        pair.append(Spec::plain(1 + at % 4, 20 + at)).expect("room");
        pair.check();
    }
    assert!(pair.log.size_bytes() > 6000);
}

#[test]
fn one_call_may_fill_several_segments() {
    let mut pair = Pair::new(small());
    let results = pair.append_all(&[Spec::plain(1, 500); 9]);
    assert!(results.iter().all(Result::is_ok));
    pair.check();
    pair.flush();
    pair.check();
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let mut pair = Pair::new(small());
    pair.fill(2);
    pair.append(Spec::plain(1, 5000)).expect("room");
    pair.fill(2);
    pair.check();
}

#[test]
fn an_old_segment_is_rolled_before_the_next_append() {
    let mut pair = Pair::new(LogConfig { segment_ms: 1000, ..LogConfig::default() });
    pair.fill(1);
    let batch = Spec::plain(1, 10).build(99);
    pair.log.append_leader(&[batch], LeaderEpoch(1), NOW_MS + 2000)[0].expect("room");
    let segments = now(pair.log.reader().scrub()).expect("readable").segments;
    assert_eq!(segments, 2);
}

#[test]
fn nothing_is_flushed_before_the_sync_returned() {
    let mut pair = Pair::new(small());
    pair.fill(3);
    assert_eq!(pair.log.flushed(), Offset::ZERO);
    let flush = pair.log.begin_flush().expect("healthy").expect("dirty");
    assert_eq!(pair.log.flushed(), Offset::ZERO);
    assert!(pair.log.begin_flush().expect("healthy").is_none(), "one flush in flight a log");
    pair.fill(20);
    let mut flushes = [flush];
    let disk = pair.platter.mount();
    drop(disk);
    let result = now(crate::sync_flushes(&pair.log.shared.disk, &mut flushes));
    let [flush] = flushes;
    assert_eq!(pair.log.end_flush(flush, &result), Ok(Offset(6)));
    assert!(pair.log.needs_flush());
    pair.flush();
    assert!(!pair.log.needs_flush());
    pair.check();
}

#[test]
fn a_retry_of_any_of_five_batches_gets_its_first_offsets() {
    let mut pair = Pair::new(small());
    for at in 0..5 {
        pair.append(Spec::of(9, at * 3, 3)).expect("room");
    }
    for at in 0..5 {
        let again = pair.append(Spec::of(9, at * 3, 3)).expect("known");
        assert_eq!(
            (again.base.0, again.last.0, again.duplicate),
            (i64::from(at) * 3, i64::from(at) * 3 + 2, true)
        );
    }
    let expected = AppendError::OutOfOrderSequence { expected: Sequence(15), found: Sequence(16) };
    assert_eq!(pair.append(Spec::of(9, 16, 1)), Err(expected));
    pair.check();
}

#[test]
fn batches_of_one_call_are_judged_by_those_before_them() {
    let mut pair = Pair::new(small());
    let results =
        pair.append_all(&[Spec::of(9, 0, 2), Spec::of(9, 2, 2), Spec::of(9, 0, 2), Spec::of(9, 5, 1)]);
    let bases: Vec<_> = results.iter().map(|r| r.map(|a| (a.base.0, a.duplicate)).ok()).collect();
    assert_eq!(bases, [Some((0, false)), Some((2, false)), Some((0, true)), None]);
}

#[test]
fn a_retry_is_recognised_after_a_restart() {
    let mut pair = Pair::new(small());
    for at in 0..30 {
        pair.append(Spec::of(at % 3, (at / 3) as i32, 1)).expect("room");
    }
    pair.flush();
    pair.platter.crash(&mut stream(1, "t", 0), CrashMode::Lose);
    let (mut pair, _) = pair.reopen(small());
    for at in 0..3 {
        let again = pair.append(Spec::of(at, 9, 1)).expect("known");
        assert!(again.duplicate, "{at}");
        assert_eq!(again.base.0, 27 + at);
    }
}

#[test]
fn an_older_leader_is_fenced() {
    let mut pair = Pair::new(small());
    pair.epoch = LeaderEpoch(5);
    pair.fill(1);
    pair.epoch = LeaderEpoch(4);
    assert_eq!(pair.append(Spec::plain(1, 9)), Err(AppendError::FencedEpoch { latest: LeaderEpoch(5) }));
}

#[test]
fn an_epoch_that_led_without_appending_survives_a_restart() {
    let mut pair = Pair::new(small());
    pair.fill(2);
    pair.log.begin_epoch(LeaderEpoch(7)).expect("newer");
    pair.flush();
    pair.platter.crash(&mut stream(1, "t", 0), CrashMode::Lose);
    let (pair, _) = pair.reopen(small());
    assert_eq!(pair.log.latest_epoch(), Some(LeaderEpoch(7)));
    let end = pair.log.reader().end_offset_for_epoch(LeaderEpoch(1));
    assert_eq!((end.epoch.0, end.end.0), (1, 4));
}

#[test]
fn a_follower_keeps_offsets_and_epochs_and_takes_no_gap() {
    let mut leader = Pair::new(small());
    leader.fill(5);
    leader.epoch = LeaderEpoch(3);
    leader.fill(5);
    let mut follower = Pair::new(small());
    for batch in &leader.batches {
        let batch = crate::VerifiedBatch::verify(batch.bytes.clone()).expect("good");
        follower.log.append_follower(&[batch], NOW_MS).expect("next");
    }
    follower.batches = leader.batches.clone();
    follower.check();
    assert_eq!(follower.log.epochs(), leader.log.epochs());
    let gap = crate::VerifiedBatch::verify(leader.batches[3].bytes.clone()).expect("good");
    let error = follower.log.append_follower(&[gap], NOW_MS).expect_err("not next");
    assert_eq!(error, AppendError::NotNext { expected: Offset(20), found: Offset(6) });
}

#[test]
fn reads_begin_inside_a_batch_and_respect_bounds() {
    let mut pair = Pair::new(small());
    pair.fill(10);
    let reader = pair.log.reader();
    let ask = |offset, max_bytes, at_least_one, bound| {
        let ask = ReadAsk { offset: Offset(offset), max_bytes, at_least_one, end_bound: Offset(bound) };
        now(reader.read(ask)).map(|read| (read.batches.len(), read.next.0))
    };
    let size = pair.batches[0].bytes.len();
    assert_eq!(ask(1, 1, true, 99), Ok((size, 2)));
    assert_eq!(ask(1, 1, false, 99), Ok((0, 1)));
    assert_eq!(ask(0, size * 2 + 1, false, 99), Ok((size * 2, 4)));
    assert_eq!(ask(0, size * 9, false, 3), Ok((size, 2)), "a batch across the bound is not served");
    assert_eq!(ask(20, 100, true, 99), Ok((0, 20)));
    assert_eq!(ask(21, 100, true, 99), Err(ReadError::OutOfRange { start: Offset(0), end: Offset(20) }));
}

#[test]
fn the_start_moves_and_old_segments_go() {
    let mut pair = Pair::new(small());
    pair.fill(30);
    pair.flush();
    let before = pair.platter.lengths().len();
    pair.advance_start(Offset(31));
    pair.check();
    assert!(pair.platter.lengths().len() < before);
    assert!(matches!(now(pair.log.advance_start(Offset(61))), Err(crate::StartError::BeyondEnd { .. })));
    pair.advance_start(Offset(60));
    pair.check();
    pair.fill(3);
    pair.check();
}

#[test]
fn retention_deletes_by_size_and_by_age() {
    let mut pair = Pair::new(LogConfig { retention_bytes: Some(3000), ..small() });
    pair.fill(40);
    let limit = pair.end();
    let target = pair.log.retention_plan(NOW_MS, limit).expect("too large");
    pair.flush();
    pair.advance_start(target);
    assert!((3000..3000 + 1200).contains(&pair.log.size_bytes()), "{}", pair.log.size_bytes());
    assert_eq!(pair.log.retention_plan(NOW_MS, limit), None);

    pair.log.set_config(LogConfig { retention_ms: Some(1000), ..small() });
    assert_eq!(pair.log.retention_plan(NOW_MS + 900, limit), None);
    let target = pair.log.retention_plan(NOW_MS + 1002, limit).expect("too old");
    assert_eq!(target, pair.end(), "the active segment, too");
    pair.log.roll_below(target, NOW_MS + 1002).expect("room");
    pair.advance_start(target);
    pair.check();
    assert_eq!(pair.log.size_bytes(), 0);
}

#[test]
fn records_without_a_timestamp_expire_by_the_age_of_their_segment() {
    let config = LogConfig { retention_ms: Some(1000), segment_bytes: 300, ..small() };
    let mut pair = Pair::new(config.clone());
    for _ in 0..5 {
        pair.append(Spec { timestamp_ms: -1, ..Spec::plain(1, 200) }).expect("room");
    }
    pair.flush();
    let end = pair.end();
    for _ in 0..2 {
        assert_eq!(pair.log.retention_plan(NOW_MS + 1000, end), None);
        pair.platter.kill();
        pair = pair.reopen(config.clone()).0;
    }
    assert_eq!(pair.log.retention_plan(NOW_MS + 1001, end), Some(end), "the active segment, too");
    pair.log.roll_below(end, NOW_MS + 1001).expect("room");
    pair.flush();
    pair.advance_start(end);
    pair.check();
    assert_eq!(pair.log.size_bytes(), 0);
}

#[test]
fn a_truncation_ends_at_a_batch_and_reading_goes_on() {
    let mut pair = Pair::new(small());
    pair.fill(30);
    pair.flush();
    pair.fill(5);
    for to in [69, 55, 54, 33, 2, 0] {
        pair.truncate(Offset(to));
        pair.check();
        pair.fill(1);
        pair.check();
        pair.flush();
        pair.check();
    }
}

#[test]
fn timestamps_are_found_as_by_looking_at_every_record() {
    let mut pair = Pair::new(small());
    let mut records = Vec::new();
    for at in 0..50_i64 {
        let timestamp_ms = NOW_MS + (at * 37) % 100;
        let spec = Spec { timestamp_ms, ..Spec::plain(3, 30) };
        let base = pair.append(spec).expect("room").base.0;
        records.extend((0..3).map(|delta| (base + delta, timestamp_ms + delta)));
        if at == 30 {
            pair.flush();
            pair.log.shed_idle();
        }
    }
    pair.advance_start(Offset(20));
    records.retain(|(offset, _)| *offset >= 20);
    let reader = pair.log.reader();
    for ask in NOW_MS - 1..NOW_MS + 110 {
        for bound in [150, 100] {
            // Kafka judges a batch by its largest timestamp, and whole batches by the bound.
            let brute =
                records.iter().find(|(offset, at)| *at >= ask && *offset / 3 * 3 + 2 < bound).copied();
            let found = now(reader.offset_for_timestamp(ask, Offset(bound))).expect("readable");
            assert_eq!(found.map(|found| (found.offset.0, found.timestamp_ms)), brute, "{ask} below {bound}");
        }
    }
    let largest = records.iter().map(|(_, at)| *at).max().expect("some");
    let first = records.iter().find(|(_, at)| *at == largest).copied();
    let found = now(reader.max_timestamp(pair.end())).expect("readable");
    assert_eq!(found.map(|found| (found.offset.0, found.timestamp_ms)), first);
}

#[test]
fn the_largest_timestamp_of_all_is_found_and_nothing_is_looked_for_behind_it() {
    let mut pair = Pair::new(small());
    for timestamp_ms in [NOW_MS, i64::MAX, -1, NOW_MS + 5] {
        pair.append(Spec { timestamp_ms, ..Spec::plain(1, 30) }).expect("room");
        pair.fill(40); // other segments
    }
    let found =
        now(pair.log.reader().max_timestamp(pair.end())).expect("readable").expect("there are records");
    assert_eq!(found.timestamp_ms, i64::MAX);
    let asked = now(pair.log.reader().offset_for_timestamp(i64::MAX, pair.end())).expect("readable");
    assert_eq!(asked, Some(found));
}

#[test]
fn a_clean_close_is_opened_without_a_scan() {
    let mut pair = Pair::new(small());
    for at in 0..30 {
        pair.append(Spec::of(1, at, 1)).expect("room");
    }
    let Pair { log, .. } = std::mem::replace(&mut pair, Pair::new(small()));
    let platter = log.shared.disk.platter();
    now(log.close()).expect("healthy");
    platter.crash(&mut stream(1, "t", 0), CrashMode::Lose);
    let (log, report) = try_open(&platter, small()).expect("recovery");
    assert_eq!((report.scanned_bytes, report.replayed_batches), (0, 0), "{report:?}");
    assert_eq!((log.end(), report.durable_end, log.describe_producers().len()), (Offset(30), Offset(30), 1));
    now(log.check_deep()).expect("the log agrees with itself");
}

#[test]
fn an_idle_log_keeps_little_and_still_answers() {
    let mut pair = Pair::new(small());
    pair.fill(200);
    pair.flush();
    pair.log.shed_idle();
    pair.check();
    pair.fill(10);
    pair.check();
}
