//! One node of the quorum: the step, and the changes of role.
//!
//! Owns: the state. Promises, checked after every step: applied ≤ committed and durable here; committed ≤ end of the
//! log; nothing committed is ever cut (MQ-7); one leader per epoch (MQ-1); nothing that rests on an epoch or a vote is
//! said before it is durable (MQ-2). Pure: time, randomness and bytes come in by the door (`facade`).
//! Leaves out: how votes are counted (`election`), how the log is fetched (`following`) and served (`leading`).
//!
//! After KIP-595, KIP-853 and KIP-996, and Ongaro's thesis; where we differ it is said at the place.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use dejaq_storage::{mark, mutant};
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::raft::{Envelope, Message, Position};

use super::entries::Entries;
use super::facade::{
    Apply, HardState, Input, Lost, Restored, Settings, Standing, Ticket, Timing, Token, Turn, View,
};
use super::role::{Following, Leading, Poll, Role};
use super::store::Store;
use super::voters::{BadVoters, VoterSet};
use crate::runtime::Mono;

/// Messages that wait for a sync at most; more are lost, as on any network.
const MAX_HELD: usize = 1024;

/// One node of the quorum.
#[derive(Debug)]
pub struct Raft {
    pub(super) settings: Settings,
    pub(super) dice: Dice,
    pub(super) hard: HardState,
    pub(super) role: Role,
    pub(super) store: Store,
    pub(super) commit: Offset,
    pub(super) applied: Offset,
    held: VecDeque<(Ticket, Envelope)>,
    shown: Option<View>,
}

/// Injected randomness, stretched: splitmix64.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `least` to less than twice that.
    fn patience(&mut self, least: Duration) -> Duration {
        let nanos = u64::try_from(least.as_nanos()).expect("a timeout is not 584 years").max(1);
        Duration::from_nanos(nanos + self.draw() % nanos)
    }
}

impl Raft {
    /// A node as its disk left it. `seed` is entropy. The driver has brought the disk in order before:
    /// a log that does not reach its snapshot, or differs from it there, was removed (see `restore::fit`).
    ///
    /// A node that is the only voter stands at once; it leads when its vote is durable.
    ///
    /// # Errors
    /// [`BadVoters`]: the configured voters are no set.
    pub fn open(
        settings: Settings,
        restored: Restored,
        seed: u64,
        now: Mono,
        turn: &mut Turn,
    ) -> Result<Raft, BadVoters> {
        let Restored { hard, snapshot, batches } = restored;
        let (base, voters) = match &snapshot {
            Some(snapshot) => (snapshot.id.position, VoterSet::new(snapshot.id.voters.clone())?),
            None => (Position::EMPTY, VoterSet::new(settings.bootstrap.clone())?),
        };
        let mut entries = Entries::starting(base, voters);
        batches.into_iter().for_each(|batch| entries.push(batch));
        let seen = entries.end().epoch.max(LeaderEpoch(0));
        let hard = match hard {
            Some(hard) if hard.epoch >= seen => hard,
            Some(_) | None => HardState { epoch: seen, voted: None },
        };
        let mut raft = Raft {
            settings,
            dice: Dice(seed),
            hard,
            role: Role::Unattached { wake: now },
            store: Store::restored(entries, snapshot),
            commit: base.end,
            applied: base.end,
            held: VecDeque::new(),
            shown: None,
        };
        // What was read may lie in the page cache only, and must not be relied on before it is synced.
        raft.store.write_hard_state(raft.hard, turn);
        raft.store.resync(turn);
        raft.unattach(now, turn);
        if raft.is_only_voter() {
            raft.stand(now, turn);
        }
        raft.settle(now, turn);
        Ok(raft)
    }

    /// One step. `turn` gets what is to be done.
    pub fn step(&mut self, now: Mono, input: Input, turn: &mut Turn) {
        match input {
            Input::Tick => self.tick(now, turn),
            Input::Received(envelope) => self.receive(now, envelope, turn),
            Input::Durable(ticket) => self.store.settle(ticket),
            Input::Propose { token, count, records } => self.propose(token, count, records, turn),
            Input::Change { token, change } => self.change(now, token, change, turn),
            Input::Read(token) => self.read(token, turn),
            Input::Compacted(snapshot) => {
                let end = snapshot.id.position.end;
                assert!(end <= self.applied, "a snapshot at {end:?}, applied is {:?}", self.applied);
                if self.store.snapshot().is_none_or(|old| old.id.position.end < end) {
                    self.store.compact(snapshot, turn);
                }
            }
            Input::Resign => self.resign(now, turn),
        }
        self.settle(now, turn);
    }

