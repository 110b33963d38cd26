//! ConsumerGroupHeartbeat: a member joins, lives, gives up, and leaves, all in one request.
//!
//! Promises: a request that is refused changed nothing. An epoch that is not the member's own is fenced, but for the
//! one before, from a member that owns nothing that is not its own: it did not hear our answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::Generation;
use dejaq_wire::kafka::consumer_group_heartbeat::{
    Assignment, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicPartitions,
};

use super::assignor::Assignor;
use super::keep::Key;
use super::member::{JOINS, LEAVES, Member, PAUSES, millis, to_millis};
use super::members::Members;
use super::topics;
use crate::coordinator::consumer_record::Parts;
use crate::coordinator::group::ask::BeatAsk;
use crate::coordinator::group::settings::{MAX_ID_BYTES, MAX_MEMBER_BYTES, Settings};
use crate::coordinator::group::turn::Turn;

/// A refusal: the code, and what the client is told besides.
pub(in super::super) type Refusal = (ErrorCode, String);

fn refuse<T>(code: ErrorCode, text: impl Into<String>) -> Result<T, Refusal> {
    Err((code, text.into()))
}

/// A heartbeat that is refused.
pub(in super::super) fn refused((code, text): Refusal) -> ConsumerGroupHeartbeatResponse {
    let error_message = Some(text).filter(|text| !text.is_empty());
    ConsumerGroupHeartbeatResponse { error_code: code, error_message, ..Default::default() }
}

/// What is refused whatever the group.
///
/// # Errors
/// The refusal.
pub(in super::super) fn check(
    request: &ConsumerGroupHeartbeatRequest,
    settings: &Settings,
) -> Result<(), Refusal> {
    let invalid = |text: &str| refuse(ErrorCode::INVALID_REQUEST, text);
    if request.group_id.is_empty() {
        return refuse(ErrorCode::INVALID_GROUP_ID, "GroupId can't be empty.");
    }
    let texts = [&request.instance_id, &request.rack_id];
    if texts.iter().any(|text| text.as_deref() == Some("")) {
        return invalid("InstanceId and RackId can't be empty.");
    }
    let topics = request.subscribed_topic_names.as_deref().unwrap_or_default();
    let told: usize = topics.iter().map(String::len).sum();
    let long = |text: &Option<String>| text.as_ref().map_or(0, String::len) > MAX_ID_BYTES;
    if request.group_id.len() > MAX_ID_BYTES
        || request.member_id.len() > MAX_ID_BYTES + 64
        || long(&request.instance_id)
        || long(&request.rack_id)
        || told > MAX_MEMBER_BYTES
    {
        mark!("a member of the new protocol tells more of itself than it may");
        return invalid("The member tells more of itself than it may.");
    }
    match request.member_epoch {
        JOINS => {
            if request.rebalance_timeout_ms <= 0 {
                return invalid("RebalanceTimeoutMs must be provided in first request.");
            }
            if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
                return invalid("TopicPartitions must be empty when (re-)joining.");
            }
            if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
                return invalid(
                    "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
                );
            }
        }
        PAUSES if request.instance_id.is_none() => return invalid("InstanceId can't be null."),
        epoch if epoch.0 < PAUSES.0 => return invalid("MemberEpoch is invalid."),
        _ if request.member_id.is_empty() => return invalid("MemberId can't be empty."),
        _ => {}
    }
    if let Some(name) = &request.server_assignor {
        let named = Assignor::named(name).filter(|assignor| settings.assignors.contains(assignor));
        if named.is_none() {
            let names: Vec<&str> = settings.assignors.iter().map(|assignor| assignor.name()).collect();
            let text = format!("ServerAssignor {name} is not supported; there are {}.", names.join(", "));
            return refuse(ErrorCode::UNSUPPORTED_ASSIGNOR, text);
        }
    }
    if let Some(pattern) = request.subscribed_topic_regex.as_deref().filter(|pattern| !pattern.is_empty()) {
        topics::compile(pattern).or_else(|error| refuse(ErrorCode::INVALID_REGULAR_EXPRESSION, error))?;
    }
    Ok(())
}

