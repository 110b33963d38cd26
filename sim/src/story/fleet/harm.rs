//! What can go wrong with what a broker keeps of the quorum: its log, its snapshot, its vote (S35).
//!
//! Owns: the kinds of harm, doing it to a broker that has stopped, and what must come of it. Promises: nobody else starts a
//! broker whose files are in hand; harm is done only after a clean stop, when nothing of them may be taken for the tail of a
//! crash; it is durable when it is done, so that no power cut takes it back; a start that serves all the same, or that changes
//! partitions, is MQ-10. Afterwards the files are put back as they were.
//! Leaves out: when (`nemesis`, `told_harm`), how the broker comes to know what it missed (the product).
//!
//! ```text
//!  stop in peace ─► harm ─► start: refused, nothing deleted (leftovers: serves) ─► files put back ─► start
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::disk::{Disk, DiskFile, Open};
use dejaq_storage::layout::{CLEAN_MARKER, named_clean};
use dejaq_storage::model_disk::{ModelDisk, Platter};
use dejaq_storage::whole_file::{self, WholeFileKind};

use super::watched::METADATA;
use crate::invariants::Broken;
use crate::invariants::image::Logs;
use crate::rng::Dice;
use crate::story::damage::{Files, put_back};
use crate::story::{BrokerNode, Stage};
use crate::world::NOBODY;

const QUORUM: &str = "quorum";
const SNAPSHOT: &str = "quorum/snapshot";
const INSTALL: &str = "quorum/install";
const VOTE: &str = "quorum/vote";
/// Where whole files are written before they take their names.
const ASIDE: [&str; 3] = ["quorum/snapshot.tmp", "quorum/vote.tmp", "quorum/install.tmp"];
const INSTALL_KIND: WholeFileKind = WholeFileKind { magic: *b"DJqi", version: 1, max_bytes: 4096 };
/// A position by which no snapshot of a story ends: epoch 1, offset 1, as postcard writes them.
const NO_SNAPSHOTS: &[u8] = &[2, 2];
/// Batches at the end of the log of which one rots: snapshots cover none of them.
const NEWEST: usize = 4;
/// A start that is refused is refused by then.
const REFUSED: Duration = Duration::from_secs(30);

/// One kind of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Harm {
    /// A bit of a batch flips.
    LogRots,
    /// The log ends early.
    LogCut,
    /// The log's directory is gone.
    LogGone,
    /// A bit of the snapshot flips.
    SnapshotRots,
    /// The snapshot ends early.
    SnapshotCut,
    /// There is no snapshot, and the log begins behind one.
    SnapshotGone,
    /// The snapshot is an older one, so that there is a gap before the log.
    SnapshotOlder,
    /// A snapshot was taking the place of the log, and is not there.
    InstallLost,
    /// A bit of the vote flips.
    VoteRots,
    /// Nothing tells how it voted.
    VoteGone,
    /// Of all that there is only the log.
    QuorumGone,
    /// Files that were being written when a process ended: no harm.
    Leftovers,
}

impl Harm {
    /// Every kind.
    pub const ALL: [Harm; 12] = [
        Harm::LogRots,
        Harm::LogCut,
        Harm::LogGone,
        Harm::SnapshotRots,
        Harm::SnapshotCut,
        Harm::SnapshotGone,
        Harm::SnapshotOlder,
        Harm::InstallLost,
        Harm::VoteRots,
        Harm::VoteGone,
        Harm::QuorumGone,
        Harm::Leftovers,
    ];
    /// Those that mean the same, whatever the log begins with and whether there is a snapshot.
    const ANY_TIME: [Harm; 9] = [
        Harm::LogRots,
        Harm::LogCut,
        Harm::LogGone,
        Harm::SnapshotRots,
        Harm::SnapshotCut,
        Harm::InstallLost,
        Harm::VoteRots,
        Harm::VoteGone,
        Harm::Leftovers,
    ];
}

/// A broker that was stopped, and all that its disk held then.
pub(super) struct Patient {
    broker: BrokerNode,
    before: Files,
}

fn is_metadata(path: &Path) -> bool {
    path.starts_with(METADATA)
}

fn bytes_of(files: &Files, path: &str) -> Option<Vec<u8>> {
    let found = files.iter().find(|(known, _)| known == Path::new(path))?;
    Some(found.1.clone()).filter(|bytes| !bytes.is_empty())
}

