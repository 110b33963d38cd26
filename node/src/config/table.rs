//! The table itself. A setting is added here and in `Config`; nothing else knows its name.

use dejaq_wire::peer::{FEATURE_LEVEL, OLDEST_FEATURE_LEVEL};

/// What values a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number; names ending in `-bytes` also take `KiB`, `MiB`, `GiB`, those in `-ms` also `s`, `m`, `h`.
    Number {
        /// In the unit of the name.
        default: u64,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
        /// From where the simulator draws, both ends included; `None` leaves it at its default.
        drawn: Option<(u64, u64)>,
    },
    /// `true` or `false`.
    Switch {
        /// What it is when nobody says.
        default: bool,
    },
    /// One of a few words.
    Choice {
        /// What it is when nobody says.
        default: &'static str,
        /// All of them.
        words: &'static [&'static str],
    },
    /// Text; `shape` names what it is in the help.
    Text {
        /// What it is when nobody says.
        default: &'static str,
        /// Such as `HOST:PORT`.
        shape: &'static str,
    },
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// As a flag without its dashes, and as a key of `dejaq.toml`; the unit comes last.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What it does, in one line.
    pub effect: &'static str,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

const fn number(
    name: &'static str,
    default: u64,
    (min, max): (u64, u64),
    drawn: (u64, u64),
    effect: &'static str,
) -> Setting {
    assert!(min <= default && default <= max, "the default is out of bounds");
    assert!(min <= drawn.0 && drawn.0 <= drawn.1 && drawn.1 <= max, "the drawn range is out of bounds");
    assert!(max <= i64::MAX as u64, "TOML has no larger numbers");
    Setting { name, kind: Kind::Number { default, min, max, drawn: Some(drawn) }, effect }
}

/// A number that the simulator does not draw: a scenario that is about it sets it.
const fn kept(name: &'static str, default: u64, (min, max): (u64, u64), effect: &'static str) -> Setting {
    assert!(min <= default && default <= max, "the default is out of bounds");
    assert!(max <= i64::MAX as u64, "TOML has no larger numbers");
    Setting { name, kind: Kind::Number { default, min, max, drawn: None }, effect }
}

const fn text(
    name: &'static str,
    default: &'static str,
    shape: &'static str,
    effect: &'static str,
) -> Setting {
    Setting { name, kind: Kind::Text { default, shape }, effect }
}

