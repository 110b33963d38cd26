//! SHELL. Which groups this node coordinates: one shard for each partition of the offsets topic that it leads.
//!
//! Owns: the shards that run; the way from a group's name to its shard; the codes for a shard that is not here, not
//! loaded, or over. Promises: at most one shard of a partition is asked, that of the epoch in which this node leads it
//! now; a request that the end of a shard cut off is answered NOT_COORDINATOR, here.
//! Leaves out: what a shard does (`shard`), creating the topic (`api::find_coordinator`).
//! Called by `broker` after each new image ([`Shards::apply`]), and by every group API ([`Shards::ask`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{LeaderEpoch, PartitionId, TopicId};
use dejaq_wire::kafka::list_groups::ListedGroup;
use tokio::sync::{mpsc, oneshot};

use super::group::{Ask, Reply, Settings};
use super::home::{OFFSETS_TOPIC, partition_of};
use super::shard::{self, Mail, Phase, Shared};
use crate::metadata::{Delta, Image, Published};
use crate::replica::{Directory, NoPartition};
use crate::runtime::{Mono, Runtime};

#[derive(Clone)]
struct Slot {
    topic: TopicId,
    epoch: LeaderEpoch,
    mailbox: mpsc::Sender<Mail>,
    shared: Arc<Shared>,
}

/// What all shards of a node count together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Groups.
    pub groups: u64,
    /// Members of all groups.
    pub members: u64,
    /// Rebalances that began since the node did.
    pub rebalances: u64,
}

/// The coordinators of one node.
pub struct Shards<R: Runtime> {
    runtime: R,
    directory: Arc<Directory<R>>,
    published: Published,
    settings: Settings,
    /// Short; never held across an await.
    slots: Mutex<BTreeMap<PartitionId, Slot>>,
    /// The image that was applied last, and rebalances of shards that are over.
    seen: Mutex<(Arc<Image>, u64)>,
    is_stopping: AtomicBool,
}

impl<R: Runtime> Shards<R> {
    /// The coordinators of a node that leads what is in `directory`. Call [`Shards::apply`] to begin.
    pub fn new(
        runtime: R,
        directory: Arc<Directory<R>>,
        published: Published,
        settings: Settings,
    ) -> Shards<R> {
        let seen = Mutex::new((published.current(), 0));
        let slots = Mutex::default();
        Shards { runtime, directory, published, settings, slots, seen, is_stopping: AtomicBool::new(false) }
    }

