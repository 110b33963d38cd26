//! What is derived from the log beside its offsets: the leader epochs, the producers, the aborted transactions.

use std::io;

use bytes::Bytes;
use dejaq_wire::ids::Offset;
use dejaq_wire::record::BatchHeader;

use super::{EPOCHS, Loader, Progress};
use crate::aborted::{self, ABORTED_KIND, AbortedTxn};
use crate::batch::marker_of;
use crate::disk::Disk;
use crate::epochs::{EPOCHS_KIND, Epochs};
use crate::layout::FileKind;
use crate::log::OffsetRange;
use crate::log::open::OpenError;
use crate::log::roll::write_derived;
use crate::mark;
use crate::producers::Producers;
use crate::producers::snapshot::{self, Snapshot};
use crate::segment::{add_range, open_files};
use crate::small_file::{self, SmallFileError};
use crate::walk::{BatchWalk, Patience, Step, seek};

/// The epochs as the file has them, corrected by what the log says. A list that changed is durable on return, because the
/// next marker will say that nothing below needs a look.
pub(super) async fn load_epochs<D: Disk>(
    loader: &Loader<D>,
    start: Offset,
    end: Offset,
    progress: &mut Progress<D>,
) -> Result<Epochs, OpenError> {
    let path = loader.dir.join(EPOCHS);
    let read = small_file::read(&loader.disk, &path, EPOCHS_KIND, &loader.binding).await;
    let payload = loader.usable(EPOCHS, read, &mut progress.report)?;
    let mut dirty = false;
    let mut epochs = match payload.and_then(Epochs::decode) {
        Some(epochs) => epochs,
        None if end > start => {
            mark!("the epochs are made again from the log");
            dirty = true;
            rebuild(loader, start, progress).await?
        }
        None => Epochs::default(),
    };
    dirty |= if progress.intent.is_some() { epochs.truncate(end) } else { epochs.drop_beyond(end) };
    for (epoch, base) in &progress.epochs_seen {
        dirty |= epochs.observe(*epoch, *base);
    }
    dirty |= epochs.advance_start(start);
    if dirty {
        let bytes = small_file::encode(EPOCHS_KIND, &loader.binding, &epochs.encode());
        small_file::replace(&loader.disk, &path, bytes).await?;
    }
    Ok(epochs)
}

async fn rebuild<D: Disk>(
    loader: &Loader<D>,
    start: Offset,
    progress: &mut Progress<D>,
) -> Result<Epochs, OpenError> {
    let mut epochs = Epochs::default();
    replay(loader, start, progress, |header, _| {
        epochs.observe(header.leader_epoch, header.base_offset);
    })
    .await?;
    Ok(epochs)
}

/// The producers at the end of the log: the newest good snapshot and a replay of what was appended after it. Also the
/// offset of that snapshot if it is the end. The lists of aborted transactions that are not known come out of the same
/// replay, so that it begins at or before their segments.
pub(super) async fn load_producers<D: Disk>(
    loader: &Loader<D>,
    end: Offset,
    progress: &mut Progress<D>,
) -> Result<(Producers, Option<Offset>), OpenError> {
    let newest = newest_usable(loader, end, progress).await?;
    let nothing = || Snapshot {
        offset: Offset::ZERO,
        producers: Producers::default(),
        segment: None,
        aborted: Vec::new(),
    };
    let Snapshot { offset: from, mut producers, segment, mut aborted } = newest.unwrap_or_else(nothing);
    // If a tail was at risk, so was a snapshot of its end; and one that a killed process left may never have been
    // synced. Only a clean stop vouches for it: else it is written again.
    let trusted = loader.clean && !progress.touched;
    let snapped_end = (trusted && from == end && end > Offset::ZERO).then_some(end);
    let (limit, since_ms) = (loader.config.max_producers, producers.latest_ms());
    let mut count = 0;
    let carried = aborted.len();
    replay(loader, from, progress, |header, bytes| {
        count += 1;
        let told = marker_of(header, bytes);
        // What was active long before this start is not taken for active now; clients may say what time they like.
        let active_ms =
            since_ms.map_or(loader.now_ms, |since| header.max_timestamp_ms.max(since).min(loader.now_ms));
        aborted.extend(producers.replay(header, told.as_ref(), active_ms, limit));
    })
    .await?;
    progress.report.replayed_batches += count;
    restore_aborted(loader, &aborted, (segment, carried), progress).await?;
    Ok((producers, snapped_end))
}

/// Where a clean stop left the end, by the snapshot of the producers that it wrote. A side file may have lost its last
/// markers since; without this what they spoke of would look like a torn tail, and be cut.
pub(super) async fn closed_at<D: Disk>(loader: &Loader<D>) -> Result<Option<Offset>, OpenError> {
    let entries = loader.disk.list(&loader.dir)?;
    let parsed = entries.iter().filter_map(|entry| FileKind::parse(&entry.name));
    let newest = parsed.filter_map(|(kind, offset)| (kind == FileKind::Producers).then_some(offset)).max();
    let Some(offset) = newest else { return Ok(None) };
    let path = loader.path(FileKind::Producers, offset);
    match small_file::read(&loader.disk, &path, snapshot::PRODUCERS_KIND, &loader.binding).await {
        Ok(payload) => Ok(snapshot::decode(payload).map(|found| found.offset).filter(|end| *end == offset)),
        Err(SmallFileError::Io(error)) => Err(OpenError::Io(error)),
        Err(_) => Ok(None),
    }
}

