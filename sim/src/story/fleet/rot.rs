//! Rot on the disk of one member, or of all: found by reads and by the scrub, never served, mended from a peer.
//!
//! Owns: which member's disk rots: the same one for a whole story, or all, then the same partition on each, but a batch only
//! on the one that its offset names: no story damages every copy of anything. Promises: only bytes rot
//! that have been durable, and the same, for three seconds (as in `damage`); nothing of it is told to the history as
//! destroyed, because another broker has it; in the calm act all of it must be mended.
//! Leaves out: the damage itself (`model_disk`), finding and mending (the product).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::nemesis::later;
use crate::rng::Dice;
use crate::story::damage::{MARKED, logs};
use crate::story::{BrokerNode, Stage};

/// Places that are looked at for one that may rot.
const TRIES: usize = 8;

/// Whose disk rots. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Rot(Arc<Mutex<Option<u32>>>);

impl Rot {
    /// Lets one bit of the victim's logs rot after a while, or of each broker's: the first broker that this is drawn for is the
    /// victim.
    pub fn strike(&self, stage: &Stage, broker: &BrokerNode, dice: &mut Dice) {
        let first = *self.0.lock().expect("nothing panics in here").get_or_insert(broker.node());
        let victims = stage.brokers.iter().filter(|one| stage.plan.rots_everywhere || one.node() == first);
        let mut folder = None;
        for broker in victims {
            let logs = logs(stage, broker);
            let of_it =
                |(path, _): &&(PathBuf, Vec<u8>)| folder.as_deref().is_none_or(|it| path.starts_with(it));
            let logs: Vec<_> = logs.iter().filter(of_it).collect();
            if logs.is_empty() {
                continue;
            }
            let (path, bytes) = (*dice.pick(&logs)).clone();
            folder = path.parent().map(Path::to_path_buf);
            Rot::soon(stage, broker.clone(), path, bytes, dice);
        }
    }

    /// One bit of this file rots, if it is still there and the same.
    fn soon(stage: &Stage, broker: BrokerNode, path: PathBuf, bytes: Vec<u8>, dice: &mut Dice) {
        let tries = if stage.plan.rots_everywhere { TRIES } else { 1 };
        let places: Vec<u64> = (0..tries).map(|_| dice.below(bytes.len() as u64)).collect();
        let bit = 1 << dice.below(8);
        let owner = stage.clone();
        later(stage, MARKED, async move {
            let now = logs(&owner, &broker).into_iter().find(|(known, _)| *known == path);
            let is_same = now.is_some_and(|(_, now)| now.starts_with(&bytes));
            let brokers = owner.brokers.len() as i64;
            let is_its = |at: &&u64| {
                let batch = broker.batch_at(&path, **at);
                batch.is_some_and(|base| {
                    !owner.plan.rots_everywhere || (base - i64::from(broker.node())) % brokers == 0
                })
            };
            let Some(at) = places.iter().find(is_its).filter(|_| is_same) else { return };
            if broker.device().platter.rot(&path, *at, bit) {
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
