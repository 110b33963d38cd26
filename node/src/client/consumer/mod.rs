//! Reads records of partitions that its user assigned.
//!
//! Owns: the assignment, the position of each partition, one fetch under way per broker with its session.
//! Promises: records of a partition come in offset order, each once, from the position on; nothing that fails its
//! checksum is handed out; memory stays within one answer per broker; dropping a `poll` loses nothing; with
//! [`Isolation::ReadCommitted`] nothing of a transaction that is open or aborted is handed out.
//! Leaves out: groups and commits; the positions are the user's to keep.
//!
//! ```text
//!   assign ─► positions ─► poll ─┬─► buffered records ─► user
//!                ▲               └─► fetch task per broker (long poll) ─► answer ─► buffers
//!                └─ OFFSET_OUT_OF_RANGE: earliest | latest | error
//! ```
//! SHELL, with one owner (`&mut self`); `buffer` and `session` are pure.

pub mod buffer;
pub mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dejaq_wire::api::ApiKey;
use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset, PartitionId, TopicId};
use dejaq_wire::kafka::fetch::{FetchRequest, FetchResponse, PartitionData};
use dejaq_wire::record::record::Headers;
use tokio::sync::mpsc;

use self::buffer::{Buffer, Damage};
use self::session::{Ask, Key, Session};
use super::cluster::{Cluster, ClusterError};
use super::connection::RequestError;
pub use super::offsets::Isolation;
use super::offsets::{self, OffsetSpec, OffsetsError};
use super::producer::core::TopicPartition;
use super::retry::RetryPolicy;
use crate::runtime::{Mono, Runtime};

/// First version of Fetch that names topics by id.
const FIRST_ID_VERSION: i16 = 13;
/// Answers that wait for the consumer; each broker has one fetch under way, so this many brokers never wait.
const ANSWERS: usize = 64;
/// Metadata answers in a row that deny a topic before its reader is told.
const UNKNOWN_TOPIC_ROUNDS: u32 = 5;

/// What to do where the position is not held by the partition (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfRange {
    /// Go on with the first record that there is: what retention took is skipped.
    Earliest,
    /// Go on with the next new record: everything in between is skipped.
    Latest,
    /// Tell the user.
    Error,
}

/// How a consumer behaves.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// Which records of transactions are handed out.
    pub isolation: Isolation,
    /// How long a broker may hold a fetch until `min_bytes` are there.
    pub max_wait: Duration,
    /// Bytes that are worth an answer before `max_wait`.
    pub min_bytes: i32,
    /// Bytes in one answer, unless one batch alone is larger.
    pub max_bytes: i32,
    /// Bytes of one partition in one answer, unless one batch alone is larger.
    pub partition_max_bytes: i32,
    /// Records that one poll returns, at most.
    pub max_poll_records: usize,
    /// Bytes that one batch may decompress to; a larger one counts as damaged.
    pub decompressed_limit: usize,
    /// What to do where the position is not held.
    pub out_of_range: OutOfRange,
    /// Where this client stands, for brokers that let it read nearby.
    pub rack: String,
    /// When to try again after an error.
    pub retry: RetryPolicy,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        ConsumerConfig {
            isolation: Isolation::default(),
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 50 << 20,
            partition_max_bytes: 1 << 20,
            max_poll_records: 500,
            decompressed_limit: 256 << 20,
            out_of_range: OutOfRange::Error,
            rack: String::new(),
            retry: RetryPolicy::default(),
        }
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// With the first record that the partition holds.
    Beginning,
    /// With the next new record.
    End,
    /// With this offset.
    Offset(Offset),
    /// With the first record whose timestamp is at least this, in ms since 1970; at the end if none is.
    Timestamp(i64),
}

/// A record as it was stored.
#[derive(Debug, Clone)]
pub struct ConsumedRecord {
    /// Where it lies.
    pub at: TopicPartition,
    /// Its offset there.
    pub offset: Offset,
    /// The epoch of the leader that stored it.
    pub leader_epoch: LeaderEpoch,
    /// Its time in ms since 1970.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` deletes the key in a compacted topic.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Headers,
}

