//! What a data directory holds beside the bytes of its partitions: whose it is, the files of the quorum, the lists of
//! partitions; and whether every partition that was closed is still there.
//!
//! Promises: each file is read by what a start reads it with, over an [`overlay`](super::overlay); nothing is changed.
//! What a power cut may leave is no damage. Called by `dejaq log verify`.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use dejaq_storage::layout::{self, CLEAN_MARKER, META};
use dejaq_storage::{DataDir, Disk, DiskFile, Expect, LayoutError, Open, list_damage};
use dejaq_wire::ids::{BrokerId, PartitionId, TopicId};

use crate::controller::journal;

/// The run of the machine in which the last process served.
const BOOT: &str = "boot";

/// Everything that is wrong, each with its file. `disk` is thrown away afterwards.
pub(super) async fn look<D: Disk>(disk: &D, now_ms: i64) -> anyhow::Result<Vec<String>> {
    // Before the directory is opened, which strikes out of the lists what a start strikes out.
    let mut wrong = lists(disk).await?;
    wrong.extend(lost_partitions(disk).await?);
    let expect = Expect {
        cluster_id: String::new(),
        node_id: node_id(disk).await.unwrap_or_default(),
        new_cluster_id: String::new(),
        new_directory_id: [0; 16],
    };
    match DataDir::open(disk.clone(), expect).await {
        Ok(data) => {
            let found =
                journal::look(disk, &data, now_ms).await.context("cannot read the quorum\'s files")?;
            wrong.extend(found.iter().map(ToString::to_string));
        }
        Err(LayoutError::Io(error)) => return Err(error).context("cannot read the data directory"),
        // Whose files they are is not known then, so that they cannot be judged.
        Err(why) => wrong.push(why.to_string()),
    }
    Ok(wrong)
}

async fn read<D: Disk>(disk: &D, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let file = match disk.open(Path::new(name), Open::Read) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("cannot read {name}"))?,
    };
    let length = usize::try_from(file.len()?).context("too long")?;
    let bytes = file.read_at(0, length).await.with_context(|| format!("cannot read {name}"))?;
    Ok(Some(bytes.to_vec()))
}

/// As the file says; whether it is to be believed is seen when the directory is opened.
async fn node_id<D: Disk>(disk: &D) -> Option<BrokerId> {
    let text = String::from_utf8(read(disk, META).await.ok()??).ok()?;
    text.lines().find_map(|line| line.strip_prefix("node.id=")?.parse().ok()).map(BrokerId)
}

async fn lists<D: Disk>(disk: &D) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    for name in [CLEAN_MARKER, BOOT] {
        let Some(bytes) = read(disk, name).await? else { continue };
        // Emptied for want of room; the note of the boot is never synced, and a power cut may leave nothing of it.
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        wrong.extend(list_damage(&bytes).map(|why| format!("{name}: {why}; the next start does without it")));
    }
    Ok(wrong)
}

/// Partitions that a clean stop closed and that are not there. A broker that runs strikes a name out before it removes
/// the folder, so what is still named when it is looked at again was not removed meanwhile.
async fn lost_partitions<D: Disk>(disk: &D) -> anyhow::Result<Vec<String>> {
    let cannot = || format!("cannot read {CLEAN_MARKER}");
    let named = layout::closed_cleanly(disk).await.with_context(cannot)?;
    let is_lost = |name: &(TopicId, PartitionId)| {
        let path = DataDir::<D>::partition_path(name.0, name.1);
        name.1.0 >= 0 && name.0 != TopicId([0xff; 16]) && !disk.exists(&path)
    };
    let lost: Vec<_> = named.into_iter().filter(is_lost).collect();
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let still = layout::closed_cleanly(disk).await.with_context(cannot)?;
    let lost = lost.into_iter().filter(|name| still.contains(name));
    Ok(lost
        .map(|(topic_id, partition)| {
            let path = DataDir::<D>::partition_path(topic_id, partition);
            format!(
                "{}: it is gone, though {CLEAN_MARKER} says that it was there at the last clean stop (topic id \
                 {topic_id}, partition {partition})",
                path.display()
            )
        })
        .collect())
}
