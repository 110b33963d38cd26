//! From sources to a valid `Config`, or to every error at once.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::parse::{self, ParseError};
use super::table::{Kind, TABLE, setting};
use super::{
    CleanerSettings, Config, GroupSettings, HealingSettings, Limits, LogFormat, QuorumNode, TopicSettings,
    TransactionSettings,
};

/// Who gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A flag on the command line.
    Flag,
    /// An environment variable.
    Env,
    /// The file of this name.
    File(String),
    /// The table.
    Default,
    /// The simulator.
    Drawn,
}

/// One thing that is wrong with the settings. A person can act on its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that its setting does not take.
    #[error("{at}: {error}")]
    Value {
        /// The setting as its source writes it.
        at: String,
        /// What is wrong.
        error: ParseError,
    },
    /// A name that no setting has.
    #[error("{at}: no such setting{hint}")]
    Unknown {
        /// The name as its source writes it.
        at: String,
        /// The nearest name there is, or nothing.
        hint: String,
    },
    /// The file is not TOML, or holds something that is no plain value.
    #[error("{path}: {problem}")]
    File {
        /// Which file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// Two settings that do not go together.
    #[error("{0}")]
    Relation(String),
}

/// Where settings come from, the first that has a value wins.
#[derive(Debug, Default)]
pub struct Sources {
    /// Flags of the command line: name without dashes, value.
    pub flags: Vec<(String, String)>,
    /// The environment; only names that begin with `DEJAQ_` are looked at.
    pub env: Vec<(String, String)>,
    /// The settings file: its path, for messages, and its text.
    pub file: Option<(String, String)>,
}

impl Config {
    /// Settings from all sources, checked.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of sources and then of the table. Never empty.
    pub fn resolve(sources: &Sources) -> Result<Config, Vec<ConfigError>> {
        let mut values = Values::default();
        let mut errors = Vec::new();
        if let Some((path, text)) = &sources.file {
            values.take_file(path, text, &mut errors);
        }
        for (name, value) in &sources.env {
            let Some(rest) = name.strip_prefix("DEJAQ_") else { continue };
            // Not the broker's: the file to read (`cli::start`), the address for client verbs, what CI keeps where.
            if rest == "CONFIG" || rest == "BOOTSTRAP" || rest.starts_with("CI_") {
                continue;
            }
            let key = rest.to_ascii_lowercase().replace('_', "-");
            values.set_checked(&key, value.clone(), Source::Env, &mut errors);
        }
        for (name, value) in &sources.flags {
            values.set_checked(name, value.clone(), Source::Flag, &mut errors);
        }
        match values.check() {
            Ok(config) if errors.is_empty() => Ok(config),
            Ok(_) => Err(errors),
            Err(more) => {
                errors.extend(more);
                Err(errors)
            }
        }
    }
}

/// Raw values by name; what is absent has its default.
#[derive(Debug, Default)]
pub(super) struct Values {
    set: BTreeMap<&'static str, (String, Source)>,
    /// `[topic-defaults]` of the file: keys may hold dots and values may be any scalar.
    file_topic_defaults: BTreeMap<String, String>,
}

impl Values {
    pub(super) fn set(&mut self, name: &str, value: String, source: Source) {
        let setting = setting(name).unwrap_or_else(|| panic!("no setting {name}"));
        self.set.insert(setting.name, (value, source));
    }

    fn set_checked(&mut self, name: &str, value: String, source: Source, errors: &mut Vec<ConfigError>) {
        match setting(name) {
            Some(_) => self.set(name, value, source),
            None => errors.push(ConfigError::Unknown { at: spelled(name, &source), hint: nearest(name) }),
        }
    }

