//! A new segment, and snapshots of the producers.
//!
//! Owns: the order of a roll. Promises: a roll that fails leaves the old segment active and the log as it was; one that
//! failed once it began to make the new files is tried again before anything is appended, since recovery takes half a
//! segment for the end of the one before it; nothing in the new segment counts as flushed before its name is durable
//! (`Commit::names_dirty`, LOG-12); index files and snapshots are derived, so that losing or tearing one costs time and
//! nothing else.

use std::io;
use std::path::Path;

use bytes::Bytes;

use super::Log;
use super::append::AppendError;
use crate::aborted::{self, ABORTED_KIND};
use crate::disk::{Disk, DiskFile};
use crate::layout::FileKind;
use crate::producers::snapshot;
use crate::segment::{Files, OPEN_SEALED, Segment};
use crate::sum::{Marker, Record, SumCodec};
use crate::{mark, mutant, small_file};

/// Makes the two files of an empty segment. Not durable on return.
pub(crate) fn create_segment<D: Disk>(
    disk: &D,
    dir: &Path,
    codec: &SumCodec,
    segment: &mut Segment<D>,
    marker: Marker,
) -> io::Result<()> {
    let log = small_file::create_empty(disk, &dir.join(FileKind::Log.name(segment.base)))?;
    let sum = small_file::create_empty(disk, &dir.join(FileKind::Sum.name(segment.base)))?;
    let header = codec.encode(0, &Record::Header { created_ms: segment.created_ms });
    let marker = codec.encode(1, &Record::Marker(marker));
    sum.append_at(0, &[Bytes::copy_from_slice(&header), Bytes::copy_from_slice(&marker)])?;
    segment.records = 2;
    segment.files = Some(Files { log, sum });
    Ok(())
}

impl<D: Disk> Log<D> {
    /// Seals the active segment and begins a new one at the end of the log.
    pub(crate) fn roll(&mut self, now_ms: i64) -> Result<(), AppendError> {
        self.write_last_records().map_err(|error| self.write_failed(&error))?;
        let (end, start, files) = {
            let mut view = self.shared.lock();
            let at = view.segments.len() - 1;
            (view.end, view.start, self.shared.files(&mut view, at))
        };
        let files = files.map_err(|error| self.write_failed(&error))?;
        let mut fresh = Segment::empty(end, now_ms, self.config.index_interval_bytes);
        let codec = self.shared.codec(end);
        let marker = self.commit.marker_now(end, start);
        let made = create_segment(&self.shared.disk, &self.shared.dir, &codec, &mut fresh, marker);
        self.roll_owed = made.is_err();
        made.map_err(|error| self.write_failed(&error))?;
        self.commit.names_dirty = true;
        self.commit.side_dirty = true;
        self.commit.note_marked();
        let mut view = self.shared.lock();
        let old = view.active();
        assert!(old.base < end, "a segment of {:?} is rolled empty", old.base);
        let summary = old.summary();
        // What was made of a log that was read back around damage lacks something, and the next start would believe it.
        let index = old.index.take().filter(|_| !self.loaded_around);
        let aborted = aborted::file_of(old.base, &old.aborted).filter(|_| !self.loaded_around);
        if mutant!(55) {
            old.aborted.clear(); // the planted bug: the list lives as long as its segment is the active one
        }
        old.seal();
        view.segments.push(fresh);
        view.close_sealed(OPEN_SEALED);
        view.check();
        drop(view);
        self.commit.note_rolled(summary.base, files);
        if let Some(index) = index {
            let bytes = index.encode(&self.shared.binding, &summary);
            let path = self.shared.path(FileKind::Index, summary.base);
            match write_derived(&self.shared.disk, &path, bytes) {
                Ok(file) => self.commit.note_derived(summary.base, file),
                Err(_) => mark!("an index file could not be written"),
            }
        }
        if let Some(payload) = aborted {
            let bytes = small_file::encode(ABORTED_KIND, &self.shared.binding, &payload);
            match write_derived(&self.shared.disk, &self.shared.path(FileKind::Aborted, summary.base), bytes)
            {
                Ok(file) => self.commit.note_derived(summary.base, file),
                Err(_) => mark!("a list of aborted transactions could not be written"),
            }
        }
        self.snapshot_producers();
        Ok(())
    }

    /// Writes the producers' state at the end, if it is not written already. A failure costs a longer replay, no more.
    pub(crate) fn snapshot_producers(&mut self) {
        let end = self.end();
        self.unsnapped_bytes = 0;
        if self.snapped_end == Some(end) {
            return;
        }
        if self.loaded_around {
            mark!("no snapshot of producers that were read back around damage");
            return;
        }
        let payload = {
            let mut view = self.shared.lock();
            let active = view.active();
            snapshot::encode(&self.producers, end, active.base, &active.aborted)
        };
        if payload.len() as u64 >= small_file::MAX_PAYLOAD {
            mark!("producers are too many to be written down");
            return;
        }
        let bytes = small_file::encode(snapshot::PRODUCERS_KIND, &self.shared.binding, &payload);
        let path = self.shared.path(FileKind::Producers, end);
        match write_derived(&self.shared.disk, &path, bytes) {
            Ok(file) => {
                self.snapped_end = Some(end);
                self.commit.note_derived(end, file);
            }
            Err(_) => mark!("a snapshot of the producers could not be written"),
        }
    }
}

/// Writes a file that can be made again. Not durable on return; a torn one does not decode.
pub(crate) fn write_derived<D: Disk>(disk: &D, path: &Path, bytes: Bytes) -> io::Result<D::File> {
    let file = small_file::create_empty(disk, path)?;
    file.append_at(0, &[bytes])?;
    Ok(file)
}
