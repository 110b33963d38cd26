//! A voter ends while a snapshot of the metadata is made, or takes the place of its log (S39): whatever was done of it, the next
//! start finds one state, and the voter goes on from there.
//!
//! Owns: the writes that bring snapshots about, and the moment of the end, by what stands in the voter's `quorum` directory.
//! Promises: the run fails unless the voter ended with a snapshot half made and with an install under way, each as often as the
//! seed says, and unless the quorum rested on it afterwards (`told::lost`). Drawn: which moment, a little more, whether the
//! process is killed or the power fails. Who judges: MQ-8 and MQ-9 (`watched`: who has applied as much has the same), that the
//! start serves (liveness), the calm act. Not as the catalogue has it: we keep no applied index beside the state; a start
//! begins with the snapshot and applies what is committed behind it. Not told: one that fails to apply an entry ends
//! (MQ-18); the driver does that, and nothing shows it.
//!
//! ```text
//!  snapshot.tmp ─► snapshot │ snapshot.tmp ─► snapshot ─► install: names it ─► the log begins behind it ─► install: none
//!        ✝            ✝     │       ✝            ✝              ✝
//! ```

use std::time::Duration;

use dejaq_storage::model_disk::CrashMode;

use super::desk::Desk;
use super::overwrite::Scene;
use super::told::{Cast, lost, shape, told};
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::story::{BrokerNode, Stop};

const VOTERS: u32 = 3;
/// How long the quorum is waited for at each step.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the voter's disk is looked at: less than a sync takes.
const GLANCE: Duration = Duration::from_micros(40);
/// One way between machines, in milliseconds; syncs are a part of that.
const WAY_MS: (u64, u64) = (3, 8);
/// Changes that bring some snapshots about, so that who had none of them needs one.
const MANY: u64 = 130;
/// The least that the product takes.
const SNAPSHOT_BYTES: u64 = 4096;
/// It ends so many syncs later at most: what is written one after the other is told apart.
const AFTER: u64 = 8;
/// A whole file with nothing in it.
const EMPTY: usize = 18;
/// How often it is looked for a moment that may pass between two looks.
const TRIES: usize = 6;

/// When it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The snapshot is being written beside the one before.
    Aside,
    /// It has its name.
    Named,
    /// The log is about to begin behind it, or has just begun.
    Install,
}

/// Tells it.
#[must_use]
pub fn half_made(params: &RunParams) -> RunReport {
    told(
        params,
        2,
        |plan, dice| {
            shape(plan, VOTERS, WAY_MS, dice);
            plan.config.snapshot_bytes = SNAPSHOT_BYTES;
        },
        |cast: Cast| async move {
            let scene = Scene { stage: cast.stage, patience: PATIENCE };
            Tale { scene, dice: cast.dice, number: 0 }.play().await
        },
    )
}

struct Tale {
    scene: Scene,
    dice: Dice,
    /// Of the next change.
    number: u64,
}

/// What a voter's directory of the quorum tells now.
#[derive(Debug, PartialEq)]
struct Shelf {
    aside: bool,
    snapshot: Option<Vec<u8>>,
    install: bool,
}

fn shelf_of(voter: &BrokerNode) -> Shelf {
    let files = voter.device().platter.files_in("quorum", false);
    let bytes = |name: &str| files.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.clone());
    Shelf {
        aside: bytes("snapshot.tmp").is_some_and(|bytes| !bytes.is_empty()),
        snapshot: bytes("snapshot"),
        install: bytes("install").is_some_and(|bytes| bytes.len() > EMPTY),
    }
}

impl Tale {
    async fn play(mut self) -> Result<(), Stop> {
        let victim = self.dice.below(u64::from(VOTERS)) as usize;
        let broker = self.scene.voters()[victim].clone();
        if Desk::at(&self.scene.stage, broker.node()).ids(1).await.is_empty() {
            return Err(lost("a broker tells a producer id, so that the metadata has one"));
        }
        for _ in 0..2 {
            let moment = *self.dice.pick(&[Moment::Aside, Moment::Named]);
            self.ends_while_it_makes_one(victim, moment).await?;
        }
        let others: Vec<usize> = (0..VOTERS as usize).filter(|one| *one != victim).collect();
        broker.stop().await;
        self.changes(&others, MANY).await?;
        for moment in [Moment::Aside, Moment::Install] {
            self.ends_while_it_takes_one(&broker, moment).await?;
        }
        broker.begin_start();
        self.follows(victim, &others).await?;
        let gone = *self.dice.pick(&others);
        let left: Vec<usize> = (0..VOTERS as usize).filter(|one| *one != gone).collect();
        self.scene.voters()[gone].kill();
        self.changes(&left, 1).await?;
        self.scene.stage.recorder.count("quorums that rested on who ended half way");
        self.scene.voters()[gone].begin_start();
        Ok(())
    }

