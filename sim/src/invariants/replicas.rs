//! REP-1g, REP-2, REP-8, REP-16 and MQ-3: what the copies of a log on several disks must have in common.
//!
//! Source: CORRECTNESS.md 1.2, 1.3. `matching` holds at every moment, also above the watermark, because every leader start
//! bumps the leader epoch; `copies` holds at every moment for what acks=all acknowledged under `durability=durable`, on the
//! disks of running and of dead brokers alike; `identical` holds once everything is healed and at rest.

use std::collections::BTreeMap;

use super::Broken;
use super::image::{Batch, Logs};
use super::insight::Sight;
use super::recovery::promised;
use super::resurrection::is_metadata;

/// What the disk of one broker holds at one moment.
#[derive(Debug, Clone)]
pub struct Copy {
    /// The broker.
    pub node: u32,
    /// What its process would read.
    pub written: Logs,
    /// What a power cut at this moment would leave for certain.
    pub durable: Logs,
}

impl Copy {
    /// From the two images of a disk, in which damage is undone.
    #[must_use]
    pub fn of(node: u32, written: Logs, durable: &Logs) -> Copy {
        let durable = promised(durable, &written);
        Copy { node, written, durable }
    }
}

/// Where the first writer of one place was seen.
struct First {
    node: u32,
    batch: Batch,
}

/// REP-2, and MQ-3 of the metadata log: one (offset, leader epoch) names one batch, on whatever disk it lies. In a folder
/// that `gaps` names each disk is compacted for itself, below the newest segment that any of them has: there only the place
/// must be the same.
#[must_use]
pub fn matching(copies: &[Copy], gaps: impl Fn(&str) -> bool) -> Option<Broken> {
    let mut places: BTreeMap<(&str, i64, i32), First> = BTreeMap::new();
    let newest = |folder: &String| {
        let last = copies.iter().filter_map(|copy| copy.written.0.get(folder)?.last());
        last.map(|batch| batch.segment as i64).max().unwrap_or(0)
    };
    for copy in copies {
        for (folder, log) in &copy.written.0 {
            let cleaned_below = if gaps(folder) { newest(folder) } else { i64::MIN };
            for batch in whole(log).filter(|batch| batch.intact) {
                let place = (folder.as_str(), batch.base, batch.epoch);
                let first = places.entry(place).or_insert(First { node: copy.node, batch: *batch });
                let differs = first.batch.crc != batch.crc && batch.base >= cleaned_below;
                if differs || first.batch.last != batch.last {
                    return Some(Broken {
                        name: if is_metadata(folder) { "MQ-3" } else { "REP-2" },
                        evidence: format!(
                            "{folder}: broker {} has {:?}, broker {} has {batch:?}",
                            first.node, first.batch, copy.node
                        ),
                    });
                }
            }
        }
    }
    None
}

/// A log up to a batch whose front was torn off: the CRC that a batch carries covers neither its offset nor its epoch (the
/// record in the side file does), so what has no record and does not follow says nothing, and the next start cuts it.
fn whole(log: &[Batch]) -> impl Iterator<Item = &Batch> {
    let mut end = None;
    log.iter().take_while(move |batch| {
        let follows = batch.base == end.unwrap_or(batch.segment as i64);
        end = Some(batch.last + 1);
        batch.recorded || follows
    })
}

/// REP-1g: of the offset that a client was told, `need` disks durably hold one and the same batch.
#[must_use]
pub fn copies(copies: &[Copy], folder: &str, acked: i64, need: usize) -> Option<Broken> {
    durable_copies(copies, folder, acked, need).map(|evidence| Broken {
        name: "REP-1g",
        evidence: format!("{folder}: offset {acked} was acknowledged, but {evidence}"),
    })
}

/// REP-8 and REP-6: of what a process lets readers see, `need` disks durably hold the last record.
#[must_use]
pub fn visible(copies: &[Copy], sight: &Sight, need: usize) -> Option<Broken> {
    let last = sight.watermark - 1;
    if last < sight.start {
        return None;
    }
    durable_copies(copies, &sight.folder, last, need).map(|evidence| Broken {
        name: "REP-8",
        evidence: format!("{sight:?}, but of its last record {evidence}"),
    })
}

