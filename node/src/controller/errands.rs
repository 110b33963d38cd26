//! What clients ask the controller for, when they asked a broker that is not the active one (room Control).
//!
//! Owns: tag and version of each, golden bytes below. Promises: nothing here is sent twice by itself: a topic that is
//! created twice is an error to the one who asked, so that a lost answer is told as a timeout, as Kafka does.
//! Leaves out: what is decided (`decide`), finding the active controller (`reach`).
//!
//! ```text
//!  0x0311 create topics   0x0312 delete topics   0x0313 more partitions   0x0314 configs
//!  0x0315 elect leaders   0x0316 reassign        0x0317 unregister        0x0318 features (level 2)
//!  answers: 0x0391 …
//! ```
//!
//! Creating carries the bytes of Kafka's own request, because that is what its types are for.

use bytes::Bytes;
use dejaq_wire::ids::PartitionId;
use dejaq_wire::kafka::create_partitions::CreatePartitionsRequest;
use dejaq_wire::kafka::create_topics::CreateTopicsRequest;
use dejaq_wire::kafka::{Request, Writer};
use dejaq_wire::peer::{Ask, Body, Parts, PeerError};

use super::calls::{Answered, ControlCall, answered, plain};
use super::decide::alter_configs::AlterConfigs;
use super::decide::create_partitions::CreatePartitions;
use super::decide::create_topics::{CreateTopics, Created};
use super::decide::delete_topics::{DeleteTopics, Deleted};
use super::decide::elect_leaders::{ElectLeaders, Elected};
use super::decide::members::UnregisterBroker;
use super::decide::reassign::Reassign;
use super::decide::update_features::{UpdateFeatures, Updated};
use super::draft::{Decide, Refusal};

/// The version of Kafka's request that is carried; part of the body's version.
const CREATE_TOPICS: i16 = 7;
const CREATE_PARTITIONS: i16 = 3;

fn carry<B: Body, Q: Request>(version: i16, request: &Q) -> Result<Parts, PeerError> {
    let mut writer = Writer::new(Q::API.is_flexible(version));
    request.write(&mut writer, version);
    let chunks = writer.finish().map_err(|_| PeerError::TooLong { bytes: usize::MAX })?;
    Parts::with_tail::<B>(&(), chunks)
}

fn carried<B: Body, Q: Request>(version: i16, parts: Parts) -> Result<Q, PeerError> {
    let ((), tail): ((), Bytes) = parts.into_head_and_tail::<B, ()>()?;
    Q::decode(version, tail).map_err(|_| PeerError::Damaged { tag: B::TAG })
}

impl Body for CreateTopics {
    const TAG: u16 = 0x0311;
    const VERSION: u16 = 0;
    fn into_parts(self) -> Result<Parts, PeerError> {
        let CreateTopics { topics, validate_only } = self;
        let request = CreateTopicsRequest { topics, validate_only, ..Default::default() };
        carry::<CreateTopics, _>(CREATE_TOPICS, &request)
    }
    fn from_parts(parts: Parts) -> Result<Self, PeerError> {
        let request: CreateTopicsRequest = carried::<CreateTopics, _>(CREATE_TOPICS, parts)?;
        Ok(CreateTopics { topics: request.topics, validate_only: request.validate_only })
    }
}

impl Body for CreatePartitions {
    const TAG: u16 = 0x0313;
    const VERSION: u16 = 0;
    fn into_parts(self) -> Result<Parts, PeerError> {
        let CreatePartitions { topics, validate_only } = self;
        let request = CreatePartitionsRequest { topics, validate_only, ..Default::default() };
        carry::<CreatePartitions, _>(CREATE_PARTITIONS, &request)
    }
    fn from_parts(parts: Parts) -> Result<Self, PeerError> {
        let request: CreatePartitionsRequest = carried::<CreatePartitions, _>(CREATE_PARTITIONS, parts)?;
        Ok(CreatePartitions { topics: request.topics, validate_only: request.validate_only })
    }
}

