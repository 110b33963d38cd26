//! What the client knows of the cluster: brokers, topics, leaders. Pure.
//!
//! Owns: the picture that metadata answers build up. Promises: the leader epoch of a partition never goes back within
//! one life of its topic, so a broker that lags cannot send us back to an old leader; a topic that was created again
//! under its name is a new topic. Leaves out: asking (`cluster`).
//!
//!   metadata answer ─► apply ─► topic ─► partition ─► leader ─► host:port

use std::collections::BTreeMap;
use std::sync::Arc;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{BrokerId, LeaderEpoch, PartitionId, TopicId};
use dejaq_wire::kafka::metadata::{MetadataResponse, MetadataResponsePartition, MetadataResponseTopic};

/// A broker of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerRoute {
    /// Its number.
    pub id: BrokerId,
    /// Where clients reach it, as `host:port`.
    pub address: Arc<str>,
    /// Where it stands, if it says so.
    pub rack: Option<String>,
}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionRoute {
    /// The leader, if there is one.
    pub leader: Option<BrokerId>,
    /// Counts the leaders; [`LeaderEpoch::NONE`] from brokers that do not tell.
    pub leader_epoch: LeaderEpoch,
    /// Every broker that keeps a copy.
    pub replicas: Vec<BrokerId>,
    /// Those of them that are in sync.
    pub isr: Vec<BrokerId>,
    /// Those of them that are down.
    pub offline: Vec<BrokerId>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRoute {
    /// Its name.
    pub name: Arc<str>,
    /// The id of this life of the topic; zero from brokers that have none.
    pub id: TopicId,
    /// Whether the cluster keeps it for itself.
    pub internal: bool,
    /// Its partitions, by index from 0 up, without a gap.
    pub partitions: Vec<PartitionRoute>,
}

impl TopicRoute {
    /// The partition of this index.
    #[must_use]
    pub fn partition(&self, index: PartitionId) -> Option<&PartitionRoute> {
        self.partitions.get(usize::try_from(index.0).ok()?)
    }

    /// The partitions that have a leader.
    #[must_use]
    pub fn available(&self) -> Vec<PartitionId> {
        let led = self.partitions.iter().enumerate().filter(|(_, partition)| partition.leader.is_some());
        led.map(|(index, _)| PartitionId(index as i32)).collect()
    }
}

/// The picture of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// The cluster's id, once a broker told it.
    pub cluster_id: Option<String>,
    /// Who answers administrative requests.
    pub controller: Option<BrokerId>,
    /// Counts the answers that were applied.
    pub generation: u64,
    brokers: BTreeMap<BrokerId, BrokerRoute>,
    topics: BTreeMap<Arc<str>, Result<Arc<TopicRoute>, ErrorCode>>,
    /// Names by id, for answers that name topics by id.
    names: BTreeMap<TopicId, Arc<str>>,
}

impl Routes {
    /// Takes in an answer. Topics that it does not name stay as they were.
    pub fn apply(&mut self, answer: &MetadataResponse) {
        self.generation += 1;
        self.cluster_id = answer.cluster_id.clone().or_else(|| self.cluster_id.take());
        self.controller = Some(answer.controller_id).filter(|id| id.is_valid());
        self.brokers = answer.brokers.iter().map(|b| (b.node_id, broker(b))).collect();
        for topic in &answer.topics {
            self.apply_topic(topic);
        }
        self.check();
    }

    fn apply_topic(&mut self, answer: &MetadataResponseTopic) {
        let Some(name) = answer.name.as_deref() else { return };
        if let Some(Ok(known)) = self.topics.get(name)
            && (answer.error_code.is_error() || known.id != answer.topic_id)
        {
            self.names.remove(&known.id);
        }
        let name: Arc<str> = name.into();
        if answer.error_code.is_error() {
            self.topics.insert(name, Err(answer.error_code));
            return;
        }
        let Some(fresh) = partitions(&answer.partitions) else {
            self.topics.insert(name, Err(ErrorCode::LEADER_NOT_AVAILABLE));
            return;
        };
        let known =
            self.topics.get(&name).and_then(|known| known.as_ref().ok()).filter(|k| k.id == answer.topic_id);
        let partitions = match known {
            None => fresh,
            Some(known) => fresh
                .into_iter()
                .enumerate()
                .map(|(index, fresh)| match known.partitions.get(index) {
                    Some(old) if fresh.leader_epoch.is_valid() && fresh.leader_epoch < old.leader_epoch => {
                        old.clone() // told by a broker that lags
                    }
                    Some(_) | None => fresh,
                })
                .collect(),
        };
        let (id, internal) = (answer.topic_id, answer.is_internal);
        if !id.is_zero() {
            self.names.insert(id, name.clone());
        }
        self.topics.insert(name.clone(), Ok(Arc::new(TopicRoute { name, id, internal, partitions })));
    }

