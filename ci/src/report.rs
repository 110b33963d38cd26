//! Results of checks and of steps, and the table at the end.
//!
//! Owns: the three outcomes. Promises: one line per result as it comes, then a table, then a last
//! line `N passed, N failed, N skipped` that a machine can read.

use std::collections::BTreeMap;
use std::time::Duration;

/// How one check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// One check of one subject (a client, a step).
#[derive(Clone, Debug)]
pub struct Entry {
    pub subject: String,
    pub name: String,
    pub outcome: Outcome,
    pub took: Duration,
}

/// All results of a verb.
#[derive(Debug, Default)]
pub struct Report {
    entries: Vec<Entry>,
}

impl Report {
    /// Prints the result and keeps it.
    pub fn add(&mut self, subject: &str, name: &str, outcome: Outcome, took: Duration) {
        let seconds = took.as_secs_f64();
        match &outcome {
            Outcome::Passed => println!("  ok      {subject:<13} {name:<28} {seconds:>6.1} s"),
            Outcome::Failed(why) => println!("  FAILED  {subject:<13} {name:<28} {seconds:>6.1} s  {why}"),
            Outcome::Skipped(why) => println!("  skipped {subject:<13} {name:<28}           {why}"),
        }
        self.entries.push(Entry { subject: subject.into(), name: name.into(), outcome, took });
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Counts of passed, failed and skipped.
    pub fn counts(&self) -> (usize, usize, usize) {
        count(self.entries.iter())
    }

    /// Prints a row per subject, the failures again, and the last line. Returns whether it is green.
    pub fn finish(&self, title: &str) -> bool {
        let mut subjects: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
        for entry in &self.entries {
            subjects.entry(&entry.subject).or_default().push(entry);
        }
        println!("\n{title}");
        println!("  {:<16} {:>7} {:>7} {:>8} {:>9}", "", "passed", "failed", "skipped", "seconds");
        for (subject, entries) in &subjects {
            let (passed, failed, skipped) = count(entries.iter().copied());
            let seconds: f64 = entries.iter().map(|entry| entry.took.as_secs_f64()).sum();
            println!("  {subject:<16} {passed:>7} {failed:>7} {skipped:>8} {seconds:>9.1}");
        }
        for entry in &self.entries {
            match &entry.outcome {
                // A reason of several lines was printed above; here its first one.
                Outcome::Failed(why) => {
                    println!(
                        "  failed: {} {}: {}",
                        entry.subject,
                        entry.name,
                        why.lines().next().unwrap_or_default()
                    );
                }
                Outcome::Skipped(why) => println!("  skipped: {} {}: {why}", entry.subject, entry.name),
                Outcome::Passed => {}
            }
        }
        let (passed, failed, skipped) = self.counts();
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        failed == 0
    }
}

fn count<'a>(entries: impl Iterator<Item = &'a Entry>) -> (usize, usize, usize) {
    entries.fold((0, 0, 0), |(passed, failed, skipped), entry| match entry.outcome {
        Outcome::Passed => (passed + 1, failed, skipped),
        Outcome::Failed(_) => (passed, failed + 1, skipped),
        Outcome::Skipped(_) => (passed, failed, skipped + 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_green_and_a_failure_is_red() {
        let mut report = Report::default();
        report.add("kcat", "install", Outcome::Skipped("no registry".into()), Duration::ZERO);
        assert!(report.finish("test"));
        report.add("java", "file-zstd", Outcome::Failed("line 3 differs".into()), Duration::ZERO);
        assert!(!report.finish("test"));
        assert_eq!(report.counts(), (0, 1, 1));
    }
}
