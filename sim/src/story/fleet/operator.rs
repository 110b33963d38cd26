//! An operator of a fleet: moves partitions, empties brokers, changes who votes, deletes records; and brings all of it to an
//! end.
//!
//! Owns: one admin client, made when it is first needed, so that stories without an operator are what they were.
//! Promises: what is drawn is drawn when the strike is; what is asked for may fail or stay in doubt, as under a person's
//! hands; in the calm act every drain is taken back, and whoever lost its disk votes again under its new directory.
//! Leaves out: when it strikes (`nemesis`), what must hold (`god`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dejaq::client::admin::Admin;
use dejaq::client::admin_cluster::QuorumReplica;
use dejaq::client::producer::core::TopicPartition;
use dejaq::runtime::Runtime;
use dejaq_wire::ids::{BrokerId, Offset, PartitionId};

use crate::invariants::Broken;
use crate::oracle::Event;
use crate::rng::Dice;
use crate::runtime::SimRuntime;
use crate::story::{BrokerNode, Fault, Stage, producers};
use crate::world::NOBODY;

/// The machine on which the operator sits.
const MACHINE: u32 = 92;
/// How long the operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Voters that the operator leaves at least.
const VOTERS: usize = 3;

/// The operator. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Operator(Arc<Mutex<Desk>>);

#[derive(Default)]
struct Desk {
    admin: Option<Admin<SimRuntime>>,
    runtime: Option<SimRuntime>,
    has_drained: bool,
    wiped: Option<u32>,
    wiped_at: Option<u64>,
    puts_back: bool,
}

impl Operator {
    fn admin(&self, stage: &Stage) -> (Admin<SimRuntime>, SimRuntime) {
        let mut desk = self.0.lock().expect("nothing panics in here");
        if desk.runtime.is_none() {
            let runtime = stage.broker.machine(MACHINE);
            desk.admin = Some(Admin::new(producers::cluster(stage, runtime.clone())));
            desk.runtime = Some(runtime);
        }
        desk.admin.clone().zip(desk.runtime.clone()).expect("they were made")
    }

    /// How many disks were replaced.
    pub fn wiped(&self) -> usize {
        usize::from(self.0.lock().expect("nothing panics in here").wiped.is_some())
    }

    /// Replaces the disk of a broker, the first time that this is drawn; false later.
    pub fn wipe(&self, stage: &Stage, broker: &BrokerNode) -> bool {
        let mut desk = self.0.lock().expect("nothing panics in here");
        if desk.wiped.is_some() {
            return false;
        }
        (desk.wiped, desk.wiped_at) = (Some(broker.node()), Some(stage.world.now_ns()));
        drop(desk);
        broker.wipe(&stage.plan);
        true
    }

    /// Whether the disk of this broker may go back in time: once in a story.
    pub fn may_put_back(&self, broker: &BrokerNode) -> bool {
        let mut desk = self.0.lock().expect("nothing panics in here");
        let may = !desk.puts_back && broker.has_come();
        desk.puts_back |= may;
        may
    }

    /// The disk of this broker went back in time, and took with it what it had.
    pub fn has_put_back(&self, broker: &BrokerNode) {
        self.0.lock().expect("nothing panics in here").wiped = Some(broker.node());
    }

    /// Deletes the records of some partition before some offset, most often one inside of a batch. It lies in the older half of
    /// what was acknowledged: a producer may still send again what is newer, and a log that begins late does not know it.
    fn trim(&self, stage: &Stage, dice: &mut Dice) {
        let trimmed: Vec<_> = stage.plan.topics.iter().filter(|topic| topic.trims).collect();
        if trimmed.is_empty() {
            return;
        }
        let topic = *dice.pick(&trimmed);
        let index = dice.below(topic.partitions as u64) as i32;
        let part = stage.recorder.part(&topic.name, index);
        let Some(acked) = stage.recorder.highest_acked(part) else { return };
        let to = dice.below(acked as u64 / 2 + 1) as i64;
        let (admin, runtime) = self.admin(stage);
        let at = TopicPartition { topic: topic.name.as_str().into(), partition: PartitionId(index) };
        let recorder = stage.recorder.clone();
        // Written down before it is asked: from here on the records below may be gone, whatever the answer.
        recorder.event(NOBODY, Event::Trimmed { part, to });
        stage.broker.clone().aside(async move {
            let deadline = runtime.now().plus(PATIENCE);
            if admin.delete_records(&at, Some(Offset(to)), deadline).await.is_ok() {
                recorder.count("trims answered");
            }
        });
    }