/// A broker loses what it knows of the quorum, a minority of the voters at a time, and gets it back.
pub(super) fn strike(stage: &Stage, broker: &BrokerNode, dice: &mut Dice) {
    // It is not held all the time: while its start is tried another strike must not begin.
    let in_hand = stage.brokers.iter().filter(|one| one.in_hand(|it| *it) || one.is_held()).count();
    if in_hand >= (stage.plan.voters as usize - 1) / 2
        || broker.is_held()
        || broker.in_hand(|it| std::mem::replace(it, true))
    {
        return;
    }
    let harm = *dice.pick(&Harm::ANY_TIME);
    let mut dice = dice.clone();
    let (stage, broker) = (stage.clone(), broker.clone());
    stage.broker.clone().aside(async move {
        if let Some(patient) = Patient::stopped(&broker).await {
            if patient.suffers(&stage, harm, &[], &mut dice).await {
                patient.tries(&stage, harm).await;
            }
            patient.made_whole().await;
        }
        broker.hold(false);
        broker.in_hand(|it| *it = false);
        broker.begin_start(); // it took until now, and nobody else knows of it
    });
}

impl Patient {
    /// Stops a broker; `None` if its process ended otherwise meanwhile. From here on it is held.
    pub async fn stopped(broker: &BrokerNode) -> Option<Patient> {
        broker.hold(true);
        broker.stop().await;
        let before = broker.device().platter.files();
        let marker = before.iter().find(|(path, _)| path == Path::new(CLEAN_MARKER));
        let is_clean = marker.is_some_and(|(_, bytes)| named_clean(bytes).0);
        is_clean.then(|| Patient { broker: broker.clone(), before })
    }

    /// The node of its broker.
    pub fn node(&self) -> u32 {
        self.broker.node()
    }

    /// Does it; false if there is nothing that can be harmed so. `older` is a snapshot from before the log begins.
    pub async fn suffers(&self, stage: &Stage, harm: Harm, older: &[u8], dice: &mut Dice) -> bool {
        let platter = self.broker.device().platter;
        let is_done = self.harmed(&platter, harm, older, dice).await.is_some();
        if is_done {
            stage.recorder.count(format!("harm {harm:?}"));
            stage.world.event(NOBODY, "harm", &[], || format!("{harm:?} at n{}", self.node()));
        }
        is_done
    }

    async fn harmed(&self, platter: &Platter, harm: Harm, older: &[u8], dice: &mut Dice) -> Option<()> {
        let disk = platter.mount();
        let healthy = "the disk is healthy";
        match harm {
            Harm::LogRots | Harm::LogCut => self.log_harmed(platter, harm, dice).await?,
            Harm::LogGone => remove_dir(&disk, Path::new(METADATA)).await,
            Harm::QuorumGone => remove_dir(&disk, Path::new(QUORUM)).await,
            Harm::SnapshotRots | Harm::VoteRots => {
                let path = if harm == Harm::VoteRots { VOTE } else { SNAPSHOT };
                let length = bytes_of(&self.before, path)?.len() as u64;
                platter.rot(Path::new(path), dice.below(length), 1 << dice.below(8)).then_some(())?;
            }
            Harm::SnapshotCut => {
                let length = bytes_of(&self.before, SNAPSHOT)?.len() as u64;
                cut(&disk, Path::new(SNAPSHOT), dice.below(length)).await;
            }
            Harm::SnapshotGone | Harm::VoteGone => {
                let path = if harm == Harm::VoteGone { VOTE } else { SNAPSHOT };
                bytes_of(&self.before, path)?;
                disk.remove(Path::new(path)).await.expect(healthy);
                disk.sync_dir(Path::new(QUORUM)).await.expect(healthy);
            }
            Harm::SnapshotOlder => {
                write(&disk, SNAPSHOT, older).await;
            }
            Harm::InstallLost => {
                let names = [Bytes::from_static(NO_SNAPSHOTS)];
                let written = whole_file::replace(&disk, Path::new(INSTALL), INSTALL_KIND, &names).await;
                written.expect(healthy);
            }
            Harm::Leftovers => {
                let snapshot = bytes_of(&self.before, SNAPSHOT).unwrap_or_default();
                for path in ASIDE {
                    let length = dice.below(snapshot.len() as u64 + 1) as usize;
                    write(&disk, path, &snapshot[..length]).await;
                }
            }
        }
        Some(())
    }

