//! What must be true of the whole cluster, seen from above. Sources: CORRECTNESS.md 1.3.
//!
//! Owns: the ghost state (MQ-1 to MQ-9, MQ-12, MQ-16, MQ-19). Never reads what a node says of itself as a proof of it,
//! but for what it did: appended, applied, answered, voted.

use std::collections::{BTreeMap, BTreeSet};

use dejaq::controller::raft::{Raft, Standing, Token, View};
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::raft::{Batch, Content, Envelope, Message, Position, ReplicaKey};

/// What the state machine of every node is a function of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Machine {
    pub applied: Offset,
    pub chain: u64,
}

#[derive(Debug, Clone)]
pub struct Committed {
    pub batch: Batch,
    pub chain: u64,
    /// Of the node that applied it first: it was committed in this epoch or before.
    by: LeaderEpoch,
}

/// An entry as it was appended: the epoch before it, its end, its content.
type Appended = (LeaderEpoch, Offset, u64);

#[derive(Debug, Default)]
pub struct God {
    named: BTreeMap<LeaderEpoch, BrokerId>,
    led: BTreeMap<LeaderEpoch, ReplicaKey>,
    votes: BTreeMap<(ReplicaKey, LeaderEpoch), BrokerId>,
    appended: BTreeMap<(LeaderEpoch, Offset), Appended>,
    /// By base.
    pub committed: BTreeMap<Offset, Committed>,
    pub committed_end: Offset,
    tokens: BTreeMap<Token, Offset>,
    acked: BTreeMap<Token, Offset>,
    denied: BTreeSet<Token>,
    pub acked_end: Offset,
    pub elections: u64,
}

