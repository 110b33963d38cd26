//! Random histories against the reference: appends, flushes, rolls, starts, truncations, kills and power cuts.

use super::kit::*;
use crate::log::flush::sync_flushes;
use crate::model_disk::CrashMode;
use crate::model_disk::random::{below, stream};
use dejaq_wire::ids::Offset;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Append {
        batches: usize,
        records: usize,
        value_bytes: usize,
    },
    Produce {
        producer: i64,
    },
    Flush,
    /// A flush during which more is appended.
    SlowFlush {
        appends: usize,
    },
    /// A flush that the crash right after it interrupts before its end.
    LostFlush {
        seed: u64,
    },
    IdleFlush,
    AdvanceStart {
        permille: u64,
    },
    Truncate {
        permille: u64,
    },
    NewEpoch,
    Shed,
    Kill,
    Crash {
        seed: u64,
    },
    Close {
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..5usize, 1..6usize, 8..200usize)
            .prop_map(|(batches, records, value_bytes)| Step::Append { batches, records, value_bytes }),
        4 => (0..4i64).prop_map(|producer| Step::Produce { producer }),
        3 => Just(Step::Flush),
        2 => (0..4usize).prop_map(|appends| Step::SlowFlush { appends }),
        1 => any::<u64>().prop_map(|seed| Step::LostFlush { seed }),
        1 => Just(Step::IdleFlush),
        1 => (0..1001u64).prop_map(|permille| Step::AdvanceStart { permille }),
        1 => (0..1001u64).prop_map(|permille| Step::Truncate { permille }),
        1 => Just(Step::NewEpoch),
        1 => Just(Step::Shed),
        1 => Just(Step::Kill),
        3 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => any::<u64>().prop_map(|seed| Step::Close { seed }),
    ]
}

fn between(start: Offset, end: Offset, permille: u64) -> Offset {
    start.plus((end.since(start) as u64 * permille / 1000) as i64)
}

fn crash(pair: Pair, seed: u64) -> Pair {
    let mut rng = stream(seed, "history", 0);
    let mode = CrashMode::draw(&mut rng);
    pair.platter.crash(&mut rng, mode);
    let (pair, report) = pair.reopen(small());
    assert!(report.damaged.is_empty(), "a crash is no damage: {report:?}");
    pair
}

fn run(mut pair: Pair, step: &Step, sequences: &mut [i32; 4]) -> Pair {
    match *step {
        Step::Append { batches, records, value_bytes } => {
            let results = pair.append_all(&vec![Spec::plain(records, value_bytes); batches]);
            assert!(results.iter().all(Result::is_ok), "{results:?}");
        }
        Step::Produce { producer } => {
            let known = pair.log.describe_producers();
            let next = known.iter().find(|known| known.producer_id.0 == producer);
            let sequence = next.map_or(sequences[producer as usize], |known| known.last_sequence.next().0);
            pair.append(Spec::of(producer, sequence, 2)).expect("in sequence");
            sequences[producer as usize] = sequence + 2;
        }
        Step::Flush => pair.flush(),
        Step::SlowFlush { appends } => {
            if let Some(flush) = pair.log.begin_flush().expect("healthy") {
                let end = pair.end();
                let mut flushes = [flush];
                let work = sync_flushes(&pair.log.shared.disk, &mut flushes);
                // The model's sync covers what was written before it was called, as the contract says at least.
                let result = now(work);
                pair.fill(appends);
                let [flush] = flushes;
                assert_eq!(pair.log.end_flush(flush, &result), Ok(end));
                pair.durable = end;
            }
        }
        Step::LostFlush { seed } => {
            let _flush = pair.log.begin_flush().expect("healthy");
            return crash(pair, seed);
        }
        Step::IdleFlush => {
            if let Some(flush) = pair.log.begin_idle_flush().expect("healthy") {
                pair.durable = now(pair.log.run_flush(flush)).expect("healthy");
            }
        }
        Step::AdvanceStart { permille } => {
            // The watermark is never beyond what is durable here.
            let to = between(pair.start, pair.log.flushed().max(pair.start), permille);
            pair.advance_start(to);
        }
        Step::Truncate { permille } => {
            let to = between(pair.start, pair.end(), permille);
            pair.truncate(to);
            pair.epoch = pair.epoch.next();
        }
        Step::NewEpoch => {
            pair.epoch = pair.epoch.next();
            pair.log.begin_epoch(pair.epoch).expect("newer");
        }
        Step::Shed => pair.log.shed_idle(),
        Step::Kill => {
            pair.platter.kill();
            let end = pair.end();
            let (pair, _) = pair.reopen(small());
            assert_eq!(pair.end(), end, "a process kill loses nothing");
            return pair;
        }
        Step::Crash { seed } => return crash(pair, seed),
        Step::Close { seed } => {
            let Pair { platter, log, batches, start, epoch, salt, .. } = pair;
            now(log.close()).expect("healthy");
            platter.crash(&mut stream(seed, "close", 0), CrashMode::Garbage);
            let (log, report) = try_open(&platter, small()).expect("recovery");
            assert_eq!((report.scanned_bytes, &report.cut), (0, &None), "{report:?}");
            let mut pair = Pair { platter, log, batches, start, durable: Offset::ZERO, epoch, salt };
            let end = pair.end();
            pair.adopt();
            assert_eq!(pair.end(), end, "a clean close loses nothing");
            return pair;
        }
    }
    pair
}

fn history(steps: &[Step]) {
    let mut pair = Pair::new(small());
    let mut sequences = [0; 4];
    for step in steps {
        pair = run(pair, step, &mut sequences);
        pair.check();
        let mut rng = stream(pair.salt, "read", 0);
        if pair.end() > pair.start {
            let from = pair.start.plus(below(&mut rng, pair.end().since(pair.start) as u64) as i64);
            let found = read_from(&pair.log, from, 1).expect("no damage");
            let expected: Vec<_> = pair.batches.iter().filter(|batch| batch.last >= from).cloned().collect();
            assert_eq!(found, expected, "reads from {from:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_reads_as_the_reference(steps in prop::collection::vec(step(), 1..60)) {
        history(&steps);
    }
}
