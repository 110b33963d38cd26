//! What a campaign of many seeds added up to, and its report: ledger of faults, marks, spread of spans, findings.
//!
//! Owns: [`Tally`], which a file can hold so that a hunt goes on where it was stopped, and the texts of the report.
//! Promises: pure; adding runs in another order gives the same report but for the order of the findings.
//! Leaves out: running (`hunt`). Source of the list of marks: `scenarios/marks.txt`, kept by `cargo ci tidy`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::verdict::RunReport;

/// A histogram of milliseconds: eight buckets for each power of two, so that a quantile is right within an eighth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    buckets: BTreeMap<u64, u64>,
    most: u64,
}

impl Spread {
    /// Adds one.
    pub fn add(&mut self, ms: u64) {
        // The least value of its bucket names it.
        let coarse = ms.checked_ilog2().map_or(0, |log| log.saturating_sub(3));
        *self.buckets.entry(ms >> coarse << coarse).or_default() += 1;
        self.most = self.most.max(ms);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// The value below or at which this part in a thousand lies.
    #[must_use]
    pub fn quantile(&self, permille: u64) -> u64 {
        let wanted = (self.count() * permille).div_ceil(1000).max(1);
        let mut passed = 0;
        let found = self.buckets.iter().find(|(_, count)| {
            passed += **count;
            passed >= wanted
        });
        found.map_or(0, |(ms, _)| *ms)
    }
}

/// What many runs added up to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Runs.
    pub seeds: u64,
    /// Simulated milliseconds.
    pub sim_ms: u64,
    /// Events.
    pub events: u64,
    /// Real milliseconds.
    pub wall_ms: u64,
    /// Replay lines with what was found.
    pub findings: Vec<String>,
    /// How many runs reached each mark.
    pub marks: BTreeMap<String, u64>,
    /// What the runs counted.
    pub counts: BTreeMap<String, u64>,
    /// How long things took.
    pub spans: BTreeMap<String, Spread>,
}

impl Tally {
    /// Adds a run.
    pub fn add(&mut self, report: &RunReport) {
        self.seeds += 1;
        self.sim_ms += report.sim_ms;
        self.events += report.events;
        report.marks.iter().for_each(|mark| *self.marks.entry(mark.clone()).or_default() += 1);
        report.counts.iter().for_each(|(name, count)| *self.counts.entry(name.clone()).or_default() += count);
        for (name, spans) in &report.spans {
            let spread = self.spans.entry(name.clone()).or_default();
            spans.iter().for_each(|ms| spread.add(*ms));
        }
    }

    /// One line for a person who waits.
    #[must_use]
    pub fn progress(&self) -> String {
        let seconds = (self.wall_ms as f64 / 1000.0).max(0.001);
        format!(
            "{seconds:>7.1} s  {} seeds  {:.2} simulated hours  {:.0}x  {:.0} events/s  {} marks  {} findings",
            self.seeds,
            self.sim_ms as f64 / 3_600_000.0,
            self.sim_ms as f64 / 1000.0 / seconds,
            self.events as f64 / seconds,
            self.marks.len(),
            self.findings.len()
        )
    }

    /// Faults: how often each struck, and how often that had a consequence.
    #[must_use]
    pub fn ledger(&self) -> Vec<String> {
        let struck =
            self.counts.iter().filter_map(|(name, count)| Some((name.strip_prefix("fault ")?, *count)));
        let row = |(name, struck): (&str, u64)| {
            let had = self.counts.get(&format!("consequence {name}")).copied().unwrap_or(0);
            let inert = if had == 0 && struck > 0 { "   INERT" } else { "" };
            format!("{name:<16} {struck:>9} {had:>9} {:>4} %{inert}", had * 100 / struck.max(1))
        };
        struck.map(row).collect()
    }

    /// The spread of each span.
    #[must_use]
    pub fn spreads(&self) -> Vec<String> {
        let row = |(name, spread): (&String, &Spread)| {
            let [half, most, nearly] = [500, 990, 999].map(|permille| spread.quantile(permille));
            format!("{name:<32} {:>9} {half:>8} {most:>8} {nearly:>8} {:>8}", spread.count(), spread.most)
        };
        self.spans.iter().map(row).collect()
    }

