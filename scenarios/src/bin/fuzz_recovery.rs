//! Fuzzes the opening of a log: random and mutated directories must not panic, must not make recovery allocate without
//! bounds, and must never make it serve a batch whose CRC is wrong.
//!
//! `cargo run --release -p dejaq-scenarios --bin fuzz_recovery -- --inputs 1000000 --seed 1`
//!
//! An input is a directory image of a small real log, changed: bytes flipped, ranges zeroed, cut, doubled, moved between
//! files, files removed, emptied, swapped or filled with noise; then the log is opened, read, checked, appended to,
//! closed, and opened again. Input `n` of a seed is always the same; a failure prints both.

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use dejaq_storage::model_disk::random::{below, chance, pick, stream};
use dejaq_storage::model_disk::{CrashMode, ModelDisk, Platter, Setup};
use dejaq_storage::{
    DataDir, Disk, DiskFile, LastStop, Log, LogConfig, LogIdentity, Open, OpenOptions, ReadAsk, ReadError,
    SpaceGuard, VerifiedBatch,
};
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId};
use dejaq_wire::record::{BatchBuilder, Batches, Compression, NewRecord};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// What opening and reading a log of a few KB may hold at once: the read-ahead, the largest index, its own copies.
const MOST_BYTES: usize = 16 << 20;
const NOW_MS: i64 = 1_700_000_000_000;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[expect(unsafe_code, reason = "an allocator cannot be written without; it only counts and hands on")]
// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the model disk never waits"),
    }
}

fn identity() -> LogIdentity {
    LogIdentity { topic: "t".to_owned(), topic_id: TopicId([5; 16]), partition: PartitionId(0) }
}

fn dir() -> PathBuf {
    DataDir::<ModelDisk>::partition_path(TopicId([5; 16]), PartitionId(0))
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 700, index_interval_bytes: 100, snapshot_bytes: 400, ..LogConfig::default() }
}

fn open(platter: &Platter) -> Result<Log<ModelDisk>, String> {
    let options = OpenOptions {
        last_stop: LastStop::KILLED,
        now_ms: NOW_MS,
        space: SpaceGuard::default(),
        verify_all: false,
    };
    let opened = now(Log::create(platter.mount(), dir(), identity(), config(), options));
    opened.map(|(log, _)| log).map_err(|error| error.to_string())
}

fn batch(rng: &mut ChaCha8Rng, next: &mut i32) -> VerifiedBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    let records = 1 + below(rng, 3);
    if chance(rng, 500_000) {
        builder.producer_id = ProducerId(below(rng, 3) as i64);
        builder.producer_epoch = ProducerEpoch(0);
        builder.base_sequence = Sequence(*next);
        *next += records as i32;
    }
    let value = vec![b'x'; below(rng, 90) as usize];
    for _ in 0..records {
        builder.append(&NewRecord { timestamp_ms: NOW_MS, value: Some(&value), ..NewRecord::default() });
    }
    VerifiedBatch::verify(builder.build().expect("no compression").to_bytes()).expect("our own batch")
}

/// A few real logs, each with another past.
fn seeds(seed: u64) -> Vec<Vec<(PathBuf, Vec<u8>)>> {
    (0..24).map(|at| original(&mut stream(seed, "original", at))).collect()
}

fn original(rng: &mut ChaCha8Rng) -> Vec<(PathBuf, Vec<u8>)> {
    let platter = restore(&[]);
    let mut log = open(&platter).expect("a new log");
    let mut next = 0;
    for at in 0..4 + below(rng, 14) {
        let batches: Vec<VerifiedBatch> = (0..1 + below(rng, 2)).map(|_| batch(rng, &mut next)).collect();
        let _ = log.append_leader(&batches, LeaderEpoch((at / 5) as i32), NOW_MS);
        match below(rng, 6) {
            0 | 1 => drop(now(log.flush())),
            2 if at > 6 => drop(now(log.advance_start(Offset(log.flushed().0 / 2)))),
            3 if at > 6 => drop(now(log.truncate_to(Offset(log.start().0.max(log.end().0 - 3))))),
            _ => {}
        }
    }
    if chance(rng, 500_000) {
        let _ = now(log.close());
    }
    platter.files()
}

