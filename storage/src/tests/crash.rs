//! A power cut behind every single disk operation of a script, in several modes; and a second one inside of recovery.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::kit::*;
use crate::layout::PARTITIONS;
use crate::log::flush::sync_flushes;
use crate::model_disk::random::stream;
use crate::model_disk::{CrashMode, DiskEvent, ModelDisk, Observer, Op, Platter, Setup};
use crate::{Disk, Log, VerifiedBatch};
use dejaq_wire::ids::{LeaderEpoch, Offset};

/// Cuts the power behind the operation number `at`.
#[derive(Default)]
pub(super) struct Cutter {
    platter: Mutex<Option<Platter>>,
    pub(super) seen: AtomicU64,
    at: AtomicU64,
    seed: AtomicU64,
}

const MODES: [CrashMode; 5] =
    [CrashMode::Lose, CrashMode::Keep, CrashMode::Prefix, CrashMode::Subset, CrashMode::Garbage];

impl Observer for Cutter {
    fn event(&self, event: &DiskEvent<'_>, _: Option<ErrorKind>) {
        if matches!(event.op, Op::Read | Op::ColdRead | Op::Open) {
            return;
        }
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if seen == self.at.load(Ordering::Relaxed) {
            let platter = self.platter.lock().expect("one thread").clone().expect("it was given");
            let seed = self.seed.load(Ordering::Relaxed);
            platter.crash(&mut stream(seed, "cut", seen), MODES[seed as usize % MODES.len()]);
        }
    }
}

impl Cutter {
    /// A device that dies behind its operation number `at`, counted from here.
    pub(super) fn device(at: u64, seed: u64) -> (Platter, Arc<Cutter>) {
        let cutter = Arc::new(Cutter::default());
        let observer: Arc<dyn Observer> = cutter.clone();
        let platter = Platter::new(Setup { observer: Some(observer), ..Setup::default() });
        let disk = platter.mount();
        disk.create_dir_all(Path::new(PARTITIONS)).expect("healthy");
        now(disk.sync_dir(Path::new(""))).expect("healthy");
        *cutter.platter.lock().expect("one thread") = Some(platter.clone());
        cutter.arm(at, seed);
        (platter, cutter)
    }

    pub(super) fn arm(&self, at: u64, seed: u64) {
        self.seen.store(0, Ordering::Relaxed);
        self.at.store(at, Ordering::Relaxed);
        self.seed.store(seed, Ordering::Relaxed);
    }
}

/// What a run was told before the lights went out.
#[derive(Debug, Default)]
struct Told {
    batches: Vec<Expected>,
    /// Acknowledged after a flush.
    durable: Offset,
    /// The start that was acknowledged, and one that may have been.
    start: Offset,
    start_maybe: Offset,
    /// A truncation that was begun: the log may end as before or there.
    cutting: Option<Offset>,
}

impl Told {
    fn end(&self) -> Offset {
        self.batches.last().map_or(Offset::ZERO, |batch| batch.last.next())
    }

    fn append(&mut self, log: &mut Log<ModelDisk>, epoch: LeaderEpoch, specs: &[Spec]) -> Option<()> {
        let salt = self.batches.len() as u64;
        let batches: Vec<VerifiedBatch> = specs.iter().map(|spec| spec.build(salt)).collect();
        for (batch, result) in batches.iter().zip(log.append_leader(&batches, epoch, NOW_MS)) {
            // What failed may still be there: the failure was told while the power went.
            let base = result.map_or(self.end(), |appended| appended.base);
            let mut placed = dejaq_wire::record::Batch::parse(batch.bytes()).expect("verified");
            placed.place(base, epoch);
            let (last, bytes) = (placed.header.last_offset(), placed.to_bytes());
            self.batches.push(Expected { base, last, bytes });
            result.ok()?;
        }
        Some(())
    }

    fn flush(&mut self, log: &mut Log<ModelDisk>) -> Option<()> {
        let flush = log.begin_flush().ok()?;
        let Some(flush) = flush else { return Some(()) };
        let mut flushes = [flush];
        let result = now(sync_flushes(&log.shared.disk, &mut flushes));
        let [flush] = flushes;
        self.durable = log.end_flush(flush, &result).ok()?;
        Some(())
    }

    fn advance(&mut self, log: &mut Log<ModelDisk>, to: Offset) -> Option<()> {
        self.start_maybe = to;
        now(log.advance_start(to)).ok()?;
        self.start = to;
        Some(())
    }

    fn truncate(&mut self, log: &mut Log<ModelDisk>, to: Offset) -> Option<()> {
        self.cutting = Some(to);
        let end = now(log.truncate_to(to)).ok()?;
        self.cutting = None;
        self.batches.retain(|batch| batch.last < to);
        self.durable = self.durable.min(end);
        Some(())
    }
}