    /// The marks of `known` that no run reached, without those that say why none can.
    #[must_use]
    pub fn missed<'a>(&self, known: &[Mark<'a>]) -> Vec<&'a str> {
        let reachable = known.iter().filter(|mark| mark.unreached.is_none());
        reachable.map(|mark| mark.name).filter(|name| !self.marks.contains_key(*name)).collect()
    }

    /// The marks that were reached though the list says why no run can.
    #[must_use]
    pub fn belied<'a>(&self, known: &[Mark<'a>]) -> Vec<&'a str> {
        // What is rare by its own account may well be met.
        let excused =
            known.iter().filter(|mark| mark.unreached.is_some_and(|why| !why.starts_with("rare: ")));
        excused.map(|mark| mark.name).filter(|name| self.marks.contains_key(*name)).collect()
    }

    /// The whole report.
    #[must_use]
    pub fn report(&self, known: &[Mark<'_>]) -> String {
        let mut text = format!("{}\n", self.progress());
        let mut part = |title: &str, rows: Vec<String>| {
            if !rows.is_empty() {
                text += &format!("{title}\n");
                rows.iter().for_each(|row| text += &format!("  {row}\n"));
            }
        };
        part("faults               struck  with a consequence", self.ledger());
        part(
            "simulated ms                       samples     half      99%    99.9%     most",
            self.spreads(),
        );
        part("counted", self.counts.iter().map(|(name, count)| format!("{count:>12}  {name}")).collect());
        let reached = self.marks.iter().map(|(mark, seeds)| format!("{seeds:>8} seeds  {mark}")).collect();
        part(&format!("marks reached: {} of {}", self.marks.len(), known.len()), reached);
        let missed: Vec<String> = self.missed(known).into_iter().map(str::to_owned).collect();
        part(&format!("marks never reached: {}", missed.len()), missed);
        let belied: Vec<String> = self.belied(known).into_iter().map(str::to_owned).collect();
        part("marks reached though the list says why none can be: take the reason away", belied);
        let names: BTreeSet<&str> = known.iter().map(|mark| mark.name).collect();
        let unknown = self.marks.keys().filter(|mark| !names.contains(mark.as_str()));
        part("marks that the list does not have (`cargo ci tidy --bless`)", unknown.cloned().collect());
        part("findings", self.findings.clone());
        text
    }
}

/// A mark of the product's sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark<'a> {
    /// Its words.
    pub name: &'a str,
    /// Why no simulated run can reach it, if none can.
    pub unreached: Option<&'a str>,
}

/// Reads `scenarios/marks.txt`: a mark a line, and behind ` | ` why no simulated run reaches it.
#[must_use]
pub fn marks(text: &str) -> Vec<Mark<'_>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mark = |line| match str::split_once(line, " | ") {
        Some((name, why)) => Mark { name, unreached: Some(why) },
        None => Mark { name: line, unreached: None },
    };
    lines.map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mark: &str, struck: u64, had: u64) -> RunReport {
        let mut report = RunReport { marks: vec![mark.into()], ..RunReport::crash(String::new()) };
        report.counts = BTreeMap::from([("fault Kill".into(), struck), ("consequence Kill".into(), had)]);
        report.spans = BTreeMap::from([("calm act".into(), (0..1000).collect())]);
        report
    }

    #[test]
    fn a_mark_that_nothing_reached_is_missed_unless_it_says_why() {
        let known = marks("# remark\na cut\nb torn\nc in a fleet | one broker\n");
        let mut tally = Tally::default();
        tally.add(&run("a cut", 1, 0));
        assert_eq!(tally.missed(&known), ["b torn"]);
        let report = tally.report(&known);
        assert!(report.contains("marks never reached: 1\n  b torn"), "{report}");
        assert_eq!(tally.belied(&known), [""; 0]);
        tally.add(&run("c in a fleet", 1, 1));
        assert_eq!(tally.belied(&known), ["c in a fleet"]);
        tally.add(&run("z new", 1, 1));
        assert!(tally.report(&known).contains("--bless`)\n  z new"), "{}", tally.report(&known));
    }

    #[test]
    fn a_fault_without_any_consequence_is_inert() {
        let mut tally = Tally::default();
        tally.add(&run("a", 4, 0));
        assert!(tally.ledger()[0].ends_with("INERT"), "{:?}", tally.ledger());
        tally.add(&run("a", 4, 2));
        assert!(tally.ledger()[0].contains("25 %"), "{:?}", tally.ledger());
    }

    #[test]
    fn quantiles_are_right_within_an_eighth() {
        let mut spread = Spread::default();
        (1..=1000).for_each(|ms| spread.add(ms));
        for (permille, exact) in [(500, 500), (990, 990), (10, 10)] {
            let told = spread.quantile(permille);
            assert!(told <= exact && told >= exact - exact / 8 - 1, "{permille}: {told}");
        }
        assert_eq!(Spread::default().quantile(500), 0);
    }

    #[test]
    fn a_tally_survives_its_file() {
        let mut tally = Tally::default();
        tally.add(&run("a", 4, 2));
        let json = serde_json::to_string(&tally).expect("plain data");
        assert_eq!(serde_json::from_str::<Tally>(&json).expect("its own form"), tally);
    }
}
