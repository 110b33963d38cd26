//! The records of the metadata log: every change of the cluster is one or more of these.
//!
//! Owns: the records, and their bytes on disk: `tag (1) · version (1) · postcard body`.
//! Promises: tags and versions are never used again for something else (golden bytes below); decoding never panics,
//! and what it does not know it refuses. A refused record means "do not start", never "it was deleted" (MQ-10).
//! Leaves out: what a record does (`replay`), when one is made (`controller::decide`).
//!
//! ```text
//!  value of one Kafka record:  01 01 <topic id 16> <name> <partitions…>
//!                              │  └ version of the body
//!                              └ tag: topic created
//! ```

use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionId, ProducerId, TopicId};
use serde::{Deserialize, Serialize};

/// A partition as a record states it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Brokers that hold it, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Those of `replicas` that are in sync.
    pub isr: Vec<BrokerId>,
    /// One of `isr`, or [`BrokerId::NONE`].
    pub leader: BrokerId,
    /// Counts leader starts.
    pub leader_epoch: LeaderEpoch,
    /// Counts changes of this partition.
    pub partition_epoch: i32,
}

/// What a config belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Resource {
    /// A topic.
    Topic(TopicId),
    /// One broker.
    Broker(BrokerId),
    /// Every broker that says nothing itself.
    AllBrokers,
}

/// An address at which a broker can be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name of the listener.
    pub listener: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// A topic and its partitions, from 0 up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicCreated {
    /// Id of this life of the topic.
    pub topic_id: TopicId,
    /// Its name.
    pub name: String,
    /// Its partitions, index 0 first.
    pub partitions: Vec<PartitionState>,
}

/// The end of a topic, with its partitions and configs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDeleted {
    /// Which topic.
    pub topic_id: TopicId,
}

/// More partitions for a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionsAdded {
    /// Which topic.
    pub topic_id: TopicId,
    /// Index of the first of `partitions`: the number of partitions before.
    pub first: PartitionId,
    /// The new ones.
    pub partitions: Vec<PartitionState>,
}

/// The new state of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionChanged {
    /// Which topic.
    pub topic_id: TopicId,
    /// Which partition.
    pub partition: PartitionId,
    /// Its whole new state; the partition epoch is one more than before, the leader epoch is not less.
    pub state: PartitionState,
}

/// A broker began a new life: every partition that it leads gets the next leader epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeadershipsRestarted {
    /// Which broker.
    pub broker: BrokerId,
    /// Its life, as registered before.
    pub broker_epoch: BrokerEpoch,
}

/// A config was set, or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChanged {
    /// What it belongs to.
    pub resource: Resource,
    /// Its name.
    pub name: String,
    /// Its new value; `None` removes it.
    pub value: Option<String>,
}

/// A block of producer ids was handed to a broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerIdsAllocated {
    /// Who got it.
    pub broker: BrokerId,
    /// In which life.
    pub broker_epoch: BrokerEpoch,
    /// First id of the block.
    pub start: ProducerId,
    /// First id after the block.
    pub end: ProducerId,
}

/// A broker began a new life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRegistered {
    /// Which broker.
    pub broker: BrokerId,
    /// Names this life; larger than every broker epoch before.
    pub epoch: BrokerEpoch,
    /// Drawn by the process at its start, so that a repeated registration is recognised.
    pub incarnation: u128,
    /// Where clients reach it.
    pub endpoints: Vec<Endpoint>,
    /// Where it stands.
    pub rack: Option<String>,
}

/// A feature of the cluster is now at this level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureLevelSet {
    /// Name, such as `metadata.version`.
    pub name: String,
    /// Level; 0 switches it off.
    pub level: i16,
}

/// Why bytes are no record: the metadata must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not even a tag and a version.
    #[error("metadata record of {bytes} bytes is too short")]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// Written by a newer version.
    #[error("metadata record with tag {tag}, version {version} is not known to this version of DejaQ")]
    Unknown {
        /// Its tag.
        tag: u8,
        /// Its version.
        version: u8,
    },
    /// The body does not read.
    #[error("metadata record with tag {tag}, version {version} is damaged: {why}")]
    Body {
        /// Its tag.
        tag: u8,
        /// Its version.
        version: u8,
        /// What is wrong.
        why: String,
    },
}

/// The only version of every body so far.
const V1: u8 = 1;

macro_rules! records {
    ($($tag:literal $name:ident: $doc:literal,)*) => {
        /// One record of the metadata log.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Record {
            $(#[doc = $doc] $name($name),)*
        }

        $(impl From<$name> for Record {
            fn from(body: $name) -> Record {
                Record::$name(body)
            }
        })*

        impl Record {
            /// Its bytes, as they are stored.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                match self {
                    $(Record::$name(body) => {
                        let bytes = postcard::to_extend(body, vec![$tag, V1]);
                        bytes.expect("growing a vector and encoding plain structs cannot fail")
                    })*
                }
            }

            /// Reads what [`Record::encode`] wrote.
            ///
            /// # Errors
            /// [`Unreadable`]: refuse to start.
            pub fn decode(bytes: &[u8]) -> Result<Record, Unreadable> {
                let [tag, version, body @ ..] = bytes else {
                    return Err(Unreadable::Short { bytes: bytes.len() });
                };
                match (*tag, *version) {
                    $(($tag, V1) => whole::<$name>($tag, V1, body).map(Record::$name),)*
                    (tag, version) => Err(Unreadable::Unknown { tag, version }),
                }
            }
        }
    };
}

