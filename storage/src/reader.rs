//! Reads for consumers and followers: whole batches, verified, without the writer's lock.
//!
//! Owns: [`LogReader`]. Promises: every batch returned has its CRC and our own sum right (LOG-5); damage is refused and
//! noted, and reads behind it go on; a reader that races with a truncation or a removal looks again instead of returning
//! a mixture (S10). Leaves out: watermarks (the caller's `end_bound`), fetch sessions, waiting for data.
//!
//! ```text
//! view (mutex, memory only) ─► side file: which batches ─► log file: one read ─► verify ─► generation still the same?
//! ```

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use dejaq_wire::ids::{LeaderEpoch, Offset};

use crate::aborted::AbortedTxn;
use crate::disk::Disk;
use crate::epochs::EpochEnd;
use crate::index::SparseIndex;
use crate::layout::FileKind;
use crate::log::OffsetRange;
use crate::mark;
use crate::segment::{Files, Shared, View};
use crate::sum::{Entry, SumCodec};
use crate::walk::{Miss, Patience, RecordWalk, fetch, seek, verify_batch};

/// A read that loses races against truncations this often gives up.
const TRIES: usize = 8;
/// Entries of one read at most; the rest is the next read's.
const MAX_ENTRIES: usize = 16_384;

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadAsk {
    /// The batch that holds this offset comes first.
    pub offset: Offset,
    /// Bytes at most.
    pub max_bytes: usize,
    /// The first batch comes even if it is larger than `max_bytes`.
    pub at_least_one: bool,
    /// Only batches all of whose offsets are below.
    pub end_bound: Offset,
}

/// Whole batches, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The batches, of one segment.
    pub batches: Bytes,
    /// Where to read on; the offset asked for when there is nothing.
    pub next: Offset,
}

/// Why a read gives nothing; each variant names the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Answer OFFSET_OUT_OF_RANGE.
    #[error("the offset is outside {start}..={end}")]
    OutOfRange {
        /// The first offset.
        start: Offset,
        /// The next offset.
        end: Offset,
    },
    /// These offsets are damaged on this disk and never served; reads from `to` on go on.
    #[error("offsets {from}..{to} are damaged")]
    Damaged {
        /// The first.
        from: Offset,
        /// After the last.
        to: Offset,
    },
    /// The disk refused to read.
    #[error("the read failed: {0:?}")]
    Io(io::ErrorKind),
}

enum Stop {
    Miss(Miss),
    Error(ReadError),
}

impl From<Miss> for Stop {
    fn from(miss: Miss) -> Stop {
        Stop::Miss(miss)
    }
}

/// Where to look, as the view had it at one moment.
struct Spot<D: Disk> {
    generation: u64,
    base: Offset,
    files: Files<D>,
    codec: SumCodec,
    /// Entries in memory that hold the offset; empty: look into the side file.
    entries: Vec<Entry>,
    /// Sealed and not loaded: try the index file first.
    load_index: bool,
    /// Records to look through, and what is expected at the first.
    from: u32,
    until: u32,
    records: u32,
    expect: (u32, Offset),
    /// End of what the side file knows.
    written_end: Offset,
    /// `min(end_bound, end)`
    bound: Offset,
    /// Known damage in front of us.
    damage: Option<OffsetRange>,
}

/// What the side file says.
enum Found {
    Entries(Vec<Entry>),
    Gap(OffsetRange),
    /// Everything in this segment lies before the offset.
    Behind,
}

/// A handle for readers: cheap to clone, takes no lock of the writer.
pub struct LogReader<D: Disk> {
    pub(crate) shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for LogReader<D> {
    fn clone(&self) -> LogReader<D> {
        LogReader { shared: Arc::clone(&self.shared) }
    }
}

impl<D: Disk> fmt::Debug for LogReader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = self.shared.lock();
        write!(f, "{:?}..{:?}, flushed {:?}", view.start, view.end, view.flushed)
    }
}