/// The newest snapshot that is good and from which every unknown list of aborted transactions can be made.
async fn newest_usable<D: Disk>(
    loader: &Loader<D>,
    end: Offset,
    progress: &mut Progress<D>,
) -> Result<Option<Snapshot>, OpenError> {
    for offset in snapshots_newest_first(loader, end).await? {
        let path = loader.path(FileKind::Producers, offset);
        let name = FileKind::Producers.name(offset);
        let read = small_file::read(&loader.disk, &path, snapshot::PRODUCERS_KIND, &loader.binding).await;
        let read = match read {
            Err(SmallFileError::Version { found: 1, .. }) => Err(SmallFileError::Corrupt("of version 1")),
            other => other,
        };
        let payload = loader.usable(&name, read, &mut progress.report)?;
        let Some(found) = payload.and_then(snapshot::decode).filter(|found| found.offset == offset) else {
            mark!("a damaged snapshot of the producers is passed over");
            loader.disk.remove(&path).await?;
            continue;
        };
        // What a snapshot carries is believed of the active segment alone: another may have been cleaned since, and a
        // transaction whose marker is gone must not be listed.
        let active = progress.segments.last().map(|segment| segment.base);
        let is_carried = |base: Offset| found.segment == Some(base) && active == Some(base);
        let mut unknown = progress.segments.iter().filter(|segment| !segment.is_aborted_known);
        if unknown.all(|segment| segment.base >= offset || is_carried(segment.base)) {
            return Ok(Some(found));
        }
        mark!("a snapshot of the producers is too new to make a list of aborted transactions from");
    }
    Ok(None)
}

/// Gives the segments what was found. The first `carried` are from the snapshot, and of one segment. The files that are
/// made are durable on return, so that a clean start finds what a clean stop left; none are made around damage, since what is
/// damaged may be mended.
async fn restore_aborted<D: Disk>(
    loader: &Loader<D>,
    aborted: &[AbortedTxn],
    (of, carried): (Option<Offset>, usize),
    progress: &mut Progress<D>,
) -> io::Result<()> {
    let active = progress.segments.len() - 1;
    for (at, segment) in progress.segments.iter_mut().enumerate() {
        if segment.is_aborted_known {
            continue;
        }
        let skipped = if of == Some(segment.base) { 0 } else { carried };
        let in_it = |txn: &&AbortedTxn| segment.base <= txn.marker && txn.marker < segment.end;
        segment.aborted = aborted[skipped..].iter().filter(in_it).copied().collect();
        segment.is_aborted_known = true;
        if at < active && progress.damaged.is_empty() {
            let payload = aborted::encode(segment.base, &segment.aborted);
            let bytes = small_file::encode(ABORTED_KIND, &loader.binding, &payload);
            let path = loader.path(FileKind::Aborted, segment.base);
            match write_derived(&loader.disk, &path, bytes) {
                Ok(file) => progress.made.push(file),
                Err(_) => {
                    let note =
                        format!("the aborted transactions of segment {} could not be written", segment.base);
                    progress.report.notes.push(note);
                }
            }
        }
    }
    if progress.made.is_empty() {
        return Ok(());
    }
    loader.disk.sync_many(std::mem::take(&mut progress.made)).await?;
    loader.disk.sync_dir(&loader.dir).await
}

/// Snapshots at or below the end; those beyond speak of what is gone and are removed for good.
async fn snapshots_newest_first<D: Disk>(loader: &Loader<D>, end: Offset) -> io::Result<Vec<Offset>> {
    let entries = loader.disk.list(&loader.dir)?;
    let parsed = entries.iter().filter_map(|entry| FileKind::parse(&entry.name));
    let all = parsed.filter_map(|(kind, offset)| (kind == FileKind::Producers).then_some(offset));
    let (mut good, beyond): (Vec<Offset>, Vec<Offset>) = all.partition(|offset| *offset <= end);
    for offset in &beyond {
        mark!("a snapshot from beyond the end is removed");
        loader.disk.remove(&loader.path(FileKind::Producers, *offset)).await?;
    }
    if !beyond.is_empty() {
        loader.disk.sync_dir(&loader.dir).await?;
    }
    good.reverse();
    Ok(good)
}

/// Visits every good batch that ends after `from`; damage is noted.
async fn replay<D: Disk>(
    loader: &Loader<D>,
    from: Offset,
    progress: &mut Progress<D>,
    mut visit: impl FnMut(&BatchHeader, &Bytes),
) -> Result<(), OpenError> {
    for segment in progress.segments.iter().filter(|segment| segment.end > from && segment.bytes > 0) {
        let codec = loader.codec(segment.base);
        let files = match &segment.files {
            Some(files) => files.clone(),
            None => open_files(&loader.disk, &loader.dir, segment.base)?,
        };
        let sought = seek(&files.sum, &codec, (1, segment.records), from, Patience::Wait).await;
        let first = sought.map_err(io::Error::from)?;
        let expect = (first == 1).then_some((segment.base, 0));
        let (records, extent) = ((first, segment.records), (segment.bytes, segment.end));
        let mut walk = BatchWalk::new(&codec, (&files.log, &files.sum), records, Vec::new(), extent, expect);
        while let Some(step) = walk.next().await.map_err(io::Error::from)? {
            match step {
                Step::Batch { entry, header, bytes } if entry.last >= from => visit(&header, &bytes),
                Step::Batch { .. } => {}
                Step::Damaged { from: damage, to, .. } if to > from => {
                    add_range(&mut progress.damaged, OffsetRange { from: damage, to });
                }
                Step::Damaged { .. } => {}
            }
        }
        progress.report.scanned_bytes += walk.log.read_bytes;
    }
    Ok(())
}
