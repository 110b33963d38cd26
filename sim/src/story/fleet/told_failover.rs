//! The active controller ends exactly while something is decided (S40): a broker registers, is fenced, a leader asks for a
//! smaller in-sync set, a partition begins to move or has moved, a topic is made or deleted, a broker gets a block of producer ids.
//!
//! Owns: what is asked for, and the moment of the end. Promises: the run fails unless each step brought an entry of the metadata
//! log that its controller had begun to write when it ended, and unless another one followed (`told::lost`). Drawn: how far the
//! entry had come (written, synced, at another voter, applied), a moment more, whether the process is killed, the power
//! fails, or it sleeps and comes to as a controller that was replaced and knows nothing of it, when it comes back. Three steps a seed, in turn. Who judges: MQ-12 here (what was answered stands, what was not stands
//! for all or for nobody), IDM-8 here (no id twice), that broker epochs grow (MQ-14), and god and the calm act.
//! Not as the catalogue has it: partitions of ours are not sealed.
//!
//! ```text
//!  rest ─► ask ─► the controller's log grows ─► written │ synced │ at another │ applied ─► ✝ ─► another one ─► judged ─► all back
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dejaq_storage::model_disk::CrashMode;
use dejaq_wire::ids::{BrokerId, PartitionId};

use super::desk::Desk;
use super::overwrite::Scene;
use super::told::{Cast, TOPIC, lost, shape, told};
use super::watched::{METADATA, end_for_certain};
use crate::invariants::Broken;
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::story::{BrokerNode, Stop};
use dejaq::metadata::Image;

const VOTERS: u32 = 5;
/// How long the cluster is waited for at each step.
const PATIENCE: Duration = Duration::from_secs(40);
/// All logs have rested for so long when a step begins.
const REST: Duration = Duration::from_millis(400);
/// One way between machines, in milliseconds.
const WAY_MS: (u64, u64) = (2, 10);
/// Steps that one seed tells.
const STEPS: usize = 3;
/// A broker that is silent is fenced after this, and a follower that does not fetch is out of the set.
const SESSION: Duration = Duration::from_secs(4);
const LAG: Duration = Duration::from_secs(2);

/// What is decided while the controller ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Registration,
    Fencing,
    Shrink,
    Move,
    /// Its last entry: the replica that comes is in sync, the one that goes is none any more.
    Moved,
    Made,
    Deleted,
    Block,
}

const ALL: [Step; 8] = [
    Step::Registration,
    Step::Fencing,
    Step::Shrink,
    Step::Move,
    Step::Moved,
    Step::Made,
    Step::Deleted,
    Step::Block,
];

/// How the controller ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    PowerCut,
    /// It stands where it is, and goes on when another one leads.
    Sleep,
}

const ENDS: [End; 3] = [End::Kill, End::PowerCut, End::Sleep];

/// How far its entry has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Written,
    Synced,
    AtAnother,
    Applied,
}

const MOMENTS: [Moment; 4] = [Moment::Written, Moment::Synced, Moment::AtAnother, Moment::Applied];

/// Tells it.
#[must_use]
pub fn failed_over(params: &RunParams) -> RunReport {
    let seed = params.seed as usize;
    told(
        params,
        2,
        |plan, dice| {
            shape(plan, VOTERS, WAY_MS, dice);
            (plan.config.healing.session_timeout, plan.config.healing.replica_lag) = (SESSION, LAG);
        },
        move |cast: Cast| async move {
            let scene = Scene { stage: cast.stage, patience: PATIENCE };
            let mut tale = Tale { scene, dice: cast.dice, ids: Arc::default() };
            for number in 0..STEPS {
                tale.step(ALL[(seed + number) % ALL.len()]).await?;
            }
            tale.ids_are_one_each().await
        },
    )
}

struct Tale {
    scene: Scene,
    dice: Dice,
    /// Producer ids that were told.
    ids: Arc<Mutex<Vec<i64>>>,
}

/// What came of a question: nothing yet, taken, or in doubt.
type Answer = Arc<Mutex<Option<bool>>>;

impl Tale {
    fn voters(&self) -> Vec<BrokerNode> {
        self.scene.voters().to_vec()
    }

    async fn until<T>(&self, step: &str, is_so: impl FnMut() -> Option<T>) -> Result<T, Stop> {
        self.scene.until(is_so).await.ok_or_else(|| lost(step))
    }

