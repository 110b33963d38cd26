//! The in-sync set as its leader sees it: who counts, and how far all of them are.
//!
//! Owns: the members that the controller committed, those that the leader proposed and got no answer about, and
//! what every follower reported with its last fetch of this leader epoch.
//! Promises: the common end is taken over the *maximal* set (members and proposed), because the controller may
//! have committed a proposal whose answer is still under way (KIP-497, REP-4); a report of another leader epoch
//! never counts (KIP-320, REP-6).
//! Leaves out: who should join or leave (the controller decides, the leader proposes), and disks.
//! Called by `leader`, which asks for the common end after every event.
//!
//! ```text
//!   durable:     own flushed end ─┐              replicated:  own log end ──┐
//!     durable end of every member ┴─ min         fetch offset of every member ┴─ min
//! ```

use std::collections::{BTreeMap, BTreeSet};

use dejaq_storage::mutant;
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};

use super::policy::Durability;

/// What a follower reported with a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The leader epoch that the follower fetched in.
    pub epoch: LeaderEpoch,
    /// The follower's log end: everything below it is written there.
    pub fetched: Offset,
    /// The follower's flushed end: everything below it is synced there. `durable <= fetched`.
    pub durable: Offset,
}

/// The replicas of a partition by their duty.
#[derive(Debug, Clone)]
pub struct Isr {
    me: BrokerId,
    epoch: LeaderEpoch,
    replicas: BTreeSet<BrokerId>,
    /// Committed by the controller; holds `me`.
    members: BTreeSet<BrokerId>,
    /// Proposed by us, not answered yet; disjoint from `members`.
    proposed: BTreeSet<BrokerId>,
    reports: BTreeMap<BrokerId, Report>,
}

impl Isr {
    /// The set at the start of a leader: nobody has reported in this epoch yet.
    ///
    /// `members` is a subset of `replicas` and holds `me`.
    #[must_use]
    pub fn new(
        me: BrokerId,
        epoch: LeaderEpoch,
        replicas: BTreeSet<BrokerId>,
        members: BTreeSet<BrokerId>,
    ) -> Isr {
        let isr = Isr { me, epoch, replicas, members, proposed: BTreeSet::new(), reports: BTreeMap::new() };
        isr.check();
        isr
    }

    /// The set of a partition with one replica.
    #[must_use]
    pub fn alone(me: BrokerId, epoch: LeaderEpoch) -> Isr {
        Isr::new(me, epoch, BTreeSet::from([me]), BTreeSet::from([me]))
    }

    /// Whether enough members are in sync to promise anything: `min_insync`, or all replicas if there are fewer.
    #[must_use]
    pub fn is_enough(&self, min_insync: u32) -> bool {
        let needed = (min_insync as usize).min(self.replicas.len());
        self.members.len() >= needed
    }

    /// Takes a follower's report; false if it must not count (another epoch, not a replica).
    pub fn report(&mut self, broker: BrokerId, report: Report) -> bool {
        assert!(report.durable <= report.fetched, "{broker:?} reports {report:?}: durable beyond written");
        assert!(report.fetched.is_valid(), "{broker:?} reports the offset {:?}", report.fetched);
        assert!(broker != self.me, "{broker:?} reports to itself");
        if report.epoch != self.epoch || !self.replicas.contains(&broker) {
            return false;
        }
        self.reports.insert(broker, report);
        self.check();
        true
    }

    /// Counts `broker` from now on, because we are about to ask the controller to add it.
    pub fn propose(&mut self, broker: BrokerId) {
        assert!(self.replicas.contains(&broker), "{broker:?} is proposed but is no replica");
        if !self.members.contains(&broker) {
            self.proposed.insert(broker);
        }
        self.check();
    }

    /// Takes the set that the controller committed; it answers every proposal.
    pub fn commit(&mut self, members: BTreeSet<BrokerId>) {
        assert!(members.contains(&self.me), "{:?} leads but is not in {members:?}", self.me);
        self.members = members;
        self.proposed.clear();
        self.check();
    }

