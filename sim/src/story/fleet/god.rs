//! God's view of a fleet: the disks of all brokers beside each other.
//!
//! Owns: when to look, and what was found. Promises: looks change nothing and draw nothing; the first finding counts; the
//! disks are compared from time to time, and within one glance after each event that may part them: a process that fell,
//! ended, began or serves, a leader that begins, a change of who holds, leads or is in sync.
//! Leaves out: the properties themselves (`crate::invariants::replicas`).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::given_up::GivenUp;
use super::operator::Operator;
use super::watched::Watched;
use crate::invariants::Broken;
use crate::invariants::image::Logs;
use crate::invariants::inside::{self, Promise};
use crate::invariants::insight::{Ghosts, Sight};
use crate::invariants::replicas::{self, Copy};
use crate::story::{Fault, Stage};

/// How often what all processes believe is laid side by side.
const GLANCE: Duration = Duration::from_millis(5);
/// Every how manieth time the disks are compared, too, though nothing happened.
const LOOK: u32 = 100;

/// The product's mark for it.
const CUT_BELOW: &str = "a follower cuts below the watermark that it knew";

/// What was found. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct God {
    state: Arc<Mutex<State>>,
    operator: Operator,
}

#[derive(Default)]
struct State {
    broken: Option<Broken>,
    ghosts: Ghosts,
    watched: Watched,
    given_up: GivenUp,
    seen: Seen,
}

/// What says that something happened since the last glance.
#[derive(Default, PartialEq)]
struct Seen {
    lives: Vec<(u64, usize, bool, bool)>,
    changes: u64,
    /// The living processes that lead, and in which epoch, of all partitions in their order.
    leaders: Vec<(u32, u32, i32)>,
}

impl God {
    /// Begins to look from time to time, as long as the story lasts.
    pub fn watch(stage: &Stage, operator: &Operator) -> God {
        let god = God { operator: operator.clone(), ..God::default() };
        let (watching, stage) = (god.clone(), stage.clone());
        stage.broker.clone().aside(async move {
            for number in 1_u32.. {
                stage.world.sleep(GLANCE).await;
                let sights = watching.look_inside(&stage);
                if watching.has_happened(&stage, &sights) {
                    stage.recorder.count("looks at the disks after an event");
                    watching.compare(&stage, &sights);
                } else if number % LOOK == 0 {
                    watching.compare(&stage, &sights);
                }
            }
        });
        god
    }

    /// The first property that was found broken.
    pub fn broken(&self) -> Option<Broken> {
        self.state.lock().expect("nothing panics in here").broken.clone()
    }

    fn note(&self, stage: &Stage, broken: Option<Broken>) {
        if let Some(broken) = broken {
            stage.world.event(crate::world::NOBODY, "broken", &[], || format!("{broken:?}"));
            self.state.lock().expect("nothing panics in here").broken.get_or_insert(broken);
        }
    }

    /// What must hold at every moment: REP-1, REP-10, LOG-2 of the processes; REP-2, MQ-3 of the disks; REP-1g and REP-8, which
    /// compare what was promised with the disks.
    pub fn look(&self, stage: &Stage) {
        let sights = self.look_inside(stage);
        self.compare(stage, &sights);
    }

    /// Whether something happened since the last glance after which the copies may differ.
    fn has_happened(&self, stage: &Stage, sights: &[Sight]) -> bool {
        let lives = |sight: &&Sight| {
            stage.brokers.iter().any(|one| one.node() == sight.node && one.lives(sight.incarnation))
        };
        let leading = sights.iter().filter(|sight| sight.leads).filter(lives);
        let leaders = leading.map(|sight| (sight.node, sight.incarnation, sight.epoch)).collect();
        let lives = stage.brokers.iter().map(crate::story::BrokerNode::life).collect();
        let mut state = self.state.lock().expect("nothing panics in here");
        let now = Seen { lives, changes: state.watched.changes(), leaders };
        let has_happened = now != state.seen;
        state.seen = now;
        has_happened
    }

