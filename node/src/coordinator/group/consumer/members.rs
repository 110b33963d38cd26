//! One group of KIP-848: its epochs, its members, and who owns what.
//!
//! Owns: [`Members`]; who gets in and who is out; owners. Promises: a partition has one owner (checked with every
//! change); group epoch ≥ the plan's ≥ every member's. Everything that the log must learn is noted in `dirty`.
//! Leaves out: what follows from a change (`plan`), writing (`keep`), offsets (`super::super::commit`).
//! Called by `heartbeat`, `face`, `convert` and `super::super::classic`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{Generation, PartitionId, TopicId};

use super::assignor::{Assignor, Plan};
use super::keep::Key;
use super::member::{Member, PAUSES, Phase};
use super::reconcile::Next;
use crate::coordinator::consumer_record::{Parts, StoredEpoch};
use crate::coordinator::group::ask::CommitAsk;
use crate::coordinator::group::settings::Settings;
use crate::coordinator::group::turn::Turn;
use crate::runtime::Mono;

/// A group of KIP-848.
#[derive(Debug, Clone, PartialEq)]
pub struct Members {
    pub(in super::super) epoch: Generation,
    /// For which epoch the plan is.
    pub(super) target_epoch: Generation,
    /// How the plan was made.
    pub(super) assignor: Assignor,
    pub(in super::super) members: BTreeMap<Arc<str>, Member>,
    /// Instance id to member id.
    pub(super) instances: BTreeMap<Arc<str>, Arc<str>>,
    /// What each member shall own.
    pub(super) target: Plan,
    /// Who owns what, with what is to be given up.
    pub(super) owners: BTreeMap<(TopicId, PartitionId), Arc<str>>,
    /// Topics that are read, by name.
    pub(in super::super) subscribed: BTreeSet<Arc<str>>,
    /// Of those topics, when the plan was made.
    pub(super) topics_hash: i64,
    /// The version of the metadata that was looked at last.
    pub(super) seen: u64,
    /// What the log does not know yet.
    pub(super) dirty: BTreeSet<Key>,
}

impl Members {
    /// A group without members.
    pub(in super::super) fn new(epoch: Generation, assignor: Assignor) -> Members {
        Members {
            epoch,
            target_epoch: epoch,
            assignor,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            target: Plan::new(),
            owners: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            topics_hash: 0,
            seen: 0,
            dirty: BTreeSet::new(),
        }
    }

    /// A group that is read back, still without members.
    pub(in super::super) fn restored(
        kept: &StoredEpoch,
        target_epoch: Option<Generation>,
        assignor: Assignor,
    ) -> Members {
        let mut members = Members::new(kept.epoch, assignor);
        members.target_epoch = target_epoch.unwrap_or(Generation(0)).min(kept.epoch);
        members.topics_hash = kept.topics_hash;
        members
    }

    /// Puts in a member that is read back. Its session begins anew: it was not heard meanwhile.
    pub(in super::super) fn restore(
        &mut self,
        mut member: Member,
        target: Option<Parts>,
        settings: &Settings,
        now: Mono,
    ) {
        let session = member.face.as_ref().map_or(settings.consumer_session, |face| face.session);
        member.deadline = now.plus(session);
        let revokes = member.phase == Phase::Unrevoked && member.face.is_none();
        member.revoke_until = revokes.then(|| now.plus(member.patience));
        if member.instance.as_ref().is_some_and(|instance| self.instances.contains_key(instance)) {
            member.instance = None; // cannot be written by us; of a log that says so the first one counts
        }
        let id = member.id.clone();
        self.insert(member);
        self.dirty.clear();
        if let Some(target) = target {
            self.target.insert(id, target);
        }
    }

    /// Whether it knows which topics it reads: not before anyone was heard since it was read back.
    #[must_use]
    pub(in super::super) fn has_looked(&self) -> bool {
        self.seen > 0
    }

