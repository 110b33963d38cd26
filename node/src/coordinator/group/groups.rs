//! All groups of one shard: hands each event to its group, and remembers what waits and when it is to be looked at.
//!
//! Owns: [`Groups`]; what a group that does not exist answers; deadlines; what follows each write.
//! Promises: [`Groups::next_deadline`] is never later than the first thing that time brings; a group that nobody has
//! anything to do with takes no memory; every invariant of a group is checked after each step of it.
//! Leaves out: rules of one group (`classic` and its neighbours), bytes, time.
//! Called by `shard`, which loads, steps, and carries out the effects in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{Generation, ProducerId};
use dejaq_wire::kafka::describe_groups::{DescribedGroup, DescribedGroupMember};
use dejaq_wire::kafka::join_group::JoinGroupRequest;
use dejaq_wire::kafka::leave_group::MemberResponse;
use dejaq_wire::kafka::list_groups::ListedGroup;
use dejaq_wire::record::control::EndTxnMarker;

use super::ask::{Ask, BeatAsk, CommitAsk, Effect, Event, JoinAsk, Now, Reply, Ticket, Token, TxnCommitAsk};
use super::classic::{Group, State, refused_join, refused_sync};
use super::consumer::{self, topics::Known};
use super::offsets::Place;
use super::settings::{MAX_ID_BYTES, MAX_MEMBER_BYTES, MAX_PROTOCOLS, Settings};
use super::turn::{After, Turn};
use crate::coordinator::record::{At, Committed};
use crate::metadata::Image;
use crate::runtime::Mono;

/// The groups of one shard.
#[derive(Debug)]
pub struct Groups {
    settings: Settings,
    known: Known,
    groups: BTreeMap<Arc<str>, Group>,
    /// What follows each write that has not ended, and of which group.
    waiting: BTreeMap<Ticket, (Arc<str>, After)>,
    /// Above the place of every record that was read back: tickets go on where the log ended.
    next_ticket: u64,
    /// Markers that are being written, and who is told.
    markers: BTreeMap<Ticket, (Token, EndTxnMarker)>,
    /// Groups in which offsets wait for the end of a producer's transaction; some may be gone.
    open: BTreeMap<ProducerId, BTreeSet<Arc<str>>>,
    /// When each group wants to be looked at, in both directions.
    wakes: BTreeMap<Arc<str>, Mono>,
    queue: BTreeSet<(Mono, Arc<str>)>,
    next_sweep: Mono,
    rebalances: u64,
    /// Of all groups together.
    members: usize,
}

impl Groups {
    /// Groups whose last record stands before `next`.
    pub(super) fn new(
        settings: Settings,
        groups: BTreeMap<Arc<str>, Group>,
        next: Place,
        now: Mono,
    ) -> Groups {
        let mut all = Groups {
            next_sweep: now.plus(settings.sweep_every),
            settings,
            known: Known::default(),
            groups,
            waiting: BTreeMap::new(),
            next_ticket: next.0,
            markers: BTreeMap::new(),
            open: BTreeMap::new(),
            wakes: BTreeMap::new(),
            queue: BTreeSet::new(),
            rebalances: 0,
            members: 0,
        };
        all.members = all.groups.values().map(|group| group.size()).sum();
        for (id, group) in &all.groups {
            for producer in group.offsets.producers() {
                all.open.entry(producer).or_default().insert(id.clone());
            }
        }
        let ids: Vec<Arc<str>> = all.groups.keys().cloned().collect();
        ids.iter().for_each(|id| all.settle(id));
        all
    }

    /// Takes one event; what must follow is appended to `effects`.
    pub fn step(&mut self, event: Event, now: Now, effects: &mut Vec<Effect>) {
        match event {
            Event::Asked { token, ask } => self.asked(token, ask, now, effects),
            Event::Written { ticket, result } => self.written(ticket, result, now, effects),
            Event::Tick => self.tick(now, effects),
            Event::TopicsDeleted(topics) => {
                let ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
                for id in ids {
                    self.with(&id, now, effects, |group, turn| group.topics_deleted(&topics, turn));
                }
            }
        }
    }

    /// Takes the metadata of now; groups look at it with the next thing that they do.
    pub fn see(&mut self, image: Arc<Image>) {
        self.known.see(image);
    }

