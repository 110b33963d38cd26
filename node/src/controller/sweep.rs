//! From an event of the cluster to the changes of the partitions that it touches.
//!
//! Owns: how the rules of `succession` are asked for one partition of a draft, and for all that an event touches.
//! Promises: after a sweep no touched partition counts on who is not live; every election that may have lost
//! something has its own record, before the state that it led to.
//! Leaves out: the rules (`succession`), the events (`decide`).

use std::collections::BTreeMap;

use dejaq_storage::{mark, mutant};
use dejaq_wire::ids::{BrokerId, PartitionId, TopicId};

use super::draft::{Context, Draft};
use super::settings::Settings;
use super::succession::{Rules, Wanted, settle};
use crate::metadata::record::{BrokerStateChanged, PartitionChanged, RebalanceChanged, UncleanElected};
use crate::metadata::{BrokerDefaults, Image, Partition, Topic, TopicConfig};

/// What the rules need of a topic's configs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicRules {
    /// `min.insync.replicas`.
    pub min_isr: usize,
    /// Whether acknowledged records are on disk.
    pub durable: bool,
    /// `unclean.leader.election.enable`.
    pub unclean: bool,
}

impl TopicRules {
    /// As the whole cluster sees them: what one broker says for itself alone does not count here.
    #[must_use]
    pub fn of(topic: &Topic, image: &Image, settings: &Settings) -> TopicRules {
        let defaults = image.broker_defaults(BrokerId::NONE, &settings.topic_defaults);
        let defaults = BrokerDefaults { broker: BTreeMap::new(), ..defaults };
        let config = TopicConfig::resolve(&topic.configs, &defaults);
        TopicRules {
            min_isr: usize::try_from(config.min_insync_replicas).expect("a count fits"),
            durable: config.is_durable(),
            unclean: config.unclean_leader_election,
        }
    }
}

/// Changes one partition as `wanted`, with everything that follows; `false` if nothing changes.
///
/// # Panics
/// If there is no such partition: the caller has just seen it.
pub fn change(
    draft: &mut Draft,
    context: &Context<'_>,
    (topic_id, index): (TopicId, PartitionId),
    wanted: &Wanted,
) -> bool {
    let topic = draft.image().topic(topic_id).expect("the caller has seen the topic").clone();
    let rules = TopicRules::of(&topic, draft.image(), context.settings);
    let partition = topic.partition(index).expect("the caller has seen the partition");
    change_by(draft, context, (topic_id, index, partition), &rules, wanted)
}

fn change_by(
    draft: &mut Draft,
    context: &Context<'_>,
    (topic_id, index, partition): (TopicId, PartitionId, &Partition),
    rules: &TopicRules,
    wanted: &Wanted,
) -> bool {
    let settled = {
        let image = draft.image();
        let rules = Rules {
            live: &|broker| image.is_live(broker),
            leaving: &|broker| context.liveness.is_leaving(broker),
            min_isr: rules.min_isr,
            durable: rules.durable,
            unclean: rules.unclean,
        };
        settle(&partition.state(), wanted, &rules)
    };
    let Some(settled) = settled else { return false };
    let state = settled.state;
    // The planted bug M291: an election that may lose something is made without a word.
    if let Some(reason) = settled.unclean.filter(|_| !mutant!(291)) {
        mark!("an election that may lose something is recorded");
        draft.push(UncleanElected {
            topic_id,
            partition: index,
            leader: state.leader,
            leader_epoch: state.leader_epoch,
            reason,
        });
    }
    draft.push(PartitionChanged { topic_id, partition: index, state });
    true
}

/// Changes every partition for which `wanted` gives something; says how many changed, at most `limit`.
pub fn sweep(
    draft: &mut Draft,
    context: &Context<'_>,
    limit: usize,
    mut wanted: impl FnMut(&Topic, PartitionId, &Partition) -> Option<Wanted>,
) -> usize {
    let image = draft.image().clone();
    let mut changed = 0;
    for topic in image.topics() {
        let mut rules = None;
        for (index, partition) in topic.partitions() {
            if changed == limit {
                return changed;
            }
            let Some(wanted) = wanted(topic, index, partition) else { continue };
            let rules = rules.get_or_insert_with(|| TopicRules::of(topic, &image, context.settings));
            changed += usize::from(change_by(draft, context, (topic.id, index, partition), rules, &wanted));
        }
    }
    changed
}

/// No limit of a sweep: what an event makes untrue is mended in the same batch (MQ-15).
pub const ALL: usize = usize::MAX;

/// Writes down the new state of a broker, and moves away what it may not hold any more.
pub fn retire(draft: &mut Draft, context: &Context<'_>, broker: BrokerId, fenced: bool, shutting_down: bool) {
    assert!(fenced || shutting_down, "{broker:?} keeps everything");
    set_state(draft, broker, fenced, shutting_down);
    let counted = |partition: &Partition| partition.leader == broker || partition.isr.contains(&broker);
    sweep(draft, context, ALL, |_, _, partition| counted(partition).then(Wanted::default));
    debug_assert!(
        draft.image().topics().flat_map(|t| t.partitions.iter()).all(|p| !counted(p)),
        "{broker:?}"
    );
}

/// Writes down that a broker may lead again, and lets it lead what nobody leads.
pub fn admit(draft: &mut Draft, context: &mut Context<'_>, broker: BrokerId) {
    set_state(draft, broker, false, false);
    welcome(draft, context, broker);
}

/// Lets a live broker lead what nobody leads, and has replicas flow to it if it holds none.
pub fn welcome(draft: &mut Draft, context: &mut Context<'_>, broker: BrokerId) {
    assert!(draft.image().is_live(broker), "{broker:?} was let in");
    sweep(draft, context, ALL, |_, _, partition| {
        let orphan = partition.leader == BrokerId::NONE && partition.replicas.contains(&broker);
        orphan.then(Wanted::default)
    });
    let image = draft.image();
    let holds = image.topics().flat_map(|t| t.partitions.iter()).any(|p| p.replicas.contains(&broker));
    let draining = image.broker(broker).is_some_and(|known| known.draining);
    let wanted = context.settings.healing.auto_rebalance && image.partition_count() > 0;
    if !wanted || holds || draining {
        return;
    }
    context.liveness.waits = false; // those who are here are not even with it
    if !image.is_rebalancing() {
        draft.push(RebalanceChanged { active: true });
    }
}

fn set_state(draft: &mut Draft, broker: BrokerId, fenced: bool, shutting_down: bool) {
    let known = draft.image().broker(broker).expect("the caller has seen the broker");
    if (known.fenced, known.shutting_down) != (fenced, shutting_down) {
        let broker_epoch = known.epoch;
        draft.push(BrokerStateChanged { broker, broker_epoch, fenced, shutting_down });
    }
}
