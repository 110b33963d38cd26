//! An image as bytes: what a snapshot of the metadata quorum holds.
//!
//! Owns: the layout. Promises: decoding gives back the image that was encoded, equal in everything, which is that of the
//! log up to its end (MQ-9); bytes that are not whole, not ours or of another version are refused, never read as "less
//! is there" (MQ-10); the same image has the same bytes on every node.
//! Leaves out: files and their replacement (`controller::journal`), when there is one (`controller::driver`).
//!
//! ```text
//!  "DJim" 4 | version 2 | postcard: end, last broker epoch, next producer id, records | crc32 4
//!                                                     └ the metadata records that make this image from nothing
//! ```

use bytes::Bytes;
use dejaq_storage::mutant;
use dejaq_storage::whole_file::checksum;
use dejaq_wire::ids::{BrokerEpoch, Offset, ProducerId};
use serde::{Deserialize, Serialize};

use super::image::{Broker, Image};
use super::record::{
    BrokerRegistered, BrokerStateChanged, ClusterNamed, ConfigChanged, DrainChanged, FeatureLevelSet,
    RebalanceChanged, Record, Resource, TopicCreated, UncleanElected, Unreadable,
};
use super::replay::Inapplicable;

const MAGIC: [u8; 4] = *b"DJim";
const VERSION: u16 = 1;
const FRONT: usize = 6;
const BACK: usize = 4;

#[derive(Serialize, Deserialize)]
struct Body {
    end: Offset,
    last_broker_epoch: BrokerEpoch,
    next_producer_id: ProducerId,
    records: Vec<Vec<u8>>,
}

