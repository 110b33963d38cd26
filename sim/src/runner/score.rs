//! The mutation score against the one that was recorded: does each planted bug still die, and about as fast?
//!
//! Owns: the form of the record (`ci/corpus/mutants.txt`: number, scenario, seeds to kill), the median and the worst, and
//! what counts as worse. Promises: pure. Leaves out: planting and running (`mutants`).
//!
//! A planted bug that takes ten times as many seeds as recorded is a tester that has gone blind in one eye: a fault that no
//! longer strikes, a checker that no longer looks. Seeds count from 0, so that a score is a function of the sources.

use std::collections::BTreeMap;

/// More often than this times what was recorded is red.
const TIMES_WORSE: u64 = 10;

/// How one planted bug died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// The number of the bug.
    pub number: u32,
    /// The scenario that found it.
    pub scenario: String,
    /// After how many seeds; `None`: it survived.
    pub seeds: Option<u64>,
}

/// Reads a record.
///
/// # Errors
/// The first line that is not of the form.
pub fn parse(text: &str) -> anyhow::Result<BTreeMap<u32, u64>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let mut words = line.split_whitespace();
        let mut word = || words.next().ok_or_else(|| anyhow::anyhow!("`{line}`: M<number> scenario seeds"));
        let number = word()?.trim_start_matches('M').parse()?;
        let _scenario = word()?;
        Ok((number, word()?.parse()?))
    });
    parsed.collect()
}

/// The record of a score. Bugs that survived are in no record.
#[must_use]
pub fn print(kills: &[Kill]) -> String {
    let head = "# Seeds until each planted bug died, from seed 0; `cargo ci mutants --bless` writes it, `cargo ci mutants` \
                compares.\n";
    let rows =
        kills.iter().filter_map(|kill| Some(format!("M{} {} {}\n", kill.number, kill.scenario, kill.seeds?)));
    rows.fold(head.to_owned(), |text, row| text + &row)
}

/// One line: how many died, the median and the worst.
#[must_use]
pub fn summary(kills: &[Kill]) -> String {
    let mut dead: Vec<(u64, u32)> =
        kills.iter().filter_map(|kill| Some((kill.seeds?, kill.number))).collect();
    dead.sort_unstable();
    let Some((worst, number)) = dead.last() else { return format!("score: 0 of {} died", kills.len()) };
    let median = dead[dead.len() / 2].0;
    format!(
        "score: {} of {} died; seeds to kill: median {median}, worst {worst} (M{number})",
        dead.len(),
        kills.len()
    )
}

/// What is worse than recorded, a line each. Survivors are red elsewhere.
#[must_use]
pub fn worse(kills: &[Kill], recorded: &BTreeMap<u32, u64>) -> Vec<String> {
    let line = |kill: &Kill| {
        let seeds = kill.seeds?;
        match recorded.get(&kill.number) {
            Some(before) if seeds > before.saturating_mul(TIMES_WORSE) => Some(format!(
                "M{} died after {seeds} seeds of {}; recorded are {before}: what sees it has become weak",
                kill.number, kill.scenario
            )),
            Some(_) | None => None,
        }
    };
    kills.iter().filter_map(line).collect()
}

/// Bugs that died and are in no record yet: nothing can be told of them.
#[must_use]
pub fn unrecorded(kills: &[Kill], recorded: &BTreeMap<u32, u64>) -> Vec<u32> {
    let dead = kills.iter().filter(|kill| kill.seeds.is_some());
    dead.map(|kill| kill.number).filter(|number| !recorded.contains_key(number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(number: u32, seeds: Option<u64>) -> Kill {
        Kill { number, scenario: "power_cut".into(), seeds }
    }

    #[test]
    fn a_record_survives_its_text_and_holds_no_survivor() {
        let kills = [kill(1, Some(4)), kill(21, Some(65)), kill(22, None)];
        let record = parse(&print(&kills)).expect("its own form");
        assert_eq!(record, BTreeMap::from([(1, 4), (21, 65)]));
        assert!(parse("M1 power_cut").is_err());
        assert_eq!(summary(&kills), "score: 2 of 3 died; seeds to kill: median 65, worst 65 (M21)");
    }

    #[test]
    fn ten_times_is_allowed_and_more_is_not() {
        let record = BTreeMap::from([(1, 4)]);
        assert_eq!(worse(&[kill(1, Some(40))], &record).len(), 0);
        assert_eq!(worse(&[kill(1, Some(41))], &record).len(), 1);
        assert_eq!(worse(&[kill(2, Some(1))], &record).len(), 0);
        assert_eq!(unrecorded(&[kill(1, Some(1)), kill(2, Some(1)), kill(3, None)], &record), [2]);
        assert_eq!(worse(&[kill(2, None)], &record).len(), 0);
    }
}
