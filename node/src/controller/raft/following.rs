//! A follower, voter or observer: fetches the log from the leader, and makes its own like it.
//!
//! Owns: the fetch under way, the cut where logs differ, the snapshot that is coming.
//! Promises: an answer counts only for the position that was asked from, which must still be the end of this log, and
//! only from the leader of this epoch: an answer that is late, doubled or from another leader changes nothing (MQ-7).
//! Reports as durable only what is (MQ-6).
//! Leaves out: the leader's side (`leading`).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dejaq_storage::{mark, mutant};
use dejaq_wire::ids::{BrokerId, Offset};
use dejaq_wire::peer::raft::{Batch, Fetched, MAX_SNAPSHOT_BYTES, Message, Position, SnapshotId};

use super::facade::{Snapshot, Turn};
use super::machine::Raft;
use super::role::{Asked, Download, Following, Role};
use super::voters::VoterSet;
use crate::runtime::Mono;

impl Raft {
    fn following(&mut self) -> Option<&mut Following> {
        match &mut self.role {
            Role::Follower(following) => Some(following),
            Role::Prospective { silent, .. } => silent.as_deref_mut(),
            Role::Unattached { .. } | Role::Candidate(_) | Role::Leader(_) => None,
        }
    }

    /// Sends the next fetch if there is none under way, if it took too long, or if there is news for the leader.
    pub(super) fn keep_fetching(&mut self, now: Mono, turn: &mut Turn) {
        let (at, mut durable, commit) = (self.store.end(), self.store.durable(), self.commit);
        if mutant!(33) {
            durable = at.end;
        }
        let retry = self.timing().retry;
        let Some(following) = self.following() else { return };
        let due = following.asked.is_none_or(|asked| {
            asked.at != at
                || asked.durable < durable
                || asked.round < following.round
                || now >= asked.since + retry
        });
        if !due {
            return;
        }
        let round = following.round;
        following.asked = Some(Asked { at, durable, round, since: now });
        let message = match &following.download {
            Some(Download { id, bytes, .. }) => {
                Message::FetchSnapshot { log: at, snapshot: id.position, from: bytes.len() as u64 }
            }
            None => Message::Fetch { log: at, durable, commit, round },
        };
        let leader = following.leader;
        self.send(leader, message, turn);
    }

    /// An observer without a leader asks some voter, which answers as it can.
    pub(super) fn look_for_leader(&mut self, now: Mono, turn: &mut Turn) {
        self.unattach(now, turn);
        let mut peers = self.peers();
        peers.extend(self.settings.contacts.iter().filter(|id| **id != self.settings.me.id));
        peers.sort_unstable();
        peers.dedup();
        if peers.is_empty() {
            return;
        }
        let at = usize::try_from(self.dice.draw() % peers.len() as u64).expect("less than the peers");
        let log = self.store.end();
        let message = Message::Fetch { log, durable: self.store.durable(), commit: self.commit, round: 0 };
        self.send(peers[at], message, turn);
    }

    /// The answer is of our epoch; whether from our leader is seen here.
    pub(super) fn fetched(
        &mut self,
        now: Mono,
        from: BrokerId,
        at: Position,
        (fetched, commit, round): (Fetched, Offset, u64),
        turn: &mut Turn,
    ) {
        if self.following().is_none_or(|following| following.leader != from) {
            return;
        }
        if fetched == Fetched::NotLeader {
            mark!("the leader says that it leads no more");
            return self.unattach(now, turn);
        }
        self.heard_leader(now);
        let end = self.store.end();
        let following = self.following().expect("it follows");
        following.round = following.round.max(round);
        if following.asked.is_some_and(|asked| asked.at == at) {
            following.asked = None;
        }
        let blind = (mutant!(303) && matches!(fetched, Fetched::Diverged { .. }))
            || (mutant!(304) && matches!(fetched, Fetched::Snapshot(_)));
        if at != end && !blind {
            mark!("an answer to a fetch from another end of the log");
            return;
        }
        match fetched {
            Fetched::Batches(batches) => self.take_batches(batches, commit, turn),
            Fetched::Diverged { to } => self.cut_to(to, turn),
            Fetched::Snapshot(id) => self.begin_download(id),
            Fetched::NotLeader => unreachable!("handled above"),
        }
    }