records! {
    1 TopicCreated: "A topic was created.",
    2 TopicDeleted: "A topic was deleted.",
    3 PartitionsAdded: "A topic got more partitions.",
    4 PartitionChanged: "A partition has another leader, epoch or in-sync set.",
    5 LeadershipsRestarted: "A broker restarted; the leader epochs of what it leads go up.",
    6 ConfigChanged: "A config was set or removed.",
    7 ProducerIdsAllocated: "A block of producer ids was handed out.",
    8 BrokerRegistered: "A broker began a new life.",
    9 FeatureLevelSet: "A feature changed its level.",
}

fn whole<'a, T: Deserialize<'a>>(tag: u8, version: u8, body: &'a [u8]) -> Result<T, Unreadable> {
    let damaged = |why: String| Unreadable::Body { tag, version, why };
    match postcard::take_from_bytes::<T>(body) {
        Ok((record, [])) => Ok(record),
        Ok((_, rest)) => Err(damaged(format!("{} bytes too many", rest.len()))),
        Err(why) => Err(damaged(why.to_string())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn partition(leader: i32) -> PartitionState {
        PartitionState {
            replicas: vec![BrokerId(leader)],
            isr: vec![BrokerId(leader)],
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: 0,
        }
    }

    pub(crate) fn topic_id(number: u8) -> TopicId {
        TopicId([number; 16])
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn one_of_each() -> Vec<Record> {
        let endpoint = Endpoint { listener: "CLIENT".into(), host: "::1".into(), port: 9092 };
        let (name, value) = ("retention.ms".to_owned(), Some("60000".to_owned()));
        vec![
            TopicCreated { topic_id: topic_id(1), name: "a".into(), partitions: vec![partition(1)] }.into(),
            TopicDeleted { topic_id: topic_id(1) }.into(),
            PartitionsAdded {
                topic_id: topic_id(1),
                first: PartitionId(1),
                partitions: vec![partition(2), partition(3)],
            }
            .into(),
            PartitionChanged { topic_id: topic_id(1), partition: PartitionId(1), state: partition(300) }
                .into(),
            LeadershipsRestarted { broker: BrokerId(1), broker_epoch: BrokerEpoch(2) }.into(),
            ConfigChanged { resource: Resource::Topic(topic_id(1)), name: name.clone(), value }.into(),
            ConfigChanged { resource: Resource::Broker(BrokerId(1)), name: name.clone(), value: None }.into(),
            ConfigChanged { resource: Resource::AllBrokers, name, value: None }.into(),
            ProducerIdsAllocated {
                broker: BrokerId(1),
                broker_epoch: BrokerEpoch(2),
                start: ProducerId(1000),
                end: ProducerId(2000),
            }
            .into(),
            BrokerRegistered {
                broker: BrokerId(1),
                epoch: BrokerEpoch(2),
                incarnation: 7,
                endpoints: vec![endpoint],
                rack: Some("r".into()),
            }
            .into(),
            FeatureLevelSet { name: "metadata.version".into(), level: 1 }.into(),
        ]
    }

    #[test]
    fn the_bytes_on_disk_never_change() {
        let shown: Vec<String> = one_of_each().iter().map(|record| hex(&record.encode())).collect();
        insta::assert_snapshot!(shown.join("\n"), @"
        01010101010101010101010101010101010101610101020102020000
        020101010101010101010101010101010101
        03010101010101010101010101010101010102020104010404000001060106060000
        0401010101010101010101010101010101010201d80401d804d8040000
        05010204
        060100010101010101010101010101010101010c726574656e74696f6e2e6d7301053630303030
        060101020c726574656e74696f6e2e6d7300
        0601020c726574656e74696f6e2e6d7300
        07010204d00fa01f
        08010204070106434c49454e54033a3a318447010172
        0901106d657461646174612e76657273696f6e02
        ");
    }

    #[test]
    fn every_record_reads_back() {
        for record in one_of_each() {
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn what_is_not_known_or_not_whole_is_refused() {
        assert_eq!(Record::decode(&[]), Err(Unreadable::Short { bytes: 0 }));
        assert_eq!(Record::decode(&[99, 1, 0]), Err(Unreadable::Unknown { tag: 99, version: 1 }));
        assert_eq!(Record::decode(&[2, 2, 0]), Err(Unreadable::Unknown { tag: 2, version: 2 }));
        for record in one_of_each() {
            let bytes = record.encode();
            for cut in 2..bytes.len() {
                let refused = Record::decode(&bytes[..cut]);
                assert!(
                    matches!(refused, Err(Unreadable::Body { .. })),
                    "{record:?} cut at {cut}: {refused:?}"
                );
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            assert!(matches!(Record::decode(&longer), Err(Unreadable::Body { .. })), "{record:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Record::decode(&bytes);
        }
    }
}