    /// The offset below which every replica of the maximal set has everything, given our own end by the same policy.
    ///
    /// `None` if a member has not reported in this epoch: then nothing is known, and nothing moves.
    #[must_use]
    pub fn common_end(&self, own: Offset, durability: Durability) -> Option<Offset> {
        let mut end = own;
        let nobody = BTreeSet::new();
        let proposed = if mutant!(2) { &nobody } else { &self.proposed };
        for broker in self.members.union(proposed) {
            if *broker == self.me {
                continue;
            }
            let report = self.reports.get(broker)?;
            assert!(
                report.epoch == self.epoch,
                "{broker:?} counts with {:?} in {:?}",
                report.epoch,
                self.epoch
            );
            end = end.min(match durability {
                Durability::Durable => report.durable,
                Durability::Replicated | Durability::None => report.fetched,
            });
        }
        assert!(end <= own, "the common end {end:?} lies beyond our own {own:?}");
        Some(end)
    }

    /// The committed members, ascending.
    #[must_use]
    pub fn members(&self) -> &BTreeSet<BrokerId> {
        &self.members
    }

    fn check(&self) {
        assert!(self.replicas.contains(&self.me), "{:?} is no replica of {:?}", self.me, self.replicas);
        assert!(self.members.contains(&self.me), "{:?} is not in sync with itself", self.me);
        assert!(
            self.members.len() <= self.replicas.len(),
            "{:?} outnumber {:?}",
            self.members,
            self.replicas
        );
        assert!(
            self.proposed.len() + self.members.len() <= self.replicas.len(),
            "{:?} and {:?}",
            self.members,
            self.proposed
        );
        assert!(self.reports.len() < self.replicas.len(), "reports of {:?}", self.reports.keys());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: LeaderEpoch = LeaderEpoch(5);

    fn three() -> Isr {
        let replicas = BTreeSet::from([BrokerId(1), BrokerId(2), BrokerId(3)]);
        Isr::new(BrokerId(1), EPOCH, replicas, BTreeSet::from([BrokerId(1), BrokerId(2)]))
    }

    fn at(fetched: i64, durable: i64) -> Report {
        Report { epoch: EPOCH, fetched: Offset(fetched), durable: Offset(durable) }
    }

    #[test]
    fn alone_the_common_end_is_our_own() {
        let isr = Isr::alone(BrokerId(1), EPOCH);
        assert_eq!(isr.common_end(Offset(7), Durability::Durable), Some(Offset(7)));
        assert!(isr.is_enough(1));
        assert!(isr.is_enough(2), "one replica is all there can be");
    }

    #[test]
    fn a_silent_member_holds_everything() {
        assert_eq!(three().common_end(Offset(7), Durability::Replicated), None);
    }

    #[test]
    fn the_policy_decides_which_end_of_a_member_counts() {
        let mut isr = three();
        assert!(isr.report(BrokerId(2), at(6, 4)));
        assert_eq!(isr.common_end(Offset(7), Durability::Replicated), Some(Offset(6)));
        assert_eq!(isr.common_end(Offset(7), Durability::Durable), Some(Offset(4)));
    }

    #[test]
    fn a_report_of_an_older_epoch_does_not_count() {
        let mut isr = three();
        assert!(!isr.report(BrokerId(2), Report { epoch: LeaderEpoch(4), ..at(9, 9) }));
        assert_eq!(isr.common_end(Offset(9), Durability::Durable), None);
    }

    #[test]
    fn a_proposed_member_counts_before_the_controller_answers() {
        let mut isr = three();
        isr.report(BrokerId(2), at(9, 9));
        isr.report(BrokerId(3), at(5, 5));
        assert_eq!(isr.common_end(Offset(9), Durability::Durable), Some(Offset(9)));
        isr.propose(BrokerId(3));
        assert_eq!(isr.common_end(Offset(9), Durability::Durable), Some(Offset(5)));
        isr.commit(BTreeSet::from([BrokerId(1), BrokerId(2)]));
        assert_eq!(isr.common_end(Offset(9), Durability::Durable), Some(Offset(9)));
    }

    #[test]
    fn a_shrunk_set_is_not_enough() {
        let mut isr = three();
        assert!(isr.is_enough(2));
        isr.commit(BTreeSet::from([BrokerId(1)]));
        assert!(!isr.is_enough(2));
    }

    #[test]
    #[should_panic(expected = "durable beyond written")]
    fn a_follower_cannot_have_synced_what_it_has_not_written() {
        three().report(BrokerId(2), at(3, 4));
    }
}