    /// What groups are allowed.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Begins to coordinate what is led here by now, and ends what is led elsewhere. The directory has applied `image`.
    pub fn apply(&self, image: &Arc<Image>) {
        let count = image.topic_named(OFFSETS_TOPIC).map_or(0, |topic| topic.partitions.len());
        let homes = (0..i32::try_from(count).expect("partition counts are below 2^31")).map(PartitionId);
        let mut led = Vec::new();
        for home in homes {
            if self.ensure(home).is_ok() {
                led.push(home);
            }
        }
        let mut slots = self.slots();
        let over: Vec<PartitionId> = slots.keys().copied().filter(|home| !led.contains(home)).collect();
        for home in over {
            mark!("a shard ends because its partition is led elsewhere");
            let slot = slots.remove(&home).expect("just listed");
            self.end(&slot);
        }
        let deleted: Vec<Arc<str>> = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::replace(&mut seen.0, image.clone());
            Delta::between(&before, image).deleted.iter().map(|topic| topic.name.clone()).collect()
        };
        if !deleted.is_empty() {
            for slot in slots.values() {
                // One that is too busy to hear it lets the offsets go by time.
                let _full = slot.mailbox.try_send(Mail::TopicsDeleted(deleted.clone()));
            }
        }
    }

    /// Asks the coordinator of `group`, which may be on another node.
    ///
    /// # Errors
    /// The code to answer: NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS or COORDINATOR_NOT_AVAILABLE.
    pub async fn ask(&self, group: &str, ask: Ask, deadline: Mono) -> Result<Reply, ErrorCode> {
        let image = self.published.current();
        let topic = image.topic_named(OFFSETS_TOPIC).ok_or(ErrorCode::NOT_COORDINATOR)?;
        let slot = self.ensure(partition_of(group, topic.partitions.len()))?;
        self.ask_slot(&slot, ask, deadline).await
    }

    /// Every group that this node coordinates.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS while a part of them is not known yet.
    pub async fn list(&self, deadline: Mono) -> Result<Vec<ListedGroup>, ErrorCode> {
        let slots: Vec<Slot> = self.slots().values().cloned().collect();
        let mut all = Vec::new();
        for slot in slots {
            match self.ask_slot(&slot, Ask::List, deadline).await {
                Ok(Reply::Listed(groups)) => all.extend(groups),
                Ok(other) => unreachable!("a list is answered with {other:?}"),
                Err(ErrorCode::NOT_COORDINATOR) => {} // led elsewhere by now
                Err(code) => return Err(code),
            }
        }
        all.sort_by(|a, b| a.group_id.cmp(&b.group_id));
        Ok(all)
    }

    /// What all shards count.
    pub fn counts(&self) -> Counts {
        let slots = self.slots();
        let over = self.seen.lock().unwrap_or_else(PoisonError::into_inner).1;
        let mut counts = Counts { rebalances: over, ..Counts::default() };
        for slot in slots.values() {
            counts.groups += slot.shared.groups.load(Ordering::Relaxed);
            counts.members += slot.shared.members.load(Ordering::Relaxed);
            counts.rebalances += slot.shared.rebalances.load(Ordering::Relaxed);
        }
        counts
    }

    /// Ends every shard, for good.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        for slot in std::mem::take(&mut *self.slots()).into_values() {
            slot.shared.stop();
        }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, slot: &Slot) {
        slot.shared.stop();
        let rebalances = slot.shared.rebalances.load(Ordering::Relaxed);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).1 += rebalances;
    }

    /// The shard of a partition that this node leads; starts it if it does not run in the epoch of now.
    fn ensure(&self, home: PartitionId) -> Result<Slot, ErrorCode> {
        if self.is_stopping.load(Ordering::Acquire) {
            return Err(ErrorCode::NOT_COORDINATOR);
        }
        let table = self.directory.table();
        let entry = table.named(OFFSETS_TOPIC).ok_or(ErrorCode::NOT_COORDINATOR)?;
        let partition = entry.partition(home).map_err(|why| match why {
            NoPartition::Unknown | NoPartition::Elsewhere => ErrorCode::NOT_COORDINATOR,
            NoPartition::Failed => ErrorCode::COORDINATOR_NOT_AVAILABLE,
        })?;
        if partition.stopped().is_some() {
            return Err(ErrorCode::NOT_COORDINATOR);
        }
        let epoch = partition.view().epoch();
        let mut slots = self.slots();
        if let Some(slot) = slots.get(&home) {
            if slot.topic == entry.id && slot.epoch == epoch && !slot.mailbox.is_closed() {
                return Ok(slot.clone());
            }
            let slot = slots.remove(&home).expect("just found");
            self.end(&slot);
        }
        let (mailbox, shared) = {
            let (published, settings) = (self.published.clone(), self.settings.clone());
            shard::start(&self.runtime, partition.clone(), epoch, published, settings)
        };
        let slot = Slot { topic: entry.id, epoch, mailbox, shared };
        slots.insert(home, slot.clone());
        Ok(slot)
    }

    async fn ask_slot(&self, slot: &Slot, ask: Ask, deadline: Mono) -> Result<Reply, ErrorCode> {
        match slot.shared.phase() {
            Phase::Loading => return Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
            Phase::Failed => return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE),
            Phase::Active => {}
        }
        let (reply, answer) = oneshot::channel();
        let asked = async {
            slot.mailbox.send(Mail::Ask(ask, reply)).await.map_err(|_| ErrorCode::NOT_COORDINATOR)?;
            // The shard is over: whoever waited in it is told here, and nowhere else.
            answer.await.map_err(|_| ErrorCode::NOT_COORDINATOR)
        };
        let answered = self.runtime.before(deadline, asked).await;
        answered.unwrap_or(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE))
    }
}
