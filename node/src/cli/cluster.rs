//! `dejaq cluster`: how the cluster stands, at a glance; its features are in `features`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, PartitionId};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs, explain, explain_admin, pair};
use super::features;
use super::output::Table;
use super::topic::config_changes;
use crate::client::admin::ConfigOwner;
use crate::client::admin_cluster::{BrokerState, LogDir, Moving};
use crate::client::routes::TopicRoute;
use crate::metadata::config_table::TOPIC_CONFIGS;
use crate::runtime::Runtime;

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
Ends with status 1 if a partition has no leader or lacks an in-sync replica, if a replica is to move to a broker that is
not live, if a broker cannot open a replica or does not answer about its disk, or if records are damaged on a disk: those
are fetched again from another broker where a partition has enough replicas in sync without them.

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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Health {
    partitions: usize,
    leaderless: usize,
    under_replicated: usize,
    moving: usize,
    /// Moves to a broker that is not live: they make no way.
    stalled: Vec<String>,
    /// Live brokers that do not answer about their disks.
    silent: Vec<BrokerId>,
    /// Replicas that do not open on their brokers.
    unopened: usize,
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

    /// Counts what is wrong with the disks of the brokers that live.
    fn see_disks(&mut self, rows: &[Row]) {
        for row in rows.iter().filter(|row| !row.broker.fenced) {
            let Some(disk) = &row.disk else {
                self.silent.push(row.broker.id);
                continue;
            };
            self.damaged += disk.damaged;
            self.mended += disk.mended;
            self.unopened += disk.unopened.len();
        }
    }

    fn is_good(&self) -> bool {
        let is_served = self.leaderless == 0 && self.under_replicated == 0 && self.unopened == 0;
        is_served && self.damaged == 0 && self.stalled.is_empty() && self.silent.is_empty()
    }
}

/// The moves to a broker that is not live, and which.
fn stalled(moving: &[Moving], brokers: &[BrokerState]) -> Vec<String> {
    let lives = |id: &BrokerId| brokers.iter().any(|broker| broker.id == *id && !broker.fenced);
    let dead = moving.iter().flat_map(|one| {
        let dead = one.adding.iter().filter(|id| !lives(id));
        dead.map(move |id| format!("{}-{} to broker {id}", one.at.topic, one.at.partition))
    });
    dead.collect()
}

/// What is on the disk of a broker, with what it does not open; `None` if it does not answer. What does not show only for
/// a moment, because it has just come or is about to go, is not counted.
async fn disk(client: &Client, broker: BrokerId, topics: &[TopicRoute], moving: &[Moving]) -> Option<Disk> {
    const MOMENT: Duration = Duration::from_millis(500);
    let (admin, deadline) = (client.admin(), client.deadline());
    let first = Disk::of(broker, topics, moving, &admin.log_dir(broker, None, deadline).await.ok()?);
    if first.unopened.is_empty() {
        return Some(first);
    }
    client.cluster.runtime().sleep(MOMENT).await;
    let (moving, topics) = (admin.moving(deadline).await.ok()?, admin.list_topics(deadline).await.ok()?);
    let mut now = Disk::of(broker, &topics, &moving, &admin.log_dir(broker, None, deadline).await.ok()?);
    now.unopened.retain(|one| first.unopened.contains(one));
    Some(now)
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
    health.stalled = stalled(&moving[is_over..], &brokers);
    let mut rows: Vec<Row> = brokers.iter().map(|broker| Row::of(broker, &topics)).collect();
    for row in rows.iter_mut().filter(|row| !row.broker.fenced) {
        row.disk = disk(client, row.broker.id, &topics, &moving).await;
    }
    health.see_disks(&rows);
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
            "stalled_moves": health.stalled,
            "unopened_replicas": health.unopened,
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
        print!("{}", troubles(&health, &rows));
    }
    Ok(if health.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is wrong with moves and disks, a line each, for people.
fn troubles(health: &Health, rows: &[Row]) -> String {
    let mut told = String::new();
    let mut say = |line: String| told = format!("{told}{line}\n");
    if !health.stalled.is_empty() {
        say(format!("moving to a broker that is not live: {}", some(&health.stalled)));
    }
    for broker in &health.silent {
        say(format!("broker {broker} does not answer about its disk: what is damaged there is not known"));
    }
    for (row, disk) in rows.iter().filter_map(|row| Some((row, row.disk.as_ref()?))) {
        let id = row.broker.id;
        let name = |one: &Unopened| format!("{}{}", one.name, if one.leads { " (it leads it)" } else { "" });
        if !disk.unopened.is_empty() {
            let names: Vec<String> = disk.unopened.iter().map(name).collect();
            say(format!("broker {id} does not open, and its log says why: {}", some(&names)));
        }
        if disk.unopened.iter().any(|one| one.leads) {
            say(format!(
                "  a live replica that has everything takes over within seconds; if this stays, mend that disk, or give up what only it \
                 has: stop broker {id}, then dejaq partition elect TOPIC INDEX --unclean"
            ));
        }
        if (disk.damaged, disk.mended) != (0, 0) {
            say(format!(
                "disk of broker {id}: {} damaged record(s) now, {} range(s) mended since it started",
                disk.damaged, disk.mended
            ));
        }
    }
    told
}

/// The first of many.
pub(super) fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// One broker and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) broker: BrokerState,
    /// Replicas that it holds.
    pub(super) replicas: usize,
    leaders: usize,
    /// What is wrong with its disk, if that was asked.
    disk: Option<Disk>,
}

