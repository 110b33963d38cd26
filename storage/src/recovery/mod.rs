//! Opening a log: keep exactly what was durable, cut only a torn tail, report damage below it.
//!
//! Owns: [`load`], which start-up and truncation share. Promises (LOG-3): what a sync covered is kept; a tail that no
//! sync covered is kept batch by batch as far as it verifies and cut at the first batch that does not; damage below the
//! durable point is reported and refused on read, never cut (LOG-5). Work is bounded by the tail above the durable point
//! and the producers' last snapshot, not by the log. Running it again after a crash inside it gives the same.
//! Leaves out: identity and format of the directory (`log::open`).
//!
//! ```text
//! last marker in the newest side file ─► durable point X           (after a clean stop also the snapshot of its end)
//!   segments wholly below X: index summary, file length          (not scanned)
//!   segment of X and above: batch by batch from the marker on    (tail)
//!   then: cut, complete the side file, sync, drop what lies behind a cut
//! ```

mod directory;
mod state;
mod swap;
mod tail;

use std::path::PathBuf;

use bytes::Bytes;
use dejaq_wire::ids::{LeaderEpoch, Offset};

use crate::binding::Binding;
use crate::config::LogConfig;
use crate::disk::Disk;
use crate::layout::FileKind;
use crate::log::OffsetRange;
use crate::log::open::{OpenError, RecoveryReport};
use crate::log::roll::{create_segment, write_derived};
use crate::log::start::START_KIND;
use crate::log::swap::{CLEANED_KIND, CLEANED_TO};
use crate::producers::Producers;
use crate::segment::{Segment, View, add_range};
use crate::small_file::{self, Kind, SmallFileError};
use crate::sum::{Marker, SumCodec};
use crate::{mark, mutant};

pub(crate) use directory::Probe;

/// The file of the leader epochs.
pub(crate) const EPOCHS: &str = "epochs";
/// The file of the log's start.
pub(crate) const START: &str = "start";
/// The file that says that a truncation is under way, and to where: 8 bytes, big-endian.
pub(crate) const TRUNCATE: &str = "truncate";
/// See [`TRUNCATE`].
pub(crate) const TRUNCATE_KIND: Kind = Kind { magic: *b"DJtr", version: 1 };

/// Everything that loading a log needs.
pub(crate) struct Loader<D: Disk> {
    pub(crate) disk: D,
    pub(crate) dir: PathBuf,
    pub(crate) binding: Binding,
    pub(crate) config: LogConfig,
    pub(crate) now_ms: i64,
    pub(crate) clean: bool,
    pub(crate) same_boot: bool,
    /// Names that a process before this one may have failed to make durable are made anew: see `directory::renew_names`.
    pub(crate) renew_names: bool,
}

/// A log as it came from the disk, all of it durable.
pub(crate) struct Loaded<D: Disk> {
    pub(crate) view: View<D>,
    pub(crate) producers: Producers,
    /// A durable marker says so up to here.
    pub(crate) marked: Offset,
    /// A snapshot exists for exactly the end.
    pub(crate) snapped_end: Option<Offset>,
    /// Everything below was compacted.
    pub(crate) cleaned: Offset,
    pub(crate) report: RecoveryReport,
}

/// What the steps of loading hand on.
struct Progress<D: Disk> {
    segments: Vec<Segment<D>>,
    /// Everything below is known to have been durable.
    durable: Offset,
    /// A durable marker says so up to here.
    marked: Offset,
    /// A truncation that must be finished.
    intent: Option<Offset>,
    /// Epochs of batches that were scanned, with their first offsets.
    epochs_seen: Vec<(LeaderEpoch, Offset)>,
    damaged: Vec<OffsetRange>,
    /// Something was written, or a tail was accepted that no sync covered.
    touched: bool,
    /// Derived files that were made again and are not synced yet.
    made: Vec<D::File>,
    report: RecoveryReport,
}

impl<D: Disk> Progress<D> {
    fn see_epoch(&mut self, epoch: LeaderEpoch, base: Offset) {
        if self.epochs_seen.last().is_none_or(|(last, _)| *last != epoch) {
            self.epochs_seen.push((epoch, base));
        }
    }
}

impl<D: Disk> Loader<D> {
    pub(crate) fn codec(&self, base: Offset) -> SumCodec {
        SumCodec::new(&self.binding, base)
    }

    fn path(&self, kind: FileKind, offset: Offset) -> PathBuf {
        self.dir.join(kind.name(offset))
    }

    /// A small file that holds one offset. Damage is `Ok(None)` and a note; another version is an error.
    async fn read_offset(
        &self,
        name: &str,
        kind: Kind,
        report: &mut RecoveryReport,
    ) -> Result<Option<Offset>, OpenError> {
        let path = self.dir.join(name);
        let payload = small_file::read(&self.disk, &path, kind, &self.binding).await;
        let payload = self.usable(name, payload, report)?;
        let number = payload.and_then(|payload| payload.as_ref().try_into().ok()).map(i64::from_be_bytes);
        Ok(number.filter(|number| (0..=i64::MAX / 2).contains(number)).map(Offset))
    }