    fn newest(&self) -> Option<Arc<Image>> {
        self.scene.voters().iter().filter_map(BrokerNode::image).max_by_key(|image| image.end())
    }

    /// Who leads when all serve, all replicas are in sync and nothing was written for a while.
    async fn rested(&self) -> Result<usize, Stop> {
        let state = || {
            let voters = self.scene.voters();
            let bytes: Vec<u64> = voters.iter().map(|one| one.device().platter.bytes_in(METADATA)).collect();
            let ends: Vec<Option<i64>> = voters.iter().map(|one| one.image().map(|it| it.end().0)).collect();
            let is_level = ends.iter().all(|end| end.is_some() && *end == ends[0]);
            let image = self.newest()?;
            let topic = image.topic_named(TOPIC)?;
            let mut parts = topic.partitions.iter();
            let is_whole = parts.all(|part| part.isr.len() == part.replicas.len() && !part.is_moving());
            let are_live = image.brokers().filter(|one| one.is_live()).count() == voters.len();
            self.scene.leader().filter(|_| is_level && is_whole && are_live).map(|leader| (leader, bytes))
        };
        for _ in 0..100 {
            let found = self.until("all serve and are in sync", state).await?;
            self.scene.stage.world.sleep(REST).await;
            if state().as_ref() == Some(&found) {
                return Ok(found.0);
            }
        }
        Err(lost("the cluster has nothing to do"))
    }

    async fn step(&mut self, step: Step) -> Result<(), Stop> {
        let leader = self.rested().await?;
        let others: Vec<usize> = (0..VOTERS as usize).filter(|one| *one != leader).collect();
        let other = *self.dice.pick(&others);
        let asked = self.prepare(step, leader, other).await?;
        let leader = if step == Step::Registration { self.led_without(other).await? } else { leader };
        let moment = *self.dice.pick(&MOMENTS);
        let answer = asked.begin(self, step).await;
        if step == Step::Moved {
            self.moves(leader).await?;
        }
        self.ends_at(step, leader, moment).await?;
        self.scene.stage.recorder.count(format!("controllers ended at {step:?}, {moment:?}"));
        let gone = self.voters()[leader].clone();
        self.another_than(leader, other).await?;
        self.scene.stage.world.sleep(Duration::from_millis(self.dice.between(1, 3000))).await;
        if gone.runs() {
            self.scene.stage.recorder.count("controllers that came to when another one led");
            gone.resume();
        }
        gone.begin_start();
        asked.ends(self, step);
        self.judge(step, &asked, &answer).await
    }

    /// The controller has applied that the partition moves, and not that it has moved.
    async fn moves(&self, leader: usize) -> Result<(), Stop> {
        let controller = self.voters()[leader].clone();
        let has_begun = || {
            let image = controller.image()?;
            image.topic_named(TOPIC)?.partition(PartitionId(0))?.is_moving().then_some(())
        };
        self.until("the move has begun", has_begun).await
    }

    /// Ends the controller when the next entry of its log has come so far.
    async fn ends_at(&mut self, step: Step, leader: usize, moment: Moment) -> Result<(), Stop> {
        let voters = self.voters();
        let grown = |one: usize, before: u64| voters[one].device().platter.bytes_in(METADATA) > before;
        let bytes: Vec<u64> = voters.iter().map(|one| one.device().platter.bytes_in(METADATA)).collect();
        let (synced, shown) = (end_for_certain(&voters[leader]), voters[leader].image().map(|it| it.end()));
        let text = format!("{step:?} brings an entry that is {moment:?}");
        let has_come = || {
            let is_so = match moment {
                Moment::Written => grown(leader, bytes[leader]),
                Moment::Synced => end_for_certain(&voters[leader]) > synced,
                Moment::AtAnother => (0..voters.len()).any(|one| one != leader && grown(one, bytes[one])),
                Moment::Applied => voters[leader].image().map(|it| it.end()) > shown,
            };
            is_so.then_some(())
        };
        self.until(&text, has_come).await?;
        let more = self.dice.below(2 * self.scene.stage.plan.latency.0.as_micros() as u64 + 1);
        self.scene.stage.world.sleep(Duration::from_micros(more)).await;
        let end = *self.dice.pick(&ENDS);
        self.scene.stage.recorder.count(format!("controllers whose end was {end:?}"));
        match end {
            End::Kill => voters[leader].kill(),
            End::PowerCut => voters[leader].power_cut(CrashMode::draw(self.dice.rng())),
            End::Sleep => voters[leader].pause(),
        }
        Ok(())
    }

