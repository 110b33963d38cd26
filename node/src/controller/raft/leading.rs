//! The leader: serves its log, counts who has it, and knows whether it still leads.
//!
//! Owns: the commit rule. Promises: committed is what a majority of the *voters in effect* holds durably, this node
//! not counted beyond its own durable end (MQ-6), and only from an entry of its own epoch on (MQ-5). A read is answered
//! after a majority has repeated a round that began after the read came (MQ-16). A leader that a majority does not
//! fetch from goes (MQ-17).
//! Leaves out: changes of the voters (`change`).
//!
//! ```text
//!  fetch(end, durable, round) ─► a beginning of our log? ─ no ─► diverged │ snapshot
//!                                     │ yes: counts
//!                                     ▼
//!                    news for it? ─ yes ─► batches, commit, round      no ─► parked until there is, or for a beat
//! ```

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use dejaq_storage::{buggify, mark, mutant};
use dejaq_wire::ids::{BrokerId, Offset};
use dejaq_wire::peer::raft::{
    Batch, Content, DirectoryId, Fetched, MAX_BATCHES, Message, Position, ReplicaKey,
};

use super::entries::Comparison;
use super::facade::{Lost, Token, Turn};
use super::machine::Raft;
use super::role::{Leading, Parked, Progress, Reading, Role};
use super::voters::{majority, reached_by_majority};
use crate::runtime::Mono;

/// Replicas that a leader keeps in mind; the observer that was silent for longest is forgotten for a new one.
const MAX_REPLICAS: usize = 512;
/// An observer that is silent for so many times what a leader waits for its voters is not listed any more: it is a voter
/// that was removed, a disk that was replaced, or comes back and says so.
const FORGOTTEN: u32 = 10;
/// Proposals, and reads, without an answer.
const MAX_WAITING: usize = 1024;

impl Raft {
    /// Elected by these.
    pub(super) fn lead(&mut self, now: Mono, votes: &BTreeMap<BrokerId, DirectoryId>, turn: &mut Turn) {
        assert!(self.store.hard_state_pending().is_none() || mutant!(31), "it voted for itself durably");
        let first = self.store.end().end;
        let mut contents = Vec::new();
        if self.store.entries().voters_said_at().is_none() {
            let voters = self.voters().named(votes);
            assert!(voters.is_formed() || mutant!(306), "elected by all: {voters:?}");
            contents.push(Content::Voters(voters.as_slice().to_vec()));
        }
        contents.push(Content::LeaderChange);
        let batch = |(base, content)| Batch { base, end: base.next(), epoch: self.hard.epoch, content };
        let bases = (first.0..).map(Offset);
        let batches: Vec<Batch> = bases.zip(contents).map(batch).collect();
        let ready = batches.last().expect("the leader-change entry").end;
        self.store.append(batches, turn);
        let replicas = self.voters().as_slice().iter().map(|voter| (voter.key, Progress::unheard(now)));
        let leading = Leading {
            first,
            ready,
            replicas: replicas.filter(|(key, _)| *key != self.settings.me).collect(),
            round: 0,
            reads: VecDeque::new(),
            beat: now + self.timing().beat,
            proposed: VecDeque::new(),
            serving: None,
        };
        self.take_role(Role::Leader(Box::new(leading)), turn);
        for peer in self.peers() {
            self.send(peer, Message::Leading, turn);
        }
    }

    /// Goes in peace, if it leads: the voter that has most stands at once.
    pub(super) fn resign(&mut self, now: Mono, turn: &mut Turn) {
        let Role::Leader(leading) = &self.role else { return };
        let mut best: Vec<(Offset, BrokerId)> = leading
            .replicas
            .iter()
            .filter(|(key, _)| **key != self.settings.me && self.voters().has(**key))
            .map(|(key, progress)| (progress.durable, key.id))
            .collect();
        best.sort_unstable_by(|a, b| b.cmp(a));
        let successors: Vec<BrokerId> = best.into_iter().map(|(_, id)| id).collect();
        for peer in self.peers() {
            self.send(peer, Message::Resigning { successors: successors.clone() }, turn);
        }
        mark!("a leader resigned");
        self.unattach(now, turn);
        if let Role::Unattached { wake } = &mut self.role {
            *wake = wake.plus(self.settings.timing.election); // others first
        }
    }

    /// A beat: asks who is silent, and whether it is alone.
    pub(super) fn look_around(&mut self, now: Mono, turn: &mut Turn) {
        let (timing, me) = (self.timing(), self.settings.me);
        let Role::Leader(leading) = &mut self.role else { return };
        if now < leading.beat {
            return;
        }
        leading.beat = now + timing.beat;
        let voters = self.store.entries().voters();
        leading.replicas.retain(|key, progress| {
            let stays = voters.has(*key) || now < progress.heard + timing.quorum * FORGOTTEN;
            if !stays {
                mark!("an observer that is gone is forgotten");
            }
            stays
        });
        let heard = |key: ReplicaKey| leading.replicas.get(&key).map_or(Mono(0), |progress| progress.heard);
        let known = |voter: &dejaq_wire::peer::raft::Voter| {
            if voter.key == me && !mutant!(314) { now } else { heard(voter.key) }
        };
        let by_majority = reached_by_majority(voters.as_slice().iter().map(known).collect());
        if now >= by_majority + timing.quorum && !mutant!(302) {
            mark!("a leader without a majority goes");
            return self.unattach(now, turn);
        }
        let silent: Vec<BrokerId> = voters
            .as_slice()
            .iter()
            .filter(|voter| voter.key != me && heard(voter.key) + timing.retry <= now)
            .map(|voter| voter.key.id)
            .collect();
        for peer in silent {
            self.send(peer, Message::Leading, turn);
        }
    }

