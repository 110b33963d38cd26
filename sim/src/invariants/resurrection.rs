//! LOG-4: recovery invents nothing: what it keeps was in the log when the machine went down.
//!
//! Source: CORRECTNESS.md 1.1. `before` is the volatile view at the moment of the crash (what the process itself would
//! have read), `recovered` the view right after recovery. Called when a node has recovered from a crash.

use super::Broken;
use super::image::{Batch, Logs};

/// The metadata log of a single node takes its epochs from itself: a start whose records were lost with the power may
/// use one again. What it appended since is told by where this incarnation wrote, not by the epoch alone.
const METADATA: &str = "00000000000000000000000000000001-";

/// Whether a folder is that of the metadata log.
#[must_use]
pub fn is_metadata(folder: &str) -> bool {
    folder.starts_with(METADATA)
}

/// Every batch of the recovered logs stood in the log before, unchanged, unless it was appended since: it carries a leader
/// epoch that did not exist then (the epoch is bumped at every start); in the metadata log, one above all that were
/// durable, at a place that was `written` since. A start that only the dead process had advanced in memory may come back lower:
/// `durable` is what it may come back to. In a folder that `gaps` names a batch may be what a compaction, which the recovery
/// finished, left of one that stood there, or stand in what it had `aside` to be swapped in.
#[must_use]
pub fn check(
    (before, aside): (&Logs, &Logs),
    durable: &Logs,
    recovered: &Logs,
    gaps: impl Fn(&str) -> bool,
    written: impl Fn(&str, &Batch) -> bool,
) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (folder, after) in &recovered.0 {
        let Some(old) = before.0.get(folder) else { continue };
        let newest = old.iter().map(|batch| batch.epoch).max().unwrap_or(-1);
        let gaps = gaps(folder);
        let stood = |logs: &[Batch], batch: &Batch| {
            if gaps {
                // A crash may have left segments beside the one that took their place: they are in no order.
                return logs.iter().any(|known| known.is(batch) || known.may_become(batch));
            }
            logs.binary_search_by_key(&batch.base, |known| known.base).is_ok_and(|at| logs[at].is(batch))
        };
        let aside: &[Batch] = aside.0.get(folder).filter(|_| gaps).map_or(&[], Vec::as_slice);
        let durable: &[Batch] = durable.0.get(folder).map_or(&[], Vec::as_slice);
        let safe = durable.iter().map(|batch| batch.epoch).max().unwrap_or(-1);
        for batch in after {
            let appended = if is_metadata(folder) {
                batch.epoch > safe && written(folder, batch)
            } else {
                batch.epoch > newest
            };
            if !appended && ![old, durable, aside].into_iter().any(|logs| stood(logs, batch)) {
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
        let check = |recovered: &[Vec<u8>]| {
            check((&before, &none), &none, &logs(recovered), |_| false, |_, _| true).len()
        };
        assert_eq!(check(&[batch(3, 1, 1), batch(4, 1, 2)]), 0, "appended since");
        assert_eq!(check(&[batch(2, 1, 1), batch(3, 1, 1)]), 1, "from below the start");
        assert_eq!(check(&[batch(3, 1, 1), batch(4, 1, 1)]), 1, "never written");
    }

    #[test]
    fn what_a_swap_was_to_bring_is_no_invention_and_without_its_file_it_is() {
        let file = |name: &str, bytes: Vec<u8>| (format!("partitions/a-0/{name}").into(), bytes);
        // The power took the new name of the first segment, and left that of the second, which goes.
        let old = file("00000000000000000000.log", batch(0, 1, 1));
        let cleaned = file("00000000000000000000.log.cleaned", [batch(0, 1, 1), batch(1, 1, 1)].concat());
        let gone = file("00000000000000000001.log.deleted", batch(1, 1, 1));
        let now = Logs::of(&[file("00000000000000000000.log", cleaned.1.clone())]);
        let swap = file("swap", vec![1]);
        let check = |files: &[(std::path::PathBuf, Vec<u8>)], gaps: bool| {
            let seen = (&Logs::of(files), &Logs::swapped_in(files));
            check(seen, &Logs::default(), &now, |_| gaps, |_, _| true).len()
        };
        let with = [old.clone(), cleaned.clone(), gone.clone(), swap];
        assert_eq!(check(&with, true), 0);
        assert_eq!(check(&with, false), 1, "only compacted logs swap");
        assert_eq!(check(&[old, cleaned, gone], true), 1, "nothing was to be swapped in");
    }

    #[test]
    fn in_the_metadata_log_only_what_this_start_wrote_may_be_new() {
        let logs = |batches: &[Vec<u8>]| {
            let path = format!("partitions/{METADATA}0/00000000000000000000.log");
            Logs::of(&[(path.into(), batches.concat())])
        };
        let (durable, before) = (logs(&[batch(0, 1, 1)]), logs(&[batch(0, 1, 1), batch(1, 1, 2)]));
        let check = |recovered: &[Vec<u8>], written: bool| {
            check(
                (&before, &Logs::default()),
                &durable,
                &logs(recovered),
                |_| false,
                |_, batch| written && batch.base > 0,
            )
            .len()
        };
        let reused = [batch(0, 1, 1), batch(1, 2, 2)];
        assert_eq!(check(&reused, true), 0, "the epoch of a lost start is used again");
        assert_eq!(check(&reused, false), 1, "nobody wrote it");
        assert_eq!(check(&[batch(0, 1, 1), batch(1, 2, 1)], true), 1, "a durable epoch is not used again");
    }
}