    /// The controller of those that are left, without a broker that does not run.
    async fn led_without(&self, gone: usize) -> Result<usize, Stop> {
        let voters = self.voters();
        let active = |one: usize| voters[one].active_controller();
        let is_led = || {
            let mut left = (0..voters.len()).filter(|one| *one != gone);
            let first = active(left.next()?)?;
            left.all(|one| active(one) == Some(first)).then_some(())?;
            voters.iter().position(|voter| voter.node() == first).filter(|one| *one != gone)
        };
        self.until("one of those that are left leads", is_led).await
    }

    /// Another controller is active, as far as all know that run but for one that may be down or cut off.
    async fn another_than(&self, old: usize, unsure: usize) -> Result<(), Stop> {
        let voters = self.voters();
        let is_led = || {
            let mut left = (0..voters.len()).filter(|one| *one != old && *one != unsure);
            let node = voters[old].node();
            left.all(|one| voters[one].active_controller().is_some_and(|it| it != node)).then_some(())
        };
        self.until("another controller is active", is_led).await
    }

    /// What has to be so before the question.
    async fn prepare(&mut self, step: Step, leader: usize, other: usize) -> Result<Asked, Stop> {
        let voters = self.voters();
        let image = self.newest().ok_or_else(|| lost("somebody serves"))?;
        let node = voters[other].node();
        let life = image.broker(BrokerId(node as i32)).map_or(-1, |broker| broker.epoch.0);
        let part = image.topic_named(TOPIC).and_then(|topic| topic.partition(PartitionId(0)));
        let part = part.ok_or_else(|| lost("the topic is there"))?;
        let (first, replicas) = (part.leader.0 as u32, part.replicas.to_vec());
        let others = replicas.iter().map(|one| one.0 as u32).filter(|one| *one != first);
        let follower = others.clone().find(|one| *one != voters[leader].node());
        let mut targets: Vec<u32> = voters.iter().map(BrokerNode::node).collect();
        targets.rotate_left(self.dice.below(u64::from(VOTERS)) as usize);
        let had: Vec<u32> = replicas.iter().map(|one| one.0 as u32).collect();
        if targets.starts_with(&had) {
            targets.rotate_left(1); // it would be no move
        }
        targets.truncate(replicas.len());
        if step == Step::Moved {
            // One comes and one goes: the entry behind the first one is the last.
            let free = voters.iter().map(BrokerNode::node).find(|node| !had.contains(node));
            targets.clone_from(&had);
            targets[had.len() - 1] = free.ok_or_else(|| lost("a broker has no replica"))?;
        }
        let desk = Desk::at(&self.scene.stage, node);
        if !matches!(step, Step::Registration | Step::Fencing | Step::Shrink) && !desk.sits_down().await {
            return Err(lost("a broker answers its operator"));
        }
        let name = format!("{step:?}-{}", self.dice.below(1 << 20)).to_lowercase();
        if step == Step::Deleted && !desk.make(&name).await {
            return Err(lost("a topic is made"));
        }
        if matches!(step, Step::Registration | Step::Block) {
            voters[other].kill();
            let id = BrokerId(node as i32);
            let is_out = || self.newest()?.broker(id).filter(|broker| !broker.is_live()).map(|_| ());
            self.until("a broker that ended is fenced", is_out).await?;
        }
        if step == Step::Block {
            voters[other].begin_start();
            self.rested().await?;
        }
        if step == Step::Registration || step == Step::Deleted {
            self.scene.stage.world.sleep(REST).await;
        }
        let cut = follower.map(|follower| (first, follower));
        Ok(Asked { other: voters[other].clone(), life, desk: Arc::new(desk), name, targets, cut })
    }

