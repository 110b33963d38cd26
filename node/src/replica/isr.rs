//! The in-sync set as its leader sees it: who counts, how far all of them are, who should join or leave.
//!
//! Owns: the members that the controller committed, the set that the leader proposed and got no answer about, and
//! what every follower reported in this leader epoch.
//! Promises: the common end is taken over the *maximal* set (members and proposed), because the controller may
//! have committed a proposal whose answer is still under way (KIP-497, REP-4); a report of another leader epoch, or
//! of an earlier life of the follower, never counts (KIP-320, KIP-903, REP-6); one proposal at a time; who is
//! proposed to join has everything that was promised, in this epoch, by the policy's measure (REP-13).
//! Leaves out: whether a proposal is taken (the controller decides), asking it (`insync`), and disks.
//! Called by `leader`, which asks for the common end after every event.
//!
//! ```text
//!   durable:     own flushed end ─┐              replicated:  own log end ──┐
//!     durable end of every member ┴─ min         fetch offset of every member ┴─ min
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dejaq_storage::{buggify, mark, mutant};
use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};

use super::policy::Durability;
use crate::runtime::Mono;

/// What a follower reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The leader epoch that the follower fetched in.
    pub epoch: LeaderEpoch,
    /// The life of the follower in which it fetched.
    pub life: BrokerEpoch,
    /// The follower's log end: everything below it is written there.
    pub fetched: Offset,
    /// The follower's flushed end: everything below it is synced there. `durable <= fetched`.
    pub durable: Offset,
}

impl Report {
    /// The end that counts under this policy.
    fn end(&self, durability: Durability) -> Offset {
        match durability {
            Durability::Durable => self.durable,
            Durability::Replicated | Durability::None => self.fetched,
        }
    }
}

/// The brokers that may be in sync, and when each of them was heard of.
#[derive(Debug, Clone, Default)]
pub struct Lives {
    /// Brokers that are neither fenced nor stopping, by the metadata, with their current life.
    pub live: BTreeMap<BrokerId, BrokerEpoch>,
    /// When each follower last fetched anything from us.
    pub heard: BTreeMap<BrokerId, Mono>,
}

/// The ends of the leader's log that decide who is in sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// What a replica that joins must have.
    pub floor: Offset,
    /// End of the log.
    pub local_end: Offset,
    /// End of what is visible.
    pub watermark: Offset,
    /// What a member must have to stay, by `replica.lag.max.messages`.
    pub leash: Offset,
}

/// An in-sync set to propose to the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// In which epoch we lead.
    pub leader_epoch: LeaderEpoch,
    /// Which state of the partition we saw.
    pub partition_epoch: i32,
    /// Who is in sync, each with the life in which it fetched; us among them, unless another is to lead.
    pub isr: Vec<(BrokerId, BrokerEpoch)>,
    /// Whether a member leaves; else one joins.
    pub shrinks: bool,
}

/// What a follower is known to have.
#[derive(Debug, Clone, Copy)]
struct Follower {
    report: Report,
    /// When that came, and where our log ended then.
    at: (Mono, Offset),
    /// The last time at which it had everything that we had.
    caught_up: Mono,
}

/// A proposal that is not answered.
#[derive(Debug, Clone)]
struct Pending {
    members: BTreeSet<BrokerId>,
    proposal: Proposal,
    /// It was asked, and there was no answer: the controller may have taken it, or take it yet.
    unsure_since: Option<Mono>,
}

/// A proposal without an answer is not forgotten for so long, though a later copy of it was refused.
const UNSURE: Duration = Duration::from_secs(30);

/// The replicas of a partition by their duty.
#[derive(Debug, Clone)]
pub struct Isr {
    me: BrokerId,
    epoch: LeaderEpoch,
    partition_epoch: i32,
    replicas: BTreeSet<BrokerId>,
    /// Committed by the controller; holds `me`.
    members: BTreeSet<BrokerId>,
    pending: Option<Pending>,
    followers: BTreeMap<BrokerId, Follower>,
    /// When this leader began: before, nobody could report.
    since: Mono,
}

