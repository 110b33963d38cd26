//! Fetch sessions (KIP-227): what a consumer wants is remembered, so that a request names only what changed.
//!
//! Owns: the sessions of this node, bounded in number and in partitions; per partition what is wanted and what was
//! last told. Promises: an incremental answer leaves out exactly the partitions about which there is nothing new;
//! partitions that brought records go to the end, so that a full answer starves nobody; an unknown id or a wrong
//! epoch changes nothing.
//! Leaves out: reading, waiting, the wire. A session is not bound to a connection (Kafka's neither).
//! Called by `fetch` twice a request, under one short mutex: [`Sessions::begin`], and [`Sessions::finish`].
//!
//! ```text
//!  (id 0, epoch 0)  full ─► new id, epoch 1      (id, epoch n) incremental ─► epoch n+1 (after 2^31-1 comes 1)
//!  (id x, epoch 0)  full, x is dropped           (any, -1) full, without a session, x is dropped
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::{buggify, mark};
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId, TopicId};

use crate::runtime::Mono;

/// A session that was not used for this long gives way to a new one (Kafka's min.incremental.fetch.session.eviction).
const EVICT_AFTER: Duration = Duration::from_secs(120);

/// A topic as the request names it: by name up to version 12, by id from 13 on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicRef {
    /// By name.
    Name(Arc<str>),
    /// By id.
    Id(TopicId),
}

/// One partition of a fetch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Which topic.
    pub topic: TopicRef,
    /// Which partition.
    pub partition: PartitionId,
}

/// What is wanted from a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// First offset to return.
    pub offset: Offset,
    /// Most bytes to return from this partition, but for the first batch of the answer. Not negative.
    pub max_bytes: usize,
    /// The leader epoch that the client knows, or none.
    pub current_epoch: LeaderEpoch,
    /// The epoch of the last record that the client has, or none.
    pub last_epoch: LeaderEpoch,
}

/// What an answer says about a partition, as far as it decides whether to say it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The watermark.
    pub watermark: Offset,
    /// First offset there is.
    pub log_start: Offset,
    /// Whether records are in the answer.
    pub has_records: bool,
    /// Whether an error, a divergence or another leader is in the answer: always told.
    pub is_notable: bool,
}

/// The session part of a request.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// 0 for none.
    pub id: i32,
    /// 0 starts a session, -1 ends it, anything else continues it.
    pub epoch: i32,
    /// Partitions to add or to change; all of them in a full request.
    pub wanted: Vec<(Key, Wanted)>,
    /// Partitions to drop from the session.
    pub forgotten: Vec<Key>,
}

/// Why a request cannot be served within its session; the client starts a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Answer FETCH_SESSION_ID_NOT_FOUND.
    #[error("the fetch session is not known")]
    NotFound,
    /// Answer INVALID_FETCH_SESSION_EPOCH.
    #[error("the fetch session epoch is not the expected one")]
    WrongEpoch,
    /// Answer FETCH_SESSION_TOPIC_ID_ERROR.
    #[error("the fetch session names its topics in the other way")]
    MixedTopics,
}

/// What to read for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The session that the answer names; 0 for none.
    pub id: i32,
    /// The epoch that the session has while the request runs.
    epoch: i32,
    /// Whether every partition is told, whatever is new.
    is_full: bool,
    /// What to read, in the order in which to fill the answer.
    pub wanted: Vec<(Key, Wanted)>,
}

#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    told: Option<Told>,
    /// Its place in the order of reading: grows when it brought records.
    place: u64,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    used_at: Mono,
    next_place: u64,
    entries: BTreeMap<Key, Entry>,
}

/// How much the sessions of a node may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most sessions.
    pub sessions: usize,
    /// Most partitions in all sessions together (about 200 bytes each).
    pub partitions: usize,
}

/// The fetch sessions of a node.
#[derive(Debug)]
pub struct Sessions {
    limits: Limits,
    by_id: BTreeMap<i32, Session>,
    /// Sum over all sessions of their entries.
    partitions: usize,
}

impl Sessions {
    /// No sessions yet.
    #[must_use]
    pub fn new(limits: Limits) -> Sessions {
        Sessions { limits, by_id: BTreeMap::new(), partitions: 0 }
    }

    /// Number of sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Takes the session part of a request and says what to read.
    ///
    /// `random` gives a new session its id. When there is no room for a new session the answer goes without one
    /// (id 0), and the client asks in full the next time.
    ///
    /// # Errors
    /// [`SessionError`]; nothing has changed.
    pub fn begin(&mut self, ask: Ask, now: Mono, random: u64) -> Result<Plan, SessionError> {
        let plan = if ask.epoch <= 0 { self.begin_full(ask, now, random) } else { self.resume(ask, now)? };
        self.check();
        Ok(plan)
    }

    /// Says for every partition of `told`, in its order, whether it goes into the answer, and remembers it.
    ///
    /// # Errors
    /// [`SessionError`] if the session went away or moved on while the request ran.
    pub fn finish(&mut self, plan: &Plan, told: &[(Key, Told)]) -> Result<Vec<bool>, SessionError> {
        if plan.id == 0 {
            return Ok(vec![true; told.len()]);
        }
        let session = self.by_id.get_mut(&plan.id).ok_or(SessionError::NotFound)?;
        if session.epoch != plan.epoch {
            return Err(SessionError::WrongEpoch);
        }
        let is_new = told.iter().map(|(key, told)| session.tell(key, *told) || plan.is_full).collect();
        self.check();
        Ok(is_new)
    }

