//! What a load of acks=all was told, beside what a fresh consumer found.
//!
//! Owns: the lines that `ci/clients/franz-go` writes, and the judgement. Promises: pure. Called by `kill9`, `failover`, `drain` and `mend`.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// One record as the load or the reader wrote it down: partition, offset, value `producer-partition-sequence`,
/// and when it was acknowledged, in microseconds since 1970. Offset -1 of one that was acknowledged: the broker said that it is there,
/// and not where (DUPLICATE_SEQUENCE_NUMBER).
#[derive(Clone, Debug)]
pub struct Line {
    pub partition: i32,
    pub offset: i64,
    pub producer: String,
    pub sequence: u64,
    pub acked_us: Option<u64>,
}

impl Line {
    fn is(&self, other: &Line) -> bool {
        (self.partition, self.offset, &self.producer, self.sequence)
            == (other.partition, other.offset, &other.producer, other.sequence)
    }
}

/// What the judge counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub acked: usize,
    pub found: usize,
    pub repeated_by_plain: usize,
    pub faults: Vec<String>,
}

/// Reads a file of lines.
pub fn parse(path: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    text.lines().map(|line| parse_line(line).with_context(|| format!("{}: {line}", path.display()))).collect()
}

fn parse_line(line: &str) -> Option<Line> {
    let mut words = line.split(' ');
    let (partition, offset, value) =
        (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
    let mut parts = value.split('-');
    let producer = parts.next()?.to_owned();
    let sequence = parts.nth(1)?.parse().ok()?;
    let acked_us = words.next().and_then(|word| word.parse().ok());
    Some(Line { partition, offset, producer, sequence, acked_us })
}

/// Idempotent producers are named `i…`, plain ones `p…` (at most one request in flight each).
pub fn judge(acked: &[Line], found: &[Line]) -> Verdict {
    let mut verdict = Verdict { acked: acked.len(), found: found.len(), ..Verdict::default() };
    let at: BTreeMap<(i32, i64), &Line> =
        found.iter().map(|line| ((line.partition, line.offset), line)).collect();
    if at.len() != found.len() {
        verdict.faults.push(format!("{} offsets were served twice", found.len() - at.len()));
    }
    let held: BTreeSet<(i32, &str, u64)> =
        found.iter().map(|line| (line.partition, &line.producer[..], line.sequence)).collect();
    for line in acked {
        if line.offset < 0 && held.contains(&(line.partition, &line.producer, line.sequence)) {
            continue;
        }
        match at.get(&(line.partition, line.offset)) {
            None => verdict.faults.push(format!("acked and lost: {line:?}")),
            Some(there) if !there.is(line) => {
                verdict.faults.push(format!("acked {line:?}, but there is {there:?}"));
            }
            Some(_) => {}
        }
    }
    let mut last: BTreeMap<(i32, &str), u64> = BTreeMap::new();
    for line in at.values() {
        let Some(before) = last.insert((line.partition, &line.producer), line.sequence) else { continue };
        let expected = before + 1;
        if line.sequence == expected {
            continue;
        }
        if line.producer.starts_with('p') && line.sequence < expected {
            // A plain producer that missed an answer sends its batch again: repeated, never skipped.
            verdict.repeated_by_plain += 1;
        } else {
            verdict.faults.push(format!("{line:?} follows sequence {before}"));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        text.split(';').map(|line| parse_line(line.trim()).expect("a line of the test")).collect()
    }

    fn faults(acked: &str, found: &str) -> usize {
        judge(&lines(acked), &lines(found)).faults.len()
    }

    #[test]
    fn what_was_acked_must_be_there_at_its_offset_with_its_value() {
        let good = "0 0 i0-0-0; 0 1 i0-0-1; 1 0 p0-1-0";
        assert_eq!(faults(good, good), 0);
        assert_eq!(faults(good, "0 0 i0-0-0; 1 0 p0-1-0"), 1);
        assert_eq!(faults("0 0 i0-0-0", "0 0 i1-0-0"), 1);
        assert_eq!(faults("0 0 i0-0-0", "0 1 i0-0-0"), 1);
    }

    #[test]
    fn what_was_acked_without_an_offset_must_be_there_at_any() {
        assert_eq!(faults("0 -1 i0-0-0", "0 7 i0-0-0"), 0);
        assert_eq!(faults("0 -1 i0-0-1", "0 7 i0-0-0"), 1);
        assert_eq!(faults("0 -1 i0-1-0", "1 7 i0-1-0"), 1);
        assert_eq!(faults("0 -1 i0-0-0", "0 7 i0-0-0; 0 8 i0-0-0"), 1);
    }

    #[test]
    fn an_unacked_record_may_be_there() {
        assert_eq!(faults("0 0 i0-0-0", "0 0 i0-0-0; 0 1 i0-0-1"), 0);
    }

    #[test]
    fn an_idempotent_producer_neither_repeats_nor_skips_nor_swaps() {
        assert_eq!(faults("0 0 i0-0-0", "0 0 i0-0-0; 0 1 i0-0-0"), 1);
        assert_eq!(faults("0 0 i0-0-0", "0 0 i0-0-0; 0 1 i0-0-2"), 1);
        assert!(faults("0 0 i0-0-0", "0 0 i0-0-0; 0 1 i0-0-2; 0 2 i0-0-1") >= 1);
    }

    #[test]
    fn a_plain_producer_may_repeat_but_not_skip() {
        assert_eq!(faults("0 0 p0-0-0", "0 0 p0-0-0; 0 1 p0-0-0; 0 2 p0-0-1"), 0);
        assert_eq!(faults("0 0 p0-0-0", "0 0 p0-0-0; 0 1 p0-0-2"), 1);
    }

    #[test]
    fn an_offset_served_twice_is_a_fault() {
        assert_eq!(faults("0 0 i0-0-0", "0 0 i0-0-0; 0 0 i0-0-0"), 1);
    }
}
