//! LOG-13 and IDM-4: a snapshot of the producers is what a replay of the log up to it gives.
//!
//! Source: CORRECTNESS.md 1.1 and 1.5 (KAFKA-6683, 5829, 5747, 9892). The replay is the checker's own: the last five batches
//! of each producer's newest epoch, with sequences and offsets. What lies below the first batch that is left may be
//! remembered in the snapshot alone, and producers that it says were forgotten may be in the log alone. A snapshot from
//! beyond the end speaks of what is gone, and must be. Called as [`super::bounds`] is.

use std::collections::BTreeMap;

use super::Broken;
use super::files::{self, Names, Numbers};
use super::image::Batch;

/// Batches remembered of each producer.
const WINDOW: usize = 5;
const CONTROL: i64 = 1 << 5;

/// First sequence, last sequence, first offset, last offset.
type Remembered = (i64, i64, i64, i64);

/// Epoch and batches of each producer.
type Producers = BTreeMap<i64, (i64, Vec<Remembered>)>;

/// Every snapshot of one log that can be believed agrees with the log. With `gaps` the log is compacted, and may have lost
/// batches that the snapshot remembers, but for the last one of each producer in the newest snapshot.
#[must_use]
pub fn check(folder: &str, names: &Names<'_>, log: &[Batch], gaps: bool) -> Option<Broken> {
    let snapshots =
        names.iter().filter_map(|(name, bytes)| Some((files::offset(name, ".producers")?, bytes)));
    // An empty log begins and ends where its segment does.
    let empty = names.keys().filter_map(|name| files::offset(name, ".log")).next_back().unwrap_or(0) as i64;
    let first = log.first().map_or(empty, |batch| batch.base);
    let end = log.last().map_or(empty, |batch| batch.last + 1);
    snapshots.into_iter().find_map(|(offset, bytes)| {
        let at = i64::try_from(offset).ok()?;
        let (told, forgotten, known) = read(files::payload(folder, b"DJpr", bytes)?)?;
        let broken = |text: String| {
            Some(Broken { name: "LOG-13", evidence: format!("{folder}: snapshot {at}: {text}") })
        };
        if told != at {
            return broken(format!("it says that it is of {told}"));
        }
        if at > end {
            return broken(format!("the log ends at {end}"));
        }
        if at < first {
            return None;
        }
        let replayed = replay(names, log, at);
        if gaps {
            return left(&known, &replayed, at == end).and_then(broken);
        }
        compare(&known, &replayed, first, forgotten).and_then(broken)
    })
}

/// What compaction leaves: no batch that the snapshot does not remember, or only older ones; the last if nothing follows.
fn left(known: &Producers, replayed: &Producers, is_end: bool) -> Option<String> {
    known.iter().find_map(|(id, (epoch, batches))| {
        let oldest = batches.first()?;
        let (real, theirs) = replayed.get(id).map_or((-1, &[][..]), |(real, theirs)| (*real, &theirs[..]));
        let may_be = |batch: &Remembered| batch.2 < oldest.2 || (real == *epoch && batches.contains(batch));
        let is_last = !is_end || (real == *epoch && theirs.last() == batches.last());
        let good = is_last && theirs.iter().all(may_be);
        (!good).then(|| {
            format!("producer {id} has epoch {epoch}, batches {batches:?}, a replay of what is left gives {real}, {theirs:?}")
        })
    })
}

fn compare(known: &Producers, replayed: &Producers, first: i64, forgotten: i64) -> Option<String> {
    for (id, (epoch, batches)) in known {
        let mine: Vec<Remembered> = batches.iter().filter(|batch| batch.2 >= first).copied().collect();
        match replayed.get(id) {
            None if mine.is_empty() => {}
            Some((real, theirs)) if real == epoch && *theirs == mine => {}
            other => {
                return Some(format!(
                    "producer {id} has epoch {epoch}, batches {mine:?}, a replay gives {other:?}"
                ));
            }
        }
    }
    let missing = replayed.keys().find(|id| !known.contains_key(id)).filter(|_| forgotten == 0);
    missing.map(|id| format!("producer {id} is in the log, and was never forgotten"))
}

/// What the batches below `to` make of the producers.
fn replay(names: &Names<'_>, log: &[Batch], to: i64) -> Producers {
    let mut producers = Producers::new();
    for batch in log.iter().filter(|batch| batch.last < to) {
        let Some(segment) = names.get(&format!("{:020}.log", batch.segment)[..]) else { continue };
        let Some(mut numbers) = segment.get(batch.at as usize + 21..).map(Numbers) else { continue };
        let fields = (|| {
            let attributes = numbers.take::<2>()?;
            let delta = numbers.take::<4>()?;
            numbers.take::<8>()?;
            numbers.take::<8>()?;
            Some((attributes, delta, numbers.take::<8>()?, numbers.take::<2>()?, numbers.take::<4>()?))
        })();
        let Some((attributes, delta, id, epoch, sequence)) = fields.filter(|fields| fields.2 >= 0) else {
            continue;
        };
        let (known, batches) = producers.entry(id).or_insert((epoch, Vec::new()));
        if attributes & CONTROL != 0 {
            if epoch > *known {
                (*known, *batches) = (epoch, Vec::new());
            }
            continue;
        }
        if epoch != *known {
            (*known, *batches) = (epoch, Vec::new());
        }
        let last = (sequence + delta) % (1 << 31);
        batches.push((sequence, last, batch.base, batch.last));
        if batches.len() > WINDOW {
            batches.remove(0);
        }
    }
    producers
}

