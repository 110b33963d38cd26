//! `cargo ci clients`: stock clients carry a real file through the broker and use its admin calls.
//!
//! Owns: which programs make a client, the broker they run against, the deadline of each check.
//! Promises: a client that cannot be installed is skipped with its reason, a check that hangs is
//! killed, reported, and the checks behind it still run.
//!
//! A program prints, per check: `start NAME`, then one of `ok NAME`, `not ok NAME: why`,
//! `skip NAME: why`. It reads `DEJAQ_BROKER`, `DEJAQ_FILE` (the text to carry), `DEJAQ_RUN` (a prefix
//! for topics, fresh each time), `DEJAQ_ONLY` (substring of names), `DEJAQ_AFTER` (resume behind that
//! check), `DEJAQ_GROUPS` (1: also the checks that need consumer groups).

mod program;

use crate::oracle::Kafka;
use crate::report::{Outcome, Report};
use crate::server::Dejaq;
use crate::work::Work;
use crate::{corpus, install, raw, server};
use anyhow::{Context, Result};
use clap::ValueEnum;
use program::Program;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seed of the file that is carried; a constant, so that a failing line can be talked about.
const CORPUS_SEED: u64 = 20_260_101;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which client; may be repeated or separated by commas.
    #[arg(long = "client", value_enum, value_delimiter = ',', default_values_t = [Which::All])]
    clients: Vec<Which>,
    /// Run against a broker that is already there instead of building and starting `dejaq`.
    #[arg(long, value_name = "IP:PORT", conflicts_with = "oracle")]
    broker: Option<String>,
    /// Run against a real Apache Kafka, started for this run: shows that the suite is right.
    #[arg(long)]
    oracle: bool,
    /// Also the checks that need consumer groups.
    #[arg(long)]
    groups: bool,
    /// Only checks whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Seconds that one check may take.
    #[arg(long, default_value_t = 90)]
    check_seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Our own command line.
    Cli,
    Kcat,
    /// Kafka's Java clients, from a small program.
    Java,
    /// Kafka's console tools, as a person types them.
    JavaTools,
    Confluent,
    KafkaPython,
    Aiokafka,
    FranzGo,
    Kafkajs,
    All,
}

const EVERY: [Which; 9] = [
    Which::Cli,
    Which::Kcat,
    Which::FranzGo,
    Which::Confluent,
    Which::KafkaPython,
    Which::Aiokafka,
    Which::Kafkajs,
    Which::Java,
    Which::JavaTools,
];

/// What the clients talk to.
enum Target {
    Given(String),
    Oracle(Kafka),
    Ours(Dejaq),
}

impl Target {
    fn open(args: &Args, work: &Work) -> Result<Target> {
        match &args.broker {
            Some(address) => Ok(Target::Given(address.clone())),
            None if args.oracle => Ok(Target::Oracle(Kafka::start(work, 0)?)),
            None => Ok(Target::Ours(Dejaq::start(work, "clients")?)),
        }
    }

    fn address(&self) -> &str {
        match self {
            Target::Given(address) => address,
            Target::Oracle(kafka) => kafka.address(),
            Target::Ours(dejaq) => dejaq.address(),
        }
    }

