//! LOG-3 and LOG-12: what was durable when the power went is there after recovery, batch for batch.
//!
//! Source: CORRECTNESS.md 1.1; Alagappan et al., FAST'18 (crash against corruption). Damage that was injected on purpose
//! is left out by the caller's `spared`. Called when a node has recovered from a crash.

use super::Broken;
use super::image::{Batch, Logs, Starts};

/// Every intact batch of `durable` that is not below the present start stands in `now`, unchanged.
#[must_use]
pub fn check(
    durable: &Logs,
    now: &Logs,
    starts: &Starts,
    spared: impl Fn(&str, &Batch) -> bool,
) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (folder, before) in &durable.0 {
        let Some(after) = now.0.get(folder) else { continue }; // the partition was deleted since
        let start = starts.get(folder);
        for batch in
            before.iter().filter(|batch| batch.intact && batch.last >= start && !spared(folder, batch))
        {
            // Not a binary search: a rotten base offset leaves the list unsorted.
            match after.iter().find(|known| known.base == batch.base) {
                Some(known) if known.is(batch) => {}
                Some(known) => {
                    let evidence = format!("{folder}: {batch:?} was durable, now there is {known:?}");
                    broken.push(Broken { name: "LOG-3", evidence });
                }
                None => {
                    let end = after.last().map_or(start, |batch| batch.last + 1);
                    let evidence =
                        format!("{folder}: {batch:?} was durable and is gone, the log ends at {end}");
                    broken.push(Broken { name: "LOG-3", evidence });
                }
            }
        }
    }
    broken
}

/// What of a durable image counts: the run of batches with their records from the start of the log on, without a hole.
/// A later segment may be durable before the tail of the one in front of it is, and a batch before its record (one sync
/// covers both, but does not end for both at once); nothing of it was promised then.
#[must_use]
pub fn prefix(durable: &Logs, starts: &Starts) -> Logs {
    let mut counted = Logs::default();
    for (folder, batches) in &durable.0 {
        if batches.first().is_none_or(|first| first.base > starts.get(folder)) {
            continue;
        }
        let holes = batches.windows(2).position(|pair| pair[1].base != pair[0].last + 1);
        let end = holes.map_or(batches.len(), |at| at + 1);
        let end = batches[..end].iter().position(|batch| !batch.recorded).unwrap_or(end);
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

    fn starts(at: i64) -> Starts {
        let bytes = [vec![0; 10], at.to_be_bytes().to_vec(), vec![0; 4]].concat();
        Starts::of(&[("partitions/a-0/start".into(), bytes)])
    }

    #[test]
    fn only_a_run_from_the_start_counts_as_durable() {
        let recorded = |batches: &[Vec<u8>]| {
            let mut logs = logs(batches);
            logs.0.values_mut().flatten().for_each(|batch| batch.recorded = true);
            logs
        };
        let from = |at: i64, batches: &[Vec<u8>]| prefix(&recorded(batches), &starts(at)).batches();
        assert_eq!(from(0, &[batch(0, 1, 1), batch(2, 1, 1)]), 1);
        assert_eq!(from(0, &[batch(1, 1, 1)]), 0);
        assert_eq!(from(1, &[batch(1, 1, 1)]), 1);
        assert_eq!(prefix(&recorded(&[batch(1, 1, 1)]), &Starts::default()).batches(), 0, "no file says 0");
        assert_eq!(prefix(&logs(&[batch(0, 1, 1)]), &Starts::default()).batches(), 0, "without a record");
    }

    #[test]
    fn a_lost_and_a_changed_batch_are_found() {
        let durable = logs(&[batch(0, 1, 1), batch(1, 1, 1)]);
        let found =
            |now: &[Vec<u8>], start: i64| check(&durable, &logs(now), &starts(start), |_, _| false).len();
        assert_eq!(found(&[batch(0, 1, 1), batch(1, 1, 1), batch(2, 1, 2)], 0), 0);
        assert_eq!(found(&[batch(0, 1, 1)], 0), 1);
        assert_eq!(found(&[batch(0, 1, 1), batch(1, 1, 2)], 0), 1);
        assert_eq!(found(&[batch(1, 1, 1)], 0), 1);
        assert_eq!(found(&[batch(1, 1, 1)], 1), 0, "below the start");
        assert_eq!(found(&[], 0), 2);
    }
}
