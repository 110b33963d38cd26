//! Child processes with deadlines.
//!
//! Owns: spawning, reading their output, ending them. Promises: no child outlives its deadline or
//! its handle, and a killed child takes its own children along (it leads a process group).
//! Leaves out: what the output means.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a wait looks at the child.
const POLL: Duration = Duration::from_millis(20);
/// How much of a child's standard error is kept for the report.
const KEPT_STDERR_BYTES: usize = 16 * 1024;

/// A child that is killed, with its process group, when the handle is dropped.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    group: bool,
}

impl Guarded {
    /// Starts `command` as the leader of its own process group.
    pub fn spawn(command: &mut Command) -> Result<Guarded> {
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("starting {}", shown(command)))?;
        Ok(Guarded { child, group: true })
    }

    /// Starts `command` in our group, so that Ctrl-C at a terminal reaches it as well.
    pub fn spawn_in_our_group(command: &mut Command) -> Result<Guarded> {
        let child = command.spawn().with_context(|| format!("starting {}", shown(command)))?;
        Ok(Guarded { child, group: false })
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The status if the child has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until the child ends or `limit` has passed.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }

    /// SIGKILL to the child (and its group), then reaps it.
    pub fn kill(&mut self) {
        if self.group {
            signal("-KILL", &format!("-{}", self.child.id()));
        }
        // An error only says that it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks with SIGTERM, waits for `grace`, then kills. Returns whether it went by itself.
    pub fn stop(&mut self, grace: Duration) -> Result<bool> {
        signal("-TERM", &self.child.id().to_string());
        let gone = self.wait(grace)?.is_some();
        if !gone {
            self.kill();
        }
        Ok(gone)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// Sends a signal by way of the `kill` program: the workspace denies unsafe code.
fn signal(name: &str, target: &str) {
    let _ =
        Command::new("kill").args([name, "--", target]).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// The command as a person would type it, for messages.
pub fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// Runs to the end with all output in `log`; an error names the command and the last lines.
pub fn logged(command: &mut Command, log: &Path, limit: Duration) -> Result<()> {
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let file = File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut child = Guarded::spawn(command)?;
    match child.wait(limit)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => anyhow::bail!("`{}` ended with {status}: {}", shown(command), last_lines(log, 4)),
        None => anyhow::bail!("`{}` took longer than {limit:?}", shown(command)),
    }
}

/// The last lines of a file, joined, for a one-line reason.
pub fn last_lines(path: &Path, count: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> =
        text.lines().rev().filter(|line| !line.trim().is_empty()).take(count).collect();
    lines.reverse();
    lines.join(" | ")
}

/// Standard output of a short command, if it ended well within `limit`.
pub fn output(command: &mut Command, limit: Duration) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Guarded::spawn(command)?;
    let mut pipe = child.child().stdout.take().context("stdout is piped")?;
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        pipe.read_to_end(&mut text).map(|_| text)
    });
    let status =
        child.wait(limit)?.with_context(|| format!("`{}` took longer than {limit:?}", shown(command)))?;
    anyhow::ensure!(status.success(), "`{}` ended with {status}", shown(command));
    let text = reader.join().ok().context("the reader of the pipe panicked")??;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A running program whose output is read line by line.
#[derive(Debug)]
pub struct Lines {
    pub child: Guarded,
    lines: Receiver<String>,
    stderr: thread::JoinHandle<Vec<u8>>,
}

/// What came next from a [`Lines`].
#[derive(Debug, PartialEq)]
pub enum Next {
    Line(String),
    Silent,
    End,
}

impl Lines {
    pub fn spawn(command: &mut Command) -> Result<Lines> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Guarded::spawn(command)?;
        let stdout = child.child().stdout.take().context("stdout is piped")?;
        let mut errors = child.child().stderr.take().context("stderr is piped")?;
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let stderr = thread::spawn(move || keep_tail(&mut errors));
        Ok(Lines { child, lines, stderr })
    }

    /// The next line, or silence for `limit`, or the end of the output.
    pub fn next(&mut self, limit: Duration) -> Next {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Next::Line(line),
            Err(RecvTimeoutError::Timeout) => Next::Silent,
            Err(RecvTimeoutError::Disconnected) => Next::End,
        }
    }

    /// Ends the child and returns the tail of its standard error.
    pub fn finish(mut self) -> (Option<ExitStatus>, String) {
        let status = self.child.wait(Duration::from_secs(10)).ok().flatten();
        self.child.kill();
        let tail = self.stderr.join().unwrap_or_default();
        (status, String::from_utf8_lossy(&tail).into_owned())
    }
}

/// Reads to the end and keeps the last part.
fn keep_tail(from: &mut impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        kept.extend_from_slice(&chunk[..count]);
        if kept.len() > 2 * KEPT_STDERR_BYTES {
            kept.drain(..kept.len() - KEPT_STDERR_BYTES);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_sleeps_past_its_deadline_is_killed_with_its_own_children() {
        let started = Instant::now();
        let mut lines =
            Lines::spawn(Command::new("sh").args(["-c", "echo up; sleep 60 & sleep 60"])).expect("sh starts");
        assert_eq!(lines.next(Duration::from_secs(5)), Next::Line("up".into()));
        assert_eq!(lines.next(Duration::from_millis(50)), Next::Silent);
        lines.child.kill();
        let (_, stderr) = lines.finish();
        assert_eq!(stderr, "");
        assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
    }

    #[test]
    fn the_reason_of_a_failed_command_carries_its_last_words() {
        let dir = std::env::temp_dir().join(format!("dejaq-ci-test-{}", std::process::id()));
        let log = dir.join("log");
        let error =
            logged(Command::new("sh").args(["-c", "echo why >&2; exit 3"]), &log, Duration::from_secs(5))
                .expect_err("exit 3 is a failure");
        assert!(error.to_string().contains("why"), "{error}");
        std::fs::remove_dir_all(dir).expect("our own directory");
    }
}
