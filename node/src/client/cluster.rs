//! The client's view of a cluster: connections to brokers, and who leads what.
//!
//! Owns: the bootstrap list, one connection per broker, the metadata cache and its refresh.
//! Promises: one attempt to connect to a broker at a time, with backoff; one metadata request at a time, and whoever
//! saw the same stale picture shares its answer; every wait ends at the caller's deadline.
//! Leaves out: what is sent (`producer`, `consumer`, `admin`).
//!
//! ```text
//!   bootstrap ─► any broker ─► metadata ─► Routes ─► leader of (topic, partition) ─► its connection
//!                    ▲                        │ NOT_LEADER, connection lost …
//!                    └──────── refresh ◄──────┘
//! ```
//! SHELL. Two short mutexes; the permits that serialise connecting and refreshing are queues, not locks around state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{BrokerId, LeaderEpoch, PartitionId};
use dejaq_wire::kafka::Request;
use dejaq_wire::kafka::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use dejaq_wire::topic_name::{InvalidTopicName, validate_topic_name};
use tokio::sync::Semaphore;

use super::connection::{Connection, ConnectionConfig, RequestError};
use super::outcome::Verdict;
use super::retry::RetryPolicy;
use super::routes::{Routes, TopicRoute};
use crate::runtime::{Mono, Runtime};

/// Topics that one client may use at a time; a bound on its memory, far above what one process needs.
pub const MAX_TOPICS: usize = 10_000;

/// How a client reaches its cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Where to begin, each as `host:port`; the cluster names the others.
    pub bootstrap: Vec<String>,
    /// How connections behave.
    pub connection: ConnectionConfig,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long one request may stay unanswered.
    pub request_timeout: Duration,
    /// When to try again.
    pub retry: RetryPolicy,
    /// Whether a broker may create a topic that a producer or consumer asks for.
    pub allow_auto_create: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            bootstrap: vec!["127.0.0.1:9092".into()],
            connection: ConnectionConfig::default(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            allow_auto_create: true,
        }
    }
}

/// Why no broker could be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClusterError {
    /// No broker answered before the deadline.
    #[error("no broker could be reached: {tried}")]
    Unreachable {
        /// The last try of each address, in words.
        tried: String,
    },
    /// A broker is connected, and did not answer before the deadline.
    #[error("{address} is connected, but gave {error}")]
    Unanswered {
        /// The broker's.
        address: Arc<str>,
        /// How long it had.
        error: RequestError,
    },
    /// A broker speaks no version of an API that we speak.
    #[error(transparent)]
    Request(RequestError),
    /// The topic does not exist, and did not come into being while we waited.
    #[error("topic {topic} does not exist")]
    UnknownTopic {
        /// Its name.
        topic: String,
    },
    /// The name can be no topic's.
    #[error("{topic:?} is no topic name: {reason}")]
    InvalidTopic {
        /// The name.
        topic: String,
        /// The rule that it breaks.
        reason: InvalidTopicName,
    },
    /// The cluster refuses to show the topic.
    #[error("topic {topic}: {code}")]
    Topic {
        /// Its name.
        topic: String,
        /// Why.
        code: ErrorCode,
    },
    /// The topic has no such partition.
    #[error("topic {topic} has partitions 0 to {last}, not {partition}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// What was asked for.
        partition: PartitionId,
        /// The last partition that it has.
        last: i32,
    },
    /// The partition had no leader until the deadline.
    #[error("partition {partition} of topic {topic} has no leader")]
    NoLeader {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionId,
    },
    /// This client uses [`MAX_TOPICS`] topics already.
    #[error("one client may use {MAX_TOPICS} topics at a time")]
    TooManyTopics,
}

