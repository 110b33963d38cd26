//! The log cleaner: a log keeps the last value of every key and loses the rest, segment by segment.
//!
//! Owns: the choice of what can be cleaned ([`Log::cleanable`]) and the work of one round ([`Compaction`]), which runs
//! beside appends and reads and touches none of the log's files. Promises (RET-9): see `filter` for what stays; the active
//! segment, what no marker vouches for, what is not committed, what is younger than `min.compaction.lag.ms` and
//! transactions that are open are not looked at; offsets, epochs, sequences and the log's ends do not change; memory is
//! bounded by the key map: if the keys do not fit, the round ends early and the next one goes on ([`Compaction::done`]).
//! Leaves out: the swap of files (`log::swap`), when to run and how fast (node).
//!
//! ```text
//! start           cleaned            until      active       1. transactions: who was aborted
//!   ├──────────────┼───────────────────┼──────────┤          2. keys of the dirty part into the map
//!   │   clean      │      dirty        │                     3. segments in groups: filter ─► *.cleaned ─► swap
//!   └── rewritten ─┴─── rewritten ─────┘                     4. the file `cleaned` remembers how far
//! ```
//!
//! A cleaned segment ends with its last batch as before, be it an emptied one: the chain of segments stays without a
//! hole, and a lost end of a segment is still told apart from records that were cleaned away. Inside, offsets have gaps.

mod fates;
mod filter;
mod key_map;
mod output;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io;

use dejaq_wire::ids::{Offset, ProducerId};
use dejaq_wire::record::Batch;

use self::fates::{Fates, Scan};
pub(crate) use self::filter::LastOf;
use self::filter::{DECOMPRESSED_BYTES, Left, Rules};
use self::key_map::KeyMap;
use self::output::Output;
use self::output::discard;
pub(crate) use self::output::path_aside;
use crate::aborted::{AbortedTxn, MOST_IN_FILE};
use crate::disk::Disk;
use crate::index::Summary;
use crate::log::Log;
use crate::reader::LogReader;
use crate::scrub::Frozen;
use crate::walk::{Miss, Step};
use crate::{mark, mutant};

/// Offsets of a segment are 31 bits from its base.
const MAX_OFFSET_SPAN: i64 = i32::MAX as i64;

/// What a cleaning is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanAsk {
    /// Wall clock, unix milliseconds.
    pub now_ms: i64,
    /// Only what lies below is looked at: the watermark.
    pub bound: Offset,
    /// How long delete markers, and transaction markers whose data is gone, stay after they were first seen.
    pub delete_retention_ms: i64,
    /// Segments with a record that is younger are not cleaned.
    pub min_lag_ms: i64,
    /// Memory for the key map.
    pub map_bytes: usize,
    /// Random: no client can know it.
    pub seed: [u64; 2],
}

/// How much of a log a cleaning would look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleanable {
    /// Everything below was cleaned before.
    pub from: Offset,
    /// What may be cleaned ends here.
    pub until: Offset,
    /// Bytes below `from`.
    pub clean_bytes: u64,
    /// Bytes from there to `until`.
    pub dirty_bytes: u64,
}

impl Cleanable {
    /// The share of bytes that was not cleaned yet.
    #[must_use]
    pub fn dirty_ratio(&self) -> f64 {
        let all = self.clean_bytes + self.dirty_bytes;
        if all == 0 { 0.0 } else { self.dirty_bytes as f64 / all as f64 }
    }
}

/// Whoever slows a cleaning down, or stops it.
pub trait Pace: Send {
    /// So many bytes were read and written since the last call. Returns whether to go on.
    fn step(&mut self, read_bytes: u64, written_bytes: u64) -> impl Future<Output = bool> + Send;
}

/// As fast as it goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct FullPace;

impl Pace for FullPace {
    async fn step(&mut self, _: u64, _: u64) -> bool {
        true
    }
}

/// Why a cleaning ended early. Nothing has changed but for the groups that were swapped.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The disk, or no room on it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A batch cannot be read: the log is not cleaned until someone looked.
    #[error("offsets {from}..{to} of it are damaged")]
    Damaged {
        /// The first.
        from: Offset,
        /// After the last.
        to: Offset,
    },
    /// Segments went or were cut meanwhile: try again later.
    #[error("the log changed meanwhile")]
    Moved,
    /// [`Pace::step`] said so.
    #[error("it was stopped")]
    Stopped,
}

impl From<Miss> for CompactError {
    fn from(miss: Miss) -> CompactError {
        CompactError::Io(miss.into())
    }
}

