//! Applies records to an image: the one place where metadata changes.
//!
//! Owns: what each record does.
//! Promises: a function of image and records alone, the same on every node; a record that does not fit is refused
//! whole, and the caller must stop (MQ-18): it means that two nodes disagree, or that the log is not ours.
//! Leaves out: bytes (`record`), durability (`controller::driver`).
//! Called by the driver at start, for all of the log, and after every sync, for what was written; by
//! `controller::decide` to see the effect of its own records.

use std::collections::BTreeMap;
use std::sync::Arc;

use dejaq_wire::ids::{BrokerEpoch, BrokerId, Offset, PartitionId, ProducerId, TopicId};
use dejaq_wire::topic_name::collision_key;

use super::image::{Broker, Image, Loss, Partition, Topic, may_collide};
use super::record::{
    BrokerRegistered, BrokerStateChanged, BrokerUnregistered, ClusterNamed, ConfigChanged, FeatureLevelSet,
    LeadershipsRestarted, PartitionChanged, PartitionState, PartitionsAdded, ProducerIdsAllocated, Record,
    Resource, TopicCreated, TopicDeleted, UncleanElected,
};

/// Why a record does not fit its image. Fatal: the node must not go on (MQ-18).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inapplicable {
    /// Names a topic that is not there.
    #[error("{what} names topic {topic_id}, which does not exist")]
    NoTopic {
        /// Kind of record.
        what: &'static str,
        /// The topic.
        topic_id: TopicId,
    },
    /// Creates what is there already.
    #[error("topic {name} ({topic_id}) is created, but its id or name is taken by {taken}")]
    Taken {
        /// The new name.
        name: String,
        /// The new id.
        topic_id: TopicId,
        /// The name that is there.
        taken: String,
    },
    /// Names a partition that is not there, or leaves a gap.
    #[error("{what} names partition {partition} of {topic}, which has {count}")]
    NoPartition {
        /// Kind of record.
        what: &'static str,
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// How many there are.
        count: usize,
    },
    /// The state of a partition contradicts itself or goes back.
    #[error("partition {partition} of {topic}: {why}")]
    BadState {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// What is wrong.
        why: String,
    },
    /// A number that may only grow did not.
    #[error("{what} went back: {old} to {new}")]
    WentBack {
        /// Which number.
        what: &'static str,
        /// What it was.
        old: i64,
        /// What it would be.
        new: i64,
    },
    /// The cluster has another id.
    #[error("the cluster is {old}, and is named {new}")]
    Renamed {
        /// Its id.
        old: String,
        /// What it would be.
        new: String,
    },
    /// Names a life of a broker that is not its current one.
    #[error("{broker:?} with epoch {epoch} is not the registered life of that broker")]
    NoBroker {
        /// Which broker.
        broker: BrokerId,
        /// Which life.
        epoch: i64,
    },
}

impl Image {
    /// The image after these records, the last of which lies before `end`.
    ///
    /// # Errors
    /// [`Inapplicable`]: stop the node. `self` is as it was.
    pub fn after(&self, records: &[Record], end: Offset) -> Result<Image, Inapplicable> {
        assert!(end >= self.end, "the metadata log only grows: {:?} to {end:?}", self.end);
        let mut image = self.clone();
        for record in records {
            image.apply(record)?;
        }
        image.end = end;
        Ok(image)
    }

    /// Applies one record in place. After an error the image is not to be used.
    ///
    /// # Errors
    /// [`Inapplicable`]: stop the node.
    pub fn apply(&mut self, record: &Record) -> Result<(), Inapplicable> {
        match record {
            Record::TopicCreated(created) => self.topic_created(created),
            Record::TopicDeleted(deleted) => self.topic_deleted(deleted),
            Record::PartitionsAdded(added) => self.partitions_added(added),
            Record::PartitionChanged(changed) => self.partition_changed(changed),
            Record::LeadershipsRestarted(restarted) => self.leaderships_restarted(restarted),
            Record::ConfigChanged(changed) => self.config_changed(changed),
            Record::ProducerIdsAllocated(allocated) => self.producer_ids_allocated(allocated),
            Record::BrokerRegistered(registered) => self.broker_registered(registered),
            Record::FeatureLevelSet(set) => {
                self.feature_level_set(set);
                Ok(())
            }
            Record::BrokerStateChanged(changed) => self.broker_state_changed(changed),
            Record::BrokerUnregistered(gone) => self.broker_unregistered(gone),
            Record::DrainChanged(changed) => {
                let broker = self.broker_mut(changed.broker, BrokerEpoch::NONE)?;
                broker.draining = changed.draining;
                Ok(())
            }
            Record::RebalanceChanged(changed) => {
                self.rebalancing = changed.active;
                Ok(())
            }
            Record::UncleanElected(elected) => self.unclean_elected(elected),
            Record::ClusterNamed(named) => self.cluster_named(named),
        }
    }