/// REP-8 of one process: what it lets readers see last is, on its own disk, what `need` disks durably hold.
#[must_use]
pub fn own(copies: &[Copy], sight: &Sight, need: usize) -> Option<Broken> {
    let last = sight.watermark - 1;
    let of = |log: &Vec<Batch>| log.iter().find(|batch| (batch.base..=batch.last).contains(&last)).copied();
    let mine =
        copies.iter().find(|copy| copy.node == sight.node)?.written.0.get(&sight.folder).and_then(of)?;
    let same = |copy: &&Copy| {
        let theirs = copy.durable.0.get(&sight.folder).and_then(of);
        theirs
            .is_some_and(|theirs| (theirs.base, theirs.last, theirs.crc) == (mine.base, mine.last, mine.crc))
    };
    let found = copies.iter().filter(same).count();
    (last >= sight.start && found < need).then(|| Broken {
        name: "REP-8",
        evidence: format!("{sight:?}: it shows {mine:?}, which {found} disks of {need} hold durably"),
    })
}

fn durable_copies(copies: &[Copy], folder: &str, acked: i64, need: usize) -> Option<String> {
    let mut counted: BTreeMap<(i64, i64, u32), usize> = BTreeMap::new();
    let mut ends = Vec::new();
    for copy in copies {
        let Some(log) = copy.durable.0.get(folder) else { continue };
        ends.push((copy.node, log.last().map_or(0, |batch| batch.last + 1)));
        if let Some(batch) = log.iter().find(|batch| (batch.base..=batch.last).contains(&acked)) {
            *counted.entry((batch.base, batch.last, batch.crc)).or_default() += 1;
        }
    }
    let most = counted.values().max().copied().unwrap_or(0);
    (most < need).then(|| format!("{most} disks of {need} hold it durably; they end at {ends:?}"))
}

