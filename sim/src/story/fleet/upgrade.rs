//! A cluster goes to the next release and back, one broker after the other, under load and whatever else strikes.
//!
//! Owns: the operator's procedure, as README.md tells it ("Upgrading a cluster"), and what must hold at every step (LEVEL).
//! Promises: every wait ends or is the calm act's to bound; what a strike undoes is done again; in the end the cluster stands
//! at the level that was drawn, every broker runs the release of that level, and says so.
//! Leaves out: strikes (`nemesis`), what became of records (god, the oracle).
//!
//! ```text
//!  all old ─► one by one new ─► mixed for a while ─► level 2, its configs used ─► (removed ─► level 1 ─► one by one old)
//!              └ too early: level 2 asked for, a config of it set: refused
//! ```
//!
//! A broker of the old release is this build held to level 1 (`feature-level-max`): it says so to its peers and to the
//! controller, takes no newer message, and stops when it reads a newer record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dejaq::client::admin::{Admin, ConfigChange, ConfigOwner, NewTopic};
use dejaq::client::admin_features::FeatureWay;
use dejaq::metadata::level::DEJAQ_VERSION;
use dejaq::runtime::Runtime;

use crate::invariants::Broken;
use crate::rng::Dice;
use crate::runtime::SimRuntime;
use crate::story::nemesis::span;
use crate::story::{BrokerNode, Stage, producers};
use crate::world::NOBODY;

/// The machine on which the operator of the upgrade sits.
const MACHINE: u32 = 93;
/// How long the operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long for a broker to stop before it is killed, and to serve before it is looked at again.
const STOP: Duration = Duration::from_secs(20);
/// How often the levels of all brokers are laid side by side.
const LOOK: Duration = Duration::from_millis(100);
/// The topic that is made with a config of level 2.
const NEWER: &str = "newer";

/// The old release, and the new one.
const OLD: u16 = 1;
const NEW: u16 = 2;

/// The procedure as it goes on. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Upgrade(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_done: bool,
    broken: Option<Broken>,
    /// Where the cluster is to stand in the end.
    level: i16,
}

/// Every broker begins as one of the old release.
pub(super) fn prepare(stage: &Stage) {
    if stage.plan.upgrades {
        stage.brokers.iter().for_each(|broker| broker.set_level(OLD));
    }
}

impl Upgrade {
    /// Begins, beside everything else.
    pub fn begin(stage: &Stage) -> Upgrade {
        let upgrade = Upgrade::default();
        if !stage.plan.upgrades {
            upgrade.lock().is_done = true;
            return upgrade;
        }
        let mut dice = stage.world.streams().dice("upgrade", 0);
        let level = *dice.pick(&[1, 1, 2]);
        upgrade.lock().level = level;
        let runtime = stage.broker.machine(MACHINE);
        let admin = Admin::new(producers::cluster(stage, runtime.clone()));
        let work = Work { stage: stage.clone(), upgrade: upgrade.clone(), admin, runtime };
        let (watching, looked) = (upgrade.clone(), stage.clone());
        stage.broker.clone().aside(async move {
            for _ in 0_u64.. {
                watching.look(&looked);
                looked.world.sleep(LOOK).await;
            }
        });
        stage.broker.clone().aside(async move { work.run(dice, level).await });
        upgrade
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics in here")
    }

    /// The first thing that was found wrong.
    pub fn broken(&self) -> Option<Broken> {
        self.lock().broken.clone()
    }

    fn blame(&self, stage: &Stage, evidence: String) {
        stage.world.event(NOBODY, "broken", &[], || evidence.clone());
        self.lock().broken.get_or_insert(Broken { name: "LEVEL", evidence });
    }

    /// LEVEL: no broker acts on metadata above its own release, and nothing of a level is in use before the cluster stands there.
    fn look(&self, stage: &Stage) {
        for broker in stage.brokers.iter() {
            let Some(image) = broker.image() else { continue };
            let (runs_at, level) = (broker.runs_at(), image.level());
            if level > runs_at as i16 {
                let node = broker.node();
                self.blame(
                    stage,
                    format!("broker {node} of level {runs_at} acts on a cluster of level {level}"),
                );
            }
            if let Some(need) = image.in_use_above(level) {
                let (node, what) = (broker.node(), need.what);
                self.blame(stage, format!("broker {node} sees a cluster of level {level}, and {what}"));
            }
        }
    }

    /// Waits until the procedure is over.
    pub async fn settle(&self, stage: &Stage) {
        while !self.lock().is_done && self.broken().is_none() {
            stage.world.sleep(LOOK).await;
        }
    }