    fn take_file(&mut self, path: &str, text: &str, errors: &mut Vec<ConfigError>) {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                errors.push(ConfigError::File { path: path.to_owned(), problem: error.to_string() });
                return;
            }
        };
        for (name, value) in table {
            match value {
                toml::Value::Table(pairs) if name == "topic-defaults" => {
                    for (key, value) in flatten("", pairs) {
                        self.file_topic_defaults.insert(key, value);
                    }
                }
                toml::Value::Table(_) | toml::Value::Array(_) => errors.push(ConfigError::File {
                    path: path.to_owned(),
                    problem: format!("{name} is not a plain value"),
                }),
                scalar => {
                    let source = Source::File(path.to_owned());
                    self.set_checked(&name, scalar_text(&scalar), source, errors);
                }
            }
        }
    }

    /// Parses and checks every value and the relations between them.
    pub(super) fn check(&self) -> Result<Config, Vec<ConfigError>> {
        let mut read = Reader { values: self, errors: Vec::new() };
        let limits = read.limits();
        let topics = TopicSettings {
            auto_create: read.switch("auto-create-topics"),
            default_partitions: read.small("default-partitions"),
            default_replication_factor: Some(read.small("default-replication-factor"))
                .filter(|count| *count > 0),
            max_partitions: read.small("max-partitions"),
            defaults: read.topic_defaults(),
        };
        let healing = HealingSettings {
            session_timeout: read.millis("broker-session-timeout-ms"),
            shutdown_timeout: read.millis("controlled-shutdown-timeout-ms"),
            replica_lag: read.millis("replica-lag-ms"),
            scrub_interval: read.millis("scrub-interval-ms"),
            scrub_bytes_per_second: read.number("scrub-bytes-per-second"),
            recreate_after: read.unless_zero("replica-recreate-after-ms"),
            move_bytes_per_second: read.number("move-bytes-per-second"),
            max_moves: read.size("max-concurrent-moves"),
            leader_interval: read.unless_zero("leader-rebalance-interval-ms"),
            auto_rebalance: read.switch("auto-rebalance"),
        };
        let groups = read.groups();
        let transactions = TransactionSettings {
            partitions: read.small("transactions-topic-partitions"),
            max_timeout: read.millis("transaction-max-timeout-ms"),
            id_expiry: read.millis("transactional-id-expiration-ms"),
        };
        let config = Config {
            data_dir: read.text("data-dir"),
            listen: read.address("listen"),
            advertise: read.address("advertise"),
            node_id: read.small("node-id"),
            peer_listen: read.address("peer-listen"),
            peer_advertise: read.address("peer-advertise"),
            quorum: read.quorum("quorum"),
            election_timeout: read.millis("quorum-election-timeout-ms"),
            snapshot_bytes: read.number("metadata-snapshot-bytes"),
            feature_level_max: u16::try_from(read.number("feature-level-max")).expect("the table bounds it"),
            rack: Some(read.text("rack")).filter(|rack| !rack.is_empty()),
            admin_listen: read.address("admin-listen"),
            topics,
            limits,
            healing,
            groups,
            transactions,
            tcp_congestion: read.text("tcp-congestion"),
            min_free_bytes: read.number("min-free-bytes"),
            retention_interval: read.millis("retention-interval-ms"),
            cleaner: CleanerSettings {
                map_bytes: read.size("cleaner-buffer-bytes"),
                bytes_per_second: read.number("cleaner-io-bytes-per-second"),
            },
            log_format: if read.text("log-format") == "json" { LogFormat::Json } else { LogFormat::Human },
            log_level: read.text("log-level"),
            given: self.set.iter().map(|(name, (value, _))| (*name, value.clone())).collect(),
        };
        let mut errors = read.errors;
        if errors.is_empty() {
            relations(&config, &mut errors);
        }
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }
}

/// The levels of log lines, as filters take them.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A filter takes a bare word that is no level for the name of a part of the program, and shows the lines of that part only:
/// of a mistyped level, none at all.
fn log_level(filter: &str) -> Result<(), String> {
    let mut parts = filter.split(',').map(str::trim).filter(|part| !part.is_empty());
    let is_level = |part: &str| {
        LEVELS.iter().any(|level| part.eq_ignore_ascii_case(level)) || matches!(part.parse(), Ok(0_u8..=5))
    };
    let mistyped = parts.find(|part| !part.contains(['=', '[']) && !is_level(part));
    mistyped.map_or(Ok(()), |part| {
        let levels = LEVELS.join(", ");
        Err(format!("log-level: {part:?} is none of {levels}; for one part of the program say PART=LEVEL"))
    })
}

