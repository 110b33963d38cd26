//! `dejaq consume`: the records of a topic on standard output, as text or as JSON.
//!
//! Promises: values go out byte for byte, each followed by one line feed; records of a partition come in order;
//! a damaged or missing record ends the verb with an error and a non-zero status, never with a gap.

use std::collections::BTreeMap;
use std::io::{BufWriter, ErrorKind, Write};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::{Args as ClapArgs, ValueEnum};
use dejaq_wire::ids::{Offset, PartitionId};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs, explain};
use super::consume_group::{self, GroupArgs, Wanted};
use super::output::{bytes_json, parse_time, time};
use crate::client::consumer::{
    ConsumeError, ConsumedRecord, Consumer, ConsumerConfig, Isolation, OutOfRange, StartAt, whole_topics,
};
use crate::client::offsets::{self, OffsetSpec};
use crate::client::producer::core::TopicPartition;
use crate::runtime::Runtime;
use crate::runtime::tokio::TokioRuntime;

/// How long one poll waits for records before it looks again whether to go on.
pub(super) const POLL: Duration = Duration::from_millis(500);

/// Where to begin, as it is written on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    Beginning,
    End,
    Offset(i64),
    Timestamp(String),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<From, String> {
        match text.split_once(':') {
            None if text == "beginning" => Ok(From::Beginning),
            None if text == "end" => Ok(From::End),
            Some(("offset", offset)) => match offset.parse() {
                Ok(offset @ 0..) => Ok(From::Offset(offset)),
                Ok(_) | Err(_) => Err(format!("{offset:?} is no offset; use a number from 0 up")),
            },
            Some(("timestamp", when)) => parse_time(when, 0).map(|_| From::Timestamp(when.into())),
            Some(_) | None => Err("use beginning, end, offset:N or timestamp:WHEN".into()),
        }
    }
}

/// What to do where the offset is not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutOfRangeArg {
    /// Go on with the first record that there is.
    Beginning,
    /// Go on with the next new record.
    End,
    /// End with an error.
    Error,
}

/// Which records of transactions are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IsolationArg {
    /// All, whatever becomes of their transaction.
    ReadUncommitted,
    /// Those of committed ones; reading ends where the first one begins that is not decided.
    ReadCommitted,
}

