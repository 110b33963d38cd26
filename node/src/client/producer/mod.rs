//! Sends records: batched, retried, in order, stored once.
//!
//! Owns: [`Producer`] and its settings, the future of each record, the memory of records under way.
//! Promises: what [`Delivery`] tells is what the broker said; a record is settled within the delivery timeout; with
//! idempotence (the default) a retry neither repeats nor reorders; memory stays within `buffer_bytes`.
//! Leaves out: deciding what goes when (`core`, pure) and doing it (`sender`). What is particular to transactions is in
//! `transactional`, and how they begin and end in `client::txn`.
//!
//! ```text
//!   send ─► partition ─► room in the buffer? ─► core.push ─► Delivery ─► offset, or why not and whether perhaps
//!                                                  │
//!                              sender task: plan ─► request per broker ─► answer ─► settle
//! ```

pub mod core;
pub mod error;
pub mod record;
mod sender;
mod transactional;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dejaq_wire::ids::{BrokerId, Offset, PartitionId};
use dejaq_wire::record::Compression;
use tokio::sync::{Notify, Semaphore, SetOnce};

use self::core::{Core, Rules, Settled, TopicPartition};
pub use self::error::{ProduceCause, ProduceError};
use self::record::Payload;
pub use self::record::Record;
use super::batching::BatchLimits;
use super::cluster::Cluster;
use super::outcome::{AttemptEnd, BatchId, Observer, Unobserved};
use super::partitioner::{Partitioning, Sticky, partition_of_key};
use super::retry::RetryPolicy;
use super::routes::TopicRoute;
use super::sequence::MAX_IN_FLIGHT;
use crate::runtime::Runtime;

/// What a broker must have done before it confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Nothing: it does not confirm. Lowest latency; losses go unseen.
    None,
    /// The leader has written it.
    Leader,
    /// It is as safe as the topic's policy says: durable on every replica in sync, by default.
    All,
}

impl Acks {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

/// How a producer behaves.
#[derive(Clone)]
pub struct ProducerConfig {
    /// What confirms a record.
    pub acks: Acks,
    /// How batches are compressed.
    pub compression: Compression,
    /// When a batch is complete.
    pub batch: BatchLimits,
    /// Bytes of records that may be under way; a send waits for room.
    pub buffer_bytes: usize,
    /// Whether batches carry sequence numbers, so that a retry cannot store them twice. Needs [`Acks::All`].
    pub idempotent: bool,
    /// Requests that one broker has not answered, at most; 1 to 5.
    pub max_in_flight: usize,
    /// Bytes of batches in one request.
    pub max_request_bytes: usize,
    /// When to try again.
    pub retry: RetryPolicy,
    /// After this long a record is given up.
    pub delivery_timeout: Duration,
    /// How long a send waits for metadata, and for room in the buffer.
    pub max_block: Duration,
    /// Where records go that name no partition.
    pub partitioning: Partitioning,
    /// Hears of every attempt.
    pub observer: Arc<dyn Observer>,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        ProducerConfig {
            acks: Acks::All,
            compression: Compression::None,
            batch: BatchLimits {
                batch_bytes: 64 << 10,
                linger: Duration::from_millis(5),
                batch_records: 100_000,
            },
            buffer_bytes: 32 << 20,
            idempotent: true,
            max_in_flight: MAX_IN_FLIGHT,
            max_request_bytes: 1 << 20,
            retry: RetryPolicy::default(),
            delivery_timeout: Duration::from_secs(120),
            max_block: Duration::from_secs(30),
            partitioning: Partitioning::Default,
            observer: Arc::new(Unobserved),
        }
    }
}

impl std::fmt::Debug for ProducerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProducerConfig")
            .field("acks", &self.acks)
            .field("compression", &self.compression)
            .field("idempotent", &self.idempotent)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

/// Why a producer cannot be made of these settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Sequence numbers mean nothing unless every replica confirms.
    #[error("idempotence needs acks=all")]
    IdempotenceNeedsAcks,
    /// Records of transactions are numbered.
    #[error("transactions need idempotence")]
    TransactionsNeedIdempotence,
    /// The broker remembers five batches, and one is the least.
    #[error("max_in_flight is {0}, allowed are 1 to {MAX_IN_FLIGHT}")]
    InFlight(usize),
    /// A size is zero.
    #[error("{0} must be above 0")]
    Zero(&'static str),
}

