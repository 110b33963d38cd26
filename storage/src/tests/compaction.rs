//! Compaction against a model that knows everything that was ever appended: by hand, by chance, and with the power cut
//! behind every disk operation.

use std::sync::atomic::Ordering;

use dejaq_wire::ids::Offset;
use dejaq_wire::record::Compression;
use proptest::prelude::*;

use super::compaction_kit::*;
use super::crash::Cutter;
use super::kit::*;
use crate::model_disk::random::stream;
use crate::model_disk::{CrashMode, Platter, Setup};
use crate::{ReadAsk, VerifiedBatch};

const BIG_MAP: usize = 1 << 16;

pub(super) fn world() -> World {
    World::new(Platter::new(Setup::default()))
}

pub(super) fn txn(id: i64, records: &[(u8, bool)]) -> Data {
    Data { records: records.to_vec(), producer: Some((id, true)), codec: Compression::None }
}

fn idempotent(id: i64, records: &[(u8, bool)]) -> Data {
    Data { records: records.to_vec(), producer: Some((id, false)), codec: Compression::Lz4 }
}

/// Enough for a roll, so that what came before can be cleaned. Its keys are its own.
pub(super) fn roll(world: &mut World) {
    for at in 0..8 {
        world.plain(&[(200 + at, true), (210 + at, true)]);
    }
    world.settle();
    world.plain(&[(255, true)]);
    world.settle();
}

#[test]
fn the_last_value_of_every_key_stays_and_nothing_else() {
    let mut world = world();
    for round in 0..20 {
        world.plain(&[(1, true), (2, round % 3 == 0), (round % 4 + 10, true)]);
    }
    roll(&mut world);
    let before = world.log.size_bytes();
    let done = world.compact(BIG_MAP).expect("there was something to clean");
    assert!(done > Offset(40), "{done:?}");
    assert!(world.log.size_bytes() < before / 2, "{} of {before}", world.log.size_bytes());
    world.check();
    let old: Vec<_> = world.values().into_iter().filter(|(offset, ..)| *offset < 60).collect();
    let keys: Vec<u8> = old.iter().map(|(_, key, _)| *key).collect();
    assert_eq!(keys, [10, 11, 12, 1, 2, 13], "{old:?}");
    assert_eq!(world.compact(BIG_MAP), None, "nothing is dirty any more");
    let world = world.reopen();
    world.check();
}

#[test]
fn a_reader_steps_over_gaps_from_any_offset() {
    let mut world = world();
    for round in 0..30 {
        world.plain(&[(1, true), (round % 2 + 2, true)]);
    }
    roll(&mut world);
    world.compact(BIG_MAP).expect("dirty");
    let all = read_all(&world.log).expect("no damage");
    for from in 0..world.log.end().0 {
        let found = read_from(&world.log, Offset(from), 1).expect("no damage");
        let expected: Vec<_> = all.iter().filter(|batch| batch.last >= Offset(from)).cloned().collect();
        assert_eq!(found, expected, "from {from}");
    }
    let reader = world.log.reader();
    let found = now(reader.offset_for_timestamp(NOW_MS, world.log.end())).expect("healthy").expect("some");
    assert_eq!(found.offset, world.values().first().map(|(offset, ..)| Offset(*offset)).expect("some"));
}

#[test]
fn a_tombstone_stays_for_its_time_and_then_goes() {
    let mut world = world();
    world.plain(&[(1, true), (2, true)]);
    world.plain(&[(1, false)]);
    roll(&mut world);
    world.compact(BIG_MAP).expect("dirty");
    world.check();
    assert_eq!(world.values()[..2], [(1, 2, true), (2, 1, false)], "the marker is still there");
    world.now_ms += RETENTION_MS - 1;
    roll(&mut world);
    world.compact(BIG_MAP).expect("dirty");
    assert!(world.values().contains(&(2, 1, false)), "its time is not over");
    world.now_ms += 1;
    roll(&mut world);
    world.compact(BIG_MAP).expect("dirty");
    world.check();
    assert!(!world.values().iter().any(|(_, key, _)| *key == 1), "{:?}", world.values());
}

#[test]
fn aborted_data_goes_and_is_never_the_last_value() {
    let mut world = world();
    world.plain(&[(1, true)]);
    world.append(&txn(7, &[(1, true), (2, true)]));
    world.append(&txn(8, &[(3, true)]));
    world.end_txn(7, false);
    world.end_txn(8, true);
    world.append(&txn(7, &[(4, true)]));
    world.end_txn(7, true);
    roll(&mut world);
    world.compact(BIG_MAP).expect("dirty");
    world.check();
    let old: Vec<_> = world.values().into_iter().filter(|(offset, ..)| *offset < 8).collect();
    assert_eq!(old, [(0, 1, true), (3, 3, true), (6, 4, true)]);
}

