//! The segment of the durable point and those above it, batch by batch: keep, restore the side file, or cut.
//!
//! ```text
//!           X = durable point
//! ──────────┼──────────────────────── file length
//!  damage:  │ good record, good batch      keep
//!  reported,│ no record, good batch        keep, write its record (a process kill loses records, not batches)
//!  stepped  │ torn, rotten, not next       cut here, drop everything behind
//!  over     │
//! ```
//!
//! "No record, good batch" is kept only if the machine ran on: a record is bound to topic, partition and offset, a batch
//! is not. After a power cut a sector that never arrived may show what it held before, and the first batch of another
//! partition fits wherever a log is empty. (Found by `power_cut_replicated` seed 37 in simulation: LOG-4.)
//!
//! What is kept above the durable point is *written again* before it is synced. After a sync that failed the kernel
//! calls the pages clean though the device may hold their old content (fsyncgate; ATC'20); a process that is restarted
//! on the same kernel reads them from the cache, its own sync has nothing to write, and the next power cut takes what
//! was acknowledged on the strength of it. (Found by `failed_sync` seed 5 in simulation.)

use std::io;

use bytes::Bytes;
use dejaq_wire::ids::Offset;
use dejaq_wire::record::BatchHeader;

use super::directory::{Probe, last_marker};
use super::{Loader, Progress};
use crate::batch::batch_crc;
use crate::disk::{Disk, DiskFile};
use crate::layout::FileKind;
use crate::log::OffsetRange;
use crate::log::open::{Cut, OpenError};
use crate::segment::{Segment, add_range};
use crate::sum::{Entry, Marker, RECORD_BYTES, Record, SumCodec};
use crate::walk::{LogCursor, Miss, Patience, RecordWalk, entry_of};
use crate::{mark, mutant};

/// Restored entries held in memory before they are written.
const RESTORE_ENTRIES: usize = 4096;

/// Records looked at in one piece behind a marker.
const BACK_RECORDS: u32 = 256;

/// What lies at a position of the log file.
enum There {
    Batch(BatchHeader, Entry),
    /// A batch that ends at or after the offset that a truncation asks for.
    Truncated,
    Bad(&'static str),
}

/// How the scan of one segment ended.
enum Ending {
    /// At the end of the file.
    Whole,
    /// What follows is cut away.
    Cut(&'static str),
    /// The rest up to the durable point is lost.
    Lost,
}

struct Scan<'a, D: Disk> {
    probe: &'a Probe<D>,
    codec: &'a SumCodec,
    /// First offset of the next segment.
    limit: Option<Offset>,
    durable: Offset,
    intent: Option<Offset>,
    segment: Segment<D>,
    /// From here on the side file is written anew.
    restoring: bool,
    /// Where the first batch above the durable point begins.
    tail_position: Option<u32>,
    same_boot: bool,
    /// Offsets may have gaps.
    gaps: bool,
}

/// Bytes that are written again at a time.
const REWRITE_BYTES: usize = 1 << 20;

/// Writes `[from, to)` of a file again as it is, so that the next sync covers it whatever the last one did.
async fn write_again<F: DiskFile>(file: &F, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let bytes = file.read_at(at, REWRITE_BYTES.min((to - at) as usize)).await?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.append_at(at, std::slice::from_ref(&bytes))?;
        at += bytes.len() as u64;
    }
    Ok(())
}

/// Whether a segment's file is not what its side file says up to the end, so that nothing can be appended to it.
pub(super) fn is_unappendable<D: Disk>(segment: &Segment<D>) -> bool {
    segment.index.is_none()
}

