//! Appends: judge every batch, patch base offset and epoch, one vectored write for all that fit the segment.
//!
//! Owns: the order judge → write → commit to memory. Promises: a batch is wholly in or wholly out; a failed write leaves
//! the log exactly as before (LOG-10) or seals it; producers change only with a successful write (IDM-5); the bytes of a
//! batch's payload are never copied (a fresh chunk stands in for its header). Leaves out: durability (`log::flush`).

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use dejaq_wire::ids::{CoordinatorEpoch, LeaderEpoch, Offset, ProducerEpoch, Sequence};
use dejaq_wire::record::BatchHeader;
use dejaq_wire::record::control::EndTxnMarker;

use super::{Busy, Log, SealReason};
use crate::batch::{VerifiedBatch, marker_of};
use crate::config::MAX_SEGMENT_BYTES;
use crate::disk::{Disk, DiskFile, is_want};
use crate::producers::{Staged, Verdict};
use crate::sum::{Entry, SumCodec};
use crate::{buggify, mark, mutant};

/// Entries that may wait for the side file before the segment is rolled: 4 MiB.
const MAX_UNWRITTEN: usize = 65_536;
/// Offsets relative to a segment's base fit 31 bits, as in Kafka.
const MAX_OFFSET_SPAN: i64 = i32::MAX as i64;

/// Where a batch is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record; [`Offset::NONE`] of a duplicate whose place is not remembered any more.
    pub base: Offset,
    /// Offset of its last record, or, of such a duplicate, one at or beyond it.
    pub last: Offset,
    /// It was there already: these are the original offsets. Still wait for the watermark to pass `last`.
    pub duplicate: bool,
}

/// Why an append was refused; each variant names the caller's next move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A sync or a write failed: the log takes no writes until the process restarts.
    #[error("the log is sealed after a failed write or sync")]
    Sealed,
    /// Answer NOT_LEADER_OR_FOLLOWER; a newer leader has appended.
    #[error("the epoch is fenced, the log is at {latest}")]
    FencedEpoch {
        /// The log's latest epoch.
        latest: LeaderEpoch,
    },
    /// Answer INVALID_PRODUCER_EPOCH; a newer incarnation of the producer is known.
    #[error("the producer is fenced, its epoch is {current}")]
    StaleProducer {
        /// The epoch that fences it.
        current: ProducerEpoch,
    },
    /// Answer OUT_OF_ORDER_SEQUENCE_NUMBER.
    #[error("sequence {found} instead of {expected}")]
    OutOfOrderSequence {
        /// What must follow.
        expected: Sequence,
        /// What came.
        found: Sequence,
    },
    /// Answer TRANSACTION_COORDINATOR_FENCED; a later coordinator has written a marker of this producer.
    #[error("the coordinator is fenced, a later one has epoch {current}")]
    StaleCoordinator {
        /// The epoch that fences it.
        current: CoordinatorEpoch,
    },
    /// Answer INVALID_TXN_STATE; the batch is in no transaction, but its producer has one open.
    #[error("the producer has a transaction open, and the batch is not in it")]
    NotInTransaction,
    /// Answer INVALID_TXN_STATE; the transaction of the batch has ended, or was never vouched for.
    #[error("the transaction of the batch is not open")]
    NotVerified,
    /// Answer a retriable error: every remembered producer has an open transaction, or was active lately.
    #[error(
        "the partition remembers as many producers as it can, and all of them were active in the last ten minutes"
    )]
    TooManyProducers,
    /// Answer KAFKA_STORAGE_ERROR; the log is exactly as before and takes writes again when there is room.
    #[error("the disk is full, or no file handle is left")]
    DiskFull,
    /// Answer KAFKA_STORAGE_ERROR; the log has sealed itself.
    #[error("the write failed: {0:?}")]
    Io(io::ErrorKind),
    /// Follower only: the batch does not follow the log's end.
    #[error("batch at {found} where {expected} must follow")]
    NotNext {
        /// The log's end.
        expected: Offset,
        /// The batch's base.
        found: Offset,
    },
    /// A truncation is under way.
    #[error("the log is being truncated")]
    Busy,
    /// The batch is larger than any segment may be.
    #[error("the batch is larger than a segment can be")]
    TooLarge,
}

/// Batches that go into one segment with one write.
#[derive(Debug, Default)]
struct Run {
    parts: Vec<Bytes>,
    entries: Vec<Entry>,
    staged: Staged,
    /// Result slots that depend on this write, with what they get if it succeeds.
    waiting: Vec<(usize, Appended)>,
}

impl Run {
    /// Nothing yet, with room for so many batches.
    fn of(batches: usize) -> Run {
        Run {
            parts: Vec::with_capacity(2 * batches),
            entries: Vec::with_capacity(batches),
            staged: Staged::default(),
            waiting: Vec::with_capacity(batches),
        }
    }
}

