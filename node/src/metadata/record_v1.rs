//! Version 1 of the bodies that have a second one, and the way between the two.
//!
//! Owns: the old shapes, as they lie on disks; which new bodies they can still say.
//! Promises: what version 1 can say is written as version 1, so that a log without a cluster's state reads in every
//! build; what it cannot say ([`Older::of`] is `None`) is written as version 2.
//! Called by `record` alone.

use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionId, TopicId};
use serde::{Deserialize, Serialize};

use super::record::{self, Endpoint};

/// An old shape of a body.
pub(super) trait Older: Sized {
    /// The shape of today.
    type Newest;

    /// `body` in the old shape, unless that cannot say it.
    fn of(body: &Self::Newest) -> Option<Self>;

    /// The same in the shape of today.
    fn newest(self) -> Self::Newest;
}

#[derive(Serialize, Deserialize)]
pub(super) struct PartitionState {
    replicas: Vec<BrokerId>,
    isr: Vec<BrokerId>,
    leader: BrokerId,
    leader_epoch: LeaderEpoch,
    partition_epoch: i32,
}

impl Older for PartitionState {
    type Newest = record::PartitionState;

    fn of(body: &record::PartitionState) -> Option<PartitionState> {
        let newer = [&body.elr, &body.last_known_elr, &body.adding, &body.removing];
        // An old build refuses an empty in-sync set.
        (newer.iter().all(|list| list.is_empty()) && !body.isr.is_empty()).then(|| PartitionState {
            replicas: body.replicas.clone(),
            isr: body.isr.clone(),
            leader: body.leader,
            leader_epoch: body.leader_epoch,
            partition_epoch: body.partition_epoch,
        })
    }

    fn newest(self) -> record::PartitionState {
        record::PartitionState {
            replicas: self.replicas,
            isr: self.isr,
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            elr: Vec::new(),
            last_known_elr: Vec::new(),
            adding: Vec::new(),
            removing: Vec::new(),
        }
    }
}

fn all_of(partitions: &[record::PartitionState]) -> Option<Vec<PartitionState>> {
    partitions.iter().map(PartitionState::of).collect()
}

fn all_newest(partitions: Vec<PartitionState>) -> Vec<record::PartitionState> {
    partitions.into_iter().map(PartitionState::newest).collect()
}

#[derive(Serialize, Deserialize)]
pub(super) struct TopicCreated {
    topic_id: TopicId,
    name: String,
    partitions: Vec<PartitionState>,
}

impl Older for TopicCreated {
    type Newest = record::TopicCreated;

    fn of(body: &record::TopicCreated) -> Option<TopicCreated> {
        let partitions = all_of(&body.partitions)?;
        Some(TopicCreated { topic_id: body.topic_id, name: body.name.clone(), partitions })
    }

    fn newest(self) -> record::TopicCreated {
        let partitions = all_newest(self.partitions);
        record::TopicCreated { topic_id: self.topic_id, name: self.name, partitions }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct PartitionsAdded {
    topic_id: TopicId,
    first: PartitionId,
    partitions: Vec<PartitionState>,
}

impl Older for PartitionsAdded {
    type Newest = record::PartitionsAdded;

    fn of(body: &record::PartitionsAdded) -> Option<PartitionsAdded> {
        let partitions = all_of(&body.partitions)?;
        Some(PartitionsAdded { topic_id: body.topic_id, first: body.first, partitions })
    }

    fn newest(self) -> record::PartitionsAdded {
        let partitions = all_newest(self.partitions);
        record::PartitionsAdded { topic_id: self.topic_id, first: self.first, partitions }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct PartitionChanged {
    topic_id: TopicId,
    partition: PartitionId,
    state: PartitionState,
}

impl Older for PartitionChanged {
    type Newest = record::PartitionChanged;

    fn of(body: &record::PartitionChanged) -> Option<PartitionChanged> {
        let state = PartitionState::of(&body.state)?;
        Some(PartitionChanged { topic_id: body.topic_id, partition: body.partition, state })
    }

    fn newest(self) -> record::PartitionChanged {
        let state = self.state.newest();
        record::PartitionChanged { topic_id: self.topic_id, partition: self.partition, state }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct BrokerRegistered {
    broker: BrokerId,
    epoch: BrokerEpoch,
    incarnation: u128,
    endpoints: Vec<Endpoint>,
    rack: Option<String>,
}

impl Older for BrokerRegistered {
    type Newest = record::BrokerRegistered;

    fn of(body: &record::BrokerRegistered) -> Option<BrokerRegistered> {
        (body.directory_id == [0; 16] && body.clean && !body.fenced).then(|| BrokerRegistered {
            broker: body.broker,
            epoch: body.epoch,
            incarnation: body.incarnation,
            endpoints: body.endpoints.clone(),
            rack: body.rack.clone(),
        })
    }

    fn newest(self) -> record::BrokerRegistered {
        record::BrokerRegistered {
            broker: self.broker,
            epoch: self.epoch,
            incarnation: self.incarnation,
            endpoints: self.endpoints,
            rack: self.rack,
            directory_id: [0; 16],
            clean: true,
            fenced: false,
        }
    }
}
