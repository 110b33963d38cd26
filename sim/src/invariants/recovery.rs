//! LOG-3 and LOG-12: what was durable when the power went is there after recovery, batch for batch.
//!
//! Source: CORRECTNESS.md 1.1; Alagappan et al., FAST'18 (crash against corruption). Damage that was injected on purpose
//! is left out by the caller's `spared`. Called when a node has recovered from a crash.

use super::Broken;
use super::image::{Batch, Logs};

/// Every intact batch of `durable` that is not below the present start stands in `now`, unchanged.
#[must_use]
pub fn check(durable: &Logs, now: &Logs, spared: impl Fn(&str, &Batch) -> bool) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (folder, before) in &durable.0 {
        let Some(after) = now.0.get(folder) else { continue }; // the partition was deleted since
        let Some(start) = after.first().map(|batch| batch.base) else {
            let lost = before.iter().find(|batch| batch.intact && !spared(folder, batch));
            broken.extend(
                lost.map(|batch| Broken { name: "LOG-3", evidence: format!("{folder}: {batch:?} is gone") }),
            );
            continue;
        };
        for batch in
            before.iter().filter(|batch| batch.intact && batch.base >= start && !spared(folder, batch))
        {
            // Not a binary search: a rotten base offset leaves the list unsorted.
            match after.iter().find(|known| known.base == batch.base) {
                Some(known) if known.is(batch) => {}
                Some(known) => {
                    let evidence = format!("{folder}: {batch:?} was durable, now there is {known:?}");
                    broken.push(Broken { name: "LOG-3", evidence });
                }
                None => {
                    let end = after.last().map_or(0, |batch| batch.last + 1);
                    let evidence =
                        format!("{folder}: {batch:?} was durable and is gone, the log ends at {end}");
                    broken.push(Broken { name: "LOG-3", evidence });
                }
            }
        }
    }
    broken
}

/// What of a durable image counts: the run of batches from the start of the log on, without a hole. A later segment
/// may be durable before the tail of the one in front of it is; nothing of it was promised then.
#[must_use]
pub fn prefix(durable: &Logs, before: &Logs) -> Logs {
    let mut counted = Logs::default();
    for (folder, batches) in &durable.0 {
        let start = before.0.get(folder).and_then(|log| log.first()).map_or(i64::MAX, |batch| batch.base);
        if batches.first().is_none_or(|first| first.base > start) {
            continue;
        }
        let holes = batches.windows(2).position(|pair| pair[1].base != pair[0].last + 1);
        let end = holes.map_or(batches.len(), |at| at + 1);
        counted.0.insert(folder.clone(), batches[..end].to_vec());
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::super::image::tests::batch;
    use super::*;

    fn logs(batches: &[Vec<u8>]) -> Logs {
        Logs::of(&[("partitions/a-0/00000000000000000000.log".into(), batches.concat())])
    }

    #[test]
    fn only_a_run_from_the_start_counts_as_durable() {
        let before = logs(&[batch(0, 1, 1), batch(1, 1, 1), batch(2, 1, 1)]);
        assert_eq!(prefix(&logs(&[batch(0, 1, 1), batch(2, 1, 1)]), &before).batches(), 1);
        assert_eq!(prefix(&logs(&[batch(1, 1, 1)]), &before).batches(), 0);
    }

    #[test]
    fn a_lost_and_a_changed_batch_are_found() {
        let durable = logs(&[batch(0, 1, 1), batch(1, 1, 1)]);
        let same = logs(&[batch(0, 1, 1), batch(1, 1, 1), batch(2, 1, 2)]);
        assert!(check(&durable, &same, |_, _| false).is_empty());
        assert_eq!(check(&durable, &logs(&[batch(0, 1, 1)]), |_, _| false).len(), 1);
        assert_eq!(check(&durable, &logs(&[batch(0, 1, 1), batch(1, 1, 2)]), |_, _| false).len(), 1);
        assert!(check(&durable, &logs(&[batch(1, 1, 1)]), |_, _| false).is_empty(), "below the start");
    }
}
