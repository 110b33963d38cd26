//! SHELL. What goes with time: old segments, forgotten producers, idle files; and the watch over free room.
//!
//! Owns: two clocks, one short for the room on the disk, one long for retention.
//! Promises: a new start is durable before any file goes (LOG-14); the start never passes the watermark; a wall clock that
//! jumps forward deletes nothing before it has stood there for an hour (RET-2, `guarded_clock`); writes are refused before
//! the disk is full and taken again when there is room, reads go on (LOG-10).
//! Leaves out: which offset may go (`Log::retention_plan`), who asks for DeleteRecords (`api`).
//! One task a data directory; [`move_start`] is also what DeleteRecords calls.

use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::{
    AppendError, Disk, RESERVE_BYTES, Reserve, Sealed, SpaceGuard, StartError, StartWrite, mark, mutant,
};
use dejaq_wire::ids::Offset;

use super::cleaner;
use super::directory::Directory;
use super::guarded_clock::GuardedClock;
use super::leader::Resigned;
use super::partition::Partition;
use super::view::Part;
use crate::runtime::Runtime;

/// How often the disk is asked for its free room: at 1 GB/s the smallest sensible reserve (256 MiB) lasts about as long.
const ROOM_EVERY: Duration = Duration::from_millis(250);
/// With so many times the reserve free, the disk is asked less often.
const PLENTY: u64 = 16;

/// The reserve is held again when so many times its size is free.
const ROOM_AGAIN: u64 = 4;
/// Below this the disk counts as full, whatever the settings say: no batch of use fits.
const ALMOST_NONE: u64 = 4096;

/// A follower's start that could not move is moved after this.
const START_AGAIN: Duration = Duration::from_millis(1000);

/// Why the start of a log did not move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// Answer OFFSET_OUT_OF_RANGE.
    #[error("the offset lies beyond the watermark {0}")]
    BeyondWatermark(Offset),
    /// The partition does not serve.
    #[error("the partition has stopped: {0:?}")]
    Stopped(Resigned),
    /// No room to write the new start, or the log is busy: try again later.
    #[error("the new start could not be written")]
    NotNow,
}

/// Where a start shall move.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// Where retention wants it at this time.
    Retention { now_ms: i64 },
    /// Where a client wants it; `None` is the watermark.
    To(Option<Offset>),
    /// Where the leader has it.
    Leaders(Offset),
}

/// Watches free room until the directory stops: refuses writes before the disk is full, and holds the reserve again when
/// there is room. Returns only then.
pub(super) async fn watch_room<R: Runtime>(runtime: R, space: SpaceGuard, directory: Arc<Directory<R>>) {
    let wanted_bytes = directory.settings.min_free_bytes.max(RESERVE_BYTES);
    let mut was_refusing = false;
    while !directory.is_stopping() {
        let mut pause = ROOM_EVERY;
        directory.look_beside();
        match runtime.disk().free_bytes() {
            Ok(free_bytes) => {
                space.update(free_bytes);
                if space.lacks_reserve()
                    && free_bytes / ROOM_AGAIN >= RESERVE_BYTES
                    && let Err(error) = space.hold_reserve(runtime.disk()).await
                {
                    directory.health().mind("the reserve", &error);
                }
                if directory.owes_note() && free_bytes / ROOM_AGAIN >= RESERVE_BYTES {
                    directory.note_boot();
                }
                let is_refusing = space.is_refusing();
                directory.health().see_room(free_bytes, is_refusing || free_bytes < ALMOST_NONE);
                if free_bytes / PLENTY >= wanted_bytes {
                    pause *= 4;
                }
                tell_room(free_bytes, was_refusing, is_refusing);
                was_refusing = is_refusing;
            }
            Err(error) => tracing::warn!(%error, "the disk does not say how much room it has"),
        }
        directory.pause_until(runtime.now().plus(pause)).await;
    }
}

fn tell_room(free_bytes: u64, was_refusing: bool, is_refusing: bool) {
    if is_refusing && !was_refusing {
        mark!("the disk is nearly full");
        tracing::warn!(free_bytes, "the disk is nearly full: writes are refused until there is room");
    } else if was_refusing && !is_refusing {
        tracing::info!(free_bytes, "there is room on the disk again: writes are taken");
    }
}

/// Applies retention to every partition, again and again, until the directory stops.
pub(super) async fn run<R: Runtime>(runtime: R, every: Duration, directory: Arc<Directory<R>>) {
    let patience = directory.settings.clock_patience;
    let mut clock = GuardedClock::new(runtime.now(), runtime.unix_ms(), patience);
    loop {
        directory.pause_until(runtime.now().plus(every)).await;
        let believed_ms = clock.look(runtime.now(), runtime.unix_ms());
        // M201: retention goes by whatever the clock shows.
        let now_ms = if mutant!(201) { runtime.unix_ms() } else { believed_ms };
        for partition in directory.partitions() {
            if directory.is_stopping() {
                return;
            }
            tidy(&partition, now_ms).await;
        }
        if directory.is_stopping() {
            return;
        }
        cleaner::begin(&runtime, &directory, now_ms);
    }
}