impl<D: Disk> LogReader<D> {
    /// The first offset.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.shared.lock().start
    }

    /// The next offset to be assigned.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.shared.lock().end
    }

    /// Everything below survives a power cut.
    #[must_use]
    pub fn flushed(&self) -> Offset {
        self.shared.lock().flushed
    }

    /// Bytes of all batches.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.shared.lock().size_bytes()
    }

    /// The latest leader epoch that the log knows.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.shared.lock().epochs.latest().map(|latest| latest.epoch)
    }

    /// The leader epoch of the record at `offset`.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.shared.lock().epochs.at(offset)
    }

    /// Where an epoch ends (KIP-101, KIP-279, KIP-320).
    #[must_use]
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> EpochEnd {
        let view = self.shared.lock();
        view.epochs.end_offset_for(epoch, view.end)
    }

    /// Offsets that are known to be damaged.
    #[must_use]
    pub fn damaged(&self) -> Vec<OffsetRange> {
        self.shared.lock().damaged.clone()
    }

    /// Aborted transactions with records in `from..upper`, in the order of their first records: what a reader of
    /// committed records must skip there. Ask after reading the records, for what was read.
    #[must_use]
    pub fn aborted(&self, from: Offset, upper: Offset) -> Vec<AbortedTxn> {
        self.shared.lock().aborted(from, upper)
    }

    /// Reads without waiting for the device: `None` when some byte is not in memory; ask [`LogReader::read`] then.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn try_read(&self, ask: ReadAsk) -> Result<Option<Read>, ReadError> {
        let read = pin!(self.read_with(ask, Patience::Now));
        match read.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(read)) => Ok(Some(read)),
            Poll::Ready(Err(Stop::Error(error))) => Err(error),
            Poll::Ready(Err(Stop::Miss(Miss::Io(kind)))) => Err(ReadError::Io(kind)),
            Poll::Ready(Err(Stop::Miss(Miss::Cold))) | Poll::Pending => Ok(None),
        }
    }

    /// Reads whole batches from the one that holds `offset`, of one segment. Empty at the end or the bound.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, ask: ReadAsk) -> Result<Read, ReadError> {
        self.read_with(ask, Patience::Wait).await.map_err(|stop| match stop {
            Stop::Error(error) => error,
            Stop::Miss(Miss::Io(kind)) => ReadError::Io(kind),
            Stop::Miss(Miss::Cold) => ReadError::Io(io::ErrorKind::WouldBlock),
        })
    }

    async fn read_with(&self, mut ask: ReadAsk, patience: Patience) -> Result<Read, Stop> {
        let asked = ask.offset;
        for _ in 0..TRIES {
            let Some(mut spot) = self.locate(&ask)? else {
                return Ok(Read { batches: Bytes::new(), next: asked });
            };
            if spot.load_index {
                self.load_index(&mut spot, ask.offset, patience).await?;
            }
            let found = if spot.entries.is_empty() {
                find(&spot, &ask, patience).await?
            } else {
                Found::Entries(std::mem::take(&mut spot.entries))
            };
            let outcome = match found {
                Found::Entries(entries) => self.load(&spot, &entries, asked, patience).await?,
                Found::Gap(range) => Err(range),
                Found::Behind => {
                    let Some(next) = self.next_base(spot.base) else { continue };
                    ask.offset = ask.offset.max(next);
                    continue;
                }
            };
            let mut view = self.shared.lock();
            if view.generation != spot.generation {
                mark!("a read races with a truncation or a removal");
                continue;
            }
            match outcome {
                Ok(read) => return Ok(read),
                Err(range) => {
                    view.note_damage(range);
                    return Err(Stop::Error(ReadError::Damaged { from: range.from, to: range.to }));
                }
            }
        }
        Err(Stop::Error(ReadError::Io(io::ErrorKind::Interrupted)))
    }

    fn next_base(&self, base: Offset) -> Option<Offset> {
        let view = self.shared.lock();
        view.segments.iter().map(|segment| segment.base).find(|next| *next > base)
    }

    /// `None`: there is nothing to read below the bound.
    fn locate(&self, ask: &ReadAsk) -> Result<Option<Spot<D>>, Stop> {
        let mut view = self.shared.lock();
        let (start, end) = (view.start, view.end);
        if ask.offset < start || ask.offset > end {
            return Err(Stop::Error(ReadError::OutOfRange { start, end }));
        }
        let bound = ask.end_bound.min(end);
        if ask.offset >= bound {
            return Ok(None);
        }
        let damage = view.damage_from(ask.offset);
        if let Some(range) = damage
            && range.from <= ask.offset
        {
            return Err(Stop::Error(ReadError::Damaged { from: range.from, to: range.to }));
        }
        let Some(at) = view.segment_of(ask.offset) else {
            // Offsets from the start to the first segment: only a lost file can do that, and recovery noted it.
            return Err(Stop::Error(ReadError::Damaged { from: start, to: end }));
        };
        let files = self.shared.files(&mut view, at).map_err(|error| Stop::Miss(Miss::Io(error.kind())))?;
        Ok(Some(self.spot(&view, at, files, ask, bound, damage)))
    }

    fn spot(
        &self,
        view: &View<D>,
        at: usize,
        files: Files<D>,
        ask: &ReadAsk,
        bound: Offset,
        damage: Option<OffsetRange>,
    ) -> Spot<D> {
        let segment = &view.segments[at];
        let mut spot = Spot {
            generation: view.generation,
            base: segment.base,
            files,
            codec: self.shared.codec(segment.base),
            entries: Vec::new(),
            load_index: segment.index.is_none() && at + 1 < view.segments.len(),
            from: 1,
            until: segment.records.max(1),
            records: segment.records.max(1),
            expect: (0, segment.base),
            written_end: segment.written_end(),
            bound,
            damage,
        };
        if segment.recent.front().is_some_and(|entry| entry.base <= ask.offset) {
            let from = segment.recent.partition_point(|entry| entry.last < ask.offset);
            let mut choice = Choice::new(ask, bound, damage);
            let _ = segment.recent.iter().skip(from).take_while(|entry| choice.take(entry)).count();
            spot.entries = choice.entries;
            if spot.entries.is_empty() {
                spot.bound = ask.offset; // nothing fits: an empty read
            }
        } else if let Some(index) = &segment.index {
            spot.narrow(index, ask.offset);
        }
        spot
    }

    /// The index file of a sealed segment; a bad one is done without.
    async fn load_index(&self, spot: &mut Spot<D>, offset: Offset, patience: Patience) -> Result<(), Stop> {
        let path = self.shared.path(FileKind::Index, spot.base);
        let Ok(file) = self.shared.disk.open(&path, crate::disk::Open::Read) else { return Ok(()) };
        let bytes = fetch(&file, 0, SparseIndex::max_file_bytes(), patience).await?;
        let Some((_, index)) = SparseIndex::decode(&self.shared.binding, spot.base, &bytes) else {
            mark!("a bad index file is done without");
            return Ok(());
        };
        spot.narrow(&index, offset);
        let mut view = self.shared.lock();
        if view.generation == spot.generation
            && let Some(at) = view.segment_of(spot.base)
            && view.segments[at].files.is_some()
        {
            view.segments[at].index = Some(Arc::new(index));
        }
        Ok(())
    }

    /// Reads and verifies; the error is the range that is damaged.
    async fn load(
        &self,
        spot: &Spot<D>,
        entries: &[Entry],
        asked: Offset,
        patience: Patience,
    ) -> Result<Result<Read, OffsetRange>, Stop> {
        let Some(first) = entries.first() else {
            return Ok(Ok(Read { batches: Bytes::new(), next: asked }));
        };
        let end = entries.last().expect("there is a first").position_after();
        let length = (end - first.position) as usize;
        let bytes = match fetch(&spot.files.log, u64::from(first.position), length, patience).await {
            Ok(bytes) => bytes,
            // One bad sector must not hide the good batches before it.
            Err(Miss::Io(_)) if entries.len() > 1 => {
                fetch(&spot.files.log, u64::from(first.position), first.length as usize, patience).await?
            }
            Err(miss) => return Err(miss.into()),
        };
        let mut next = asked;
        let mut good = 0;
        for entry in entries {
            let from = (entry.position - first.position) as usize;
            let to = from + entry.length as usize;
            let Some(batch) = bytes.get(from..to) else { break };
            if verify_batch(&spot.codec, entry, batch).is_err() {
                break;
            }
            good = to;
            next = entry.last.next();
        }
        if good == 0 {
            return Ok(Err(OffsetRange { from: first.base, to: first.last.next() }));
        }
        Ok(Ok(Read { batches: bytes.slice(..good), next }))
    }
}

