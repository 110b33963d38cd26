//! The cluster at one metadata offset: an immutable picture that everyone may keep.
//!
//! Owns: [`Image`] and what it is made of, and the questions that one may ask it.
//! Promises: a published image never changes; a new one shares everything that did not change with the old one
//! (a topic that was not touched is the same `Arc`), so that keeping many and comparing two is cheap.
//! Leaves out: how it changes (`replay`), what changed (`delta`).
//! Called by every API, by `replica::Directory` and by `controller::decide`.
//!
//! ```text
//!  Image ─► topics: id ─► Arc<Topic> ─► partitions, configs
//!        ─► names: name ─► id            (all Arcs: one changed topic copies one map of pointers)
//!        ─► brokers, broker configs, features, next producer id
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use dejaq_storage::mutant;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionId, ProducerId, TopicId};
use dejaq_wire::topic_name::collision_key;

use super::config_table::{TopicConfigDef, find, find_by_broker_name};
use super::level::of_config;
use super::record::PartitionState;
pub use super::record::{Endpoint, UncleanReason};
use super::topic_config::{BrokerDefaults, Overrides};

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Brokers that hold it, the preferred leader first; not empty, no broker twice. During a reassignment: the
    /// target, then what is to go.
    pub replicas: Arc<[BrokerId]>,
    /// ⊆ `replicas`. Empty only while nobody leads.
    pub isr: Arc<[BrokerId]>,
    /// ∈ `isr`, or [`BrokerId::NONE`].
    pub leader: BrokerId,
    /// Never goes back; (offset, epoch) names one record for ever.
    pub leader_epoch: LeaderEpoch,
    /// Counts changes of this partition.
    pub partition_epoch: i32,
    /// ⊆ `replicas`, apart from `isr`: left it while it was below `min.insync.replicas`, so that nothing was committed
    /// without them (KIP-966).
    pub elr: Arc<[BrokerId]>,
    /// ⊆ `replicas`, apart from `isr` and `elr`: were eligible until they stopped uncleanly, the latest last.
    pub last_known_elr: Arc<[BrokerId]>,
    /// ⊆ `replicas`: a reassignment adds them.
    pub adding: Arc<[BrokerId]>,
    /// ⊆ `replicas`, apart from `adding`: a reassignment takes them away once the rest is in sync.
    pub removing: Arc<[BrokerId]>,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Id of this life of the topic.
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// Its partitions by index; not empty.
    pub partitions: Arc<Vec<Partition>>,
    /// What was set on it.
    pub configs: Arc<Overrides>,
}

impl Topic {
    /// The partition of this index.
    #[must_use]
    pub fn partition(&self, index: PartitionId) -> Option<&Partition> {
        usize::try_from(index.0).ok().and_then(|at| self.partitions.get(at))
    }

    /// Its partitions with their indexes.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &Partition)> {
        (0..).map(PartitionId).zip(self.partitions.iter())
    }

    /// Whether the broker itself made it for its own use. Clients may read such a topic, but not write or delete it.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        is_internal(&self.name)
    }
}

/// Whether a name is reserved for a topic that the broker makes for itself.
#[must_use]
pub fn is_internal(name: &str) -> bool {
    matches!(
        name,
        "__consumer_offsets" | "__transaction_state" | "__share_group_state" | "__cluster_metadata"
    )
}

/// One broker that has registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its number.
    pub id: BrokerId,
    /// Its current life.
    pub epoch: BrokerEpoch,
    /// The newest of its lives that was let in, and in which it could come to hold what was acknowledged; none before that.
    pub let_in: BrokerEpoch,
    /// Drawn by its process at the start.
    pub incarnation: u128,
    /// Where clients reach it.
    pub endpoints: Vec<Endpoint>,
    /// Where it stands.
    pub rack: Option<String>,
    /// Names its data directory; zero if it was not told.
    pub directory_id: [u8; 16],
    /// Nobody hears it: it leads nothing and is in no in-sync set.
    pub fenced: bool,
    /// It is about to stop: it leads nothing and is in no in-sync set.
    pub shutting_down: bool,
    /// Its replicas move away, and none come.
    pub draining: bool,
}

impl Broker {
    /// Where other brokers reach it, as `host:port`.
    #[must_use]
    pub fn peer_address(&self) -> Option<String> {
        let Endpoint { host, port, .. } = self.peer_endpoint()?;
        Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    }

    /// Whether it may lead and be in sync.
    #[must_use]
    pub fn is_live(&self) -> bool {
        // The planted bug M294: who is about to stop is like any other.
        !self.fenced && (!self.shutting_down || mutant!(294))
    }

