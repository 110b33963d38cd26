//! SHELL. The log cleaner: compacts the logs of this node one after the other, the dirtiest first.
//!
//! Owns: when a log is cleaned and how fast. Promises: the turn of a partition is held for memory work only, the rewriting
//! runs beside appends and reads; only what is committed is looked at; the disk is left alone between pieces, so that
//! others come through; a stop of the directory or of the partition ends a cleaning within one piece, and nothing is
//! written after [`Directory::shutdown`] has waited for it; a clock that jumps forward takes no delete marker before its
//! time, since the pass goes by retention's clock (RET-2). A log that was found damaged is not tried again in this life.
//! Leaves out: what stays of a log (`dejaq_storage::Compaction`), and what recovery does after a crash.
//!
//! ```text
//!  retention's tick ─► dirtiest log above its ratio ─► look at keys ─► group ─► write beside ─► swap (start_moves) ─► next group
//!                         ▲                                                                               │
//!                         └────────────── still dirty: another round, else the next log ◄─────────────────┘
//! ```

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dejaq_storage::{
    CleanAsk, Cleanable, Cleaned, CompactError, Compaction, Pace, ReadAsk, Sealed, SwapError, mark,
};
use dejaq_wire::ids::{Offset, PartitionId, TopicId};
use dejaq_wire::record::Batch;

use super::directory::Directory;
use super::leader::Resigned;
use super::partition::Partition;
use crate::metadata::TopicConfig;
use crate::runtime::Runtime;

/// After each piece the disk is left alone for this long at least.
const BREATH: Duration = Duration::from_millis(1);

/// What the cleaner did since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rounds over a log that ended well.
    pub rounds: AtomicU64,
    /// Bytes of logs that were read.
    pub read_bytes: AtomicU64,
    /// Bytes of logs that were written.
    pub written_bytes: AtomicU64,
    /// Bytes that compacted logs have less for it.
    pub freed_bytes: AtomicU64,
    /// The dirtiest log that was found last, in thousandths.
    pub dirty_permille: AtomicU64,
}

/// Which log, for ever.
pub(super) type Name = (TopicId, PartitionId);

/// A log that wants to be cleaned.
struct Job<R: Runtime> {
    partition: Arc<Partition<R>>,
    config: Arc<TopicConfig>,
    ratio: f64,
    /// Something waits longer than `max.compaction.lag.ms`.
    is_overdue: bool,
}

impl<R: Runtime> Job<R> {
    fn name(&self) -> Name {
        let identity = self.partition.identity();
        (identity.topic_id, identity.partition)
    }
}

/// Starts a pass over the logs at a time that is believed, unless one runs or no topic wants it.
pub(super) fn begin<R: Runtime>(runtime: &R, directory: &Arc<Directory<R>>, now_ms: i64) {
    let is_wanted = directory.table().topics().any(|topic| topic.config.compact);
    if is_wanted && directory.cleaning.try_lock().is_ok() {
        runtime.spawn("log-cleaner", pass(runtime.clone(), now_ms, directory.clone()));
    }
}

/// Cleans every log that is dirty enough.
async fn pass<R: Runtime>(runtime: R, now_ms: i64, directory: Arc<Directory<R>>) {
    // The shutdown waits for this lock before it closes the logs.
    let mut damaged = directory.cleaning.lock().await;
    let mut tried = BTreeSet::new();
    while !directory.is_stopping()
        && let Some(job) = dirtiest(now_ms, &directory, &tried, &damaged).await
    {
        match clean(&runtime, now_ms, &directory, &job).await {
            Ok(true) => {} // perhaps more rounds are needed: it is looked at again
            Ok(false) => drop(tried.insert(job.name())),
            Err(error) => {
                tried.insert(job.name());
                if let CompactError::Io(error) = &error {
                    directory.health.mind(&job.partition.name(), error);
                }
                tell(&job, &error);
                if matches!(error, CompactError::Damaged { .. }) {
                    damaged.insert(job.name());
                }
            }
        }
    }
}

