//! A topic's configs as values of their types, after topic, broker and built-in defaults were weighed.
//!
//! Owns: [`TopicConfig`] and the order in which a value is looked for.
//! Promises: every field holds a value that the table allows; resolving never fails.
//! Leaves out: what the fields do. The table itself is `config_table`.
//! Called by `replica::Directory` when an image changes, and by `api::describe_configs` for the sources.
//!
//! ```text
//!  topic ─► this broker (dynamic) ─► all brokers (dynamic) ─► broker's own settings ─► built-in default
//! ```
//!
//! A stored value that this version refuses (its bounds were narrowed since) counts as not set.

use std::collections::BTreeMap;
use std::time::Duration;

use dejaq_storage::LogConfig;

use super::config_table::{
    InvalidConfig, SAME_EVERYWHERE, TOPIC_CONFIGS, TopicConfigDef, find, known, words,
};
use crate::replica::policy::{Durability, Policy};
use dejaq_storage::mark;

/// Names and values as they were set.
pub type Overrides = BTreeMap<String, String>;

/// Where a config value comes from, in the order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Set on the topic.
    Topic,
    /// Set on this broker, at run time.
    Broker,
    /// Set on all brokers, at run time.
    AllBrokers,
    /// Set when the broker was started: flag, environment or file.
    Settings,
    /// Nobody set it.
    Default,
}

impl Source {
    /// The number by which DescribeConfigs names the source.
    #[must_use]
    pub const fn wire_source(self) -> i8 {
        match self {
            Source::Topic => 1,
            Source::Broker => 2,
            Source::AllBrokers => 3,
            Source::Settings => 4,
            Source::Default => 5,
        }
    }
}

/// What brokers say about topics that do not say it themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerDefaults {
    /// Set at run time for one broker, by broker-level names (`log.retention.ms`).
    pub broker: Overrides,
    /// Set at run time for all brokers, by broker-level names.
    pub all_brokers: Overrides,
    /// Set when this broker was started, by topic-level names (`retention.ms`).
    pub settings: Overrides,
}

impl BrokerDefaults {
    /// Checks the start-up settings that are defaults of topics and keeps them.
    ///
    /// # Errors
    /// Every value that is refused, so that all are reported at once.
    pub fn from_settings(settings: &Overrides) -> Result<BrokerDefaults, Vec<InvalidConfig>> {
        let mut checked = Overrides::new();
        let mut refused = Vec::new();
        for (name, value) in settings {
            let def = match known(name) {
                Ok(def) => def,
                Err(why) => {
                    refused.push(why);
                    continue;
                }
            };
            match def.check(value) {
                Ok(value) => {
                    checked.insert(name.clone(), value);
                }
                Err(why) => refused.push(why),
            }
        }
        if refused.is_empty() {
            Ok(BrokerDefaults { settings: checked, ..BrokerDefaults::default() })
        } else {
            Err(refused)
        }
    }
}

/// One candidate for the value of a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The name under which it was set: the topic's or the broker's.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Where it was set.
    pub source: Source,
}

/// Every value that was set for a config, the one in force first; the built-in default is always last.
#[must_use]
pub fn candidates(
    def: &'static TopicConfigDef,
    topic: &Overrides,
    brokers: &BrokerDefaults,
) -> Vec<Candidate> {
    let mut found = Vec::with_capacity(2);
    let mut look = |key: &str, shown: &'static str, source: Source, values: &Overrides| {
        let Some(value) = values.get(key) else { return };
        if def.check(value).is_ok() {
            found.push(Candidate { name: shown, value: value.clone(), source });
        } else {
            mark!("a stored config value is not valid any more");
        }
    };
    look(def.name, def.name, Source::Topic, topic);
    if let Some(name) = def.broker_name {
        look(name, name, Source::Broker, &brokers.broker);
        look(name, name, Source::AllBrokers, &brokers.all_brokers);
    }
    look(def.name, def.broker_name.unwrap_or(def.name), Source::Settings, &brokers.settings);
    found.push(Candidate {
        name: def.broker_name.unwrap_or(def.name),
        value: def.default.to_owned(),
        source: Source::Default,
    });
    found
}

