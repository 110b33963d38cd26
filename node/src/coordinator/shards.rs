//! SHELL. What this node coordinates: one shard for each partition of an internal topic that it leads.
//!
//! Owns: the shards that run; the way from a name to its shard; the codes for a shard that is not here, not
//! loaded, or over. Promises: at most one shard of a partition is asked, that of the epoch in which this node leads it
//! now; a request that the end of a shard cut off is answered NOT_COORDINATOR, here.
//! Leaves out: what a shard does (`shard`), creating the topic (`api::find_coordinator`).
//! Called by `broker` after each new image ([`Shards::apply`]), and by every API of groups and transactions ([`Shards::ask`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{LeaderEpoch, PartitionId, TopicId};
use tokio::sync::{mpsc, oneshot};

use super::home::partition_of;
use super::machine::{Carrier, Counts, Machine, Mail};
use super::shard::{self, Phase, Shared};
use crate::metadata::{Delta, Image, Published};
use crate::replica::{Directory, NoPartition};
use crate::runtime::{Mono, Runtime};

struct Slot<M: Machine> {
    topic: TopicId,
    epoch: LeaderEpoch,
    mailbox: mpsc::Sender<Mail<M>>,
    shared: Arc<Shared>,
}

impl<M: Machine> Clone for Slot<M> {
    fn clone(&self) -> Slot<M> {
        let Slot { topic, epoch, mailbox, shared } = self;
        Slot { topic: *topic, epoch: *epoch, mailbox: mailbox.clone(), shared: shared.clone() }
    }
}

/// The coordinators of one kind on one node.
pub struct Shards<R: Runtime, M: Machine> {
    runtime: R,
    directory: Arc<Directory<R>>,
    published: Published,
    settings: M::Settings,
    carrier: Arc<dyn Carrier<M>>,
    /// Short; never held across an await.
    slots: Mutex<BTreeMap<PartitionId, Slot<M>>>,
    /// The image that was applied last, and the turns of shards that are over.
    seen: Mutex<(Arc<Image>, u64)>,
    is_stopping: AtomicBool,
}

impl<R: Runtime, M: Machine> Shards<R, M> {
    /// The coordinators of a node that leads what is in `directory`. Call [`Shards::apply`] to begin.
    pub fn new(
        runtime: R,
        directory: Arc<Directory<R>>,
        published: Published,
        settings: M::Settings,
        carrier: Arc<dyn Carrier<M>>,
    ) -> Shards<R, M> {
        let seen = Mutex::new((published.current(), 0));
        let (slots, is_stopping) = (Mutex::default(), AtomicBool::new(false));
        Shards { runtime, directory, published, settings, carrier, slots, seen, is_stopping }
    }

    /// Begins to coordinate what is led here by now, and ends what is led elsewhere. The directory has applied `image`.
    pub fn apply(&self, image: &Arc<Image>) {
        let count = image.topic_named(M::TOPIC).map_or(0, |topic| topic.partitions.len());
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
        if let Some(news) = M::deleted(&deleted).filter(|_| !deleted.is_empty()) {
            for slot in slots.values() {
                // One that is too busy to hear it lets the offsets go by time.
                let _full = slot.mailbox.try_send(Mail::News(news.clone()));
            }
        }
    }

    /// What is allowed.
    pub fn settings(&self) -> &M::Settings {
        &self.settings
    }

    /// Asks the coordinator of `key`, which may be on another node.
    ///
    /// # Errors
    /// The code to answer: NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS or COORDINATOR_NOT_AVAILABLE.
    pub async fn ask(&self, key: &str, ask: M::Ask, deadline: Mono) -> Result<M::Reply, ErrorCode> {
        let image = self.published.current();
        let topic = image.topic_named(M::TOPIC).ok_or(ErrorCode::NOT_COORDINATOR)?;
        self.ask_home(partition_of(key, topic.partitions.len()), ask, deadline).await
    }

    /// Asks the coordinator that lives in this partition.
    ///
    /// # Errors
    /// As [`Shards::ask`].
    pub async fn ask_home(
        &self,
        home: PartitionId,
        ask: M::Ask,
        deadline: Mono,
    ) -> Result<M::Reply, ErrorCode> {
        let slot = self.ensure(home)?;
        self.ask_slot(&slot, ask, deadline).await
    }

    /// Whether this node coordinates a key, by the metadata that it acts on.
    pub fn is_here(&self, key: &str) -> bool {
        let image = self.published.current();
        let topic = image.topic_named(M::TOPIC);
        topic.is_some_and(|topic| self.ensure(partition_of(key, topic.partitions.len())).is_ok())
    }

    /// Every coordinator that the metadata place on this node, each in its epoch: a list without one is not whole.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS if one is not there yet in that epoch, COORDINATOR_NOT_AVAILABLE if its log cannot be opened.
    pub fn all_here(&self) -> Result<Vec<(PartitionId, LeaderEpoch)>, ErrorCode> {
        let image = self.published.current();
        let Some(topic) = image.topic_named(M::TOPIC) else { return Ok(Vec::new()) };
        let led_here = topic.partitions().filter(|(_, one)| one.leader == self.directory.me());
        let here = |(home, one): (PartitionId, &crate::metadata::Partition)| match self.ensure(home) {
            Ok(slot) if slot.epoch == one.leader_epoch && slot.topic == topic.id => Ok((home, slot.epoch)),
            Ok(_) | Err(ErrorCode::NOT_COORDINATOR) => Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
            Err(code) => Err(code),
        };
        led_here.map(here).collect()
    }

    /// Asks every coordinator of this node.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS while a part of them is not known yet.
    pub async fn ask_all(
        &self,
        ask: impl Fn() -> M::Ask + Send,
        deadline: Mono,
    ) -> Result<Vec<M::Reply>, ErrorCode> {
        let slots: Vec<Slot<M>> = self.slots().values().cloned().collect();
        let mut all = Vec::new();
        for slot in slots {
            match self.ask_slot(&slot, ask(), deadline).await {
                Ok(reply) => all.push(reply),
                Err(ErrorCode::NOT_COORDINATOR) => {} // led elsewhere by now
                Err(code) => return Err(code),
            }
        }
        Ok(all)
    }

    /// What all shards count.
    pub fn counts(&self) -> Counts {
        let slots = self.slots();
        let over = self.seen.lock().unwrap_or_else(PoisonError::into_inner).1;
        let mut counts = Counts { turns: over, ..Counts::default() };
        for slot in slots.values() {
            let one = slot.shared.counts();
            counts.held += one.held;
            counts.active += one.active;
            counts.turns += one.turns;
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

    fn slots(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Slot<M>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, slot: &Slot<M>) {
        slot.shared.stop();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).1 += slot.shared.counts().turns;
    }

    /// The shard of a partition that this node leads; starts it if it does not run in the epoch of now.
    fn ensure(&self, home: PartitionId) -> Result<Slot<M>, ErrorCode> {
        if self.is_stopping.load(Ordering::Acquire) {
            return Err(ErrorCode::NOT_COORDINATOR);
        }
        let table = self.directory.table();
        let entry = table.named(M::TOPIC).ok_or(ErrorCode::NOT_COORDINATOR)?;
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
            let carrier = self.carrier.clone();
            shard::start(&self.runtime, partition.clone(), epoch, published, settings, carrier)
        };
        let slot = Slot { topic: entry.id, epoch, mailbox, shared };
        slots.insert(home, slot.clone());
        Ok(slot)
    }

    async fn ask_slot(&self, slot: &Slot<M>, ask: M::Ask, deadline: Mono) -> Result<M::Reply, ErrorCode> {
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
