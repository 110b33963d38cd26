//! What a scenario fixes or draws: topics, clients, faults, for how long.
//!
//! Owns: [`Plan`] and a random one to start from. Promises: a plan is a function of the world's streams.
//! Leaves out: doing it.

use std::collections::BTreeMap;
use std::time::Duration;

use dejaq::client::producer::Acks;
use dejaq::config::Config;
use dejaq_wire::record::Compression;

use super::faults::Fault;
use super::groups::GroupPlan;
use super::pipes::PipePlan;
use crate::cuts::Cuts;
use crate::disk::Speed;
use crate::oracle::Compacted;
use crate::rng::Dice;

/// An `acks.required` that is more than there are replicas: every one of them.
const EVERY: usize = 9;

/// A topic.
#[derive(Debug, Clone)]
pub struct TopicPlan {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// Its configs by Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// Whether an acks=all reply promises to survive a power cut.
    pub durable: bool,
    /// Whether records may go because retention or DeleteRecords removes them.
    pub trims: bool,
    /// How many keys its records have, if it is compacted; some of them are delete markers then.
    pub keys: Option<u64>,
    /// Whether an acks=all reply promises at least to survive one power cut at a time, since the other copies stand.
    pub survives_one: bool,
    /// Copies of each partition.
    pub replicas: i16,
    /// Copies that have every record which acks=all acknowledged (`min.insync.replicas`).
    pub min_insync: usize,
    /// `acks.required`: copies with which acks=all is answered; 0 is all in sync, more than there are is every replica.
    pub acks_required: usize,
}

/// A producer.
#[derive(Debug, Clone)]
pub struct ProducerPlan {
    /// What acknowledgement it asks for.
    pub acks: Acks,
    /// Whether it is idempotent.
    pub idempotent: bool,
    /// How it compresses.
    pub compression: Compression,
    /// Records it sends over the chaos act, at most.
    pub records: u64,
    /// The longest pause between two records.
    pub think: Duration,
    /// Records under way at a time.
    pub window: usize,
    /// The largest value.
    pub value_bytes: usize,
    /// How long records gather.
    pub linger: Duration,
}

/// A consumer that reads every partition of every topic.
#[derive(Debug, Clone)]
pub struct ConsumerPlan {
    /// The longest pause between two polls.
    pub think: Duration,
    /// How often of 1000 polls it goes back to an earlier offset first.
    pub seeks: u64,
    /// Whether it is the native consumer; else it is the stories' own reader, which speaks Fetch itself.
    pub native: bool,
}

/// A whole story.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The broker's settings; in a fleet those that all members share.
    pub config: Config,
    /// How many brokers; more than one are a fleet with a quorum.
    pub brokers: u32,
    /// How many of them, the first ones, vote in the quorum.
    pub voters: u32,
    /// How many of them, the last ones, come when the others serve already.
    pub late: u32,
    /// Whether one of them is drained when all is calm, and must be empty and stop.
    pub drains: bool,
    /// Whether its brokers begin as an older release, go to this one, and maybe back.
    pub upgrades: bool,
    /// Whether a fault waits until what the last one struck is whole again.
    pub spaced: bool,
    /// Whether a loss that is allowed must be one that the cluster itself tells of.
    pub reports: bool,
    /// Whether exactly what the cluster tells of may be lost, record by record: the story gives something up.
    pub gives_up: bool,
    /// Whether the disks of all members rot, each batch on one of them; else one disk does.
    pub rots_everywhere: bool,
    /// In how many racks they stand; 0 names none.
    pub racks: u32,
    /// The topics.
    pub topics: Vec<TopicPlan>,
    /// The producers.
    pub producers: Vec<ProducerPlan>,
    /// The consumers.
    pub consumers: Vec<ConsumerPlan>,
    /// How long faults strike.
    pub chaos: Duration,
    /// The pause between two faults, at least and at most.
    pub gap: (Duration, Duration),
    /// What may strike, and how likely.
    pub faults: Vec<(u64, Fault)>,
    /// The network's latency.
    pub latency: (Duration, Duration),
    /// The disk's speed when it is well.
    pub disk: Speed,
    /// The disk's size.
    pub capacity: Option<u64>,
    /// Chance in a million that a read finds its pages cold.
    pub cold_ppm: u32,
    /// Whether a reader asks any broker, leader or not.
    pub neighbour: bool,
    /// Clients that mean harm.
    pub hostiles: usize,
    /// Clients that create, alter and delete topics of their own.
    pub admins: usize,
    /// Raw idempotent producers whose sequence numbers wrap.
    pub sequencers: usize,
    /// Transactional producers.
    pub transactors: usize,
    /// Whether their transactions move amounts, some of them speak as before KIP-890, and some die while they commit.
    pub transfers: bool,
    /// Whether nothing comes late: every frame takes as long as the next, and an earlier life of a transactional id falls
    /// silent. The tester's mutant T2.
    pub nothing_late: bool,
    /// A consumer group that reads every topic.
    pub group: Option<GroupPlan>,
    /// Pipelines from all topics but the last one into that.
    pub pipes: Option<PipePlan>,
    /// Whether the product has whims (`buggify!`) in the first act.
    pub buggify: bool,
    /// Whether each start of a broker but the first has settings of its own.
    pub resettles: bool,
    /// Whether records have times at the edges of what a time can be, and a client asks for such times.
    pub edges: bool,
    /// Clients that ask for many thousand things at once, and may not read what they are answered.
    pub floods: usize,
    /// What is left out of all this.
    pub cuts: Cuts,
}

