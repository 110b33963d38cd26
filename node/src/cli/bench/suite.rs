//! The table: our broker against the floor, in turns, on loopback, within one run.
//!
//! Promises: every comparison is of neighbours in time (ABAB, every second pair reversed), with fresh data
//! directories, the same load and the same machine; what is told is the median of the ratios with its spread, because
//! absolute numbers move two- and threefold with whoever else uses the machine.
//! Leaves out: other machines, other brokers (`produce` and `consume` measure any).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::child::{Server, Who};
use super::link::find_topic;
use super::report::Summary;
use super::{consume, produce};

const KIB: usize = 1024;
/// Size of the values: the record of most published benchmarks.
const RECORD_BYTES: usize = KIB;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Seconds of each block.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Pairs of blocks of each row.
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// Where data directories are made and removed again; a real disk, as the broker will have.
    #[arg(long, default_value = "./dejaq-bench", value_name = "PATH")]
    root: PathBuf,
    /// Also count instructions under valgrind (minutes).
    #[arg(long)]
    instructions: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.root)?;
    let result = throughput(args)
        .and_then(|half_rate| latency(args, half_rate))
        .and_then(|()| consumption(args))
        .and_then(|()| footprint(&args.root))
        .and_then(|()| syscalls(&args.root))
        .and_then(|()| if args.instructions { instructions(&args.root) } else { Ok(()) });
    std::fs::remove_dir_all(&args.root)?;
    result
}

/// One load, with what it cost the broker.
struct Block {
    summary: Summary,
    cpu_seconds: f64,
}

fn load(batch_bytes: usize, window: usize, connections: usize, acks: &str, seconds: f64) -> produce::Args {
    produce::Args {
        broker: String::new(),
        topic: "bench".to_owned(),
        partitions: 1,
        // The floor never syncs: with acks=1 neither do we. With acks=all the default stands: on disk, then answered.
        topic_config: if acks == "all" { Vec::new() } else { vec!["durability=none".to_owned()] },
        connections,
        window,
        rate: None,
        record_bytes: RECORD_BYTES.min(batch_bytes),
        batch_bytes,
        acks: acks.to_owned(),
        seconds,
        warmup: 1.0,
        requests: None,
        zeros: false,
        no_metadata: false,
        json: false,
    }
}

fn block(who: Who, root: &Path, load: &produce::Args) -> anyhow::Result<Block> {
    let server = Server::start(who, root, &[])?;
    let load =
        produce::Args { broker: server.address.clone(), no_metadata: who == Who::Floor, ..load.clone() };
    let before = server.cpu_seconds()?;
    let summary = produce::measure(&load)?;
    let cpu_seconds = (server.cpu_seconds()? - before) * load.seconds / (load.seconds + load.warmup);
    anyhow::ensure!(summary.errors == 0, "{who:?} answered {} requests with an error", summary.errors);
    Ok(Block { summary, cpu_seconds })
}

/// Blocks of ours and of the floor in turns.
fn pairs(args: &Args, load: &produce::Args) -> anyhow::Result<Vec<(Block, Block)>> {
    (0..args.pairs)
        .map(|pair| {
            if pair % 2 == 0 {
                let ours = block(Who::Ours, &args.root, load)?;
                Ok((ours, block(Who::Floor, &args.root, load)?))
            } else {
                let floor = block(Who::Floor, &args.root, load)?;
                Ok((block(Who::Ours, &args.root, load)?, floor))
            }
        })
        .collect()
}

pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// `median (least to most)`.
pub(super) fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({least:.2} to {most:.2})", median(values.iter().copied()))
}

