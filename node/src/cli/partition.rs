//! `dejaq partition`: moves replicas and leaderships.

use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};
use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{BrokerId, PartitionId};
use serde_json::json;

use super::client::{Client, ClientArgs, explain, explain_admin};
use super::output::Table;
use crate::client::producer::core::TopicPartition;

/// Arguments of `dejaq partition`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Move a partition to other brokers, or show what moves.
    #[command(after_help = "\
The new replicas are there, and in sync, before an old one goes.

Examples:
  dejaq partition reassign                            what is moving
  dejaq partition reassign orders 0 --to 1,2,4        the first is the preferred leader
  dejaq partition reassign orders 0 --to 1,2 --change-replication-factor
  dejaq partition reassign orders 0 --cancel")]
    Reassign(Reassign),
    /// Have leaders elected: the preferred ones, or anyone for what nobody leads.
    #[command(after_help = "\
Examples:
  dejaq partition elect                      every preferred leader that does not lead
  dejaq partition elect orders 0
  dejaq partition elect orders 0 --unclean   may lose acknowledged records")]
    Elect(Elect),
}

#[derive(Debug, ClapArgs)]
struct Reassign {
    /// The topic.
    #[arg(requires = "partition")]
    topic: Option<String>,
    /// The partition.
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// The brokers that are to hold it, the preferred leader first.
    #[arg(
        long,
        value_name = "ID,…",
        value_delimiter = ',',
        requires = "partition",
        conflicts_with = "cancel"
    )]
    to: Vec<i32>,
    /// Let the partition have more or fewer replicas than it has.
    #[arg(long, requires = "to")]
    change_replication_factor: bool,
    /// Take the move back.
    #[arg(long, requires = "partition")]
    cancel: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Elect {
    /// The topic; every topic without this.
    #[arg(requires = "partition")]
    topic: Option<String>,
    /// The partition.
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Let anyone lead what nobody leads: acknowledged records may be lost.
    #[arg(long)]
    unclean: bool,
    /// Print JSON, one partition a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs one verb.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Reassign(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(reassign(&client, &args))
        }
        Verb::Elect(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(elect(&client, &args))
        }
    }
}

async fn reassign(client: &Client, args: &Reassign) -> anyhow::Result<ExitCode> {
    let (Some(topic), Some(partition)) = (&args.topic, args.partition) else {
        return moving(client, args.json).await;
    };
    let at = TopicPartition { topic: topic.as_str().into(), partition: PartitionId(partition) };
    if args.to.is_empty() && !args.cancel {
        return Err(explain("it is not said where to", "--to ID,… or --cancel"));
    }
    let to: Vec<BrokerId> = args.to.iter().copied().map(BrokerId).collect();
    let target = (!args.cancel).then(|| to.clone());
    let moved =
        client.admin().reassign_if(&at, target, args.change_replication_factor, client.deadline()).await;
    moved.map_err(|error| match error.code() {
        Some(ErrorCode::INVALID_REPLICATION_FACTOR) => explain(
            error,
            "name as many brokers as it has replicas now, or say --change-replication-factor if that is meant",
        ),
        _ => explain_admin(error),
    })?;
    if args.json {
        let to = (!args.cancel).then_some(&args.to);
        println!("{}", json!({ "topic": topic, "partition": partition, "to": to }));
    } else if args.cancel {
        println!("{topic}-{partition} goes back to where it was");
    } else {
        println!("{topic}-{partition} moves to {}: dejaq partition reassign", ids(&to));
    }
    Ok(ExitCode::SUCCESS)
}

async fn moving(client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    let moving = client.admin().moving(client.deadline()).await.map_err(explain_admin)?;
    if json {
        let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
        for one in &moving {
            let shown = json!({
                "topic": *one.at.topic, "partition": one.at.partition.0, "replicas": numbers(&one.replicas),
                "adding": numbers(&one.adding), "removing": numbers(&one.removing),
            });
            println!("{shown}");
        }
    } else if moving.is_empty() {
        println!("nothing moves");
    } else {
        let mut table = Table::new(&["TOPIC", "PARTITION", "REPLICAS", "ADDING", "REMOVING"]);
        for one in &moving {
            table.row(vec![
                one.at.topic.to_string(),
                one.at.partition.to_string(),
                ids(&one.replicas),
                ids(&one.adding),
                ids(&one.removing),
            ]);
        }
        print!("{}", table.render());
    }
    Ok(ExitCode::SUCCESS)
}

async fn elect(client: &Client, args: &Elect) -> anyhow::Result<ExitCode> {
    let named = args.topic.as_deref().zip(args.partition);
    let named = named.map(|(topic, partition)| (topic, vec![PartitionId(partition)]));
    let results =
        client.admin().elect(named, args.unclean, client.deadline()).await.map_err(explain_admin)?;
    let mut failed = false;
    for one in &results {
        let fine = one.code.is_none() || one.code == ErrorCode::ELECTION_NOT_NEEDED;
        failed |= !fine;
        let name = format!("{}-{}", one.at.topic, one.at.partition);
        if args.json {
            let (topic, partition) = (&*one.at.topic, one.at.partition.0);
            let error = one.code.is_error().then(|| one.code.name());
            println!("{}", json!({ "topic": topic, "partition": partition, "error": error }));
        } else if one.code.is_none() {
            let warning = if args.unclean { ": acknowledged records may be lost" } else { "" };
            println!("{name}: elected{warning}");
        } else {
            println!("{name}: {}", one.message.as_deref().unwrap_or(one.code.message()));
        }
    }
    if results.is_empty() && !args.json {
        println!("no partition needs an election");
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn ids(brokers: &[BrokerId]) -> String {
    if brokers.is_empty() {
        return "-".into();
    }
    brokers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
