//! Fresh seeds until the time is over or something is found, with live progress.
//!
//! Owns: drawing scenarios in turn, the clock, and the file by which a hunt goes on later. Promises: the first finding is
//! printed at once as a replay line; `--collect` goes on; no seed is run twice by a hunt that goes on, and none left out.
//! Leaves out: swarm settings (each scenario draws its own from the seed), adding up (`tally`).

#![allow(clippy::disallowed_methods, reason = "a hunt is bounded by the wall clock and keeps a file")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::batch::{self, Job};
use super::tally::{self, Tally};
use super::verdict::{Replay, RunReport, Status};
use super::{Scenario, Tables};

/// How often progress is told and kept.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// With it every story means what it says.
const STORY_SEED: u64 = 3;

/// What to hunt.
pub struct Hunt<'a> {
    pub minutes: f64,
    pub jobs: usize,
    pub collect: bool,
    pub only: Option<&'a str>,
    pub first_seed: u64,
    pub commit: String,
    /// Fails if a mark of the product was never reached.
    pub require_marks: bool,
    /// Where it is kept, so that it can go on.
    pub state: Option<&'a Path>,
    /// Gets a line of the form of `scenarios/regressions.txt` for each finding.
    pub out: Option<&'a Path>,
}

/// What the file of a hunt holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The commit of the build: another one has other runs.
    commit: String,
    only: Option<String>,
    first_seed: u64,
    /// Runs are numbered; all below this one have ended.
    next: u64,
    /// And these, above it.
    ended: BTreeSet<u64>,
    /// Whether the stories were told.
    #[serde(default)]
    told: bool,
    tally: Tally,
}

impl Kept {
    fn of(hunt: &Hunt<'_>) -> anyhow::Result<Kept> {
        let fresh = Kept {
            commit: hunt.commit.clone(),
            only: hunt.only.map(str::to_owned),
            first_seed: hunt.first_seed,
            ..Kept::default()
        };
        let Some(text) = hunt.state.and_then(|file| std::fs::read_to_string(file).ok()) else {
            return Ok(fresh);
        };
        let kept: Kept = serde_json::from_str(&text)?;
        if (&kept.commit, &kept.only) != (&fresh.commit, &fresh.only) {
            println!(
                "the hunt in the file was of another commit or scenario ({}): a new one begins",
                kept.commit
            );
            return Ok(fresh);
        }
        println!("going on from seed {}, run {}", kept.first_seed, kept.next);
        Ok(kept)
    }

    fn end(&mut self, number: u64) {
        self.ended.insert(number);
        while self.ended.remove(&self.next) {
            self.next += 1;
        }
    }

    /// The next run after `number` that has not ended; `None` means from the beginning.
    fn after(&self, number: Option<u64>) -> u64 {
        let from = number.map_or(self.next, |number| number + 1);
        (from..).find(|number| !self.ended.contains(number)).unwrap_or(from)
    }

    /// Writes it so that a crash leaves the old one or the new one.
    fn keep(&self, file: &Path) -> anyhow::Result<()> {
        let fresh = file.with_extension("new");
        std::fs::write(&fresh, serde_json::to_string(self)?)?;
        Ok(std::fs::rename(fresh, file)?)
    }
}