async fn tidy<R: Runtime>(partition: &Arc<Partition<R>>, now_ms: i64) {
    let moved = move_to(partition, Target::Retention { now_ms }).await;
    if let Err(why @ (MoveError::NotNow | MoveError::BeyondWatermark(_))) = moved {
        tracing::warn!(partition = partition.name(), %why, "retention is put off");
    }
    partition.with_log(|log, _| {
        log.expire_producers(now_ms);
        log.shed_idle();
    });
}

/// Moves the start of a log to `to`, or to the watermark if `None`; returns the start that holds then.
///
/// Durable on return. Files below it are gone, or go with the next start.
///
/// # Errors
/// [`MoveError`]; the start is where it was.
pub async fn move_start<R: Runtime>(
    partition: &Arc<Partition<R>>,
    to: Option<Offset>,
) -> Result<Offset, MoveError> {
    move_to(partition, Target::To(to)).await
}

/// Moves the start of a follower's log to where its leader has it: what readers wait for there is not told again.
pub(super) async fn follow_start<R: Runtime>(partition: &Arc<Partition<R>>, to: Offset) {
    loop {
        let moved = move_to(partition, Target::Leaders(to)).await;
        if !partition.wants_start(to) {
            return;
        }
        tracing::debug!(partition = partition.name(), ?moved, "the start follows later");
        let runtime = &partition.shared.runtime;
        runtime.sleep_until(runtime.now().plus(START_AGAIN)).await;
    }
}

/// The first step of a move.
enum Begun<D: Disk> {
    /// The start is there already.
    Nothing,
    /// Carry it out.
    Move(StartWrite<D>),
    /// The active segment goes, too, and finds no room for the next one; this may make some.
    NoRoom(Reserve<D>),
}

/// `None`: the log is closed. Without room retention waits, and others move the start alone, if there is nothing left to give
/// up (`has_reserve`).
fn begin<R: Runtime>(
    partition: &Arc<Partition<R>>,
    target: Target,
    has_reserve: bool,
) -> Option<Result<Begun<R::Disk>, MoveError>> {
    partition.with_log(|log, role| {
        let watermark = role.watermark();
        let (to, now_ms) = match target {
            Target::Retention { now_ms } => match log.retention_plan(now_ms, watermark) {
                Some(to) => (to, now_ms),
                None => return Ok(Begun::Nothing),
            },
            Target::To(to) => (to.unwrap_or(watermark), 0),
            Target::Leaders(to) => (to.min(role.start_limit()), 0),
        };
        if to > role.start_limit() {
            return Err(MoveError::BeyondWatermark(watermark));
        }
        match (log.roll_below(to, now_ms), target) {
            (Ok(()), _) => {}
            (Err(AppendError::DiskFull), _) if has_reserve => return Ok(Begun::NoRoom(log.reserve())),
            (Err(_), Target::Retention { .. }) => return Ok(Begun::Nothing),
            (Err(_), Target::To(_) | Target::Leaders(_)) => {}
        }
        let begun = log.begin_advance_start(to).map_err(|error| match error {
            StartError::BeyondEnd { .. } => MoveError::BeyondWatermark(watermark),
            StartError::Busy | StartError::Io(_) => MoveError::NotNow,
        })?;
        Ok(begun.map_or(Begun::Nothing, Begun::Move))
    })
}

async fn move_to<R: Runtime>(partition: &Arc<Partition<R>>, target: Target) -> Result<Offset, MoveError> {
    let _one = partition.start_moves.lock().await;
    let follows = matches!(target, Target::Leaders(_)) && partition.view().part() == Part::Follows;
    if let Some(why) = partition.stopped().filter(|_| !follows) {
        return Err(MoveError::Stopped(why));
    }
    let mut begun = begin(partition, target, true);
    if let Some(Ok(Begun::NoRoom(reserve))) = begun {
        let _more_or_not = reserve.give_up().await;
        begun = begin(partition, target, false);
    }
    let stopped = || MoveError::Stopped(partition.stopped().unwrap_or(Resigned::Stopping));
    if let Begun::Move(write) = begun.ok_or_else(stopped)?? {
        match write.run().await {
            Ok(written) => {
                let removal =
                    partition.with_log(|log, _| log.end_advance_start(written)).ok_or_else(stopped)?;
                if !removal.is_empty() {
                    let done = removal.run().await;
                    if let Err(error) = &done {
                        tracing::warn!(partition = partition.name(), %error, "old segments stay until the next start");
                    }
                    offline_if_sealed(partition, partition.with_log(|log, _| log.end_removal(&done)));
                }
            }
            Err(error) => {
                mark!("a new start could not be written");
                tracing::warn!(partition = partition.name(), %error, "the start of the log stays where it is");
                offline_if_sealed(partition, partition.with_log(|log, _| log.abandon_start(&error)));
                return Err(MoveError::NotNow);
            }
        }
    }
    Ok(partition.view().reader().start())
}

/// A failed sync takes the directory offline, whoever asked for it (LOG-9).
fn offline_if_sealed<R: Runtime>(partition: &Arc<Partition<R>>, ended: Option<Result<(), Sealed>>) {
    if let Some(Err(sealed)) = ended {
        partition.shared.health.counts.failed_syncs.add(1);
        partition.shared.health.fail(&format!("{}: {sealed}", partition.name()));
        partition.resign(Resigned::Offline);
    }
}
