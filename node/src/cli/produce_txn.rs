//! `dejaq produce --transactional-id`: lines as records that become visible together.
//!
//! Promises: of each transaction a reader of committed records sees every line or none; the verb ends with status 0 only
//! when every line is committed; behind a failure nothing further is sent, and what is said tells which lines are in.

use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args as ClapArgs;
use serde_json::json;

use super::client::{Client, explain};
use super::output::size;
use super::produce::Args;
use crate::client::outcome::Verdict;
use crate::client::producer::Delivery;
use crate::client::txn::{TxnConfig, TxnError, TxnErrorKind, TxnProducer, TxnVersion};
use crate::runtime::Runtime;
use crate::runtime::tokio::TokioRuntime;

/// Flags of a transactional run.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Transactions")]
pub(super) struct TxnArgs {
    /// Send in transactions under this id: who reads with --isolation read-committed sees each whole, or nothing of it.
    /// One producer at a time has an id: a new one fences the one before and aborts what it left open.
    #[arg(long, value_name = "ID", conflicts_with = "transactional")]
    transactional_id: Option<String>,
    /// As --transactional-id, with an id made up for this run.
    #[arg(long)]
    transactional: bool,
    /// Lines of one transaction; without it all of the input is one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records_per_txn: Option<u64>,
    /// A transaction that is open longer than this, in ms, is aborted.
    #[arg(long, value_name = "MS", default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(1..))]
    transaction_timeout_ms: u32,
    /// Speak the transactions of before KIP-890: without a new epoch for each, and every partition added by itself.
    #[arg(long, hide = true)]
    transaction_version_1: bool,
}

impl TxnArgs {
    /// The transactional id, if the run has one.
    pub(super) fn id(&self, entropy: u64) -> anyhow::Result<Option<String>> {
        let id = match (&self.transactional_id, self.transactional) {
            (Some(id), _) => Some(id.clone()),
            (None, true) => Some(format!("dejaq-produce-{entropy:016x}")),
            (None, false) => None,
        };
        if id.is_none() && self.records_per_txn.is_some() {
            return Err(explain(
                "--records-per-txn says nothing without a transaction",
                "--transactional-id ID",
            ));
        }
        Ok(id)
    }
}

#[derive(Debug, Default)]
struct Tally {
    committed: u64,
    transactions: u64,
    bytes: u64,
    /// Of the open transaction.
    lines: u64,
    open_bytes: u64,
}

struct Run<'a> {
    args: &'a Args,
    flags: &'a TxnArgs,
    client: &'a Client,
    producer: TxnProducer<TokioRuntime>,
    tally: Tally,
    /// Of the open transaction, if offsets are to be printed.
    deliveries: VecDeque<Delivery>,
}

/// Sends the lines of `input` in transactions of `id`.
pub(super) async fn run(
    client: &Client,
    args: &Args,
    flags: &TxnArgs,
    id: &str,
    input: &mut dyn BufRead,
) -> anyhow::Result<ExitCode> {
    let config = TxnConfig {
        timeout: Duration::from_millis(u64::from(flags.transaction_timeout_ms)),
        version: if flags.transaction_version_1 { TxnVersion::One } else { TxnVersion::Newest },
        producer: args.config(client.timeout),
        ..TxnConfig::of(id)
    };
    let producer = TxnProducer::start(client.cluster.clone(), config)
        .map_err(|error| explain(error, "see dejaq produce --help"))?;
    let (tally, deliveries) = (Tally::default(), VecDeque::new());
    let mut run = Run { args, flags, client, producer, tally, deliveries };
    let began = client.cluster.runtime().now();
    run.producer.init(client.deadline()).await.map_err(|error| explain(&error, error.cure()))?;
    let failure = run.lines(input).await?;
    run.finish(id, client.cluster.runtime().now().since(began), failure)
}

