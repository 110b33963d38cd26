//! Makes a failing run small: leaves out time, topics, faults, clients and records as long as the same checker fires.
//!
//! Owns: the order in which things are tried, and what is printed. Promises: what is kept was needed the last time that it
//! was tried; every candidate is a whole run in its own process; the result is a replay line like any other.
//! What makes every later candidate cheap comes first: the end of the first act, then topics, strikes, clients, records;
//! and all of it again until nothing more goes, since what was needed for one thing may not be for another.
//! Leaves out: what a cut means (`crate::cuts`). Source: delta debugging (Zeller and Hildebrandt 2002), over whole things only.

#![allow(clippy::disallowed_methods, reason = "bounded by the wall clock")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::batch::{self, Job};
use super::verdict::{Replay, RunReport, Status};
use crate::cuts::Cuts;

/// How a run is made small.
pub struct Shrink {
    pub jobs: usize,
    pub minutes: f64,
}

struct Search<'a> {
    how: &'a Shrink,
    until: Instant,
    /// The smallest run that still fails in the same way, and what it reported.
    best: (Replay, RunReport),
    runs: u64,
}

/// Shrinks the run of a replay line; returns the smallest line that was found, with its report.
///
/// # Errors
/// The run does not fail, or a child cannot be started.
pub fn shrink(how: &Shrink, replay: Replay) -> anyhow::Result<(Replay, RunReport)> {
    let first = reports(how.jobs, vec![replay.clone()])?.remove(0);
    anyhow::ensure!(first.status != Status::Pass, "this run passes: there is nothing to shrink");
    let until = Instant::now() + Duration::from_secs_f64(how.minutes * 60.0);
    println!("{}", size("before", &replay, &first));
    let mut search = Search { how, until, best: (replay, first.clone()), runs: 1 };
    loop {
        let before = search.best.0.cuts.clone();
        search.time()?;
        search.flag(|cuts| cuts.narrow = true)?;
        search.strikes()?;
        search.flag(|cuts| cuts.quick = true)?;
        search.clients(drawn(&first, "plan producers"), drawn(&first, "plan consumers"))?;
        search.records()?;
        if search.best.0.cuts == before || search.is_late() {
            break;
        }
    }
    println!("{}", size("after", &search.best.0, &search.best.1));
    println!("{} runs{}", search.runs, if search.is_late() { ", the time was over" } else { "" });
    Ok(search.best)
}

fn drawn(report: &RunReport, name: &str) -> u64 {
    report.counts.get(name).copied().unwrap_or(0)
}

/// How large a run is, in one line.
#[must_use]
pub fn size(when: &str, replay: &Replay, report: &RunReport) -> String {
    let left = |name: &str, cut: usize| drawn(report, name).saturating_sub(cut as u64);
    format!(
        "{when:<7} {:>4} strikes  {:>2} producers  {:>2} consumers  {:>6} records  {:>8} events  {:>7} simulated ms",
        // With `q` those that are left out are not drawn at all.
        left("strikes drawn", if replay.cuts.quick { 0 } else { replay.cuts.strikes.len() }),
        left("plan producers", replay.cuts.producers.len()),
        left("plan consumers", replay.cuts.consumers.len()),
        drawn(report, "records acknowledged")
            + drawn(report, "records unknown")
            + drawn(report, "records refused"),
        report.events,
        report.sim_ms,
    )
}

