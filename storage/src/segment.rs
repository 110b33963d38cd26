//! One segment: a run of batches in one file, its side file, its sparse index. And the view that readers share.
//!
//! Owns: [`Segment`] (what is known of one), [`View`] (all of a log that readers may see) and the short mutex around it.
//! Promises: the mutex is held for memory work and opening a file, never across an await; `generation` changes whenever
//! bytes that a reader may have located stopped being true, so that it can look again. Leaves out: deciding anything.
//!
//! ```text
//! .log  [batch][batch][batch][batch]        bytes
//! .sum  [h][e][e][m][e]                     records written; the entry of the 4th batch is in `recent`, not written yet
//!                       recent: [e][e]      from `unwritten` on: to be written by the next flush
//! ```

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{BufMut, Bytes, BytesMut};
use dejaq_wire::ids::Offset;

use crate::aborted::{self, AbortedTxn};
use crate::binding::Binding;
use crate::disk::{Disk, Open};
use crate::epochs::Epochs;
use crate::index::{SparseIndex, Summary};
use crate::layout::FileKind;
use crate::log::OffsetRange;
use crate::sum::{Entry, Marker, RECORD_BYTES, Record, SumCodec};
use crate::{mark, mutant};

/// Entries of the newest batches kept in memory beside the unwritten ones, so that tail reads touch one file only.
pub(crate) const RECENT_ENTRIES: usize = 128;
/// Sealed segments of one log whose files stay open.
pub(crate) const OPEN_SEALED: usize = 2;
/// Index entries that an idle log keeps: 768 bytes.
const IDLE_PLACES: usize = 32;
/// Damaged ranges of one log told apart.
const MAX_DAMAGED: usize = 256;

/// The open files of a segment.
#[derive(Clone)]
pub(crate) struct Files<D: Disk> {
    pub(crate) log: D::File,
    pub(crate) sum: D::File,
}

/// What is known of one segment.
pub(crate) struct Segment<D: Disk> {
    pub(crate) base: Offset,
    /// `end >= base`
    pub(crate) end: Offset,
    /// Length of the log file that is ours; anything behind it is not.
    pub(crate) bytes: u32,
    /// Records in the side file, header and markers included.
    pub(crate) records: u32,
    /// Largest timestamp, or -1.
    pub(crate) max_timestamp: i64,
    /// The same over the entries that are in the side file.
    pub(crate) written_max_timestamp: i64,
    /// Wall clock of its creation; 0: not looked up, because nobody asks.
    pub(crate) created_ms: i64,
    /// Entries at the end of the active segment; empty in sealed ones.
    pub(crate) recent: VecDeque<Entry>,
    /// `recent[unwritten..]` are not in the side file yet; `unwritten <= recent.len()`.
    pub(crate) unwritten: usize,
    /// `None`: not loaded (sealed) or dropped.
    pub(crate) index: Option<Arc<SparseIndex>>,
    pub(crate) files: Option<Files<D>>,
    /// Transactions whose abort marker lies in this segment, in the order of the markers.
    pub(crate) aborted: Vec<AbortedTxn>,
    /// False only inside of recovery: `aborted` is to be made again from the log.
    pub(crate) is_aborted_known: bool,
}

impl<D: Disk> Segment<D> {
    /// An empty segment, its files just made.
    pub(crate) fn empty(base: Offset, created_ms: i64, index_interval: u32) -> Segment<D> {
        Segment {
            base,
            end: base,
            bytes: 0,
            records: 0,
            max_timestamp: -1,
            written_max_timestamp: -1,
            created_ms,
            recent: VecDeque::new(),
            unwritten: 0,
            index: Some(Arc::new(SparseIndex::new(index_interval))),
            files: None,
            aborted: Vec::new(),
            is_aborted_known: true,
        }
    }

    /// Takes a batch in that was just appended to the log file.
    pub(crate) fn push(&mut self, entry: Entry) {
        assert!(entry.position == self.bytes, "batch at {} of {} bytes", entry.position, self.bytes);
        assert!(entry.base >= self.end, "batch {:?} before the end {:?}", entry.base, self.end);
        self.bytes = entry.position_after();
        self.end = entry.last.next();
        self.max_timestamp = self.max_timestamp.max(entry.max_timestamp);
        self.recent.push_back(entry);
    }

    /// The entries that the side file lacks.
    pub(crate) fn unwritten(&self) -> impl Iterator<Item = &Entry> {
        self.recent.iter().skip(self.unwritten)
    }

    pub(crate) fn unwritten_count(&self) -> usize {
        assert!(self.unwritten <= self.recent.len(), "{} of {}", self.unwritten, self.recent.len());
        self.recent.len() - self.unwritten
    }