fn relations(config: &Config, errors: &mut Vec<ConfigError>) {
    if let Err(text) = log_level(&config.log_level) {
        errors.push(ConfigError::Relation(text));
    }
    let mut must = |holds: bool, text: String| {
        if !holds {
            errors.push(ConfigError::Relation(text));
        }
    };
    let limits = &config.limits;
    must(
        limits.request_max_bytes <= limits.memory_bytes,
        format!(
            "request-max-bytes ({}) is above memory-budget-bytes ({}): such a request could never be read",
            limits.request_max_bytes, limits.memory_bytes
        ),
    );
    must(
        config.topics.default_partitions <= config.topics.max_partitions,
        format!(
            "default-partitions ({}) is above max-partitions ({})",
            config.topics.default_partitions, config.topics.max_partitions
        ),
    );
    must(
        config.groups.min_session <= config.groups.max_session,
        format!(
            "group-min-session-timeout-ms ({} ms) is above group-max-session-timeout-ms ({} ms)",
            config.groups.min_session.as_millis(),
            config.groups.max_session.as_millis()
        ),
    );
    must(!config.listen.is_empty(), "listen is empty: give HOST:PORT".to_owned());
    must(!config.data_dir.is_empty(), "data-dir is empty".to_owned());
    let anywhere = |address: &str| ["0.0.0.0:", "[::]:"].iter().any(|any| address.starts_with(any));
    must(
        !anywhere(&config.listen) || !config.advertise.is_empty(),
        format!(
            "listen is {}, which no client can connect to: say with advertise where they can",
            config.listen
        ),
    );
    must(
        !config.advertise.ends_with(":0"),
        format!("advertise is {}: port 0 is no port to connect to", config.advertise),
    );
    must(
        !anywhere(&config.peer_listen) || !config.peer_advertise.is_empty(),
        format!(
            "peer-listen is {}, which no node can connect to: say with peer-advertise where they can",
            config.peer_listen
        ),
    );
    must(
        !config.peer_advertise.ends_with(":0"),
        format!("peer-advertise is {}: port 0 is no port to connect to", config.peer_advertise),
    );
    must(
        config.quorum.is_empty() || !config.peer_listen.is_empty(),
        "quorum is given, but not peer-listen: the nodes of a quorum have to reach each other".to_owned(),
    );
    must(
        config.peer_advertise.is_empty() || !config.peer_listen.is_empty(),
        "peer-advertise is given, but not peer-listen: nobody would answer there".to_owned(),
    );
}

