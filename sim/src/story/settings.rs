//! A person changes settings between two starts of a broker: each process may have others than the one before it had.
//!
//! Owns: which settings change, and to what. Promises: a function of the world's streams, of the broker and of the number of
//! the start; the first process has the plan's. Leaves out: what checkers count on (the session of a broker, the room that is
//! left free), names and addresses, and the feature level, which has an order of its own (`fleet::upgrade`).
//!
//! What is kept with the data must win over what a later start says: the number of partitions of internal topics, the
//! intervals and codecs of what is written already, the length of a metadata log that was to be longer.

use std::time::Duration;

use dejaq::config::Config;

use crate::rng::Dice;
use crate::world::World;

/// The settings of a broker's start number `start`, where those of the first are `config`.
#[must_use]
pub(super) fn at_start(world: &World, config: &Config, (node, start): (u32, u64)) -> Config {
    if start <= 1 {
        return config.clone();
    }
    drawn(config, &mut world.streams().dice("settings", u64::from(node) << 32 | start))
}

fn drawn(config: &Config, dice: &mut Dice) -> Config {
    let ms = Duration::from_millis;
    let fresh = Config::drawn(|| dice.any());
    let mut now = config.clone();
    now.limits = fresh.limits;
    now.topics.default_partitions = fresh.topics.default_partitions;
    now.retention_interval = fresh.retention_interval;
    now.snapshot_bytes = *dice.pick(&[4 << 10, 64 << 10, 8 << 20]);
    now.election_timeout = ms(*dice.pick(&[150, 300, 600]));
    now.cleaner.map_bytes = dice.log_between(1 << 10, 64 << 20) as usize;
    now.groups.partitions = dice.between(1, 9) as u32;
    now.groups.initial_delay = ms(dice.log_between(1, 3000));
    now.transactions.partitions = dice.between(1, 9) as u32;
    now.healing.replica_lag = ms(dice.log_between(2_000, 20_000));
    now.healing.scrub_interval = ms(dice.log_between(200, 86_400_000));
    now.healing.leader_interval = dice.chance(500).then(|| ms(dice.log_between(1_000, 60_000)));
    now.healing.move_bytes_per_second = *dice.pick(&[128 << 10, 64 << 20, 0]);
    for (name, values) in TOPIC_DEFAULTS {
        match *dice.pick(values) {
            "" => drop(now.topics.defaults.remove(*name)),
            value => drop(now.topics.defaults.insert((*name).to_owned(), value.to_owned())),
        }
    }
    now
}

/// What topics are that do not say it themselves; "" leaves it to the built-in default.
const TOPIC_DEFAULTS: &[(&str, &[&str])] = &[
    ("index.interval.bytes", &["", "64", "500", "8192"]),
    ("segment.ms", &["", "", "50", "500", "5000"]),
    ("compression.type", &["", "producer", "gzip", "lz4", "zstd", "snappy", "uncompressed"]),
    ("message.timestamp.type", &["", "CreateTime", "LogAppendTime"]),
    ("max.message.bytes", &["", "200000", "5000000"]),
];

#[cfg(test)]
mod tests {
    use dejaq::metadata::topic_config::check_defaults;

    use super::*;
    use crate::rng::Streams;

    #[test]
    fn every_start_but_the_first_has_settings_of_its_own_and_all_are_valid() {
        let first = Config { min_free_bytes: 7, ..Config::default() };
        let mut partitions = std::collections::BTreeSet::new();
        for start in 0..200 {
            let now = drawn(&first, &mut Streams::new(3).dice("settings", start));
            check_defaults(&now.topics.defaults, true).expect("a person may set them on a node with peers");
            assert_eq!((now.min_free_bytes, &now.listen), (7, &first.listen));
            assert_eq!(now.healing.session_timeout, first.healing.session_timeout);
            partitions.insert(now.groups.partitions);
        }
        assert_eq!(partitions.len(), 8, "all numbers are drawn");
    }
}