impl<D: Disk> Spot<D> {
    fn narrow(&mut self, index: &SparseIndex, offset: Offset) {
        let (floor, next) = index.around(offset);
        if let Some(place) = floor {
            self.from = place.ordinal;
            self.expect = (place.position, place.base);
        }
        // The batch that holds the offset begins before the next place, but what follows it may be read too.
        self.until = next.unwrap_or(self.records).min(self.records);
    }
}

/// Chooses a run of batches out of entries in order.
struct Choice {
    ask: ReadAsk,
    bound: Offset,
    damage: Option<OffsetRange>,
    total: usize,
    entries: Vec<Entry>,
}

impl Choice {
    fn new(ask: &ReadAsk, bound: Offset, damage: Option<OffsetRange>) -> Choice {
        Choice { ask: *ask, bound, damage, total: 0, entries: Vec::new() }
    }

    /// Whether the entry is taken; after a refusal no more are offered.
    fn take(&mut self, entry: &Entry) -> bool {
        let first = self.entries.is_empty();
        let fits = self.total.saturating_add(entry.length as usize) <= self.ask.max_bytes;
        let damaged = self.damage.is_some_and(|range| entry.last >= range.from);
        let follows = self.entries.last().is_none_or(|last| last.position_after() == entry.position);
        let room = self.entries.len() < MAX_ENTRIES && (fits || (first && self.ask.at_least_one));
        if entry.last >= self.bound || damaged || !follows || !room {
            return false;
        }
        self.total += entry.length as usize;
        self.entries.push(*entry);
        true
    }
}

