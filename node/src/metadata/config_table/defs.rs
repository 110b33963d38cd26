//! The table itself: every topic config, sorted by name.
//!
//! Owns: [`TOPIC_CONFIGS`]. Promises: sorted, and every default passes its own check (a test of the parent says so).
//! A config that another version builds gets its line here, and nowhere else.

use super::{Kind, Rule, TopicConfigDef};

const fn def(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    broker_name: &'static str,
    doc: &'static str,
) -> TopicConfigDef {
    let broker_name = if broker_name.is_empty() { None } else { Some(broker_name) };
    TopicConfigDef { name, kind, default, broker_name, rule: Rule::Any, internal: false, since: 1, doc }
}

impl TopicConfigDef {
    const fn rule(mut self, rule: Rule) -> TopicConfigDef {
        self.rule = rule;
        self
    }

    const fn internal(mut self) -> TopicConfigDef {
        self.internal = true;
        self
    }

    const fn since(mut self, level: i16) -> TopicConfigDef {
        self.since = level;
        self
    }
}

const MAX: &str = "9223372036854775807";
const NO_TIERING: Rule = Rule::Only("false", "tiered storage is not available in this version");
const NO_LOCAL: Rule = Rule::Only("-2", "tiered storage is not available in this version");
const NO_THROTTLE: Rule = Rule::Only("", "replication throttles are not available in this version");

