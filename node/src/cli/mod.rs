//! The command line: one binary, `dejaq`, with a verb for each thing a person does.
//!
//! Owns: the tree of commands and how errors are printed. Promises: an error ends with a non-zero status and one
//! message on standard error that says what to do. Leaves out: what the verbs do (one file each).
//! Called by `main`.

/// As of the standard library, but who stops reading us ends the program quietly, and a full disk with a message.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::output::say(format_args!($($text)*)) };
}
/// As of the standard library, but see `print`.
macro_rules! println {
    () => { print!("\n") };
    ($($text:tt)*) => { print!("{}\n", format_args!($($text)*)) };
}
/// As of the standard library, but what cannot be written is left out: the status says how it went.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::output::complain(format_args!($($text)*)) };
}

mod admin;
#[allow(
    clippy::disallowed_methods,
    reason = "a load generator runs on the real machine: threads, sockets, clocks, files"
)]
mod bench;
mod broker;
mod client;
mod cluster;
mod consume;
mod consume_group;
mod dev_cluster;
mod features;
mod group;
mod log;
mod output;
mod partition;
mod produce;
mod produce_txn;
mod quorum;
mod start;
mod topic;
mod txn;
mod txn_copy;

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
    /// Create, list, show, change and delete topics.
    Topic(topic::Args),
    /// Move replicas and leaderships.
    Partition(partition::Args),
    /// List brokers, empty one, forget one.
    Broker(broker::Args),
    /// Show how the cluster stands; upgrade it.
    Cluster(cluster::Args),
    /// Show and change who votes on the cluster's metadata.
    Quorum(quorum::Args),
    /// Run several brokers on this machine, in one terminal, for trying things.
    DevCluster(dev_cluster::Args),
    /// Send the lines of a file as records.
    Produce(produce::Args),
    /// Print the records of a topic.
    Consume(consume::Args),
    /// List, show and delete consumer groups; set their offsets.
    Group(group::Args),
    /// List, show, find and end transactions; copy a topic exactly once.
    Txn(txn::Args),
    /// Look into a broker's data directory.
    Log(log::Args),
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
    let result = match Cli::parse().command {
        Command::Start(args) => start::run(args),
        Command::Topic(args) => topic::run(args),
        Command::Partition(args) => partition::run(args),
        Command::Broker(args) => broker::run(args),
        Command::Cluster(args) => cluster::run(args),
        Command::Quorum(args) => quorum::run(args),
        Command::DevCluster(args) => dev_cluster::run(args),
        Command::Produce(args) => produce::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Group(args) => group::run(args),
        Command::Txn(args) => txn::run(args),
        Command::Log(args) => log::run(args),
        Command::Bench(args) => bench::run(args).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dejaq: {error:#}");
            ExitCode::FAILURE
        }
    }
}
