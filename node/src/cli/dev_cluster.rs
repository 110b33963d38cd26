//! `dejaq dev-cluster`: several real brokers on this machine, in one terminal, for trying things.
//!
//! Owns: the child processes, their ports and directories, their log lines with the broker's number in front.
//! Promises: every child is a plain `dejaq start` that a person could have typed (the command is shown); Ctrl-C stops all
//! of them gracefully, a second one at once; none outlives this process unless it is itself killed with -9.
//! Leaves out: everything about clusters (the brokers do that).
//!
//! ```text
//!  1 │ 2026-11-28T18:20:01Z INFO serving …
//!  2 │ …
//! ```

#![allow(
    clippy::disallowed_methods,
    reason = "real processes in a real terminal: clocks and tasks are the system's"
)]

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::builder::RangedU64ValueParser;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// How often the children are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Lines of all brokers that may wait to be printed; a terminal that stands still slows the brokers' logs, not us.
const LINES: usize = 1024;
/// Ports of one broker lie this far from those of the next.
const STRIDE: u16 = 100;
/// Brokers that vote; more of them only follow, so that a commit does not wait for many.
const MAX_VOTERS: u16 = 5;

const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many brokers
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<u16>::new().range(1..=99))]
    nodes: u16,
    /// Where each keeps its data, in a folder of its own; what is there from the last time is used again
    #[arg(long, value_name = "PATH", default_value = "./dejaq-dev")]
    data_dir: PathBuf,
    /// Clients of broker N connect to this port plus 100 * (N - 1); its peers to 100 ports of 10000 above
    #[arg(long, value_name = "PORT", default_value_t = 19092)]
    base_port: u16,
    /// Start a broker again that ended by itself or was killed, after this many milliseconds
    #[arg(long, value_name = "MS")]
    restart_after_ms: Option<u64>,
    /// Settings for every broker, as for `dejaq start`: -- --log-level warn
    #[arg(last = true, value_name = "SETTINGS")]
    settings: Vec<String>,
}

