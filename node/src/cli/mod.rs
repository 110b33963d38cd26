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
    /// Measure a broker: this one or any other that speaks Kafka's protocol.
    Bench(bench::Args),
}

/// Runs what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => bench::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dejaq: {error:#}");
            ExitCode::FAILURE
        }
    }
}