impl Isr {
    /// The set at the start of a leader: nobody has reported in this epoch yet.
    ///
    /// `members` is a subset of `replicas` and holds `me`.
    #[must_use]
    pub fn new(
        me: BrokerId,
        epoch: LeaderEpoch,
        partition_epoch: i32,
        replicas: BTreeSet<BrokerId>,
        members: BTreeSet<BrokerId>,
        since: Mono,
    ) -> Isr {
        let (pending, followers) = (None, BTreeMap::new());
        let isr = Isr { me, epoch, partition_epoch, replicas, members, pending, followers, since };
        isr.check();
        isr
    }

    /// Whether enough members are in sync to promise anything: `min_insync`, or all replicas if there are fewer.
    #[must_use]
    pub fn is_enough(&self, min_insync: u32) -> bool {
        let needed = (min_insync as usize).min(self.replicas.len());
        self.members.len() >= needed
    }

    /// Takes a follower's report at `now`, when our log ends at `local_end`; false if it must not count (another
    /// epoch, an earlier life, not a replica). One that `moves_on` only never takes back what was reported before.
    pub fn report(
        &mut self,
        broker: BrokerId,
        report: Report,
        moves_on: bool,
        (now, local_end): (Mono, Offset),
        durability: Durability,
    ) -> bool {
        assert!(report.durable <= report.fetched, "{broker:?} reports {report:?}: durable beyond written");
        assert!(report.fetched.is_valid(), "{broker:?} reports the offset {:?}", report.fetched);
        assert!(broker != self.me, "{broker:?} reports to itself");
        // The planted bug M04: a fetch of an earlier epoch counts.
        let is_other = report.epoch != self.epoch && !mutant!(4);
        if is_other || !self.replicas.contains(&broker) {
            return false;
        }
        let before = self.followers.get(&broker);
        if before.is_some_and(|before| report.life < before.report.life) {
            return false;
        }
        let before = before.filter(|before| before.report.life == report.life);
        let mut report = report;
        if let Some(before) = before.filter(|_| moves_on) {
            report.fetched = report.fetched.max(before.report.fetched);
            report.durable = report.durable.max(before.report.durable);
        }
        let end = report.end(durability);
        let mut caught_up = before.map_or(self.since, |before| before.caught_up);
        if end >= local_end {
            caught_up = now;
        } else if let Some(before) = before
            && end >= before.at.1
        {
            caught_up = caught_up.max(before.at.0);
        }
        self.followers.insert(broker, Follower { report, at: (now, local_end), caught_up });
        self.check();
        true
    }

    /// Whether a replica told its position in this epoch; true of who is none.
    #[must_use]
    pub fn has_heard(&self, broker: BrokerId) -> bool {
        self.followers.contains_key(&broker) || !self.replicas.contains(&broker)
    }

    /// Nothing is known of this follower any more: it begins anew.
    pub fn forget(&mut self, broker: BrokerId) {
        self.followers.remove(&broker);
    }

    /// Takes what the controller committed; false if that is old. It answers what was proposed on an older state.
    pub fn commit(
        &mut self,
        partition_epoch: i32,
        replicas: BTreeSet<BrokerId>,
        members: BTreeSet<BrokerId>,
    ) -> bool {
        assert!(members.contains(&self.me), "{:?} leads but is not in {members:?}", self.me);
        if partition_epoch <= self.partition_epoch {
            mark!("a leader hears of an old state of its partition");
            return false;
        }
        // States in between were not seen: a follower may have been removed and added again, and lost its log.
        // The planted bug M14 keeps what is known of it.
        if partition_epoch > self.partition_epoch + 1 && !mutant!(14) {
            self.followers.clear();
        }
        self.partition_epoch = partition_epoch;
        self.followers.retain(|broker, _| replicas.contains(broker));
        self.replicas = replicas;
        self.members = members;
        self.pending = None;
        self.check();
        true
    }

    /// Learns the current lives of brokers: what an earlier life reported does not count any more.
    pub fn see_lives(&mut self, live: &BTreeMap<BrokerId, BrokerEpoch>) {
        self.followers.retain(|broker, known| live.get(broker).is_none_or(|life| known.report.life >= *life));
    }

