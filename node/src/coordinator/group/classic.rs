//! One group of the classic protocol: its state, and the way from one generation to the next.
//!
//! Owns: [`Group`], its states and members; when a rebalance begins and ends; deadlines.
//! Promises: at most one generation is current; a member of an older one is refused; the leader is a member; a plan
//! takes effect when it is written; a member that is silent for its session, or does not come to a rebalance, is out.
//! Leaves out: what each request does (`join`, `sync`, `leave`, `commit`), bytes (`load`).
//! Called by `groups` only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::Generation;
use dejaq_wire::kafka::join_group::{JoinGroupResponse, JoinGroupResponseMember};
use dejaq_wire::kafka::sync_group::SyncGroupResponse;

use super::ask::{Reply, Ticket, Token};
use super::consumer::keep::Keep;
use super::consumer::members::Members;
use super::member::Member;
use super::offsets::Offsets;
use super::subscription;
use super::turn::{After, Turn};
use crate::coordinator::record::Record;
use crate::runtime::Mono;

/// Where a group stands.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// No members; offsets may be kept.
    Empty,
    /// A rebalance waits for its members.
    Preparing(Joining),
    /// The members of the new generation are known, its plan is not.
    Completing {
        /// The plan that is being written, once the leader handed it in.
        plan: Option<Plan>,
    },
    /// The plan is known.
    Stable,
    /// Its deletion is being written.
    Dead,
}

/// A rebalance that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Joining {
    /// When it waits no longer.
    pub until: Mono,
    /// Of an empty group: how much longer it may wait for more members, and whether one came since it looked.
    pub first: Option<(Duration, bool)>,
}

/// A plan on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The write.
    pub ticket: Ticket,
    /// Each member's part.
    pub parts: BTreeMap<Arc<str>, Bytes>,
}

impl State {
    /// As Kafka calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::Preparing(_) => "PreparingRebalance",
            State::Completing { .. } => "CompletingRebalance",
            State::Stable => "Stable",
            State::Dead => "Dead",
        }
    }
}

/// A group.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub(super) id: Arc<str>,
    pub(super) state: State,
    /// Since when it is in its state, for one that is empty or stable, in ms since 1970.
    pub(super) since_ms: Option<i64>,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) generation: Generation,
    pub(super) leader: Option<Arc<str>>,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// Instance id to member id.
    pub(super) instances: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids that were given out and not used yet (KIP-394), with the end of their time.
    pub(super) promised: BTreeMap<Arc<str>, Mono>,
    /// Members that did not ask for their part of the plan by then are out.
    pub(super) sync_until: Option<Mono>,
    /// Since when a rebalance is under way that has brought no plan yet.
    pub(super) rebalancing: Option<Mono>,
    /// Topics that the members of this generation read; `None` if that is not known.
    pub(super) subscribed: Option<BTreeSet<String>>,
    pub(super) offsets: Offsets,
    /// Its members while it is a group of KIP-848; then it is Empty as a classic one.
    pub(super) consumer: Option<Box<Members>>,
    /// What such a group writes, or has to take back.
    pub(super) keep: Keep,
    /// Writes of it that have not ended.
    pub(super) writing: usize,
}

impl Group {
    /// A group that nobody has joined.
    pub(super) fn new(id: Arc<str>) -> Group {
        Group {
            id,
            state: State::Empty,
            since_ms: None,
            protocol_type: None,
            protocol: None,
            generation: Generation(0),
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            promised: BTreeMap::new(),
            sync_until: None,
            rebalancing: None,
            subscribed: None,
            offsets: Offsets::default(),
            consumer: None,
            keep: Keep::default(),
            writing: 0,
        }
    }

    /// Asks for a write; [`super::groups`] counts it down when it ended.
    pub(super) fn write(&mut self, records: Vec<Record>, after: After, turn: &mut Turn<'_>) -> Ticket {
        self.writing += 1;
        turn.write(&self.id, records, after)
    }

    /// Whether nothing would be lost without it: it was never written and nobody has anything to do with it.
    pub(super) fn is_void(&self) -> bool {
        self.state == State::Empty
            && self.generation == Generation(0)
            && self.promised.is_empty()
            && self.offsets.is_empty()
            && self.writing == 0
            && self.keep.is_idle()
            && self.consumer.as_ref().is_none_or(|c| c.members.is_empty() && c.epoch == Generation(0))
    }

    /// How many members it has, of whichever protocol.
    pub(super) fn size(&self) -> usize {
        self.consumer.as_ref().map_or(self.members.len(), |consumer| consumer.members.len())
    }

