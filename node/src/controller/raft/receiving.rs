//! What a message does before it is looked at: epochs, leaders, and the changes of role that follow from them.
//!
//! Owns: the rule that the higher epoch wins, and how a role is taken. Promises: nobody is followed on hearsay of an
//! older epoch; two leaders of one epoch stop the node (MQ-1); what a leader owed is answered when it is one no more.
//! Leaves out: what each message asks (`election`, `following`, `leading`).

use std::collections::BTreeMap;

use dejaq_storage::{mark, mutant};
use dejaq_wire::ids::{BrokerId, LeaderEpoch};
use dejaq_wire::peer::raft::{Envelope, Message, ReplicaKey};

use super::facade::{HardState, Lost, Turn};
use super::machine::Raft;
use super::role::{Following, Poll, Role};
use crate::runtime::Mono;

impl Raft {
    pub(super) fn receive(&mut self, now: Mono, envelope: Envelope, turn: &mut Turn) {
        let Envelope { from, to, epoch, leader, message } = envelope;
        if to != self.settings.me.id || from.id == self.settings.me.id || !epoch.is_valid() {
            mark!("a quorum message for another node");
            return;
        }
        // A node that led this epoch and does not any more is no leader, whatever others still think.
        let leader = leader.filter(|leader| *leader != self.settings.me.id);
        if epoch > self.hard.epoch {
            self.adopt(now, epoch, leader, turn);
        } else if epoch < self.hard.epoch {
            return self.correct(from, message, turn);
        } else if let Some(leader) = leader {
            self.hear_of_leader(now, leader, turn);
        }
        match message {
            Message::Vote { pre, log } => self.asked_for_vote(now, from, pre, log, turn),
            Message::VoteReply { pre, granted } => self.got_vote(now, from, pre, granted, turn),
            Message::Leading => {} // the envelope says it
            Message::Resigning { successors } => self.leader_resigns(now, from.id, &successors, turn),
            Message::Fetch { log, durable, commit, round } => {
                self.serve(now, from, log, (durable, commit, round), turn);
            }
            Message::FetchReply { at, fetched, commit, round } => {
                self.fetched(now, from.id, at, (fetched, commit, round), turn);
            }
            Message::FetchSnapshot { log, snapshot, from: at } => {
                self.serve_snapshot(now, from, log, (snapshot, at), turn);
            }
            Message::SnapshotChunk { at, snapshot, from: start, bytes } => {
                self.got_chunk(now, from.id, at, (snapshot, start, bytes), turn);
            }
        }
    }

    /// Someone is behind: questions are answered so that it learns the epoch, answers are too late.
    fn correct(&mut self, from: ReplicaKey, message: Message, turn: &mut Turn) {
        match message {
            Message::Vote { pre, .. } => self.send(from.id, Message::VoteReply { pre, granted: false }, turn),
            Message::Fetch { log, .. } | Message::FetchSnapshot { log, .. } => {
                self.refuse_fetch(from.id, log, turn)
            }
            Message::Leading => self.send(from.id, Message::VoteReply { pre: true, granted: false }, turn),
            Message::VoteReply { .. }
            | Message::Resigning { .. }
            | Message::FetchReply { .. }
            | Message::SnapshotChunk { .. } => mark!("an answer from an epoch that is over"),
        }
    }

    /// Enters a higher epoch.
    fn adopt(&mut self, now: Mono, epoch: LeaderEpoch, leader: Option<BrokerId>, turn: &mut Turn) {
        assert!(epoch > self.hard.epoch, "{epoch:?} is not after {:?}", self.hard.epoch);
        self.hard = HardState { epoch, voted: None };
        self.store.write_hard_state(self.hard, turn);
        match leader {
            Some(leader) => self.follow(now, leader, turn),
            None => self.unattach(now, turn),
        }
    }

    fn hear_of_leader(&mut self, now: Mono, leader: BrokerId, turn: &mut Turn) {
        match self.leader() {
            None => self.follow(now, leader, turn),
            Some(known) => {
                let epoch = self.hard.epoch;
                assert_eq!(
                    known, leader,
                    "two leaders in {epoch:?}, says a message to {:?}",
                    self.settings.me
                );
            }
        }
    }

    pub(super) fn unattach(&mut self, now: Mono, turn: &mut Turn) {
        if mutant!(313) {
            self.hard.voted = None;
        }
        let wake = now + self.dice.patience(self.settings.timing.election);
        self.take_role(Role::Unattached { wake }, turn);
    }

    pub(super) fn follow(&mut self, now: Mono, leader: BrokerId, turn: &mut Turn) {
        assert_ne!(leader, self.settings.me.id, "nobody follows itself");
        let patience = self.dice.patience(self.settings.timing.election);
        let following = Following { leader, heard: now, patience, asked: None, round: 0, download: None };
        self.take_role(Role::Follower(following), turn);
    }

    pub(super) fn new_poll(&mut self, now: Mono) -> Poll {
        let end = now + self.dice.patience(self.settings.timing.election);
        Poll { yes: BTreeMap::new(), end, again: now + self.settings.timing.retry }
    }

    pub(super) fn take_role(&mut self, role: Role, turn: &mut Turn) {
        if let Role::Leader(leading) = std::mem::replace(&mut self.role, role) {
            turn.done.extend(leading.proposed.iter().map(|(_, token)| (*token, Err(Lost::Unknown))));
            turn.reads.extend(leading.reads.iter().map(|read| (read.token, Err(Lost::NotLeader))));
        }
    }
}
