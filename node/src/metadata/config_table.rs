//! The one table of topic configs: what a user may set, and what it means when nobody did.
//!
//! Owns: names, types, bounds, defaults, documentation and the broker-level synonym of every topic config.
//! Promises: a value that [`TopicConfigDef::check`] accepts is one that [`super::topic_config`] can read.
//! Leaves out: who set what (the image), and what the values do (`storage`, `replica`).
//! Called by `controller::decide` (validation), `topic_config` (resolution) and `api::describe_configs`.
//!
//! Names and bounds are those of Apache Kafka 4.x, so that tools and scripts written for it work; where we differ
//! the entry says why. Configs of features that are not built are either refused with the reason or, where their
//! default is the only truth, accepted with that value only.

mod defs;

pub use defs::TOPIC_CONFIGS;

/// Longest value of a config in bytes; lists are compared word by word, and a value is repeated in refusals.
pub const MAX_VALUE_BYTES: usize = 4096;

/// The type of a config, as DescribeConfigs tells it, with its bounds (both inclusive).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// 32 bits.
    Int {
        /// Smallest value.
        min: i32,
    },
    /// 64 bits.
    Long {
        /// Smallest value.
        min: i64,
    },
    /// A share from 0 to 1.
    Ratio,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A comma-separated list of these words; any word if empty.
    List(&'static [&'static str]),
}

impl Kind {
    /// The number by which DescribeConfigs names the type.
    #[must_use]
    pub const fn wire_type(self) -> i8 {
        match self {
            Kind::Bool => 1,
            Kind::Choice(_) => 2,
            Kind::Int { .. } => 3,
            Kind::Long { .. } => 5,
            Kind::Ratio => 6,
            Kind::List(_) => 7,
        }
    }

    /// Whether APPEND and SUBTRACT make sense.
    #[must_use]
    pub const fn is_list(self) -> bool {
        matches!(self, Kind::List(_))
    }
}

/// A further rule on a value that its type allows: the refusal says the reason.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Every value of the type.
    Any,
    /// Only this value, because of what the text says.
    Only(&'static str, &'static str),
}

/// One topic config.
#[derive(Debug, PartialEq)]
pub struct TopicConfigDef {
    /// Kafka's name, or ours.
    pub name: &'static str,
    /// Type and bounds.
    pub kind: Kind,
    /// The value when neither topic nor broker say anything.
    pub default: &'static str,
    /// The broker config whose value is the default of topics; `None` if there is no such config.
    pub broker_name: Option<&'static str>,
    /// A further rule.
    pub rule: Rule,
    /// Shown only when it is set (Kafka's internal configs, for tests).
    pub internal: bool,
    /// The level of the cluster (`dejaq.version`) from which on it can be set.
    pub since: i16,
    /// One line for people.
    pub doc: &'static str,
}

/// Why a config was refused; answered as INVALID_CONFIG with this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// No such config.
    #[error("Unknown topic config name: {name}{}", hint(.near))]
    Unknown {
        /// What was asked for.
        name: String,
        /// A known name that looks like it.
        near: Option<&'static str>,
    },
    /// A null value where one is needed.
    #[error("Null value not supported for topic configs: {name}")]
    Null {
        /// Which config.
        name: String,
    },
    /// One broker cannot say it for itself.
    #[error(
        "{name} is no setting of one broker: every broker must see it alike, now and at the next start. Keep it in the cluster (dejaq \
         cluster alter --set {broker_name}=…), or set it for a topic. If logs were compacted so far, start with retention.ms=-1 in \
         its place until that is done: without a policy, old records are deleted"
    )]
    Alike {
        /// Which config.
        name: String,
        /// What brokers call it.
        broker_name: &'static str,
    },
    /// The value breaks type, bounds or rule.
    #[error("Invalid value {value} for configuration {name}: {why}")]
    Value {
        /// Which config.
        name: String,
        /// What was given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

fn hint(near: &Option<&'static str>) -> String {
    near.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}

/// The config of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static TopicConfigDef> {
    TOPIC_CONFIGS.binary_search_by(|def| def.name.cmp(name)).ok().map(|at| &TOPIC_CONFIGS[at])
}

