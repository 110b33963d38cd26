//! `cargo ci failover`: three real brokers under an acks=all load; the leader is killed with SIGKILL again and again.
//!
//! Owns: the kills, and the time until the first acknowledgement of a new leader. Promises: red when a record that was
//! acknowledged is missing, moved or changed, when an idempotent producer's record is out of order or there twice (see
//! `judge`), when a broker dies by itself, or when a replica does not come back in sync.
//! Leaves out: power cuts and cut networks (the simulation does those).
//!
//!   load (franz-go, librdkafka, Java) ─► acked ┐
//!   kill -9 of a leader · restart · …          ├─► judge, and the gap of each partition that lost its leader
//!   reader, a fresh process ─► found.txt ──────┘

use crate::load::{self, Beside, Load, Plan};
use crate::process;
use crate::server::{Dejaq, show_tail};
use crate::work::Work;
use crate::{judge, raw};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const TOPIC: &str = "failover";
const PARTITIONS: i32 = 6;
/// Time for replicas to be in sync again, and for a topic to get its leaders.
const SYNC: Duration = Duration::from_secs(60);
/// Time for the load to end behind the last restart.
const DRAIN: Duration = Duration::from_secs(90);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long the load runs.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Milliseconds between a restart and the next kill, at least; each round adds an uneven part.
    #[arg(long, default_value_t = 2500)]
    every_ms: u64,
    /// How long a killed broker stays down, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    down_ms: u64,
    /// The median from a kill to the first acknowledgement by another leader that is still green, in milliseconds.
    #[arg(long, default_value_t = 500)]
    median_ms: u64,
}

/// A kill: when, and which partitions lost their leader.
struct Kill {
    at_us: u64,
    partitions: Vec<i32>,
}

/// What was acknowledged to clients beside the one whose gaps are measured.
struct Others {
    acked: Vec<judge::Line>,
    /// How many cannot be had here.
    skipped: usize,
}

/// The verb; without a client for the load it is skipped, with the reason printed.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let Some(load) = load::client(&work)? else { return Ok(true) };
    let mut brokers = Dejaq::cluster(&work, "failover", 3)?;
    let addresses = brokers.iter().map(Dejaq::address).collect::<Vec<_>>().join(",");
    create(&brokers, TOPIC, PARTITIONS)?;
    wait_in_sync(&brokers, TOPIC, PARTITIONS)?;
    let dir = work.scratch("failover-load")?;
    let (acked, found) = (dir.join("acked.txt"), dir.join("found.txt"));
    let (kills, others) = load_and_kill(args, &load, &mut brokers, &addresses, &acked, &work)?;
    wait_in_sync(&brokers, TOPIC, PARTITIONS)?;
    let mut reader = Command::new(&load);
    reader.args(["consume", TOPIC, &PARTITIONS.to_string()]).arg(&found).env("DEJAQ_BROKER", &addresses);
    process::logged(&mut reader, &work.log("failover-reader")?, DRAIN)
        .with_context(|| show_tail(brokers[0].log()))?;
    for broker in &mut brokers {
        broker.stop()?;
    }
    let acked = judge::parse(&acked)?;
    let all = [&*acked, &*others.acked].concat();
    let verdict = judge::judge(&all, &judge::parse(&found)?);
    println!(
        "failover: {} kills of a leader in {} s; {} records acked, {} found, {} repeated by the plain producer",
        kills.len(),
        args.seconds,
        verdict.acked,
        verdict.found,
        verdict.repeated_by_plain
    );
    for fault in verdict.faults.iter().take(20) {
        println!("  FAILED {fault}");
    }
    ensure!(!kills.is_empty() && verdict.acked > 1000, "too little happened to prove anything");
    let gaps = gaps(&kills, &acked);
    let median = gaps.get(gaps.len() / 2).copied().unwrap_or(u64::MAX);
    println!(
        "  from kill -9 to the first acknowledgement by another leader, {} partitions, ms: median {}, least {}, most {}",
        gaps.len(),
        median / 1000,
        gaps.first().copied().unwrap_or(0) / 1000,
        gaps.last().copied().unwrap_or(0) / 1000
    );
    let slow = median / 1000 > args.median_ms;
    if slow {
        println!("  FAILED the median is above {} ms", args.median_ms);
    }
    let failed = usize::from(!verdict.faults.is_empty()) + usize::from(slow);
    println!("{} passed, {failed} failed, {} skipped", 2 - failed, others.skipped);
    Ok(failed == 0)
}

