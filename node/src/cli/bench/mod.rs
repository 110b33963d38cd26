//! `dejaq bench`: a raw, pre-encoded load on any broker that speaks Kafka's protocol, and a floor to compare with.
//!
//! `produce` and `consume` are the loads, `floor` is the least that a broker can do (PERFORMANCE.md), `suite` runs ours
//! against the floor, turn by turn, and prints the table; `txn` does so for transactions. `link` is the blocking socket under them, `load` the batches,
//! `report` the numbers. Threads, clocks and sockets are used directly: nothing here is simulated.
//!
//! Latency is measured from when a request was *meant* to be sent: with a rate given (open loop), a broker that stalls
//! is charged for every request that had to wait; without (closed loop), as many requests as the window allows are in
//! flight and latency says little.

mod child;
mod consume;
mod floor;
mod link;
mod load;
mod produce;
mod report;
mod suite;
mod txn;

use clap::Subcommand;

/// Arguments of `dejaq bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write pre-encoded batches as fast as the broker answers, or at a rate.
    Produce(produce::Args),
    /// Read as fast as the broker answers.
    Consume(consume::Args),
    /// Serve the least that a broker can do: read a frame, check its CRC, one write, acknowledge.
    Floor(floor::Args),
    /// Compare this program's broker with the floor, in turns, and print the table.
    Suite(suite::Args),
    /// Compare transactional with idempotent producing, in turns, and print the table.
    Txn(txn::Args),
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    match args.verb {
        Verb::Produce(args) => produce::run(&args),
        Verb::Consume(args) => consume::run(&args),
        Verb::Floor(args) => floor::run(&args),
        Verb::Suite(args) => suite::run(&args),
        Verb::Txn(args) => txn::run(&args),
    }
}
