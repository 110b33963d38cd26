//! What follows from every step: messages that were held back, what is committed, answers, the view, the checks.
//!
//! Owns: when something may be said and shown. Promises: nothing that rests on an epoch or a vote is said before it is
//! durable (MQ-2); what this node applied it has durably, so that a restart never takes it back.
//! Leaves out: the reasons (`election`, `following`, `leading`).

use dejaq_storage::mutant;
use dejaq_wire::ids::{BrokerId, Offset};
use dejaq_wire::peer::raft::{Envelope, Message};

use super::facade::{Apply, Lost, Token, Turn};
use super::machine::Raft;
use super::role::Role;
use crate::runtime::Mono;

/// Messages that wait for a sync at most; more are lost, as on any network.
const MAX_HELD: usize = 1024;

impl Raft {
    /// Says something now, or when the vote and epoch that it rests on are durable.
    pub(super) fn send(&mut self, to: BrokerId, message: Message, turn: &mut Turn) {
        let envelope =
            Envelope { from: self.settings.me, to, epoch: self.hard.epoch, leader: self.leader(), message };
        match self.store.hard_state_pending() {
            Some(ticket) if !mutant!(31) => {
                if self.held.len() < MAX_HELD {
                    self.held.push_back((ticket, envelope));
                }
            }
            Some(_) | None => turn.sends.push(envelope),
        }
    }

    /// What follows from any step.
    pub(super) fn settle(&mut self, now: Mono, turn: &mut Turn) {
        if self.store.hard_state_pending().is_none() {
            let epoch = self.hard.epoch;
            turn.sends.extend(self.held.drain(..).map(|(_, held)| held).filter(|held| held.epoch == epoch));
            self.count_own_vote(now, turn);
        }
        self.advance(now, turn);
        self.deliver(turn);
        self.answer_proposals(turn);
        self.keep_fetching(now, turn);
        let view = self.view();
        if self.shown != Some(view) {
            self.shown = Some(view);
            turn.view = Some(view);
        }
        self.check();
    }

    /// Hands over what is committed and durable here: a restart never takes back what this node showed.
    pub(super) fn deliver(&mut self, turn: &mut Turn) {
        let visible = self.commit.min(self.store.durable());
        let base = self.store.entries().base().end;
        if self.applied < base && visible >= base {
            let snapshot = self.store.snapshot().expect("what is not in the log is in a snapshot").clone();
            assert!(snapshot.id.position.end >= base, "{:?} leaves a gap to {base:?}", snapshot.id);
            self.applied = snapshot.id.position.end;
            turn.applies.push(Apply::Snapshot(snapshot));
        }
        if self.applied < base {
            return; // a snapshot is being written
        }
        let batches = self.store.entries().behind(self.applied).take_while(|batch| batch.end <= visible);
        for batch in batches {
            self.applied = batch.end;
            turn.applies.push(Apply::Batch(batch.clone()));
        }
    }

    pub(super) fn answer_proposals(&mut self, turn: &mut Turn) {
        let applied = self.applied;
        let Role::Leader(leading) = &mut self.role else { return };
        while let Some((end, token)) = leading.proposed.front().copied()
            && end <= applied
        {
            leading.proposed.pop_front();
            turn.done.push((token, Ok(end)));
        }
    }

    pub(super) fn raise_commit(&mut self, to: Offset) {
        assert!(to >= self.commit, "the commit went back from {:?} to {to:?}", self.commit);
        self.commit = to;
    }

    pub(super) fn token_refused(token: Token, why: Lost, turn: &mut Turn) {
        turn.done.push((token, Err(why)));
    }

    /// What is always true; O(1).
    pub(super) fn check(&self) {
        let (end, base) = (self.store.end(), self.store.entries().base());
        assert!(self.commit <= end.end, "committed {:?} of {end:?}", self.commit);
        assert!(self.applied <= self.commit, "applied {:?} of {:?}", self.applied, self.commit);
        assert!(base.end <= self.commit, "dropped {base:?}, committed {:?}", self.commit);
        assert!(self.store.durable() <= end.end, "durable {:?} of {end:?}", self.store.durable());
        assert!(end.epoch <= self.hard.epoch, "an entry of {end:?} in {:?}", self.hard.epoch);
        match &self.role {
            Role::Leader(leading) => {
                assert_eq!(end.epoch, self.hard.epoch, "a leader begins with an entry of its own");
                assert!(
                    leading.first < leading.ready && leading.ready <= end.end,
                    "{:?} {end:?}",
                    leading.ready
                );
                assert_eq!(self.hard.voted, Some(self.settings.me), "a leader voted for itself");
            }
            Role::Candidate(_) => {
                assert_eq!(self.hard.voted, Some(self.settings.me), "a candidate voted for itself");
            }
            Role::Follower(following) => assert_ne!(following.leader, self.settings.me.id, "{:?}", self.hard),
            Role::Unattached { .. } | Role::Prospective { .. } => {}
        }
    }
}
