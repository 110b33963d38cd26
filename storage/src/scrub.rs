//! Reading a whole log: `verify` counts and names the damage, `dump` shows every batch, a scrub looks for damage in the
//! background, a segment at a time and as slowly as its caller likes.
//!
//! Owns: one pass over the batches between start and end as they were when it began. Promises: bounded memory; damage is
//! a finding, not an error; a pass runs beside appends and flushes. Leaves out: opening (see `Log::open`), printing (cli).

use std::io;

use bytes::Bytes;
use dejaq_wire::ids::Offset;
use dejaq_wire::record::BatchHeader;

use crate::disk::Disk;
use crate::log::OffsetRange;
use crate::log::open::RecoveryReport;
use crate::mark;
use crate::reader::LogReader;
use crate::segment::{Files, add_range};
use crate::sum::{Entry, SumCodec};
use crate::walk::{BatchWalk, Step};

/// What a pass over a log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Segments passed.
    pub segments: u64,
    /// Good batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of good batches.
    pub bytes: u64,
    /// What is damaged, and how.
    pub damage: Vec<Damage>,
}

/// Offsets that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which.
    pub range: OffsetRange,
    /// The base of the segment.
    pub segment: Offset,
    /// In words.
    pub why: &'static str,
}

/// What a look at one segment found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Where to go on; `None` behind the last segment, or if the caller wants no more.
    pub next: Option<Offset>,
    /// Damage that was not known before.
    pub damage: Vec<Damage>,
}

/// Bytes between two calls of a scrub's pace.
const SCRUB_STRIDE: u64 = 256 << 10;

/// One finding of a pass.
#[derive(Debug, Clone)]
pub enum Visit {
    /// A good batch.
    Batch {
        /// Base of its segment.
        segment: Offset,
        /// Byte in the segment's file.
        position: u32,
        /// Its header.
        header: BatchHeader,
        /// All of it.
        bytes: Bytes,
    },
    /// Offsets that cannot be read.
    Damage(Damage),
}

/// A segment as it was at one moment.
pub(crate) struct Frozen<D: Disk> {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) bytes: u32,
    pub(crate) records: u32,
    pub(crate) files: Files<D>,
    pub(crate) codec: SumCodec,
    pub(crate) unwritten: Vec<Entry>,
}

impl<D: Disk> Frozen<D> {
    pub(crate) fn walk(&self) -> BatchWalk<'_, D::File> {
        BatchWalk::new(
            &self.codec,
            (&self.files.log, &self.files.sum),
            (1, self.records.max(1)),
            self.unwritten.clone(),
            (self.bytes, self.end),
            Some((self.base, 0)),
        )
    }
}

impl<D: Disk> LogReader<D> {
    /// The segment that holds `offset` or, if none does, the next one; `None` behind the last.
    pub(crate) fn freeze(&self, offset: Offset) -> io::Result<Option<Frozen<D>>> {
        let mut view = self.shared.lock();
        let at = view.segments.partition_point(|segment| segment.end <= offset);
        if at == view.segments.len() {
            return Ok(None);
        }
        let files = self.shared.files(&mut view, at)?;
        let segment = &view.segments[at];
        Ok(Some(Frozen {
            base: segment.base,
            end: segment.end,
            bytes: segment.bytes,
            records: segment.records,
            files,
            codec: self.shared.codec(segment.base),
            unwritten: segment.unwritten().copied().collect(),
        }))
    }

