//! `cargo ci txn-failover`: stock clients and ours consume, transform and produce in transactions on three real brokers,
//! of which one after the other is killed with SIGKILL.
//!
//! Owns: the pipelines, the kills, the verdict. Promises: red when a record of the source is in a target other than exactly
//! once for a reader of committed records; when such a reader saw what was aborted, at the end or while all this went on;
//! when a transaction stays open or hangs behind the end; when a broker dies by itself. Clients other than ours abort every
//! fifth transaction on purpose, and mark what they write in it.
//! Leaves out: power cuts and cut networks (the simulation does those), rebalances for their own sake.
//!
//!   load (ci/clients/franz-go) ─► source ─► two processes of each client ─► a target of each client ─► reader of all ┐
//!   kill -9 of a coordinator of transactions, of a leader of a target · restart               └─► live reader ───────┴─► judge

use crate::load::{self, Load, Plan};
use crate::process::{self, Guarded};
use crate::server::{Dejaq, show_tail};
use crate::work::Work;
use crate::{failover, install, judge, raw};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const SOURCE: &str = "txn-source";
const PARTITIONS: i32 = 3;
const INTERNAL: [&str; 2] = ["__transaction_state", "__consumer_offsets"];
/// Time for the load to end, and for every pipeline to come to the end of the source behind it.
const DRAIN: Duration = Duration::from_secs(120);
/// Time for a pipeline to leave.
const LEAVE: Duration = Duration::from_secs(60);
/// What a program says of a fatal error before it begins anew.
const NEW_LIFE: &str = "a new life:";
/// What a record of a transaction that will be aborted begins with.
const DOOMED: char = 'X';

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long the load runs.
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// Milliseconds between a restart and the next kill, at least; each round adds an uneven part.
    #[arg(long, default_value_t = 2500)]
    every_ms: u64,
    /// How long a killed broker stays down, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    down_ms: u64,
    /// How long each producer of the load rests behind twenty records, in milliseconds.
    #[arg(long, default_value_t = 100)]
    pause_ms: u64,
    /// Only this client: native, librdkafka, franz-go, java or java-848 (KIP-848).
    #[arg(long)]
    only: Option<String>,
    /// What librdkafka shall tell of itself in its logs, such as eos,protocol,broker,cgrp.
    #[arg(long, default_value = "")]
    librdkafka_debug: String,
}

/// One client: two processes that share the source, and a reader of committed records that looks on.
struct Pipelines {
    name: String,
    target: String,
    processes: Vec<(Guarded, PathBuf)>,
    /// Whose presence ends the processes; ours ends by SIGTERM.
    stop: Option<PathBuf>,
    live: Guarded,
    seen: PathBuf,
}

impl Pipelines {
    /// How often a process had to begin anew with the same id, as whoever supervises it would have it do.
    fn new_lives(&self) -> usize {
        let said = |log: &PathBuf| std::fs::read_to_string(log).unwrap_or_default();
        self.processes.iter().map(|(_, log)| said(log).matches(NEW_LIFE).count()).sum()
    }
}

