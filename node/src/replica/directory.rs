//! SHELL. The partitions of this node: looked up by everyone, kept in line with the metadata.
//!
//! Owns: the table of topics and their open partitions, published as a whole; the flusher, the room watch and
//! retention of the data directory.
//! Promises: a partition is in the table only when it serves; a deleted one refuses everyone before its files go;
//! deletion is durable step by step (rename aside, sync, remove) and finished at the next start; files that the
//! metadata does not know are removed only by a node whose metadata remembers an earlier life (MQ-10); a partition
//! that does not open is watched (`unopened`).
//! Leaves out: what the metadata says (`metadata`), the data directory's own files (`dejaq_storage::DataDir`).
//! Called by `broker` ([`Directory::start`], [`Directory::apply`], [`Directory::shutdown`]) and by every data API.
//!
//! ```text
//!  image ─► apply: gone ─► out of the table, abandon, remove      new ─► open or create ─► into the table
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use dejaq_storage::{CloseError, DataDir, LastStop, SpaceGuard, mark};
use dejaq_wire::ids::{BrokerId, Offset, PartitionId, TopicId};
use dejaq_wire::peer::replica::Place;
use tokio::sync::Notify;

use super::cleaner;
use super::fetcher::Fetcher;
use super::flusher::Flusher;
use super::health::Health;
use super::hub::Hub;
use super::insync;
use super::leader::Resigned;
use super::links::Links;
use super::open::{self, Job, NotStarted};
use super::partition::{Assignment, Partition, Shared};
use super::retention;
use super::scrub::{self, Scrub};
use super::unopened::Unopened;
use crate::config::CleanerSettings;
use crate::metadata::topic_config::Overrides;
use crate::metadata::{BrokerDefaults, Delta, Image, Topic, TopicConfig};
use crate::runtime::{Mono, Runtime};

/// What a directory is told from outside.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node.
    pub me: BrokerId,
    /// Below this much free room writes are refused.
    pub min_free_bytes: u64,
    /// How often retention looks at every partition.
    pub retention_every: Duration,
    /// Most bytes a second that it takes in of replicas that only come, all together; 0: as many as there are.
    pub move_bytes_per_second: u64,
    /// How its logs are looked through for damage.
    pub scrub: Scrub,
    /// How long a wall clock that jumped forward stands there before retention believes it.
    pub clock_patience: Duration,
    /// How the log cleaner works.
    pub cleaner: CleanerSettings,
    /// Topic configs by their Kafka names, from this broker's own settings.
    pub topic_defaults: Overrides,
}

impl Settings {
    /// The settings of a node that changes nothing but its name.
    #[must_use]
    pub fn of(me: BrokerId) -> Settings {
        Settings {
            me,
            min_free_bytes: 0,
            // Retention is counted in hours or more; Kafka looks every five minutes.
            retention_every: Duration::from_secs(30),
            move_bytes_per_second: 0,
            scrub: Scrub { every: Duration::from_secs(86_400), bytes_per_second: 8 << 20 },
            clock_patience: super::guarded_clock::PATIENCE,
            cleaner: CleanerSettings::default(),
            topic_defaults: Overrides::new(),
        }
    }
}

/// Where a partition of a known topic is.
pub(super) enum Slot<R: Runtime> {
    Ready(Arc<Partition<R>>),
    /// This node does not hold it.
    Elsewhere,
    /// It did not open; the log says why.
    Unopened(Unopened),
}

/// Why a partition of a known topic cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPartition {
    /// The topic has no such partition.
    #[error("the topic has no such partition")]
    Unknown,
    /// This node does not hold it.
    #[error("this node does not hold the partition")]
    Elsewhere,
    /// Its files could not be opened.
    #[error("the partition's files could not be opened")]
    Failed,
}

/// One topic as this node holds it.
pub struct TopicEntry<R: Runtime> {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// Its configs in force.
    pub config: Arc<TopicConfig>,
    pub(super) slots: Vec<Slot<R>>,
}

