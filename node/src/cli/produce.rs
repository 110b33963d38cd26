//! `dejaq produce`: the lines of a file, or of standard input, as records of a topic.
//!
//! Promises: the bytes of a line go out as they are (only the line feed is taken off); lines keep their order in each
//! partition; the verb ends only when every record is settled, and with a non-zero status if one is not stored.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::{Args as ClapArgs, ValueEnum};
use dejaq_wire::ids::PartitionId;
use dejaq_wire::record::Compression;
use serde_json::json;

use super::client::{Client, ClientArgs, explain, pair};
use super::output::size;
use super::produce_txn::{self, TxnArgs};
use crate::client::batching::BatchLimits;
use crate::client::outcome::Verdict;
use crate::client::producer::{Acks, Delivery, ProduceError, Producer, ProducerConfig, Record, Stored};
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::{Mono, Runtime};

/// Lines whose fate is not known yet, at most; the buffer of the producer is the tighter bound for long lines.
const MAX_UNSETTLED: usize = 200_000;
/// Errors that are printed; the rest is counted.
const MAX_PRINTED_ERRORS: u64 = 5;
/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// What confirms a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AcksArg {
    /// Nothing: losses go unseen.
    #[value(name = "0", alias = "none")]
    None,
    /// The leader has written it.
    #[value(name = "1", alias = "leader")]
    Leader,
    /// It is as safe as the topic's policy says: durable by default.
    #[value(name = "all", alias = "-1")]
    All,
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompressionArg {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// Arguments of `dejaq produce`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Each line is one record. Status 0 says that every record is stored; any other status that some are not, or perhaps not.

Examples:
  echo hello | dejaq produce orders
  dejaq produce orders orders.txt --compression zstd
  dejaq produce orders --key-separator : --header source=shop    lines like  customer-7:two apples
  dejaq produce orders big.txt --linger-ms 50 --batch-bytes 1048576    fewer, larger batches
  dejaq produce orders day.txt --transactional                         all of it, or nothing
  dejaq produce orders --transactional-id shop-1 --records-per-txn 100")]
pub(super) struct Args {
    /// The topic. It is created if the broker allows that.
    pub(super) topic: String,
    /// The file to read; standard input without it, or if it is '-'.
    file: Option<PathBuf>,
    /// Cut each line at the first of these: what stands before is the key. A line without one has no key.
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// A header for every record; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    header: Vec<(String, String)>,
    /// Which partition; without it by the key, or in turns.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// What confirms a record.
    #[arg(long, value_enum, default_value = "all")]
    acks: AcksArg,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value = "none")]
    compression: CompressionArg,
    /// How long a record waits for others to travel with, in ms.
    #[arg(long, value_name = "MS", default_value_t = 5)]
    linger_ms: u64,
    /// Bytes that travel together, before compression.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..))]
    batch_bytes: u32,
    /// Number the records, so that a retry cannot store one twice; only with acks=all.
    #[arg(long, value_name = "BOOL", default_missing_value = "true", num_args = 0..=1)]
    idempotent: Option<bool>,
    /// Give a record up after this long, in ms.
    #[arg(long, value_name = "MS", default_value_t = 120_000)]
    pub(super) delivery_timeout_ms: u64,
    /// Print partition and offset of every record, one a line.
    #[arg(long)]
    pub(super) print_offsets: bool,
    /// Print the summary as JSON on standard output.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    txn: TxnArgs,
    #[command(flatten)]
    client: ClientArgs,
}

impl Args {
    pub(super) fn config(&self, max_block: Duration) -> ProducerConfig {
        ProducerConfig {
            acks: match self.acks {
                AcksArg::None => Acks::None,
                AcksArg::Leader => Acks::Leader,
                AcksArg::All => Acks::All,
            },
            compression: match self.compression {
                CompressionArg::None => Compression::None,
                CompressionArg::Gzip => Compression::Gzip,
                CompressionArg::Snappy => Compression::Snappy,
                CompressionArg::Lz4 => Compression::Lz4,
                CompressionArg::Zstd => Compression::Zstd,
            },
            batch: BatchLimits {
                batch_bytes: self.batch_bytes as usize,
                linger: Duration::from_millis(self.linger_ms),
                ..ProducerConfig::default().batch
            },
            idempotent: self.idempotent.unwrap_or(self.acks == AcksArg::All),
            delivery_timeout: Duration::from_millis(self.delivery_timeout_ms),
            max_request_bytes: ProducerConfig::default().max_request_bytes.max(self.batch_bytes as usize),
            max_block,
            ..ProducerConfig::default()
        }
    }

