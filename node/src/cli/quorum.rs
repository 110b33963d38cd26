//! `dejaq quorum`: who votes on the cluster's metadata, and how far each is.

use std::fmt::Write;
use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};
use dejaq_wire::ids::{BrokerId, DirectoryId};
use serde_json::json;

use super::client::{Client, ClientArgs, explain_admin};
use super::output::Table;
use crate::client::admin_cluster::{QuorumReplica, QuorumState};
use crate::runtime::Runtime;

/// Arguments of `dejaq quorum`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the leader, the voters, and who only follows.
    #[command(after_help = "\
Ends with status 1 if fewer than a majority of the voters are heard, and with an error after 3 s if nobody leads.

Examples:
  dejaq quorum status
  dejaq quorum status --json")]
    Status(Status),
    /// Give a vote to a node that follows already.
    #[command(after_help = "\
The node runs with --quorum naming the voters there are, and is listed by `dejaq quorum status`. Add one at a time.

Examples:
  dejaq quorum add 4")]
    Add(Change),
    /// Take the vote of a node away, for good: it runs on as a follower, or does not run any more.
    #[command(after_help = "\
Examples:
  dejaq quorum remove 1
  dejaq quorum remove 1 --directory 5f0c…   the one whose disk was lost, where two have its number")]
    Remove(Change),
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
struct Change {
    /// The node's number.
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    node: i32,
    /// Its data directory, by the first letters of its id, where the number alone does not say which.
    #[arg(long, value_name = "HEX")]
    directory: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
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
        Verb::Add(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(change(&client, &args, true))
        }
        Verb::Remove(args) => {
            let client = args.client.client(false)?;
            client.executor.block_on(change(&client, &args, false))
        }
    }
}