/// The durability of a topic, with what it promises.
pub const DURABLE: (&str, bool) = ("durable", true);
/// Synced in the background.
pub const REPLICATED: (&str, bool) = ("replicated", false);
/// Longer than any story.
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Never synced by will.
pub const NONE: (&str, bool) = ("none", false);

impl Plan {
    /// A calm plan with a drawn workload and drawn knobs: scenarios add their faults.
    #[must_use]
    pub fn drawn(dice: &mut Dice) -> Plan {
        let mut config = Config::drawn(|| dice.any());
        config.admin_listen = String::new();
        config.listen = format!("n{}:9092", super::BROKER);
        config.min_free_bytes = 0;
        let ms = Duration::from_millis;
        let topics = (0..dice.between(1, 3)).map(|number| TopicPlan::drawn(number, dice, DURABLE)).collect();
        let producers = (0..dice.between(1, 4)).map(|_| ProducerPlan::drawn(dice)).collect();
        let consumers = (0..dice.between(1, 3))
            .map(|_| ConsumerPlan {
                think: ms(dice.log_between(1, 200)),
                seeks: *dice.pick(&[0, 0, 20]),
                native: dice.chance(500),
            })
            .collect();
        let fastest = dice.log_between(20, 2000);
        Plan {
            config,
            brokers: 1,
            voters: 1,
            late: 0,
            drains: false,
            upgrades: false,
            spaced: false,
            reports: false,
            gives_up: false,
            rots_everywhere: false,
            racks: 0,
            topics,
            producers,
            consumers,
            chaos: ms(dice.between(2_000, 8_000)),
            gap: (ms(50), ms(dice.between(300, 2000))),
            faults: Vec::new(),
            latency: (Duration::from_micros(fastest), Duration::from_micros(fastest * dice.between(1, 8))),
            disk: Speed {
                sync_from: Duration::from_micros(dice.log_between(50, 1000)),
                sync_to: Duration::from_micros(dice.log_between(1000, 20_000)),
                stall: Duration::ZERO,
            },
            capacity: None,
            cold_ppm: *dice.pick(&[0, 0, 100_000, 1_000_000]),
            neighbour: false,
            hostiles: 0,
            admins: usize::from(dice.chance(300)),
            sequencers: usize::from(dice.chance(300)),
            transactors: 0,
            nothing_late: false,
            transfers: false,
            group: None,
            pipes: None,
            buggify: false,
            resettles: false,
            edges: false,
            floods: 0,
            cuts: Cuts::default(),
        }
    }

    /// Gives every topic this durability.
    #[must_use]
    pub fn with_durability(mut self, (word, durable): (&str, bool)) -> Plan {
        for topic in &mut self.topics {
            topic.configs.insert("durability".into(), word.into());
            topic.durable = durable;
        }
        self
    }

    /// Makes segments so small that the log rolls all the time.
    #[must_use]
    pub fn with_segments(mut self, bytes: u64) -> Plan {
        for topic in &mut self.topics {
            topic.configs.insert("internal.segment.bytes".into(), bytes.to_string());
        }
        self
    }