    /// The unwritten entries are in the side file now, the first one at `ordinal`.
    pub(crate) fn note_written(&mut self, mut ordinal: u32) {
        let mut index = self.index.as_mut().map(Arc::make_mut);
        for entry in self.recent.iter().skip(self.unwritten) {
            if let Some(index) = index.as_mut() {
                // M206: what is newest before a place counts the batch at that place.
                let own = if mutant!(206) { entry.max_timestamp } else { -1 };
                index.push(entry, ordinal, self.written_max_timestamp.max(own));
            }
            self.written_max_timestamp = self.written_max_timestamp.max(entry.max_timestamp);
            ordinal += 1;
        }
        self.records = ordinal;
        self.unwritten = self.recent.len();
        let spare = self.recent.len().saturating_sub(RECENT_ENTRIES);
        self.recent.drain(..spare);
        self.unwritten -= spare;
    }

    /// Offset after the last batch that the side file knows.
    pub(crate) fn written_end(&self) -> Offset {
        self.recent.get(self.unwritten).map_or(self.end, |entry| entry.base)
    }

    /// The side file's records for everything unwritten, after a marker if one is due; and the ordinal of the first entry.
    pub(crate) fn records_to_write(&self, codec: &SumCodec, marker: Option<Marker>) -> (Bytes, u32) {
        let count = self.unwritten_count() + usize::from(marker.is_some());
        let mut bytes = BytesMut::with_capacity(count * RECORD_BYTES);
        let mut ordinal = self.records;
        if let Some(marker) = marker {
            bytes.put_slice(&codec.encode(ordinal, &Record::Marker(marker)));
            ordinal += 1;
        }
        let first = ordinal;
        for entry in self.unwritten() {
            bytes.put_slice(&codec.encode(ordinal, &Record::Batch(*entry)));
            ordinal += 1;
        }
        (bytes.freeze(), first)
    }

    /// No more appends: what only the active segment needs is given back.
    pub(crate) fn seal(&mut self) {
        assert!(self.unwritten_count() == 0, "{} entries unwritten", self.unwritten_count());
        self.recent = VecDeque::new();
        self.unwritten = 0;
        self.index = None;
    }

    /// Gives back what can be had again from the files.
    pub(crate) fn shed(&mut self) {
        let written = self.unwritten;
        self.recent.drain(..written);
        self.recent.shrink_to_fit();
        self.unwritten = 0;
        self.files = None;
        if let Some(index) = &mut self.index {
            Arc::make_mut(index).coarsen_to(IDLE_PLACES);
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            base: self.base,
            end: self.end,
            bytes: self.bytes,
            records: self.records,
            max_timestamp: self.max_timestamp,
            has_aborted: !self.is_aborted_known || !self.aborted.is_empty(),
        }
    }
}

/// Everything of a log that readers may see.
pub(crate) struct View<D: Disk> {
    /// `start <= flushed <= end`, except that a start may lie above `flushed` until the next flush.
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) flushed: Offset,
    /// Sorted by base; the last one is the active one; never empty.
    pub(crate) segments: Vec<Segment<D>>,
    pub(crate) epochs: Epochs,
    /// Sorted, apart from each other.
    pub(crate) damaged: Vec<OffsetRange>,
    /// Counts truncations and removals.
    pub(crate) generation: u64,
}

impl<D: Disk> View<D> {
    pub(crate) fn active(&mut self) -> &mut Segment<D> {
        self.segments.last_mut().expect("a log has an active segment")
    }

    /// The segment that holds `offset`, or would: the last one that begins at or before it.
    pub(crate) fn segment_of(&self, offset: Offset) -> Option<usize> {
        self.segments.partition_point(|segment| segment.base <= offset).checked_sub(1)
    }

