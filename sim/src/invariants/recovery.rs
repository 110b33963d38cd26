//! LOG-3 and LOG-12: what was durable when the power went is there after recovery, batch for batch.
//!
//! Source: CORRECTNESS.md 1.1; Alagappan et al., FAST'18 (crash against corruption). Damage that was injected on purpose
//! is undone in the images: a recovery that leaves damaged bytes where they are, as it must, passes. Called when a node
//! has recovered from a crash.
//!
//! What counts as durable is [`promised`]: the batches of the durable image from the place on where the dead process's log
//! began, up to the first hole, or the first that is torn or lacks its record in the side file. What lies below had been
//! let go of; behind a hole nothing can have been promised, since a flush that ended well covers everything below its end.

use std::collections::BTreeMap;

use super::Broken;
use super::image::{Batch, Logs};

/// Every batch of `durable` stands in `now`, unchanged. Only what `let_go` allows may be missing: offsets below a start
/// that was asked for. In a folder that `gaps` names compaction may have taken records away, but never the end of the log:
/// which records, is judged by what clients see.
#[must_use]
pub fn check(
    durable: &Logs,
    now: &Logs,
    gaps: impl Fn(&str) -> bool,
    let_go: impl Fn(&str, &Batch) -> bool,
) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (folder, before) in &durable.0 {
        let gaps = gaps(folder);
        let after = now.0.get(folder).map_or(&[][..], Vec::as_slice);
        let by_base: BTreeMap<i64, &Batch> = after.iter().map(|batch| (batch.base, batch)).collect();
        for batch in before.iter().filter(|batch| batch.intact) {
            let evidence = match by_base.get(&batch.base) {
                Some(known) if known.is(batch) => continue,
                Some(known) if gaps && batch.may_become(known) => continue,
                None if gaps && batch.last + 1 < span(after).1 => continue,
                Some(known) => format!("{folder}: {batch:?} was durable, now there is {known:?}"),
                None if let_go(folder, batch) => continue,
                None => {
                    let (from, end) = span(after);
                    format!("{folder}: {batch:?} was durable and is gone, the log is [{from}, {end})")
                }
            };
            broken.push(Broken { name: "LOG-3", evidence });
        }
    }
    broken
}

fn span(log: &[Batch]) -> (i64, i64) {
    (log.first().map_or(0, |batch| batch.base), log.last().map_or(0, |batch| batch.last + 1))
}

/// What of a durable image was promised: see the module. `before` is what the process itself had.
#[must_use]
pub fn promised(durable: &Logs, before: &Logs) -> Logs {
    promised_from(durable, before, |_| false, |_| i64::MAX)
}

