//! What god saw of the metadata before, and what must hold between that and what it sees now.
//!
//! Owns: the newest committed image, how often brokers had ended badly, how far the quorum was. Promises: only looks; costs next to
//! nothing while nothing changed. Leaves out: the properties themselves (`crate::invariants`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dejaq::metadata::{Image, snapshot};
use dejaq_wire::ids::BrokerId;

use crate::invariants::committed::{self, Committed, Member, Placed};
use crate::invariants::image::{self, Logs};
use crate::invariants::insight::Sight;
use crate::invariants::same::Same;
use crate::invariants::{Broken, moves, quorum};
use crate::story::{BrokerNode, Fault, Stage};

/// The folder of the metadata log.
pub(super) const METADATA: &str = "partitions/00000000000000000000000000000001-0";
/// How often a live broker is heard, at least: a quarter of a session, and what it takes on its way.
const BEATS: u64 = 3;

/// See the module.
#[derive(Default)]
pub(super) struct Watched {
    now: Committed,
    /// How often each broker had ended badly when its life was registered.
    bad_ends: BTreeMap<u32, u64>,
    /// How long each metadata log was.
    bytes: BTreeMap<u32, u64>,
    /// The newest epoch of the quorum in which somebody led.
    epoch: i32,
    /// Of which epoch each committed entry is, by its first offset.
    entries: BTreeMap<i64, i32>,
    /// What the metadata was at each offset.
    same: Same,
    /// The life of each broker whose metadata was seen.
    lives: BTreeMap<u32, Option<u32>>,
    /// How often the place of a partition was seen to change.
    changes: u64,
}

impl Watched {
    /// How often who holds, leads or is in sync with a partition was seen to change.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Looks again, with what the living processes believe.
    pub fn see(
        &mut self,
        stage: &Stage,
        living: &[Sight],
        highest: impl Fn(&str) -> Option<i64>,
        wiped: Option<(u32, u64)>,
    ) -> Option<Broken> {
        // Only what is asked for at this moment: a question that was given up may have been followed by one unseen.
        let asked = living.iter().filter_map(|sight| {
            let leading = sight.inside.as_ref().and_then(|inside| inside.leading.as_ref())?;
            Some(((sight.folder.clone(), sight.epoch), leading.proposed.clone()?))
        });
        let asked = asked.collect();
        let images: Vec<(&BrokerNode, Arc<Image>)> =
            stage.brokers.iter().filter_map(|broker| Some((broker, broker.image()?))).collect();
        // What a process saw right before its end counts, though nobody else has heard of it.
        let newest =
            stage.brokers.iter().filter_map(BrokerNode::newest_image).max_by_key(|image| image.end())?;
        let is_new = newest.end().0 > self.now.end;
        let found =
            if is_new { self.newer(stage, &newest, wiped).or_else(|| self.rewritten(stage)) } else { None };
        let found = found.or_else(|| self.others(&images));
        let found = found.or_else(|| committed::taken(&self.now, &asked));
        let found = found.or_else(|| committed::candidates(&self.now, living, highest));
        let found =
            found.or_else(|| committed::superset(&self.now, living, |folder| min_insync(stage, folder)));
        found.or_else(|| self.quorum(stage, is_new))
    }

    fn newer(&mut self, stage: &Stage, image: &Image, wiped: Option<(u32, u64)>) -> Option<Broken> {
        let now = committed_in(stage, image);
        let before = std::mem::replace(&mut self.now, now);
        self.changes += u64::from(before.partitions != self.now.partitions);
        let mut ended_badly = Vec::new();
        for broker in stage.brokers.iter() {
            let life = |of: &Committed| of.brokers.get(&broker.node()).map(|member| member.life);
            if life(&before) < life(&self.now) {
                let ends = broker.bad_ends();
                if self.bad_ends.insert(broker.node(), ends).unwrap_or(0) < ends {
                    ended_badly.push(broker.node());
                }
            }
        }
        let min_insync = |folder: &str| min_insync(stage, folder);
        committed::sound(&self.now, min_insync)
            .or_else(|| committed::excluded(&before, &self.now, |node| ended_badly.contains(&node)))
            .or_else(|| moves::moved(&before, &self.now, min_insync))
            .or_else(|| self.let_in_early(stage, &before, wiped))
    }

    /// MQ-8: all that applied the same have the same.
    fn others(&mut self, images: &[(&BrokerNode, Arc<Image>)]) -> Option<Broken> {
        images.iter().find_map(|(broker, image)| {
            let (node, incarnation) = (broker.node(), broker.incarnation());
            if self.lives.insert(node, incarnation) != Some(incarnation) {
                self.same.forget(node);
            }
            self.same.see(node, image.end().0, || snapshot::encode(image))
        })
    }

    /// MQ-14: who comes with another disk under the number of a broker that lives waits until that one's session is over.
    /// Asked where nothing else strikes, so that it is known when the old one was last heard.
    fn let_in_early(&self, stage: &Stage, before: &Committed, wiped: Option<(u32, u64)>) -> Option<Broken> {
        let (node, at) = wiped.filter(|_| strikes(stage, |fault| fault != Fault::Wipe).is_none())?;
        let (old, new) = (before.brokers.get(&node)?, self.now.brokers.get(&node)?);
        let session = stage.plan.config.healing.session_timeout.as_nanos() as u64;
        let silent = stage.world.now_ns() - at;
        (old.live && old.life < new.life && silent < session - session / BEATS).then(|| Broken {
            name: "MQ-14",
            evidence: format!(
                "broker {node} with another disk is in life {} {} ms after the end of life {}, whose session takes {} ms",
                new.life,
                silent / 1_000_000,
                old.life,
                session / 1_000_000
            ),
        })
    }

