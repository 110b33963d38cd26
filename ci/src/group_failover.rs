//! `cargo ci group-failover`: groups of stock clients on three real brokers whose coordinators are killed with SIGKILL.
//!
//! Owns: the groups, the kills, what is seen of the offsets. Promises: red when a group commits nothing for [`GOES_ON`]
//! behind the kill of its coordinator, when a committed offset goes back or is gone, when a record that was acknowledged
//! was delivered to no member of a group, and when at the end a partition has not exactly one owner by what the members say.
//! Leaves out: what producers are promised (`failover`), rebalances for their own sake (`clients --groups`).
//!
//!   load (ci/clients/franz-go) ──────────────────────────────► acked.txt ┐
//!   librdkafka, franz-go, Java; classic and KIP-848: two members each ───┼─► judge, for each group
//!   kill -9 of the coordinator of one group after the other · restart    │
//!   offsets of every group, again and again ─────────────────────────────┘

use crate::load::{self, Load, Plan};
use crate::process::{self, Guarded};
use crate::server::{Dejaq, show_tail};
use crate::work::Work;
use crate::{failover, install, judge, raw};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const TOPIC: &str = "group-failover";
const OFFSETS: &str = "__consumer_offsets";
const PARTITIONS: i32 = 6;
/// Seconds for which the load goes on behind the last kill, so that groups have something to commit.
const BEHIND: u64 = 5;
/// Time for members to come into their groups at the start; a JVM takes its time.
const SETTLE: Duration = Duration::from_secs(90);
/// Time for the load to end.
const LOAD: Duration = Duration::from_secs(90);
/// Time for members to leave.
const LEAVE: Duration = Duration::from_secs(60);
/// A group whose coordinator was killed commits again within this.
const GOES_ON: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long the load runs, at least; longer until the coordinator of every group was killed once.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Milliseconds between a restart and the next kill, at least; each round adds an uneven part.
    #[arg(long, default_value_t = 2500)]
    every_ms: u64,
    /// How long a killed broker stays down, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    down_ms: u64,
}

/// A group of one client and one protocol: a process with two members.
struct Group {
    name: String,
    file: PathBuf,
    log: PathBuf,
    process: Guarded,
    /// When its coordinator was killed, in µs since 1970.
    kills: Vec<u64>,
}

/// The verb; without a client for the load it is skipped, as is every client that cannot be had, with the reason printed.
pub fn run(args: &Args) -> Result<bool> {
    let work = Work::open()?;
    let Some(load) = load::client(&work)? else { return Ok(true) };
    let mut brokers = Dejaq::cluster(&work, "group-failover", 3)?;
    let addresses = brokers.iter().map(Dejaq::address).collect::<Vec<_>>().join(",");
    failover::create(&brokers, TOPIC, PARTITIONS)?;
    failover::wait_in_sync(&brokers, TOPIC, PARTITIONS)?;
    let dir = work.scratch("group-failover-load")?;
    let (mut groups, skipped) = begin(&work, &load, &dir, &addresses)?;
    wait_until_owned(&mut groups, SETTLE)?;
    let watch = Watch::begin(&brokers, &groups);
    let acked = dir.join("acked.txt");
    let plan = Plan {
        program: &load,
        name: "group-failover-load",
        brokers: &addresses,
        topic: TOPIC,
        partitions: PARTITIONS,
        seconds: args.seconds + BEHIND,
        pause_ms: 40,
        acked: &acked,
    };
    let producers = Load::begin(&work, &plan)?;
    let kills = kill(args, &mut brokers, &mut groups)?;
    producers.finish(LOAD, brokers[0].log())?;
    let acked = judge::parse(&acked)?;
    let behind = wait_until_read(&watch, &acked);
    let owned = wait_until_owned(&mut groups, SETTLE);
    let (looks, mut faults) = watch.end();
    faults.extend(behind);
    faults.extend(owned.err().map(|error| format!("{error:#}")));
    for group in &groups {
        File::create(group.file.with_extension("txt.stop"))?;
    }
    for group in &mut groups {
        let status = group.process.wait(LEAVE)?;
        let ended_well = status.is_some_and(|status| status.success());
        if !ended_well {
            faults.push(format!(
                "{}: ended with {status:?}: {}",
                group.name,
                process::last_lines(&group.log, 3)
            ));
        }
    }
    for broker in &mut brokers {
        broker.stop()?;
    }
    println!(
        "group-failover: {kills} kills of a coordinator; {} records acked; offsets seen {looks} times; {} groups, of two members each",
        acked.len(),
        groups.len()
    );
    for group in &groups {
        faults.extend(judge_group(group, &acked)?);
    }
    faults.iter().take(30).for_each(|fault| println!("  FAILED {fault}"));
    ensure!(acked.len() > 1000 && looks > 20, "too little happened to prove anything");
    let failed = groups.iter().filter(|group| faults.iter().any(|f| f.starts_with(&group.name))).count();
    let failed = failed.max(usize::from(!faults.is_empty()));
    println!("{} passed, {failed} failed, {skipped} skipped", groups.len().saturating_sub(failed));
    Ok(faults.is_empty())
}