/// Hunts; returns whether all is well.
pub fn hunt(tables: &Tables, hunt: &Hunt<'_>) -> anyhow::Result<bool> {
    let drawn: Vec<&Scenario> =
        tables.scenarios.iter().filter(|s| hunt.only.map_or(s.random, |only| only == s.name)).collect();
    anyhow::ensure!(!drawn.is_empty(), "nothing to hunt in: see `dejaq-sim list`");
    let kept = RefCell::new(Kept::of(hunt)?);
    println!("hunting for {} minutes from seed {}", hunt.minutes, kept.borrow().first_seed);
    let (started, before) = (Instant::now(), kept.borrow().tally.wall_ms);
    let end = started + Duration::from_secs_f64(hunt.minutes * 60.0);
    let (last, mut told, mut found, mut failure) = (Cell::new(None::<u64>), started, 0_u64, None);
    let scenarios = drawn.len() as u64;
    batch::run(
        hunt.jobs,
        || {
            let number = kept.borrow().after(last.get());
            last.set(Some(number));
            let seed = kept.borrow().first_seed.wrapping_add(number / scenarios);
            let scenario = drawn[(number % scenarios) as usize].name.into();
            let replay = Replay { commit: hunt.commit.clone(), scenario, seed, ..Replay::default() };
            (Instant::now() < end).then(|| Job::new(replay))
        },
        |job, report| {
            let mut kept = kept.borrow_mut();
            let at = drawn.iter().position(|scenario| scenario.name == job.replay.scenario).unwrap_or(0);
            let round = job.replay.seed.wrapping_sub(kept.first_seed);
            kept.end(round * scenarios + at as u64);
            kept.tally.add(&report);
            kept.tally.wall_ms = before + started.elapsed().as_millis() as u64;
            if report.status != Status::Pass {
                found += 1;
                failure = failure.take().or_else(|| tell(hunt, &job.replay, &report, &mut kept.tally).err());
            }
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                show(&kept.tally.progress());
                failure = failure.take().or_else(|| hunt.state.and_then(|file| kept.keep(file).err()));
            }
            failure.is_none() && (hunt.collect || found == 0)
        },
    )?;
    let mut kept = kept.into_inner();
    if hunt.require_marks && !kept.told && failure.is_none() {
        found += stories(tables, hunt, &mut kept)?;
    }
    if let Some(file) = hunt.state {
        kept.keep(file)?;
    }
    failure.map_or(Ok(()), Err)?;
    let known = tally::marks(tables.marks);
    println!("{}", kept.tally.report(&known));
    let missed = kept.tally.missed(&known).len();
    if hunt.require_marks && missed > 0 {
        println!("FAILED {missed} marks were never reached");
    }
    Ok(found == 0 && !(hunt.require_marks && missed > 0))
}

/// Tells every directed story once: marks that only those reach count as reached. Returns how many found something.
fn stories(tables: &Tables, hunt: &Hunt<'_>, kept: &mut Kept) -> anyhow::Result<u64> {
    let mut left = tables.scenarios.iter().filter(|scenario| !scenario.random && hunt.only.is_none());
    let (mut found, mut failure) = (0, None);
    batch::run(
        hunt.jobs,
        || {
            let (commit, scenario) = (hunt.commit.clone(), left.next()?.name.into());
            Some(Job::new(Replay { commit, scenario, seed: STORY_SEED, ..Replay::default() }))
        },
        |job, report| {
            kept.tally.add(&report);
            if report.status != Status::Pass {
                found += 1;
                failure = failure.take().or_else(|| tell(hunt, &job.replay, &report, &mut kept.tally).err());
            }
            failure.is_none()
        },
    )?;
    kept.told = true;
    failure.map_or(Ok(found), Err)
}

/// A finding: a line on the screen, one in the tally, and one in the file of findings.
fn tell(hunt: &Hunt<'_>, replay: &Replay, report: &RunReport, tally: &mut Tally) -> anyhow::Result<()> {
    let line = format!("{replay} -- {:?} {}: {}", report.status, report.checker, report.message);
    println!("FOUND {line}");
    tally.findings.push(line);
    hunt.out.map_or(Ok(()), |file| super::cli::append(file, replay, report))
}

/// On a terminal progress stays in one line.
fn show(line: &str) {
    let mut err = std::io::stderr();
    let _ = match err.is_terminal() {
        true => write!(err, "\r\x1b[2K{line}"),
        false => writeln!(err, "{line}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hunt_that_goes_on_leaves_no_run_out_and_repeats_none() {
        let mut kept = Kept::default();
        let mut handed = Vec::new();
        let mut last = None;
        for _ in 0..4 {
            let number = kept.after(last);
            handed.push(number);
            last = Some(number);
        }
        assert_eq!(handed, [0, 1, 2, 3]);
        // 1 did not end before it was stopped.
        [0, 2, 3].iter().for_each(|number| kept.end(*number));
        let text = serde_json::to_string(&kept).expect("plain data");
        let kept: Kept = serde_json::from_str(&text).expect("its own form");
        assert_eq!(kept.after(None), 1);
        assert_eq!(kept.after(Some(1)), 4);
        assert_eq!(kept.after(Some(4)), 5);
    }
}
