//! What is in a partition's directory: leftovers swept, segments probed, the newest durable point found.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use dejaq_wire::ids::Offset;

use super::{EPOCHS, Loader, Progress, START, TRUNCATE};
use crate::aborted::{self, ABORTED_KIND};
use crate::batch::MARKER_BYTES;
use crate::config::MAX_SEGMENT_BYTES;
use crate::disk::{Disk, DiskFile, Open, is_failed_sync};
use crate::index::{SUMMARY_BYTES, SparseIndex, Summary};
use crate::layout::{CLEANED, DELETED, FileKind, with_suffix};
use crate::log::OffsetRange;
use crate::log::open::{OpenError, PARTITION};
use crate::log::roll::write_derived;
use crate::mark;
use crate::segment::{Files, Segment, add_range};
use crate::small_file::{self, SmallFileError};
use crate::sum::{BadRecord, Marker, RECORD_BYTES, Record};
use crate::walk::{Patience, RecordWalk, fetch};

/// A name on its way through [`renew_names`].
const AGAIN: &str = ".again";
/// Records looked at in one piece when going backwards.
const BACKWARDS_RECORDS: u32 = 1024;

/// A segment's files as they were found.
pub(crate) struct Probe<D: Disk> {
    pub(crate) base: Offset,
    pub(crate) files: Files<D>,
    /// Bytes of the log file, at most what a segment may have.
    pub(crate) log_len: u32,
    /// Whole records of the side file.
    pub(crate) records: u32,
    /// The side file holds something else than whole records.
    pub(crate) ragged: bool,
}

/// Removes leftovers and lists the segments' bases.
pub(super) async fn sweep<D: Disk>(loader: &Loader<D>) -> Result<Vec<Offset>, OpenError> {
    let mut bases = BTreeSet::new();
    let mut derived = Vec::new();
    for entry in loader.disk.list(&loader.dir)? {
        let Some(name) = entry.name.strip_suffix(AGAIN) else { continue };
        mark!("a name that was being renewed is put back");
        let (again, path) = (loader.dir.join(&entry.name), loader.dir.join(name));
        if loader.disk.exists(&path) {
            loader.disk.remove(&again).await?;
        } else {
            loader.disk.rename(&again, &path)?;
        }
    }
    for entry in loader.disk.list(&loader.dir)? {
        if entry.is_dir {
            continue;
        }
        if [DELETED, CLEANED, ".tmp"].iter().any(|suffix| entry.name.ends_with(suffix)) {
            mark!("a leftover is swept");
            loader.disk.remove(&loader.dir.join(&entry.name)).await?;
            continue;
        }
        match FileKind::parse(&entry.name) {
            Some((FileKind::Log | FileKind::Sum, base)) => drop(bases.insert(base)),
            Some((kind @ (FileKind::Index | FileKind::Aborted), base)) => derived.push((kind, base)),
            Some((FileKind::Producers, _)) | None => {}
        }
    }
    for (kind, base) in derived.into_iter().filter(|(_, base)| !bases.contains(base)) {
        loader.disk.remove(&loader.path(kind, base)).await?;
    }
    Ok(bases.into_iter().collect())
}

/// Opens the files of every segment; one that is missing beside its other is made empty.
pub(super) fn probe_all<D: Disk>(loader: &Loader<D>, bases: &[Offset]) -> io::Result<Vec<Probe<D>>> {
    bases.iter().map(|base| probe(loader, *base)).collect()
}

/// Makes names durable that a killed process may have left undurable for ever: after a directory's sync has failed, its
/// names count as clean whether they were written or not, and the next sync says `Ok` about nothing (fsyncgate, for
/// names). So they are changed, to another name and back, and then synced. The small files always; of the segments those
/// of which nothing is known to be durable, since a durable point inside of a segment vouches for its name.
/// After a power cut there would be no doubt, but who knows that nothing was tried since? (Found by `failed_sync`.)
pub(super) async fn renew_names<D: Disk>(
    loader: &Loader<D>,
    probes: &[Probe<D>],
    durable: Offset,
) -> Result<(), OpenError> {
    let small = [START, EPOCHS, TRUNCATE].map(|name| loader.dir.join(name));
    let unsure = probes.iter().filter(|probe| probe.base >= durable);
    let segments =
        unsure.flat_map(|probe| [FileKind::Log, FileKind::Sum].map(|kind| loader.path(kind, probe.base)));
    for path in small.into_iter().chain(segments).filter(|path| loader.disk.exists(path)) {
        let again = with_suffix(&path, AGAIN);
        loader.disk.rename(&path, &again)?;
        loader.disk.rename(&again, &path)?;
    }
    // Not so the identity, without which the directory would count as half-made: it is replaced as a whole, and the sync
    // of the directory that belongs to that covers the others.
    let identity = loader.dir.join(PARTITION);
    let bytes = small_file::read_bytes(&loader.disk, &identity).await.map_err(|error| match error {
        SmallFileError::Io(error) => error, // as it is: it may be for want of handles
        other => io::Error::other(other),
    })?;
    match small_file::replace(&loader.disk, &identity, bytes).await {
        // Not even room for the identity: it is as it was, and the sync covers the names that were changed.
        Err(full) if full.kind() == io::ErrorKind::StorageFull && !is_failed_sync(&full) => {
            mark!("a log is opened on a disk without any room");
            loader.disk.sync_dir(&loader.dir).await?;
        }
        other => other?,
    }
    Ok(())
}

