//! Members that speak the classic protocol in a group of KIP-848: JoinGroup, SyncGroup, Heartbeat, LeaveGroup, translated.
//!
//! Promises: the coordinator's plan is theirs, too; nobody is told that it leads. What such a member says that it owns
//! when it joins is its word that it gave up the rest. A generation is a member's epoch.
//!
//! ```text
//!  Heartbeat ─► REBALANCE_IN_PROGRESS when the member is behind ─► JoinGroup (what it owns) ─► SyncGroup (its part)
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::heartbeat::HeartbeatRequest;
use dejaq_wire::kafka::join_group::{JoinGroupRequest, JoinGroupResponse};
use dejaq_wire::kafka::leave_group::{MemberIdentity, MemberResponse};
use dejaq_wire::kafka::sync_group::{SyncGroupRequest, SyncGroupResponse};

use super::super::ask::{JoinAsk, Reply, Token};
use super::super::classic::{Group, refused_join, refused_sync};
use super::super::join::fresh_id;
use super::super::subscription::{self, Subscription};
use super::super::turn::Turn;
use super::keep::Key;
use super::member::{Face, Member, Phase, millis};
use super::members::Members;
use crate::coordinator::consumer_record::Parts;
use crate::metadata::Image;

impl Group {
    /// Takes a JoinGroup.
    pub(in super::super) fn join_as_classic(&mut self, token: Token, ask: &JoinAsk, turn: &mut Turn<'_>) {
        match self.try_join_as_classic(ask, turn) {
            Err((code, id)) => turn.reply(token, refused_join(code, &id)),
            Ok(joined) => {
                self.tell(token, Reply::Join(joined), turn);
                self.members_changed(turn);
            }
        }
    }

