//! Decides when a write is safe and what readers may see: one leader's life in one epoch.
//!
//! Owns: the ends of the log as the leader counts them, the watermark, the in-sync set, the waiting producers.
//! Promises: `log_start <= watermark <= local_end`, `flushed_end <= local_end`; the watermark never moves back; an
//! acks=all promise is kept once, after the watermark passed the batch's end (with `acks.required`, after so many members
//! have it), and the effect says so; under
//! `durable` the watermark never passes what is synced here and on every member; when the leader resigns every
//! waiting producer is refused in one place.
//! Leaves out: bytes, disks, clocks, sockets; which token is whose; choosing the in-sync set (see `isr`).
//! Called by `partition` (SHELL) inside its turn, which carries out the effects in their order.
//!
//! ```text
//!   Appended ─► local_end ──(durable: ask Flush)──► Flushed ─► flushed_end ─┐
//!   FollowerAt ─► isr ──────────────────────────────────────────────────────┴─ min ─► Watermark ─► Ack, Ack, …
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dejaq_storage::{OffsetRange, mark, mutant};
use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};

use super::acks::{self, Acks, Token};
use super::isr::{Ends, Isr, Lives, Moving, Proposal, Report};
use super::policy::{Durability, Policy};
use super::unsynced::{Due, Unsynced};
use crate::runtime::Mono;

/// Effects that are made room for at once when the watermark moves; more acks than this grow their list.
const RESERVE_EFFECTS: usize = 64;

/// What a producer demands before it takes a batch for written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Required {
    /// acks=0 and acks=1: the leader wrote it. Never waits for a sync, whatever the policy (documented).
    Leader,
    /// The watermark passed it, however long that takes: for writers of our own, and for transactions.
    All,
    /// acks=all of a client: as many have it as the topic asks for, which is all that are in sync if it does not say. It is
    /// told at once when they become fewer than `min.insync.replicas`.
    Client,
}

/// Why a leader stops. It does not lead again; a new one is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resigned {
    /// Another replica leads, here is none any more, or the epoch is over: the outcome of what waits is unknown to the producer.
    Moved,
    /// The topic is deleted.
    Deleted,
    /// The data directory failed: nothing may be promised any more.
    Offline,
    /// The broker stops.
    Stopping,
}

/// Why an acks=all batch is not even appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Answer NOT_ENOUGH_REPLICAS; the producer retries later.
    #[error("fewer replicas are in sync than min.insync.replicas")]
    NotEnoughReplicas,
    /// Too many batches wait already; the producer backs off.
    #[error("{} batches wait already", acks::LIMIT)]
    Overloaded,
    /// This leader has stopped.
    #[error("the leader has stopped: {0:?}")]
    Resigned(Resigned),
}