fn probe<D: Disk>(loader: &Loader<D>, base: Offset) -> io::Result<Probe<D>> {
    let open = |path: &Path| match loader.disk.open(path, Open::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            mark!("half a segment is found");
            loader.disk.open(path, Open::CreateNew)
        }
        other => other,
    };
    let log = open(&loader.path(FileKind::Log, base))?;
    let sum = open(&loader.path(FileKind::Sum, base))?;
    let log_len = u32::try_from(log.len()?).unwrap_or(u32::MAX).min(MAX_SEGMENT_BYTES);
    let sum_len = sum.len()?;
    let records = u32::try_from(sum_len / RECORD_BYTES as u64).unwrap_or(u32::MAX);
    let ragged = !sum_len.is_multiple_of(RECORD_BYTES as u64);
    Ok(Probe { base, files: Files { log, sum }, log_len, records, ragged })
}

/// The last marker that speaks of `most` at most, in the newest side file that has one.
pub(super) async fn newest_marker<D: Disk>(
    loader: &Loader<D>,
    probes: &[Probe<D>],
    most: Offset,
) -> Result<Option<Marker>, OpenError> {
    for probe in probes.iter().rev() {
        if let Some((_, marker)) = last_marker(loader, probe, most).await? {
            return Ok(Some(marker));
        }
    }
    Ok(None)
}

/// The last marker of a side file that speaks of `most` at most, and its ordinal.
pub(super) async fn last_marker<D: Disk>(
    loader: &Loader<D>,
    probe: &Probe<D>,
    most: Offset,
) -> Result<Option<(u32, Marker)>, OpenError> {
    let codec = loader.codec(probe.base);
    let mut high = probe.records;
    while high > 0 {
        let low = high.saturating_sub(BACKWARDS_RECORDS);
        let mut walk = RecordWalk::new(&probe.files.sum, &codec, low, high, Patience::Wait);
        let mut last = None;
        while let Some((ordinal, record)) = walk.next().await.map_err(io::Error::from)? {
            match record {
                Ok(Record::Marker(marker)) if marker.end <= most => last = Some((ordinal, marker)),
                Ok(_) | Err(BadRecord::Corrupt) => {}
                Err(BadRecord::Version(version)) => {
                    let path = loader.disk.display(&loader.path(FileKind::Sum, probe.base));
                    let why = format!("format version {version}, this program reads another");
                    return Err(OpenError::Format { path, why });
                }
            }
        }
        if last.is_some() {
            return Ok(last);
        }
        high = low;
    }
    Ok(None)
}

/// Removes segments that end at or below the durable start: a removal that a crash interrupted.
pub(super) async fn remove_below<D: Disk>(
    loader: &Loader<D>,
    probes: &mut Vec<Probe<D>>,
    start: Offset,
) -> Result<(), OpenError> {
    let count = probes.iter().skip(1).take_while(|next| next.base <= start).count();
    for probe in probes.drain(..count) {
        mark!("a removal is finished after a crash");
        remove_files(loader, probe.base).await?;
    }
    Ok(())
}

pub(super) async fn remove_files<D: Disk>(loader: &Loader<D>, base: Offset) -> io::Result<()> {
    for kind in FileKind::OF_SEGMENT {
        let path = loader.path(kind, base);
        if loader.disk.exists(&path) {
            loader.disk.remove(&path).await?;
        }
    }
    Ok(())
}