    /// When it wants to be stepped at the latest.
    #[must_use]
    pub fn deadline(&self) -> Mono {
        let timing = &self.settings.timing;
        match &self.role {
            Role::Unattached { wake } => *wake,
            Role::Follower(following) => {
                let fetch = following.asked.map(|asked| asked.since + timing.retry);
                let given_up = following.heard + following.patience;
                fetch.map_or(given_up, |fetch| fetch.min(given_up))
            }
            Role::Prospective { poll, .. } | Role::Candidate(poll) => poll.end.min(poll.again),
            Role::Leader(leading) => leading.beat,
        }
    }

    /// What it thinks of the quorum.
    #[must_use]
    pub fn view(&self) -> View {
        let standing = match &self.role {
            Role::Unattached { .. } => Standing::Unattached,
            Role::Follower(_) => Standing::Follower,
            Role::Prospective { .. } => Standing::Prospective,
            Role::Candidate(_) => Standing::Candidate,
            Role::Leader(leading) => Standing::Leader { ready: self.applied >= leading.ready },
        };
        View { epoch: self.hard.epoch, leader: self.leader(), standing }
    }

    /// The log, with the voters in it.
    #[must_use]
    pub fn entries(&self) -> &Entries {
        self.store.entries()
    }

    /// How far the log is known to be committed, how far it was handed to the state machine, how far it is durable.
    #[must_use]
    pub fn marks(&self) -> (Offset, Offset, Offset) {
        (self.commit, self.applied, self.store.durable())
    }

    /// What a leader knows of those who fetch from it; `None` if this node does not lead.
    #[must_use]
    pub fn leading(&self) -> Option<&Leading> {
        match &self.role {
            Role::Leader(leading) => Some(leading),
            Role::Unattached { .. } | Role::Follower(_) | Role::Prospective { .. } | Role::Candidate(_) => {
                None
            }
        }
    }

    pub(super) fn leader(&self) -> Option<BrokerId> {
        match &self.role {
            Role::Unattached { .. } | Role::Candidate(_) => None,
            Role::Follower(following) => Some(following.leader),
            Role::Prospective { silent, .. } => silent.as_ref().map(|following| following.leader),
            Role::Leader(_) => Some(self.settings.me.id),
        }
    }

    pub(super) fn voters(&self) -> &VoterSet {
        self.store.entries().voters()
    }

    pub(super) fn is_voter(&self) -> bool {
        self.voters().has(self.settings.me)
    }

    /// Whether its standing may be needed: a leader that removes itself may have to be elected once more, to commit
    /// that (Ongaro's thesis 4.2.2).
    pub(super) fn may_stand(&self) -> bool {
        self.store.entries().may_vote(self.settings.me, self.commit)
    }

    pub(super) fn is_only_voter(&self) -> bool {
        self.is_voter() && self.voters().count() == 1
    }

    /// Every other voter's node.
    pub(super) fn peers(&self) -> Vec<BrokerId> {
        self.voters().ids().filter(|id| *id != self.settings.me.id).collect()
    }

    pub(super) fn timing(&self) -> Timing {
        self.settings.timing
    }

    fn receive(&mut self, now: Mono, envelope: Envelope, turn: &mut Turn) {
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
    fn correct(&mut self, from: dejaq_wire::peer::raft::ReplicaKey, message: Message, turn: &mut Turn) {
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
    fn settle(&mut self, now: Mono, turn: &mut Turn) {
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
    fn deliver(&mut self, turn: &mut Turn) {
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

    fn answer_proposals(&mut self, turn: &mut Turn) {
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
    fn check(&self) {
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

    /// What is always true; O(n), for tests and the simulator.
    pub fn check_deep(&self) {
        self.store.entries().check_deep();
        self.check();
    }
}