    /// Does one thing, beside everything else.
    pub fn act(&self, stage: &Stage, fault: Fault, broker: &BrokerNode, dice: &mut Dice) {
        let (admin, runtime) = self.admin(stage);
        let (recorder, id) = (stage.recorder.clone(), BrokerId(broker.node() as i32));
        let deadline = runtime.now().plus(PATIENCE);
        match fault {
            Fault::Trim => self.trim(stage, dice),
            Fault::Reassign => {
                let topic = dice.pick(&stage.plan.topics);
                let at = TopicPartition {
                    topic: topic.name.as_str().into(),
                    partition: PartitionId(dice.below(topic.partitions as u64) as i32),
                };
                let mut all: Vec<BrokerId> =
                    stage.brokers.iter().map(|broker| BrokerId(broker.node() as i32)).collect();
                let mut target = Vec::new();
                while target.len() < topic.replicas as usize {
                    target.push(all.remove(dice.below(all.len() as u64) as usize));
                }
                let target = Some(target).filter(|_| dice.chance(750)); // else what is under way is taken back
                stage.broker.clone().aside(async move {
                    if admin.reassign(&at, target, deadline).await.is_ok() {
                        recorder.count("reassignments taken");
                    }
                });
            }
            Fault::Drain => {
                self.0.lock().expect("nothing panics in here").has_drained = true;
                let begins = dice.chance(600);
                stage.broker.clone().aside(async move {
                    if admin.drain(id, begins, deadline).await.is_ok() {
                        recorder.count("drains begun or ended");
                    }
                });
            }
            _ => {
                let draw = dice.below(1 << 20) as usize;
                stage.broker.clone().aside(async move {
                    let Ok(quorum) = admin.quorum(deadline).await else { return };
                    let (voters, observers): (Vec<_>, Vec<_>) =
                        quorum.replicas.into_iter().partition(|one| one.votes);
                    let changed = if voters.len() > VOTERS || observers.is_empty() {
                        let one = &voters[draw % voters.len()];
                        admin.remove_voter(one.id, one.directory, deadline).await
                    } else {
                        let one = &observers[draw % observers.len()];
                        admin.add_voter(one.id, one.directory, deadline).await
                    };
                    if changed.is_ok() {
                        recorder.count("voters changed");
                    }
                });
            }
        }
    }

    /// Places a partition on these brokers; whether that was taken.
    pub async fn reassign(&self, stage: &Stage, at: &TopicPartition, replicas: Vec<BrokerId>) -> bool {
        let (admin, runtime) = self.admin(stage);
        admin.reassign(at, Some(replicas), runtime.now().plus(PATIENCE / 3)).await.is_ok()
    }

    /// Which disk was replaced, and when in simulated nanoseconds.
    pub fn wiped_at(&self) -> Option<(u32, u64)> {
        let desk = self.0.lock().expect("nothing panics in here");
        desk.wiped.zip(desk.wiped_at)
    }

    /// Nothing is to be emptied any more, and who lost its disk votes again.
    pub async fn settle(&self, stage: &Stage) {
        let (has_drained, wiped) = {
            let desk = self.0.lock().expect("nothing panics in here");
            (desk.has_drained, desk.wiped)
        };
        if has_drained {
            for broker in stage.brokers.iter() {
                self.insist_on_drain(stage, broker, false).await;
            }
        }
        if let Some(node) = wiped {
            self.make_voter_again(stage, BrokerId(node as i32)).await;
        }
    }

    async fn insist_on_drain(&self, stage: &Stage, broker: &BrokerNode, draining: bool) {
        let (admin, runtime) = self.admin(stage);
        let id = BrokerId(broker.node() as i32);
        while admin.drain(id, draining, runtime.now().plus(PATIENCE)).await.is_err() {
            runtime.sleep(Duration::from_millis(500)).await;
        }
    }

    /// A voter that came back with an empty disk is another one: the old one goes, the new one is added.
    async fn make_voter_again(&self, stage: &Stage, id: BrokerId) {
        let (admin, runtime) = self.admin(stage);
        loop {
            let deadline = runtime.now().plus(PATIENCE);
            if let Ok(quorum) = admin.quorum(deadline).await {
                // Who was removed may be listed for a while yet; the one that lives was heard last.
                let of = |votes: bool| -> Option<&QuorumReplica> {
                    let its = quorum.replicas.iter().filter(|one| one.id == id && one.votes == votes);
                    its.max_by_key(|one| one.heard_ms)
                };
                match (of(true), of(false)) {
                    (None, _) if stage.plan.voters < id.0 as u32 => return, // it never voted
                    (Some(voter), other) if other.is_none_or(|other| other.heard_ms < voter.heard_ms) => {
                        return;
                    }
                    (Some(old), _) => drop(admin.remove_voter(old.id, old.directory, deadline).await),
                    (None, Some(new)) => drop(admin.add_voter(new.id, new.directory, deadline).await),
                    (None, None) => {}
                }
            }
            runtime.sleep(Duration::from_millis(300)).await;
        }
    }

    /// Empties one broker and stops it; what is wrong with that, if anything.
    pub async fn empty(&self, stage: &Stage, broker: &BrokerNode) -> Option<Broken> {
        self.insist_on_drain(stage, broker, true).await;
        let (admin, runtime) = self.admin(stage);
        let id = BrokerId(broker.node() as i32);
        loop {
            let deadline = runtime.now().plus(PATIENCE);
            let mut holders = BTreeSet::new();
            let mut is_known = true;
            for topic in &stage.plan.topics {
                match admin.describe_topic(&topic.name, deadline).await {
                    Ok(route) => {
                        holders.extend(route.partitions.iter().flat_map(|one| one.replicas.iter().copied()))
                    }
                    Err(_) => is_known = false,
                }
            }
            if is_known && !holders.contains(&id) {
                break;
            }
            runtime.sleep(Duration::from_millis(300)).await;
        }
        runtime.sleep(Duration::from_secs(2)).await; // what it does not hold any more it deletes
        broker.retire().await;
        stage.recorder.count("brokers drained to the end");
        let files = broker.device().platter.files();
        let left = files.iter().find_map(|(path, _)| {
            let folder = path.parent()?.file_name()?.to_str()?;
            stage.recorder.part_of_folder(folder).map(|_| path.display().to_string())
        });
        left.map(|path| Broken {
            name: "DRAIN",
            evidence: format!("broker {} was drained and has stopped, and still holds {path}", broker.node()),
        })
    }
}
