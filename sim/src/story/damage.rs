//! Damage on purpose: rot, lies of the disk, blocks in the wrong file, a lost metadata log.
//!
//! Owns: where damage strikes, so that what may be claimed stays provable. Promises: a partition's damage strikes only what
//! a later flush has marked durable, or is given three seconds to be: a batch of the last group that was synced cannot be
//! told from a torn tail at the next crash (FAST'18, CTRL; `storage::sum` says so). What is struck is told to the history
//! as destroyed; everything else must be there. Leaves out: the damage itself (`model_disk`). Called by `nemesis`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dejaq_storage::disk::{DiskFile, Open};
use dejaq_storage::layout::{CLEAN_MARKER, named_clean};
use dejaq_storage::model_disk::{Fault as DiskFault, ModelDisk, Plan as DiskPlan};
use dejaq_storage::{DataDir, Disk};

use super::nemesis::{back_after, power_cut, span};
use super::{BrokerNode, Stage};
use crate::invariants::Broken;
use crate::invariants::resurrection::is_metadata;
use crate::rng::Dice;

/// After this time a flush, or the idle one, has written down that what was synced before is durable.
pub(super) const MARKED: Duration = Duration::from_secs(3);

pub(super) type Files = Vec<(PathBuf, Vec<u8>)>;

/// The logs of the plan's partitions that hold a batch, as they are durable now.
pub(super) fn logs(stage: &Stage, broker: &BrokerNode) -> Files {
    let files = broker.device().platter.durable_files();
    let of_plan = |path: &Path| {
        let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        path.starts_with("partitions")
            && path.extension().is_some_and(|end| end == "log")
            && folder.is_some_and(|folder| stage.recorder.part_of_folder(folder).is_some())
    };
    files.into_iter().filter(|(path, bytes)| of_plan(path) && bytes.len() > 61).collect()
}

/// Rots one bit of a batch.
pub async fn rot(stage: &Stage, dice: &mut Dice) {
    let before = logs(stage, &stage.broker);
    stage.world.sleep(MARKED).await;
    if before.is_empty() {
        return;
    }
    let (path, bytes) = dice.pick(&before);
    let at = dice.below(bytes.len() as u64);
    let platter = stage.broker.device().platter;
    if stage.broker.is_of_a_batch(path, at) && platter.rot(path, at, 1 << dice.below(8)) {
        stage.recorder.count("bytes rotten");
        stage.broker.learn_damage();
    }
}

/// One sector of what the next syncs cover keeps its old content, or lies in the log of another partition.
pub async fn lie(stage: &Stage, dice: &mut Dice) {
    let before = logs(stage, &stage.broker);
    let platter = stage.broker.device().platter;
    // The newest segment of a partition, and an old one of another.
    let Some((path, _)) = (!before.is_empty()).then(|| dice.pick(&before)) else { return };
    let newest = before.iter().rfind(|(known, _)| known.parent() == path.parent());
    let newest = newest.map_or_else(String::new, |(path, _)| path.display().to_string());
    let others: Vec<&(PathBuf, Vec<u8>)> =
        before.iter().filter(|(known, _)| known.parent() != path.parent()).collect();
    let fault = if others.is_empty() || dice.chance(500) {
        DiskFault::LostWrite
    } else {
        platter.set_victims(&dice.pick(&others).0.display().to_string());
        DiskFault::MisdirectedWrite
    };
    let struck = platter.faults().damaged;
    stage.world.sleep(MARKED).await; // so that the victim's bytes are marked durable
    platter.plan(DiskPlan { fault, path_contains: newest, after: dice.below(3) });
    stage.world.sleep(span(dice, 50, 1000)).await;
    platter.heal();
    platter.set_rates(stage.rates());
    if platter.faults().damaged > struck {
        stage.recorder.count("lies of the disk");
        stage.broker.learn_damage();
        stage.world.sleep(MARKED).await;
    }
}

/// At a graceful stop, the oldest of several segments of one partition gets the bytes of a segment of another one that
/// begins at the same offset: every CRC that producers made is right there.
pub async fn misplace(stage: &Stage, dice: &mut Dice) {
    stage.broker.stop().await;
    let logs = logs(stage, &stage.broker);
    let is_oldest_of_several = |path: &Path| {
        let of_partition: Vec<&Path> = logs
            .iter()
            .map(|(path, _)| path.as_path())
            .filter(|known| known.parent() == path.parent())
            .collect();
        of_partition.len() > 1 && of_partition[0] == path
    };
    let mut pairs = Vec::new();
    for (onto, there) in logs.iter().filter(|(path, _)| is_oldest_of_several(path)) {
        // At least as long: so that even what an index file says of the old content fits the new.
        let fits = |(path, bytes): &&(PathBuf, Vec<u8>)| {
            path.file_name() == onto.file_name() && path != onto && bytes.len() >= there.len()
        };
        pairs.extend(logs.iter().filter(fits).map(|(from, _)| (from.clone(), onto.clone())));
    }
    if !pairs.is_empty() {
        let (from, onto) = dice.pick(&pairs);
        let platter = stage.broker.device().platter;
        let moved = platter.misplace(from, onto);
        let moved = platter.misplace(&from.with_extension("sum"), &onto.with_extension("sum")) && moved;
        if moved {
            stage.recorder.count("segments misplaced");
        }
        stage.broker.learn_damage();
    }
    back_after(stage, span(dice, 1, 300)).await;
}

