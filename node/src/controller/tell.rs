//! Lines in the log for what is committed, so that an operator finds it there again.

use tracing::{debug, info, warn};

use crate::metadata::{Image, Record};

/// A line in the log for what an operator wants to find there again.
pub(super) fn tell(before: &Image, records: &[Record]) {
    for record in records {
        match record {
            Record::TopicCreated(created) => info!(
                topic = created.name,
                topic_id = %created.topic_id,
                partitions = created.partitions.len(),
                "topic created"
            ),
            Record::TopicDeleted(deleted) => {
                let name = before.topic(deleted.topic_id).map_or("?", |topic| &*topic.name);
                info!(topic = name, topic_id = %deleted.topic_id, "topic deleted");
            }
            Record::PartitionsAdded(added) => {
                let name = before.topic(added.topic_id).map_or("?", |topic| &*topic.name);
                info!(topic = name, first = added.first.0, more = added.partitions.len(), "partitions added");
            }
            Record::ConfigChanged(changed) => {
                info!(resource = ?changed.resource, name = changed.name, value = ?changed.value, "config changed");
            }
            Record::BrokerRegistered(new) if new.clean => {
                info!(broker = new.broker.0, broker_epoch = new.epoch.0, "broker registered");
            }
            Record::BrokerRegistered(new) => warn!(
                broker = new.broker.0,
                broker_epoch = new.epoch.0,
                "broker registered: its last stop was not clean, or its data directory is an older copy"
            ),
            Record::BrokerStateChanged(changed) => info!(
                broker = changed.broker.0,
                broker_epoch = changed.broker_epoch.0,
                fenced = changed.fenced,
                shutting_down = changed.shutting_down,
                "broker changed its state"
            ),
            Record::BrokerUnregistered(gone) => info!(broker = gone.broker.0, "broker left the cluster"),
            Record::DrainChanged(changed) => {
                info!(broker = changed.broker.0, draining = changed.draining, "draining of a broker changed");
            }
            Record::RebalanceChanged(changed) => info!(active = changed.active, "rebalancing changed"),
            Record::UncleanElected(elected) => {
                let name = before.topic(elected.topic_id).map_or("?", |topic| &*topic.name);
                warn!(
                    topic = name,
                    partition = elected.partition.0,
                    leader = elected.leader.0,
                    leader_epoch = elected.leader_epoch.0,
                    reason = ?elected.reason,
                    "UNCLEAN ELECTION: acknowledged records may be lost"
                );
            }
            Record::FeatureLevelSet(set) => {
                info!(
                    feature = set.name,
                    level = set.level,
                    was = before.feature(&set.name),
                    "feature level set"
                );
            }
            Record::PartitionChanged(_)
            | Record::LeadershipsRestarted(_)
            | Record::ProducerIdsAllocated(_)
            | Record::ClusterNamed(_) => debug!(?record, "metadata changed"),
        }
    }
}
