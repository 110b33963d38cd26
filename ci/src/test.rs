//! `cargo ci test`: the one test command of README and `.ci/run`.
//!
//! Owns: the steps, their order and their deadlines. Promises: each step is a command that a person can
//! type, printed before it runs; a red step does not hide those behind it; the last lines name what this machine
//! could not run, such as a client that does not install, and count.
//! Leaves out: the meaning of each step, which is in its own program.
//!
//! Determinism comes first: no other result of the simulator means anything without it.

use crate::process::Guarded;
use crate::report::{Outcome, Report};
use crate::work::Work;
use anyhow::Result;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only what needs no release broker, no stock client and no long run.
    #[arg(long)]
    quick: bool,
    /// Only steps whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

/// One step: a name, a command line, and how long it may take on two busy cores.
struct Step {
    name: &'static str,
    command: &'static str,
    minutes: u64,
    quick: bool,
}

const fn step(name: &'static str, command: &'static str, minutes: u64) -> Step {
    Step { name, command, minutes, quick: false }
}

const fn quick(name: &'static str, command: &'static str, minutes: u64) -> Step {
    Step { name, command, minutes, quick: true }
}

/// In order: determinism, then what judges the sources, then what needs a broker, a client or time.
///
/// Two builds serve all but the last step: the release build of the simulator, with the product in it, and the debug
/// build of the tests.
const STEPS: &[Step] = &[
    step("twice", "cargo sim twice all --seeds 0..200", 30),
    step("determinism", "cargo ci determinism", 30),
    step("corpus", "cargo ci corpus", 20),
    quick("fmt", "cargo fmt --all --check", 2),
    quick("clippy", "cargo clippy --quiet --workspace --all-targets -- -D warnings", 20),
    quick("tidy", "cargo ci tidy", 5),
    quick("tests", "cargo test --workspace", 25),
    step("sim", "cargo sim run all --seeds 0..15 --keep-going", 15),
    step("regressions", "cargo sim regressions", 10),
    step("symbols", "cargo ci symbols", 15),
    step("fuzz", "cargo ci fuzz --inputs 50000", 10),
    step("differential", "cargo ci differential", 5),
    step("clients", "cargo ci clients", 20),
    step("kill9", "cargo ci kill9 --seconds 20", 5),
    step("failover", "cargo ci failover --seconds 20 --median-ms 1500", 5),
    step("drain", "cargo ci drain --seconds 60", 10),
    step("mend", "cargo ci mend --seconds 40", 5),
    // Last: it builds another dejaq-sim, with the planted bugs in it.
    step("mutants", "cargo ci mutants", 40),
];

/// The verb.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let began = Instant::now();
    // Asked for now: a step may build this very program anew, and then its old file is gone.
    let own = std::env::current_exe()?;
    let mut report = Report::default();
    let scratch = work.scratch("test")?;
    let skips = Skips { file: scratch.join("skipped") };
    for step in STEPS.iter().filter(|step| step.name.contains(&args.only)) {
        if args.quick && !step.quick {
            let why = "left out by --quick".to_owned();
            report.add("step", step.name, Outcome::Skipped(why), Duration::ZERO);
            continue;
        }
        println!("\n── {}: {}", step.name, step.command);
        let started = Instant::now();
        let outcome = run_step(&work, &own, step, &skips)
            .unwrap_or_else(|error| Outcome::Failed(format!("`{}`: {error:#}", step.command)));
        report.add("step", step.name, outcome, started.elapsed());
        for (what, why) in skips.take() {
            report.add(step.name, &what, Outcome::Skipped(why), Duration::ZERO);
        }
    }
    println!("\n  {:<14} {:<8} {:>8}", "step", "result", "seconds");
    for entry in report.entries().iter().filter(|entry| entry.subject == "step") {
        let result = match entry.outcome {
            Outcome::Passed => "ok",
            Outcome::Failed(_) => "FAILED",
            Outcome::Skipped(_) => "skipped",
        };
        println!("  {:<14} {result:<8} {:>8.1}", entry.name, entry.took.as_secs_f64());
    }
    println!("  {:<14} {:<8} {:>8.1}", "all", "", began.elapsed().as_secs_f64());
    Ok(report.finish("steps"))
}

/// Names the file in which the verbs of a step write down what cannot run on this machine.
const SKIPS: &str = "DEJAQ_CI_SKIPS";

/// Says to the whole suite, if it is running, that this machine lacks something: a green step must not hide that.
pub fn tell_skipped(what: &str, why: &str) -> Result<()> {
    let Some(file) = std::env::var_os(SKIPS) else { return Ok(()) };
    let mut file = File::options().create(true).append(true).open(file)?;
    Ok(writeln!(file, "{what}\t{}", why.replace('\n', " "))?)
}

/// What the verbs of a step told.
struct Skips {
    file: PathBuf,
}

impl Skips {
    /// What was told since the last call: what is skipped, and why.
    fn take(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let _ = fs::remove_file(&self.file);
        text.lines().filter_map(|line| line.split_once('\t')).map(|(a, b)| (a.into(), b.into())).collect()
    }
}

/// Runs a step with our own terminal, so that what it prints is seen as it comes.
fn run_step(work: &Work, own: &Path, step: &Step, skips: &Skips) -> Result<Outcome> {
    let mut command = command(step.command, own);
    command.current_dir(&work.root).stdin(Stdio::null()).env(SKIPS, &skips.file);
    let mut child = Guarded::spawn_in_our_group(&mut command)?;
    let limit = Duration::from_secs(step.minutes * 60);
    Ok(match child.wait(limit)? {
        Some(status) if status.success() => Outcome::Passed,
        Some(status) => Outcome::Failed(format!("`{}` ended with {status}", step.command)),
        None => Outcome::Failed(format!("`{}` took longer than {} minutes", step.command, step.minutes)),
    })
}

/// `cargo ci …` is this very program: calling it directly spares waiting for cargo's lock.
fn command(line: &str, own: &Path) -> Command {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap_or_default();
    let mut command = match line.strip_prefix("cargo ci ") {
        Some(_) => {
            words.next();
            Command::new(own)
        }
        None => Command::new(program),
    };
    command.args(words);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_called_as_a_person_would_call_it() {
        let plain = command("cargo fmt --all", Path::new("own"));
        assert_eq!((plain.get_program(), plain.get_args().count()), ("cargo".as_ref(), 2));
        let own = command("cargo ci tidy --bless", Path::new("own"));
        assert_eq!(own.get_program(), "own");
        assert_eq!(own.get_args().collect::<Vec<_>>(), ["tidy", "--bless"]);
    }

    #[test]
    fn what_a_step_skips_is_told_once_with_its_reason() {
        let file = std::env::temp_dir().join(format!("dejaq-ci-skips-{}", std::process::id()));
        let skips = Skips { file };
        assert_eq!(skips.take(), []);
        fs::write(&skips.file, "kcat\tno apt-get\n").expect("a file of our own");
        assert_eq!(skips.take(), [("kcat".to_owned(), "no apt-get".to_owned())]);
        assert_eq!(skips.take(), []);
    }

    #[test]
    fn every_step_has_a_name_of_its_own_and_the_quick_ones_need_no_client() {
        for (index, step) in STEPS.iter().enumerate() {
            assert!(STEPS[..index].iter().all(|other| other.name != step.name), "{}", step.name);
            assert!(
                !step.quick || !["clients", "differential", "kill9"].contains(&step.name),
                "{}",
                step.name
            );
        }
    }
}
