//! SHELL. Opening and closing many partitions at once, and removing those that the metadata does not know.
//!
//! Promises: at most [`AT_ONCE`] logs are opened or closed at a time; one that does not open is reported and takes nobody with
//! it, and what may come of it is `unopened`'s; what recovery found is told once, damage as an error.
//! Leaves out: recovery itself (`dejaq_storage`). Called by `directory` only.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use dejaq_storage::disk::{is_failed_sync, is_want};
use dejaq_storage::{
    CloseError, DataDir, LastStop, Log, LogIdentity, OpenError, OpenOptions, RecoveryReport, close_many,
    mark, mutant,
};
use dejaq_wire::ids::{BrokerEpoch, BrokerId, Offset, PartitionId, TopicId};
use tokio::sync::mpsc;

use super::directory::{Directory, Slot};
use super::partition::{Assignment, Partition};
use super::unopened::Unopened;
use crate::metadata::{Image, Topic, TopicConfig};
use crate::runtime::Runtime;

/// Logs that are closed with the same syncs: few enough for the handles that they hold meanwhile, four each.
const CLOSE_TOGETHER: usize = 128;
/// Logs that are opened at a time: enough to keep a disk's queue busy, few enough to bound memory and descriptors.
const AT_ONCE: usize = 16;

/// Why a node's partitions are not opened at all.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    /// There are partitions on the disk, but the metadata has never heard of any: it was lost. Refuse to start.
    #[error(
        "the data directory holds {0} partitions, but its metadata is new: it was lost or replaced, and nothing is deleted on its word"
    )]
    MetadataLost(usize),
    /// The disk.
    #[error("the data directory cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// One partition to open.
pub(super) struct Job {
    pub topic: Arc<Topic>,
    pub index: PartitionId,
    /// `None`: it is not held here, and not opened.
    pub assignment: Option<Assignment>,
    /// Make a new log that begins here, instead of opening the one that is there.
    pub begin_at: Option<Offset>,
    pub config: Arc<TopicConfig>,
    /// How the last process left it.
    pub last_stop: LastStop,
}

/// What `me` is to this partition; `None` if it is no replica.
pub(super) fn assignment(topic: &Topic, index: PartitionId, me: BrokerId) -> Option<Assignment> {
    let partition = topic.partition(index).filter(|partition| partition.replicas.contains(&me))?;
    Some(Assignment {
        me,
        leader: partition.leader,
        epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        replicas: partition.replicas.to_vec(),
        isr: partition.isr.to_vec(),
        eligible: partition.elr.iter().chain(partition.last_known_elr.iter()).copied().collect(),
        adding: partition.adding.to_vec(),
        removing: partition.removing.to_vec(),
    })
}

/// Opens everything; the results come in the order of `jobs`.
pub(super) async fn open_all<R: Runtime>(
    directory: &Arc<Directory<R>>,
    jobs: Vec<Job>,
) -> Vec<(Job, Slot<R>)> {
    let count = jobs.len();
    let mut opened: Vec<Option<(Job, Slot<R>)>> = (0..count).map(|_| None).collect();
    let queue: Arc<Mutex<VecDeque<(usize, Job)>>> =
        Arc::new(Mutex::new(jobs.into_iter().enumerate().collect()));
    let (done, mut results) = mpsc::channel(AT_ONCE);
    for _ in 0..count.min(AT_ONCE) {
        let (queue, done, directory) = (queue.clone(), done.clone(), directory.clone());
        directory.runtime.clone().spawn("open-partitions", async move {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((at, job)) = next else { return };
                let slot = open(&directory, &job).await;
                if done.send((at, job, slot)).await.is_err() {
                    return; // the node stops
                }
            }
        });
    }
    drop(done);
    while let Some((at, job, slot)) = results.recv().await {
        opened[at] = Some((job, slot));
    }
    opened.into_iter().map(|one| one.expect("every job is answered, or the node has stopped")).collect()
}

/// Closes everything, many logs with the same syncs; returns what could not be closed cleanly, by name.
pub(super) async fn close_all<R: Runtime>(
    runtime: &R,
    partitions: Vec<Arc<Partition<R>>>,
) -> Vec<(String, CloseError)> {
    let mut failed = Vec::new();
    for together in partitions.chunks(CLOSE_TOGETHER) {
        let (mut turns, mut names, mut logs) = (Vec::new(), Vec::new(), Vec::new());
        for partition in together {
            turns.push(partition.start_moves.lock().await);
            if let Some(log) = partition.give_up_log() {
                names.push(partition.name());
                logs.push(log);
            }
        }
        let closed = close_many(runtime.disk(), logs).await;
        failed.extend(names.into_iter().zip(closed).filter_map(|(name, closed)| Some((name, closed.err()?))));
    }
    failed.sort_by(|(one, _), (other, _)| one.cmp(other));
    failed
}

