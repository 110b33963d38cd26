//! What the APIs of the data plane share: the partitions, the fetch sessions, the memory of answers; and the one
//! mapping of "where is this partition" to Kafka's codes.
//!
//! Owns: [`DataPlane`], [`Refusal`], the lookup of a partition by what a request names.
//! Promises: a partition that is handed out serves at that moment; its state is looked at again when it is used.
//! Leaves out: what each API answers (one file each beside this one).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset, PartitionId, TopicId};
use tokio::sync::Semaphore;

use super::claims::CLAIMS_BYTES;
use super::fetch_session::{Limits, Sessions, TopicRef};
use super::produce_txn::Vouching;
use crate::metadata::Image;
use crate::metadata::image::PEER_LISTENER;
use crate::replica::leader::Resigned;
use crate::replica::view::Part;
use crate::replica::{Directory, NoPartition, Partition, Table, TopicEntry};
use crate::runtime::memory::MemoryBudget;
use crate::runtime::{Mono, Runtime};

/// The isolation level of readers who want committed records only.
pub const READ_COMMITTED: i8 = 1;

/// Of all descriptions together; the largest one fits.
const DESCRIPTIONS_BYTES: usize = 192 << 20;

/// Damaged ranges that are remembered as told; beyond, they are told again.
const TOLD_DAMAGE: usize = 1024;

/// Bounds of what fetches take, and of how long requests of the data plane wait.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// Longest that a request waits, whatever it asks for: its connection and what it waits with are held as long.
    pub longest_wait: Duration,
    /// Most bytes of one answer, whatever the client allows, but for a single larger batch.
    pub answer_bytes: usize,
    /// Bytes of all answers together that are not sent yet.
    pub memory_bytes: usize,
    /// Bounds of the fetch sessions.
    pub sessions: Limits,
}

impl Default for FetchLimits {
    fn default() -> FetchLimits {
        FetchLimits {
            // Kafka's delivery.timeout.ms: no producer with default settings wants an answer later, and no consumer.
            longest_wait: Duration::from_secs(120),
            // Kafka's fetch.max.bytes of a broker.
            answer_bytes: 55 << 20,
            memory_bytes: 256 << 20,
            // Kafka's max.incremental.fetch.session.cache.slots; the partitions take 20 MB at most.
            sessions: Limits { sessions: 1000, partitions: 100_000 },
        }
    }
}

/// The partitions of this node as an API handler sees them.
pub struct DataPlane<R: Runtime> {
    /// Time and tasks.
    pub runtime: R,
    /// The partitions.
    pub directory: Arc<Directory<R>>,
    /// Bounds of fetches.
    pub limits: FetchLimits,
    /// Memory of answers to fetches that are not sent yet.
    pub answers: MemoryBudget,
    /// Memory of descriptions of many things that are not sent yet. Not that of fetches: a large claim that waits would
    /// hold up every fetch behind it.
    pub descriptions: MemoryBudget,
    /// Memory of what large requests become until they are answered.
    pub claims: MemoryBudget,
    /// Held by who unpacks a batch that takes long, so that not all threads do so at once.
    pub unpacking: Semaphore,
    /// Batches of transactions that wait for the word of their coordinator.
    pub vouching: Arc<Vouching>,
    sessions: Mutex<Sessions>,
    told_damage: Mutex<BTreeSet<(TopicId, PartitionId, Offset)>>,
}

impl<R: Runtime> DataPlane<R> {
    /// The data plane of one node.
    pub fn new(runtime: R, directory: Arc<Directory<R>>, limits: FetchLimits) -> DataPlane<R> {
        DataPlane {
            runtime,
            directory,
            limits,
            answers: MemoryBudget::new(limits.memory_bytes),
            descriptions: MemoryBudget::new(DESCRIPTIONS_BYTES),
            claims: MemoryBudget::new(CLAIMS_BYTES),
            unpacking: Semaphore::new(1),
            vouching: Arc::default(),
            sessions: Mutex::new(Sessions::new(limits.sessions)),
            told_damage: Mutex::default(),
        }
    }

    /// The fetch sessions, for the time of one short step.
    pub fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a request that was received at `received_at` and wants to wait for `asked_ms` is to be answered at last.
    pub fn deadline(&self, received_at: Mono, asked_ms: i32) -> Mono {
        let asked = Duration::from_millis(u64::try_from(asked_ms).unwrap_or(0));
        received_at.plus(asked.min(self.limits.longest_wait))
    }

    /// Whether damage at this place is told for the first time.
    pub fn is_news(&self, partition: &Partition<R>, from: Offset) -> bool {
        let identity = partition.identity();
        let mut told = self.told_damage.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD_DAMAGE {
            told.clear();
        }
        told.insert((identity.topic_id, identity.partition, from))
    }
}

/// A code to answer, and a text for those versions that carry one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// What a person should know; `None` where the code says it all.
    pub message: Option<String>,
}

impl Refusal {
    /// A code and a text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { code, message: Some(message.into()) }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Refusal {
        Refusal { code, message: None }
    }
}

