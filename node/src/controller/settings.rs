//! What the controller must know of its node's settings.

use std::time::Duration;

use dejaq_wire::ids::BrokerId;

use crate::metadata::Image;
use crate::metadata::level::Levels;
use crate::metadata::topic_config::Overrides;

/// The settings that decisions depend on. The same on every node of a cluster, but for `node`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node.
    pub node: BrokerId,
    /// Partitions of a topic that does not say how many; at least 1.
    pub default_partitions: i32,
    /// Replicas of a topic that does not say how many; `None` is three, or as many as there are brokers.
    pub default_replication_factor: Option<i16>,
    /// Nodes that the cluster begins with: brokers that have not registered yet count, too.
    pub first_nodes: usize,
    /// Most partitions of all topics together.
    pub max_partitions: usize,
    /// Topic configs by their Kafka names that topics get unless they say otherwise; checked at start.
    pub topic_defaults: Overrides,
    /// How the cluster heals itself.
    pub healing: Healing,
    /// The levels of `dejaq.version` that this node supports.
    pub levels: Levels,
}

/// When the controller acts by itself, and how much at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healing {
    /// Silence after which a broker is fenced.
    pub session_timeout: Duration,
    /// Time for which a broker is fenced before its replicas are made anew elsewhere; `None` is never.
    pub recreate_after: Option<Duration>,
    /// Partitions that may have a replica on the way at a time; at least 2, because two may have to change places.
    pub max_moves: usize,
    /// How often leaderships go back to the preferred replicas; `None` is never.
    pub leader_round: Option<Duration>,
    /// Whether replicas flow to a broker that holds none.
    pub auto_rebalance: bool,
}

impl Default for Healing {
    fn default() -> Healing {
        Healing {
            session_timeout: Duration::from_secs(9),
            recreate_after: Some(Duration::from_secs(600)),
            max_moves: 8,
            leader_round: Some(Duration::from_secs(60)),
            auto_rebalance: true,
        }
    }
}

impl Settings {
    /// Replicas of a topic that does not say how many. A broker that is down counts: a topic should not stay with fewer
    /// replicas for ever because it was made at the wrong moment.
    #[must_use]
    pub fn replication_factor(&self, image: &Image) -> i16 {
        let brokers = image.brokers().count().max(self.first_nodes).min(3);
        self.default_replication_factor.unwrap_or(i16::try_from(brokers).expect("three at most"))
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            node: BrokerId(1),
            default_partitions: 1,
            default_replication_factor: Some(1),
            first_nodes: 1,
            max_partitions: 100_000,
            topic_defaults: Overrides::new(),
            healing: Healing::default(),
            levels: Levels::default(),
        }
    }
}
