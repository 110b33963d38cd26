//! SHELL. A consumer that shares its topics with the other members of its group.
//!
//! Owns: membership, what this member owns, what is committed. Everything happens within [`GroupConsumer::poll`], which
//! is to be called more often than the session timeout: a member that stops polling is taken for dead, so that a
//! program that hangs does not keep its partitions.
//! Promises: records of a partition are handed out only while this member owns it by what it knows; commits follow
//! [`Delivery`]; partitions are given up after the commit of what was handed out; dropping a `poll` loses nothing but
//! what at-most-once may lose.
//! Leaves out: fetching (`consumer`), rebalances (`join`), the plan (`assignor`), what a member of the new protocol tells of
//! itself (`beats`).

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{Generation, Offset, PartitionId, TopicId};
use dejaq_wire::kafka::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use dejaq_wire::kafka::heartbeat::HeartbeatRequest;
use dejaq_wire::kafka::leave_group::{LeaveGroupRequest, MemberIdentity};

use super::assignor::Assignor;
use super::beats::{Beats, Heard, Person};
use super::coordinator::Coordinator;
use super::delivery::Delivery;
use super::join::{Entry, Joined, millis, partitions_of};
use super::standing::Standing;
use crate::client::admin_groups::{self, commit};
use crate::client::cluster::{Cluster, ClusterError};
use crate::client::consumer::{ConsumeError, ConsumedRecord, Consumer, ConsumerConfig, StartAt};
use crate::client::producer::core::TopicPartition;
use crate::runtime::{Mono, Runtime};

/// Shortest time between two commits of which the first failed.
const COMMIT_PAUSE: Duration = Duration::from_millis(200);

/// By which protocol a member is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// The members make the plan, and all of them stop for it, or for what moves.
    #[default]
    Classic,
    /// The coordinator makes the plan, and each member goes to its part by itself (KIP-848).
    Consumer,
}

/// Newest version of ConsumerGroupHeartbeat that this member speaks.
const BEAT_VERSION: i16 = 1;
/// Shortest time between two heartbeats of which the first was not answered, or not as hoped.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How a member behaves.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// The group.
    pub group: String,
    /// A name that outlives the process: it makes the member static, so that a restart disturbs nobody (KIP-345).
    pub instance: Option<String>,
    /// By which protocol it is a member.
    pub protocol: Protocol,
    /// After this silence the member is taken for dead. The new protocol has the coordinator's own setting for that; this
    /// is then how long the member believes in what it owns without an answer.
    pub session_timeout: Duration,
    /// How often it says that it lives; at most a third of the session timeout is wise. Of the classic protocol: in the new
    /// one the coordinator says how often.
    pub heartbeat_every: Duration,
    /// How long a rebalance waits for it.
    pub rebalance_timeout: Duration,
    /// How plans may be made, the best first; all members must share one. Of the classic protocol.
    pub assignors: Vec<Assignor>,
    /// How the coordinator shall make the plan, such as `uniform` or `range`, in the new protocol; `None` leaves it to it.
    pub server_assignor: Option<String>,
    /// When offsets are committed.
    pub delivery: Delivery,
    /// Where to begin in a partition of which the group has no offset; `None` is an error.
    pub start: Option<StartAt>,
    /// How often a leader looks whether a topic has more partitions.
    pub metadata_every: Duration,
    /// How records are fetched.
    pub consumer: ConsumerConfig,
}

impl GroupConfig {
    /// A member of `group` with Kafka's defaults.
    #[must_use]
    pub fn of(group: &str) -> GroupConfig {
        GroupConfig {
            group: group.to_owned(),
            instance: None,
            protocol: Protocol::Classic,
            session_timeout: Duration::from_secs(45),
            heartbeat_every: Duration::from_secs(3),
            rebalance_timeout: Duration::from_secs(300),
            // As the Java client: members of every kind meet in range; cooperation takes a list of nothing else.
            assignors: vec![Assignor::Range, Assignor::CooperativeSticky],
            server_assignor: None,
            delivery: Delivery::default(),
            start: Some(StartAt::End),
            metadata_every: Duration::from_secs(30),
            consumer: ConsumerConfig::default(),
        }
    }
}

