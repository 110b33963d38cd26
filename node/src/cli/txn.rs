//! `dejaq txn`: the transactions there are, how one stands, which hang, how to end one; and a copy that is exact.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args as ClapArgs, Subcommand};
use dejaq_wire::ids::{Offset, PartitionId, ProducerId};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs, explain, explain_admin};
use super::output::{Table, time};
use super::txn_copy;
use crate::client::producer::core::TopicPartition;
use crate::client::txn::tools::{self, DescribedTxn, Filter, OpenTxn, ToolError};
use crate::runtime::Runtime;

/// Arguments of `dejaq txn`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the transactional ids with their states.
    #[command(after_help = "\
Examples:
  dejaq txn list
  dejaq txn list --state Ongoing --open-for-ms 60000      open for a minute or more
  dejaq txn list --pattern 'billing-.*' --json")]
    List(List),
    /// Show how a transactional id stands: state, producer, since when, which partitions.
    #[command(after_help = "\
Examples:
  dejaq txn describe billing-1
  dejaq txn describe billing-1 --json | jq .partitions")]
    Describe(Describe),
    /// Find transactions that partitions hold open and that no coordinator is going to end.
    #[command(after_help = "\
Such a one would keep readers of committed records from everything behind it. None is what there should be; status 1 says
that there are some, and each line says how to end it.

Examples:
  dejaq txn find-hanging
  dejaq txn find-hanging --topic orders --older-than-ms 0   also what was written to a moment ago")]
    FindHanging(FindHanging),
    /// End a transaction as aborted: by its id, or by the place where it begins.
    #[command(after_help = "\
By its id: the id is taken over, so that whoever has it is fenced and what it left open is aborted by its coordinator. This is
safe at any time; a producer that is fenced must be started anew.
By its place: a marker is written into that one partition, past every coordinator. For what find-hanging found; refused while a coordinator has it.

Examples:
  dejaq txn abort billing-1
  dejaq txn abort --topic orders --partition 3 --start-offset 1042")]
    Abort(Abort),
    /// Copy the records of a topic into another one, each exactly once, until told to stop.
    Copy(txn_copy::Args),
}

#[derive(Debug, ClapArgs)]
struct List {
    /// Only in this state: Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit, CompleteAbort; may be given several times.
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    /// Only of this producer id; may be given several times.
    #[arg(long, value_name = "ID")]
    producer: Vec<i64>,
    /// Only those with a transaction that is open for this long, in ms, or longer.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(i64).range(0..))]
    open_for_ms: Option<i64>,
    /// Only ids that match this pattern, from end to end.
    #[arg(long, value_name = "REGEX")]
    pattern: Option<String>,
    /// Print JSON, one id a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Describe {
    /// The transactional id.
    id: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct FindHanging {
    /// Only in this topic; may be given several times.
    #[arg(long, value_name = "TOPIC")]
    topic: Vec<String>,
    /// Only what nobody wrote to for this long, in ms: longer than any transaction may be open.
    #[arg(long, value_name = "MS", default_value_t = 900_000, value_parser = clap::value_parser!(i64).range(0..))]
    older_than_ms: i64,
    /// Print JSON, one transaction a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Abort {
    /// The transactional id.
    #[arg(required_unless_present = "topic", conflicts_with_all = ["topic", "partition", "start_offset"])]
    id: Option<String>,
    /// The topic of a transaction that hangs.
    #[arg(long, value_name = "TOPIC", requires_all = ["partition", "start_offset"])]
    topic: Option<String>,
    /// Its partition.
    #[arg(long, value_name = "N", requires = "topic", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// The offset where it begins, as find-hanging tells it.
    #[arg(long, value_name = "OFFSET", requires = "topic", value_parser = clap::value_parser!(i64).range(0..))]
    start_offset: Option<i64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs one verb.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::List(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(list(&client, &args))
        }
        Verb::Describe(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(describe(&client, &args))
        }
        Verb::FindHanging(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(find_hanging(&client, &args))
        }
        Verb::Abort(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(abort(&client, &args))
        }
        Verb::Copy(args) => txn_copy::run(&args),
    }
}

fn explain_tool(error: ToolError) -> anyhow::Error {
    explain(&error, error.cure())
}

async fn list(client: &Client, args: &List) -> anyhow::Result<ExitCode> {
    let filter = Filter {
        states: args.state.clone(),
        producers: args.producer.iter().map(|id| ProducerId(*id)).collect(),
        open_for_ms: args.open_for_ms,
        pattern: args.pattern.clone(),
    };
    let all = tools::list(&client.cluster, &filter, client.deadline()).await.map_err(explain_tool)?;
    let mut table = Table::new(&["ID", "STATE", "PRODUCER", "COORDINATOR"]);
    for one in &all {
        if args.json {
            println!(
                "{}",
                json!({
                    "transactional_id": one.id, "state": one.state, "producer_id": one.producer.0,
                    "coordinator": one.coordinator.0,
                })
            );
        }
        let (producer, coordinator) = (one.producer.0.to_string(), one.coordinator.to_string());
        table.row(vec![one.id.clone(), one.state.clone(), producer, coordinator]);
    }
    match (args.json, all.is_empty()) {
        (true, _) => {}
        (false, true) => eprintln!("no such transactional ids"),
        (false, false) => print!("{}", table.render()),
    }
    Ok(ExitCode::SUCCESS)
}