    /// MQ-4: what was committed once stands in the log of whoever says later that more is committed.
    fn rewritten(&mut self, stage: &Stage) -> Option<Broken> {
        let shows = |broker: &&BrokerNode| broker.image().is_some_and(|image| image.end().0 == self.now.end);
        let broker = stage.brokers.iter().find(shows)?;
        let log = log_of(broker, false);
        let committed: Vec<(i64, i32)> = log
            .iter()
            .filter(|batch| batch.intact && batch.last < self.now.end)
            .map(|batch| (batch.base, batch.epoch))
            .collect();
        quorum::stands(&mut self.entries, broker.node(), &committed)
    }

    /// MQ-2 when somebody leads in a new epoch of the quorum, MQ-6 when more is committed.
    fn quorum(&mut self, stage: &Stage, more: bool) -> Option<Broken> {
        let moves = |fault| matches!(fault, Fault::Voters | Fault::Wipe | Fault::Rot | Fault::MetadataLost);
        if strikes(stage, moves).is_some() {
            return None;
        }
        let voters = &stage.brokers[..stage.plan.voters as usize];
        for broker in voters {
            let platter = broker.device().platter;
            let bytes = platter.bytes_in(METADATA);
            if self.bytes.insert(broker.node(), bytes) == Some(bytes) {
                continue;
            }
            let epoch = log_of(broker, false).last().map_or(0, |batch| batch.epoch);
            if epoch > self.epoch {
                self.epoch = epoch;
                let votes: Vec<Option<i32>> = voters.iter().map(durable_vote).collect();
                if let Some(broken) = quorum::elected(epoch, &votes) {
                    return Some(broken);
                }
            }
        }
        let ends = || voters.iter().map(|voter| quorum::end_of(&log_of(voter, true))).collect::<Vec<i64>>();
        if more { quorum::committed(self.now.end, &ends()) } else { None }
    }
}

/// `min.insync.replicas` of a partition of the plan.
fn min_insync(stage: &Stage, folder: &str) -> Option<usize> {
    let part = stage.recorder.part_of_folder(folder)?;
    Some(stage.recorder.topic_of(part, &stage.plan).min_insync)
}

/// The first fault of the plan that may strike and `is_one`.
fn strikes(stage: &Stage, is_one: impl Fn(Fault) -> bool) -> Option<Fault> {
    let drawn = stage.plan.faults.iter().filter(|(weight, _)| *weight > 0);
    drawn.map(|(_, fault)| *fault).find(|fault| is_one(*fault))
}

fn log_of(broker: &BrokerNode, durable: bool) -> Vec<crate::invariants::image::Batch> {
    let files = broker.device().platter.files_in(METADATA, durable).into_iter();
    let files: Vec<(PathBuf, Vec<u8>)> =
        files.map(|(name, bytes)| (PathBuf::from(format!("{METADATA}/{name}")), bytes)).collect();
    Logs::of(&files).0.into_values().next().unwrap_or_default()
}

/// Where a voter's metadata log ends for certain.
pub(super) fn end_for_certain(broker: &BrokerNode) -> i64 {
    quorum::end_of(&log_of(broker, true))
}

/// The epoch of the last entry of a broker's metadata log.
pub(super) fn last_epoch(broker: &BrokerNode) -> i32 {
    log_of(broker, true).last().map_or(0, |batch| batch.epoch)
}

/// The epoch of the vote that is durable at a voter.
pub(super) fn durable_vote(broker: &BrokerNode) -> Option<i32> {
    let files = broker.device().platter.files_in("quorum", true);
    let vote = files.iter().find(|(name, _)| name == "vote")?;
    quorum::epoch_of_vote(&vote.1)
}

fn committed_in(stage: &Stage, metadata: &Image) -> Committed {
    let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.0 as u32).collect::<Vec<u32>>();
    // By what is written down, not by what the product calls live.
    let live = |broker: &dejaq::metadata::Broker| !broker.fenced && !broker.shutting_down;
    let brokers = metadata
        .brokers()
        .map(|broker| (broker.id.0 as u32, Member { life: broker.epoch.0, live: live(broker) }));
    let mut partitions = BTreeMap::new();
    for topic in &stage.plan.topics {
        let Some(topic) = metadata.topic_named(&topic.name) else { continue };
        for (index, part) in topic.partitions() {
            let placed = Placed {
                leader: Some(part.leader.0).filter(|leader| *leader >= 0).map(|leader| leader as u32),
                leader_epoch: part.leader_epoch.0,
                partition_epoch: part.partition_epoch,
                replicas: numbers(&part.replicas),
                adding: numbers(&part.adding),
                removing: part.removing.len(),
                isr: numbers(&part.isr).into_iter().collect(),
                elr: numbers(&part.elr).into_iter().collect(),
            };
            partitions.insert(image::folder(topic.id.0, index.0), placed);
        }
    }
    Committed { end: metadata.end().0, brokers: brokers.collect(), partitions }
}
