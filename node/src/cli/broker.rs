//! `dejaq broker`: lists brokers, empties one, forgets one.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use dejaq_wire::ids::BrokerId;
use serde_json::json;

use super::client::{Client, ClientArgs, explain, explain_admin};
use super::cluster::Row;
use crate::runtime::Runtime;

/// Arguments of `dejaq broker`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the brokers with their state and what they hold.
    #[command(after_help = "\
Examples:
  dejaq broker list
  dejaq broker list --json")]
    List(List),
    /// Empty a broker: its replicas move to the others, and none come any more.
    #[command(after_help = "\
The plan is kept by the cluster; this command may be stopped. A drained broker can be stopped and unregistered.
Whether it votes on the metadata is another matter: if it is to go for good, `dejaq quorum add` one that stays, and
`dejaq quorum remove` it, before it is stopped.

Examples:
  dejaq broker drain 3
  dejaq broker drain 3 --wait      return when it is empty
  dejaq broker drain 3 --cancel")]
    Drain(Drain),
    /// Forget a broker that does not run any more.
    #[command(after_help = "\
Examples:
  dejaq broker unregister 3")]
    Unregister(Unregister),
}

#[derive(Debug, ClapArgs)]
struct List {
    /// Print JSON, one broker a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Drain {
    /// The broker's number.
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    broker: i32,
    /// Let it have replicas again.
    #[arg(long, conflicts_with = "wait")]
    cancel: bool,
    /// Return when it holds nothing any more.
    #[arg(long)]
    wait: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Unregister {
    /// The broker's number.
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    broker: i32,
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
            client.executor.block_on(list(&client, args.json))
        }
        Verb::Drain(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(drain(&client, &args))
        }
        Verb::Unregister(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(unregister(&client, &args))
        }
    }
}

async fn rows(client: &Client) -> anyhow::Result<Vec<(BrokerId, Row)>> {
    let (admin, deadline) = (client.admin(), client.deadline());
    let (_, _, brokers) = admin.brokers(deadline).await.map_err(explain_admin)?;
    let topics = admin.list_topics(deadline).await.map_err(explain_admin)?;
    Ok(brokers.iter().map(|broker| (broker.id, Row::of(broker, &topics))).collect())
}

async fn list(client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    let rows: Vec<Row> = rows(client).await?.into_iter().map(|(_, row)| row).collect();
    if json {
        rows.iter().for_each(|row| println!("{}", row.json()));
    } else {
        print!("{}", Row::table(&rows));
    }
    Ok(ExitCode::SUCCESS)
}

async fn drain(client: &Client, args: &Drain) -> anyhow::Result<ExitCode> {
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    let broker = BrokerId(args.broker);
    client.admin().drain(broker, !args.cancel, client.deadline()).await.map_err(explain_admin)?;
    if !args.cancel {
        warn_if_it_votes(client, args.broker).await;
    }
    loop {
        let found = rows(client).await?.into_iter().find(|(id, _)| *id == broker);
        let held = found.map(|(_, row)| row.replicas);
        let Some(held) = held else {
            return Err(explain(format!("there is no broker {broker} any more"), "dejaq broker list"));
        };
        if !args.wait || held == 0 {
            told_drain(args, held);
            return Ok(ExitCode::SUCCESS);
        }
        client.cluster.runtime().sleep(LOOK_EVERY).await;
    }
}

fn told_drain(args: &Drain, held: usize) {
    let broker = args.broker;
    if args.json {
        println!("{}", json!({ "broker": broker, "draining": !args.cancel, "replicas": held }));
    } else if args.cancel {
        println!("broker {broker} may have replicas again; it holds {held}");
    } else if held == 0 {
        println!("broker {broker} is empty");
    } else {
        println!("broker {broker} is being emptied; it holds {held} replica(s): dejaq broker list");
    }
}

/// Says on standard error that a broker that is to go still votes: when it is gone, a majority is nearer to being lost.
async fn warn_if_it_votes(client: &Client, broker: i32) {
    let Ok(quorum) = client.admin().quorum(client.deadline()).await else { return };
    if quorum.replicas.iter().any(|replica| replica.votes && replica.id.0 == broker) {
        eprintln!(
            "dejaq: node {broker} still votes on the metadata\n  try: dejaq quorum add a node that stays, then dejaq quorum remove {broker}"
        );
    }
}

async fn unregister(client: &Client, args: &Unregister) -> anyhow::Result<ExitCode> {
    let admin = client.admin();
    admin.unregister(BrokerId(args.broker), client.deadline()).await.map_err(explain_admin)?;
    warn_if_it_votes(client, args.broker).await;
    if args.json {
        println!("{}", json!({ "broker": args.broker, "registered": false }));
    } else {
        println!("broker {} left the cluster", args.broker);
    }
    Ok(ExitCode::SUCCESS)
}
