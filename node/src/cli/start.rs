//! `dejaq start`: settings from all sources, logs, signals, the admin port, and a broker in between.
//!
//! Owns: what is the process's and not the broker's: its executor, log format, panics, signals, exit.
//! Promises: the first SIGTERM or SIGINT stops gracefully, the second at once; the line after the start says where to
//! connect, what is durable and what to type next. Leaves out: everything that a simulated broker has too.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use clap::{Arg, ArgMatches, Command, FromArgMatches};
use dejaq_storage::file_disk::FileDisk;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use super::admin::{self, Shown};
use crate::broker::{Broker, Watch, report_stop};
use crate::config::{Config, LogFormat, Sources, TABLE};
use crate::replica::policy::Durability;
use crate::runtime::tokio::{TokioRuntime, abort_on_panic};
use crate::runtime::tokio_net::SocketOptions;

/// Until the broker serves.
const STARTING: &str = "starting: reading back what is on the disk, or waiting for the quorum";
/// Read if it is there and `--config` does not say otherwise.
const DEFAULT_FILE: &str = "dejaq.toml";

/// The flags of `dejaq start`, as they were given: one for each row of the settings table.
#[derive(Debug, Clone, Default)]
pub(super) struct Args {
    flags: Vec<(String, String)>,
    config: Option<String>,
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help(format!("settings file; without it ./{DEFAULT_FILE} if there is one [env DEJAQ_CONFIG]"));
        TABLE.iter().fold(command.arg(file), |command, setting| {
            let default = setting.default_text();
            let default = if default.is_empty() { String::new() } else { format!("default {default}, ") };
            let bounds = setting.bounds();
            let bounds = if bounds.is_empty() { bounds } else { format!("{bounds}, ") };
            let help = format!("{} [{default}{bounds}env {}]", setting.effect, setting.env());
            command.arg(Arg::new(setting.name).long(setting.name).value_name(setting.shape()).help(help))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Args, clap::Error> {
        let given = |name: &str| matches.get_one::<String>(name).cloned();
        let flags = TABLE.iter().filter_map(|setting| Some((setting.name.to_owned(), given(setting.name)?)));
        Ok(Args { flags: flags.collect(), config: given("config") })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Runs a broker until it is told to stop.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut config = match Config::resolve(&sources(args)?) {
        Ok(config) => config,
        Err(errors) => {
            for error in errors {
                eprintln!("dejaq: {error}");
            }
            eprintln!("dejaq: `dejaq start --help` lists every setting");
            return Ok(ExitCode::from(2));
        }
    };
    start_logs(&config)?;
    abort_on_panic();
    let handles = raise_descriptor_limit();
    bound_connections(&mut config, handles);
    let executor = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let clean = executor.block_on(serve(config))?;
    // What is left are tasks of the admin port and connections that did not end in time.
    executor.shutdown_background();
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[allow(clippy::disallowed_methods, reason = "here the settings come in: environment and file")]
fn sources(args: Args) -> anyhow::Result<Sources> {
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    let env: Vec<(String, String)> = std::env::vars_os().filter_map(text).collect();
    let named =
        args.config.or_else(|| env.iter().find(|(name, _)| name == "DEJAQ_CONFIG").map(|(_, v)| v.clone()));
    let path = match named {
        Some(path) => Some(path),
        None => Path::new(DEFAULT_FILE).exists().then(|| DEFAULT_FILE.to_owned()),
    };
    let file = match path {
        Some(path) => {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            Some((path, text))
        }
        None => None,
    };
    Ok(Sources { flags: args.flags, env, file })
}

fn start_logs(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_level)
        .with_context(|| format!("log-level {:?} is no filter", config.log_level))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| LogLines);
    let started = match config.log_format {
        LogFormat::Human => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colours).with_target(false).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logs cannot be started: {error}"))
}

/// Standard error, where a line that cannot be written (a full disk, a pipe that nobody reads) is lost: it must not end a
/// broker.
struct LogLines;

impl std::io::Write for LogLines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let _ = std::io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// As many files as the system lets us have: a partition and a connection take one or more each, and the limit that
/// shells give is often 1024.
fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
    getrlimit(Resource::Nofile).current
}

/// Half of the files that may be open are left to logs: without handles they could not go on, with all connections taken
/// they can.
fn bound_connections(config: &mut Config, handles: Option<u64>) {
    let most =
        handles.map_or(usize::MAX, |handles| usize::try_from(handles / 2).unwrap_or(usize::MAX)).max(1);
    let wanted = config.limits.max_connections;
    if wanted > most {
        config.limits.max_connections = most;
        warn!(
            "max-connections is {most}, not {wanted}: this process may open {} files (ulimit -n, LimitNOFILE), and half of them \
             are left to logs",
            handles.unwrap_or_default()
        );
    }
}

/// Returns whether the stop was clean.
async fn serve(config: Config) -> anyhow::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let disk = FileDisk::open(Path::new(&config.data_dir))
        .with_context(|| format!("cannot open the data directory {}", config.data_dir))?;
    let congestion = Some(config.tcp_congestion.clone()).filter(|name| !name.is_empty());
    let runtime = TokioRuntime::new(disk, SocketOptions { congestion });
    let watched = Watched::default();
    let admin = start_admin(&config, &watched).await?;
    let broker = tokio::select! {
        biased; // a stop during a long recovery is obeyed; it is a crash, which is safe
        _ = terminate.recv() => return Ok(false),
        _ = interrupt.recv() => return Ok(false),
        // Its text holds its cause: handed on with the cause, that would be said twice.
        started = Broker::start(runtime, config.clone()) => started.map_err(|error| anyhow::anyhow!("{error}"))?,
    };
    let _ = watched.set(broker.watch());
    announce(&config, &broker, admin.as_deref());
    tokio::select! {
        biased; // one of the two, the order does not matter
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("stopping: answering what was started, then making all of it durable; again to stop at once");
    let stopped = tokio::select! {
        biased; // an end that is reached is reported
        stopped = broker.shutdown() => stopped,
        _ = terminate.recv() => return Ok(at_once()),
        _ = interrupt.recv() => return Ok(at_once()),
    };
    Ok(report_stop(stopped))
}

fn at_once() -> bool {
    warn!("stopped at once: the next start will check more");
    false
}

/// The broker, once it serves.
type Watched = Arc<OnceLock<Watch<TokioRuntime>>>;

/// Before anything is read back: a port that is taken is told at once, and whoever watches over the process is answered
/// through a recovery, however long it takes.
async fn start_admin(config: &Config, watched: &Watched) -> anyhow::Result<Option<String>> {
    if config.admin_listen.is_empty() {
        return Ok(None);
    }
    let of = [watched.clone(), watched.clone(), watched.clone()];
    let [numbers, problem, notice] = of;
    let shown = Shown {
        metrics: Box::new(move || {
            let numbers = Arc::clone(&numbers);
            Box::pin(async move {
                let Some(broker) = numbers.get() else { return String::new() };
                broker.metrics_text() + &broker.lag_text().await
            })
        }),
        problem: Box::new(move || problem.get().map_or_else(|| Some(STARTING.to_owned()), Watch::problem)),
        notice: Box::new(move || notice.get().and_then(Watch::notice)),
    };
    let address = admin::start(&config.admin_listen, shown).await.with_context(|| {
        let address = &config.admin_listen;
        format!("cannot listen on {address} (admin-listen; is another broker running? \"\" is no admin port)")
    })?;
    Ok(Some(address))
}

fn announce(config: &Config, broker: &Broker<TokioRuntime>, admin: Option<&str>) {
    let address = broker.advertised();
    let image = broker.image();
    info!(
        topics = image.topic_count(),
        partitions = image.partition_count(),
        data_dir = config.data_dir,
        admin = admin.unwrap_or("none"),
        "DejaQ {} is ready at {address}. {} \
         Try: echo hello | kcat -b {address} -t greetings -P; kcat -b {address} -t greetings -C -e",
        env!("CARGO_PKG_VERSION"),
        promise(broker.default_durability()),
    );
}

/// What acks=all means where a topic does not say otherwise.
const fn promise(durability: Durability) -> &'static str {
    match durability {
        Durability::Durable => "What is acknowledged with acks=all is on disk (durability=durable).",
        Durability::Replicated => {
            "What is acknowledged with acks=all is in the memory of all in-sync replicas, and on disk a moment later \
             (durability=replicated)."
        }
        Durability::None => {
            "What is acknowledged with acks=all is on disk when the operating system likes (durability=none): a power cut \
             may lose it."
        }
    }
}
