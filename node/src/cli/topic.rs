//! `dejaq topic`: creates, lists, shows, changes and deletes topics.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};
use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{BrokerId, Offset, PartitionId};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs, explain, explain_admin, pair};
use super::output::Table;
use crate::client::admin::{AdminError, ConfigChange, ConfigEntry, ConfigOwner, NewTopic};
use crate::client::admin_cluster::{Heirs, Moving};
use crate::client::cluster::ClusterError;
use crate::client::producer::core::TopicPartition;
use crate::client::routes::{PartitionRoute, TopicRoute};

/// Arguments of `dejaq topic`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a topic.
    #[command(after_help = "\
Examples:
  dejaq topic create orders
  dejaq topic create orders --partitions 12 --config retention.ms=86400000
  dejaq topic create events --config durability=replicated --if-not-exists")]
    Create(Create),
    /// List the topics.
    #[command(after_help = "\
Examples:
  dejaq topic list
  dejaq topic list --json")]
    List(List),
    /// Show a topic: its partitions with leader, replicas and offsets, and its settings.
    #[command(after_help = "\
Examples:
  dejaq topic describe orders
  dejaq topic describe orders --configs     every setting, with defaults and what it does")]
    Describe(Describe),
    /// Change a topic: more partitions, other settings.
    #[command(after_help = "\
Partitions can only become more. Keys of records to come may then go to other partitions than before.

Examples:
  dejaq topic alter orders --partitions 24
  dejaq topic alter orders --set retention.ms=3600000 --unset max.message.bytes")]
    Alter(Alter),
    /// Delete records at the beginning of a partition.
    #[command(after_help = "\
Examples:
  dejaq topic trim orders --partition 0 --before 1000    offsets 0 to 999 are gone
  dejaq topic trim orders --partition 0 --all")]
    Trim(Trim),
    /// Delete topics with all their records.
    #[command(after_help = "\
Examples:
  dejaq topic delete orders
  dejaq topic delete orders returns --if-exists")]
    Delete(Delete),
}