    /// What every broker must say when all is calm.
    pub fn judge(&self, stage: &Stage) {
        if !stage.plan.upgrades || self.broken().is_some() {
            return;
        }
        let wanted = self.lock().level;
        for broker in stage.brokers.iter() {
            let (node, runs_at) = (broker.node(), broker.runs_at());
            let level = broker.image().map(|image| image.level());
            if (level, runs_at as i16) != (Some(wanted), wanted) {
                self.blame(
                    stage,
                    format!("broker {node} of level {runs_at} sees {level:?} and not {wanted}"),
                );
            }
        }
        stage.recorder.count(format!("upgrades that ended at level {wanted}"));
    }
}

struct Work {
    stage: Stage,
    upgrade: Upgrade,
    admin: Admin<SimRuntime>,
    runtime: SimRuntime,
}

impl Work {
    async fn run(self, mut dice: Dice, level: i16) {
        self.pause(&mut dice, 100, 4000).await;
        let first_new = self.order(&mut dice);
        for (done, at) in first_new.iter().enumerate() {
            if dice.chance(600) {
                self.too_early(done, dice.chance(500)).await;
            }
            self.roll(*at, NEW, &mut dice).await;
        }
        self.too_early(first_new.len(), false).await; // a config, when only the last step is missing
        self.pause(&mut dice, 10, 6000).await;
        self.go_to(2, FeatureWay::Upgrade).await;
        self.use_it(&mut dice).await;
        self.pause(&mut dice, 10, 6000).await;
        if level == 1 {
            self.go_back(&mut dice).await;
        }
        self.upgrade.lock().is_done = true;
    }

    async fn go_back(&self, dice: &mut Dice) {
        if dice.chance(500) {
            let refused = self.update(1, FeatureWay::SafeDowngrade).await; // in use: refused, or not heard
            self.expect_refusal(refused.is_ok(), "a downgrade while its configs are in use");
        }
        self.stop_using_it().await;
        self.go_to(1, FeatureWay::SafeDowngrade).await;
        self.pause(dice, 10, 3000).await;
        for at in self.order(dice) {
            self.roll(at, OLD, dice).await;
        }
    }

    fn order(&self, dice: &mut Dice) -> Vec<usize> {
        let mut left: Vec<usize> = (0..self.stage.brokers.len()).collect();
        let mut order = Vec::new();
        while !left.is_empty() {
            order.push(left.remove(dice.below(left.len() as u64) as usize));
        }
        order
    }

    async fn pause(&self, dice: &mut Dice, from_ms: u64, to_ms: u64) {
        self.stage.world.sleep(span(dice, from_ms, to_ms)).await;
    }

    fn say(&self, what: impl Fn() -> String) {
        self.stage.world.event(NOBODY, "upgrade", &[], what);
    }

    /// Stops one broker, or kills it, and starts the other release on its disk.
    async fn roll(&self, at: usize, to: u16, dice: &mut Dice) {
        let broker = &self.stage.brokers[at];
        let kills = dice.chance(300);
        let pause = span(dice, 1, 3000);
        self.say(|| format!("n{} goes to level {to}, killed {kills}", broker.node()));
        self.end(broker, kills).await;
        broker.set_level(to);
        self.stage.world.sleep(pause).await;
        let mut tries = 0;
        while self.serve(broker).await.is_err() {
            // What the newer release must still write down for the older one; it says so.
            tries += 1;
            self.stage.recorder.count("starts of the old release that came too early");
            broker.set_level(NEW);
            let _ = self.serve(broker).await;
            self.stage.world.sleep(Duration::from_millis(500 * tries)).await;
            self.end(broker, false).await;
            broker.set_level(to);
        }
        self.stage.recorder.count(format!("brokers that went to level {to}"));
        self.pause(dice, 10, 2500).await;
    }

    async fn end(&self, broker: &BrokerNode, kills: bool) {
        if !kills {
            tokio::select! {
                biased; // a stop first
                () = broker.stop() => return,
                () = self.stage.world.sleep(STOP) => {} // a strike started it again meanwhile
            }
        }
        broker.kill();
    }