#[test]
fn a_marker_outlives_its_data_by_the_retention() {
    let mut world = world();
    world.append(&txn(7, &[(1, true)]));
    world.end_txn(7, true);
    world.append(&txn(7, &[(1, true)]));
    world.end_txn(7, true);
    roll(&mut world);
    let markers = |world: &World| {
        let found = batches_of(&world.log);
        let markers = found.iter().filter(|batch| batch.header.is_control());
        markers
            .map(|batch| (batch.header.base_offset.0, batch.header.has_delete_horizon()))
            .collect::<Vec<_>>()
    };
    world.compact(BIG_MAP).expect("dirty");
    assert_eq!(markers(&world), [(1, false), (3, false)], "this round took the data of the first");
    for (wait_ms, expected) in
        [(0, &[(1, true), (3, false)][..]), (RETENTION_MS - 1, &[(1, true), (3, false)]), (1, &[(3, false)])]
    {
        world.now_ms += wait_ms;
        roll(&mut world);
        world.compact(BIG_MAP).expect("dirty");
        assert_eq!(markers(&world), expected, "after {wait_ms} ms more");
        world.check();
    }
}

#[test]
pub(super) fn an_open_transaction_holds_the_cleaner_back() {
    let mut world = world();
    for _ in 0..10 {
        world.plain(&[(1, true), (2, true)]);
    }
    let open = world.story.end;
    world.append(&txn(7, &[(1, true)]));
    roll(&mut world);
    let done = world.compact(BIG_MAP).expect("the part before it");
    assert!(done <= open, "{done:?} is beyond {open:?}");
    world.check();
    assert_eq!(world.compact(BIG_MAP), Some(done), "nothing new until it ends");
    world.end_txn(7, false);
    roll(&mut world);
    assert!(world.compact(BIG_MAP).expect("dirty") > open);
    world.check();
}

#[test]
fn a_producer_goes_on_where_it_was() {
    let mut world = world();
    for _ in 0..6 {
        world.append(&idempotent(4, &[(1, true), (2, true)]));
        world.append(&idempotent(5, &[(1, true), (2, true)]));
    }
    roll(&mut world);
    world.compact(BIG_MAP).expect("dirty");
    let mut world = world.reopen();
    world.append(&idempotent(4, &[(9, true)]));
    world.append(&idempotent(5, &[(9, true)]));
    world.check();
}

#[test]
fn a_map_that_is_too_small_takes_several_rounds() {
    let mut world = world();
    for round in 0..60_u8 {
        world.plain(&[(round, true), (round / 2, true), (round / 3, true)]);
    }
    roll(&mut world);
    let mut rounds = Vec::new();
    while let Some(done) = world.compact(24 * 12) {
        assert!(rounds.last().is_none_or(|last| done > *last), "{done:?} after {rounds:?}");
        rounds.push(done);
        world.check();
    }
    assert!(rounds.len() > 5, "{rounds:?}");
}

#[test]
fn a_reader_of_the_old_segment_is_not_disturbed() {
    let mut world = world();
    for _ in 0..20 {
        world.plain(&[(1, true), (2, true)]);
    }
    roll(&mut world);
    let frozen = world.log.reader().freeze(Offset::ZERO).expect("healthy").expect("a segment");
    world.compact(BIG_MAP).expect("dirty");
    let mut walk = frozen.walk();
    let mut next = Offset::ZERO;
    while let Some(step) = now(walk.next()).expect("healthy") {
        let crate::walk::Step::Batch { entry, .. } = step else { panic!("the old files are whole") };
        assert_eq!(entry.base, next, "without a gap, as it was");
        next = entry.last.next();
    }
    assert_eq!(next, frozen.end);
}

