//! `cargo ci determinism`: a run is a function of its seed, not of the build: debug and release give one digest.
//!
//! Owns: the comparison of digests between the two builds. Promises: red when one seed gives two digests, and when
//! there is no digest at all. Leaves out: two processes of one build, which `cargo sim twice` does.
//!
//! The debug build is that of `cargo test --workspace`, dev-dependencies and all, so that the tests behind this step
//! find everything compiled.

use crate::process;
use crate::server;
use crate::work::Work;
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20 * 60);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seeds; every seed takes the next scenario.
    #[arg(long, default_value = "0..16")]
    seeds: String,
}

/// The verb.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    server::build_release(&work, &["dejaq-sim"])?;
    let mut debug = Command::new("cargo");
    debug.args(["build", "--quiet", "--workspace", "--all-targets"]).current_dir(&work.root);
    ensure!(debug.status().context("cargo starts")?.success(), "the debug build failed");
    let digests = |build: &str| {
        let mut sim = Command::new(work.target().join(build).join("dejaq-sim"));
        process::output(sim.args(["digest", "all", "--seeds", &args.seeds]).current_dir(&work.root), LIMIT)
    };
    let (release, debug) = (digests("release")?, digests("debug")?);
    let apart = compare(&release, &debug)?;
    for line in &apart {
        println!("release and debug part: {line}");
    }
    println!("determinism: {} runs in two builds: {} apart", release.lines().count(), apart.len());
    Ok(apart.is_empty())
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