    /// The disks beside each other, and beside what was seen of the processes at this moment.
    fn compare(&self, stage: &Stage, sights: &[Sight]) {
        if self.broken().is_some() {
            return;
        }
        let disks = disks(stage);
        // Only these stories bring a fleet to compact its own topics.
        let gaps = |folder: &str| stage.plan.resettles && stage.recorder.has_gaps(folder);
        self.note(stage, replicas::matching(&disks, gaps));
        for (folder, acked) in stage.recorder.promised() {
            if acked >= stage.recorder.trimmed(&folder)
                && let Some(need) = self.owed(stage, &folder)
            {
                self.note(stage, replicas::copies(&disks, &folder, acked, need));
            }
        }
        let trims = stage.plan.topics.iter().any(|topic| topic.trims);
        // What the last of them shows may have been deleted on enough disks already.
        let is_gone = |sight: &&Sight| {
            trims && sight.watermark <= stage.recorder.trimmed(&sight.folder) || self.is_given_up(sight)
        };
        for sight in sights.iter().filter(|sight| !is_gone(sight)) {
            if let Some(need) = self.need(stage, &sight.folder) {
                self.note(stage, replicas::visible(&disks, sight, need));
                if stage
                    .brokers
                    .iter()
                    .any(|broker| broker.node() == sight.node && broker.lives(sight.incarnation))
                {
                    self.note(stage, replicas::own(&disks, sight, need));
                }
            }
        }
    }

    /// Takes in what the processes believe now and what dead ones believed at their end; returns all of it.
    fn look_inside(&self, stage: &Stage) -> Vec<Sight> {
        // In the order of time, and all of one moment together: an old leader's last word is no news of a new one.
        let mut moments: std::collections::BTreeMap<u64, Vec<Sight>> = std::collections::BTreeMap::new();
        for (at, sights) in stage.brokers.iter().flat_map(crate::story::BrokerNode::sights) {
            moments.entry(at).or_default().extend(sights);
        }
        self.give_up(stage, moments.values().next_back().map_or(&[][..], |living| living));
        let mut all = Vec::new();
        for sights in moments.into_values() {
            let found = {
                let mut state = self.state.lock().expect("nothing panics in here");
                let State { ghosts, given_up, .. } = &mut *state;
                let settled = sights.iter().filter(|sight| !given_up.is_open(&sight.folder));
                ghosts.see(&settled.cloned().collect::<Vec<Sight>>())
            };
            // What a loss that is allowed takes may have been committed.
            self.note(stage, found.filter(|found| !(stage.plan.reports && found.name == "REP-1")));
            all.extend(sights);
        }
        for sight in &all {
            if sight.leads {
                stage.recorder.leads(&sight.folder, sight.epoch);
            }
            let found = self.promise(stage, &sight.folder).and_then(|promise| inside::check(sight, promise));
            self.note(stage, found);
        }
        let is_of_now = |sight: &&Sight| {
            let broker = stage.brokers.iter().find(|broker| broker.node() == sight.node);
            broker.is_some_and(|broker| broker.lives(sight.incarnation))
        };
        let living: Vec<Sight> = all.iter().filter(is_of_now).cloned().collect();
        let mut state = self.state.lock().expect("nothing panics in here");
        let State { ghosts, watched, given_up, .. } = &mut *state;
        let highest = |folder: &str| {
            let promise = self.promise(stage, folder)?;
            let is_known = promise.durable && !promise.disks_forget && !given_up.is_open(folder);
            is_known.then(|| ghosts.highest(folder))
        };
        let found = watched.see(stage, &living, highest, self.operator.wiped_at());
        let mut shown = if stage.plan.reports { Vec::new() } else { stage.recorder.shown() };
        shown.retain(|(folder, _)| !given_up.is_open(folder));
        let fell = |node: u32, incarnation: u32| {
            stage.brokers.iter().any(|broker| broker.node() == node && broker.fell(incarnation))
        };
        let found = found.or_else(|| ghosts.shown(&shown, &living, fell));
        drop(state);
        self.note(stage, found);
        all
    }

    /// What the cluster tells to be given up counts no more, in the history and here.
    fn give_up(&self, stage: &Stage, living: &[Sight]) {
        let mut state = self.state.lock().expect("nothing panics in here");
        let State { ghosts, given_up, .. } = &mut *state;
        for (folder, epoch, from) in given_up.see(stage, living) {
            ghosts.begin_anew(&folder, epoch, from);
            let part = stage.recorder.part_of_folder(&folder).expect("it is of the plan");
            stage.recorder.gives_up(part, from);
        }
    }

    /// Whether a process shows what the cluster gave up since, or may have.
    fn is_given_up(&self, sight: &Sight) -> bool {
        let state = self.state.lock().expect("nothing panics in here");
        let is_more = || sight.watermark > state.ghosts.highest(&sight.folder);
        state.given_up.is_open(&sight.folder) || state.ghosts.is_of_before(sight) && is_more()
    }

