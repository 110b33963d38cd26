//! LOG-7: the list of leader epochs ascends, and is what the log says, but for epochs that led without appending.
//!
//! Source: CORRECTNESS.md 1.1 (KAFKA-7415, 10706, 10432, 16541, 15608). Called as [`super::bounds`] is.

use super::Broken;
use super::files::{self, Names, Numbers};
use super::image::Batch;

/// The list of one log agrees with its batches. With `gaps` the log is compacted: an epoch may have lost its first records,
/// or all of them.
#[must_use]
pub fn check(folder: &str, names: &Names<'_>, log: &[Batch], gaps: bool) -> Option<Broken> {
    let broken = |text: String| Some(Broken { name: "LOG-7", evidence: format!("{folder}: {text}") });
    let number = |name: &str, magic: &[u8; 4]| {
        let payload = files::payload(folder, magic, names.get(name)?)?;
        Numbers(payload).take::<8>()
    };
    let start = number("start", b"DJst").unwrap_or(0);
    let end = log.last().map_or(start, |batch| batch.last + 1);
    let mut real: Vec<(i64, i64)> = Vec::new();
    for batch in log.iter().filter(|batch| batch.last >= start && batch.epoch >= 0) {
        let epoch = i64::from(batch.epoch);
        if real.last().is_none_or(|(last, _)| *last != epoch) {
            real.push((epoch, batch.base.max(start)));
        }
    }
    let list = match names.get("epochs").and_then(|file| files::payload(folder, b"DJep", file)) {
        Some(payload) => list(payload)?,
        None if real.is_empty() => return None,
        None => return broken(format!("there is no list, and the log has {real:?}")),
    };
    if let Some(pair) = list.windows(2).find(|pair| pair[0].0 >= pair[1].0 || pair[0].1 > pair[1].1) {
        return broken(format!("{pair:?} do not ascend"));
    }
    if gaps {
        return broken(beyond_compaction(&list, log, start)?);
    }
    if let Some(missing) = real.iter().find(|entry| !list.contains(entry)) {
        return broken(format!("epoch and start {missing:?} are in the log, the list is {list:?}"));
    }
    list.iter().enumerate().find_map(|(at, entry)| {
        let next = list.get(at + 1).map_or(end, |next| next.1);
        let is_empty = entry.1 == next || entry.1 >= end || entry.1 <= start;
        if real.contains(entry) || is_empty {
            return None;
        }
        broken(format!("epoch and start {entry:?} are in the list, not in the log, which has {real:?}"))
    })
}

/// What the list of a compacted log cannot owe to the records that are gone: each batch lies where its epoch led.
fn beyond_compaction(list: &[(i64, i64)], log: &[Batch], start: i64) -> Option<String> {
    let led = |batch: &Batch| {
        let at = list.partition_point(|(_, from)| *from <= batch.base.max(start));
        let epoch = at.checked_sub(1).map(|at| list[at].0);
        epoch == Some(i64::from(batch.epoch)) && list.get(at).is_none_or(|(_, from)| *from > batch.last)
    };
    let mut ours = log.iter().filter(|batch| batch.last >= start && batch.epoch >= 0);
    let batch = ours.find(|batch| !led(batch))?;
    Some(format!("{batch:?} lies where its epoch did not lead, the list is {list:?}"))
}

/// Epochs with their first offsets.
fn list(payload: &[u8]) -> Option<Vec<(i64, i64)>> {
    let mut numbers = Numbers(payload);
    let count = numbers.take::<4>()?;
    (0..count).map(|_| Some((numbers.take::<4>()?, numbers.take::<8>()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::{FOLDER, small_file};
    use super::super::image::{Logs, tests::batch};
    use super::*;

    fn verdict(list: &[(i32, i64)]) -> bool {
        told(list, false)
    }

    fn told(list: &[(i32, i64)], gaps: bool) -> bool {
        let mut payload = (list.len() as u32).to_be_bytes().to_vec();
        for (epoch, start) in list {
            payload.extend(epoch.to_be_bytes());
            payload.extend(start.to_be_bytes());
        }
        let file = small_file(b"DJep", &payload);
        // Epoch 2 from 0 on, 5 from 7 on; the start is 3.
        let log = Logs::of_segment(&[batch(0, 7, 2), batch(7, 2, 5), batch(9, 1, 5)].concat());
        let start = small_file(b"DJst", &3_i64.to_be_bytes());
        let names: Names<'_> = [("epochs", &file[..]), ("start", &start[..])].into();
        check(FOLDER, &names, &log, gaps).is_some()
    }

    #[test]
    fn a_list_that_is_not_the_logs_is_found() {
        assert!(!verdict(&[(2, 3), (5, 7)]));
        assert!(!verdict(&[(2, 3), (3, 7), (4, 7), (5, 7), (6, 10)]), "3, 4 and 6 led without appending");
        assert!(verdict(&[(2, 3)]), "5 is missing");
        assert!(verdict(&[(2, 3), (5, 8)]), "5 begins earlier");
        assert!(verdict(&[(2, 3), (3, 5), (5, 7)]), "3 appended nothing");
        assert!(verdict(&[(5, 7), (2, 3)]), "backwards");
        assert!(verdict(&[]), "nothing");
    }

    #[test]
    fn the_list_of_a_compacted_log_may_know_more_but_nothing_else() {
        assert!(!told(&[(2, 3), (5, 7)], true));
        assert!(told(&[(2, 3), (5, 5)], true), "2 has a batch that ends at 6");
        assert!(!told(&[(2, 3), (3, 7), (4, 7), (5, 7), (6, 10)], true), "3, 4 and 6 have no records");
        assert!(told(&[(2, 3)], true), "5 is missing");
        assert!(told(&[(2, 3), (5, 8)], true), "5 began earlier");
        assert!(told(&[(2, 3), (5, 6), (6, 8)], true), "5 led after 6 began");
    }
}
