//! The command line of `dejaq-sim`.
//!
//! Owns: verbs, flags and what is printed. Leaves out: the work (see the sibling files).

#![allow(
    clippy::disallowed_methods,
    reason = "the runner reads files and the wall clock around simulated worlds"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::batch::{self, Job, REPORT_PREFIX};
use super::verdict::{self, Replay, RunReport, Status};
use super::{Regression, RunParams, Tables, hunt, mutants, shrink, timeline, twice};

/// Runs a DejaQ cluster in one thread, from a seed: the same broker code as in production, on a simulated disk,
/// network and clock, with faults, while checkers watch.
#[derive(Parser)]
#[command(name = "dejaq-sim", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Names the scenarios, with what each claims.
    List,
    /// Runs a scenario over one seed or a range of seeds, one process a seed.
    Run {
        /// Its name, as `list` says it; `all` for every random one.
        scenario: String,
        #[command(flatten)]
        seeds: Seeds,
        /// Goes on after a failure.
        #[arg(long)]
        keep_going: bool,
        /// Makes this planted bug active (needs a build with `--features mutants`).
        #[arg(long, default_value_t = 0)]
        mutant: u32,
        /// How many processes at a time; default: one a core.
        #[arg(long, short)]
        jobs: Option<usize>,
    },
    /// Runs again what a verdict line names, with its trace on stderr: paste the whole line.
    Replay {
        /// The line, quoted or not.
        #[arg(required = true, trailing_var_arg = true)]
        line: Vec<String>,
        /// Writes one line per event here; JSON, if the name ends in `.jsonl`.
        #[arg(long)]
        trace: Option<PathBuf>,
        /// Writes the client history here.
        #[arg(long)]
        history: Option<PathBuf>,
    },
    /// Makes a failing run small: leaves out faults, clients and records while the same checker fires.
    Shrink {
        /// The line of its verdict, quoted or not.
        #[arg(required = true, trailing_var_arg = true)]
        line: Vec<String>,
        /// Gives up searching after this time and tells the smallest so far.
        #[arg(long, default_value_t = 5.0)]
        minutes: f64,
        /// Adds the small run to this file, as a line of the form of `scenarios/regressions.txt`.
        #[arg(long)]
        out: Option<PathBuf>,
        /// How many processes at a time.
        #[arg(long, short)]
        jobs: Option<usize>,
    },
    /// Draws the run that a verdict line names as one page for a browser: a lane for each node and client.
    Trace {
        /// The line, quoted or not.
        #[arg(required = true, num_args = 1..)]
        line: Vec<String>,
        /// The page to write.
        #[arg(long, default_value = "trace.html")]
        html: PathBuf,
        /// Above this many events, chatter (disk, frames, draws) is thinned.
        #[arg(long, default_value_t = 100_000)]
        events: usize,
    },
    /// Proves that a run is a function of its seed: two processes and environments, one digest.
    Twice {
        /// Its name; `all` takes the random scenarios in turn.
        scenario: String,
        #[command(flatten)]
        seeds: Seeds,
        /// How many processes at a time.
        #[arg(long, short)]
        jobs: Option<usize>,
    },
    /// Prints the digest of each seed, one a line: compare builds, machines and commits with it.
    Digest {
        /// Its name; `all` takes the random scenarios in turn.
        scenario: String,
        #[command(flatten)]
        seeds: Seeds,
        /// How many processes at a time.
        #[arg(long, short)]
        jobs: Option<usize>,
    },
    /// Runs fresh seeds of all random scenarios until the time is over or something is found.
    Hunt(HuntArgs),
    /// Plants each known bug and shows which checker finds it, after how many seeds.
    Mutants {
        /// Only this one.
        #[arg(long)]
        only: Option<u32>,
        /// Fails on one that takes ten times as many seeds as this record says.
        #[arg(long)]
        against: Option<PathBuf>,
        /// Writes that record anew.
        #[arg(long, requires = "against", conflicts_with = "only")]
        bless: bool,
        /// Instead of scoring them, makes the first failing run of each of these small: `22,24,9`.
        #[arg(long, value_delimiter = ',', conflicts_with_all = ["only", "bless"])]
        shrink: Vec<u32>,
        /// Gives up making one small after this time.
        #[arg(long, default_value_t = 5.0)]
        minutes: f64,
        /// How many processes at a time.
        #[arg(long, short)]
        jobs: Option<usize>,
    },
    /// Runs every seed that once found something.
    Regressions,
    /// Judges a client history in JSON lines, from the simulator or from real clients.
    Check {
        /// The file.
        history: PathBuf,
    },
    /// Runs one seed in this process and prints its report: what the other verbs call.
    #[command(hide = true)]
    One {
        scenario: String,
        #[arg(long)]
        seed: u64,
        #[arg(long, default_value_t = 0)]
        mutant: u32,
        #[arg(long, default_value_t = 0)]
        tester: u32,
        #[arg(long, default_value = "")]
        cuts: crate::cuts::Cuts,
        #[arg(long)]
        trace: Option<PathBuf>,
        /// Writes the call stack of this event into a `.jsonl` trace.
        #[arg(long)]
        stack_at: Option<u64>,
        #[arg(long)]
        history: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct HuntArgs {
    /// For how long.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Only this scenario.
    #[arg(long)]
    scenario: Option<String>,
    /// Goes on after a finding.
    #[arg(long)]
    collect: bool,
    /// Where to begin; default: a fresh place from the system's entropy.
    #[arg(long)]
    from_seed: Option<u64>,
    /// Fails if a mark of the product was never reached.
    #[arg(long)]
    require_marks: bool,
    /// Keeps the hunt in this file, and goes on with the one that is in it.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Adds each finding to this file, as a line of the form of `scenarios/regressions.txt`.
    #[arg(long)]
    out: Option<PathBuf>,
    /// How many processes at a time.
    #[arg(long, short)]
    jobs: Option<usize>,
}

impl HuntArgs {
    fn hunt(self, tables: &Tables) -> anyhow::Result<bool> {
        let hunt = hunt::Hunt {
            minutes: self.minutes,
            jobs: width(self.jobs),
            collect: self.collect,
            only: self.scenario.as_deref(),
            first_seed: self.from_seed.unwrap_or_else(fresh_seed),
            commit: verdict::commit(),
            require_marks: self.require_marks,
            state: self.state.as_deref(),
            out: self.out.as_deref(),
        };
        hunt::hunt(tables, &hunt)
    }
}

#[derive(clap::Args, Clone)]
struct Seeds {
    /// One seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds from A up to, not including, B.
    #[arg(long, value_name = "A..B")]
    seeds: Option<String>,
}

impl Seeds {
    fn range(&self) -> anyhow::Result<std::ops::Range<u64>> {
        match (&self.seed, &self.seeds) {
            (Some(seed), _) => Ok(*seed..seed.saturating_add(1)),
            (None, None) => Ok(0..1),
            (None, Some(text)) => {
                let (from, to) =
                    text.split_once("..").ok_or_else(|| anyhow::anyhow!("--seeds takes A..B"))?;
                let range = from.trim().parse::<u64>()?..to.trim().parse::<u64>()?;
                anyhow::ensure!(!range.is_empty(), "--seeds {text} is empty: B must be above A");
                Ok(range)
            }
        }
    }
}

/// The whole program: parses the command line and runs it.
#[must_use]
pub fn main(tables: Tables) -> ExitCode {
    match act(tables, Cli::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dejaq-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn act(tables: Tables, verb: Verb) -> anyhow::Result<bool> {
    match verb {
        Verb::List => {
            for scenario in tables.scenarios {
                let kind = if scenario.random { "random" } else { "story" };
                println!("{:<28} {kind:<7} {}", scenario.name, scenario.about);
            }
            Ok(true)
        }
        Verb::Run { scenario, seeds, keep_going, mutant, jobs } => {
            run(&tables, &replays(&tables, &scenario, &seeds.range()?, mutant)?, width(jobs), keep_going)
        }
        Verb::Replay { line, trace, history } => {
            let replay: Replay = line.join(" ").parse()?;
            let now = verdict::commit();
            if replay.commit != now {
                eprintln!("note: that line is of commit {}, this tree is at {now}", replay.commit);
            }
            let trace = trace.or_else(|| Some(PathBuf::from("/dev/stderr")));
            let (tester, cuts) = (replay.tester, replay.cuts.clone());
            let params = RunParams { seed: replay.seed, trace, history, tester, cuts };
            let report = one(&tables, &replay.scenario, replay.mutant, &params)?;
            println!("{}", sentence(&replay, &report));
            Ok(report.status == Status::Pass)
        }
        Verb::Shrink { line, minutes, out, jobs } => {
            let how = shrink::Shrink { jobs: width(jobs), minutes };
            let (replay, report) = shrink::shrink(&how, line.join(" ").parse()?)?;
            println!("{}", sentence(&replay, &report));
            out.map_or(Ok(true), |file| append(&file, &replay, &report).map(|()| true))
        }
        Verb::Trace { line, html, events } => {
            let replay: Replay = line.join(" ").parse()?;
            println!("{}", sentence(&replay, &timeline::write(&replay, &html, events)?));
            Ok(true)
        }
        Verb::Twice { scenario, seeds, jobs } => {
            let replays = in_turn(&tables, &scenario, &seeds.range()?)?;
            let differ = twice::check(width(jobs), &replays)?;
            println!("twice: {} seeds of {scenario}, {differ} differ", replays.len());
            Ok(differ == 0)
        }
        Verb::Digest { scenario, seeds, jobs } => {
            digests(&in_turn(&tables, &scenario, &seeds.range()?)?, width(jobs))
        }
        Verb::Hunt(args) => args.hunt(&tables),
        Verb::Mutants { only, against, bless, shrink, minutes, jobs } => {
            let commit = verdict::commit();
            let round =
                mutants::Round { width: width(jobs), only, commit, against: against.as_deref(), bless };
            let bad = match shrink.as_slice() {
                [] => mutants::run(&tables, &round)?,
                numbers => mutants::shrunk(&tables, &round, numbers, minutes)?,
            };
            bad.iter().for_each(|line| println!("FAILED {line}"));
            Ok(bad.is_empty())
        }
        Verb::Regressions => run(&tables, &regressions(&tables)?, width(None), true),
        Verb::Check { history } => check(&history),
        Verb::One { scenario, seed, mutant, tester, cuts, trace, stack_at, history } => {
            stack_at.into_iter().for_each(crate::trace::stack_at);
            let params = RunParams { seed, trace, history, tester, cuts };
            let report = one(&tables, &scenario, mutant, &params)?;
            println!("{REPORT_PREFIX}{}", serde_json::to_string(&report)?);
            Ok(report.status == Status::Pass)
        }
    }
}

/// Every seed that once found something.
fn regressions(tables: &Tables) -> anyhow::Result<Vec<Replay>> {
    let commit = verdict::commit();
    let replay = |known: Regression| Replay {
        commit: commit.clone(),
        scenario: known.scenario,
        seed: known.seed,
        cuts: known.cuts,
        ..Replay::default()
    };
    Ok(Regression::all(tables.regressions)?.into_iter().map(replay).collect())
}

fn one(tables: &Tables, scenario: &str, mutant: u32, params: &RunParams) -> anyhow::Result<RunReport> {
    let scenario = tables.scenario(scenario)?;
    anyhow::ensure!(
        mutant == 0 || cfg!(feature = "mutants"),
        "--mutant needs a build with `--features mutants`"
    );
    dejaq_storage::probe::activate_mutant(mutant);
    Ok((scenario.run)(params))
}

fn width(jobs: Option<usize>) -> usize {
    jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// A place to begin that no earlier hunt began at. The only entropy of this program; it is printed.
fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mixed = (since.as_nanos() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(std::process::id());
    mixed >> 16
}

fn replays(
    tables: &Tables,
    scenario: &str,
    seeds: &std::ops::Range<u64>,
    mutant: u32,
) -> anyhow::Result<Vec<Replay>> {
    let names: Vec<&str> = match scenario {
        "all" => {
            tables.scenarios.iter().filter(|scenario| scenario.random).map(|scenario| scenario.name).collect()
        }
        name => vec![tables.scenario(name)?.name],
    };
    let commit = verdict::commit();
    let of = |name: &&str, seed: u64| Replay {
        commit: commit.clone(),
        scenario: (*name).to_owned(),
        seed,
        mutant,
        ..Replay::default()
    };
    Ok(names
        .iter()
        .flat_map(|name| seeds.clone().map(move |seed| (name, seed)))
        .map(|(n, s)| of(n, s))
        .collect())
}

/// As [`replays`], but `all` gives each seed to one random scenario after the other, so that N seeds are N runs.
fn in_turn(tables: &Tables, scenario: &str, seeds: &std::ops::Range<u64>) -> anyhow::Result<Vec<Replay>> {
    if scenario != "all" {
        return replays(tables, scenario, seeds, 0);
    }
    let names: Vec<&str> = tables.scenarios.iter().filter(|s| s.random).map(|s| s.name).collect();
    anyhow::ensure!(!names.is_empty(), "there is no random scenario");
    let commit = verdict::commit();
    Ok(seeds
        .clone()
        .map(|seed| Replay {
            commit: commit.clone(),
            scenario: names[(seed % names.len() as u64) as usize].to_owned(),
            seed,
            ..Replay::default()
        })
        .collect())
}

fn run(tables: &Tables, replays: &[Replay], width: usize, keep_going: bool) -> anyhow::Result<bool> {
    if let [replay] = replays {
        println!("{}", tables.scenario(&replay.scenario)?.about);
    }
    let (mut left, mut failed, mut passed) = (replays.iter(), 0, 0);
    let mut counts: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
    let (mut sim_ms, started) = (0, std::time::Instant::now());
    batch::run(
        width,
        || left.next().cloned().map(Job::new),
        |job, report| {
            sim_ms += report.sim_ms;
            report.counts.iter().for_each(|(name, count)| *counts.entry(name.clone()).or_default() += count);
            if report.status == Status::Pass {
                passed += 1;
                return true;
            }
            failed += 1;
            println!("{}", sentence(&job.replay, &report));
            keep_going
        },
    )?;
    for (name, count) in &counts {
        println!("  {count:>12}  {name}");
    }
    let wall = started.elapsed().as_secs_f64();
    println!(
        "{passed} passed, {failed} failed of {} seeds; {:.0} simulated seconds in {wall:.1} s",
        replays.len(),
        sim_ms as f64 / 1000.0
    );
    Ok(failed == 0)
}

fn digests(replays: &[Replay], width: usize) -> anyhow::Result<bool> {
    let mut left = replays.iter();
    let mut lines = Vec::new();
    batch::run(
        width,
        || left.next().cloned().map(Job::new),
        |job, report| {
            let Replay { scenario, seed, .. } = &job.replay;
            lines.push(format!(
                "{scenario} {seed} {:016x} {} {:?}",
                report.digest, report.events, report.status
            ));
            true
        },
    )?;
    lines.sort();
    lines.iter().for_each(|line| println!("{line}"));
    Ok(true)
}

/// The verdict of one run in one line: the replay line, then what was found.
fn sentence(replay: &Replay, report: &RunReport) -> String {
    match report.status {
        Status::Pass => {
            format!("PASSED {replay} -- {} events, {} simulated ms", report.events, report.sim_ms)
        }
        Status::Violation | Status::Stuck | Status::Crash => {
            format!("FAILED {replay} -- {:?} {}: {}", report.status, report.checker, report.message)
        }
    }
}

/// Adds a small run to a file of regressions.
pub(super) fn append(file: &std::path::Path, replay: &Replay, report: &RunReport) -> anyhow::Result<()> {
    use std::io::Write as _;
    let Replay { scenario, seed, cuts, commit, .. } = replay;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    let what = report.message.lines().next().unwrap_or_default();
    Ok(writeln!(file, "{scenario} {seed}/{cuts} {commit} {}: {what}", report.checker)?)
}

fn check(file: &std::path::Path) -> anyhow::Result<bool> {
    let history = crate::oracle::History::from_json_lines(&std::fs::read_to_string(file)?)?;
    let verdict = crate::oracle::judge(&history);
    verdict.violations.iter().for_each(|violation| println!("{violation}"));
    verdict.undecided.iter().for_each(|reason| println!("undecided: {reason}"));
    println!("{:?}", verdict.counts);
    Ok(verdict.is_good())
}
