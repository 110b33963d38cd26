//! Who leads: votes asked for, given and counted.
//!
//! Owns: the rules of an election. Promises: one vote per epoch, durable before it is said or counted (MQ-2); a node
//! that hears its leader does not help to unseat it (pre-vote, KIP-996); only a log that has everything committed wins.
//! Leaves out: the bookkeeping of roles (`machine`).
//!
//! Votes are given whether or not the voter knows the candidate as a voter: it may be the one that is behind. They are
//! counted only if the candidate knows the voter, with the directory that voted (MQ-19).

use std::collections::BTreeMap;

use dejaq_storage::{buggify, mark, mutant};
use dejaq_wire::ids::BrokerId;
use dejaq_wire::peer::raft::{DirectoryId, Message, Position, ReplicaKey};

use super::facade::{HardState, Turn};
use super::machine::Raft;
use super::role::Role;
use crate::runtime::Mono;

impl Raft {
    /// Time passed.
    pub(super) fn tick(&mut self, now: Mono, turn: &mut Turn) {
        match &self.role {
            Role::Unattached { wake } => {
                if now >= *wake {
                    self.ask_around(now, turn);
                }
            }
            Role::Follower(following) => {
                let is_hasty = buggify!("a follower asks around though its leader is there", 5);
                if now >= following.heard + following.patience || is_hasty {
                    self.ask_around(now, turn);
                }
            }
            Role::Candidate(poll) if now >= poll.end && self.store.hard_state_pending().is_some() => {
                // Its own vote is still being written: a vote for a later epoch would be written later still, for ever
                // on a disk that is slower than an election (a node alone would never lead).
                mark!("a candidate waits for its own vote");
                let (election, retry) = (self.timing().election, self.timing().retry);
                if let Role::Candidate(poll) = &mut self.role {
                    (poll.end, poll.again) = (now + election, now + retry);
                }
            }
            Role::Prospective { poll, .. } | Role::Candidate(poll) => {
                if now >= poll.end {
                    self.ask_around(now, turn);
                } else if now >= poll.again {
                    self.ask_again(now, turn);
                }
            }
            Role::Leader(_) => self.look_around(now, turn),
        }
    }

    /// Asks whether it would be elected; the epoch stays, so that a node that was away unseats nobody.
    fn ask_around(&mut self, now: Mono, turn: &mut Turn) {
        if !self.may_stand() {
            return self.look_for_leader(now, turn);
        }
        if self.is_only_voter() || mutant!(301) {
            return self.stand(now, turn);
        }
        let mut poll = self.new_poll(now);
        poll.yes.insert(self.settings.me.id, self.settings.me.directory);
        let unattached = Role::Unattached { wake: now };
        let silent = match std::mem::replace(&mut self.role, unattached) {
            Role::Follower(following) => Some(Box::new(following)),
            Role::Prospective { silent, .. } => silent,
            Role::Unattached { .. } | Role::Candidate(_) => None,
            Role::Leader(_) => unreachable!("a leader has no election timeout"),
        };
        self.take_role(Role::Prospective { silent, poll }, turn);
        self.ask_for_votes(&self.peers(), turn);
    }

    /// Stands for the next epoch. Its own vote counts when it is durable, and nobody is asked before.
    pub(super) fn stand(&mut self, now: Mono, turn: &mut Turn) {
        assert!(self.may_stand(), "{:?} is none of {:?}", self.settings.me, self.voters());
        self.hard = HardState { epoch: self.hard.epoch.next(), voted: Some(self.settings.me) };
        self.store.write_hard_state(self.hard, turn);
        let poll = self.new_poll(now);
        self.take_role(Role::Candidate(poll), turn);
        self.ask_for_votes(&self.peers(), turn);
    }

    fn ask_again(&mut self, now: Mono, turn: &mut Turn) {
        let retry = self.timing().retry;
        let (Role::Prospective { poll, .. } | Role::Candidate(poll)) = &mut self.role else { return };
        poll.again = now + retry;
        let answered: Vec<BrokerId> = poll.yes.keys().copied().collect();
        let silent: Vec<BrokerId> =
            self.peers().into_iter().filter(|peer| !answered.contains(peer)).collect();
        self.ask_for_votes(&silent, turn);
    }

    fn ask_for_votes(&mut self, peers: &[BrokerId], turn: &mut Turn) {
        let (pre, log) = (matches!(self.role, Role::Prospective { .. }), self.store.end());
        for peer in peers {
            self.send(*peer, Message::Vote { pre, log }, turn);
        }
    }