/// Every topic config, sorted by name.
pub const TOPIC_CONFIGS: &[TopicConfigDef] = &[
    def(
        "acks.required",
        Kind::Int { min: 0 },
        "0",
        "",
        "In-sync replicas, the leader among them, that have a record when acks=all is answered; 0 is all that are in sync, \
         more than there are is every replica. While fewer are in sync, acks=all is refused (NOT_ENOUGH_REPLICAS). Fewer than \
         are in sync are answered before consumers see the record, and it may be lost when another one is elected. An idempotent \
         producer meets an out-of-order sequence then. Transactions always wait for all, and so does everything while the \
         partition moves.",
    )
    .since(2),
    def(
        "cleanup.policy",
        Kind::List(&["delete", "compact"]),
        "delete",
        "log.cleanup.policy",
        "What happens to old records: \"delete\" removes old segments by retention.ms and retention.bytes, \"compact\" \
         keeps the last value of every key; both may be set.",
    ),
    def(
        "compression.gzip.level",
        Kind::Int { min: -1 },
        "-1",
        "compression.gzip.level",
        "Level at which the broker compresses if compression.type is gzip; -1 is the codec's default.",
    )
    .rule(Rule::Only("-1", "the broker compresses at the codec's default level only")),
    def(
        "compression.lz4.level",
        Kind::Int { min: 1 },
        "9",
        "compression.lz4.level",
        "Level at which the broker compresses if compression.type is lz4.",
    )
    .rule(Rule::Only("9", "the broker compresses at one level only")),
    def(
        "compression.type",
        Kind::Choice(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        "producer",
        "compression.type",
        "Codec of stored batches; \"producer\" keeps each batch as its producer sent it.",
    ),
    def(
        "compression.zstd.level",
        Kind::Int { min: -131_072 },
        "3",
        "compression.zstd.level",
        "Level at which the broker compresses if compression.type is zstd.",
    )
    .rule(Rule::Only("3", "the broker compresses at one level only")),
    def(
        "delete.retention.ms",
        Kind::Long { min: 0 },
        "86400000",
        "log.cleaner.delete.retention.ms",
        "How long delete markers of compacted topics are kept, in milliseconds.",
    ),
    def(
        "durability",
        Kind::Choice(&["durable", "replicated", "none"]),
        "durable",
        "log.durability",
        "When acks=all is answered. durable: the batch is synced to disk on every in-sync replica. replicated: it \
         is in the memory of every in-sync replica and is synced in the background every durability.flush.ms. \
         none: the operating system decides when to write it.",
    ),
    def(
        "durability.flush.bytes",
        Kind::Long { min: 1 },
        "67108864",
        "log.durability.flush.bytes",
        "For durability=replicated: bytes of the partition that are not synced before a sync is asked for.",
    ),
    def(
        "durability.flush.ms",
        Kind::Long { min: 1 },
        "500",
        "log.durability.flush.ms",
        "For durability=replicated: longest time between two syncs of the partition, in milliseconds. It is the \
         window of acknowledged data that a power cut of all in-sync replicas can take.",
    ),
    def(
        "file.delete.delay.ms",
        Kind::Long { min: 0 },
        "60000",
        "log.segment.delete.delay.ms",
        "Accepted for compatibility: a deleted segment leaves at once, and who reads it keeps reading.",
    ),
    def(
        "flush.messages",
        Kind::Long { min: 1 },
        MAX,
        "log.flush.interval.messages",
        "1 syncs every record before it is acknowledged, as durability=durable does. More asks for a sync in the \
         background after so many records, under every other durability.",
    ),
    def(
        "flush.ms",
        Kind::Long { min: 0 },
        MAX,
        "log.flush.interval.ms",
        "Longest time between two syncs in the background, in milliseconds, under every durability but durable; with \
         replicated, the smaller of it and durability.flush.ms holds.",
    ),
    def(
        "follower.replication.throttled.replicas",
        Kind::List(&[]),
        "",
        "",
        "Replicas whose followers are throttled during a reassignment.",
    )
    .rule(NO_THROTTLE),
    def(
        "index.interval.bytes",
        Kind::Int { min: 0 },
        "4096",
        "log.index.interval.bytes",
        "An entry is added to the offset index after about this many bytes.",
    ),
    def(
        "internal.segment.bytes",
        Kind::Int { min: 1 },
        "0",
        "",
        "Overrides segment.bytes below its minimum. For tests only.",
    )
    .internal(),
    def(
        "leader.replication.throttled.replicas",
        Kind::List(&[]),
        "",
        "",
        "Replicas whose leaders are throttled during a reassignment.",
    )
    .rule(NO_THROTTLE),
    def(
        "local.retention.bytes",
        Kind::Long { min: -2 },
        "-2",
        "log.local.retention.bytes",
        "Bytes kept on local disk by a tiered topic; -2 means retention.bytes.",
    )
    .rule(NO_LOCAL),
    def(
        "local.retention.ms",
        Kind::Long { min: -2 },
        "-2",
        "log.local.retention.ms",
        "Milliseconds kept on local disk by a tiered topic; -2 means retention.ms.",
    )
    .rule(NO_LOCAL),
    def(
        "max.compaction.lag.ms",
        Kind::Long { min: 1 },
        MAX,
        "log.cleaner.max.compaction.lag.ms",
        "Longest time a record stays uncompacted, in milliseconds; the active segment is rolled in time for it.",
    ),
    def(
        "max.message.bytes",
        Kind::Int { min: 0 },
        "1048588",
        "message.max.bytes",
        "Largest record batch, after compression, in bytes.",
    ),
    def(
        "message.timestamp.after.max.ms",
        Kind::Long { min: 0 },
        "3600000",
        "log.message.timestamp.after.max.ms",
        "How far a record's timestamp may lie after the broker's clock, in milliseconds (CreateTime only).",
    ),
    def(
        "message.timestamp.before.max.ms",
        Kind::Long { min: 0 },
        MAX,
        "log.message.timestamp.before.max.ms",
        "How far a record's timestamp may lie before the broker's clock, in milliseconds (CreateTime only).",
    ),
    def(
        "message.timestamp.type",
        Kind::Choice(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        "log.message.timestamp.type",
        "Whose clock stamps records: the producer's or the broker's.",
    ),
    def(
        "min.cleanable.dirty.ratio",
        Kind::Ratio,
        "0.5",
        "log.cleaner.min.cleanable.ratio",
        "Share of uncompacted bytes above which a log is compacted.",
    ),
    def(
        "min.compaction.lag.ms",
        Kind::Long { min: 0 },
        "0",
        "log.cleaner.min.compaction.lag.ms",
        "Shortest time a record stays uncompacted, in milliseconds.",
    ),
    def(
        "min.insync.replicas",
        Kind::Int { min: 1 },
        "1",
        "min.insync.replicas",
        "Fewest in-sync replicas with which acks=all is accepted.",
    ),
    def(
        "preallocate",
        Kind::Bool,
        "false",
        "log.preallocate",
        "Whether the space of a new segment is reserved on disk when it is created.",
    )
    .rule(Rule::Only("false", "space is not reserved ahead in this version")),
    def(
        "remote.log.copy.disable",
        Kind::Bool,
        "false",
        "",
        "Whether a tiered topic stops copying to remote storage.",
    )
    .rule(NO_TIERING),
    def(
        "remote.log.delete.on.disable",
        Kind::Bool,
        "false",
        "",
        "Whether remote data is deleted when tiering is switched off.",
    )
    .rule(NO_TIERING),
    def("remote.storage.enable", Kind::Bool, "false", "", "Whether old segments move to remote storage.")
        .rule(NO_TIERING),
    def(
        "replica.lag.max.messages",
        Kind::Long { min: 1 },
        MAX,
        "",
        "Records that a replica may lack and be in sync, beside the time that it may lag (replica-lag-ms). It must be \
         more than producers send at a time.",
    )
    .since(2),
    def(
        "retention.bytes",
        Kind::Long { min: -1 },
        "-1",
        "log.retention.bytes",
        "Bytes that each partition keeps before old segments are deleted; -1 is no limit.",
    ),
    // Kafka's default is 7 days; ours is 14 (REQUIREMENTS).
    def(
        "retention.ms",
        Kind::Long { min: -1 },
        "1209600000",
        "log.retention.ms",
        "Milliseconds that a record is kept before its segment is deleted; -1 is for ever.",
    ),
    def(
        "segment.bytes",
        Kind::Int { min: 1_048_576 },
        "1073741824",
        "log.segment.bytes",
        "Size at which a new segment is begun. Retention removes whole segments.",
    ),
    def(
        "segment.index.bytes",
        Kind::Int { min: 4 },
        "10485760",
        "log.index.size.max.bytes",
        "Accepted for compatibility: the offset index bounds itself by thinning out.",
    ),
    def(
        "segment.jitter.ms",
        Kind::Long { min: 0 },
        "0",
        "log.roll.jitter.ms",
        "Random time, up to this, that is taken off segment.ms so that logs do not roll at once.",
    )
    .rule(Rule::Only("0", "jitter of segment rolls is not available in this version")),
    def(
        "segment.ms",
        Kind::Long { min: 1 },
        "604800000",
        "log.roll.ms",
        "Age at which a new segment is begun even if the current one is not full, in milliseconds.",
    ),
    def(
        "unclean.leader.election.enable",
        Kind::Bool,
        "false",
        "unclean.leader.election.enable",
        "Whether a replica that is not in sync may become leader as a last resort, losing data.",
    ),
];