#[test]
fn a_follower_takes_the_gaps_over() {
    let mut leader = world();
    for round in 0..30 {
        leader.plain(&[(1, true), (round % 3 + 2, true)]);
    }
    roll(&mut leader);
    leader.compact(BIG_MAP).expect("dirty");
    let mut follower = world();
    let (source, mut offset) = (leader.log.reader(), Offset::ZERO);
    while offset < source.end() {
        let ask = ReadAsk { offset, max_bytes: 200, at_least_one: true, end_bound: source.end() };
        let read = now(source.read(ask)).expect("no damage");
        for batch in dejaq_wire::record::Batches::new(read.batches) {
            let batch = VerifiedBatch::verify(batch.expect("whole").to_bytes()).expect("good");
            follower.log.append_follower(&[batch], NOW_MS).expect("it takes gaps");
        }
        offset = read.next;
    }
    assert_eq!(read_all(&follower.log).expect("good"), read_all(&leader.log).expect("good"));
    follower.story = leader.story.clone();
    follower.platter.kill();
    let mut follower = follower.reopen();
    assert_eq!(follower.log.end(), leader.log.end(), "a kill loses nothing, gaps or not");
    follower.settle();
    follower.platter.crash(&mut stream(1, "follower", 0), CrashMode::Lose);
    let follower = follower.reopen();
    assert_eq!(read_all(&follower.log).expect("good"), read_all(&leader.log).expect("good"));
    now(follower.log.check_deep()).expect("it agrees with itself");
}

#[test]
fn a_truncation_into_a_cleaned_segment_keeps_what_is_before() {
    for to in 0..40 {
        let mut world = world();
        for round in 0..20 {
            world.plain(&[(1, true), (round % 3 + 2, true)]);
        }
        roll(&mut world);
        world.compact(BIG_MAP).expect("dirty");
        let before = read_all(&world.log).expect("good");
        let end = now(world.log.truncate_to(Offset(to))).expect("healthy");
        let kept: Vec<_> = before.into_iter().filter(|batch| batch.last < Offset(to)).collect();
        assert_eq!(read_all(&world.log).expect("good"), kept, "to {to}");
        assert_eq!(end, kept.last().map_or(Offset::ZERO, |batch| batch.last.next()), "to {to}");
        now(world.log.check_deep()).expect("it agrees with itself");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(Data),
    EndTxn { id: i64, commit: bool },
    Settle,
    Compact { slots: usize },
    Wait { ms: i64 },
    AdvanceStart { permille: i64 },
    Shed,
    Kill,
    Crash { seed: u64 },
}

fn data() -> impl Strategy<Value = Data> {
    let records = prop::collection::vec((0..8_u8, prop::bool::weighted(0.8)), 1..6);
    let producer = prop_oneof![
        3 => Just(None),
        2 => (0..3_i64).prop_map(|id| Some((id, false))),
        3 => (10..13_i64).prop_map(|id| Some((id, true))),
    ];
    let codec = prop_oneof![3 => Just(Compression::None), 1 => Just(Compression::Zstd)];
    (records, producer, codec).prop_map(|(records, producer, codec)| Data { records, producer, codec })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        16 => data().prop_map(Step::Append),
        5 => (10..13_i64, any::<bool>()).prop_map(|(id, commit)| Step::EndTxn { id, commit }),
        4 => Just(Step::Settle),
        4 => (8..40_usize).prop_map(|slots| Step::Compact { slots }),
        2 => (0..2 * RETENTION_MS).prop_map(|ms| Step::Wait { ms }),
        1 => (0..400_i64).prop_map(|permille| Step::AdvanceStart { permille }),
        1 => Just(Step::Shed),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
    ]
}

