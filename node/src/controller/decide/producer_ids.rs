//! A block of producer ids for a broker, which hands them out one by one.
//!
//! Promises: blocks are disjoint for ever (IDM-8), because a block is durable before anyone learns of it and the
//! next begins where the last ends. Ids of a block that its broker did not use are lost, which costs nothing.

use dejaq_storage::mutant;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, ProducerId};
use serde::{Deserialize, Serialize};

use crate::controller::draft::{Context, Decide, Draft, Refusal};
use crate::metadata::record::ProducerIdsAllocated;

/// Ids in a block, as in Kafka.
pub const BLOCK: i64 = 1000;

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocateProducerIds {
    /// Who asks.
    pub broker: BrokerId,
    /// In which life.
    pub broker_epoch: BrokerEpoch,
}

/// Ids from `start` to `end`, which is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// First id.
    pub start: ProducerId,
    /// First id after the block.
    pub end: ProducerId,
}

impl Decide for AllocateProducerIds {
    type Answer = Result<Block, Refusal>;

    fn decide(self, draft: &mut Draft, _context: &mut Context<'_>) -> Self::Answer {
        let registered = draft.image().broker(self.broker).map(|broker| broker.epoch);
        if registered != Some(self.broker_epoch) {
            let why = format!("broker {} with epoch {} is not registered", self.broker, self.broker_epoch);
            return Err(Refusal::new(ErrorCode::STALE_BROKER_EPOCH, why));
        }
        let ProducerId(start) = draft.image().next_producer_id();
        assert!(start >= 0, "producer ids begin at 0, not {start}");
        let Some(end) = start.checked_add(BLOCK) else {
            return Err(Refusal::new(ErrorCode::UNKNOWN_SERVER_ERROR, "all 2^63 producer ids are used up"));
        };
        let block = Block { start: ProducerId(start), end: ProducerId(end) };
        // The planted bug M317: it is told, and in no log.
        if !mutant!(317) {
            draft.push(ProducerIdsAllocated {
                broker: self.broker,
                broker_epoch: self.broker_epoch,
                start: block.start,
                end: block.end,
            });
        }
        Ok(block)
    }
}