    /// The offset below which every replica of the maximal set has everything, given our own end by the same policy.
    ///
    /// `None` if a member has not reported in this epoch: then nothing is known, and nothing moves.
    #[must_use]
    pub fn common_end(&self, own: Offset, durability: Durability) -> Option<Offset> {
        let mut end = own;
        let nobody = BTreeSet::new();
        let proposed = self.pending.as_ref().map_or(&nobody, |pending| &pending.members);
        let proposed = if mutant!(2) { &nobody } else { proposed };
        // Who is in both is asked twice, which changes no minimum.
        for broker in self.members.iter().chain(proposed) {
            if *broker == self.me {
                continue;
            }
            let report = self.followers.get(broker)?.report;
            assert!(
                report.epoch == self.epoch || mutant!(4),
                "{broker:?} counts with {:?} in {:?}",
                report.epoch,
                self.epoch
            );
            end = end.min(report.end(durability));
        }
        assert!(end <= own, "the common end {end:?} lies beyond our own {own:?}");
        Some(end)
    }

    /// What to propose to the controller now, if anything: the same again while the last one is unanswered.
    ///
    /// `floor` is what a replica that joins must have: the watermark, where this epoch began, and the leash. A member that
    /// does not even have what is visible below `watermark` leaves at once: its disk lost it.
    pub fn propose(
        &mut self,
        now: Mono,
        lag: Duration,
        lives: &Lives,
        Ends { floor, local_end, watermark, leash }: Ends,
        durability: Durability,
    ) -> Option<Proposal> {
        if let Some(pending) = &self.pending {
            return Some(pending.proposal.clone());
        }
        self.catch_up(lives, local_end, durability);
        let leaves = |one: &BrokerId| {
            let strays = self.followers.get(one).is_some_and(|known| known.report.end(durability) < leash);
            strays || self.lags(*one, now, lag) || self.lacks(*one, watermark)
        };
        let lagging: Vec<BrokerId> = self.members.iter().copied().filter(leaves).collect();
        let joining: Vec<BrokerId> = self
            .replicas
            .iter()
            .copied()
            .filter(|one| self.may_join(*one, &lives.live, floor, durability))
            .collect();
        if lagging.is_empty() && joining.is_empty() {
            return None;
        }
        let shrinks = !lagging.is_empty();
        let mut members = self.members.clone();
        members.retain(|one| !lagging.contains(one));
        if !shrinks {
            members.extend(joining);
        }
        let mut isr = Vec::with_capacity(members.len());
        for one in &members {
            let reported = self.followers.get(one).map(|known| known.report.life);
            isr.push((*one, reported.or(lives.live.get(one).copied())?));
        }
        let (leader_epoch, partition_epoch) = (self.epoch, self.partition_epoch);
        let proposal = Proposal { leader_epoch, partition_epoch, isr, shrinks };
        self.pending = Some(Pending { members, proposal: proposal.clone(), unsure_since: None });
        self.check();
        Some(proposal)
    }

    /// The set without us, for a leader whose own log has a hole: the controller lets another member lead. `None` while a
    /// proposal is unanswered, while nobody of the others has told that it has all that is visible below `watermark`, and
    /// while they are fewer than `needed`.
    pub fn hand_over(&mut self, lives: &Lives, watermark: Offset, needed: u32) -> Option<Proposal> {
        let mut members = self.members.clone();
        members.remove(&self.me);
        let needed = (needed as usize).min(self.replicas.len());
        let has_all =
            |one: &BrokerId| self.followers.get(one).is_some_and(|known| known.report.fetched >= watermark);
        if self.pending.is_some() || members.len() < needed || !members.iter().any(has_all) {
            return None;
        }
        let mut isr = Vec::with_capacity(members.len());
        for one in &members {
            isr.push((*one, *lives.live.get(one)?));
        }
        mark!("a leader with a damaged log lets another lead");
        let (leader_epoch, partition_epoch) = (self.epoch, self.partition_epoch);
        let proposal = Proposal { leader_epoch, partition_epoch, isr, shrinks: true };
        self.pending = Some(Pending { members, proposal: proposal.clone(), unsure_since: None });
        self.check();
        Some(proposal)
    }