/// Arguments of `dejaq consume`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Text: one line a record, the value as it is, behind what was asked for with --offsets, --timestamps, --headers and --key,
separated by tabs. JSON: one object a line; bytes that are no UTF-8 are {\"base64\": …}.

Examples:
  dejaq consume orders                                   everything, and then what comes
  dejaq consume orders --exit-at-end > orders.txt        what is there now
  dejaq consume orders --from end --key --offsets        what comes from now on
  dejaq consume orders --from timestamp:-10m --json      since ten minutes ago
  dejaq consume orders --from offset:42 --partition 0 --count 1
  dejaq consume orders --isolation read-committed        nothing of what was aborted, or is open
  dejaq consume orders --group billing                   share it with other members, and remember how far")]
pub(super) struct Args {
    /// The topic.
    topic: String,
    /// Where to begin (with --group: where the group has no offset yet): beginning, end, offset:N, or timestamp:WHEN (ms since 1970, 2026-01-31T12:00:00Z, -10m, …).
    #[arg(long, value_name = "WHERE", default_value = "beginning")]
    from: From,
    /// Only this partition; may be given several times.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// End after this many records.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End where the topic ends now.
    #[arg(long)]
    exit_at_end: bool,
    /// What to do where the offset to read is not held (any more).
    #[arg(long, value_enum, value_name = "POLICY", default_value = "error")]
    out_of_range: OutOfRangeArg,
    /// Which records of transactions are printed.
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "read-uncommitted")]
    isolation: IsolationArg,
    /// Print the key.
    #[arg(long)]
    key: bool,
    /// Print the headers, as NAME=VALUE with commas between.
    #[arg(long)]
    headers: bool,
    /// Print the timestamp, in UTC.
    #[arg(long)]
    timestamps: bool,
    /// Print partition and offset, as PARTITION:OFFSET.
    #[arg(long)]
    offsets: bool,
    /// Print JSON, with everything.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    group: GroupArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the verb.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.client.client(false)?;
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let ended = client.executor.block_on(consume(&client, &args, &mut out));
    match ended {
        // Whoever read us has seen enough.
        Err(error)
            if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) =>
        {
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

async fn consume(client: &Client, args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let mut starts = starts(client, args).await?;
    let isolation = match args.isolation {
        IsolationArg::ReadUncommitted => Isolation::ReadUncommitted,
        IsolationArg::ReadCommitted => Isolation::ReadCommitted,
    };
    let config = ConsumerConfig {
        isolation,
        out_of_range: match args.out_of_range {
            OutOfRangeArg::Beginning => OutOfRange::Earliest,
            OutOfRangeArg::End => OutOfRange::Latest,
            OutOfRangeArg::Error => OutOfRange::Error,
        },
        max_poll_records: 10_000,
        partition_max_bytes: 4 << 20,
        ..ConsumerConfig::default()
    };
    let ends = match args.exit_at_end {
        true => {
            if args.group.group.is_none() {
                begin_inside(client, config.out_of_range, &mut starts).await?;
            }
            Some(ends(client, isolation, starts.keys()).await?)
        }
        false => None,
    };
    if let Some(group) = &args.group.group {
        let start = start_at(client, args)?;
        let count = args.count.unwrap_or(u64::MAX);
        let wanted = Wanted { group, topic: &args.topic, start, config, count, ends };
        let print = |record: &ConsumedRecord, mut out: &mut dyn Write| write_record(args, record, &mut out);
        return consume_group::run(client, &args.group, wanted, out, print).await;
    }
    let mut consumer = Consumer::new(client.cluster.clone(), config);
    consumer.assign(starts, client.deadline()).await.map_err(explain_consume)?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && !ends.as_ref().is_some_and(|ends| is_at_end(&consumer, ends)) {
        // A damaged batch does not hide what was handed out before it: that is written already.
        let records = consumer.poll(POLL).await.map_err(explain_consume)?;
        for record in &records {
            let end = ends.as_ref().and_then(|ends| ends.get(&record.at));
            if left == 0 || end.is_some_and(|end| record.offset >= *end) {
                continue;
            }
            left -= 1;
            write_record(args, record, out)?;
        }
        if !records.is_empty() {
            out.flush()?;
        }
    }
    out.flush()?;
    Ok(())
}

fn start_at(client: &Client, args: &Args) -> anyhow::Result<StartAt> {
    let now_ms = client.cluster.runtime().unix_ms();
    Ok(match &args.from {
        From::Beginning => StartAt::Beginning,
        From::End => StartAt::End,
        From::Offset(offset) => StartAt::Offset(Offset(*offset)),
        From::Timestamp(when) => StartAt::Timestamp(parse_time(when, now_ms).map_err(anyhow::Error::msg)?),
    })
}

async fn starts(client: &Client, args: &Args) -> anyhow::Result<BTreeMap<TopicPartition, StartAt>> {
    let start = start_at(client, args)?;
    let topic = args.topic.as_str().into();
    let all = whole_topics(&client.cluster, &[topic], start, client.deadline())
        .await
        .map_err(|error| explain(&error, error.cure()))?;
    if args.partition.is_empty() {
        if all.len() > 1 && matches!(start, StartAt::Offset(_)) {
            eprintln!(
                "dejaq: that offset is taken in each of {} partitions; --partition N names one",
                all.len()
            );
        }
        return Ok(all);
    }
    let mut chosen = BTreeMap::new();
    for partition in &args.partition {
        let at = TopicPartition { topic: args.topic.as_str().into(), partition: PartitionId(*partition) };
        if !all.contains_key(&at) {
            let cause =
                format!("topic {} has partitions 0 to {}, not {partition}", args.topic, all.len() - 1);
            return Err(explain(cause, format!("see them: dejaq topic describe {}", args.topic)));
        }
        chosen.insert(at, start);
    }
    Ok(chosen)
}

async fn ends<'a>(
    client: &Client,
    isolation: Isolation,
    partitions: impl Iterator<Item = &'a TopicPartition>,
) -> anyhow::Result<BTreeMap<TopicPartition, Offset>> {
    let wanted = partitions.map(|at| (at.clone(), OffsetSpec::Latest)).collect();
    let found = offsets::find_as(&client.cluster, isolation, &wanted, client.deadline())
        .await
        .map_err(|error| explain(&error, error.cure()))?;
    found
        .into_iter()
        .map(|(at, found)| Ok((at, found.offset.context("a partition does not tell its end")?)))
        .collect()
}