impl Search<'_> {
    fn is_late(&self) -> bool {
        Instant::now() > self.until
    }

    /// Ends the first act earlier.
    fn time(&mut self) -> anyhow::Result<()> {
        // Never longer than the run itself, so that the first candidates are worth their while.
        let most = self.best.0.cuts.chaos_ms.unwrap_or(self.best.1.sim_ms);
        self.least(most, 64, |cuts, ms| cuts.chaos_ms = Some(ms))
    }

    /// Leaves out a thing that is there or not.
    fn flag(&mut self, set: impl Fn(&mut Cuts)) -> anyhow::Result<()> {
        let mut cuts = self.best.0.cuts.clone();
        set(&mut cuts);
        if cuts != self.best.0.cuts {
            self.try_all(vec![cuts])?;
        }
        Ok(())
    }

    /// Leaves out strikes: half of those that are left, then quarters, down to one at a time.
    fn strikes(&mut self) -> anyhow::Result<()> {
        let cut = &self.best.0.cuts;
        let gone = if cut.quick { cut.strikes.len() as u64 } else { 0 };
        let most = drawn(&self.best.1, "strikes drawn") + gone;
        let kept = |cuts: &Cuts| (0..most).filter(|s| !cuts.strikes.contains(s)).collect::<Vec<_>>();
        let mut size = kept(&self.best.0.cuts).len();
        while size > 0 {
            let left = kept(&self.best.0.cuts);
            let candidates = left.chunks(size).map(|chunk| {
                let mut cuts = self.best.0.cuts.clone();
                cuts.strikes.extend(chunk);
                cuts
            });
            let candidates = candidates.collect();
            if !self.try_all(candidates)? {
                size /= 2;
            }
            size = size.min(kept(&self.best.0.cuts).len());
        }
        Ok(())
    }

    fn clients(&mut self, producers: u64, consumers: u64) -> anyhow::Result<()> {
        loop {
            let now = self.best.0.cuts.clone();
            let mut candidates = Vec::new();
            if !now.others {
                candidates.push(Cuts { others: true, ..now.clone() });
            }
            let without = |all: &BTreeSet<u64>, one: u64| all.iter().copied().chain([one]).collect();
            for one in (0..producers).filter(|one| !now.producers.contains(one)) {
                candidates.push(Cuts { producers: without(&now.producers, one), ..now.clone() });
            }
            for one in (0..consumers).filter(|one| !now.consumers.contains(one)) {
                candidates.push(Cuts { consumers: without(&now.consumers, one), ..now.clone() });
            }
            if candidates.is_empty() || !self.try_all(candidates)? {
                return Ok(());
            }
        }
    }

    /// Lets no producer send more records than are needed.
    fn records(&mut self) -> anyhow::Result<()> {
        let most = self.best.0.cuts.records.unwrap_or(1 << 10);
        self.least(most, 1, |cuts, records| cuts.records = Some(records))
    }

    /// Finds the least number below `most` that will do: a power of two times `unit`, then three times half way down.
    fn least(&mut self, most: u64, unit: u64, set: impl Fn(&mut Cuts, u64)) -> anyhow::Result<()> {
        let now = self.best.0.cuts.clone();
        let with = |number: u64| {
            let mut cuts = now.clone();
            set(&mut cuts, number);
            cuts
        };
        let powers: Vec<u64> =
            (0..20).map(|power| unit << power).take_while(|number| *number < most).collect();
        if !self.try_all(powers.iter().map(|number| with(*number)).collect())? {
            return Ok(());
        }
        let took = powers.into_iter().find(|number| with(*number) == self.best.0.cuts);
        let mut high = took.expect("what was taken is one of those that were tried");
        let mut low = high / 2;
        for _ in 0..3 {
            let half = low + (high - low) / 2;
            if half == low {
                break;
            }
            match self.try_all(vec![with(half)])? {
                true => high = half,
                false => low = half,
            }
        }
        Ok(())
    }

    /// Runs the candidates, a few at a time; takes the first that still fails in the same way, if there is one.
    fn try_all(&mut self, candidates: Vec<Cuts>) -> anyhow::Result<bool> {
        for some in candidates.chunks(self.how.jobs.max(1)) {
            if self.is_late() {
                return Ok(false);
            }
            let replays: Vec<Replay> =
                some.iter().map(|cuts| Replay { cuts: cuts.clone(), ..self.best.0.clone() }).collect();
            self.runs += replays.len() as u64;
            let reports = reports(self.how.jobs, replays.clone())?;
            let same = |report: &RunReport| {
                report.status == self.best.1.status && report.checker == self.best.1.checker
            };
            if let Some(found) = replays.into_iter().zip(reports).find(|(_, report)| same(report)) {
                eprintln!("{}", size("", &found.0, &found.1));
                self.best = found;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The reports of some runs, in their order.
fn reports(jobs: usize, replays: Vec<Replay>) -> anyhow::Result<Vec<RunReport>> {
    let mut left = replays.clone().into_iter();
    let mut found: Vec<Option<RunReport>> = vec![None; replays.len()];
    batch::run(
        jobs,
        || left.next().map(Job::new),
        |job, report| {
            let place = replays.iter().position(|replay| *replay == job.replay);
            found[place.expect("it was asked for")] = Some(report);
            true
        },
    )?;
    Ok(found.into_iter().map(|report| report.expect("every job ends with a report")).collect())
}
