//! A minority of the voters loses what it keeps of the quorum, in every way its files can be lost (S35), while the others live
//! and go on: it refuses to serve, deletes nothing, and when it has its files again, the quorum can rest on it.
//!
//! Owns: the order of stops, harms, starts and writes. Promises: the run fails unless each voter that was harmed had made three
//! snapshots, so that its log begins behind the second, unless its start was refused (or, with leftovers alone, was not), and
//! unless metadata was committed without it and, when it was back, only with it (`told::lost`). Which kinds of harm, the seed
//! says in turn; drawn: three voters or five, who, how much is committed meanwhile (sometimes so much that who was away needs a
//! snapshot). Who judges: MQ-10, MQ-8 (`watched`), and the calm act. Not as the catalogue has it: a snapshot of ours is never
//! taken within a batch, nor fetched in place of one that is damaged: there is no id that could be off by one, and a person
//! puts the files back, or gives the broker an empty disk (`cluster_wiped`).
//!
//! ```text
//!  three snapshots ─► a minority: stop, harm, start ✗ ─► the others commit ─► files back ─► start ─► as many others ✝
//!  ─► those that were harmed are needed for every majority, and are one ─► calm act
//! ```

use std::time::Duration;

use super::desk::Desk;
use super::harm::{Harm, Patient};
use super::overwrite::Scene;
use super::told::{Cast, lost, shape, told};
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::story::{BrokerNode, Stop};

/// How long the quorum is waited for at each step.
const PATIENCE: Duration = Duration::from_secs(60);
/// One way between machines, in milliseconds.
const WAY_MS: (u64, u64) = (1, 5);
/// Snapshots that a voter has made before it is harmed: its log begins behind the last but one, and the first is too old.
const SNAPSHOTS: usize = 3;
/// Changes after which there are so many for certain.
const MANY: u64 = 1000;
/// The least that the product takes, so that snapshots come often.
const SNAPSHOT_BYTES: u64 = 4096;

/// Tells it.
#[must_use]
pub fn harmed(params: &RunParams) -> RunReport {
    let seed = params.seed;
    told(
        params,
        2,
        |plan, dice| {
            let voters = *dice.pick(&[3, 3, 5]);
            shape(plan, voters, WAY_MS, dice);
            plan.config.snapshot_bytes = SNAPSHOT_BYTES;
        },
        move |cast: Cast| async move {
            let scene = Scene { stage: cast.stage, patience: PATIENCE };
            Tale { scene, dice: cast.dice, seed, number: 0 }.play().await
        },
    )
}

struct Tale {
    scene: Scene,
    dice: Dice,
    seed: u64,
    /// Of the next change.
    number: u64,
}

/// The snapshot that stands on a voter's disk.
fn snapshot_of(voter: &BrokerNode) -> Option<Vec<u8>> {
    let files = voter.device().platter.files_in("quorum", true);
    files.into_iter().find(|(name, _)| name == "snapshot").map(|(_, bytes)| bytes)
}

impl Tale {
    async fn play(mut self) -> Result<(), Stop> {
        let firsts = self.snapshots().await?;
        let mut sound: Vec<usize> = (0..self.scene.voters().len()).collect();
        let minority = (sound.len() - 1) / 2;
        let mut patients = Vec::new();
        for number in 0..minority {
            let victim = sound.remove(self.dice.below(sound.len() as u64) as usize);
            let harm = Harm::ALL[(self.seed as usize + number) % Harm::ALL.len()];
            patients.extend(self.harm(victim, harm, &firsts[victim]).await?);
        }
        let victims: Vec<usize> = (0..self.scene.voters().len()).filter(|one| !sound.contains(one)).collect();
        let changes = *self.dice.pick(&[1, 5, 200]);
        self.changes(&sound, changes).await?;
        self.scene.stage.recorder.count("metadata committed without who was harmed");
        for patient in patients {
            let broker = self.voter_on(patient.node());
            patient.made_whole().await;
            broker.hold(false);
            broker.begin_start();
        }
        self.rests_on(&victims, &sound).await
    }