    fn topic_created(&mut self, created: &TopicCreated) -> Result<(), Inapplicable> {
        let name: Arc<str> = created.name.as_str().into();
        let by_id = self.topic(created.topic_id).map(|topic| &*topic.name);
        if let Some(taken) = self.collides_with(&name).or(by_id) {
            let (name, topic_id, taken) = (created.name.clone(), created.topic_id, taken.to_owned());
            return Err(Inapplicable::Taken { name, topic_id, taken });
        }
        let partitions = read_partitions(&name, PartitionId(0), &created.partitions)?;
        assert!(!partitions.is_empty(), "{name} is created without partitions");
        self.partition_count += partitions.len();
        let topic = Topic {
            id: created.topic_id,
            name: name.clone(),
            partitions: Arc::new(partitions),
            configs: Arc::default(),
        };
        Arc::make_mut(&mut self.topics).insert(topic.id, Arc::new(topic));
        if may_collide(&name) {
            Arc::make_mut(&mut self.collisions).insert(collision_key(&name), name.clone());
        }
        Arc::make_mut(&mut self.names).insert(name, created.topic_id);
        assert_eq!(self.names.len(), self.topics.len(), "one name a topic");
        Ok(())
    }

    fn topic_deleted(&mut self, deleted: &TopicDeleted) -> Result<(), Inapplicable> {
        let topic_id = deleted.topic_id;
        let gone = Arc::make_mut(&mut self.topics).remove(&topic_id);
        let topic = gone.ok_or(Inapplicable::NoTopic { what: "a deletion", topic_id })?;
        let id = Arc::make_mut(&mut self.names).remove(&topic.name);
        assert_eq!(id, Some(topic_id), "{} led to another topic", topic.name);
        if may_collide(&topic.name) {
            let key = collision_key(&topic.name);
            let found = Arc::make_mut(&mut self.collisions).remove(&key);
            assert_eq!(found.as_ref(), Some(&topic.name), "{key} was taken by another topic");
        }
        if self.losses.keys().any(|(lossy, _)| *lossy == topic_id) {
            Arc::make_mut(&mut self.losses).retain(|(lossy, _), _| *lossy != topic_id);
        }
        assert!(self.partition_count >= topic.partitions.len(), "{} partitions", self.partition_count);
        self.partition_count -= topic.partitions.len();
        Ok(())
    }

    fn partitions_added(&mut self, added: &PartitionsAdded) -> Result<(), Inapplicable> {
        let topic = self.topic_mut("an addition", added.topic_id)?;
        let count = topic.partitions.len();
        if usize::try_from(added.first.0) != Ok(count) {
            let (topic, partition) = (topic.name.to_string(), added.first);
            return Err(Inapplicable::NoPartition { what: "an addition", topic, partition, count });
        }
        let more = read_partitions(&topic.name, added.first, &added.partitions)?;
        let grown = more.len();
        Arc::make_mut(&mut topic.partitions).extend(more);
        self.partition_count += grown;
        Ok(())
    }