/// A segment that is ready to take the place of others: durable beside them.
#[derive(Debug)]
#[must_use = "give it to Log::begin_swap"]
pub struct Cleaned {
    pub(crate) summary: Summary,
    /// Its list of aborted transactions: those of its inputs whose markers are still there, for a reader that was told of
    /// one and met no marker would skip what the producer committed behind it.
    pub(crate) aborted: Vec<AbortedTxn>,
    /// Bases of the segments that it replaces, ascending; the first one is its own.
    pub(crate) inputs: Vec<Offset>,
    /// Of the view that they were taken from.
    pub(crate) generation: u64,
}

#[derive(Debug, Clone, Copy)]
struct Input {
    base: Offset,
    end: Offset,
    bytes: u32,
    /// Aborted transactions that it lists.
    aborted: usize,
}

/// One round over a log.
pub struct Compaction<D: Disk> {
    reader: LogReader<D>,
    ask: CleanAsk,
    start: Offset,
    from: Offset,
    /// What the map speaks of ends here.
    until: Offset,
    segment_bytes: u32,
    index_interval: u32,
    generation: u64,
    last_of: BTreeMap<ProducerId, LastOf>,
    inputs: VecDeque<Input>,
    fates: Fates,
    map: KeyMap,
}

impl<D: Disk> Log<D> {
    /// What a cleaning would look at now; `None` if there is nothing new, or something is damaged.
    #[must_use]
    pub fn cleanable(&self, ask: &CleanAsk) -> Option<Cleanable> {
        if self.sealed().is_some() {
            return None;
        }
        let inputs = self.inputs(ask);
        let until = inputs.back()?.end;
        let from = self.cleaned().max(self.start());
        let bytes = |clean: bool| {
            let some = inputs.iter().filter(|input| (input.end <= from) == clean);
            some.map(|input| u64::from(input.bytes)).sum()
        };
        let cleanable = Cleanable { from, until, clean_bytes: bytes(true), dirty_bytes: bytes(false) };
        (until > from).then_some(cleanable)
    }

    /// The segments that may be rewritten, from the first on.
    fn inputs(&self, ask: &CleanAsk) -> VecDeque<Input> {
        let bound = ask.bound.min(self.marked_durable());
        let youngest_ms = ask.now_ms.saturating_sub(ask.min_lag_ms);
        let from = self.cleaned();
        let view = self.shared.lock();
        if !view.damaged.is_empty() {
            return VecDeque::new();
        }
        let sealed = &view.segments[..view.segments.len() - 1];
        let old_enough = |max_timestamp: i64| ask.min_lag_ms == 0 || max_timestamp <= youngest_ms;
        sealed
            .iter()
            .take_while(|one| one.end <= bound && (one.end <= from || old_enough(one.max_timestamp)))
            .map(|one| Input { base: one.base, end: one.end, bytes: one.bytes, aborted: one.aborted.len() })
            .collect()
    }

    /// Begins a round; `None` if there is nothing to clean.
    #[must_use]
    pub fn begin_compaction(&self, ask: CleanAsk) -> Option<Compaction<D>> {
        let cleanable = self.cleanable(&ask)?;
        let keys = usize::try_from(cleanable.until.since(cleanable.from)).unwrap_or(usize::MAX);
        let (start, generation) = {
            let view = self.shared.lock();
            (view.start, view.generation)
        };
        Some(Compaction {
            reader: self.reader(),
            ask,
            start,
            from: cleanable.from,
            until: cleanable.until,
            segment_bytes: self.config().segment_bytes,
            index_interval: self.config().index_interval_bytes,
            generation,
            last_of: self.last_of_producers(),
            inputs: self.inputs(&ask),
            fates: Fates::default(),
            map: KeyMap::new(ask.map_bytes, keys, ask.seed),
        })
    }
}

impl<D: Disk> Compaction<D> {
    /// Looks at transactions and keys. Call first, once.
    ///
    /// # Errors
    /// [`CompactError`].
    pub async fn look(&mut self, pace: &mut impl Pace) -> Result<(), CompactError> {
        self.look_at_transactions(pace).await?;
        self.look_at_keys(pace).await?;
        mark!("the cleaner looked at the keys of a log");
        self.fates.rewind(Offset::ZERO);
        let until = self.until;
        self.inputs.retain(|input| input.base < until);
        Ok(())
    }

    /// Everything below was cleaned once every group is swapped: tell it to [`Log::note_cleaned`].
    #[must_use]
    pub fn done(&self) -> Offset {
        self.until
    }

