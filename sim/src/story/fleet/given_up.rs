//! What elections gave up, as the cluster itself tells of it: so much may be lost, record by record, and no more.
//!
//! Owns: the elections that the metadata say may have lost something, and where the log of each new leader ended when it began
//! (R2, R3 of CORRECTNESS.md 5). Promises: what lies before that place is excused by nothing; what lies behind it, and was
//! acknowledged before, is told to the history as given up; between the one and the other, nothing is asked of that partition.
//! Leaves out: who may be elected. Asked by `god`, in stories that give something up (`Plan::gives_up`).
//!
//! ```text
//!  metadata: "3 leads from epoch 7 on, and may lack something" ─► open ─► 3 leads in 7, its log ended at 40 ─► [40, …) is given up
//! ```

use std::collections::BTreeMap;

use crate::invariants::image;
use crate::invariants::insight::Sight;
use crate::story::{BrokerNode, Stage};

/// See the module.
#[derive(Default)]
pub(super) struct GivenUp {
    elections: BTreeMap<String, Election>,
}

/// The newest of these elections of a partition.
#[derive(Debug, Clone, Copy)]
struct Election {
    leader: u32,
    epoch: i32,
    /// Where its log ended, once it was seen to lead.
    from: Option<i64>,
}

impl GivenUp {
    /// Takes in what the metadata tell now, and who leads; gives the partitions that begin anew, each with the epoch and with where.
    pub fn see(&mut self, stage: &Stage, living: &[Sight]) -> Vec<(String, i32, i64)> {
        if !stage.plan.gives_up {
            return Vec::new();
        }
        let newest = stage.brokers.iter().filter_map(BrokerNode::image).max_by_key(|image| image.end());
        for (topic, index, loss) in newest.iter().flat_map(|image| image.losses()) {
            let folder = image::folder(topic.0, index.0);
            let (leader, epoch) = (loss.leader.0 as u32, loss.leader_epoch.0);
            let is_new = self.elections.get(&folder).is_none_or(|known| known.epoch < epoch);
            if is_new && stage.recorder.part_of_folder(&folder).is_some() {
                stage.recorder.count("elections that tell of a loss");
                self.elections.insert(folder, Election { leader, epoch, from: None });
            }
        }
        let mut begun = Vec::new();
        for (folder, election) in self.elections.iter_mut().filter(|(_, one)| one.from.is_none()) {
            let is_it = |sight: &&Sight| {
                sight.folder == *folder && sight.node == election.leader && sight.epoch == election.epoch
            };
            let leading =
                living.iter().filter(is_it).find_map(|sight| sight.inside.as_ref()?.leading.as_ref());
            if let Some(leading) = leading {
                election.from = Some(leading.epoch_start);
                begun.push((folder.clone(), election.epoch, leading.epoch_start));
            }
        }
        begun
    }

    /// Whether an election is known that gave something up, and not yet what.
    pub fn is_open(&self, folder: &str) -> bool {
        self.elections.get(folder).is_some_and(|election| election.from.is_none())
    }

    /// Whether anything was given up.
    pub fn is_any(&self) -> bool {
        !self.elections.is_empty()
    }
}