    /// Visits every batch from the start on, in order, verifying each (`dejaq log dump`). Stops when `visit` says false.
    ///
    /// # Errors
    /// The disk's, other than unreadable batches, which are findings.
    pub async fn visit(&self, mut visit: impl FnMut(Visit) -> bool + Send) -> io::Result<u64> {
        let start = self.start();
        let mut offset = start;
        let mut segments = 0;
        while let Some(frozen) = self.freeze(offset)? {
            segments += 1;
            let mut walk = frozen.walk();
            while let Some(step) = walk.next().await? {
                let found = match step {
                    // Below `offset` when a cleaner merged segments meanwhile.
                    Step::Batch { entry, .. } if entry.last < offset => continue,
                    Step::Batch { entry, header, bytes } => {
                        Visit::Batch { segment: frozen.base, position: entry.position, header, bytes }
                    }
                    Step::Damaged { to, .. } if to <= offset => continue,
                    Step::Damaged { from, to, why } => {
                        Visit::Damage(Damage { range: OffsetRange { from, to }, segment: frozen.base, why })
                    }
                };
                if !visit(found) {
                    return Ok(segments);
                }
            }
            offset = frozen.end;
        }
        Ok(segments)
    }

    /// Reads and verifies the whole log (`dejaq log verify`).
    ///
    /// # Errors
    /// The disk's.
    pub async fn scrub(&self) -> io::Result<ScrubReport> {
        let mut report = ScrubReport::default();
        let counted = &mut report;
        let segments = self
            .visit(move |found| {
                match found {
                    Visit::Batch { header, bytes, .. } => {
                        counted.batches += 1;
                        counted.records += u64::from(header.records.unsigned_abs());
                        counted.bytes += bytes.len() as u64;
                    }
                    Visit::Damage(damage) => counted.damage.push(damage),
                }
                true
            })
            .await?;
        report.segments = segments;
        Ok(report)
    }
}

impl<D: Disk> LogReader<D> {
    /// Verifies the segment that holds `from`, and remembers what is damaged: it is not served from then on. `pace` is told
    /// of bytes that were read, and may take its time; false ends the look. What a truncation or a new start changed under
    /// it is left to the next look.
    ///
    /// # Errors
    /// The disk's, other than unreadable batches, which are findings.
    pub async fn scrub_segment<F>(
        &self,
        from: Offset,
        mut pace: impl FnMut(u64) -> F + Send,
    ) -> io::Result<Scrubbed>
    where
        F: Future<Output = bool> + Send,
    {
        let generation = self.shared.lock().generation;
        let Some(frozen) = self.freeze(from)? else { return Ok(Scrubbed::default()) };
        let mut scrubbed = Scrubbed { next: Some(frozen.end), damage: Vec::new() };
        let (mut found, mut bytes_read) = (Vec::new(), 0);
        let mut walk = frozen.walk();
        while let Some(step) = walk.next().await? {
            match step {
                Step::Batch { bytes, .. } => bytes_read += bytes.len() as u64,
                Step::Damaged { from, to, why } => {
                    found.push(Damage { range: OffsetRange { from, to }, segment: frozen.base, why });
                }
            }
            if bytes_read >= SCRUB_STRIDE {
                let goes_on = pace(std::mem::take(&mut bytes_read)).await;
                if !goes_on || self.shared.lock().generation != generation {
                    scrubbed.next = scrubbed.next.filter(|_| goes_on);
                    break;
                }
            }
        }
        let goes_on = pace(bytes_read).await;
        scrubbed.next = scrubbed.next.filter(|_| goes_on);
        let mut view = self.shared.lock();
        if view.generation != generation {
            mark!("a scrub races with a truncation or a removal");
            return Ok(scrubbed);
        }
        let start = view.start;
        for damage in found.into_iter().filter(|damage| damage.range.to > start) {
            let is_known =
                |known: &OffsetRange| known.from <= damage.range.from && damage.range.to <= known.to;
            if !view.damaged.iter().any(is_known) {
                view.note_damage(damage.range);
                scrubbed.damage.push(damage);
            }
        }
        Ok(scrubbed)
    }
}

/// Adds what a whole pass finds to what is known to be damaged.
pub(crate) async fn note_damage<D: Disk>(
    reader: &LogReader<D>,
    report: &mut RecoveryReport,
) -> io::Result<()> {
    let found = reader.scrub().await?;
    let mut view = reader.shared.lock();
    for damage in found.damage {
        view.note_damage(damage.range);
        add_range(&mut report.damaged, damage.range);
    }
    report.scanned_bytes += found.bytes;
    Ok(())
}
