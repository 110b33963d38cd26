//! `trace LINE --html FILE`: runs what a verdict line names and writes the page of it.
//!
//! Owns: the child that runs it and the files between. Promises: a run that fails, panics or is stuck gets its page too.
//! Leaves out: what the page shows (`crate::timeline`).

#![allow(clippy::disallowed_methods, reason = "the runner reads what the run wrote and writes the page")]

use std::path::Path;

use super::batch::{self, Job};
use super::verdict::{Replay, RunReport};
use crate::oracle::History;
use crate::timeline::{Model, Run, html};
use crate::trace::Line;

/// Runs `replay` in a child and writes its page; returns what the run reported.
///
/// # Errors
/// The child cannot be started, or a file cannot be read or written.
pub fn write(replay: &Replay, page: &Path, limit: usize) -> anyhow::Result<RunReport> {
    let folder = std::env::temp_dir().join(format!("dejaq-trace-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let written = write_in(&folder, replay, page, limit);
    std::fs::remove_dir_all(&folder)?;
    written
}

fn write_in(folder: &Path, replay: &Replay, page: &Path, limit: usize) -> anyhow::Result<RunReport> {
    let (trace, history) = (folder.join("run.jsonl"), folder.join("history.jsonl"));
    let mut job = Job::new(replay.clone());
    let files = [("--trace", &trace), ("--history", &history)];
    job.extra =
        files.iter().flat_map(|(flag, file)| [(*flag).to_owned(), file.display().to_string()]).collect();
    let (mut jobs, mut report) = (Some(job), None);
    batch::run(
        1,
        || jobs.take(),
        |_, ended| {
            report = Some(ended);
            true
        },
    )?;
    let report = report.ok_or_else(|| anyhow::anyhow!("the run did not report"))?;
    let lines = lines(&trace)?;
    let history = match std::fs::read_to_string(&history) {
        Ok(text) => Some(History::from_json_lines(&text)?),
        Err(_) => None, // a run that panicked has none
    };
    let model = Model::of(&Run { replay, report: &report, lines: &lines, history: history.as_ref(), limit });
    let text = html(&model);
    std::fs::write(page, &text)?;
    let left: usize = model.dropped.values().sum();
    println!(
        "{}: {} of {} lines, {:.1} MB{}",
        page.display(),
        model.t.len(),
        lines.len(),
        text.len() as f64 / 1e6,
        if left > 0 { format!(" ({left} of chatter left out; --events N for more)") } else { String::new() }
    );
    Ok(report)
}

/// The lines of a `.jsonl` trace; what a killed child left half written at the end is no line.
pub fn lines(file: &Path) -> anyhow::Result<Vec<Line>> {
    let text = std::fs::read_to_string(file)?;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(line) => lines.push(line),
            Err(_) if !text.ends_with('\n') && number + 1 == text.lines().count() => {}
            Err(error) => anyhow::bail!("{}:{}: {error}", file.display(), number + 1),
        }
    }
    Ok(lines)
}
