//! The records of the metadata log: every change of the cluster is one or more of these.
//!
//! Owns: the records, and their bytes on disk: `tag (1) · version (1) · postcard body`.
//! Promises: tags and versions are never used again for something else (golden bytes below); a record is written in
//! the oldest version that can say it (`record_v1`); decoding never panics, and what it does not know it refuses. A
//! refused record means "do not start", never "it was deleted" (MQ-10).
//! Leaves out: what a record does (`replay`), when one is made (`controller::decide`).
//!
//! ```text
//!  value of one Kafka record:  01 01 <topic id 16> <name> <partitions…>
//!                              │  └ version of the body
//!                              └ tag: topic created
//! ```

use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionId, ProducerId, TopicId};
use serde::{Deserialize, Serialize};

use super::record_v1::{self as v1, Older};

/// A partition as a record states it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Brokers that hold it, the preferred leader first. During a reassignment: the target, then what is to go.
    pub replicas: Vec<BrokerId>,
    /// Those of `replicas` that are in sync.
    pub isr: Vec<BrokerId>,
    /// One of `isr`, or [`BrokerId::NONE`].
    pub leader: BrokerId,
    /// Counts leader starts.
    pub leader_epoch: LeaderEpoch,
    /// Counts changes of this partition.
    pub partition_epoch: i32,
    /// Those of `replicas` that left `isr`, but hold everything that was committed (KIP-966).
    pub elr: Vec<BrokerId>,
    /// Those of `replicas` that were eligible until an unclean restart, the latest last (KIP-966).
    pub last_known_elr: Vec<BrokerId>,
    /// Those of `replicas` that a reassignment adds.
    pub adding: Vec<BrokerId>,
    /// Those of `replicas` that it takes away once the target is in sync.
    pub removing: Vec<BrokerId>,
}

impl PartitionState {
    /// A partition that begins its life on these brokers, all in sync, the first leading.
    #[must_use]
    pub fn born(replicas: Vec<BrokerId>) -> PartitionState {
        let leader = *replicas.first().expect("a placement has at least one replica");
        PartitionState {
            isr: replicas.clone(),
            replicas,
            leader,
            leader_epoch: LeaderEpoch(0),
            partition_epoch: 0,
            elr: Vec::new(),
            last_known_elr: Vec::new(),
            adding: Vec::new(),
            removing: Vec::new(),
        }
    }

    /// Whether it can be a partition at all.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn sound(&self) -> Result<(), &'static str> {
        let twice =
            |list: &[BrokerId]| list.iter().enumerate().any(|(at, broker)| list[..at].contains(broker));
        let within = |list: &[BrokerId]| list.iter().all(|broker| self.replicas.contains(broker));
        let apart = |one: &[BrokerId], other: &[BrokerId]| one.iter().all(|broker| !other.contains(broker));
        let (elr, known) = (&self.elr, &self.last_known_elr);
        let rules = [
            (!self.replicas.is_empty(), "no replicas"),
            (self.replicas.iter().all(|replica| replica.is_valid()), "a replica that is no broker"),
            (!twice(&self.replicas) && !twice(&self.isr), "a broker twice"),
            (within(&self.isr), "the in-sync set is not a part of the replicas"),
            (!twice(elr) && within(elr) && apart(elr, &self.isr), "the eligible replicas are not apart"),
            (!twice(known) && within(known), "the last known eligible replicas are not replicas"),
            (apart(known, &self.isr) && apart(known, elr), "the last known eligible replicas are not apart"),
            (!twice(&self.adding) && within(&self.adding), "what is added is no replica"),
            (!twice(&self.removing) && within(&self.removing), "what is removed is no replica"),
            (apart(&self.adding, &self.removing), "a replica is added and removed"),
            (self.adding.len() < self.replicas.len(), "every replica is only being added"),
            (self.removing.len() < self.replicas.len(), "every replica is to go"),
            (self.leader == BrokerId::NONE || self.isr.contains(&self.leader), "the leader is not in sync"),
            (!self.isr.is_empty() || self.leader == BrokerId::NONE, "a leader without an in-sync set"),
            (self.leader_epoch.is_valid() && self.partition_epoch >= 0, "a negative epoch"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, why)| Err(*why))
    }
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
    /// Names its data directory, drawn when that was made; zero if it was not told.
    pub directory_id: [u8; 16],
    /// Whether the life before ended with everything on disk; a first life is clean, too.
    pub clean: bool,
    /// Whether it may lead or be in sync only after it is unfenced.
    pub fenced: bool,
}