/// Where the next batch goes.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    segment_base: Offset,
    position: u32,
    end: Offset,
    unwritten: usize,
    created_ms: i64,
}

type Results = Vec<Option<Result<Appended, AppendError>>>;

/// Batches after which their records are written to the side file without waiting for a flush: 2 KiB in one write.
const SIDE_ENTRIES: usize = 64;

impl<D: Disk> Log<D> {
    /// A new leader starts: its epoch begins at the current end. Durable with the next flush. Call before its first append.
    ///
    /// # Errors
    /// [`AppendError::FencedEpoch`] if the log knows a later epoch, `Sealed`, `Busy`.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) -> Result<(), AppendError> {
        self.may_append()?;
        let mut view = self.shared.lock();
        if let Some(latest) = view.epochs.latest()
            && latest.epoch > epoch
        {
            return Err(AppendError::FencedEpoch { latest: latest.epoch });
        }
        let end = view.end;
        if view.epochs.assign(epoch, end) && !mutant!(207) {
            self.commit.epochs_dirty = true;
        }
        Ok(())
    }

    /// A replica begins to follow: epochs that it led without a record are forgotten, because the leader's records at
    /// the end may be of an earlier one (KAFKA-7415).
    pub fn begin_following(&mut self) {
        if mutant!(282) {
            return; // the planted bug: an epoch that it led without a record is kept, later than records that are to come
        }
        let mut view = self.shared.lock();
        let end = view.end;
        if view.epochs.truncate(end) {
            mark!("an epoch without records is forgotten by a follower");
            self.commit.epochs_dirty = true;
        }
    }

    /// Appends batches as their leader: offsets from the end on, `epoch` in each. `results[i]` belongs to `batches[i]`.
    ///
    /// Inline; the bytes are in the page cache on return and *not* durable: wait for the flushed end to pass `last`.
    ///
    /// # Errors
    /// One for each batch, [`AppendError`]. Batches behind a failed write fail with it.
    pub fn append_leader(
        &mut self,
        batches: &[VerifiedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Vec<Result<Appended, AppendError>> {
        self.now_ms = self.now_ms.max(now_ms);
        let ready =
            if self.space.is_refusing() { Err(AppendError::DiskFull) } else { self.begin_epoch(epoch) };
        if let Err(error) = ready {
            return vec![Err(error); batches.len()];
        }
        let mut results: Results = vec![None; batches.len()];
        let mut fronts = BytesMut::with_capacity(batches.len() * BatchHeader::BYTES);
        let mut run = Run::of(batches.len());
        run.staged.judge_at(now_ms);
        let mut cursor = self.cursor();
        for (slot, batch) in batches.iter().enumerate() {
            let header = batch.header();
            let told = marker_of(header, batch.bytes());
            if let Some(early) = self.judge(&mut run, slot, batch, told.as_ref(), now_ms) {
                results[slot] = early;
                continue;
            }
            if header.batch_bytes() > MAX_SEGMENT_BYTES as usize {
                results[slot] = Some(Err(AppendError::TooLarge));
                continue;
            }
            if self.must_roll(&cursor, header, cursor.end, now_ms) {
                let rolled = self.write_run(std::mem::take(&mut run), &mut results);
                if let Err(error) = rolled.and_then(|()| self.roll(now_ms)) {
                    return fail_rest(results, error);
                }
                run.staged.judge_at(now_ms);
                cursor = self.cursor();
            }
            let entry = self.place(&mut run, batch, &mut fronts, &cursor, epoch);
            run.staged.apply(&self.producers, header, told.as_ref(), cursor.end, now_ms);
            run.waiting.push((slot, Appended { base: entry.base, last: entry.last, duplicate: false }));
            cursor.position = entry.position_after();
            cursor.end = entry.last.next();
            cursor.unwritten += 1;
        }
        match self.write_run(run, &mut results) {
            Ok(()) => fail_rest(results, AppendError::Sealed), // nothing is left to fail
            Err(error) => fail_rest(results, error),
        }
    }

    /// Appends batches that a leader assigned: offsets and epochs stay. Inline, not durable on return.
    ///
    /// # Errors
    /// [`AppendError::NotNext`] if a batch does not begin at the end. Batches before the one that failed may be in:
    /// `end()` tells.
    pub fn append_follower(
        &mut self,
        batches: &[VerifiedBatch],
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        self.now_ms = self.now_ms.max(now_ms);
        self.may_append()?;
        if self.space.is_refusing() {
            return Err(AppendError::DiskFull);
        }
        let first = self.end();
        let mut results: Results = vec![None; batches.len()];
        let mut fronts = BytesMut::with_capacity(batches.len() * BatchHeader::BYTES);
        let mut run = Run::of(batches.len());
        let mut cursor = self.cursor();
        for (slot, batch) in batches.iter().enumerate() {
            let header = batch.header();
            let follows = header.base_offset == cursor.end;
            let leaves_gap = self.config.gaps && header.base_offset > cursor.end;
            if !follows && !leaves_gap {
                self.write_run(run, &mut results)?;
                return Err(AppendError::NotNext { expected: cursor.end, found: header.base_offset });
            }
            if self.must_roll(&cursor, header, header.base_offset, now_ms) {
                self.write_run(std::mem::take(&mut run), &mut results)?;
                self.roll(now_ms)?;
                cursor = self.cursor();
            }
            self.follow_epoch(header)?;
            let codec = self.shared.codec(cursor.segment_base);
            let entry = write_front(&mut run, batch, &mut fronts, header, &codec, cursor.position);
            run.entries.push(entry);
            // The planted bug M49: a follower keeps the bytes only, and knows no producer when it leads.
            if !mutant!(49) {
                let told = marker_of(header, batch.bytes());
                run.staged.apply(&self.producers, header, told.as_ref(), entry.base, now_ms);
            }
            run.waiting.push((slot, Appended { base: entry.base, last: entry.last, duplicate: false }));
            cursor.position = entry.position_after();
            cursor.end = entry.last.next();
            cursor.unwritten += 1;
        }
        self.write_run(run, &mut results)?;
        Ok(Appended { base: first, last: self.end().previous(), duplicate: false })
    }

    fn follow_epoch(&mut self, header: &BatchHeader) -> Result<(), AppendError> {
        let mut view = self.shared.lock();
        if let Some(latest) = view.epochs.latest()
            && header.leader_epoch < latest.epoch
        {
            return Err(AppendError::FencedEpoch { latest: latest.epoch });
        }
        if header.leader_epoch.is_valid() && view.epochs.assign(header.leader_epoch, header.base_offset) {
            self.commit.epochs_dirty = true;
        }
        Ok(())
    }

    pub(crate) fn may_append(&self) -> Result<(), AppendError> {
        if self.sealed.is_some() {
            return Err(AppendError::Sealed);
        }
        if self.busy == Busy::Truncating {
            return Err(AppendError::Busy);
        }
        Ok(())
    }

    /// Idempotence. `Some` is the result, or a wait for the run that holds the original; `None`: append it.
    fn judge(
        &self,
        run: &mut Run,
        slot: usize,
        batch: &VerifiedBatch,
        told: Option<&EndTxnMarker>,
        now_ms: i64,
    ) -> Option<Option<Result<Appended, AppendError>>> {
        let header = batch.header();
        if !header.producer_id.is_valid() {
            return None;
        }
        let verdict = match told {
            Some(told) => run.staged.check_marker(&self.producers, told, now_ms),
            None if header.is_control() => return None,
            None => {
                let room = (self.config.max_producers, now_ms);
                run.staged.check(&self.producers, header, batch.guard(), room)
            }
        };
        match verdict {
            Verdict::Accept => None,
            Verdict::Duplicate { base, last } => {
                let original = Appended { base, last, duplicate: true };
                if run.entries.first().is_some_and(|first| last >= first.base) {
                    run.waiting.push((slot, original));
                    return Some(None);
                }
                Some(Some(Ok(original)))
            }
            Verdict::StaleEpoch { current } => Some(Some(Err(AppendError::StaleProducer { current }))),
            Verdict::OutOfOrder { expected } => {
                let found = header.base_sequence;
                Some(Some(Err(AppendError::OutOfOrderSequence { expected, found })))
            }
            Verdict::StaleCoordinator { current } => {
                Some(Some(Err(AppendError::StaleCoordinator { current })))
            }
            Verdict::NotInTransaction => Some(Some(Err(AppendError::NotInTransaction))),
            Verdict::NotVerified => Some(Some(Err(AppendError::NotVerified))),
            Verdict::TooMany => Some(Some(Err(AppendError::TooManyProducers))),
        }
    }

    fn cursor(&self) -> Cursor {
        let mut view = self.shared.lock();
        let end = view.end;
        let active = view.active();
        Cursor {
            segment_base: active.base,
            position: active.bytes,
            end,
            unwritten: active.unwritten_count(),
            created_ms: active.created_ms,
        }
    }

    fn must_roll(&self, cursor: &Cursor, header: &BatchHeader, base: Offset, now_ms: i64) -> bool {
        if cursor.position == 0 {
            return base.plus(i64::from(header.last_offset_delta)).since(cursor.segment_base)
                > MAX_OFFSET_SPAN;
        }
        let grown = u64::from(cursor.position) + header.batch_bytes() as u64;
        let last = base.plus(i64::from(header.last_offset_delta));
        self.roll_owed
            || grown > u64::from(self.config.segment_bytes)
            || now_ms.saturating_sub(cursor.created_ms) >= self.config.segment_ms
            || last.since(cursor.segment_base) > MAX_OFFSET_SPAN
            || cursor.unwritten >= MAX_UNWRITTEN
            || buggify!("a segment is rolled early", 20)
    }

    /// Adds a batch to the run: a fresh front with our base offset and epoch, the rest as it came.
    fn place(
        &self,
        run: &mut Run,
        batch: &VerifiedBatch,
        fronts: &mut BytesMut,
        cursor: &Cursor,
        epoch: LeaderEpoch,
    ) -> Entry {
        let header = BatchHeader { base_offset: cursor.end, leader_epoch: epoch, ..*batch.header() };
        let codec = self.shared.codec(cursor.segment_base);
        let entry = write_front(run, batch, fronts, &header, &codec, cursor.position);
        run.entries.push(entry);
        entry
    }

    /// Writes a run and takes it into memory, or leaves everything as it was.
    fn write_run(&mut self, mut run: Run, results: &mut Results) -> Result<(), AppendError> {
        if mutant!(213) {
            // The planted bug: producers change though the write may fail.
            self.producers.commit(std::mem::take(&mut run.staged), self.config.max_producers);
        }
        let outcome = if run.entries.is_empty() { Ok(()) } else { self.write_parts(&run) };
        for (slot, appended) in run.waiting {
            results[slot] = Some(outcome.map(|()| appended));
        }
        outcome?;
        let mut bytes = 0;
        {
            let mut view = self.shared.lock();
            for entry in run.entries {
                bytes += u64::from(entry.length);
                view.active().push(entry);
            }
            view.active().aborted.extend_from_slice(run.staged.aborted());
            view.end = view.active().end;
            view.check();
        }
        if !run.staged.is_empty() {
            self.producers.commit(run.staged, self.config.max_producers);
        }
        self.unsnapped_bytes += bytes;
        let is_early = buggify!("producers are written down early", 50);
        if self.unsnapped_bytes >= self.config.snapshot_bytes || is_early {
            self.snapshot_producers();
        }
        self.write_side_file_in_time();
        Ok(())
    }

    /// After a power cut a batch without a record is not believed (see recovery): under the policies that rarely flush,
    /// records must not lag far behind what the system writes back by itself.
    fn write_side_file_in_time(&mut self) {
        let unwritten = self.shared.lock().active().unwritten_count();
        let is_due = unwritten >= SIDE_ENTRIES || buggify!("the side file is written early", 100);
        if is_due && self.write_side_file().is_err() {
            mark!("records of the side file wait for the next flush");
        }
    }

    fn write_parts(&mut self, run: &Run) -> Result<(), AppendError> {
        let (files, at) = {
            let mut view = self.shared.lock();
            let active = view.segments.len() - 1;
            let at = u64::from(view.segments[active].bytes);
            (self.shared.files(&mut view, active), at)
        };
        let files = match files {
            Ok(files) => files,
            Err(error) => return Err(self.write_failed(&error)),
        };
        assert!(run.entries[0].position as u64 == at, "run at {} of {at}", run.entries[0].position);
        let Err(error) = files.log.append_at(at, &run.parts) else { return Ok(()) };
        mark!("a failed append is taken back");
        if files.log.truncate(at).is_err() {
            self.seal(SealReason::WriteFailed);
            return Err(AppendError::Io(error.kind()));
        }
        Err(self.write_failed(&error))
    }

    /// A full disk is a state; anything else is the end.
    pub(crate) fn write_failed(&mut self, error: &io::Error) -> AppendError {
        if is_want(error) {
            if error.kind() != io::ErrorKind::StorageFull {
                let topic = &self.identity.topic;
                tracing::warn!(%topic, %error, "nothing can be written for now: look at the quota, and at ulimit -n");
            }
            return AppendError::DiskFull;
        }
        tracing::error!(topic = %self.identity.topic, %error, "a write failed");
        self.seal(SealReason::WriteFailed);
        AppendError::Io(error.kind())
    }
}

fn fail_rest(results: Results, error: AppendError) -> Vec<Result<Appended, AppendError>> {
    results.into_iter().map(|result| result.unwrap_or(Err(error))).collect()
}

/// The batch's header as it goes into the log, in front of its payload.
fn write_front(
    run: &mut Run,
    batch: &VerifiedBatch,
    fronts: &mut BytesMut,
    header: &BatchHeader,
    codec: &SumCodec,
    position: u32,
) -> Entry {
    fronts.put_slice(&header.encode());
    let front = fronts.split().freeze();
    let entry = crate::walk::entry_of(codec, header, &front, position);
    run.parts.push(front);
    run.parts.push(batch.bytes().slice(BatchHeader::BYTES..));
    entry
}
