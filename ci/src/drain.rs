//! `cargo ci drain`: a fourth broker comes and the first goes for good, under an acks=all load of stock clients.
//!
//! Owns: the order of the steps, as a person would type them, and what must not be seen meanwhile. Promises: red when the
//! client meets an error that it does not retry by itself, when a record is missing, moved, changed or out of order (see
//! `judge`), when the number of under-replicated partitions is ever above 0 (the metric of every broker, ten times a
//! second), when the new broker does not get its share (to within one replica), or when the drained one is not empty, does not stop, or is not forgotten.
//! Leaves out: brokers that die (`failover`).
//!
//!   load (franz-go, librdkafka, Java) ──────────────────────────────────────────► acked ┐
//!   4 starts · replicas flow to it · quorum add 4, remove 1 · drain 1 · stop 1 · forget 1 ├─► judge
//!   a reader, a fresh process ────────────────────────────────────────────────► found.txt ┘

use crate::load::{self, Beside, Load, Plan};
use crate::process;
use crate::server::{Dejaq, show_tail};
use crate::work::Work;
use crate::{failover, judge, raw};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const TOPIC: &str = "drain";
const PARTITIONS: i32 = 12;
/// The folder of the metadata log, which every broker keeps.
const METADATA: &str = "00000000000000000000000000000001-0";
/// Time for replicas to move.
const MOVE: Duration = Duration::from_secs(120);
/// Time for one command.
const COMMAND: Duration = Duration::from_secs(60);
/// Time for the load to end behind its own length.
const LOAD: Duration = Duration::from_secs(90);
/// What each broker counts of the partitions that it leads.
const UNDER_REPLICATED: &str = "dejaq_under_replicated_partitions";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long the load runs, at least; the fourth broker comes after a quarter of it, and it should outlast the moves.
    #[arg(long, default_value_t = 40)]
    seconds: u64,
}

/// The verb; without a client for the load it is skipped, with the reason printed.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let Some(load) = load::client(&work)? else { return Ok(true) };
    let (mut brokers, quorum) = Dejaq::cluster_and_quorum(&work, "drain", 3, &[])?;
    let addresses = brokers.iter().map(Dejaq::address).collect::<Vec<_>>().join(",");
    failover::create(&brokers, TOPIC, PARTITIONS)?;
    failover::wait_in_sync(&brokers, TOPIC, PARTITIONS)?;
    let dir = work.scratch("drain-load")?;
    let (acked, found) = (dir.join("acked.txt"), dir.join("found.txt"));
    let plan = Plan {
        program: &load,
        name: "drain-load",
        brokers: &addresses,
        topic: TOPIC,
        partitions: PARTITIONS,
        seconds: args.seconds,
        pause_ms: 1,
        acked: &acked,
    };
    let mut producers = Load::begin(&work, &plan)?;
    let beside = Beside::begin(&work, &plan)?;
    let skipped = beside.skipped;
    let fourth = Dejaq::joining(&work, &brokers[0], "drain", 4, &quorum)?;
    brokers.push(fourth);
    let watch = Watch::begin(brokers.iter().map(|broker| broker.admin().to_owned()).collect());
    thread::sleep(Duration::from_secs(args.seconds / 4)); // so that there is something to move
    let took = exchange(&mut brokers)?;
    producers.still_runs()?;
    let done = producers.finish(Duration::from_secs(args.seconds) + LOAD, brokers[1].log());
    let (looks, worst) = watch.end();
    done?;
    let others = beside.finish(LOAD, brokers[1].log())?;
    read(&load, &addresses, &found, &work, &brokers)?;
    for broker in &mut brokers {
        broker.stop()?;
    }
    let verdict = judge::judge(&[judge::parse(&acked)?, others].concat(), &judge::parse(&found)?);
    println!(
        "drain: the fourth broker had its share after {:.1} s, the first was empty after {:.1} s more and is gone; \
         {} records acked, {} found; {looks} looks at the metrics, at most {worst} under-replicated",
        took.0.as_secs_f64(),
        took.1.as_secs_f64(),
        verdict.acked,
        verdict.found
    );
    for fault in verdict.faults.iter().take(20) {
        println!("  FAILED {fault}");
    }
    if worst > 0 {
        println!("  FAILED {worst} partitions were under-replicated");
    }
    ensure!(verdict.acked > 1000 && looks > 50, "too little happened to prove anything");
    let failed = usize::from(!verdict.faults.is_empty()) + usize::from(worst > 0);
    println!("{} passed, {failed} failed, {skipped} skipped", 2 - failed);
    Ok(failed == 0)
}