/// A record that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset; `None` with acks=0, and for a repeat that the broker remembers without its offset.
    pub offset: Option<Offset>,
    /// Its time in ms since 1970: the broker's where the topic says so, else the record's own.
    pub timestamp_ms: i64,
    /// Attempts that it took.
    pub attempts: u32,
}

#[derive(Debug, Clone)]
struct BatchStored {
    base: Option<Offset>,
    append_time_ms: Option<i64>,
    attempts: u32,
}

type Ticket = SetOnce<Result<BatchStored, ProduceError>>;

/// The fate of one record, once it is known. Dropping it forgets the answer, not the record.
#[derive(Debug)]
#[must_use = "whether the record is stored comes through this"]
pub struct Delivery {
    ticket: Arc<Ticket>,
    batch: BatchId,
    index: usize,
    partition: PartitionId,
    timestamp_ms: i64,
}

impl Delivery {
    /// Waits until the record is settled. Cancel safe.
    ///
    /// # Errors
    /// [`ProduceError`]; its verdict says whether the record may be stored all the same.
    pub async fn wait(&self) -> Result<Stored, ProduceError> {
        self.tell(self.ticket.wait().await)
    }

    /// The fate of the record if it is settled.
    #[must_use]
    pub fn try_get(&self) -> Option<Result<Stored, ProduceError>> {
        self.ticket.get().map(|settled| self.tell(settled))
    }

    /// The batch that it travels in and its index there: how an [`Observer`] names it.
    #[must_use]
    pub fn place(&self) -> (BatchId, usize) {
        (self.batch, self.index)
    }

    /// The partition that was chosen.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    fn tell(&self, settled: &Result<BatchStored, ProduceError>) -> Result<Stored, ProduceError> {
        let stored = settled.as_ref().map_err(Clone::clone)?;
        Ok(Stored {
            partition: self.partition,
            offset: stored.base.map(|base| base.plus(self.index as i64)),
            timestamp_ms: stored.append_time_ms.unwrap_or(self.timestamp_ms),
            attempts: stored.attempts,
        })
    }
}

struct State {
    core: Core<Payload>,
    tickets: BTreeMap<BatchId, Arc<Ticket>>,
    sticky: BTreeMap<Arc<str>, Sticky>,
    /// What background work is under way; one of each kind.
    dialing: BTreeSet<BrokerId>,
    refreshing: bool,
    /// Refreshes in a row that left a partition without a leader.
    leaderless_rounds: u32,
    asking_identity: bool,
    /// Whether partitions join a transaction as they are written to.
    joins: bool,
    /// Why the open transaction cannot be committed.
    failed: Option<ProduceError>,
    /// Why no record can ever be sent again.
    dead: Option<ProduceCause>,
}

struct Inner<R: Runtime> {
    cluster: Cluster<R>,
    config: ProducerConfig,
    /// The transactional id, if there is one.
    transaction: Option<Arc<str>>,
    state: Mutex<State>,
    /// Wakes the sender task, its only waiter.
    wake: Notify,
    /// A permit for each byte of `buffer_bytes` that is free.
    room: Semaphore,
}

impl<R: Runtime> Inner<R> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the fate of a batch to all that wait for it, and gives its memory back.
    fn settle(&self, settled: Settled<Payload>, append_time_ms: Option<i64>, cause: Option<ProduceCause>) {
        let Settled { batch, attempts, result, .. } = settled;
        let ticket = self.state().tickets.remove(&batch.id).expect("every batch has a ticket");
        let told = match result {
            Ok(base) => Ok(BatchStored { base, append_time_ms, attempts }),
            Err(given_up) => {
                let cause = cause.unwrap_or_else(|| self.cause_of(&given_up));
                Err(ProduceError { verdict: given_up.verdict, attempts, cause })
            }
        };
        self.room.add_permits(batch.bytes);
        let failure = told.as_ref().err().cloned();
        ticket.set(told).expect("a batch is settled once");
        if let Some(failure) = failure {
            self.fail_transaction(&failure);
        }
    }

    fn cause_of(&self, given_up: &core::GivenUp) -> ProduceCause {
        let last: Arc<str> = match &given_up.last {
            None => "it was never sent".into(),
            Some(AttemptEnd::Answered(code, _)) => format!("the last answer was {code}").into(),
            Some(AttemptEnd::NotSent(reason)) => format!("the last attempt was not sent: {reason}").into(),
            Some(AttemptEnd::Lost(reason)) => format!("the last attempt was lost: {reason}").into(),
            Some(AttemptEnd::NoReply) => "no answer was asked for".into(),
        };
        if given_up.expired {
            return ProduceCause::Expired { after: self.config.delivery_timeout, last };
        }
        match &given_up.last {
            Some(AttemptEnd::Answered(code, _)) => ProduceCause::Refused { code: *code, message: None },
            Some(AttemptEnd::NotSent(_) | AttemptEnd::Lost(_) | AttemptEnd::NoReply) | None => {
                ProduceCause::Exhausted { last }
            }
        }
    }

    /// Ends the producer: everything that is not settled fails, and so does every later send.
    fn end(&self, cause: ProduceCause) {
        let settled = {
            let mut state = self.state();
            state.dead.get_or_insert(cause.clone());
            state.core.give_up_all()
        };
        for batch in settled {
            self.settle(batch, None, Some(cause.clone()));
        }
        self.room.close();
        self.wake.notify_one();
    }
}

