//! A broker as a child process, and what the kernel says about it.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::link::CONGESTION;

/// How long a broker may take to listen or to stop; under valgrind that is a while.
const PATIENCE: Duration = Duration::from_secs(120);
/// Clock ticks a second in `/proc`, fixed by Linux for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Which program serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Ours,
    Floor,
}

/// A running broker with a data directory of its own; both go when it is dropped.
pub(super) struct Server {
    child: Child,
    pub(super) address: String,
    data_dir: PathBuf,
    /// What it said on standard error.
    pub(super) said: PathBuf,
}

fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

impl Server {
    /// Starts one and waits until it listens. `under` goes before the program, such as a tracer.
    pub(super) fn start(who: Who, root: &Path, under: &[&str]) -> anyhow::Result<Server> {
        let address = free_address()?;
        let name = format!("{who:?}-{}", address.rsplit(':').next().unwrap_or_default());
        let (data_dir, said) = (root.join(&name), root.join(format!("{name}.txt")));
        let program = std::env::current_exe()?;
        let mut command = match under {
            [] => Command::new(&program),
            [tool, arguments @ ..] => {
                let mut command = Command::new(tool);
                command.args(arguments).arg(&program);
                command
            }
        };
        match who {
            Who::Ours => command
                .args(["start", "--admin-listen", "", "--log-level", "warn"])
                .args(["--tcp-congestion", CONGESTION]),
            Who::Floor => command.args(["bench", "floor"]),
        };
        command.arg("--listen").arg(&address).arg("--data-dir").arg(&data_dir);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&said)?)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let mut server = Server { child, address, data_dir, said };
        server.wait_until_it_listens()?;
        Ok(server)
    }

    fn wait_until_it_listens(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if TcpStream::connect(&self.address).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                let said = std::fs::read_to_string(&self.said).unwrap_or_default();
                bail!("the broker ended with {status}: {said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the broker does not listen after {PATIENCE:?}")
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU seconds that it has used, user and system.
    pub(super) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The name, in parentheses, may hold spaces; user and system time are the 12th and 13th field behind it.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
        let (user, system) = (ticks(11).context("no user time")?, ticks(12).context("no system time")?);
        Ok((user + system) / TICKS_PER_SECOND)
    }

    /// Memory that it holds now, in KiB.
    pub(super) fn resident_kib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }

    /// Asks it to stop and waits until it did.
    pub(super) fn stop(mut self) -> anyhow::Result<PathBuf> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            anyhow::ensure!(Instant::now() < deadline, "the broker does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self.said.clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill, and waiting gives its status at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data_dir);
    }
}