    /// Kafka's name of its state.
    pub(super) fn state_name(&self) -> &'static str {
        match &self.consumer {
            Some(consumer) if self.state == State::Empty => consumer.state(),
            Some(_) | None => self.state.name(),
        }
    }

    /// When [`Group::tick`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        let joining = match &self.state {
            State::Preparing(joining) => Some(joining.until),
            _ => None,
        };
        let sessions = self.members.values().filter_map(Member::expires).min();
        let promises = self.promised.values().copied().min();
        let consumers = self.consumer.as_ref().and_then(|consumer| consumer.next_deadline());
        let all = [joining, self.sync_until, sessions, promises, consumers, self.keep.retry_at()];
        all.into_iter().flatten().min()
    }

    /// Does what time brings.
    pub(super) fn tick(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        let late = |deadline: Mono| deadline <= now;
        let promised = self.promised.len();
        self.promised.retain(|_, until| !late(*until));
        self.retry_save(turn);
        if let Some(consumer) = &mut self.consumer {
            if consumer.tick(turn) {
                self.members_changed(turn);
            }
            return;
        }
        let gone: Vec<Arc<str>> =
            self.members.values().filter(|m| m.expires().is_some_and(late)).map(|m| m.id.clone()).collect();
        for id in &gone {
            mark!("a member was silent for its session");
            self.remove(id, turn);
        }
        if !gone.is_empty() {
            self.members_left(turn);
        } else if promised > self.promised.len() {
            self.try_complete_join(turn);
        }
        if self.sync_until.is_some_and(late) {
            self.sync_is_over(turn);
        }
        if let State::Preparing(joining) = &mut self.state
            && late(joining.until)
        {
            match &mut joining.first {
                Some((left, grew)) if *grew && !left.is_zero() => {
                    let wait = turn.settings.initial_delay.min(*left);
                    (*left, *grew) = (*left - wait, false);
                    joining.until = now.plus(wait);
                }
                Some(_) | None => self.complete_join(turn),
            }
        }
    }

    /// Members that got no further than JoinGroup are out.
    fn sync_is_over(&mut self, turn: &mut Turn<'_>) {
        self.sync_until = None;
        let silent: Vec<Arc<str>> =
            self.members.values().filter(|m| !m.synced).map(|m| m.id.clone()).collect();
        for id in &silent {
            mark!("a member did not ask for its part of the plan");
            self.remove(id, turn);
        }
        if !silent.is_empty() {
            self.members_left(turn);
        }
    }

    /// Begins a rebalance, unless one is waiting already; and ends it if everyone is there.
    pub(super) fn rebalance(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        let first = match &self.state {
            State::Preparing(_) => return self.try_complete_join(turn),
            State::Dead => unreachable!("{} is dead: nobody gets in", self.id),
            State::Empty => {
                let left = self.patience().saturating_sub(turn.settings.initial_delay);
                Some((left, false))
            }
            State::Completing { .. } => {
                self.fail_syncs(ErrorCode::REBALANCE_IN_PROGRESS, turn);
                None
            }
            State::Stable => None,
        };
        let wait = if first.is_some() { turn.settings.initial_delay } else { self.patience() };
        self.state = State::Preparing(Joining { until: now.plus(wait), first });
        self.sync_until = None;
        *turn.rebalances += 1;
        self.rebalancing.get_or_insert(now);
        self.try_complete_join(turn);
    }

    /// Everyone who waits for a part of the plan is told that there is none.
    pub(super) fn fail_syncs(&mut self, code: ErrorCode, turn: &mut Turn<'_>) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
            if let Some(token) = member.syncing.take() {
                member.touch(turn.now.mono);
                turn.reply(token, refused_sync(code));
            }
        }
    }

    /// What members leaving means for the others.
    pub(super) fn members_left(&mut self, turn: &mut Turn<'_>) {
        match self.state {
            State::Stable | State::Completing { .. } => self.rebalance(turn),
            State::Preparing(_) => self.try_complete_join(turn),
            State::Empty | State::Dead => {}
        }
    }

    /// The longest that a rebalance waits.
    pub(super) fn patience(&self) -> Duration {
        self.members.values().map(|member| member.patience).max().unwrap_or_default()
    }

    pub(super) fn try_complete_join(&mut self, turn: &mut Turn<'_>) {
        let State::Preparing(Joining { first: None, .. }) = self.state else { return };
        if self.promised.is_empty() && self.members.values().all(|member| member.joining.is_some()) {
            self.complete_join(turn);
        }
    }

    /// The members of the next generation are those who came.
    fn complete_join(&mut self, turn: &mut Turn<'_>) {
        let absent: Vec<Arc<str>> = self
            .members
            .values()
            .filter(|member| member.joining.is_none() && member.instance.is_none())
            .map(|member| member.id.clone())
            .collect();
        for id in &absent {
            mark!("a member did not come to a rebalance");
            self.remove(id, turn);
        }
        let now = turn.now.mono;
        if !self.elect_leader() && !self.members.is_empty() {
            // Only static members are left, and none is back yet: their sessions decide.
            mark!("a rebalance waits for static members");
            self.state = State::Preparing(Joining { until: now.plus(self.patience()), first: None });
            return;
        }
        self.generation = next(self.generation);
        if self.members.is_empty() {
            self.empty(turn);
            return;
        }
        self.protocol = Some(self.choose_protocol());
        self.state = State::Completing { plan: None };
        self.sync_until = Some(now.plus(self.patience()));
        self.subscribed = self.read_subscriptions();
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.joined(&id);
            let member = self.members.get_mut(&id).expect("just listed");
            member.is_new = false;
            member.synced = false;
            member.touch(now);
            if let Some(token) = member.joining.take() {
                turn.reply(token, Reply::Join(answer));
            }
        }
    }

    /// The last member is gone.
    fn empty(&mut self, turn: &mut Turn<'_>) {
        assert!(self.members.is_empty(), "{} has members", self.id);
        self.state = State::Empty;
        self.rebalancing = None; // there is nobody to plan for
        self.protocol = None;
        self.leader = None;
        self.subscribed = None;
        self.since_ms = Some(turn.now.unix_ms);
        let record = self.record(&BTreeMap::new());
        self.write(vec![record], After::Nothing, turn);
    }

    /// Keeps a leader that came, or takes the first who did. Whether there is one.
    fn elect_leader(&mut self) -> bool {
        let is_here = |id: &Arc<str>| self.members.get(id).is_some_and(|member| member.joining.is_some());
        if self.leader.as_ref().is_some_and(is_here) {
            return true;
        }
        let first = self.members.values().find(|member| member.joining.is_some());
        match first {
            Some(member) => {
                self.leader = Some(member.id.clone());
                true
            }
            None => false,
        }
    }

    /// Whether a member that offers these protocols may join.
    pub(super) fn supports<'a>(
        &self,
        protocol_type: &str,
        mut offered: impl Iterator<Item = &'a str>,
    ) -> bool {
        if protocol_type.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return offered.next().is_some();
        }
        let common = self.common_protocols();
        self.protocol_type.as_deref() == Some(protocol_type) && offered.any(|name| common.contains(name))
    }

    /// What all members offer.
    pub(super) fn common_protocols(&self) -> BTreeSet<&str> {
        let mut members = self.members.values();
        let Some(first) = members.next() else { return BTreeSet::new() };
        let mut common: BTreeSet<&str> = first.protocols.iter().map(|(name, _)| name.as_str()).collect();
        for member in members {
            common.retain(|name| member.metadata(name).is_some());
        }
        common
    }

    /// Each member votes for what it likes best among what all can; equal votes go to the first by name.
    pub(super) fn choose_protocol(&self) -> String {
        let common = self.common_protocols();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote =
                member.protocols.iter().map(|(name, _)| name.as_str()).find(|name| common.contains(name));
            *votes.entry(vote.expect("a member that supports none was refused")).or_default() += 1;
        }
        let best = votes.into_iter().rev().max_by_key(|(_, count)| *count);
        best.expect("a group with members has votes").0.to_owned()
    }

    /// The topics of all members, if every one of them can be read.
    pub(super) fn read_subscriptions(&self) -> Option<BTreeSet<String>> {
        if self.protocol_type.as_deref() != Some(subscription::CONSUMER) {
            return None;
        }
        let protocol = self.protocol.as_deref()?;
        let mut all = BTreeSet::new();
        for member in self.members.values() {
            all.extend(subscription::topics(member.metadata(protocol)?)?);
        }
        Some(all)
    }

    /// Takes a member out; what it waits for is refused.
    pub(super) fn remove(&mut self, id: &str, turn: &mut Turn<'_>) {
        let member = self.members.remove(id).unwrap_or_else(|| panic!("{id} is no member of {}", self.id));
        if let Some(instance) = &member.instance
            && self.instances.get(instance).is_some_and(|now| **now == *id)
        {
            self.instances.remove(instance);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        if let Some(token) = member.joining {
            turn.reply(token, refused_join(ErrorCode::UNKNOWN_MEMBER_ID, id));
        }
        if let Some(token) = member.syncing {
            turn.reply(token, refused_sync(ErrorCode::UNKNOWN_MEMBER_ID));
        }
    }

    /// Whether this is a member of now: by its id, and by its instance id if it names one.
    ///
    /// # Errors
    /// The code to answer: it is not known, or another has taken its place.
    pub(super) fn check_member(&self, id: &str, instance: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            return match self.instances.get(instance) {
                None => Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(now) if **now != *id => Err(ErrorCode::FENCED_INSTANCE_ID),
                Some(_) => Ok(()),
            };
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(ErrorCode::UNKNOWN_MEMBER_ID) }
    }

    /// What a member is told of the current generation; only its leader learns of the others.
    pub(super) fn joined(&self, id: &str) -> JoinGroupResponse {
        let protocol = self.protocol.clone().unwrap_or_default();
        let leads = self.leader.as_deref() == Some(id);
        let told = |member: &Member| JoinGroupResponseMember {
            member_id: member.id.to_string(),
            group_instance_id: member.instance.as_deref().map(str::to_owned),
            metadata: member.metadata(&protocol).cloned().unwrap_or_default(),
        };
        JoinGroupResponse {
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: Some(protocol.clone()),
            leader: self.leader.as_deref().unwrap_or_default().to_owned(),
            member_id: id.to_owned(),
            members: if leads { self.members.values().map(told).collect() } else { Vec::new() },
            ..Default::default()
        }
    }

    /// What must be true after every step.
    pub(super) fn check(&self) {
        let id = &self.id;
        assert_eq!(self.members.is_empty(), self.leader.is_none(), "{id}: leader {:?}", self.leader);
        if let Some(leader) = &self.leader {
            assert!(self.members.contains_key(leader), "{id}: its leader {leader} is no member");
        }
        for (instance, member) in &self.instances {
            let found = self.members.get(member).and_then(|member| member.instance.as_ref());
            assert_eq!(found, Some(instance), "{id}: {instance} leads to {member}");
        }
        assert!(self.generation.is_valid(), "{id}: generation {:?}", self.generation);
        if let Some(consumer) = &self.consumer {
            assert!(matches!(self.state, State::Empty | State::Dead), "{id}: of two protocols");
            consumer.check();
        }
        match &self.state {
            State::Empty | State::Dead => {
                assert!(self.members.is_empty(), "{id}: {} with members", self.state.name());
                assert!(self.sync_until.is_none(), "{id}: {} waits for syncs", self.state.name());
            }
            State::Preparing(_) => assert!(self.sync_until.is_none(), "{id}: waits for joins and syncs"),
            State::Completing { .. } | State::Stable => {
                assert!(!self.members.is_empty(), "{id}: {} without members", self.state.name());
                assert!(self.protocol.is_some(), "{id}: {} without a protocol", self.state.name());
            }
        }
    }

    /// What must be true after every step and takes O(members) to see.
    pub(super) fn check_deep(&self) {
        let statics = self.members.values().filter(|member| member.instance.is_some()).count();
        assert_eq!(statics, self.instances.len(), "{}: static members", self.id);
        if let Some(consumer) = &self.consumer {
            consumer.check_deep();
        }
        for member in self.members.values() {
            let (joins, syncs) = (member.joining.is_some(), member.syncing.is_some());
            assert!(!joins || matches!(self.state, State::Preparing(_)), "{}: {} joins", self.id, member.id);
            assert!(
                !syncs || matches!(self.state, State::Completing { .. }),
                "{}: {} syncs",
                self.id,
                member.id
            );
            assert!(!self.promised.contains_key(&member.id), "{}: {} twice", self.id, member.id);
        }
    }
}

fn next(generation: Generation) -> Generation {
    Generation(generation.0.checked_add(1).unwrap_or(1))
}

/// A JoinGroup that is refused.
pub(super) fn refused_join(code: ErrorCode, member: &str) -> Reply {
    Reply::Join(JoinGroupResponse { error_code: code, member_id: member.to_owned(), ..Default::default() })
}

/// A SyncGroup that is refused.
pub(super) fn refused_sync(code: ErrorCode) -> Reply {
    Reply::Sync(SyncGroupResponse { error_code: code, ..Default::default() })
}

/// Answers the older of two requests of one member: the newer one waits in its place.
pub(super) fn overtaken(older: Option<Token>, refusal: Reply, turn: &mut Turn<'_>) {
    if let Some(token) = older {
        mark!("a member asked again before it was answered");
        turn.reply(token, refusal);
    }
}