    pub(super) fn propose(&mut self, token: Token, count: u32, records: Bytes, turn: &mut Turn) {
        assert!(count > 0, "{token:?} proposes nothing");
        let Role::Leader(leading) = &mut self.role else {
            return Raft::token_refused(token, Lost::NotLeader, turn);
        };
        if leading.proposed.len() >= MAX_WAITING {
            return Raft::token_refused(token, Lost::NotReady, turn);
        }
        self.append_own(token, i64::from(count), Content::Records(records), turn);
    }

    pub(super) fn append_own(&mut self, token: Token, count: i64, content: Content, turn: &mut Turn) {
        let base = self.store.end().end;
        let end = base.plus(count);
        self.store.append(vec![Batch { base, end, epoch: self.hard.epoch, content }], turn);
        let Role::Leader(leading) = &mut self.role else { unreachable!("only a leader appends") };
        leading.proposed.push_back((end, token));
    }

    pub(super) fn read(&mut self, token: Token, turn: &mut Turn) {
        let (commit, only) = (self.commit, self.is_only_voter());
        let Role::Leader(leading) = &mut self.role else {
            turn.reads.push((token, Err(Lost::NotLeader)));
            return;
        };
        if commit < leading.ready || leading.reads.len() >= MAX_WAITING {
            turn.reads.push((token, Err(Lost::NotReady)));
            return;
        }
        if !only {
            leading.round += 1;
        }
        leading.reads.push_back(Reading { token, round: leading.round, at: commit });
    }

    /// The fetch is of our epoch.
    pub(super) fn serve(
        &mut self,
        now: Mono,
        from: ReplicaKey,
        log: Position,
        (durable, commit, round): (Offset, Offset, u64),
        turn: &mut Turn,
    ) {
        let until = now + self.timing().beat / 2; // the next beat but one at the latest
        let comparison = match self.leading() {
            Some(_) => self.store.entries().compare(log),
            None => return self.refuse_fetch(from.id, log, turn),
        };
        let Some(progress) = self.heard_replica(now, from) else { return };
        match comparison {
            Comparison::Prefix => {
                progress.end = log.end;
                progress.durable = progress.durable.max(durable.min(log.end));
                progress.round = progress.round.max(round);
                // Whether there is news for it is looked at when everything else of this step is done.
                progress.parked = Some(Parked { at: log, commit, round, until });
            }
            Comparison::Diverged(to) => {
                progress.parked = None;
                self.answer_fetch(from.id, log, Fetched::Diverged { to }, turn);
            }
            Comparison::Behind => {
                progress.parked = None;
                self.answer_with_snapshot(from.id, log, turn);
            }
        }
    }

    fn heard_replica(&mut self, now: Mono, from: ReplicaKey) -> Option<&mut Progress> {
        let voters = self.store.entries().voters();
        let Role::Leader(leading) = &mut self.role else { return None };
        if !leading.replicas.contains_key(&from) && leading.replicas.len() >= MAX_REPLICAS {
            let observers = leading.replicas.iter().filter(|(key, _)| !voters.has(**key));
            let oldest = observers.min_by_key(|(_, progress)| progress.heard).map(|(key, _)| *key)?;
            leading.replicas.remove(&oldest);
        }
        let progress = leading.replicas.entry(from).or_insert(Progress::unheard(now));
        progress.heard = now;
        Some(progress)
    }

    pub(super) fn refuse_fetch(&mut self, to: BrokerId, at: Position, turn: &mut Turn) {
        let reply = Message::FetchReply { at, fetched: Fetched::NotLeader, commit: Offset::ZERO, round: 0 };
        self.send(to, reply, turn);
    }

    fn answer_fetch(&mut self, to: BrokerId, at: Position, fetched: Fetched, turn: &mut Turn) {
        let round = self.leading().expect("only a leader answers").round;
        self.send(to, Message::FetchReply { at, fetched, commit: self.commit, round }, turn);
    }

    fn answer_with_snapshot(&mut self, to: BrokerId, at: Position, turn: &mut Turn) {
        let snapshot = self.store.snapshot().expect("what is not in the log is in a snapshot").clone();
        let id = snapshot.id.clone();
        let Role::Leader(leading) = &mut self.role else { unreachable!("only a leader answers") };
        leading.serving = Some(snapshot);
        self.answer_fetch(to, at, Fetched::Snapshot(id), turn);
    }