    /// Where other brokers reach it; `None` for a broker that stands alone.
    #[must_use]
    pub fn peer_endpoint(&self) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.listener == PEER_LISTENER)
    }
}

/// Name of the listener by which brokers reach each other; clients are never told of it.
pub const PEER_LISTENER: &str = "PEER";

/// An election that may have lost something, the latest of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Who was elected.
    pub leader: BrokerId,
    /// From which leader epoch on.
    pub leader_epoch: LeaderEpoch,
    /// Why it may lack something.
    pub reason: UncleanReason,
}

/// The cluster at one metadata offset. Clones are cheap and equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub(super) end: Offset,
    pub(super) cluster_id: Option<Arc<str>>,
    pub(super) topics: Arc<BTreeMap<TopicId, Arc<Topic>>>,
    pub(super) names: Arc<BTreeMap<Arc<str>, TopicId>>,
    /// Names with a `.` or `_` by their collision key; two names never share one.
    pub(super) collisions: Arc<BTreeMap<String, Arc<str>>>,
    pub(super) partition_count: usize,
    pub(super) brokers: Arc<BTreeMap<BrokerId, Arc<Broker>>>,
    pub(super) broker_configs: Arc<BTreeMap<Option<BrokerId>, Overrides>>,
    pub(super) features: Arc<BTreeMap<String, i16>>,
    pub(super) next_producer_id: ProducerId,
    pub(super) last_broker_epoch: BrokerEpoch,
    /// Whether replicas flow to where fewer are.
    pub(super) rebalancing: bool,
    pub(super) losses: Arc<BTreeMap<(TopicId, PartitionId), Loss>>,
}

impl Default for Image {
    fn default() -> Image {
        Image {
            end: Offset::ZERO,
            cluster_id: None,
            topics: Arc::default(),
            names: Arc::default(),
            collisions: Arc::default(),
            partition_count: 0,
            brokers: Arc::default(),
            broker_configs: Arc::default(),
            features: Arc::default(),
            next_producer_id: ProducerId(0),
            last_broker_epoch: BrokerEpoch(0),
            rebalancing: false,
            losses: Arc::default(),
        }
    }
}

impl Image {
    /// The metadata offset after the last record that is in it.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The cluster's id, once its first active controller has given it one.
    #[must_use]
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// Every topic, by id.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// Every topic, by name, in the order of the names.
    pub fn topics_by_name(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.names.values().map(|id| self.topics.get(id).expect("every name leads to a topic"))
    }