    /// The voter ends while it makes a snapshot of its own; then it comes back.
    async fn ends_while_it_makes_one(&mut self, victim: usize, moment: Moment) -> Result<(), Stop> {
        let broker = self.scene.voters()[victim].clone();
        let others: Vec<usize> = (0..VOTERS as usize).filter(|one| *one != victim).collect();
        for _ in 0..TRIES {
            let before = shelf_of(&broker);
            let (watched, end) =
                (broker.clone(), self.scene.stage.world.now_ns() + PATIENCE.as_nanos() as u64);
            let world = self.scene.stage.world.clone();
            let seen = async move {
                while world.now_ns() < end && watched.runs() {
                    let now = shelf_of(&watched);
                    let is_it = match moment {
                        Moment::Aside => now.aside,
                        Moment::Named | Moment::Install => now.snapshot != before.snapshot,
                    };
                    if is_it {
                        return true;
                    }
                    world.sleep(GLANCE).await;
                }
                false
            };
            let has_come = tokio::select! {
                biased; // the moment counts, and is short
                seen = seen => seen,
                done = self.changes(&others, MANY) => { done?; false }
            };
            if has_come {
                self.ends(&broker, moment).await;
                broker.begin_start();
                return self.follows(victim, &others).await;
            }
        }
        Err(lost("a voter is seen while it makes a snapshot"))
    }

    /// The voter, which is down and behind, comes, and ends while a snapshot takes the place of its log.
    async fn ends_while_it_takes_one(&mut self, broker: &BrokerNode, moment: Moment) -> Result<(), Stop> {
        broker.begin_start();
        let world = self.scene.stage.world.clone();
        let end = world.now_ns() + PATIENCE.as_nanos() as u64;
        loop {
            let now = shelf_of(broker);
            let is_it = match moment {
                Moment::Aside => now.aside,
                Moment::Named | Moment::Install => now.install,
            };
            if is_it {
                break;
            }
            if world.now_ns() >= end {
                return Err(lost("a voter is seen while it takes a snapshot"));
            }
            world.sleep(GLANCE).await;
        }
        self.ends(broker, moment).await;
        Ok(())
    }

    async fn ends(&mut self, broker: &BrokerNode, moment: Moment) {
        let sync = self.scene.stage.plan.disk.sync_from.as_micros() as u64;
        // Not so late that an install is over, which is met half way a second time.
        let syncs = if moment == Moment::Aside { AFTER / 4 } else { AFTER };
        let more = self.dice.below(syncs * sync + 1);
        self.scene.stage.world.sleep(Duration::from_micros(more)).await;
        self.scene.stage.recorder.count(format!("voters that ended at {moment:?}"));
        if self.dice.chance(300) {
            broker.kill();
        } else {
            broker.power_cut(CrashMode::draw(self.dice.rng()));
        }
        let pause = self.dice.between(1, 300);
        self.scene.stage.world.sleep(Duration::from_millis(pause)).await;
    }

    /// It serves, and has applied what the others have.
    async fn follows(&self, victim: usize, others: &[usize]) -> Result<(), Stop> {
        let voters = self.scene.voters();
        let newest = || others.iter().filter_map(|one| voters[*one].image()).map(|image| image.end()).max();
        let has_all = || {
            let end = voters[victim].image().map(|image| image.end());
            (end.is_some() && end >= newest()).then_some(())
        };
        let followed = self.scene.until(has_all).await;
        followed.ok_or_else(|| Stop::Stuck("a voter that ended half way serves and follows again".to_owned()))
    }

    /// Some changes of the metadata are committed, and these voters know it.
    async fn changes(&mut self, voters: &[usize], count: u64) -> Result<(), Stop> {
        let active = |one: usize| self.scene.voters()[one].active_controller();
        let runs = |node: u32| voters.iter().any(|one| self.scene.voters()[*one].node() == node);
        let leader = || voters.iter().find_map(|one| active(*one));
        let end = |one: usize| self.scene.voters()[one].image().map_or(-1, |image| image.end().0);
        for _ in 0..count {
            let leader = self.scene.until(leader).await.ok_or_else(|| lost("one of the voters leads"))?;
            let at = if runs(leader) { leader } else { self.scene.voters()[voters[0]].node() };
            let before = voters.iter().map(|one| end(*one)).max().unwrap_or(-1);
            Desk::at(&self.scene.stage, at).alter(self.number).await;
            self.number += 1;
            let have = || voters.iter().all(|one| end(*one) > before).then_some(());
            tokio::select! {
                biased; // what is there counts
                have = self.scene.until(have) => have.ok_or_else(|| lost("a change is committed"))?,
                () = self.scene.stage.world.sleep(PATIENCE / 10) => {} // asked of one that had ended: the next one is taken
            }
        }
        Ok(())
    }
}