/// A broker was fenced or unfenced, or is about to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStateChanged {
    /// Which broker.
    pub broker: BrokerId,
    /// In which life.
    pub broker_epoch: BrokerEpoch,
    /// Whether it leads nothing and is in no in-sync set, because nobody hears it.
    pub fenced: bool,
    /// Whether it leads nothing and is in no in-sync set, because it is about to stop.
    pub shutting_down: bool,
}

/// A broker is no member of the cluster any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerUnregistered {
    /// Which broker.
    pub broker: BrokerId,
    /// In which life.
    pub broker_epoch: BrokerEpoch,
}

/// A broker is to be emptied, or is not any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainChanged {
    /// Which broker.
    pub broker: BrokerId,
    /// Whether its replicas move away, and none come.
    pub draining: bool,
}

/// Replicas begin to flow to where fewer are, or have come to rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceChanged {
    /// Whether the cluster moves replicas until all brokers hold the same number, to within one.
    pub active: bool,
}

/// Why a leader may lack what was committed. The order of the variants is their number on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UncleanReason {
    /// It was eligible until it stopped uncleanly, and its topic does not sync before it acknowledges.
    LastKnown,
    /// It was not in sync; the topic's config, or an operator, allows that.
    OutOfSync,
}

/// A leader was elected that may lack what was committed: the loud record of a loss (R2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncleanElected {
    /// Which topic.
    pub topic_id: TopicId,
    /// Which partition.
    pub partition: PartitionId,
    /// Who leads.
    pub leader: BrokerId,
    /// From which leader epoch on.
    pub leader_epoch: LeaderEpoch,
    /// Why it may lack something.
    pub reason: UncleanReason,
}

/// The cluster got its id: the first record of its first active controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNamed {
    /// The id.
    pub id: String,
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

/// The first version of every body.
const V1: u8 = 1;
/// The second version of those that have one.
const V2: u8 = 2;

macro_rules! records {
    ($($tag:literal $name:ident $(was $old:ty)?: $doc:literal,)*) => {
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
                    $(Record::$name(body) => records!(@encode $tag body $($old)?),)*
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
                    $(($tag, version) if version == V1 || version == records!(@newest $($old)?) => {
                        records!(@decode $tag version body $name $($old)?).map(Record::$name)
                    })*
                    (tag, version) => Err(Unreadable::Unknown { tag, version }),
                }
            }
        }
    };
    (@newest) => { V1 };
    (@newest $old:ty) => { V2 };
    (@encode $tag:literal $body:ident) => { written($tag, V1, $body) };
    (@encode $tag:literal $body:ident $old:ty) => {
        match <$old as Older>::of($body) {
            Some(old) => written($tag, V1, &old),
            None => written($tag, V2, $body),
        }
    };
    (@decode $tag:literal $version:ident $body:ident $name:ident) => {
        whole::<$name>($tag, $version, $body)
    };
    (@decode $tag:literal $version:ident $body:ident $name:ident $old:ty) => {
        match $version {
            V1 => whole::<$old>($tag, V1, $body).map(<$old as Older>::newest),
            _ => whole::<$name>($tag, $version, $body),
        }
    };
}

records! {
    1 TopicCreated was v1::TopicCreated: "A topic was created.",
    2 TopicDeleted: "A topic was deleted.",
    3 PartitionsAdded was v1::PartitionsAdded: "A topic got more partitions.",
    4 PartitionChanged was v1::PartitionChanged: "A partition has another leader, epoch or in-sync set.",
    5 LeadershipsRestarted: "A broker restarted; the leader epochs of what it leads go up.",
    6 ConfigChanged: "A config was set or removed.",
    7 ProducerIdsAllocated: "A block of producer ids was handed out.",
    8 BrokerRegistered was v1::BrokerRegistered: "A broker began a new life.",
    9 FeatureLevelSet: "A feature changed its level.",
    10 BrokerStateChanged: "A broker was fenced or unfenced, or is about to stop.",
    11 BrokerUnregistered: "A broker left the cluster.",
    12 DrainChanged: "A broker is to be emptied, or is not any more.",
    13 RebalanceChanged: "Replicas begin to flow to where fewer are, or have come to rest.",
    14 UncleanElected: "A leader was elected that may lack what was committed.",
    15 ClusterNamed: "The cluster got its id.",
}

