//! Brokers go for good: drained (everything moves away first), or unregistered (they will not come back).

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::BrokerId;
use serde::{Deserialize, Serialize};

use crate::controller::draft::{Context, Decide, Draft, Refusal};
use crate::controller::succession::Wanted;
use crate::controller::sweep::{ALL, sweep};
use crate::metadata::record::{BrokerUnregistered, DrainChanged};
use crate::metadata::{Image, Partition};

/// Begins to empty a broker, or stops that. The plan is part of the metadata and outlives every controller; the
/// moves follow from it (`planner`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainBroker {
    /// Which broker.
    pub broker: BrokerId,
    /// Whether it is to be empty.
    pub draining: bool,
}

/// How far a broker is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Replicas that it still holds.
    pub replicas: usize,
    /// Partitions that it still leads.
    pub leaders: usize,
}

impl Drained {
    /// What a broker holds in this image.
    #[must_use]
    pub fn of(image: &Image, broker: BrokerId) -> Drained {
        let mut held = Drained { replicas: 0, leaders: 0 };
        for partition in image.topics().flat_map(|topic| topic.partitions.iter()) {
            held.replicas += usize::from(partition.replicas.contains(&broker));
            held.leaders += usize::from(partition.leader == broker);
        }
        held
    }
}

impl Decide for DrainBroker {
    type Answer = Result<Drained, Refusal>;

    fn decide(self, draft: &mut Draft, _context: &mut Context<'_>) -> Self::Answer {
        let image = draft.image();
        let Some(known) = image.broker(self.broker) else { return Err(unknown(self.broker)) };
        if known.draining != self.draining {
            if self.draining {
                check_room(image, self.broker)?;
            }
            draft.push(DrainChanged { broker: self.broker, draining: self.draining });
        }
        Ok(Drained::of(draft.image(), self.broker))
    }
}

/// A drain that can never end is refused at its beginning: the others must be as many as any partition has replicas.
fn check_room(image: &Image, leaving: BrokerId) -> Result<(), Refusal> {
    let stay = image.brokers().filter(|broker| broker.id != leaving && !broker.draining).count();
    let held = |partition: &&Partition| partition.replicas.contains(&leaving);
    let partitions = image.topics().flat_map(|topic| topic.partitions.iter()).filter(held);
    let most = partitions.map(|partition| partition.target().len()).max().unwrap_or(0);
    if most <= stay {
        return Ok(());
    }
    let why = format!(
        "Broker {leaving} holds partitions with {most} replica(s), and only {stay} other broker(s) would be left for \
         them. Add a broker, or lower the replication factor first."
    );
    Err(Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, why))
}

/// Takes a broker that does not run any more out of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnregisterBroker {
    /// Which broker.
    pub broker: BrokerId,
}

impl Decide for UnregisterBroker {
    type Answer = Result<(), Refusal>;

    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) -> Self::Answer {
        let broker = self.broker;
        let Some(known) = draft.image().broker(broker).cloned() else { return Err(unknown(broker)) };
        if known.is_live() {
            let why = format!("Broker {broker} is running. Drain it and stop it first.");
            return Err(Refusal::new(ErrorCode::INVALID_REQUEST, why));
        }
        if let Some((name, index)) = only_copy(draft.image(), broker) {
            let why = format!(
                "Broker {broker} holds the only copy of {name}-{index} that is known to be complete. Start it again, \
                 or elect another leader uncleanly first."
            );
            return Err(Refusal::new(ErrorCode::INVALID_REQUEST, why));
        }
        sweep(draft, context, ALL, |_, _, partition| {
            let wiped = Wanted { wiped: vec![broker], ..Wanted::default() };
            partition.replicas.contains(&broker).then_some(wiped)
        });
        draft.push(BrokerUnregistered { broker, broker_epoch: known.epoch });
        Ok(())
    }
}

fn unknown(broker: BrokerId) -> Refusal {
    Refusal::new(ErrorCode::BROKER_ID_NOT_REGISTERED, format!("No broker with id {broker} is registered."))
}

/// A partition that nobody but this broker could lead without a loss.
fn only_copy(image: &Image, broker: BrokerId) -> Option<(String, dejaq_wire::ids::PartitionId)> {
    let mut all = image.topics().flat_map(|topic| topic.partitions().map(move |(at, one)| (topic, at, one)));
    all.find_map(|(topic, at, partition)| {
        let lists = [&partition.isr, &partition.elr, &partition.last_known_elr];
        let heirs = || lists.iter().flat_map(|list| list.iter());
        (heirs().any(|heir| *heir == broker) && heirs().all(|heir| *heir == broker))
            .then(|| (topic.name.to_string(), at))
    })
}