/// REP-16: the copies that `nodes` have of a log are the same from the latest start on, to the end.
#[must_use]
pub fn identical(copies: &[Copy], folder: &str, nodes: &[u32]) -> Option<Broken> {
    let nothing = Vec::new();
    let logs: Vec<(u32, &Vec<Batch>)> = copies
        .iter()
        .filter(|copy| nodes.contains(&copy.node))
        .map(|copy| (copy.node, copy.written.0.get(folder).unwrap_or(&nothing)))
        .collect();
    let start = logs.iter().filter_map(|(_, log)| log.first()).map(|batch| batch.base).max()?;
    let from_start = |log: &Vec<Batch>| -> Vec<(i64, i64, i32, u32)> {
        let behind = log.iter().filter(|batch| batch.last >= start);
        behind.map(|batch| (batch.base, batch.last, batch.epoch, batch.crc)).collect()
    };
    let (first, model) = logs.first().map(|(node, log)| (*node, from_start(log)))?;
    for (node, log) in &logs[1..] {
        let log = from_start(log);
        if log != model {
            let at = log.iter().zip(&model).position(|(a, b)| a != b).unwrap_or(log.len().min(model.len()));
            return Some(Broken {
                name: "REP-16",
                evidence: format!(
                    "{folder}: brokers {first} ({} batches) and {node} ({}) differ from their batch {at} on: {:?} and {:?}",
                    model.len(),
                    log.len(),
                    model.get(at),
                    log.get(at)
                ),
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::image::tests::{batch, rewritten};
    use super::*;

    fn copy(node: u32, batches: &[Vec<u8>]) -> Copy {
        let written = Logs::of(&[("partitions/a-0/00000000000000000000.log".into(), batches.concat())]);
        let durable = written.clone();
        Copy { node, written, durable }
    }

    fn other(mut batch: Vec<u8>) -> Vec<u8> {
        batch[40] ^= 1; // inside of the CRC; the checker compares what the batch says of itself
        let crc = [batch[17] ^ 1, batch[18], batch[19], batch[20]];
        batch[17..21].copy_from_slice(&crc);
        batch
    }

    #[test]
    fn one_place_with_two_contents_is_found_and_two_epochs_are_two_places() {
        let same = [copy(1, &[batch(0, 3, 1), batch(3, 1, 1)]), copy(2, &[batch(0, 3, 1), batch(3, 1, 2)])];
        assert_eq!(matching(&same, |_| false), None);
        let longer = [copy(1, &[batch(0, 3, 1)]), copy(2, &[batch(0, 4, 1)])];
        assert_eq!(matching(&longer, |_| false).map(|broken| broken.name), Some("REP-2"));
    }

    #[test]
    fn what_may_have_been_compacted_need_not_be_the_same_and_the_newest_segment_must_be() {
        let of = |node: u32, first: Vec<u8>, second: Vec<u8>| {
            let file = |base: u64, bytes| (format!("partitions/a-0/{base:020}.log").into(), bytes);
            let written = Logs::of(&[file(0, first), file(3, second)]);
            Copy { node, durable: written.clone(), written }
        };
        let (first, second) = (|| batch(0, 3, 1), || batch(3, 1, 1));
        let cleaned = [of(1, first(), second()), of(2, rewritten(first()), second())];
        assert_eq!(matching(&cleaned, |_| true), None);
        assert_eq!(matching(&cleaned, |_| false).map(|broken| broken.name), Some("REP-2"));
        let newest = [of(1, first(), second()), of(2, first(), rewritten(second()))];
        assert_eq!(matching(&newest, |_| true).map(|broken| broken.name), Some("REP-2"));
        let longer = [of(1, first(), second()), of(2, batch(0, 4, 1), second())];
        assert_eq!(matching(&longer, |_| true).map(|broken| broken.name), Some("REP-2"));
    }

    #[test]
    fn a_batch_whose_front_was_torn_off_is_no_second_one() {
        let torn = |base: i64, count: i32| {
            let mut bytes = batch(base, count, 0);
            bytes[..8].fill(0); // the first sector of it was lost, the CRC still fits
            bytes
        };
        assert_eq!(matching(&[copy(1, &[batch(0, 1, 0), batch(1, 1, 0), torn(2, 3)])], |_| false), None);
        let rival = [copy(1, &[batch(0, 1, 0), batch(1, 1, 0)]), copy(2, &[batch(0, 1, 0), batch(1, 2, 0)])];
        assert_eq!(
            matching(&rival, |_| false).map(|broken| broken.name),
            Some("REP-2"),
            "what follows counts"
        );
    }

    #[test]
    fn an_acknowledged_record_on_too_few_disks_is_found() {
        let two = [copy(1, &[batch(0, 3, 1)]), copy(2, &[batch(0, 3, 1)]), copy(3, &[batch(0, 1, 1)])];
        assert_eq!(copies(&two, "a-0", 2, 2), None);
        assert_eq!(copies(&two, "a-0", 2, 3).map(|broken| broken.name), Some("REP-1g"));
        assert_eq!(copies(&two, "a-0", 3, 1).map(|broken| broken.name), Some("REP-1g"));
        let torn = [copy(1, &[batch(0, 3, 1)]), copy(2, &[other(batch(0, 3, 1))])];
        assert_eq!(copies(&torn, "a-0", 2, 2).map(|broken| broken.name), Some("REP-1g"), "two contents");
    }

    #[test]
    fn a_watermark_above_what_enough_disks_hold_is_found() {
        let disks = [copy(1, &[batch(0, 3, 1)]), copy(2, &[batch(0, 3, 1)]), copy(3, &[batch(0, 1, 1)])];
        let sight = |watermark| Sight {
            node: 3,
            incarnation: 1,
            folder: "a-0".into(),
            leads: false,
            epoch: 1,
            start: 0,
            watermark,
            end: 9,
            inside: None,
        };
        assert_eq!(visible(&disks, &sight(3), 2), None);
        assert_eq!(visible(&disks, &sight(4), 2).map(|broken| broken.name), Some("REP-8"));
        assert_eq!(visible(&disks, &sight(0), 2), None, "nothing is visible");
        let mut parted = disks.to_vec();
        parted[2] = copy(3, &[other(batch(0, 3, 1))]);
        assert_eq!(own(&disks, &Sight { node: 1, ..sight(3) }, 2), None);
        assert_eq!(visible(&parted, &sight(3), 2), None, "two others have it");
        assert_eq!(
            own(&parted, &sight(3), 2).map(|broken| broken.name),
            Some("REP-8"),
            "but it shows another one"
        );
    }

    #[test]
    fn copies_at_rest_that_differ_are_found() {
        let same = [copy(1, &[batch(0, 3, 1), batch(3, 1, 1)]), copy(2, &[batch(3, 1, 1)])];
        assert_eq!(identical(&same, "a-0", &[1, 2]), None, "a start may have moved further");
        let short = [copy(1, &[batch(0, 3, 1), batch(3, 1, 1)]), copy(2, &[batch(0, 3, 1)])];
        assert_eq!(identical(&short, "a-0", &[1, 2]).map(|broken| broken.name), Some("REP-16"));
        assert_eq!(identical(&short, "a-0", &[1]), None);
        let gone = [copy(1, &[batch(0, 3, 1)]), copy(2, &[])];
        assert_eq!(identical(&gone, "a-0", &[1, 2]).map(|broken| broken.name), Some("REP-16"));
    }
}