impl<R: Runtime> TopicEntry<R> {
    /// The partition of this index, if it can be used.
    ///
    /// # Errors
    /// [`NoPartition`].
    pub fn partition(&self, index: PartitionId) -> Result<&Arc<Partition<R>>, NoPartition> {
        let slot = usize::try_from(index.0).ok().and_then(|at| self.slots.get(at));
        match slot {
            None => Err(NoPartition::Unknown),
            Some(Slot::Ready(partition)) => Ok(partition),
            Some(Slot::Elsewhere) => Err(NoPartition::Elsewhere),
            Some(Slot::Unopened(_)) => Err(NoPartition::Failed),
        }
    }

    /// Its open partitions, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = &Arc<Partition<R>>> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Ready(partition) => Some(partition),
            Slot::Elsewhere | Slot::Unopened(_) => None,
        })
    }
}

/// Every topic of this node at one moment. Immutable; lookups in one request use one table.
pub struct Table<R: Runtime> {
    by_id: BTreeMap<TopicId, Arc<TopicEntry<R>>>,
    by_name: BTreeMap<Arc<str>, TopicId>,
}

impl<R: Runtime> Table<R> {
    /// The topic of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<TopicEntry<R>>> {
        self.by_name.get(name).and_then(|id| self.by_id.get(id))
    }

    /// The topic of this id.
    pub fn with_id(&self, id: TopicId) -> Option<&Arc<TopicEntry<R>>> {
        self.by_id.get(&id)
    }

    /// Every topic, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicEntry<R>>> {
        self.by_name.values().filter_map(|id| self.by_id.get(id))
    }
}

impl<R: Runtime> Clone for Table<R> {
    fn clone(&self) -> Table<R> {
        Table { by_id: self.by_id.clone(), by_name: self.by_name.clone() }
    }
}

/// How the partitions of a node are replicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replication {
    /// Partitions that it leads.
    pub led: u64,
    /// Partitions that it follows, or that nobody leads.
    pub followed: u64,
    /// Partitions that it leads with fewer replicas in sync than there are to be.
    pub under_replicated: u64,
    /// Partitions that it leads with fewer replicas in sync than `min.insync.replicas`.
    pub under_min_insync: u64,
    /// Records that the slowest follower of them lacks.
    pub lag: u64,
    /// The sum of their leader epochs: it grows whenever one of them is led anew.
    pub epochs: u64,
    /// Partitions with damaged records.
    pub damaged: u64,
    /// Partitions that it leads with damage on two copies of which neither can be put back from the other.
    pub stalemates: u64,
    /// Partitions that belong here and are not open.
    pub unopened: u64,
    /// Times that an in-sync set lost members.
    pub shrinks: u64,
    /// Times that an in-sync set gained members.
    pub expands: u64,
}

/// The partitions of one node.
pub struct Directory<R: Runtime> {
    pub(super) runtime: R,
    pub(super) settings: Settings,
    pub(super) health: Arc<Health>,
    pub(super) flusher: Arc<Flusher<R>>,
    pub(super) space: SpaceGuard,
    /// Given back at the shutdown, so that the broker can mark it clean.
    data_dir: Mutex<Option<Arc<DataDir<R::Disk>>>>,
    /// Replaced as a whole, read for the time of copying a pointer.
    table: RwLock<Arc<Table<R>>>,
    /// The newest image that was applied, or is being applied.
    seen: RwLock<Arc<Image>>,
    /// The image that the table mirrors. Held while one is applied.
    pub(super) applied: tokio::sync::Mutex<Arc<Image>>,
    /// Partitions that did not open are watched.
    pub(super) watches_unopened: AtomicBool,
    is_stopping: AtomicBool,
    /// Nobody waits for more records any longer.
    waits_no_more: AtomicBool,
    stop: Notify,
    /// Who is to be told what.
    pub(super) hub: Arc<Hub>,
    pub(super) links: OnceLock<Arc<Links>>,
    /// Says why what is kept beside the partitions failed.
    depends_on: OnceLock<Failed>,
    /// The run of the machine could not be noted yet.
    notes_boot: AtomicBool,
    /// Paces what replicas take in that only come: nothing more before this moment.
    pub(super) moves_paced: Mutex<Mono>,
    /// Leaders that have a fetcher.
    fetching: Mutex<BTreeSet<BrokerId>>,
    /// Held while logs are cleaned. Logs that are damaged and not to be cleaned.
    pub(super) cleaning: tokio::sync::Mutex<BTreeSet<cleaner::Name>>,
    pub(super) cleaned: cleaner::Counters,
}