    /// Every topic whose name is not before `start`, in the order of the names.
    pub fn topics_from<'a>(&'a self, start: &str) -> impl Iterator<Item = &'a Arc<Topic>> {
        let from = (std::ops::Bound::Included(start), std::ops::Bound::Unbounded);
        let ids = self.names.range::<str, _>(from).map(|(_, id)| id);
        ids.map(|id| self.topics.get(id).expect("every name leads to a topic"))
    }

    /// The topic of this id.
    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    /// The topic of this name.
    #[must_use]
    pub fn topic_named(&self, name: &str) -> Option<&Arc<Topic>> {
        self.names.get(name).map(|id| self.topics.get(id).expect("every name leads to a topic"))
    }

    /// The existing name with which a new name would collide (`a.b` and `a_b`), which may be the name itself.
    #[must_use]
    pub fn collides_with(&self, name: &str) -> Option<&str> {
        if let Some((same, _)) = self.names.get_key_value(name) {
            return Some(same);
        }
        if !may_collide(name) {
            return None;
        }
        self.collisions.get(&collision_key(name)).map(|found| &**found)
    }

    /// Number of topics.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Number of partitions of all topics.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// Every broker, by id.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// The broker of this number.
    #[must_use]
    pub fn broker(&self, id: BrokerId) -> Option<&Arc<Broker>> {
        self.brokers.get(&id)
    }

    /// What was set at run time for one broker (`Some`) or for all of them (`None`).
    #[must_use]
    pub fn broker_configs(&self, broker: Option<BrokerId>) -> Option<&Overrides> {
        self.broker_configs.get(&broker)
    }

    /// What topics get from brokers: `settings` of the broker that asks, and what was set at run time. What must be the same
    /// everywhere ([`TopicConfigDef::is_same_everywhere`]) one broker says for itself only while there is no other.
    #[must_use]
    pub fn broker_defaults(&self, broker: BrokerId, settings: &Overrides) -> BrokerDefaults {
        let of = |key| self.broker_configs.get(&key).cloned().unwrap_or_default();
        let (mut broker, mut settings) = (of(Some(broker)), settings.clone());
        settings.retain(|name, _| of_config(name) <= self.level()); // else brokers of the release before promise something else
        if self.is_shared() {
            broker
                .retain(|name, _| !find_by_broker_name(name).is_some_and(TopicConfigDef::is_same_everywhere));
            settings.retain(|name, _| !find(name).is_some_and(TopicConfigDef::is_same_everywhere));
        }
        BrokerDefaults { broker, all_brokers: of(None), settings }
    }

    /// Whether more than one broker is registered.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.brokers.len() > 1
    }

    /// Every feature that is on, with its level.
    pub fn features(&self) -> impl Iterator<Item = (&str, i16)> {
        self.features.iter().map(|(name, level)| (name.as_str(), *level))
    }

    /// The level of one feature, if it is on.
    #[must_use]
    pub fn feature(&self, name: &str) -> Option<i16> {
        self.features.get(name).copied()
    }

    /// First producer id that no block holds yet.
    #[must_use]
    pub fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// The largest broker epoch that was handed out.
    #[must_use]
    pub fn last_broker_epoch(&self) -> BrokerEpoch {
        self.last_broker_epoch
    }

    /// Whether this broker is registered, not fenced and not about to stop.
    #[must_use]
    pub fn is_live(&self, id: BrokerId) -> bool {
        self.broker(id).is_some_and(|broker| broker.is_live())
    }

    /// Whether replicas flow to where fewer are, until all brokers hold the same number to within one.
    #[must_use]
    pub fn is_rebalancing(&self) -> bool {
        self.rebalancing
    }

    /// The latest election of each partition that may have lost something, if there was one.
    pub fn losses(&self) -> impl Iterator<Item = (TopicId, PartitionId, &Loss)> {
        self.losses.iter().map(|((topic, partition), loss)| (*topic, *partition, loss))
    }

    /// What must be true of every image; O(everything), for tests and the simulator.
    pub fn check_deep(&self) {
        assert_eq!(self.names.len(), self.topics.len(), "one name a topic");
        let mut partitions = 0;
        for topic in self.topics.values() {
            assert_eq!(self.names.get(&topic.name), Some(&topic.id), "{}", topic.name);
            assert!(!topic.partitions.is_empty(), "{} has no partitions", topic.name);
            topic.partitions.iter().for_each(Partition::check);
            for (index, partition) in topic.partitions() {
                // MQ-15: who may not lead is in no in-sync set.
                for member in partition.isr.iter() {
                    let known = self.broker(*member).is_none_or(|broker| broker.is_live());
                    assert!(known, "{member:?} is fenced or stopping, and in sync in {}-{index}", topic.name);
                }
            }
            partitions += topic.partitions.len();
        }
        assert_eq!(self.partition_count, partitions, "the count is kept along");
        let colliding = self.names.keys().filter(|name| may_collide(name)).count();
        assert_eq!(self.collisions.len(), colliding, "no two names share a collision key");
        let newest = self.brokers.values().map(|broker| broker.epoch).max();
        assert!(newest <= Some(self.last_broker_epoch), "{newest:?} > {:?}", self.last_broker_epoch);
    }
}

impl Partition {
    /// What must be true of every partition.
    pub fn check(&self) {
        if let Err(why) = self.state().sound() {
            panic!("{why}: {self:?}");
        }
    }

    /// Its state as a record states it.
    #[must_use]
    pub fn state(&self) -> PartitionState {
        PartitionState {
            replicas: self.replicas.to_vec(),
            isr: self.isr.to_vec(),
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            elr: self.elr.to_vec(),
            last_known_elr: self.last_known_elr.to_vec(),
            adding: self.adding.to_vec(),
            removing: self.removing.to_vec(),
        }
    }

    /// Whether a reassignment is under way.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The replicas that it will have when its reassignment, if there is one, is done.
    #[must_use]
    pub fn target(&self) -> Vec<BrokerId> {
        self.replicas.iter().copied().filter(|replica| !self.removing.contains(replica)).collect()
    }

    /// The replicas that it had before its reassignment, if there is one.
    #[must_use]
    pub fn original(&self) -> Vec<BrokerId> {
        self.replicas.iter().copied().filter(|replica| !self.adding.contains(replica)).collect()
    }
}

pub(super) fn may_collide(name: &str) -> bool {
    name.contains(['.', '_'])
}