    fn partition_changed(&mut self, changed: &PartitionChanged) -> Result<(), Inapplicable> {
        let topic = self.topic_mut("a partition change", changed.topic_id)?;
        let (name, count, partition) = (topic.name.clone(), topic.partitions.len(), changed.partition);
        let new = read_partition(&name, partition, &changed.state)?;
        let at = usize::try_from(partition.0).ok();
        let Some(slot) = at.and_then(|at| Arc::make_mut(&mut topic.partitions).get_mut(at)) else {
            let topic = name.to_string();
            return Err(Inapplicable::NoPartition { what: "a partition change", topic, partition, count });
        };
        let bad = |why: String| Inapplicable::BadState { topic: name.to_string(), partition, why };
        if new.partition_epoch != slot.partition_epoch + 1 {
            return Err(bad(format!(
                "partition epoch {} after {}",
                new.partition_epoch, slot.partition_epoch
            )));
        }
        if new.leader_epoch < slot.leader_epoch {
            return Err(bad(format!("leader epoch {:?} after {:?}", new.leader_epoch, slot.leader_epoch)));
        }
        if new.leader != slot.leader && new.leader_epoch == slot.leader_epoch {
            return Err(bad(format!("{:?} has two leaders in {:?}", name, new.leader_epoch)));
        }
        *slot = new;
        Ok(())
    }

    fn leaderships_restarted(&mut self, restarted: &LeadershipsRestarted) -> Result<(), Inapplicable> {
        self.check_life(restarted.broker, restarted.broker_epoch.0)?;
        let leads = |partition: &Partition| partition.leader == restarted.broker;
        for topic in Arc::make_mut(&mut self.topics).values_mut() {
            if !topic.partitions.iter().any(leads) {
                continue;
            }
            let partitions = &mut Arc::make_mut(topic).partitions;
            for partition in Arc::make_mut(partitions).iter_mut().filter(|partition| leads(partition)) {
                partition.leader_epoch = partition.leader_epoch.next();
                partition.partition_epoch += 1;
            }
        }
        Ok(())
    }

    fn config_changed(&mut self, changed: &ConfigChanged) -> Result<(), Inapplicable> {
        let key = match &changed.resource {
            Resource::Topic(topic_id) => {
                let topic = self.topic_mut("a config", *topic_id)?;
                set_config(Arc::make_mut(&mut topic.configs), changed);
                return Ok(());
            }
            Resource::Broker(broker) => Some(*broker),
            Resource::AllBrokers => None,
        };
        let all = Arc::make_mut(&mut self.broker_configs);
        let configs = all.entry(key).or_default();
        set_config(configs, changed);
        if configs.is_empty() {
            all.remove(&key);
        }
        Ok(())
    }

    fn producer_ids_allocated(&mut self, allocated: &ProducerIdsAllocated) -> Result<(), Inapplicable> {
        let ProducerId(next) = self.next_producer_id;
        let (ProducerId(start), ProducerId(end)) = (allocated.start, allocated.end);
        if start < next || end <= start {
            return Err(Inapplicable::WentBack { what: "the next producer id", old: next, new: start });
        }
        self.next_producer_id = allocated.end;
        Ok(())
    }

    fn broker_registered(&mut self, registered: &BrokerRegistered) -> Result<(), Inapplicable> {
        let (old, new) = (self.last_broker_epoch.0, registered.epoch.0);
        if new <= old {
            return Err(Inapplicable::WentBack { what: "the broker epoch", old, new });
        }
        assert!(registered.broker.is_valid(), "{:?} is no broker", registered.broker);
        let old = self.broker(registered.broker);
        let let_in_before = old.map_or(BrokerEpoch::NONE, |old| old.let_in);
        let broker = Broker {
            id: registered.broker,
            epoch: registered.epoch,
            let_in: if registered.fenced { let_in_before } else { registered.epoch },
            incarnation: registered.incarnation,
            endpoints: registered.endpoints.clone(),
            rack: registered.rack.clone(),
            directory_id: registered.directory_id,
            fenced: registered.fenced,
            shutting_down: false,
            // A broker that is to be emptied stays so through a restart.
            draining: old.is_some_and(|old| old.draining),
        };
        Arc::make_mut(&mut self.brokers).insert(broker.id, Arc::new(broker));
        self.last_broker_epoch = registered.epoch;
        Ok(())
    }

    fn broker_state_changed(&mut self, changed: &BrokerStateChanged) -> Result<(), Inapplicable> {
        let broker = self.broker_mut(changed.broker, changed.broker_epoch)?;
        broker.fenced = changed.fenced;
        if !broker.fenced {
            broker.let_in = broker.epoch;
        }
        broker.shutting_down = changed.shutting_down;
        Ok(())
    }

