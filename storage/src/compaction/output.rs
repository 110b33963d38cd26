//! The segment that takes the place of others, written beside them.
//!
//! Owns: `<base>.log.cleaned`, `.sum.cleaned`, `.index.cleaned` and `.aborted.cleaned` until the swap. Promises: on return of
//! [`Output::finish`] content and names are durable; its side file says that everything below its end is durable, which a
//! recovery that looks into it relies on; memory is bounded by [`CHUNK_BYTES`] and one batch.
//! Leaves out: what goes in, and the swap (`log::swap`).

use std::io;
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use dejaq_wire::ids::Offset;
use dejaq_wire::record::BatchHeader;

use super::Cleaned;
use crate::aborted::{self, ABORTED_KIND, AbortedTxn};
use crate::binding::Binding;
use crate::config::MAX_SEGMENT_BYTES;
use crate::disk::{Disk, DiskFile};
use crate::index::{SparseIndex, Summary};
use crate::layout::{CLEANED, FileKind, with_suffix};
use crate::small_file;
use crate::sum::{Marker, RECORD_BYTES, Record, SumCodec};
use crate::walk::entry_of;

/// Bytes that wait for a write.
const CHUNK_BYTES: usize = 256 << 10;

/// See the module.
pub(super) struct Output<D: Disk> {
    disk: D,
    dir: PathBuf,
    binding: Binding,
    codec: SumCodec,
    base: Offset,
    start: Offset,
    log: D::File,
    sum: D::File,
    bytes: u32,
    records: u32,
    max_timestamp: i64,
    index: SparseIndex,
    /// Written next, at the end of the log file.
    parts: Vec<Bytes>,
    parts_bytes: usize,
    entries: BytesMut,
}

/// The name that a file of the new segment has before the swap.
pub(crate) fn path_aside(dir: &Path, kind: FileKind, base: Offset) -> PathBuf {
    with_suffix(&dir.join(kind.name(base)), CLEANED)
}

/// Removes what a cleaning that came to nothing left. What stays is swept by the next start.
pub(super) async fn discard<D: Disk>(disk: &D, dir: &Path, base: Offset) {
    for kind in FileKind::OF_SEGMENT {
        let path = path_aside(dir, kind, base);
        if disk.exists(&path) && disk.remove(&path).await.is_err() {
            tracing::warn!(path = %disk.display(&path).display(), "a leftover of the cleaner stays");
        }
    }
}

impl<D: Disk> Output<D> {
    /// Begins the segment `base`; `start` is the log's.
    pub(super) fn create(
        disk: D,
        dir: PathBuf,
        binding: Binding,
        (base, start): (Offset, Offset),
        (now_ms, index_interval): (i64, u32),
    ) -> io::Result<Output<D>> {
        let log = small_file::create_empty(&disk, &path_aside(&dir, FileKind::Log, base))?;
        let sum = small_file::create_empty(&disk, &path_aside(&dir, FileKind::Sum, base))?;
        let codec = SumCodec::new(&binding, base);
        let mut entries = BytesMut::new();
        entries.put_slice(&codec.encode(0, &Record::Header { created_ms: now_ms }));
        let marker = Marker { position: 0, end: base, start, max_timestamp: -1 };
        entries.put_slice(&codec.encode(1, &Record::Marker(marker)));
        Ok(Output {
            disk,
            dir,
            binding,
            codec,
            base,
            start,
            log,
            sum,
            bytes: 0,
            records: 2,
            max_timestamp: -1,
            index: SparseIndex::new(index_interval),
            parts: Vec::new(),
            parts_bytes: 0,
            entries,
        })
    }

    /// Appends a batch; returns the bytes that went to the disk.
    pub(super) fn push(&mut self, header: &BatchHeader, bytes: Bytes) -> io::Result<u64> {
        if u64::from(self.bytes) + bytes.len() as u64 > u64::from(MAX_SEGMENT_BYTES) {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "compressed anew, the segment is too large",
            ));
        }
        let entry = entry_of(&self.codec, header, &bytes, self.bytes);
        self.index.push(&entry, self.records, self.max_timestamp);
        self.entries.put_slice(&self.codec.encode(self.records, &Record::Batch(entry)));
        self.records += 1;
        self.bytes = entry.position_after();
        self.max_timestamp = self.max_timestamp.max(entry.max_timestamp);
        self.parts_bytes += bytes.len();
        self.parts.push(bytes);
        if self.parts_bytes < CHUNK_BYTES { Ok(0) } else { self.write() }
    }

    fn write(&mut self) -> io::Result<u64> {
        let parts = std::mem::take(&mut self.parts);
        let written = std::mem::take(&mut self.parts_bytes);
        if !parts.is_empty() {
            self.log.append_at(u64::from(self.bytes) - written as u64, &parts)?;
        }
        let entries = self.entries.split().freeze();
        let count = (entries.len() / RECORD_BYTES) as u64;
        if count > 0 {
            let first = u64::from(self.records) - count;
            self.sum.append_at(first * RECORD_BYTES as u64, &[entries])?;
        }
        Ok(written as u64)
    }

    /// Ends the segment at `end` and makes it durable under its names. `had_list`: a list of aborted transactions may lie
    /// where that of the new segment will, so that there must be one, be it empty, to take its place.
    pub(super) async fn finish(
        mut self,
        end: Offset,
        aborted: Vec<AbortedTxn>,
        had_list: bool,
    ) -> io::Result<Cleaned> {
        assert!(had_list || aborted.is_empty(), "{} transactions out of no list", aborted.len());
        assert!(self.bytes > 0, "a segment's last batch stays, so that segment {:?} has bytes", self.base);
        let marker =
            Marker { position: self.bytes, end, start: self.start, max_timestamp: self.max_timestamp };
        self.entries.put_slice(&self.codec.encode(self.records, &Record::Marker(marker)));
        self.records += 1;
        self.write()?;
        let summary = Summary {
            base: self.base,
            end,
            bytes: self.bytes,
            records: self.records,
            max_timestamp: self.max_timestamp,
            has_aborted: !aborted.is_empty(),
        };
        let index = small_file::create_empty(&self.disk, &path_aside(&self.dir, FileKind::Index, self.base))?;
        index.append_at(0, &[self.index.encode(&self.binding, &summary)])?;
        let mut files = vec![self.log, self.sum, index];
        if had_list {
            let payload = aborted::encode(self.base, &aborted);
            let path = path_aside(&self.dir, FileKind::Aborted, self.base);
            let file = small_file::create_empty(&self.disk, &path)?;
            file.append_at(0, &[small_file::encode(ABORTED_KIND, &self.binding, &payload)])?;
            files.push(file);
        }
        self.disk.sync_many(files).await?;
        self.disk.sync_dir(&self.dir).await?;
        Ok(Cleaned { summary, aborted, inputs: Vec::new(), generation: 0 })
    }
}