/// What is wrong with a broker's disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Disk {
    /// Records that cannot be read.
    damaged: i64,
    /// Ranges that were fetched again from another broker.
    mended: i64,
    /// Replicas that it is to hold and does not show.
    unopened: Vec<Unopened>,
}

/// A replica that does not open.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unopened {
    /// Of which partition.
    name: String,
    /// Whether it leads it: then nobody is served.
    leads: bool,
}

impl Disk {
    fn of(broker: BrokerId, topics: &[TopicRoute], moving: &[Moving], dir: &LogDir) -> Disk {
        let shown: BTreeSet<(&str, PartitionId)> =
            dir.entries.iter().map(|entry| (&*entry.at.topic, entry.at.partition)).collect();
        let comes = |topic: &str, index: PartitionId| {
            let is_it = |one: &Moving| *one.at.topic == *topic && one.at.partition == index;
            moving.iter().any(|one| is_it(one) && one.adding.contains(&broker))
        };
        let mut unopened = Vec::new();
        for topic in topics {
            for (index, partition) in (0..).map(PartitionId).zip(&topic.partitions) {
                let is_here = partition.replicas.contains(&broker) && !comes(&topic.name, index);
                if is_here && !shown.contains(&(&*topic.name, index)) {
                    let leads = partition.leader == Some(broker);
                    unopened.push(Unopened { name: format!("{}-{index}", topic.name), leads });
                }
            }
        }
        Disk {
            damaged: dir.entries.iter().map(|entry| entry.damaged_records).sum(),
            mended: dir.mended_ranges,
            unopened,
        }
    }
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
            "damaged_records": self.disk.as_ref().map(|disk| disk.damaged),
            "mended_ranges": self.disk.as_ref().map(|disk| disk.mended),
            "unopened": self.disk.as_ref().map(|disk| disk.unopened.iter().map(|one| &*one.name).collect::<Vec<_>>()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::admin::LogDirEntry;
    use crate::client::producer::core::TopicPartition;
    use crate::client::routes::PartitionRoute;
    use dejaq_wire::ids::{LeaderEpoch, TopicId};

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

    fn broker(id: i32, fenced: bool) -> BrokerState {
        BrokerState { id: BrokerId(id), address: "h:1".into(), rack: None, fenced, draining: false }
    }

    #[test]
    fn a_move_to_a_broker_that_is_not_live_is_not_well() {
        let at = |index| TopicPartition { topic: "a".into(), partition: PartitionId(index) };
        let to = |index, id| Moving {
            at: at(index),
            replicas: Vec::new(),
            adding: vec![BrokerId(id)],
            removing: Vec::new(),
        };
        let moving = [to(0, 3), to(1, 4), to(2, 9)];
        let stalled = stalled(&moving, &[broker(3, false), broker(4, true)]);
        assert_eq!(stalled, ["a-1 to broker 4", "a-2 to broker 9"]);
        assert!(Health { moving: 3, ..Health::default() }.is_good());
        let health = Health { moving: 3, stalled, ..Health::default() };
        assert!(!health.is_good());
        insta::assert_snapshot!(
            troubles(&health, &[]),
            @"moving to a broker that is not live: a-1 to broker 4, a-2 to broker 9"
        );
    }

    #[test]
    fn a_broker_that_does_not_answer_or_does_not_open_a_replica_is_not_well() {
        let topics = [topic(vec![
            route(Some(1), &[1, 2], &[1, 2]),
            route(Some(2), &[2, 1], &[2]),
            route(Some(1), &[1, 2], &[1]),
        ])];
        let at = |index| TopicPartition { topic: "a".into(), partition: PartitionId(index) };
        let entry = LogDirEntry {
            broker: BrokerId(2),
            dir: "d".into(),
            at: at(0),
            size_bytes: 1,
            lag: 0,
            damaged_records: 3,
        };
        let dir = LogDir { mended_ranges: 0, entries: vec![entry] };
        let comes =
            Moving { at: at(2), replicas: Vec::new(), adding: vec![BrokerId(2)], removing: Vec::new() };
        let disk = Disk::of(BrokerId(2), &topics, &[comes], &dir);
        let mut rows =
            [broker(1, false), broker(2, false), broker(3, true)].map(|one| Row::of(&one, &topics));
        rows[1].disk = Some(disk);
        let mut health = Health::default();
        health.see_disks(&rows);
        assert_eq!((&health.silent[..], health.unopened, health.damaged), (&[BrokerId(1)][..], 1, 3));
        assert!(!Health { damaged: 0, silent: Vec::new(), ..health.clone() }.is_good());
        assert!(!Health { damaged: 0, unopened: 0, ..health.clone() }.is_good());
        insta::assert_snapshot!(troubles(&health, &rows), @r"
        broker 1 does not answer about its disk: what is damaged there is not known
        broker 2 does not open, and its log says why: a-1 (it leads it)
          a live replica that has everything takes over within seconds; if this stays, mend that disk, or give up what only it has: stop broker 2, then dejaq partition elect TOPIC INDEX --unclean
        disk of broker 2: 3 damaged record(s) now, 0 range(s) mended since it started
        ");
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
