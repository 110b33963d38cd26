//! REP-6, REP-13, REP-15 and LOG-7: what a leader does with what it believes of its followers.
//!
//! Source: CORRECTNESS.md 1.1, 1.2. Holds after every step of a leader, since each step ends by raising the watermark as
//! far as it may go. Counts by itself from what the leader was told, so that a wrong count of the product shows.

use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use super::insight::Sight;

/// What a replica believes beyond what readers see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// The newest epoch of its list of epochs; -1 is none.
    pub latest_epoch: i32,
    /// Everything below is synced.
    pub flushed: i64,
    /// What only a leader knows.
    pub leading: Option<Leading>,
}

/// What a leader believes of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leading {
    /// Where its log ended when its epoch began.
    pub epoch_start: i64,
    /// Every replica.
    pub replicas: BTreeSet<u32>,
    /// The in-sync set as it knows it.
    pub members: BTreeSet<u32>,
    /// What it proposed and was not answered.
    pub proposed: Option<Proposed>,
    /// What each follower reported.
    pub reports: BTreeMap<u32, Reported>,
}

/// A proposed in-sync set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// On which state of the partition.
    pub partition_epoch: i32,
    /// Who, in which life.
    pub isr: Vec<(u32, i64)>,
}

/// A follower's position as its leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// In which leader epoch it fetched.
    pub epoch: i32,
    /// In which life.
    pub life: i64,
    /// Its end.
    pub fetched: i64,
    /// The end of what it has synced.
    pub durable: i64,
}

/// The promise of a topic, as the story's plan says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// Whether what counts is synced.
    pub durable: bool,
    /// `min.insync.replicas`.
    pub min_insync: usize,
    /// Whether disks may lose what was synced there (rot that is mended, a replaced disk).
    pub disks_forget: bool,
}

/// See the module.
#[must_use]
pub fn check(sight: &Sight, promise: Promise) -> Option<Broken> {
    let inside = sight.inside.as_ref()?;
    let leading = inside.leading.as_ref().filter(|_| sight.leads)?;
    if inside.latest_epoch != sight.epoch {
        let text = format!("it leads, and its list of epochs ends with {}", inside.latest_epoch);
        return broken("LOG-7", sight, &text);
    }
    if let Some((follower, report)) = leading.reports.iter().find(|(_, report)| report.epoch != sight.epoch) {
        return broken("REP-6", sight, &format!("{follower} counts with {report:?}"));
    }
    let end_of = |report: &Reported| if promise.durable { report.durable } else { report.fetched };
    let proposed = leading.proposed.iter().flat_map(|proposed| proposed.isr.iter().map(|(one, _)| *one));
    let maximal: BTreeSet<u32> =
        leading.members.iter().copied().chain(proposed).filter(|one| *one != sight.node).collect();
    let mut ends = Vec::new();
    for member in &maximal {
        let Some(report) = leading.reports.get(member) else { continue };
        let end = end_of(report);
        if end < sight.watermark && promise.durable && !promise.disks_forget {
            let text = format!("{member} of its maximal in-sync set {maximal:?} told of {end} only");
            return broken("REP-6", sight, &text);
        }
        ends.push(end);
    }
    let needed = promise.min_insync.min(leading.replicas.len());
    let own = if promise.durable { inside.flushed } else { sight.end };
    let common = ends.iter().copied().min().unwrap_or(own).min(own);
    if ends.len() == maximal.len() && leading.members.len() >= needed && common > sight.watermark {
        return broken("REP-15", sight, &format!("all of {maximal:?} have {common}"));
    }
    None
}

fn broken(name: &'static str, sight: &Sight, text: &str) -> Option<Broken> {
    Some(Broken { name, evidence: format!("{sight:?}: {text}") })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn report(epoch: i32, durable: i64) -> Reported {
        Reported { epoch, life: 7, fetched: durable + 1, durable }
    }

    /// Broker 1 leads 1, 2 and 3 in epoch 5; 1 and 2 are in sync, 10 is visible.
    fn leader(reports: &[(u32, Reported)], proposed: &[u32]) -> Sight {
        let isr: Vec<(u32, i64)> = proposed.iter().map(|one| (*one, 7)).collect();
        let leading = Leading {
            epoch_start: 4,
            replicas: [1, 2, 3].into(),
            members: [1, 2].into(),
            proposed: (!isr.is_empty()).then_some(Proposed { partition_epoch: 3, isr }),
            reports: reports.iter().copied().collect(),
        };
        let inside = Some(Inside { latest_epoch: 5, flushed: 12, leading: Some(leading) });
        let folder = "a-0".into();
        Sight {
            node: 1,
            incarnation: 1,
            folder,
            leads: true,
            epoch: 5,
            start: 0,
            watermark: 10,
            end: 14,
            inside,
        }
    }

    fn found(sight: &Sight) -> Option<&'static str> {
        let promise = Promise { durable: true, min_insync: 2, disks_forget: false };
        check(sight, promise).map(|broken| broken.name)
    }

    #[test]
    fn a_watermark_that_the_maximal_set_has_not_is_found() {
        assert_eq!(found(&leader(&[(2, report(5, 10))], &[])), None);
        assert_eq!(found(&leader(&[(2, report(5, 9))], &[])), Some("REP-6"));
        let both = [(2, report(5, 10)), (3, report(5, 9))];
        assert_eq!(found(&leader(&both, &[])), None, "3 is not in sync");
        assert_eq!(found(&leader(&both, &[1, 2, 3])), Some("REP-6"), "it may be by now");
    }

    #[test]
    fn a_report_of_another_epoch_is_found() {
        assert_eq!(found(&leader(&[(2, report(5, 10)), (3, report(4, 10))], &[])), Some("REP-6"));
    }

    #[test]
    fn a_watermark_that_stays_behind_is_found_unless_somebody_is_silent() {
        assert_eq!(found(&leader(&[(2, report(5, 11))], &[])), Some("REP-15"));
        assert_eq!(found(&leader(&[(2, report(5, 11))], &[1, 2, 3])), None, "3 told nothing");
        let mut alone = leader(&[(2, report(5, 11))], &[]);
        alone.inside.as_mut().and_then(|inside| inside.leading.as_mut()).expect("it leads").members =
            [1].into();
        assert_eq!(found(&alone), None, "too few are in sync");
    }

    #[test]
    fn a_leader_whose_epoch_is_nowhere_written_is_found() {
        let mut sight = leader(&[], &[]);
        sight.inside.as_mut().expect("it is open").latest_epoch = 4;
        assert_eq!(found(&sight), Some("LOG-7"));
    }
}
