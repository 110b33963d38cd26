//! `dejaq group`: who is in a consumer group, how far it is, and how far it lags behind.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context;
use clap::{Args as ClapArgs, Subcommand};
use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{Generation, Offset, PartitionId};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs, explain};
use super::output::{Table, parse_time};
use crate::client::admin_groups::{self, GroupMember, Kept};
use crate::client::group::GroupError;
use crate::client::group::coordinator::Coordinator;
use crate::client::offsets::{self, OffsetSpec};
use crate::client::producer::core::TopicPartition;
use crate::runtime::Runtime;
use crate::runtime::tokio::TokioRuntime;

/// Arguments of `dejaq group`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the groups with their states.
    List(List),
    /// Show a group's state, members, offsets and lag.
    #[command(after_help = "\
LAG is how many records lie between the group's offset and the end of the partition.

Examples:
  dejaq group describe billing
  dejaq group describe billing --json | jq '.partitions[].lag'")]
    Describe(Describe),
    /// Set the offsets of a group that has no members.
    #[command(after_help = "\
What would change is shown first; with --dry-run it is only shown.

Examples:
  dejaq group reset-offsets billing --topic orders --to beginning
  dejaq group reset-offsets billing --topic orders --partition 0 --to offset:42
  dejaq group reset-offsets billing --all-topics --to timestamp:-1h --dry-run
  dejaq group reset-offsets billing --topic orders --to shift:-100")]
    ResetOffsets(Reset),
    /// Forget groups that have no members, with all their offsets.
    Delete(Delete),
}

#[derive(Debug, ClapArgs)]
struct List {
    /// Print JSON, one group a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Describe {
    /// The group.
    group: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Reset {
    /// The group.
    group: String,
    /// This topic; may be given several times.
    #[arg(long, value_name = "TOPIC", required_unless_present = "all_topics")]
    topic: Vec<String>,
    /// Every topic of which the group keeps an offset.
    #[arg(long, conflicts_with_all = ["topic", "partition"])]
    all_topics: bool,
    /// Only these partitions of the topic.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// Where to: beginning, end, offset:N, shift:N (N records on, or back if negative), or timestamp:WHEN.
    #[arg(long, value_name = "WHERE")]
    to: To,
    /// Show what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, one partition a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, ClapArgs)]
struct Delete {
    /// The groups.
    #[arg(required = true)]
    groups: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Where offsets are set to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum To {
    Beginning,
    End,
    Offset(i64),
    Shift(i64),
    Timestamp(String),
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<To, String> {
        let refused = || "use beginning, end, offset:N, shift:N or timestamp:WHEN".to_owned();
        match text.split_once(':') {
            None if text == "beginning" => Ok(To::Beginning),
            None if text == "end" => Ok(To::End),
            Some(("offset", n)) => n.parse().ok().filter(|n| *n >= 0).map(To::Offset).ok_or_else(refused),
            Some(("shift", n)) => n.parse().map(To::Shift).map_err(|_| refused()),
            Some(("timestamp", when)) => parse_time(when, 0).map(|_| To::Timestamp(when.into())),
            Some(_) | None => Err(refused()),
        }
    }
}

/// Runs one verb.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::List(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(list(&client, args.json))
        }
        Verb::Describe(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(describe(&client, &args))
        }
        Verb::ResetOffsets(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(reset(&client, &args))
        }
        Verb::Delete(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(delete(&client, &args))
        }
    }
}

pub(super) fn explain_group(error: GroupError) -> anyhow::Error {
    match &error {
        GroupError::Refused { code: ErrorCode::NON_EMPTY_GROUP | ErrorCode::UNKNOWN_MEMBER_ID, .. } => {
            explain(&error, "stop its members first: dejaq group describe GROUP")
        }
        GroupError::Refused { code: ErrorCode::GROUP_ID_NOT_FOUND, .. } => {
            explain(&error, "see which groups there are: dejaq group list")
        }
        _ => explain(&error, error.cure()),
    }
}

