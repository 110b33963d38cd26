//! Which leader epoch begins where (KIP-101, KIP-279, KIP-320): the log's lineage in a short list.
//!
//! Owns: the list, strictly increasing in epoch and never decreasing in start; two entries share a start when an epoch
//! led without appending. Promises: an answer names the largest own epoch not above the one asked for, and its end.
//! Leaves out: when it is persisted (`log::flush`) and what a follower does with an answer (node).
//!
//! ```text
//! e0 @ 0      e2 @ 10     e5 @ 25     log end 40
//! └─ 0..10 ──┴─ 10..25 ──┴─ 25..40        asked for e3: (e2, 25); for e9: unknown
//! ```
//! File `epochs` (see `small_file`): count 4, then count x ( epoch 4 | start 8 ), big-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dejaq_wire::ids::{LeaderEpoch, Offset};

use crate::small_file::Kind;

/// The file that keeps the list.
pub(crate) const EPOCHS_KIND: Kind = Kind { magic: *b"DJep", version: 1 };
/// The oldest entries are dropped beyond this; a leader changes at most a few times an hour.
const MAX_EPOCHS: usize = 100_000;

/// Where an epoch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Offset of the first record that its leader appended, or would have.
    pub start: Offset,
}

/// The answer to "where does this epoch end?".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest known epoch that is not above the one asked for; that epoch itself when all known are above; none
    /// when it is above all known.
    pub epoch: LeaderEpoch,
    /// The offset after that epoch's last record, or none.
    pub end: Offset,
}

impl EpochEnd {
    /// Kafka's UNDEFINED_EPOCH_OFFSET.
    pub const UNKNOWN: EpochEnd = EpochEnd { epoch: LeaderEpoch::NONE, end: Offset::NONE };
}

/// The epochs of one log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Epochs {
    entries: Vec<EpochStart>,
}

