//! Every broker setting, in one table: name with unit, default, bounds, range for the simulator, one-line effect.
//!
//! Owns: [`TABLE`], the typed [`Config`], and the order of sources: flags, then `DEJAQ_*`, then `dejaq.toml`, then
//! defaults. Promises: [`Config::resolve`] checks everything and reports every error at once, each with the source
//! that holds it; a `Config` that exists is valid. `dejaq start --help` is printed from the table.
//! Leaves out: reading files and the environment (`cli::start` does), the settings of topics (`metadata` has their
//! table; here are only the defaults that a broker hands to new topics).
//! Called by `cli::start`, by the simulator (`Config::drawn`) and by whoever needs a setting.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

mod parse;
mod resolve;
mod table;

pub use parse::ParseError;
pub use resolve::{ConfigError, Source, Sources};
pub use table::{Kind, Setting, TABLE, setting};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For eyes: columns and, on a terminal, colours.
    Human,
    /// For machines: one JSON object a line.
    Json,
}

/// The settings of one broker, all valid. The effect of each is in [`TABLE`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the table is the documentation of each, and the names are the same")]
pub struct Config {
    pub data_dir: String,
    pub listen: String,
    /// `host:port`, or empty for the address that it listens on.
    pub advertise: String,
    pub node_id: u32,
    /// `host:port`, or empty for a node that stands alone.
    pub peer_listen: String,
    /// `host:port`, or empty for the address that it listens on.
    pub peer_advertise: String,
    /// Who votes first; empty for this node alone.
    pub quorum: Vec<QuorumNode>,
    pub election_timeout: Duration,
    pub snapshot_bytes: u64,
    pub feature_level_max: u16,
    pub rack: Option<String>,
    /// `host:port`, or empty for no admin port.
    pub admin_listen: String,
    pub topics: TopicSettings,
    pub limits: Limits,
    pub healing: HealingSettings,
    pub groups: GroupSettings,
    pub transactions: TransactionSettings,
    /// A kernel name, or empty for the system's.
    pub tcp_congestion: String,
    pub min_free_bytes: u64,
    pub retention_interval: Duration,
    pub cleaner: CleanerSettings,
    pub log_format: LogFormat,
    pub log_level: String,
    /// What was given, by the names of the table and as it was written; what is absent has its default.
    pub given: BTreeMap<&'static str, String>,
}

/// A node that first votes on the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumNode {
    /// Its node-id.
    pub id: u32,
    /// Where its peers reach it, as `host:port`.
    pub address: String,
}

/// What a topic gets that nobody described.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the table is the documentation of each, and the names are the same")]
pub struct TopicSettings {
    pub auto_create: bool,
    pub default_partitions: u32,
    /// `None` is three, or as many as there are brokers.
    pub default_replication_factor: Option<u32>,
    pub max_partitions: u32,
    /// Topic configs by their Kafka names, of every topic that does not say otherwise.
    pub defaults: BTreeMap<String, String>,
}

/// What the log cleaner may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanerSettings {
    /// Memory for the keys of one log.
    pub map_bytes: usize,
    /// Bytes read and written a second at most; 0 is no limit.
    pub bytes_per_second: u64,
}

impl Default for CleanerSettings {
    fn default() -> CleanerSettings {
        CleanerSettings { map_bytes: 64 << 20, bytes_per_second: 0 }
    }
}

/// When a cluster acts by itself, and how much at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the table is the documentation of each, and the names are the same")]
pub struct HealingSettings {
    pub session_timeout: Duration,
    pub shutdown_timeout: Duration,
    pub replica_lag: Duration,
    /// `None` is never.
    pub recreate_after: Option<Duration>,
    pub max_moves: usize,
    pub move_bytes_per_second: u64,
    /// `None` is never.
    pub leader_interval: Option<Duration>,
    pub auto_rebalance: bool,
    pub scrub_interval: Duration,
    pub scrub_bytes_per_second: u64,
}

/// What consumer groups are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the table is the documentation of each, and the names are the same")]
pub struct GroupSettings {
    pub partitions: u32,
    pub retention: Duration,
    pub initial_delay: Duration,
    pub min_session: Duration,
    pub max_session: Duration,
    pub max_members: usize,
    pub max_metadata_bytes: usize,
    pub consumer_heartbeat: Duration,
    pub consumer_session: Duration,
    pub consumer_max_members: usize,
    /// By their names, the default first; not empty.
    pub consumer_assignors: Vec<String>,
    /// Up and down.
    pub migration: (bool, bool),
}

/// What transactions are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the table is the documentation of each, and the names are the same")]
pub struct TransactionSettings {
    pub partitions: u32,
    pub max_timeout: Duration,
    pub id_expiry: Duration,
}

/// What keeps memory and descriptors bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the table is the documentation of each, and the names are the same")]
pub struct Limits {
    pub max_connections: usize,
    pub inflight_requests: usize,
    pub inflight_bytes: usize,
    pub memory_bytes: usize,
    pub request_max_bytes: usize,
    pub idle_timeout: Duration,
    pub frame_timeout: Duration,
    pub send_timeout: Duration,
    pub half_close_timeout: Duration,
    pub drain_timeout: Duration,
}

impl Config {
    /// Defaults with a random value for each setting that has a range for the simulator, drawn from `random`.
    ///
    /// Relations between settings hold for every draw.
    pub fn drawn(mut random: impl FnMut() -> u64) -> Config {
        let mut values = resolve::Values::default();
        for setting in TABLE {
            if let Kind::Number { drawn: Some((low, high)), .. } = setting.kind {
                let value = low + random() % (high - low + 1);
                values.set(setting.name, value.to_string(), Source::Drawn);
            }
        }
        match values.check() {
            Ok(config) => config,
            Err(errors) => panic!("the table draws an invalid config: {errors:?}"),
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        match resolve::Values::default().check() {
            Ok(config) => config,
            Err(errors) => panic!("the table has an invalid default: {errors:?}"),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests;
