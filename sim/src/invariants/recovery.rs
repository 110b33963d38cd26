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
            match after.binary_search_by_key(&batch.base, |batch| batch.base) {
                Ok(at) if after[at].is(batch) => {}
                Ok(at) => {
                    let evidence = format!("{folder}: {batch:?} was durable, now there is {:?}", after[at]);
                    broken.push(Broken { name: "LOG-3", evidence });
                }
                Err(_) => {
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

#[cfg(test)]
mod tests {
    use super::super::image::tests::batch;
    use super::*;

    fn logs(batches: &[Vec<u8>]) -> Logs {
        Logs::of(&[("partitions/a-0/00000000000000000000.log".into(), batches.concat())])
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