/// Reads values and gathers errors; after an error it answers the default, so that the rest is checked too.
struct Reader<'a> {
    values: &'a Values,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn limits(&mut self) -> Limits {
        Limits {
            max_connections: self.size("max-connections"),
            inflight_requests: self.size("connection-inflight-requests"),
            inflight_bytes: self.size("connection-inflight-bytes"),
            memory_bytes: self.size("memory-budget-bytes"),
            request_max_bytes: self.size("request-max-bytes"),
            idle_timeout: self.millis("idle-timeout-ms"),
            frame_timeout: self.millis("frame-timeout-ms"),
            send_timeout: self.millis("send-timeout-ms"),
            half_close_timeout: self.millis("half-close-timeout-ms"),
            drain_timeout: self.millis("drain-timeout-ms"),
        }
    }

    fn raw(&self, name: &str) -> (String, Source) {
        let setting = setting(name).unwrap_or_else(|| panic!("no setting {name}"));
        match self.values.set.get(name) {
            Some((value, source)) => (value.clone(), source.clone()),
            None => (setting.default_text(), Source::Default),
        }
    }

    fn take<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, ParseError>) -> T {
        let (value, source) = self.raw(name);
        match parse(&value) {
            Ok(value) => value,
            Err(error) => {
                self.errors.push(ConfigError::Value { at: spelled(name, &source), error });
                let default = setting(name).expect("raw() found it").default_text();
                parse(&default).unwrap_or_else(|error| panic!("default of {name}: {error}"))
            }
        }
    }

    fn number(&mut self, name: &str) -> u64 {
        let setting = setting(name).unwrap_or_else(|| panic!("no setting {name}"));
        self.take(name, |text| parse::number(setting, text))
    }

    fn size(&mut self, name: &str) -> usize {
        usize::try_from(self.number(name)).expect("the table bounds sizes to what memory can hold")
    }

    fn small(&mut self, name: &str) -> u32 {
        u32::try_from(self.number(name)).expect("the table bounds it to 32 bits")
    }

    /// A time of which 0 means never.
    fn unless_zero(&mut self, name: &str) -> Option<Duration> {
        Some(self.millis(name)).filter(|time| !time.is_zero())
    }

    fn millis(&mut self, name: &str) -> Duration {
        Duration::from_millis(self.number(name))
    }

    fn switch(&mut self, name: &str) -> bool {
        self.take(name, parse::switch)
    }

    fn text(&mut self, name: &str) -> String {
        let setting = setting(name).unwrap_or_else(|| panic!("no setting {name}"));
        self.take(name, |text| match setting.kind {
            Kind::Choice { words, .. } if !words.contains(&text) => {
                Err(ParseError::NoSuchWord { value: text.to_owned(), words: words.join(", ") })
            }
            _ => Ok(text.to_owned()),
        })
    }

    /// An address, or nothing.
    fn address(&mut self, name: &str) -> String {
        self.take(name, |text| if text.is_empty() { Ok(String::new()) } else { parse::address(text) })
    }

    fn quorum(&mut self, name: &str) -> Vec<QuorumNode> {
        self.take(name, parse::quorum)
    }

    fn groups(&mut self) -> GroupSettings {
        GroupSettings {
            partitions: self.small("offsets-topic-partitions"),
            retention: self.millis("offsets-retention-ms"),
            initial_delay: self.millis("group-initial-rebalance-delay-ms"),
            min_session: self.millis("group-min-session-timeout-ms"),
            max_session: self.millis("group-max-session-timeout-ms"),
            max_members: self.size("group-max-members"),
            max_metadata_bytes: self.size("offset-metadata-max-bytes"),
            consumer_heartbeat: self.millis("group-consumer-heartbeat-interval-ms"),
            consumer_session: self.millis("group-consumer-session-timeout-ms"),
            consumer_max_members: self.size("group-consumer-max-size"),
            consumer_assignors: self.text("group-consumer-assignors").split(',').map(str::to_owned).collect(),
            migration: match self.text("group-consumer-migration-policy").as_str() {
                "upgrade" => (true, false),
                "downgrade" => (false, true),
                "disabled" => (false, false),
                _ => (true, true),
            },
        }
    }

    fn topic_defaults(&mut self) -> BTreeMap<String, String> {
        let mut all = self.values.file_topic_defaults.clone();
        all.extend(self.take("topic-defaults", parse::pairs));
        all
    }
}

/// The setting as its source writes it.
fn spelled(name: &str, source: &Source) -> String {
    match source {
        Source::Flag => format!("--{name}"),
        Source::Env => format!("DEJAQ_{}", name.replace('-', "_").to_ascii_uppercase()),
        Source::File(path) => format!("{path}: {name}"),
        Source::Default => format!("{name} (its default)"),
        Source::Drawn => format!("{name} (drawn)"),
    }
}

/// `", did you mean …?"`, if a setting begins and ends much like `name`.
fn nearest(name: &str) -> String {
    let shared = |candidate: &str| {
        let same = |(a, b): &(char, char)| a == b;
        let head = candidate.chars().zip(name.chars()).take_while(same).count();
        let tail = candidate.chars().rev().zip(name.chars().rev()).take_while(same).count();
        head + tail
    };
    match TABLE.iter().map(|s| (shared(s.name), s.name)).max() {
        Some((count, best)) if count >= 4 => format!(", did you mean {best}?"),
        _ => String::new(),
    }
}

fn scalar_text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `retention.ms = 1` in TOML is a table in a table: joins the keys by dots again.
fn flatten(prefix: &str, table: toml::Table) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (key, value) in table {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) => out.extend(flatten(&name, inner)),
            scalar => out.push((name, scalar_text(&scalar))),
        }
    }
    out
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("flag"),
            Source::Env => f.write_str("environment"),
            Source::File(path) => f.write_str(path),
            Source::Default => f.write_str("default"),
            Source::Drawn => f.write_str("drawn"),
        }
    }
}