/// Scans one segment and adds it to the progress.
pub(super) async fn scan<D: Disk>(
    loader: &Loader<D>,
    probe: &Probe<D>,
    limit: Option<Offset>,
    durable: Offset,
    progress: &mut Progress<D>,
) -> Result<(), OpenError> {
    let codec = loader.codec(probe.base);
    let mut segment = Segment::empty(probe.base, loader.now_ms, loader.config.index_interval_bytes);
    segment.files = Some(probe.files.clone());
    segment.is_aborted_known = false;
    let index = loader.path(FileKind::Index, probe.base);
    if loader.disk.exists(&index) {
        // It may speak of batches that are cut now; a later seal would write it under the same name and length.
        loader.disk.remove(&index).await?;
        progress.touched = true;
    }
    let from = starting_point(loader, probe, &codec, durable, &mut segment).await?;
    let intent = progress.intent;
    let mut scan = Scan {
        probe,
        codec: &codec,
        limit,
        durable,
        intent,
        segment,
        restoring: false,
        tail_position: None,
        same_boot: loader.same_boot,
        gaps: loader.config.gaps,
    };
    let records = scan.begin(loader.now_ms, progress)?;
    let mut log = LogCursor::new(&probe.files.log, u64::from(probe.log_len));
    let mut walk = RecordWalk::new(&probe.files.sum, &codec, from.min(records), records, Patience::Wait);
    let before = scan.segment.bytes;
    let ending = scan.run(&mut walk, &mut log, progress).await?;
    progress.report.scanned_bytes += log.read_bytes;
    progress.touched |= scan.segment.bytes > before && scan.segment.end > durable;
    let tail = scan.tail_position.map(u64::from);
    scan.end(ending, progress)?;
    let segment = progress.segments.last().expect("the scan added one");
    if let Some(tail) = tail.filter(|tail| *tail < u64::from(segment.bytes)) {
        mark!("recovery writes an accepted tail again");
        write_again(&probe.files.log, tail, u64::from(segment.bytes)).await?;
        let records = (from.min(records), segment.records);
        let position = |record: u32| u64::from(record) * RECORD_BYTES as u64;
        write_again(&probe.files.sum, position(records.0), position(records.1)).await?;
        progress.touched = true;
    }
    Ok(())
}

/// When a segment was made, by its side file.
pub(super) async fn created<D: Disk>(loader: &Loader<D>, probe: &Probe<D>) -> Result<Option<i64>, OpenError> {
    let codec = loader.codec(probe.base);
    let mut front = RecordWalk::new(&probe.files.sum, &codec, 0, probe.records.min(1), Patience::Wait);
    match front.next().await.map_err(io::Error::from)? {
        Some((_, Ok(Record::Header { created_ms }))) => Ok(Some(created_ms.min(loader.now_ms))),
        Some(_) | None => Ok(None),
    }
}

/// Continues behind the last marker that can be believed; returns the first record to look at.
async fn starting_point<D: Disk>(
    loader: &Loader<D>,
    probe: &Probe<D>,
    codec: &SumCodec,
    durable: Offset,
    segment: &mut Segment<D>,
) -> Result<u32, OpenError> {
    if let Some(created_ms) = created(loader, probe).await? {
        segment.created_ms = created_ms;
    }
    let Some((ordinal, marker)) = last_marker(loader, probe, durable).await? else { return Ok(1) };
    let before = marker.end <= probe.base && marker.position == 0;
    let inside = marker.end > probe.base && marker.position > 0 && marker.position <= probe.log_len;
    if mutant!(22) || !(before || inside) {
        return Ok(1);
    }
    if inside {
        segment.bytes = marker.position;
        segment.end = marker.end;
        segment.max_timestamp = marker.max_timestamp;
        segment.written_max_timestamp = marker.max_timestamp;
    }
    let from = first_above(probe, codec, ordinal, marker.end).await?;
    segment.records = from;
    Ok(from)
}

/// The first record that may speak of a batch at or above `end`, the durable point of the marker at `ordinal`. Records
/// that did not wait for a flush (`Log::write_side_file_in_time`) stand in front of the marker of that flush.
async fn first_above<D: Disk>(
    probe: &Probe<D>,
    codec: &SumCodec,
    ordinal: u32,
    end: Offset,
) -> Result<u32, OpenError> {
    let (mut first, mut high) = (ordinal + 1, ordinal);
    while high > 1 {
        let low = high.saturating_sub(BACK_RECORDS).max(1);
        let mut walk = RecordWalk::new(&probe.files.sum, codec, low, high, Patience::Wait);
        let mut lowest = None;
        let mut is_below = false;
        while let Some((at, record)) = walk.next().await.map_err(io::Error::from)? {
            let Ok(Record::Batch(entry)) = record else { continue };
            if entry.base >= end {
                lowest = lowest.or(Some(at));
            } else {
                (lowest, is_below) = (None, true);
            }
        }
        first = lowest.unwrap_or(first);
        if is_below || lowest.is_none() {
            break;
        }
        high = low;
    }
    Ok(first)
}