type ByName<T> = Vec<(String, Result<T, Refusal>)>;
type Moved = Vec<(String, Vec<(PartitionId, Result<(), Refusal>)>)>;

answered!(0x0311 CreateTopics, false, |decided| Ok(decided), ByName<Created>);
plain!(0x0312, DeleteTopics);
answered!(0x0312 DeleteTopics, false, |decided| Ok(decided), Vec<Deleted>);
answered!(0x0313 CreatePartitions, false, |decided| Ok(decided), ByName<()>);
plain!(0x0314, AlterConfigs);
answered!(0x0314 AlterConfigs, false, |decided| Ok(decided), Vec<Result<(), Refusal>>);
plain!(0x0315, ElectLeaders);
answered!(0x0315 ElectLeaders, false, |decided| Ok(decided), Vec<Elected>);
plain!(0x0316, Reassign);
answered!(0x0316 Reassign, false, |decided| Ok(decided), Moved);
plain!(0x0317, UnregisterBroker);
answered!(0x0317 UnregisterBroker, false, |decided| decided, ());
plain!(0x0318, UpdateFeatures);
answered!(0x0318 UpdateFeatures, false, |decided| Ok(decided), Updated);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dejaq_wire::ids::{BrokerId, TopicId};
    use dejaq_wire::kafka::create_partitions::CreatePartitionsTopic;
    use dejaq_wire::kafka::create_topics::CreatableTopic;

    use super::super::decide::{alter_configs, delete_topics, reassign, update_features};
    use super::*;

    fn line<B: Body + std::fmt::Debug + Clone>(body: &B) -> String {
        let parts = body.clone().into_parts().expect("short");
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        // What arrives has one chunk at most.
        let tail = Bytes::from(parts.tail.concat());
        let chunks = if tail.is_empty() { Vec::new() } else { vec![tail.clone()] };
        let arrived = B::from_parts(Parts { tail: chunks, ..parts.clone() }).expect("our own");
        assert_eq!(format!("{arrived:?}"), format!("{body:?}"));
        format!("{:04x}/{} {}:{}", parts.tag, parts.version, hex(&parts.head), hex(&tail))
    }

    #[test]
    fn the_bytes_of_what_clients_ask_for_never_change() {
        let topic = CreatableTopic {
            name: "t".into(),
            num_partitions: 2,
            replication_factor: 3,
            ..Default::default()
        };
        let more = CreatePartitionsTopic { name: "t".into(), count: 4, assignments: None };
        let change = alter_configs::Change {
            target: alter_configs::Target::Topic("t".into()),
            operations: BTreeMap::from([("a".into(), alter_configs::Operation::Set("1".into()))]),
            replace: false,
        };
        let reassign = Reassign {
            topics: vec![("t".into(), vec![(PartitionId(1), reassign::Target::On(vec![BrokerId(2)]))])],
            allow_factor_change: true,
        };
        let elect =
            ElectLeaders { unclean: true, partitions: Some(vec![("t".into(), vec![PartitionId(1)])]) };
        let way = Some(update_features::Way::Down);
        let update = update_features::Update { feature: "f".into(), level: 2, way };
        let lines = [
            line(&CreateTopics { topics: vec![topic], validate_only: true }),
            line(&DeleteTopics { targets: vec![delete_topics::Target::Id(TopicId([1; 16]))] }),
            line(&CreatePartitions { topics: vec![more], validate_only: false }),
            line(&AlterConfigs { changes: vec![change], validate_only: false }),
            line(&elect),
            line(&reassign),
            line(&UnregisterBroker { broker: BrokerId(3) }),
            line(&UpdateFeatures { updates: vec![update], validate_only: true }),
        ];
        insta::assert_snapshot!(lines.join("\n"), @"
        0311/0 :0202740000000200030101000000ea600100
        0312/0 010101010101010101010101010101010101:
        0313/0 :020274000000040000000000000000
        0314/0 010001740101610001310000:
        0315/0 01010101740102:
        0316/0 010174010200010401:
        0317/0 06:
        0318/0 01016604010101:
        ");
    }
}