/// What changed in what this member owns; told before the next poll returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebalance {
    /// These are given up; what was handed out of them is committed by the delivery's rule.
    Revoked(Vec<TopicPartition>),
    /// These belong to others already: nothing can be committed any more.
    Lost(Vec<TopicPartition>),
    /// These came in addition.
    Assigned(Vec<TopicPartition>),
}

/// Why a member cannot go on as it is.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GroupError {
    /// The brokers could not be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Records could not be read.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    /// The coordinator refuses.
    #[error("cannot {what}: {code}")]
    Refused {
        /// What was asked.
        what: String,
        /// Its answer.
        code: ErrorCode,
    },
    /// The group has no offset, and [`GroupConfig::start`] is none.
    #[error("the group has no offset in {}-{}", at.topic, at.partition)]
    NoOffset {
        /// Where.
        at: TopicPartition,
    },
    /// Members do not understand each other.
    #[error("{what}")]
    Protocol {
        /// Why.
        what: String,
    },
}

impl GroupError {
    /// What a person can do about it.
    #[must_use]
    pub fn cure(&self) -> String {
        match self {
            GroupError::Cluster(error) => error.cure(),
            GroupError::Consume(error) => error.cure(),
            GroupError::Refused { code, .. } => crate::client::advice::cure_of(*code).into(),
            GroupError::NoOffset { .. } => {
                "say where to begin, or set offsets: dejaq group reset-offsets".into()
            }
            GroupError::Protocol { .. } => "let all members of the group offer the same assignors".into(),
        }
    }
}

type Joining = Pin<Box<dyn Future<Output = Result<Option<Joined>, GroupError>> + Send>>;
type Listener = Box<dyn FnMut(&Rebalance) + Send>;

/// A member of a group. One owner; see the module.
pub struct GroupConsumer<R: Runtime> {
    cluster: Cluster<R>,
    coordinator: Coordinator<R>,
    config: GroupConfig,
    pub(super) consumer: Consumer<R>,
    topics: BTreeSet<String>,
    listener: Listener,
    id: Arc<Mutex<String>>,
    generation: Generation,
    /// A rebalance is to be gone through.
    must_join: bool,
    /// One is under way.
    joining: Option<Joining>,
    /// Topics that the plan of now was made for, if this member made it.
    counted: Option<BTreeMap<String, usize>>,
    owned: BTreeSet<TopicPartition>,
    /// Of a member of the new protocol: what it tells of itself, the ids of what it owns, and whom it was before, if the
    /// group may still count on that one.
    beats: Option<Beats>,
    ids: BTreeMap<TopicPartition, TopicId>,
    former: Option<ConsumerGroupHeartbeatRequest>,
    /// Owned, and where to begin is not known yet.
    unplaced: BTreeSet<TopicPartition>,
    /// Behind what was handed out, and behind what the user is done with (it polled again).
    handed_out: BTreeMap<TopicPartition, Offset>,
    done: BTreeMap<TopicPartition, Offset>,
    heard: Mono,
    next_heartbeat: Mono,
    next_commit: Mono,
    next_look: Mono,
}

impl<R: Runtime> std::fmt::Debug for GroupConsumer<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {:?}: {:?}", self.config.group, self.generation, self.owned)
    }
}

impl<R: Runtime> GroupConsumer<R> {
    /// A member that reads `topics`. It joins with the first poll. `listener` hears of every change of what it owns.
    #[must_use]
    pub fn subscribe(
        cluster: Cluster<R>,
        config: GroupConfig,
        topics: &[&str],
        listener: impl FnMut(&Rebalance) + Send + 'static,
    ) -> GroupConsumer<R> {
        assert!(!topics.is_empty(), "a member reads something");
        assert!(!config.assignors.is_empty(), "a member offers a way to make the plan");
        let now = cluster.runtime().now();
        let person = Person {
            group: config.group.clone(),
            instance: config.instance.clone(),
            rebalance_timeout_ms: millis(config.rebalance_timeout),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            assignor: config.server_assignor.clone(),
        };
        let beats =
            (config.protocol == Protocol::Consumer).then(|| Beats::new(person, fresh_id(cluster.runtime())));
        GroupConsumer {
            coordinator: Coordinator::new(cluster.clone(), &config.group),
            consumer: Consumer::new(cluster.clone(), config.consumer.clone()),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            listener: Box::new(listener),
            id: Arc::new(Mutex::new(beats.as_ref().map_or_else(String::new, |beats| beats.id().to_owned()))),
            beats,
            ids: BTreeMap::new(),
            former: None,
            generation: Generation::NONE,
            must_join: true,
            joining: None,
            counted: None,
            owned: BTreeSet::new(),
            unplaced: BTreeSet::new(),
            handed_out: BTreeMap::new(),
            done: BTreeMap::new(),
            heard: now,
            next_heartbeat: now,
            next_commit: now,
            next_look: now,
            cluster,
            config,
        }
    }