/// Something happened to the replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `bytes` were appended; the log ends at `end` now.
    Appended {
        /// The new end of the log.
        end: Offset,
        /// How many bytes that took.
        bytes: u64,
    },
    /// A producer's batch ending at `end` is in the log (appended now, or long ago if this is a retry).
    Promised {
        /// Whose batch.
        token: Token,
        /// What that producer demands.
        required: Required,
        /// Where the batch ends.
        end: Offset,
    },
    /// The shell starts a sync that covers everything appended so far.
    FlushBegan,
    /// A sync ended well: everything below `end` survives a power cut.
    Flushed {
        /// The new flushed end.
        end: Offset,
    },
    /// The time of a [`Effect::FlushWithin`] is over.
    FlushOverdue,
    /// A follower tells how far it is.
    FollowerAt {
        /// Which follower.
        broker: BrokerId,
        /// How far it is.
        report: Report,
        /// It tells of progress only: what it told before stays told.
        moves_on: bool,
        /// When it came.
        now: Mono,
    },
    /// A follower wants to cut its log at this offset, because what lies behind is damaged; or it does not any more.
    FollowerLost {
        /// Which follower.
        broker: BrokerId,
        /// In which life.
        life: BrokerEpoch,
        /// Where.
        from: Option<Offset>,
    },
    /// A follower begins anew: what it told does not count any more.
    FollowerGone {
        /// Which follower.
        broker: BrokerId,
    },
    /// The controller committed this state of the partition, in our epoch.
    Committed {
        /// Counts the states.
        partition_epoch: i32,
        /// Every replica, us among them.
        replicas: BTreeSet<BrokerId>,
        /// The in-sync ones, us among them.
        members: BTreeSet<BrokerId>,
        /// Whether replicas come or go.
        moving: Moving,
    },
    /// Brokers began new lives.
    Lives(BTreeMap<BrokerId, BrokerEpoch>),
    /// Whether the controller took the set that was proposed on this state is not known.
    ProposalUnsure {
        /// The state that it was proposed on.
        partition_epoch: i32,
        /// When that was found out.
        now: Mono,
    },
    /// The controller did not take it.
    ProposalRefused {
        /// The state that it was proposed on.
        partition_epoch: i32,
        /// When that was found out.
        now: Mono,
    },
    /// Records below `start` are gone for good: retention or DeleteRecords.
    StartMoved {
        /// The new start, at most the watermark.
        start: Offset,
    },
    /// The topic's configuration changed.
    PolicyChanged(Policy),
    /// Leadership ends here.
    Resigned(Resigned),
}

/// What the shell must do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Sync this partition soon. At most one is outstanding until `Flushed`.
    Flush,
    /// Say `FlushOverdue` after this time. At most one is outstanding until then.
    FlushWithin(Duration),
    /// Readers may see everything below this offset.
    Watermark(Offset),
    /// Tell this producer yes.
    Ack {
        /// Which producer.
        token: Token,
        /// The condition: readers see everything below this offset by now.
        after: Offset,
    },
    /// Tell this producer that its batch is in the log, and too few are in sync to make it safe now.
    TooFew {
        /// Which producer.
        token: Token,
    },
    /// Tell this producer that the outcome is unknown.
    Refuse {
        /// Which producer.
        token: Token,
        /// Why.
        why: Resigned,
    },
}

/// What a leader starts from.
#[derive(Debug, Clone)]
pub struct Start {
    /// Our own id.
    pub me: BrokerId,
    /// The epoch that we lead in: higher than any in the log.
    pub epoch: LeaderEpoch,
    /// First offset that readers may ask for.
    pub log_start: Offset,
    /// End of the log as it was found.
    pub local_end: Offset,
    /// Everything below is synced. `log_start <= flushed_end <= local_end`.
    pub flushed_end: Offset,
    /// Everything below was visible before: `log_start <= watermark <= local_end`.
    pub watermark: Offset,
    /// The topic's policy.
    pub policy: Policy,
    /// Every replica, us among them.
    pub replicas: BTreeSet<BrokerId>,
    /// The committed in-sync set, us among them.
    pub members: BTreeSet<BrokerId>,
    /// Counts the states of the partition.
    pub partition_epoch: i32,
    /// Whether replicas come or go.
    pub moving: Moving,
    /// When it starts.
    pub now: Mono,
}

/// The leader of one partition in one epoch.
#[derive(Debug)]
pub struct Leader {
    epoch: LeaderEpoch,
    /// `local_end` when this epoch began: below it lie other leaders' records.
    epoch_start: Offset,
    log_start: Offset,
    local_end: Offset,
    flushed_end: Offset,
    watermark: Offset,
    /// Where the watermark stood when the leader started or the topic became `durable`: what was promised before.
    barrier: Offset,
    policy: Policy,
    isr: Isr,
    acks: Acks,
    /// Those that wait for `acks.required`, but only while enough are in sync.
    clients: Acks,
    unsynced: Unsynced,
    resigned: Option<Resigned>,
}