/// Who the request is of.
enum Who {
    /// Somebody new.
    New(Arc<str>),
    /// A member of now.
    Known(Arc<str>),
    /// A new process of a static member that left or spoke the classic protocol.
    Returns { old: Arc<str>, fresh: Arc<str> },
}

impl Members {
    /// Takes a heartbeat that [`check`] let pass.
    ///
    /// # Errors
    /// The refusal; nothing changed.
    pub(in super::super) fn heartbeat(
        &mut self,
        ask: &BeatAsk,
        turn: &mut Turn<'_>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let request = &ask.request;
        if request.member_epoch == LEAVES || request.member_epoch == PAUSES {
            return self.leave(request, turn);
        }
        let owned = request.topic_partitions.as_deref().map(to_parts);
        let deadline = turn.now.mono.plus(turn.settings.consumer_session);
        let mut changed = false;
        let id = match self.who(ask, owned.as_ref(), turn.settings)? {
            Who::Known(id) => id,
            Who::Returns { old, fresh } => {
                self.replace(&old, fresh.clone());
                fresh
            }
            Who::New(id) => {
                self.insert(Member::new(id.clone(), deadline));
                changed = true;
                id
            }
        };
        changed |= self.tell(&id, ask);
        self.look(changed, turn);
        let gets_other = self.reconcile(&id, owned.as_ref(), turn);
        let member = self.members.get_mut(&id).expect("it was told to");
        member.deadline = deadline;
        let is_full = request.member_epoch == JOINS
            || (request.rebalance_timeout_ms != -1
                && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
                && owned.is_some());
        let assignment = (is_full || gets_other).then(|| to_assignment(&member.assigned));
        Ok(ConsumerGroupHeartbeatResponse {
            member_id: Some(id.to_string()),
            member_epoch: member.epoch,
            heartbeat_interval_ms: to_millis(turn.settings.consumer_heartbeat),
            assignment,
            ..Default::default()
        })
    }

    fn who(&self, ask: &BeatAsk, owned: Option<&Parts>, settings: &Settings) -> Result<Who, Refusal> {
        let request = &ask.request;
        let joins = request.member_epoch == JOINS;
        let id: Arc<str> = match request.member_id.as_str() {
            "" => super::super::join::uuid(ask.entropy).into(),
            id => id.into(),
        };
        let known = self.members.get(&id);
        let holder = request.instance_id.as_deref().map(|instance| self.instances.get(instance));
        match (holder, known) {
            (None, Some(member)) => check_epoch(member, request.member_epoch, owned).map(|()| Who::Known(id)),
            (Some(Some(holder)), _) if *holder == id => {
                let member = &self.members[&id];
                if joins && Members::is_paused(member) {
                    return Ok(Who::Returns { old: id.clone(), fresh: id });
                }
                check_epoch(member, request.member_epoch, owned).map(|()| Who::Known(id))
            }
            (Some(Some(holder)), None) if joins => {
                let member = &self.members[holder];
                if member.face.is_none() && !Members::is_paused(member) {
                    return refuse(
                        ErrorCode::UNRELEASED_INSTANCE_ID,
                        "The instance id is still used by another member; it must leave first.",
                    );
                }
                Ok(Who::Returns { old: holder.clone(), fresh: id })
            }
            (Some(Some(_)), _) => {
                refuse(ErrorCode::FENCED_INSTANCE_ID, "Another member has taken the place of this instance.")
            }
            (Some(None) | None, None) if joins => {
                if self.members.len() >= settings.consumer_max_members {
                    mark!("a group of the new protocol has as many members as it may");
                    let text = format!("The group has its {} members.", settings.consumer_max_members);
                    return refuse(ErrorCode::GROUP_MAX_SIZE_REACHED, text);
                }
                Ok(Who::New(id))
            }
            // A member does not change what it is while it is one.
            (Some(None), Some(_)) | (Some(None) | None, None) => {
                refuse(ErrorCode::UNKNOWN_MEMBER_ID, "The member is not known in the group.")
            }
        }
    }