/// The topic config whose broker-level default has this name.
#[must_use]
pub fn find_by_broker_name(broker_name: &str) -> Option<&'static TopicConfigDef> {
    TOPIC_CONFIGS.iter().find(|def| def.broker_name == Some(broker_name))
}

/// Configs by which controller, leader and followers decide together: each must know the same value. One broker may say it
/// for itself only while it is the whole cluster; else it is said of the topic, or of all brokers.
///
/// With too small a minimum, or less durable than the controller believes, a leader would acknowledge what the controller
/// then elects without; a log with gaps is not taken by who expects none.
pub const SAME_EVERYWHERE: [&str; 5] = [
    "cleanup.policy",
    "durability",
    "flush.messages",
    "min.insync.replicas",
    "unclean.leader.election.enable",
];

impl TopicConfigDef {
    /// Whether it is one of [`SAME_EVERYWHERE`].
    #[must_use]
    pub fn is_same_everywhere(&self) -> bool {
        SAME_EVERYWHERE.contains(&self.name)
    }
}

/// The config of this name, or the refusal that names it and its nearest neighbour.
///
/// # Errors
/// [`InvalidConfig::Unknown`].
pub fn known(name: &str) -> Result<&'static TopicConfigDef, InvalidConfig> {
    find(name).ok_or_else(|| InvalidConfig::Unknown { name: name.to_owned(), near: nearest(name) })
}

impl TopicConfigDef {
    /// Checks a value and returns it as it is stored: trimmed, booleans in lower case, lists without blanks.
    ///
    /// # Errors
    /// [`InvalidConfig::Value`] with what is wrong.
    pub fn check(&self, value: &str) -> Result<String, InvalidConfig> {
        let trimmed = value.trim();
        if value.len() > MAX_VALUE_BYTES {
            let shown = value[..value.floor_char_boundary(40)].to_owned() + "…";
            let why = format!("{} bytes are too long, at most {MAX_VALUE_BYTES} are allowed", value.len());
            return Err(InvalidConfig::Value { name: self.name.into(), value: shown, why });
        }
        let refuse = |why: String| InvalidConfig::Value { name: self.name.into(), value: value.into(), why };
        let stored = self.typed(trimmed).map_err(refuse)?;
        match self.rule {
            Rule::Any => Ok(stored),
            Rule::Only(only, _) if stored == only => Ok(stored),
            Rule::Only(_, why) => Err(refuse(why.into())),
        }
    }

    fn typed(&self, value: &str) -> Result<String, String> {
        match self.kind {
            Kind::Bool => match value.to_ascii_lowercase().as_str() {
                word @ ("true" | "false") => Ok(word.into()),
                _ => Err("Expected value to be either true or false".into()),
            },
            Kind::Int { min } => match value.parse::<i32>() {
                Ok(number) if number >= min => Ok(number.to_string()),
                Ok(_) => Err(format!("Value must be at least {min}")),
                Err(_) => Err("Not a number of type INT".into()),
            },
            Kind::Long { min } => match value.parse::<i64>() {
                Ok(number) if number >= min => Ok(number.to_string()),
                Ok(_) => Err(format!("Value must be at least {min}")),
                Err(_) => Err("Not a number of type LONG".into()),
            },
            Kind::Ratio => match value.parse::<f64>() {
                Ok(number) if (0.0..=1.0).contains(&number) => Ok(value.into()),
                Ok(_) => Err("Value must be between 0 and 1".into()),
                Err(_) => Err("Not a number of type DOUBLE".into()),
            },
            Kind::Choice(words) if words.contains(&value) => Ok(value.into()),
            Kind::Choice(words) => Err(format!("String must be one of: {}", words.join(", "))),
            Kind::List(words) => typed_list(value, words),
        }
    }
}