async fn describe(client: &Client, args: &Describe) -> anyhow::Result<ExitCode> {
    let told = tools::describe(&client.cluster, &args.id, client.deadline()).await.map_err(explain_tool)?;
    if args.json {
        println!("{}", described_json(&args.id, &told));
        return Ok(ExitCode::SUCCESS);
    }
    println!("transactional id {}: {}", args.id, told.state);
    println!("  producer {} epoch {}, timeout {} ms", told.producer.0, told.epoch.0, told.timeout_ms);
    if let Some(start_ms) = told.start_ms {
        let open_s = (client.cluster.runtime().unix_ms() - start_ms).max(0) / 1000;
        println!("  open since {} ({open_s} s)", time(start_ms));
    }
    for at in &told.partitions {
        println!("  in it: {}-{}", at.topic, at.partition);
    }
    Ok(ExitCode::SUCCESS)
}

fn described_json(id: &str, told: &DescribedTxn) -> Value {
    let at = |at: &TopicPartition| json!({ "topic": *at.topic, "partition": at.partition.0 });
    json!({
        "transactional_id": id, "state": told.state, "producer_id": told.producer.0,
        "producer_epoch": told.epoch.0, "timeout_ms": told.timeout_ms, "start_ms": told.start_ms,
        "partitions": told.partitions.iter().map(at).collect::<Vec<_>>(),
    })
}

async fn find_hanging(client: &Client, args: &FindHanging) -> anyhow::Result<ExitCode> {
    let wanted: BTreeSet<&str> = args.topic.iter().map(String::as_str).collect();
    let topics = client.admin().list_topics(client.deadline()).await.map_err(explain_admin)?;
    let missing = wanted.iter().find(|name| topics.iter().all(|topic| *topic.name != ***name));
    if let Some(missing) = missing {
        return Err(explain(format!("topic {missing} does not exist"), "dejaq topic list"));
    }
    let chosen = topics.iter().filter(|topic| wanted.is_empty() || wanted.contains(&*topic.name));
    let partitions: Vec<TopicPartition> = chosen
        .flat_map(|topic| {
            let at =
                |index| TopicPartition { topic: topic.name.clone(), partition: PartitionId(index as i32) };
            (0..topic.partitions.len()).map(at)
        })
        .collect();
    let before_ms = client.cluster.runtime().unix_ms().saturating_sub(args.older_than_ms);
    let found = tools::hanging(&client.cluster, &partitions, before_ms, client.deadline()).await;
    let found = found.map_err(explain_tool)?;
    for one in &found {
        if args.json {
            println!("{}", open_json(one));
        } else {
            println!(
                "{}-{} is held open from offset {} on by producer {} epoch {}, last written to {}\n  end it: dejaq txn abort --topic {} --partition {} --start-offset {}",
                one.at.topic,
                one.at.partition,
                one.start,
                one.producer.0,
                one.epoch.0,
                time(one.last_ms),
                one.at.topic,
                one.at.partition,
                one.start
            );
        }
    }
    if found.is_empty() {
        if !args.json {
            eprintln!("no transaction hangs in {} partition(s)", partitions.len());
        }
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

fn open_json(one: &OpenTxn) -> Value {
    json!({
        "topic": *one.at.topic, "partition": one.at.partition.0, "start_offset": one.start.0,
        "producer_id": one.producer.0, "producer_epoch": one.epoch.0,
        "coordinator_epoch": one.coordinator_epoch.0, "last_timestamp_ms": one.last_ms,
        "transactional_id": one.id,
    })
}

async fn abort(client: &Client, args: &Abort) -> anyhow::Result<ExitCode> {
    if let Some(id) = &args.id {
        let before = tools::take_over(&client.cluster, id, client.deadline()).await.map_err(explain_tool)?;
        match args.json {
            true => println!("{}", described_json(id, &before)),
            false => println!("took transactional id {id} over; it was {}", before.state),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let topic = args.topic.as_deref().context("a topic, or an id")?;
    let partition = PartitionId(args.partition.context("a partition")?);
    let start = Offset(args.start_offset.context("an offset")?);
    let at = TopicPartition { topic: topic.into(), partition };
    let ended =
        tools::abort_at(&client.cluster, &at, start, client.deadline()).await.map_err(explain_tool)?;
    match args.json {
        true => println!("{}", open_json(&ended)),
        false => println!("aborted what began at offset {start} of {topic}-{partition}"),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Line, clap::Error> {
        Line::try_parse_from([&["txn"], words].concat())
    }

    #[test]
    fn a_transaction_is_named_by_its_id_or_by_its_whole_place() {
        parse(&["abort", "x"]).expect("by its id");
        parse(&["abort", "--topic", "t", "--partition", "0", "--start-offset", "5"]).expect("by its place");
        for bad in [&["abort"][..], &["abort", "--topic", "t"], &["abort", "--partition", "0"]] {
            parse(bad).expect_err("half a name");
        }
        parse(&["abort", "x", "--topic", "t", "--partition", "0", "--start-offset", "5"]).expect_err("two");
    }
}
