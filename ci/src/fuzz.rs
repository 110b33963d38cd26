//! `cargo ci fuzz`: damaged inputs to everything that reads bytes from outside, every allocation bounded.
//!
//! Owns: the list of targets. Each is a program of `scenarios/src/bin` that ends with an error on the first panic
//! and on the first input that takes more memory than its bound; the seed finds that input again.

use crate::report::{Outcome, Report};
use crate::work::Work;
use anyhow::{Context, Result};
use std::process::Command;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Inputs for each target.
    #[arg(long, default_value_t = 1_000_000)]
    inputs: u64,
    /// Where the inputs begin; the same seed gives the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only targets whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

/// Name in the report, and what the program is called with.
const TARGETS: &[(&str, &[&str])] = &[
    ("requests", &["fuzz_wire", "--", "requests"]),
    ("records", &["fuzz_wire", "--", "records"]),
    ("peer", &["fuzz_wire", "--", "peer"]),
    ("recovery", &["fuzz_recovery", "--"]),
];

/// The verb.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let mut report = Report::default();
    for (name, call) in TARGETS.iter().filter(|(name, _)| name.contains(&args.only)) {
        let mut command = Command::new("cargo");
        command.args(["run", "--quiet", "--release", "--package", "dejaq-scenarios", "--bin"]).args(*call);
        command.args(["--inputs", &args.inputs.to_string(), "--seed", &args.seed.to_string()]);
        let started = Instant::now();
        let status = command.current_dir(&work.root).status().context("cargo starts")?;
        let outcome = if status.success() {
            Outcome::Passed
        } else {
            Outcome::Failed(format!("ended with {status} at seed {}", args.seed))
        };
        report.add("fuzz", name, outcome, started.elapsed());
    }
    Ok(report.finish("fuzz"))
}