    /// A record from a line, without its line feed.
    pub(super) fn record(&self, line: Bytes) -> Record {
        let mut record = Record { topic: self.topic.as_str().into(), ..Record::default() };
        record.partition = self.partition.map(PartitionId);
        record.headers =
            self.header.iter().map(|(n, v)| (n.clone(), Some(Bytes::from(v.clone().into_bytes())))).collect();
        let cut =
            self.key_separator.as_deref().filter(|separator| !separator.is_empty()).and_then(|separator| {
                let at = line.windows(separator.len()).position(|window| window == separator.as_bytes())?;
                Some((at, at + separator.len()))
            });
        match cut {
            Some((end, start)) => {
                record.key = Some(line.slice(..end));
                record.value = Some(line.slice(start..));
            }
            None => record.value = Some(line),
        }
        record
    }
}

#[derive(Default)]
struct Tally {
    stored: u64,
    bytes: u64,
    failed: u64,
    perhaps: u64,
}

/// Runs the verb.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut input = open(args.file.as_ref())?;
    let client = args.client.client(true)?;
    if let Some(id) = args.txn.id(client.cluster.runtime().random_u64())? {
        return client.executor.block_on(produce_txn::run(&client, &args, &args.txn, &id, &mut *input));
    }
    client.executor.block_on(produce(&client, &args, &mut *input))
}

#[allow(clippy::disallowed_methods, reason = "the user's file is not the broker's disk")]
fn open(file: Option<&PathBuf>) -> anyhow::Result<Box<dyn BufRead>> {
    match file.filter(|path| path.as_os_str() != "-") {
        None => Ok(Box::new(BufReader::with_capacity(1 << 16, std::io::stdin()))),
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(Box::new(BufReader::with_capacity(1 << 16, file)))
        }
    }
}

/// Reads lines in this thread, which is none of the executor's workers, so that waiting for input stops nobody.
async fn produce(client: &Client, args: &Args, input: &mut dyn BufRead) -> anyhow::Result<ExitCode> {
    let runtime = client.cluster.runtime().clone();
    let producer = Producer::start(client.cluster.clone(), args.config(client.timeout))
        .map_err(|error| explain(error, "see dejaq produce --help"))?;
    let mut run = Run {
        args,
        tally: Tally::default(),
        waiting: VecDeque::new(),
        progress: Progress::new(&runtime),
        line: 0,
    };
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input.read_until(b'\n', &mut line).context("cannot read the input")?;
        if read == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        run.line += 1;
        let sent = send(&producer, args, Bytes::copy_from_slice(&line)).await;
        match sent {
            Ok(delivery) => run.waiting.push_back((run.line, line.len(), delivery)),
            Err(error) => {
                // What cannot even be taken is not going to be better with the next line.
                run.fail(run.line, &error);
                break;
            }
        }
        run.settle_some(&runtime).await?;
    }
    producer.flush().await;
    run.settle_all(&runtime).await?;
    run.finish(&runtime)
}

async fn send(producer: &Producer<TokioRuntime>, args: &Args, line: Bytes) -> Result<Delivery, ProduceError> {
    producer.send(args.record(line)).await
}

/// The lines that are under way, and the count of those that are settled.
struct Run<'a> {
    args: &'a Args,
    tally: Tally,
    waiting: VecDeque<(u64, usize, Delivery)>,
    progress: Progress,
    line: u64,
}