/// The words of a list config, without blanks.
pub fn words(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn typed_list(value: &str, allowed: &[&str]) -> Result<String, String> {
    let mut list: Vec<&str> = Vec::new();
    for word in words(value) {
        if !allowed.is_empty() && !allowed.contains(&word) {
            return Err(format!("String must be one of: {}", allowed.join(", ")));
        }
        if !list.contains(&word) {
            list.push(word);
        }
    }
    if list.is_empty() && !allowed.is_empty() {
        return Err(format!("at least one of these is needed: {}", allowed.join(", ")));
    }
    Ok(list.join(","))
}

/// A known name within a third of the length in edits of what was asked for.
fn nearest(name: &str) -> Option<&'static str> {
    const LONGEST: usize = 64; // the longest known name has 39 bytes; a longer guess is not worth the work
    if name.is_empty() || name.len() > LONGEST {
        return None;
    }
    let all = TOPIC_CONFIGS.iter().map(|def| (edits(name, def.name), def.name));
    let (distance, near) = all.min().expect("the table is not empty");
    (distance * 3 <= near.len().max(name.len())).then_some(near)
}

/// Edits (insert, delete, replace) that turn one name into the other.
fn edits(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(!same(a, b));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// Case and the kind of separator are no difference.
fn same(a: u8, b: u8) -> bool {
    a.eq_ignore_ascii_case(&b) || (is_gap(a) && is_gap(b))
}

fn is_gap(byte: u8) -> bool {
    matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_default_is_valid() {
        assert_eq!(
            TOPIC_CONFIGS.iter().filter(|def| def.is_same_everywhere()).count(),
            SAME_EVERYWHERE.len()
        );
        assert!(SAME_EVERYWHERE.iter().all(|name| find(name).is_some_and(|def| def.broker_name.is_some())));
        assert!(TOPIC_CONFIGS.is_sorted_by(|a, b| a.name < b.name), "binary search needs order");
        for def in TOPIC_CONFIGS.iter().filter(|def| !def.internal) {
            assert_eq!(def.check(def.default).as_deref(), Ok(def.default), "{}", def.name);
            assert!(!def.doc.is_empty(), "{}", def.name);
            assert_eq!(find(def.name).map(|found| found.name), Some(def.name));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_its_neighbour() {
        let refused = known("retention_ms").map(|def| def.name).expect_err("no such name");
        assert_eq!(
            refused.to_string(),
            "Unknown topic config name: retention_ms (did you mean retention.ms?)"
        );
        let refused = known("colour").map(|def| def.name).expect_err("no such name");
        assert_eq!(refused.to_string(), "Unknown topic config name: colour");
    }

    #[test]
    fn a_bad_value_is_refused_with_the_reason() {
        for (name, value, why) in [
            ("retention.ms", "-2", "Value must be at least -1"),
            ("retention.ms", "soon", "Not a number of type LONG"),
            ("max.message.bytes", "3000000000", "Not a number of type INT"),
            ("segment.bytes", "100", "Value must be at least 1048576"),
            ("preallocate", "yes", "Expected value to be either true or false"),
            ("message.timestamp.type", "Whenever", "String must be one of: CreateTime, LogAppendTime"),
            ("cleanup.policy", "shred", "String must be one of: delete, compact"),
            ("cleanup.policy", "", "at least one of these is needed: delete, compact"),
            ("min.cleanable.dirty.ratio", "1.5", "Value must be between 0 and 1"),
            ("remote.storage.enable", "true", "tiered storage is not available in this version"),
        ] {
            let refused = find(name).expect("known").check(value).expect_err(value);
            assert_eq!(refused.to_string(), format!("Invalid value {value} for configuration {name}: {why}"));
        }
    }

    #[test]
    fn compaction_is_taken_in_every_spelling() {
        for (value, stored) in [
            ("compact", "compact"),
            ("compact,delete", "compact,delete"),
            ("delete, compact", "delete,compact"),
        ] {
            assert_eq!(find("cleanup.policy").expect("known").check(value).as_deref(), Ok(stored));
        }
    }

    #[test]
    fn a_value_without_measure_is_refused_before_it_costs_anything() {
        let list = (0..1_000_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let refused = find("leader.replication.throttled.replicas").expect("known").check(&list);
        assert!(refused.expect_err("too long").to_string().len() < 300);
    }

    #[test]
    fn values_are_stored_in_one_form() {
        assert_eq!(find("preallocate").expect("known").check(" FALSE ").as_deref(), Ok("false"));
        assert_eq!(find("cleanup.policy").expect("known").check("delete , delete").as_deref(), Ok("delete"));
        assert_eq!(find("retention.ms").expect("known").check(" +60000").as_deref(), Ok("60000"));
    }
}
