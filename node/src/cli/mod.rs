//! The command line: one binary, `dejaq`, with a verb for each thing a person does.
//!
//! Owns: the tree of commands and how errors are printed. Promises: an error ends with a non-zero status and one
//! message on standard error that says what to do. Leaves out: what the verbs do (one file each).
//! Called by `main`.

#[allow(
    clippy::disallowed_methods,
    reason = "a load generator runs on the real machine: threads, sockets, clocks, files"
)]
mod bench;
mod start;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// DejaQ: a message queue with the guarantees of an event log, for Kafka clients.
#[derive(Debug, Parser)]
#[command(name = "dejaq", version, about, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker.
    #[command(after_help = START_HELP)]
    Start(start::Args),
    /// Measure a broker: this one or any other that speaks Kafka's protocol.
    Bench(bench::Args),
}

const START_HELP: &str = "\
A flag wins over its environment variable, that over the settings file, that over the default.
Names that end in -bytes take KiB, MiB, GiB; names that end in -ms take s, m, h.

Settings file, for example:
  listen = \"0.0.0.0:9092\"
  advertise = \"broker.example:9092\"
  data-dir = \"/var/lib/dejaq\"
  [topic-defaults]
  retention.ms = 604800000";

/// Runs what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    let result = match Cli::parse().command {
        Command::Start(args) => start::run(args),
        Command::Bench(args) => done(bench::run(args)),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dejaq: {error:#}");
            ExitCode::FAILURE
        }
    }
}