/// Why a partition cannot be read on. The position stays where it is until the user seeks.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConsumeError {
    /// The partition or its leader could not be found.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A position could not be found.
    #[error(transparent)]
    Offsets(#[from] OffsetsError),
    /// The partition does not hold the position, and [`OutOfRange::Error`] is set.
    #[error("{}-{} does not hold offset {offset}{}", at.topic, at.partition, held(*start, *end))]
    OutOfRange {
        /// Which partition.
        at: TopicPartition,
        /// What was asked for.
        offset: Offset,
        /// The first offset that it holds ([`Offset::NONE`] where the broker does not tell).
        start: Offset,
        /// The offset behind the last one, likewise.
        end: Offset,
    },
    /// What came is damaged; nothing of it was handed out.
    #[error("{}-{}: {damage}", at.topic, at.partition)]
    Damaged {
        /// Which partition.
        at: TopicPartition,
        /// What is wrong where.
        damage: Damage,
    },
    /// The broker refuses.
    #[error("{}-{} at offset {offset}: {code}", at.topic, at.partition)]
    Refused {
        /// Which partition.
        at: TopicPartition,
        /// The position.
        offset: Offset,
        /// Its answer.
        code: ErrorCode,
    },
}

impl ConsumeError {
    /// What a person can do about it.
    #[must_use]
    pub fn cure(&self) -> String {
        match self {
            ConsumeError::Cluster(error) => error.cure(),
            ConsumeError::Offsets(error) => error.cure(),
            ConsumeError::OutOfRange { .. } => super::advice::cure_of(ErrorCode::OFFSET_OUT_OF_RANGE).into(),
            ConsumeError::Damaged { damage: Damage { next: Some(next), .. }, .. } => {
                format!(
                    "seek to offset {next} to pass over it; look for damage on the broker: dejaq log verify"
                )
            }
            ConsumeError::Damaged { .. } => "look for damage on the broker: dejaq log verify DATA_DIR".into(),
            ConsumeError::Refused { code, .. } => super::advice::cure_of(*code).into(),
        }
    }
}

fn held(start: Offset, end: Offset) -> String {
    if start.is_valid() && end.is_valid() {
        format!("; it begins at {start} and ends at {end}")
    } else {
        String::new()
    }
}

struct Partition {
    buffer: Buffer,
    paused: bool,
    /// A position that must be found before the next fetch.
    reset: Option<OffsetSpec>,
    /// Told by the next poll; no fetch until the user seeks.
    error: Option<ConsumeError>,
    /// Errors in a row, and when to try again.
    failed: u32,
    not_before: Mono,
    /// From the last answer.
    watermark: Option<Offset>,
    log_start: Option<Offset>,
}

/// The end of one fetch.
struct Fetched {
    broker: BrokerId,
    session: Session,
    asks: BTreeMap<Key, Ask>,
    answer: Result<FetchResponse, ClusterError>,
}

enum Event {
    Fetched(Box<Fetched>),
    Refreshed,
}

/// Reads partitions. One owner; see the module.
pub struct Consumer<R: Runtime> {
    cluster: Cluster<R>,
    config: ConsumerConfig,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Where the next poll begins to take, so that every partition gets its turn.
    cursor: Option<TopicPartition>,
    sessions: BTreeMap<BrokerId, Session>,
    fetching: BTreeSet<BrokerId>,
    refreshing: bool,
    events: mpsc::Receiver<Event>,
    tell: mpsc::Sender<Event>,
}

impl<R: Runtime> std::fmt::Debug for Consumer<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let positions = self.partitions.iter().map(|(at, p)| (at, p.buffer.position()));
        f.debug_map().entries(positions).finish()
    }
}