    /// Whether somebody outside the set could join now.
    #[must_use]
    pub fn wants(
        &self,
        live: &BTreeMap<BrokerId, BrokerEpoch>,
        floor: Offset,
        durability: Durability,
    ) -> bool {
        let mut outside = self.replicas.difference(&self.members);
        self.pending.is_none() && outside.any(|one| self.may_join(*one, live, floor, durability))
    }

    /// Whether a member lacks what is visible below `watermark`.
    #[must_use]
    pub fn is_broken(&self, watermark: Offset) -> bool {
        self.pending.is_none() && self.members.iter().any(|one| self.lacks(*one, watermark))
    }

    /// No answer came to the proposal: it may be in force, or come into force yet.
    pub fn unsure(&mut self, proposed_on: i32, now: Mono) {
        if let Some(pending) = self.pending.as_mut().filter(|one| one.proposal.partition_epoch == proposed_on)
        {
            pending.unsure_since = Some(now);
        }
    }

    /// The controller refused the proposal, and nothing of it is in force; true if it is given up.
    pub fn refused(&mut self, proposed_on: i32, now: Mono) -> bool {
        let Some(pending) = self.pending.as_ref().filter(|one| one.proposal.partition_epoch == proposed_on)
        else {
            return false;
        };
        if pending.unsure_since.is_some_and(|since| now.since(since) < UNSURE) {
            mark!("a refused proposal is counted on, because an earlier copy may be under way");
            return false;
        }
        self.pending = None;
        true
    }

    /// A follower that has all there is has it as of the last time that it was heard of.
    fn catch_up(&mut self, lives: &Lives, local_end: Offset, durability: Durability) {
        for (broker, known) in &mut self.followers {
            if known.report.end(durability) >= local_end
                && let Some(heard) = lives.heard.get(broker)
            {
                known.caught_up = known.caught_up.max(*heard);
            }
        }
    }

    fn lacks(&self, broker: BrokerId, watermark: Offset) -> bool {
        self.followers.get(&broker).is_some_and(|known| known.report.fetched < watermark)
    }

    fn lags(&self, broker: BrokerId, now: Mono, lag: Duration) -> bool {
        let caught_up = self.followers.get(&broker).map_or(self.since, |known| known.caught_up);
        broker != self.me && (now.since(caught_up) > lag || buggify!("a follower counts as late", 2))
    }

    fn may_join(
        &self,
        broker: BrokerId,
        live: &BTreeMap<BrokerId, BrokerEpoch>,
        floor: Offset,
        durability: Durability,
    ) -> bool {
        if self.members.contains(&broker) {
            return false;
        }
        let (Some(known), Some(life)) = (self.followers.get(&broker), live.get(&broker)) else {
            return false;
        };
        known.report.life == *life && known.report.end(durability) >= floor
    }

    /// Our own id.
    #[must_use]
    pub fn me(&self) -> BrokerId {
        self.me
    }

    /// The committed members, ascending.
    #[must_use]
    pub fn members(&self) -> &BTreeSet<BrokerId> {
        &self.members
    }

    /// Every replica, ascending.
    #[must_use]
    pub fn replicas(&self) -> &BTreeSet<BrokerId> {
        &self.replicas
    }

    /// What was proposed and is not answered.
    #[must_use]
    pub fn proposed(&self) -> Option<&Proposal> {
        self.pending.as_ref().map(|pending| &pending.proposal)
    }

    /// The offset below which `count` of those that may lead next have everything, given our own end by the same policy; of
    /// all replicas, if there are not so many. Zero while fewer are in sync.
    #[must_use]
    pub fn held_by(&self, count: usize, own: Offset, durability: Durability) -> Offset {
        assert!(count > 0, "nobody is asked for a copy");
        let proposed = self.pending.as_ref().map(|pending| &pending.members);
        // A member of one set only may be out of the set, or not in it yet.
        let counts = |one: &&BrokerId| proposed.is_none_or(|proposed| proposed.contains(*one));
        let mut ends: Vec<Offset> = Vec::with_capacity(self.members.len());
        for one in self.members.iter().filter(counts) {
            let known = self.followers.get(one).map(|known| known.report.end(durability));
            ends.push(if *one == self.me { own } else { known.unwrap_or(Offset::ZERO) });
        }
        ends.sort_unstable_by(|one, other| other.cmp(one));
        let held = ends.get(count.min(self.replicas.len()) - 1).copied().unwrap_or(Offset::ZERO);
        held.min(own)
    }

