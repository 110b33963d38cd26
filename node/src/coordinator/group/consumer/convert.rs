//! A live group's way from the classic protocol to KIP-848 and back.
//!
//! Promises: the way up begins with the first member that speaks the new protocol, the way down with the last one that
//! leaves; what members own stays theirs until they come to a rebalance of the other kind. A group that cannot go is
//! left as it is, and the member that asked is refused. One write holds all of it.
//!
//! ```text
//!  classic, Empty ── ConsumerGroupHeartbeat ─► new        classic, with members ── the same ─► new, with faces
//!  new, Empty ────── JoinGroup ──────────────► classic    new, only faces left ─────────────► classic, rebalances
//! ```

use std::sync::Arc;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::consumer_group_heartbeat::ConsumerGroupHeartbeatResponse;

use super::super::ask::{BeatAsk, Reply, Token};
use super::super::classic::{Group, State, refused_join, refused_sync};
use super::super::member::Member as ClassicMember;
use super::super::subscription;
use super::super::turn::Turn;
use super::face;
use super::heartbeat::{Refusal, refused};
use super::keep::Key;
use super::member::{Face, JOINS, Member, to_millis};
use super::members::Members;
use crate::coordinator::consumer_record::{ConsumerRecord, Parts};
use crate::coordinator::record::{Record, StoredMember};

/// Which ways are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// From the classic protocol.
    pub up: bool,
    /// To the classic protocol.
    pub down: bool,
}

impl Group {
    /// Whether somebody is in it by the new protocol, or was the last to be.
    #[must_use]
    pub(in super::super) fn is_consumer(&self) -> bool {
        self.consumer.is_some()
    }

    /// Makes it a group of the new protocol, if it is not one.
    ///
    /// # Errors
    /// It cannot be one; nothing changed.
    pub(in super::super) fn become_consumer(&mut self, turn: &mut Turn<'_>) -> Result<(), Refusal> {
        if self.is_consumer() {
            return Ok(());
        }
        let assignor = turn.settings.assignors[0];
        let mut consumer = Members::new(self.generation, assignor);
        if !self.members.is_empty() {
            self.copy_members(&mut consumer, turn).map_err(|text| (ErrorCode::GROUP_ID_NOT_FOUND, text))?;
            mark!("a live group goes from the classic protocol to the new one");
            for (id, member) in std::mem::take(&mut self.members) {
                if let Some(token) = member.joining {
                    turn.reply(token, refused_join(ErrorCode::REBALANCE_IN_PROGRESS, &id));
                }
                if let Some(token) = member.syncing {
                    turn.reply(token, refused_sync(ErrorCode::REBALANCE_IN_PROGRESS));
                }
            }
        }
        if self.generation.0 > 0 || self.protocol_type.is_some() {
            self.keep.owe([Key::Classic]);
        }
        consumer.dirty.extend([Key::Epoch, Key::TargetEpoch]);
        self.state = State::Empty;
        (self.leader, self.protocol, self.subscribed, self.sync_until) = (None, None, None, None);
        self.instances.clear();
        self.protocol_type = Some(subscription::CONSUMER.to_owned());
        self.consumer = Some(Box::new(consumer));
        Ok(())
    }

    fn copy_members(&self, consumer: &mut Members, turn: &Turn<'_>) -> Result<(), String> {
        let cannot = |why: &str| Err(format!("Group {} is not a consumer group: {why}.", self.id));
        if !turn.settings.migration.up {
            return cannot("the migration policy keeps it classic");
        }
        if self.protocol_type.as_deref() != Some(subscription::CONSUMER) {
            return cannot("its members are no consumers");
        }
        if self.members.len() >= turn.settings.consumer_max_members {
            return cannot("it has too many members");
        }
        let mut told = Vec::new();
        for member in self.members.values() {
            let protocol = self.protocol.as_deref().and_then(|name| member.metadata(name));
            let metadata = protocol.or_else(|| member.protocols.first().map(|(_, metadata)| metadata));
            let tells = metadata.and_then(|metadata| subscription::read(metadata));
            let (Some(tells), Some(held)) = (tells, subscription::assignment(&member.held)) else {
                return cannot("what its members tell cannot be read");
            };
            told.push((member, tells, face::to_parts(&held, &turn.known.image)));
        }
        let planned: Parts = told.iter().flat_map(|(_, _, held)| held).copied().collect();
        for (member, told, held) in told {
            let mut copy = Member::new(member.id.clone(), turn.now.mono.plus(member.session));
            copy.instance.clone_from(&member.instance);
            copy.rack.clone_from(&told.rack);
            copy.client_id.clone_from(&member.client_id);
            copy.client_host.clone_from(&member.client_host);
            copy.topics = told.topics.iter().map(|topic| Arc::from(topic.as_str())).collect();
            copy.patience = member.patience;
            (copy.epoch, copy.previous) = (self.generation, self.generation);
            copy.face = Some(Face {
                session: member.session,
                protocols: member.protocols.clone(),
                join_until: None,
                sync_until: None,
            });
            // What a plan took from it and gave to nobody it may hold still: it says so when it comes again. A plan that a
            // client made may give a partition twice: the first keeps it.
            let owned = face::to_parts(&told.owned, &turn.known.image);
            let owned = owned.into_iter().filter(|part| !planned.contains(part)).chain(held);
            copy.assigned = owned.filter(|part| !consumer.owners.contains_key(part)).collect();
            consumer.target.insert(member.id.clone(), copy.assigned.clone());
            consumer.dirty.insert(Key::Target(member.id.clone()));
            consumer.insert(copy);
        }
        Ok(())
    }

