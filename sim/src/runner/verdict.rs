//! The verdict of one run, and the line by which anyone can have it again.
//!
//! Owns: [`RunReport`], its JSON form between child and parent, and the pasteable [`Replay`] line.
//! Promises: a replay line holds all that decides a run; the commit is in it to tell when it no longer does.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cuts::Cuts;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Everything that was claimed held.
    Pass,
    /// A checker fired.
    Violation,
    /// The calm act did not come to rest, or the history could not be judged whole.
    Stuck,
    /// Our code panicked: an assertion of the product or of the harness.
    Crash,
}

/// What came out of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReport {
    /// How it ended.
    pub status: Status,
    /// Which checker fired, by name; empty if none.
    pub checker: String,
    /// The evidence.
    pub message: String,
    /// The digest over every event with its payload.
    pub digest: u64,
    /// How many events that were.
    pub events: u64,
    /// Simulated milliseconds.
    pub sim_ms: u64,
    /// What the run counted (records acked, faults injected by kind, faults that had a consequence …).
    pub counts: BTreeMap<String, u64>,
    /// The marks that were reached.
    pub marks: Vec<String>,
    /// How long things took in simulated milliseconds (see `ledger`).
    #[serde(default)]
    pub spans: BTreeMap<String, Vec<u64>>,
}

impl RunReport {
    /// A report of a run that ended in a panic, of which nothing else is known.
    #[must_use]
    pub fn crash(message: String) -> Self {
        RunReport {
            status: Status::Crash,
            checker: "assertion".into(),
            message,
            digest: 0,
            events: 0,
            sim_ms: 0,
            counts: BTreeMap::new(),
            marks: Vec::new(),
            spans: BTreeMap::new(),
        }
    }
}

/// All that decides a run: `dejaq-sim/1 commit=… scenario=… seed=… mutant=… tester=… cuts=…`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// The short commit of the build, with `+` if the tree was changed; only told, not checked.
    pub commit: String,
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// The planted bug, or 0.
    pub mutant: u32,
    /// The tester's mutant, or 0.
    pub tester: u32,
    /// What is left out.
    pub cuts: Cuts,
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dejaq-sim/1 commit={} scenario={} seed={}", self.commit, self.scenario, self.seed)?;
        if self.mutant != 0 {
            write!(f, " mutant={}", self.mutant)?;
        }
        if self.tester != 0 {
            write!(f, " tester={}", self.tester)?;
        }
        if !self.cuts.is_empty() {
            write!(f, " cuts={}", self.cuts)?;
        }
        Ok(())
    }
}

impl FromStr for Replay {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self, anyhow::Error> {
        let start =
            line.find("dejaq-sim/1 ").ok_or_else(|| anyhow::anyhow!("no `dejaq-sim/1 …` in this line"))?;
        let mut replay = Replay::default();
        let mut seed = None;
        for word in line[start..].split_whitespace().skip(1) {
            match word.split_once('=') {
                Some(("commit", value)) => replay.commit = value.into(),
                Some(("scenario", value)) => replay.scenario = value.into(),
                Some(("seed", value)) => seed = Some(value.parse()?),
                Some(("mutant", value)) => replay.mutant = value.parse()?,
                Some(("tester", value)) => replay.tester = value.parse()?,
                Some(("cuts", value)) => replay.cuts = value.parse()?,
                Some(_) | None => break, // what stands behind the line is prose
            }
        }
        replay.seed = seed.ok_or_else(|| anyhow::anyhow!("no seed= in this line"))?;
        anyhow::ensure!(!replay.scenario.is_empty(), "no scenario= in this line");
        Ok(replay)
    }
}

/// The commit that the working directory is at, for replay lines.
#[must_use]
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short=10", "HEAD"]) else { return "unknown".into() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|text| !text.is_empty());
    head + if changed { "+" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_line_survives_being_pasted_with_prose_around_it() {
        let replay = Replay {
            commit: "abc+".into(),
            scenario: "power_cut".into(),
            seed: 9,
            mutant: 23,
            ..Replay::default()
        };
        let replay = Replay { cuts: "s1+r4".parse().expect("cuts"), ..replay };
        let pasted = format!("FAILED: {replay} -- LostWrite in t-0: value 7");
        assert_eq!(pasted.parse::<Replay>().expect("it is whole"), replay);
        assert!("dejaq-sim/1 scenario=x".parse::<Replay>().is_err());
    }
}
