//! `cargo ci kill9`: the real binary under an acks=all load is killed with SIGKILL again and again.
//!
//! Owns: the kills, and the judgement of what a fresh consumer finds at the end. Promises: red when
//! a record that was acknowledged is missing, sits at another offset or holds another value; when a
//! producer's records are out of order; when an idempotent producer's record is there twice.
//! Leaves out: power cuts, which lose the page cache (the simulation does those).
//!
//!   load (ci/clients/franz-go, `produce`) ─► acked.txt ┐
//!   kill -9 · restart · kill -9 · restart              ├─► judge
//!   reader (`consume`, fresh process) ─► found.txt ────┘

use crate::process::{self, Guarded};
use crate::server::{Dejaq, show_tail};
use crate::work::Work;
use crate::{install, raw};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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

/// One record as the load or the reader wrote it down: partition, offset, value `producer-partition-sequence`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    partition: i32,
    offset: i64,
    producer: String,
    sequence: u64,
}

/// What the judge counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    acked: usize,
    found: usize,
    repeated_by_plain: usize,
    faults: Vec<String>,
}

/// The verb; without a client for the load it is skipped, with the reason printed.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let load = match install::go(&work, "franz-go") {
        Ok(load) => load,
        Err(error) => {
            println!("skipped: no client for the load: {error:#}\n0 passed, 0 failed, 1 skipped");
            crate::test::tell_skipped("load", &format!("{error:#}"))?;
            return Ok(true);
        }
    };
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

    let verdict = judge(&parse(&acked)?, &parse(&found)?);
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
    let log = work.log("kill9-load")?;
    let mut command = Command::new(load);
    command.args(["produce", TOPIC, &PARTITIONS.to_string(), &args.seconds.to_string()]).arg(acked);
    command.env("DEJAQ_BROKER", dejaq.address()).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(File::create(&log)?);
    let mut producers = Guarded::spawn(&mut command)?;
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
    let status = producers
        .wait(DRAIN)?
        .with_context(|| format!("the load hangs; broker: {}", show_tail(dejaq.log())))?;
    ensure!(status.success(), "the load ended with {status}: {}", process::last_lines(&log, 4));
    Ok((kills, longest))
}

fn parse(path: &PathBuf) -> Result<Vec<Line>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    text.lines().map(|line| parse_line(line).with_context(|| format!("{}: {line}", path.display()))).collect()
}

fn parse_line(line: &str) -> Option<Line> {
    let mut words = line.split(' ');
    let (partition, offset, value) =
        (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
    let mut parts = value.split('-');
    let producer = parts.next()?.to_owned();
    let sequence = parts.nth(1)?.parse().ok()?;
    Some(Line { partition, offset, producer, sequence })
}

/// Idempotent producers are named `i…`, plain ones `p…` (at most one request in flight each).
fn judge(acked: &[Line], found: &[Line]) -> Verdict {
    let mut verdict = Verdict { acked: acked.len(), found: found.len(), ..Verdict::default() };
    let at: BTreeMap<(i32, i64), &Line> =
        found.iter().map(|line| ((line.partition, line.offset), line)).collect();
    if at.len() != found.len() {
        verdict.faults.push(format!("{} offsets were served twice", found.len() - at.len()));
    }
    for line in acked {
        match at.get(&(line.partition, line.offset)) {
            None => verdict.faults.push(format!("acked and lost: {line:?}")),
            Some(there) if *there != line => {
                verdict.faults.push(format!("acked {line:?}, but there is {there:?}"));
            }
            Some(_) => {}
        }
    }
    let mut last: BTreeMap<(i32, &str), u64> = BTreeMap::new();
    for line in at.values() {
        let Some(before) = last.insert((line.partition, &line.producer), line.sequence) else { continue };
        let expected = before + 1;
        if line.sequence == expected {
            continue;
        }
        if line.producer.starts_with('p') && line.sequence < expected {
            // A plain producer that missed an answer sends its batch again: repeated, never skipped.
            verdict.repeated_by_plain += 1;
        } else {
            verdict.faults.push(format!("{line:?} follows sequence {before}"));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        text.split(';').map(|line| parse_line(line.trim()).expect("a line of the test")).collect()
    }

    fn faults(acked: &str, found: &str) -> usize {
        judge(&lines(acked), &lines(found)).faults.len()
    }

    #[test]
    fn what_was_acked_must_be_there_at_its_offset_with_its_value() {
        let good = "0 0 i0-0-0; 0 1 i0-0-1; 1 0 p0-1-0";
        assert_eq!(faults(good, good), 0);
        assert_eq!(faults(good, "0 0 i0-0-0; 1 0 p0-1-0"), 1);
        assert_eq!(faults("0 0 i0-0-0", "0 0 i1-0-0"), 1);
        assert_eq!(faults("0 0 i0-0-0", "0 1 i0-0-0"), 1);
    }

    #[test]
    fn an_unacked_record_may_be_there() {
        assert_eq!(faults("0 0 i0-0-0", "0 0 i0-0-0; 0 1 i0-0-1"), 0);
    }

    #[test]
    fn an_idempotent_producer_neither_repeats_nor_skips_nor_swaps() {
        assert_eq!(faults("0 0 i0-0-0", "0 0 i0-0-0; 0 1 i0-0-0"), 1);
        assert_eq!(faults("0 0 i0-0-0", "0 0 i0-0-0; 0 1 i0-0-2"), 1);
        assert!(faults("0 0 i0-0-0", "0 0 i0-0-0; 0 1 i0-0-2; 0 2 i0-0-1") >= 1);
    }

    #[test]
    fn a_plain_producer_may_repeat_but_not_skip() {
        assert_eq!(faults("0 0 p0-0-0", "0 0 p0-0-0; 0 1 p0-0-0; 0 2 p0-0-1"), 0);
        assert_eq!(faults("0 0 p0-0-0", "0 0 p0-0-0; 0 1 p0-0-2"), 1);
    }

    #[test]
    fn an_offset_served_twice_is_a_fault() {
        assert_eq!(faults("0 0 i0-0-0", "0 0 i0-0-0; 0 0 i0-0-0"), 1);
    }
}