fn run(mut world: World, step: &Step) -> World {
    match step {
        Step::Append(data) => world.append(data),
        Step::EndTxn { id, commit } if world.story.open.contains_key(id) => world.end_txn(*id, *commit),
        Step::EndTxn { .. } => {}
        Step::Settle => world.settle(),
        Step::Compact { slots } => drop(world.compact(slots * 24)),
        Step::Wait { ms } => world.now_ms += ms,
        Step::AdvanceStart { permille } => {
            let flushed = world.log.flushed();
            let to = world.start.plus(flushed.since(world.start) * permille / 1000);
            world.start = now(world.log.advance_start(to)).expect("healthy");
        }
        Step::Shed => world.log.shed_idle(),
        Step::Kill => {
            world.settle(); // so that the story of producers is not cut
            world.platter.kill();
            return world.reopen();
        }
        Step::Crash { seed } => {
            world.settle();
            let mut rng = stream(*seed, "compaction", 0);
            let mode = CrashMode::draw(&mut rng);
            world.platter.crash(&mut rng, mode);
            return world.reopen();
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_last_values(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = world();
        for step in &steps {
            world = run(world, step);
            world.check();
        }
    }
}

/// Two rounds with a full map, one without, restarts in between. `None`: the power went.
fn script(platter: &Platter, story: &mut Story, durable: &mut Offset) -> Option<()> {
    let (mut log, _) = try_open(platter, compacted()).ok()?;
    for part in 0..3_u8 {
        for round in 0..9_u8 {
            let data = match round % 3 {
                0 => idempotent(1, &[(round % 4, true), (5, round % 2 == 0)]),
                1 => txn(7, &[(round % 4, true), (6 + part, true)]),
                _ => Data {
                    records: vec![(round, true), (2, false)],
                    producer: None,
                    codec: Compression::None,
                },
            };
            let mut batches = vec![story.build(&data, NOW_MS)];
            if round % 3 == 1 {
                batches.push(story.marker(7, round % 2 == 0, NOW_MS));
            }
            let epoch = dejaq_wire::ids::LeaderEpoch(i32::from(part) + 1);
            log.append_leader(&batches, epoch, NOW_MS).into_iter().collect::<Result<Vec<_>, _>>().ok()?;
        }
        for _ in 0..3 {
            if let Some(flush) = log.begin_idle_flush().ok()? {
                *durable = now(log.run_flush(flush)).ok()?;
            }
        }
        let map_bytes = if part == 1 { 24 * 6 } else { BIG_MAP };
        now(log.compact(ask(NOW_MS + i64::from(part) * RETENTION_MS, log.flushed(), map_bytes))).ok()?;
        if part == 0 {
            now(log.close()).ok()?;
            log = try_open(platter, compacted()).ok()?.0;
        }
    }
    Some(())
}

fn operations() -> u64 {
    let (platter, cutter) = Cutter::device(u64::MAX, 0);
    script(&platter, &mut Story::default(), &mut Offset::ZERO.clone()).expect("nothing is cut");
    cutter.seen.load(Ordering::Relaxed)
}

fn verify(platter: &Platter, mut story: Story, durable: Offset, context: &str) {
    let (mut log, report) =
        try_open(platter, compacted()).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(report.damaged.is_empty(), "{context}: {report:?}");
    assert!(log.end() >= durable, "{context}: {durable:?} was durable: {report:?}");
    story.cut(log.end());
    story.judge(&batches_of(&log), Offset::ZERO, log.cleaned(), false);
    now(log.check_deep()).unwrap_or_else(|error| panic!("{context}: {error}"));
    let leftovers: Vec<_> = platter
        .files()
        .into_iter()
        .map(|(path, _)| path.display().to_string())
        .filter(|path| path.contains(".cleaned") || path.ends_with("/swap") || path.ends_with(".deleted"))
        .collect();
    assert!(leftovers.is_empty(), "{context}: {leftovers:?}");
    for _ in 0..3 {
        if let Some(flush) = log.begin_idle_flush().expect("healthy") {
            now(log.run_flush(flush)).expect("healthy");
        }
    }
    now(log.compact(ask(NOW_MS, log.flushed(), BIG_MAP)))
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    story.judge(&batches_of(&log), Offset::ZERO, log.cleaned(), false);
}

#[test]
fn a_power_cut_behind_any_operation_leaves_the_old_or_the_new() {
    let count = operations();
    assert!(count > 100, "the script has {count} operations");
    for at in 1..=count {
        for seed in [at, at + 2] {
            let (platter, cutter) = Cutter::device(at, seed);
            let (mut story, mut durable) = (Story::default(), Offset::ZERO);
            let _ = script(&platter, &mut story, &mut durable);
            cutter.arm(u64::MAX, 0);
            platter.crash(&mut stream(seed, "end", at), CrashMode::Lose);
            verify(&platter, story, durable, &format!("cut behind operation {at}, seed {seed}"));
        }
    }
}

#[test]
fn a_second_power_cut_inside_of_recovery_changes_nothing_of_that() {
    let count = operations();
    for at in (1..=count).step_by(7) {
        for inside in 1..14 {
            let seed = at + inside;
            let (platter, cutter) = Cutter::device(at, seed);
            let (mut story, mut durable) = (Story::default(), Offset::ZERO);
            let _ = script(&platter, &mut story, &mut durable);
            platter.kill();
            cutter.arm(inside, seed + 1);
            drop(try_open(&platter, compacted()));
            cutter.arm(u64::MAX, 0);
            platter.crash(&mut stream(seed, "end", at), CrashMode::Lose);
            let context = format!("cut behind operation {at}, then behind {inside} of recovery");
            verify(&platter, story, durable, &context);
        }
    }
}