    /// What must have come of it.
    async fn judge(&mut self, step: Step, asked: &Asked, answer: &Answer) -> Result<(), Stop> {
        let id = BrokerId(asked.other.node() as i32);
        let answered = || *answer.lock().expect("nothing panics in here");
        self.until("the question has an end", || answered().map(|_| ())).await?;
        let is_taken = answered() == Some(true);
        if is_taken {
            self.scene.stage.recorder.count("answers of controllers that ended");
        }
        match step {
            Step::Registration | Step::Fencing => {
                let lives = || {
                    let image = self.newest()?;
                    image
                        .broker(id)
                        .filter(|broker| broker.epoch.0 > asked.life && broker.is_live())
                        .map(|_| ())
                };
                self.until("MQ-14: a broker that comes again is let in, in a later life", lives).await
            }
            Step::Made | Step::Deleted => {
                self.rested().await?;
                let is_there = self.newest().is_some_and(|image| image.topic_named(&asked.name).is_some());
                claim(!is_taken || is_there == (step == Step::Made), || {
                    format!("{step:?} {} was answered, and it is there: {is_there}", asked.name)
                })
            }
            Step::Move | Step::Moved if is_taken => {
                let has_moved = || {
                    let image = self.newest()?;
                    let part = image.topic_named(TOPIC)?.partition(PartitionId(0))?;
                    let now: BTreeSet<u32> = part.replicas.iter().map(|one| one.0 as u32).collect();
                    let is_there = now == asked.targets.iter().copied().collect();
                    (is_there && !part.is_moving()).then_some(())
                };
                self.until("MQ-12: a move that was answered comes to its end", has_moved).await
            }
            Step::Shrink | Step::Block | Step::Move | Step::Moved => Ok(()),
        }
    }

    /// IDM-8: every broker tells ids that nobody told before.
    async fn ids_are_one_each(&mut self) -> Result<(), Stop> {
        self.rested().await?;
        for voter in self.voters() {
            let ids = Desk::at(&self.scene.stage, voter.node()).ids(2).await;
            self.ids.lock().expect("nothing panics in here").extend(ids);
        }
        let ids = self.ids.lock().expect("nothing panics in here").clone();
        let distinct: BTreeSet<&i64> = ids.iter().collect();
        if ids.len() < VOTERS as usize {
            return Err(lost("brokers tell producer ids"));
        }
        if distinct.len() < ids.len() {
            let evidence = format!("a producer id was told twice: {ids:?}");
            return Err(Stop::Broken(Broken { name: "IDM-8", evidence }));
        }
        Ok(())
    }
}

fn claim(holds: bool, text: impl Fn() -> String) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Broken(Broken { name: "MQ-12", evidence: text() })) }
}

/// Everything that a step needs.
struct Asked {
    /// A broker that is not the controller.
    other: BrokerNode,
    /// Its life before.
    life: i64,
    desk: Arc<Desk>,
    /// Of a topic.
    name: String,
    /// Where a partition is to go.
    targets: Vec<u32>,
    /// A leader and its follower.
    cut: Option<(u32, u32)>,
}

impl Asked {
    /// Brings the step about; the answer may come later, or was not asked for.
    async fn begin(&self, tale: &Tale, step: Step) -> Answer {
        let answer = Answer::default();
        let stage = &tale.scene.stage;
        let settled = Some(false);
        match step {
            Step::Registration => {
                self.other.begin_start();
                *answer.lock().expect("nothing panics in here") = settled;
            }
            Step::Fencing => {
                self.other.kill();
                *answer.lock().expect("nothing panics in here") = settled;
            }
            Step::Shrink => {
                if let Some((leader, follower)) = self.cut {
                    stage.world.network().set_cut(leader, follower, true);
                    stage.world.network().set_cut(follower, leader, true);
                }
                *answer.lock().expect("nothing panics in here") = settled;
            }
            Step::Move | Step::Moved | Step::Made | Step::Deleted | Step::Block => {
                let (desk, name, targets) = (self.desk.clone(), self.name.clone(), self.targets.clone());
                let (told, ids) = (answer.clone(), tale.ids.clone());
                stage.broker.clone().aside(async move {
                    let is_taken = match step {
                        Step::Move | Step::Moved => desk.reassign(0, &targets).await,
                        Step::Made => desk.make(&name).await,
                        Step::Deleted => desk.delete(&name).await,
                        _ => {
                            let found = desk.ids(1).await;
                            let is_one = !found.is_empty();
                            ids.lock().expect("nothing panics in here").extend(found);
                            is_one
                        }
                    };
                    *told.lock().expect("nothing panics in here") = Some(is_taken);
                });
            }
        }
        answer
    }

    /// What was broken for it is mended.
    fn ends(&self, tale: &Tale, step: Step) {
        if let Some((leader, follower)) = self.cut.filter(|_| step == Step::Shrink) {
            tale.scene.stage.world.network().set_cut(leader, follower, false);
            tale.scene.stage.world.network().set_cut(follower, leader, false);
        }
        self.other.begin_start();
    }
}
