//! `dejaq cluster`: how the cluster stands, at a glance; its features are in `features`.

use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::BrokerId;
use serde_json::{Value, json};

use super::client::{Client, ClientArgs, explain, explain_admin, pair};
use super::features;
use super::output::Table;
use super::topic::config_changes;
use crate::client::admin::ConfigOwner;
use crate::client::admin_cluster::{BrokerState, Moving};
use crate::client::routes::TopicRoute;
use crate::metadata::config_table::TOPIC_CONFIGS;

/// Arguments of `dejaq cluster`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show brokers, controller, and what is not as it should be.
    #[command(after_help = "\
Ends with status 1 if a partition has no leader or lacks an in-sync replica, or if records are damaged on a disk:
those are fetched again from another broker where a partition has enough replicas in sync without them.

Examples:
  dejaq cluster status
  dejaq cluster status --json")]
    Status(Status),
    /// Set what topics get from brokers, for all brokers of the cluster, at once and for good.
    #[command(after_help = "\
The names are those that Kafka gives brokers, such as log.retention.ms (dejaq cluster configs). Topics that set a config themselves keep it.
A value is kept with the cluster's metadata; it goes before what a broker was started with (topic-defaults).

Examples:
  dejaq cluster alter --set min.insync.replicas=2
  dejaq cluster alter --set log.retention.ms=86400000 --unset log.durability")]
    Alter(Alter),
    /// Show what topics get from brokers by name, and what of it is set for all brokers.
    #[command(after_help = "\
Examples:
  dejaq cluster configs
  dejaq cluster configs --json")]
    Configs(Status),
    /// Show which levels of dejaq.version each broker supports, and where the cluster stands.
    #[command(after_help = "\
Examples:
  dejaq cluster features
  dejaq cluster features --json")]
    Features(features::Show),
    /// Raise the level of the cluster, once every broker runs the new release.
    #[command(after_help = features::UPGRADE_HELP)]
    Upgrade(features::Change),
    /// Lower the level of the cluster, before brokers go back to the release before.
    #[command(after_help = features::DOWNGRADE_HELP)]
    Downgrade(features::Change),
}

#[derive(Debug, ClapArgs)]
struct Status {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Alter {
    /// Set a config; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Take a config back; may be given several times.
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs one verb.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Status(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(status(&client, args.json))
        }
        Verb::Alter(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(alter(&client, &args))
        }
        Verb::Configs(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(configs(&client, args.json))
        }
        Verb::Features(args) => features::show(&args),
        Verb::Upgrade(args) => features::upgrade(&args),
        Verb::Downgrade(args) => features::downgrade(&args),
    }
}

async fn alter(client: &Client, args: &Alter) -> anyhow::Result<ExitCode> {
    let changes = config_changes(&args.set, &args.unset)?;
    if changes.is_empty() {
        return Err(explain("nothing to change", "--set or --unset; see dejaq cluster alter --help"));
    }
    let altered = client.admin().alter_configs(&ConfigOwner::AllBrokers, &changes, client.deadline()).await;
    altered.map_err(|error| match error.code() {
        Some(ErrorCode::INVALID_CONFIG | ErrorCode::INVALID_REQUEST) => explain(
            error,
            "the names that brokers give what topics get from them: dejaq cluster configs; others are set for a topic: dejaq topic alter",
        ),
        _ => explain_admin(error),
    })?;
    println!("changed {} config(s) of all brokers", changes.len());
    Ok(ExitCode::SUCCESS)
}

async fn configs(client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    let set = client.admin().describe_configs(&ConfigOwner::AllBrokers, client.deadline()).await;
    let set = set.map_err(explain_admin)?;
    let value = |name: &str| set.iter().find(|one| one.name == name).and_then(|one| one.value.as_deref());
    let mut table = Table::new(&["NAME", "FOR ALL BROKERS", "BUILT IN", "OF TOPICS"]);
    for def in TOPIC_CONFIGS {
        let Some(name) = def.broker_name else { continue };
        if json {
            println!(
                "{}",
                json!({ "name": name, "value": value(name), "default": def.default, "topic": def.name })
            );
        } else {
            let own = value(name).unwrap_or("-");
            table.row([name, own, def.default, def.name].map(str::to_owned).to_vec());
        }
    }
    if !json {
        print!("{}", table.render());
    }
    Ok(ExitCode::SUCCESS)
}

