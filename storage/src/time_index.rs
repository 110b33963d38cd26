//! From a timestamp to an offset (ListOffsets): the side file's entries carry every batch's largest timestamp.
//!
//! Promises: the first record at or after the start and below the bound whose timestamp is at least the one asked for,
//! by the batches' own order (LOG-6: the same as looking at every record). Leaves out: what "latest" means (node).
//!
//! ```text
//! segments: first with max ts >= T ─► sparse index: last place before which all are older ─► entries ─► records of a batch
//! ```

use bytes::Bytes;
use dejaq_wire::ids::{LeaderEpoch, Offset};
use dejaq_wire::record::Batch;
use dejaq_wire::record::lookup::{find_max_timestamp, find_timestamp};

use crate::disk::Disk;
use crate::mark;
use crate::reader::{LogReader, ReadAsk, ReadError};
use crate::scrub::Frozen;
use crate::sum::Entry;
use crate::walk::{Miss, Patience, RecordWalk};

/// A batch is decompressed up to this size to look at its records; beyond it the batch's own numbers must do.
const LOOKUP_BYTES: usize = 64 << 20;

/// A record found by its timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampOffset {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp, unix milliseconds.
    pub timestamp_ms: i64,
    /// Epoch of the leader that appended it.
    pub epoch: LeaderEpoch,
}

fn io_error(miss: Miss) -> ReadError {
    match miss {
        Miss::Cold => ReadError::Io(std::io::ErrorKind::WouldBlock),
        Miss::Io(kind) => ReadError::Io(kind),
    }
}

impl<D: Disk> LogReader<D> {
    /// The first record below `end_bound` whose timestamp is at least `timestamp_ms`.
    ///
    /// # Errors
    /// [`ReadError`], also when a batch that must be looked into is damaged.
    pub async fn offset_for_timestamp(
        &self,
        timestamp_ms: i64,
        end_bound: Offset,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        let start = self.start();
        let mut from = start;
        while let Some((frozen, first)) = self.freeze_newer(from, timestamp_ms)? {
            from = frozen.end;
            let mut entries = Entries::new(&frozen, first);
            while let Some(entry) = entries.next().await? {
                if entry.last >= end_bound {
                    return Ok(None);
                }
                if entry.last < start || entry.max_timestamp < timestamp_ms {
                    continue;
                }
                let batch = self.batch_at(entry.base.max(start), end_bound).await?;
                let Some(batch) = batch else { return Ok(None) };
                let found = match find_timestamp(&batch, start, timestamp_ms, LOOKUP_BYTES) {
                    Ok(found) => found.map(|found| (found.offset, found.timestamp_ms)),
                    Err(_) => {
                        mark!("a batch that cannot be looked into answers with its own numbers");
                        Some((batch.header.base_offset.max(start), batch.header.max_timestamp_ms))
                    }
                };
                if let Some((offset, timestamp_ms)) = found {
                    let epoch = batch.header.leader_epoch;
                    return Ok(Some(TimestampOffset { offset, timestamp_ms, epoch }));
                }
            }
        }
        Ok(None)
    }

    /// The first of the records with the largest timestamp below `end_bound` (KIP-734).
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn max_timestamp(&self, end_bound: Offset) -> Result<Option<TimestampOffset>, ReadError> {
        let start = self.start();
        let mut best: Option<Entry> = None;
        let mut from = start;
        while let Some(newer) = newer_than(best.map(|entry| entry.max_timestamp))
            && let Some((frozen, first)) = self.freeze_newer(from, newer)?
        {
            from = frozen.end;
            let mut entries = Entries::new(&frozen, first);
            while let Some(entry) = entries.next().await? {
                let inside = entry.last >= start && entry.last < end_bound;
                if inside && best.is_none_or(|best| entry.max_timestamp > best.max_timestamp) {
                    best = Some(entry);
                }
            }
        }
        let Some(best) = best else { return Ok(None) };
        let found = self.newest_in(&best, start, end_bound).await?;
        if found.is_some_and(|found| found.timestamp_ms == best.max_timestamp) {
            return Ok(found);
        }
        mark!("the newest record was compacted away");
        self.newest_left(start, end_bound).await
    }

