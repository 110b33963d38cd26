//! `cargo ci mutants`: every planted bug dies by its named checker, and in about as many seeds as was recorded.
//!
//! Owns: the builds that have the bugs in them. Promises: red when one survives its budget, is found by another checker, or
//! takes ten times as many seeds as `ci/corpus/mutants.txt` says; and when one of the quorum's or the controller's pure
//! core, of the cleaner or of `acks.required` survives the stories, the chaos, the model and the tests that are named for it. `--shrink` makes failing runs small instead.
//! Leaves out: the table, the score and the shrinking (`dejaq-sim`).
//!
//! At the first level of optimisation: this build serves one step, and takes longer than what it saves.

use crate::process::{self, Guarded};
use crate::work::Work;
use anyhow::{Context, Result};
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60 * 60);
const RECORD: &str = "ci/corpus/mutants.txt";
const CRATES: [&str; 3] = ["dejaq", "dejaq-sim", "dejaq-scenarios"];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the record of seeds anew: after a change of scenarios, of the table, or of the faults.
    #[arg(long)]
    bless: bool,
    /// Only this one.
    #[arg(long, conflicts_with = "bless")]
    only: Option<u32>,
    /// Makes the first failing run of each of these small instead: `22,23,24,28,9` are those of TESTING.md.
    #[arg(long, conflicts_with_all = ["bless", "only"])]
    shrink: Option<String>,
}

/// The verb.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let whole = args.only.is_none() && args.shrink.is_none();
    let (drawn, core) = (passes(&work, command(args))?, !whole || passes(&work, of_the_core())?);
    Ok(drawn && core)
}

fn passes(work: &Work, mut command: Command) -> Result<bool> {
    command.current_dir(&work.root).stdin(Stdio::null());
    let mut child = Guarded::spawn_in_our_group(&mut command)?;
    let status = child.wait(LIMIT)?;
    Ok(status.with_context(|| format!("`{}` takes too long", process::shown(&command)))?.success())
}

fn cargo(verb: [&str; 5]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(verb).args(["--features", "mutants"]);
    cargo.args(CRATES.iter().map(|name| format!("--config=profile.release.package.{name}.opt-level=1")));
    cargo
}

/// Those that die in tests: each switches the whole process, so one test runs at a time.
fn of_the_core() -> Command {
    let mut tests = cargo(["test", "--quiet", "--release", "--package", "dejaq"]);
    tests.args([
        "--package",
        "dejaq-storage",
        "--lib",
        "--test",
        "raft_mutants",
        "--",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    tests.args(["mutants_of_the_controller_die", "every_planted_bug_of_the_quorum_dies"]);
    tests.args(["mutants_of_the_cleaner_die", "a_mutant_of_the_count_dies"]);
    tests
}

fn command(args: &Args) -> Command {
    let mut sim = cargo(["run", "--quiet", "--release", "--package", "dejaq-scenarios"]);
    sim.args(["--bin", "dejaq-sim", "--", "mutants"]);
    if let Some(numbers) = &args.shrink {
        sim.args(["--shrink", numbers]);
        return sim;
    }
    sim.args(["--against", RECORD]);
    sim.args(args.bless.then_some("--bless"));
    sim.args(args.only.into_iter().flat_map(|number| ["--only".to_owned(), number.to_string()]));
    sim
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_a_person_would_type() {
        let shown = |bless, only| process::shown(&command(&Args { bless, only, shrink: None }));
        assert!(shown(false, None).ends_with("dejaq-sim -- mutants --against ci/corpus/mutants.txt"));
        assert!(shown(true, None).ends_with(" --bless"));
        assert!(shown(false, Some(21)).ends_with(" --only 21"));
        assert!(process::shown(&of_the_core()).contains(" --lib --test raft_mutants -- --ignored "));
        let small = Args { bless: false, only: None, shrink: Some("22,9".into()) };
        assert!(process::shown(&command(&small)).ends_with("dejaq-sim -- mutants --shrink 22,9"));
    }
}