/// Every setting, in the order of the help.
#[rustfmt::skip]
pub const TABLE: &[Setting] = &[
    text("data-dir", "./dejaq-data", "PATH", "where everything is kept; created if missing, locked while in use"),
    text("listen", "127.0.0.1:9092", "HOST:PORT", "where clients connect; port 0 takes a free one"),
    text("advertise", "", "HOST:PORT", "the address that clients are told to connect to; empty: as listen"),
    number("node-id", 1, (0, i32::MAX as u64), (1, 1), "the number of this broker in its cluster"),
    text("peer-listen", "", "HOST:PORT", "where the other nodes of the cluster connect; empty: this node stands alone"),
    text("peer-advertise", "", "HOST:PORT", "the address that other nodes are told to connect to; empty: as peer-listen"),
    text("quorum", "", "ID@HOST:PORT,...", "the nodes that first vote on the cluster's metadata, by node-id and peer address; empty: this node alone"),
    kept("quorum-election-timeout-ms", 300, (20, 60_000),
        "a node of the quorum that hears nothing of its leader for one to two times this stands for election"),
    kept("metadata-snapshot-bytes", 8 * MIB, (4 * KIB, GIB), "changes of the metadata after which a snapshot takes their place"),
    kept("feature-level-max", FEATURE_LEVEL as u64, (OLDEST_FEATURE_LEVEL as u64, FEATURE_LEVEL as u64),
        "newest dejaq.version that this node speaks, writes and registers; below the default this build is held to that level"),
    text("rack", "", "NAME", "where this broker stands: replicas of a partition are spread over racks"),
    text("admin-listen", "127.0.0.1:9644", "HOST:PORT", "HTTP with /metrics, /health/live, /health/ready; empty: none"),

    Setting { name: "auto-create-topics", kind: Kind::Switch { default: true },
        effect: "a topic that a client asks for and that does not exist is created, if the client allows it" },
    number("default-partitions", 1, (1, 10_000), (1, 4), "partitions of a topic that does not say how many"),
    number("max-partitions", 100_000, (1, 1_000_000), (1_000, 1_000), "partitions in all topics together"),

    number("max-connections", 10_000, (1, 1_000_000), (20, 200), "open connections; one more is closed at once"),
    number("connection-inflight-requests", 256, (1, 10_000), (1, 64),
        "unanswered requests of one connection, after which it is not read"),
    number("connection-inflight-bytes", 64 * MIB, (KIB, GIB), (16 * KIB, 4 * MIB),
        "bytes of unanswered requests of one connection, after which it is not read"),
    number("memory-budget-bytes", 256 * MIB, (MIB, 64 * GIB), (4 * MIB, 32 * MIB),
        "bytes of unanswered requests of all connections, after which none is read; in addition, every connection may hold 64 KiB, and what large requests become until they are answered has 256 MiB"),
    number("request-max-bytes", 100 * MIB, (KIB, GIB), (MIB, 4 * MIB),
        "size of one request; the connection of a larger one is closed"),
    number("idle-timeout-ms", 600_000, (1_000, 86_400_000), (60_000, 600_000),
        "a connection without a request for this long is closed"),
    number("frame-timeout-ms", 30_000, (100, 600_000), (10_000, 60_000),
        "a request that began to arrive is whole within this time, or the connection is closed"),
    number("send-timeout-ms", 60_000, (100, 600_000), (10_000, 60_000),
        "a client takes its answer within this time, or the connection is closed"),
    kept("half-close-timeout-ms", 10_000, (0, 600_000),
        "a client that closed its side is still answered, until for this long no answer is ready for it"),
    number("drain-timeout-ms", 10_000, (0, 600_000), (100, 10_000),
        "how long a graceful stop waits for requests that are being answered"),

    text("tcp-congestion", "", "NAME", "TCP congestion control of connections by its kernel name, such as cubic; empty: the system's"),

    number("min-free-bytes", 256 * MIB, (0, 1024 * GIB), (0, 64 * KIB),
        "below this much free disk, writes of clients are refused before the disk is full; looked at four times a second, so leave room for what comes in between"),
    kept("cleaner-buffer-bytes", 64 * MIB, (KIB, 64 * GIB),
        "most memory that compaction takes for the keys of a log, 27 bytes a key; if they do not fit, it takes more rounds"),
    kept("cleaner-io-bytes-per-second", 0, (0, 1024 * GIB),
        "bytes that compaction reads and writes a second at most; 0: no limit"),

    kept("default-replication-factor", 0, (0, 100),
        "replicas of a topic that does not say how many; 0: three, or as many as there are brokers"),
    kept("controlled-shutdown-timeout-ms", 10_000, (0, 600_000),
        "how long a graceful stop waits until others lead what this broker led"),
    number("retention-interval-ms", 30_000, (10, 3_600_000), (50, 3_000),
        "how often old segments are looked for; a record may outlive its retention by this much and its segment"),

    kept("scrub-interval-ms", 86_400_000, (100, 365 * 86_400_000),
        "pause between two looks through all logs for damage, and ten minutes at most before the first"),
    kept("scrub-bytes-per-second", 8 * MIB, (0, 64 * GIB), "how fast logs are looked through for damage; 0: not at all"),

    kept("broker-session-timeout-ms", 9_000, (500, 3_600_000),
        "a broker that the controller did not hear for this long leads nothing until it is heard again"),
    kept("replica-lag-ms", 10_000, (100, 3_600_000),
        "a follower that does not have everything for this long leaves the in-sync set"),
    kept("replica-recreate-after-ms", 600_000, (0, 30 * 86_400_000),
        "replicas of a broker that is gone for this long are made anew on others; 0: never"),
    kept("max-concurrent-moves", 8, (2, 1_000), "partitions that move to other brokers at a time"),
    kept("move-bytes-per-second", 64 * MIB, (0, 64 * GIB),
        "how fast this broker takes in replicas that move to it, all together; 0: as fast as it can"),
    kept("leader-rebalance-interval-ms", 60_000, (0, 86_400_000),
        "how often leaderships go back to the preferred replicas; 0: never"),
    Setting { name: "auto-rebalance", kind: Kind::Switch { default: true },
        effect: "replicas move until all brokers hold the same number when a broker came, was drained or was lost" },

    kept("offsets-topic-partitions", 16, (1, 1_000),
        "partitions of the internal topic of consumer groups; it is made on first use and keeps its number"),
    kept("offsets-retention-ms", 7 * 86_400_000, (1_000, 3_650 * 86_400_000),
        "how long offsets are kept of a group that is empty, or of a topic that its members do not read any more"),
    kept("group-initial-rebalance-delay-ms", 3_000, (0, 600_000),
        "how long the first member of an empty group waits for others"),
    kept("group-min-session-timeout-ms", 6_000, (10, 86_400_000), "shortest session timeout that a member may ask for"),
    kept("group-max-session-timeout-ms", 1_800_000, (10, 86_400_000), "longest session timeout that a member may ask for"),
    kept("group-max-members", 10_000, (1, 1_000_000), "members of one consumer group"),
    kept("group-consumer-heartbeat-interval-ms", 5_000, (10, 3_600_000),
        "how often members of the new protocol (KIP-848) are told to be heard"),
    kept("group-consumer-session-timeout-ms", 45_000, (10, 86_400_000),
        "a member of the new protocol that is silent for this long is out of its group"),
    kept("group-consumer-max-size", 10_000, (1, 1_000_000), "members of one group of the new protocol"),
    Setting { name: "group-consumer-assignors",
        kind: Kind::Choice { default: "uniform,range", words: &["uniform,range", "range,uniform", "uniform", "range"] },
        effect: "how plans of the new protocol may be made, the default first: uniform (even numbers, few moves), range (neighbours)" },
    Setting { name: "group-consumer-migration-policy",
        kind: Kind::Choice { default: "bidirectional", words: &["bidirectional", "upgrade", "downgrade", "disabled"] },
        effect: "whether a group with members may go from the classic protocol to the new one and back" },
    kept("offset-metadata-max-bytes", 4_096, (0, 30_000), "text that a client may keep beside an offset"),

    kept("transactions-topic-partitions", 16, (1, 1_000),
        "partitions of the internal topic of transactions; it is made on first use and keeps its number"),
    kept("transaction-max-timeout-ms", 900_000, (1, 86_400_000), "how long a client may keep a transaction open at most"),
    kept("transactional-id-expiration-ms", 7 * 86_400_000, (1_000, 3_650 * 86_400_000),
        "how long a transactional id is remembered that is not used"),

    Setting { name: "log-format", kind: Kind::Choice { default: "human", words: &["human", "json"] },
        effect: "how log lines on standard error look" },
    text("log-level", "info", "LEVEL|FILTER", "which log lines: error, warn, info, debug, trace, or a filter such as info,dejaq::server=debug"),
    text("topic-defaults", "", "KEY=VALUE,...", "configs of topics that do not set them themselves, by their Kafka names, such as retention.ms=3600000; they act on existing topics, too, from the next start on; cleanup.policy, and on a node with peers durability, flush.messages, min.insync.replicas and unclean.leader.election.enable, are kept in the cluster: dejaq cluster alter"),
];