async fn list(client: &Client, as_json: bool) -> anyhow::Result<ExitCode> {
    let groups = admin_groups::list(&client.cluster, client.deadline()).await.map_err(explain_group)?;
    let mut table = Table::new(&["GROUP", "STATE", "TYPE", "COORDINATOR"]);
    for group in groups {
        if as_json {
            println!(
                "{}",
                json!({
                    "group": group.group,
                    "state": group.state,
                    "protocol_type": group.protocol_type,
                    "coordinator": group.coordinator.0,
                })
            );
            continue;
        }
        table.row(vec![group.group, group.state, group.protocol_type, group.coordinator.to_string()]);
    }
    if !as_json {
        print!("{}", table.render());
    }
    Ok(ExitCode::SUCCESS)
}

/// One partition of a group.
struct Line {
    at: TopicPartition,
    kept: Option<Kept>,
    end: Option<Offset>,
    owner: Option<GroupMember>,
}

impl Line {
    /// Records behind the group's offset; not known without an offset or an end.
    fn lag(&self) -> Option<i64> {
        let (kept, end) = (self.kept.as_ref()?, self.end?);
        Some(end.0.saturating_sub(kept.offset.0).max(0))
    }

    fn json(&self) -> Value {
        json!({
            "topic": *self.at.topic,
            "partition": self.at.partition.0,
            "offset": self.kept.as_ref().map(|kept| kept.offset.0),
            "metadata": self.kept.as_ref().map(|kept| kept.metadata.as_str()),
            "end": self.end.map(|end| end.0),
            "lag": self.lag(),
            "member": self.owner.as_ref().map(|owner| owner.id.as_str()),
        })
    }
}

