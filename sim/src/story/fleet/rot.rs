//! Rot on the disk of one member, or of all: found by reads and by the scrub, never served, mended from a peer.
//!
//! Owns: which member's disk rots: the same one for a whole story, or each in turn, then a batch only on the one that its
//! offset names: no story damages every copy of anything. Promises: only bytes rot
//! that have been durable, and the same, for three seconds (as in `damage`); nothing of it is told to the history as
//! destroyed, because another broker has it; in the calm act all of it must be mended.
//! Leaves out: the damage itself (`model_disk`), finding and mending (the product).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::nemesis::later;
use crate::rng::Dice;
use crate::story::damage::{MARKED, logs};
use crate::story::{BrokerNode, Stage};

/// Whose disk rots. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Rot(Arc<Mutex<Option<u32>>>);

impl Rot {
    /// Lets one bit of the victim's logs rot after a while; the first broker that this is drawn for is the victim.
    pub fn strike(&self, stage: &Stage, broker: &BrokerNode, dice: &mut Dice) {
        let first = *self.0.lock().expect("nothing panics in here").get_or_insert(broker.node());
        let everywhere = stage.plan.rots_everywhere;
        let victim = if everywhere { broker.node() } else { first };
        let Some(broker) = stage.brokers.iter().find(|one| one.node() == victim).cloned() else { return };
        let before = logs(stage, &broker);
        if before.is_empty() {
            return;
        }
        let (path, bytes) = dice.pick(&before).clone();
        let (at, bit) = (dice.below(bytes.len() as u64), 1 << dice.below(8));
        let owner = stage.clone();
        later(stage, MARKED, async move {
            let now = logs(&owner, &broker).into_iter().find(|(known, _)| *known == path);
            let is_same = now.is_some_and(|(_, now)| now.starts_with(&bytes));
            let Some(batch) = broker.batch_at(&path, at).filter(|_| is_same) else { return };
            let is_its = (batch - i64::from(broker.node())) % owner.brokers.len() as i64 == 0;
            if (!everywhere || is_its) && broker.device().platter.rot(&path, at, bit) {
                owner.recorder.count("bytes rotten");
            }
        });
    }

    /// Waits until nothing of the plan's partitions is damaged on any disk.
    pub async fn mended(&self, stage: &Stage) {
        if self.0.lock().expect("nothing panics in here").is_none() {
            return;
        }
        loop {
            let struck: Vec<String> = stage.brokers.iter().flat_map(BrokerNode::struck).collect();
            if struck.is_empty() {
                return;
            }
            stage.world.event(crate::world::NOBODY, "damaged", &[struck.len() as u64], || struck.join("; "));
            stage.world.sleep(Duration::from_millis(500)).await;
        }
    }
}
