//! The way between a group and the log: reading back when a shard begins, and the record of a group as it stands.
//!
//! Promises: the last record of a key wins, whatever else lies between; what is read back equals what was live, but
//! for what only lives in memory (GRP-7): a rebalance that was under way is over, and its members come again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use dejaq_storage::mark;
use dejaq_wire::ids::{Generation, ProducerId};

use super::ask::Now;
use super::classic::{Group, Joining, State};
use super::consumer::convert::{all_keys, keep_free};
use super::consumer::member::Member as Consumer;
use super::consumer::members::Members;
use super::groups::Groups;
use super::member::Member;
use super::offsets::{Offsets, Place};
use super::settings::Settings;
use super::subscription;
use crate::coordinator::consumer_record::{
    ConsumerRecord, Parts, StoredConsumer, StoredCurrent, StoredEpoch,
};
use crate::coordinator::record::{Record, StoredGroup};

/// Groups that are being read back.
#[derive(Debug, Default)]
pub struct Loading {
    groups: BTreeMap<Arc<str>, Stored>,
    /// In which groups offsets wait for the end of a producer's transaction.
    open: BTreeMap<ProducerId, BTreeSet<Arc<str>>>,
    /// Of the next record.
    next: Place,
}

#[derive(Debug, Default)]
struct Stored {
    group: Option<StoredGroup>,
    offsets: Offsets,
    consumer: StoredMembers,
}

/// What the log holds of a group of KIP-848.
#[derive(Debug, Default, PartialEq)]
struct StoredMembers {
    epoch: Option<StoredEpoch>,
    target_epoch: Option<Generation>,
    members: BTreeMap<Arc<str>, StoredConsumer>,
    targets: BTreeMap<Arc<str>, Parts>,
    currents: BTreeMap<Arc<str>, StoredCurrent>,
}

impl StoredMembers {
    fn replay(&mut self, record: ConsumerRecord) {
        fn put<V>(map: &mut BTreeMap<Arc<str>, V>, id: Arc<str>, value: Option<V>) {
            match value {
                Some(value) => drop(map.insert(id, value)),
                None => drop(map.remove(&id)),
            }
        }
        match record {
            ConsumerRecord::Epoch(value) => self.epoch = value,
            ConsumerRecord::TargetEpoch(value) => self.target_epoch = value,
            ConsumerRecord::Member(id, value) => put(&mut self.members, id, value),
            ConsumerRecord::Target(id, value) => put(&mut self.targets, id, value),
            ConsumerRecord::Current(id, value) => put(&mut self.currents, id, value),
        }
    }
}

impl Loading {
    /// Takes the next record of the log.
    pub fn replay(&mut self, record: Record) {
        let place = self.take_place();
        let id = match record {
            Record::Offset { group, at, value } => {
                let stored = self.groups.entry(group.clone()).or_default();
                match value {
                    Some(committed) => stored.offsets.keep(at, committed, place),
                    None => stored.offsets.forget(&at),
                }
                group
            }
            Record::Group { group, value } => {
                self.groups.entry(group.clone()).or_default().group = value;
                group
            }
            Record::Consumer { group, record } => {
                self.groups.entry(group.clone()).or_default().consumer.replay(record);
                group
            }
        };
        self.settle(&id);
    }

    /// Takes the next record of the log, which is in the transaction of a producer.
    pub fn replay_in_txn(&mut self, producer: ProducerId, record: Record) {
        match record {
            Record::Offset { group, at, value: Some(committed) } => {
                let place = self.take_place();
                let stored = self.groups.entry(group.clone()).or_default();
                stored.offsets.pend(producer, at, committed, place);
                self.open.entry(producer).or_default().insert(group);
            }
            // Nobody writes these in a transaction.
            Record::Offset { value: None, .. } | Record::Group { .. } | Record::Consumer { .. } => {
                self.replay(record);
            }
        }
    }

    /// Takes the end of the transaction of a producer.
    pub fn replay_marker(&mut self, producer: ProducerId, commit: bool) {
        for id in self.open.remove(&producer).unwrap_or_default() {
            if let Some(stored) = self.groups.get_mut(&id) {
                stored.offsets.txn_ended(producer, commit);
            }
            self.settle(&id);
        }
    }

    fn take_place(&mut self) -> Place {
        let place = self.next;
        self.next = Place(place.0 + 1);
        place
    }

    fn settle(&mut self, id: &str) {
        let is_nothing = |stored: &Stored| {
            stored.group.is_none() && stored.offsets.is_empty() && stored.consumer == StoredMembers::default()
        };
        if self.groups.get(id).is_some_and(is_nothing) {
            self.groups.remove(id);
        }
    }