fn written<T: Serialize>(tag: u8, version: u8, body: &T) -> Vec<u8> {
    let bytes = postcard::to_extend(body, vec![tag, version]);
    bytes.expect("growing a vector and encoding plain structs cannot fail")
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
        PartitionState::born(vec![BrokerId(leader)])
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
                directory_id: [0; 16],
                clean: true,
                fenced: false,
            }
            .into(),
            FeatureLevelSet { name: "metadata.version".into(), level: 1 }.into(),
        ]
    }

    /// What only a cluster writes: bodies of version 2, and the records that came with them.
    fn one_of_each_of_a_cluster() -> Vec<Record> {
        let brokers = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
        let state = PartitionState {
            replicas: brokers(&[1, 2, 3, 4]),
            isr: brokers(&[1]),
            leader_epoch: LeaderEpoch(5),
            partition_epoch: 6,
            elr: brokers(&[2]),
            last_known_elr: brokers(&[3]),
            adding: brokers(&[4]),
            removing: brokers(&[1]),
            ..partition(1)
        };
        let endpoint = Endpoint { listener: "PEER".into(), host: "::1".into(), port: 9192 };
        let (broker, broker_epoch, partition) = (BrokerId(3), BrokerEpoch(4), PartitionId(5));
        let unclean = |reason| UncleanElected {
            topic_id: topic_id(1),
            partition,
            leader: broker,
            leader_epoch: LeaderEpoch(7),
            reason,
        };
        vec![
            TopicCreated { topic_id: topic_id(1), name: "a".into(), partitions: vec![state.clone()] }.into(),
            PartitionsAdded { topic_id: topic_id(1), first: partition, partitions: vec![state.clone()] }
                .into(),
            PartitionChanged { topic_id: topic_id(1), partition, state }.into(),
            BrokerRegistered {
                broker,
                epoch: broker_epoch,
                incarnation: 7,
                endpoints: vec![endpoint],
                rack: None,
                directory_id: [9; 16],
                clean: false,
                fenced: true,
            }
            .into(),
            BrokerStateChanged { broker, broker_epoch, fenced: true, shutting_down: false }.into(),
            BrokerUnregistered { broker, broker_epoch }.into(),
            DrainChanged { broker, draining: true }.into(),
            RebalanceChanged { active: true }.into(),
            unclean(UncleanReason::LastKnown).into(),
            unclean(UncleanReason::OutOfSync).into(),
            ClusterNamed { id: "c".into() }.into(),
        ]
    }

    fn all() -> Vec<Record> {
        [one_of_each(), one_of_each_of_a_cluster()].concat()
    }

    #[test]
    fn the_bytes_of_a_cluster_never_change() {
        let shown: Vec<String> =
            one_of_each_of_a_cluster().iter().map(|record| hex(&record.encode())).collect();
        insta::assert_snapshot!(shown.join("\n"), @"
        01020101010101010101010101010101010101610104020406080102020a0c0104010601080102
        0302010101010101010101010101010101010a0104020406080102020a0c0104010601080102
        0402010101010101010101010101010101010a04020406080102020a0c0104010601080102
        0802060807010450454552033a3a31e84700090909090909090909090909090909090001
        0a0106080100
        0b010608
        0c010601
        0d0101
        0e01010101010101010101010101010101010a060e00
        0e01010101010101010101010101010101010a060e01
        0f010163
        ");
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
        for record in all() {
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn what_is_not_known_or_not_whole_is_refused() {
        assert_eq!(Record::decode(&[]), Err(Unreadable::Short { bytes: 0 }));
        assert_eq!(Record::decode(&[99, 1, 0]), Err(Unreadable::Unknown { tag: 99, version: 1 }));
        assert_eq!(Record::decode(&[2, 2, 0]), Err(Unreadable::Unknown { tag: 2, version: 2 }));
        assert_eq!(Record::decode(&[4, 3, 0]), Err(Unreadable::Unknown { tag: 4, version: 3 }));
        for record in all() {
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