impl Leader {
    /// Starts a leader; the effects hold its first watermark.
    pub fn start(start: Start, effects: &mut Vec<Effect>) -> Leader {
        assert!(start.log_start <= start.flushed_end, "{:?} > {:?}", start.log_start, start.flushed_end);
        assert!(start.flushed_end <= start.local_end, "{:?} > {:?}", start.flushed_end, start.local_end);
        assert!(start.log_start <= start.watermark, "{:?} > {:?}", start.log_start, start.watermark);
        assert!(start.watermark <= start.local_end, "{:?} > {:?}", start.watermark, start.local_end);
        assert!(start.epoch.is_valid(), "nobody leads in {:?}", start.epoch);
        let mut leader = Leader {
            epoch: start.epoch,
            epoch_start: start.local_end,
            log_start: start.log_start,
            local_end: start.local_end,
            flushed_end: start.flushed_end,
            watermark: start.watermark,
            barrier: start.watermark,
            policy: start.policy,
            isr: Isr::new(
                start.me,
                start.epoch,
                start.partition_epoch,
                start.replicas,
                start.members,
                start.now,
            ),
            acks: Acks::default(),
            clients: Acks::default(),
            unsynced: Unsynced::default(),
            resigned: None,
        };
        leader.isr.moves(start.moving);
        effects.push(Effect::Watermark(leader.watermark));
        leader.advance(effects);
        leader.check();
        leader
    }

    /// Whether a batch may be appended now, when `ahead` batches of the same turn were admitted before it.
    ///
    /// # Errors
    /// [`Refused`]: nothing is appended, so this is a definite no.
    pub fn admit(&self, required: Required, ahead: usize) -> Result<(), Refused> {
        if let Some(why) = self.resigned {
            return Err(Refused::Resigned(why));
        }
        match required {
            Required::Leader => Ok(()),
            Required::All | Required::Client => {
                let is_enough = match required {
                    Required::Client => self.is_enough_for_clients(),
                    Required::All | Required::Leader => self.isr.is_enough(self.policy.min_insync),
                };
                if !is_enough {
                    Err(Refused::NotEnoughReplicas)
                } else if self.waiting() + ahead >= acks::LIMIT {
                    Err(Refused::Overloaded)
                } else {
                    Ok(())
                }
            }
        }
    }