/// The setting of this name.
#[must_use]
pub fn setting(name: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|setting| setting.name == name)
}

impl Setting {
    /// The environment variable that sets it.
    #[must_use]
    pub fn env(&self) -> String {
        format!("DEJAQ_{}", self.name.replace('-', "_").to_ascii_uppercase())
    }

    /// Its default as a person would write it.
    #[must_use]
    pub fn default_text(&self) -> String {
        match self.kind {
            Kind::Number { default, .. } => super::parse::show(self.name, default),
            Kind::Switch { default } => default.to_string(),
            Kind::Choice { default, .. } | Kind::Text { default, .. } => default.to_owned(),
        }
    }

    /// What its values look like, for the help.
    #[must_use]
    pub fn shape(&self) -> &'static str {
        match self.kind {
            Kind::Number { .. } if self.name.ends_with("-bytes") => "BYTES",
            Kind::Number { .. } if self.name.ends_with("-ms") => "MS",
            Kind::Number { .. } => "N",
            Kind::Switch { .. } => "true|false",
            Kind::Choice { .. } => "WORD",
            Kind::Text { shape, .. } => shape,
        }
    }

    /// Which values it takes, such as `1..10000`; empty where any will do.
    #[must_use]
    pub fn bounds(&self) -> String {
        match self.kind {
            Kind::Number { min, max, .. } => {
                format!("{}..{}", super::parse::show(self.name, min), super::parse::show(self.name, max))
            }
            Kind::Choice { words, .. } => words.join(" or "),
            Kind::Switch { .. } | Kind::Text { .. } => String::new(),
        }
    }
}