/// Why bytes are no image: do not start from them.
#[derive(Debug, thiserror::Error)]
pub enum BadSnapshot {
    /// Not whole, or not ours.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// Written by another version of DejaQ.
    #[error("the snapshot has format version {0}, this program reads version {VERSION}")]
    Version(u16),
    /// A record in it.
    #[error(transparent)]
    Record(#[from] Unreadable),
    /// A record that does not fit those before it.
    #[error(transparent)]
    Replay(#[from] Inapplicable),
}

/// The bytes of this image.
#[must_use]
pub fn encode(image: &Image) -> Bytes {
    let body = Body {
        end: image.end,
        last_broker_epoch: image.last_broker_epoch,
        next_producer_id: image.next_producer_id,
        records: records_of(image).iter().map(Record::encode).collect(),
    };
    let front = [&MAGIC[..], &VERSION.to_be_bytes()].concat();
    let mut bytes = postcard::to_extend(&body, front).expect("a vector takes everything");
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum.to_be_bytes());
    bytes.into()
}

/// The image of these bytes.
///
/// # Errors
/// [`BadSnapshot`].
pub fn decode(bytes: &[u8]) -> Result<Image, BadSnapshot> {
    if bytes.len() < FRONT + BACK {
        return Err(BadSnapshot::Damaged("too short"));
    }
    let (body, sum) = bytes.split_at(bytes.len() - BACK);
    if body[..4] != MAGIC {
        return Err(BadSnapshot::Damaged("something else"));
    }
    if checksum(body).to_be_bytes() != sum {
        return Err(BadSnapshot::Damaged("checksum mismatch"));
    }
    let version = u16::from_be_bytes([body[4], body[5]]);
    if version != VERSION {
        return Err(BadSnapshot::Version(version));
    }
    let (read, rest): (Body, _) =
        postcard::take_from_bytes(&body[FRONT..]).map_err(|_| BadSnapshot::Damaged("it does not read"))?;
    if !rest.is_empty() {
        return Err(BadSnapshot::Damaged("there is something behind it"));
    }
    let mut image = Image::default();
    for record in &read.records {
        image.apply(&Record::decode(record)?)?;
    }
    let newest = image.last_broker_epoch;
    if read.last_broker_epoch < newest || !read.end.is_valid() || read.next_producer_id < ProducerId(0) {
        return Err(BadSnapshot::Damaged("it contradicts itself"));
    }
    image.end = read.end;
    image.last_broker_epoch = read.last_broker_epoch;
    image.next_producer_id = if mutant!(316) { ProducerId(0) } else { read.next_producer_id };
    Ok(image)
}

/// Whether these bytes are an image.
#[must_use]
pub fn reads(bytes: &[u8]) -> bool {
    decode(bytes).is_ok()
}

/// Records that make everything of the image but its numbers, in an order in which they apply.
fn records_of(image: &Image) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    records.extend(image.cluster_id().map(|id| ClusterNamed { id: id.to_owned() }.into()));
    records.extend(
        image.features().map(|(name, level)| FeatureLevelSet { name: name.to_owned(), level }.into()),
    );
    let mut registered: Vec<BrokerRegistered> = image.brokers().flat_map(|broker| lives_of(broker)).collect();
    registered.sort_by_key(|life| life.epoch);
    records.extend(registered.into_iter().map(Record::from));
    for Broker { id: broker, epoch: broker_epoch, let_in, fenced, shutting_down, draining, .. } in
        image.brokers().map(|broker| &**broker)
    {
        let (broker, broker_epoch, fenced, shutting_down) = (*broker, *broker_epoch, *fenced, *shutting_down);
        if shutting_down || (fenced && *let_in == broker_epoch) {
            records.push(BrokerStateChanged { broker, broker_epoch, fenced, shutting_down }.into());
        }
        if *draining {
            records.push(DrainChanged { broker, draining: true }.into());
        }
    }
    for topic in image.topics() {
        let partitions = topic.partitions.iter().map(|partition| partition.state()).collect();
        let created = TopicCreated { topic_id: topic.id, name: topic.name.to_string(), partitions };
        records.push(created.into());
        let resource = Resource::Topic(topic.id);
        records.extend(topic.configs.iter().map(|(name, value)| set(resource.clone(), name, value)));
    }
    for (broker, configs) in image.broker_configs.iter() {
        let resource = broker.map_or(Resource::AllBrokers, Resource::Broker);
        records.extend(configs.iter().map(|(name, value)| set(resource.clone(), name, value)));
    }
    if image.is_rebalancing() {
        records.push(RebalanceChanged { active: true }.into());
    }
    let losses = image.losses().map(|(topic_id, partition, loss)| UncleanElected {
        topic_id,
        partition,
        leader: loss.leader,
        leader_epoch: loss.leader_epoch,
        reason: loss.reason,
    });
    records.extend(losses.map(Record::from));
    records
}

/// The life of a broker, and before it the newest that was let in if that is an older one. One that was let in is written as
/// live, because that is how the image learns it.
fn lives_of(broker: &Broker) -> Vec<BrokerRegistered> {
    let life = |epoch: BrokerEpoch| BrokerRegistered {
        broker: broker.id,
        epoch,
        incarnation: broker.incarnation,
        endpoints: broker.endpoints.clone(),
        rack: broker.rack.clone(),
        directory_id: broker.directory_id,
        clean: true,
        fenced: epoch != broker.let_in,
    };
    let before = Some(broker.let_in).filter(|let_in| *let_in != BrokerEpoch::NONE && *let_in != broker.epoch);
    before.into_iter().chain([broker.epoch]).map(life).collect()
}