    /// Missing and damaged files tell nothing; files of another version stop the start.
    fn usable(
        &self,
        name: &str,
        read: Result<Bytes, SmallFileError>,
        report: &mut RecoveryReport,
    ) -> Result<Option<Bytes>, OpenError> {
        match read {
            Ok(payload) => Ok(Some(payload)),
            Err(SmallFileError::Missing) => Ok(None),
            Err(SmallFileError::Io(error)) => Err(OpenError::Io(error)),
            Err(SmallFileError::Corrupt(why)) => {
                mark!("a damaged small file is done without");
                report.damaged_files.push(name.to_owned());
                report.notes.push(format!("{name}: it is damaged: {why}"));
                Ok(None)
            }
            Err(error @ SmallFileError::Version { .. }) => {
                let path = self.disk.display(&self.dir.join(name));
                Err(OpenError::Format { path, why: error.to_string() })
            }
        }
    }
}

/// Loads the log of a directory whose identity is known to be right.
pub(crate) async fn load<D: Disk>(loader: &Loader<D>) -> Result<Loaded<D>, OpenError> {
    let mut report = RecoveryReport { clean: loader.clean, ..RecoveryReport::default() };
    swap::finish(loader, &mut report).await?;
    let bases = directory::sweep(loader).await?;
    let intent = loader.read_offset(TRUNCATE, TRUNCATE_KIND, &mut report).await?;
    let start_file = loader.disk.exists(&loader.dir.join(START));
    let start_told = loader.read_offset(START, START_KIND, &mut report).await?;
    let mut probes = directory::probe_all(loader, &bases)?;
    // What a truncation cuts may be gone already, so that only points before it can be believed.
    let most = intent.unwrap_or(Offset(i64::MAX));
    let newest = directory::newest_marker(loader, &probes, most).await?;
    let start = start_of(start_file, start_told, newest, &probes);
    if loader.renew_names {
        directory::renew_names(loader, &probes, newest.map_or(Offset::ZERO, |marker| marker.end)).await?;
    }
    directory::remove_below(loader, &mut probes, start).await?;

    let marked = newest.map_or(start, |marker| marker.end);
    let closed = if loader.clean { state::closed_at(loader).await? } else { None };
    if loader.clean && closed.is_none() && probes.is_empty() {
        return Err(OpenError::Gone(loader.disk.display(&loader.dir))); // an open log has a segment, and the last word of it
    }
    let durable = marked.max(closed.unwrap_or(marked));
    let mut progress = Progress {
        segments: Vec::new(),
        durable,
        marked,
        intent,
        epochs_seen: Vec::new(),
        damaged: Vec::new(),
        touched: intent.is_some(),
        made: Vec::new(),
        report,
    };
    load_segments(loader, &probes, start, &mut progress).await?;
    finish_end(loader, start, &mut progress).await?;
    sync_tail(loader, &mut progress).await?;
    finish(loader, start, progress).await
}

/// The start is what its own file says; no file says 0, because the file is durable before anything is removed. When the
/// file is there but cannot be read, a marker and the oldest segment stand in for it.
///
/// Not so before: the oldest segment stood in for a missing file, too. Under the policies that do not sync every batch a
/// power cut may take the first segment and leave the second; the log then seemed to start there, and what was lost was
/// a prefix. (Found by `power_cut_none` seed 13 in simulation.)
fn start_of<D: Disk>(
    file: bool,
    told: Option<Offset>,
    marker: Option<Marker>,
    probes: &[Probe<D>],
) -> Offset {
    let marked = marker.map_or(Offset::ZERO, |marker| marker.start);
    match told {
        Some(told) => told.max(marked),
        None if file => marked.max(probes.first().map_or(Offset::ZERO, |probe| probe.base)),
        None => marked,
    }
}