    /// The leader answered: a voter that was about to stand thinks better of it.
    fn heard_leader(&mut self, now: Mono) {
        if let Role::Prospective { silent, .. } = &mut self.role
            && let Some(following) = silent.take()
        {
            mark!("a leader was heard again before the vote");
            self.role = Role::Follower(*following);
        }
        if let Role::Follower(following) = &mut self.role {
            following.heard = now;
        }
    }

    fn take_batches(&mut self, batches: Vec<Batch>, commit: Offset, turn: &mut Turn) {
        let mut end = self.store.end();
        for batch in &batches {
            let next = batch.base == end.end && batch.end > batch.base;
            if !next || batch.epoch < end.epoch || batch.epoch > self.hard.epoch {
                mark!("a leader sent batches that do not follow");
                return;
            }
            end = Position { epoch: batch.epoch, end: batch.end };
        }
        if !batches.is_empty() {
            self.store.append(batches, turn);
            if let Some(following) = self.following() {
                following.download = None; // an older answer had what the leader dropped meanwhile
            }
        }
        // Up to its end, this log is the leader's: what is committed there is here.
        self.raise_commit(self.commit.max(commit.min(end.end)));
    }

    fn cut_to(&mut self, leader: Position, turn: &mut Turn) {
        if let Role::Follower(following) = &mut self.role {
            following.download = None; // it was to follow the end that goes now
        }
        let base = self.store.entries().base();
        let own = self.store.entries().end_of_epoch(leader.epoch).unwrap_or(base);
        // A batch of ours may lie across the end of theirs.
        let to = self.store.entries().border_before(own.end.min(leader.end));
        if !(mutant!(303) && to < self.commit) {
            assert!(to >= self.commit, "told to cut at {to:?} what is committed up to {:?}", self.commit);
        }
        if to < self.store.end().end {
            mark!("a follower cuts what its leader does not have");
            if mutant!(303) {
                self.commit = self.commit.min(to);
                self.applied = self.applied.min(to);
            }
            self.store.truncate(to, turn);
        }
    }

    fn begin_download(&mut self, id: SnapshotId) {
        let (at, commit) = (self.store.end(), self.commit);
        let voters = VoterSet::new(id.voters.clone());
        if (id.position.end <= commit && !mutant!(304)) || id.bytes > MAX_SNAPSHOT_BYTES || voters.is_err() {
            mark!("a snapshot that is of no use");
            return;
        }
        let Some(following) = self.following() else { return };
        if following.download.as_ref().is_some_and(|download| download.id == id) {
            return; // it is coming already
        }
        mark!("a follower needs a snapshot");
        following.download = Some(Download { at, id, bytes: BytesMut::new() });
        following.asked = None;
    }

    pub(super) fn got_chunk(
        &mut self,
        now: Mono,
        from: BrokerId,
        at: Position,
        (snapshot, start, bytes): (Position, u64, Bytes),
        turn: &mut Turn,
    ) {
        if self.following().is_none_or(|following| following.leader != from) {
            return;
        }
        self.heard_leader(now);
        let end = self.store.end();
        let reads = self.settings.snapshot_reads;
        let following = self.following().expect("it follows");
        let Some(download) = &mut following.download else { return };
        assert_eq!(download.at, end, "nothing was appended while a snapshot was fetched");
        let next = download.bytes.len() as u64;
        if at != end || snapshot != download.id.position || start != next || bytes.is_empty() {
            return;
        }
        following.asked = None;
        if next + bytes.len() as u64 > download.id.bytes {
            mark!("a snapshot is longer than it was said to be");
            following.download = None;
            return;
        }
        download.bytes.extend_from_slice(&bytes);
        if (download.bytes.len() as u64) < download.id.bytes {
            return;
        }
        let Download { id, bytes, .. } = following.download.take().expect("it is there");
        if !reads(&bytes) {
            mark!("a snapshot came damaged and is fetched again");
            return;
        }
        self.install(Arc::new(Snapshot { id, bytes: bytes.freeze() }), turn);
    }

    fn install(&mut self, snapshot: Arc<Snapshot>, turn: &mut Turn) {
        let end = snapshot.id.position.end;
        assert!(end > self.commit || mutant!(304), "a snapshot at {end:?}, committed {:?}", self.commit);
        mark!("a follower takes a snapshot");
        self.store.install(snapshot, self.commit.min(end), turn);
        self.commit = end;
        self.applied = self.applied.min(end);
    }
}
