//! What the controller must know of its node's settings.

use dejaq_wire::ids::BrokerId;

use crate::metadata::topic_config::Overrides;

/// The settings that decisions depend on. The same on every node of a cluster, but for `node`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node.
    pub node: BrokerId,
    /// Partitions of a topic that does not say how many; at least 1.
    pub default_partitions: i32,
    /// Replicas of a topic that does not say how many; at least 1.
    pub default_replication_factor: i16,
    /// Most partitions of all topics together.
    pub max_partitions: usize,
    /// Topic configs by their Kafka names that topics get unless they say otherwise; checked at start.
    pub topic_defaults: Overrides,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            node: BrokerId(1),
            default_partitions: 1,
            default_replication_factor: 1,
            max_partitions: 100_000,
            topic_defaults: Overrides::new(),
        }
    }
}