    /// When [`Event::Tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        self.queue.first().map_or(self.next_sweep, |(at, _)| (*at).min(self.next_sweep))
    }

    /// How many groups there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there is no group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many members all groups have.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members
    }

    /// How many rebalances began since the shard did.
    #[must_use]
    pub fn rebalances(&self) -> u64 {
        self.rebalances
    }

    /// Every offset that is kept, by group.
    pub fn offsets(&self) -> impl Iterator<Item = (&Arc<str>, &At, &Committed)> {
        self.groups.iter().flat_map(|(id, group)| group.offsets.iter().map(move |(at, one)| (id, at, one)))
    }

    /// What must be true of every group, in time O(everything): for tests and the simulator.
    pub fn check_deep(&self) {
        self.groups.values().for_each(Group::check_deep);
        assert_eq!(self.wakes.len(), self.queue.len(), "one wake a group");
        let members: usize = self.groups.values().map(|group| group.size()).sum();
        assert_eq!(self.members, members, "members are counted along");
    }

    #[cfg(test)]
    pub(super) fn group(&self, id: &str) -> Option<&Group> {
        self.groups.get(id)
    }

    fn asked(&mut self, token: Token, ask: Ask, now: Now, effects: &mut Vec<Effect>) {
        match ask {
            Ask::Join(ask) => self.join(token, &ask, now, effects),
            Ask::Sync(request) => {
                let id = request.group_id.as_str();
                let found = self.with(id, now, effects, |group, turn| group.sync(token, &request, turn));
                found.unwrap_or_else(|| answer(effects, token, refused_sync(ErrorCode::UNKNOWN_MEMBER_ID)));
            }
            Ask::Heartbeat(request) => {
                let id = request.group_id.as_str();
                let code = self.with(id, now, effects, |group, turn| group.heartbeat(&request, turn));
                answer(effects, token, Reply::Code(code.unwrap_or(ErrorCode::UNKNOWN_MEMBER_ID)));
            }
            Ask::Beat(ask) => self.beat(token, &ask, now, effects),
            Ask::Leave(ask) if self.groups.get(ask.group.as_str()).is_some_and(Group::is_consumer) => {
                let members = &ask.members;
                self.with(&ask.group, now, effects, |group, turn| {
                    group.leave_as_classic(token, members, turn)
                });
            }
            Ask::Leave(ask) => {
                let left = self.with(&ask.group, now, effects, |group, turn| group.leave(&ask.members, turn));
                let unknown = || {
                    let none = ask.members.iter().map(|one| MemberResponse {
                        member_id: one.member_id.clone(),
                        group_instance_id: one.group_instance_id.clone(),
                        error_code: ErrorCode::UNKNOWN_MEMBER_ID,
                    });
                    none.collect()
                };
                answer(effects, token, Reply::Leave(left.unwrap_or_else(unknown)));
            }
            Ask::Commit(_) | Ask::CommitInTxn(_) | Ask::EndTxn(_) => self.positions(token, ask, now, effects),
            Ask::Fetch { group, wanted, member } => {
                let reply = match self.may_fetch(&group, member) {
                    Ok(()) => {
                        let found = self.groups.get(&*group);
                        let unstable = found.map(|group| group.offsets.unstable().cloned().collect());
                        Reply::Offsets(self.fetch(&group, wanted), unstable.unwrap_or_default())
                    }
                    Err(code) => Reply::Refused(code),
                };
                answer(effects, token, reply);
            }
            Ask::Forget { group, offsets } => {
                let found = self.with(&group, now, effects, |group, turn| group.forget(token, offsets, turn));
                found.unwrap_or_else(|| {
                    answer(effects, token, Reply::Refused(ErrorCode::GROUP_ID_NOT_FOUND));
                });
            }
            Ask::Describe { group } => answer(effects, token, Reply::Described(self.describe(&group))),
            Ask::DescribeConsumers { group } => {
                let found = self.groups.get(group.as_str()).filter(|group| group.state != State::Dead);
                let consumer = found.and_then(|group| group.consumer.as_ref());
                let told = consumer.map(|consumer| Box::new(consumer.describe(&group, &self.known.image)));
                answer(effects, token, Reply::DescribedConsumers(told));
            }
            Ask::Delete { group } => {
                let found = self.with(&group, now, effects, |group, turn| group.delete(Some(token), turn));
                found.unwrap_or_else(|| answer(effects, token, Reply::Code(ErrorCode::GROUP_ID_NOT_FOUND)));
            }
            Ask::List => answer(effects, token, Reply::Listed(self.list())),
        }
    }

    /// What moves the positions of groups.
    fn positions(&mut self, token: Token, ask: Ask, now: Now, effects: &mut Vec<Effect>) {
        match ask {
            Ask::Commit(ask) => {
                if let Some(ask) = self.opens(token, ask, effects) {
                    let id = ask.group.clone();
                    let found = self.with(&id, now, effects, |group, turn| group.commit(token, ask, turn));
                    found.expect("the group is there or was just made");
                }
            }
            Ask::CommitInTxn(TxnCommitAsk { who, guard, commit }) => {
                if let Some(commit) = self.opens(token, commit, effects) {
                    let id = commit.group.clone();
                    let ask = TxnCommitAsk { who, guard, commit };
                    let found =
                        self.with(&id, now, effects, |group, turn| group.commit_in_txn(token, ask, turn));
                    found.expect("the group is there or was just made");
                }
            }
            Ask::EndTxn(marker) => {
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                self.markers.insert(ticket, (token, marker));
                effects.push(Effect::WriteMarker { ticket, marker });
            }
            other => unreachable!("{other:?} moves no positions"),
        }
    }

    fn join(&mut self, token: Token, ask: &JoinAsk, now: Now, effects: &mut Vec<Effect>) {
        let request = &ask.request;
        let id = request.group_id.as_str();
        let is_known = self.groups.contains_key(id);
        let refused = check_join(request, &self.settings).err().or_else(|| match is_known {
            true => None,
            // Only one who never was a member may make a group.
            false if !request.member_id.is_empty() => Some(ErrorCode::UNKNOWN_MEMBER_ID),
            false => self.make(id).err(),
        });
        if let Some(code) = refused {
            return answer(effects, token, refused_join(code, &request.member_id));
        }
        let found = self.with(id, now, effects, |group, turn| group.join(token, ask, turn));
        found.expect("the group is there or was just made");
    }

    fn beat(&mut self, token: Token, ask: &BeatAsk, now: Now, effects: &mut Vec<Effect>) {
        let request = &ask.request;
        let id = request.group_id.as_str();
        let is_known = self.groups.contains_key(id);
        let refused = consumer::heartbeat::check(request, &self.settings).err().or_else(|| match is_known {
            true => None,
            false if request.member_epoch != consumer::member::JOINS => {
                Some((ErrorCode::UNKNOWN_MEMBER_ID, "The group does not exist.".to_owned()))
            }
            false => self.make(id).err().map(|code| (code, String::new())),
        });
        if let Some(refusal) = refused {
            let refused = consumer::heartbeat::refused(refusal);
            return answer(effects, token, Reply::Beat(Box::new(refused)));
        }
        let found = self.with(id, now, effects, |group, turn| group.beat(token, ask, turn));
        found.expect("the group is there or was just made");
    }

    /// Whether a member of KIP-848 may be told offsets: not in an epoch that is not its own (GRP-3).
    fn may_fetch(&self, group: &str, member: Option<(String, Generation)>) -> Result<(), ErrorCode> {
        let Some((id, epoch)) = member else { return Ok(()) };
        match self.groups.get(group).and_then(|group| group.consumer.as_ref()) {
            Some(consumer) => consumer.check_epoch(&id, epoch),
            None => Ok(()),
        }
    }

    /// A commit whose group is there or is made; answers it if neither may be.
    fn opens(&mut self, token: Token, ask: CommitAsk, effects: &mut Vec<Effect>) -> Option<CommitAsk> {
        let id = ask.group.as_str();
        let refused = match self.groups.contains_key(id) {
            true => return Some(ask),
            false if ask.generation.is_valid() => Err(ErrorCode::ILLEGAL_GENERATION),
            false if id.len() > MAX_ID_BYTES => Err(ErrorCode::INVALID_GROUP_ID),
            false => self.make(id),
        };
        let Err(code) = refused else { return Some(ask) };
        let results = ask.offsets.into_iter().map(|(at, _)| (at, code)).collect();
        answer(effects, token, Reply::Partitions(results));
        None
    }

    /// The write of a marker ended: what waited for it takes effect, or is forgotten.
    fn marked(
        &mut self,
        (token, marker): (Token, EndTxnMarker),
        result: Result<(), ErrorCode>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if result.is_ok() {
            for id in self.open.remove(&marker.producer_id).unwrap_or_default() {
                self.with(&id, now, effects, |group, _| {
                    group.offsets.txn_ended(marker.producer_id, marker.commit);
                });
            }
        }
        answer(effects, token, Reply::Code(result.err().unwrap_or(ErrorCode::NONE)));
    }

    /// Makes a group; it goes again with the step unless somebody gets into it.
    fn make(&mut self, id: &str) -> Result<(), ErrorCode> {
        if self.groups.len() >= self.settings.max_groups {
            mark!("a shard holds as many groups as it may");
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        let id: Arc<str> = id.into();
        self.groups.insert(id.clone(), Group::new(id));
        Ok(())
    }

    fn fetch(&self, group: &str, wanted: Option<Vec<At>>) -> Vec<(At, Option<Committed>)> {
        let group = self.groups.get(group).filter(|group| group.state != State::Dead);
        match (group, wanted) {
            (None, None) => Vec::new(),
            (None, Some(wanted)) => wanted.into_iter().map(|at| (at, None)).collect(),
            (Some(group), None) => {
                group.offsets.iter().map(|(at, kept)| (at.clone(), Some(kept.clone()))).collect()
            }
            (Some(group), Some(wanted)) => {
                let kept = |at: At| (group.offsets.get(&at).cloned(), at);
                wanted.into_iter().map(kept).map(|(kept, at)| (at, kept)).collect()
            }
        }
    }

    fn describe(&self, id: &str) -> Option<Box<DescribedGroup>> {
        let is_classic = |group: &&Group| group.state != State::Dead && !group.is_consumer();
        let group = self.groups.get(id).filter(is_classic)?;
        // Between plans there is nothing to tell of them.
        let protocol = group.protocol.clone().filter(|_| group.state == State::Stable);
        let told = |member: &super::member::Member| DescribedGroupMember {
            member_id: member.id.to_string(),
            group_instance_id: member.instance.as_deref().map(str::to_owned),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            member_metadata: protocol.as_ref().and_then(|p| member.metadata(p)).cloned().unwrap_or_default(),
            member_assignment: if protocol.is_some() {
                member.assignment.clone()
            } else {
                Default::default()
            },
        };
        Some(Box::new(DescribedGroup {
            group_id: id.to_owned(),
            group_state: group.state.name().to_owned(),
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            members: group.members.values().map(told).collect(),
            protocol_data: protocol.clone().unwrap_or_default(),
            ..Default::default()
        }))
    }

    fn list(&self) -> Vec<ListedGroup> {
        let listed = |group: &Group| ListedGroup {
            group_id: group.id.to_string(),
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            group_state: group.state_name().to_owned(),
            group_type: if group.is_consumer() { "consumer" } else { "classic" }.to_owned(),
        };
        self.groups.values().map(listed).collect()
    }

    fn written(
        &mut self,
        ticket: Ticket,
        result: Result<(), ErrorCode>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(marker) = self.markers.remove(&ticket) {
            return self.marked(marker, result, now, effects);
        }
        let (id, after) = self.waiting.remove(&ticket).unwrap_or_else(|| panic!("{ticket:?} ended twice"));
        if let (After::Pending { producer, .. }, Ok(())) = (&after, result) {
            self.open.entry(*producer).or_default().insert(id.clone());
        }
        let place = Place(ticket.0); // writes are appended in the order in which they were asked for
        let is_gone = matches!(after, After::Deleted { .. }) && result.is_ok();
        if let Some(group) = self.groups.get_mut(&id) {
            group.writing -= 1;
        }
        let found = self.with(&id, now, effects, |group, turn| match after {
            After::Nothing => {}
            After::Plan { generation } => group.plan_written(ticket, generation, result, turn),
            After::Returned { member, token, knows_skipping, old_leader } => {
                group.returned((member, token), result, (knows_skipping, old_leader), turn);
            }
            After::Commit { token, results, offsets } => {
                group.committed((token, results), (offsets, None, place), result, turn);
            }
            After::Pending { token, results, offsets, producer } => {
                group.committed((token, results), (offsets, Some(producer), place), result, turn);
            }
            After::Forgotten { offsets, told } => group.forgotten(offsets, told, result, turn),
            After::Saved => group.saved(ticket, result, turn),
            After::Deleted { token } => {
                assert_eq!(group.state, State::Dead, "{} lives while it is deleted", group.id);
                if result.is_err() {
                    group.state = State::Empty;
                }
                if let Some(token) = token {
                    turn.reply(token, Reply::Code(result.err().unwrap_or(ErrorCode::NONE)));
                }
            }
        });
        assert!(found.is_some(), "{id} is gone while {ticket:?} was written");
        if is_gone {
            self.groups.remove(&id);
            self.settle(&id);
        }
    }

    fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        // What is put back for a time that is past already is left to the next tick.
        let due: Vec<Arc<str>> =
            self.queue.iter().take_while(|(at, _)| *at <= now.mono).map(|(_, id)| id.clone()).collect();
        for id in due {
            self.with(&id, now, effects, Group::tick);
        }
        if self.next_sweep <= now.mono {
            self.next_sweep = now.mono.plus(self.settings.sweep_every);
            let ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
            for id in ids {
                self.with(&id, now, effects, Group::sweep);
            }
        }
    }

    /// One step of one group; `None` if there is none of that name.
    fn with<T>(
        &mut self,
        id: &str,
        now: Now,
        effects: &mut Vec<Effect>,
        work: impl FnOnce(&mut Group, &mut Turn<'_>) -> T,
    ) -> Option<T> {
        let group = self.groups.get_mut(id)?;
        let mut turn = Turn {
            now,
            settings: &self.settings,
            known: &self.known,
            effects,
            waiting: &mut self.waiting,
            next_ticket: &mut self.next_ticket,
            rebalances: &mut self.rebalances,
        };
        let before = group.size();
        let result = work(group, &mut turn);
        self.members = self.members - before + group.size();
        self.settle(id);
        Some(result)
    }

    /// Checks a group after its step, forgets it if it is void, and notes when it is to be looked at.
    fn settle(&mut self, id: &str) {
        if let Some((id, at)) = self.wakes.remove_entry(id) {
            self.queue.remove(&(at, id));
        }
        let Some(group) = self.groups.get(id) else { return };
        group.check();
        if group.is_void() {
            self.groups.remove(id);
            return;
        }
        if let Some(at) = group.next_deadline() {
            let id = group.id.clone();
            self.wakes.insert(id.clone(), at);
            self.queue.insert((at, id));
        }
    }
}