    async fn log_harmed(&self, platter: &Platter, harm: Harm, dice: &mut Dice) -> Option<()> {
        let is_log = |(path, bytes): &&(PathBuf, Vec<u8>)| {
            is_metadata(path) && path.extension().is_some_and(|end| end == "log") && !bytes.is_empty()
        };
        let (path, bytes) = self.before.iter().rfind(is_log)?;
        if harm == Harm::LogCut {
            cut(&platter.mount(), path, dice.below(bytes.len() as u64)).await;
            return Some(());
        }
        let log = Logs::of(&[(path.clone(), bytes.clone())]).0.into_values().next()?;
        let batch = dice.pick(&log[log.len().saturating_sub(NEWEST)..]);
        platter.rot(path, batch.at + dice.below(batch.bytes), 1 << dice.below(8)).then_some(())
    }

    /// Starts it with what is left, and says what is wrong with what came of that (MQ-10). Whoever ends the process meanwhile
    /// ends the question.
    pub async fn tries(&self, stage: &Stage, harm: Harm) -> Option<Result<(), String>> {
        self.broker.hold(false);
        let started = tokio::select! {
            biased; // an answer at the last moment counts
            started = self.broker.try_start() => Some(started),
            () = stage.world.sleep(REFUSED) => None,
        };
        self.broker.hold(true);
        let others = |files: Files| -> Files {
            let is_other = |path: &Path| path.starts_with("partitions") && !is_metadata(path);
            files.into_iter().filter(|(path, _)| is_other(path)).collect()
        };
        let files = self.broker.device().platter.files();
        let wrong = match &started {
            Some(Ok(())) if harm != Harm::Leftovers => Some("serves"),
            Some(Err(_)) if harm == Harm::Leftovers => Some("refuses to start"),
            Some(Err(_)) if others(files) != others(self.before.clone()) => {
                Some("refused to start, and changed partitions")
            }
            Some(_) | None => None,
        };
        if let Some(wrong) = wrong {
            let evidence = format!("broker {} {wrong}, after {harm:?}: {started:?}", self.node());
            self.broker.blame(Broken { name: "MQ-10", evidence });
        } else if let Some(Err(why)) = &started {
            stage.recorder.count("starts refused");
            stage.world.event(NOBODY, "refused", &[], || why.clone());
        }
        started
    }

    /// Its files of the quorum are what they were, unless it serves without that; it is held still.
    pub async fn made_whole(self) {
        if self.broker.serves_as_set() {
            return;
        }
        if self.broker.runs() {
            self.broker.kill();
        }
        let disk = self.broker.device().platter.mount();
        for folder in [METADATA, QUORUM] {
            let of_it = |(path, _): &&(PathBuf, Vec<u8>)| path.starts_with(folder);
            let files: Files = self.before.iter().filter(of_it).cloned().collect();
            put_back(&disk, Path::new(folder), &files).await;
        }
    }
}

async fn remove_dir(disk: &ModelDisk, path: &Path) {
    disk.remove_dir_all(path).await.expect("the disk is healthy");
    disk.sync_dir(path.parent().unwrap_or(Path::new(""))).await.expect("the disk is healthy");
}

async fn cut(disk: &ModelDisk, path: &Path, length: u64) {
    let file = disk.open(path, Open::Write).expect("it is listed");
    file.truncate(length).expect("the disk is healthy");
    disk.sync_many(vec![file]).await.expect("the disk is healthy");
}

async fn write(disk: &ModelDisk, path: &str, bytes: &[u8]) {
    if disk.exists(Path::new(path)) {
        disk.remove(Path::new(path)).await.expect("the disk is healthy");
    }
    let file = disk.open(Path::new(path), Open::CreateNew).expect("it is not there");
    file.append_at(0, &[Bytes::copy_from_slice(bytes)]).expect("the disk is healthy");
    disk.sync_many(vec![file]).await.expect("the disk is healthy");
    disk.sync_dir(Path::new(QUORUM)).await.expect("the disk is healthy");
}
