//! The command line: one binary, `dejaq`, with a verb for each thing a person does.
//!
//! Owns: the tree of commands and how errors are printed. Promises: an error ends with a non-zero status and one
//! message on standard error that says what to do. Leaves out: what the verbs do (one file each).
//! Called by `main`.

mod client;
mod consume;
mod log;
mod output;
mod produce;
mod topic;

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
    /// Create, list, show, change and delete topics.
    Topic(topic::Args),
    /// Send the lines of a file as records.
    Produce(produce::Args),
    /// Print the records of a topic.
    Consume(consume::Args),
    /// Look into a broker's data directory.
    Log(log::Args),
}

/// Runs what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Topic(args) => topic::run(args),
        Command::Produce(args) => produce::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Log(args) => log::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dejaq: {error:#}");
            ExitCode::FAILURE
        }
    }
}