    /// The groups as they stand at the end of the log. Sessions begin anew: their members were not heard meanwhile.
    #[must_use]
    pub fn finish(self, settings: Settings, now: Now) -> Groups {
        let next = self.next;
        let groups = self.groups.into_iter().map(|(id, stored)| {
            let group = restore(id.clone(), stored, &settings, now);
            (id, group)
        });
        let groups = groups.collect();
        Groups::new(settings, groups, next, now.mono)
    }
}

fn restore(id: Arc<str>, stored: Stored, settings: &Settings, now: Now) -> Group {
    let mut group = Group::new(id);
    group.offsets = stored.offsets;
    let Some(kept) = stored.group else {
        restore_consumer(&mut group, stored.consumer, settings, now);
        return group;
    };
    if stored.consumer != StoredMembers::default() {
        // It went back to the classic protocol, and what it was could not be taken away in the same moment.
        let (consumer, keys) = (&stored.consumer, BTreeMap::keys);
        let ids = keys(&consumer.members).chain(consumer.targets.keys()).chain(consumer.currents.keys());
        group.keep.owe(all_keys(ids));
    }
    group.generation = kept.generation;
    group.protocol_type = Some(kept.protocol_type).filter(|kind| !kind.is_empty());
    group.since_ms = Some(kept.since_ms).filter(|ms| *ms >= 0);
    let Some(protocol) = kept.protocol.filter(|_| !kept.members.is_empty()) else { return group };
    for stored in kept.members {
        let member = Member::stored(stored, &protocol, now.mono);
        if let Some(instance) = &member.instance {
            group.instances.insert(instance.clone(), member.id.clone());
        }
        group.members.insert(member.id.clone(), member);
    }
    // Two members of one instance cannot be written by us; of a log that says so the last one counts.
    let instances = &group.instances;
    group.members.retain(|id, member| member.instance.as_ref().is_none_or(|i| instances.get(i) == Some(id)));
    let leads = |id: &Arc<str>| group.members.contains_key(id);
    let is_due = kept.leader.is_none();
    group.leader = kept.leader.map(Arc::from).filter(leads).or_else(|| group.members.keys().next().cloned());
    group.protocol = Some(protocol);
    group.state = State::Stable;
    if is_due {
        mark!("a rebalance that was due when the coordinator changed is begun");
        let until = now.mono.plus(group.patience());
        group.state = State::Preparing(Joining { until, first: None });
        group.rebalancing = Some(now.mono);
    }
    group.subscribed = group.read_subscriptions();
    group
}

fn restore_consumer(group: &mut Group, stored: StoredMembers, settings: &Settings, now: Now) {
    let Some(kept) = stored.epoch else { return };
    let mut consumer = Members::restored(&kept, stored.target_epoch, settings.assignors[0]);
    for (id, told) in stored.members {
        let mut member = Consumer::new(id.clone(), now.mono);
        member.take_stored(told);
        if let Some(current) = stored.currents.get(&id) {
            member.take_current(current.clone());
        }
        keep_free(&consumer, &mut member);
        consumer.restore(member, stored.targets.get(&id).cloned(), settings, now.mono);
    }
    group.since_ms = kept.empty_since_ms;
    group.protocol_type = Some(subscription::CONSUMER.to_owned());
    group.consumer = Some(Box::new(consumer));
}

impl Group {
    /// The record of a classic group that does not wait for anybody; none while a plan will write it anyway.
    pub(super) fn record_as_it_stands(&self) -> Option<Record> {
        match &self.state {
            State::Empty if self.generation.0 > 0 => Some(self.record(&BTreeMap::new())),
            State::Stable => {
                let parts = self.members.values().map(|m| (m.id.clone(), m.assignment.clone())).collect();
                Some(self.record(&parts))
            }
            State::Empty | State::Preparing(_) | State::Completing { .. } | State::Dead => None,
        }
    }

    /// The group as it is to be kept, with these parts of the plan.
    pub(super) fn record(&self, parts: &BTreeMap<Arc<str>, Bytes>) -> Record {
        let protocol = self.protocol.clone();
        let name = protocol.as_deref().unwrap_or_default();
        let part = |id: &Arc<str>| parts.get(id).cloned().unwrap_or_default();
        let value = StoredGroup {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            leader: self.leader.as_deref().map(str::to_owned),
            since_ms: self.since_ms.unwrap_or(-1),
            members: self.members.values().map(|member| member.to_stored(name, part(&member.id))).collect(),
            protocol,
        };
        Record::Group { group: self.id.clone(), value: Some(value) }
    }
}
