//! What CI runs, as a program with verbs, so that a laptop runs the same: `cargo ci <verb>`.
//!
//! Owns: the order of the steps, what they install, how long they may take, what counts as green.
//! Promises: a step that cannot run here is reported as skipped with its reason; a step that
//! misbehaves fails; every child process has a deadline and is gone when the verb returns.
//! Leaves out: the checks of the simulation itself (`cargo sim`), which are only called from here.
//!
//!   test ─► fmt · clippy · tidy · cargo test · symbols · clients · differential · kill9 …
//!   clients ─► install ─► (dejaq | oracle) ─► ci/clients/<client>/ prints `ok NAME` per check
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "ci is a tool around the product: it starts processes, reads files and measures wall time"
)]

mod clients;
mod corpus;
mod determinism;
mod differential;
mod drain;
mod failover;
mod fuzz;
mod group_failover;
mod install;
mod judge;
mod kill9;
mod load;
mod mend;
mod mutants;
mod oracle;
mod process;
mod raw;
mod replication;
mod report;
mod seeds;
mod server;
mod symbols;
mod test;
mod tidy;
mod txn_failover;
mod work;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo ci", bin_name = "cargo ci", about = "What CI runs; a laptop runs the same")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The whole suite, in order: what README names and CI runs.
    Test(test::Args),
    /// A simulated run is a function of its seed: two processes, two builds.
    Determinism(determinism::Args),
    /// Seeds still mean what was recorded to the simulator itself: a change of a dependency's behaviour is seen.
    Corpus(seeds::Args),
    /// Every planted bug dies by its named checker, about as fast as was recorded.
    Mutants(mutants::Args),
    /// Stock Kafka clients against the release broker: files, codecs, seeks, admin.
    Clients(clients::Args),
    /// The same requests to Apache Kafka (recorded) and to us: same answers but for ids and times.
    Differential(differential::Args),
    /// Kill the release broker with SIGKILL under an acks=all load; nothing acked may be lost.
    Kill9(kill9::Args),
    /// Kill the leader of a cluster of three again and again under an acks=all load: nothing acked may be lost.
    Failover(failover::Args),
    /// Kill the coordinators of groups of stock clients, on three brokers: they go on, no offset goes back, nothing is skipped.
    GroupFailover(group_failover::Args),
    /// Kill brokers under clients that consume, transform and produce in transactions: each input is reflected once.
    TxnFailover(txn_failover::Args),
    /// A fourth broker comes, the first is drained and stops, under an acks=all load: no client notices.
    Drain(drain::Args),
    /// A bit flips on the disk of a follower, then of the leader, under an acks=all load: found, and mended from a peer.
    Mend(mend::Args),
    /// What replication costs: one broker and three in turns, and an idle cluster of a thousand partitions.
    Replication(replication::Args),
    /// Damaged inputs to everything that reads bytes from outside.
    Fuzz(fuzz::Args),
    /// Prove that the `dejaq` binary carries no libc function of madsim's.
    Symbols,
    /// Guard sizes, arrows, determinism bans, headers and stubs over the sources.
    Tidy(tidy::Args),
    /// Run a real Apache Kafka on loopback until Enter or the end of input.
    Oracle(oracle::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs one verb; `Ok(false)` is a red result that the verb has already explained.
fn run(verb: Verb) -> Result<bool> {
    match verb {
        Verb::Test(args) => test::run(&args),
        Verb::Determinism(args) => determinism::run(&args),
        Verb::Corpus(args) => seeds::run(&args),
        Verb::Mutants(args) => mutants::run(&args),
        Verb::Clients(args) => clients::run(&args),
        Verb::Differential(args) => differential::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Kill9(args) => kill9::run(&args),
        Verb::Failover(args) => failover::run(&args),
        Verb::GroupFailover(args) => group_failover::run(&args),
        Verb::TxnFailover(args) => txn_failover::run(&args),
        Verb::Drain(args) => drain::run(&args),
        Verb::Mend(args) => mend::run(&args),
        Verb::Replication(args) => replication::run(&args),
        Verb::Symbols => symbols::run(),
        Verb::Tidy(args) => tidy::run(&args),
        Verb::Oracle(args) => oracle::run(&args),
    }
}