    /// As Kafka calls its state.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match () {
            () if self.members.is_empty() => "Empty",
            () if self.epoch > self.target_epoch => "Assigning",
            () if self.members.values().any(|member| !member.is_at(self.target_epoch)) => "Reconciling",
            () => "Stable",
        }
    }

    /// The member of this id, and of this instance if one is named.
    ///
    /// # Errors
    /// The code to answer.
    pub(super) fn check_member(&self, id: &str, instance: Option<&str>) -> Result<&Member, ErrorCode> {
        if let Some(instance) = instance {
            match self.instances.get(instance) {
                None => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(now) if **now != *id => return Err(ErrorCode::FENCED_INSTANCE_ID),
                Some(_) => {}
            }
        }
        self.members.get(id).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)
    }

    /// Whether a commit, or a question for offsets, of this member may pass.
    ///
    /// # Errors
    /// The code to answer: an epoch that is not the member's own is over, or was never given.
    pub(in super::super) fn check_epoch(&self, id: &str, epoch: Generation) -> Result<(), ErrorCode> {
        let member = self.members.get(id).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        match (member.epoch == epoch, &member.face) {
            (true, _) => Ok(()),
            (false, Some(_)) => Err(ErrorCode::ILLEGAL_GENERATION),
            (false, None) => Err(ErrorCode::STALE_MEMBER_EPOCH),
        }
    }

    /// Whether a commit may pass.
    ///
    /// # Errors
    /// The code to answer.
    pub(in super::super) fn may_commit(&self, ask: &CommitAsk) -> Result<(), ErrorCode> {
        if !ask.generation.is_valid() && self.members.is_empty() {
            return Ok(()); // a consumer that assigns by itself, or an operator
        }
        let face = self.members.get(ask.member.as_str()).and_then(|member| member.face.as_ref());
        if face.is_some() {
            self.check_member(&ask.member, ask.instance.as_deref())?;
        }
        self.check_epoch(&ask.member, ask.generation)
    }

    /// A member of the classic protocol was heard.
    pub(in super::super) fn touch(&mut self, id: &str, now: Mono) {
        if let Some(member) = self.members.get_mut(id)
            && let Some(face) = &member.face
        {
            member.deadline = now.plus(face.session);
        }
    }

    /// Puts a member in. It owns nothing, or what was its own before under another id.
    pub(super) fn insert(&mut self, member: Member) {
        let id = member.id.clone();
        if let Some(instance) = &member.instance {
            let before = self.instances.insert(instance.clone(), id.clone());
            assert!(before.is_none(), "{instance} was {before:?}");
        }
        for part in member.assigned.iter().chain(&member.revoking) {
            let other = self.owners.insert(*part, id.clone());
            assert!(other.is_none(), "{part:?} of {id} is owned by {other:?}");
        }
        self.dirty.extend([Key::Member(id.clone()), Key::Current(id.clone())]);
        assert!(self.members.insert(id, member).is_none(), "a member comes once");
    }

    /// Takes a member out with all that it has.
    pub(super) fn remove(&mut self, id: &str) -> Member {
        let (id, member) = self.members.remove_entry(id).unwrap_or_else(|| panic!("{id} is no member"));
        if let Some(instance) = &member.instance {
            let removed = self.instances.remove(instance);
            assert_eq!(removed.as_ref(), Some(&id), "{instance} leads to its member");
        }
        for part in member.assigned.iter().chain(&member.revoking) {
            let owner = self.owners.remove(part);
            assert_eq!(owner.as_ref(), Some(&id), "{part:?} is not its member's");
        }
        self.target.remove(&id);
        self.dirty.extend([Key::Member(id.clone()), Key::Target(id.clone()), Key::Current(id)]);
        member
    }

    /// A static member comes back under a new id: what the old one has is its.
    pub(super) fn replace(&mut self, old: &str, fresh: Arc<str>) {
        mark!("a static member of the new protocol comes back");
        let shall = self.target.get(old).cloned().unwrap_or_default();
        let mut member = self.remove(old);
        member.id = fresh.clone();
        (member.epoch, member.previous) = (Generation(0), Generation(0));
        member.revoke_until = None;
        self.insert(member);
        self.target.insert(fresh.clone(), shall);
        self.dirty.insert(Key::Target(fresh));
    }

    /// Takes a member's next step.
    pub(super) fn advance(&mut self, id: &str, next: Next) {
        let (id, member) = self.members.get_key_value(id).expect("the caller found it");
        for part in member.assigned.iter().chain(&member.revoking) {
            self.owners.remove(part);
        }
        for part in next.assigned.iter().chain(&next.revoking) {
            let other = self.owners.insert(*part, id.clone());
            assert!(other.is_none(), "{part:?} is given to {id}, and {other:?} owns it");
        }
        assert!(next.epoch >= member.epoch, "{id} goes back from {:?} to {:?}", member.epoch, next.epoch);
        assert!(next.epoch <= self.target_epoch, "{id} is ahead of the plan");
        let id = id.clone();
        let member = self.members.get_mut(&id).expect("just found");
        if next.epoch != member.epoch {
            member.enter(next.epoch);
        }
        (member.phase, member.assigned, member.revoking) = (next.phase, next.assigned, next.revoking);
        self.dirty.insert(Key::Current(id));
    }

    /// When [`Members::tick`] has something to do.
    pub(in super::super) fn next_deadline(&self) -> Option<Mono> {
        self.members.values().map(Member::expires).min()
    }

    /// Members whose time is over are out. Whether there were any.
    pub(in super::super) fn tick(&mut self, turn: &mut Turn<'_>) -> bool {
        let now = turn.now.mono;
        let late = |member: &&Member| member.expires() <= now;
        let gone: Vec<Arc<str>> = self.members.values().filter(late).map(|m| m.id.clone()).collect();
        for id in &gone {
            mark!("a member of the new protocol is out of time");
            self.remove(id);
        }
        if !gone.is_empty() {
            self.members_left(turn);
        }
        !gone.is_empty()
    }

    /// Members are out: a new plan, unless the group goes back to the classic protocol, whose members would not
    /// know a generation that nobody told them.
    pub(super) fn members_left(&mut self, turn: &mut Turn<'_>) {
        if !self.goes_down(turn.settings) {
            self.look(true, turn);
        }
    }

    /// Whether the group goes back to the classic protocol.
    pub(super) fn goes_down(&self, settings: &Settings) -> bool {
        let is_all_classic =
            !self.members.is_empty() && self.members.values().all(|member| member.face.is_some());
        is_all_classic && settings.migration.down && self.members.len() <= settings.max_members
    }

    /// What must be true after every step.
    pub(in super::super) fn check(&self) {
        assert!(self.target_epoch <= self.epoch, "the plan of {:?} is ahead", self.target_epoch);
    }

    /// What must be true after every step and takes O(members) to see.
    pub(in super::super) fn check_deep(&self) {
        let mut owned = BTreeMap::new();
        for (id, member) in &self.members {
            assert_eq!(*id, member.id, "a member is found by its id");
            assert!(member.epoch <= self.target_epoch, "{id} is ahead of the plan");
            assert!(member.assigned.is_disjoint(&member.revoking), "{id} keeps what it gives up");
            let revokes = member.phase == Phase::Unrevoked;
            assert!(revokes || member.revoking.is_empty(), "{id} gives up in {:?}", member.phase);
            for part in member.assigned.iter().chain(&member.revoking) {
                let other = owned.insert(*part, id.clone());
                assert!(other.is_none(), "{part:?} is owned by {other:?} and {id}");
            }
            if member.epoch == self.target_epoch && member.phase == Phase::Stable {
                // GRP-6: a member at the plan's epoch has all of its part.
                assert_eq!(Some(&member.assigned), self.target.get(id).or(Some(&Parts::new())), "{id}");
            }
        }
        assert_eq!(owned, self.owners, "owners are counted along");
        let statics = self.members.values().filter(|member| member.instance.is_some()).count();
        assert_eq!(statics, self.instances.len(), "static members");
        assert!(self.target.keys().all(|id| self.members.contains_key(id)), "a plan for who is out");
    }

    /// Whether a static member left and will be back.
    pub(super) fn is_paused(member: &Member) -> bool {
        member.epoch == PAUSES
    }
}