/// Which clock stamps records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The leader's.
    LogAppendTime,
}

/// Which codec stored batches have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Whatever the producer chose.
    Producer,
    /// None.
    Uncompressed,
    /// gzip
    Gzip,
    /// snappy
    Snappy,
    /// lz4
    Lz4,
    /// zstd
    Zstd,
}

/// The configs of one topic. Durations are milliseconds, sizes bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicConfig {
    /// Age at which records may go; `None` is never.
    pub retention_ms: Option<i64>,
    /// Size of a partition above which old segments may go; `None` is no limit.
    pub retention_bytes: Option<u64>,
    /// Size at which a segment is rolled.
    pub segment_bytes: u32,
    /// Age at which a segment is rolled.
    pub segment_ms: i64,
    /// Distance between two index entries.
    pub index_interval_bytes: u32,
    /// Whether retention deletes old segments.
    pub delete: bool,
    /// Whether only the last value of every key is kept.
    pub compact: bool,
    /// Whether offsets may have gaps, from compaction now or before: once somebody set the policy, it may have been so.
    pub gaps: bool,
    /// How long delete markers of a compacted topic stay.
    pub delete_retention_ms: i64,
    /// Records that are younger are not compacted.
    pub min_compaction_lag_ms: i64,
    /// Records that are older are; `i64::MAX` is never.
    pub max_compaction_lag_ms: i64,
    /// Share of new bytes above which a log is compacted.
    pub min_cleanable_dirty_ratio: f64,
    /// Codec of stored batches.
    pub compression: Compression,
    /// Largest batch that is accepted.
    pub max_message_bytes: u32,
    /// Which clock stamps records.
    pub timestamp_type: TimestampType,
    /// How old a record's timestamp may be.
    pub timestamp_before_max_ms: i64,
    /// How far in the future a record's timestamp may be.
    pub timestamp_after_max_ms: i64,
    /// Fewest in-sync replicas for acks=all.
    pub min_insync_replicas: u32,
    /// Copies with which acks=all is answered; 0 is all that are in sync.
    pub acks_required: u32,
    /// Records that a replica may lack and stay in sync.
    pub replica_lag_max_messages: i64,
    /// Whether a replica that is not in sync may lead.
    pub unclean_leader_election: bool,
    /// When acks=all is answered.
    pub durability: Durability,
    /// For [`Durability::Replicated`]: longest time between two syncs.
    pub durability_flush_ms: i64,
    /// For [`Durability::Replicated`]: most bytes that are not synced.
    pub durability_flush_bytes: u64,
    /// Sync after this many records; `i64::MAX` is never.
    pub flush_messages: i64,
    /// Sync after this time; `i64::MAX` is never.
    pub flush_ms: i64,
}