fn hex(directory: DirectoryId) -> String {
    directory.0.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

fn lag(quorum: &QuorumState, replica: &QuorumReplica) -> Option<i64> {
    replica.end.map(|end| (quorum.committed.0 - end.0).max(0))
}

/// Heard within this is heard.
const HEARD_MS: i64 = 10_000;

fn silence_ms(replica: &QuorumReplica, now_ms: i64) -> Option<i64> {
    replica.heard_ms.map(|at| (now_ms - at).max(0))
}

fn has_majority(quorum: &QuorumState, now_ms: i64) -> bool {
    let voters = quorum.replicas.iter().filter(|replica| replica.votes);
    let heard = voters.clone().filter(|one| silence_ms(one, now_ms).is_some_and(|ms| ms < HEARD_MS)).count();
    heard * 2 > voters.count()
}

async fn status(client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    let quorum = client.admin().quorum(client.deadline()).await.map_err(explain_admin)?;
    let now_ms = client.cluster.runtime().unix_ms();
    if json {
        let replica = |one: &QuorumReplica| {
            json!({
                "node": one.id.0,
                "directory": hex(one.directory),
                "votes": one.votes,
                "leads": quorum.leader == Some(one.id),
                "end": one.end.map(|end| end.0),
                "lag": lag(&quorum, one),
                "silence_ms": silence_ms(one, now_ms),
            })
        };
        let shown = json!({
            "leader": quorum.leader.map(|id| id.0),
            "epoch": quorum.epoch.0,
            "committed": quorum.committed.0,
            "replicas": quorum.replicas.iter().map(replica).collect::<Vec<_>>(),
        });
        println!("{shown}");
    } else {
        print!("{}", text(&quorum, now_ms));
    }
    Ok(if has_majority(&quorum, now_ms) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(quorum: &QuorumState, now_ms: i64) -> String {
    let leader = quorum.leader.map_or("none".to_owned(), |id| id.to_string());
    let mut table = Table::new(&["NODE", "DIRECTORY", "ROLE", "END", "LAG", "HEARD"]);
    let unknown = || "-".to_owned();
    for one in &quorum.replicas {
        let role = match (quorum.leader == Some(one.id), one.votes) {
            (true, true) => "leader",
            (_, true) => "voter",
            (_, false) => "observer",
        };
        table.row(vec![
            one.id.to_string(),
            hex(one.directory)[..8].to_owned(),
            role.to_owned(),
            one.end.map_or_else(unknown, |end| end.to_string()),
            lag(quorum, one).map_or_else(unknown, |lag| lag.to_string()),
            silence_ms(one, now_ms).map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms ago")),
        ]);
    }
    format!("leader {leader}  epoch {}  committed {}\n\n{}", quorum.epoch.0, quorum.committed, table.render())
}

/// The one replica that is meant; only one that does not vote yet can be added, only a voter removed.
fn meant<'a>(
    quorum: &'a QuorumState,
    node: BrokerId,
    directory: Option<&str>,
    adding: bool,
) -> anyhow::Result<&'a QuorumReplica> {
    let begins = |one: &&QuorumReplica| directory.is_none_or(|begin| hex(one.directory).starts_with(begin));
    let found: Vec<&QuorumReplica> =
        quorum.replicas.iter().filter(|one| one.id == node && one.votes != adding).filter(begins).collect();
    match (found.as_slice(), adding) {
        ([one], _) => Ok(one),
        ([], true) => anyhow::bail!(
            "node {node} does not follow the quorum, or votes already: start it with --quorum naming the voters \
             there are, and look with `dejaq quorum status`"
        ),
        ([], false) => anyhow::bail!("node {node} is no voter; `dejaq quorum status` lists them"),
        (_, _) => anyhow::bail!("there are several with the number {node}: say which with --directory"),
    }
}

async fn change(client: &Client, args: &Change, adding: bool) -> anyhow::Result<ExitCode> {
    let (admin, node) = (client.admin(), BrokerId(args.node));
    let quorum = admin.quorum(client.deadline()).await.map_err(explain_admin)?;
    let directory = meant(&quorum, node, args.directory.as_deref(), adding)?.directory;
    let deadline = client.deadline();
    let changed = match adding {
        true => admin.add_voter(node, directory, deadline).await,
        false => admin.remove_voter(node, directory, deadline).await,
    };
    changed.map_err(explain_admin)?;
    if args.json {
        println!("{}", json!({ "node": args.node, "directory": hex(directory), "votes": adding }));
    } else {
        println!("node {node} {}", if adding { "votes" } else { "votes no more" });
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::{LeaderEpoch, Offset};

    use super::*;

    fn replica(id: i32, directory: u8, votes: bool, heard_ms: Option<i64>) -> QuorumReplica {
        let end = heard_ms.map(|_| Offset(40 + i64::from(id)));
        QuorumReplica { id: BrokerId(id), directory: DirectoryId([directory; 16]), votes, end, heard_ms }
    }

    fn quorum() -> QuorumState {
        let replicas = vec![
            replica(1, 1, true, Some(1000)),
            replica(2, 2, true, Some(980)),
            replica(3, 3, true, None),
            replica(3, 9, false, Some(900)),
        ];
        let (epoch, committed) = (LeaderEpoch(7), Offset(43));
        QuorumState { leader: Some(BrokerId(1)), epoch, committed, replicas }
    }

    #[test]
    fn everybody_is_shown_and_a_majority_that_is_heard_is_enough() {
        insta::assert_snapshot!(text(&quorum(), 1000), @r"
        leader 1  epoch 7  committed 43

        NODE  DIRECTORY  ROLE      END  LAG  HEARD
           1   01010101  leader     41    2  0 ms ago
           2   02020202  voter      42    1  20 ms ago
           3   03030303  voter       -    -  never
           3   09090909  observer   43    0  100 ms ago
        ");
        assert!(has_majority(&quorum(), 1000) && !has_majority(&quorum(), 1000 + HEARD_MS));
    }

    #[test]
    fn a_wiped_node_is_told_from_the_voter_that_it_was() {
        let all = quorum();
        assert_eq!(meant(&all, BrokerId(3), None, true).expect("one follows").directory.0, [9; 16]);
        assert_eq!(meant(&all, BrokerId(3), None, false).expect("one votes").directory.0, [3; 16]);
        assert!(meant(&all, BrokerId(3), Some("03"), true).is_err(), "that one votes already");
        assert!(meant(&all, BrokerId(4), None, false).is_err());
    }
}