    /// Takes over what a heartbeat tells of its member. Whether it reads other topics.
    fn tell(&mut self, id: &Arc<str>, ask: &BeatAsk) -> bool {
        let (request, member) = (&ask.request, self.members.get_mut(id).expect("the caller found it"));
        let before = (member.to_stored(), member.topics.clone(), member.pattern.clone());
        if let Some(instance) = &request.instance_id {
            let instance: Arc<str> = instance.as_str().into();
            member.instance = Some(instance.clone());
            self.instances.insert(instance, id.clone());
        }
        if request.rack_id.is_some() {
            member.rack.clone_from(&request.rack_id);
        }
        if request.rebalance_timeout_ms > 0 {
            member.patience = millis(request.rebalance_timeout_ms);
        }
        if request.server_assignor.is_some() {
            member.assignor.clone_from(&request.server_assignor);
        }
        if let Some(topics) = &request.subscribed_topic_names {
            member.topics = topics.iter().map(|topic| Arc::from(topic.as_str())).collect::<BTreeSet<_>>();
        }
        if let Some(pattern) = &request.subscribed_topic_regex {
            member.pattern = Some(pattern.as_str()).filter(|pattern| !pattern.is_empty()).map(Arc::from);
        }
        member.client_id.clone_from(&ask.client_id);
        member.client_host.clone_from(&ask.client_host);
        if member.face.take().is_some() {
            mark!("a member of the classic protocol speaks the new one now");
        }
        if member.to_stored() != before.0 {
            self.dirty.insert(Key::Member(id.clone()));
        }
        (&member.topics, &member.pattern) != (&before.1, &before.2)
    }

    fn leave(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest,
        turn: &mut Turn<'_>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let member = self.check_member(&request.member_id, request.instance_id.as_deref());
        let id = match member {
            Ok(member) => member.id.clone(),
            Err(code) => return refuse(code, "The member is not known in the group."),
        };
        if request.member_epoch == PAUSES {
            mark!("a static member leaves and will be back");
            let member = self.members.get_mut(&id).expect("just found");
            // It gave up everything, and gets it back if it comes in time; until then nobody else does.
            let all: Vec<_> = member.revoking.iter().copied().collect();
            member.revoking = Parts::new();
            member.phase = super::member::Phase::Stable;
            (member.epoch, member.revoke_until) = (PAUSES, None);
            all.iter().for_each(|part| drop(self.owners.remove(part)));
            self.dirty.insert(Key::Current(id));
        } else {
            self.remove(&id);
            self.members_left(turn);
        }
        Ok(ConsumerGroupHeartbeatResponse {
            member_id: Some(request.member_id.clone()),
            member_epoch: request.member_epoch,
            ..Default::default()
        })
    }
}

/// Whether the epoch that a member tells is its own, or the one before with nothing owned that is not its own.
fn check_epoch(member: &Member, told: Generation, owned: Option<&Parts>) -> Result<(), Refusal> {
    if told == member.epoch {
        return Ok(());
    }
    let missed = told == member.previous && owned.is_some_and(|owned| owned.is_subset(&member.assigned));
    if missed {
        mark!("a member did not hear of its new epoch");
        return Ok(());
    }
    let kind = if told > member.epoch { "greater" } else { "smaller" };
    let text = format!(
        "The consumer group member has a {kind} member epoch ({}) than the one known by the group coordinator ({}). \
         The member must abandon all its partitions and rejoin.",
        told.0, member.epoch.0
    );
    refuse(ErrorCode::FENCED_MEMBER_EPOCH, text)
}

fn to_parts(told: &[TopicPartitions]) -> Parts {
    let each = |one: &TopicPartitions| {
        let topic = one.topic_id;
        one.partitions.iter().map(move |partition| (topic, *partition)).collect::<Vec<_>>()
    };
    told.iter().flat_map(each).collect()
}

fn to_assignment(parts: &Parts) -> Assignment {
    let mut topic_partitions: Vec<TopicPartitions> = Vec::new();
    for (topic_id, partition) in parts {
        match topic_partitions.last_mut().filter(|last| last.topic_id == *topic_id) {
            Some(last) => last.partitions.push(*partition),
            None => {
                topic_partitions.push(TopicPartitions { topic_id: *topic_id, partitions: vec![*partition] })
            }
        }
    }
    Assignment { topic_partitions }
}
