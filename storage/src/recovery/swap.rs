//! Finishes a swap of segments that a crash interrupted (`log::swap`).
//!
//! Promises: the file `swap` exists only while its segments are, durably, either at their places or beside them under
//! their `.cleaned` names; running this again after a crash inside it gives the same. Without the file, what is called
//! `.cleaned` is a leftover and goes with the other leftovers.

use std::io;

use super::Loader;
use super::directory::remove_files;
use crate::compaction::path_aside;
use crate::disk::{Disk, DiskFile, Open};
use crate::layout::FileKind;
use crate::log::open::{OpenError, RecoveryReport};
use crate::log::swap::{SWAP, SWAP_KIND, SwapRecord, remove_snapshots};
use crate::sum::RECORD_BYTES;
use crate::{mark, small_file};

/// Call before anything in the directory is looked at.
pub(super) async fn finish<D: Disk>(
    loader: &Loader<D>,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    let path = loader.dir.join(SWAP);
    let read = small_file::read(&loader.disk, &path, SWAP_KIND, &loader.binding).await;
    let Some(payload) = loader.usable(SWAP, read, report)? else { return Ok(()) };
    let record = SwapRecord::decode(payload).ok_or_else(|| OpenError::Format {
        path: loader.disk.display(&path),
        why: "it makes no sense".to_owned(),
    })?;
    mark!("recovery finishes a swap of segments");
    // The sync of its name may have failed in the process before: then the kernel calls it clean though it is not durable
    // (`directory::renew_names`), and what follows here must not become durable without it.
    let bytes = small_file::encode(SWAP_KIND, &loader.binding, &record.encode());
    small_file::replace(&loader.disk, &path, bytes).await?;
    finish_names(loader, &record).await?;
    remove_snapshots(&loader.disk, &loader.dir, record.end).await?;
    loader.disk.sync_dir(&loader.dir).await?;
    loader.disk.remove(&path).await?;
    loader.disk.sync_dir(&loader.dir).await?;
    report.notes.push(format!("a cleaning of segment {} was finished", record.base));
    Ok(())
}

async fn finish_names<D: Disk>(loader: &Loader<D>, record: &SwapRecord) -> io::Result<()> {
    for kind in FileKind::OF_SEGMENT {
        let aside = path_aside(&loader.dir, kind, record.base);
        if loader.disk.exists(&aside) {
            loader.disk.rename(&aside, &loader.path(kind, record.base))?;
        }
    }
    // Only bytes that the disk lost can make a difference; then the old segments are all that is left.
    let log = loader.disk.open(&loader.path(FileKind::Log, record.base), Open::Read)?.len()?;
    let sum = loader.disk.open(&loader.path(FileKind::Sum, record.base), Open::Read)?.len()?;
    if log != u64::from(record.bytes) || sum != u64::from(record.records) * RECORD_BYTES as u64 {
        let why = format!("segment {} is not the one that a swap put there", record.base);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    for other in &record.others {
        remove_files(loader, *other).await?;
    }
    Ok(())
}
