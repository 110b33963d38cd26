//! What transactions cost: the native client's transactional producer against its idempotent one, in turns.
//!
//! Promises: blocks that are compared are neighbours in time (every second pair reversed), each on a broker of its own with
//! an empty data directory, with the same records; every record is known to be stored, or the run fails.
//! Two producers are compared with: one that waits for its records as often as the other commits, so that the difference is
//! what the coordinator and the markers cost; one that never waits, which is what a pipeline without transactions does.
//! Leaves out: other clients, more than one broker.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use dejaq_storage::file_disk::FileDisk;
use dejaq_wire::ids::PartitionId;

use super::child::{Server, Who};
use super::link::find_topic;
use super::suite::{median, spread};
use crate::client::cluster::{Cluster, ClusterConfig};
use crate::client::producer::{Delivery, Producer, ProducerConfig, Record};
use crate::client::txn::{TxnConfig, TxnProducer};
use crate::runtime::Runtime;
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::tokio_net::SocketOptions;

const TOPIC: &str = "bench";
/// Longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time before what is measured: the first transaction makes the coordinator's topic.
const WARMUP: Duration = Duration::from_millis(1000);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Records of a transaction, a row each.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "10,100,1000",
          value_parser = clap::value_parser!(u64).range(1..))]
    records_per_txn: Vec<u64>,
    /// Size of a record's value.
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
    /// Seconds of each block.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Blocks of each kind in each row.
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// Where data directories are made and removed again; a real disk, as the broker will have.
    #[arg(long, default_value = "./dejaq-bench", value_name = "PATH")]
    root: PathBuf,
}

/// How records are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A commit behind each round.
    Transactional,
    /// Waits until each round is stored.
    Waiting,
    /// Waits at the end.
    Streaming,
}

const KINDS: [Kind; 3] = [Kind::Transactional, Kind::Waiting, Kind::Streaming];

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(args.pairs > 0, "nothing to do");
    std::fs::create_dir_all(&args.root)?;
    let result = table(args);
    std::fs::remove_dir_all(&args.root)?;
    result
}

fn table(args: &Args) -> anyhow::Result<()> {
    println!(
        "| records a transaction | transactional | one takes | idempotent, waits as often | ratio | idempotent, never waits | ratio |"
    );
    println!("|---|---|---|---|---|---|---|");
    for round in &args.records_per_txn {
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        for pair in 0..args.pairs {
            for at in order(pair) {
                rates[at].push(block(KINDS[at], *round, args)?);
            }
        }
        println!("{}", row(*round, &rates));
    }
    Ok(())
}

/// In which order the kinds take their turns.
fn order(pair: usize) -> [usize; 3] {
    if pair.is_multiple_of(2) { [0, 1, 2] } else { [2, 1, 0] }
}

/// `rates`: records a second of each block, by [`KINDS`].
fn row(round: u64, rates: &[Vec<f64>; 3]) -> String {
    let [txn, waiting, streaming] = rates.each_ref().map(|rates| median(rates.iter().copied()));
    let ratio =
        |of: &[f64]| spread(&rates[0].iter().zip(of).map(|(txn, other)| txn / other).collect::<Vec<_>>());
    format!(
        "| {round} | {txn:.0} records/s | {:.2} ms | {waiting:.0} records/s | {} | {streaming:.0} records/s | {} |",
        round as f64 / txn * 1e3,
        ratio(&rates[1]),
        ratio(&rates[2]),
    )
}

/// Records a second of one producer that has a broker for itself.
fn block(kind: Kind, round: u64, args: &Args) -> anyhow::Result<f64> {
    let server = Server::start(Who::Ours, &args.root, &[])?;
    find_topic(&server.address, TOPIC, 1, &[])?;
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // A client keeps nothing on disk; its world has one all the same.
    let disk = FileDisk::open(&args.root).with_context(|| format!("cannot open {}", args.root.display()))?;
    let runtime = TokioRuntime::new(disk, SocketOptions::default());
    let config = ClusterConfig { bootstrap: vec![server.address.clone()], ..ClusterConfig::default() };
    let seconds = Duration::from_secs_f64(args.seconds);
    let value = Bytes::from(vec![b'x'; args.record_bytes]);
    executor.block_on(async {
        let cluster = Cluster::new(runtime, config);
        let load = Load { round, value, seconds };
        match kind {
            Kind::Transactional => load.transactions(cluster).await,
            Kind::Waiting => load.idempotent(cluster, true).await,
            Kind::Streaming => load.idempotent(cluster, false).await,
        }
    })
}

struct Load {
    round: u64,
    value: Bytes,
    seconds: Duration,
}

impl Load {
    fn record(&self) -> Record {
        Record::new(TOPIC, self.value.clone()).partition(PartitionId(0))
    }

    async fn transactions(&self, cluster: Cluster<TokioRuntime>) -> anyhow::Result<f64> {
        let runtime = cluster.runtime().clone();
        let mut producer = TxnProducer::start(cluster, TxnConfig::of("dejaq-bench"))?;
        producer.init(runtime.now().plus(PATIENCE)).await?;
        let mut rate = 0.0;
        for span in [WARMUP, self.seconds] {
            let (start, mut records) = (Instant::now(), 0);
            while start.elapsed() < span {
                producer.begin()?;
                for _ in 0..self.round {
                    let _told_by_the_commit = producer.send(self.record()).await?;
                }
                producer.commit(runtime.now().plus(PATIENCE)).await?;
                records += self.round;
            }
            rate = records as f64 / start.elapsed().as_secs_f64();
        }
        Ok(rate)
    }

    async fn idempotent(&self, cluster: Cluster<TokioRuntime>, waits: bool) -> anyhow::Result<f64> {
        let config = ProducerConfig { idempotent: true, ..ProducerConfig::default() };
        let producer = Producer::start(cluster, config)?;
        let mut rate = 0.0;
        for span in [WARMUP, self.seconds] {
            let (start, mut records) = (Instant::now(), 0);
            let mut sent: VecDeque<Delivery> = VecDeque::new();
            while start.elapsed() < span {
                for _ in 0..self.round {
                    sent.push_back(producer.send(self.record()).await?);
                }
                records += self.round;
                if waits {
                    producer.flush().await;
                }
                while let Some(stored) = sent.front().and_then(Delivery::try_get) {
                    stored?;
                    sent.pop_front();
                }
                anyhow::ensure!(!waits || sent.is_empty(), "a flush left something behind");
            }
            producer.flush().await;
            for delivery in sent {
                delivery.wait().await?;
            }
            rate = records as f64 / start.elapsed().as_secs_f64();
        }
        Ok(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_compares_neighbours() {
        let told =
            row(100, &[vec![50.0, 200.0, 100.0], vec![100.0, 200.0, 400.0], vec![500.0, 400.0, 1000.0]]);
        assert_eq!(
            told,
            "| 100 | 100 records/s | 1000.00 ms | 200 records/s | 0.50 (0.25 to 1.00) | 500 records/s | 0.10 (0.10 to 0.50) |"
        );
    }

    #[test]
    fn whoever_goes_first_goes_last_the_next_time() {
        assert_eq!((order(0), order(1), order(2)), ([0, 1, 2], [2, 1, 0], [0, 1, 2]));
    }
}