impl ClusterError {
    /// Whether another broker, or another moment, may do better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            ClusterError::Unreachable { .. } | ClusterError::Unanswered { .. } => true,
            ClusterError::Request(error) => error.is_transient(),
            ClusterError::UnknownTopic { .. }
            | ClusterError::InvalidTopic { .. }
            | ClusterError::Topic { .. }
            | ClusterError::UnknownPartition { .. }
            | ClusterError::NoLeader { .. }
            | ClusterError::TooManyTopics => false,
        }
    }

    /// Whether a broker may have acted on what was asked.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            ClusterError::Request(error) => error.verdict(),
            _ => Verdict::DefiniteNo,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn cure(&self) -> String {
        match self {
            ClusterError::Unreachable { .. } => {
                "check that the broker runs and that --bootstrap (or DEJAQ_BOOTSTRAP) names its address"
                    .into()
            }
            ClusterError::Unanswered { .. } => {
                "give it longer (--timeout-s); if that does not help, see whether the cluster has a controller: dejaq quorum \
                 status"
                    .into()
            }
            ClusterError::Request(RequestError::Unsupported(_)) => {
                "use a client and a broker of closer versions".into()
            }
            ClusterError::Request(_) => "try again; the broker's log may say more".into(),
            ClusterError::UnknownTopic { topic } => format!("create it: dejaq topic create {topic}"),
            ClusterError::InvalidTopic { .. } => "use letters, digits, '.', '_' and '-', at most 249".into(),
            ClusterError::Topic { code, .. } => super::advice::cure_of(*code).into(),
            ClusterError::UnknownPartition { topic, .. } => {
                format!("see its partitions: dejaq topic describe {topic}")
            }
            ClusterError::NoLeader { topic, .. } => {
                format!("see which replicas are down: dejaq topic describe {topic}")
            }
            ClusterError::TooManyTopics => "use several clients".into(),
        }
    }
}

/// The connection to one address, and the queue of those who want it opened.
struct Dial<R: Runtime> {
    state: Mutex<DialState<R>>,
    /// One permit: who holds it opens the connection.
    opening: Semaphore,
}

struct DialState<R: Runtime> {
    live: Option<Connection<R>>,
    /// Attempts that failed since the last success.
    failed: u32,
    /// Before this no further attempt is made.
    not_before: Mono,
}

#[derive(Default)]
struct Picture {
    routes: Routes,
    /// Topics in use: what a refresh asks for; at most [`MAX_TOPICS`].
    interest: BTreeSet<Arc<str>>,
}

struct Inner<R: Runtime> {
    runtime: R,
    config: ClusterConfig,
    picture: Mutex<Picture>,
    dials: Mutex<BTreeMap<Arc<str>, Arc<Dial<R>>>>,
    /// One permit: who holds it asks for metadata.
    refreshing: Semaphore,
}

/// A cluster as a client sees it. Cheap to clone; clones share connections and metadata.
#[derive(Clone)]
pub struct Cluster<R: Runtime>(Arc<Inner<R>>);

