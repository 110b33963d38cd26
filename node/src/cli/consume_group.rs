//! `dejaq consume --group`: as a member of a group, which shares the topic with the others and remembers how far it is.
//!
//! Promises: what `--delivery` says; on an interrupt what was printed is committed (at-least-once) and the group left,
//! so that the others take over at once.

use std::collections::BTreeMap;
use std::io::Write;

use clap::{Args as ClapArgs, ValueEnum};
use dejaq_wire::ids::Offset;
use tokio::signal::unix::{SignalKind, signal};

use super::client::Client;
use super::consume::POLL;
use super::group::explain_group;
use crate::client::consumer::{ConsumedRecord, ConsumerConfig, StartAt};
use crate::client::group::{Assignor, Delivery, GroupConfig, GroupConsumer, Protocol, Rebalance};
use crate::client::producer::core::TopicPartition;
use crate::runtime::tokio::TokioRuntime;

/// How the plan is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AssignorArg {
    Range,
    Roundrobin,
    CooperativeSticky,
}

/// By which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProtocolArg {
    Classic,
    Consumer,
}

/// Flags of a member.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Group")]
pub(super) struct GroupArgs {
    /// Read as a member of this group: its members share the partitions, and it begins where it committed last.
    #[arg(long, value_name = "NAME", conflicts_with = "partition")]
    pub(super) group: Option<String>,
    /// at-least-once: commit what was printed; a crash prints some records again, none is lost.
    /// at-most-once: commit, then print; a crash may lose records, none is printed twice.
    #[arg(long, value_name = "SEMANTICS", default_value = "at-least-once", requires = "group")]
    delivery: Delivery,
    /// classic: the members make the plan. consumer (KIP-848): the coordinator makes it, and each member goes to its part
    /// without stopping the others. A live group takes members of both, and is of the new kind while it has one of them.
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value = "classic", requires = "group")]
    group_protocol: ProtocolArg,
    /// How the coordinator makes the plan for --group-protocol consumer: uniform or range; its own choice if not given.
    #[arg(long, value_name = "NAME", requires = "group")]
    server_assignor: Option<String>,
    /// For the classic protocol, ways to make the plan, the best first; all members must share one. cooperative-sticky alone lets members go on
    /// reading through a rebalance.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["range", "roundrobin"], requires = "group")]
    assignor: Vec<AssignorArg>,
    /// A name of this member that outlives the process: a restart within the session timeout disturbs nobody.
    #[arg(long, value_name = "NAME", requires = "group")]
    instance_id: Option<String>,
    /// After this many seconds of silence the member is taken for dead (for --group-protocol consumer the broker's
    /// group-consumer-session-timeout-ms counts; this is how long it believes in what it owns).
    #[arg(long, value_name = "SECONDS", default_value_t = 45, requires = "group",
        value_parser = clap::value_parser!(u64).range(6..=1800))]
    session_timeout_s: u64,
    /// Say on standard error what this member owns whenever that changes.
    #[arg(long, requires = "group")]
    show_rebalances: bool,
}

/// What to read, and how long.
pub(super) struct Wanted<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    /// Where the group has no offset.
    pub start: StartAt,
    pub config: ConsumerConfig,
    pub count: u64,
    /// End where these are reached.
    pub ends: Option<BTreeMap<TopicPartition, Offset>>,
}

/// Reads until there is enough, or until told to stop.
pub(super) async fn run(
    client: &Client,
    args: &GroupArgs,
    wanted: Wanted<'_>,
    out: &mut impl Write,
    print: impl Fn(&ConsumedRecord, &mut dyn Write) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let most = wanted.config.max_poll_records;
    let config = GroupConfig {
        delivery: args.delivery,
        protocol: match args.group_protocol {
            ProtocolArg::Classic => Protocol::Classic,
            ProtocolArg::Consumer => Protocol::Consumer,
        },
        server_assignor: args.server_assignor.clone(),
        assignors: args.assignor.iter().map(|assignor| assignor.of()).collect(),
        instance: args.instance_id.clone(),
        session_timeout: std::time::Duration::from_secs(args.session_timeout_s),
        start: Some(wanted.start),
        consumer: wanted.config,
        ..GroupConfig::of(wanted.group)
    };
    let is_shown = args.show_rebalances;
    let listener = move |change: &Rebalance| {
        if is_shown {
            eprintln!("dejaq: {}", shown(change));
        }
    };
    let mut consumer = GroupConsumer::subscribe(client.cluster.clone(), config, &[wanted.topic], listener);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut left = wanted.count;
    let mut result = Ok(());
    while left > 0 && !is_at_end(&consumer, wanted.ends.as_ref()) {
        // What a poll returns is committed, printed or not.
        consumer.set_max_poll_records(usize::try_from(left).unwrap_or(usize::MAX).min(most));
        let polled = tokio::select! {
            biased; // the end first: it waits for nothing
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            polled = consumer.poll(POLL) => polled.map_err(explain_group),
        };
        let records = match polled {
            Ok(records) => records,
            Err(error) => {
                result = Err(error);
                break;
            }
        };
        for record in &records {
            print(record, out)?;
        }
        left -= records.len() as u64;
        if !records.is_empty() {
            out.flush()?;
        }
    }
    let closed = consumer.close(client.deadline()).await.map_err(explain_group);
    result.and(closed)
}

/// Whether everything that this member owns is read; one that owns nothing yet has not begun.
pub(super) fn is_at_end(
    consumer: &GroupConsumer<TokioRuntime>,
    ends: Option<&BTreeMap<TopicPartition, Offset>>,
) -> bool {
    let Some(ends) = ends else { return false };
    let reached = |at: &TopicPartition| match (consumer.reader().position(at), ends.get(at)) {
        (Some(position), Some(end)) => position >= *end,
        (None, _) => false,
        (Some(_), None) => true, // made after we began
    };
    consumer.generation().is_valid() && consumer.assignment().all(reached)
}

fn shown(change: &Rebalance) -> String {
    let list = |all: &[TopicPartition]| {
        all.iter().map(|at| format!("{}-{}", at.topic, at.partition)).collect::<Vec<_>>().join(" ")
    };
    match change {
        Rebalance::Assigned(all) => format!("assigned {}", list(all)),
        Rebalance::Revoked(all) => format!("revoked {}", list(all)),
        Rebalance::Lost(all) => format!("lost {}", list(all)),
    }
}

impl AssignorArg {
    fn of(self) -> Assignor {
        match self {
            AssignorArg::Range => Assignor::Range,
            AssignorArg::Roundrobin => Assignor::RoundRobin,
            AssignorArg::CooperativeSticky => Assignor::CooperativeSticky,
        }
    }
}
