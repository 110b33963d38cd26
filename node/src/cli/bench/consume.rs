//! The consuming load: Fetch 11, as fast as the broker answers, one request in flight a connection.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{Offset, PartitionId};
use dejaq_wire::kafka::fetch::{FetchPartition, FetchRequest, FetchTopic};
use dejaq_wire::kafka::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};

use super::link::{Link, find_topic};
use super::report::{Sample, Summary};

const VERSION: i16 = 11;
const EARLIEST: i64 = -2;
/// Bytes of a batch before its records, as Kafka lays it out.
const BATCH_HEADER_BYTES: usize = 61;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Where the broker listens.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub(super) broker: String,
    /// Topic to read.
    #[arg(long, default_value = "bench")]
    pub(super) topic: String,
    /// Partitions to read, from the first on.
    #[arg(long, default_value_t = 1)]
    pub(super) partitions: i32,
    /// Consumers, each on a connection and a thread, each reading everything.
    #[arg(long, default_value_t = 1)]
    pub(super) consumers: usize,
    /// Most bytes of one answer.
    #[arg(long, default_value_t = 1 << 20)]
    pub(super) max_bytes: i32,
    /// Measured seconds; the end of the log begins again at its start.
    #[arg(long, default_value_t = 10.0)]
    pub(super) seconds: f64,
    /// One JSON object instead of text.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    measure(args)?.print(args.json)
}

/// Runs the load and sums it up.
pub(super) fn measure(args: &Args) -> anyhow::Result<Summary> {
    let leaders = find_topic(&args.broker, &args.topic, args.partitions, &[])?;
    let address = leaders.get(&0).context("the topic has no partition 0")?.clone();
    let mine: Vec<i32> =
        (0..args.partitions).filter(|partition| leaders.get(partition) == Some(&address)).collect();
    let mut threads = Vec::new();
    for _ in 0..args.consumers {
        let (args, address, mine) = (args.clone(), address.clone(), mine.clone());
        threads.push(std::thread::spawn(move || consume(&args, &address, &mine)));
    }
    let mut all = Sample::new();
    for thread in threads {
        let sample = thread.join().map_err(|_| anyhow::anyhow!("a consumer's thread panicked"))??;
        all.join(&sample);
    }
    Ok(all.summary(Duration::from_secs_f64(args.seconds)))
}

fn consume(args: &Args, address: &str, partitions: &[i32]) -> anyhow::Result<Sample> {
    let mut link = Link::connect(address)?;
    let starts = earliest(&mut link, args, partitions)?;
    let mut offsets = starts.clone();
    let mut sample = Sample::new();
    let until = Instant::now() + Duration::from_secs_f64(args.seconds);
    loop {
        let sent = Instant::now();
        if sent >= until {
            return Ok(sample);
        }
        let response = link.call(VERSION, &fetch(args, &offsets))?;
        let at = Instant::now();
        let (mut records, mut bytes) = (0, 0);
        for partition in response.responses.iter().flat_map(|topic| &topic.partitions) {
            if partition.error_code != ErrorCode::NONE {
                bail!("partition {} answers {:?}", partition.partition_index.0, partition.error_code);
            }
            let run = partition.records.clone().unwrap_or_default().into_bytes();
            let (count, next) = count_records(&run);
            records += count;
            bytes += run.len() as u64;
            let start = starts[&partition.partition_index.0];
            offsets.insert(partition.partition_index.0, next.unwrap_or(start));
        }
        sample.answered(records, bytes, at - sent);
    }
}

fn earliest(link: &mut Link, args: &Args, partitions: &[i32]) -> anyhow::Result<BTreeMap<i32, i64>> {
    let asked = |index: &i32| ListOffsetsPartition {
        partition_index: PartitionId(*index),
        timestamp: EARLIEST,
        ..ListOffsetsPartition::default()
    };
    let topic =
        ListOffsetsTopic { name: args.topic.clone(), partitions: partitions.iter().map(asked).collect() };
    let request = ListOffsetsRequest { topics: vec![topic], ..ListOffsetsRequest::default() };
    let response = link.call(2, &request)?;
    let found = response.topics.iter().flat_map(|topic| &topic.partitions);
    Ok(found.map(|partition| (partition.partition_index.0, partition.offset.0)).collect())
}

fn fetch(args: &Args, offsets: &BTreeMap<i32, i64>) -> FetchRequest {
    let wanted = |(index, offset): (&i32, &i64)| FetchPartition {
        partition: PartitionId(*index),
        fetch_offset: Offset(*offset),
        partition_max_bytes: args.max_bytes,
        ..FetchPartition::default()
    };
    let partitions = offsets.iter().map(wanted).collect();
    FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: args.max_bytes,
        topics: vec![FetchTopic { topic: args.topic.clone(), partitions, ..FetchTopic::default() }],
        ..FetchRequest::default()
    }
}

/// Records in the whole batches of `run`, and the offset behind them if there is any.
fn count_records(mut run: &[u8]) -> (u64, Option<i64>) {
    let (mut records, mut next) = (0, None);
    while run.len() >= BATCH_HEADER_BYTES {
        let field = |at: usize| i32::from_be_bytes(run[at..at + 4].try_into().expect("four bytes"));
        let base = i64::from_be_bytes(run[..8].try_into().expect("eight bytes"));
        let total = 12 + field(8) as usize;
        if run.len() < total {
            break;
        }
        records += field(57) as u64;
        next = Some(base + i64::from(field(23)) + 1);
        run = &run[total..];
    }
    (records, next)
}
