//! Many seeds, each in its own process, a few at a time.
//!
//! Owns: starting children and reading their reports. Promises: results come in the order of the jobs; a child that
//! dies without a report is a crash with the end of what it said. Called by every verb.

#![allow(clippy::disallowed_methods, reason = "the runner starts real processes around simulated worlds")]

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::verdict::{Replay, RunReport, Status};

/// How long one seed may take of real time before it counts as stuck.
const CHILD_LIMIT: Duration = Duration::from_secs(300);

/// The line by which a child hands over its report.
pub const REPORT_PREFIX: &str = "REPORT ";

/// One run to be made.
#[derive(Debug, Clone)]
pub struct Job {
    pub replay: Replay,
    /// Further arguments of the child (`--trace FILE` and the like).
    pub extra: Vec<String>,
    /// Environment that the child gets on top, to show that it does not matter.
    pub environment: Vec<(String, String)>,
}

impl Job {
    pub fn new(replay: Replay) -> Self {
        Job { replay, extra: Vec::new(), environment: Vec::new() }
    }
}

struct Running {
    index: usize,
    child: Child,
    since: Instant,
    output: std::thread::JoinHandle<(String, String)>,
}

/// Runs the jobs that `next` yields, `width` at a time, until it yields none; `done` sees each result and may stop it all.
pub fn run(
    width: usize,
    mut next: impl FnMut() -> Option<Job>,
    mut done: impl FnMut(&Job, RunReport) -> bool,
) -> anyhow::Result<()> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut running: Vec<Running> = Vec::new();
    let mut open = true;
    loop {
        while open && running.len() < width.max(1) {
            let Some(job) = next() else {
                open = false;
                break;
            };
            running.push(start(jobs.len(), &job)?);
            jobs.push(job);
        }
        if running.is_empty() {
            return Ok(());
        }
        let Some(place) = running.iter_mut().position(is_over) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let (index, report) = finish(running.swap_remove(place));
        if !done(&jobs[index], report) {
            open = false;
            for mut left in running.drain(..) {
                let _ = left.child.kill();
                let _ = left.child.wait();
            }
        }
    }
}

fn start(index: usize, job: &Job) -> anyhow::Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("one").arg(&job.replay.scenario).arg("--seed").arg(job.replay.seed.to_string());
    command.arg("--mutant").arg(job.replay.mutant.to_string());
    command.arg("--tester").arg(job.replay.tester.to_string());
    command.arg("--cuts").arg(job.replay.cuts.to_string());
    command.args(&job.extra).envs(job.environment.iter().cloned());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let output = std::thread::spawn(move || {
        let err = std::thread::spawn(move || all_of(err));
        (all_of(out), err.join().unwrap_or_default())
    });
    Ok(Running { index, child, since: Instant::now(), output })
}

fn all_of(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_over(running: &mut Running) -> bool {
    if running.since.elapsed() > CHILD_LIMIT {
        let _ = running.child.kill();
    }
    running.child.try_wait().map_or(true, |status| status.is_some())
}

fn finish(mut running: Running) -> (usize, RunReport) {
    let late = running.since.elapsed() > CHILD_LIMIT;
    let status = running.child.wait();
    let (out, err) = running.output.join().unwrap_or_default();
    let report = out.lines().rev().find_map(|line| line.strip_prefix(REPORT_PREFIX));
    let report = match report.and_then(|json| serde_json::from_str::<RunReport>(json).ok()) {
        Some(report) => report,
        None => {
            let lines: Vec<&str> = err.lines().collect();
            let panic = lines.iter().position(|line| line.contains("panicked at"));
            let from = panic.unwrap_or(lines.len().saturating_sub(5));
            let text: Vec<&str> = lines[from..].iter().take(6).copied().collect();
            let mut report = RunReport::crash(format!("{status:?}: {}", text.join(" | ")));
            if late {
                report.status = Status::Stuck;
                report.checker = "wall-clock".into();
            }
            report
        }
    };
    (running.index, report)
}
