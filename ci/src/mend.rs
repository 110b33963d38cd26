//! `cargo ci mend`: a bit flips on the disk of a follower, then on the leader's, under an acks=all load of stock clients.
//!
//! Owns: the flips, and what must be seen of them. Promises: red when a flip is not found, when the damaged broker does not
//! fetch that range from a peer and come back in sync, when the metrics (`dejaq_mended_ranges_total`,
//! `dejaq_damaged_partitions`) or `dejaq cluster status` do not tell of it, when the load meets an error, when a reader who
//! is served by the mended broker does not find every acknowledged record once and in order (see `judge`), or when
//! `dejaq log verify` finds damage on a disk at the end.
//! Leaves out: damage where nobody else has the records (the simulation does that).
//!
//!   load (franz-go, librdkafka, Java) ─────────────────────────────────────► acked ┐
//!   flip on a follower · mended · it leads · flip on it · mended · leads again ──├─► judge · log verify
//!   a reader, a fresh process, served by the broker that was mended twice ► found.txt ┘

use crate::load::{self, Beside, Load, Plan};
use crate::process;
use crate::server::{Dejaq, show_tail};
use crate::work::Work;
use crate::{failover, judge, raw};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const TOPIC: &str = "mend";
/// Every broker looks through its logs so often, in milliseconds: nobody need read what is damaged.
const SCRUB: [&str; 2] = ["--scrub-interval-ms", "300"];
/// Time for damage to be found and mended.
const MEND: Duration = Duration::from_secs(60);
/// Time for one command, and for a leader to change.
const COMMAND: Duration = Duration::from_secs(60);
/// Time for the load to end behind its own length.
const LOAD: Duration = Duration::from_secs(90);
/// What is flipped lies in a log of at least so many bytes.
const ENOUGH_BYTES: u64 = 64 << 10;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long the load runs, at least.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// The verb; without a client for the load it is skipped, with the reason printed.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let Some(load) = load::client(&work)? else { return Ok(true) };
    let mut brokers = Dejaq::cluster_and_quorum(&work, "mend", 3, &SCRUB)?.0;
    let addresses = brokers.iter().map(Dejaq::address).collect::<Vec<_>>().join(",");
    failover::create(&brokers, TOPIC, 1)?;
    failover::wait_in_sync(&brokers, TOPIC, 1)?;
    let dir = work.scratch("mend-load")?;
    let (acked, found) = (dir.join("acked.txt"), dir.join("found.txt"));
    let plan = Plan {
        program: &load,
        name: "mend-load",
        brokers: &addresses,
        topic: TOPIC,
        partitions: 1,
        seconds: args.seconds,
        pause_ms: 1,
        acked: &acked,
    };
    let mut producers = Load::begin(&work, &plan)?;
    let beside = Beside::begin(&work, &plan)?;
    let skipped = beside.skipped;
    let leader = leader(&brokers)?;
    let victim = leader % brokers.len() + 1;
    let as_follower = strike(&brokers, victim, 2, 1)?;
    lead(&brokers, victim)?;
    producers.still_runs().context("the load must outlast both flips: --seconds")?;
    let as_leader = strike(&brokers, victim, 3, 2)?;
    lead(&brokers, victim)?;
    producers.finish(Duration::from_secs(args.seconds) + LOAD, brokers[0].log())?;
    let others = beside.finish(LOAD, brokers[0].log())?;
    let mut reader = Command::new(&load);
    reader.args(["consume", TOPIC, "1"]).arg(&found).env("DEJAQ_BROKER", &addresses);
    process::logged(&mut reader, &work.log("mend-reader")?, LOAD)
        .with_context(|| show_tail(brokers[victim - 1].log()))?;
    for broker in &mut brokers {
        ensure!(broker.alive()?, "a broker died by itself: {}", show_tail(broker.log()));
        broker.stop()?;
    }
    for broker in &brokers {
        let mut verify = broker.offline(&["log", "verify"]);
        process::output(&mut verify, COMMAND).context("`dejaq log verify` of a disk at the end")?;
    }
    let verdict = judge::judge(&[judge::parse(&acked)?, others].concat(), &judge::parse(&found)?);
    println!(
        "mend: a flip on broker {victim} as a follower was found and mended within {} ms, one as the leader within {} ms; \
         {} records acked, {} found",
        as_follower.as_millis(),
        as_leader.as_millis(),
        verdict.acked,
        verdict.found
    );
    for fault in verdict.faults.iter().take(20) {
        println!("  FAILED {fault}");
    }
    ensure!(verdict.acked > 1000, "too little happened to prove anything");
    let failed = usize::from(!verdict.faults.is_empty());
    println!("{} passed, {failed} failed, {skipped} skipped", 1 - failed);
    Ok(failed == 0)
}

