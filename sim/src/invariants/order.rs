//! LOG-1: within a log each batch begins where the one before it ended.
//!
//! Source: CORRECTNESS.md 1.1 (KAFKA-7866; Redpanda 3709f81, 189098d: the same offset twice). Compaction leaves gaps within
//! a segment, never between two, and repeats nothing. Called after each recovery and at the end.

use super::Broken;
use super::image::Logs;

/// Every batch's base is the offset behind the last of the one before. Bytes that were damaged on purpose are undone in
/// `logs` (see [`Logs::undamaged`]), so that nothing is left out. A folder that `gaps` names is compacted.
#[must_use]
pub fn check(logs: &Logs, gaps: impl Fn(&str) -> bool) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (folder, batches) in &logs.0 {
        let gaps = gaps(folder);
        for pair in batches.windows(2) {
            if !pair[1].follows(&pair[0], gaps) {
                let evidence = format!("{folder}: {:?} is followed by {:?}", pair[0], pair[1]);
                broken.push(Broken { name: "LOG-1", evidence });
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::super::image::tests::batch;
    use super::*;

    #[test]
    fn a_gap_and_a_repeat_are_found() {
        for (second, good) in [(3, true), (4, false), (2, false)] {
            let bytes = [batch(0, 3, 1), batch(second, 1, 1)].concat();
            let logs = Logs::of(&[("partitions/a-0/00000000000000000000.log".into(), bytes)]);
            assert_eq!(check(&logs, |_| false).is_empty(), good, "second batch at {second}");
            assert_eq!(check(&logs, |_| true).is_empty(), second >= 3, "compacted, second batch at {second}");
        }
    }

    #[test]
    fn between_two_segments_there_is_no_gap_in_a_compacted_log_either() {
        for (segment, base, good) in [(3, 3, true), (3, 5, true), (4, 5, false)] {
            let files = [
                ("partitions/a-0/00000000000000000000.log".into(), batch(0, 3, 1)),
                (format!("partitions/a-0/{segment:020}.log").into(), batch(base, 1, 1)),
            ];
            assert_eq!(check(&Logs::of(&files), |_| true).is_empty(), good, "{base} in segment {segment}");
        }
    }
}