impl<D: Disk> Scan<'_, D> {
    /// Makes the front of the side file good; returns how many of its records can be looked at.
    fn begin(&mut self, now_ms: i64, progress: &mut Progress<D>) -> Result<u32, OpenError> {
        if self.segment.records > 1 {
            return Ok(self.probe.records);
        }
        let header = self.codec.encode(0, &Record::Header { created_ms: now_ms });
        let sum = &self.probe.files.sum;
        if self.probe.records == 0 {
            mark!("a segment without a side file gets one");
            sum.truncate(0)?;
            let end = self.durable.min(self.probe.base);
            let start = progress.segments.first().map_or(self.probe.base, |first| first.base);
            let marker = Marker { position: 0, end, start: start.min(end), max_timestamp: -1 };
            let marker = self.codec.encode(1, &Record::Marker(marker));
            sum.append_at(0, &[Bytes::copy_from_slice(&header), Bytes::copy_from_slice(&marker)])?;
            progress.touched = true;
            self.segment.records = 2;
            return Ok(2);
        }
        self.segment.records = 1;
        Ok(self.probe.records)
    }

    async fn run(
        &mut self,
        walk: &mut RecordWalk<'_, D::File>,
        log: &mut LogCursor<'_, D::File>,
        progress: &mut Progress<D>,
    ) -> Result<Ending, OpenError> {
        let mut held = None;
        loop {
            if held.is_none() && !self.restoring {
                held = self.next_record(walk).await?;
            }
            let (position, offset) = (self.segment.bytes, self.segment.end);
            let record = held.filter(|(_, entry)| entry.position == position && entry.base >= offset);
            let lossy = offset < self.durable;
            if !lossy {
                self.tail_position.get_or_insert(position);
            }
            if position >= self.probe.log_len && !lossy {
                return Ok(if position > self.probe.log_len { Ending::Lost } else { Ending::Whole });
            }
            let known = record.map(|(_, entry)| entry.base);
            match self.look(log, position, offset, known).await? {
                There::Truncated => {
                    mark!("recovery finishes a truncation");
                    return Ok(Ending::Cut("a truncation was under way"));
                }
                There::Batch(header, entry) if record.is_some_and(|(_, known)| known == entry) => {
                    let (ordinal, entry) = held.take().expect("it was just compared");
                    self.keep(ordinal, entry);
                    progress.see_epoch(header.leader_epoch, entry.base);
                }
                There::Batch(..) if record.is_none() && !lossy && !self.same_boot => {
                    mark!("a batch without a record is not believed after a power cut");
                    return Ok(Ending::Cut(
                        "it has no record, and nothing says that the machine ran on since",
                    ));
                }
                There::Batch(header, entry) if record.is_none() && !lossy => {
                    self.restore(entry, progress)?;
                    held = None; // whatever record came later is cut off and written anew
                    progress.see_epoch(header.leader_epoch, entry.base);
                }
                There::Batch(..) if !lossy => return Ok(Ending::Cut("it differs from its record")),
                There::Bad(why) if !lossy => return Ok(Ending::Cut(why)),
                There::Batch(..) | There::Bad(_) => {
                    let Some((ordinal, entry)) = held else { return Ok(Ending::Lost) };
                    mark!("recovery steps over damage below the durable point");
                    if record.is_some() {
                        let range = OffsetRange { from: entry.base, to: entry.last.next() };
                        add_range(&mut progress.damaged, range);
                        self.keep(ordinal, entry);
                        held = None;
                    } else if entry.base > offset && entry.position > position {
                        add_range(&mut progress.damaged, OffsetRange { from: offset, to: entry.base });
                        self.segment.bytes = entry.position;
                        self.segment.end = entry.base;
                    } else {
                        return Ok(Ending::Lost);
                    }
                }
            }
        }
    }

    /// The next entry that can be about the rest of the file.
    async fn next_record(
        &self,
        walk: &mut RecordWalk<'_, D::File>,
    ) -> Result<Option<(u32, Entry)>, OpenError> {
        while let Some((ordinal, entry)) = walk.next_entry().await.map_err(io::Error::from)? {
            if entry.position >= self.segment.bytes {
                return Ok(Some((ordinal, entry)));
            }
        }
        Ok(None)
    }

    async fn look(
        &self,
        log: &mut LogCursor<'_, D::File>,
        position: u32,
        offset: Offset,
        known: Option<Offset>,
    ) -> Result<There, OpenError> {
        let left = self.probe.log_len.saturating_sub(position) as usize;
        let front = match log.get(u64::from(position), BatchHeader::BYTES.min(left)).await {
            Ok(front) => front,
            Err(Miss::Io(_)) if offset < self.durable => return Ok(There::Bad("the disk cannot read it")),
            Err(miss) => return Err(io::Error::from(miss).into()),
        };
        let Ok(header) = BatchHeader::parse(&front) else { return Ok(There::Bad("no batch header")) };
        // A gap is compaction's, and only where the topic may have one or a record below the durable point says so.
        let vouched = self.gaps || (offset < self.durable && known == Some(header.base_offset));
        let follows = header.base_offset == offset || (header.base_offset > offset && vouched);
        if self.intent.is_some_and(|to| follows && header.last_offset() >= to) {
            return Ok(There::Truncated);
        }
        if header.batch_bytes() > left {
            return Ok(There::Bad("the file ends inside a batch"));
        }
        if !follows {
            return Ok(There::Bad("it does not follow the batch before it"));
        }
        if self.limit.is_some_and(|limit| header.next_offset() > limit)
            || header.next_offset().since(self.probe.base) > i64::from(i32::MAX)
        {
            return Ok(There::Bad("it reaches into the next segment"));
        }
        let bytes = match log.get(u64::from(position), header.batch_bytes()).await {
            Ok(bytes) => bytes,
            Err(Miss::Io(_)) if offset < self.durable => return Ok(There::Bad("the disk cannot read it")),
            Err(miss) => return Err(io::Error::from(miss).into()),
        };
        let believed = mutant!(21) && header.batch_bytes() == left;
        if !believed && batch_crc(&bytes) != header.crc {
            return Ok(There::Bad("crc mismatch"));
        }
        Ok(There::Batch(header, entry_of(self.codec, &header, &bytes, position)))
    }

    /// The batch's record is in the side file at `ordinal`.
    fn keep(&mut self, ordinal: u32, entry: Entry) {
        self.segment.end = entry.base; // equal, unless compaction left a gap that the record vouches for
        self.segment.push(entry);
        self.segment.note_written(ordinal);
    }

    /// The batch has no record yet.
    fn restore(&mut self, entry: Entry, progress: &mut Progress<D>) -> Result<(), OpenError> {
        if !self.restoring {
            mark!("recovery restores records of a tail");
            self.restoring = true;
            progress.touched = true;
            self.probe.files.sum.truncate(u64::from(self.segment.records) * RECORD_BYTES as u64)?;
        }
        self.segment.push(entry);
        if self.segment.unwritten_count() >= RESTORE_ENTRIES {
            self.write_restored()?;
        }
        Ok(())
    }

    fn write_restored(&mut self) -> Result<(), OpenError> {
        let (bytes, first) = self.segment.records_to_write(self.codec, None);
        let position = u64::from(self.segment.records) * RECORD_BYTES as u64;
        self.probe.files.sum.append_at(position, &[bytes])?;
        self.segment.note_written(first);
        Ok(())
    }

    fn end(mut self, ending: Ending, progress: &mut Progress<D>) -> Result<(), OpenError> {
        if self.segment.unwritten_count() > 0 {
            self.write_restored()?;
        }
        match ending {
            Ending::Whole => self.drop_records(progress)?,
            Ending::Cut(why) => {
                self.drop_records(progress)?;
                self.probe.files.log.truncate(u64::from(self.segment.bytes))?;
                progress.touched = true;
                if progress.intent.is_none() {
                    mark!("recovery cuts a torn tail");
                }
                let bytes = u64::from(self.probe.log_len - self.segment.bytes);
                let cut = Cut { from: self.segment.end, bytes, reason: why.to_owned() };
                progress.report.cut.get_or_insert(cut);
            }
            Ending::Lost => {
                mark!("the end of the durable log is lost");
                let durable = self.durable.min(self.limit.unwrap_or(self.durable));
                let to = durable.max(self.segment.end);
                if self.segment.end < to {
                    add_range(&mut progress.damaged, OffsetRange { from: self.segment.end, to });
                }
                self.segment.end = to;
                self.segment.records = self.probe.records.max(self.segment.records);
                self.segment.seal(); // not appendable: a new segment begins at the durable point
            }
        }
        progress.segments.push(self.segment);
        Ok(())
    }

    /// Records behind the last batch speak of nothing.
    fn drop_records(&self, progress: &mut Progress<D>) -> Result<(), OpenError> {
        let after_markers = self.probe.records > self.segment.records || self.probe.ragged;
        if after_markers && !self.restoring {
            self.probe.files.sum.truncate(u64::from(self.segment.records) * RECORD_BYTES as u64)?;
            progress.touched = true;
        }
        Ok(())
    }
}
