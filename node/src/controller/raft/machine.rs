//! One node of the quorum: the step, and the changes of role.
//!
//! Owns: the state. Promises, checked after every step: applied ≤ committed and durable here; committed ≤ end of the
//! log; nothing committed is ever cut (MQ-7); one leader per epoch (MQ-1); nothing that rests on an epoch or a vote is
//! said before it is durable (MQ-2). Pure: time, randomness and bytes come in by the door (`facade`).
//! Leaves out: what messages do (`receiving`, and from there `election`, `following`, `leading`), what follows from
//! every step (`settling`).
//!
//! After KIP-595, KIP-853 and KIP-996, and Ongaro's thesis; where we differ it is said at the place.

use std::collections::VecDeque;
use std::time::Duration;

use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::raft::{Envelope, Position};

use super::entries::Entries;
use super::facade::{HardState, Input, Restored, Settings, Standing, Ticket, Timing, Turn, View};
use super::role::{Leading, Role};
use super::store::Store;
use super::voters::{BadVoters, VoterSet};
use crate::runtime::Mono;

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
    pub(super) held: VecDeque<(Ticket, Envelope)>,
    pub(super) shown: Option<View>,
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
    pub(super) fn patience(&mut self, least: Duration) -> Duration {
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
            Input::Forget => self.store.forget(turn),
            Input::Resign => self.resign(now, turn),
            Input::Gone(node) => self.leader_gone(now, node, turn),
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

    /// What is always true; O(n), for tests and the simulator.
    pub fn check_deep(&self) {
        self.store.entries().check_deep();
        self.check();
    }
}
