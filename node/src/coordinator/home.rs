//! Which partition of an internal topic is the home of a group or of a transactional id.
//!
//! Owns: the internal topics' names, configs and the hash. Promises: the same partition as Apache Kafka chooses for the
//! same name and count, so that stock tools that compute it agree. Pure.
//! Called by `api::find_coordinator`, which creates the topic, and by `shards`.

use dejaq_wire::ids::PartitionId;

/// The internal topic in which groups and their offsets are kept.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// What the topic is created with. It is always durable, whatever topics get by default: an offset that was
/// acknowledged must never go back (GRP-3).
pub const OFFSETS_CONFIGS: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("compression.type", "producer"),
    ("durability", "durable"),
    ("segment.bytes", "104857600"),
];

/// The internal topic in which transactions are kept.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// What that one is created with: a decision that was told must never go back (TXN-6).
pub const TRANSACTIONS_CONFIGS: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("compression.type", "uncompressed"),
    ("durability", "durable"),
    ("segment.bytes", "104857600"),
];

/// Most replicas of either topic; fewer where there are fewer brokers.
pub const MOST_REPLICAS: usize = 3;

/// The home of `key` in a topic of `partitions` partitions.
#[must_use]
pub fn partition_of(key: &str, partitions: usize) -> PartitionId {
    assert!(partitions > 0, "a topic has partitions");
    let count = i32::try_from(partitions).expect("partition counts are below 2^31");
    // Kafka: Utils.abs(String.hashCode) % count, where the one number without an absolute value counts as 0.
    PartitionId(java_hash(key).checked_abs().unwrap_or(0) % count)
}

/// Java's `String.hashCode`: over UTF-16 units.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_live_where_kafka_puts_them() {
        // "hello".hashCode() is 99162322 in Java; the others were computed by hand from the definition.
        for (group, hash) in [("", 0), ("a", 97), ("hello", 99_162_322), ("\u{1F980}", 1_772_802)] {
            assert_eq!(java_hash(group), hash, "{group:?}");
        }
        assert_eq!(partition_of("hello", 50), PartitionId(22));
    }

    #[test]
    fn the_number_without_an_absolute_value_has_a_home_too() {
        // A known text whose Java hash is -2^31.
        assert_eq!(java_hash("polygenelubricants"), i32::MIN);
        assert_eq!(partition_of("polygenelubricants", 50), PartitionId(0));
    }
}