    /// Takes one event; what must follow is appended to `effects`.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Appended { end, bytes } => self.appended(end, bytes),
            Event::Promised { token, required, end } => self.promised(token, required, end, effects),
            Event::FlushBegan => self.unsynced.begin(),
            Event::Flushed { end } => self.flushed(end),
            Event::FlushOverdue => {
                let due = self.unsynced.overdue(self.local_end, self.flushed_end);
                push(due.filter(|_| self.resigned.is_none()), effects);
            }
            Event::FollowerAt { broker, report, moves_on, now } => {
                assert!(report.fetched <= self.local_end, "{broker:?} is ahead of us: {report:?}");
                let when = (now, self.local_end);
                if !self.isr.report(broker, report, moves_on, when, self.policy.durability) {
                    mark!("a follower's report of another epoch is not counted");
                }
            }
            Event::FollowerLost { broker, life, from } => self.isr.lose(broker, life, from),
            Event::FollowerGone { broker } => self.isr.forget(broker),
            Event::Committed { partition_epoch, replicas, members, moving } => {
                let shrinks = members.len() < self.isr.members().len();
                if self.isr.commit(partition_epoch, replicas, members) {
                    self.isr.moves(moving);
                }
                if shrinks && mutant!(18) {
                    return; // the planted bug: the watermark is not looked at again after a shrink
                }
            }
            Event::Lives(live) => self.isr.see_lives(&live),
            Event::ProposalUnsure { partition_epoch, now } => self.isr.unsure(partition_epoch, now),
            Event::ProposalRefused { partition_epoch, now } => {
                self.isr.refused(partition_epoch, now);
            }
            Event::StartMoved { start } => {
                assert!(
                    start >= self.log_start,
                    "the start moves back from {:?} to {start:?}",
                    self.log_start
                );
                assert!(start <= self.watermark, "{start:?} is beyond the watermark {:?}", self.watermark);
                self.log_start = start;
            }
            Event::PolicyChanged(policy) => self.policy_changed(policy),
            Event::Resigned(why) => self.resign(why, effects),
        }
        self.advance(effects);
        self.check();
    }

    /// Forgets waiting batches whose producers are gone. O(n): for when [`Leader::admit`] says `Overloaded`.
    pub fn forget(&mut self, mut is_wanted: impl FnMut(Token) -> bool) {
        mark!("waiting producers who gave up are forgotten");
        self.acks.retain(&mut is_wanted);
        self.clients.retain(is_wanted);
        self.check();
    }

    /// The in-sync set to propose to the controller now, if another than the committed one is called for. In `holes` lies what of
    /// our log is damaged, as far as is known.
    pub fn propose(
        &mut self,
        now: Mono,
        lag: Duration,
        lives: &Lives,
        holes: Option<OffsetRange>,
    ) -> Option<Proposal> {
        if self.resigned.is_some() {
            return None;
        }
        let proposal = self.isr.propose(now, lag, lives, self.ends(holes), self.policy.durability);
        self.check();
        proposal
    }

    /// As [`Leader::propose`], when our own log has a hole: first of all another member is to lead, even
    /// if `min.insync.replicas` asks for all replicas, so that nothing is committed until we are back. Others that are too few
    /// for now are waited for, unless a follower `starves`, which needs what is damaged here to come back in sync.
    pub fn hand_over(&mut self, lives: &Lives, starves: bool, holes: OffsetRange) -> Option<Proposal> {
        if self.resigned.is_some() {
            return None;
        }
        let needed = if starves { 1 } else { self.policy.min_insync };
        let proposal = self.isr.hand_over(lives, self.watermark, needed, holes);
        self.check();
        proposal
    }

    /// As [`Leader::propose`], for those that may be elected though they are not in sync, when they lost something that we have.
    pub fn disown(
        &mut self,
        eligible: &[BrokerId],
        lives: &Lives,
        holes: Option<OffsetRange>,
    ) -> Option<Proposal> {
        if self.resigned.is_some() || eligible.is_empty() {
            return None;
        }
        self.isr.disown(eligible, lives, self.watermark, holes)
    }

    /// When nothing else is to be proposed, and our own log has `holes`: behind all that was visible, so that a follower that
    /// `starves` cannot get by, and another one leads on without what nobody else has; or where one that is `eligible` has what
    /// we lack and a hole of its own before.
    pub fn give_up(&mut self, starves: bool, eligible: &[BrokerId], holes: OffsetRange) -> Option<Proposal> {
        if self.resigned.is_some() {
            return None;
        }
        // Under other durabilities who was eligible before an unclean stop may lack what was committed.
        let is_complete = self.policy.durability == Durability::Durable;
        let helpers = if is_complete { eligible } else { &[] };
        self.isr.give_up(starves && holes.from >= self.watermark, helpers, holes)
    }

    /// Whether a member must leave at once.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.resigned.is_none() && self.isr.is_broken(self.watermark)
    }

    /// Whether a replica that is not in sync could join now.
    #[must_use]
    pub fn wants_to_grow(&self, live: &BTreeMap<BrokerId, BrokerEpoch>) -> bool {
        self.resigned.is_none() && self.isr.wants(live, self.floor(), self.policy.durability)
    }

    /// The in-sync set and what is known of the followers.
    #[must_use]
    pub fn isr(&self) -> &Isr {
        &self.isr
    }

    fn ends(&self, holes: Option<OffsetRange>) -> Ends {
        let (floor, local_end, watermark) = (self.floor(), self.local_end, self.watermark);
        Ends { floor, local_end, watermark, leash: self.leash(), holes }
    }

    /// What a replica must have to join the in-sync set: all that was promised, and all that this epoch found.
    fn floor(&self) -> Offset {
        // The planted bug M11: what earlier leaders left is not asked for.
        let promised = if mutant!(11) { self.watermark } else { self.watermark.max(self.epoch_start) };
        promised.max(self.leash())
    }

    /// What a member has at least while it does not lag by too many records.
    fn leash(&self) -> Offset {
        Offset(self.local_end.0.saturating_sub(self.policy.lag_records).max(0))
    }

    /// What as many members have as acks=all asks for.
    fn answered(&self) -> Offset {
        match self.policy.acks_required as usize {
            0 => self.watermark,
            count => {
                let held = self.isr.held_by(count, self.own_end(), self.policy.durability);
                held.unwrap_or(self.watermark)
            }
        }
    }

    /// Whether an acks=all of a client can be kept with those that are in sync now.
    fn is_enough_for_clients(&self) -> bool {
        self.isr.is_enough(self.policy.min_insync.max(self.policy.acks_required))
    }

    /// How far we count ourselves.
    fn own_end(&self) -> Offset {
        match self.policy.durability {
            Durability::Durable => self.flushed_end,
            Durability::Replicated | Durability::None => self.local_end,
        }
    }

    /// Nobody is left waiting for what may take long: what was appended stays in the log, and a retry finds it there.
    fn tell_too_few(&mut self, effects: &mut Vec<Effect>) {
        if !self.clients.is_empty() {
            mark!("acks=all is told after the append that too few are in sync");
        }
        while let Some(token) = self.clients.abandon() {
            effects.push(Effect::TooFew { token });
        }
    }

    /// First offset that readers may ask for.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// End of what readers may see.
    #[must_use]
    pub fn watermark(&self) -> Offset {
        self.watermark
    }

    /// End of the log.
    #[must_use]
    pub fn local_end(&self) -> Offset {
        self.local_end
    }

    /// End of what is synced here.
    #[must_use]
    pub fn flushed_end(&self) -> Offset {
        self.flushed_end
    }

    /// The epoch that this leader leads in.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Where this epoch began.
    #[must_use]
    pub fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    /// Appended bytes that no finished sync covers.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.unsynced.bytes()
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Why this leader stopped, if it did.
    #[must_use]
    pub fn resigned(&self) -> Option<Resigned> {
        self.resigned
    }

    /// Number of batches that wait for the watermark.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.acks.len() + self.clients.len()
    }

    fn appended(&mut self, end: Offset, bytes: u64) {
        assert!(self.resigned.is_none(), "appended up to {end:?} after {:?}", self.resigned);
        assert!(end > self.local_end, "{end:?} is not beyond {:?}", self.local_end);
        assert!(bytes > 0, "{end:?} was reached without a byte");
        self.local_end = end;
        self.unsynced.append(bytes);
    }

    fn promised(&mut self, token: Token, required: Required, end: Offset, effects: &mut Vec<Effect>) {
        assert!(end <= self.local_end, "{token:?} ends at {end:?}, the log at {:?}", self.local_end);
        if let Some(why) = self.resigned {
            effects.push(Effect::Refuse { token, why });
            return;
        }
        match required {
            Required::Leader => effects.push(Effect::Ack { token, after: self.watermark }),
            // M01: acks=all is answered on the local append.
            Required::All | Required::Client if mutant!(1) => {
                effects.push(Effect::Ack { token, after: self.watermark });
            }
            Required::All if end <= self.watermark => effects.push(Effect::Ack { token, after: end }),
            Required::All => self.acks.hold(end, token),
            Required::Client if end <= self.answered() => {
                effects.push(Effect::Ack { token, after: end.min(self.watermark) });
            }
            Required::Client => self.clients.hold(end, token),
        }
    }

    fn flushed(&mut self, end: Offset) {
        assert!(end >= self.flushed_end, "{end:?} is behind the flushed end {:?}", self.flushed_end);
        assert!(end <= self.local_end, "{end:?} is beyond the local end {:?}", self.local_end);
        self.flushed_end = end;
        self.unsynced.end(end == self.local_end);
    }

    fn policy_changed(&mut self, policy: Policy) {
        let becomes_durable =
            policy.durability == Durability::Durable && self.policy.durability != Durability::Durable;
        if becomes_durable {
            mark!("a topic becomes durable");
            self.barrier = self.watermark;
        }
        self.policy = policy;
    }

    fn resign(&mut self, why: Resigned, effects: &mut Vec<Effect>) {
        self.resigned.get_or_insert(why);
        while let Some(token) = self.acks.abandon().or_else(|| self.clients.abandon()) {
            effects.push(Effect::Refuse { token, why });
        }
        assert!(self.waiting() == 0, "{} producers still wait after {why:?}", self.waiting());
    }

    /// Moves everything that may move after an event: asks for a flush, raises the watermark, keeps promises.
    fn advance(&mut self, effects: &mut Vec<Effect>) {
        if self.resigned.is_some() {
            return;
        }
        push(self.unsynced.due(&self.policy, self.local_end, self.flushed_end), effects);
        let own = self.own_end();
        let enough = self.isr.is_enough(self.policy.min_insync);
        if !self.is_enough_for_clients() {
            self.tell_too_few(effects);
        }
        let common = self.isr.common_end(own, self.policy.durability).filter(|_| enough);
        if let Some(end) = common.filter(|end| *end > self.watermark) {
            assert!(end <= self.local_end, "{end:?} is beyond the log end {:?}", self.local_end);
            self.watermark = end;
            effects.reserve(1 + self.acks.len().min(RESERVE_EFFECTS));
            effects.push(Effect::Watermark(end));
            while let Some(token) = self.acks.release(end) {
                effects.push(Effect::Ack { token, after: end });
            }
        }
        if !self.clients.is_empty() {
            let (answered, after) = (self.answered(), self.watermark);
            while let Some(token) = self.clients.release(answered) {
                effects.push(Effect::Ack { token, after: after.min(answered) });
            }
        }
    }

    fn check(&self) {
        assert!(self.log_start <= self.watermark, "{:?} > {:?}", self.log_start, self.watermark);
        assert!(self.watermark <= self.local_end, "{:?} > {:?}", self.watermark, self.local_end);
        assert!(self.flushed_end <= self.local_end, "{:?} > {:?}", self.flushed_end, self.local_end);
        assert!(self.epoch_start <= self.local_end, "{:?} > {:?}", self.epoch_start, self.local_end);
        if self.policy.durability == Durability::Durable {
            let bound = self.flushed_end.max(self.barrier);
            assert!(self.watermark <= bound, "{:?} is visible, {bound:?} is durable", self.watermark);
        }
        if let Some(end) = self.acks.next_end() {
            assert!(end > self.watermark, "{end:?} waits though the watermark is {:?}", self.watermark);
            assert!(self.resigned.is_none(), "{end:?} waits for a leader that stopped");
        }
        if let Some(end) = self.clients.next_end() {
            assert!(end > self.answered(), "{end:?} waits though {:?} is answered", self.answered());
            assert!(self.resigned.is_none(), "{end:?} waits for a leader that stopped");
        }
        assert!(self.waiting() <= acks::LIMIT, "{} batches wait", self.waiting());
    }
}

fn push(due: Option<Due>, effects: &mut Vec<Effect>) {
    match due {
        Some(Due::Now) => effects.push(Effect::Flush),
        Some(Due::Within(wait)) => effects.push(Effect::FlushWithin(wait)),
        None => {}
    }
}

#[cfg(test)]
#[path = "leader_tests.rs"]
mod tests;