/// The first sector of a side file: all that a young segment tells of what was durable.
const SECTOR: u64 = 512;

/// Starts that end early after a graceful stop, and rot in the side file of a log that none of them has opened: what the
/// stop said of it still holds, so that nothing of it may be taken for a torn tail.
pub async fn false_start(stage: &Stage, dice: &mut Dice) {
    stage.broker.stop().await;
    for _ in 0..dice.between(1, 4) {
        stage.broker.begin_start();
        stage.world.sleep(Duration::from_micros(dice.log_between(10, 50_000))).await;
        if dice.chance(500) {
            stage.broker.kill();
        } else {
            power_cut(stage, dice);
        }
        stage.recorder.count("false starts");
    }
    let platter = stage.broker.device().platter;
    let files = platter.durable_files();
    let told = files.iter().filter(|(path, _)| path == Path::new(CLEAN_MARKER));
    let closed: Vec<PathBuf> = told
        .flat_map(|(_, bytes)| named_clean(bytes).1)
        .map(|(topic, index)| DataDir::<ModelDisk>::partition_path(topic, index))
        .collect();
    let mut logs = logs(stage, &stage.broker);
    logs.retain(|(path, _)| path.parent().is_some_and(|folder| closed.iter().any(|known| known == folder)));
    if !logs.is_empty() && dice.chance(700) {
        // The bytes are in no cache: whatever was read of them was read before.
        power_cut(stage, dice);
        let side = dice.pick(&logs).0.with_extension("sum");
        let length = files.iter().find(|(path, _)| *path == side).map_or(0, |(_, bytes)| bytes.len() as u64);
        for record in (0..length.min(SECTOR)).step_by(32) {
            platter.rot(&side, record + dice.below(32), 1 << dice.below(8));
        }
        stage.recorder.count("side files rotten after a clean stop");
        stage.broker.learn_damage();
    }
    back_after(stage, span(dice, 1, 300)).await;
}

/// At a graceful stop the metadata log is removed or damaged: the broker must refuse to start, and must delete nothing
/// (MQ-10). Then the log is put back.
pub async fn lose_metadata(stage: &Stage, dice: &mut Dice) {
    stage.broker.stop().await;
    let platter = stage.broker.device().platter;
    let before = platter.files();
    let is_of_metadata = |path: &Path| {
        let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        folder.is_some_and(is_metadata)
    };
    let metadata: Files = before.iter().filter(|(path, _)| is_of_metadata(path)).cloned().collect();
    let Some(folder) = metadata.first().and_then(|(path, _)| path.parent()).map(Path::to_owned) else {
        return back_after(stage, Duration::ZERO).await;
    };
    let log = metadata
        .iter()
        .find(|(path, bytes)| path.extension().is_some_and(|end| end == "log") && bytes.len() > 61);
    let disk = platter.mount();
    let how = match (dice.below(3), log) {
        (0, Some((path, bytes))) => {
            let at = dice.below(bytes.len() as u64);
            platter.rot(path, at, 1 << dice.below(8));
            format!("byte {at} of the metadata log is rotten")
        }
        (1, Some((path, bytes))) => {
            let length = dice.below(bytes.len() as u64);
            let file = disk.open(path, Open::Write).expect("it is listed");
            file.truncate(length).expect("the disk is healthy");
            format!("the metadata log is cut to {length} bytes")
        }
        _ => {
            disk.remove_dir_all(&folder).await.expect("the disk is healthy");
            "the directory of the metadata log is gone".to_owned()
        }
    };
    stage.recorder.count("starts without metadata");
    let others = |files: Files| -> Files {
        files
            .into_iter()
            .filter(|(path, _)| path.starts_with("partitions") && !is_of_metadata(path))
            .collect()
    };
    let started = stage.broker.try_start().await;
    if started.is_ok() {
        let evidence = format!("the broker serves though {how}");
        stage.broker.blame(Broken { name: "MQ-10", evidence });
        stage.broker.stop().await;
    } else if others(platter.files()) != others(before) {
        let evidence = format!("the broker refused to start since {how}, and changed partitions");
        stage.broker.blame(Broken { name: "MQ-10", evidence });
    }
    put_back(&platter.mount(), &folder, &metadata).await;
    back_after(stage, span(dice, 1, 300)).await;
}

/// What a person does with a backup.
pub(super) async fn put_back(disk: &ModelDisk, folder: &Path, files: &Files) {
    let healthy = "the disk is healthy";
    if disk.exists(folder) {
        disk.remove_dir_all(folder).await.expect(healthy);
    }
    disk.create_dir_all(folder).expect(healthy);
    for (path, bytes) in files {
        let file = disk.open(path, Open::CreateNew).expect(healthy);
        file.append_at(0, &[bytes.clone().into()]).expect(healthy);
        disk.sync_many(vec![file]).await.expect(healthy);
    }
    disk.sync_dir(folder).await.expect(healthy);
    disk.sync_dir(folder.parent().unwrap_or(Path::new(""))).await.expect(healthy);
}