impl<R: Runtime> Consumer<R> {
    /// A consumer without an assignment.
    #[must_use]
    pub fn new(cluster: Cluster<R>, config: ConsumerConfig) -> Consumer<R> {
        assert!(config.max_poll_records > 0, "a poll that returns nothing never ends");
        let (tell, events) = mpsc::channel(ANSWERS);
        Consumer {
            cluster,
            config,
            partitions: BTreeMap::new(),
            cursor: None,
            sessions: BTreeMap::new(),
            fetching: BTreeSet::new(),
            refreshing: false,
            events,
            tell,
        }
    }

    /// Reads exactly these partitions from now on, each from its start. Partitions that were read already begin anew.
    ///
    /// # Errors
    /// [`ConsumeError`] when a start could not be found before `deadline`; the assignment is as it was.
    pub async fn assign(
        &mut self,
        starts: BTreeMap<TopicPartition, StartAt>,
        deadline: Mono,
    ) -> Result<(), ConsumeError> {
        let positions = self.find(&starts, deadline).await?;
        self.partitions = positions.into_iter().map(|(at, offset)| (at, self.partition(offset))).collect();
        Ok(())
    }

    /// Reads these partitions, too, each from its start; what was read already goes on as it was.
    ///
    /// # Errors
    /// [`ConsumeError`] when a start could not be found before `deadline`; the assignment is as it was.
    pub async fn add(
        &mut self,
        starts: &BTreeMap<TopicPartition, StartAt>,
        deadline: Mono,
    ) -> Result<(), ConsumeError> {
        for (at, offset) in self.find(starts, deadline).await? {
            let fresh = self.partition(offset);
            self.partitions.entry(at).or_insert(fresh);
        }
        Ok(())
    }