/// Why the directory was not closed cleanly. The data directory must not be marked clean then.
#[derive(Debug, thiserror::Error)]
pub enum NotClean {
    /// A partition could not be closed.
    #[error("{partition} was not closed cleanly: {error}")]
    Close {
        /// Which.
        partition: String,
        /// Why.
        error: CloseError,
    },
    /// A partition was never opened: its files were not looked at.
    #[error("not every partition could be opened")]
    NotOpened,
    /// The data directory failed.
    #[error("the data directory is offline: {0}")]
    Offline(String),
}

/// Says why something failed, if it did.
type Failed = Box<dyn Fn() -> Option<String> + Send + Sync>;

impl<R: Runtime> Drop for Directory<R> {
    fn drop(&mut self) {
        self.flusher.forget();
    }
}

impl<R: Runtime> Directory<R> {
    /// Opens every partition that `image` places on this node and starts to flush and to tidy.
    ///
    /// # Errors
    /// [`NotStarted`]: the metadata cannot be that of this data directory. A partition that does not open is no
    /// error here: it answers KAFKA_STORAGE_ERROR and the rest serves.
    pub async fn start(
        runtime: R,
        settings: Settings,
        data_dir: Arc<DataDir<R::Disk>>,
        image: Arc<Image>,
    ) -> Result<Arc<Directory<R>>, NotStarted> {
        open::remove_strays(&data_dir, &image, settings.me).await?;
        let health = Arc::new(Health::default());
        let reserve = settings.min_free_bytes;
        let directory = Arc::new(Directory {
            flusher: Flusher::new(runtime.clone(), health.clone()),
            health,
            // A quarter above the mark before writes are taken again, so that the switch does not flutter.
            space: SpaceGuard::new(reserve, reserve.saturating_add(reserve / 4)),
            data_dir: Mutex::new(Some(data_dir)),
            table: RwLock::new(Arc::new(Table { by_id: BTreeMap::new(), by_name: BTreeMap::new() })),
            seen: RwLock::default(),
            applied: tokio::sync::Mutex::new(Arc::new(Image::default())),
            watches_unopened: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            waits_no_more: AtomicBool::new(false),
            stop: Notify::new(),
            hub: Arc::default(),
            links: OnceLock::new(),
            depends_on: OnceLock::new(),
            notes_boot: AtomicBool::new(false),
            moves_paced: Mutex::default(),
            fetching: Mutex::default(),
            cleaning: tokio::sync::Mutex::default(),
            cleaned: cleaner::Counters::default(),
            runtime: runtime.clone(),
            settings,
        });
        runtime.spawn("flusher", directory.flusher.clone().run());
        directory.apply(&image).await;
        let (space, every) = (directory.space.clone(), directory.settings.retention_every);
        if let Err(error) = space.hold_reserve(runtime.disk()).await {
            directory.health.mind("the reserve", &error);
        }
        runtime.spawn("room-watch", retention::watch_room(runtime.clone(), space, directory.clone()));
        runtime.spawn("retention", retention::run(runtime.clone(), every, directory.clone()));
        runtime.spawn("scrub", scrub::run(directory.clone()));
        Ok(directory)
    }

    /// Brings the partitions in line with `image`; returns when what it asks for is served (or has failed).
    pub async fn apply(self: &Arc<Self>, image: &Arc<Image>) {
        let mut applied = self.applied.lock().await;
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = image.clone();
        self.see_lives(image);
        let delta = Delta::between(&applied, image);
        for topic in &delta.deleted {
            self.delete(topic).await;
        }
        let defaults = self.defaults(image);
        if delta.broker_configs {
            for topic in image.topics() {
                self.configure(topic, &defaults);
            }
        }
        let mut grown: Vec<Arc<Topic>> = delta.created.clone();
        for changed in &delta.changed {
            if changed.configs_changed() {
                self.configure(&changed.new, &defaults);
            }
            self.assign(&changed.new).await;
            grown.push(changed.new.clone());
        }
        self.open(&grown, &defaults).await;
        *applied = image.clone();
        drop(applied);
        self.fetch_from_all();
    }

