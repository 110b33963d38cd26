//! The real `dejaq` binary as a child process on loopback.
//!
//! Owns: building it, its data directory, its process. Promises: kills only the child it started;
//! can kill and restart it on the same directory and port. Called by `clients`, `differential`, `kill9`.

use crate::process::{self, Guarded};
use crate::raw;
use crate::work::{Scratch, Work};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A broker of ours; killed, and its directory removed, when dropped.
#[derive(Debug)]
pub struct Dejaq {
    process: Option<Guarded>,
    binary: PathBuf,
    address: String,
    /// Where its metrics are.
    admin: String,
    /// Flags beside those of every broker.
    flags: Vec<String>,
    log: PathBuf,
    /// Removed behind the process: fields are dropped in order.
    dir: Scratch,
}

impl Dejaq {
    /// Builds the release binary and starts it on a fresh directory and a free port.
    pub fn start(work: &Work, name: &str) -> Result<Dejaq> {
        let mut dejaq = Dejaq::begin(work, build(work)?, name, Vec::new())?;
        dejaq.restart()?;
        Ok(dejaq)
    }

    /// `nodes` brokers that are a cluster, every one a voter; returns when each of them answers.
    pub fn cluster(work: &Work, name: &str, nodes: usize) -> Result<Vec<Dejaq>> {
        Ok(Dejaq::cluster_and_quorum(work, name, nodes, &[])?.0)
    }

    /// As [`Dejaq::cluster`], each with these flags, too; and what a broker that joins it later must be told of its voters.
    pub fn cluster_and_quorum(
        work: &Work,
        name: &str,
        nodes: usize,
        flags: &[&str],
    ) -> Result<(Vec<Dejaq>, String)> {
        let binary = build(work)?;
        let peers: Vec<String> =
            (0..nodes).map(|_| Ok(format!("127.0.0.1:{}", free_port()?))).collect::<Result<_>>()?;
        let voters = peers.iter().zip(1..).map(|(peer, number)| format!("{number}@{peer}"));
        let quorum = voters.collect::<Vec<_>>().join(",");
        let mut brokers = Vec::new();
        for (peer, number) in peers.iter().zip(1..) {
            let mut member = Dejaq::member(work, &binary, name, number, peer, &quorum)?;
            member.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
            brokers.push(member);
        }
        for broker in &mut brokers {
            broker.spawn()?;
        }
        for broker in &mut brokers {
            broker.wait_until_ready()?;
        }
        Ok((brokers, quorum))
    }

    /// One member of a cluster, not started yet.
    pub fn member(
        work: &Work,
        binary: &Path,
        name: &str,
        number: usize,
        peer: &str,
        quorum: &str,
    ) -> Result<Dejaq> {
        let flags =
            ["--node-id", &number.to_string(), "--peer-listen", peer, "--quorum", quorum].map(str::to_owned);
        Dejaq::begin(work, binary.to_path_buf(), &format!("{name}-{number}"), flags.to_vec())
    }

    /// One that joins the cluster of `other`, whose first voters were `quorum`; not started yet.
    pub fn joining(work: &Work, other: &Dejaq, name: &str, number: usize, quorum: &str) -> Result<Dejaq> {
        let peer = format!("127.0.0.1:{}", free_port()?);
        Dejaq::member(work, &other.binary, name, number, &peer, quorum)
    }

    fn begin(work: &Work, binary: PathBuf, name: &str, flags: Vec<String>) -> Result<Dejaq> {
        let dir = work.scratch(name)?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let admin = format!("127.0.0.1:{}", free_port()?);
        let log = work.log(name)?;
        let _ = fs::remove_file(&log);
        Ok(Dejaq { process: None, binary, address, admin, flags, log, dir })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Starts the process again on the same directory and port; returns when it answers.
    pub fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_until_ready()
    }

    /// Starts the process on its directory and port.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the broker is already running");
        let log = &self.log;
        let file = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.binary);
        command.args(["start", "--listen", &self.address, "--data-dir"]).arg(self.data_dir());
        // The admin endpoint must not collide with that of another broker on this machine.
        command.args(["--admin-listen", &self.admin]).current_dir(&*self.dir);
        // The broker refuses `DEJAQ_…` names that are not its own, such as ours for the cache.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DEJAQ_"))
        {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        command.args(&self.flags);
        self.process = Some(Guarded::spawn_in_our_group(&mut command)?);
        Ok(())
    }

    /// Returns when the process answers.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let ready = raw::wait_until_ready(&self.address, START_LIMIT);
        let process = self.process.as_mut().context("the broker was not started")?;
        if let Some(status) = process.ended()? {
            anyhow::bail!("dejaq ended with {status}: {}", show_tail(&self.log));
        }
        ready.with_context(|| show_tail(&self.log))
    }

    /// `kill -9`, as the machine's OOM killer would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM; an error if it does not go by itself.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            ensure!(process.stop(STOP_LIMIT)?, "dejaq did not stop within {STOP_LIMIT:?} of SIGTERM");
        }
        Ok(())
    }

    /// Whether the process is still there; a crash during a test is a failure of the test.
    pub fn alive(&mut self) -> Result<bool> {
        match &mut self.process {
            Some(process) => Ok(process.ended()?.is_none()),
            None => Ok(false),
        }
    }

    /// Seconds of CPU that the process has taken, by the kernel's count.
    pub fn cpu_seconds(&mut self) -> Result<f64> {
        /// USER_HZ: what the kernel counts in for programs, on every machine that it has.
        const TICKS: f64 = 100.0;
        let process = self.process.as_mut().context("the broker was not started")?;
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.child().id()))?;
        // The name, in brackets, may hold anything; user and system time are the 12th and 13th behind it.
        let (_, behind) = stat.rsplit_once(')').context("the name of the process")?;
        let fields: Vec<&str> = behind.split_whitespace().collect();
        let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("a field")?.parse()?) };
        Ok((ticks(11)? + ticks(12)?) / TICKS)
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// What a person sees who calls the binary with these arguments and this broker's address.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).args(["--bootstrap", &self.address]).stdin(Stdio::null());
        command
    }

    /// What a person sees who calls the binary with these arguments on this broker's directory, while it is stopped.
    pub fn offline(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg(self.data_dir()).stdin(Stdio::null());
        command
    }

    /// Where its data is.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The folders of the partitions on its disk.
    pub fn partitions(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.data_dir().join("partitions"))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// Where its metrics are.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    pub fn log(&self) -> &Path {
        &self.log
    }
}

/// Builds `target/release/dejaq` and returns its path; `DEJAQ_CI_BINARY` names one that is built already.
pub fn build(work: &Work) -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("DEJAQ_CI_BINARY") {
        return Ok(PathBuf::from(binary));
    }
    build_release(work, &["dejaq"])?;
    Ok(work.target().join("release/dejaq"))
}

/// Builds binaries in release as one graph of the product and the simulator, so that both share every compiled crate
/// whichever is built: apart, cargo would choose features for each and compile nearly everything twice.
pub fn build_release(work: &Work, binaries: &[&str]) -> Result<()> {
    let mut build = Command::new("cargo");
    build.args(["build", "--quiet", "--release", "--package", "dejaq", "--package", "dejaq-scenarios"]);
    build.args(binaries.iter().flat_map(|name| ["--bin", name])).current_dir(&work.root);
    ensure!(build.status().context("cargo starts")?.success(), "building {binaries:?} in release failed");
    Ok(())
}

/// A port that was free a moment ago, on loopback.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The end of a broker's log, for the reason of a failure.
pub fn show_tail(log: &Path) -> String {
    format!("its log ends: {}", process::last_lines(log, 6))
}