/// What of the partitions is not as it should be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Health {
    partitions: usize,
    leaderless: usize,
    under_replicated: usize,
    moving: usize,
    /// Records that cannot be read, on all disks together.
    damaged: i64,
    mended: i64,
}

impl Health {
    fn of(topics: &[TopicRoute], moving: &[Moving]) -> Health {
        let mut health = Health { moving: moving.len(), ..Health::default() };
        for (topic, index, partition) in topics.iter().flat_map(|topic| {
            topic.partitions.iter().enumerate().map(move |(index, partition)| (topic, index, partition))
        }) {
            let comes = moving
                .iter()
                .find(|one| *one.at.topic == *topic.name && usize::try_from(one.at.partition.0) == Ok(index));
            // A replica that only comes is no copy that is missing, and in place of none that is.
            let comes = |one: &BrokerId| comes.is_some_and(|moving| moving.adding.contains(one));
            let is_whole = partition.replicas.iter().all(|one| partition.isr.contains(one) || comes(one));
            health.partitions += 1;
            health.leaderless += usize::from(partition.leader.is_none());
            health.under_replicated += usize::from(!is_whole);
        }
        health
    }

    fn is_good(&self) -> bool {
        self.leaderless == 0 && self.under_replicated == 0 && self.damaged == 0
    }
}

async fn status(client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    let (admin, deadline) = (client.admin(), client.deadline());
    let (cluster_id, controller, brokers) = admin.brokers(deadline).await.map_err(explain_admin)?;
    // Asked on both sides: a move that begins or ends meanwhile leaves no copy that looks like a missing one.
    let mut moving = admin.moving(deadline).await.map_err(explain_admin)?;
    let topics = admin.list_topics(deadline).await.map_err(explain_admin)?;
    let now_moving = admin.moving(deadline).await.map_err(explain_admin)?;
    moving.retain(|one| now_moving.iter().all(|now| now.at != one.at));
    let is_over = moving.len();
    moving.extend(now_moving);
    let mut health = Health::of(&topics, &moving);
    health.moving -= is_over;
    let mut rows: Vec<Row> = brokers.iter().map(|broker| Row::of(broker, &topics)).collect();
    for row in rows.iter_mut().filter(|row| !row.broker.fenced) {
        // A broker that does not answer says nothing of its disk; that it is gone is seen elsewhere.
        row.disk = admin.log_dir(row.broker.id, None, deadline).await.ok().map(|dir| Disk {
            damaged: dir.entries.iter().map(|entry| entry.damaged_records).sum(),
            mended: dir.mended_ranges,
        });
        let disk = row.disk.unwrap_or_default();
        (health.damaged, health.mended) = (health.damaged + disk.damaged, health.mended + disk.mended);
    }
    if json {
        let shown = json!({
            "cluster": cluster_id,
            "controller": controller.map(|id| id.0),
            "brokers": rows.iter().map(Row::json).collect::<Vec<_>>(),
            "topics": topics.len(),
            "partitions": health.partitions,
            "leaderless": health.leaderless,
            "under_replicated": health.under_replicated,
            "moving": health.moving,
            "damaged_records": health.damaged,
            "mended_ranges": health.mended,
        });
        println!("{shown}");
    } else {
        let controller = controller.map_or("none".to_owned(), |id| id.to_string());
        println!("cluster {cluster_id}  controller {controller}  {} broker(s)\n", rows.len());
        print!("{}", Row::table(&rows));
        println!(
            "\n{} topic(s), {} partition(s): {} without a leader, {} under-replicated, {} moving",
            topics.len(),
            health.partitions,
            health.leaderless,
            health.under_replicated,
            health.moving
        );
        for (row, disk) in rows.iter().filter_map(|row| Some((row, row.disk?))) {
            if disk != Disk::default() {
                println!(
                    "disk of broker {}: {} damaged record(s) now, {} range(s) mended since it started",
                    row.broker.id, disk.damaged, disk.mended
                );
            }
        }
    }
    Ok(if health.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One broker and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    broker: BrokerState,
    /// Replicas that it holds.
    pub(super) replicas: usize,
    leaders: usize,
    /// What is wrong with its disk, if that was asked.
    disk: Option<Disk>,
}

/// What is wrong with a broker's disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Disk {
    /// Records that cannot be read.
    damaged: i64,
    /// Ranges that were fetched again from another broker.
    mended: i64,
}