    /// Lets retention take records while the story runs: by age, by size, or both, with segments rolled by age, too.
    #[must_use]
    pub fn with_retention(mut self, dice: &mut Dice) -> Plan {
        for topic in &mut self.topics {
            let (by_age, by_size) = *dice.pick(&[(true, false), (false, true), (true, true)]);
            let mut set = |name: &str, value: u64| topic.configs.insert(name.into(), value.to_string());
            if by_age {
                set("retention.ms", dice.log_between(200, 10_000));
            }
            if by_size {
                set("retention.bytes", dice.log_between(1, 64 << 10));
            }
            set("segment.ms", dice.log_between(20, 4_000));
            topic.trims = true;
        }
        self
    }

    /// Compacts every topic while the story runs: few keys, segments that end soon, a cleaner that comes often.
    #[must_use]
    pub fn with_compaction(mut self, dice: &mut Dice) -> Plan {
        for topic in &mut self.topics {
            topic.keys = Some(dice.log_between(1, 60));
            let mut set = |name: &str, value: String| drop(topic.configs.insert(name.into(), value));
            set("cleanup.policy", "compact".into());
            set("min.cleanable.dirty.ratio", (*dice.pick(&["0", "0.2", "0.5"])).into());
            // Half of the stories are over before the time of a delete marker is.
            let stay_ms = if dice.chance(500) { DAY_MS } else { dice.log_between(1, 5_000) };
            set("delete.retention.ms", stay_ms.to_string());
            set("min.compaction.lag.ms", dice.pick(&[0, 0, 300]).to_string());
            set("segment.ms", dice.log_between(20, 2_000).to_string());
            // Every other topic is cleaned for the sake of its oldest record, too. (No draw: seeds keep their meaning.)
            if topic.keys.is_some_and(|keys| keys.is_multiple_of(2)) {
                topic.configs.insert("max.compaction.lag.ms".into(), "600".into());
            }
        }
        self.config.retention_interval = Duration::from_millis(dice.log_between(20, 500));
        self.config.cleaner.map_bytes = dice.log_between(200, 1 << 16) as usize;
        self.config.cleaner.bytes_per_second = *dice.pick(&[0, 0, 100_000]);
        // What these do presumes a topic without keys.
        (self.sequencers, self.hostiles) = (0, 0);
        self
    }

    /// Makes every producer idempotent with acks=all.
    #[must_use]
    pub fn all_idempotent(mut self) -> Plan {
        for producer in &mut self.producers {
            producer.acks = Acks::All;
            producer.idempotent = true;
        }
        self
    }

    /// Leaves these things out. Those that draw from streams of their own keep their numbers.
    #[must_use]
    pub fn cut(mut self, cuts: &Cuts) -> Plan {
        if cuts.others {
            (self.admins, self.sequencers, self.hostiles, self.floods) = (0, 0, 0, 0);
        }
        self.group = self.group.filter(|_| !cuts.others);
        self.pipes = self.pipes.filter(|_| !cuts.others && !cuts.narrow);
        for producer in &mut self.producers {
            producer.records = producer.records.min(cuts.records.unwrap_or(u64::MAX));
        }
        self.chaos = cuts.chaos_ms.map_or(self.chaos, |ms| self.chaos.min(Duration::from_millis(ms)));
        if cuts.narrow {
            self.topics.truncate(1);
            self.topics.iter_mut().for_each(|topic| topic.partitions = 1);
        }
        self.cuts = cuts.clone();
        self
    }

    /// Makes the brokers a fleet of `brokers`, of which the first `voters` vote; every topic has `replicas` copies, of
    /// which `min_insync` have all that is acknowledged.
    #[must_use]
    pub fn fleet(mut self, (brokers, voters): (u32, u32), (replicas, min_insync): (i16, usize)) -> Plan {
        (self.brokers, self.voters) = (brokers, voters);
        for topic in &mut self.topics {
            (topic.replicas, topic.min_insync) = (replicas, min_insync);
            topic.configs.insert("min.insync.replicas".into(), min_insync.to_string());
        }
        // What they do presumes a topic of one copy, or a broker that never moves.
        (self.admins, self.sequencers, self.hostiles) = (0, 0, 0);
        self
    }

