//! Reading a segment through its side file: seek to an offset, step over entries, verify batches.
//!
//! Owns: [`fetch`] (one read, waiting or not), [`RecordWalk`] (records one by one, in bounded chunks), [`seek`], and
//! [`verify_batch`]. Promises: memory is bounded by the chunk, whatever the file says; a batch that verifies has its own
//! CRC right and the bytes outside of it as we wrote them for this partition, segment and offset (LOG-5).
//! Leaves out: what to do about damage. Called by readers, recovery, scrub and the deep check.

use std::io;

use bytes::Bytes;
use dejaq_wire::ids::Offset;
use dejaq_wire::record::BatchHeader;

use crate::batch::batch_crc;
use crate::disk::DiskFile;
use crate::sum::{BadRecord, Entry, RECORD_BYTES, Record, SumCodec};

const FIRST_CHUNK: u32 = 16;
const LAST_CHUNK: u32 = 2048;
/// Below this distance, stepping is as cheap as probing.
const SEEK_DISTANCE: u32 = 64;
const PROBE_RECORDS: u32 = 8;
const READ_AHEAD: usize = 256 << 10;

/// Whether a read may wait for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    Now,
    Wait,
}

/// Why there are no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Miss {
    /// Only with [`Patience::Now`].
    Cold,
    Io(io::ErrorKind),
}

impl From<Miss> for io::Error {
    fn from(miss: Miss) -> io::Error {
        match miss {
            Miss::Cold => io::ErrorKind::WouldBlock.into(),
            Miss::Io(kind) => kind.into(),
        }
    }
}

/// Reads up to `len` bytes; shorter only at the end of the file.
pub(crate) async fn fetch<F: DiskFile>(
    file: &F,
    at: u64,
    len: usize,
    patience: Patience,
) -> Result<Bytes, Miss> {
    match file.try_read_at(at, len).map_err(|error| Miss::Io(error.kind()))? {
        Some(bytes) => Ok(bytes),
        None if patience == Patience::Now => Err(Miss::Cold),
        None => file.read_at(at, len).await.map_err(|error| Miss::Io(error.kind())),
    }
}

/// Steps over the records of a side file.
pub(crate) struct RecordWalk<'a, F> {
    file: &'a F,
    codec: &'a SumCodec,
    patience: Patience,
    next: u32,
    /// Exclusive.
    end: u32,
    chunk: Bytes,
    /// Ordinal of the first record in `chunk`.
    chunk_at: u32,
    chunk_size: u32,
}

impl<'a, F: DiskFile> RecordWalk<'a, F> {
    /// Records `from..end`.
    pub(crate) fn new(file: &'a F, codec: &'a SumCodec, from: u32, end: u32, patience: Patience) -> Self {
        let chunk_size = FIRST_CHUNK;
        RecordWalk { file, codec, patience, next: from, end, chunk: Bytes::new(), chunk_at: from, chunk_size }
    }

    /// The next record with its ordinal; `None` behind the last one, or where the file ends early.
    pub(crate) async fn next(&mut self) -> Result<Option<(u32, Result<Record, BadRecord>)>, Miss> {
        if self.next >= self.end {
            return Ok(None);
        }
        let mut at = (self.next - self.chunk_at) as usize * RECORD_BYTES;
        if at + RECORD_BYTES > self.chunk.len() {
            let count = self.chunk_size.min(self.end - self.next);
            let position = u64::from(self.next) * RECORD_BYTES as u64;
            self.chunk = fetch(self.file, position, count as usize * RECORD_BYTES, self.patience).await?;
            self.chunk_at = self.next;
            self.chunk_size = (self.chunk_size * 4).min(LAST_CHUNK);
            at = 0;
            if self.chunk.len() < RECORD_BYTES {
                return Ok(None);
            }
        }
        let bytes = self.chunk[at..at + RECORD_BYTES].try_into().expect("a record's length");
        let ordinal = self.next;
        self.next += 1;
        Ok(Some((ordinal, self.codec.decode(ordinal, bytes))))
    }

    /// The next good batch record.
    pub(crate) async fn next_entry(&mut self) -> Result<Option<(u32, Entry)>, Miss> {
        while let Some((ordinal, record)) = self.next().await? {
            if let Ok(Record::Batch(entry)) = record {
                return Ok(Some((ordinal, entry)));
            }
        }
        Ok(None)
    }
}

/// An ordinal in `low..high` from which stepping finds the first batch that ends at or after `offset`.
///
/// The batch at `low` must begin at or before `offset`, if there is one.
pub(crate) async fn seek<F: DiskFile>(
    file: &F,
    codec: &SumCodec,
    (mut low, mut high): (u32, u32),
    offset: Offset,
    patience: Patience,
) -> Result<u32, Miss> {
    while high.saturating_sub(low) > SEEK_DISTANCE {
        let middle = low + (high - low) / 2;
        let mut probe = RecordWalk::new(file, codec, middle, (middle + PROBE_RECORDS).min(high), patience);
        match probe.next_entry().await? {
            Some((ordinal, entry)) if entry.base <= offset => low = ordinal,
            Some(_) => high = middle,
            None => break, // a run of bad records: step over it from `low`
        }
        assert!(low < high, "seek {low}..{high}");
    }
    Ok(low)
}