    /// Reads these partitions no longer; what was fetched of them is dropped.
    pub fn remove<'a>(&mut self, gone: impl IntoIterator<Item = &'a TopicPartition>) {
        for at in gone {
            self.partitions.remove(at);
        }
    }

    /// Reads one partition of the assignment on from elsewhere, and forgets its error.
    ///
    /// # Errors
    /// [`ConsumeError`] when the start could not be found before `deadline`; the position is as it was.
    pub async fn seek(
        &mut self,
        at: &TopicPartition,
        start: StartAt,
        deadline: Mono,
    ) -> Result<Offset, ConsumeError> {
        let found = self.find(&BTreeMap::from([(at.clone(), start)]), deadline).await?;
        let offset = found[at];
        let fresh = self.partition(offset);
        if let Some(partition) = self.partitions.get_mut(at) {
            let paused = partition.paused;
            *partition = Partition { paused, ..fresh };
        }
        Ok(offset)
    }

    /// The partitions of the assignment.
    pub fn assignment(&self) -> impl Iterator<Item = &TopicPartition> {
        self.partitions.keys()
    }

    /// The offset of the next record that a poll returns from this partition.
    #[must_use]
    pub fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.partitions.get(at).map(|partition| partition.buffer.position())
    }

    /// The end of the partition as the last answer told it: the offset behind the last record that may be read.
    #[must_use]
    pub fn watermark(&self, at: &TopicPartition) -> Option<Offset> {
        self.partitions.get(at)?.watermark
    }

    /// The first offset that the partition holds, as the last answer told it.
    #[must_use]
    pub fn log_start(&self, at: &TopicPartition) -> Option<Offset> {
        self.partitions.get(at)?.log_start
    }

    /// Stops or resumes handing out and fetching one partition; what was fetched is kept.
    pub fn set_paused(&mut self, at: &TopicPartition, paused: bool) {
        if let Some(partition) = self.partitions.get_mut(at) {
            partition.paused = paused;
        }
    }

    /// No poll returns more records than this from now on.
    ///
    /// # Panics
    /// If it is zero.
    pub fn set_max_poll_records(&mut self, most: usize) {
        assert!(most > 0, "a poll that returns nothing never ends");
        self.config.max_poll_records = most;
    }

    /// Returns the next records, up to `max_poll_records`; none if none came within `timeout`.
    ///
    /// Cancel safe: what came meanwhile is kept for the next call.
    ///
    /// # Errors
    /// [`ConsumeError`] of one partition, once everything before it was returned; the others go on with the next call.
    pub async fn poll(&mut self, timeout: Duration) -> Result<Vec<ConsumedRecord>, ConsumeError> {
        let runtime = self.cluster.runtime().clone();
        let deadline = runtime.now().plus(timeout);
        loop {
            while let Ok(event) = self.events.try_recv() {
                self.take(event);
            }
            let records = self.hand_out();
            self.find_resets(deadline).await;
            let retry_at = self.fetch(runtime.now());
            if !records.is_empty() {
                return Ok(records);
            }
            if let Some(error) = self.take_error() {
                return Err(error);
            }
            let wake = retry_at.map_or(deadline, |at| at.min(deadline));
            match runtime.before(wake, self.events.recv()).await {
                Some(Some(event)) => self.take(event),
                Some(None) => unreachable!("the consumer holds a sender itself"),
                None if runtime.now() >= deadline => return Ok(Vec::new()),
                None => {}
            }
        }
    }

    fn partition(&self, position: Offset) -> Partition {
        Partition {
            buffer: Buffer::at(position, self.config.decompressed_limit),
            paused: false,
            reset: None,
            error: None,
            failed: 0,
            not_before: Mono(0),
            watermark: None,
            log_start: None,
        }
    }

    async fn find(
        &self,
        starts: &BTreeMap<TopicPartition, StartAt>,
        deadline: Mono,
    ) -> Result<BTreeMap<TopicPartition, Offset>, ConsumeError> {
        let mut positions = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        for (at, start) in starts {
            let spec = match start {
                StartAt::Offset(offset) => {
                    positions.insert(at.clone(), *offset);
                    self.cluster.watch(&at.topic)?;
                    continue;
                }
                StartAt::Beginning => OffsetSpec::Earliest,
                StartAt::End => OffsetSpec::Latest,
                StartAt::Timestamp(ms) => OffsetSpec::At(*ms),
            };
            wanted.insert(at.clone(), spec);
        }
        let isolation = self.config.isolation;
        let found = offsets::find_as(&self.cluster, isolation, &wanted, deadline).await?;
        // No record is that late: what comes next will be.
        let late = found.iter().filter(|(_, found)| found.offset.is_none());
        let late = late.map(|(at, _)| (at.clone(), OffsetSpec::Latest)).collect();
        let ends = offsets::find_as(&self.cluster, isolation, &late, deadline).await?;
        for (at, found) in found.into_iter().chain(ends) {
            if let Some(offset) = found.offset {
                positions.insert(at, offset);
            }
        }
        assert_eq!(positions.len(), starts.len(), "every start was found or is an error");
        Ok(positions)
    }

    /// Takes buffered records, the partitions in turn.
    fn hand_out(&mut self) -> Vec<ConsumedRecord> {
        let mut turns: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
        if let Some(cursor) = &self.cursor {
            let behind = turns.partition_point(|at| at <= cursor);
            turns.rotate_left(behind);
        }
        let mut records = Vec::new();
        for at in turns {
            let partition = self.partitions.get_mut(&at).expect("a turn is a partition");
            while !partition.paused
                && partition.error.is_none()
                && records.len() < self.config.max_poll_records
            {
                match partition.buffer.take() {
                    Ok(Some((record, leader_epoch))) => records.push(ConsumedRecord {
                        at: at.clone(),
                        offset: record.offset,
                        leader_epoch,
                        timestamp_ms: record.timestamp_ms,
                        key: record.key,
                        value: record.value,
                        headers: record.headers,
                    }),
                    Ok(None) => break,
                    Err(damage) => {
                        partition.error = Some(ConsumeError::Damaged { at: at.clone(), damage });
                    }
                }
            }
            if records.len() >= self.config.max_poll_records {
                self.cursor = Some(at);
                break;
            }
        }
        records
    }

    /// The error of some partition; it is told again by later polls until the user seeks.
    fn take_error(&self) -> Option<ConsumeError> {
        self.partitions.values().find_map(|partition| partition.error.clone())
    }

    /// Finds positions that an answer declared out of range; what fails stays for the next poll.
    async fn find_resets(&mut self, deadline: Mono) {
        let wanted: BTreeMap<_, _> =
            self.partitions.iter().filter_map(|(at, p)| Some((at.clone(), p.reset?))).collect();
        if wanted.is_empty() {
            return;
        }
        match offsets::find_as(&self.cluster, self.config.isolation, &wanted, deadline).await {
            Ok(found) => {
                for (at, found) in found {
                    let fresh = self.partition(found.offset.unwrap_or(Offset::ZERO));
                    let partition = self.partitions.get_mut(&at).expect("nobody unassigns meanwhile");
                    *partition = Partition { paused: partition.paused, ..fresh };
                }
            }
            Err(OffsetsError::Refused { at, code }) if !code.is_retriable() => {
                let partition = self.partitions.get_mut(&at).expect("nobody unassigns meanwhile");
                partition.reset = None;
                partition.error = Some(OffsetsError::Refused { at, code }.into());
            }
            Err(_) => {} // the next poll tries again
        }
    }

    /// Starts a fetch at every broker that leads something and has none under way. Returns when to look again.
    fn fetch(&mut self, now: Mono) -> Option<Mono> {
        let mut asks: BTreeMap<BrokerId, BTreeMap<Key, Ask>> = BTreeMap::new();
        let (mut retry_at, mut leaderless) = (None::<Mono>, false);
        for (at, partition) in &self.partitions {
            let idle = partition.paused || partition.error.is_some() || partition.reset.is_some();
            if idle || !partition.buffer.is_empty() {
                continue;
            }
            if partition.not_before > now {
                retry_at = Some(retry_at.map_or(partition.not_before, |r| r.min(partition.not_before)));
                continue;
            }
            let route = self.cluster.with_routes(|routes| {
                let id = routes.topic(&at.topic).and_then(Result::ok).map_or(TopicId::ZERO, |topic| topic.id);
                routes.leader(&at.topic, at.partition).map(|(leader, epoch)| (leader, epoch, id))
            });
            let Some((leader, leader_epoch, id)) = route else {
                leaderless = true;
                continue;
            };
            let key = Key { topic: at.topic.clone(), id, partition: at.partition };
            let max_bytes = self.config.partition_max_bytes;
            let ask = Ask { offset: partition.buffer.position(), leader_epoch, max_bytes };
            asks.entry(leader).or_default().insert(key, ask);
        }
        for (broker, asks) in asks {
            if self.fetching.insert(broker) {
                self.spawn_fetch(broker, asks);
            }
        }
        if leaderless {
            self.fail_leaderless(now);
            self.spawn_refresh();
        }
        retry_at
    }

    /// Partitions without a leader wait before they are looked at again, and tell if their topic is denied for long.
    fn fail_leaderless(&mut self, now: Mono) {
        let policy = self.config.retry;
        for (at, partition) in &mut self.partitions {
            let (known, led) = self.cluster.with_routes(|routes| {
                (routes.topic(&at.topic), routes.leader(&at.topic, at.partition).is_some())
            });
            if led || partition.not_before > now || partition.error.is_some() {
                continue;
            }
            let entropy = self.cluster.runtime().random_u64();
            partition.fail(policy, now, entropy);
            let topic = at.topic.to_string();
            partition.error = match known {
                Some(Err(code)) if partition.failed > UNKNOWN_TOPIC_ROUNDS && !code.is_none() => {
                    Some(match code {
                        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => ClusterError::UnknownTopic { topic }.into(),
                        _ => ClusterError::Topic { topic, code }.into(),
                    })
                }
                Some(Ok(route)) if route.partition(at.partition).is_none() => {
                    let last = route.partitions.len() as i32 - 1;
                    Some(ClusterError::UnknownPartition { topic, partition: at.partition, last }.into())
                }
                Some(_) | None => None,
            };
        }
    }

    fn spawn_fetch(&mut self, broker: BrokerId, asks: BTreeMap<Key, Ask>) {
        let mut session = self.sessions.remove(&broker).unwrap_or_default();
        let (cluster, config, tell) = (self.cluster.clone(), self.config.clone(), self.tell.clone());
        self.cluster.runtime().spawn("consumer fetch", async move {
            let answer = fetch_once(&cluster, broker, &config, &mut session, &asks).await;
            let event = Event::Fetched(Box::new(Fetched { broker, session, asks, answer }));
            let _gone = tell.send(event).await;
        });
    }

    fn spawn_refresh(&mut self) {
        if std::mem::replace(&mut self.refreshing, true) {
            return;
        }
        let (cluster, tell) = (self.cluster.clone(), self.tell.clone());
        let seen = cluster.with_routes(|routes| routes.generation);
        self.cluster.runtime().spawn("consumer refresh", async move {
            let deadline = cluster.request_deadline(Mono(u64::MAX));
            let _unreachable_is_tried_again = cluster.refresh(seen, deadline).await;
            let _gone = tell.send(Event::Refreshed).await;
        });
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Refreshed => self.refreshing = false,
            Event::Fetched(fetched) => self.take_fetched(*fetched),
        }
    }

    fn take_fetched(&mut self, fetched: Fetched) {
        let Fetched { broker, mut session, asks, answer } = fetched;
        assert!(self.fetching.remove(&broker), "broker {broker} answered a fetch that nobody started");
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                session.reset();
                self.sessions.insert(broker, session);
                let fatal = match &error {
                    ClusterError::Request(error) => !error.is_transient(),
                    _ => false,
                };
                self.fail_all(&asks, fatal.then_some(error));
                return self.spawn_refresh();
            }
        };
        let good = session.accept(answer.error_code, answer.session_id);
        self.sessions.insert(broker, session);
        if !good {
            // A lost session is asked for anew at once; anything else is the broker's trouble.
            let lost = answer.error_code.is_retriable() || answer.error_code.is_none();
            if !lost {
                self.fail_all(&asks, None);
            }
            return;
        }
        let mut moved = false;
        for topic in answer.responses {
            for data in topic.partitions {
                let key = asks.iter().find(|(key, _)| {
                    key.partition == data.partition_index
                        && (*key.topic == *topic.topic || !key.id.is_zero() && key.id == topic.topic_id)
                });
                if let Some((key, ask)) = key {
                    moved |= self.take_partition(key, *ask, data);
                }
            }
        }
        if moved {
            self.spawn_refresh();
        }
    }

    /// Takes one partition's part of an answer. `true`: the leader must be asked for.
    fn take_partition(&mut self, key: &Key, ask: Ask, data: PartitionData) -> bool {
        let at = TopicPartition { topic: key.topic.clone(), partition: key.partition };
        let (now, entropy) = (self.cluster.runtime().now(), self.cluster.runtime().random_u64());
        let (policy, on_out_of_range) = (self.config.retry, self.config.out_of_range);
        let Some(partition) = self.partitions.get_mut(&at) else { return false };
        if partition.buffer.position() != ask.offset || !partition.buffer.is_empty() {
            return false; // the user went elsewhere meanwhile
        }
        let code = data.error_code;
        if code.is_none() {
            partition.failed = 0;
            partition.watermark = Some(data.high_watermark).filter(|offset| offset.is_valid());
            partition.log_start = Some(data.log_start_offset).filter(|offset| offset.is_valid());
            let aborted = data.aborted_transactions.unwrap_or_default();
            partition.buffer.fill(data.records.unwrap_or_default().into_bytes(), &aborted);
            return false;
        }
        if code == ErrorCode::OFFSET_OUT_OF_RANGE {
            match on_out_of_range {
                OutOfRange::Earliest => partition.reset = Some(OffsetSpec::Earliest),
                OutOfRange::Latest => partition.reset = Some(OffsetSpec::Latest),
                OutOfRange::Error => {
                    let (offset, start, end) = (ask.offset, data.log_start_offset, data.high_watermark);
                    partition.error = Some(ConsumeError::OutOfRange { at, offset, start, end });
                }
            }
            return false;
        }
        // Damage on the broker's disk does not heal by asking again.
        if !code.is_retriable() || code == ErrorCode::CORRUPT_MESSAGE {
            partition.error = Some(ConsumeError::Refused { at, offset: ask.offset, code });
            return false;
        }
        partition.fail(policy, now, entropy);
        true
    }

    fn fail_all(&mut self, asks: &BTreeMap<Key, Ask>, fatal: Option<ClusterError>) {
        let (now, policy) = (self.cluster.runtime().now(), self.config.retry);
        for key in asks.keys() {
            let at = TopicPartition { topic: key.topic.clone(), partition: key.partition };
            let entropy = self.cluster.runtime().random_u64();
            if let Some(partition) = self.partitions.get_mut(&at) {
                partition.fail(policy, now, entropy);
                partition.error = fatal.clone().map(ConsumeError::from).or(partition.error.take());
            }
        }
    }
}

