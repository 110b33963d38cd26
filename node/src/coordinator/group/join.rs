//! JoinGroup: who gets in, and what a member that is in already is told.
//!
//! Implements KIP-394 (a new member is given its id before it counts) and the joining half of KIP-345 (see `instance`).

use std::sync::Arc;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::join_group::JoinGroupResponse;

use super::ask::{JoinAsk, Reply, Token};
use super::classic::{Group, State, overtaken, refused_join};
use super::member::Member;
use super::settings::{MAX_ID_BYTES, NEW_MEMBER_WAIT};
use super::turn::Turn;

impl Group {
    /// Takes a JoinGroup whose timeouts and sizes were looked at.
    pub(super) fn join(&mut self, token: Token, ask: &JoinAsk, turn: &mut Turn<'_>) {
        let request = &ask.request;
        let id = request.member_id.as_str();
        let refuse = |turn: &mut Turn<'_>, code| turn.reply(token, refused_join(code, id));
        if self.state == State::Dead {
            return refuse(turn, ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        if self.is_consumer() {
            if self.size() > 0 {
                return self.join_as_classic(token, ask, turn);
            }
            self.empty_to_classic(turn);
        }
        let offered = request.protocols.iter().map(|protocol| protocol.name.as_str());
        if !self.supports(&request.protocol_type, offered) {
            return refuse(turn, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        if !id.is_empty() {
            return self.join_known(token, ask, turn);
        }
        let returns = request.group_instance_id.as_deref().and_then(|i| self.instances.get(i)).cloned();
        if let Some(old) = returns {
            return self.replace(&old, token, ask, turn);
        }
        if self.members.len() + self.promised.len() >= turn.settings.max_members {
            mark!("a group has as many members as it may");
            return refuse(turn, ErrorCode::GROUP_MAX_SIZE_REACHED);
        }
        let fresh = fresh_id(ask);
        if ask.knows_member_ids && request.group_instance_id.is_none() {
            let session = std::time::Duration::from_millis(
                u64::try_from(request.session_timeout_ms).expect("a session timeout that was checked"),
            );
            self.promised.insert(fresh.clone(), turn.now.mono.plus(session));
            return turn.reply(token, refused_join(ErrorCode::MEMBER_ID_REQUIRED, &fresh));
        }
        self.add(fresh, token, ask, turn);
    }

    fn join_known(&mut self, token: Token, ask: &JoinAsk, turn: &mut Turn<'_>) {
        let request = &ask.request;
        let id = request.member_id.as_str();
        if request.group_instance_id.is_none()
            && let Some((id, _)) = self.promised.remove_entry(id)
        {
            return self.add(id, token, ask, turn);
        }
        if let Err(code) = self.check_member(id, request.group_instance_id.as_deref()) {
            return turn.reply(token, refused_join(code, id));
        }
        let member = &self.members[id];
        let is_same = member.tells_the_same(request);
        match self.state {
            // It did not hear our answer.
            State::Completing { .. } if is_same => {
                turn.reply(token, Reply::Join(self.joined(id)));
            }
            // A leader that joins again asks for a rebalance: only it knows of a change in the topics (S53).
            State::Stable if is_same && self.leader.as_deref() != Some(id) => {
                turn.reply(token, Reply::Join(self.joined(id)));
            }
            State::Preparing(_) | State::Completing { .. } | State::Stable => {
                self.hold(id, token, ask, turn);
                self.rebalance(turn);
            }
            State::Empty | State::Dead => unreachable!("{} has members in {:?}", self.id, self.state),
        }
    }

    /// Lets a JoinGroup of a member wait.
    pub(super) fn hold(&mut self, id: &str, token: Token, ask: &JoinAsk, turn: &mut Turn<'_>) {
        let member = self.members.get_mut(id).expect("the caller found it");
        member.tell(&ask.request);
        let older = member.joining.replace(token);
        let syncing = member.syncing.take();
        // One that was never in a generation keeps the long wait of a new member.
        let wait = if member.is_new { NEW_MEMBER_WAIT } else { member.session };
        member.deadline = turn.now.mono.plus(wait);
        overtaken(older, refused_join(ErrorCode::REBALANCE_IN_PROGRESS, id), turn);
        overtaken(syncing, super::classic::refused_sync(ErrorCode::REBALANCE_IN_PROGRESS), turn);
    }

    fn add(&mut self, id: Arc<str>, token: Token, ask: &JoinAsk, turn: &mut Turn<'_>) {
        let member = Member::new(id.clone(), ask, token, turn.now.mono.plus(NEW_MEMBER_WAIT));
        if self.members.is_empty() {
            self.protocol_type = Some(ask.request.protocol_type.clone());
        }
        if let Some(instance) = &member.instance {
            let before = self.instances.insert(instance.clone(), id.clone());
            assert!(before.is_none(), "{}: {instance} was {before:?}", self.id);
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(id, member);
        if let State::Preparing(joining) = &mut self.state
            && let Some((_, grew)) = &mut joining.first
        {
            *grew = true;
        }
        self.rebalance(turn);
    }

    /// The answer to a member that came back into the current generation (KIP-345, KIP-814).
    pub(super) fn rejoined(
        &self,
        id: &str,
        knows_skipping: bool,
        old_leader: Option<&str>,
    ) -> JoinGroupResponse {
        let mut answer = self.joined(id);
        let leads = self.leader.as_deref() == Some(id);
        if leads && knows_skipping {
            answer.skip_assignment = true;
        } else if leads {
            // An older client that thinks that it leads would make a plan that nobody takes.
            answer.members = Vec::new();
            answer.leader = old_leader.unwrap_or_default().to_owned();
        }
        answer
    }
}

/// Kafka's shape of ids: what people know the client by, then a random part.
pub(super) fn fresh_id(ask: &JoinAsk) -> Arc<str> {
    let known_by = ask.request.group_instance_id.as_deref().unwrap_or(&ask.client_id);
    let known_by = &known_by[..known_by.floor_char_boundary(MAX_ID_BYTES)];
    format!("{known_by}-{}", uuid(ask.entropy)).into()
}

/// Version 4 of RFC 9562, as Java's UUID.randomUUID() writes it.
pub(super) fn uuid(entropy: u128) -> String {
    let bits = (entropy & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    format!("{a}-{b}-{c}-{d}-{e}")
}
