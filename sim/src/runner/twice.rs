//! Is a run a function of its seed? Two processes, two environments, one digest, or the first event that differs.
//!
//! Owns: the determinism check that CI runs before any other. Promises: a difference is shown as the two trace lines
//! at which the runs part. The digest is over every event with its payload (see `trace`).

#![allow(clippy::disallowed_methods, reason = "the runner compares files that two processes wrote")]

use super::batch::{self, Job};
use super::verdict::{Replay, RunReport};

/// Runs each replay twice; returns how many differed.
pub fn check(width: usize, replays: &[Replay]) -> anyhow::Result<usize> {
    let mut reports: Vec<Option<RunReport>> = vec![None; replays.len()];
    let mut jobs = replays.iter().flat_map(|replay| [(replay, false), (replay, true)]);
    let mut differ = Vec::new();
    let mut finished = 0;
    batch::run(
        width,
        || {
            let (replay, second) = jobs.next()?;
            Some(job(replay, second))
        },
        |job, report| {
            let at =
                replays.iter().position(|replay| *replay == job.replay).expect("every job is of a replay");
            match reports[at].take() {
                None => reports[at] = Some(report),
                Some(first) => {
                    finished += 1;
                    let same = (first.digest, first.events, first.status)
                        == (report.digest, report.events, report.status);
                    if !same {
                        println!(
                            "DIFFERENT {}: {:016x} over {} events, then {:016x} over {}",
                            replays[at], first.digest, first.events, report.digest, report.events
                        );
                        differ.push(at);
                    }
                }
            }
            true
        },
    )?;
    anyhow::ensure!(finished == replays.len(), "only {finished} of {} pairs ended", replays.len());
    for at in differ.iter().take(1) {
        show_divergence(&replays[*at])?;
    }
    Ok(differ.len())
}

/// The second run gets another environment (which also moves the stack and the heap): none of it may matter.
fn job(replay: &Replay, second: bool) -> Job {
    let mut job = Job::new(replay.clone());
    if second {
        job.environment =
            vec![("DEJAQ_TWICE".into(), "x".repeat(3333)), ("TZ".into(), "Asia/Kathmandu".into())];
    }
    job
}

/// Runs a seed twice more with traces and prints the first line that differs, with what led to it.
fn show_divergence(replay: &Replay) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("dejaq-twice-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let files = [folder.join("first.trace"), folder.join("second.trace")];
    let mut left: Vec<Job> = Vec::new();
    for (second, file) in [(false, &files[0]), (true, &files[1])] {
        let mut job = job(replay, second);
        job.extra = vec!["--trace".into(), file.display().to_string()];
        left.push(job);
    }
    batch::run(2, || left.pop(), |_, _| true)?;
    let (first, second) = (std::fs::read_to_string(&files[0])?, std::fs::read_to_string(&files[1])?);
    let (first, second): (Vec<&str>, Vec<&str>) = (first.lines().collect(), second.lines().collect());
    let at = first.iter().zip(&second).position(|(a, b)| a != b).unwrap_or(first.len().min(second.len()));
    println!("the runs part at event {at} ({} and {} lines):", first.len(), second.len());
    for line in &first[at.saturating_sub(6)..at] {
        println!("    {line}");
    }
    println!("  1 {}", first.get(at).unwrap_or(&"(ended)"));
    println!("  2 {}", second.get(at).unwrap_or(&"(ended)"));
    println!("traces: {}", folder.display());
    Ok(())
}