impl<R: Runtime> std::fmt::Debug for Cluster<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({:?})", self.0.config.bootstrap)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: Runtime> Cluster<R> {
    /// A view of the cluster that `config` names. Nothing is sent until something is asked for.
    #[must_use]
    pub fn new(runtime: R, config: ClusterConfig) -> Cluster<R> {
        assert!(!config.bootstrap.is_empty(), "a client needs one address to begin with");
        Cluster(Arc::new(Inner {
            runtime,
            config,
            picture: Mutex::default(),
            dials: Mutex::default(),
            refreshing: Semaphore::new(1),
        }))
    }

    /// The world that this client runs in.
    #[must_use]
    pub fn runtime(&self) -> &R {
        &self.0.runtime
    }

    /// How this client reaches its cluster.
    #[must_use]
    pub fn config(&self) -> &ClusterConfig {
        &self.0.config
    }

    /// Looks at what is known now; short, never waits.
    pub fn with_routes<T>(&self, look: impl FnOnce(&Routes) -> T) -> T {
        look(&lock(&self.0.picture).routes)
    }

    /// When a request that is sent now must be answered: after the request timeout, at `deadline` at the latest.
    #[must_use]
    pub fn request_deadline(&self, deadline: Mono) -> Mono {
        self.0.runtime.now().plus(self.0.config.request_timeout).min(deadline)
    }

    /// The topic with its partitions, from the cache or from a broker.
    ///
    /// Waits until `deadline` for a topic that does not exist or is being created.
    ///
    /// # Errors
    /// [`ClusterError`]; each knows a cure.
    pub async fn topic(&self, name: &str, deadline: Mono) -> Result<Arc<TopicRoute>, ClusterError> {
        self.watch(name)?;
        let mut rounds = 0;
        loop {
            let (seen, known) = self.with_routes(|routes| (routes.generation, routes.topic(name)));
            match known {
                Some(Ok(topic)) => return Ok(topic),
                Some(Err(code)) if !code.is_retriable() => {
                    return Err(ClusterError::Topic { topic: name.into(), code });
                }
                Some(Err(code)) if rounds > 0 && !self.pause(rounds, deadline).await => {
                    return Err(missing(name, code));
                }
                Some(Err(_)) | None => {}
            }
            rounds += 1;
            self.refresh(seen, deadline).await?;
        }
    }

    /// The leader of a partition, its epoch and a connection to it.
    ///
    /// # Errors
    /// [`ClusterError::UnknownPartition`], [`ClusterError::NoLeader`] when there was none until `deadline`, and all
    /// that [`Cluster::topic`] can fail with.
    pub async fn leader(
        &self,
        topic: &str,
        partition: PartitionId,
        deadline: Mono,
    ) -> Result<(Connection<R>, LeaderEpoch), ClusterError> {
        let mut rounds = 0;
        loop {
            let route = self.topic(topic, deadline).await?;
            if route.partition(partition).is_none() {
                let last = route.partitions.len() as i32 - 1;
                return Err(ClusterError::UnknownPartition { topic: topic.into(), partition, last });
            }
            let (seen, leader) = self.with_routes(|r| (r.generation, r.leader(topic, partition)));
            let failure = match leader {
                None => ClusterError::NoLeader { topic: topic.into(), partition },
                Some((broker, epoch)) => match self.broker(broker, deadline).await {
                    Ok(connection) => return Ok((connection, epoch)),
                    Err(error) => error,
                },
            };
            rounds += 1;
            if !self.pause(rounds, deadline).await {
                return Err(failure);
            }
            self.refresh(seen, deadline).await?;
        }
    }

    /// Counts `name` among the topics that a refresh asks for.
    ///
    /// # Errors
    /// [`ClusterError::InvalidTopic`], [`ClusterError::TooManyTopics`].
    pub fn watch(&self, name: &str) -> Result<(), ClusterError> {
        validate_topic_name(name)
            .map_err(|reason| ClusterError::InvalidTopic { topic: name.into(), reason })?;
        let mut picture = lock(&self.0.picture);
        if picture.interest.len() >= MAX_TOPICS && !picture.interest.contains(name) {
            return Err(ClusterError::TooManyTopics);
        }
        picture.interest.insert(name.into());
        Ok(())
    }

    /// Forgets what is known of a topic, so that the next look asks for it.
    pub fn forget(&self, name: &str) {
        lock(&self.0.picture).routes.retain(|known| known != name);
    }

    /// Forgets a topic and asks for it no more: a refresh must not create again what was deleted.
    pub fn unwatch(&self, name: &str) {
        lock(&self.0.picture).interest.remove(name);
        self.forget(name);
    }

    /// Asks for metadata, unless someone did since the picture had the generation `seen`.
    ///
    /// # Errors
    /// [`ClusterError::Unreachable`] when no broker answered before `deadline`.
    pub async fn refresh(&self, seen: u64, deadline: Mono) -> Result<(), ClusterError> {
        let Some(turn) = self.0.runtime.before(deadline, self.0.refreshing.acquire()).await else {
            return Err(ClusterError::Unreachable { tried: "metadata was not answered in time".into() });
        };
        let _turn = turn.expect("the semaphore is never closed");
        let (generation, names): (u64, Vec<_>) = {
            let picture = lock(&self.0.picture);
            (picture.routes.generation, picture.interest.iter().cloned().collect())
        };
        if generation > seen {
            return Ok(());
        }
        let topic =
            |name: &Arc<str>| MetadataRequestTopic { name: Some(name.to_string()), ..Default::default() };
        let request = MetadataRequest {
            topics: Some(names.iter().map(topic).collect()),
            allow_auto_topic_creation: self.0.config.allow_auto_create,
            ..Default::default()
        };
        let answer: MetadataResponse = self.ask_any(&request, deadline).await?;
        let mut picture = lock(&self.0.picture);
        picture.routes.apply(&answer);
        let addresses: BTreeSet<_> = picture.routes.brokers().map(|b| b.address.clone()).collect();
        drop(picture);
        let bootstrap = &self.0.config.bootstrap;
        lock(&self.0.dials).retain(|a, _| addresses.contains(a) || bootstrap.iter().any(|b| **b == **a));
        Ok(())
    }

    /// Sends a request that changes nothing to any broker, again and again until one answers or `deadline` comes.
    ///
    /// # Errors
    /// [`ClusterError::Unreachable`], [`ClusterError::Unanswered`], or [`ClusterError::Request`] for what no repetition
    /// cures.
    pub async fn ask_any<Q: Request>(
        &self,
        request: &Q,
        deadline: Mono,
    ) -> Result<Q::Response, ClusterError> {
        let mut rounds = 0;
        loop {
            let connection = self.any(deadline).await?;
            match connection.call(request, self.request_deadline(deadline)).await {
                Ok(answer) => return Ok(answer),
                Err(error) if !error.is_transient() => return Err(ClusterError::Request(error)),
                Err(error) => {
                    rounds += 1;
                    if !self.pause(rounds, deadline).await {
                        return Err(unanswered(connection.address(), error));
                    }
                }
            }
        }
    }

    /// A connection to some broker: an open one if there is one.
    ///
    /// # Errors
    /// [`ClusterError::Unreachable`] when none could be opened before `deadline`.
    pub async fn any(&self, deadline: Mono) -> Result<Connection<R>, ClusterError> {
        let mut rounds = 0;
        let mut tried: BTreeMap<Arc<str>, String> = BTreeMap::new();
        loop {
            let addresses = self.candidates();
            for address in &addresses {
                if let Some(live) = self.live_at(address) {
                    return Ok(live);
                }
            }
            for address in addresses {
                match self.connect(&address, deadline).await {
                    Ok(connection) => return Ok(connection),
                    Err(error @ RequestError::Unsupported(_)) => return Err(ClusterError::Request(error)),
                    Err(error) => tried.insert(address, error.to_string()),
                };
            }
            rounds += 1;
            if !self.pause(rounds, deadline).await {
                let tried: Vec<_> = tried.into_values().collect();
                return Err(ClusterError::Unreachable { tried: tried.join("; ") });
            }
        }
    }

    /// The connection to a broker, opened if need be.
    ///
    /// # Errors
    /// [`ClusterError::Unreachable`] when one attempt failed, or the broker is not known.
    pub async fn broker(&self, id: BrokerId, deadline: Mono) -> Result<Connection<R>, ClusterError> {
        let Some(address) = self.with_routes(|routes| routes.broker(id).map(|b| b.address.clone())) else {
            return Err(ClusterError::Unreachable { tried: format!("broker {id} is not known") });
        };
        self.connect(&address, deadline)
            .await
            .map_err(|error| ClusterError::Unreachable { tried: error.to_string() })
    }

    /// The connection to a broker if it is open now.
    #[must_use]
    pub fn live(&self, id: BrokerId) -> Option<Connection<R>> {
        let address = self.with_routes(|routes| routes.broker(id).map(|b| b.address.clone()))?;
        self.live_at(&address)
    }

    /// Sleeps as long as `rounds` failures ask for; `false`, at once, if that would pass `deadline`.
    pub async fn pause(&self, rounds: u32, deadline: Mono) -> bool {
        let runtime = &self.0.runtime;
        let Some(delay) = self.0.config.retry.delay(rounds, runtime.random_u64()) else { return false };
        let until = runtime.now().plus(delay);
        if until >= deadline {
            return false;
        }
        runtime.sleep_until(until).await;
        true
    }

    fn live_at(&self, address: &str) -> Option<Connection<R>> {
        let dial = lock(&self.0.dials).get(address).cloned()?;
        let mut state = lock(&dial.state);
        state.live.take_if(|live| live.is_closed());
        state.live.clone()
    }

    /// Every address that may answer: known brokers, then the bootstrap list, each begun at a random place.
    fn candidates(&self) -> Vec<Arc<str>> {
        let mut known: Vec<_> =
            self.with_routes(|routes| routes.brokers().map(|b| b.address.clone()).collect());
        let mut bootstrap: Vec<Arc<str>> =
            self.0.config.bootstrap.iter().map(|address| address.as_str().into()).collect();
        for list in [&mut known, &mut bootstrap] {
            if !list.is_empty() {
                let shift = self.0.runtime.random_u64() % list.len() as u64;
                list.rotate_left(shift as usize);
            }
        }
        bootstrap.retain(|address| !known.contains(address));
        known.extend(bootstrap);
        known
    }

    /// One attempt to have a connection to `address`; shared by all who want it now.
    async fn connect(&self, address: &Arc<str>, deadline: Mono) -> Result<Connection<R>, RequestError> {
        let runtime = &self.0.runtime;
        let dial = {
            let mut dials = lock(&self.0.dials);
            let fresh = || {
                let state = DialState { live: None, failed: 0, not_before: Mono(0) };
                Arc::new(Dial { state: Mutex::new(state), opening: Semaphore::new(1) })
            };
            dials.entry(address.clone()).or_insert_with(fresh).clone()
        };
        let late = || RequestError::NotSent(format!("{address} was not connected in time").into());
        let turn = runtime.before(deadline, dial.opening.acquire()).await.ok_or_else(late)?;
        let _turn = turn.expect("the semaphore is never closed");
        if let Some(live) = self.live_at(address) {
            return Ok(live);
        }
        let not_before = lock(&dial.state).not_before;
        if not_before >= deadline {
            return Err(late());
        }
        runtime.sleep_until(not_before).await;
        let give_up = runtime.now().plus(self.0.config.connect_timeout).min(deadline);
        let opened = Connection::open(runtime.clone(), address, &self.0.config.connection, give_up).await;
        let mut state = lock(&dial.state);
        match &opened {
            Ok(connection) => {
                *state = DialState { live: Some(connection.clone()), failed: 0, not_before: Mono(0) };
            }
            Err(_) => {
                state.failed = state.failed.saturating_add(1);
                let delay = self.0.config.retry.delay(state.failed, runtime.random_u64());
                state.not_before = runtime.now().plus(delay.unwrap_or(self.0.config.retry.max_backoff));
            }
        }
        opened
    }
}

/// What the last try of a request says: that a broker is there is worth more than that it was late.
fn unanswered(address: &str, error: RequestError) -> ClusterError {
    match error {
        RequestError::TimedOut(_) => ClusterError::Unanswered { address: address.into(), error },
        _ => ClusterError::Unreachable { tried: format!("{address}: {error}") },
    }
}

fn missing(topic: &str, code: ErrorCode) -> ClusterError {
    let topic = topic.into();
    match code {
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID => {
            ClusterError::UnknownTopic { topic }
        }
        _ => ClusterError::Topic { topic, code },
    }
}