fn answer(effects: &mut Vec<Effect>, token: Token, reply: Reply) {
    effects.push(Effect::Reply { token, reply });
}

/// What is refused whatever the group.
fn check_join(request: &JoinGroupRequest, settings: &Settings) -> Result<(), ErrorCode> {
    if request.group_id.is_empty() || request.group_id.len() > MAX_ID_BYTES {
        return Err(ErrorCode::INVALID_GROUP_ID);
    }
    let session_ms = u128::try_from(request.session_timeout_ms).unwrap_or(0);
    if session_ms < settings.min_session.as_millis() || session_ms > settings.max_session.as_millis() {
        return Err(ErrorCode::INVALID_SESSION_TIMEOUT);
    }
    let names = request.protocols.iter().map(|one| one.name.len()).max().unwrap_or(0);
    let instance = request.group_instance_id.as_ref().map_or(0, String::len);
    let texts = [request.member_id.len(), request.protocol_type.len(), instance, names];
    let bytes: usize = request.protocols.iter().map(|one| one.metadata.len()).sum();
    if texts.iter().any(|long| *long > MAX_ID_BYTES + 64)
        || request.protocols.len() > MAX_PROTOCOLS
        || bytes > MAX_MEMBER_BYTES
    {
        mark!("a member tells more of itself than it may");
        return Err(ErrorCode::INVALID_REQUEST);
    }
    Ok(())
}
