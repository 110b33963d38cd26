//! The in-sync set as its leader sees it: who counts, how far all of them are, who should join or leave.
//!
//! Owns: the members that the controller committed, the set that the leader proposed and got no answer about, what every
//! follower reported in this leader epoch, and which of them asked to be let go, because they lost something (LOG-5).
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

use dejaq_storage::{OffsetRange, buggify, mark, mutant};
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
    /// What of it is damaged lies in there, as far as is known; `None` if it is whole: whoever lost something can get it here. Empty
    /// if all is there, and only what was made of it may lack something.
    pub holes: Option<OffsetRange>,
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
    /// Replicas that lost what was visible, to damage: nobody may count on them, so that they can fetch it again (LOG-5).
    pub lost: Vec<BrokerId>,
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

/// How many replicas only come, and how many are to go: a reassignment is under way if there are any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moving {
    /// Who only comes: with a move that is taken back it is none, and its copy is deleted.
    pub coming: usize,
    /// Who goes when all of the target are in sync: its copy is deleted then.
    pub going: usize,
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
    moving: Moving,
    /// Committed by the controller; holds `me`.
    members: BTreeSet<BrokerId>,
    pending: Option<Pending>,
    followers: BTreeMap<BrokerId, Follower>,
    /// Who told, in which life, that it wants to cut its log from where on, and waits to be let go.
    lost: BTreeMap<BrokerId, (BrokerEpoch, Offset)>,
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
        let (pending, followers, lost) = (None, BTreeMap::new(), BTreeMap::new());
        let moving = Moving::default();
        let isr =
            Isr { me, epoch, partition_epoch, replicas, moving, members, pending, followers, lost, since };
        isr.check();
        isr
    }

    /// Whether enough members are in sync to promise anything: `min_insync`, or all replicas if there are fewer, those that
    /// only come among them, those that go not. Never fewer than the controller counts (`succession`), of this release or the one before: it
    /// calls whoever left below that complete.
    #[must_use]
    pub fn is_enough(&self, min_insync: u32) -> bool {
        let needed = (min_insync as usize).min(self.replicas.len() - self.moving.going);
        self.members.len() >= needed
    }

    /// Learns whether replicas come or go.
    pub fn moves(&mut self, moving: Moving) {
        self.moving = moving;
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

    /// A follower told, in our epoch, that it wants to cut its log at this offset, whatever its log is worth against ours; or
    /// that it does not any more.
    pub fn lose(&mut self, broker: BrokerId, life: BrokerEpoch, from: Option<Offset>) {
        match from.filter(|_| self.replicas.contains(&broker) && broker != self.me) {
            Some(from) => self.lost.insert(broker, (life, from)),
            None => self.lost.remove(&broker),
        };
        self.check();
    }

    /// From where on a follower wants to cut its log, if it does.
    #[must_use]
    pub fn lost_from(&self, broker: BrokerId) -> Option<Offset> {
        self.lost.get(&broker).map(|(_, from)| *from)
    }

    /// Who waits to be let go.
    pub fn waiting(&self) -> impl Iterator<Item = BrokerId> {
        self.lost.keys().copied()
    }

    /// Whether a follower may cut its log where it told that it wants to: nobody counts on it, nor can anybody yet on account of
    /// what we proposed before, and nothing that we lack is given up with that.
    #[must_use]
    pub fn lets_go(&self, broker: BrokerId, eligible: &[BrokerId], holes: Option<OffsetRange>) -> bool {
        let is_proposed = self.pending.as_ref().is_some_and(|pending| pending.members.contains(&broker));
        let counts = self.members.contains(&broker) || is_proposed || eligible.contains(&broker);
        !counts && self.can_spare(broker, holes)
    }

    /// Whether a follower wants to cut its log, and we have all of what it gives up with that.
    fn can_spare(&self, broker: BrokerId, holes: Option<OffsetRange>) -> bool {
        self.lost.contains_key(&broker) && !holes.is_some_and(|holes| self.has_what_we_lack(broker, holes))
    }

    /// Whether a follower wants to cut its log, and would give up what we lack.
    fn has_what_we_lack(&self, broker: BrokerId, holes: OffsetRange) -> bool {
        self.lost_from(broker).is_some_and(|from| holes.from < holes.to && from < holes.to)
    }

    /// Who wants to cut its log, from where on, and may not, since it would give up what we lack in `holes`.
    #[must_use]
    pub fn withheld(&self, holes: OffsetRange) -> Option<(BrokerId, Offset)> {
        let waiting = self.lost.iter().map(|(one, (_, from))| (*one, *from));
        waiting.into_iter().find(|(one, _)| self.has_what_we_lack(*one, holes))
    }

    /// Nothing is known of this follower any more: it begins anew.
    pub fn forget(&mut self, broker: BrokerId) {
        self.followers.remove(&broker);
        self.lost.remove(&broker);
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
            self.lost.clear();
        }
        self.partition_epoch = partition_epoch;
        self.followers.retain(|broker, _| replicas.contains(broker));
        self.lost.retain(|broker, _| replicas.contains(broker));
        self.replicas = replicas;
        self.members = members;
        self.pending = None;
        self.check();
        true
    }

    /// Learns the current lives of brokers: what an earlier life reported does not count any more.
    pub fn see_lives(&mut self, live: &BTreeMap<BrokerId, BrokerEpoch>) {
        self.followers.retain(|broker, known| live.get(broker).is_none_or(|life| known.report.life >= *life));
        self.lost.retain(|broker, (told, _)| live.get(broker).is_none_or(|life| *told >= *life));
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
    /// does not even have what is visible below `watermark` leaves at once, and so does one that wants to cut its log: its disk
    /// lost it.
    pub fn propose(
        &mut self,
        now: Mono,
        lag: Duration,
        lives: &Lives,
        Ends { floor, local_end, watermark, leash, holes }: Ends,
        durability: Durability,
    ) -> Option<Proposal> {
        if let Some(pending) = &self.pending {
            return Some(pending.proposal.clone());
        }
        self.catch_up(lives, local_end, durability);
        let leaves = |one: &BrokerId| {
            let strays = self.followers.get(one).is_some_and(|known| known.report.end(durability) < leash);
            strays || self.lags(*one, now, lag) || self.lacks(*one, watermark) || self.lost.contains_key(one)
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
        let lost = lagging.iter().copied().filter(|one| self.is_lost(*one, holes, watermark)).collect();
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
        Some(self.put_forward(members, isr, shrinks, lost))
    }

    fn put_forward(
        &mut self,
        members: BTreeSet<BrokerId>,
        isr: Vec<(BrokerId, BrokerEpoch)>,
        shrinks: bool,
        lost: Vec<BrokerId>,
    ) -> Proposal {
        let (leader_epoch, partition_epoch) = (self.epoch, self.partition_epoch);
        let proposal = Proposal { leader_epoch, partition_epoch, isr, shrinks, lost };
        self.pending = Some(Pending { members, proposal: proposal.clone(), unsure_since: None });
        self.check();
        proposal
    }

    /// The set as it is, where one of those that are `eligible` told that it lost something: while it may be elected it must not
    /// cut its log to fetch that again, and without that it never comes back in sync. It can be done without, because we have
    /// all that may have been committed, where we have no holes. Who only comes no further (a full disk) has all that, too, and
    /// may lead.
    pub fn disown(
        &mut self,
        eligible: &[BrokerId],
        lives: &Lives,
        watermark: Offset,
        holes: Option<OffsetRange>,
    ) -> Option<Proposal> {
        let is_lost = |one: &BrokerId| !self.members.contains(one) && self.is_lost(*one, holes, watermark);
        let lost: Vec<BrokerId> = eligible.iter().copied().filter(is_lost).collect();
        if self.pending.is_some() || lost.is_empty() {
            return None;
        }
        let members = self.members.clone();
        let isr = named(&members, lives)?;
        mark!("a damaged replica may not be elected any more");
        Some(self.put_forward(members, isr, false, lost))
    }

    /// The set without us, for a leader whose own log has a hole: the controller lets another member lead. `None` while a
    /// proposal is unanswered, while nobody of the others has told that it has all that is visible below `watermark`, and
    /// while they are fewer than `needed`, or fewer than all of them if all replicas are needed. One that has a hole before ours
    /// takes over, too: it cannot cut it away without what we lack, and we get that as its follower.
    pub fn hand_over(
        &mut self,
        lives: &Lives,
        watermark: Offset,
        needed: u32,
        holes: OffsetRange,
    ) -> Option<Proposal> {
        let mut members = self.members.clone();
        members.remove(&self.me);
        let needed = (needed as usize).min(self.replicas.len() - 1);
        let has_all = |one: &BrokerId| {
            let fetched = self.followers.get(one).is_some_and(|known| known.report.fetched >= watermark);
            fetched && !self.lost.contains_key(one) || self.has_what_we_lack(*one, holes)
        };
        if self.pending.is_some() || members.len() < needed || !members.iter().any(has_all) {
            return None;
        }
        // One that lost something itself would only hand over again, unless it is there for what we lack.
        let mut lost = vec![self.me];
        let is_lost = |one: &BrokerId| self.lost.contains_key(one) && !self.has_what_we_lack(*one, holes);
        let lacking: Vec<BrokerId> =
            members.iter().copied().filter(|one| self.lacks(*one, watermark) || is_lost(one)).collect();
        let has_left = members.iter().any(|one| has_all(one) && !lacking.contains(one));
        if members.len() - lacking.len() >= needed && has_left {
            members.retain(|one| !lacking.contains(one));
            lost.extend(lacking);
        }
        let isr = named(&members, lives)?;
        mark!("a leader with a damaged log lets another lead");
        Some(self.put_forward(members, isr, true, lost))
    }

    /// Nobody in sync, for a leader alone in its set: whoever is eligible leads on. Either our hole lies behind all that was
    /// visible, a follower cannot get by it, and nobody else has what is there (`is_barred`); or one that is `eligible` has what
    /// we lack, behind a hole of its own that it cannot cut away before we got that from it. The controller refuses if nobody is
    /// eligible.
    pub fn give_up(
        &mut self,
        is_barred: bool,
        eligible: &[BrokerId],
        holes: OffsetRange,
    ) -> Option<Proposal> {
        let is_helped = || eligible.iter().any(|one| self.has_what_we_lack(*one, holes));
        let is_alone = self.members.len() == 1 && self.replicas.len() > 1;
        if self.pending.is_some() || !is_alone || !(is_barred || is_helped()) {
            return None;
        }
        if is_barred {
            mark!("a leader gives up what is damaged and was never visible");
        } else {
            mark!("a leader goes before one that has what it lacks");
        }
        Some(self.put_forward(BTreeSet::new(), Vec::new(), true, vec![self.me]))
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

    /// Whether a member lacks what is visible below `watermark`, or wants to cut its log.
    #[must_use]
    pub fn is_broken(&self, watermark: Offset) -> bool {
        let is_broken = |one: &BrokerId| self.lacks(*one, watermark) || self.lost.contains_key(one);
        self.pending.is_none() && self.members.iter().any(is_broken)
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

    /// Whether nobody may count on it any more: it lost something that we have.
    fn is_lost(&self, broker: BrokerId, holes: Option<OffsetRange>, watermark: Offset) -> bool {
        self.can_spare(broker, holes) || holes.is_none() && self.lacks(broker, watermark)
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
        if self.members.contains(&broker) || self.lost.contains_key(&broker) {
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
    /// all replicas, if there are not so many. Zero while fewer are in sync, and `None` while replicas come or go: at the end
    /// of a move, or of one that is taken back, copies are deleted that counted, and only what all in sync have is kept.
    #[must_use]
    pub fn held_by(&self, count: usize, own: Offset, durability: Durability) -> Option<Offset> {
        assert!(count > 0, "nobody is asked for a copy");
        if self.moving != Moving::default() {
            return None;
        }
        let proposed = self.pending.as_ref().map(|pending| &pending.members);
        // A member of one set only may be out of the set, or not in it yet.
        let counts = |one: &&BrokerId| proposed.is_none_or(|proposed| proposed.contains(*one));
        let mut ends: Vec<Offset> = Vec::with_capacity(self.members.len());
        for one in self.members.iter().filter(counts) {
            let known = self.followers.get(one).map(|known| known.report.end(durability));
            ends.push(if *one == self.me { own } else { known.unwrap_or(Offset::ZERO) });
        }
        ends.sort_unstable_by(|one, other| other.cmp(one));
        // The planted bug M240: as many as are asked for are counted with one too few.
        let count = if mutant!(240) { (count - 1).max(1) } else { count };
        let held = ends.get(count.min(self.replicas.len()) - 1).copied().unwrap_or(Offset::ZERO);
        Some(held.min(own))
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
            let is_led = pending.members.contains(&self.me) || pending.proposal.lost.contains(&self.me);
            assert!(is_led, "{:?} is not in {pending:?}", self.me);
        }
        assert!(self.followers.len() < self.replicas.len(), "reports of {:?}", self.followers.keys());
        assert!(self.lost.keys().all(|one| self.replicas.contains(one)), "losses of {:?}", self.lost.keys());
    }
}

/// These, each with its life; `None` if one is not live.
fn named(members: &BTreeSet<BrokerId>, lives: &Lives) -> Option<Vec<(BrokerId, BrokerEpoch)>> {
    members.iter().map(|one| Some((*one, *lives.live.get(one)?))).collect()
}

#[cfg(test)]
#[path = "isr_tests.rs"]
mod tests;