/// Flips a bit behind `1 / part` of the victim's log; how long until it was mended, `times` by now, and all are in sync.
fn strike(brokers: &[Dejaq], victim: usize, part: u64, times: u64) -> Result<Duration> {
    let broker = &brokers[victim - 1];
    let path = log_of(broker)?;
    let began = Instant::now();
    while fs::metadata(&path)?.len() < ENOUGH_BYTES {
        ensure!(began.elapsed() < MEND, "the load wrote only {} bytes", fs::metadata(&path)?.len());
        thread::sleep(Duration::from_millis(50));
    }
    flip(&path, fs::metadata(&path)?.len() / part)?;
    let began = Instant::now();
    loop {
        let mended = raw::metric(broker.admin(), "dejaq_mended_ranges_total")?;
        let damaged = raw::metric(broker.admin(), "dejaq_damaged_partitions")?;
        if mended >= times && damaged == 0 {
            break;
        }
        ensure!(
            began.elapsed() < MEND,
            "after {MEND:?}: {damaged} damaged partitions, {mended} mended; {}",
            show_tail(broker.log())
        );
        thread::sleep(Duration::from_millis(20));
    }
    let took = began.elapsed();
    failover::wait_in_sync(brokers, TOPIC, 1)?;
    let status = process::output(&mut broker.command(&["cluster", "status", "--json"]), COMMAND)
        .context("`dejaq cluster status` once all is mended")?;
    let told = format!("\"mended_ranges\":{times},");
    ensure!(
        status.replace(' ', "").replace('}', ",}").matches(&told).count() >= 2,
        "of the broker and of the cluster, the status should tell of {times} mended: {status}"
    );
    Ok(took)
}

/// Has the broker lead, as an operator would.
fn lead(brokers: &[Dejaq], id: usize) -> Result<()> {
    let others: Vec<String> =
        (1..=brokers.len()).filter(|one| *one != id).map(|one| one.to_string()).collect();
    let order = format!("{id},{}", others.join(","));
    let began = Instant::now();
    process::output(
        &mut brokers[0].command(&["partition", "reassign", TOPIC, "0", "--to", &order]),
        COMMAND,
    )?;
    while leader(brokers)? != id {
        ensure!(began.elapsed() < COMMAND, "broker {id} does not lead; {}", show_tail(brokers[0].log()));
        // Refused while it leads already, or is not in sync yet: asked again.
        let _ = process::output(&mut brokers[0].command(&["partition", "elect", TOPIC, "0"]), COMMAND);
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Who leads the partition.
fn leader(brokers: &[Dejaq]) -> Result<usize> {
    let placed = raw::partitions(brokers[0].address(), TOPIC)?;
    Ok(placed.first().map_or(0, |one| one.leader.max(0) as usize))
}

/// The first segment of the one partition of clients that a broker has.
fn log_of(broker: &Dejaq) -> Result<PathBuf> {
    let is_ours = |name: &String| !name.starts_with("0000000000000000");
    let ours: Vec<String> = broker.partitions()?.into_iter().filter(is_ours).collect();
    ensure!(ours.len() == 1, "one partition should be on its disk: {ours:?}");
    Ok(broker.data_dir().join("partitions").join(&ours[0]).join("00000000000000000000.log"))
}

/// Flips the lowest bit of one byte, in place, beside the broker that has the file open.
fn flip(path: &Path, at: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1;
    Ok(file.write_all_at(&byte, at)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flip_changes_one_bit_of_one_byte() -> Result<()> {
        let path = std::env::temp_dir().join(format!("dejaq-ci-flip-{}", std::process::id()));
        fs::write(&path, [1, 2, 3])?;
        flip(&path, 1)?;
        let seen = fs::read(&path)?;
        fs::remove_file(&path)?;
        assert_eq!(seen, [1, 3, 3]);
        Ok(())
    }
}