    /// What it owns now.
    pub fn assignment(&self) -> impl Iterator<Item = &TopicPartition> {
        self.owned.iter()
    }

    /// Its id; before it joined empty in the classic protocol, its own choice in the new one.
    #[must_use]
    pub fn id(&self) -> String {
        self.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Who it is, for a transaction that commits its offsets.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            group: self.config.group.clone(),
            member: self.id(),
            generation: self.generation,
            instance: self.config.instance.clone(),
        }
    }

    /// Reads one owned partition on from elsewhere; nothing is committed by this.
    ///
    /// # Errors
    /// [`GroupError`]: the start could not be found; the position is as it was.
    pub async fn seek(
        &mut self,
        at: &TopicPartition,
        start: StartAt,
        deadline: Mono,
    ) -> Result<Offset, GroupError> {
        let offset = self.consumer.seek(at, start, deadline).await?;
        self.handed_out.remove(at);
        self.done.remove(at);
        Ok(offset)
    }

    /// Returns the next records; none if none came within `timeout`. What the poll before handed out counts as done.
    ///
    /// # Errors
    /// [`GroupError`]; the next poll tries again.
    pub async fn poll(&mut self, timeout: Duration) -> Result<Vec<ConsumedRecord>, GroupError> {
        let runtime = self.cluster.runtime().clone();
        let deadline = runtime.now().plus(timeout);
        self.done.append(&mut self.handed_out);
        loop {
            let is_member = match self.beats {
                Some(_) => self.be_member(deadline).await?,
                None => {
                    if self.must_join && self.joining.is_none() {
                        self.enter().await;
                    }
                    self.go_through(deadline).await?
                }
            };
            if !is_member {
                return Ok(Vec::new());
            }
            self.keep_up(deadline).await?;
            if self.must_join {
                continue;
            }
            let now = runtime.now();
            let until = if self.owned.is_empty() { deadline } else { deadline.min(self.next_duty()) };
            let wait = until.min(self.next_duty()).since(now);
            let records = self.consumer.poll(wait).await?;
            if !records.is_empty() {
                return self.hand_out(records, deadline).await;
            }
            if runtime.now() >= deadline {
                return Ok(Vec::new());
            }
        }
    }

    /// Commits what the user is done with (what the poll before the last handed out), and what the last one did.
    ///
    /// # Errors
    /// [`GroupError`]: nothing may be taken for committed.
    pub async fn commit(&mut self, deadline: Mono) -> Result<(), GroupError> {
        let mut offsets = self.done.clone();
        offsets.extend(self.handed_out.clone());
        self.commit_offsets(&offsets, deadline).await
    }

    /// Commits these offsets: for each partition that of the next record to read.
    ///
    /// # Errors
    /// [`GroupError`]: nothing may be taken for committed.
    pub async fn commit_offsets(
        &mut self,
        offsets: &BTreeMap<TopicPartition, Offset>,
        deadline: Mono,
    ) -> Result<(), GroupError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let id = self.id();
        let member = (id.as_str(), self.generation, self.config.instance.as_deref());
        let result = commit(&self.cluster, &self.coordinator, member, offsets, deadline).await;
        match &result {
            Ok(()) => {
                for (at, offset) in offsets {
                    if self.done.get(at).is_some_and(|done| done <= offset) {
                        self.done.remove(at);
                    }
                }
                self.next_commit = self.cluster.runtime().now().plus(self.commit_every());
            }
            Err(GroupError::Refused { code, .. }) => self.judge(*code),
            Err(_) => {}
        }
        result
    }

    /// Begins a commit of what the user is done with, and does not wait; `told` hears how it ended.
    pub fn commit_async(&mut self, told: impl FnOnce(Result<(), GroupError>) + Send + 'static) {
        let offsets = self.done.clone();
        if offsets.is_empty() {
            return told(Ok(()));
        }
        let (cluster, coordinator, id) = (self.cluster.clone(), self.coordinator.clone(), self.id());
        let (generation, instance) = (self.generation, self.config.instance.clone());
        self.cluster.runtime().spawn("group commit", async move {
            let deadline = cluster.request_deadline(Mono(u64::MAX));
            let member = (id.as_str(), generation, instance.as_deref());
            told(commit(&cluster, &coordinator, member, &offsets, deadline).await);
        });
    }

    /// Commits by the delivery's rule, leaves the group (unless it is a static member), and ends.
    ///
    /// # Errors
    /// [`GroupError`]: the last commit did not end well; it has left all the same.
    pub async fn close(mut self, deadline: Mono) -> Result<(), GroupError> {
        self.joining = None;
        self.done.append(&mut self.handed_out);
        let last = self.commit_before_giving_up(deadline).await;
        let id = self.id();
        if let Some(beats) = &self.beats {
            let was = beats.is_member().then(|| beats.leave(true));
            for request in self.former.iter().chain(&was) {
                // One that cannot leave is missed after its session.
                let _missed = self.coordinator.ask(request, BEAT_VERSION, deadline).await;
            }
        } else if !id.is_empty() && self.config.instance.is_none() {
            let identity = MemberIdentity { member_id: id.clone(), ..Default::default() };
            let request = LeaveGroupRequest {
                group_id: self.config.group.clone(),
                member_id: id,
                members: vec![identity],
            };
            // One that cannot leave is missed after its session.
            let _missed = self.coordinator.ask(&request, i16::MAX, deadline).await;
        }
        self.coordinator.forget();
        last
    }

    /// Begins to go through a rebalance. Without cooperation everything is given up first.
    async fn enter(&mut self) {
        let cooperates = self.config.assignors.iter().all(|assignor| assignor.is_cooperative());
        if !cooperates && !self.owned.is_empty() {
            let deadline = self.cluster.request_deadline(Mono(u64::MAX));
            let _unsure = self.commit_before_giving_up(deadline).await;
            let all = std::mem::take(&mut self.owned);
            self.give_up(all, Rebalance::Revoked);
        }
        self.must_join = false;
        let entry = Entry {
            cluster: self.cluster.clone(),
            coordinator: self.coordinator.clone(),
            config: self.config.clone(),
            topics: self.topics.clone(),
            owned: self.owned.iter().cloned().collect(),
            generation: if self.owned.is_empty() { Generation::NONE } else { self.generation },
            id: self.id.clone(),
        };
        self.joining = Some(Box::pin(entry.run()));
    }

    /// Waits for a rebalance to end, until `deadline`; whether it is a member then. Nothing is handed out
    /// meanwhile: what is fetched is kept for what stays.
    async fn go_through(&mut self, deadline: Mono) -> Result<bool, GroupError> {
        let Some(joining) = &mut self.joining else { return Ok(true) };
        let Some(result) = self.cluster.runtime().before(deadline, joining).await else { return Ok(false) };
        self.joining = None;
        let joined = match result {
            Ok(Some(joined)) => joined,
            Ok(None) => {
                self.lose();
                return Ok(false);
            }
            Err(error) => {
                self.must_join = true;
                return Err(error);
            }
        };
        self.take_part(joined).await;
        Ok(true)
    }

    async fn take_part(&mut self, joined: Joined) {
        let now = self.cluster.runtime().now();
        self.generation = joined.generation;
        self.counted = joined.counted;
        (self.heard, self.next_heartbeat) = (now, now.plus(self.config.heartbeat_every));
        self.next_look = now.plus(self.config.metadata_every);
        let part: BTreeSet<TopicPartition> = joined.part.into_iter().collect();
        let gone: BTreeSet<TopicPartition> = self.owned.difference(&part).cloned().collect();
        if self.own(gone, part).await {
            // Whoever gets them waits for us to say so.
            self.must_join = joined.assignor.is_cooperative();
        }
    }

    /// Gives up what is `gone`, behind the commit of what was handed out of it, and takes what is new in `part`; whether
    /// anything was given up.
    async fn own(&mut self, gone: BTreeSet<TopicPartition>, part: BTreeSet<TopicPartition>) -> bool {
        let gives_up = !gone.is_empty();
        if gives_up {
            let deadline = self.cluster.request_deadline(Mono(u64::MAX));
            let _unsure = self.commit_before_giving_up(deadline).await;
            self.give_up(gone, Rebalance::Revoked);
        }
        let fresh: Vec<TopicPartition> = part.difference(&self.owned).cloned().collect();
        if !fresh.is_empty() {
            self.unplaced.extend(fresh.iter().cloned());
            self.owned.extend(fresh.iter().cloned());
            (self.listener)(&Rebalance::Assigned(fresh));
        }
        gives_up
    }

    /// Tells of itself until it is a member of the new protocol, until `deadline`; whether it is one then.
    async fn be_member(&mut self, deadline: Mono) -> Result<bool, GroupError> {
        let runtime = self.cluster.runtime().clone();
        while self.must_join {
            let now = runtime.now();
            if now >= self.next_heartbeat {
                self.beat().await?;
            } else if now >= deadline {
                return Ok(false);
            } else {
                runtime.sleep_until(self.next_heartbeat.min(deadline)).await;
            }
        }
        Ok(true)
    }

    /// A heartbeat of the new protocol, and what follows from its answer.
    async fn beat(&mut self) -> Result<(), GroupError> {
        let runtime = self.cluster.runtime().clone();
        let due = runtime.now().plus(self.config.session_timeout / 3);
        if let Some(former) = self.former.take() {
            // If that one cannot leave it is missed after its session.
            let _missed = self.coordinator.ask(&former, BEAT_VERSION, due).await;
        }
        let owned = self.ids.iter().map(|(at, id)| (*id, at.partition)).collect();
        let request = self.beats_mut().request(owned);
        let answer = self.coordinator.ask(&request, BEAT_VERSION, due).await;
        let now = runtime.now();
        self.next_heartbeat = now.plus(RETRY_PAUSE);
        let heard = match answer {
            Ok(answer) => self.beats_mut().take(&answer),
            Err(error) if error.is_transient() => Heard::Later(ErrorCode::NONE),
            Err(error) => return Err(error.into()),
        };
        match heard {
            Heard::Well => {
                self.heard = now;
                self.must_join = false;
                let beats = self.beats_mut();
                let (id, epoch, interval) = (beats.id().to_owned(), beats.epoch(), beats.interval());
                *self.id.lock().unwrap_or_else(PoisonError::into_inner) = id;
                self.generation = epoch;
                self.next_heartbeat = now.plus(interval.max(RETRY_PAUSE));
                return self.follow().await;
            }
            Heard::Later(code) => {
                self.coordinator.is_elsewhere(code);
            }
            Heard::Out => self.lose(),
            Heard::Refused(code) => {
                return Err(GroupError::Refused { what: "be a member of the group".into(), code });
            }
        }
        if !self.must_join && now.since(self.heard) >= self.config.session_timeout {
            self.lose(); // nobody answered for so long that others may read what we own
        }
        Ok(())
    }

    /// Goes to where the coordinator wants it: gives up first, says so at once, and takes what is new.
    async fn follow(&mut self) -> Result<(), GroupError> {
        let target = self.beats_mut().target().clone();
        let is_unknown = |cluster: &Cluster<R>| {
            cluster.with_routes(|routes| target.iter().any(|(id, _)| routes.name_of(*id).is_none()))
        };
        if is_unknown(&self.cluster) {
            self.topics.iter().try_for_each(|topic| self.cluster.watch(topic))?;
            let seen = self.cluster.with_routes(|routes| routes.generation);
            let due = self.cluster.request_deadline(Mono(u64::MAX));
            match self.cluster.refresh(seen, due).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error.into()),
            }
        }
        // A topic that is too new for whom we asked is taken with a later heartbeat.
        let part: BTreeMap<TopicPartition, TopicId> = self.cluster.with_routes(|routes| {
            let named = |(id, partition): &(TopicId, PartitionId)| {
                let topic = routes.name_of(*id)?;
                Some((TopicPartition { topic, partition: *partition }, *id))
            };
            target.iter().filter_map(named).collect()
        });
        let gone: BTreeSet<TopicPartition> =
            self.owned.iter().filter(|at| part.get(at) != self.ids.get(at)).cloned().collect();
        let gave_up = self.own(gone, part.keys().cloned().collect()).await;
        if self.must_join {
            return Ok(()); // the last commit said that it is out
        }
        self.ids = part;
        if gave_up {
            self.next_heartbeat = self.cluster.runtime().now(); // whoever gets them waits for us to say so
        }
        Ok(())
    }

    fn beats_mut(&mut self) -> &mut Beats {
        self.beats.as_mut().expect("a member of the new protocol has heartbeats of its kind")
    }

    fn give_up(&mut self, gone: BTreeSet<TopicPartition>, how: fn(Vec<TopicPartition>) -> Rebalance) {
        if gone.is_empty() {
            return;
        }
        self.consumer.remove(&gone);
        for at in &gone {
            self.owned.remove(at);
            self.ids.remove(at);
            self.unplaced.remove(at);
            self.handed_out.remove(at);
            self.done.remove(at);
        }
        (self.listener)(&how(gone.into_iter().collect()));
    }

    /// Everything that is due: heartbeat, positions, commit, a look at the topics.
    async fn keep_up(&mut self, deadline: Mono) -> Result<(), GroupError> {
        let runtime = self.cluster.runtime().clone();
        if !self.unplaced.is_empty() {
            self.place(deadline).await?;
        }
        if runtime.now() >= self.next_heartbeat {
            match self.beats {
                Some(_) => self.beat().await?,
                None => self.heartbeat().await?,
            }
        }
        if matches!(self.config.delivery, Delivery::AtLeastOnce { .. }) && runtime.now() >= self.next_commit {
            let done = self.done.clone();
            let due = self.cluster.request_deadline(Mono(u64::MAX));
            match self.commit_offsets(&done, due).await {
                // It is tried again; what it means for membership was noted.
                Ok(()) | Err(GroupError::Refused { .. }) => {}
                Err(GroupError::Cluster(error)) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
            // One that failed is not tried again at once.
            let pause = if self.done.is_empty() { Duration::ZERO } else { COMMIT_PAUSE };
            self.next_commit = runtime.now().plus(self.commit_every().max(pause));
        }
        if runtime.now() >= self.next_look {
            self.look_at_topics().await;
        }
        Ok(())
    }

    /// When something is due.
    fn next_duty(&self) -> Mono {
        let commit = match self.config.delivery {
            Delivery::AtLeastOnce { .. } if !self.done.is_empty() => self.next_commit,
            _ => Mono(u64::MAX),
        };
        self.next_heartbeat.min(commit).min(self.next_look)
    }

    fn commit_every(&self) -> Duration {
        match self.config.delivery {
            Delivery::AtLeastOnce { every } => every,
            Delivery::AtMostOnce | Delivery::Manual => Duration::ZERO,
        }
    }

    /// Finds where to begin in what came.
    async fn place(&mut self, deadline: Mono) -> Result<(), GroupError> {
        // However short the poll: an answer is worth nothing if it is dropped each time.
        let due = self.cluster.request_deadline(deadline.plus(Duration::from_secs(5)));
        let isolation = self.config.consumer.isolation;
        let wanted = Some(&self.unplaced);
        let kept = match admin_groups::read(&self.cluster, &self.coordinator, wanted, isolation, due).await {
            // The next poll asks again, and the heartbeats tell if the membership is over meanwhile.
            Err(error) if self.coordinator.may_answer_later(&error) => return Ok(()),
            kept => kept?,
        };
        let mut starts = BTreeMap::new();
        for at in &self.unplaced {
            let start = match kept.get(at) {
                Some(offset) => StartAt::Offset(offset.offset),
                None => self.config.start.ok_or_else(|| GroupError::NoOffset { at: at.clone() })?,
            };
            starts.insert(at.clone(), start);
        }
        self.consumer.add(&starts, due).await?;
        self.unplaced.clear();
        Ok(())
    }

    async fn heartbeat(&mut self) -> Result<(), GroupError> {
        let request = HeartbeatRequest {
            group_id: self.config.group.clone(),
            generation_id: self.generation,
            member_id: self.id(),
            group_instance_id: self.config.instance.clone(),
        };
        let runtime = self.cluster.runtime().clone();
        let due = runtime.now().plus(self.config.session_timeout / 3);
        let answer = self.coordinator.ask(&request, i16::MAX, due).await;
        let now = runtime.now();
        self.next_heartbeat = now.plus(self.config.heartbeat_every);
        match answer.map(|answer| answer.error_code) {
            Ok(ErrorCode::NONE) => self.heard = now,
            Ok(code) => self.judge(code),
            Err(error) if error.is_transient() => {
                self.next_heartbeat = now.plus(self.config.heartbeat_every / 4);
            }
            Err(error) => return Err(error.into()),
        }
        if now.since(self.heard) >= self.config.session_timeout {
            // Nobody answered for so long that others read what we own.
            self.lose();
        }
        Ok(())
    }

    /// What an answer of the coordinator means for membership.
    fn judge(&mut self, code: ErrorCode) {
        if self.coordinator.is_elsewhere(code) {
            return;
        }
        match code {
            ErrorCode::STALE_MEMBER_EPOCH => {
                // It has another epoch, and did not hear of it.
                self.beats.iter_mut().for_each(Beats::doubt);
                self.next_heartbeat = self.cluster.runtime().now();
            }
            ErrorCode::REBALANCE_IN_PROGRESS => self.must_join = true,
            ErrorCode::UNKNOWN_MEMBER_ID => {
                self.id.lock().unwrap_or_else(PoisonError::into_inner).clear();
                self.lose();
            }
            ErrorCode::ILLEGAL_GENERATION | ErrorCode::FENCED_INSTANCE_ID => self.lose(),
            _ => {}
        }
    }

    fn lose(&mut self) {
        self.must_join = true;
        self.generation = Generation::NONE;
        if let Some(beats) = &mut self.beats {
            let runtime = self.cluster.runtime();
            self.former = beats.is_member().then(|| beats.leave(false));
            beats.begin_anew(fresh_id(runtime));
            *self.id.lock().unwrap_or_else(PoisonError::into_inner) = beats.id().to_owned();
            self.next_heartbeat = runtime.now();
        }
        let all = std::mem::take(&mut self.owned);
        self.give_up(all, Rebalance::Lost);
    }

    /// The leader of the group looks whether its plan still covers the topics (S53).
    async fn look_at_topics(&mut self) {
        let now = self.cluster.runtime().now();
        self.next_look = now.plus(self.config.metadata_every);
        let Some(counted) = &self.counted else { return };
        let due = self.cluster.request_deadline(now.plus(self.config.session_timeout / 3));
        for topic in self.topics.iter().chain(counted.keys()) {
            if let Ok(count) = partitions_of(&self.cluster, topic, due).await
                && count != counted.get(topic).copied()
            {
                self.must_join = true;
                return;
            }
        }
    }

    async fn hand_out(
        &mut self,
        records: Vec<ConsumedRecord>,
        deadline: Mono,
    ) -> Result<Vec<ConsumedRecord>, GroupError> {
        let behind: BTreeMap<TopicPartition, Offset> =
            records.iter().map(|record| (record.at.clone(), record.offset.next())).collect();
        if self.config.delivery == Delivery::AtMostOnce {
            let due = self.cluster.request_deadline(deadline.plus(self.config.session_timeout));
            // Without a commit nobody may see them: whoever reads on begins where the last good commit stands.
            if let Err(error) = self.commit_offsets(&behind, due).await {
                self.lose();
                return Err(error);
            }
            return Ok(records);
        }
        self.handed_out.extend(behind);
        Ok(records)
    }

    async fn commit_before_giving_up(&mut self, deadline: Mono) -> Result<(), GroupError> {
        if !matches!(self.config.delivery, Delivery::AtLeastOnce { .. }) {
            return Ok(());
        }
        let done = self.done.clone();
        self.commit_offsets(&done, deadline).await
    }
}

/// An id that nobody else has.
fn fresh_id<R: Runtime>(runtime: &R) -> String {
    format!("{:016x}{:016x}", runtime.random_u64(), runtime.random_u64())
}