/// The code for a topic that is not here: by name or by id, as the request names it.
#[must_use]
pub fn unknown_topic(topic: &TopicRef) -> ErrorCode {
    match topic {
        TopicRef::Name(_) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        TopicRef::Id(_) => ErrorCode::UNKNOWN_TOPIC_ID,
    }
}

/// The code for a partition that stopped serving.
#[must_use]
pub fn stopped(why: Resigned, topic: &TopicRef) -> ErrorCode {
    match why {
        // A client that is told so asks for metadata and comes back, here or elsewhere.
        Resigned::Moved | Resigned::Stopping => ErrorCode::NOT_LEADER_OR_FOLLOWER,
        Resigned::Deleted => unknown_topic(topic),
        Resigned::Offline => ErrorCode::KAFKA_STORAGE_ERROR,
    }
}

/// The topic that a request names.
///
/// # Errors
/// The code to answer.
pub fn topic<'a, R: Runtime>(
    table: &'a Table<R>,
    topic: &TopicRef,
) -> Result<&'a Arc<TopicEntry<R>>, ErrorCode> {
    let found = match topic {
        TopicRef::Name(name) => table.named(name),
        TopicRef::Id(id) => table.with_id(*id),
    };
    found.ok_or_else(|| unknown_topic(topic))
}

/// The partition that a request names, if it serves.
///
/// # Errors
/// The code to answer.
pub fn partition<'a, R: Runtime>(
    table: &'a Table<R>,
    name: &TopicRef,
    index: PartitionId,
) -> Result<&'a Arc<Partition<R>>, ErrorCode> {
    let found = topic(table, name)?.partition(index).map_err(|why| match why {
        NoPartition::Unknown => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        NoPartition::Elsewhere => ErrorCode::NOT_LEADER_OR_FOLLOWER,
        NoPartition::Failed => ErrorCode::KAFKA_STORAGE_ERROR,
    })?;
    match found.stopped() {
        None => Ok(found),
        Some(why) => Err(stopped(why, name)),
    }
}

/// The partition that a request names by topic name, if it serves in the leader epoch that the client knows.
///
/// # Errors
/// The code to answer.
pub fn partition_in_epoch<'a, R: Runtime>(
    table: &'a Table<R>,
    name: &TopicRef,
    index: PartitionId,
    known: LeaderEpoch,
) -> Result<&'a Arc<Partition<R>>, ErrorCode> {
    let found = partition(table, name, index)?;
    check_epoch(known, found.view().epoch())?;
    Ok(found)
}

/// The partition that a fetch names by topic name or id, in the leader epoch that the client knows: led here or, if the
/// client may read from followers (KIP-392), followed here.
///
/// # Errors
/// The code to answer.
pub fn readable<'a, R: Runtime>(
    table: &'a Table<R>,
    name: &TopicRef,
    index: PartitionId,
    known: LeaderEpoch,
    from_followers: bool,
) -> Result<&'a Arc<Partition<R>>, ErrorCode> {
    if !from_followers {
        return partition_in_epoch(table, name, index, known);
    }
    let held = topic(table, name)?.partition(index).ok();
    let followed = held.filter(|held| held.view().part() == Part::Follows && !held.is_offline());
    let Some(found) = followed else { return partition_in_epoch(table, name, index, known) };
    check_epoch(known, found.view().epoch())?;
    Ok(found)
}

/// Who leads a partition, for a client that came to the wrong broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader.
    pub leader: BrokerId,
    /// Its epoch.
    pub epoch: LeaderEpoch,
    /// Where clients reach it.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// Where it stands.
    pub rack: Option<String>,
}

/// Who leads what a request names, as far as this node has acted on the metadata (KIP-951).
#[must_use]
pub fn leader_hint(image: &Image, name: &TopicRef, index: PartitionId) -> Option<LeaderHint> {
    let topic = match name {
        TopicRef::Name(name) => image.topic_named(name),
        TopicRef::Id(id) => image.topic(*id),
    };
    let partition = topic?.partition(index)?;
    let broker = image.broker(partition.leader)?;
    let endpoint = broker.endpoints.iter().find(|endpoint| endpoint.listener != PEER_LISTENER)?;
    Some(LeaderHint {
        leader: partition.leader,
        epoch: partition.leader_epoch,
        host: endpoint.host.clone(),
        port: endpoint.port,
        rack: broker.rack.clone(),
    })
}

/// Whether an answer with this code tells who leads.
#[must_use]
pub fn tells_leader(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::FENCED_LEADER_EPOCH)
}

/// Fences by the leader epoch that a client knows, if it knows one (KIP-320).
///
/// # Errors
/// The code to answer: 74 for an older epoch, 75 for a newer one.
pub fn check_epoch(known: LeaderEpoch, ours: LeaderEpoch) -> Result<(), ErrorCode> {
    match known {
        known if !known.is_valid() || known == ours => Ok(()),
        known if known < ours => Err(ErrorCode::FENCED_LEADER_EPOCH),
        _ => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
    }
}
