//! LOG-1: within a log each batch begins where the one before it ended.
//!
//! Source: CORRECTNESS.md 1.1 (KAFKA-7866; Redpanda 3709f81, 189098d: the same offset twice). Compaction may leave
//! gaps; nothing that is checked here is compacted yet. Called after each recovery and at the end.

use super::Broken;
use super::image::Logs;

/// Every batch's base is the offset behind the last of the one before. Bytes that were damaged on purpose are undone in
/// `logs` (see [`Logs::undamaged`]), so that nothing is left out.
#[must_use]
pub fn check(logs: &Logs) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (folder, batches) in &logs.0 {
        for pair in batches.windows(2) {
            if pair[1].base != pair[0].last + 1 {
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
            assert_eq!(check(&logs).is_empty(), good, "second batch at {second}");
        }
    }
}
