//! A broker begins a new life: it gets an epoch, and so does everything that it leads.

use dejaq_wire::ids::{BrokerEpoch, BrokerId};

use crate::controller::draft::{Context, Decide, Draft};
use crate::metadata::record::{BrokerRegistered, Endpoint, FeatureLevelSet, LeadershipsRestarted};

/// Level of the metadata format that this version writes, as the feature `metadata.version`.
///
/// Kafka's number for its 4.0 (IV3), because clients read it as that: which requests a cluster understands.
pub const METADATA_VERSION: i16 = 25;
/// Name of that feature.
pub const METADATA_VERSION_FEATURE: &str = "metadata.version";

/// The request.
#[derive(Debug, Clone)]
pub struct RegisterBroker {
    /// Who.
    pub broker: BrokerId,
    /// Drawn by the process at its start: the same one registers once, however often it asks.
    pub incarnation: u128,
    /// Where clients reach it.
    pub endpoints: Vec<Endpoint>,
    /// Where it stands.
    pub rack: Option<String>,
}

impl Decide for RegisterBroker {
    type Answer = BrokerEpoch;

    fn decide(self, draft: &mut Draft, _context: &mut Context<'_>) -> BrokerEpoch {
        if let Some(known) = draft.image().broker(self.broker)
            && known.incarnation == self.incarnation
        {
            return known.epoch;
        }
        let epoch = draft.image().last_broker_epoch().next();
        if draft.image().features().all(|(name, _)| name != METADATA_VERSION_FEATURE) {
            draft.push(FeatureLevelSet { name: METADATA_VERSION_FEATURE.into(), level: METADATA_VERSION });
        }
        draft.push(BrokerRegistered {
            broker: self.broker,
            epoch,
            incarnation: self.incarnation,
            endpoints: self.endpoints,
            rack: self.rack,
        });
        let mut partitions = draft.image().topics().flat_map(|topic| topic.partitions.iter());
        let leads = partitions.any(|partition| partition.leader == self.broker);
        drop(partitions);
        if leads {
            draft.push(LeadershipsRestarted { broker: self.broker, broker_epoch: epoch });
        }
        epoch
    }
}