/// Runs the brokers until Ctrl-C.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let last = u32::from(args.base_port) + u32::from(STRIDE) * u32::from(args.nodes) + 10_000;
    if last > u32::from(u16::MAX) {
        bail!("--base-port {} leaves no room for {} brokers: take a smaller one", args.base_port, args.nodes);
    }
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    executor.block_on(async {
        let (lines, shown) = mpsc::channel(LINES);
        let printing = tokio::spawn(print(shown));
        let clean = watch(&args, lines).await;
        printing.await?;
        Ok(if clean? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// One broker.
struct Node {
    number: u16,
    arguments: Vec<String>,
    child: Option<Child>,
    /// When it is to be started again.
    due: Option<tokio::time::Instant>,
}

struct Line {
    number: u16,
    text: String,
}

async fn watch(args: &Args, lines: mpsc::Sender<Line>) -> anyhow::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut nodes: Vec<Node> = (1..=args.nodes)
        .map(|number| Node { number, arguments: arguments(args, number), child: None, due: None })
        .collect();
    for node in &mut nodes {
        node.start(&lines)?;
    }
    introduce(args, &nodes);
    let mut clean = true;
    loop {
        tokio::select! {
            biased; // a stop first
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
        for node in &mut nodes {
            clean &= node.look(args, &lines)?;
        }
    }
    eprintln!("stopping {} brokers; again to stop at once", args.nodes);
    nodes.iter().for_each(|node| node.signal(Signal::TERM));
    while nodes.iter_mut().any(|node| node.is_running()) {
        tokio::select! {
            biased; // a second stop first
            _ = terminate.recv() => nodes.iter().for_each(|node| node.signal(Signal::KILL)),
            _ = interrupt.recv() => nodes.iter().for_each(|node| node.signal(Signal::KILL)),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    Ok(clean)
}

/// What one broker is started with, as a person would type it.
fn arguments(args: &Args, number: u16) -> Vec<String> {
    let client = |number: u16| format!("127.0.0.1:{}", args.base_port + STRIDE * (number - 1));
    let peer = |number: u16| format!("127.0.0.1:{}", args.base_port + STRIDE * (number - 1) + 10_000);
    let admin = format!("127.0.0.1:{}", args.base_port + STRIDE * (number - 1) + 10_001);
    let data_dir = args.data_dir.join(number.to_string()).display().to_string();
    let mut arguments: Vec<String> =
        ["start", "--node-id", &number.to_string(), "--data-dir", &data_dir, "--listen", &client(number)]
            .map(str::to_owned)
            .to_vec();
    arguments.extend(["--admin-listen".to_owned(), admin]);
    if args.nodes > 1 {
        let voters = 1..=args.nodes.min(MAX_VOTERS);
        let quorum: Vec<String> = voters.map(|voter| format!("{voter}@{}", peer(voter))).collect();
        arguments.extend(["--peer-listen".into(), peer(number), "--quorum".into(), quorum.join(",")]);
    }
    arguments.extend(args.settings.iter().cloned());
    arguments
}

fn introduce(args: &Args, nodes: &[Node]) {
    let first = format!("127.0.0.1:{}", args.base_port);
    for node in nodes {
        let pid = node.child.as_ref().map_or(0, Child::id);
        eprintln!("{} │ process {pid}: dejaq {}", node.number, node.arguments.join(" "));
    }
    eprintln!(
        "try: dejaq cluster status --bootstrap {first}; dejaq topic create orders --partitions 6 --bootstrap {first}\n\
         kill -9 a process to see the others take over; Ctrl-C stops all"
    );
}

impl Node {
    fn start(&mut self, lines: &mpsc::Sender<Line>) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("cannot find this program to start it again")?;
        let mut command = Command::new(program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Ctrl-C at the terminal must reach us alone: we say when they stop.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().with_context(|| format!("cannot start broker {}", self.number))?;
        let said = child.stderr.take().expect("it was asked for");
        let said = pipe::Receiver::from_owned_fd(said.into())?;
        tokio::spawn(relay(self.number, said, lines.clone()));
        (self.child, self.due) = (Some(child), None);
        Ok(())
    }

    /// Sees whether it ended, or is due to be started again; `false` if it ended by itself and badly.
    fn look(&mut self, args: &Args, lines: &mpsc::Sender<Line>) -> anyhow::Result<bool> {
        if self.due.is_some_and(|due| due <= tokio::time::Instant::now()) {
            eprintln!("{} │ is started again", self.number);
            self.start(lines)?;
        }
        let Some(status) = self.ended()? else { return Ok(true) };
        match args.restart_after_ms {
            Some(wait) => self.due = Some(tokio::time::Instant::now() + Duration::from_millis(wait)),
            None => eprintln!("{} │ to start it again: dejaq {}", self.number, self.arguments.join(" ")),
        }
        Ok(status.success())
    }

    fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else { return Ok(None) };
        let status = child.try_wait()?;
        if let Some(status) = status {
            eprintln!("{} │ ended: {status}", self.number);
            self.child = None;
        }
        Ok(status)
    }

    fn is_running(&mut self) -> bool {
        // An error says that there is no such child any more.
        self.ended().is_ok_and(|_| self.child.is_some())
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(child.id() as i32));
        if let Some(pid) = pid {
            // An error says that it has ended already.
            let _ = kill_process(pid, signal);
        }
    }
}

async fn relay(number: u16, said: pipe::Receiver, lines: mpsc::Sender<Line>) {
    let mut said = BufReader::new(said).lines();
    while let Ok(Some(text)) = said.next_line().await {
        if lines.send(Line { number, text }).await.is_err() {
            return;
        }
    }
}

async fn print(mut lines: mpsc::Receiver<Line>) {
    let coloured = std::io::stderr().is_terminal();
    while let Some(Line { number, text }) = lines.recv().await {
        if coloured {
            let colour = COLOURS[usize::from(number - 1) % COLOURS.len()];
            eprintln!("\x1b[{colour}m{number} │\x1b[0m {text}");
        } else {
            eprintln!("{number} │ {text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};

    fn args(nodes: u16) -> Args {
        Args {
            nodes,
            data_dir: "d".into(),
            base_port: 19092,
            restart_after_ms: None,
            settings: vec!["--log-level".into(), "warn".into()],
        }
    }

    #[test]
    fn every_broker_gets_ports_and_a_folder_of_its_own_and_settings_that_are_valid() {
        let mut taken = std::collections::BTreeSet::new();
        for number in 1..=6 {
            let arguments = arguments(&args(6), number);
            let flags: Vec<(String, String)> = arguments[1..]
                .chunks(2)
                .map(|pair| (pair[0].trim_start_matches('-').to_owned(), pair[1].clone()))
                .collect();
            let of = |name: &str| flags.iter().find(|(flag, _)| flag == name).map(|(_, value)| value.clone());
            for name in ["listen", "peer-listen", "admin-listen", "data-dir", "node-id"] {
                let value = of(name).unwrap_or_else(|| panic!("{name} is missing"));
                assert!(taken.insert((name.replace("peer-", "").replace("admin-", ""), value)), "{name}");
            }
            assert_eq!(of("quorum").map(|quorum| quorum.matches('@').count()), Some(5));
            let sources = Sources { flags, env: vec![], file: None };
            assert_eq!(Config::resolve(&sources).map(|config| config.node_id), Ok(u32::from(number)));
        }
    }

    #[test]
    fn one_broker_is_no_cluster() {
        assert!(arguments(&args(1), 1).iter().all(|argument| argument != "--quorum"));
    }
}