/// Looks the batches up in the side file.
async fn find<D: Disk>(spot: &Spot<D>, ask: &ReadAsk, patience: Patience) -> Result<Found, Stop> {
    if ask.offset >= spot.bound {
        return Ok(Found::Entries(Vec::new()));
    }
    let (sum, codec) = (&spot.files.sum, &spot.codec);
    let from = seek(sum, codec, (spot.from, spot.until), ask.offset, patience).await?;
    let mut expect = (from == spot.from).then_some(spot.expect);
    let mut walk = RecordWalk::new(sum, codec, from, spot.records, patience);
    let mut choice = Choice::new(ask, spot.bound, spot.damage);
    while let Some((_, entry)) = walk.next_entry().await? {
        if entry.last >= ask.offset {
            let hole = expect.filter(|(position, _)| *position != entry.position);
            if let Some((_, hole_from)) = hole
                && choice.entries.is_empty()
                && entry.base > ask.offset
            {
                return Ok(Found::Gap(OffsetRange { from: hole_from, to: entry.base }));
            }
            if !choice.take(&entry) {
                // A batch that reaches into damage is damaged too, whatever it says itself.
                let spoilt =
                    spot.damage.filter(|range| entry.last >= range.from && choice.entries.is_empty());
                return Ok(match spoilt {
                    Some(range) => Found::Gap(OffsetRange { from: entry.base, to: range.to }),
                    None => Found::Entries(choice.entries),
                });
            }
        }
        expect = Some((entry.position_after(), entry.last.next()));
    }
    if !choice.entries.is_empty() {
        return Ok(Found::Entries(choice.entries));
    }
    match expect {
        Some((_, offset)) if offset < spot.written_end && ask.offset < spot.written_end => {
            Ok(Found::Gap(OffsetRange { from: offset, to: spot.written_end }))
        }
        _ => Ok(Found::Behind),
    }
}
