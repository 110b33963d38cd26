//! `cargo ci kill9`: the real binary under an acks=all load is killed with SIGKILL again and again.
//!
//! Owns: the kills; `judge` judges what a fresh consumer finds at the end. Promises: red when
//! a record that was acknowledged is missing, sits at another offset or holds another value; when a
//! producer's records are out of order; when an idempotent producer's record is there twice.
//! Leaves out: power cuts, which lose the page cache (the simulation does those).
//!
//!   load (ci/clients/franz-go, `produce`) ─► acked.txt ┐
//!   kill -9 · restart · kill -9 · restart              ├─► judge
//!   reader (`consume`, fresh process) ─► found.txt ────┘

use crate::load::{self, Load, Plan};
use crate::process;
use crate::server::{Dejaq, show_tail};
use crate::work::Work;
use crate::{judge, raw};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const TOPIC: &str = "kill9";
const PARTITIONS: i32 = 3;
/// Time to catch up behind the last restart: retries, then the flush of what was buffered.
const DRAIN: Duration = Duration::from_secs(90);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long the load runs.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Milliseconds between a restart and the next kill, at least; each round adds an uneven part.
    #[arg(long, default_value_t = 1500)]
    every_ms: u64,
}

/// The verb; without a client for the load it is skipped, with the reason printed.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let Some(load) = load::client(&work)? else { return Ok(true) };
    let mut dejaq = Dejaq::start(&work, "kill9")?;
    raw::create_topic(dejaq.address(), TOPIC, PARTITIONS)?;
    let dir = work.scratch("kill9-load")?;
    let (acked, found) = (dir.join("acked.txt"), dir.join("found.txt"));
    let (kills, longest) = load_and_kill(args, &load, &mut dejaq, &acked, &work)?;

    let mut reader = Command::new(&load);
    reader.args(["consume", TOPIC, &PARTITIONS.to_string()]).arg(&found).env("DEJAQ_BROKER", dejaq.address());
    process::logged(&mut reader, &work.log("kill9-reader")?, DRAIN)
        .with_context(|| show_tail(dejaq.log()))?;
    dejaq.stop()?;

    let verdict = judge::judge(&judge::parse(&acked)?, &judge::parse(&found)?);
    println!(
        "kill9: {kills} kills in {} s, longest restart {longest:.1?}; {} records acked, {} found, {} repeated by the plain producer",
        args.seconds, verdict.acked, verdict.found, verdict.repeated_by_plain
    );
    for fault in verdict.faults.iter().take(20) {
        println!("  FAILED {fault}");
    }
    ensure!(kills > 0 && verdict.acked > 1000, "too little happened to prove anything");
    let failed = usize::from(!verdict.faults.is_empty());
    println!("{} passed, {failed} failed, 0 skipped", 1 - failed);
    Ok(failed == 0)
}

/// Runs the load and kills the broker until the load's time is over. Returns the kills and the longest restart.
fn load_and_kill(
    args: &Args,
    load: &Path,
    dejaq: &mut Dejaq,
    acked: &Path,
    work: &Work,
) -> Result<(u32, Duration)> {
    let plan = Plan {
        program: load,
        name: "kill9-load",
        brokers: dejaq.address(),
        topic: TOPIC,
        partitions: PARTITIONS,
        seconds: args.seconds,
        pause_ms: 1,
        acked,
    };
    let producers = Load::begin(work, &plan)?;
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let (mut kills, mut longest) = (0, Duration::ZERO);
    while Instant::now() < until {
        // Uneven, so that kills meet batches, syncs and recoveries at different moments.
        thread::sleep(Duration::from_millis(args.every_ms + u64::from(kills) * 377 % 900));
        ensure!(dejaq.alive()?, "the broker died by itself: {}", show_tail(dejaq.log()));
        dejaq.kill();
        kills += 1;
        let down = Instant::now();
        dejaq.restart()?;
        longest = longest.max(down.elapsed());
    }
    producers.finish(DRAIN, dejaq.log())?;
    Ok((kills, longest))
}