fn tell<R: Runtime>(job: &Job<R>, error: &CompactError) {
    let partition = job.partition.name();
    match error {
        CompactError::Stopped | CompactError::Moved => {
            tracing::debug!(partition, %error, "a cleaning ends early");
        }
        CompactError::Io(_) => tracing::warn!(partition, %error, "the log could not be cleaned"),
        CompactError::Damaged { .. } => {
            mark!("a damaged log is not cleaned");
            tracing::error!(partition, %error, "the log is not cleaned any more until the broker is restarted");
        }
    }
}

/// What a cleaning of a log of this topic is told.
fn ask_of<R: Runtime>(
    now_ms: i64,
    directory: &Directory<R>,
    config: &TopicConfig,
    bound: Offset,
    seed: [u64; 2],
) -> CleanAsk {
    CleanAsk {
        now_ms,
        bound,
        delete_retention_ms: config.delete_retention_ms,
        min_lag_ms: config.min_compaction_lag_ms,
        map_bytes: directory.settings.cleaner.map_bytes,
        seed,
    }
}

/// The log that has most that is new, of those that have enough.
async fn dirtiest<R: Runtime>(
    now_ms: i64,
    directory: &Arc<Directory<R>>,
    tried: &BTreeSet<Name>,
    damaged: &BTreeSet<Name>,
) -> Option<Job<R>> {
    let mut best: Option<Job<R>> = None;
    let mut dirtiest = 0.0_f64;
    for topic in directory.table().topics().filter(|topic| topic.config.compact) {
        for partition in topic.partitions() {
            let looked = partition.with_log(|log, role| {
                log.cleanable(&ask_of(now_ms, directory, &topic.config, role.watermark(), [0; 2]))
            });
            let Some(Some(cleanable)) = looked else { continue };
            let is_overdue = is_overdue(now_ms, partition, &topic.config, &cleanable).await;
            let (partition, config, ratio) =
                (partition.clone(), topic.config.clone(), cleanable.dirty_ratio());
            dirtiest = dirtiest.max(ratio);
            let job = Job { partition, config, ratio, is_overdue };
            let wants = is_overdue || job.ratio > topic.config.min_cleanable_dirty_ratio;
            let may = !tried.contains(&job.name()) && !damaged.contains(&job.name());
            let rank = |job: &Job<R>| (job.is_overdue, job.ratio);
            if wants && may && best.as_ref().is_none_or(|best| rank(&job) > rank(best)) {
                best = Some(job);
            }
        }
    }
    directory.cleaned.dirty_permille.store((dirtiest * 1000.0) as u64, Ordering::Relaxed);
    best
}

/// Whether the oldest record that was never cleaned waits too long.
async fn is_overdue<R: Runtime>(
    now_ms: i64,
    partition: &Arc<Partition<R>>,
    config: &TopicConfig,
    cleanable: &Cleanable,
) -> bool {
    if config.max_compaction_lag_ms == i64::MAX {
        return false;
    }
    let ask =
        ReadAsk { offset: cleanable.from, max_bytes: 1, at_least_one: true, end_bound: cleanable.until };
    let Ok(read) = partition.view().reader().read(ask).await else { return false };
    let Ok(batch) = Batch::parse(&read.batches) else { return false };
    let header = &batch.header;
    let is_exact = !header.is_append_time() && !header.has_delete_horizon();
    let oldest_ms = if is_exact { header.base_timestamp_ms } else { header.max_timestamp_ms };
    let is_late = now_ms.saturating_sub(oldest_ms) > config.max_compaction_lag_ms;
    if is_late {
        mark!("a log is cleaned because its records wait too long");
    }
    is_late
}

/// One round over a log; returns whether it got further.
async fn clean<R: Runtime>(
    runtime: &R,
    now_ms: i64,
    directory: &Arc<Directory<R>>,
    job: &Job<R>,
) -> Result<bool, CompactError> {
    let partition = &job.partition;
    let seed = [runtime.random_u64(), runtime.random_u64()];
    let begun = partition.with_log(|log, role| {
        let ask = ask_of(now_ms, directory, &job.config, role.watermark(), seed);
        (log.cleanable(&ask).map(|cleanable| cleanable.from), log.begin_compaction(ask), log.size_bytes())
    });
    let Some((Some(from), Some(mut round), before)) = begun else { return Ok(false) };
    let mut pace = Throttle { runtime, directory, partition };
    round.look(&mut pace).await?;
    while let Some(cleaned) = round.next(&mut pace).await? {
        swap(directory, partition, &round, &cleaned).await?;
        round.note_swapped();
    }
    remember(directory, partition, &round).await;
    let after = partition.view().reader().size_bytes();
    directory.cleaned.rounds.fetch_add(1, Ordering::Relaxed);
    directory.cleaned.freed_bytes.fetch_add(before.saturating_sub(after), Ordering::Relaxed);
    tracing::debug!(
        partition = partition.name(),
        keys = round.keys(),
        ratio = job.ratio,
        before,
        after,
        "cleaned"
    );
    Ok(round.done() > from)
}

