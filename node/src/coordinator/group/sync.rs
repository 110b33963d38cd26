//! SyncGroup and Heartbeat: the plan goes from its maker to the members, and members say that they live.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::Generation;
use dejaq_wire::kafka::heartbeat::HeartbeatRequest;
use dejaq_wire::kafka::sync_group::{SyncGroupRequest, SyncGroupResponse};

use super::ask::{Reply, Ticket, Token};
use super::classic::{Group, Plan, State, overtaken, refused_sync};
use super::member::Member;
use super::turn::{After, Turn};

impl Group {
    /// Takes a SyncGroup.
    pub(super) fn sync(&mut self, token: Token, request: &SyncGroupRequest, turn: &mut Turn<'_>) {
        if self.is_consumer() {
            return self.sync_as_classic(token, request, turn);
        }
        let id = request.member_id.as_str();
        if let Err(code) = self.may_sync(request) {
            return turn.reply(token, refused_sync(code));
        }
        let is_stable = self.state == State::Stable;
        let member = self.members.get_mut(id).expect("it was checked");
        member.synced = true;
        member.touch(turn.now.mono);
        if is_stable {
            let part = member.assignment.clone();
            turn.reply(token, self.part(part));
        } else {
            let older = member.syncing.replace(token);
            overtaken(older, refused_sync(ErrorCode::REBALANCE_IN_PROGRESS), turn);
            if self.leader.as_deref() == Some(id) {
                self.take_plan(request, turn);
            }
        }
        if self.members.values().all(|member| member.synced) {
            self.sync_until = None;
        }
    }

    fn may_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        let differs = |told: &Option<String>, ours: &Option<String>| told.is_some() && told != ours;
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol)
        {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        match self.state {
            State::Preparing(_) => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            State::Completing { .. } | State::Stable => Ok(()),
            State::Empty | State::Dead => unreachable!("{} has members in {:?}", self.id, self.state),
        }
    }

    /// The leader's plan: written first. A leader that repeats itself waits for the first one.
    fn take_plan(&mut self, request: &SyncGroupRequest, turn: &mut Turn<'_>) {
        let State::Completing { plan: None } = self.state else { return };
        let mut parts: BTreeMap<Arc<str>, Bytes> =
            self.members.keys().map(|id| (id.clone(), Bytes::new())).collect();
        for given in &request.assignments {
            if let Some(part) = parts.get_mut(given.member_id.as_str()) {
                *part = Bytes::copy_from_slice(&given.assignment);
            }
        }
        let before = self.since_ms.replace(turn.now.unix_ms);
        let record = self.record(&parts);
        self.since_ms = before;
        let after = After::Plan { generation: self.generation };
        let ticket = self.write(vec![record], after, turn);
        self.state = State::Completing { plan: Some(Plan { ticket, parts }) };
    }

    /// The write of a plan ended.
    pub(super) fn plan_written(
        &mut self,
        ticket: Ticket,
        generation: Generation,
        result: Result<(), ErrorCode>,
        turn: &mut Turn<'_>,
    ) {
        let parts = match &mut self.state {
            State::Completing { plan: Some(plan) } if plan.ticket == ticket => {
                std::mem::take(&mut plan.parts)
            }
            // A rebalance began meanwhile: the plan is for a generation that is over.
            _ => return,
        };
        assert_eq!(self.generation, generation, "{}: the plan is for another generation", self.id);
        if let Err(code) = result {
            self.fail_syncs(code, turn);
            self.rebalance(turn);
            return;
        }
        self.state = State::Stable;
        if let Some(began) = self.rebalancing.take() {
            turn.settings.rebalance_times.0.observe(turn.now.mono.since(began));
        }
        self.since_ms = Some(turn.now.unix_ms);
        let mut answers = Vec::new();
        for (id, part) in parts {
            let member = self.members.get_mut(&id).expect("members change only in a rebalance");
            (member.assignment, member.held) = (part.clone(), part.clone());
            if let Some(token) = member.syncing.take() {
                member.touch(turn.now.mono);
                answers.push((token, part));
            }
        }
        for (token, part) in answers {
            turn.reply(token, self.part(part));
        }
    }

    fn part(&self, assignment: Bytes) -> Reply {
        Reply::Sync(SyncGroupResponse {
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            assignment,
            ..Default::default()
        })
    }

    /// Takes a heartbeat.
    pub(super) fn heartbeat(&mut self, request: &HeartbeatRequest, turn: &mut Turn<'_>) -> ErrorCode {
        if self.is_consumer() {
            return self.heartbeat_as_classic(request, turn);
        }
        if let Err(code) = self.check_member(&request.member_id, request.group_instance_id.as_deref()) {
            return code;
        }
        if request.generation_id != self.generation {
            return ErrorCode::ILLEGAL_GENERATION;
        }
        self.touch(&request.member_id, turn);
        match self.state {
            State::Preparing(_) => ErrorCode::REBALANCE_IN_PROGRESS,
            // A member may say that it lives before it asks for its part.
            State::Completing { .. } | State::Stable => ErrorCode::NONE,
            State::Empty | State::Dead => unreachable!("{} has members in {:?}", self.id, self.state),
        }
    }

    pub(super) fn touch(&mut self, id: &str, turn: &Turn<'_>) {
        let now = turn.now.mono;
        if let Some(consumer) = &mut self.consumer {
            consumer.touch(id, now);
        }
        if let Some(member) = self.members.get_mut(id).filter(|member: &&mut Member| !member.is_new) {
            member.touch(now);
        }
    }
}