/// Ends the producer when its last user lets go of it.
struct Handle<R: Runtime>(Arc<Inner<R>>);

impl<R: Runtime> Drop for Handle<R> {
    fn drop(&mut self) {
        self.0.end(ProduceCause::Closed);
    }
}

/// Sends records to the partitions' leaders. Cheap to clone; clones share batches, memory and the producer id.
///
/// Dropping the last clone gives up what is not stored: [`Producer::flush`] first.
#[derive(Clone)]
pub struct Producer<R: Runtime> {
    handle: Arc<Handle<R>>,
}

impl<R: Runtime> std::fmt::Debug for Producer<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Producer({:?})", self.handle.0.config)
    }
}

impl<R: Runtime> Producer<R> {
    /// Starts a producer; nothing is sent before the first record.
    ///
    /// # Errors
    /// [`ConfigError`]: the settings contradict each other.
    pub fn start(cluster: Cluster<R>, config: ProducerConfig) -> Result<Producer<R>, ConfigError> {
        Producer::start_as(cluster, config, None)
    }

    fn start_as(
        cluster: Cluster<R>,
        config: ProducerConfig,
        transaction: Option<Arc<str>>,
    ) -> Result<Producer<R>, ConfigError> {
        if config.idempotent && config.acks != Acks::All {
            return Err(ConfigError::IdempotenceNeedsAcks);
        }
        if !(1..=MAX_IN_FLIGHT).contains(&config.max_in_flight) {
            return Err(ConfigError::InFlight(config.max_in_flight));
        }
        let sizes = [
            ("batch_bytes", config.batch.batch_bytes),
            ("batch_records", config.batch.batch_records),
            ("buffer_bytes", config.buffer_bytes),
            ("max_request_bytes", config.max_request_bytes),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(ConfigError::Zero(name));
        }
        let rules = Rules {
            batch: config.batch,
            idempotent: config.idempotent,
            transactional: transaction.is_some(),
            max_in_flight: config.max_in_flight,
            max_request_bytes: config.max_request_bytes,
            retry: config.retry,
            delivery_timeout: config.delivery_timeout,
        };
        let state = State {
            core: Core::new(rules),
            tickets: BTreeMap::new(),
            sticky: BTreeMap::new(),
            dialing: BTreeSet::new(),
            refreshing: false,
            leaderless_rounds: 0,
            asking_identity: false,
            joins: false,
            failed: None,
            dead: None,
        };
        let room = Semaphore::new(config.buffer_bytes);
        let inner =
            Inner { cluster, config, transaction, state: Mutex::new(state), wake: Notify::new(), room };
        let inner = Arc::new(inner);
        inner.cluster.runtime().spawn("producer", sender::run(inner.clone()));
        Ok(Producer { handle: Arc::new(Handle(inner)) })
    }

