//! Transactions that ended, as long as their markers are not known to be below the watermark.
//!
//! Owns: [`Ended`]. Promises: the first offset told is that of the oldest transaction whose marker lies at or beyond the
//! watermark, or an older one; never a later one (TXN-3: a marker that is appended but not replicated decides nothing).
//! At most [`LIMIT`] are kept apart: beyond that, the two oldest become one that begins with the first of them and ends
//! with the last, which holds readers of committed records back longer than need be, and never too little.

use std::collections::{BTreeMap, BTreeSet};

use dejaq_wire::ids::Offset;

use crate::mark;

/// Transactions kept apart: 1 MiB.
const LIMIT: usize = 65_536;

/// One transaction that has its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EndedTxn {
    /// Offset of its first record.
    pub(crate) first: Offset,
    /// Offset of its marker.
    pub(crate) marker: Offset,
}

/// See the module's header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// First offsets by marker.
    by_marker: BTreeMap<Offset, Offset>,
    by_first: BTreeSet<(Offset, Offset)>,
}

impl Ended {
    pub(crate) fn add(&mut self, txn: EndedTxn) {
        assert!(txn.first < txn.marker, "{txn:?} ends before it begins");
        self.by_marker.insert(txn.marker, txn.first);
        self.by_first.insert((txn.first, txn.marker));
        if self.by_marker.len() > LIMIT {
            mark!("ended transactions are taken together for lack of room");
            let (old_marker, old_first) = self.by_marker.pop_first().expect("more than the limit");
            self.by_first.remove(&(old_first, old_marker));
            let (marker, first) = self.by_marker.pop_first().expect("more than the limit");
            self.by_first.remove(&(first, marker));
            let first = first.min(old_first);
            self.by_marker.insert(marker, first);
            self.by_first.insert((first, marker));
        }
        assert!(
            self.by_marker.len() == self.by_first.len(),
            "{} and {}",
            self.by_marker.len(),
            self.by_first.len()
        );
    }

    /// First offset of the oldest whose marker is at or beyond `watermark`. Those below are forgotten.
    pub(crate) fn first_at_or_beyond(&mut self, watermark: Offset) -> Option<Offset> {
        while let Some((marker, first)) =
            self.by_marker.first_key_value().map(|(marker, first)| (*marker, *first))
            && marker < watermark
        {
            self.by_marker.pop_first();
            self.by_first.remove(&(first, marker));
        }
        self.by_first.first().map(|(first, _)| *first)
    }

    /// All of them, in the order of their markers.
    pub(crate) fn list(&self) -> impl ExactSizeIterator<Item = EndedTxn> + '_ {
        self.by_marker.iter().map(|(marker, first)| EndedTxn { first: *first, marker: *marker })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(txns: &[(i64, i64)]) -> Ended {
        let mut ended = Ended::default();
        txns.iter().for_each(|(first, marker)| {
            ended.add(EndedTxn { first: Offset(*first), marker: Offset(*marker) })
        });
        ended
    }

    #[test]
    fn a_transaction_counts_until_the_watermark_has_passed_its_marker() {
        let mut ended = ended(&[(3, 5), (0, 8), (6, 9)]);
        for (watermark, first) in [(5, Some(0)), (6, Some(0)), (8, Some(0)), (9, Some(6)), (10, None)] {
            assert_eq!(
                ended.first_at_or_beyond(Offset(watermark)),
                first.map(Offset),
                "watermark {watermark}"
            );
        }
    }

    #[test]
    fn what_is_too_much_is_taken_together_and_shows_no_more() {
        let many: Vec<_> = (0..LIMIT as i64 + 10).map(|at| (at * 2, at * 2 + 1)).collect();
        let mut ended = ended(&many);
        assert_eq!(ended.list().len(), LIMIT);
        assert_eq!(ended.first_at_or_beyond(Offset(1)), Some(Offset(0)));
        assert!(ended.first_at_or_beyond(Offset(100)) <= Some(Offset(100)));
    }
}