    /// What each follower reported that counts now.
    pub fn reports(&self) -> impl Iterator<Item = (BrokerId, Report)> {
        self.followers.iter().map(|(broker, known)| (*broker, known.report))
    }

    /// Counts the changes of the partition.
    #[must_use]
    pub fn partition_epoch(&self) -> i32 {
        self.partition_epoch
    }

    /// What each follower that reported in this epoch has written.
    pub fn fetched(&self) -> impl Iterator<Item = (BrokerId, Offset)> {
        self.followers.iter().map(|(broker, known)| (*broker, known.report.fetched))
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
        if let Some(pending) = &self.pending {
            assert!(pending.members.is_subset(&self.replicas), "{pending:?} of {:?}", self.replicas);
            // Without us only where another is to lead instead.
            let is_led = pending.members.contains(&self.me) || pending.proposal.shrinks;
            assert!(is_led && !pending.members.is_empty(), "{:?} is not in {pending:?}", self.me);
        }
        assert!(self.followers.len() < self.replicas.len(), "reports of {:?}", self.followers.keys());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: LeaderEpoch = LeaderEpoch(5);
    const LIFE: BrokerEpoch = BrokerEpoch(7);
    const LAG: Duration = Duration::from_secs(10);
    const DURABLE: Durability = Durability::Durable;

    fn set(brokers: &[i32]) -> BTreeSet<BrokerId> {
        brokers.iter().map(|id| BrokerId(*id)).collect()
    }

    fn three() -> Isr {
        Isr::new(BrokerId(1), EPOCH, 0, set(&[1, 2, 3]), set(&[1, 2]), Mono(0))
    }

    fn at(fetched: i64, durable: i64) -> Report {
        Report { epoch: EPOCH, life: LIFE, fetched: Offset(fetched), durable: Offset(durable) }
    }

    fn tell(isr: &mut Isr, broker: i32, report: Report) -> bool {
        isr.report(BrokerId(broker), report, false, (Mono(0), Offset(9)), DURABLE)
    }

    fn second(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    fn lives(heard: &[(i32, u64)]) -> Lives {
        Lives {
            live: [1, 2, 3].map(|id| (BrokerId(id), LIFE)).into(),
            heard: heard.iter().map(|(id, at)| (BrokerId(*id), second(*at))).collect(),
        }
    }

    fn ends(floor: i64, local_end: i64, watermark: i64) -> Ends {
        let (floor, local_end, watermark) = (Offset(floor), Offset(local_end), Offset(watermark));
        Ends { floor, local_end, watermark, leash: Offset(0) }
    }

    #[test]
    fn only_who_may_lead_next_holds_a_copy() {
        let mut isr = three();
        for (broker, end) in [(2, 5), (3, 9)] {
            assert!(tell(&mut isr, broker, at(end, end)));
        }
        let held = |isr: &Isr, count| isr.held_by(count, Offset(7), DURABLE);
        assert_eq!(held(&isr, 1), Offset(7));
        assert_eq!(held(&isr, 2), Offset(5), "3 is not in sync");
        assert_eq!(held(&isr, 3), Offset(0), "nor are three");
        assert_eq!(held(&isr, 9), Offset(0), "of three at most");
        assert_eq!(proposed(&mut isr, 1, &lives(&[]), 9), Some(vec![1, 2, 3]));
        assert_eq!(held(&isr, 2), Offset(5), "3 is not in the committed set");
        isr.commit(1, set(&[1, 2, 3]), set(&[1, 2, 3]));
        assert_eq!((held(&isr, 2), held(&isr, 9)), (Offset(7), Offset(5)));
        let late =
            isr.propose(second(60), LAG, &lives(&[]), ends(0, 20, 0), DURABLE).map(|late| late.isr.len());
        assert_eq!(late, Some(1));
        assert_eq!((held(&isr, 1), held(&isr, 2)), (Offset(7), Offset(0)), "2 and 3 may be out");
    }

    fn proposed(isr: &mut Isr, now: u64, lives: &Lives, floor: i64) -> Option<Vec<i32>> {
        let proposal = isr.propose(second(now), LAG, lives, ends(floor, 9, 0), DURABLE)?;
        Some(proposal.isr.iter().map(|(broker, _)| broker.0).collect())
    }

    #[test]
    fn alone_the_common_end_is_our_own() {
        let isr = Isr::new(BrokerId(1), EPOCH, 0, set(&[1]), set(&[1]), Mono(0));
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
        assert!(tell(&mut isr, 2, at(6, 4)));
        assert_eq!(isr.common_end(Offset(7), Durability::Replicated), Some(Offset(6)));
        assert_eq!(isr.common_end(Offset(7), Durability::Durable), Some(Offset(4)));
    }

    #[test]
    fn a_report_of_an_older_epoch_or_an_earlier_life_does_not_count() {
        let mut isr = three();
        assert!(!tell(&mut isr, 2, Report { epoch: LeaderEpoch(4), ..at(9, 9) }));
        assert_eq!(isr.common_end(Offset(9), DURABLE), None);
        assert!(tell(&mut isr, 2, at(5, 5)));
        assert!(!tell(&mut isr, 2, Report { life: BrokerEpoch(6), ..at(9, 9) }));
        assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(5)));
        isr.see_lives(&[(BrokerId(2), BrokerEpoch(8))].into());
        assert_eq!(isr.common_end(Offset(9), DURABLE), None, "it must report in its new life");
    }

