//! The load of the verbs that kill brokers: producers of `ci/clients/franz-go`, which write down what was acknowledged, and
//! one of librdkafka and of Java beside them, where they can be had.
//!
//! Owns: their processes. Promises: an end that is no success is an error with the last words of the program. Called by
//! `kill9`, `failover`, `drain`, `mend`, `group_failover` and `txn_failover`; what was written is judged by `judge`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::install;
use crate::judge::{self, Line};
use crate::process::{self, Guarded};
use crate::server::show_tail;
use crate::test::tell_skipped;
use crate::work::Work;

/// The program of the load and of its reader; `None` if this machine cannot have it, which is said then.
pub fn client(work: &Work) -> Result<Option<PathBuf>> {
    match install::go(work, "franz-go") {
        Ok(program) => Ok(Some(program)),
        Err(error) => {
            println!("skipped: no client for the load: {error:#}\n0 passed, 0 failed, 1 skipped");
            tell_skipped("load", &format!("{error:#}"))?;
            Ok(None)
        }
    }
}

/// What is to be produced.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The program.
    pub program: &'a Path,
    /// Of its log.
    pub name: &'a str,
    /// Where clients reach the brokers.
    pub brokers: &'a str,
    pub topic: &'a str,
    pub partitions: i32,
    /// How long.
    pub seconds: u64,
    /// How long each producer rests behind twenty records, in milliseconds.
    pub pause_ms: u64,
    /// Where what was acknowledged is written down.
    pub acked: &'a Path,
}

/// Producers at work; killed when dropped.
#[derive(Debug)]
pub struct Load {
    process: Guarded,
    log: PathBuf,
}

impl Load {
    pub fn begin(work: &Work, plan: &Plan) -> Result<Load> {
        let log = work.log(plan.name)?;
        let mut command = Command::new(plan.program);
        let (partitions, seconds) = (plan.partitions.to_string(), plan.seconds.to_string());
        command.args(["produce", plan.topic, &partitions, &seconds]).arg(plan.acked);
        command.arg(plan.pause_ms.to_string()).env("DEJAQ_BROKER", plan.brokers);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        Ok(Load { process: Guarded::spawn(&mut command)?, log })
    }

    /// An error if it is over already.
    pub fn still_runs(&mut self) -> Result<()> {
        let ended = self.process.ended()?.is_some();
        ensure!(!ended, "the load ended too soon: {}", process::last_lines(&self.log, 4));
        Ok(())
    }

    /// Waits until everything is acknowledged.
    pub fn finish(mut self, limit: Duration, broker_log: &Path) -> Result<()> {
        let status = self.process.wait(limit)?;
        let status = status.with_context(|| format!("the load hangs; broker: {}", show_tail(broker_log)))?;
        ensure!(status.success(), "the load ended with {status}: {}", process::last_lines(&self.log, 4));
        Ok(())
    }
}

/// Producers of other stock clients beside it, slower ones; each writes down what it was told, too.
#[derive(Debug, Default)]
pub struct Beside {
    loads: Vec<(&'static str, Load, PathBuf)>,
    /// How many clients cannot be had here.
    pub skipped: usize,
}

impl Beside {
    /// Begins all that can be had; each of those that cannot is named, with the reason.
    pub fn begin(work: &Work, plan: &Plan) -> Result<Beside> {
        let mut beside = Beside::default();
        let librdkafka = install::librdkafka(work, "load.py");
        let java = install::java(work, "Load.java", &[]);
        for (name, producer, start) in [("librdkafka", "i2", librdkafka), ("java", "i3", java)] {
            match start {
                Ok((program, first)) => {
                    let mut command = Command::new(program);
                    command.args(first);
                    let acked = plan.acked.with_extension(name);
                    let log = work.log(&format!("{}-{name}", plan.name))?;
                    let (partitions, seconds) = (plan.partitions.to_string(), plan.seconds.to_string());
                    command.args([plan.topic, &partitions, &seconds]).arg(&acked).arg(producer);
                    command.env("DEJAQ_BROKER", plan.brokers);
                    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
                    let load = Load { process: Guarded::spawn(&mut command)?, log };
                    beside.loads.push((name, load, acked));
                }
                Err(error) => {
                    println!("  skipped {name}: {error:#}");
                    tell_skipped(name, &format!("{error:#}"))?;
                    beside.skipped += 1;
                }
            }
        }
        Ok(beside)
    }

    /// Waits until everything is acknowledged; what was.
    pub fn finish(self, limit: Duration, broker_log: &Path) -> Result<Vec<Line>> {
        let mut all = Vec::new();
        for (name, load, acked) in self.loads {
            load.finish(limit, broker_log).with_context(|| format!("the load of {name}"))?;
            let acked = judge::parse(&acked)?;
            println!("  {name}: {} records acked", acked.len());
            ensure!(!acked.is_empty(), "the load of {name} was acknowledged nothing");
            all.extend(acked);
        }
        Ok(all)
    }
}