impl TopicConfig {
    /// Weighs what topic and brokers say.
    #[must_use]
    pub fn resolve(topic: &Overrides, brokers: &BrokerDefaults) -> TopicConfig {
        let values = Values { topic, brokers };
        let retention_ms = values.long("retention.ms");
        let retention_bytes = values.long("retention.bytes");
        let segment_bytes = match topic.get("internal.segment.bytes") {
            Some(_) => values.int("internal.segment.bytes"),
            None => values.int("segment.bytes"),
        };
        let policy = values.text("cleanup.policy");
        let config = TopicConfig {
            retention_ms: (retention_ms >= 0).then_some(retention_ms),
            retention_bytes: u64::try_from(retention_bytes).ok(),
            segment_bytes,
            segment_ms: values.long("segment.ms"),
            index_interval_bytes: values.int("index.interval.bytes"),
            delete: words(&policy).any(|word| word == "delete"),
            compact: words(&policy).any(|word| word == "compact"),
            gaps: policy != "delete" || values.is_set("cleanup.policy"),
            delete_retention_ms: values.long("delete.retention.ms"),
            min_compaction_lag_ms: values.long("min.compaction.lag.ms"),
            max_compaction_lag_ms: values.long("max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: values.ratio("min.cleanable.dirty.ratio"),
            compression: compression(&values.text("compression.type")),
            max_message_bytes: values.int("max.message.bytes"),
            timestamp_type: timestamp_type(&values.text("message.timestamp.type")),
            timestamp_before_max_ms: values.long("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: values.long("message.timestamp.after.max.ms"),
            min_insync_replicas: values.int("min.insync.replicas"),
            acks_required: values.int("acks.required"),
            replica_lag_max_messages: values.long("replica.lag.max.messages"),
            unclean_leader_election: values.bool("unclean.leader.election.enable"),
            durability: durability(&values.text("durability")),
            durability_flush_ms: values.long("durability.flush.ms"),
            durability_flush_bytes: u64::try_from(values.long("durability.flush.bytes"))
                .expect("the table allows 1 and more"),
            flush_messages: values.long("flush.messages"),
            flush_ms: values.long("flush.ms"),
        };
        config.check();
        config
    }

    /// How the log of each partition is cut and what it keeps.
    #[must_use]
    pub fn log_config(&self) -> LogConfig {
        let config = LogConfig {
            segment_bytes: self.segment_bytes,
            segment_ms: if self.compact {
                // The active segment is never compacted, so that it must not become older than a record may.
                self.segment_ms.min(self.max_compaction_lag_ms)
            } else {
                self.segment_ms
            },
            gaps: self.gaps,
            index_interval_bytes: self.index_interval_bytes,
            retention_ms: self.retention_ms.filter(|_| self.delete),
            retention_bytes: self.retention_bytes.filter(|_| self.delete),
            ..LogConfig::default()
        };
        config.check();
        config
    }

    /// Whether acks=all waits for the disks of all in-sync replicas.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.policy().durability == Durability::Durable
    }

    /// When a record of the topic counts as safe.
    ///
    /// `flush.messages=1` asks for a sync of every record, and that is what [`Durability::Durable`] is. Otherwise
    /// Kafka's own flush settings hold beside ours, under every durability that syncs in the background or never.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let durability = if self.flush_messages == 1 { Durability::Durable } else { self.durability };
        let in_background = durability == Durability::Replicated;
        let own_ms = if in_background { self.durability_flush_ms } else { i64::MAX };
        let flush_ms = own_ms.min(self.flush_ms.max(1)); // i64::MAX is never
        let interval = u64::try_from(flush_ms).ok().filter(|_| flush_ms < i64::MAX);
        Policy {
            durability,
            min_insync: self.min_insync_replicas,
            acks_required: self.acks_required,
            lag_records: self.replica_lag_max_messages,
            flush_bytes: if in_background { self.durability_flush_bytes } else { u64::MAX },
            flush_records: self.flush_messages.max(1),
            flush_interval: interval.map(Duration::from_millis),
        }
    }

    fn check(&self) {
        assert!(self.segment_bytes > 0, "segment.bytes {}", self.segment_bytes);
        assert!(self.segment_ms > 0, "segment.ms {}", self.segment_ms);
        assert!(self.min_insync_replicas > 0, "min.insync.replicas {}", self.min_insync_replicas);
        assert!(self.durability_flush_ms > 0, "durability.flush.ms {}", self.durability_flush_ms);
        assert!(self.timestamp_before_max_ms >= 0, "before.max.ms {}", self.timestamp_before_max_ms);
        assert!(self.timestamp_after_max_ms >= 0, "after.max.ms {}", self.timestamp_after_max_ms);
    }
}

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig::resolve(&Overrides::new(), &BrokerDefaults::default())
    }
}

struct Values<'a> {
    topic: &'a Overrides,
    brokers: &'a BrokerDefaults,
}