fn mutate(rng: &mut ChaCha8Rng, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for _ in 0..1 + below(rng, 4) {
        if files.is_empty() {
            return;
        }
        let at = below(rng, files.len() as u64) as usize;
        let other = below(rng, files.len() as u64) as usize;
        let donor = files[other].1.clone();
        let bytes = &mut files[at].1;
        let from = below(rng, bytes.len() as u64 + 1) as usize;
        let to = (from + below(rng, 64) as usize).min(bytes.len());
        match below(rng, 12) {
            0..=2 if !bytes.is_empty() => {
                let byte = from.min(bytes.len() - 1);
                bytes[byte] ^= 1 << below(rng, 8);
            }
            3 => bytes[from..to].fill(0),
            4 => rng.fill_bytes(&mut bytes[from..to]),
            5 => bytes.truncate(from),
            6 => {
                let doubled = bytes[from..to].to_vec();
                bytes.splice(from..from, doubled);
            }
            7 => drop(bytes.drain(from..to)),
            8 => {
                let taken: Vec<u8> = donor.iter().skip(from).take(200).copied().collect();
                let end = (from + taken.len()).min(bytes.len());
                bytes[from..end].copy_from_slice(&taken[..end - from]);
            }
            9 => *bytes = donor,
            10 => drop(files.remove(at)),
            _ => {
                let names = [
                    "00000000000000000003.log",
                    "00000000000000000007.sum",
                    "truncate",
                    "epochs.tmp",
                    "00000000000000000005.log",
                    "00000000000000000002.producers",
                    "start",
                    "00000000000000000001.log.deleted",
                ];
                let name = dir().join(pick(rng, &names));
                files.retain(|(path, _)| *path != name);
                files.push((name, donor));
            }
        }
    }
}

fn restore(files: &[(PathBuf, Vec<u8>)]) -> Platter {
    let platter = Platter::new(Setup::default());
    let disk = platter.mount();
    disk.create_dir_all(&dir()).expect("healthy");
    let mut written = Vec::new();
    for (path, bytes) in files {
        let file = disk.open(path, Open::CreateNew).expect("healthy");
        file.append_at(0, &[Bytes::copy_from_slice(bytes)]).expect("healthy");
        written.push(file);
    }
    now(disk.sync_many(written)).expect("healthy");
    for name in [dir().as_path(), Path::new("partitions"), Path::new("")] {
        now(disk.sync_dir(name)).expect("healthy");
    }
    platter
}

/// Reads everything that is served; every batch must be one. Returns how many there were.
fn read_through(log: &Log<ModelDisk>) -> Result<u64, String> {
    let reader = log.reader();
    let (mut offset, mut count) = (log.start(), 0);
    while offset < log.end() {
        let ask = ReadAsk { offset, max_bytes: 400, at_least_one: true, end_bound: log.end() };
        match now(reader.read(ask)) {
            Ok(read) => {
                for batch in Batches::new(read.batches) {
                    batch
                        .map_err(|e| e.to_string())?
                        .check_crc()
                        .map_err(|e| format!("served at {offset:?}: {e}"))?;
                    count += 1;
                }
                if read.next <= offset {
                    return Err(format!("no progress at {offset:?}"));
                }
                offset = read.next;
            }
            Err(ReadError::Damaged { to, .. }) if to > offset => offset = to,
            Err(error) => return Err(format!("at {offset:?}: {error}")),
        }
    }
    Ok(count)
}

fn input(seed: u64, number: u64, originals: &[Vec<(PathBuf, Vec<u8>)>]) -> Result<(bool, u64), String> {
    let mut rng = stream(seed, "input", number);
    let mut files = pick(&mut rng, originals).clone();
    mutate(&mut rng, &mut files);
    let platter = restore(&files);
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let Ok(mut log) = open(&platter) else { return Ok((false, 0)) };
    let served = read_through(&log)?;
    let _ = now(log.reader().scrub());
    let _ = now(log.reader().max_timestamp(log.end()));
    let end = log.end();
    let appended = log.append_leader(&[batch(&mut rng, &mut 1_000_000)], LeaderEpoch(1 << 20), NOW_MS);
    let grown = appended[0].is_ok();
    if grown {
        now(log.flush()).map_err(|error| error.to_string())?;
    }
    platter.crash(&mut rng, CrashMode::Lose);
    drop(log);
    let log = open(&platter).map_err(|error| format!("the second start: {error}"))?;
    if grown && log.end() <= end {
        return Err(format!("{end:?} was durable and appended to, the log ends at {:?}", log.end()));
    }
    read_through(&log)?;
    let peak = PEAK.load(Ordering::Relaxed) - before;
    if peak > MOST_BYTES {
        return Err(format!("{peak} bytes were held at once"));
    }
    Ok((true, served))
}

fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() -> std::process::ExitCode {
    let (inputs, seed, only) =
        (argument("--inputs", 10_000), argument("--seed", 1), argument("--only", u64::MAX));
    let originals = seeds(seed);
    let (mut opened, mut served) = (0_u64, 0_u64);
    let range = if only == u64::MAX { 0..inputs } else { only..only + 1 };
    for number in range {
        let result = std::panic::catch_unwind(|| input(seed, number, &originals));
        match result {
            Ok(Ok((open, batches))) => {
                opened += u64::from(open);
                served += batches;
            }
            Ok(Err(error)) => {
                println!("input {number} of seed {seed}: {error}");
                return std::process::ExitCode::FAILURE;
            }
            Err(_) => {
                println!("input {number} of seed {seed} panicked; again with --seed {seed} --only {number}");
                return std::process::ExitCode::FAILURE;
            }
        }
    }
    println!("{inputs} inputs of seed {seed}: {opened} opened, {served} batches served, none wrong");
    std::process::ExitCode::SUCCESS
}