    /// Begins to replicate: to fetch what this node follows, and to keep the in-sync sets of what it leads. Call once,
    /// after this life of the broker is registered.
    pub fn connect(self: &Arc<Self>, links: Links) {
        let links = Arc::new(links);
        assert!(self.links.set(links.clone()).is_ok(), "a directory is connected once");
        self.runtime.spawn("in-sync-sets", insync::run(self.clone(), links));
        self.fetch_from_all();
    }

    /// Starts the fetchers that are missing.
    pub(super) fn fetch_from_all(self: &Arc<Self>) {
        let Some(links) = self.links.get() else { return };
        for leader in self.hub.leaders() {
            let is_new = self.fetching.lock().unwrap_or_else(PoisonError::into_inner).insert(leader);
            if let Some(feed) = self.hub.feed(leader).filter(|_| is_new) {
                let fetcher = Fetcher::new(self.clone(), links.clone(), leader, feed);
                self.runtime.spawn("replica-fetcher", fetcher.run());
            }
        }
    }

    /// The lives of brokers before anything that is decided with them.
    fn see_lives(&self, image: &Image) {
        let live = image.brokers().filter(|broker| broker.is_live()).map(|broker| (broker.id, broker.epoch));
        if self.hub.see_live(live.collect()) {
            self.partitions().iter().for_each(Partition::see_lives);
        }
    }

    /// What its partitions share.
    pub(super) fn shared(&self) -> Shared<R> {
        Shared {
            runtime: self.runtime.clone(),
            health: self.health.clone(),
            flusher: self.flusher.clone(),
            hub: self.hub.clone(),
        }
    }

    /// The open partition of this name for ever.
    pub(super) fn partition(&self, place: Place) -> Option<Arc<Partition<R>>> {
        self.table().with_id(place.topic)?.partition(place.partition).ok().cloned()
    }

    /// This node.
    pub fn me(&self) -> BrokerId {
        self.settings.me
    }

    /// The metadata that was acted on, or is being acted on.
    pub fn image(&self) -> Arc<Image> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every topic and its partitions, as they are now.
    pub fn table(&self) -> Arc<Table<R>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every open partition.
    pub fn partitions(&self) -> Vec<Arc<Partition<R>>> {
        self.table().topics().flat_map(|topic| topic.partitions().cloned().collect::<Vec<_>>()).collect()
    }

    /// Bytes that were appended and that no finished sync covers: what a power cut now could take from topics that
    /// are not durable.
    pub fn unsynced_bytes(&self) -> u64 {
        self.table()
            .topics()
            .flat_map(|topic| topic.partitions())
            .map(|one| one.view().unsynced_bytes())
            .sum()
    }

    /// How its partitions are replicated now. O(partitions).
    pub fn replication(&self) -> Replication {
        let mut seen = Replication {
            shrinks: self.hub.shrinks.load(Ordering::Relaxed),
            expands: self.hub.expands.load(Ordering::Relaxed),
            unopened: self.table().unopened().len() as u64,
            ..Replication::default()
        };
        for partition in self.partitions() {
            partition.count_replication(&mut seen);
        }
        seen
    }

    /// Whether the data directory failed.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// The refusal of writes while the disk is nearly full.
    pub fn space(&self) -> &SpaceGuard {
        &self.space
    }

    /// What the log cleaner did.
    pub fn cleaned(&self) -> &cleaner::Counters {
        &self.cleaned
    }

    /// What syncs are done.
    pub fn flusher(&self) -> &Arc<Flusher<R>> {
        &self.flusher
    }

    /// A stop begins: whoever waits for more records is answered with what there is, now and from now on.
    pub fn end_waits(&self) {
        self.waits_no_more.store(true, Ordering::SeqCst);
        self.partitions().iter().for_each(|partition| partition.view().wake());
    }

    /// Whether nobody is to wait for more records any longer.
    pub fn waits_no_more(&self) -> bool {
        self.waits_no_more.load(Ordering::SeqCst)
    }

