//! `dejaq txn copy`: the records of a topic in another one, each exactly once: consume, transform, produce without a transform.
//!
//! Promises: each committed record of the source is in the target once for readers of committed records, whatever is killed
//! meanwhile, as long as every copy that shares the work has the same group and a transactional id of its own. Records of
//! one key keep their order. On an interrupt what is under way is ended, and the group left.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use dejaq_wire::ids::Offset;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, ClientArgs, explain};
use super::consume::POLL;
use crate::client::consumer::{ConsumedRecord, Isolation, StartAt, whole_topics};
use crate::client::group::GroupConfig;
use crate::client::offsets::{self, OffsetSpec};
use crate::client::producer::Record;
use crate::client::producer::core::TopicPartition;
use crate::client::txn::{Pipeline, PipelineConfig, PipelineError, Step, TxnConfig};
use crate::runtime::Runtime;
use crate::runtime::tokio::TokioRuntime;

/// How long to rest behind an error that another try may cure.
const REST: Duration = Duration::from_millis(200);

/// Arguments of `dejaq txn copy`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Key, value, headers and time are kept; the partition is chosen by the key. Several copies of one group share the work; each
has a transactional id of its own. One that is started again with its old id fences its former life.

Examples:
  dejaq txn copy orders orders-eu --group mirror --transactional-id mirror-0
  dejaq txn copy orders orders-eu --group mirror --transactional-id mirror-0 --exit-at-end")]
pub(super) struct Args {
    /// The topic to read; only what is committed.
    from: String,
    /// The topic to write.
    to: String,
    /// The group that remembers how far the copy is.
    #[arg(long, value_name = "NAME")]
    group: String,
    /// The transactional id of this process.
    #[arg(long, value_name = "ID")]
    transactional_id: String,
    /// Records of one transaction, at most.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    records_per_txn: u32,
    /// After this many seconds of silence the member is taken for dead.
    #[arg(long, value_name = "SECONDS", default_value_t = 45, value_parser = clap::value_parser!(u64).range(6..=1800))]
    session_timeout_s: u64,
    /// End where the topic ends now, as far as this member's part goes.
    #[arg(long)]
    exit_at_end: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the verb.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let client = args.client.client(false)?;
    client.executor.block_on(copy(&client, args))
}

fn explain_pipeline(error: PipelineError) -> anyhow::Error {
    explain(&error, error.cure())
}

async fn copy(client: &Client, args: &Args) -> anyhow::Result<ExitCode> {
    let mut group = GroupConfig {
        start: Some(StartAt::Beginning),
        session_timeout: Duration::from_secs(args.session_timeout_s),
        ..GroupConfig::of(&args.group)
    };
    group.consumer.max_poll_records = args.records_per_txn as usize;
    let ends = match args.exit_at_end {
        true => Some(ends(client, &args.from).await?),
        false => None,
    };
    let config = PipelineConfig {
        group,
        producer: TxnConfig::of(&args.transactional_id),
        patience: client.timeout.max(Duration::from_secs(30)),
    };
    let cluster = client.cluster.clone();
    let started = Pipeline::start(cluster, config, &[&args.from], |_| {}, client.deadline()).await;
    let mut pipeline = started.map_err(explain_pipeline)?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (mut copied, mut commits, mut aborts) = (0, 0_u64, 0_u64);
    let mut result = Ok(());
    while !is_at_end(&pipeline, ends.as_ref()) {
        let stepped = tokio::select! {
            biased; // the end first: it waits for nothing
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            stepped = pipeline.step(POLL, |record| vec![copy_of(record, &args.to)]) => stepped,
        };
        match stepped {
            Ok(Step::Idle) => {}
            Ok(Step::Committed { outputs, .. }) => {
                copied += outputs;
                commits += 1;
            }
            Ok(Step::Aborted { why }) => {
                aborts += 1;
                eprintln!("dejaq: aborted, and done again: {why}");
            }
            Err(error) if error.is_transient() => {
                eprintln!("dejaq: {error}; trying again");
                let runtime = client.cluster.runtime();
                runtime.sleep_until(runtime.now().plus(REST)).await;
            }
            Err(error) => {
                result = Err(explain_pipeline(error));
                break;
            }
        }
    }
    let closed = pipeline.close(client.deadline()).await.map_err(explain_pipeline);
    eprintln!("{copied} record(s) copied in {commits} transaction(s), {aborts} aborted");
    result.and(closed).map(|()| ExitCode::SUCCESS)
}

fn copy_of(record: &ConsumedRecord, to: &str) -> Record {
    let header = |(name, value): (bytes::Bytes, Option<bytes::Bytes>)| {
        (String::from_utf8_lossy(&name).into_owned(), value)
    };
    Record {
        topic: to.into(),
        partition: None,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record.headers.iter().map(header).collect(),
        timestamp_ms: Some(record.timestamp_ms),
    }
}

async fn ends(client: &Client, topic: &str) -> anyhow::Result<BTreeMap<TopicPartition, Offset>> {
    let all = whole_topics(&client.cluster, &[topic.into()], StartAt::End, client.deadline())
        .await
        .map_err(|error| explain(&error, error.cure()))?;
    let wanted = all.into_keys().map(|at| (at, OffsetSpec::Latest)).collect();
    let found = offsets::find_as(&client.cluster, Isolation::ReadCommitted, &wanted, client.deadline()).await;
    let found = found.map_err(|error| explain(&error, error.cure()))?;
    Ok(found.into_iter().filter_map(|(at, found)| Some((at, found.offset?))).collect())
}

fn is_at_end(pipeline: &Pipeline<TokioRuntime>, ends: Option<&BTreeMap<TopicPartition, Offset>>) -> bool {
    super::consume_group::is_at_end(pipeline.consumer(), ends)
}