/// Prints the rows of throughput; returns half of the slower one's requests a second at 16 KiB.
fn throughput(args: &Args) -> anyhow::Result<f64> {
    println!(
        "| produce, closed loop, 1 connection, 1 partition | ours | floor | ratio | CPU s/GB ours | floor |"
    );
    println!("|---|---|---|---|---|---|");
    let mut half_rate = 0.0;
    let rows = [
        ("16 KiB batches, 16 in flight, acks=1", 16 * KIB, 16, "1"),
        ("64 KiB batches, 8 in flight, acks=1", 64 * KIB, 8, "1"),
        ("1 MiB batches, 4 in flight, acks=1", 1024 * KIB, 4, "1"),
        ("64 KiB batches, 8 in flight, acks=all (ours on disk, floor not)", 64 * KIB, 8, "all"),
        ("1 record of 1 KiB a request, 64 in flight, acks=1", KIB, 64, "1"),
        ("1 record of 1 KiB a request, 1 in flight, acks=1", KIB, 1, "1"),
    ];
    for (name, batch_bytes, window, acks) in rows {
        let pairs = pairs(args, &load(batch_bytes, window, 1, acks, args.seconds))?;
        let of = |pick: fn(&Block) -> f64| {
            (
                median(pairs.iter().map(|(ours, _)| pick(ours))),
                median(pairs.iter().map(|(_, floor)| pick(floor))),
            )
        };
        let megabytes = of(|block| block.summary.mb_per_second);
        let requests = of(|block| block.summary.requests_per_second);
        let cpu = of(|block| block.cpu_seconds / (block.summary.mb_per_second * block.summary.seconds / 1e3));
        let ratios: Vec<f64> = pairs
            .iter()
            .map(|(ours, floor)| ours.summary.mb_per_second / floor.summary.mb_per_second)
            .collect();
        let told = |(megabytes, requests): (f64, f64)| format!("{megabytes:.0} MB/s, {requests:.0} req/s");
        println!(
            "| {name} | {} | {} | {} | {:.2} | {:.2} |",
            told((megabytes.0, requests.0)),
            told((megabytes.1, requests.1)),
            spread(&ratios),
            cpu.0,
            cpu.1
        );
        if batch_bytes == 16 * KIB {
            half_rate = requests.0.min(requests.1) / 2.0;
        }
    }
    println!();
    Ok(half_rate)
}

fn latency(args: &Args, rate: f64) -> anyhow::Result<()> {
    println!(
        "| latency from the intended send, 16 KiB batches, open loop | p50 µs | p99 µs | p999 µs | max µs |"
    );
    println!("|---|---|---|---|---|");
    for (name, rate) in [("half of the slower one's most", rate), ("1000 requests/s", 1_000.0)] {
        for (who, acks) in [(Who::Ours, "1"), (Who::Floor, "1"), (Who::Ours, "all")] {
            let load = produce::Args { rate: Some(rate), ..load(16 * KIB, 1, 1, acks, args.seconds) };
            let told = block(who, &args.root, &load)?.summary;
            println!(
                "| {who:?}, acks={acks}, {name} ({rate:.0}/s) | {:.0} | {:.0} | {:.0} | {:.0} |",
                told.p50_us, told.p99_us, told.p999_us, told.max_us
            );
        }
    }
    println!();
    Ok(())
}

fn consumption(args: &Args) -> anyhow::Result<()> {
    let server = Server::start(Who::Ours, &args.root, &[])?;
    let filled = produce::Args {
        broker: server.address.clone(),
        requests: Some(512),
        ..load(1024 * KIB, 4, 1, "1", args.seconds)
    };
    produce::measure(&filled)?;
    println!("| consume 512 MiB again and again, 1 MiB answers | ours | CPU s/GB |");
    println!("|---|---|---|");
    for consumers in [1, 4] {
        let load = consume::Args {
            broker: server.address.clone(),
            topic: "bench".to_owned(),
            partitions: 1,
            consumers,
            max_bytes: 1 << 20,
            seconds: args.seconds,
            json: false,
        };
        let before = server.cpu_seconds()?;
        let told = consume::measure(&load)?;
        let cpu = (server.cpu_seconds()? - before) / (told.mb_per_second * told.seconds / 1e3);
        println!(
            "| {consumers} consumers | {:.0} MB/s, {:.0} records/s | {cpu:.2} |",
            told.mb_per_second, told.records_per_second
        );
    }
    println!();
    Ok(())
}