    /// Forgets topics that `keep` does not hold, so that the picture stays as small as what is used.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.topics.retain(|name, _| keep(name));
        self.names.retain(|_, name| keep(name));
    }

    /// A topic, or why the cluster does not show it; `None` if it was never asked for.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<Result<Arc<TopicRoute>, ErrorCode>> {
        self.topics.get(name).cloned()
    }

    /// The name of a topic by its id.
    #[must_use]
    pub fn name_of(&self, id: TopicId) -> Option<Arc<str>> {
        self.names.get(&id).cloned()
    }

    /// Every topic that is known and well, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicRoute>> {
        self.topics.values().filter_map(|topic| topic.as_ref().ok())
    }

    /// A broker by its number.
    #[must_use]
    pub fn broker(&self, id: BrokerId) -> Option<&BrokerRoute> {
        self.brokers.get(&id)
    }

    /// Every broker, by number.
    pub fn brokers(&self) -> impl Iterator<Item = &BrokerRoute> {
        self.brokers.values()
    }

    /// The leader of a partition and its epoch, if both are known.
    #[must_use]
    pub fn leader(&self, topic: &str, partition: PartitionId) -> Option<(BrokerId, LeaderEpoch)> {
        let topic = self.topics.get(topic)?.as_ref().ok()?;
        let route = topic.partition(partition)?;
        let leader = route.leader.filter(|id| self.brokers.contains_key(id))?;
        Some((leader, route.leader_epoch))
    }

    fn check(&self) {
        for (id, name) in &self.names {
            let known = self.topics.get(name).and_then(|topic| topic.as_ref().ok()).map(|topic| topic.id);
            assert_eq!(known, Some(*id), "{name} has an id that leads elsewhere");
        }
        for (id, broker) in &self.brokers {
            assert_eq!(*id, broker.id, "broker {id} is filed under another number");
        }
    }
}

fn broker(answer: &dejaq_wire::kafka::metadata::MetadataResponseBroker) -> BrokerRoute {
    let host = &answer.host;
    // An IPv6 address needs brackets before a port.
    let address = match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{}", answer.port),
        false => format!("{host}:{}", answer.port),
    };
    BrokerRoute { id: answer.node_id, address: address.into(), rack: answer.rack.clone() }
}

/// The partitions by index; `None` if the answer leaves one out, as a broker may while the topic is being created.
fn partitions(answer: &[MetadataResponsePartition]) -> Option<Vec<PartitionRoute>> {
    let mut sorted: Vec<_> = answer.iter().collect();
    sorted.sort_by_key(|partition| partition.partition_index);
    let whole = sorted.iter().enumerate().all(|(index, p)| p.partition_index.0 == index as i32);
    (whole && !sorted.is_empty()).then(|| sorted.into_iter().map(partition).collect())
}

fn partition(answer: &MetadataResponsePartition) -> PartitionRoute {
    // REPLICA_NOT_AVAILABLE (9) only tells that some replica is down: the leader is good.
    let led = answer.error_code.is_none() || answer.error_code == ErrorCode::REPLICA_NOT_AVAILABLE;
    PartitionRoute {
        leader: Some(answer.leader_id).filter(|id| led && id.is_valid()),
        leader_epoch: answer.leader_epoch,
        replicas: answer.replica_nodes.clone(),
        isr: answer.isr_nodes.clone(),
        offline: answer.offline_replicas.clone(),
    }
}

#[cfg(test)]
mod tests {
    use dejaq_wire::kafka::metadata::MetadataResponseBroker;

    use super::*;

    const TOPIC: &str = "orders";

    fn answer(id: u8, leaders: &[(i32, i32)]) -> MetadataResponse {
        let partitions =
            leaders.iter().enumerate().map(|(index, (leader, epoch))| MetadataResponsePartition {
                partition_index: PartitionId(index as i32),
                leader_id: BrokerId(*leader),
                leader_epoch: LeaderEpoch(*epoch),
                ..Default::default()
            });
        let broker = |id| MetadataResponseBroker {
            node_id: BrokerId(id),
            host: "::1".into(),
            port: 9092 + id,
            ..Default::default()
        };
        MetadataResponse {
            brokers: vec![broker(1), broker(2)],
            controller_id: BrokerId(1),
            topics: vec![MetadataResponseTopic {
                name: Some(TOPIC.into()),
                topic_id: TopicId([id; 16]),
                partitions: partitions.collect(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn leader(routes: &Routes, partition: i32) -> Option<i32> {
        routes.leader(TOPIC, PartitionId(partition)).map(|(leader, _)| leader.0)
    }

    #[test]
    fn a_lagging_broker_does_not_send_us_back_to_an_old_leader() {
        let mut routes = Routes::default();
        routes.apply(&answer(1, &[(1, 5), (1, 5)]));
        routes.apply(&answer(1, &[(2, 4), (2, 6)]));
        assert_eq!((leader(&routes, 0), leader(&routes, 1)), (Some(1), Some(2)));
    }

    #[test]
    fn a_topic_created_again_starts_with_new_epochs() {
        let mut routes = Routes::default();
        routes.apply(&answer(1, &[(1, 5)]));
        routes.apply(&answer(2, &[(2, 0)]));
        assert_eq!(leader(&routes, 0), Some(2));
        assert_eq!(routes.name_of(TopicId([1; 16])), None, "the old id leads nowhere");
        assert_eq!(routes.name_of(TopicId([2; 16])).as_deref(), Some(TOPIC));
    }

    #[test]
    fn a_leader_that_is_no_known_broker_is_no_leader() {
        let mut routes = Routes::default();
        routes.apply(&answer(1, &[(9, 1), (-1, 2), (1, 3)]));
        assert_eq!((0..4).map(|p| leader(&routes, p)).collect::<Vec<_>>(), [None, None, Some(1), None]);
    }

    #[test]
    fn a_topic_with_a_missing_partition_is_not_ready() {
        let mut routes = Routes::default();
        let mut half = answer(1, &[(1, 1), (1, 1)]);
        half.topics[0].partitions.remove(0);
        routes.apply(&half);
        assert_eq!(routes.topic(TOPIC).and_then(Result::err), Some(ErrorCode::LEADER_NOT_AVAILABLE));
    }

    #[test]
    fn an_ipv6_host_gets_brackets() {
        let mut routes = Routes::default();
        routes.apply(&answer(1, &[(1, 1)]));
        assert_eq!(&*routes.broker(BrokerId(1)).expect("told").address, "[::1]:9093");
    }
}
