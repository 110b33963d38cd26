//! Strikes that wait for the cluster: each drives one interleaving that chance hardly ever finds.
//!
//! Owns: what is cut, ended and asked for in which order. Promises: every wait has an end; what a script cut it mends;
//! it gives up where the cluster is not as it needs it. What is drawn is drawn when the strike is.
//! Leaves out: when it strikes (`nemesis`), who finds what comes of it (`god`, the oracle).
//!
//! ```text
//!  Depose  leader ✂ peers ─ clients go on ─► another leads ─► mended: its tail is nobody's any more
//!  Bounce  follower ✂ leader ✂ controller ─► follower heard, asked for in vain, begins anew ─► the old question arrives
//!  Readd   follower ✂ leader ✂ controller ─► replica removed, its log deleted, added anew ─► leader hears both at once
//!  Straggle  follower ✝ ─► the set shrinks, more is committed ─► leader ✝ before its heir hears of that ─► follower comes back
//! ```

use std::time::Duration;

use dejaq::client::producer::core::TopicPartition;
use dejaq_storage::model_disk::CrashMode;
use dejaq_wire::ids::{BrokerId, PartitionId};

use super::operator::Operator;
use crate::disk::Speed;
use crate::invariants::insight::Sight;
use crate::rng::Dice;
use crate::story::nemesis::span;
use crate::story::{BrokerNode, Fault, Stage, producers};

/// How long a script waits for the cluster to do what it must.
const PATIENCE: Duration = Duration::from_secs(25);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);
/// How often it looks for what is over soon.
const GLANCE: Duration = Duration::from_micros(500);

/// Runs one of them beside everything else.
pub(super) fn strike(stage: &Stage, fault: Fault, operator: &Operator, dice: &mut Dice) {
    let topic = dice.pick(&stage.plan.topics);
    let index = dice.below(topic.partitions as u64) as i32;
    let scene = Scene { stage: stage.clone(), topic: topic.name.clone(), index };
    let (first, second) = (span(dice, 5, 1500), span(dice, 20, 400));
    let is_quiet = dice.chance(700);
    // Where all is durable, the power takes nothing that was promised.
    let is_durable = stage.plan.topics.iter().all(|topic| topic.durable);
    let power = (dice.chance(500) && is_durable).then(|| CrashMode::draw(dice.rng()));
    let operator = operator.clone();
    stage.broker.clone().aside(async move {
        match fault {
            Fault::Depose => scene.depose(first).await,
            Fault::Bounce => scene.bounce(second, power).await,
            Fault::Straggle => scene.straggle(second).await,
            _ => scene.readd(&operator, is_quiet).await,
        }
    });
}

/// One partition and the cluster around it.
pub(super) struct Scene {
    pub stage: Stage,
    pub topic: String,
    pub index: i32,
}

/// A partition as the newest metadata has it.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub leader: u32,
    pub epoch: i32,
    pub replicas: Vec<u32>,
    pub isr: Vec<u32>,
}