/// Who begins behind the end is not at the end: what is to be done then is done before anything is read.
async fn begin_inside(
    client: &Client,
    policy: OutOfRange,
    starts: &mut BTreeMap<TopicPartition, StartAt>,
) -> anyhow::Result<()> {
    if !starts.values().any(|start| matches!(start, StartAt::Offset(_))) {
        return Ok(());
    }
    let ends = ends(client, Isolation::ReadUncommitted, starts.keys()).await?;
    for (at, start) in starts {
        let StartAt::Offset(offset) = *start else { continue };
        let end = ends[at];
        if offset <= end {
            continue; // below what is kept the broker says so
        }
        *start = match policy {
            OutOfRange::Earliest => StartAt::Beginning,
            OutOfRange::Latest => StartAt::End,
            OutOfRange::Error => {
                let (at, start) = (at.clone(), Offset::NONE);
                return Err(explain_consume(ConsumeError::OutOfRange { at, offset, start, end }));
            }
        };
    }
    Ok(())
}

fn is_at_end(consumer: &Consumer<TokioRuntime>, ends: &BTreeMap<TopicPartition, Offset>) -> bool {
    ends.iter().all(|(at, end)| consumer.position(at).is_none_or(|position| position >= *end))
}

fn explain_consume(error: ConsumeError) -> anyhow::Error {
    explain(&error, error.cure())
}

fn write_record(args: &Args, record: &ConsumedRecord, out: &mut impl Write) -> std::io::Result<()> {
    if args.json {
        serde_json::to_writer(&mut *out, &record_json(record))?;
        return out.write_all(b"\n");
    }
    if args.offsets {
        write!(out, "{}:{}\t", record.at.partition, record.offset)?;
    }
    if args.timestamps {
        write!(out, "{}\t", time(record.timestamp_ms))?;
    }
    if args.headers {
        for (at, (name, value)) in record.headers.iter().enumerate() {
            out.write_all(if at > 0 { b"," } else { b"" })?;
            out.write_all(&name)?;
            out.write_all(b"=")?;
            out.write_all(value.as_deref().unwrap_or_default())?;
        }
        out.write_all(b"\t")?;
    }
    if args.key {
        out.write_all(record.key.as_deref().unwrap_or_default())?;
        out.write_all(b"\t")?;
    }
    out.write_all(record.value.as_deref().unwrap_or_default())?;
    out.write_all(b"\n")
}

fn record_json(record: &ConsumedRecord) -> Value {
    let header = |(name, value): (bytes::Bytes, Option<bytes::Bytes>)| {
        json!([String::from_utf8_lossy(&name), bytes_json(value.as_deref())])
    };
    json!({
        "topic": *record.at.topic,
        "partition": record.at.partition.0,
        "offset": record.offset.0,
        "timestamp_ms": record.timestamp_ms,
        "time": time(record.timestamp_ms),
        "leader_epoch": record.leader_epoch.0,
        "key": bytes_json(record.key.as_deref()),
        "value": bytes_json(record.value.as_deref()),
        "headers": record.headers.iter().map(header).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_an_offset_or_a_time() {
        assert_eq!("beginning".parse(), Ok(From::Beginning));
        assert_eq!("offset:42".parse(), Ok(From::Offset(42)));
        assert_eq!("timestamp:-10m".parse(), Ok(From::Timestamp("-10m".into())));
        assert_eq!(
            "timestamp:2026-01-31T12:00:00Z".parse(),
            Ok(From::Timestamp("2026-01-31T12:00:00Z".into()))
        );
        for bad in ["", "offset:", "offset:-1", "timestamp:soon", "middle"] {
            assert!(bad.parse::<From>().is_err(), "{bad:?}");
        }
    }
}