impl Run<'_> {
    /// Takes what is settled, in order; waits only when too much is not.
    async fn settle_some(&mut self, runtime: &TokioRuntime) -> anyhow::Result<()> {
        while let Some((_, _, delivery)) = self.waiting.front() {
            let told = match delivery.try_get() {
                Some(told) => told,
                None if self.waiting.len() < MAX_UNSETTLED => break,
                None => delivery.wait().await,
            };
            self.take(told)?;
        }
        self.progress.show(runtime, &self.tally);
        Ok(())
    }

    async fn settle_all(&mut self, runtime: &TokioRuntime) -> anyhow::Result<()> {
        while let Some((_, _, delivery)) = self.waiting.front() {
            let told = delivery.wait().await;
            self.take(told)?;
            self.progress.show(runtime, &self.tally);
        }
        Ok(())
    }

    fn take(&mut self, told: Result<Stored, ProduceError>) -> anyhow::Result<()> {
        let (line, bytes, _) = self.waiting.pop_front().expect("the front was just looked at");
        match told {
            Ok(stored) => {
                self.tally.stored += 1;
                self.tally.bytes += bytes as u64;
                if self.args.print_offsets {
                    let offset = stored.offset.map_or("-".into(), |offset| offset.to_string());
                    writeln!(std::io::stdout().lock(), "{}\t{offset}", stored.partition)?;
                }
            }
            Err(error) => self.fail(line, &error),
        }
        Ok(())
    }

    fn fail(&mut self, line: u64, error: &ProduceError) {
        self.tally.failed += 1;
        self.tally.perhaps += u64::from(error.verdict == Verdict::Maybe);
        if self.tally.failed <= MAX_PRINTED_ERRORS {
            self.progress.clear();
            eprintln!("dejaq: line {line}: {error}\n  try: {}", error.cure());
        }
    }

    fn finish(mut self, runtime: &TokioRuntime) -> anyhow::Result<ExitCode> {
        self.progress.clear();
        let Tally { stored, bytes, failed, perhaps } = self.tally;
        let seconds = runtime.now().since(self.progress.began).as_secs_f64();
        if self.args.json {
            let summary = json!({
                "topic": self.args.topic, "stored": stored, "bytes": bytes, "failed": failed,
                "perhaps_stored": perhaps, "seconds": seconds,
            });
            println!("{summary}");
        } else {
            let rate = size((bytes as f64 / seconds.max(0.001)) as u64);
            eprintln!("{stored} record(s) stored, {} in {seconds:.1} s ({rate}/s)", size(bytes));
        }
        if failed > 0 {
            eprintln!("dejaq: {failed} record(s) failed, {perhaps} of them are perhaps stored");
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A line on standard error that is overwritten, if a person looks.
struct Progress {
    began: Mono,
    next: Mono,
    shown: bool,
    terminal: bool,
}

impl Progress {
    fn new(runtime: &TokioRuntime) -> Progress {
        let began = runtime.now();
        let terminal = std::io::stderr().is_terminal();
        Progress { began, next: began.plus(PROGRESS_EVERY), shown: false, terminal }
    }

    fn show(&mut self, runtime: &TokioRuntime, tally: &Tally) {
        if !self.terminal {
            return;
        }
        let now = runtime.now();
        if now >= self.next {
            self.next = now.plus(PROGRESS_EVERY);
            self.shown = true;
            let seconds = now.since(self.began).as_secs_f64();
            let rate = size((tally.bytes as f64 / seconds) as u64);
            eprint!("\r{} record(s), {}, {rate}/s   ", tally.stored, size(tally.bytes));
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r{:60}\r", "");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(flags: &[&str]) -> Args {
        Line::try_parse_from([&["dejaq", "t"], flags].concat()).expect("it parses").args
    }

    #[test]
    fn a_line_is_cut_at_the_first_separator_and_never_changed() {
        let with = args(&["--key-separator", ": ", "--header", "a=b"]);
        let record = with.record(Bytes::from_static(b"k\xff: v: w\r"));
        assert_eq!(
            (record.key.as_deref(), record.value.as_deref()),
            (Some(&b"k\xff"[..]), Some(&b"v: w\r"[..]))
        );
        assert_eq!(record.headers, [("a".to_owned(), Some(Bytes::from_static(b"b")))]);
        let whole = with.record(Bytes::from_static(b"no key"));
        assert_eq!((whole.key, whole.value.as_deref()), (None, Some(&b"no key"[..])));
    }

    #[test]
    fn idempotence_is_on_exactly_where_it_can_be() {
        let config = |flags: &[&str]| args(flags).config(Duration::ZERO).idempotent;
        assert!(config(&[]));
        assert!(!config(&["--acks", "1"]));
        assert!(!config(&["--idempotent", "false"]));
        assert!(config(&["--idempotent", "--acks", "1"]), "and is then refused, with a reason");
    }
}