pub fn hash(content: &Content) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for byte in bytes {
            h = (h ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    match content {
        Content::LeaderChange => eat(b"leader"),
        Content::Voters(voters) => voters.iter().for_each(|voter| {
            eat(&voter.key.id.0.to_be_bytes());
            eat(&voter.key.directory.0);
        }),
        Content::Records(bytes) => eat(bytes),
    }
    h
}

pub fn chained(before: u64, batch: &Batch) -> u64 {
    let mixed = hash(&batch.content) ^ (batch.end.0 as u64).rotate_left(32) ^ (batch.epoch.0 as u64);
    before.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ mixed
}

pub fn token_of(batch: &Batch) -> Option<Token> {
    match &batch.content {
        Content::Records(bytes) => Some(Token(u64::from_be_bytes(bytes[..8].try_into().expect("a token")))),
        Content::LeaderChange | Content::Voters(_) => None,
    }
}

macro_rules! must {
    ($what:expr, $($text:tt)*) => { if !$what { return Err(format!($($text)*)); } };
}

pub type Verdict = Result<(), String>;

impl God {
    /// MQ-1: one leader per epoch, and nobody names another.
    pub fn saw_view(&mut self, key: ReplicaKey, view: View, raft: &Raft) -> Verdict {
        if let Some(leader) = view.leader {
            let known = *self.named.entry(view.epoch).or_insert(leader);
            must!(
                known == leader,
                "MQ-1: {key:?} names {leader:?} for {:?}, which {known:?} leads",
                view.epoch
            );
        }
        if let Standing::Leader { .. } = view.standing {
            let first = !self.led.contains_key(&view.epoch);
            let known = *self.led.entry(view.epoch).or_insert(key);
            must!(known == key, "MQ-1: {known:?} and {key:?} lead {:?}", view.epoch);
            if first {
                self.elections += 1;
                self.is_complete(key, view.epoch, raft)?;
            }
        }
        Ok(())
    }

    /// MQ-4: it has what was committed in the epochs before its own. It may be elected late, after a later leader.
    fn is_complete(&self, key: ReplicaKey, epoch: LeaderEpoch, raft: &Raft) -> Verdict {
        let before = self.committed.values().rev().find(|entry| entry.by < epoch);
        let Some(Committed { batch, .. }) = before else { return Ok(()) };
        let here = raft.entries().epoch_before(batch.end);
        let has = raft.entries().base().end > batch.end || here == Some(batch.epoch);
        must!(
            has,
            "MQ-4: {key:?} leads {epoch:?} without {:?}/{:?}, it has {here:?}",
            batch.end,
            batch.epoch
        );
        Ok(())
    }

    /// MQ-2: one vote per epoch and disk, over all lives.
    pub fn saw_send(&mut self, sent: &Envelope) -> Verdict {
        let candidate = match sent.message {
            Message::Vote { pre: false, .. } => sent.from.id,
            Message::VoteReply { pre: false, granted: true } => sent.to,
            _ => return Ok(()),
        };
        let known = *self.votes.entry((sent.from, sent.epoch)).or_insert(candidate);
        must!(
            known == candidate,
            "MQ-2: {:?} votes for {known:?} and {candidate:?} in {:?}",
            sent.from,
            sent.epoch
        );
        Ok(())
    }

    /// Log matching: epoch and offset name one entry, and what is before it.
    pub fn saw_append(&mut self, key: ReplicaKey, before: LeaderEpoch, batch: &Batch) -> Verdict {
        let this = (before, batch.end, hash(&batch.content));
        let known = *self.appended.entry((batch.epoch, batch.base)).or_insert(this);
        must!(known == this, "MQ-3: {key:?} appends {batch:?} behind {before:?}, known is {known:?}");
        Ok(())
    }

    /// State machine safety: everyone applies the same, and what was applied once stays. Says whether it is the first.
    pub fn saw_apply(
        &mut self,
        key: ReplicaKey,
        by: LeaderEpoch,
        machine: &mut Machine,
        batch: &Batch,
    ) -> Result<bool, String> {
        must!(batch.base == machine.applied, "{key:?} applies {:?} at {:?}", batch.base, machine.applied);
        let chain = chained(machine.chain, batch);
        *machine = Machine { applied: batch.end, chain };
        if let Some(known) = self.committed.get(&batch.base) {
            must!(known.batch == *batch, "MQ-8: {key:?} applies {batch:?}, committed is {:?}", known.batch);
            must!(known.chain == chain, "MQ-8: {key:?} has another state at {:?}", batch.end);
            return Ok(false);
        }
        must!(batch.base == self.committed_end, "{key:?} applies {batch:?} behind {:?}", self.committed_end);
        self.committed_end = batch.end;
        self.committed.insert(batch.base, Committed { batch: batch.clone(), chain, by });
        if let Some(token) = token_of(batch) {
            let twice = self.tokens.insert(token, batch.end);
            must!(twice.is_none(), "{token:?} is committed at {twice:?} and {:?}", batch.end);
        }
        Ok(true)
    }

    /// MQ-9: a snapshot is what replay would give.
    pub fn saw_snapshot(&self, key: ReplicaKey, position: Position, machine: Machine) -> Verdict {
        let at = self.committed.values().find(|entry| entry.batch.end == position.end);
        let same =
            at.is_some_and(|entry| entry.chain == machine.chain && entry.batch.epoch == position.epoch);
        must!(
            same && machine.applied == position.end,
            "MQ-9: {key:?} loads {machine:?} at {position:?}: {at:?}"
        );
        Ok(())
    }

    pub fn acked(&mut self, token: Token, end: Offset) -> Verdict {
        must!(
            self.tokens.get(&token) == Some(&end),
            "MQ-12: {token:?} is acked at {end:?}, {:?}",
            self.tokens.get(&token)
        );
        self.acked.insert(token, end);
        self.acked_end = self.acked_end.max(end);
        Ok(())
    }

    pub fn denied(&mut self, token: Token) {
        self.denied.insert(token);
    }

    /// MQ-16: a read sees what was acked before it was asked, and what a read before it saw.
    pub fn read(&mut self, floor: Offset, at: Offset) -> Verdict {
        must!(at >= floor, "MQ-16: a read at {at:?}, acked or read before it was {floor:?}");
        must!(at <= self.committed_end, "a read at {at:?}, committed is {:?}", self.committed_end);
        self.acked_end = self.acked_end.max(at);
        Ok(())
    }

    /// At the end of a run.
    pub fn finish(&self) -> Verdict {
        for token in &self.denied {
            must!(!self.tokens.contains_key(token), "{token:?} was refused, and is committed");
        }
        for (token, end) in &self.acked {
            must!(self.tokens.get(token) == Some(end), "LOST: {token:?}, acked at {end:?}");
        }
        Ok(())
    }
}