/// Starts every group whose client can be had; how many clients could not.
fn begin(work: &Work, load: &Path, dir: &Path, addresses: &str) -> Result<(Vec<Group>, usize)> {
    let (mut groups, mut skipped) = (Vec::new(), 0);
    let clients: [(&str, Result<install::Start>); 3] = [
        ("librdkafka", install::librdkafka(work, "member.py")),
        ("franz-go", Ok((load.to_path_buf(), vec!["member".into()]))),
        ("java", install::java(work, "Member.java", &[])),
    ];
    for (client, start) in clients {
        let (program, first) = match start {
            Ok(start) => start,
            Err(error) => {
                println!("  skipped {client}: {error:#}");
                crate::test::tell_skipped(client, &format!("{error:#}"))?;
                skipped += 1;
                continue;
            }
        };
        for protocol in ["classic", "consumer"] {
            let name = format!("{client}-{protocol}");
            let (file, log) = (dir.join(format!("{name}.txt")), work.log(&format!("group-failover-{name}"))?);
            let mut command = Command::new(&program);
            command.args(&first).args([TOPIC, &name, protocol]).arg(&file).env("DEJAQ_BROKER", addresses);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
            groups.push(Group { name, file, log, process: Guarded::spawn(&mut command)?, kills: Vec::new() });
        }
    }
    Ok((groups, skipped))
}