/// Puts a cleaned segment in place. It is removed only where it is certain that nobody will ask for it.
async fn swap<R: Runtime>(
    directory: &Directory<R>,
    partition: &Arc<Partition<R>>,
    round: &Compaction<R::Disk>,
    cleaned: &Cleaned,
) -> Result<(), CompactError> {
    let _one = partition.start_moves.lock().await;
    let begun = partition.with_log(|log, _| log.begin_swap(cleaned));
    let write = match begun {
        Some(Ok(write)) => write,
        None | Some(Err(SwapError::Moved | SwapError::Busy)) => {
            round.discard(cleaned).await;
            return Err(CompactError::Moved);
        }
        Some(Err(SwapError::Sealed(sealed))) => return Err(io::Error::other(sealed).into()),
    };
    let written = write.run().await;
    let ended = partition.with_log(|log, _| log.end_swap(cleaned, written));
    let files = match ended {
        Some(Ok(Some(files))) => files,
        Some(Ok(None)) => {
            mark!("no room for a swap of segments");
            round.discard(cleaned).await;
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        Some(Err(sealed)) => return Err(failed(directory, partition, sealed)),
        None => return Err(CompactError::Stopped), // the next start finishes it
    };
    let done = files.run().await;
    if let Some(Err(sealed)) = partition.with_log(|log, _| log.finish_swap(&done)) {
        return Err(failed(directory, partition, sealed));
    }
    if let Err(error) = files.remove().await {
        directory.health.mind(&partition.name(), &error);
        tracing::warn!(partition = partition.name(), %error, "old segments stay until the next start");
    }
    Ok(())
}

/// Nobody knows what the disk holds: nothing is acknowledged on its strength any more.
fn failed<R: Runtime>(
    directory: &Directory<R>,
    partition: &Arc<Partition<R>>,
    sealed: Sealed,
) -> CompactError {
    directory.health.fail(&format!("{}: {sealed}", partition.name()));
    partition.resign(Resigned::Offline);
    io::Error::other(sealed).into()
}

/// Remembers how far the log is clean; forgetting it costs another look.
async fn remember<R: Runtime>(
    directory: &Directory<R>,
    partition: &Arc<Partition<R>>,
    round: &Compaction<R::Disk>,
) {
    let noted = partition.with_log(|log, _| log.note_cleaned(round.done()));
    if let Some(write) = noted
        && let Err(error) = write.await
    {
        directory.health.mind(&partition.name(), &error);
        tracing::warn!(partition = partition.name(), %error, "how far the log is clean is forgotten at a restart");
    }
}

/// Spreads the work of a cleaning over time.
struct Throttle<'a, R: Runtime> {
    runtime: &'a R,
    directory: &'a Arc<Directory<R>>,
    partition: &'a Arc<Partition<R>>,
}

impl<R: Runtime> Pace for Throttle<'_, R> {
    async fn step(&mut self, read_bytes: u64, written_bytes: u64) -> bool {
        let counters = &self.directory.cleaned;
        counters.read_bytes.fetch_add(read_bytes, Ordering::Relaxed);
        counters.written_bytes.fetch_add(written_bytes, Ordering::Relaxed);
        let rate = self.directory.settings.cleaner.bytes_per_second;
        let micros = (read_bytes + written_bytes).saturating_mul(1_000_000).checked_div(rate).unwrap_or(0);
        let wait = Duration::from_micros(micros).max(BREATH);
        self.directory.pause_until(self.runtime.now().plus(wait)).await;
        !self.directory.is_stopping() && self.partition.with_log(|_, _| ()).is_some()
    }
}
