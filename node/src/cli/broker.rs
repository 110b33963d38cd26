//! `dejaq broker`: lists brokers, empties one, forgets one.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use dejaq_wire::ids::{BrokerId, PartitionId};
use serde_json::json;

use super::client::{Client, ClientArgs, explain, explain_admin};
use super::cluster::{Row, some};
use crate::client::admin_cluster::{BrokerState, Moving};
use crate::client::producer::core::TopicPartition;
use crate::client::routes::PartitionRoute;
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
The plan is kept by the cluster; this command may be stopped. With --wait it says on standard error what it waits for when
nothing moved for half a minute, and ends with an error if somebody takes the drain back. A drained broker can be stopped and unregistered.
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
    let mut watch = Watch::default();
    loop {
        let found = rows(client).await?.into_iter().find(|(id, _)| *id == broker);
        let Some((_, row)) = found else {
            return Err(explain(format!("there is no broker {broker} any more"), "dejaq broker list"));
        };
        let held = row.replicas;
        if !args.wait || held == 0 {
            told_drain(args, held);
            return Ok(ExitCode::SUCCESS);
        }
        match watch.see(held, row.broker.draining) {
            Seen::Goes => {}
            Seen::Stands => {
                let waits = waits_for(client, broker).await?;
                eprintln!(
                    "dejaq: broker {broker} holds {held} replica(s) as before; waits for {}",
                    some(&waits)
                );
            }
            Seen::TakenBack => {
                return Err(explain(
                    format!("somebody took the drain of broker {broker} back; it holds {held} replica(s)"),
                    format!("dejaq broker drain {broker} --wait"),
                ));
            }
        }
        client.cluster.runtime().sleep(LOOK_EVERY).await;
    }
}

/// Looks without a change after which it is said what is waited for.
const STANDS: u32 = 30;
/// Looks in a row at which a broker is not being emptied: one alone may come from a node that lags.
const TAKEN_BACK: u32 = 3;

/// What someone who waits for a drain has seen.
#[derive(Debug, Default)]
struct Watch {
    held: usize,
    same: u32,
    was_draining: bool,
    not_draining: u32,
}

/// What a look says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Goes,
    Stands,
    TakenBack,
}

impl Watch {
    fn see(&mut self, held: usize, draining: bool) -> Seen {
        self.was_draining |= draining;
        self.not_draining = if draining || !self.was_draining { 0 } else { self.not_draining + 1 };
        self.same = if held == self.held { self.same + 1 } else { 0 };
        self.held = held;
        if self.not_draining == TAKEN_BACK {
            Seen::TakenBack
        } else if self.same == STANDS {
            self.same = 0;
            Seen::Stands
        } else {
            Seen::Goes
        }
    }
}

/// What keeps replicas on a broker that is to be empty.
async fn waits_for(client: &Client, broker: BrokerId) -> anyhow::Result<Vec<String>> {
    let (admin, deadline) = (client.admin(), client.deadline());
    let moving = admin.moving(deadline).await.map_err(explain_admin)?;
    let topics = admin.list_topics(deadline).await.map_err(explain_admin)?;
    let (_, _, brokers) = admin.brokers(deadline).await.map_err(explain_admin)?;
    // Without an answer nothing is known to be damaged.
    let mut disk = admin.log_dir(broker, None, deadline).await.unwrap_or_default().entries;
    disk.retain(|entry| entry.damaged_records > 0);
    let mut waits = Vec::new();
    for topic in &topics {
        for (index, partition) in (0..).map(PartitionId).zip(&topic.partitions) {
            if !partition.replicas.contains(&broker) {
                continue;
            }
            let of = moving.iter().find(|one| *one.at.topic == *topic.name && one.at.partition == index);
            let is_it = |at: &TopicPartition| *at.topic == *topic.name && at.partition == index;
            let damaged = disk.iter().find(|entry| is_it(&entry.at)).map_or(0, |it| it.damaged_records);
            let why = obstacle(broker, partition, of, &brokers, damaged);
            waits.push(format!("{}-{index} ({why})", topic.name));
        }
    }
    Ok(waits)
}