    /// A group of the new protocol without members takes a member of the classic one.
    pub(in super::super) fn empty_to_classic(&mut self, turn: &mut Turn<'_>) {
        let consumer = self.consumer.take().expect("the caller looked");
        assert!(consumer.members.is_empty(), "{} has members", self.id);
        mark!("an empty group of the new protocol is classic again");
        self.generation = consumer.epoch;
        let waiting = consumer.dirty.clone();
        self.keep.owe(waiting.into_iter().chain([Key::Epoch, Key::TargetEpoch, Key::Classic]));
        self.save_now(turn);
    }

    /// What follows when members of a group of the new protocol came or went.
    pub(in super::super) fn members_changed(&mut self, turn: &mut Turn<'_>) {
        let Some(consumer) = &self.consumer else { return };
        let is_empty = consumer.members.is_empty();
        match (is_empty, self.since_ms) {
            (true, None) => self.since_ms = Some(turn.now.unix_ms),
            (false, Some(_)) => self.since_ms = None,
            (true, Some(_)) | (false, None) => {}
        }
        if consumer.goes_down(turn.settings) {
            self.become_classic(turn);
        } else {
            self.save(turn);
        }
    }

    /// The last member of the new protocol is gone.
    fn become_classic(&mut self, turn: &mut Turn<'_>) {
        mark!("a live group goes back to the classic protocol");
        let consumer = *self.consumer.take().expect("the caller looked");
        self.generation = consumer.epoch;
        let keys = consumer
            .members
            .keys()
            .flat_map(|id| [Key::Member(id.clone()), Key::Target(id.clone()), Key::Current(id.clone())]);
        self.keep.owe(keys.chain([Key::Epoch, Key::TargetEpoch, Key::Classic]));
        self.keep.owe(consumer.dirty);
        for (id, member) in consumer.members {
            let face = member.face.expect("only they are left");
            let (_, metadata) = face.protocols.first().expect("a member offers something");
            let part = face::to_names(&member.assigned, &turn.known.image);
            let stored = StoredMember {
                id: id.to_string(),
                instance: member.instance.as_deref().map(str::to_owned),
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_timeout_ms: to_millis(member.patience),
                session_timeout_ms: to_millis(face.session),
                subscription: bytes::Bytes::new(),
                assignment: subscription::encode_assignment(subscription::version(metadata), &part),
            };
            let mut copy = ClassicMember::stored(stored, "", turn.now.mono);
            copy.protocols = face.protocols;
            if let Some(instance) = &copy.instance {
                self.instances.insert(instance.clone(), id.clone());
            }
            self.members.insert(id, copy);
        }
        self.protocol = Some(self.choose_protocol());
        self.state = State::Stable;
        self.since_ms = Some(turn.now.unix_ms);
        self.subscribed = self.read_subscriptions();
        // Nobody has the part of who is gone. Without a leader the log says that a rebalance is due: the next coordinator
        // would take the group for a settled one, and nobody would ever read that part.
        self.leader = None;
        self.save_now(turn);
        self.leader = self.members.keys().next().cloned();
        self.rebalance(turn);
    }
}

impl Group {
    /// Takes a heartbeat of the new protocol that was looked at.
    pub(in super::super) fn beat(&mut self, token: Token, ask: &BeatAsk, turn: &mut Turn<'_>) {
        let result = self.try_beat(ask, turn);
        self.members_changed(turn);
        match result {
            Ok(answer) => self.tell(token, Reply::Beat(Box::new(answer)), turn),
            Err(refusal) => turn.reply(token, Reply::Beat(Box::new(refused(refusal)))),
        }
    }

    fn try_beat(
        &mut self,
        ask: &BeatAsk,
        turn: &mut Turn<'_>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        if self.state == State::Dead {
            return Err((ErrorCode::COORDINATOR_NOT_AVAILABLE, String::new()));
        }
        if !self.is_consumer() && ask.request.member_epoch != JOINS {
            return Err((ErrorCode::UNKNOWN_MEMBER_ID, "The group is not a consumer group.".to_owned()));
        }
        self.become_consumer(turn)?;
        self.consumer.as_deref_mut().expect("just made one").heartbeat(ask, turn)
    }

    /// The records that take away all that the log holds of an empty group of the new protocol.
    pub(in super::super) fn take_consumer_keys(&mut self) -> Vec<Record> {
        let consumer = self.consumer.as_deref().expect("the caller looked");
        assert!(consumer.members.is_empty(), "{} has members", self.id);
        let gone = consumer.dirty.iter().filter_map(Key::gone);
        let records = gone.chain([ConsumerRecord::TargetEpoch(None), ConsumerRecord::Epoch(None)]);
        let records = records.chain(self.keep.gone());
        records.map(|record| Record::Consumer { group: self.id.clone(), record }).collect()
    }
}

/// Everything that the log may hold of a group of the new protocol.
pub(in super::super) fn all_keys<'a>(ids: impl Iterator<Item = &'a Arc<str>>) -> Vec<Key> {
    let of = |id: &Arc<str>| [Key::Member(id.clone()), Key::Target(id.clone()), Key::Current(id.clone())];
    ids.flat_map(of).chain([Key::Epoch, Key::TargetEpoch]).collect()
}

/// What a member owns, when it was read back: nothing that another owns already.
pub(in super::super) fn keep_free(consumer: &Members, member: &mut Member) {
    let is_free = |part: &_| !consumer.owners.contains_key(part);
    let free = |parts: &Parts| parts.iter().filter(|part| is_free(part)).copied().collect();
    (member.assigned, member.revoking) = (free(&member.assigned), free(&member.revoking));
}