impl Run<'_> {
    /// Sends and commits everything; the failure that ended it, if one did.
    async fn lines(&mut self, input: &mut dyn BufRead) -> anyhow::Result<Option<TxnError>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line).context("cannot read the input")? == 0 {
                break;
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if let Err(error) = self.send(&line).await {
                return Ok(Some(self.abort(error).await));
            }
            let is_full = self.flags.records_per_txn.is_some_and(|most| self.tally.lines >= most);
            if is_full && let Err(error) = self.commit().await {
                return Ok(Some(self.abort(error).await));
            }
        }
        if self.tally.lines > 0
            && let Err(error) = self.commit().await
        {
            return Ok(Some(self.abort(error).await));
        }
        Ok(None)
    }

    async fn send(&mut self, line: &[u8]) -> Result<(), TxnError> {
        if self.tally.lines == 0 {
            self.producer.begin()?;
        }
        let delivery = self.producer.send(self.args.record(Bytes::copy_from_slice(line))).await?;
        self.tally.lines += 1;
        self.tally.open_bytes += line.len() as u64;
        if self.args.print_offsets {
            self.deliveries.push_back(delivery);
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), TxnError> {
        let deadline = self.client.deadline().plus(Duration::from_millis(self.args.delivery_timeout_ms));
        self.producer.commit(deadline).await?;
        let tally = &mut self.tally;
        tally.committed += std::mem::take(&mut tally.lines);
        tally.bytes += std::mem::take(&mut tally.open_bytes);
        tally.transactions += 1;
        let mut out = std::io::stdout().lock();
        for stored in self.deliveries.drain(..).filter_map(|delivery| delivery.try_get()?.ok()) {
            let offset = stored.offset.map_or("-".into(), |offset| offset.to_string());
            let _nobody_reads = writeln!(out, "{}\t{offset}", stored.partition);
        }
        Ok(())
    }

    /// Ends what cannot be committed, as well as it can be ended; whoever takes the id next does the rest.
    async fn abort(&mut self, error: TxnError) -> TxnError {
        if self.producer.ending().is_none() && self.producer.in_transaction() {
            let aborted = self.producer.abort(self.client.deadline()).await;
            return of_both(error, aborted.err());
        }
        error
    }

    fn finish(self, id: &str, took: Duration, failure: Option<TxnError>) -> anyhow::Result<ExitCode> {
        let Tally { committed, transactions, bytes, lines, .. } = self.tally;
        let perhaps = failure.as_ref().is_some_and(|error| error.verdict == Verdict::Maybe);
        let seconds = took.as_secs_f64();
        if self.args.json {
            let summary = json!({
                "topic": self.args.topic, "transactional_id": id, "committed": committed,
                "transactions": transactions, "bytes": bytes, "aborted": if perhaps { 0 } else { lines },
                "perhaps_committed": if perhaps { lines } else { 0 }, "seconds": seconds,
            });
            println!("{summary}");
        } else {
            let rate = size((bytes as f64 / seconds.max(0.001)) as u64);
            let records = committed as f64 / seconds.max(0.001);
            eprintln!(
                "{committed} record(s) in {transactions} transaction(s) committed, {} in {seconds:.1} s ({records:.0} records/s, {rate}/s)",
                size(bytes)
            );
        }
        let Some(error) = failure else { return Ok(ExitCode::SUCCESS) };
        let fate = if perhaps { "perhaps committed" } else { "not committed" };
        let (first, last) = (committed + 1, committed + lines.max(1));
        eprintln!("dejaq: {error}\n  try: {}", error.cure());
        eprintln!("dejaq: lines {first} to {last} are {fate}, and nothing behind them was sent");
        Ok(ExitCode::FAILURE)
    }
}

/// What to tell of a failure and of that of the abort behind it. A partition knows that an epoch is over, and not why:
/// the coordinator does.
fn of_both(first: TxnError, abort: Option<TxnError>) -> TxnError {
    match abort {
        Some(told) if told.kind == TxnErrorKind::Fenced => TxnError { what: first.what, ..told },
        Some(_) | None => first,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use dejaq_wire::ErrorCode;

    use super::*;
    use crate::client::txn::TxnCause;

    #[test]
    fn who_is_fenced_is_told_by_whom() {
        let told = |kind, what, code| TxnError::new(kind, what, TxnCause::Refused(code));
        let first = told(TxnErrorKind::Abortable, "send", ErrorCode::INVALID_PRODUCER_EPOCH);
        let fenced = told(TxnErrorKind::Fenced, "abort", ErrorCode::PRODUCER_FENCED);
        let both = of_both(first.clone(), Some(fenced)).to_string();
        assert!(both.starts_with("cannot send") && both.contains("another producer has this"), "{both}");
        let late = told(TxnErrorKind::Retriable, "abort", ErrorCode::NOT_COORDINATOR);
        for abort in [None, Some(late)] {
            assert_eq!(of_both(first.clone(), abort).to_string(), first.to_string());
        }
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: TxnArgs,
    }

    fn id(flags: &[&str]) -> anyhow::Result<Option<String>> {
        Line::try_parse_from([&["dejaq"], flags].concat())?.flags.id(7)
    }

    #[test]
    fn an_id_is_given_made_up_or_not_there() {
        assert_eq!(id(&[]).expect("no transaction"), None);
        assert_eq!(id(&["--transactional-id", "x"]).expect("one").as_deref(), Some("x"));
        assert_eq!(id(&["--transactional"]).expect("one").as_deref(), Some("dejaq-produce-0000000000000007"));
        id(&["--transactional", "--transactional-id", "x"]).expect_err("one or the other");
        id(&["--records-per-txn", "5"]).expect_err("of which transaction?");
        id(&["--transactional", "--records-per-txn", "0"]).expect_err("none would ever end");
    }
}