    /// Keys in the map.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.map.len()
    }

    fn frozen(&self, offset: Offset) -> Result<Option<Frozen<D>>, CompactError> {
        if self.reader.shared.lock().generation != self.generation {
            return Err(CompactError::Moved);
        }
        Ok(self.reader.freeze(offset)?)
    }

    fn input(&self, input: &Input) -> Result<Frozen<D>, CompactError> {
        let frozen = self.frozen(input.base)?.ok_or(CompactError::Moved)?;
        let is_same = frozen.base == input.base && frozen.end == input.end && frozen.bytes == input.bytes;
        if is_same { Ok(frozen) } else { Err(CompactError::Moved) }
    }

    /// The list of aborted transactions of an input.
    fn aborted_of(&self, input: &Input) -> Result<Vec<AbortedTxn>, CompactError> {
        let view = self.reader.shared.lock();
        let is_it = view.generation == self.generation;
        let segment = view.segments.iter().find(|segment| is_it && segment.base == input.base);
        segment.map(|segment| segment.aborted.clone()).ok_or(CompactError::Moved)
    }

    /// Finds the aborted transactions, and lowers the bound to the first that is still open. Looks on beyond what is
    /// cleaned as long as an end is missing.
    async fn look_at_transactions(&mut self, pace: &mut impl Pace) -> Result<(), CompactError> {
        let mut scan = Scan::default();
        let mut at = self.inputs.front().map_or(self.until, |first| first.base);
        'log: while let Some(frozen) = self.frozen(at)? {
            let mut walk = frozen.walk();
            let mut read = 0;
            while let Some(step) = walk.next().await? {
                let (entry, bytes) = good(step)?;
                let is_open = scan.first_open().is_some_and(|first| first < self.until);
                if entry.last >= self.ask.bound || (entry.base >= self.until && !is_open) {
                    break 'log;
                }
                scan.see(&parsed(&bytes));
                pause(pace, walk.log.read_bytes, &mut read).await?;
            }
            at = frozen.end;
        }
        // The planted bug M224: a transaction that is open is taken for a committed one.
        if let Some(first) = scan.first_open().filter(|first| *first < self.until && !mutant!(224)) {
            mark!("the cleaner stops at an open transaction");
            self.until = first;
            self.inputs.retain(|input| input.end <= first);
            self.until = self.inputs.back().map_or(self.from, |last| last.end);
            if self.until <= self.from {
                self.inputs.clear(); // nothing new can be looked at, and what is clean stays as it is
            }
        }
        self.fates = scan.fates();
        Ok(())
    }

    /// Fills the map from the dirty part until it is full.
    async fn look_at_keys(&mut self, pace: &mut impl Pace) -> Result<(), CompactError> {
        let dirty: Vec<Input> = self.inputs.iter().filter(|input| input.end > self.from).copied().collect();
        self.fates.rewind(dirty.first().map_or(self.from, |first| first.base));
        let mut looked = self.from;
        for input in &dirty {
            let frozen = self.input(input)?;
            let mut walk = frozen.walk();
            let mut read = 0;
            while let Some(step) = walk.next().await? {
                let (entry, bytes) = good(step)?;
                let batch = parsed(&bytes);
                if batch.header.is_control() {
                    self.fates.pass_control(&batch);
                } else if !self.fates.pass_data(&batch.header) && !self.note_keys(&batch) {
                    mark!("the key map of the cleaner is full");
                    // What found no place stays, whatever is newer, so that the first batch may be half noted.
                    self.until = if looked > self.from { looked } else { entry.last.next() };
                    return Ok(());
                }
                looked = looked.max(entry.last.next());
                pause(pace, walk.log.read_bytes, &mut read).await?;
            }
        }
        Ok(())
    }

    /// Whether every key found a place. A batch that cannot be read has none.
    fn note_keys(&mut self, batch: &Batch) -> bool {
        let Ok(records) = batch.records(DECOMPRESSED_BYTES) else { return true };
        let mut fits = true;
        for record in records {
            let Ok(record) = record else { break };
            // The planted bug M225: delete markers replace nothing, and go before what they should have deleted.
            let counts = record.offset >= self.from && (record.value.is_some() || !mutant!(225));
            if let Some(key) = record.key.filter(|_| counts) {
                fits &= self.map.put(&key, record.offset.0);
            }
        }
        fits
    }

    /// Writes the segment for the next group; `None` when all are done. Swap it before the next call, and say so with
    /// [`Compaction::note_swapped`]. A group that would not change is passed over.
    ///
    /// # Errors
    /// [`CompactError`]; what was written is removed.
    pub async fn next(&mut self, pace: &mut impl Pace) -> Result<Option<Cleaned>, CompactError> {
        loop {
            let group = self.take_group();
            let Some(first) = group.first() else { return Ok(None) };
            let written = self.write_group(&group, pace).await;
            if !matches!(written, Ok(Some(_))) {
                let shared = &self.reader.shared;
                discard(&shared.disk, &shared.dir, first.base).await;
            }
            if let Some(mut cleaned) = written? {
                cleaned.inputs = group.iter().map(|input| input.base).collect();
                cleaned.generation = self.generation;
                return Ok(Some(cleaned));
            }
        }
    }

    /// Removes a segment that never gets into its place. Not if a swap of it may be on the disk.
    pub async fn discard(&self, cleaned: &Cleaned) {
        let shared = &self.reader.shared;
        discard(&shared.disk, &shared.dir, cleaned.summary.base).await;
    }

    /// The swap of the last group is done.
    pub fn note_swapped(&mut self) {
        self.generation += 1;
    }

    /// The next segments that fit into one together.
    fn take_group(&mut self) -> Vec<Input> {
        let mut group: Vec<Input> = Vec::new();
        let (mut bytes, mut aborted) = (0, 0);
        while let Some(next) = self.inputs.front() {
            bytes += u64::from(next.bytes);
            aborted += next.aborted;
            let base = group.first().map_or(next.base, |first| first.base);
            let fits = bytes <= u64::from(self.segment_bytes)
                && next.end.since(base) <= MAX_OFFSET_SPAN
                && aborted <= MOST_IN_FILE;
            if !group.is_empty() && !fits {
                break;
            }
            group.extend(self.inputs.pop_front());
        }
        group
    }

    /// `None`: everything stays as it is.
    async fn write_group(
        &mut self,
        group: &[Input],
        pace: &mut impl Pace,
    ) -> Result<Option<Cleaned>, CompactError> {
        let (base, end) = (group[0].base, group[group.len() - 1].end);
        let mut output = {
            let shared = &self.reader.shared;
            let (disk, dir) = (shared.disk.clone(), shared.dir.clone());
            let places = (base, self.start);
            Output::create(disk, dir, shared.binding.clone(), places, (self.ask.now_ms, self.index_interval))?
        };
        let mut changed = group.len() > 1;
        let (mut listed, mut markers) = (Vec::new(), BTreeSet::new());
        let mut told = 0;
        for input in group {
            let frozen = self.input(input)?;
            listed.extend(self.aborted_of(input)?);
            let mut walk = frozen.walk();
            let mut read = 0;
            while let Some(step) = walk.next().await? {
                let (entry, bytes) = good(step)?;
                let batch = parsed(&bytes);
                let rules = Rules {
                    map: &self.map,
                    until: self.until,
                    now_ms: self.ask.now_ms,
                    delete_retention_ms: self.ask.delete_retention_ms,
                    last_of: &self.last_of,
                };
                let left = rules.left_of(&batch, &mut self.fates, entry.last.next() == end);
                changed |= left != Left::Whole;
                if batch.header.is_control() && left != Left::Nothing {
                    markers.insert(entry.base);
                }
                let written = match left {
                    Left::Nothing => 0,
                    Left::Whole => output.push(&batch.header, bytes)?,
                    Left::Less(less) => output.push(&less.header, less.to_bytes())?,
                };
                told += written;
                if written > 0 && !pace.step(0, written).await {
                    return Err(CompactError::Stopped);
                }
                pause(pace, walk.log.read_bytes, &mut read).await?;
            }
        }
        // A list that has no room in its file is made again from the log; such a segment stays as it is.
        if !changed || listed.len() > MOST_IN_FILE {
            mark!("a group of segments has nothing to clean");
            return Ok(None);
        }
        let had_list = !listed.is_empty();
        listed.retain(|txn| markers.contains(&txn.marker));
        let cleaned = output.finish(end, listed, had_list).await?;
        let rest = u64::from(cleaned.summary.bytes) - told;
        if pace.step(0, rest).await { Ok(Some(cleaned)) } else { Err(CompactError::Stopped) }
    }
}

fn good(step: Step) -> Result<(crate::sum::Entry, bytes::Bytes), CompactError> {
    match step {
        Step::Batch { entry, bytes, .. } => Ok((entry, bytes)),
        Step::Damaged { from, to, .. } => Err(CompactError::Damaged { from, to }),
    }
}

fn parsed(bytes: &bytes::Bytes) -> Batch {
    Batch::parse(bytes).expect("the walk has verified it")
}

/// Lets others run, and the pace decide, whenever the device was read.
async fn pause(pace: &mut impl Pace, read_bytes: u64, told: &mut u64) -> Result<(), CompactError> {
    if read_bytes == *told {
        return Ok(());
    }
    let fresh = read_bytes - *told;
    *told = read_bytes;
    if pace.step(fresh, 0).await { Ok(()) } else { Err(CompactError::Stopped) }
}