    /// The epoch of the question is ours.
    pub(super) fn asked_for_vote(
        &mut self,
        now: Mono,
        from: ReplicaKey,
        pre: bool,
        log: Position,
        turn: &mut Turn,
    ) {
        let complete = log >= self.store.end();
        let granted = if pre {
            complete && !self.hears_leader(now)
        } else {
            let free = self.hard.voted.is_none() || mutant!(308);
            complete && self.leader().is_none() && (free || self.hard.voted == Some(from))
        };
        if granted && !pre && self.hard.voted != Some(from) {
            assert!(
                !matches!(self.role, Role::Candidate(_) | Role::Leader(_)) || mutant!(308),
                "{:?}",
                self.hard
            );
            self.hard.voted = Some(from);
            self.store.write_hard_state(self.hard, turn);
            self.unattach(now, turn); // and be patient with the one it voted for
        }
        self.send(from.id, Message::VoteReply { pre, granted }, turn);
    }

    /// Whether there is a leader that works, as far as this node knows.
    fn hears_leader(&self, now: Mono) -> bool {
        match &self.role {
            Role::Leader(_) => true,
            Role::Follower(following) => now < following.heard + self.timing().election,
            Role::Unattached { .. } | Role::Prospective { .. } | Role::Candidate(_) => false,
        }
    }

    /// The epoch of the answer is ours.
    pub(super) fn got_vote(
        &mut self,
        now: Mono,
        from: ReplicaKey,
        pre: bool,
        granted: bool,
        turn: &mut Turn,
    ) {
        if !granted {
            return; // the envelope may have told of a leader
        }
        if !self.voters().has(from) {
            mark!("a vote of one that is no voter");
            return;
        }
        match &mut self.role {
            Role::Prospective { poll, .. } if pre => {
                poll.yes.insert(from.id, from.directory);
                if self.is_elected() {
                    self.stand(now, turn);
                }
            }
            Role::Candidate(poll) if !pre => {
                poll.yes.insert(from.id, from.directory);
                self.win_if_elected(now, turn);
            }
            Role::Prospective { .. }
            | Role::Candidate(_)
            | Role::Unattached { .. }
            | Role::Follower(_)
            | Role::Leader(_) => mark!("a vote that is not needed any more"),
        }
    }

    /// The epoch and vote of this node are durable.
    pub(super) fn count_own_vote(&mut self, now: Mono, turn: &mut Turn) {
        let me = self.settings.me;
        let Role::Candidate(poll) = &mut self.role else { return };
        if poll.yes.insert(me.id, me.directory).is_none() {
            self.win_if_elected(now, turn);
        }
    }

    fn win_if_elected(&mut self, now: Mono, turn: &mut Turn) {
        let Role::Candidate(poll) = &self.role else { return };
        if poll.yes.contains_key(&self.settings.me.id) && self.is_elected() {
            let votes = BTreeMap::clone(&poll.yes);
            self.lead(now, &votes, turn);
        }
    }

    /// Whether enough of those who vote said yes; it may not vote itself, see [`Raft::may_stand`].
    fn is_elected(&self) -> bool {
        let (Role::Prospective { poll, .. } | Role::Candidate(poll)) = &self.role else { return false };
        let voters = self.voters();
        let votes = |(id, directory): (&BrokerId, &DirectoryId)| {
            voters.has(ReplicaKey { id: *id, directory: *directory })
        };
        poll.yes.iter().filter(|vote| votes(*vote)).count() >= voters.votes_to_win()
    }

    /// Whoever follows `node` need not wait until it was silent for long. The first of the other voters asks around after
    /// a beat, when all have noticed: who has not yet would only tell it of its leader. The rest let it, and stand only
    /// when nothing comes of it, or they would all stand at the same moment. A word that is wrong unseats nobody: who
    /// hears the leader refuses, and tells.
    pub(super) fn leader_gone(&mut self, now: Mono, node: BrokerId, turn: &mut Turn) {
        let follows = matches!(&self.role, Role::Follower(following) if following.leader == node);
        if !follows || !self.may_stand() {
            return;
        }
        mark!("a follower does not wait for a leader whose process is gone");
        self.unattach(now, turn);
        let first = self.voters().ids().filter(|id| *id != node).min();
        if first == Some(self.settings.me.id)
            && let Role::Unattached { wake } = &mut self.role
        {
            *wake = now + self.settings.timing.beat;
        }
    }

    /// The leader goes in peace: its best successor stands at once, the others give it a little time.
    pub(super) fn leader_resigns(
        &mut self,
        now: Mono,
        from: BrokerId,
        successors: &[BrokerId],
        turn: &mut Turn,
    ) {
        let led = match &self.role {
            Role::Follower(following) => following.leader == from,
            Role::Prospective { silent, .. } => silent.as_ref().is_some_and(|silent| silent.leader == from),
            Role::Unattached { .. } => true, // who leads was not known yet
            Role::Candidate(_) | Role::Leader(_) => false,
        };
        if !led {
            return;
        }
        if self.may_stand() && successors.first() == Some(&self.settings.me.id) {
            mark!("a successor stands at once");
            self.stand(now, turn);
        } else {
            self.unattach(now, turn);
        }
    }
}