async fn describe(client: &Client, args: &Describe) -> anyhow::Result<ExitCode> {
    let deadline = client.deadline();
    let coordinator = Coordinator::new(client.cluster.clone(), &args.group);
    let picture =
        admin_groups::describe(&coordinator, &client.cluster, deadline).await.map_err(explain_group)?;
    if picture.state == "Dead" {
        let cause = format!("group {} does not exist", args.group);
        return Err(explain(cause, "see which groups there are: dejaq group list"));
    }
    let kept = admin_groups::committed(&client.cluster, &coordinator, None, deadline)
        .await
        .map_err(explain_group)?;
    let owners: BTreeMap<&TopicPartition, &GroupMember> =
        picture.members.iter().flat_map(|member| member.owned.iter().map(move |at| (at, member))).collect();
    let all: BTreeSet<TopicPartition> = kept.keys().chain(owners.keys().copied()).cloned().collect();
    let ends = ends(client, &all).await;
    let lines: Vec<Line> = all
        .into_iter()
        .map(|at| Line {
            kept: kept.get(&at).cloned(),
            end: ends.get(&at).copied(),
            owner: owners.get(&at).map(|owner| (*owner).clone()),
            at,
        })
        .collect();
    let total: i64 = lines.iter().filter_map(Line::lag).sum();
    if args.json {
        let members: Vec<Value> = picture.members.iter().map(member_json).collect();
        println!(
            "{}",
            json!({
                "group": picture.group,
                "state": picture.state,
                "assignor": picture.assignor,
                "lag": total,
                "members": members,
                "partitions": lines.iter().map(Line::json).collect::<Vec<_>>(),
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    let assignor = if picture.assignor.is_empty() { "-" } else { &picture.assignor };
    println!(
        "{}  {}  assignor {assignor}  {} member(s)  lag {total}",
        picture.group,
        picture.state,
        picture.members.len()
    );
    let mut table = Table::new(&["TOPIC", "PARTITION", "OFFSET", "END", "LAG", "MEMBER", "HOST"]);
    for line in &lines {
        let number = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let (member, host) = line.owner.as_ref().map_or(("-", "-"), |owner| (&owner.id, &owner.host));
        table.row(vec![
            line.at.topic.to_string(),
            line.at.partition.to_string(),
            number(line.kept.as_ref().map(|kept| kept.offset.0)),
            number(line.end.map(|end| end.0)),
            number(line.lag()),
            member.to_owned(),
            host.to_owned(),
        ]);
    }
    print!("{}", table.render());
    for idle in picture.members.iter().filter(|member| member.owned.is_empty()) {
        println!("idle: {} from {}", idle.id, idle.host);
    }
    Ok(ExitCode::SUCCESS)
}

fn member_json(member: &GroupMember) -> Value {
    json!({
        "id": member.id,
        "instance": member.instance,
        "client_id": member.client_id,
        "host": member.host,
        "partitions": member.owned.iter().map(|at| format!("{}-{}", at.topic, at.partition)).collect::<Vec<_>>(),
    })
}

/// The ends of partitions; those of topics that are gone are left out.
async fn ends(client: &Client, all: &BTreeSet<TopicPartition>) -> BTreeMap<TopicPartition, Offset> {
    let topics: BTreeSet<&str> = all.iter().map(|at| &*at.topic).collect();
    let mut ends = BTreeMap::new();
    for topic in topics {
        let wanted =
            all.iter().filter(|at| &*at.topic == topic).map(|at| (at.clone(), OffsetSpec::Latest)).collect();
        if let Ok(found) = offsets::find(&client.cluster, &wanted, client.deadline()).await {
            ends.extend(found.into_iter().filter_map(|(at, found)| Some((at, found.offset?))));
        }
    }
    ends
}

async fn reset(client: &Client, args: &Reset) -> anyhow::Result<ExitCode> {
    let deadline = client.deadline();
    let coordinator = Coordinator::new(client.cluster.clone(), &args.group);
    let picture =
        admin_groups::describe(&coordinator, &client.cluster, deadline).await.map_err(explain_group)?;
    if !picture.members.is_empty() && !args.dry_run {
        let cause = format!("group {} has {} member(s)", args.group, picture.members.len());
        return Err(explain(cause, "stop them first, or look what would change: --dry-run"));
    }
    let kept = admin_groups::committed(&client.cluster, &coordinator, None, deadline)
        .await
        .map_err(explain_group)?;
    let wanted = wanted(client, args, &kept).await?;
    let targets = targets(client, args, &wanted, &kept).await?;
    let mut table = Table::new(&["TOPIC", "PARTITION", "OFFSET", "NEW OFFSET"]);
    for (at, target) in &targets {
        let before = kept.get(at).map(|kept| kept.offset.0);
        if args.json {
            println!(
                "{}",
                json!({
                    "topic": *at.topic, "partition": at.partition.0, "offset": before,
                    "new_offset": target.0, "dry_run": args.dry_run,
                })
            );
            continue;
        }
        let before = before.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
        table.row(vec![at.topic.to_string(), at.partition.to_string(), before, target.to_string()]);
    }
    if !args.json {
        print!("{}", table.render());
    }
    if args.dry_run {
        eprintln!("dejaq: nothing was changed (--dry-run)");
        return Ok(ExitCode::SUCCESS);
    }
    let nobody = ("", Generation::NONE, None);
    admin_groups::commit(&client.cluster, &coordinator, nobody, &targets, deadline)
        .await
        .map_err(explain_group)?;
    Ok(ExitCode::SUCCESS)
}

async fn wanted(
    client: &Client,
    args: &Reset,
    kept: &BTreeMap<TopicPartition, Kept>,
) -> anyhow::Result<BTreeSet<TopicPartition>> {
    if args.all_topics {
        return Ok(kept.keys().cloned().collect());
    }
    let mut wanted = BTreeSet::new();
    for topic in &args.topic {
        let route = client
            .cluster
            .topic(topic, client.deadline())
            .await
            .map_err(|error| explain(&error, error.cure()))?;
        let count = i32::try_from(route.partitions.len()).unwrap_or(i32::MAX);
        let chosen = if args.partition.is_empty() { (0..count).collect() } else { args.partition.clone() };
        for index in chosen {
            if index >= count {
                let cause = format!("topic {topic} has partitions 0 to {}, not {index}", count - 1);
                return Err(explain(cause, format!("see them: dejaq topic describe {topic}")));
            }
            wanted.insert(TopicPartition { topic: topic.as_str().into(), partition: PartitionId(index) });
        }
    }
    Ok(wanted)
}

/// Where each partition is set to, always within what it holds.
async fn targets(
    client: &Client,
    args: &Reset,
    wanted: &BTreeSet<TopicPartition>,
    kept: &BTreeMap<TopicPartition, Kept>,
) -> anyhow::Result<BTreeMap<TopicPartition, Offset>> {
    let all = |spec| find(client, wanted.iter().map(|at| (at.clone(), spec)).collect());
    let (starts, ends) = (all(OffsetSpec::Earliest).await?, all(OffsetSpec::Latest).await?);
    let by_time = match &args.to {
        To::Timestamp(when) => {
            let now_ms = client.cluster.runtime().unix_ms();
            all(OffsetSpec::At(parse_time(when, now_ms).map_err(anyhow::Error::msg)?)).await?
        }
        _ => BTreeMap::new(),
    };
    let mut targets = BTreeMap::new();
    for at in wanted {
        let start = starts.get(at).context("a partition does not tell its start")?.0;
        let end = ends.get(at).context("a partition does not tell its end")?.0;
        let target = match &args.to {
            To::Beginning => start,
            To::End => end,
            To::Offset(offset) => *offset,
            To::Shift(by) => kept.get(at).map_or(start, |kept| kept.offset.0).saturating_add(*by),
            // No record is that late: what comes next will be.
            To::Timestamp(_) => by_time.get(at).map_or(end, |found| found.0),
        };
        targets.insert(at.clone(), Offset(target.clamp(start, end)));
    }
    Ok(targets)
}

async fn find(
    client: &Client,
    wanted: BTreeMap<TopicPartition, OffsetSpec>,
) -> anyhow::Result<BTreeMap<TopicPartition, Offset>> {
    let found = offsets::find(&client.cluster, &wanted, client.deadline())
        .await
        .map_err(|error| explain(&error, error.cure()))?;
    Ok(found.into_iter().filter_map(|(at, found)| Some((at, found.offset?))).collect())
}

async fn delete(client: &Client, args: &Delete) -> anyhow::Result<ExitCode> {
    for group in &args.groups {
        let coordinator: Coordinator<TokioRuntime> = Coordinator::new(client.cluster.clone(), group);
        admin_groups::delete(&coordinator, &client.cluster, client.deadline())
            .await
            .map_err(explain_group)
            .with_context(|| format!("group {group}"))?;
        println!("deleted group {group}");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_word_an_offset_a_shift_or_a_time() {
        assert_eq!("beginning".parse(), Ok(To::Beginning));
        assert_eq!("offset:42".parse(), Ok(To::Offset(42)));
        assert_eq!("shift:-5".parse(), Ok(To::Shift(-5)));
        assert_eq!("timestamp:-1h".parse(), Ok(To::Timestamp("-1h".into())));
        for bad in ["", "offset:-1", "shift:x", "timestamp:soon", "middle"] {
            assert!(bad.parse::<To>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_lag_needs_an_offset_and_an_end_and_is_never_negative() {
        let line = |offset: Option<i64>, end: Option<i64>| Line {
            at: TopicPartition { topic: "t".into(), partition: PartitionId(0) },
            kept: offset.map(|offset| Kept { offset: Offset(offset), metadata: String::new() }),
            end: end.map(Offset),
            owner: None,
        };
        assert_eq!(line(Some(3), Some(10)).lag(), Some(7));
        assert_eq!(line(Some(30), Some(10)).lag(), Some(0), "the topic was made anew");
        assert_eq!((line(None, Some(1)).lag(), line(Some(1), None).lag()), (None, None));
    }
}