impl Values<'_> {
    fn text(&self, name: &'static str) -> String {
        let def = find(name).expect("every name asked for here is in the table; a test resolves them all");
        let first = candidates(def, self.topic, self.brokers).into_iter().next();
        first.expect("the built-in default is always a candidate").value
    }

    fn long(&self, name: &'static str) -> i64 {
        self.text(name).parse().expect("candidates hold checked values only")
    }

    fn int(&self, name: &'static str) -> u32 {
        let value: i32 = self.text(name).parse().expect("candidates hold checked values only");
        u32::try_from(value).expect("no integer that is resolved here may be negative by the table")
    }

    fn ratio(&self, name: &'static str) -> f64 {
        self.text(name).parse().expect("candidates hold checked values only")
    }

    /// Whether anybody said anything.
    fn is_set(&self, name: &'static str) -> bool {
        let def = find(name).expect("every name asked for here is in the table; a test resolves them all");
        candidates(def, self.topic, self.brokers).len() > 1
    }

    fn bool(&self, name: &'static str) -> bool {
        self.text(name) == "true"
    }
}

fn durability(word: &str) -> Durability {
    match word {
        "replicated" => Durability::Replicated,
        "none" => Durability::None,
        other => {
            assert_eq!(other, "durable", "the table allows three words");
            Durability::Durable
        }
    }
}

fn timestamp_type(word: &str) -> TimestampType {
    if word == "LogAppendTime" {
        return TimestampType::LogAppendTime;
    }
    assert_eq!(word, "CreateTime", "the table allows two words");
    TimestampType::CreateTime
}

fn compression(word: &str) -> Compression {
    match word {
        "uncompressed" => Compression::Uncompressed,
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        other => {
            assert_eq!(other, "producer", "the table allows six words");
            Compression::Producer
        }
    }
}

/// Checks what a topic is to be set to, as a whole, and returns it as it is stored.
///
/// # Errors
/// The first config that is refused.
pub fn check_topic(overrides: &Overrides) -> Result<Overrides, InvalidConfig> {
    let mut checked = Overrides::new();
    for (name, value) in overrides {
        let def = known(name)?;
        checked.insert(name.clone(), def.check(value)?);
    }
    check_lags(&checked)?;
    debug_assert!(checked.len() <= TOPIC_CONFIGS.len(), "every name is in the table");
    Ok(checked)
}

/// As [`check_topic`], for what a broker is started with; `has_peers`: it is, or may become, one of several.
///
/// A policy is refused alone, too: a log that was compacted has gaps for ever, and a start without it would not know.
///
/// # Errors
/// [`InvalidConfig`].
pub fn check_defaults(defaults: &Overrides, has_peers: bool) -> Result<Overrides, InvalidConfig> {
    let checked = check_topic(defaults)?;
    for name in SAME_EVERYWHERE.iter().filter(|name| checked.contains_key(**name)) {
        let broker_name = find(name).and_then(|def| def.broker_name).unwrap_or(name);
        if has_peers || *name == "cleanup.policy" {
            return Err(InvalidConfig::Alike { name: (*name).to_owned(), broker_name });
        }
    }
    Ok(checked)
}