/// The verb; without a client for the load it is skipped, as is every client that cannot be had, with the reason printed.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let Some(load) = load::client(&work)? else { return Ok(true) };
    let mut brokers = Dejaq::cluster(&work, "txn-failover", 3)?;
    let addresses = brokers.iter().map(Dejaq::address).collect::<Vec<_>>().join(",");
    let dir = work.scratch("txn-failover-load")?;
    failover::create(&brokers, SOURCE, PARTITIONS)?;
    let (mut pipelines, skipped) = begin(args, &work, &load, &dir, &brokers, &addresses)?;
    for topic in topics(&pipelines) {
        failover::wait_in_sync(&brokers, &topic, PARTITIONS)?;
    }
    let acked = dir.join("acked.txt");
    let plan = Plan {
        program: &load,
        name: "txn-failover-load",
        brokers: &addresses,
        topic: SOURCE,
        partitions: PARTITIONS,
        seconds: args.seconds,
        pause_ms: args.pause_ms,
        acked: &acked,
    };
    let producers = Load::begin(&work, &plan)?;
    wait_until_known(&brokers, &INTERNAL)?;
    let kills = kill(args, &mut brokers, &pipelines)?;
    producers.finish(DRAIN, brokers[0].log())?;
    let acked = judge::parse(&acked)?;
    let mut faults = wait_until_done(&brokers, &pipelines, &acked);
    faults.extend(end(&mut pipelines)?);
    faults.extend(open_transactions(&brokers[0])?);
    println!("txn-failover: {kills} kills of a broker in {} s; {} records acked", args.seconds, acked.len());
    ensure!(!pipelines.is_empty(), "no client ran");
    ensure!(acked.len() > 500 && kills > 1, "too little happened to prove anything");
    let source = read(&work, &load, &addresses, SOURCE, &dir)?;
    let source = counts(&source);
    for one in &pipelines {
        let target = read(&work, &load, &addresses, &one.target, &dir)?;
        let live = std::fs::read_to_string(&one.seen)?;
        let mut found = judge_target(&source, &target);
        found.extend(judge_live(&target, &live));
        let seen = live.lines().count();
        let lives = one.new_lives();
        let told =
            if lives > 0 { format!(", {lives} NEW LIVES behind a fatal error") } else { String::new() };
        println!("  {:<11} {} records in the target, {seen} seen live{told}", one.name, target.len());
        faults.extend(found.into_iter().take(5).map(|fault| format!("{}: {fault}", one.name)));
    }
    for broker in &mut brokers {
        broker.stop()?;
    }
    faults.iter().take(30).for_each(|fault| println!("  FAILED {fault}"));
    let failed = pipelines
        .iter()
        .filter(|one| faults.iter().any(|f| f.starts_with(&format!("{}: ", one.name))))
        .count();
    let failed = failed.max(usize::from(!faults.is_empty()));
    println!("{} passed, {failed} failed, {skipped} skipped", pipelines.len().saturating_sub(failed));
    Ok(faults.is_empty())
}

fn topics(pipelines: &[Pipelines]) -> Vec<String> {
    std::iter::once(SOURCE.to_owned()).chain(pipelines.iter().map(|one| one.target.clone())).collect()
}