    /// Takes a record and returns its [`Delivery`]; the record is on its way, not stored.
    ///
    /// Records of one caller keep their order in each partition if each send is awaited before the next. Waits for
    /// metadata and for room in the buffer, together at most `max_block`. Dropping the future leaves the record out.
    ///
    /// # Errors
    /// [`ProduceError`], a definite no: the record was not taken.
    pub async fn send(&self, record: Record) -> Result<Delivery, ProduceError> {
        let inner = &*self.handle.0;
        let runtime = inner.cluster.runtime();
        let deadline = runtime.now().plus(inner.config.max_block);
        let bytes = record.bytes_at_most();
        if bytes > inner.config.buffer_bytes {
            let limit = inner.config.buffer_bytes;
            return Err(ProduceError::unsent(ProduceCause::TooLarge { bytes, limit }));
        }
        let route = inner.cluster.topic(&record.topic, deadline).await.map_err(ProduceError::unsent)?;
        let permits = u32::try_from(bytes)
            .map_err(|_| ProduceError::unsent(ProduceCause::TooLarge { bytes, limit: u32::MAX as usize }))?;
        match runtime.before(deadline, inner.room.acquire_many(permits)).await {
            Some(Ok(room)) => room.forget(), // given back when the batch is settled
            Some(Err(_closed)) => return Err(ProduceError::unsent(self.death())),
            None => return Err(ProduceError::unsent(ProduceCause::BufferFull(inner.config.max_block))),
        }
        self.push(record, bytes, &route).inspect_err(|_| inner.room.add_permits(bytes))
    }

    /// Sends a record and waits until it is settled.
    ///
    /// # Errors
    /// [`ProduceError`]; its verdict says whether the record may be stored all the same.
    pub async fn send_and_wait(&self, record: Record) -> Result<Stored, ProduceError> {
        self.send(record).await?.wait().await
    }

    /// Sends everything that was taken so far without lingering, and waits until all of it is settled, well or not.
    pub async fn flush(&self) {
        let tickets: Vec<_> = {
            let mut state = self.handle.0.state();
            state.core.close_batches();
            state.tickets.values().cloned().collect()
        };
        self.handle.0.wake.notify_one();
        for ticket in tickets {
            ticket.wait().await;
        }
    }

    fn push(&self, record: Record, bytes: usize, route: &TopicRoute) -> Result<Delivery, ProduceError> {
        let inner = &*self.handle.0;
        let runtime = inner.cluster.runtime();
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(|| runtime.unix_ms());
        let mut state = inner.state();
        if let Some(dead) = &state.dead {
            return Err(ProduceError::unsent(dead.clone()));
        }
        if let Some(failed) = &state.failed {
            return Err(transactional::over(failed));
        }
        let partition = self.partition(&mut state, &record, bytes, route)?;
        let to = TopicPartition { topic: route.name.clone(), partition };
        let Record { key, value, headers, .. } = record;
        let payload = Payload { key, value, headers, timestamp_ms };
        let placed = state.core.push(&to, payload, bytes, runtime.now());
        let ticket = state.tickets.entry(placed.batch).or_default().clone();
        drop(state);
        if placed.ready || placed.opened {
            inner.wake.notify_one();
        }
        Ok(Delivery { ticket, batch: placed.batch, index: placed.index, partition, timestamp_ms })
    }

    fn partition(
        &self,
        state: &mut State,
        record: &Record,
        bytes: usize,
        route: &TopicRoute,
    ) -> Result<PartitionId, ProduceError> {
        let inner = &*self.handle.0;
        let partitions = route.partitions.len();
        let count = i32::try_from(partitions).expect("a topic has far fewer than 2^31 partitions");
        let chosen = record.partition.or_else(|| match &inner.config.partitioning {
            Partitioning::Default => None,
            Partitioning::Custom(custom) => custom
                .partition(&record.topic, record.key.as_deref(), record.value.as_deref(), count)
                .map(PartitionId),
        });
        let partition = chosen.unwrap_or_else(|| match &record.key {
            Some(key) => partition_of_key(key, count),
            None => {
                let mut candidates = route.available();
                if candidates.is_empty() {
                    candidates = (0..count).map(PartitionId).collect();
                }
                let entropy = inner.cluster.runtime().random_u64();
                let sticky = state.sticky.entry(route.name.clone()).or_default();
                sticky.choose(&candidates, bytes, inner.config.batch.batch_bytes, entropy)
            }
        });
        if route.partition(partition).is_none() {
            let topic = route.name.clone();
            return Err(ProduceError::unsent(ProduceCause::NoPartition { topic, partition, partitions }));
        }
        Ok(partition)
    }

    fn death(&self) -> ProduceCause {
        self.handle.0.state().dead.clone().unwrap_or(ProduceCause::Closed)
    }
}

#[cfg(test)]
mod tests;
