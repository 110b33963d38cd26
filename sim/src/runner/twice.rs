//! Is a run a function of its seed? Two processes, two environments, one digest, or the first event that differs.
//!
//! Owns: the determinism check that CI runs before any other. Promises: a difference is shown as the number of the first
//! event that differs, both lines, the place in our source that noted each, and both call stacks (the run is made again to
//! stop there). The digest is over every event with its payload (see `trace`).

#![allow(clippy::disallowed_methods, reason = "the runner compares files that two processes wrote")]

use std::path::Path;

use super::batch::{self, Job};
use super::timeline;
use super::verdict::{Replay, RunReport};
use crate::trace::Line;

/// Events shown before the first that differs.
const BEFORE: usize = 6;

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
        let folder = std::env::temp_dir().join(format!("dejaq-twice-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        println!("{}", divergence(&replays[*at], &folder)?);
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

/// The events of the two runs, made once more with traces; with the call stack of one event, if it is given.
fn traces(replay: &Replay, folder: &Path, stack_at: Option<u64>) -> anyhow::Result<[Vec<Line>; 2]> {
    let files = [folder.join("first.jsonl"), folder.join("second.jsonl")];
    let mut left: Vec<Job> = Vec::new();
    for (second, file) in [(false, &files[0]), (true, &files[1])] {
        let mut job = job(replay, second);
        job.extra = vec!["--trace".into(), file.display().to_string()];
        job.extra.extend(stack_at.into_iter().flat_map(|event| ["--stack-at".into(), event.to_string()]));
        left.push(job);
    }
    batch::run(2, || left.pop(), |_, _| true)?;
    let events = |file: &Path| -> anyhow::Result<Vec<Line>> {
        Ok(timeline::lines(file)?.into_iter().filter(|line| line.e.is_some()).collect())
    };
    Ok([events(&files[0])?, events(&files[1])?])
}

/// Runs a seed twice more with traces and tells the first event that differs, with what led to it and from where it came.
fn divergence(replay: &Replay, folder: &Path) -> anyhow::Result<String> {
    let [first, second] = traces(replay, folder, None)?;
    let Some(at) = parting(&first, &second) else {
        return Ok(format!(
            "run again, both had the same {} events: it is rare, or the trace hides it; traces: {}",
            first.len(),
            folder.display()
        ));
    };
    let stacks = traces(replay, folder, Some(at as u64))?;
    let mut text = format!("the runs part at event {at} (of {} and {}):\n", first.len(), second.len());
    for line in &first[at.saturating_sub(BEFORE)..at] {
        text += &format!("    {line}\n");
    }
    for (number, (events, again)) in [(1, (&first, &stacks[0])), (2, (&second, &stacks[1]))] {
        let Some(line) = events.get(at) else {
            text += &format!("  {number} (ended)\n");
            continue;
        };
        text += &format!("  {number} {line}\n      words {:x?}, noted at {}\n", line.w, line.at);
        for frame in again.get(at).and_then(|line| line.stack.as_deref()).map(ours).unwrap_or_default() {
            text += &format!("      {frame}\n");
        }
    }
    Ok(text + &format!("traces: {}", folder.display()))
}

/// The first event that differs, if there is one.
fn parting(first: &[Line], second: &[Line]) -> Option<usize> {
    let same = |(one, other): &(&Line, &Line)| {
        (one.t, one.n, one.i, &one.k, &one.w) == (other.t, other.n, other.i, &other.k, &other.w)
    };
    let shorter = first.len().min(second.len());
    let at = first.iter().zip(second).position(|pair| !same(&pair)).unwrap_or(shorter);
    (at < shorter || first.len() != second.len()).then_some(at)
}

/// The frames of a call stack that are in our own source, innermost first: function and place.
fn ours(stack: &str) -> Vec<String> {
    let lines: Vec<&str> = stack.lines().map(str::trim).collect();
    let frames = lines.windows(2).filter_map(|pair| {
        let place = pair[1].strip_prefix("at ")?;
        let (_, name) = pair[0].split_once(": ")?;
        let is_ours = name.contains("dejaq") && !name.contains("trace::") && !place.contains("/rustc/");
        is_ours.then(|| format!("{name} at {}", place.strip_prefix("./").unwrap_or(place)))
    });
    frames.take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(t: u64, w: u64) -> Line {
        Line { e: Some(t), t, k: "send".into(), w: vec![w], ..Line::default() }
    }

    #[test]
    fn runs_part_where_a_word_a_time_or_the_end_differs() {
        let first = [line(1, 1), line(2, 2), line(3, 3)];
        assert_eq!(parting(&first, &first), None);
        assert_eq!(parting(&first, &[line(1, 1), line(2, 9), line(3, 3)]), Some(1));
        assert_eq!(parting(&first, &[line(1, 1), line(2, 2), line(4, 3)]), Some(2));
        assert_eq!(parting(&first, &first[..2]), Some(2));
    }

    #[test]
    fn of_a_call_stack_our_own_frames_are_told() {
        let stack = "   0: std::backtrace::force_capture\n             at /rustc/abc/library/std/src/backtrace.rs:1:2\n   \
             1: dejaq_sim::trace::Trace::event\n             at ./sim/src/trace.rs:9:1\n   \
             2: dejaq::replica::flusher::run::{{closure}}\n             at ./node/src/replica/flusher.rs:7:3\n";
        assert_eq!(
            ours(stack),
            ["dejaq::replica::flusher::run::{{closure}} at node/src/replica/flusher.rs:7:3"]
        );
    }
}