    /// Closes sealed segments but the newest `keep` of those that are open. What no sync has covered keeps a handle elsewhere
    /// (`Commit::rolled`), so that a failed write-back is still told.
    pub(crate) fn close_sealed(&mut self, keep: usize) {
        let active = self.segments.len() - 1;
        let open = self.segments[..active].iter_mut().rev().filter(|segment| segment.files.is_some());
        for segment in open.skip(keep) {
            segment.files = None;
            segment.index = None;
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.bytes)).sum()
    }

    /// Aborted transactions with records in `from..upper`, in the order of their first records.
    pub(crate) fn aborted(&self, from: Offset, upper: Offset) -> Vec<AbortedTxn> {
        let mut found = Vec::new();
        let first = self.segment_of(from).unwrap_or(0);
        for segment in &self.segments[first..] {
            if aborted::choose(&segment.aborted, from, upper, &mut found) {
                break;
            }
        }
        found.sort_unstable_by_key(|txn| txn.first);
        found
    }

    /// The first known damage that ends after `offset`.
    pub(crate) fn damage_from(&self, offset: Offset) -> Option<OffsetRange> {
        self.damaged.iter().find(|range| range.to > offset).copied()
    }

    pub(crate) fn note_damage(&mut self, range: OffsetRange) {
        assert!(range.from < range.to, "damage {:?}..{:?}", range.from, range.to);
        mark!("damage is noted");
        add_range(&mut self.damaged, range);
    }

    /// These offsets are whole again.
    pub(crate) fn note_mended(&mut self, mended: OffsetRange) {
        let mut left = Vec::with_capacity(self.damaged.len() + 1);
        for range in self.damaged.drain(..) {
            let before = OffsetRange { from: range.from, to: range.to.min(mended.from) };
            let behind = OffsetRange { from: range.from.max(mended.to), to: range.to };
            left.extend([before, behind].into_iter().filter(|part| part.from < part.to));
        }
        self.damaged = left;
    }

    /// O(1) part of LOG-2.
    pub(crate) fn check(&self) {
        assert!(self.start <= self.end, "start {:?} above end {:?}", self.start, self.end);
        assert!(self.flushed <= self.end, "flushed {:?} above end {:?}", self.flushed, self.end);
        let active = self.segments.last().expect("a log has an active segment");
        assert!(active.base <= self.end, "active segment {:?} above end {:?}", active.base, self.end);
    }
}

/// Keeps ranges sorted, apart, and at most [`MAX_DAMAGED`]: beyond that, neighbours are taken together.
pub(crate) fn add_range(ranges: &mut Vec<OffsetRange>, new: OffsetRange) {
    ranges.push(new);
    ranges.sort_unstable();
    let mut merged: Vec<OffsetRange> = Vec::with_capacity(ranges.len());
    for range in ranges.drain(..) {
        match merged.last_mut() {
            Some(last) if range.from <= last.to => last.to = last.to.max(range.to),
            Some(_) | None => merged.push(range),
        }
    }
    *ranges = merged;
    while ranges.len() > MAX_DAMAGED {
        let last = ranges.pop().expect("more than the limit");
        ranges.last_mut().expect("the limit is not zero").to = last.to;
    }
}

/// What writer and readers share.
pub(crate) struct Shared<D: Disk> {
    pub(crate) disk: D,
    pub(crate) dir: PathBuf,
    pub(crate) binding: Binding,
    view: Mutex<View<D>>,
}

impl<D: Disk> Shared<D> {
    pub(crate) fn new(disk: D, dir: PathBuf, binding: Binding, view: View<D>) -> Arc<Shared<D>> {
        view.check();
        Arc::new(Shared { disk, dir, binding, view: Mutex::new(view) })
    }

    /// Never held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, View<D>> {
        self.view.lock().expect("no one panics while holding the view")
    }

    pub(crate) fn path(&self, kind: FileKind, offset: Offset) -> PathBuf {
        self.dir.join(kind.name(offset))
    }

    pub(crate) fn codec(&self, base: Offset) -> SumCodec {
        SumCodec::new(&self.binding, base)
    }

    /// The files of a segment, opened if they are not; at most [`OPEN_SEALED`] sealed segments stay open.
    pub(crate) fn files(&self, view: &mut View<D>, at: usize) -> io::Result<Files<D>> {
        if let Some(files) = &view.segments[at].files {
            return Ok(files.clone());
        }
        let files = open_files(&self.disk, &self.dir, view.segments[at].base)?;
        view.close_sealed(OPEN_SEALED - 1);
        view.segments[at].files = Some(files.clone());
        Ok(files)
    }
}

/// Opens both files of a segment for writing.
pub(crate) fn open_files<D: Disk>(disk: &D, dir: &Path, base: Offset) -> io::Result<Files<D>> {
    let log = disk.open(&dir.join(FileKind::Log.name(base)), Open::Write)?;
    let sum = disk.open(&dir.join(FileKind::Sum.name(base)), Open::Write)?;
    Ok(Files { log, sum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_ranges_stay_sorted_and_apart() {
        let mut ranges = Vec::new();
        for (from, to) in [(10, 12), (0, 2), (12, 13), (1, 4), (20, 21)] {
            add_range(&mut ranges, OffsetRange { from: Offset(from), to: Offset(to) });
        }
        let plain: Vec<_> = ranges.iter().map(|range| (range.from.0, range.to.0)).collect();
        assert_eq!(plain, [(0, 4), (10, 13), (20, 21)]);
    }
}