    /// Stops serving, flushes and closes every log. Call once, when no request is being answered.
    ///
    /// # Errors
    /// [`NotClean`]: the first of what went wrong; everything that could be closed is.
    pub async fn shutdown(self: &Arc<Self>) -> Result<(), NotClean> {
        self.is_stopping.store(true, Ordering::Release);
        self.stop.notify_waiters();
        self.hub.wake_all();
        drop(self.cleaning.lock().await); // it ends within one piece, and writes nothing after
        self.flusher.stop().await;
        let _applied = self.applied.lock().await;
        drop(self.data_dir.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut result = match self.health.failure() {
            Some(reason) => Err(NotClean::Offline(reason)),
            None if !self.table().unopened().is_empty() => Err(NotClean::NotOpened),
            None => Ok(()),
        };
        for (partition, error) in open::close_all(&self.runtime, self.partitions()).await {
            tracing::error!(partition, %error, "a log was not closed cleanly");
            result = result.and(Err(NotClean::Close { partition, error }));
        }
        result
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Sleeps until `at` or until the directory stops.
    pub(super) async fn pause_until(&self, at: Mono) {
        let stop = self.stop.notified(); // before the look, so that no stop is missed
        if !self.is_stopping() {
            self.runtime.before(at, stop).await;
        }
    }

    fn replace(&self, change: impl FnOnce(&mut Table<R>)) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Table::clone(&table);
        change(&mut next);
        assert_eq!(next.by_id.len(), next.by_name.len(), "one name a topic");
        *table = Arc::new(next);
    }

    async fn delete(&self, topic: &Arc<Topic>) {
        let Some(entry) = self.table().with_id(topic.id).cloned() else { return };
        self.replace(|table| {
            table.by_id.remove(&topic.id);
            if table.by_name.get(&topic.name) == Some(&topic.id) {
                table.by_name.remove(&topic.name);
            }
        });
        for partition in entry.partitions() {
            self.hub.follow(partition.place(), BrokerId::NONE);
            partition.abandon(Resigned::Deleted).await;
        }
        // A sync that runs now may still rename small files of these partitions.
        self.flusher.settled().await;
        let Some(data_dir) = self.data_dir() else { return };
        // Also of those that did not open: half of their files may be there.
        for (index, _) in topic.partitions() {
            if let Err(error) = data_dir.remove_partition(topic.id, index).await {
                self.health.mind(&topic.name, &error);
                tracing::warn!(topic = &*topic.name, %index, %error, "its files stay until the next start");
            }
        }
        tracing::info!(topic = &*topic.name, id = %topic.id, "the topic is deleted");
    }

    fn configure(&self, topic: &Topic, defaults: &BrokerDefaults) {
        let Some(entry) = self.table().with_id(topic.id).cloned() else { return };
        let config = TopicConfig::resolve(&topic.configs, defaults);
        if config == *entry.config {
            return;
        }
        let (log, policy) = (config.log_config(), config.policy());
        for partition in entry.partitions() {
            partition.configure(log.clone(), policy);
        }
        self.replace(|table| {
            let changed = TopicEntry {
                config: Arc::new(config),
                id: entry.id,
                name: entry.name.clone(),
                slots: entry.slots(),
            };
            table.by_id.insert(entry.id, Arc::new(changed));
        });
    }

    /// Brings the partitions of a topic that are here in line with where the metadata places them.
    async fn assign(self: &Arc<Self>, topic: &Arc<Topic>) {
        let Some(entry) = self.table().with_id(topic.id).cloned() else { return };
        for (index, slot) in (0..).map(PartitionId).zip(&entry.slots) {
            match (slot, open::assignment(topic, index, self.settings.me)) {
                (Slot::Ready(partition), Some(assignment)) => {
                    if let Err(error) = partition.assign(&assignment).await {
                        tracing::error!(partition = partition.name(), %error, "the log refuses its new leader epoch");
                        partition.resign(Resigned::Moved);
                    }
                }
                (Slot::Ready(partition), None) => {
                    tracing::info!(
                        partition = partition.name(),
                        "removed: this node is no replica of it any more"
                    );
                    self.remove(topic.id, index, partition).await;
                }
                (Slot::Elsewhere, Some(assignment)) => {
                    let config = entry.config.clone();
                    let job = self.job(topic.clone(), index, Some(assignment), config);
                    let slot = open::open(self, &job).await;
                    self.put(vec![(job, slot)]).await;
                }
                (Slot::Unopened(_), None) => {
                    self.replace(|table| table.vacate(topic.id, index));
                    self.remove_files(topic.id, index).await;
                }
                (Slot::Elsewhere, None) | (Slot::Unopened(_), Some(_)) => {}
            }
        }
    }

    /// Takes a partition out of service and removes its log for good; returns whether nothing of it is left.
    async fn remove(&self, topic: TopicId, index: PartitionId, partition: &Arc<Partition<R>>) -> bool {
        self.replace(|table| table.vacate(topic, index));
        self.hub.follow(partition.place(), BrokerId::NONE);
        // The topic is still there: who waits finds the partition elsewhere.
        partition.abandon(Resigned::Moved).await;
        // A sync that runs now may still rename small files of it.
        self.flusher.settled().await;
        self.remove_files(topic, index).await
    }

    pub(super) async fn remove_files(&self, topic: TopicId, index: PartitionId) -> bool {
        let Some(data_dir) = self.data_dir() else { return false };
        let Err(error) = data_dir.remove_partition(topic, index).await else { return true };
        self.health.mind(&format!("{topic}-{index}"), &error);
        tracing::warn!(%topic, %index, %error, "the files of a partition stay until the next start");
        false
    }

    /// Puts partitions into the table. From here on they are written, so that the last clean stop must not speak of them
    /// any more. One that follows tells its position now: a fetcher that was woken while it was opened did not find it
    /// yet, and what is told of nothing is never counted.
    pub(super) async fn show(&self, opened: Vec<(Job, Slot<R>)>) {
        let ready = opened.iter().filter(|(_, slot)| matches!(slot, Slot::Ready(_)));
        let names: Vec<_> = ready.map(|(job, _)| (job.topic.id, job.index)).collect();
        if let Some(data_dir) = self.data_dir()
            && let Err(error) = data_dir.opened(&names).await
        {
            self.health.fail(&format!("that its partitions are open could not be written down: {error}"));
        }
        for (job, slot) in opened {
            self.replace(|table| table.put(&job, slot));
            self.hub.tell_again(Place { topic: job.topic.id, partition: job.index });
        }
    }

    /// Gives up the log of a follower, because nothing of it can be kept, and begins another at `base`.
    pub(super) async fn restart(self: &Arc<Self>, place: Place, partition: &Arc<Partition<R>>, base: Offset) {
        let applied = self.applied.lock().await;
        let is_here = self.partition(place).is_some_and(|now| Arc::ptr_eq(&now, partition));
        let Some(topic) = applied.topic(place.topic).cloned() else { return };
        let assignment = open::assignment(&topic, place.partition, self.settings.me);
        let Some(assignment) = assignment.filter(|assignment| !assignment.leads()) else { return };
        if self.is_stopping() || !is_here || !partition.is_following() {
            return;
        }
        mark!("a follower begins its log anew");
        tracing::warn!(partition = partition.name(), %base, "its log begins anew: nothing of it agrees with the leader's");
        let Some(config) = self.table().with_id(place.topic).map(|entry| entry.config.clone()) else {
            return;
        };
        let is_gone = self.remove(place.topic, place.partition, partition).await;
        let job = Job { begin_at: Some(base), ..self.job(topic, place.partition, Some(assignment), config) };
        let slot = if is_gone { open::open(self, &job).await } else { Slot::Unopened(Unopened::Refused) };
        self.put(vec![(job, slot)]).await;
        self.hub.renew(place);
    }

    /// Takes the directory offline once `failed` says why: what is kept beside the partitions could not be made durable.
    pub fn depend_on(&self, failed: impl Fn() -> Option<String> + Send + Sync + 'static) {
        assert!(self.depends_on.set(Box::new(failed)).is_ok(), "it depends on one thing");
    }

    pub(super) fn look_beside(&self) {
        if let Some(why) = self.depends_on.get().and_then(|failed| failed()) {
            self.health.fail(&why);
        }
    }

    /// Which partitions are open.
    pub fn open_partitions(&self) -> Vec<(TopicId, PartitionId)> {
        let name =
            |partition: &Arc<Partition<R>>| (partition.identity().topic_id, partition.identity().partition);
        self.partitions().iter().map(name).collect()
    }

    /// Remembers the run of the machine now, or as soon as there is room: all that this node places is open, or listed.
    pub fn note_boot(&self) {
        let noted = self.data_dir().map_or(Ok(()), |data_dir| data_dir.note_boot());
        let is_known = self.notes_boot.swap(noted.is_err(), Ordering::AcqRel);
        if let Err(error) = noted
            && !is_known
        {
            tracing::warn!(
                %error,
                "this run of the machine is not remembered: the next start believes less of an unsynced tail"
            );
        }
    }

    pub(super) fn owes_note(&self) -> bool {
        self.notes_boot.load(Ordering::Acquire)
    }

    fn data_dir(&self) -> Option<Arc<DataDir<R::Disk>>> {
        self.data_dir.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn job(
        &self,
        topic: Arc<Topic>,
        index: PartitionId,
        assignment: Option<Assignment>,
        config: Arc<TopicConfig>,
    ) -> Job {
        // Without a data directory this node stops, and nothing is opened.
        let last_stop = self.data_dir().map_or(LastStop::POWER_CUT, |dir| dir.last_stop(topic.id, index));
        Job { topic, index, assignment, begin_at: None, config, last_stop }
    }

    /// Opens what `topics` place here and is not open, then puts it into the table.
    async fn open(self: &Arc<Self>, topics: &[Arc<Topic>], defaults: &BrokerDefaults) {
        let mut jobs = Vec::new();
        for topic in topics {
            let known = self.table().with_id(topic.id).map_or(0, |entry| entry.slots.len());
            let config = Arc::new(TopicConfig::resolve(&topic.configs, defaults));
            for (index, _) in topic.partitions().skip(known) {
                let assignment = open::assignment(topic, index, self.settings.me);
                jobs.push(self.job(topic.clone(), index, assignment, config.clone()));
            }
        }
        let opened = open::open_all(self, jobs).await;
        self.put(opened).await;
    }
}

impl<R: Runtime> Table<R> {
    /// Puts a partition of its topic in its place: a vacant one, or the next.
    fn put(&mut self, job: &Job, slot: Slot<R>) {
        let (id, name) = (job.topic.id, job.topic.name.clone());
        let mut slots = self.by_id.get(&id).map(|entry| entry.slots()).unwrap_or_default();
        let at = usize::try_from(job.index.0).expect("indexes begin at 0");
        match slots.get_mut(at) {
            Some(vacant) => {
                assert!(!matches!(vacant, Slot::Ready(_)), "{name}-{} is here already", job.index);
                *vacant = slot;
            }
            None => {
                assert_eq!(slots.len(), at, "partitions of {name} are added in order");
                slots.push(slot);
            }
        }
        let entry = TopicEntry { id, name: name.clone(), config: job.config.clone(), slots };
        self.by_id.insert(id, Arc::new(entry));
        self.by_name.insert(name, id);
    }

    /// Takes a partition out of its place.
    fn vacate(&mut self, topic: TopicId, index: PartitionId) {
        let Some(entry) = self.by_id.get(&topic) else { return };
        let mut slots = entry.slots();
        let at = usize::try_from(index.0).expect("indexes begin at 0");
        slots[at] = Slot::Elsewhere;
        let (id, name, config) = (entry.id, entry.name.clone(), entry.config.clone());
        self.by_id.insert(topic, Arc::new(TopicEntry { id, name, config, slots }));
    }
}

impl<R: Runtime> TopicEntry<R> {
    fn slots(&self) -> Vec<Slot<R>> {
        self.slots.iter().map(Slot::clone).collect()
    }
}

impl<R: Runtime> Clone for Slot<R> {
    fn clone(&self) -> Slot<R> {
        match self {
            Slot::Ready(partition) => Slot::Ready(partition.clone()),
            Slot::Elsewhere => Slot::Elsewhere,
            Slot::Unopened(why) => Slot::Unopened(*why),
        }
    }
}
