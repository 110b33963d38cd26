//! Runs scenarios from seeds, one process a seed, and says what came out in one line that can be pasted back.
//!
//! Owns: the command line of `dejaq-sim`, child processes, the verdict line, the twice check, hunting and mutants.
//! Promises: a seed that failed in a batch fails alone, since every seed had its own process.
//! Leaves out: what a scenario does (see `scenarios`), and anything simulated: this is the only part of `sim` that
//! may use real time, processes and files. Called by the binary in `scenarios` with its tables.

mod batch;
mod cli;
mod hunt;
mod mutants;
mod score;
mod shrink;
mod tally;
mod timeline;
mod twice;
mod verdict;

use std::path::PathBuf;

pub use cli::main;
pub use verdict::{Replay, RunReport, Status};

/// What a scenario needs to know of its run.
#[derive(Debug, Clone, Default)]
pub struct RunParams {
    /// Fixes everything.
    pub seed: u64,
    /// Writes one line per event here; in JSON if its name ends in `.jsonl`.
    pub trace: Option<PathBuf>,
    /// Writes the client history here, in the oracle's JSON lines.
    pub history: Option<PathBuf>,
    /// A mutant of the tester itself (1 = T1, a power cut keeps the page cache), or 0.
    pub tester: u32,
    /// What is left out of the run.
    pub cuts: crate::cuts::Cuts,
}

impl RunParams {
    /// Writes what clients saw to the file that was asked for, if any.
    ///
    /// # Panics
    /// If the file cannot be written: then the run that was asked for cannot be shown.
    #[allow(
        clippy::disallowed_methods,
        reason = "for the person outside of the simulated world, after its end"
    )]
    pub fn write_history(&self, history: &crate::oracle::History) {
        if let Some(file) = &self.history {
            let written = std::fs::write(file, history.to_json_lines());
            written.unwrap_or_else(|error| panic!("history {}: {error}", file.display()));
        }
    }
}

/// One simulated story.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What it is called on the command line: words joined by `_`.
    pub name: &'static str,
    /// One sentence: what happens, and what must hold.
    pub about: &'static str,
    /// Runs it. Panics and violations both end in the verdict line.
    pub run: fn(&RunParams) -> RunReport,
    /// Whether `hunt` and the smoke seeds of CI draw it (directed stories with one timeline are not worth a second seed).
    pub random: bool,
}

/// A planted bug and who must find it.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// The number of `mutant!(…)`, as in CORRECTNESS.md 4.
    pub number: u32,
    /// What is broken.
    pub about: &'static str,
    /// The scenario that must find it.
    pub scenario: &'static str,
    /// The checkers of which one must fire (an anomaly's name, or an invariant's like `LOG-3`).
    pub checkers: &'static [&'static str],
    /// Seeds within which it must die.
    pub budget: u64,
}

/// A mutant of the tester: with it, these product mutants must survive, or their death proved nothing.
#[derive(Debug, Clone, Copy)]
pub struct TesterMutant {
    /// 1 for T1, and so on.
    pub number: u32,
    /// What is taken from the tester.
    pub about: &'static str,
    /// The product mutants that must survive it.
    pub survivors: &'static [u32],
    /// Over how many seeds.
    pub seeds: u64,
}

/// Everything the binary offers.
#[derive(Clone, Copy)]
pub struct Tables {
    /// The scenarios.
    pub scenarios: &'static [Scenario],
    /// The planted bugs.
    pub mutants: &'static [Mutant],
    /// The tester's own.
    pub testers: &'static [TesterMutant],
    /// Seeds that once found something: lines of scenario, seed (with cuts behind a `/`), commit and story; `#` begins a remark.
    pub regressions: &'static str,
    /// The marks of the product, as `cargo ci tidy` keeps them: one a line, and behind ` | ` why no run reaches it.
    pub marks: &'static str,
}

/// A seed that once found something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regression {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// What was left out of the run by shrinking, if it was.
    pub cuts: crate::cuts::Cuts,
    /// The commit at which it was found.
    pub commit: String,
    /// What it was.
    pub story: String,
}

impl Regression {
    /// Reads the lines of a regressions file.
    ///
    /// # Errors
    /// The first line that is not of the form.
    pub fn all(text: &str) -> anyhow::Result<Vec<Regression>> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(Regression::parse).collect()
    }

    fn parse(line: &str) -> anyhow::Result<Regression> {
        let mut words = line.splitn(4, char::is_whitespace);
        let mut word =
            || words.next().ok_or_else(|| anyhow::anyhow!("`{line}`: scenario seed[/cuts] commit story"));
        let (scenario, place) = (word()?.to_owned(), word()?);
        let (seed, cuts) = place.split_once('/').unwrap_or((place, ""));
        let (seed, cuts) = (seed.parse()?, cuts.parse()?);
        Ok(Regression { scenario, seed, cuts, commit: word()?.to_owned(), story: word()?.trim().to_owned() })
    }
}

impl Tables {
    fn scenario(&self, name: &str) -> anyhow::Result<&'static Scenario> {
        self.scenarios.iter().find(|scenario| scenario.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.scenarios.iter().map(|scenario| scenario.name).collect();
            anyhow::anyhow!("there is no scenario `{name}`; there are: {}", names.join(", "))
        })
    }
}