/// Offset, how many were forgotten, and the producers.
fn read(payload: &[u8]) -> Option<(i64, i64, Producers)> {
    let mut numbers = Numbers(payload);
    let (offset, forgotten, count) = (numbers.take::<8>()?, numbers.take::<8>()?, numbers.take::<4>()?);
    let mut producers = Producers::new();
    for _ in 0..count {
        let (id, epoch) = (numbers.take::<8>()?, numbers.take::<2>()?);
        let (_coordinator, _txn, _active) =
            (numbers.take::<4>()?, numbers.take::<8>()?, numbers.take::<8>()?);
        let mut batches = Vec::new();
        for _ in 0..numbers.take::<1>()? {
            let (first, last) = (numbers.take::<4>()?, numbers.take::<4>()?);
            let (base, end, _timestamp) = (numbers.take::<8>()?, numbers.take::<8>()?, numbers.take::<8>()?);
            batches.push((first, last, base, end));
        }
        producers.insert(id, (epoch, batches));
    }
    Some((offset, forgotten, producers))
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::{FOLDER, small_file};
    use super::super::image::{Logs, tests::batch};
    use super::*;

    fn of_producer(base: i64, sequence: i32) -> Vec<u8> {
        let mut bytes = batch(base, 1, 1);
        bytes[43..51].copy_from_slice(&7_i64.to_be_bytes());
        bytes[51..53].copy_from_slice(&3_i16.to_be_bytes());
        bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
        bytes
    }

    fn snapshot(offset: i64, batches: &[(i32, i64)]) -> Vec<u8> {
        let mut payload = [offset.to_be_bytes(), 0_i64.to_be_bytes()].concat();
        payload.extend(1_u32.to_be_bytes());
        payload.extend(7_i64.to_be_bytes());
        payload.extend(3_i16.to_be_bytes());
        payload.extend([0; 20]);
        payload.push(batches.len() as u8);
        for (sequence, base) in batches {
            payload.extend([sequence.to_be_bytes(), sequence.to_be_bytes()].concat());
            payload.extend([base.to_be_bytes(), base.to_be_bytes(), [0; 8]].concat());
        }
        small_file(b"DJpr", &payload)
    }

    fn verdict(offset: i64, batches: &[(i32, i64)]) -> bool {
        // Sequences wrap from 2^31 - 1 to 0 at offset 2; seven batches.
        let first = i32::MAX - 1;
        let log: Vec<u8> = (0..7)
            .flat_map(|n| of_producer(n, if n < 2 { first + n as i32 } else { n as i32 - 2 }))
            .collect();
        let file = snapshot(offset, batches);
        let (log_name, name) = (format!("{:020}.log", 0), format!("{offset:020}.producers"));
        let names: Names<'_> = [(&log_name[..], &log[..]), (&name[..], &file[..])].into();
        check(FOLDER, &names, &Logs::of_segment(&log), false).is_some()
    }

    /// The same of a compacted log that has these batches (sequence and offset) left.
    fn left_verdict(offset: i64, batches: &[(i32, i64)], left: &[(i32, i64)]) -> bool {
        let log: Vec<u8> = left.iter().flat_map(|(sequence, base)| of_producer(*base, *sequence)).collect();
        let file = snapshot(offset, batches);
        let (log_name, name) = (format!("{:020}.log", 0), format!("{offset:020}.producers"));
        let names: Names<'_> = [(&log_name[..], &log[..]), (&name[..], &file[..])].into();
        check(FOLDER, &names, &Logs::of_segment(&log), true).is_some()
    }

    #[test]
    fn compaction_may_leave_only_the_last_batch_and_invents_none() {
        let known = [(2, 2), (3, 3), (4, 4), (5, 5), (6, 6)];
        assert!(!left_verdict(7, &known, &[(6, 6)]));
        assert!(!left_verdict(7, &known, &[(0, 0), (3, 3), (6, 6)]), "an older one was left as well");
        assert!(left_verdict(7, &known, &[(0, 0), (3, 3)]), "the log ends before the snapshot");
        assert!(left_verdict(7, &known, &[(4, 4), (7, 6)]), "another sequence");
        assert!(!left_verdict(7, &known, &[(4, 4), (8, 8)]), "a newer batch is the last one now");
    }

    #[test]
    fn a_snapshot_that_a_replay_does_not_give_is_found() {
        let top = i32::MAX;
        assert!(!verdict(3, &[(top - 1, 0), (top, 1), (0, 2)]));
        assert!(!verdict(7, &[(0, 2), (1, 3), (2, 4), (3, 5), (4, 6)]), "the last five");
        assert!(verdict(7, &[(1, 3), (2, 4), (3, 5), (4, 6)]), "only four");
        assert!(verdict(3, &[(top - 1, 0), (top, 1), (1, 2)]), "another sequence");
        assert!(verdict(3, &[(top - 1, 0), (top, 1)]), "one is missing");
        assert!(verdict(2, &[(top - 1, 0), (top, 1), (0, 2)]), "one from behind the snapshot");
        assert!(verdict(8, &[(0, 2), (1, 3), (2, 4), (3, 5), (4, 6)]), "from beyond the end");
    }
}