impl Scene {
    /// The state of the partition, by the newest metadata; `None` while nobody leads.
    pub fn state(&self) -> Option<State> {
        let images = self.stage.brokers.iter().filter_map(BrokerNode::image);
        let image = images.max_by_key(|image| image.end())?;
        let part = image.topic_named(&self.topic)?.partition(PartitionId(self.index))?;
        let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.0 as u32).collect::<Vec<u32>>();
        let leader = Some(part.leader).filter(|leader| *leader != BrokerId::NONE)?.0 as u32;
        let (replicas, isr) = (numbers(&part.replicas), numbers(&part.isr));
        Some(State { leader, epoch: part.leader_epoch.0, replicas, isr })
    }

    /// How often the partition changed, by the newest metadata.
    pub fn moves(&self) -> Option<i32> {
        self.stage.brokers.iter().filter_map(|broker| self.moves_known_at(broker.node())).max()
    }

    /// How often it changed as far as a broker knows.
    pub fn moves_known_at(&self, node: u32) -> Option<i32> {
        let image = self.node(node).image()?;
        Some(image.topic_named(&self.topic)?.partition(PartitionId(self.index))?.partition_epoch)
    }

    pub fn node(&self, node: u32) -> &BrokerNode {
        self.stage.brokers.iter().find(|broker| broker.node() == node).expect("a member of the fleet")
    }

    /// The life of a broker, by the newest metadata.
    pub fn life(&self, node: u32) -> i64 {
        let images = self.stage.brokers.iter().filter_map(BrokerNode::image);
        let newest = images.max_by_key(|image| image.end());
        newest.and_then(|image| image.broker(BrokerId(node as i32)).map(|one| one.epoch.0)).unwrap_or(-1)
    }

    /// What the process of a broker believes of the partition now.
    pub fn belief(&self, node: u32) -> Option<Sight> {
        let folder = self.stage.recorder.folder_of(&self.topic, self.index)?;
        self.node(node).believes().into_iter().find(|sight| sight.folder == folder)
    }

    /// Waits until `is_so`; false if it took too long, or the calm act began.
    async fn until(&self, wait: Duration, is_so: impl FnMut() -> bool) -> bool {
        self.until_seen(wait, LOOK, is_so).await
    }

    pub async fn until_seen(&self, wait: Duration, look: Duration, mut is_so: impl FnMut() -> bool) -> bool {
        let end = self.stage.world.now_ns() + wait.as_nanos() as u64;
        while !is_so() {
            if self.stage.world.now_ns() >= end || self.stage.recorder.is_calm() {
                return false;
            }
            self.stage.world.sleep(look).await;
        }
        true
    }

    pub fn cut(&self, one: u32, other: u32, cut: bool) {
        if cut && self.stage.recorder.is_calm() {
            return;
        }
        self.stage.world.network().set_cut(one, other, cut);
        self.stage.world.network().set_cut(other, one, cut);
    }

    /// What a controller has answered a broker that is cut off from it is lost: else that one would hear it first, and so of each
    /// change by itself.
    pub fn forget_answers(&self, broker: u32, active: u32) {
        self.stage.world.network().reset_between(broker, active);
    }

    /// The leader goes on alone with its clients until another leads; then it comes back.
    async fn depose(self, after: Duration) {
        let Some(state) = self.state() else { return };
        let others: Vec<u32> = self.stage.brokers.iter().map(BrokerNode::node).collect();
        let others: Vec<u32> = others.into_iter().filter(|one| *one != state.leader).collect();
        others.iter().for_each(|other| self.cut(state.leader, *other, true));
        let deposed =
            || self.state().is_some_and(|now| now.leader != state.leader && now.epoch > state.epoch);
        if self.until(PATIENCE, deposed).await {
            self.stage.recorder.count("leaders deposed");
            self.stage.world.sleep(after).await;
        }
        others.iter().for_each(|other| self.cut(state.leader, *other, false));
    }

    /// Leader, follower and active controller, where these are three brokers.
    pub fn three(&self) -> Option<(State, u32, u32)> {
        let state = self.state()?;
        let active = self.node(state.leader).active_controller()?;
        let follower = state.replicas.iter().copied().find(|one| *one != state.leader && *one != active)?;
        (active != state.leader).then_some((state, follower, active))
    }

    /// A follower outside of the set catches up, its leader asks in vain to let it in; meanwhile its process ends, or its power does, and
    /// it begins anew.
    async fn bounce(self, pause: Duration, power: Option<CrashMode>) {
        let Some((state, follower, active)) = self.three() else { return };
        let (leader, node) = (state.leader, self.node(follower).clone());
        if !node.runs() {
            return;
        }
        let first = self.life(follower);
        node.kill();
        self.cut(leader, follower, true);
        self.stage.world.sleep(pause).await;
        node.begin_start();
        let is_out = || {
            let is_out = self.state().is_some_and(|now| now.leader == leader && !now.isr.contains(&follower));
            is_out && self.life(follower) > first && self.is_known_at(leader, follower)
        };
        if self.until(PATIENCE, is_out).await {
            self.cut(leader, active, true);
            self.cut(leader, follower, false);
            self.stage.world.sleep(Duration::from_millis(1200)).await;
            let second = self.life(follower);
            if node.runs() && !self.stage.recorder.is_calm() {
                match power {
                    Some(mode) => node.power_cut(mode),
                    None => node.kill(),
                }
                self.stage.world.sleep(pause).await;
                node.begin_start();
                if self.until(Duration::from_secs(4), || self.life(follower) > second).await {
                    self.stage.recorder.count("followers bounced");
                    if power.is_some() {
                        self.stage.recorder.count("followers bounced by the power");
                    }
                }
            }
        }
        self.cut(leader, active, false);
        self.cut(leader, follower, false);
    }

    /// Whether a broker knows the newest life of another one, as one that is live.
    pub fn is_known_at(&self, node: u32, other: u32) -> bool {
        let known = self.node(node).image().and_then(|image| image.broker(BrokerId(other as i32)).cloned());
        known.is_some_and(|known| known.is_live() && known.epoch.0 == self.life(other))
    }

    /// A follower is down while more is committed without it, and comes back to a leader that has all of that but has not
    /// heard that it is committed: the watermark which that one knows asks too little of who wants to be in sync.
    async fn straggle(self, pause: Duration) {
        let Some((state, late, heir)) = self.pair() else { return };
        let (leader, node) = (state.leader, self.node(late).clone());
        let is_whole = state.isr.len() == state.replicas.len() && node.runs();
        let Some(had) = self.belief(late).map(|sight| sight.end).filter(|_| is_whole) else { return };
        node.kill();
        let is_ahead = || {
            let (ours, theirs) = (self.belief(leader), self.belief(heir));
            ours.zip(theirs).is_some_and(|(ours, theirs)| {
                ours.leads && ours.watermark > had && theirs.end >= ours.watermark && theirs.watermark <= had
            })
        };
        let came = self.until_seen(PATIENCE, GLANCE, is_ahead).await;
        if came {
            self.node(leader).kill();
            self.stage.recorder.count("leaders ended ahead of their heirs");
        }
        node.begin_start();
        if !came {
            return;
        }
        let follows = || self.belief(late).is_some_and(|sight| sight.epoch > state.epoch);
        if self.until_seen(PATIENCE, GLANCE, follows).await {
            // What it comes with it has for a while yet, and no more.
            let stall = Duration::from_millis(400);
            node.device().set_speed(Speed { stall, ..self.stage.plan.disk });
            self.stage.world.sleep(stall * 3).await;
            node.device().set_speed(self.stage.plan.disk);
        }
        self.stage.world.sleep(pause).await;
        if !self.stage.recorder.is_calm() {
            self.node(leader).begin_start(); // there all are started
        }
    }

    /// The partition, a follower that may be down together with the leader and the quorum goes on, and the other follower.
    fn pair(&self) -> Option<(State, u32, u32)> {
        let state = self.state()?;
        let active = self.node(state.leader).active_controller()?;
        let leader_votes = state.leader <= self.stage.plan.voters;
        let fits = |one: u32| {
            one != state.leader && one != active && !(leader_votes && one <= self.stage.plan.voters)
        };
        let late =
            state.replicas.iter().copied().find(|one| fits(*one)).filter(|_| active != state.leader)?;
        let heir = state.replicas.iter().copied().find(|one| *one != state.leader && *one != late)?;
        Some((state, late, heir))
    }

    /// A replica loses its place and its log, and gets the place back, before its leader hears of either; where it is quiet,
    /// nothing was written meanwhile that would tell who it is from who it was.
    async fn readd(self, operator: &Operator, is_quiet: bool) {
        let Some((state, follower, active)) = self.three() else { return };
        let leader = state.leader;
        let folder = self.stage.recorder.folder_of(&self.topic, self.index);
        let Some(folder) = folder.filter(|_| state.isr.len() == state.replicas.len()) else { return };
        let clients = if is_quiet { producers::machines(&self.stage) } else { Vec::new() };
        clients.iter().for_each(|client| self.cut(leader, *client, true));
        let is_level =
            || self.belief(leader).is_some_and(|sight| sight.leads && sight.watermark == sight.end);
        if is_quiet && self.until(PATIENCE / 10, is_level).await {
            self.stage.recorder.count("leaders left in quiet");
        }
        self.cut(leader, active, true);
        self.cut(leader, follower, true);
        let partition = PartitionId(self.index);
        let at = TopicPartition { topic: self.topic.as_str().into(), partition };
        let ids = |nodes: &[u32]| nodes.iter().map(|node| BrokerId(*node as i32)).collect::<Vec<BrokerId>>();
        let rest: Vec<u32> = state.replicas.iter().copied().filter(|one| *one != follower).collect();
        if operator.reassign(&self.stage, &at, ids(&rest)).await {
            let platter = self.node(follower).device().platter;
            let folder = format!("partitions/{folder}");
            let is_gone = || platter.files_in(&folder, false).is_empty();
            if self.until(Duration::from_secs(3), is_gone).await {
                self.stage.recorder.count("replicas taken away");
            }
            if operator.reassign(&self.stage, &at, ids(&state.replicas)).await {
                self.stage.recorder.count("replicas given back");
            }
        }
        self.cut(leader, active, false);
        self.stage.world.sleep(Duration::from_millis(1500)).await;
        self.cut(leader, follower, false);
        clients.iter().for_each(|client| self.cut(leader, *client, false));
    }
}
