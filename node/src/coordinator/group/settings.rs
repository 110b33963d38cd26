//! What groups are allowed, from the broker's settings.

use std::sync::Arc;
use std::time::Duration;

use super::consumer::assignor::Assignor;
use super::consumer::convert::Migration;
use crate::metrics::Durations;

/// Bounds of groups. The same on every broker of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long the first rebalance of an empty group waits for more members.
    pub initial_delay: Duration,
    /// Shortest session timeout that a member may ask for.
    pub min_session: Duration,
    /// Longest.
    pub max_session: Duration,
    /// Most members of one group.
    pub max_members: usize,
    /// Longest text beside an offset, in bytes.
    pub max_metadata_bytes: usize,
    /// How long offsets of a group that is empty, or not subscribed any more, are kept.
    pub retention: Duration,
    /// How often that is looked at.
    pub sweep_every: Duration,
    /// Most groups of one shard.
    pub max_groups: usize,
    /// How often members of KIP-848 are told to be heard.
    pub consumer_heartbeat: Duration,
    /// How long they may be silent.
    pub consumer_session: Duration,
    /// Most members of one group of KIP-848.
    pub consumer_max_members: usize,
    /// What its members may ask for, the default first; not empty.
    pub assignors: Vec<Assignor>,
    /// Between the protocols.
    pub migration: Migration,
    /// Where the time that each rebalance took is counted.
    pub rebalance_times: RebalanceTimes,
}

/// Counts how long rebalances took, from the moment at which the members had to come to that at which the plan was known.
/// It is no part of what is allowed: all of them are equal.
#[derive(Debug, Clone, Default)]
pub struct RebalanceTimes(pub Arc<Durations>);

impl PartialEq for RebalanceTimes {
    fn eq(&self, _: &RebalanceTimes) -> bool {
        true
    }
}

impl Eq for RebalanceTimes {}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            initial_delay: Duration::from_secs(3),
            min_session: Duration::from_secs(6),
            max_session: Duration::from_secs(30 * 60),
            max_members: 10_000,
            max_metadata_bytes: 4096,
            retention: Duration::from_secs(7 * 86_400),
            sweep_every: Duration::from_secs(600),
            max_groups: 100_000,
            consumer_heartbeat: Duration::from_secs(5),
            consumer_session: Duration::from_secs(45),
            consumer_max_members: 10_000,
            assignors: vec![Assignor::Uniform, Assignor::Range],
            migration: Migration { up: true, down: true },
            rebalance_times: RebalanceTimes::default(),
        }
    }
}

/// Longest wait of a member's first JoinGroup, as in Kafka: after that its client is taken for gone.
pub const NEW_MEMBER_WAIT: Duration = Duration::from_secs(300);
/// Most bytes that one member may tell of itself: the leader is sent all of them at once.
pub const MAX_MEMBER_BYTES: usize = 1 << 20;
/// Most protocols that one member may offer.
pub const MAX_PROTOCOLS: usize = 100;
/// Longest group id, member id or instance id in bytes: records have room for 32767.
pub const MAX_ID_BYTES: usize = 8192;