/// Kills the coordinator of one group after the other; every group's at least once.
fn kill(args: &Args, brokers: &mut [Dejaq], groups: &mut [Group]) -> Result<usize> {
    let offsets = raw::partitions(brokers[0].address(), OFFSETS)?.len() as i32;
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let mut kills = 0;
    loop {
        // Uneven, so that kills meet commits, heartbeats and elections at different moments.
        thread::sleep(Duration::from_millis(args.every_ms + kills as u64 * 377 % 900));
        // Behind the end of the load nothing is committed, and nothing would tell that a group goes on.
        if Instant::now() >= until && groups.iter().all(|group| !group.kills.is_empty()) {
            return Ok(kills);
        }
        for broker in brokers.iter_mut() {
            ensure!(broker.alive()?, "a broker died by itself: {}", show_tail(broker.log()));
        }
        let least = groups.iter().min_by_key(|group| group.kills.len()).context("there are groups")?;
        let (name, address) = (least.name.clone(), brokers[0].address().to_owned());
        let victim = raw::coordinator(&address, &name)?;
        for group in groups.iter_mut() {
            if raw::coordinator(&address, &group.name)? == victim {
                group.kills.push(now_us());
            }
        }
        let broker = brokers.get_mut(victim as usize - 1).context("the coordinator is one of ours")?;
        broker.kill();
        kills += 1;
        thread::sleep(Duration::from_millis(args.down_ms));
        broker.restart()?;
        failover::wait_in_sync(brokers, TOPIC, PARTITIONS)?;
        failover::wait_in_sync(brokers, OFFSETS, offsets)?;
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Waits until the members of every group say that they own every partition once.
fn wait_until_owned(groups: &mut [Group], limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    for group in groups {
        loop {
            let text = std::fs::read_to_string(&group.file).unwrap_or_default();
            let owned = owners(&text);
            if owned.iter().copied().eq(0..PARTITIONS) {
                break;
            }
            let tail = || process::last_lines(&group.log, 3);
            ensure!(group.process.ended()?.is_none(), "{} ended: {}", group.name, tail());
            ensure!(
                Instant::now() < until,
                "{}: after {limit:?} its members own {owned:?}: {}",
                group.name,
                tail()
            );
            thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

/// What the members of a group own by the last that each said, in order; a partition of two members is there twice.
fn owners(text: &str) -> Vec<i32> {
    let mut said: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("o ")) {
        let mut words = line.split(' ').skip(1);
        let Some(member) = words.next() else { continue };
        said.insert(member, words.skip(1).filter_map(|word| word.parse().ok()).collect());
    }
    let mut all: Vec<i32> = said.into_values().flatten().collect();
    all.sort_unstable();
    all
}

/// Waits until every group has committed everything that was acknowledged; what is missing after [`SETTLE`].
fn wait_until_read(watch: &Watch, acked: &[judge::Line]) -> Vec<String> {
    let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
    for line in acked {
        let end = ends.entry(line.partition).or_default();
        *end = (*end).max(line.offset + 1);
    }
    let until = Instant::now() + SETTLE;
    loop {
        let seen = watch.seen.lock().map(|seen| seen.clone()).unwrap_or_default();
        let behind: Vec<String> = seen
            .iter()
            .filter(|(_, offsets)| ends.iter().any(|(at, end)| offsets.get(at).is_none_or(|o| o < end)))
            .map(|(name, offsets)| format!("{name}: committed {offsets:?}, acknowledged {ends:?}"))
            .collect();
        if behind.is_empty() || Instant::now() > until {
            return behind;
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// What a group was delivered, beside what was acknowledged; when it went on behind each kill of its coordinator.
fn judge_group(group: &Group, acked: &[judge::Line]) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(&group.file)?;
    let (mut delivered, mut commits, mut records) = (BTreeSet::new(), Vec::new(), 0);
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["r", _, _, partition, offset, value] => {
                records += 1;
                delivered.insert((partition.parse::<i32>()?, offset.parse::<i64>()?, value));
            }
            ["c", _, at_us] => commits.push(at_us.parse::<u64>()?),
            ["o", ..] => {}
            _ => anyhow::bail!("{}: a line that is none: {line}", group.name),
        }
    }
    let mut faults = undelivered(acked, &delivered);
    let mut gaps = gaps(&group.kills, &commits);
    gaps.sort_unstable();
    let most = gaps.last().copied().unwrap_or(0);
    if most > GOES_ON.as_micros() as u64 {
        faults.push(format!("nothing was committed for {} ms behind a kill of the coordinator", most / 1000));
    }
    println!(
        "  {:<20} {records} records delivered, {} of them again; {} kills of its coordinator, ms to the next commit: median {}, most {}",
        group.name,
        records - delivered.len(),
        group.kills.len(),
        gaps.get(gaps.len() / 2).copied().unwrap_or(0) / 1000,
        most / 1000
    );
    Ok(faults.into_iter().take(5).map(|fault| format!("{}: {fault}", group.name)).collect())
}

/// Acknowledged, and never handed to a member, under this value.
fn undelivered(acked: &[judge::Line], delivered: &BTreeSet<(i32, i64, &str)>) -> Vec<String> {
    let is_missing = |line: &&judge::Line| {
        let value = format!("{}-{}-{}", line.producer, line.partition, line.sequence);
        !delivered.contains(&(line.partition, line.offset, &value))
    };
    acked.iter().filter(is_missing).map(|line| format!("acked and never delivered: {line:?}")).collect()
}

/// For each kill: µs until the next commit that was answered, by whoever coordinated then; for ever if there was none.
///
/// What the killed coordinator had answered may be read a moment after the kill; that is not counted.
fn gaps(kills: &[u64], commits: &[u64]) -> Vec<u64> {
    const STRAGGLERS_US: u64 = 20_000;
    let next = |kill: &u64| commits.iter().filter(|at| **at > kill + STRAGGLERS_US).min().map(|at| at - kill);
    kills.iter().map(|kill| next(kill).unwrap_or(u64::MAX)).collect()
}

type Offsets = BTreeMap<String, BTreeMap<i32, i64>>;

/// Asks for the offsets of every group, again and again, beside everything else.
struct Watch {
    ends: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    seen: Arc<Mutex<Offsets>>,
    faults: Arc<Mutex<Vec<String>>>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn begin(brokers: &[Dejaq], groups: &[Group]) -> Watch {
        let addresses: Vec<String> = brokers.iter().map(|broker| broker.address().to_owned()).collect();
        let names: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
        let (ends, looks) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let seen: Arc<Mutex<Offsets>> =
            Arc::new(Mutex::new(names.iter().map(|name| (name.clone(), BTreeMap::new())).collect()));
        let faults = Arc::<Mutex<Vec<String>>>::default();
        let (end, look, see, fault) = (ends.clone(), looks.clone(), seen.clone(), faults.clone());
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                for name in &names {
                    // One that is down, or coordinates no longer, does not tell: it is asked again.
                    let Some(told) = addresses.iter().find_map(|address| ask(address, &addresses, name))
                    else {
                        continue;
                    };
                    look.fetch_add(1, Ordering::Relaxed);
                    let (Ok(mut seen), Ok(mut faults)) = (see.lock(), fault.lock()) else { return };
                    let before = seen.insert(name.clone(), told.clone()).unwrap_or_default();
                    faults.extend(went_back(&before, &told).map(|what| format!("{name}: {what}")));
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        Watch { ends, looks, seen, faults, thread }
    }

    /// How often a group was seen, and what was wrong.
    fn end(self) -> (u64, Vec<String>) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.join(); // it only looks
        let faults = self.faults.lock().map(|faults| faults.clone()).unwrap_or_default();
        (self.looks.load(Ordering::Relaxed), faults)
    }
}

/// The offsets of a group, from the coordinator that `address` names.
fn ask(address: &str, addresses: &[String], group: &str) -> Option<BTreeMap<i32, i64>> {
    let coordinator = raw::coordinator(address, group).ok()?;
    let coordinator = addresses.get(usize::try_from(coordinator).ok()?.checked_sub(1)?)?;
    raw::committed(coordinator, group, TOPIC, PARTITIONS).ok()
}

/// Offsets that are smaller than before, or gone.
fn went_back<'a>(
    before: &'a BTreeMap<i32, i64>,
    now: &'a BTreeMap<i32, i64>,
) -> impl Iterator<Item = String> + 'a {
    before.iter().filter_map(|(partition, offset)| match now.get(partition) {
        Some(after) if after >= offset => None,
        after => Some(format!("the offset of partition {partition} was {offset}, and is {after:?} now")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_what_each_member_said_last() {
        assert_eq!(owners("o 0 1 0 1 2\nr 0 1 0 0 v\no 1 2\no 0 3 0\no 1 4 1 2\n"), [0, 1, 2]);
        assert_eq!(owners("o 0 1 0 1\no 1 1 1\n"), [0, 1, 1], "of two members");
    }

    #[test]
    fn an_offset_that_is_smaller_or_gone_went_back() {
        let at = |offsets: &[(i32, i64)]| offsets.iter().copied().collect::<BTreeMap<_, _>>();
        assert_eq!(went_back(&at(&[(0, 5)]), &at(&[(0, 5), (1, 1)])).count(), 0);
        assert_eq!(went_back(&at(&[(0, 5), (1, 1)]), &at(&[(0, 4)])).count(), 2);
    }

    #[test]
    fn a_gap_is_the_time_to_the_next_commit_of_the_group() {
        let kills = [1_000_000, 3_000_000];
        assert_eq!(gaps(&kills, &[900_000, 1_010_000, 1_400_000]), [400_000, u64::MAX]);
    }

    #[test]
    fn what_was_acked_must_have_been_delivered_with_its_value() {
        let line = |partition, offset, sequence| judge::Line {
            partition,
            offset,
            producer: "i0".into(),
            sequence,
            acked_us: None,
        };
        let acked = [line(0, 0, 0), line(0, 1, 1), line(1, 0, 0)];
        let delivered = BTreeSet::from([(0, 0, "i0-0-0"), (0, 1, "i0-0-7")]);
        assert_eq!(undelivered(&acked, &delivered).len(), 2);
    }
}