/// The same where `start_of` tells the start that a log's own file says. A log that begins behind its start has lost its
/// front to a crash whose recovery never ended: nothing of it was promised. In a folder that `gaps` names a hole is where
/// one segment does not begin where the one before ended; within a segment it is compaction's.
#[must_use]
pub fn promised_from(
    durable: &Logs,
    before: &Logs,
    gaps: impl Fn(&str) -> bool,
    start_of: impl Fn(&str) -> i64,
) -> Logs {
    let mut counted = Logs::default();
    for (folder, batches) in &durable.0 {
        let gaps = gaps(folder);
        let Some(first) = before.0.get(folder).and_then(|log| log.first()) else { continue };
        let from = if gaps { first.segment as i64 } else { first.base };
        let mut run: Vec<Batch> = Vec::new();
        if from > start_of(folder) {
            continue;
        }
        for batch in batches.iter().skip_while(|batch| batch.last < from) {
            let follows = match run.last() {
                Some(before) => batch.follows(before, gaps),
                None => batch.base == from || (gaps && batch.base > from && batch.segment as i64 <= from),
            };
            if !follows || !batch.recorded || !batch.intact {
                break;
            }
            run.push(*batch);
        }
        counted.0.insert(folder.clone(), run);
    }
    counted
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::image::tests::batch;
    use super::*;

    fn logs(batches: &[Vec<u8>]) -> Logs {
        Logs::of(&[("partitions/a-0/00000000000000000000.log".into(), batches.concat())])
    }

    fn recorded(batches: &[Vec<u8>]) -> Logs {
        let mut logs = logs(batches);
        logs.0.values_mut().flatten().for_each(|batch| batch.recorded = true);
        logs
    }

    #[test]
    fn a_run_without_a_hole_from_where_the_log_began_counts_as_durable() {
        let before = logs(&[batch(0, 1, 1), batch(1, 1, 1), batch(2, 1, 1)]);
        assert_eq!(promised(&recorded(&[batch(0, 1, 1), batch(2, 1, 1)]), &before).batches(), 1);
        assert_eq!(promised(&recorded(&[batch(1, 1, 1)]), &before).batches(), 0, "a hole in front");
        assert_eq!(promised(&logs(&[batch(0, 1, 1)]), &before).batches(), 0, "without a record");
    }

    #[test]
    fn behind_a_front_that_a_crash_took_nothing_was_promised() {
        let (before, durable) = (logs(&[batch(3, 1, 1)]), recorded(&[batch(3, 1, 1)]));
        assert_eq!(promised_from(&durable, &before, |_| false, |_| 3).batches(), 1);
        assert_eq!(
            promised_from(&durable, &before, |_| false, |_| 2).batches(),
            0,
            "the log begins behind its start"
        );
    }

    #[test]
    fn a_torn_batch_that_a_crash_before_left_ends_the_run() {
        let before = logs(&[batch(0, 1, 1), batch(1, 1, 1), batch(2, 1, 1)]);
        let mut torn = batch(1, 1, 1);
        torn[65] ^= 1; // in the body: the header still leads to the next batch
        assert_eq!(promised(&recorded(&[batch(0, 1, 1), torn, batch(2, 1, 1)]), &before).batches(), 1);
    }

    #[test]
    fn a_hole_among_batches_that_were_let_go_of_hides_nothing_behind_it() {
        let before = logs(&[batch(3, 1, 1), batch(4, 1, 1)]);
        let durable = recorded(&[batch(0, 1, 1), batch(2, 1, 1), batch(3, 1, 1), batch(4, 1, 1)]);
        assert_eq!(promised(&durable, &before).batches(), 2);
    }

    #[test]
    fn a_lost_and_a_changed_batch_are_found() {
        let durable = logs(&[batch(0, 1, 1), batch(1, 1, 1)]);
        let same = logs(&[batch(0, 1, 1), batch(1, 1, 1), batch(2, 1, 2)]);
        assert!(check(&durable, &same, |_| false, |_, _| false).is_empty());
        assert_eq!(check(&durable, &logs(&[batch(0, 1, 1)]), |_| false, |_, _| false).len(), 1);
        assert_eq!(
            check(&durable, &logs(&[batch(0, 1, 1), batch(1, 1, 2)]), |_| false, |_, _| false).len(),
            1
        );
        assert_eq!(check(&durable, &Logs::default(), |_| false, |_, _| false).len(), 2, "the whole folder");
    }

    #[test]
    fn a_head_may_go_only_if_somebody_let_go_of_it() {
        let durable = logs(&[batch(0, 1, 1), batch(1, 1, 1)]);
        let beheaded = logs(&[batch(1, 1, 1)]);
        assert_eq!(check(&durable, &beheaded, |_| false, |_, _| false).len(), 1);
        assert!(check(&durable, &beheaded, |_| false, |_, batch| batch.last < 1).is_empty());
    }

    #[test]
    fn a_compacted_log_may_lose_all_but_its_end() {
        let durable = logs(&[batch(0, 1, 1), batch(1, 1, 1), batch(2, 1, 1)]);
        let check = |now: &[Vec<u8>], gaps: bool| check(&durable, &logs(now), |_| gaps, |_, _| false).len();
        assert_eq!(check(&[batch(2, 1, 1)], true), 0);
        assert_eq!(check(&[batch(2, 1, 1)], false), 2, "where nothing is compacted nothing may go");
        assert_eq!(check(&[batch(0, 1, 1), batch(1, 1, 1)], true), 1, "the end is gone");
        assert_eq!(check(&[batch(0, 1, 2), batch(2, 1, 1)], true), 1, "of another epoch");
    }

    #[test]
    fn in_a_compacted_log_a_segment_that_is_missing_is_a_hole_and_a_batch_is_none() {
        let file = |base: i64| PathBuf::from(format!("partitions/a-0/{base:020}.log"));
        let of = |segments: &[(i64, Vec<u8>)]| {
            let files: Vec<_> = segments.iter().map(|(base, bytes)| (file(*base), bytes.clone())).collect();
            let mut logs = Logs::of(&files);
            logs.0.values_mut().flatten().for_each(|batch| batch.recorded = true);
            logs
        };
        let first = (0, [batch(1, 1, 1), batch(4, 1, 1)].concat());
        let all = of(&[first.clone(), (5, batch(5, 1, 1)), (6, batch(6, 1, 1))]);
        let count = |durable: &Logs| promised_from(durable, &all, |_| true, |_| 0).batches();
        assert_eq!(count(&all), 4);
        assert_eq!(count(&of(&[first, (6, batch(6, 1, 1))])), 2);
    }
}
