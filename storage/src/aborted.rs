//! Aborted transactions of a partition: what a reader of committed records must skip.
//!
//! Owns: [`AbortedTxn`], the list that each segment keeps of the abort markers in it, the file of a sealed segment's list
//! (`<base>.aborted`, written when the list is not empty), and the choice of those that a fetch must be told (TXN-12).
//! Promises: a list is in the order of its markers; every aborted transaction that has a record in the range served is
//! chosen. Leaves out: who aborts (`producers` sees the marker), the last stable offset (`producers`).
//! Derived: made again by recovery when a file is missing or bad.
//!
//! Decided: the lists live in memory, 32 bytes a transaction. Because a fetch must not wait for the disk twice, and a
//! partition with a million aborted transactions in its retained log takes 32 MB. Revisit when that is seen.
//!
//! ```text
//! segment  [d1 d2 d1 A1][d2 d2 A2 d1]        the list of the first: (1, d1.., A1), of the second: (2, d2.., A2)
//! payload (see `small_file`), big-endian: segment base 8 | count 4, then count x ( producer 8 | first 8 | marker 8 | stable 8 )
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dejaq_wire::ids::{Offset, ProducerId};

use crate::small_file::Kind;

/// The file of one sealed segment.
pub(crate) const ABORTED_KIND: Kind = Kind { magic: *b"DJab", version: 1 };
/// Bytes of one entry.
pub(crate) const ABORTED_BYTES: usize = 32;

/// One aborted transaction of one producer in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTxn {
    /// Whose.
    pub producer_id: ProducerId,
    /// Offset of its first record.
    pub first: Offset,
    /// Offset of the marker that ended it; `first < marker`.
    pub marker: Offset,
    /// No transaction whose marker comes later begins before; `stable <= marker + 1`.
    pub stable: Offset,
}

/// Adds those of one segment's list that have records in `from..upper`; true when no later segment can have one.
pub(crate) fn choose(list: &[AbortedTxn], from: Offset, upper: Offset, found: &mut Vec<AbortedTxn>) -> bool {
    let after = list.partition_point(|txn| txn.marker < from);
    for txn in &list[after..] {
        if txn.first < upper {
            found.push(*txn);
        }
        if txn.stable >= upper {
            return true;
        }
    }
    false
}

/// Writes a list behind what is in `bytes`.
pub(crate) fn put(list: &[AbortedTxn], bytes: &mut BytesMut) {
    bytes.put_u32(list.len() as u32);
    for txn in list {
        assert!(txn.first < txn.marker, "{txn:?} ends before it begins");
        bytes.put_i64(txn.producer_id.0);
        bytes.put_i64(txn.first.0);
        bytes.put_i64(txn.marker.0);
        bytes.put_i64(txn.stable.0);
    }
}

/// Reads a list, if it makes sense.
pub(crate) fn get(bytes: &mut Bytes) -> Option<Vec<AbortedTxn>> {
    let count = if bytes.remaining() < 4 { return None } else { bytes.get_u32() as usize };
    if bytes.remaining() / ABORTED_BYTES < count {
        return None;
    }
    let list: Vec<AbortedTxn> = (0..count)
        .map(|_| AbortedTxn {
            producer_id: ProducerId(bytes.get_i64()),
            first: Offset(bytes.get_i64()),
            marker: Offset(bytes.get_i64()),
            stable: Offset(bytes.get_i64()),
        })
        .collect();
    let sane = list.iter().all(|txn| txn.first.is_valid() && txn.first < txn.marker)
        && list.windows(2).all(|pair| pair[0].marker < pair[1].marker);
    sane.then_some(list)
}

/// Transactions of one file: a longer list is made again from the log.
pub(crate) const MOST_IN_FILE: usize = (4 << 20) / ABORTED_BYTES;

/// The payload of the file of the segment at `base`; `None` if there is nothing to write, or too much.
pub(crate) fn file_of(base: Offset, list: &[AbortedTxn]) -> Option<Bytes> {
    (!list.is_empty() && list.len() <= MOST_IN_FILE).then(|| encode(base, list))
}

/// The payload of a file.
pub(crate) fn encode(base: Offset, list: &[AbortedTxn]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(12 + list.len() * ABORTED_BYTES);
    bytes.put_i64(base.0);
    put(list, &mut bytes);
    bytes.freeze()
}

/// The list of the segment at `base`, if the payload is about it.
pub(crate) fn decode(base: Offset, mut payload: Bytes) -> Option<Vec<AbortedTxn>> {
    if payload.remaining() < 8 || payload.get_i64() != base.0 {
        return None;
    }
    let list = get(&mut payload)?;
    payload.is_empty().then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txn(producer: i64, first: i64, marker: i64, stable: i64) -> AbortedTxn {
        let (first, marker, stable) = (Offset(first), Offset(marker), Offset(stable));
        AbortedTxn { producer_id: ProducerId(producer), first, marker, stable }
    }

    fn chosen(list: &[AbortedTxn], from: i64, upper: i64) -> (Vec<i64>, bool) {
        let mut found = Vec::new();
        let is_all = choose(list, Offset(from), Offset(upper), &mut found);
        (found.iter().map(|txn| txn.producer_id.0).collect(), is_all)
    }

    #[test]
    fn a_range_is_told_every_transaction_with_a_record_in_it_and_no_other() {
        let list = [txn(1, 0, 5, 3), txn(2, 3, 8, 9), txn(3, 10, 12, 13)];
        assert_eq!(chosen(&list, 0, 1), (vec![1], true));
        assert_eq!(chosen(&list, 4, 5), (vec![1, 2], true));
        assert_eq!(chosen(&list, 6, 9), (vec![2], true));
        assert_eq!(chosen(&list, 9, 10), (vec![], true));
        assert_eq!(chosen(&list, 9, 20), (vec![3], false));
        assert_eq!(chosen(&list, 13, 20), (vec![], false));
    }

    #[test]
    fn a_list_reads_back_for_its_segment_alone_and_no_cut_one_is_believed() {
        let list = vec![txn(1, 0, 5, 3), txn(2, 3, 8, 9)];
        let payload = encode(Offset(7), &list);
        assert_eq!(decode(Offset(7), payload.clone()), Some(list));
        assert_eq!(decode(Offset(8), payload.clone()), None);
        for length in 0..payload.len() {
            assert_eq!(decode(Offset(7), payload.slice(..length)), None, "length {length}");
        }
    }
}