    fn voter_on(&self, node: u32) -> BrokerNode {
        let voter = self.scene.voters().iter().find(|voter| voter.node() == node);
        voter.expect("it is one of them").clone()
    }

    /// Changes the metadata until every voter has made some snapshots; returns the first of each.
    async fn snapshots(&mut self) -> Result<Vec<Vec<u8>>, Stop> {
        let voters = self.scene.voters().to_vec();
        let mut seen: Vec<Vec<Vec<u8>>> = vec![Vec::new(); voters.len()];
        for _ in 0..MANY {
            self.changes(&(0..voters.len()).collect::<Vec<usize>>(), 1).await?;
            for (voter, seen) in voters.iter().zip(&mut seen) {
                seen.extend(snapshot_of(voter).filter(|now| seen.last() != Some(now)));
            }
            if seen.iter().all(|seen| seen.len() >= SNAPSHOTS) {
                return Ok(seen.into_iter().map(|seen| seen[0].clone()).collect());
            }
        }
        Err(lost("every voter makes snapshots"))
    }

    /// Stops a voter, harms it and starts it; `None` if it serves as it should.
    async fn harm(&mut self, victim: usize, harm: Harm, older: &[u8]) -> Result<Option<Patient>, Stop> {
        let broker = self.scene.voters()[victim].clone();
        let patient = Patient::stopped(&broker).await.ok_or_else(|| lost("a voter stops in peace"))?;
        if !patient.suffers(&self.scene.stage, harm, older, &mut self.dice).await {
            return Err(lost("its files can be harmed so"));
        }
        match patient.tries(&self.scene.stage, harm).await {
            None => Err(lost("a start ends or serves")),
            Some(Err(_)) => Ok(Some(patient)),
            Some(Ok(())) => {
                broker.hold(false);
                Ok(None)
            }
        }
    }

    /// Some changes of the metadata are committed, and these voters know it.
    async fn changes(&mut self, voters: &[usize], count: u64) -> Result<(), Stop> {
        let leader = || voters.iter().find_map(|one| self.scene.voters()[*one].active_controller());
        let leader = self.scene.until(leader).await.ok_or_else(|| lost("one of the voters leads"))?;
        let desk = Desk::at(&self.scene.stage, leader);
        let end = |one: usize| self.scene.voters()[one].image().map_or(-1, |image| image.end().0);
        for _ in 0..count {
            let before = voters.iter().map(|one| end(*one)).max().unwrap_or(-1);
            desk.alter(self.number).await;
            self.number += 1;
            let have = || voters.iter().all(|one| end(*one) > before).then_some(());
            self.scene.until(have).await.ok_or_else(|| lost("a change is committed"))?;
        }
        Ok(())
    }

    /// As many of the others end as leave no majority without those that were harmed.
    async fn rests_on(&mut self, victims: &[usize], sound: &[usize]) -> Result<(), Stop> {
        let voters = self.scene.voters().to_vec();
        let newest = || sound.iter().filter_map(|one| voters[*one].image()).map(|image| image.end()).max();
        let has_all = |one: &usize| voters[*one].image().map(|image| image.end()) >= newest();
        let are_back = || victims.iter().all(has_all).then_some(());
        self.scene.until(are_back).await.ok_or_else(|| lost("who was harmed comes back, and follows"))?;
        let (gone, left) = sound.split_at(victims.len());
        gone.iter().for_each(|one| voters[*one].kill());
        let all: Vec<usize> = victims.iter().chain(left).copied().collect();
        let leads = |node: u32| all.iter().any(|one| voters[*one].node() == node);
        let is_led = || {
            let active: Vec<Option<u32>> = all.iter().map(|one| voters[*one].active_controller()).collect();
            active[0].filter(|node| leads(*node) && active.iter().all(|one| *one == Some(*node)))
        };
        self.scene.until(is_led).await.ok_or_else(|| lost("a majority with who was harmed elects"))?;
        self.changes(&all, 1).await?;
        self.scene.stage.recorder.count("quorums that rested on who was harmed");
        gone.iter().for_each(|one| voters[*one].begin_start());
        Ok(())
    }
}
