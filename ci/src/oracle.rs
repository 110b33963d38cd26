//! A real Apache Kafka on loopback: one KRaft node from its Maven jars, in a scratch directory.
//!
//! Owns: its configuration and its process. Promises: bound to 127.0.0.1 only; gone, with its data,
//! when the handle is dropped. Called by `clients --oracle`, `differential --record` and `oracle`.

use crate::install;
use crate::process::{self, Guarded};
use crate::raw;
use crate::server::{free_port, show_tail};
use crate::work::{Scratch, Work};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A JVM on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port to listen on, on loopback; 0 picks a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// A running Kafka broker; stopped when dropped.
#[derive(Debug)]
pub struct Kafka {
    _process: Guarded,
    address: String,
    /// Removed behind the process: fields are dropped in order.
    _dir: Scratch,
}

impl Kafka {
    /// Formats a fresh directory and starts the broker; returns when it answers.
    pub fn start(work: &Work, port: u16) -> Result<Kafka> {
        let libs = install::java_libs(work)?;
        let class_path = format!("{}/*", libs.display());
        let dir = work.scratch("oracle")?;
        let port = if port == 0 { free_port()? } else { port };
        let config = dir.join("server.properties");
        fs::write(&config, properties(port, free_port()?, &dir))?;

        let log = work.log("oracle")?;
        let _ = fs::remove_file(&log);
        let mut format = java(&class_path, "kafka.tools.StorageTool");
        format.args(["format", "-t", "AAAAAAAAQACAAAAAAAAAAA", "--standalone", "-c"]).arg(&config);
        process::logged(&mut format, &log, START_LIMIT).context("formatting the oracle's directory")?;

        let file = File::options().append(true).open(&log)?;
        let mut broker = java(&class_path, "kafka.Kafka");
        broker.arg(&config).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let process = Guarded::spawn_in_our_group(&mut broker)?;
        let address = format!("127.0.0.1:{port}");
        raw::wait_until_ready(&address, START_LIMIT).with_context(|| show_tail(&log))?;
        Ok(Kafka { _process: process, address, _dir: dir })
    }

    pub fn address(&self) -> &str {
        &self.address
    }
}

fn java(class_path: &str, main: &str) -> Command {
    let mut command = Command::new("java");
    command.args(["-Xms256m", "-Xmx768m", "-XX:+UseSerialGC", "-Djava.awt.headless=true"]);
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", class_path, main]);
    command
}

fn properties(port: u16, controller_port: u16, dir: &Path) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}\n\
         controller.listener.names=CONTROLLER\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         inter.broker.listener.name=PLAINTEXT\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         log.dirs={}\n\
         num.partitions=1\n\
         offsets.topic.num.partitions=2\n\
         offsets.topic.replication.factor=1\n\
         transaction.state.log.num.partitions=2\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n",
        dir.join("data").display()
    )
}

/// The verb: run until the end of input, for work by hand.
pub fn run(args: &Args) -> Result<bool> {
    let kafka = Kafka::start(&Work::open()?, args.port)?;
    println!("Apache Kafka listens on {}; Enter or the end of input stops it", kafka.address());
    std::io::stdin().read_line(&mut String::new())?;
    Ok(true)
}