#[derive(Debug, ClapArgs)]
struct Create {
    /// The topic's name: letters, digits, '.', '_' and '-', at most 249.
    topic: String,
    /// How many partitions; the broker's default without this.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// How many replicas of each partition; the broker's default without this.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replication: Option<i16>,
    /// A setting of the topic; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    config: Vec<(String, String)>,
    /// Succeed if there is a topic of this name already.
    #[arg(long)]
    if_not_exists: bool,
    /// Say whether it could be created, and create nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct List {
    /// Also list the topics that the cluster keeps for itself.
    #[arg(long)]
    internal: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Describe {
    /// The topic.
    topic: String,
    /// Show every setting; without this only those that differ from the default.
    #[arg(long)]
    configs: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Alter {
    /// The topic.
    topic: String,
    /// Grow to this many partitions.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Set a setting; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Bring a setting back to its default; may be given several times.
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Trim {
    /// The topic.
    topic: String,
    /// The partition.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: i32,
    /// The first offset that stays.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..), required_unless_present = "all")]
    before: Option<i64>,
    /// Delete everything that is there.
    #[arg(long, conflicts_with = "before")]
    all: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Delete {
    /// The topics.
    #[arg(required = true)]
    topics: Vec<String>,
    /// Succeed for topics that do not exist.
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs one verb.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Create(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(create(&client, &args))
        }
        Verb::List(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(list(&client, &args))
        }
        Verb::Describe(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(describe(&client, &args))
        }
        Verb::Alter(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(alter(&client, &args))
        }
        Verb::Trim(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(trim(&client, &args))
        }
        Verb::Delete(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(delete(&client, &args))
        }
    }
}

async fn create(client: &Client, args: &Create) -> anyhow::Result<ExitCode> {
    let topic = NewTopic {
        name: args.topic.clone(),
        partitions: args.partitions,
        replication: args.replication,
        configs: args.config.iter().cloned().collect(),
    };
    let created = match client.admin().create_topic(&topic, args.dry_run, client.deadline()).await {
        Ok(created) => created,
        Err(error) if args.if_not_exists && error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) => {
            println!("topic {} exists already", args.topic);
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(explain_admin(error)),
    };
    if args.json {
        let id = (!created.id.is_zero()).then(|| created.id.to_string());
        let shown = json!({
            "topic": created.name, "id": id, "partitions": created.partitions,
            "replication": created.replication, "created": !args.dry_run,
        });
        println!("{shown}");
        return Ok(ExitCode::SUCCESS);
    }
    let verb = if args.dry_run { "could create" } else { "created" };
    let count = |n: Option<i64>, what: &str| n.map_or(String::new(), |n| format!(", {n} {what}"));
    let partitions = count(created.partitions.map(i64::from), "partition(s)");
    let replicas = count(created.replication.map(i64::from), "replica(s) each");
    println!("{verb} topic {}{partitions}{replicas}", created.name);
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, args: &List) -> anyhow::Result<ExitCode> {
    let mut topics = client.admin().list_topics(client.deadline()).await.map_err(explain_admin)?;
    topics.retain(|topic| args.internal || !topic.internal);
    if args.json {
        for topic in &topics {
            println!("{}", topic_json(topic));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if topics.is_empty() {
        eprintln!("no topics yet; create one: dejaq topic create NAME");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["TOPIC", "PARTITIONS", "REPLICAS", "LEADERLESS"]);
    for topic in &topics {
        let replicas = topic.partitions.iter().map(|p| p.replicas.len()).max().unwrap_or(0);
        let leaderless = topic.partitions.len() - topic.available().len();
        table.row(vec![
            topic.name.to_string(),
            topic.partitions.len().to_string(),
            replicas.to_string(),
            leaderless.to_string(),
        ]);
    }
    print!("{}", table.render());
    Ok(ExitCode::SUCCESS)
}

type Ends = BTreeMap<PartitionId, (Option<Offset>, Option<Offset>)>;

async fn describe(client: &Client, args: &Describe) -> anyhow::Result<ExitCode> {
    let (admin, deadline) = (client.admin(), client.deadline());
    let topic = admin.describe_topic(&args.topic, deadline).await.map_err(explain_admin)?;
    // A topic without leaders, or a broker that does not serve a request, still shows what is known.
    let whole = topic.available().len() == topic.partitions.len();
    let ends = if whole { admin.offsets(&topic, deadline).await.ok() } else { None }.unwrap_or_default();
    // Older brokers, and those of others, may not tell these.
    let heirs = admin.heirs(&args.topic, deadline).await.unwrap_or_default();
    let mut moving = admin.moving(deadline).await.unwrap_or_default();
    moving.retain(|one| *one.at.topic == *args.topic);
    let mut lags = BTreeMap::new();
    let holds = |one: &PartitionRoute| {
        one.replicas.iter().filter(|id| !one.offline.contains(id)).copied().collect::<Vec<_>>()
    };
    let holders = topic.partitions.iter().flat_map(holds);
    for broker in holders.collect::<std::collections::BTreeSet<_>>() {
        let only = Some((args.topic.as_str(), topic.partitions.len()));
        let Ok(dir) = admin.log_dir(broker, only, deadline).await else { continue };
        for entry in dir.entries {
            let lag = lags.entry(entry.at.partition).or_insert(0);
            *lag = entry.lag.max(*lag);
        }
    }
    let replication = Replication { heirs, moving, lags };
    let configs = admin.describe_configs(&ConfigOwner::Topic(args.topic.clone()), deadline).await;
    let configs: Vec<ConfigEntry> = match configs {
        Ok(configs) => configs.into_iter().filter(|config| args.configs || config.own).collect(),
        Err(AdminError::Cluster(ClusterError::Request(_))) => Vec::new(),
        Err(error) => return Err(explain_admin(error)),
    };
    if args.json {
        println!("{}", described_json(&topic, &ends, &replication, &configs));
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", described_text(&topic, &ends, &replication, &configs, args.configs));
    Ok(ExitCode::SUCCESS)
}

/// What only a cluster has to tell of a topic.
#[derive(Debug, Default)]
struct Replication {
    heirs: BTreeMap<PartitionId, Heirs>,
    moving: Vec<Moving>,
    /// Visible records that the slowest replica lacks that answers.
    lags: BTreeMap<PartitionId, i64>,
}

impl Replication {
    fn heirs(&self, index: usize) -> Heirs {
        self.heirs.get(&PartitionId(index as i32)).cloned().unwrap_or_default()
    }

    fn lag(&self, index: usize) -> Option<i64> {
        self.lags.get(&PartitionId(index as i32)).copied()
    }

    fn moving(&self, index: usize) -> Option<&Moving> {
        self.moving.iter().find(|one| one.at.partition == PartitionId(index as i32))
    }

    /// One line for each partition that is not simply led, in sync and at rest.
    fn text(&self, topic: &TopicRoute) -> String {
        let mut text = String::new();
        for (index, partition) in topic.partitions.iter().enumerate() {
            let heirs = self.heirs(index);
            let moving = self.moving(index);
            let facts = [
                ("offline", &partition.offline[..]),
                ("eligible to lead", &heirs.eligible),
                ("eligible before an unclean stop", &heirs.last_known),
                ("adding", moving.map_or(&[], |one| &one.adding)),
                ("removing", moving.map_or(&[], |one| &one.removing)),
            ];
            let facts = facts.iter().filter(|(_, brokers)| !brokers.is_empty());
            let facts: Vec<String> =
                facts.map(|(what, brokers)| format!("{what}: {}", ids(brokers))).collect();
            if !facts.is_empty() {
                text += &format!("partition {index}: {}\n", facts.join("; "));
            }
        }
        if text.is_empty() { text } else { format!("\n{text}") }
    }
}

fn described_text(
    topic: &TopicRoute,
    ends: &Ends,
    replication: &Replication,
    configs: &[ConfigEntry],
    all: bool,
) -> String {
    let mut text = format!("topic {}", topic.name);
    if !topic.id.is_zero() {
        text += &format!("  id {}", topic.id);
    }
    text += &format!(
        "  {} partition(s){}\n\n",
        topic.partitions.len(),
        if topic.internal { "  internal" } else { "" }
    );
    let mut table = Table::new(&[
        "PARTITION",
        "LEADER",
        "EPOCH",
        "REPLICAS",
        "IN SYNC",
        "LAG",
        "START",
        "END",
        "RECORDS",
    ]);
    for (index, partition) in topic.partitions.iter().enumerate() {
        let (start, end) = ends.get(&PartitionId(index as i32)).copied().unwrap_or_default();
        let shown = |offset: Option<Offset>| offset.map_or("-".into(), |offset| offset.to_string());
        let span = start.zip(end).map(|(start, end)| end.0 - start.0);
        table.row(vec![
            index.to_string(),
            partition.leader.map_or("none".into(), |leader| leader.to_string()),
            partition.leader_epoch.to_string(),
            ids(&partition.replicas),
            ids(&partition.isr),
            replication.lag(index).map_or("-".into(), |lag| lag.to_string()),
            shown(start),
            shown(end),
            span.map_or("-".into(), |span| span.to_string()),
        ]);
    }
    text += &table.render();
    text += &replication.text(topic);
    if configs.is_empty() {
        return text;
    }
    text.push('\n');
    let mut table =
        Table::new(if all { &["SETTING", "VALUE", "FROM", "WHAT IT DOES"] } else { &["SETTING", "VALUE"] });
    for config in configs {
        let value = config.value.clone().unwrap_or_else(|| "(secret)".into());
        let mut row = vec![config.name.clone(), value];
        if all {
            let documentation = config.documentation.as_deref().unwrap_or_default();
            let first_sentence = documentation.split_inclusive(". ").next().unwrap_or_default();
            row.extend([config.source.to_owned(), first_sentence.trim_end().to_owned()]);
        }
        table.row(row);
    }
    text + &table.render()
}

/// What `--set` and `--unset` ask for.
pub(super) fn config_changes(
    set: &[(String, String)],
    unset: &[String],
) -> anyhow::Result<BTreeMap<String, ConfigChange>> {
    let put = set.iter().map(|(name, value)| (name.clone(), ConfigChange::Set(value.clone())));
    let taken = unset.iter().map(|name| (name.clone(), ConfigChange::Delete));
    let changes: BTreeMap<_, _> = put.chain(taken).collect();
    if changes.len() != set.len() + unset.len() {
        return Err(explain("a setting is named twice", "name each setting once"));
    }
    Ok(changes)
}

async fn alter(client: &Client, args: &Alter) -> anyhow::Result<ExitCode> {
    if args.partitions.is_none() && args.set.is_empty() && args.unset.is_empty() {
        return Err(explain(
            "nothing to change",
            "--partitions, --set or --unset; see dejaq topic alter --help",
        ));
    }
    let admin = client.admin();
    let changes = config_changes(&args.set, &args.unset)?;
    // Settings first: a wrong one is refused before partitions are added, which cannot be undone.
    if !changes.is_empty() {
        let owner = ConfigOwner::Topic(args.topic.clone());
        admin.alter_configs(&owner, &changes, client.deadline()).await.map_err(explain_admin)?;
        println!("changed {} setting(s) of topic {}", changes.len(), args.topic);
    }
    if let Some(partitions) = args.partitions {
        admin.create_partitions(&args.topic, partitions, client.deadline()).await.map_err(explain_admin)?;
        println!("topic {} has {partitions} partition(s) now", args.topic);
    }
    Ok(ExitCode::SUCCESS)
}

async fn trim(client: &Client, args: &Trim) -> anyhow::Result<ExitCode> {
    let partition = PartitionId(args.partition);
    let at = TopicPartition { topic: args.topic.as_str().into(), partition };
    let before = args.before.map(Offset);
    let start = client.admin().delete_records(&at, before, client.deadline()).await.map_err(explain_admin)?;
    println!("{}-{} begins at offset {start} now", args.topic, args.partition);
    Ok(ExitCode::SUCCESS)
}

async fn delete(client: &Client, args: &Delete) -> anyhow::Result<ExitCode> {
    for topic in &args.topics {
        match client.admin().delete_topic(topic, client.deadline()).await {
            Ok(()) => println!("deleted topic {topic}"),
            Err(error) if args.if_exists && error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {
                println!("there is no topic {topic}");
            }
            Err(error) => return Err(explain_admin(error)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn ids(brokers: &[BrokerId]) -> String {
    brokers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn topic_json(topic: &TopicRoute) -> Value {
    json!({
        "topic": *topic.name,
        "id": (!topic.id.is_zero()).then(|| topic.id.to_string()),
        "internal": topic.internal,
        "partitions": topic.partitions.len(),
    })
}

fn described_json(
    topic: &TopicRoute,
    ends: &Ends,
    replication: &Replication,
    configs: &[ConfigEntry],
) -> Value {
    let partition = |(index, partition): (usize, &PartitionRoute)| {
        let (start, end) = ends.get(&PartitionId(index as i32)).copied().unwrap_or_default();
        let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
        let (heirs, moving) = (replication.heirs(index), replication.moving(index));
        json!({
            "partition": index,
            "leader": partition.leader.map(|leader| leader.0),
            "epoch": partition.leader_epoch.0,
            "replicas": numbers(&partition.replicas),
            "in_sync": numbers(&partition.isr),
            "offline": numbers(&partition.offline),
            "eligible": numbers(&heirs.eligible),
            "last_known_eligible": numbers(&heirs.last_known),
            "adding": numbers(moving.map_or(&[], |one| &one.adding)),
            "removing": numbers(moving.map_or(&[], |one| &one.removing)),
            "lag": replication.lag(index),
            "start": start.map(|offset| offset.0),
            "end": end.map(|offset| offset.0),
        })
    };
    let config = |config: &ConfigEntry| {
        (
            config.name.clone(),
            json!({ "value": config.value, "from": config.source, "read_only": config.read_only }),
        )
    };
    json!({
        "topic": *topic.name,
        "id": (!topic.id.is_zero()).then(|| topic.id.to_string()),
        "internal": topic.internal,
        "partitions": topic.partitions.iter().enumerate().map(partition).collect::<Vec<_>>(),
        "configs": configs.iter().map(config).collect::<serde_json::Map<_, _>>(),
    })
}
