//! `cargo ci determinism`: a run is a function of its seed, in two processes and in two builds.
//!
//! Owns: the comparison of digests between the debug and the release build. Promises: red when one seed
//! gives two digests, and when there is no digest at all. `cargo sim twice` does the two processes.

use crate::process;
use crate::work::Work;
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20 * 60);
const RELEASE: &str = "run --quiet --release --package dejaq-scenarios --bin dejaq-sim --";
const DEBUG: &str = "run --quiet --package dejaq-scenarios --bin dejaq-sim --";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seeds of the two processes; every seed takes the next scenario.
    #[arg(long, default_value = "0..24")]
    seeds: String,
    /// Seeds of the two builds.
    #[arg(long, default_value = "0..8")]
    builds: String,
}

/// The verb.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let mut twice = cargo(&work, RELEASE);
    let status = twice.args(["twice", "all", "--seeds", &args.seeds]).status().context("cargo starts")?;
    if !status.success() {
        println!("determinism: `cargo sim twice all --seeds {}` ended with {status}", args.seeds);
        return Ok(false);
    }
    let digests = |build: &str| {
        process::output(cargo(&work, build).args(["digest", "all", "--seeds", &args.builds]), LIMIT)
    };
    let apart = compare(&digests(RELEASE)?, &digests(DEBUG)?)?;
    for line in &apart {
        println!("release and debug part: {line}");
    }
    println!(
        "determinism: two processes over {}, two builds over {}: {} apart",
        args.seeds,
        args.builds,
        apart.len()
    );
    Ok(apart.is_empty())
}

fn cargo(work: &Work, line: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(line.split(' ')).current_dir(&work.root);
    command
}

/// The lines that differ.
fn compare(release: &str, debug: &str) -> Result<Vec<String>> {
    ensure!(release.lines().count() > 0, "no digest was printed");
    ensure!(release.lines().count() == debug.lines().count(), "one build printed fewer digests");
    let pairs = release.lines().zip(debug.lines());
    Ok(pairs.filter(|(one, other)| one != other).map(|(one, other)| format!("{one} / {other}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_difference_are_red() {
        assert!(compare("", "").is_err());
        assert!(compare("a 1\n", "a 1\nb 2\n").is_err());
        assert_eq!(compare("a 1\nb 2\n", "a 1\nb 2\n").expect("same lines").len(), 0);
        assert_eq!(compare("a 1\nb 2\n", "a 1\nb 3\n").expect("same lines").len(), 1);
    }
}