    /// The question is of our epoch.
    pub(super) fn serve_snapshot(
        &mut self,
        now: Mono,
        from: ReplicaKey,
        log: Position,
        (snapshot, start): (Position, u64),
        turn: &mut Turn,
    ) {
        if self.leading().is_none() {
            return self.refuse_fetch(from.id, log, turn);
        }
        if self.heard_replica(now, from).is_none() {
            return;
        }
        let serving = self.leading().and_then(|leading| leading.serving.as_ref());
        let whole = serving.filter(|serving| serving.id.position == snapshot).map(|serving| &serving.bytes);
        let left = whole.and_then(|bytes| Some((bytes, usize::try_from(start).ok()?)));
        match left.filter(|(bytes, start)| *start < bytes.len()) {
            Some((bytes, at)) => {
                let end = bytes.len().min(at + self.settings.limits.chunk_bytes);
                let bytes = bytes.slice(at..end);
                self.send(from.id, Message::SnapshotChunk { at: log, snapshot, from: start, bytes }, turn);
            }
            None => {
                mark!("a snapshot was replaced while it was fetched");
                let comparison = self.store.entries().compare(log);
                if comparison == Comparison::Behind {
                    self.answer_with_snapshot(from.id, log, turn);
                } else {
                    self.refuse_fetch(from.id, log, turn);
                }
            }
        }
    }

    /// After every step of a leader: what is committed, who can be answered, whether it may stay.
    pub(super) fn advance(&mut self, now: Mono, turn: &mut Turn) {
        if self.leading().is_none() {
            return;
        }
        self.commit_by_count();
        self.confirm_reads(turn);
        self.answer_parked(now, turn);
        // It goes when it has the change itself: then it can still tell whoever asked for it, and before, that it is done.
        let agreed = self.commit.min(self.store.durable());
        let removed = !self.is_voter() && self.store.entries().voters_said_at() <= Some(agreed);
        if removed {
            mark!("a leader that was removed goes");
            self.deliver(turn);
            self.answer_proposals(turn);
            self.resign(now, turn);
        }
    }

    fn commit_by_count(&mut self) {
        let (me, durable) = (self.settings.me, self.store.durable());
        let Role::Leader(leading) = &self.role else { return };
        let entries = self.store.entries();
        let has = |key: ReplicaKey| {
            if key == me {
                return if mutant!(309) { entries.end().end } else { durable };
            }
            leading.replicas.get(&key).map_or(Offset::ZERO, |progress| progress.durable)
        };
        let mut held: Vec<Offset> = entries.voters().as_slice().iter().map(|voter| has(voter.key)).collect();
        if mutant!(39) {
            held = leading.replicas.keys().map(|key| has(*key)).chain([durable]).collect();
        }
        let reached = reached_by_majority(held);
        let own = reached > leading.first || mutant!(32);
        if reached > self.commit && own && entries.epoch_before(reached).is_some() {
            self.raise_commit(reached);
        }
    }

    fn confirm_reads(&mut self, turn: &mut Turn) {
        let (me, applied) = (self.settings.me, self.applied);
        let Role::Leader(leading) = &mut self.role else { return };
        let voters = self.store.entries().voters();
        while let Some(read) = leading.reads.front().copied() {
            let repeated = |key: ReplicaKey| {
                key == me || leading.replicas.get(&key).is_some_and(|progress| progress.round >= read.round)
            };
            let confirmed = voters.as_slice().iter().filter(|voter| repeated(voter.key)).count();
            if (confirmed < majority(voters.count()) && !mutant!(305)) || applied < read.at {
                break;
            }
            leading.reads.pop_front();
            turn.reads.push((read.token, Ok(read.at)));
        }
    }

    fn answer_parked(&mut self, now: Mono, turn: &mut Turn) {
        let (end, commit) = (self.store.end().end, self.commit);
        let Role::Leader(leading) = &mut self.role else { return };
        let round = leading.round;
        let mut due = Vec::new();
        for (key, progress) in &mut leading.replicas {
            let news = |parked: &Parked| {
                parked.at.end < end || parked.commit < commit || parked.round < round || parked.until <= now
            };
            if let Some(parked) = progress.parked.take_if(|parked| news(parked)) {
                due.push((key.id, parked.at));
            }
        }
        for (to, at) in due {
            match self.store.entries().compare(at) {
                Comparison::Prefix => {
                    let is_stingy = buggify!("a voter is told one entry of the metadata at a time", 500);
                    let (bytes, count) =
                        if is_stingy { (1, 1) } else { (self.settings.limits.fetch_bytes, MAX_BATCHES) };
                    let batches = self.store.entries().read(at.end, bytes, count);
                    self.answer_fetch(to, at, Fetched::Batches(batches), turn);
                }
                Comparison::Behind => self.answer_with_snapshot(to, at, turn),
                Comparison::Diverged(to) => {
                    unreachable!("a leader never cuts: {at:?} was a beginning, now {to:?}")
                }
            }
        }
    }
}

impl Progress {
    fn unheard(now: Mono) -> Progress {
        Progress { end: Offset::ZERO, durable: Offset::ZERO, heard: now, round: 0, parked: None }
    }
}
