//! LOG-4: recovery invents nothing: what it keeps was in the log when the machine went down.
//!
//! Source: CORRECTNESS.md 1.1. `before` is the volatile view at the moment of the crash (what the process itself would
//! have read), `recovered` the view right after recovery. Called when a node has recovered from a crash.

use super::Broken;
use super::image::Logs;

/// Every batch of the recovered logs stood in the log before, unchanged, and not below its start then.
/// `epoch` is the leader epoch of the new start: batches from it on are appends after the recovery.
#[must_use]
pub fn check(before: &Logs, recovered: &Logs, first_new_offset: impl Fn(&str) -> i64) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (folder, after) in &recovered.0 {
        let Some(old) = before.0.get(folder) else { continue };
        let limit = first_new_offset(folder);
        for batch in after.iter().filter(|batch| batch.base < limit) {
            let known = old.binary_search_by_key(&batch.base, |batch| batch.base).map(|at| old[at]);
            if known != Ok(*batch) {
                let evidence = format!("{folder}: {batch:?} was not in the log before the crash ({known:?})");
                broken.push(Broken { name: "LOG-4", evidence });
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
    fn a_batch_that_comes_back_from_the_dead_is_found() {
        let logs = |batches: &[Vec<u8>]| {
            Logs::of(&[("partitions/a-0/00000000000000000000.log".into(), batches.concat())])
        };
        let before = logs(&[batch(3, 1, 1)]);
        assert!(check(&before, &logs(&[batch(3, 1, 1), batch(4, 1, 2)]), |_| 4).is_empty());
        assert_eq!(check(&before, &logs(&[batch(2, 1, 1), batch(3, 1, 1)]), |_| 4).len(), 1);
        assert_eq!(check(&before, &logs(&[batch(3, 1, 9)]), |_| 4).len(), 1);
    }
}
