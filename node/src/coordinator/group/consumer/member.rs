//! One member of a group of KIP-848.
//!
//! Owns: what it told of itself, its epochs, what it owns, when it is out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dejaq_wire::ids::Generation;

use crate::coordinator::consumer_record::{Parts, StoredConsumer, StoredCurrent};
use crate::runtime::Mono;

/// Epoch of a member that joins.
pub const JOINS: Generation = Generation(0);
/// Epoch of a member that leaves.
pub const LEAVES: Generation = Generation(-1);
/// Epoch of a static member that leaves and will be back.
pub const PAUSES: Generation = Generation(-2);

/// How far a member is on its way to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It owns what it was told.
    Stable,
    /// It has to give something up first.
    Unrevoked,
    /// It has all that is free; the rest is still held by others.
    Unreleased,
}

/// What a member of the classic protocol needs besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Face {
    /// How long it may be silent.
    pub session: Duration,
    /// What it offers: name and what it tells, the best first.
    pub protocols: Vec<(String, Bytes)>,
    /// It was told that there is a rebalance, and has to join until then.
    pub join_until: Option<Mono>,
    /// It has joined, and has to ask for its part until then.
    pub sync_until: Option<Mono>,
}

/// A member.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its id.
    pub id: Arc<str>,
    /// Its instance id, if it is static.
    pub instance: Option<Arc<str>>,
    /// Where it stands.
    pub rack: Option<String>,
    /// What its client calls itself.
    pub client_id: String,
    /// From where it came.
    pub client_host: String,
    /// Topics that it reads.
    pub topics: BTreeSet<Arc<str>>,
    /// And those whose names match this.
    pub pattern: Option<Arc<str>>,
    /// The assignor that it wants.
    pub assignor: Option<String>,
    /// How long it may take to give partitions up.
    pub patience: Duration,
    /// Its epoch.
    pub epoch: Generation,
    /// The one before: an answer may be lost.
    pub previous: Generation,
    /// How far it is.
    pub phase: Phase,
    /// What it owns and keeps.
    pub assigned: Parts,
    /// What it owns and has to give up.
    pub revoking: Parts,
    /// Set while it speaks the classic protocol.
    pub face: Option<Face>,
    /// It is out then, unless it is heard.
    pub deadline: Mono,
    /// It is out then, unless it gave up what it had to.
    pub revoke_until: Option<Mono>,
}

impl Member {
    /// A member that owns nothing.
    pub(in super::super) fn new(id: Arc<str>, deadline: Mono) -> Member {
        Member {
            id,
            instance: None,
            rack: None,
            client_id: String::new(),
            client_host: String::new(),
            topics: BTreeSet::new(),
            pattern: None,
            assignor: None,
            patience: Duration::ZERO,
            epoch: JOINS,
            previous: LEAVES,
            phase: Phase::Stable,
            assigned: Parts::new(),
            revoking: Parts::new(),
            face: None,
            deadline,
            revoke_until: None,
        }
    }

    /// When it is out, at the soonest.
    #[must_use]
    pub fn expires(&self) -> Mono {
        let face = self.face.as_ref();
        let others =
            [self.revoke_until, face.and_then(|face| face.join_until), face.and_then(|face| face.sync_until)];
        others.into_iter().flatten().fold(self.deadline, Mono::min)
    }

    /// Whether it is where the plan of `epoch` wants it.
    #[must_use]
    pub fn is_at(&self, epoch: Generation) -> bool {
        self.phase == Phase::Stable && self.epoch == epoch
    }

    /// Moves on to an epoch; the one before stays known when it is another.
    pub(super) fn enter(&mut self, epoch: Generation) {
        self.previous = self.epoch;
        self.epoch = epoch;
    }

    /// What it said, as the log keeps it.
    #[must_use]
    pub fn to_stored(&self) -> StoredConsumer {
        let face = |face: &Face| (to_millis(face.session), face.protocols.clone());
        StoredConsumer {
            instance: self.instance.as_deref().map(str::to_owned),
            rack: self.rack.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            topics: self.topics.iter().map(|topic| topic.to_string()).collect(),
            pattern: self.pattern.as_deref().map(str::to_owned),
            rebalance_timeout_ms: to_millis(self.patience),
            assignor: self.assignor.clone(),
            classic: self.face.as_ref().map(face),
        }
    }

    /// Takes over what the log keeps.
    pub(in super::super) fn take_stored(&mut self, stored: StoredConsumer) {
        self.instance = stored.instance.map(Arc::from);
        self.rack = stored.rack;
        self.client_id = stored.client_id;
        self.client_host = stored.client_host;
        self.topics = stored.topics.into_iter().map(Arc::from).collect();
        self.pattern = stored.pattern.map(Arc::from);
        self.patience = millis(stored.rebalance_timeout_ms);
        self.assignor = stored.assignor;
        self.face = stored.classic.map(|(session_ms, protocols)| Face {
            session: millis(session_ms),
            protocols,
            join_until: None,
            sync_until: None,
        });
    }

    /// What it owns, as the log keeps it.
    #[must_use]
    pub fn to_current(&self) -> StoredCurrent {
        let phase = match self.phase {
            Phase::Stable => 0,
            Phase::Unrevoked => 1,
            Phase::Unreleased => 2,
        };
        StoredCurrent {
            epoch: self.epoch,
            previous: self.previous,
            phase,
            assigned: self.assigned.clone(),
            revoking: self.revoking.clone(),
        }
    }

    /// Takes over what the log keeps.
    pub(in super::super) fn take_current(&mut self, stored: StoredCurrent) {
        self.epoch = stored.epoch;
        self.previous = stored.previous;
        self.phase = match stored.phase {
            0 => Phase::Stable,
            1 => Phase::Unrevoked,
            _ => Phase::Unreleased,
        };
        self.assigned = stored.assigned;
        self.revoking = stored.revoking;
    }
}

pub(super) fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

pub(super) fn to_millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