/// How each client's program is started; an error where it cannot be had.
fn clients(work: &Work, load: &Path) -> [(&'static str, Result<install::Start>); 4] {
    let java = |protocol| install::java(work, "Transact.java", &[protocol]);
    [
        ("librdkafka", install::librdkafka(work, "transact.py")),
        ("franz-go", Ok((load.to_path_buf(), vec!["transact".into()]))),
        ("java", java("-Dgroup.protocol=classic")),
        ("java-848", java("-Dgroup.protocol=consumer")),
    ]
}

/// Starts two processes of every client that can be had, and of ours; how many clients could not.
fn begin(
    args: &Args,
    work: &Work,
    load: &Path,
    dir: &Path,
    brokers: &[Dejaq],
    addresses: &str,
) -> Result<(Vec<Pipelines>, usize)> {
    let (mut all, mut skipped) = (Vec::new(), 0);
    let ours = ("native", None);
    let stock = clients(work, load).map(|(name, start)| (name, Some(start)));
    let is_wanted = |name: &str| args.only.as_deref().is_none_or(|only| only == name);
    for (name, start) in std::iter::once(ours).chain(stock).filter(|(name, _)| is_wanted(name)) {
        let start = match start.transpose() {
            Ok(start) => start,
            Err(error) => {
                println!("  skipped {name}: {error:#}");
                crate::test::tell_skipped(name, &format!("{error:#}"))?;
                skipped += 1;
                continue;
            }
        };
        let target = format!("txn-target-{name}");
        failover::create(brokers, &target, PARTITIONS)?;
        let stop = start.is_some().then(|| dir.join(format!("{name}.stop")));
        let mut processes = Vec::new();
        for number in 0..2 {
            let (group, id) = (format!("txn-{name}"), format!("txn-{name}-{number}"));
            let mut command = match (&start, &stop) {
                (Some((program, first)), Some(stop)) => {
                    let mut command = Command::new(program);
                    command.args(first).args([SOURCE, &target, &group, &id]).arg(stop);
                    command
                }
                _ => {
                    let flags = ["--group", &group, "--transactional-id", &id, "--session-timeout-s", "6"];
                    let mut command =
                        brokers[0].command(&[&["txn", "copy", SOURCE, &target], &flags[..]].concat());
                    command.args(["--records-per-txn", "200", "--timeout-s", "60"]);
                    command
                }
            };
            let log = work.log(&format!("txn-failover-{name}-{number}"))?;
            command.env("DEJAQ_BROKER", addresses).env("DEJAQ_DEBUG", &args.librdkafka_debug);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            processes.push((Guarded::spawn(command.stderr(File::create(&log)?))?, log));
        }
        let seen = dir.join(format!("{name}.seen"));
        let flags = ["--isolation", "read-committed", "--offsets", "--timeout-s", "60"];
        let mut live = brokers[0].command(&[&["consume", &target], &flags[..]].concat());
        let log = work.log(&format!("txn-failover-{name}-live"))?;
        let live = Guarded::spawn(live.stdout(File::create(&seen)?).stderr(File::create(log)?))?;
        all.push(Pipelines { name: name.into(), target, processes, stop, live, seen });
    }
    Ok((all, skipped))
}

/// The first client that asks for a coordinator has its topic made, and a JVM takes a while until then.
fn wait_until_known(brokers: &[Dejaq], topics: &[&str]) -> Result<()> {
    let until = Instant::now() + LEAVE;
    for topic in topics {
        while let Err(error) = raw::partitions(brokers[0].address(), topic) {
            ensure!(Instant::now() < until, "no client has come to have {topic} made: {error:#}");
            thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

/// Kills the coordinator of some transactions, then the leader of a target, and so on, until the time is over.
fn kill(args: &Args, brokers: &mut [Dejaq], pipelines: &[Pipelines]) -> Result<usize> {
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let mut kills = 0;
    while Instant::now() < until {
        // Uneven, so that kills meet sends, decisions and markers at different moments.
        thread::sleep(Duration::from_millis(args.every_ms + kills as u64 * 377 % 900));
        for broker in brokers.iter_mut() {
            ensure!(broker.alive()?, "a broker died by itself: {}", show_tail(broker.log()));
        }
        let topic = match kills % 2 {
            0 => INTERNAL[0],
            _ => pipelines[kills / 2 % pipelines.len()].target.as_str(),
        };
        let placed = raw::partitions(brokers[0].address(), topic)?;
        let victim = placed.get(kills % placed.len().max(1)).map_or(0, |one| one.leader);
        let broker = brokers.get_mut((victim.max(1) - 1) as usize).context("the leader is one of ours")?;
        broker.kill();
        kills += 1;
        thread::sleep(Duration::from_millis(args.down_ms));
        broker.restart()?;
        for topic in topics(pipelines) {
            failover::wait_in_sync(brokers, &topic, PARTITIONS)?;
        }
        for topic in INTERNAL {
            let partitions = raw::partitions(brokers[0].address(), topic)?.len() as i32;
            failover::wait_in_sync(brokers, topic, partitions)?;
        }
    }
    Ok(kills)
}

/// Waits until every group has committed everything that was acknowledged; what is missing after [`DRAIN`].
fn wait_until_done(brokers: &[Dejaq], pipelines: &[Pipelines], acked: &[judge::Line]) -> Vec<String> {
    let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
    for line in acked {
        let end = ends.entry(line.partition).or_default();
        *end = (*end).max(line.offset + 1);
    }
    let until = Instant::now() + DRAIN;
    let mut faults = Vec::new();
    for one in pipelines {
        loop {
            let told = raw::coordinator(brokers[0].address(), &format!("txn-{}", one.name)).and_then(|id| {
                let broker = brokers.get(id as usize - 1).context("the coordinator is one of ours")?;
                raw::committed(broker.address(), &format!("txn-{}", one.name), SOURCE, PARTITIONS)
            });
            let is_done =
                |offsets: &BTreeMap<i32, i64>| ends.iter().all(|(at, end)| offsets.get(at) >= Some(end));
            match told {
                Ok(offsets) if is_done(&offsets) => break,
                told if Instant::now() > until => {
                    let logs: Vec<_> =
                        one.processes.iter().map(|(_, log)| process::last_lines(log, 3)).collect();
                    faults.push(format!("{}: committed {told:?} of {ends:?}; {logs:?}", one.name));
                    break;
                }
                _ => thread::sleep(Duration::from_millis(200)),
            }
        }
    }
    faults
}

/// Lets every process end; those that do not, or not well.
fn end(pipelines: &mut [Pipelines]) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for stop in pipelines.iter().filter_map(|one| one.stop.as_ref()) {
        File::create(stop)?;
    }
    for one in pipelines {
        for (process, log) in &mut one.processes {
            let ended_well = match &one.stop {
                Some(_) => process.wait(LEAVE)?.is_some_and(|status| status.success()),
                None => process.stop(LEAVE)?,
            };
            if !ended_well {
                faults.push(format!("{}: did not end well: {}", one.name, process::last_lines(log, 3)));
            }
        }
        // What was committed last is still on its way to whoever looks on.
        thread::sleep(Duration::from_millis(1000));
        one.live.kill();
    }
    Ok(faults)
}

/// What is open though nobody is there any more, by our own tools.
fn open_transactions(broker: &Dejaq) -> Result<Vec<String>> {
    let limit = Duration::from_secs(60);
    let open = process::output(&mut broker.command(&["txn", "list", "--state", "Ongoing", "--json"]), limit)?;
    let mut faults: Vec<String> = open.lines().map(|line| format!("still open: {line}")).collect();
    // Status 1, which is an error here, says that something hangs.
    let mut hanging = broker.command(&["txn", "find-hanging", "--older-than-ms", "0"]);
    if let Err(error) = process::output(&mut hanging, limit) {
        faults.push(format!("something hangs: {error:#}"));
    }
    Ok(faults)
}

/// Every committed record of a topic: where it is, and what it says.
fn read(
    work: &Work,
    load: &Path,
    addresses: &str,
    topic: &str,
    dir: &Path,
) -> Result<BTreeMap<String, String>> {
    let file = dir.join(format!("{topic}.committed"));
    let mut reader = Command::new(load);
    reader.args(["committed", topic, &PARTITIONS.to_string()]).arg(&file).env("DEJAQ_BROKER", addresses);
    process::logged(&mut reader, &work.log("txn-failover-reader")?, DRAIN)?;
    let text = std::fs::read_to_string(&file)?;
    let line = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (partition, offset, value) = (words.next()?, words.next()?, words.next()?);
        Some((format!("{partition}:{offset}"), value.to_owned()))
    };
    text.lines()
        .map(|one| line(one).with_context(|| format!("{topic}: a line that is none: {one}")))
        .collect()
}

fn counts(records: &BTreeMap<String, String>) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for value in records.values() {
        *counts.entry(value.as_str()).or_default() += 1;
    }
    counts
}

/// Each record of the source is in the target once, and nothing else is.
fn judge_target(source: &BTreeMap<&str, usize>, target: &BTreeMap<String, String>) -> Vec<String> {
    let found = counts(target);
    let missing = source.iter().filter_map(|(value, wanted)| {
        let have = found.get(value).copied().unwrap_or(0);
        (have != *wanted).then(|| format!("{value} is {have} times in the target, {wanted} in the source"))
    });
    let strange = found.keys().filter(|value| !source.contains_key(**value));
    let strange = strange.map(|value| match value.starts_with(DOOMED) {
        true => format!("a reader of committed records sees what was aborted: {value}"),
        false => format!("{value} is in the target, and was never in the source"),
    });
    strange.chain(missing).collect()
}

/// What was seen while all this went on is what is there now. The last line may be half a line.
fn judge_live(target: &BTreeMap<String, String>, live: &str) -> Vec<String> {
    let whole = live.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let stray = |line: &&str| {
        line.split_once('\t').is_none_or(|(place, value)| target.get(place).is_none_or(|now| now != value))
    };
    let strays = whole.lines().filter(stray);
    strays.map(|line| format!("seen live, and not committed: {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(place, value)| ((*place).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn once_is_right_and_twice_never_and_aborted_are_not() {
        let source = records(&[("0:0", "a"), ("0:1", "b"), ("1:0", "b")]);
        let source = counts(&source);
        let right = records(&[("2:7", "b"), ("0:0", "a"), ("0:5", "b")]);
        assert_eq!(judge_target(&source, &right), Vec::<String>::new());
        for (wrong, word) in [
            (records(&[("0:0", "a"), ("0:1", "b"), ("0:2", "b"), ("0:3", "b")]), "3 times"),
            (records(&[("0:0", "a"), ("0:1", "b")]), "1 times"),
            (records(&[("0:0", "a"), ("0:1", "b"), ("0:2", "b"), ("0:3", "Xa")]), "aborted"),
        ] {
            let faults = judge_target(&source, &wrong);
            assert!(faults.len() == 1 && faults[0].contains(word), "{faults:?}");
        }
    }

    #[test]
    fn what_was_seen_live_is_there_or_it_is_a_fault() {
        let target = records(&[("0:0", "a"), ("0:2", "b")]);
        assert_eq!(judge_live(&target, "0:0\ta\n0:2\tb\n0:3\tha"), Vec::<String>::new());
        assert_eq!(judge_live(&target, "0:0\ta\n0:1\tXb\n0:2\tc\n").len(), 2);
        assert_eq!(judge_live(&target, ""), Vec::<String>::new());
    }
}