/// Rolls, snapshots, starts, truncations, epochs, a clean close in between. `None`: the power went.
fn script(platter: &Platter, told: &mut Told) -> Option<()> {
    let epoch = LeaderEpoch(1);
    let (mut log, _) = try_open(platter, small()).ok()?;
    told.append(&mut log, epoch, &[Spec::of(1, 0, 2), Spec::plain(3, 40)])?;
    told.flush(&mut log)?;
    for at in 0..6 {
        told.append(&mut log, epoch, &[Spec::plain(2, 150), Spec::of(1, 2 + at, 1)])?;
        if at % 2 == 0 {
            told.flush(&mut log)?;
        }
    }
    told.advance(&mut log, Offset(9))?;
    told.append(&mut log, LeaderEpoch(2), &[Spec::plain(1, 700), Spec::plain(1, 700)])?;
    told.truncate(&mut log, Offset(18))?;
    told.append(&mut log, LeaderEpoch(4), &[Spec::plain(4, 60), Spec::of(2, 7, 2)])?;
    told.flush(&mut log)?;
    now(log.close()).ok()?;
    let (mut log, _) = try_open(platter, small()).ok()?;
    told.append(&mut log, LeaderEpoch(5), &[Spec::plain(1, 900), Spec::plain(1, 900)])?;
    told.flush(&mut log)?;
    told.advance(&mut log, Offset(24))?;
    told.append(&mut log, LeaderEpoch(5), &[Spec::plain(5, 20)])?;
    Some(())
}

/// The log that is opened holds what was told, and nothing that was not said.
fn verify(platter: &Platter, told: &Told, context: &str) {
    let (log, report) = try_open(platter, small()).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(report.damaged.is_empty(), "{context}: {report:?}");
    let start = log.start();
    assert!(start == told.start || start == told.start_maybe, "{context}: start {start:?}, {told:?}");
    let kept = told.cutting.map_or(told.durable, |to| {
        told.batches
            .iter()
            .filter(|b| b.last < to)
            .map(|b| b.last.next())
            .next_back()
            .unwrap_or(Offset::ZERO)
            .min(told.durable)
    });
    assert!(
        log.end() >= kept,
        "{context}: {kept:?} was durable, the log ends at {:?}: {report:?}",
        log.end()
    );
    let found = read_all(&log).unwrap_or_else(|error| panic!("{context}: {error}"));
    let expected: Vec<_> =
        told.batches.iter().filter(|batch| batch.last >= start && batch.last < log.end()).cloned().collect();
    assert_eq!(found, expected, "{context}: {report:?}");
    now(log.check_deep()).unwrap_or_else(|error| panic!("{context}: {error}"));
}

fn operations() -> u64 {
    let (platter, cutter) = Cutter::device(u64::MAX, 0);
    let mut told = Told::default();
    script(&platter, &mut told).expect("nothing is cut");
    cutter.seen.load(Ordering::Relaxed)
}

#[test]
fn a_power_cut_behind_any_operation_loses_nothing_durable_and_invents_nothing() {
    let count = operations();
    assert!(count > 100, "the script has {count} operations");
    for at in 1..=count {
        for seed in 0..5 {
            let (platter, cutter) = Cutter::device(at, seed);
            let mut told = Told::default();
            let _ = script(&platter, &mut told);
            cutter.arm(u64::MAX, 0);
            platter.crash(&mut stream(seed, "end", at), CrashMode::Lose);
            verify(&platter, &told, &format!("cut behind operation {at}, seed {seed}"));
        }
    }
}

#[test]
fn a_second_power_cut_inside_of_recovery_changes_nothing_of_that() {
    let count = operations();
    for at in (1..=count).step_by(3) {
        for inside in 1..12 {
            let seed = at + inside;
            let (platter, cutter) = Cutter::device(at, seed);
            let mut told = Told::default();
            let _ = script(&platter, &mut told);
            platter.kill();
            cutter.arm(inside, seed + 1);
            drop(try_open(&platter, small()));
            cutter.arm(u64::MAX, 0);
            platter.crash(&mut stream(seed, "end", at), CrashMode::Lose);
            verify(&platter, &told, &format!("cut behind operation {at}, then behind {inside} of recovery"));
        }
    }
}

#[test]
fn what_was_never_synced_is_lost_as_a_suffix_and_never_moves_the_start() {
    for seed in 0..400 {
        let mut pair = Pair::new(small());
        for _ in 0..seed % 3 {
            pair.fill(1);
            pair.flush();
        }
        pair.fill(40);
        let segments = pair.log.shared.lock().segments.len();
        assert!(segments > 3, "{segments} segments");
        let mode = if seed % 2 == 0 { CrashMode::Subset } else { CrashMode::Garbage };
        pair.platter.crash(&mut stream(seed, "never synced", 0), mode);
        let (mut pair, report) = pair.reopen(small());
        assert!(report.damaged.is_empty(), "seed {seed}: {report:?}");
        pair.fill(3);
        pair.check();
    }
}