/// Creates the topic at whichever broker takes it: the quorum may just have elected.
pub fn create(brokers: &[Dejaq], topic: &str, partitions: i32) -> Result<()> {
    let until = Instant::now() + SYNC;
    let configs = [("min.insync.replicas", "2")];
    for broker in brokers.iter().cycle() {
        match raw::create_replicated(broker.address(), topic, partitions, 3, &configs) {
            Ok(()) => break,
            Err(error) if Instant::now() > until => {
                return Err(error.context(format!("{topic} was not created; {}", show_tail(broker.log()))));
            }
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
    Ok(())
}

/// Waits until every partition has a leader and all replicas are in sync.
pub fn wait_in_sync(brokers: &[Dejaq], topic: &str, partitions: i32) -> Result<()> {
    let until = Instant::now() + SYNC;
    loop {
        let placed = raw::partitions(brokers[0].address(), topic);
        let is_whole = |placed: &Vec<raw::Placed>| {
            placed.len() == partitions as usize
                && placed.iter().all(|one| one.leader > 0 && one.in_sync == one.replicas)
        };
        match placed {
            Ok(placed) if is_whole(&placed) => return Ok(()),
            other if Instant::now() > until => {
                anyhow::bail!("not in sync within {SYNC:?}: {other:?}; {}", show_tail(brokers[0].log()));
            }
            _ => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Runs the load and kills the leader of one partition after the other until the load's time is over.
fn load_and_kill(
    args: &Args,
    load: &Path,
    brokers: &mut [Dejaq],
    addresses: &str,
    acked: &Path,
    work: &Work,
) -> Result<(Vec<Kill>, Others)> {
    let plan = Plan {
        program: load,
        name: "failover-load",
        brokers: addresses,
        topic: TOPIC,
        partitions: PARTITIONS,
        seconds: args.seconds,
        pause_ms: 1,
        acked,
    };
    let (producers, beside) = (Load::begin(work, &plan)?, Beside::begin(work, &plan)?);
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let mut kills = Vec::new();
    while Instant::now() < until {
        // Uneven, so that kills meet batches, syncs and elections at different moments.
        thread::sleep(Duration::from_millis(args.every_ms + kills.len() as u64 * 377 % 900));
        for broker in brokers.iter_mut() {
            ensure!(broker.alive()?, "a broker died by itself: {}", show_tail(broker.log()));
        }
        let placed = led(&brokers[0])?;
        let victim = placed[kills.len() % placed.len()].leader;
        let partitions = placed.iter().filter(|one| one.leader == victim).map(|one| one.index).collect();
        let at_us = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
        let victim = &mut brokers[victim as usize - 1];
        victim.kill();
        kills.push(Kill { at_us, partitions });
        thread::sleep(Duration::from_millis(args.down_ms));
        victim.restart()?;
    }
    producers.finish(DRAIN, brokers[0].log())?;
    let skipped = beside.skipped;
    Ok((kills, Others { acked: beside.finish(DRAIN, brokers[0].log())?, skipped }))
}

/// Where the partitions are, once each has a leader.
fn led(broker: &Dejaq) -> Result<Vec<raw::Placed>> {
    let until = Instant::now() + SYNC;
    loop {
        let placed = raw::partitions(broker.address(), TOPIC);
        match placed {
            Ok(placed) if !placed.is_empty() && placed.iter().all(|one| one.leader > 0) => return Ok(placed),
            other => ensure!(Instant::now() < until, "no leaders within {SYNC:?}: {other:?}"),
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// For each partition that lost its leader: µs until the first acknowledgement after it; ascending.
///
/// What the killed leader had answered may be read a moment after the kill; that is not counted.
fn gaps(kills: &[Kill], acked: &[judge::Line]) -> Vec<u64> {
    const STRAGGLERS_US: u64 = 20_000;
    let mut gaps = Vec::new();
    for kill in kills {
        for partition in &kill.partitions {
            let after = |line: &&judge::Line| {
                line.partition == *partition && line.acked_us > Some(kill.at_us + STRAGGLERS_US)
            };
            let first = acked.iter().filter(after).filter_map(|line| line.acked_us).min();
            gaps.extend(first.map(|first| first - kill.at_us));
        }
    }
    gaps.sort_unstable();
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_the_time_to_the_first_ack_of_a_partition_that_lost_its_leader() {
        let line = |partition, acked_us| judge::Line {
            partition,
            offset: 0,
            producer: "i0".into(),
            sequence: 0,
            acked_us: Some(acked_us),
        };
        let kills = [Kill { at_us: 1_000_000, partitions: vec![0, 1] }];
        let acked = [
            line(0, 900_000),
            line(0, 1_010_000),
            line(0, 1_400_000),
            line(1, 1_300_000),
            line(2, 1_100_000),
        ];
        assert_eq!(gaps(&kills, &acked), [300_000, 400_000]);
    }
}