fn footprint(root: &Path) -> anyhow::Result<()> {
    const PARTITIONS: i32 = 1000;
    let idle_seconds = 5.0;
    let server = Server::start(Who::Ours, root, &[])?;
    std::thread::sleep(Duration::from_secs(2));
    let idle_cpu = || -> anyhow::Result<f64> {
        let before = server.cpu_seconds()?;
        std::thread::sleep(Duration::from_secs_f64(idle_seconds));
        Ok((server.cpu_seconds()? - before) / idle_seconds * 100.0)
    };
    let empty_cpu = idle_cpu()?;
    let empty_kib = server.resident_kib()?;
    find_topic(&server.address, "many", PARTITIONS, &[])?;
    std::thread::sleep(Duration::from_secs(2));
    let many_kib = server.resident_kib()?;
    println!("| footprint | |\n|---|---|");
    println!("| idle CPU, empty | {empty_cpu:.2} % of a core |");
    println!("| idle CPU, {PARTITIONS} partitions | {:.2} % of a core |", idle_cpu()?);
    println!("| resident, empty | {:.1} MiB |", empty_kib / 1024.0);
    println!(
        "| resident, each empty partition | {:.1} KiB |",
        (many_kib - empty_kib) / f64::from(PARTITIONS)
    );
    println!();
    Ok(())
}

/// Whether a program can be run here.
fn is_here(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn syscalls(root: &Path) -> anyhow::Result<()> {
    const REQUESTS: u64 = 5_000;
    if !is_here("strace") {
        println!("strace is not here: system calls are not counted\n");
        return Ok(());
    }
    println!("| system calls a request, by strace | |\n|---|---|");
    for (name, batch_bytes, window, acks) in [
        ("16 KiB batches, 1 in flight, acks=1", 16 * KIB, 1, "1"),
        ("16 KiB batches, 1 in flight, acks=all", 16 * KIB, 1, "all"),
        ("1 record of 1 KiB, 64 in flight, acks=1", KIB, 64, "1"),
        ("1 record of 1 KiB, 64 in flight, acks=all", KIB, 64, "all"),
    ] {
        let server = Server::start(Who::Ours, root, &[])?;
        let load =
            produce::Args { broker: server.address.clone(), ..load(batch_bytes, window, 1, acks, 1.0) };
        produce::measure(&produce::Args { requests: Some(100), ..load.clone() })?;
        let counts = root.join("strace.txt");
        let pid = server.pid().to_string();
        let mut tracer = Command::new("strace")
            .args(["-c", "-f", "-p", &pid, "-o"])
            .arg(&counts)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_secs(1));
        produce::measure(&produce::Args { requests: Some(REQUESTS), ..load })?;
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&tracer),
            rustix::process::Signal::INT,
        )?;
        tracer.wait()?;
        let table = std::fs::read_to_string(&counts)?;
        println!("| {name} | {:.2} |", total_calls(&table)? / REQUESTS as f64);
    }
    println!();
    Ok(())
}

/// The column `calls` of the line `total`.
fn total_calls(table: &str) -> anyhow::Result<f64> {
    let line =
        table.lines().find(|line| line.trim_end().ends_with("total")).context("strace counted nothing")?;
    let calls = line.split_whitespace().nth(3).context("strace's table has another shape")?;
    Ok(calls.parse()?)
}

fn instructions(root: &Path) -> anyhow::Result<()> {
    if !is_here("valgrind") {
        println!("valgrind is not here: instructions are not counted\n");
        return Ok(());
    }
    println!("| user instructions a request, by callgrind | |\n|---|---|");
    for (name, batch_bytes, window) in [
        ("16 KiB batches, 1 in flight, acks=1", 16 * KIB, 1),
        ("1 record of 1 KiB, 64 in flight, acks=1", KIB, 64),
    ] {
        let (few, many) = (500, 4_500);
        let counted = |requests: u64| -> anyhow::Result<f64> {
            let tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];
            let server = Server::start(Who::Ours, root, &tool)?;
            let load = load(batch_bytes, window, 1, "1", 1.0);
            produce::measure(&produce::Args {
                broker: server.address.clone(),
                requests: Some(requests),
                ..load
            })?;
            let said = std::fs::read_to_string(server.stop()?)?;
            let line = said.lines().find_map(|line| line.split("Collected :").nth(1)).context("no count")?;
            Ok(line.trim().parse()?)
        };
        let each = (counted(many)? - counted(few)?) / (many - few) as f64;
        println!("| {name} | {each:.0} |");
    }
    println!();
    Ok(())
}