    /// Starts a broker until it serves at the level that it was set to; an error if it says that it is too old.
    async fn serve(&self, broker: &BrokerNode) -> Result<(), String> {
        loop {
            let tried = tokio::select! {
                biased; // an answer first
                tried = broker.try_start() => tried,
                () = self.stage.world.sleep(STOP) => Ok(()), // struck meanwhile: look again
            };
            match tried {
                Err(why) if why.contains("newer release") => return Err(why),
                Ok(()) if broker.serves_as_set() => return Ok(()),
                Ok(()) | Err(_) => {}
            }
            self.stage.world.sleep(LOOK).await;
            if broker.runs() && broker.runs_at_another() {
                broker.kill(); // whoever started it again did so before it was set
            }
        }
    }

    /// What an operator must not get: the level, or what it brings, while a broker of the old release may be there.
    async fn too_early(&self, new: usize, level: bool) {
        let taken = if level && new < self.stage.brokers.len() {
            self.update(2, FeatureWay::Upgrade).await.is_ok()
        } else if !level {
            self.set(ConfigChange::Set("9".into())).await.is_ok()
        } else {
            return;
        };
        self.stage.recorder.count("asked too early");
        self.expect_refusal(taken, if level { "level 2" } else { "a config of level 2" });
    }

    fn expect_refusal(&self, taken: bool, what: &str) {
        if taken {
            // What comes of it is for others to find: brokers of the old release stop.
            self.say(|| format!("{what} was taken too early"));
            self.stage.recorder.count("taken too early");
        }
    }

    async fn update(&self, level: i16, way: FeatureWay) -> Result<(), dejaq::client::admin::AdminError> {
        let deadline = self.runtime.now().plus(PATIENCE);
        self.admin.update_feature((DEJAQ_VERSION, level), way, false, deadline).await
    }

    async fn go_to(&self, level: i16, way: FeatureWay) {
        while let Err(why) = self.update(level, way).await {
            self.say(|| format!("not yet level {level}: {why}"));
            self.runtime.sleep(Duration::from_millis(300)).await;
        }
        self.say(|| format!("level {level}"));
        self.stage.recorder.count(format!("levels set to {level}"));
    }

    fn topic(&self) -> ConfigOwner {
        ConfigOwner::Topic(self.stage.plan.topics[0].name.clone())
    }

    async fn alter(&self, changes: &[(&str, ConfigChange)]) -> Result<(), dejaq::client::admin::AdminError> {
        let changes: BTreeMap<String, ConfigChange> =
            changes.iter().map(|(name, change)| ((*name).to_owned(), change.clone())).collect();
        let deadline = self.runtime.now().plus(PATIENCE);
        self.admin.alter_configs(&self.topic(), &changes, deadline).await
    }

    async fn set(&self, change: ConfigChange) -> Result<(), dejaq::client::admin::AdminError> {
        self.alter(&[("acks.required", change)]).await
    }

    /// Every copy is asked for, which promises more than the topic did; and a topic is made with a config of the level.
    async fn use_it(&self, dice: &mut Dice) {
        let lag = dice.log_between(50, 5000).to_string();
        let all = ConfigChange::Set("9".into());
        let lag = ConfigChange::Set(lag);
        while self
            .alter(&[("acks.required", all.clone()), ("replica.lag.max.messages", lag.clone())])
            .await
            .is_err()
        {
            self.runtime.sleep(Duration::from_millis(300)).await;
        }
        let newer = NewTopic {
            name: NEWER.into(),
            partitions: Some(1),
            replication: Some(1),
            configs: BTreeMap::from([("replica.lag.max.messages".into(), "100".into())]),
        };
        while !self.has_newer().await {
            let deadline = self.runtime.now().plus(PATIENCE);
            let _ = self.admin.create_topic(&newer, false, deadline).await; // it may be there by now
            self.runtime.sleep(Duration::from_millis(100)).await;
        }
        self.stage.recorder.count("configs of level 2 in use");
    }

    async fn has_newer(&self) -> bool {
        let deadline = self.runtime.now().plus(PATIENCE);
        let topics = self.admin.list_topics(deadline).await;
        topics.is_ok_and(|topics| topics.iter().any(|topic| &*topic.name == NEWER))
    }

    async fn stop_using_it(&self) {
        let names = ["acks.required", "replica.lag.max.messages"];
        let gone = names.map(|name| (name, ConfigChange::Delete));
        while self.alter(&gone).await.is_err() {
            self.runtime.sleep(Duration::from_millis(300)).await;
        }
        while self.has_newer().await {
            let deadline = self.runtime.now().plus(PATIENCE);
            let _ = self.admin.delete_topic(NEWER, deadline).await; // it may be gone by now
            self.runtime.sleep(Duration::from_millis(100)).await;
        }
    }
}
