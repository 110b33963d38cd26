//! LOG-4: recovery invents nothing: what it keeps was in the log when the machine went down.
//!
//! Source: CORRECTNESS.md 1.1. `before` is the volatile view at the moment of the crash (what the process itself would
//! have read), `recovered` the view right after recovery. Called when a node has recovered from a crash.

use super::Broken;
use super::image::{Batch, Logs};

/// The metadata log takes its epochs from itself: a start whose records were lost with the power may use one again, and
/// nobody saw it. A quorum persists its terms apart from the log (MQ-2); until then this log is left out here.
const METADATA: &str = "00000000000000000000000000000001-";

/// Every batch of the recovered logs stood in the log before, unchanged, unless it carries a leader epoch that did
/// not exist then: the epoch is bumped at every start, so such a batch was appended since. A start that only the dead
/// process had advanced in memory may come back lower: `durable` is what it may come back to.
#[must_use]
pub fn check(
    before: &Logs,
    durable: &Logs,
    recovered: &Logs,
    spared: impl Fn(&str, &Batch) -> bool,
) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (folder, after) in recovered.0.iter().filter(|(folder, _)| !folder.starts_with(METADATA)) {
        let Some(old) = before.0.get(folder) else { continue };
        let newest = old.iter().map(|batch| batch.epoch).max();
        let stood = |logs: &[Batch], batch: &Batch| {
            logs.binary_search_by_key(&batch.base, |known| known.base).is_ok_and(|at| logs[at].is(batch))
        };
        let durable: &[Batch] = durable.0.get(folder).map_or(&[], Vec::as_slice);
        for batch in after.iter().filter(|batch| newest.is_some_and(|newest| batch.epoch <= newest)) {
            if !stood(old, batch) && !stood(durable, batch) && !spared(folder, batch) {
                let evidence = format!("{folder}: {batch:?} was not in the log before the crash");
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
        let none = Logs::default();
        let before = logs(&[batch(3, 1, 1)]);
        let check = |recovered: &[Vec<u8>]| check(&before, &none, &logs(recovered), |_, _| false).len();
        assert_eq!(check(&[batch(3, 1, 1), batch(4, 1, 2)]), 0, "appended since");
        assert_eq!(check(&[batch(2, 1, 1), batch(3, 1, 1)]), 1, "from below the start");
        assert_eq!(check(&[batch(3, 1, 1), batch(4, 1, 1)]), 1, "never written");
    }
}