fn check_lags(checked: &Overrides) -> Result<(), InvalidConfig> {
    let lag = |name: &str| checked.get(name).and_then(|value| value.parse::<i64>().ok());
    let (Some(min), Some(max)) = (lag("min.compaction.lag.ms"), lag("max.compaction.lag.ms")) else {
        return Ok(());
    };
    if min <= max {
        return Ok(());
    }
    let why = format!("it is larger than max.compaction.lag.ms, which is {max}");
    Err(InvalidConfig::Value { name: "min.compaction.lag.ms".into(), value: min.to_string(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cluster_must_see_alike_is_no_setting_of_one_of_its_nodes() {
        let given = |name: &str, value: &str| Overrides::from([(name.to_owned(), value.to_owned())]);
        for name in SAME_EVERYWHERE {
            let default = given(name, find(name).expect("known").default);
            let refused = check_defaults(&default, true).expect_err(name).to_string();
            assert!(refused.contains("dejaq cluster alter --set "), "{refused}");
            assert_eq!(check_defaults(&default, false).is_ok(), name != "cleanup.policy", "{name} alone");
        }
        let refused = check_defaults(&given("durability", "none"), true).expect_err("refused").to_string();
        assert!(refused.contains("--set log.durability="), "{refused}");
        assert!(check_defaults(&given("retention.ms", "1"), true).is_ok());
    }

    fn overrides(pairs: &[(&str, &str)]) -> Overrides {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_topic_that_says_nothing_keeps_records_for_fourteen_days_and_acks_after_a_sync() {
        let config = TopicConfig::default();
        assert_eq!(config.retention_ms, Some(14 * 24 * 3600 * 1000));
        assert_eq!(config.retention_bytes, None);
        assert_eq!(config.durability, Durability::Durable);
        assert_eq!(config.compression, Compression::Producer);
        assert!(config.delete);
    }

    #[test]
    fn the_nearest_setting_wins() {
        let name = "log.retention.ms";
        let mut brokers = BrokerDefaults::from_settings(&overrides(&[("retention.ms", "4")])).expect("valid");
        let none = Overrides::new();
        assert_eq!(TopicConfig::resolve(&none, &brokers).retention_ms, Some(4));
        brokers.all_brokers = overrides(&[(name, "3")]);
        assert_eq!(TopicConfig::resolve(&none, &brokers).retention_ms, Some(3));
        brokers.broker = overrides(&[(name, "2")]);
        assert_eq!(TopicConfig::resolve(&none, &brokers).retention_ms, Some(2));
        let topic = overrides(&[("retention.ms", "-1")]);
        assert_eq!(TopicConfig::resolve(&topic, &brokers).retention_ms, None);
        let sources: Vec<_> = candidates(find("retention.ms").expect("known"), &topic, &brokers)
            .into_iter()
            .map(|candidate| candidate.source)
            .collect();
        use Source::{AllBrokers, Broker, Default, Settings, Topic};
        assert_eq!(sources, [Topic, Broker, AllBrokers, Settings, Default]);
    }

    #[test]
    fn a_stored_value_that_is_refused_today_counts_as_not_set() {
        let config = TopicConfig::resolve(&overrides(&[("segment.bytes", "14")]), &BrokerDefaults::default());
        assert_eq!(config.segment_bytes, 1 << 30);
    }

    #[test]
    fn the_internal_segment_size_goes_below_the_minimum() {
        let topic = overrides(&[("internal.segment.bytes", "4096"), ("segment.bytes", "2097152")]);
        assert_eq!(TopicConfig::resolve(&topic, &BrokerDefaults::default()).segment_bytes, 4096);
    }

    #[test]
    fn flush_settings_of_kafka_only_make_a_topic_safer() {
        let policy = |pairs| TopicConfig::resolve(&overrides(pairs), &BrokerDefaults::default()).policy();
        assert_eq!(policy(&[]), Policy::default());
        let replicated = policy(&[("durability", "replicated"), ("flush.ms", "20")]);
        assert_eq!(replicated.durability, Durability::Replicated);
        assert_eq!(replicated.flush_interval, Some(Duration::from_millis(20)));
        let every = policy(&[("durability", "none"), ("flush.messages", "1")]);
        assert_eq!(every.durability, Durability::Durable);
    }

    #[test]
    fn without_delete_nothing_expires() {
        let mut config = TopicConfig::default();
        assert_eq!(config.log_config().retention_ms, config.retention_ms);
        config.delete = false;
        assert_eq!(config.log_config().retention_ms, None);
    }

    #[test]
    fn bad_settings_are_reported_all_at_once() {
        let bad = overrides(&[("retention.ms", "x"), ("segment.bytes", "1"), ("colour", "red")]);
        assert_eq!(BrokerDefaults::from_settings(&bad).expect_err("three are bad").len(), 3);
    }

    #[test]
    fn compaction_lags_must_not_cross() {
        let topic = overrides(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "9")]);
        let refused = check_topic(&topic).expect_err("10 > 9");
        assert!(refused.to_string().contains("larger than max.compaction.lag.ms"), "{refused}");
    }
}