    fn broker_unregistered(&mut self, gone: &BrokerUnregistered) -> Result<(), Inapplicable> {
        self.check_life(gone.broker, gone.broker_epoch.0)?;
        Arc::make_mut(&mut self.brokers).remove(&gone.broker);
        Ok(())
    }

    fn unclean_elected(&mut self, elected: &UncleanElected) -> Result<(), Inapplicable> {
        let UncleanElected { topic_id, partition, leader, leader_epoch, reason } = *elected;
        let what = "an unclean election";
        let topic = self.topic(topic_id).ok_or(Inapplicable::NoTopic { what, topic_id })?;
        if topic.partition(partition).is_none() {
            let (topic, count) = (topic.name.to_string(), topic.partitions.len());
            return Err(Inapplicable::NoPartition { what, topic, partition, count });
        }
        let loss = Loss { leader, leader_epoch, reason };
        Arc::make_mut(&mut self.losses).insert((topic_id, partition), loss);
        Ok(())
    }

    fn cluster_named(&mut self, named: &ClusterNamed) -> Result<(), Inapplicable> {
        match &self.cluster_id {
            Some(old) if **old != named.id => {
                let (old, new) = (old.to_string(), named.id.clone());
                Err(Inapplicable::Renamed { old, new })
            }
            Some(_) | None => {
                self.cluster_id = Some(named.id.as_str().into());
                Ok(())
            }
        }
    }

    fn feature_level_set(&mut self, set: &FeatureLevelSet) {
        assert!(set.level >= 0, "{} at level {}", set.name, set.level);
        let features = Arc::make_mut(&mut self.features);
        if set.level == 0 {
            features.remove(&set.name);
        } else {
            features.insert(set.name.clone(), set.level);
        }
    }

    fn topic_mut(&mut self, what: &'static str, topic_id: TopicId) -> Result<&mut Topic, Inapplicable> {
        let found = Arc::make_mut(&mut self.topics).get_mut(&topic_id);
        found.map(Arc::make_mut).ok_or(Inapplicable::NoTopic { what, topic_id })
    }

    /// The registered broker, of any life if `epoch` is [`BrokerEpoch::NONE`].
    fn broker_mut(&mut self, broker: BrokerId, epoch: BrokerEpoch) -> Result<&mut Broker, Inapplicable> {
        let missing = Inapplicable::NoBroker { broker, epoch: epoch.0 };
        let found = Arc::make_mut(&mut self.brokers).get_mut(&broker).map(Arc::make_mut);
        let life = |known: &&mut Broker| epoch == BrokerEpoch::NONE || known.epoch == epoch;
        found.filter(life).ok_or(missing)
    }

    fn check_life(&self, broker: BrokerId, epoch: i64) -> Result<(), Inapplicable> {
        match self.brokers.get(&broker) {
            Some(known) if known.epoch.0 == epoch => Ok(()),
            _ => Err(Inapplicable::NoBroker { broker, epoch }),
        }
    }
}

fn set_config(configs: &mut BTreeMap<String, String>, changed: &ConfigChanged) {
    match &changed.value {
        Some(value) => configs.insert(changed.name.clone(), value.clone()),
        None => configs.remove(&changed.name),
    };
}

fn read_partitions(
    topic: &str,
    first: PartitionId,
    states: &[PartitionState],
) -> Result<Vec<Partition>, Inapplicable> {
    let indexes = (first.0..).map(PartitionId);
    indexes.zip(states).map(|(index, state)| read_partition(topic, index, state)).collect()
}

fn read_partition(
    topic: &str,
    partition: PartitionId,
    state: &PartitionState,
) -> Result<Partition, Inapplicable> {
    if let Err(why) = state.sound() {
        let why = format!("{why}: {state:?}");
        return Err(Inapplicable::BadState { topic: topic.to_owned(), partition, why });
    }
    let read = Partition {
        replicas: state.replicas.as_slice().into(),
        isr: state.isr.as_slice().into(),
        leader: state.leader,
        leader_epoch: state.leader_epoch,
        partition_epoch: state.partition_epoch,
        elr: state.elr.as_slice().into(),
        last_known_elr: state.last_known_elr.as_slice().into(),
        adding: state.adding.as_slice().into(),
        removing: state.removing.as_slice().into(),
    };
    assert_eq!(read.state(), *state, "a partition is what its record says");
    Ok(read)
}