/// Checks one batch against its record: the bytes outside its CRC by our sum, the rest by the CRC.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn verify_batch(
    codec: &SumCodec,
    entry: &Entry,
    bytes: &[u8],
) -> Result<BatchHeader, &'static str> {
    if bytes.len() != entry.length as usize || bytes.len() < BatchHeader::BYTES {
        return Err("the log file is too short");
    }
    if codec.bind(bytes) != entry.bind {
        return Err("offset, length, epoch, magic or crc differ from what was written");
    }
    let header = BatchHeader::parse(bytes).map_err(|_| "the batch header makes no sense")?;
    if header.batch_bytes() != bytes.len()
        || header.base_offset != entry.base
        || header.last_offset() != entry.last
    {
        return Err("the batch header differs from the side file");
    }
    if batch_crc(bytes) != header.crc {
        return Err("crc mismatch");
    }
    Ok(header)
}

/// The record of a batch that lies at `position`.
pub(crate) fn entry_of(codec: &SumCodec, header: &BatchHeader, front: &[u8], position: u32) -> Entry {
    Entry {
        position,
        length: u32::try_from(header.batch_bytes()).expect("a batch is smaller than 2^31"),
        base: header.base_offset,
        last: header.last_offset(),
        max_timestamp: header.max_timestamp_ms,
        bind: codec.bind(front),
    }
}

/// Reads a log file forwards in large pieces.
pub(crate) struct LogCursor<'a, F> {
    file: &'a F,
    /// Bytes of the file that count.
    len: u64,
    at: u64,
    chunk: Bytes,
    /// Bytes read from the device so far.
    pub(crate) read_bytes: u64,
}

impl<'a, F: DiskFile> LogCursor<'a, F> {
    pub(crate) fn new(file: &'a F, len: u64) -> Self {
        LogCursor { file, len, at: 0, chunk: Bytes::new(), read_bytes: 0 }
    }

    /// Bytes `at..at + len`; shorter only at the end of the file.
    pub(crate) async fn get(&mut self, at: u64, len: usize) -> Result<Bytes, Miss> {
        let held = at >= self.at && at + len as u64 <= self.at + self.chunk.len() as u64;
        if !held {
            let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
            let want = len.max(READ_AHEAD).min(left);
            self.chunk = fetch(self.file, at, want, Patience::Wait).await?;
            self.at = at;
            self.read_bytes += self.chunk.len() as u64;
        }
        let from = (at - self.at) as usize;
        let to = (from + len).min(self.chunk.len());
        Ok(self.chunk.slice(from.min(to)..to))
    }
}

/// One step of a [`BatchWalk`].
pub(crate) enum Step {
    /// A batch that verified.
    Batch { entry: Entry, header: BatchHeader, bytes: Bytes },
    /// Offsets `from..to` cannot be had.
    Damaged { from: Offset, to: Offset, why: &'static str },
}

/// Steps over every batch of a segment and verifies it.
pub(crate) struct BatchWalk<'a, F> {
    records: RecordWalk<'a, F>,
    /// Entries behind the last record.
    unwritten: std::vec::IntoIter<Entry>,
    pub(crate) log: LogCursor<'a, F>,
    codec: &'a SumCodec,
    /// Offset and position that must come next.
    expect: Option<(Offset, u32)>,
    end: Offset,
    /// An entry behind a hole that was just reported.
    held: Option<Entry>,
}

impl<'a, F: DiskFile> BatchWalk<'a, F> {
    /// From the record `first`, where `expect` must be if it is known, to the end of the segment.
    pub(crate) fn new(
        codec: &'a SumCodec,
        (log, sum): (&'a F, &'a F),
        (first, records): (u32, u32),
        unwritten: Vec<Entry>,
        (bytes, end): (u32, Offset),
        expect: Option<(Offset, u32)>,
    ) -> Self {
        BatchWalk {
            records: RecordWalk::new(sum, codec, first, records, Patience::Wait),
            unwritten: unwritten.into_iter(),
            log: LogCursor::new(log, u64::from(bytes)),
            codec,
            expect,
            end,
            held: None,
        }
    }

    /// The next step; `None` at the end of the segment.
    pub(crate) async fn next(&mut self) -> Result<Option<Step>, Miss> {
        let entry = match self.held.take() {
            Some(entry) => Some(entry),
            None => match self.records.next_entry().await? {
                Some((_, entry)) => Some(entry),
                None => self.unwritten.next(),
            },
        };
        let Some(entry) = entry else {
            return Ok(match self.expect.take() {
                Some((from, _)) if from < self.end => Some(Step::Damaged {
                    from,
                    to: self.end,
                    why: "the side file does not know these offsets",
                }),
                _ => None,
            });
        };
        if let Some((from, position)) = self.expect
            && position != entry.position
        {
            self.expect = Some((entry.base, entry.position));
            if from < entry.base {
                self.held = Some(entry);
                let why = "the side file does not know these offsets";
                return Ok(Some(Step::Damaged { from, to: entry.base, why }));
            }
        }
        self.expect = Some((entry.last.next(), entry.position_after()));
        let bytes = match self.log.get(u64::from(entry.position), entry.length as usize).await {
            Ok(bytes) => bytes,
            Err(Miss::Io(_)) => {
                return Ok(Some(Step::Damaged {
                    from: entry.base,
                    to: entry.last.next(),
                    why: "the disk cannot read it",
                }));
            }
            Err(Miss::Cold) => return Err(Miss::Cold),
        };
        Ok(Some(match verify_batch(self.codec, &entry, &bytes) {
            Ok(header) => Step::Batch { entry, header, bytes },
            Err(why) => Step::Damaged { from: entry.base, to: entry.last.next(), why },
        }))
    }
}