    /// What the plan says of a partition; `None` if it has none such.
    fn promise(&self, stage: &Stage, folder: &str) -> Option<Promise> {
        let part = stage.recorder.part_of_folder(folder)?;
        let topic = stage.recorder.topic_of(part, &stage.plan);
        let forgets = |fault: Fault| matches!(fault, Fault::Rot | Fault::Wipe | Fault::PutBack);
        let disks_forget = stage.plan.faults.iter().any(|(weight, fault)| *weight > 0 && forgets(*fault));
        Some(Promise { durable: topic.durable, min_insync: topic.min_insync, disks_forget })
    }

    /// What `durability=replicated` lost beyond its tolerance, the cluster tells of: an election that may have lost something
    /// is in the metadata (CORRECTNESS 5, R3).
    pub fn reported(&self, stage: &Stage) {
        if !stage.plan.reports {
            return;
        }
        let lost = crate::oracle::judge(&stage.recorder.history()).counts.excused;
        let told = stage.brokers.iter().map(crate::story::BrokerNode::losses_told).max().unwrap_or(0);
        stage.recorder.count(if lost > 0 { "runs with a loss" } else { "runs without a loss" });
        if lost > 0 && told == 0 {
            let evidence =
                format!("{lost} acknowledged records are gone, and no election is said to have lost any");
            self.note(stage, Some(Broken { name: "REPORTED", evidence }));
        }
    }

    /// What must not have happened to any process: REP-8, a follower cut what it had let readers see. What is mended is cut on
    /// purpose, and where a loss is allowed it may have been seen before.
    pub fn look_back(&self, stage: &Stage) {
        let rots = stage.plan.faults.iter().any(|(weight, fault)| *weight > 0 && *fault == Fault::Rot);
        let promises = stage.plan.topics.iter().all(|topic| topic.durable);
        let seen = dejaq_storage::probe::marks_reached().contains(&CUT_BELOW);
        let given_up = self.state.lock().expect("nothing panics in here").given_up.is_any();
        if promises && !rots && !given_up && seen {
            self.note(stage, Some(Broken { name: "REP-8", evidence: CUT_BELOW.into() }));
        }
    }

    /// On how many disks what is committed in a partition of the plan must be durable; none is owed without that promise. A
    /// disk that was replaced took its copies with it.
    fn need(&self, stage: &Stage, folder: &str) -> Option<usize> {
        let part = stage.recorder.part_of_folder(folder)?;
        let topic = stage.recorder.topic_of(part, &stage.plan);
        // Where every replica must be in sync, the one that mends itself leaves one fewer.
        let mends = topic.min_insync >= topic.replicas as usize
            && stage.plan.faults.iter().any(|(weight, fault)| *weight > 0 && *fault == Fault::Rot);
        let gone = self.operator.wiped() + usize::from(mends);
        topic.durable.then_some(topic.min_insync - gone.min(topic.min_insync))
    }

    /// On how many disks what was acknowledged must be durable: on all where the topic asks for every replica, unless disks
    /// forget or replicas move.
    fn owed(&self, stage: &Stage, folder: &str) -> Option<usize> {
        let need = self.need(stage, folder)?;
        let topic = stage.recorder.topic_of(stage.recorder.part_of_folder(folder)?, &stage.plan);
        let is_every =
            topic.acks_required >= topic.replicas as usize && stage.plan.brokers == topic.replicas as u32;
        let takes = |fault| {
            matches!(
                fault,
                Fault::Rot | Fault::Wipe | Fault::PutBack | Fault::Reassign | Fault::Drain | Fault::Readd
            )
        };
        let taken = stage.plan.faults.iter().any(|(weight, fault)| *weight > 0 && takes(*fault));
        Some(if is_every && !taken { need.max(topic.replicas as usize) } else { need })
    }

    /// What must hold when everything is healed and all have stopped: REP-16.
    pub fn at_rest(&self, stage: &Stage) {
        let disks = disks(stage);
        for topic in &stage.plan.topics {
            for index in 0..topic.partitions {
                let Some(folder) = stage.recorder.folder_of(&topic.name, index) else { continue };
                let holders: Vec<u32> = disks
                    .iter()
                    .filter(|copy| copy.written.0.contains_key(&folder))
                    .map(|copy| copy.node)
                    .collect();
                self.note(stage, replicas::identical(&disks, &folder, &holders));
            }
        }
    }
}

fn disks(stage: &Stage) -> Vec<Copy> {
    let of = |broker: &crate::story::BrokerNode| {
        let platter = broker.device().platter;
        let damage = platter.damage();
        let written = Logs::undamaged(platter.files(), &damage);
        Copy::of(broker.node(), written, &Logs::undamaged(platter.durable_files(), &damage))
    };
    stage.brokers.iter().map(of).collect()
}