fn set(resource: Resource, name: &str, value: &str) -> Record {
    ConfigChanged { resource, name: name.to_owned(), value: Some(value.to_owned()) }.into()
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::{BrokerId, LeaderEpoch, PartitionId, TopicId};

    use super::*;
    use crate::metadata::record::{BrokerUnregistered, PartitionState, ProducerIdsAllocated, UncleanReason};

    fn broker(id: i32, epoch: i64) -> Record {
        let registered = BrokerRegistered {
            broker: BrokerId(id),
            epoch: BrokerEpoch(epoch),
            incarnation: 7,
            endpoints: Vec::new(),
            rack: Some("r".into()),
            directory_id: [9; 16],
            clean: true,
            fenced: id == 2,
        };
        registered.into()
    }

    fn state(id: i32, epoch: i64, fenced: bool) -> Record {
        let (broker, broker_epoch) = (BrokerId(id), BrokerEpoch(epoch));
        BrokerStateChanged { broker, broker_epoch, fenced, shutting_down: false }.into()
    }

    #[test]
    fn who_was_let_in_and_in_which_life_comes_back() {
        let lives = [(2, 1), (2, 2), (3, 4), (2, 5)];
        let mut image = Image::default();
        for (id, epoch) in lives {
            let Record::BrokerRegistered(registered) = broker(id, epoch) else { unreachable!("it is one") };
            image.apply(&BrokerRegistered { fenced: true, ..registered }.into()).expect("it applies");
            let back = decode(&encode(&image)).expect("ours");
            assert_eq!(back, image);
            if epoch != 5 {
                image.apply(&state(id, epoch, false)).expect("it applies");
                image.apply(&state(id, epoch, epoch == 2)).expect("it applies");
            }
            assert_eq!(decode(&encode(&image)).expect("ours"), image);
        }
        let let_in = |id| image.broker(BrokerId(id)).map(|broker| broker.let_in.0);
        assert_eq!((let_in(2), let_in(3)), (Some(2), Some(4)));
    }

    /// An image with something of everything; the newest broker epoch is that of one who left.
    fn rich() -> Image {
        let (topic_id, partition, leader) = (TopicId([1; 16]), PartitionId(1), BrokerId(1));
        let two = PartitionState::born(vec![BrokerId(1), BrokerId(2)]);
        let moving = PartitionState {
            isr: vec![BrokerId(1)],
            elr: vec![BrokerId(2)],
            adding: vec![BrokerId(2)],
            leader_epoch: LeaderEpoch(4),
            partition_epoch: 6,
            ..two.clone()
        };
        let broker_epoch = BrokerEpoch(5);
        let (start, end) = (ProducerId(0), ProducerId(1000));
        let leader_epoch = LeaderEpoch(4);
        let unclean =
            UncleanElected { topic_id, partition, leader, leader_epoch, reason: UncleanReason::OutOfSync };
        let records: Vec<Record> = vec![
            ClusterNamed { id: "c".into() }.into(),
            FeatureLevelSet { name: "metadata.version".into(), level: 1 }.into(),
            broker(2, 3),
            broker(1, 5),
            broker(9, 6),
            BrokerStateChanged { broker: leader, broker_epoch, fenced: false, shutting_down: true }.into(),
            DrainChanged { broker: leader, draining: true }.into(),
            BrokerUnregistered { broker: BrokerId(9), broker_epoch: BrokerEpoch(6) }.into(),
            TopicCreated { topic_id, name: "a.b".into(), partitions: vec![two, moving] }.into(),
            set(Resource::Topic(topic_id), "retention.ms", "60000"),
            set(Resource::Broker(leader), "retention.ms", "1"),
            set(Resource::AllBrokers, "retention.ms", "2"),
            ProducerIdsAllocated { broker: leader, broker_epoch, start, end }.into(),
            RebalanceChanged { active: true }.into(),
            unclean.into(),
        ];
        Image::default().after(&records, Offset(40)).expect("they fit")
    }

    #[test]
    fn an_image_comes_back_equal_and_its_bytes_are_its_own() {
        let image = rich();
        let bytes = encode(&image);
        let back = decode(&bytes).expect("ours");
        assert_eq!(back, image);
        assert_eq!(encode(&back), bytes);
        assert_eq!(decode(&encode(&Image::default())).expect("ours"), Image::default());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = encode(&rich());
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!reads(&bad), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(!reads(&good[..length]), "length {length}");
        }
    }
}
