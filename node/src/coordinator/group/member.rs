//! One member of a classic group.
//!
//! Owns: what it told of itself, its part of the plan, the requests of its that wait, when its session ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dejaq_wire::kafka::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};

use super::ask::{JoinAsk, Token};
use crate::coordinator::record::StoredMember;
use crate::runtime::Mono;

/// A member.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its id.
    pub id: Arc<str>,
    /// Its instance id, if it is static.
    pub instance: Option<Arc<str>>,
    /// What its client calls itself.
    pub client_id: String,
    /// From where it came.
    pub client_host: String,
    /// How long it may be silent.
    pub session: Duration,
    /// How long a rebalance waits for it.
    pub patience: Duration,
    /// What it offers: name and what it tells the leader, the best first.
    pub protocols: Vec<(String, Bytes)>,
    /// Its part of the plan.
    pub assignment: Bytes,
    /// Its part of the last plan that was told. It may hold that still when a rebalance has taken the part itself away.
    pub held: Bytes,
    /// Its JoinGroup that waits.
    pub joining: Option<Token>,
    /// Its SyncGroup that waits.
    pub syncing: Option<Token>,
    /// It asked for its part of the plan in this generation.
    pub synced: bool,
    /// It was never in a generation.
    pub is_new: bool,
    /// Its session ends then, unless it is heard or waits for us.
    pub deadline: Mono,
}

impl Member {
    /// A member that joins.
    pub(super) fn new(id: Arc<str>, ask: &JoinAsk, token: Token, deadline: Mono) -> Member {
        let mut member = Member {
            id,
            instance: ask.request.group_instance_id.as_deref().map(Arc::from),
            client_id: ask.client_id.clone(),
            client_host: ask.client_host.clone(),
            session: Duration::ZERO,
            patience: Duration::ZERO,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            held: Bytes::new(),
            joining: Some(token),
            syncing: None,
            synced: false,
            is_new: true,
            deadline,
        };
        member.tell(&ask.request);
        member
    }

    /// A member of a group that was read back.
    pub(super) fn stored(stored: StoredMember, protocol: &str, now: Mono) -> Member {
        let session = millis(stored.session_timeout_ms);
        Member {
            id: stored.id.into(),
            instance: stored.instance.map(Arc::from),
            client_id: stored.client_id,
            client_host: stored.client_host,
            session,
            patience: millis(stored.rebalance_timeout_ms),
            protocols: vec![(protocol.to_owned(), stored.subscription)],
            held: stored.assignment.clone(),
            assignment: stored.assignment,
            joining: None,
            syncing: None,
            synced: true,
            is_new: false,
            deadline: now.plus(session),
        }
    }

    /// Takes over what a JoinGroup tells.
    pub(super) fn tell(&mut self, request: &JoinGroupRequest) {
        self.session = millis(request.session_timeout_ms);
        // Version 0 knows one timeout for both.
        self.patience = if request.rebalance_timeout_ms < 0 {
            self.session
        } else {
            millis(request.rebalance_timeout_ms)
        };
        self.protocols = request.protocols.iter().map(copied).collect();
    }

    /// Whether it offers the same as before, in the same words.
    pub(super) fn tells_the_same(&self, request: &JoinGroupRequest) -> bool {
        let told = request.protocols.iter().map(|one| (&one.name, &one.metadata));
        self.protocols.iter().map(|(name, metadata)| (name, metadata)).eq(told)
    }

    /// What it tells under a protocol.
    #[must_use]
    pub fn metadata(&self, protocol: &str) -> Option<&Bytes> {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, metadata)| metadata)
    }

    /// It was heard, or answered.
    pub(super) fn touch(&mut self, now: Mono) {
        self.deadline = now.plus(self.session);
    }

    /// When it is taken for gone; `None` while it waits for us. A new member's wait is bounded, since nothing else
    /// tells that its client went away.
    #[must_use]
    pub fn expires(&self) -> Option<Mono> {
        let waits = self.syncing.is_some() || (self.joining.is_some() && !self.is_new);
        (!waits).then_some(self.deadline)
    }

    /// As the log keeps it.
    pub(super) fn to_stored(&self, protocol: &str, assignment: Bytes) -> StoredMember {
        StoredMember {
            id: self.id.to_string(),
            instance: self.instance.as_deref().map(str::to_owned),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout_ms: to_millis(self.patience),
            session_timeout_ms: to_millis(self.session),
            subscription: self.metadata(protocol).cloned().unwrap_or_default(),
            assignment,
        }
    }
}

fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn to_millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).expect("it came as milliseconds of 32 bits")
}

/// A copy, so that a member does not keep the whole frame that it came in.
fn copied(protocol: &JoinGroupRequestProtocol) -> (String, Bytes) {
    (protocol.name.clone(), Bytes::copy_from_slice(&protocol.metadata))
}