/// Drops segments behind a cut, newest first, so that a crash in between leaves no gap that looks like damage.
pub(super) async fn remove_segments<D: Disk>(
    loader: &Loader<D>,
    probes: &[Probe<D>],
    progress: &mut Progress<D>,
) -> Result<(), OpenError> {
    progress.touched |= !probes.is_empty();
    for probe in probes.iter().rev() {
        let note = format!("segment {} of {} bytes lies behind a cut", probe.base, probe.log_len);
        progress.report.notes.push(note);
        remove_files(loader, probe.base).await?;
        loader.disk.sync_dir(&loader.dir).await?;
    }
    Ok(())
}

/// A segment that is wholly below the durable point: its summary if it is good, else a walk over its side file.
pub(super) async fn load_sealed<D: Disk>(
    loader: &Loader<D>,
    probe: &Probe<D>,
    end: Offset,
    progress: &mut Progress<D>,
) -> Result<Segment<D>, OpenError> {
    let mut segment = Segment::empty(probe.base, 0, loader.config.index_interval_bytes);
    segment.end = end;
    if let Some(summary) = read_summary(loader, probe, end).await? {
        segment.bytes = summary.bytes;
        segment.records = summary.records;
        segment.max_timestamp = summary.max_timestamp;
        segment.written_max_timestamp = summary.max_timestamp;
        segment.is_aborted_known =
            !summary.has_aborted || read_aborted(loader, &mut segment, progress).await?;
        segment.seal();
        return Ok(segment);
    }
    mark!("an index file is made again");
    progress.report.rebuilt_indexes += 1;
    let codec = loader.codec(probe.base);
    let mut index = SparseIndex::new(loader.config.index_interval_bytes);
    let mut walk = RecordWalk::new(&probe.files.sum, &codec, 0, probe.records, Patience::Wait);
    let mut missing_from = None;
    while let Some((ordinal, record)) = walk.next().await.map_err(io::Error::from)? {
        let Ok(Record::Batch(entry)) = record else { continue };
        if entry.position < segment.bytes || entry.last >= end {
            continue; // stale: something else was written over what it spoke of
        }
        index.push(&entry, ordinal, segment.max_timestamp);
        segment.is_aborted_known &= entry.length != MARKER_BYTES;
        if entry.position_after() > probe.log_len {
            missing_from = missing_from.or(Some(entry.base));
        }
        segment.bytes = entry.position_after();
        segment.max_timestamp = segment.max_timestamp.max(entry.max_timestamp);
    }
    segment.records = probe.records;
    segment.written_max_timestamp = segment.max_timestamp;
    segment.index = Some(Arc::new(index));
    if segment.bytes == 0 {
        missing_from = Some(probe.base);
    }
    if let Some(from) = missing_from {
        add_range(&mut progress.damaged, OffsetRange { from, to: end });
    } else if let Some(index) = &segment.index {
        let bytes = index.encode(&loader.binding, &segment.summary());
        match write_derived(&loader.disk, &loader.path(FileKind::Index, probe.base), bytes) {
            Ok(file) => progress.made.push(file),
            Err(_) => {
                let note = format!("the index of segment {} could not be written", probe.base);
                progress.report.notes.push(note);
            }
        }
    }
    segment.seal();
    Ok(segment)
}

/// Reads the list of aborted transactions of a sealed segment that has one; false if it must be made again.
async fn read_aborted<D: Disk>(
    loader: &Loader<D>,
    segment: &mut Segment<D>,
    progress: &mut Progress<D>,
) -> Result<bool, OpenError> {
    let name = FileKind::Aborted.name(segment.base);
    let read = small_file::read(&loader.disk, &loader.dir.join(&name), ABORTED_KIND, &loader.binding).await;
    let payload = loader.usable(&name, read, &mut progress.report)?;
    let Some(list) = payload.and_then(|payload| aborted::decode(segment.base, payload)) else {
        mark!("a list of aborted transactions is made again");
        return Ok(false);
    };
    segment.aborted = list;
    Ok(true)
}

async fn read_summary<D: Disk>(
    loader: &Loader<D>,
    probe: &Probe<D>,
    end: Offset,
) -> io::Result<Option<Summary>> {
    let Ok(file) = loader.disk.open(&loader.path(FileKind::Index, probe.base), Open::Read) else {
        return Ok(None);
    };
    let bytes = fetch(&file, 0, SUMMARY_BYTES, Patience::Wait).await?;
    let decoded = SparseIndex::decode_summary(&loader.binding, probe.base, &bytes);
    let summary = decoded.map(|(summary, _, _)| summary);
    let fits =
        |s: &Summary| s.end == end && s.bytes <= probe.log_len && s.records <= probe.records && s.bytes > 0;
    Ok(summary.filter(fits))
}