    fn begin_full(&mut self, ask: Ask, now: Mono, random: u64) -> Plan {
        if ask.id != 0 {
            self.drop_session(ask.id);
        }
        let mut plan = Plan { id: 0, epoch: 0, is_full: true, wanted: ask.wanted };
        if ask.epoch < 0 || plan.wanted.is_empty() || mixes_topics(&plan.wanted) {
            return plan;
        }
        if !self.make_room(plan.wanted.len(), now) {
            mark!("no room for a fetch session");
            return plan;
        }
        plan.id = self.free_id(random);
        plan.epoch = 1;
        let mut session = Session { epoch: 1, used_at: now, next_place: 0, entries: BTreeMap::new() };
        session.want(&plan.wanted);
        self.partitions += session.entries.len();
        self.by_id.insert(plan.id, session);
        plan
    }

    fn resume(&mut self, ask: Ask, now: Mono) -> Result<Plan, SessionError> {
        if buggify!("a fetch session is forgotten", 30) && self.by_id.contains_key(&ask.id) {
            self.drop_session(ask.id);
        }
        let room = self.limits.partitions.saturating_sub(self.partitions);
        let session = self.by_id.get_mut(&ask.id).ok_or(SessionError::NotFound)?;
        if session.epoch != ask.epoch {
            return Err(SessionError::WrongEpoch);
        }
        let names_of = |key: &Key| matches!(key.topic, TopicRef::Name(_));
        let by_name = session.entries.keys().next().is_some_and(names_of);
        let asked = ask.wanted.iter().map(|(key, _)| key).chain(&ask.forgotten);
        if asked.into_iter().any(|key| names_of(key) != by_name) {
            return Err(SessionError::MixedTopics);
        }
        if ask.wanted.iter().filter(|(key, _)| !session.entries.contains_key(key)).count() > room {
            self.drop_session(ask.id);
            mark!("a fetch session outgrows its room");
            return Err(SessionError::NotFound);
        }
        let before = session.entries.len();
        for key in &ask.forgotten {
            session.entries.remove(key);
        }
        session.want(&ask.wanted);
        session.used_at = now;
        session.epoch = session.epoch.checked_add(1).unwrap_or(1);
        assert!(session.epoch > 0, "session {} has the epoch {}", ask.id, session.epoch);
        let plan = Plan { id: ask.id, epoch: session.epoch, is_full: false, wanted: session.in_order() };
        self.partitions = self.partitions - before + session.entries.len();
        if plan.wanted.is_empty() {
            self.drop_session(ask.id);
            return Ok(Plan { id: 0, epoch: 0, is_full: true, wanted: Vec::new() });
        }
        Ok(plan)
    }

    /// Whether a session of `partitions` fits, after the longest unused one went if it must and may.
    fn make_room(&mut self, partitions: usize, now: Mono) -> bool {
        if partitions > self.limits.partitions || self.limits.sessions == 0 {
            return false;
        }
        while self.by_id.len() >= self.limits.sessions
            || self.partitions + partitions > self.limits.partitions
        {
            let oldest = self.by_id.iter().min_by_key(|(_, session)| session.used_at);
            match oldest {
                Some((id, session)) if now.since(session.used_at) >= EVICT_AFTER => {
                    let id = *id;
                    self.drop_session(id);
                    mark!("an unused fetch session gives way");
                }
                _ => return false,
            }
        }
        true
    }

    fn drop_session(&mut self, id: i32) {
        if let Some(session) = self.by_id.remove(&id) {
            assert!(self.partitions >= session.entries.len(), "{} partitions in all", self.partitions);
            self.partitions -= session.entries.len();
        }
    }

    /// A positive id that no session has.
    fn free_id(&self, random: u64) -> i32 {
        let mut id = ((random >> 1) as i32 & i32::MAX).max(1);
        while self.by_id.contains_key(&id) {
            id = id.checked_add(1).unwrap_or(1);
        }
        assert!(id > 0, "{id} is no session id");
        id
    }

    fn check(&self) {
        assert!(self.by_id.len() <= self.limits.sessions, "{} sessions", self.by_id.len());
        let most = self.limits.partitions;
        assert!(self.partitions <= most, "{} partitions in sessions, limit {most}", self.partitions);
        assert!(self.partitions >= self.by_id.len(), "{} in {}", self.partitions, self.by_id.len());
    }
}

impl Session {
    fn want(&mut self, wanted: &[(Key, Wanted)]) {
        for (key, wanted) in wanted {
            let place = self.next_place;
            match self.entries.get_mut(key) {
                Some(entry) => entry.wanted = *wanted,
                None => {
                    self.entries.insert(key.clone(), Entry { wanted: *wanted, told: None, place });
                    self.next_place += 1;
                }
            }
        }
    }

    fn in_order(&self) -> Vec<(Key, Wanted)> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(_, entry)| entry.place);
        entries.into_iter().map(|(key, entry)| (key.clone(), entry.wanted)).collect()
    }

    /// Remembers what is told; true if it is worth telling.
    fn tell(&mut self, key: &Key, told: Told) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        let moved = entry
            .told
            .is_none_or(|last| last.watermark != told.watermark || last.log_start != told.log_start);
        // What was notable is told once more when it is over, so that the client forgets it.
        let over = entry.told.is_some_and(|last| last.is_notable) && !told.is_notable;
        entry.told = Some(told);
        if told.has_records {
            entry.place = self.next_place;
            self.next_place += 1;
        }
        told.has_records || told.is_notable || moved || over
    }
}

fn mixes_topics(wanted: &[(Key, Wanted)]) -> bool {
    let names = wanted.iter().filter(|(key, _)| matches!(key.topic, TopicRef::Name(_))).count();
    names != 0 && names != wanted.len()
}

#[cfg(test)]
#[path = "fetch_session_tests.rs"]
mod tests;