    /// Gives a fleet more time, since fencing and electing take seconds, and clients that outlive an election.
    #[must_use]
    pub fn settled(mut self) -> Plan {
        self.chaos *= 4;
        self.gap.1 *= 4;
        for producer in &mut self.producers {
            producer.think *= 3;
        }
        self
    }

    /// Lets some topics ask for another number of copies with acks=all, or put replicas out of sync by records that they lack.
    #[must_use]
    pub fn with_acks(mut self, dice: &mut Dice) -> Plan {
        for topic in &mut self.topics {
            let drawn = *dice.pick(&[0, 0, 0, 0, 0, 0, EVERY, EVERY, 1, 2]);
            if drawn > 0 {
                topic.acks_required = drawn;
                topic.configs.insert("acks.required".into(), drawn.to_string());
            }
            if dice.chance(250) {
                let most = dice.log_between(20, 2000).to_string();
                topic.configs.insert("replica.lag.max.messages".into(), most);
            }
        }
        if self.topics.iter().any(TopicPlan::is_weak) {
            // What such a topic loses leaves a gap in the sequence of an idempotent producer, which gives up then.
            self.producers.iter_mut().for_each(|producer| producer.idempotent = false);
        }
        self
    }

    /// Adds pipelines, and a topic if there is none that they could write into.
    #[must_use]
    pub fn with_pipes(mut self, pipes: PipePlan) -> Plan {
        assert!(self.group.is_none(), "a plan has one group");
        if let [only] = &self.topics[..] {
            let made = TopicPlan { name: "topic-made".into(), ..only.clone() };
            self.topics.push(made);
        }
        self.pipes = Some(pipes);
        self
    }

    /// Gives some topics as many in-sync replicas at least as they have replicas, and some only two of each.
    #[must_use]
    pub fn with_strict_topics(mut self, dice: &mut Dice) -> Plan {
        for topic in &mut self.topics {
            let (replicas, min_insync) = *dice.pick(&[(3, 2), (3, 3), (2, 2)]);
            (topic.replicas, topic.min_insync) = (replicas, min_insync);
            topic.configs.insert("min.insync.replicas".into(), min_insync.to_string());
        }
        self
    }

    /// Adds a fault with its weight; 0 is never.
    #[must_use]
    pub fn fault(mut self, weight: u64, fault: Fault) -> Plan {
        self.faults.push((weight, fault));
        self
    }
}

impl TopicPlan {
    /// Whether acks=all promises no more than acks=1 does when the leader changes: a member without a copy may lead next.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        self.acks_required > 0 && self.acks_required < self.replicas as usize
    }

    /// What may go of its records by compaction.
    #[must_use]
    pub fn compacted(&self) -> Option<Compacted> {
        let stay_ms = self.configs.get("delete.retention.ms").and_then(|value| value.parse().ok());
        self.keys.map(|_| Compacted { markers_go: stay_ms.unwrap_or(DAY_MS) < DAY_MS })
    }

    fn drawn(number: u64, dice: &mut Dice, (word, durable): (&str, bool)) -> TopicPlan {
        let mut configs = BTreeMap::from([("durability".to_owned(), word.to_owned())]);
        configs.insert("internal.segment.bytes".into(), dice.log_between(4096, 1 << 20).to_string());
        configs.insert("index.interval.bytes".into(), dice.log_between(64, 8192).to_string());
        let partitions = dice.between(1, 4) as i32;
        TopicPlan {
            name: format!("topic-{number}"),
            partitions,
            configs,
            durable,
            trims: false,
            survives_one: false,
            keys: None,
            replicas: 1,
            min_insync: 1,
            acks_required: 0,
        }
    }
}

impl ProducerPlan {
    pub(super) fn drawn(dice: &mut Dice) -> ProducerPlan {
        use Acks::{All, Leader};
        let acks = *dice.pick(&[All, All, All, All, All, All, Leader, Leader, Acks::None]);
        let codecs = [
            Compression::None,
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ];
        ProducerPlan {
            acks,
            idempotent: acks == Acks::All && dice.chance(700),
            compression: *dice.pick(&codecs),
            records: dice.between(50, 600),
            think: Duration::from_millis(dice.log_between(1, 60)),
            window: dice.log_between(1, 60) as usize,
            value_bytes: dice.log_between(16, 4000) as usize,
            linger: Duration::from_millis(*dice.pick(&[0, 0, 1, 5, 20])),
        }
    }
}