    /// The same with a look into every batch that may have it: compaction leaves a batch's largest timestamp as it was.
    async fn newest_left(
        &self,
        start: Offset,
        end_bound: Offset,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        let mut best: Option<TimestampOffset> = None;
        let mut from = start;
        while let Some(newer) = newer_than(best.map(|found| found.timestamp_ms))
            && let Some((frozen, first)) = self.freeze_newer(from, newer)?
        {
            from = frozen.end;
            let mut entries = Entries::new(&frozen, first);
            while let Some(entry) = entries.next().await? {
                let may = best.is_none_or(|best| entry.max_timestamp > best.timestamp_ms);
                if !may || entry.last < start || entry.last >= end_bound {
                    continue;
                }
                let found = self.newest_in(&entry, start, end_bound).await?;
                let is_newer =
                    |found: &TimestampOffset| best.is_none_or(|best| found.timestamp_ms > best.timestamp_ms);
                best = found.filter(is_newer).or(best);
            }
        }
        Ok(best)
    }

    /// The first of the newest records of one batch. One that cannot be looked into answers with its own numbers.
    async fn newest_in(
        &self,
        entry: &Entry,
        start: Offset,
        end_bound: Offset,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        let Some(batch) = self.batch_at(entry.base.max(start), end_bound).await? else { return Ok(None) };
        let found = match find_max_timestamp(&batch, LOOKUP_BYTES) {
            Ok(found) => found.map(|found| (found.offset.max(start), found.timestamp_ms)),
            Err(_) => Some((batch.header.base_offset.max(start), batch.header.max_timestamp_ms)),
        };
        let epoch = batch.header.leader_epoch;
        Ok(found.map(|(offset, timestamp_ms)| TimestampOffset { offset, timestamp_ms, epoch }))
    }

    /// The first segment that ends behind `from` and has a record as new as `timestamp_ms`, and the record of its side
    /// file to begin with.
    fn freeze_newer(&self, from: Offset, timestamp_ms: i64) -> Result<Option<(Frozen<D>, u32)>, ReadError> {
        loop {
            let (offset, generation, first) = {
                let view = self.shared.lock();
                let at = view.segments.iter().position(|s| s.end > from && s.max_timestamp >= timestamp_ms);
                let Some(at) = at else { return Ok(None) };
                let segment = &view.segments[at];
                let place = segment.index.as_ref().and_then(|index| index.before_time(timestamp_ms));
                (segment.base.max(from), view.generation, place.map_or(1, |place| place.ordinal))
            };
            let frozen = self.freeze(offset).map_err(|error| ReadError::Io(error.kind()))?;
            if self.shared.lock().generation == generation {
                return Ok(frozen.map(|frozen| (frozen, first)));
            }
            mark!("a segment goes while a time is looked up"); // the place is one of that
        }
    }

    async fn batch_at(&self, offset: Offset, end_bound: Offset) -> Result<Option<Batch>, ReadError> {
        let ask = ReadAsk { offset, max_bytes: 0, at_least_one: true, end_bound };
        let bytes: Bytes = self.read(ask).await?.batches;
        Ok(if bytes.is_empty() { None } else { Batch::parse(&bytes).ok() })
    }
}

/// The least timestamp that is newer than the best so far, if there can be one.
fn newer_than(best: Option<i64>) -> Option<i64> {
    best.map_or(Some(0), |best| best.checked_add(1))
}

/// The entries of a segment, written ones first.
struct Entries<'a, D: Disk> {
    walk: RecordWalk<'a, D::File>,
    unwritten: std::slice::Iter<'a, Entry>,
}

impl<'a, D: Disk> Entries<'a, D> {
    fn new(frozen: &'a Frozen<D>, first: u32) -> Entries<'a, D> {
        let records = frozen.records.max(1);
        let first = first.clamp(1, records);
        let walk = RecordWalk::new(&frozen.files.sum, &frozen.codec, first, records, Patience::Wait);
        Entries { walk, unwritten: frozen.unwritten.iter() }
    }

    async fn next(&mut self) -> Result<Option<Entry>, ReadError> {
        match self.walk.next_entry().await.map_err(io_error)? {
            Some((_, entry)) => Ok(Some(entry)),
            None => Ok(self.unwritten.next().copied()),
        }
    }
}
