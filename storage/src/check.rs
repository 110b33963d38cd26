//! The deep self-check: everything that the log keeps beside its batches, computed again from the batches.
//!
//! Checks LOG-1 (offsets never repeat), LOG-2 (the order of start, flushed, end), LOG-6 (indexes), LOG-7 (epochs) and
//! LOG-13 (producers). Reads the whole log: for the simulator and for tests, after every step that matters.

use std::collections::BTreeSet;

use dejaq_wire::ids::Offset;

use crate::aborted::AbortedTxn;
use crate::batch::marker_of;
use crate::disk::{Disk, Open};
use crate::epochs::Epochs;
use crate::index::{Place, SparseIndex};
use crate::layout::FileKind;
use crate::log::Log;
use crate::producers::Producers;
use crate::scrub::Frozen;
use crate::sum::Record;
use crate::walk::{Patience, RecordWalk, Step, fetch};

impl<D: Disk> Log<D> {
    /// Compares everything derived with the batches themselves. Known damage is passed over, new damage is a finding.
    ///
    /// # Errors
    /// The first contradiction, in words.
    pub async fn check_deep(&self) -> Result<(), String> {
        let reader = self.reader();
        let (start, end, flushed) = (reader.start(), reader.end(), reader.flushed());
        if start > end || flushed > end {
            return Err(format!("LOG-2: start {start:?}, flushed {flushed:?}, end {end:?}"));
        }
        let damaged = reader.damaged();
        let mut epochs = Epochs::default();
        let mut producers = Producers::default();
        let (mut aborted, mut aborts) = (Vec::new(), BTreeSet::new());
        let mut next = Offset::ZERO;
        let mut first = None;
        while let Some(frozen) = reader.freeze(next).map_err(|error| error.to_string())? {
            if first.is_some() && frozen.base != next {
                return Err(format!("LOG-1: segment {:?} follows {next:?}", frozen.base));
            }
            first.get_or_insert(frozen.base);
            let mut walk = frozen.walk();
            while let Some(step) = walk.next().await.map_err(|miss| format!("{miss:?}"))? {
                match step {
                    Step::Batch { entry, header, bytes } => {
                        if entry.base < next {
                            return Err(format!("LOG-1: batch {:?} after {next:?}", entry.base));
                        }
                        next = entry.last.next();
                        // Compaction takes the first batches of an epoch away, the list keeps its start.
                        let listed = reader.epoch_at(entry.base);
                        let is_known =
                            header.leader_epoch.is_valid() && damaged.is_empty() && entry.base >= start;
                        if is_known && listed != Some(header.leader_epoch) {
                            let (base, epoch) = (entry.base, header.leader_epoch);
                            return Err(format!("LOG-7: {base:?} is of {epoch:?}, listed {listed:?}"));
                        }
                        epochs.observe(header.leader_epoch, entry.base);
                        let told = marker_of(&header, &bytes);
                        if told.as_ref().is_some_and(|told| !told.commit) {
                            aborts.insert(entry.base);
                        }
                        aborted.extend(producers.replay(&header, told.as_ref(), 0, usize::MAX));
                    }
                    Step::Damaged { to, .. } if to <= start => next = to,
                    Step::Damaged { from, to, why } => {
                        if !damaged.iter().any(|known| known.from <= from && to <= known.to) {
                            return Err(format!("LOG-5: {from:?}..{to:?} is damaged: {why}"));
                        }
                        next = to;
                    }
                }
            }
            self.check_index(&frozen).await?;
            next = frozen.end;
        }
        if next != end && end > start {
            return Err(format!("LOG-1: the batches end at {next:?}, the log at {end:?}"));
        }
        if first.is_some_and(|base| base > start) && damaged.is_empty() {
            return Err(format!("LOG-2: the first segment begins at {first:?}, behind the start {start:?}"));
        }
        if damaged.is_empty() {
            if !self.config().gaps {
                self.check_epochs(&epochs, start, end)?;
            }
            let first = first.unwrap_or(start);
            self.producers_agree(&producers, first).map_err(|error| format!("LOG-13: {error}"))?;
            self.check_aborted(&aborted, &aborts, first)?;
        }
        Ok(())
    }