/// The fourth broker comes, the first goes; how long the replicas needed to flow to the one and from the other.
fn exchange(brokers: &mut [Dejaq]) -> Result<(Duration, Duration)> {
    let began = Instant::now();
    brokers[3].restart()?;
    wait_for(&brokers[1], "replicas to flow to broker 4", |list, status| {
        let counts = replicas(list);
        let even =
            counts.iter().max().zip(counts.iter().min()).is_some_and(|(most, least)| most - least <= 1);
        counts.len() == 4 && even && status.contains("\"moving\":0,")
    })?;
    let came = began.elapsed();
    insist(&brokers[1], &["quorum", "add", "4"])?;
    call(&brokers[1], &["quorum", "remove", "1"])?;
    let began = Instant::now();
    call(&brokers[1], &["broker", "drain", "1"])?;
    wait_for(&brokers[1], "broker 1 to be empty", |list, status| {
        let first = list.lines().find(|line| line.contains("\"broker\":1,"));
        first.is_some_and(|line| line.contains("\"state\":\"drained\"")) && status.contains("\"moving\":0,")
    })?;
    let went = began.elapsed();
    brokers[0].stop()?;
    let left: Vec<String> = brokers[0].partitions()?.into_iter().filter(|name| name != METADATA).collect();
    ensure!(left.is_empty(), "broker 1 was drained and has stopped, and its disk still holds {left:?}");
    call(&brokers[1], &["broker", "unregister", "1"])?;
    let list = call(&brokers[1], &["broker", "list", "--json"])?;
    ensure!(!list.contains("\"broker\":1,"), "broker 1 is still registered: {list}");
    for broker in &mut brokers[1..] {
        ensure!(broker.alive()?, "a broker died by itself: {}", show_tail(broker.log()));
    }
    Ok((came, went))
}

/// How many replicas each broker of a list has.
fn replicas(list: &str) -> Vec<u64> {
    let count = |line: &str| {
        let text = line.split("\"replicas\":").nth(1)?;
        text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    list.lines().filter_map(count).collect()
}

/// Waits until what `dejaq broker list` and `dejaq cluster status` say is as it should be.
fn wait_for(broker: &Dejaq, what: &str, is_so: impl Fn(&str, &str) -> bool) -> Result<()> {
    let until = Instant::now() + MOVE;
    loop {
        let list = call(broker, &["broker", "list", "--json"])?;
        // Its exit status tells of partitions that are not as they should be: the metrics judge that.
        let status = call(broker, &["cluster", "status", "--json"]).unwrap_or_default();
        if is_so(&list, &status) {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "waited {MOVE:?} for {what}: {list} {status}; {}",
            show_tail(broker.log())
        );
        thread::sleep(Duration::from_millis(200));
    }
}

/// As a person does who is told "try again": a node that does not follow closely at this moment gets no vote.
fn insist(broker: &Dejaq, arguments: &[&str]) -> Result<String> {
    let until = Instant::now() + COMMAND;
    loop {
        match call(broker, arguments) {
            Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(500)),
            result => return result,
        }
    }
}

fn call(broker: &Dejaq, arguments: &[&str]) -> Result<String> {
    process::output(&mut broker.command(arguments), COMMAND).with_context(|| show_tail(broker.log()))
}

fn read(load: &Path, addresses: &str, found: &Path, work: &Work, brokers: &[Dejaq]) -> Result<()> {
    let mut reader = Command::new(load);
    reader.args(["consume", TOPIC, &PARTITIONS.to_string()]).arg(found).env("DEJAQ_BROKER", addresses);
    process::logged(&mut reader, &work.log("drain-reader")?, LOAD)
        .with_context(|| show_tail(brokers[1].log()))
}

/// Looks at the metrics of all brokers, again and again, beside everything else.
struct Watch {
    ends: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    worst: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn begin(admins: Vec<String>) -> Watch {
        let (ends, looks, worst) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let (end, look, most) = (ends.clone(), looks.clone(), worst.clone());
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                // One that has not started, or is gone, leads nothing.
                let told = admins.iter().filter_map(|admin| raw::metric(admin, UNDER_REPLICATED).ok());
                let (count, sum) = told.fold((0, 0), |(count, sum), one| (count + 1, sum + one));
                look.fetch_add(u64::from(count >= 3), Ordering::Relaxed);
                most.fetch_max(sum, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(100));
            }
        });
        Watch { ends, looks, worst, thread }
    }

    /// How often at least three brokers told, and the most under-replicated partitions at any look.
    fn end(self) -> (u64, u64) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.join(); // it only looks
        (self.looks.load(Ordering::Relaxed), self.worst.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_counted_by_broker() {
        let list = "{\"broker\":1,\"replicas\":12,\"leaders\":3}\n{\"broker\":4,\"replicas\":0}\n";
        assert_eq!(replicas(list), [12, 0]);
    }
}
