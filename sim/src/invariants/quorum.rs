//! MQ-2, MQ-4 and MQ-6: what the quorum says, beside what the disks of its voters hold for certain.
//!
//! Source: CORRECTNESS.md 1.3. MQ-4 is asked everywhere: an entry that was committed once is never another one. The others hold at every moment and only grow truer: a vote for a later epoch and a longer log
//! take nothing back. Not asked where disks are replaced or voters change, since then who must hold it is another question.
//! Reads the disks by a parser of its own.

use std::collections::BTreeMap;

use super::Broken;
use super::image::Batch;

/// Where the envelope of a whole file ends: magic, version and length of the payload.
const FRONT: usize = 14;
/// The directory that the vote was given in.
const DIRECTORY: usize = 16;

/// The epoch in the file of a vote; `None` if there is none, or it is no such file.
#[must_use]
pub fn epoch_of_vote(file: &[u8]) -> Option<i32> {
    let mut value = 0_u32;
    for (at, byte) in file.get(FRONT + DIRECTORY..)?.iter().take(5).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i32 ^ -((value & 1) as i32));
        }
    }
    None
}

/// Where a metadata log ends for certain: behind the last batch that stands in its side file, and not before the segment
/// that it begins with.
#[must_use]
pub fn end_of(log: &[Batch]) -> i64 {
    let last =
        log.iter().rev().find(|batch| batch.intact && batch.recorded).map_or(0, |batch| batch.last + 1);
    last.max(log.first().map_or(0, |batch| batch.segment as i64))
}

/// MQ-2: a node leads in `epoch`, so a majority has durably reached it; `reached` are the voters' durable epochs.
#[must_use]
pub fn elected(epoch: i32, reached: &[Option<i32>]) -> Option<Broken> {
    let count = reached.iter().filter(|one| one.is_some_and(|one| one >= epoch)).count();
    too_few(count, reached.len()).then(|| Broken {
        name: "MQ-2",
        evidence: format!(
            "somebody leads in epoch {epoch}; the durable votes of the voters are of {reached:?}"
        ),
    })
}

/// MQ-6: what is committed below `end` a majority of the voters holds durably; `ends` are where their logs end for certain.
#[must_use]
pub fn committed(end: i64, ends: &[i64]) -> Option<Broken> {
    let count = ends.iter().filter(|one| **one >= end).count();
    too_few(count, ends.len()).then(|| Broken {
        name: "MQ-6",
        evidence: format!("the metadata is committed up to {end}; the voters hold it durably up to {ends:?}"),
    })
}

/// MQ-4: of the entries that `node` says are committed, by first offset and epoch, none is another one than was committed
/// before. Those that are new are remembered.
#[must_use]
pub fn stands(known: &mut BTreeMap<i64, i32>, node: u32, committed: &[(i64, i32)]) -> Option<Broken> {
    for (base, epoch) in committed {
        let before = *known.entry(*base).or_insert(*epoch);
        if before != *epoch {
            return Some(Broken {
                name: "MQ-4",
                evidence: format!(
                    "broker {node} has an entry of epoch {epoch} at {base}; one of epoch {before} was committed there"
                ),
            });
        }
    }
    None
}

fn too_few(count: usize, voters: usize) -> bool {
    count < voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_of_a_vote_is_read_as_it_is_written() {
        for (epoch, bytes) in [(0, vec![0]), (5, vec![10]), (300, vec![0xd8, 0x04]), (-1, vec![1])] {
            let file = [vec![0; FRONT + DIRECTORY], bytes, vec![9; 4]].concat();
            assert_eq!(epoch_of_vote(&file), Some(epoch));
        }
        assert_eq!(epoch_of_vote(&[0; 12]), None);
    }

    #[test]
    fn a_leader_whose_votes_are_not_durable_is_found() {
        assert_eq!(elected(4, &[Some(4), Some(5), None]), None);
        assert_eq!(elected(4, &[Some(4), Some(3), None]).map(|broken| broken.name), Some("MQ-2"));
        assert_eq!(elected(1, &[Some(1)]), None);
    }

    #[test]
    fn what_is_committed_on_too_few_disks_is_found() {
        assert_eq!(committed(9, &[9, 12, 3]), None);
        assert_eq!(committed(9, &[9, 8, 3]).map(|broken| broken.name), Some("MQ-6"));
    }

    #[test]
    fn a_committed_entry_that_is_another_one_later_is_found() {
        let mut known = BTreeMap::new();
        assert_eq!(stands(&mut known, 1, &[(0, 1), (3, 2)]), None);
        assert_eq!(stands(&mut known, 2, &[(3, 2), (4, 4)]), None, "the log may begin later");
        assert_eq!(stands(&mut known, 3, &[(3, 3)]).map(|broken| broken.name), Some("MQ-4"));
    }
}