impl Partition {
    fn fail(&mut self, policy: RetryPolicy, now: Mono, entropy: u64) {
        self.failed = self.failed.saturating_add(1);
        self.not_before = now.plus(policy.delay(self.failed, entropy).unwrap_or(policy.max_backoff));
    }
}

/// One fetch at one broker.
async fn fetch_once<R: Runtime>(
    cluster: &Cluster<R>,
    broker: BrokerId,
    config: &ConsumerConfig,
    session: &mut Session,
    asks: &BTreeMap<Key, Ask>,
) -> Result<FetchResponse, ClusterError> {
    let dial_until = cluster.request_deadline(Mono(u64::MAX));
    let connection = cluster.broker(broker, dial_until).await?;
    let request_error = |error: RequestError| ClusterError::Request(error);
    let named = asks.keys().any(|key| key.id.is_zero());
    let newest = if named { FIRST_ID_VERSION - 1 } else { i16::MAX };
    let versions = connection.versions();
    let version = versions.choose_up_to(ApiKey::Fetch, newest).map_err(|e| request_error(e.into()))?;
    let mut request = FetchRequest {
        max_wait_ms: i32::try_from(config.max_wait.as_millis()).unwrap_or(i32::MAX),
        min_bytes: config.min_bytes,
        max_bytes: config.max_bytes,
        isolation_level: config.isolation.level(),
        rack_id: config.rack.clone(),
        ..FetchRequest::default()
    };
    session.fill(&mut request, asks);
    let deadline = cluster.runtime().now().plus(config.max_wait).plus(cluster.config().request_timeout);
    let slot = connection.slot(deadline).await.map_err(request_error)?;
    let pending = connection.start_with(&request, version, slot, deadline).map_err(request_error)?;
    pending.wait().await.map_err(request_error)
}

/// Every partition of these topics, each from `start`.
///
/// # Errors
/// [`ClusterError`] when a topic could not be found before `deadline`.
pub async fn whole_topics<R: Runtime>(
    cluster: &Cluster<R>,
    topics: &[Arc<str>],
    start: StartAt,
    deadline: Mono,
) -> Result<BTreeMap<TopicPartition, StartAt>, ClusterError> {
    let mut starts = BTreeMap::new();
    for topic in topics {
        let route = cluster.topic(topic, deadline).await?;
        for index in 0..route.partitions.len() {
            let at = TopicPartition { topic: topic.clone(), partition: PartitionId(index as i32) };
            starts.insert(at, start);
        }
    }
    Ok(starts)
}

#[cfg(test)]
mod tests;
