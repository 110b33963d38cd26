//! `cargo ci replication`: what replication costs. The same load on one broker and on three, in turns, and an idle cluster.
//!
//! Owns: the runs and the table. Promises: nothing is judged but that it ran: machines differ, and a ratio of one run is
//! noise; three brokers, their clients and three disks share the cores of this machine. Leaves out: latency (`dejaq bench
//! suite`), failover (`failover`).
//!
//!   dejaq bench produce, acks=all ─► one broker │ three replicas, all in sync ─► MB/s, CPU seconds a GB of all brokers
//!   1000 partitions with three replicas, no client ─► % of a core, each broker

use crate::failover;
use crate::process;
use crate::server::Dejaq;
use crate::work::Work;
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const TOPIC: &str = "replication";
const IDLE: &str = "idle";
/// Time for an idle cluster to come to rest.
const REST: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long each load runs.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How many turns of one broker and three.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Partitions of the idle cluster, each with three replicas.
    #[arg(long, default_value_t = 1000)]
    partitions: i32,
    /// How long the idle cluster is watched.
    #[arg(long, default_value_t = 30)]
    idle_seconds: u64,
}

/// What a load came to.
struct Cost {
    mb_per_second: f64,
    cpu_seconds_per_gb: f64,
}

/// The verb.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let (mut alone, mut three) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        alone.push(load(args, vec![Dejaq::start(&work, "replication-one")?])?);
        let brokers = Dejaq::cluster(&work, "replication", 3)?;
        failover::create(&brokers, TOPIC, 1)?;
        failover::wait_in_sync(&brokers, TOPIC, 1)?;
        three.push(load(args, brokers)?);
    }
    println!(
        "64 KiB batches, 8 in flight, one partition, acks=all, durability=durable, {} rounds in turn",
        args.rounds
    );
    for (name, costs) in [("one broker", &alone), ("three replicas", &three)] {
        let rates = spread(costs.iter().map(|cost| cost.mb_per_second));
        let cpu = spread(costs.iter().map(|cost| cost.cpu_seconds_per_gb));
        println!("  {name:<15} {rates} MB/s, {cpu} CPU s of all brokers a GB");
    }
    idle(args, &work)?;
    Ok(true)
}

fn load(args: &Args, mut brokers: Vec<Dejaq>) -> Result<Cost> {
    let before = cpu_seconds(&mut brokers)?;
    let mut bench = Command::new(brokers[0].binary());
    bench.args(["bench", "produce", "--broker", brokers[0].address(), "--topic", TOPIC, "--acks", "all"]);
    bench.args(["--batch-bytes", "65536", "--window", "8", "--warmup", "0", "--json"]);
    bench.args(["--seconds", &args.seconds.to_string()]);
    let told = process::output(&mut bench, Duration::from_secs(args.seconds + 60))?;
    let number = |name: &str| -> Result<f64> {
        let found = told.split_once(&format!("\"{name}\":")).map(|(_, rest)| rest);
        let number = found.and_then(|rest| rest.split([',', '}']).next());
        number.with_context(|| format!("{name} in {told}"))?.parse().context("a number")
    };
    ensure!(number("errors")? == 0.0, "the load met errors: {told}");
    let (mb_per_second, seconds) = (number("mb_per_second")?, number("seconds")?);
    let took = cpu_seconds(&mut brokers)?.iter().sum::<f64>() - before.iter().sum::<f64>();
    for broker in &mut brokers {
        broker.stop()?;
    }
    Ok(Cost { mb_per_second, cpu_seconds_per_gb: took * 1000.0 / (mb_per_second * seconds) })
}

fn idle(args: &Args, work: &Work) -> Result<()> {
    let mut brokers = Dejaq::cluster(work, "replication-idle", 3)?;
    failover::create(&brokers, IDLE, args.partitions)?;
    failover::wait_in_sync(&brokers, IDLE, args.partitions)?;
    thread::sleep(REST);
    let (before, since) = (cpu_seconds(&mut brokers)?, Instant::now());
    thread::sleep(Duration::from_secs(args.idle_seconds));
    let (after, seconds) = (cpu_seconds(&mut brokers)?, since.elapsed().as_secs_f64());
    let shares = before.iter().zip(&after).map(|(before, after)| (after - before) / seconds * 100.0);
    println!(
        "  {} idle partitions with three replicas: {} % of a core, each of three brokers",
        args.partitions,
        spread(shares)
    );
    for broker in &mut brokers {
        broker.stop()?;
    }
    Ok(())
}

fn cpu_seconds(brokers: &mut [Dejaq]) -> Result<Vec<f64>> {
    brokers.iter_mut().map(Dejaq::cpu_seconds).collect()
}

/// The middle of some numbers, and how far they lie apart.
fn spread(numbers: impl Iterator<Item = f64>) -> String {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    match &numbers[..] {
        [] => "none".to_owned(),
        [first, .., last] => {
            format!("{:.2} ({first:.2} to {last:.2})", numbers[numbers.len() / 2])
        }
        [one] => format!("{one:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_spread_names_the_middle_the_least_and_the_most() {
        assert_eq!(spread([3.0, 1.0, 2.0].into_iter()), "2.00 (1.00 to 3.00)");
        assert_eq!(spread([1.5].into_iter()), "1.50");
        assert_eq!(spread(std::iter::empty()), "none");
    }
}
