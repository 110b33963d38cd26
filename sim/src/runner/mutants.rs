//! Proves that the checkers can see: every planted bug must die by its named checker within its budget of seeds.
//!
//! Owns: the mutation table and its score. Promises: seeds-to-kill is printed for each; a kill by another checker
//! than the named one is told as such and does not count. The tester's own mutants must make their partners survive,
//! else a death proved nothing about the fault that was meant to cause it. Source: CORRECTNESS.md 4.

#![allow(clippy::disallowed_methods, reason = "the record of a score is a file")]

use std::path::Path;

use super::batch::{self, Job};
use super::score::{self, Kill};
use super::shrink::{self, Shrink};
use super::verdict::{Replay, RunReport, Status};
use super::{Mutant, Tables, TesterMutant};

/// How one mutant ended.
enum Fate {
    Killed { seeds: u64, checker: String },
    WrongChecker { checker: String, message: String },
    Survived,
}

/// What of the table is run, and what it is compared with.
pub struct Round<'a> {
    pub width: usize,
    /// Only this one.
    pub only: Option<u32>,
    pub commit: String,
    /// The record of an earlier score (see `score`).
    pub against: Option<&'a Path>,
    /// Whether that record is written anew instead.
    pub bless: bool,
}

fn has_mutants() -> anyhow::Result<()> {
    anyhow::ensure!(
        cfg!(feature = "mutants"),
        "this binary has no mutants in it: run `cargo run --release -p dejaq-scenarios --features mutants --bin dejaq-sim -- mutants`"
    );
    Ok(())
}

/// Makes the first failing run of each of `numbers` small, and tells how large it was; returns what went wrong.
pub fn shrunk(
    tables: &Tables,
    round: &Round<'_>,
    numbers: &[u32],
    minutes: f64,
) -> anyhow::Result<Vec<String>> {
    has_mutants()?;
    let mut bad = Vec::new();
    for number in numbers {
        let mutant = tables.mutants.iter().find(|mutant| mutant.number == *number);
        let mutant = mutant.ok_or_else(|| anyhow::anyhow!("M{number} is not in the table"))?;
        let Fate::Killed { seeds, checker } = hunt_one(mutant, round.width, 0, mutant.budget, &round.commit)?
        else {
            bad.push(format!("M{number} is not found by its checkers: there is nothing to make small"));
            continue;
        };
        println!("\nM{number} {} seed {} {checker}: {}", mutant.scenario, seeds - 1, mutant.about);
        let replay = Replay {
            commit: round.commit.clone(),
            scenario: mutant.scenario.into(),
            seed: seeds - 1,
            mutant: mutant.number,
            ..Replay::default()
        };
        let how = Shrink { jobs: round.width, minutes };
        let (small, report) = shrink::shrink(&how, replay)?;
        println!("{small} -- {}", report.message.lines().next().unwrap_or_default());
    }
    Ok(bad)
}

/// Runs the table; returns what went wrong, a line each.
pub fn run(tables: &Tables, round: &Round<'_>) -> anyhow::Result<Vec<String>> {
    let Round { width, only, ref commit, against, bless } = *round;
    has_mutants()?;
    let (mut bad, mut kills) = (Vec::new(), Vec::new());
    println!("{:<6} {:<11} {:<26} {:>6}  what is broken", "mutant", "fate", "checker", "seeds");
    for mutant in tables.mutants.iter().filter(|mutant| only.is_none_or(|number| number == mutant.number)) {
        let fate = hunt_one(mutant, width, 0, mutant.budget, commit)?;
        println!("{}", row(mutant, &fate));
        let seeds = match &fate {
            Fate::Killed { seeds, .. } => Some(*seeds),
            Fate::WrongChecker { .. } | Fate::Survived => None,
        };
        kills.push(Kill { number: mutant.number, scenario: mutant.scenario.into(), seeds });
        match fate {
            Fate::Killed { .. } => {}
            Fate::WrongChecker { checker, message } => bad.push(format!(
                "M{:02} was found by {checker}, not by {:?}: {message}",
                mutant.number, mutant.checkers
            )),
            Fate::Survived => {
                bad.push(format!(
                    "M{:02} survived {} seeds of {}",
                    mutant.number, mutant.budget, mutant.scenario
                ));
            }
        }
    }
    println!("{}", score::summary(&kills));
    match against {
        Some(file) if bless => std::fs::write(file, score::print(&kills))?,
        Some(file) => {
            let record = score::parse(&std::fs::read_to_string(file)?)?;
            bad.extend(score::worse(&kills, &record));
            for number in score::unrecorded(&kills, &record) {
                println!("M{number} is not in {}: `cargo ci mutants --bless`", file.display());
            }
        }
        None => {}
    }
    if only.is_none() {
        for tester in tables.testers {
            blind(tables, tester, width, commit, &mut bad)?;
        }
    }
    Ok(bad)
}

fn row(mutant: &Mutant, fate: &Fate) -> String {
    let (fate, checker, seeds) = match fate {
        Fate::Killed { seeds, checker } => ("killed", checker.as_str(), *seeds),
        Fate::WrongChecker { checker, .. } => ("WRONG", checker.as_str(), 0),
        Fate::Survived => ("SURVIVED", "-", mutant.budget),
    };
    format!(
        "M{:<5} {fate:<11} {checker:<26} {seeds:>6}  {} ({})",
        mutant.number, mutant.about, mutant.scenario
    )
}

fn hunt_one(mutant: &Mutant, width: usize, tester: u32, budget: u64, commit: &str) -> anyhow::Result<Fate> {
    let (mut seed, mut lowest) = (0, None::<(u64, RunReport)>);
    // Under a tester's mutant only the named checkers count: others may see the bug without the fault.
    let blind = tester != 0;
    batch::run(
        width,
        || {
            seed += 1;
            (seed <= budget).then(|| {
                Job::new(Replay {
                    commit: commit.into(),
                    scenario: mutant.scenario.into(),
                    seed: seed - 1,
                    mutant: mutant.number,
                    tester,
                    ..Replay::default()
                })
            })
        },
        |job, report| {
            let named = mutant.checkers.contains(&report.checker.as_str());
            if report.status != Status::Pass && (named || (lowest.is_none() && !blind)) {
                lowest = Some((job.replay.seed, report));
            }
            !named || lowest.is_none()
        },
    )?;
    Ok(match lowest {
        None => Fate::Survived,
        Some((seed, report)) if mutant.checkers.contains(&report.checker.as_str()) => {
            Fate::Killed { seeds: seed + 1, checker: report.checker }
        }
        Some((_, report)) => Fate::WrongChecker { checker: report.checker, message: report.message },
    })
}

fn blind(
    tables: &Tables,
    tester: &TesterMutant,
    width: usize,
    commit: &str,
    bad: &mut Vec<String>,
) -> anyhow::Result<()> {
    for number in tester.survivors {
        let mutant = tables.mutants.iter().find(|mutant| mutant.number == *number);
        let mutant = mutant
            .ok_or_else(|| anyhow::anyhow!("T{} names M{number}, which is not planted", tester.number))?;
        let fate = hunt_one(mutant, width, tester.number, tester.seeds, commit)?;
        let survived = matches!(fate, Fate::Survived);
        println!(
            "T{:<5} {:<11} {:<26} {:>6}  M{number} under it: {}",
            tester.number,
            if survived { "blind, good" } else { "NOT BLIND" },
            "-",
            tester.seeds,
            tester.about
        );
        if !survived {
            bad.push(format!(
                "T{}: M{number} still dies, so the fault that should kill it does not",
                tester.number
            ));
        }
    }
    Ok(())
}