async fn load_segments<D: Disk>(
    loader: &Loader<D>,
    probes: &[Probe<D>],
    start: Offset,
    progress: &mut Progress<D>,
) -> Result<(), OpenError> {
    let scan_from = if mutant!(22) { Offset::ZERO } else { progress.durable };
    if let Some(first) = probes.first()
        && first.base > start
    {
        // Nothing removes a segment before the start that permits it is durable: these offsets were lost.
        let to = first.base.min(progress.durable);
        if start < to {
            add_range(&mut progress.damaged, OffsetRange { from: start, to });
        }
        if first.base > scan_from {
            mark!("segments behind a first one that was never synced are dropped");
            return directory::remove_segments(loader, probes, progress).await;
        }
    }
    if probes.is_empty() && start < progress.durable {
        mark!("every segment of a log that was closed cleanly is gone");
        add_range(&mut progress.damaged, OffsetRange { from: start, to: progress.durable });
    }
    for (at, probe) in probes.iter().enumerate() {
        if let Some(previous) = progress.segments.last_mut()
            && probe.base != previous.end
        {
            if probe.base > scan_from || probe.base < previous.end {
                mark!("segments behind a torn tail are dropped");
                return directory::remove_segments(loader, &probes[at..], progress).await;
            }
            add_range(&mut progress.damaged, OffsetRange { from: previous.end, to: probe.base });
            previous.end = probe.base;
        }
        let next_base = probes.get(at + 1).map(|next| next.base);
        match next_base.filter(|next| *next <= scan_from) {
            Some(next) => {
                let is_asked = progress.segments.last().is_some_and(|previous| previous.max_timestamp < 0);
                let mut segment = directory::load_sealed(loader, probe, next, progress).await?;
                if is_asked {
                    // Retention goes by it where the records before have no time of their own.
                    segment.created_ms = tail::created(loader, probe).await?.unwrap_or(0);
                }
                progress.segments.push(segment);
            }
            None => tail::scan(loader, probe, next_base, scan_from, progress).await?,
        }
    }
    Ok(())
}

/// Makes sure that there is an active segment that can take appends, and that the end is not below the start.
async fn finish_end<D: Disk>(
    loader: &Loader<D>,
    start: Offset,
    progress: &mut Progress<D>,
) -> Result<(), OpenError> {
    // Without a segment the durable point is beyond the start only if what was durable is lost (and reported).
    let end = progress.segments.last().map_or(progress.durable.max(start), |segment| segment.end);
    let lost_tail = progress.segments.last().is_some_and(|segment| tail::is_unappendable(segment));
    if !progress.segments.is_empty() && end >= start && !lost_tail {
        return Ok(());
    }
    let base = end.max(start);
    if end < start {
        mark!("the start lies beyond what survived");
        for segment in progress.segments.drain(..) {
            directory::remove_files(loader, segment.base).await?;
        }
    }
    if let Some(old) = progress.segments.last_mut() {
        old.seal();
    }
    let mut fresh = Segment::empty(base, loader.now_ms, loader.config.index_interval_bytes);
    let marker = Marker { position: 0, end: progress.durable.min(base), start, max_timestamp: -1 };
    create_segment(&loader.disk, &loader.dir, &loader.codec(base), &mut fresh, marker)?;
    progress.segments.push(fresh);
    progress.touched = true;
    Ok(())
}

/// What was accepted becomes durable before anyone is told.
async fn sync_tail<D: Disk>(loader: &Loader<D>, progress: &mut Progress<D>) -> Result<(), OpenError> {
    if !progress.touched {
        return Ok(());
    }
    let open = progress.segments.iter().filter_map(|segment| segment.files.as_ref());
    let mut files: Vec<D::File> = open.flat_map(|files| [files.log.clone(), files.sum.clone()]).collect();
    let active = progress.segments.len() - 1;
    for segment in &progress.segments[..active] {
        if let Some(index) = &segment.index {
            let bytes = index.encode(&loader.binding, &segment.summary());
            let path = loader.path(FileKind::Index, segment.base);
            files.extend(write_derived(&loader.disk, &path, bytes).ok());
        }
    }
    loader.disk.sync_many(files).await?;
    loader.disk.sync_dir(&loader.dir).await?;
    Ok(())
}

async fn finish<D: Disk>(
    loader: &Loader<D>,
    start: Offset,
    mut progress: Progress<D>,
) -> Result<Loaded<D>, OpenError> {
    let end = progress.segments.last().expect("finish_end made one").end;
    let epochs = state::load_epochs(loader, start, end, &mut progress).await?;
    let (producers, snapped_end) = state::load_producers(loader, end, &mut progress).await?;
    if progress.intent.is_some() {
        loader.disk.remove(&loader.dir.join(TRUNCATE)).await?;
        loader.disk.sync_dir(&loader.dir).await?;
    }
    progress.damaged.retain(|range| range.to > start);
    let active = progress.segments.len() - 1;
    for segment in &mut progress.segments[..active] {
        if segment.index.is_some() {
            segment.seal();
        }
        segment.files = None;
    }
    let mut report = progress.report;
    let cleaned = loader.read_offset(CLEANED_TO, CLEANED_KIND, &mut report).await?;
    let cleaned = cleaned.unwrap_or(Offset::ZERO).min(end);
    report.start = start;
    report.end = end;
    report.durable_end = progress.durable.min(end);
    report.damaged = progress.damaged.clone();
    let view = View {
        start,
        end,
        flushed: end,
        segments: progress.segments,
        epochs,
        damaged: progress.damaged,
        generation: 0,
    };
    // What was cut or dropped may have held the marker: the next write to the side file sets it again.
    let marked = if progress.touched { Offset::ZERO } else { progress.marked.min(end) };
    Ok(Loaded { view, producers, marked, snapped_end, cleaned, report })
}