    fn try_join_as_classic(
        &mut self,
        ask: &JoinAsk,
        turn: &mut Turn<'_>,
    ) -> Result<JoinGroupResponse, (ErrorCode, String)> {
        let (request, id) = (&ask.request, ask.request.member_id.as_str());
        let refuse = |code| Err((code, id.to_owned()));
        let consumer = self.consumer.as_deref_mut().expect("the caller looked");
        let told = request.protocols.first().and_then(|first| subscription::read(&first.metadata));
        let Some(told) = told.filter(|_| consumer.offers(request)) else {
            return refuse(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        };
        let instance = request.group_instance_id.as_deref();
        let holder = instance.and_then(|instance| consumer.instances.get(instance)).cloned();
        if let Some(holder) = &holder
            && !id.is_empty()
            && **holder != *id
        {
            return refuse(ErrorCode::FENCED_INSTANCE_ID);
        }
        let is_known = consumer.members.contains_key(id) || (id.is_empty() && holder.is_some());
        let is_promised = !id.is_empty() && instance.is_none() && self.promised.contains_key(id);
        if !is_known && !id.is_empty() && !is_promised {
            return refuse(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        if is_known && instance.is_some() && holder.is_none() {
            return refuse(ErrorCode::UNKNOWN_MEMBER_ID); // a member does not change what it is while it is one
        }
        // Who comes with a promised id has been counted.
        let others = consumer.members.len() + self.promised.len() - usize::from(is_promised);
        if !is_known && others >= turn.settings.consumer_max_members {
            return refuse(ErrorCode::GROUP_MAX_SIZE_REACHED);
        }
        let session = millis(request.session_timeout_ms);
        if !is_known && id.is_empty() && instance.is_none() && ask.knows_member_ids {
            let fresh = fresh_id(ask);
            self.promised.insert(fresh.clone(), turn.now.mono.plus(session));
            return Err((ErrorCode::MEMBER_ID_REQUIRED, fresh.to_string()));
        }
        self.promised.remove(id);
        let id: Arc<str> = if id.is_empty() { fresh_id(ask) } else { id.into() };
        match holder {
            Some(holder) if holder != id => consumer.replace(&holder, id.clone()),
            Some(_) => {}
            None if is_known => {}
            None => consumer.insert(Member::new(id.clone(), turn.now.mono.plus(session))),
        }
        let changed = consumer.tell_classic(&id, ask, &told, turn) || !is_known;
        consumer.look(changed, turn);
        let owned = to_parts(&told.owned, &turn.known.image);
        consumer.reconcile(&id, Some(&owned), turn);
        let member = &consumer.members[&id];
        Ok(JoinGroupResponse {
            generation_id: member.epoch,
            protocol_type: Some(subscription::CONSUMER.to_owned()),
            protocol_name: request.protocols.first().map(|first| first.name.clone()),
            member_id: id.to_string(),
            ..Default::default()
        })
    }

    /// Takes a SyncGroup.
    pub(in super::super) fn sync_as_classic(
        &mut self,
        token: Token,
        request: &SyncGroupRequest,
        turn: &mut Turn<'_>,
    ) {
        let consumer = self.consumer.as_deref_mut().expect("the caller looked");
        match consumer.sync(request, turn) {
            Ok(part) => self.tell(token, Reply::Sync(part), turn),
            Err(code) => turn.reply(token, refused_sync(code)),
        }
    }

    /// Takes a Heartbeat.
    pub(in super::super) fn heartbeat_as_classic(
        &mut self,
        request: &HeartbeatRequest,
        turn: &mut Turn<'_>,
    ) -> ErrorCode {
        let consumer = self.consumer.as_deref_mut().expect("the caller looked");
        let code = consumer.heartbeat_as_classic(request, turn).err().unwrap_or(ErrorCode::NONE);
        self.save(turn);
        code
    }

    /// Takes a LeaveGroup; each member has its own result, in the order given.
    pub(in super::super) fn leave_as_classic(
        &mut self,
        token: Token,
        leaving: &[MemberIdentity],
        turn: &mut Turn<'_>,
    ) {
        let mut results = Vec::with_capacity(leaving.len());
        let mut is_less = false;
        for one in leaving {
            let result = self.leave_one_as_classic(one);
            is_less |= result.is_ok_and(|left| left);
            results.push(MemberResponse {
                member_id: one.member_id.clone(),
                group_instance_id: one.group_instance_id.clone(),
                error_code: result.err().unwrap_or(ErrorCode::NONE),
            });
        }
        if is_less {
            self.consumer.as_deref_mut().expect("the caller looked").members_left(turn);
        }
        self.members_changed(turn);
        self.tell(token, Reply::Leave(results), turn);
    }

    /// Whether a member went, and not only an id that was promised.
    fn leave_one_as_classic(&mut self, one: &MemberIdentity) -> Result<bool, ErrorCode> {
        let instance = one.group_instance_id.as_deref();
        if instance.is_none() && self.promised.remove(one.member_id.as_str()).is_some() {
            return Ok(false);
        }
        let consumer = self.consumer.as_deref_mut().expect("the caller looked");
        let id = match instance {
            // An operator knows the instance, not the id that its process has now.
            Some(instance) if one.member_id.is_empty() => {
                consumer.instances.get(instance).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?.clone()
            }
            Some(_) | None => consumer.check_member(&one.member_id, instance)?.id.clone(),
        };
        if instance.is_none() && consumer.members[&id].face.is_none() {
            return Err(ErrorCode::UNKNOWN_MEMBER_ID); // it has another way to leave
        }
        consumer.remove(&id);
        Ok(true)
    }
}

impl Members {
    /// Whether a member that offers these protocols may join.
    fn offers(&self, request: &JoinGroupRequest) -> bool {
        if request.protocol_type != subscription::CONSUMER {
            return false;
        }
        let others = self.members.values().filter(|member| *member.id != *request.member_id);
        let mut common: Option<BTreeSet<&str>> = None;
        for face in others.filter_map(|member| member.face.as_ref()) {
            let names = face.protocols.iter().map(|(name, _)| name.as_str()).collect();
            common = Some(match common {
                None => names,
                Some(common) => common.intersection(&names).copied().collect(),
            });
        }
        let mut names = request.protocols.iter().map(|protocol| protocol.name.as_str());
        names.any(|name| common.as_ref().is_none_or(|common| common.contains(name)))
    }

    /// Takes over what a JoinGroup tells. Whether the member reads other topics.
    fn tell_classic(&mut self, id: &Arc<str>, ask: &JoinAsk, told: &Subscription, turn: &Turn<'_>) -> bool {
        let (request, member) = (&ask.request, self.members.get_mut(id).expect("the caller put it there"));
        let (before, topics) = (member.to_stored(), std::mem::take(&mut member.topics));
        if let Some(instance) = &request.group_instance_id {
            let instance: Arc<str> = instance.as_str().into();
            member.instance = Some(instance.clone());
            self.instances.insert(instance, id.clone());
        }
        let session = millis(request.session_timeout_ms);
        member.topics = told.topics.iter().map(|topic| Arc::from(topic.as_str())).collect();
        let had_pattern = member.pattern.take().is_some();
        (member.assignor, member.revoke_until) = (None, None);
        member.rack.clone_from(&told.rack);
        member.client_id.clone_from(&ask.client_id);
        member.client_host.clone_from(&ask.client_host);
        // Version 0 knows one timeout for both.
        let timeout_ms = request.rebalance_timeout_ms;
        member.patience = if timeout_ms < 0 { session } else { millis(timeout_ms) };
        member.deadline = turn.now.mono.plus(session);
        let copied = |one: &dejaq_wire::kafka::join_group::JoinGroupRequestProtocol| {
            (one.name.clone(), bytes::Bytes::copy_from_slice(&one.metadata))
        };
        member.face = Some(Face {
            session,
            protocols: request.protocols.iter().map(copied).collect(),
            join_until: None,
            sync_until: Some(turn.now.mono.plus(member.patience.max(session))),
        });
        if member.to_stored() != before {
            self.dirty.insert(Key::Member(id.clone()));
        }
        member.topics != topics || had_pattern
    }

    fn sync(&mut self, request: &SyncGroupRequest, turn: &Turn<'_>) -> Result<SyncGroupResponse, ErrorCode> {
        let member = self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        let face = member.face.as_ref().ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        if request.generation_id != member.epoch {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        let (name, metadata) = face.protocols.first().expect("a member offers something");
        let differs = |told: &Option<String>, ours: &str| told.as_deref().is_some_and(|told| told != ours);
        if differs(&request.protocol_type, subscription::CONSUMER) || differs(&request.protocol_name, name) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        let is_behind = self.epoch > member.epoch && member.phase != Phase::Unrevoked;
        let part = to_names(&member.assigned, &turn.known.image);
        let answer = SyncGroupResponse {
            protocol_type: Some(subscription::CONSUMER.to_owned()),
            protocol_name: Some(name.clone()),
            assignment: subscription::encode_assignment(subscription::version(metadata), &part),
            ..Default::default()
        };
        let id = member.id.clone();
        if is_behind {
            self.call(&id, turn);
            return Err(ErrorCode::REBALANCE_IN_PROGRESS);
        }
        let member = self.members.get_mut(&id).expect("just found");
        let face = member.face.as_mut().expect("just found");
        face.sync_until = None;
        member.deadline = turn.now.mono.plus(face.session);
        Ok(answer)
    }

    fn heartbeat_as_classic(
        &mut self,
        request: &HeartbeatRequest,
        turn: &mut Turn<'_>,
    ) -> Result<(), ErrorCode> {
        let member = self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        member.face.as_ref().ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        if request.generation_id != member.epoch {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        let id = member.id.clone();
        self.touch(&id, turn.now.mono);
        self.look(false, turn);
        let member = &self.members[&id];
        let has_news = member.phase == Phase::Unreleased && !self.waits_for_others(member);
        if member.epoch < self.epoch || member.phase == Phase::Unrevoked || has_news {
            self.call(&id, turn);
            return Err(ErrorCode::REBALANCE_IN_PROGRESS);
        }
        Ok(())
    }

    /// Whether everything that a member still lacks is owned by others.
    fn waits_for_others(&self, member: &Member) -> bool {
        let target = self.target.get(&member.id);
        let mut lacks = target.into_iter().flat_map(|target| target.difference(&member.assigned));
        lacks.all(|part| self.owners.contains_key(part))
    }

    /// A member is called to join again, and has to come in time.
    fn call(&mut self, id: &str, turn: &Turn<'_>) {
        let member = self.members.get_mut(id).expect("the caller found it");
        let until = turn.now.mono.plus(member.patience);
        let face = member.face.as_mut().expect("it speaks the classic protocol");
        face.sync_until = None;
        if face.join_until.is_none() {
            mark!("a member of the classic protocol is called to join a group of the new one");
            face.join_until = Some(until);
        }
    }
}

pub(super) fn to_parts(named: &[subscription::Named], image: &Image) -> Parts {
    let found = |(name, partition): &subscription::Named| Some((image.topic_named(name)?.id, *partition));
    named.iter().filter_map(found).collect()
}

pub(super) fn to_names(parts: &Parts, image: &Image) -> Vec<subscription::Named> {
    let found = |(topic, partition): &(_, _)| Some((image.topic(*topic)?.name.clone(), *partition));
    parts.iter().filter_map(found).collect()
}