    /// Our own broker must survive every client and stop when asked.
    fn close(self, report: &mut Report) -> Result<()> {
        let Target::Ours(mut dejaq) = self else { return Ok(()) };
        let alive =
            if dejaq.alive()? { Outcome::Passed } else { Outcome::Failed(server::show_tail(dejaq.log())) };
        report.add("dejaq", "still-running", alive, Duration::ZERO);
        let stopped = match dejaq.stop() {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        report.add("dejaq", "stops-on-sigterm", stopped, Duration::ZERO);
        Ok(())
    }
}

/// The verb.
pub fn run(args: &Args) -> Result<bool> {
    let mut report = Report::default();
    run_into(args, &mut report)?;
    Ok(report.finish("clients"))
}

fn run_into(args: &Args, report: &mut Report) -> Result<()> {
    let work = Work::open()?;
    let target = Target::open(args, &work)?;
    let file = work.cache.join("corpus.txt");
    std::fs::write(&file, corpus::text(CORPUS_SEED))?;
    println!("clients against {}", target.address());
    for which in EVERY {
        if args.clients.contains(&Which::All) || args.clients.contains(&which) {
            one_client(which, args, &work, target.address(), &file, report)?;
        }
    }
    target.close(report)
}

fn one_client(
    which: Which,
    args: &Args,
    work: &Work,
    broker: &str,
    file: &std::path::Path,
    report: &mut Report,
) -> Result<()> {
    let name = which.to_possible_value().context("no variant is hidden")?.get_name().to_owned();
    let scratch = work.scratch(&format!("client-{name}"))?;
    let mut program = match prepare(which, work) {
        Ok(program) => program,
        Err(error) => {
            let why = format!("{error:#}");
            crate::test::tell_skipped(&name, &why)?;
            report.add(&name, "install", Outcome::Skipped(why), Duration::ZERO);
            return Ok(());
        }
    };
    let run = format!("{name}-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis());
    if which == Which::Kcat {
        // kcat has no admin calls: its topic with several partitions is made for it.
        raw::create_topic(broker, &format!("{run}-multi"), 3)?;
    }
    program.env("DEJAQ_TMP", &scratch.to_string_lossy());
    program.env("DEJAQ_BROKER", broker);
    program.env("DEJAQ_FILE", &file.to_string_lossy());
    program.env("DEJAQ_RUN", &run);
    program.env("DEJAQ_ONLY", &args.only);
    program.env("DEJAQ_GROUPS", if args.groups { "1" } else { "0" });
    let limit = Duration::from_secs(args.check_seconds);
    program.run(&name, limit, !args.only.is_empty(), report)?;
    if args.only.is_empty() {
        let outcome = match codecs_arrived(which, broker, &run) {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        report.add(&name, "codecs-on-the-log", outcome, Duration::ZERO);
    }
    Ok(())
}

/// Looks past the client at the batches themselves: an old librdkafka silently sends uncompressed to a
/// broker whose lowest Produce version it dislikes (KAFKA-18659), and nothing else would tell.
fn codecs_arrived(which: Which, broker: &str, run: &str) -> Result<()> {
    let codecs: &[(i16, &str)] = match which {
        Which::Kafkajs => &[(1, "gzip")],
        _ => &[(0, "none"), (1, "gzip"), (2, "snappy"), (3, "lz4"), (4, "zstd")],
    };
    for (codec, name) in codecs {
        let seen = raw::codecs_on_the_log(broker, &format!("{run}-{name}"))?;
        anyhow::ensure!(seen.contains(codec), "{name} was asked for, the batches carry {seen:?}");
    }
    Ok(())
}

/// Installs a client and says how its program is started.
fn prepare(which: Which, work: &Work) -> Result<Program> {
    let source = |path: &str| -> PathBuf { work.client_sources().join(path) };
    Ok(match which {
        Which::Cli => {
            let mut program = Program::new("bash", [source("dejaq/checks.sh")]);
            program.env("DEJAQ_CLI", &server::build(work)?.to_string_lossy());
            program
        }
        Which::Kcat => {
            install::kcat(work)?;
            Program::new("bash", [source("kcat/checks.sh")])
        }
        Which::Java => {
            anyhow::ensure!(
                install::found("javac", "-version"),
                "a java without its compiler on this machine"
            );
            let libs = format!("{}/*", install::java_libs(work)?.display());
            let flags = [
                "-Xmx512m",
                "-XX:TieredStopAtLevel=1",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
                "-cp",
            ];
            let args = flags.map(PathBuf::from).into_iter().chain([libs.into(), source("java/Checks.java")]);
            Program::new("java", args)
        }
        Which::JavaTools => {
            let mut program = Program::new("bash", [source("java/tools.sh")]);
            program.env("DEJAQ_JARS", &install::java_libs(work)?.to_string_lossy());
            program
        }
        Which::Confluent => {
            Program::new(install::python(work, "confluent.txt")?, [source("python/confluent.py")])
        }
        Which::KafkaPython => {
            Program::new(install::python(work, "kafka_python.txt")?, [source("python/kafka_python.py")])
        }
        Which::Aiokafka => Program::new(install::python(work, "aiokafka.txt")?, [source("python/aio.py")]),
        Which::FranzGo => Program::new(install::go(work, "franz-go")?, []),
        Which::Kafkajs => Program::new("node", [install::node(work, "kafkajs", "checks.js")?]),
        Which::All => anyhow::bail!("`all` is not a client"),
    })
}