pub(super) async fn open<R: Runtime>(directory: &Directory<R>, job: &Job) -> Slot<R> {
    let Some(assignment) = &job.assignment else { return Slot::Elsewhere };
    let name = format!("{}-{}", job.topic.name, job.index);
    let identity =
        LogIdentity { topic: job.topic.name.to_string(), topic_id: job.topic.id, partition: job.index };
    let options = OpenOptions {
        last_stop: job.last_stop,
        now_ms: directory.runtime.unix_ms(),
        space: directory.space.clone(),
        verify_all: false,
    };
    let path = DataDir::<R::Disk>::partition_path(job.topic.id, job.index);
    let disk = directory.runtime.disk().clone();
    let config = job.config.log_config();
    let opened = match job.begin_at {
        None => Log::create(disk, path, identity, config, options).await,
        Some(start) => Log::create_at(disk, path, identity, config, options, start).await,
    };
    let log = match opened {
        Ok((mut log, report)) => {
            if assignment.replicas.len() == 1 {
                log.accept_damage();
            }
            tell(&name, &report);
            directory.health.count_recovery(&report);
            log
        }
        Err(OpenError::Io(error)) if is_want(&error) => {
            mark!("a partition finds no room");
            tracing::warn!(partition = name, %error, "no room to open the partition: it is tried again");
            return Slot::Unopened(Unopened::NoRoom);
        }
        Err(error) => {
            if let OpenError::Io(error) = &error {
                directory.health.mind(&name, error);
            }
            let why = match &error {
                OpenError::Io(error) if !is_failed_sync(error) => Unopened::Error,
                OpenError::Gone(_) => Unopened::Gone,
                _ => Unopened::Refused,
            };
            tracing::error!(partition = name, %error, ?why, "the partition does not open: it is not served");
            return Slot::Unopened(why);
        }
    };
    match Partition::start(log, assignment, job.config.policy(), directory.shared()) {
        Ok(partition) => Slot::Ready(partition),
        Err(error) => {
            tracing::error!(partition = name, %error, "the log refuses its leader epoch: it is not served");
            Slot::Unopened(Unopened::Refused)
        }
    }
}

/// Says what recovery found, as loudly as it deserves.
fn tell(partition: &str, report: &RecoveryReport) {
    for range in &report.damaged {
        mark!("a partition opens with damage below its durable point");
        tracing::error!(partition, from = %range.from, to = %range.to, "records are damaged and are not served");
    }
    if let Some(cut) = &report.cut {
        tracing::info!(partition, from = %cut.from, bytes = cut.bytes, reason = cut.reason, "a torn tail was cut");
    }
    for note in &report.notes {
        tracing::warn!(partition, note, "recovery");
    }
    tracing::debug!(partition, start = %report.start, end = %report.end, scanned = report.scanned_bytes, "open");
}

/// Removes what deletions left behind, and partitions that the metadata does not place on this node.
///
/// # Errors
/// [`NotStarted`]; nothing was removed on the word of metadata that may be lost.
pub(super) async fn remove_strays<D: dejaq_storage::Disk>(
    data_dir: &DataDir<D>,
    image: &Image,
    me: BrokerId,
) -> Result<(), NotStarted> {
    data_dir.sweep().await?;
    let is_ours = |id: TopicId, index: PartitionId| {
        let partition = image.topic(id).and_then(|topic| topic.partition(index));
        id == TopicId::METADATA || partition.is_some_and(|partition| partition.replicas.contains(&me))
    };
    let mut found = data_dir.partitions()?;
    found.retain(|dir| !is_ours(dir.topic_id, dir.partition));
    // In its first life a node has created nothing before it came here, so that strays mean lost metadata.
    if !found.is_empty() && image.last_broker_epoch() <= BrokerEpoch(1) && !mutant!(40) {
        return Err(NotStarted::MetadataLost(found.len()));
    }
    let names: Vec<_> = found.iter().map(|dir| (dir.topic_id, dir.partition)).collect();
    data_dir.removing(&names).await?; // together, before one by one
    for dir in found {
        mark!("a stray partition is removed at the start");
        tracing::warn!(topic_id = %dir.topic_id, partition = %dir.partition, "removed: its topic is deleted");
        data_dir.remove_partition(dir.topic_id, dir.partition).await?;
    }
    Ok(())
}