    /// Every epoch of a batch is in the list at the same offset; what the list has beyond that led without appending.
    fn check_epochs(&self, from_log: &Epochs, start: Offset, end: Offset) -> Result<(), String> {
        let mut from_log = from_log.clone();
        from_log.advance_start(start);
        let kept = self.epochs();
        for pair in kept.windows(2) {
            if pair[0].epoch >= pair[1].epoch || pair[0].start > pair[1].start {
                return Err(format!("LOG-7: {pair:?} is not in order"));
            }
        }
        for entry in from_log.list().iter().filter(|entry| entry.start < end) {
            if !kept.contains(entry) {
                return Err(format!("LOG-7: {entry:?} is in the log, the list is {kept:?}"));
            }
        }
        for (at, entry) in kept.iter().enumerate() {
            let next = kept.get(at + 1).map_or(end, |next| next.start);
            let empty = entry.start == next || entry.start >= end;
            if !from_log.list().contains(entry) && !empty && entry.start > start {
                return Err(format!("LOG-7: {entry:?} is in the list but not in the log"));
            }
        }
        Ok(())
    }

    /// The lists of aborted transactions are what the markers say; of those that began below the log only they know. In a
    /// log with gaps they may have lost data, but not the marker, which tells a reader where they end.
    fn check_aborted(
        &self,
        from_log: &[AbortedTxn],
        aborts: &BTreeSet<Offset>,
        first: Offset,
    ) -> Result<(), String> {
        if self.config().gaps {
            return self.check_aborted_with_gaps(from_log, aborts, first);
        }
        let told = |txn: &AbortedTxn| (txn.producer_id, txn.first, txn.marker);
        let view = self.shared.lock();
        let kept = view.segments.iter().flat_map(|segment| &segment.aborted).filter(|txn| txn.first >= first);
        let (kept, found): (Vec<_>, Vec<_>) = (kept.map(told).collect(), from_log.iter().map(told).collect());
        // What began below the log may seem to begin inside of it.
        if let Some(txn) = kept.iter().find(|txn| !found.contains(txn)) {
            return Err(format!("TXN-12: {txn:?} is listed as aborted, and not in the log: {found:?}"));
        }
        let markers: Vec<Offset> =
            view.segments.iter().flat_map(|segment| &segment.aborted).map(|txn| txn.marker).collect();
        match found.iter().find(|(_, _, marker)| !markers.contains(marker)) {
            Some(txn) => Err(format!("TXN-12: {txn:?} was aborted, and is not listed: {kept:?}")),
            None => Ok(()),
        }
    }

    fn check_aborted_with_gaps(
        &self,
        from_log: &[AbortedTxn],
        aborts: &BTreeSet<Offset>,
        first: Offset,
    ) -> Result<(), String> {
        let view = self.shared.lock();
        let kept: Vec<AbortedTxn> = view.segments.iter().flat_map(|one| &one.aborted).copied().collect();
        if let Some(txn) = kept.iter().find(|txn| txn.marker >= first && !aborts.contains(&txn.marker)) {
            return Err(format!("TXN-12: {txn:?} is listed as aborted, and its marker is not in the log"));
        }
        let is_listed = |found: &AbortedTxn| {
            let same = |txn: &&AbortedTxn| {
                (txn.producer_id, txn.marker) == (found.producer_id, found.marker) && txn.first <= found.first
            };
            kept.iter().any(|txn| same(&txn))
        };
        match from_log.iter().find(|found| !is_listed(found)) {
            Some(txn) => Err(format!("TXN-12: {txn:?} was aborted, and is not listed: {kept:?}")),
            None => Ok(()),
        }
    }

    /// Every place of an index is where its record says.
    async fn check_index(&self, frozen: &Frozen<D>) -> Result<(), String> {
        let mut places: Vec<Place> = Vec::new();
        {
            let view = self.shared.lock();
            if let Some(index) =
                view.segments.iter().find(|s| s.base == frozen.base).and_then(|s| s.index.as_ref())
            {
                places.extend_from_slice(index.places());
            }
        }
        let path = self.shared.path(FileKind::Index, frozen.base);
        if let Ok(file) = self.shared.disk.open(&path, Open::Read)
            && let Ok(bytes) = fetch(&file, 0, SparseIndex::max_file_bytes(), Patience::Wait).await
            && let Some((summary, index)) = SparseIndex::decode(&self.shared.binding, frozen.base, &bytes)
            && summary.end == frozen.end
        {
            places.extend_from_slice(index.places());
        }
        for place in places {
            let (at, sum) = (place.ordinal, &frozen.files.sum);
            let mut walk = RecordWalk::new(sum, &frozen.codec, at, at + 1, Patience::Wait);
            match walk.next().await.map_err(|miss| format!("{miss:?}"))? {
                Some((_, Ok(Record::Batch(entry))))
                    if entry.base == place.base && entry.position == place.position => {}
                Some((_, Err(_))) => {} // a rotten record: the batch behind it is reported as damaged
                other => return Err(format!("LOG-6: {place:?} points at {other:?}")),
            }
        }
        Ok(())
    }
}
