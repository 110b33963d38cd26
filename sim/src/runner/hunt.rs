//! Fresh seeds until the time is over or something is found, with live progress.
//!
//! Owns: drawing scenarios in turn, counting, and the report at the end. Promises: the first finding is printed at
//! once as a replay line; `--collect` goes on. Leaves out: swarm settings (each scenario draws its own from the seed).

#![allow(clippy::disallowed_methods, reason = "a hunt is bounded by the wall clock")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::batch::{self, Job};
use super::verdict::{Replay, RunReport, Status};
use super::{Scenario, Tables};

/// What to hunt.
pub struct Hunt<'a> {
    pub minutes: f64,
    pub jobs: usize,
    pub collect: bool,
    pub only: Option<&'a str>,
    pub first_seed: u64,
    pub commit: String,
}

#[derive(Default)]
struct Tally {
    seeds: u64,
    sim_ms: u64,
    events: u64,
    findings: Vec<String>,
    marks: BTreeMap<String, u64>,
    counts: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, report: &RunReport) {
        self.seeds += 1;
        self.sim_ms += report.sim_ms;
        self.events += report.events;
        report.marks.iter().for_each(|mark| *self.marks.entry(mark.clone()).or_default() += 1);
        report.counts.iter().for_each(|(name, count)| *self.counts.entry(name.clone()).or_default() += count);
    }
}

/// Hunts; returns the findings as lines.
pub fn hunt(tables: &Tables, hunt: &Hunt<'_>) -> anyhow::Result<Vec<String>> {
    let drawn: Vec<&Scenario> =
        tables.scenarios.iter().filter(|s| hunt.only.map_or(s.random, |only| only == s.name)).collect();
    anyhow::ensure!(!drawn.is_empty(), "nothing to hunt in: see `dejaq-sim list`");
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(hunt.minutes * 60.0);
    let (mut tally, mut number, mut told) = (Tally::default(), 0_u64, started);
    batch::run(
        hunt.jobs,
        || {
            let scenario = drawn[(number % drawn.len() as u64) as usize];
            let seed = hunt.first_seed.wrapping_add(number / drawn.len() as u64);
            number += 1;
            let replay = Replay {
                commit: hunt.commit.clone(),
                scenario: scenario.name.into(),
                seed,
                ..Replay::default()
            };
            (Instant::now() < end).then(|| Job::new(replay))
        },
        |job, report| {
            tally.add(&report);
            if report.status != Status::Pass {
                let line =
                    format!("{} -- {:?} {}: {}", job.replay, report.status, report.checker, report.message);
                println!("FOUND {line}");
                tally.findings.push(line);
            }
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                eprintln!("{}", progress(&tally, started.elapsed()));
            }
            hunt.collect || tally.findings.is_empty()
        },
    )?;
    println!("{}", progress(&tally, started.elapsed()));
    println!("marks reached: {}", tally.marks.len());
    tally.marks.iter().for_each(|(mark, seeds)| println!("  {seeds:>8} seeds  {mark}"));
    tally.counts.iter().for_each(|(name, count)| println!("  {count:>12}  {name}"));
    Ok(tally.findings)
}

fn progress(tally: &Tally, wall: Duration) -> String {
    let seconds = wall.as_secs_f64().max(0.001);
    format!(
        "{:>6.1}s  {} seeds  {:.2} simulated hours  {:.0}x  {:.0} events/s  {} marks  {} findings",
        seconds,
        tally.seeds,
        tally.sim_ms as f64 / 3_600_000.0,
        tally.sim_ms as f64 / 1000.0 / seconds,
        tally.events as f64 / seconds,
        tally.marks.len(),
        tally.findings.len()
    )
}