impl Row {
    /// What a broker holds of these topics.
    pub(super) fn of(broker: &BrokerState, topics: &[TopicRoute]) -> Row {
        let partitions = || topics.iter().flat_map(|topic| topic.partitions.iter());
        let count = |holds: &dyn Fn(BrokerId) -> usize| holds(broker.id);
        Row {
            replicas: count(&|id| partitions().filter(|one| one.replicas.contains(&id)).count()),
            leaders: count(&|id| partitions().filter(|one| one.leader == Some(id)).count()),
            broker: broker.clone(),
            disk: None,
        }
    }

    fn state(&self) -> &'static str {
        match (self.broker.fenced, self.broker.draining, self.replicas) {
            (true, _, _) => "fenced",
            (false, true, 0) => "drained",
            (false, true, _) => "draining",
            (false, false, _) => "live",
        }
    }

    /// All of them as a table.
    pub(super) fn table(rows: &[Row]) -> String {
        let mut table = Table::new(&["BROKER", "ADDRESS", "RACK", "STATE", "LEADERS", "REPLICAS"]);
        for row in rows {
            table.row(vec![
                row.broker.id.to_string(),
                row.broker.address.to_string(),
                row.broker.rack.clone().unwrap_or_else(|| "-".into()),
                row.state().into(),
                row.leaders.to_string(),
                row.replicas.to_string(),
            ]);
        }
        table.render()
    }

    /// As JSON.
    pub(super) fn json(&self) -> Value {
        json!({
            "broker": self.broker.id.0,
            "address": *self.broker.address,
            "rack": self.broker.rack,
            "state": self.state(),
            "fenced": self.broker.fenced,
            "draining": self.broker.draining,
            "leaders": self.leaders,
            "replicas": self.replicas,
            "damaged_records": self.disk.map(|disk| disk.damaged),
            "mended_ranges": self.disk.map(|disk| disk.mended),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::producer::core::TopicPartition;
    use crate::client::routes::PartitionRoute;
    use dejaq_wire::ids::{LeaderEpoch, PartitionId, TopicId};

    fn route(leader: Option<i32>, replicas: &[i32], isr: &[i32]) -> PartitionRoute {
        let ids = |list: &[i32]| list.iter().copied().map(BrokerId).collect();
        PartitionRoute {
            leader: leader.map(BrokerId),
            leader_epoch: LeaderEpoch(0),
            replicas: ids(replicas),
            isr: ids(isr),
            offline: Vec::new(),
        }
    }

    fn topic(partitions: Vec<PartitionRoute>) -> TopicRoute {
        TopicRoute { name: "a".into(), id: TopicId::ZERO, internal: false, partitions }
    }

    #[test]
    fn a_replica_that_only_comes_does_not_make_a_partition_under_replicated() {
        let topics = [topic(vec![route(Some(1), &[1, 2, 3], &[1, 2]), route(None, &[1, 2], &[])])];
        let at = TopicPartition { topic: "a".into(), partition: PartitionId(0) };
        let moving = [Moving { at, replicas: Vec::new(), adding: vec![BrokerId(3)], removing: Vec::new() }];
        let health = Health::of(&topics, &moving);
        assert_eq!((health.partitions, health.leaderless, health.under_replicated), (2, 1, 1));
        assert_eq!(Health::of(&topics, &[]).under_replicated, 2);
        let topics = [topic(vec![route(Some(1), &[1, 2, 3], &[1, 3])])];
        assert_eq!(Health::of(&topics, &moving).under_replicated, 1, "3 came, and 2 is missing");
    }

    #[test]
    fn a_broker_is_shown_with_its_state_and_what_it_holds() {
        let broker =
            BrokerState { id: BrokerId(2), address: "h:1".into(), rack: None, fenced: false, draining: true };
        let topics = [topic(vec![route(Some(1), &[1, 2], &[1]), route(Some(2), &[2], &[2])])];
        let table = Row::table(&[Row::of(&broker, &topics), Row::of(&broker, &[])]);
        insta::assert_snapshot!(table, @r"
        BROKER  ADDRESS  RACK  STATE     LEADERS  REPLICAS
             2  h:1         -  draining        1         2
             2  h:1         -  drained         0         0
        ");
    }
}
