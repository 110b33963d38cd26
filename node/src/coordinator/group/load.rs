//! The way between a group and the log: reading back when a shard begins, and the record of a group as it stands.
//!
//! Promises: the last record of a key wins, whatever else lies between; what is read back equals what was live, but
//! for what only lives in memory (GRP-7): a rebalance that was under way is over, and its members come again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::ask::Now;
use super::classic::{Group, State};
use super::groups::Groups;
use super::member::Member;
use super::settings::Settings;
use crate::coordinator::record::{At, Committed, Record, StoredGroup};

/// Groups that are being read back.
#[derive(Debug, Default)]
pub struct Loading {
    groups: BTreeMap<Arc<str>, Stored>,
}

#[derive(Debug, Default)]
struct Stored {
    group: Option<StoredGroup>,
    offsets: BTreeMap<At, Committed>,
}

impl Loading {
    /// Takes the next record of the log.
    pub fn replay(&mut self, record: Record) {
        let id = match record {
            Record::Offset { group, at, value } => {
                let stored = self.groups.entry(group.clone()).or_default();
                match value {
                    Some(committed) => drop(stored.offsets.insert(at, committed)),
                    None => drop(stored.offsets.remove(&at)),
                }
                group
            }
            Record::Group { group, value } => {
                self.groups.entry(group.clone()).or_default().group = value;
                group
            }
        };
        if self.groups.get(&id).is_some_and(|stored| stored.group.is_none() && stored.offsets.is_empty()) {
            self.groups.remove(&id);
        }
    }

    /// The groups as they stand at the end of the log. Sessions begin anew: their members were not heard meanwhile.
    #[must_use]
    pub fn finish(self, settings: Settings, now: Now) -> Groups {
        let groups = self.groups.into_iter().map(|(id, stored)| {
            let group = restore(id.clone(), stored, now);
            (id, group)
        });
        Groups::new(settings, groups.collect(), now.mono)
    }
}

fn restore(id: Arc<str>, stored: Stored, now: Now) -> Group {
    let mut group = Group::new(id);
    for (at, committed) in stored.offsets {
        group.offsets.keep(at, committed);
    }
    let Some(kept) = stored.group else { return group };
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
    group.leader = kept.leader.map(Arc::from).filter(leads).or_else(|| group.members.keys().next().cloned());
    group.protocol = Some(protocol);
    group.state = State::Stable;
    group.subscribed = group.read_subscriptions();
    group
}

impl Group {
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