/// Why one partition still has a replica on a broker that is to be empty.
fn obstacle(
    broker: BrokerId,
    partition: &PartitionRoute,
    moving: Option<&Moving>,
    brokers: &[BrokerState],
    damaged: i64,
) -> String {
    let lives = |id: &BrokerId| brokers.iter().any(|one| one.id == *id && !one.fenced);
    let coming = moving.map_or(&[][..], |one| &one.adding);
    let late: Vec<&BrokerId> = coming.iter().filter(|id| !partition.isr.contains(id)).collect();
    if partition.leader.is_none() {
        return "nobody leads it".into();
    }
    if let Some(dead) = late.iter().find(|id| !lives(id)) {
        return format!("broker {dead}, where it moves, is not live");
    }
    if damaged > 0 {
        return format!(
            "{damaged} damaged record(s) on broker {broker} are not copied: dejaq log verify; what no other replica has is \
             lost, and goes with retention, DeleteRecords or the topic"
        );
    }
    match (moving, late.first()) {
        (Some(_), Some(id)) => format!("broker {id} is not in sync yet"),
        (Some(_), None) => "its move waits for all of its replicas to be in sync".into(),
        (None, _) => "its move has not begun: others are under way, or no broker can take it".into(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use dejaq_wire::ids::LeaderEpoch;

    #[test]
    fn who_waits_for_a_drain_hears_that_it_stands_and_that_it_was_taken_back() {
        let mut watch = Watch::default();
        assert_eq!(watch.see(5, false), Seen::Goes, "the node that was asked may not know of the drain yet");
        let seen: Vec<Seen> = (0..70).map(|_| watch.see(5, true)).collect();
        assert_eq!(seen.iter().filter(|one| **one == Seen::Stands).count(), 2);
        assert!((0..70).all(|at| watch.see(4 - at % 2, true) == Seen::Goes), "it moves");
        assert_eq!(watch.see(4, false), Seen::Goes);
        assert_eq!(watch.see(4, true), Seen::Goes, "a node lagged");
        let seen = [watch.see(4, false), watch.see(4, false), watch.see(4, false)];
        assert_eq!(seen, [Seen::Goes, Seen::Goes, Seen::TakenBack]);
    }

    #[test]
    fn what_keeps_a_replica_on_a_broker_is_named() {
        let ids = |list: &[i32]| -> Vec<BrokerId> { list.iter().copied().map(BrokerId).collect() };
        let broker = |id, fenced| BrokerState {
            id: BrokerId(id),
            address: "h:1".into(),
            rack: None,
            fenced,
            draining: id == 2,
        };
        let brokers = [broker(2, false), broker(3, false), broker(4, true)];
        let route = |leader: Option<i32>, isr: &[i32]| PartitionRoute {
            leader: leader.map(BrokerId),
            leader_epoch: LeaderEpoch(0),
            replicas: ids(&[2, 3]),
            isr: ids(isr),
            offline: Vec::new(),
        };
        let to = |id| Moving {
            at: TopicPartition { topic: "a".into(), partition: PartitionId(0) },
            replicas: Vec::new(),
            adding: ids(&[id]),
            removing: ids(&[2]),
        };
        let why = |route: &PartitionRoute, moving: Option<&Moving>, damaged| {
            obstacle(BrokerId(2), route, moving, &brokers, damaged)
        };
        let led = route(Some(2), &[2]);
        assert_eq!(why(&route(None, &[]), None, 0), "nobody leads it");
        assert_eq!(why(&led, Some(&to(4)), 0), "broker 4, where it moves, is not live");
        assert_eq!(why(&led, Some(&to(3)), 0), "broker 3 is not in sync yet");
        assert!(why(&led, Some(&to(3)), 7).starts_with("7 damaged record(s) on broker 2 are not copied"));
        assert!(why(&route(Some(2), &[2, 3]), Some(&to(3)), 0).contains("all of its replicas"));
        assert!(why(&led, None, 0).contains("has not begun"));
    }
}