impl Epochs {
    /// Notes that `epoch` begins at `start`, unless it is known already. Returns whether the list changed.
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        assert!(epoch.is_valid(), "epoch {epoch:?} begins at {start:?}");
        if let Some(latest) = self.latest() {
            assert!(epoch >= latest.epoch, "epoch {epoch:?} after {:?}", latest.epoch);
            assert!(start >= latest.start, "epoch {epoch:?} starts at {start:?}, before {:?}", latest.start);
            if epoch == latest.epoch {
                return false;
            }
        }
        self.entries.push(EpochStart { epoch, start });
        if self.entries.len() > MAX_EPOCHS {
            self.entries.remove(0);
        }
        true
    }

    pub(crate) fn latest(&self) -> Option<EpochStart> {
        self.entries.last().copied()
    }

    pub(crate) fn list(&self) -> &[EpochStart] {
        &self.entries
    }

    /// See [`EpochEnd`].
    pub(crate) fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> EpochEnd {
        if !epoch.is_valid() {
            return EpochEnd::UNKNOWN;
        }
        let above = self.entries.partition_point(|entry| entry.epoch <= epoch);
        match (above.checked_sub(1).map(|at| self.entries[at]), self.entries.get(above)) {
            (Some(floor), None) if floor.epoch == epoch => EpochEnd { epoch, end: log_end },
            (_, None) => EpochEnd::UNKNOWN,
            (None, Some(next)) => EpochEnd { epoch, end: next.start },
            (Some(floor), Some(next)) => EpochEnd { epoch: floor.epoch, end: next.start },
        }
    }

    /// The epoch of the record at `offset`.
    pub(crate) fn at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|entry| entry.start <= offset);
        after.checked_sub(1).map(|at| self.entries[at].epoch)
    }

    /// The log was cut: nothing starts at or after `end` any more. Returns whether the list changed.
    pub(crate) fn truncate(&mut self, end: Offset) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.start < end);
        self.entries.len() != before
    }

    /// Recovery: entries beyond the end tell of a tail that is gone; an empty epoch exactly at the end may stay.
    pub(crate) fn drop_beyond(&mut self, end: Offset) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.start <= end);
        self.entries.len() != before
    }

    /// Recovery: a batch of `epoch` lies at `base`. The log is right where the list contradicts it.
    pub(crate) fn observe(&mut self, epoch: LeaderEpoch, base: Offset) -> bool {
        if !epoch.is_valid() || self.at(base) == Some(epoch) {
            return false;
        }
        self.entries.retain(|entry| entry.epoch < epoch && entry.start <= base);
        self.assign(epoch, base)
    }

    /// The start moved: epochs that end before it are forgotten, the one that spans it begins there.
    pub(crate) fn advance_start(&mut self, start: Offset) -> bool {
        let keep_from = self.entries.partition_point(|entry| entry.start <= start).saturating_sub(1);
        let mut changed = keep_from > 0;
        self.entries.drain(..keep_from);
        if let Some(first) = self.entries.first_mut()
            && first.start < start
        {
            first.start = start;
            changed = true;
        }
        changed
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(4 + self.entries.len() * 12);
        bytes.put_u32(self.entries.len() as u32);
        for entry in &self.entries {
            bytes.put_i32(entry.epoch.0);
            bytes.put_i64(entry.start.0);
        }
        bytes.freeze()
    }

    /// `None` if the payload is not a list that a log could have.
    pub(crate) fn decode(mut payload: Bytes) -> Option<Epochs> {
        if payload.len() < 4 {
            return None;
        }
        let count = payload.get_u32() as usize;
        if count > MAX_EPOCHS || payload.len() != count * 12 {
            return None;
        }
        let entries: Vec<EpochStart> = (0..count)
            .map(|_| EpochStart { epoch: LeaderEpoch(payload.get_i32()), start: Offset(payload.get_i64()) })
            .collect();
        let sorted = entries.windows(2).all(|w| w[0].epoch < w[1].epoch && w[0].start <= w[1].start);
        let valid = entries.first().is_none_or(|first| first.epoch.is_valid() && first.start.is_valid());
        (sorted && valid).then_some(Epochs { entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(list: &[(i32, i64)]) -> Epochs {
        let mut epochs = Epochs::default();
        for (epoch, start) in list {
            assert!(epochs.assign(LeaderEpoch(*epoch), Offset(*start)));
        }
        epochs
    }

    fn ends(list: &[(i32, i64)], end: i64, asked: &[i32]) -> Vec<(i32, i64)> {
        let epochs = epochs(list);
        asked
            .iter()
            .map(|epoch| epochs.end_offset_for(LeaderEpoch(*epoch), Offset(end)))
            .map(|answer| (answer.epoch.0, answer.end.0))
            .collect()
    }

    #[test]
    fn an_epoch_ends_where_the_next_one_begins() {
        assert_eq!(
            ends(&[(1, 0), (2, 10), (5, 25)], 40, &[-1, 0, 1, 2, 3, 5, 6]),
            [(-1, -1), (0, 0), (1, 10), (2, 25), (2, 25), (5, 40), (-1, -1)]
        );
        assert_eq!(ends(&[], 0, &[0, 1]), [(-1, -1), (-1, -1)]);
    }

    #[test]
    fn an_epoch_without_records_ends_where_it_begins() {
        assert_eq!(
            ends(&[(1, 0), (3, 10), (4, 10)], 10, &[1, 2, 3, 4]),
            [(1, 10), (1, 10), (3, 10), (4, 10)]
        );
    }

    #[test]
    fn after_a_truncation_nothing_starts_at_or_beyond_the_end() {
        let mut list = epochs(&[(1, 0), (2, 10), (5, 25)]);
        assert!(list.truncate(Offset(10)));
        assert_eq!(list, epochs(&[(1, 0)]));
        assert!(!list.truncate(Offset(10)));
    }

    #[test]
    fn the_epoch_that_spans_the_new_start_begins_there() {
        let mut list = epochs(&[(1, 0), (2, 10), (5, 25)]);
        assert!(list.advance_start(Offset(12)));
        assert_eq!(list, epochs(&[(2, 12), (5, 25)]));
        assert_eq!(list.at(Offset(24)), Some(LeaderEpoch(2)));
        assert_eq!(list.at(Offset(11)), None);
    }

    #[test]
    fn a_list_that_runs_backwards_is_not_believed() {
        let list = epochs(&[(1, 0), (2, 10)]);
        assert_eq!(Epochs::decode(list.encode()), Some(list));
        let backwards = Epochs {
            entries: vec![
                EpochStart { epoch: LeaderEpoch(2), start: Offset(0) },
                EpochStart { epoch: LeaderEpoch(1), start: Offset(10) },
            ],
        };
        assert_eq!(Epochs::decode(backwards.encode()), None);
        assert_eq!(Epochs::decode(Bytes::from_static(&[255, 255, 255, 255])), None);
    }
}