    #[test]
    fn a_proposed_member_counts_before_the_controller_answers() {
        let mut isr = three();
        tell(&mut isr, 2, at(9, 9));
        tell(&mut isr, 3, at(5, 5));
        assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(9)));
        assert_eq!(proposed(&mut isr, 0, &lives(&[]), 6), None, "it lacks what was promised");
        assert_eq!(proposed(&mut isr, 0, &lives(&[]), 5), Some(vec![1, 2, 3]));
        assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(5)));
        assert!(!isr.commit(0, set(&[1, 2, 3]), set(&[1, 2])), "an old state answers nothing");
        assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(5)));
        assert!(isr.commit(1, set(&[1, 2, 3]), set(&[1, 2])));
        assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(9)));
    }

    #[test]
    fn a_leader_with_a_hole_names_the_others_if_they_can_commit_without_it() {
        let whole = || Isr::new(BrokerId(1), EPOCH, 0, set(&[1, 2, 3]), set(&[1, 2, 3]), Mono(0));
        let over = |isr: &mut Isr, min| {
            let proposal = isr.hand_over(&lives(&[]), Offset(5), min)?;
            Some(proposal.isr.iter().map(|(broker, _)| broker.0).collect::<Vec<_>>())
        };
        let mut isr = whole();
        assert_eq!(over(&mut isr, 2), None, "nobody has told what it has");
        tell(&mut isr, 2, at(4, 4));
        assert_eq!(over(&mut isr, 2), None, "2 lacks what is visible");
        tell(&mut isr, 3, at(5, 5));
        assert_eq!(over(&mut isr, 3), None, "two do not commit");
        assert_eq!(over(&mut isr, 2), Some(vec![2, 3]));
        assert_eq!(over(&mut isr, 2), None, "it is asked once");
        assert!(isr.refused(0, Mono(0)));
        assert_eq!(over(&mut isr, 2), Some(vec![2, 3]));
        assert_eq!(over(&mut three(), 2), None, "alone with one, it stays");
    }

    #[test]
    fn under_durable_what_is_only_written_lets_nobody_join() {
        let mut isr = three();
        tell(&mut isr, 2, at(9, 9));
        tell(&mut isr, 3, at(9, 5));
        assert_eq!(proposed(&mut isr, 0, &lives(&[]), 6), None);
    }

    #[test]
    fn who_is_not_live_or_lives_anew_is_not_proposed() {
        let mut isr = three();
        tell(&mut isr, 2, at(9, 9));
        tell(&mut isr, 3, at(9, 9));
        let mut fenced = lives(&[]);
        fenced.live.remove(&BrokerId(3));
        assert_eq!(proposed(&mut isr, 0, &fenced, 5), None);
        fenced.live.insert(BrokerId(3), LIFE.next());
        assert_eq!(proposed(&mut isr, 0, &fenced, 5), None);
    }

    #[test]
    fn a_member_that_lags_for_too_long_leaves_and_one_that_is_idle_stays() {
        let mut isr = three();
        tell(&mut isr, 2, at(9, 9));
        assert_eq!(proposed(&mut isr, 11, &lives(&[(2, 10)]), 0), None, "it has everything and is heard");
        assert_eq!(proposed(&mut isr, 21, &lives(&[(2, 10)]), 0), Some(vec![1]));
        let mut isr = three();
        tell(&mut isr, 2, at(8, 8));
        assert_eq!(proposed(&mut isr, 10, &lives(&[(2, 10)]), 0), None);
        assert_eq!(proposed(&mut isr, 11, &lives(&[(2, 11)]), 0), Some(vec![1]), "heard, but behind");
    }

    #[test]
    fn a_member_that_lacks_too_many_records_leaves_however_often_it_is_heard() {
        let mut isr = three();
        tell(&mut isr, 2, at(8, 6));
        let leash = |leash| Ends { leash: Offset(leash), ..ends(0, 9, 0) };
        assert_eq!(isr.propose(Mono(0), LAG, &lives(&[(2, 0)]), leash(6), DURABLE), None);
        let shrunk = isr.propose(Mono(0), LAG, &lives(&[(2, 0)]), leash(7), DURABLE).expect("it strays");
        assert!(shrunk.shrinks && shrunk.isr == [(BrokerId(1), LIFE)], "its durable end counts");
    }

    #[test]
    fn a_follower_that_reaches_where_we_were_has_caught_up_then() {
        let mut isr = three();
        let mut tell = |seconds, fetched, end| {
            let now = (second(seconds), Offset(end));
            assert!(isr.report(BrokerId(2), at(fetched, fetched), true, now, DURABLE));
        };
        for seconds in 0..30 {
            tell(seconds, seconds as i64, seconds as i64 + 1);
        }
        let lives = lives(&[]);
        assert_eq!(isr.propose(second(30), LAG, &lives, ends(0, 99, 0), DURABLE), None);
    }

    #[test]
    fn a_member_that_lost_what_is_visible_leaves_at_once() {
        let mut isr = three();
        tell(&mut isr, 2, at(9, 9));
        tell(&mut isr, 2, at(4, 4));
        assert!(isr.is_broken(Offset(5)) && !isr.is_broken(Offset(4)));
        let proposal =
            isr.propose(Mono(0), LAG, &lives(&[(2, 0)]), ends(9, 9, 5), DURABLE).expect("it leaves");
        assert!(proposal.shrinks && proposal.isr == [(BrokerId(1), LIFE)]);
    }

    #[test]
    fn a_proposal_without_an_answer_is_kept_and_repeated() {
        let mut isr = three();
        tell(&mut isr, 2, at(9, 9));
        tell(&mut isr, 3, at(9, 9));
        let first = isr.propose(Mono(0), LAG, &lives(&[]), ends(0, 9, 0), DURABLE);
        isr.unsure(0, Mono(0));
        assert!(!isr.refused(0, second(1)), "the first copy may be under way");
        assert_eq!(isr.propose(second(1), LAG, &lives(&[]), ends(0, 9, 0), DURABLE), first);
        assert!(isr.refused(0, second(31)));
    }

    #[test]
    fn what_is_known_of_a_follower_goes_with_states_that_were_not_seen() {
        let mut isr = three();
        tell(&mut isr, 2, at(9, 9));
        assert!(isr.commit(1, set(&[1, 2, 3]), set(&[1, 2])));
        assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(9)));
        assert!(isr.commit(3, set(&[1, 2, 3]), set(&[1, 2])), "removed in 2, added again in 3");
        assert_eq!(isr.common_end(Offset(9), DURABLE), None);
    }

    #[test]
    fn a_shrunk_set_is_not_enough() {
        let mut isr = three();
        assert!(isr.is_enough(2));
        isr.commit(1, set(&[1, 2, 3]), set(&[1]));
        assert!(!isr.is_enough(2));
    }

    #[test]
    #[should_panic(expected = "durable beyond written")]
    fn a_follower_cannot_have_synced_what_it_has_not_written() {
        tell(&mut three(), 2, at(3, 4));
    }
}
