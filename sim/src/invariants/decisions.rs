//! TXN-5 and TXN-6: markers of transactions in the logs, beside the decisions in the log of their coordinators.
//!
//! Source: CORRECTNESS.md 1.6 (Redpanda 1a30165; KAFKA-10080, 19999). A marker names producer, epoch and outcome; the decision
//! that it carries out is a record of the transaction log with the same three, and lies below that log's watermark before any
//! marker leaves: what one log alone has, another coordinator decides the other way. Where every transaction has an epoch of
//! its own (KIP-890), all markers of one epoch have one outcome. Reads segments by a parser of its own; what was compacted away
//! it does not know, so it is asked where nothing was. Called by `story::undecided`.
//!
//! ```text
//!  user log          … data (7, 3) … data (7, 3) … COMMIT (7, 4)
//!  transaction log   … "x" = Ongoing (7, 3) … "x" = PrepareCommit (7, 4) ─┬─ watermark: the marker may be there
//!                                                                         └─ not reached: TXN-6
//! ```

use std::collections::BTreeSet;

use super::Broken;
use super::files::{Numbers, offset};
use super::image::Logs;

const CONTROL: i64 = 1 << 5;
/// Where the fields of a batch begin that its CRC covers.
const ATTRIBUTES: usize = 21;
/// Where its records begin.
const RECORDS: usize = 61;

/// How a transaction ended, or is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ending {
    /// The producer.
    pub producer: i64,
    /// The epoch of its marker.
    pub epoch: i64,
    /// Committed, or aborted.
    pub commit: bool,
}

/// The markers in a log, by offset. `files` are those of its folder.
#[must_use]
pub fn markers(files: &[(String, Vec<u8>)]) -> Vec<(i64, Ending)> {
    let mut found = Vec::new();
    each_batch(files, |batch| {
        if batch.attributes & CONTROL == 0 {
            return;
        }
        each_record(batch.records, |key, _| {
            let mut key = Numbers(key);
            let kind = key.take::<2>().and_then(|_version| key.take::<2>());
            if let Some(commit) = kind.and_then(|kind| [false, true].get(kind as usize).copied()) {
                found.push((batch.base, Ending { producer: batch.producer, epoch: batch.epoch, commit }));
            }
        });
    });
    found
}

/// The decisions in a partition of the transaction log below `below`. `files` are those of its folder.
#[must_use]
pub fn decisions(files: &[(String, Vec<u8>)], below: i64) -> BTreeSet<Ending> {
    let mut found = BTreeSet::new();
    each_batch(files, |batch| {
        if batch.last >= below || batch.attributes & CONTROL != 0 {
            return;
        }
        each_record(batch.records, |key, value| {
            let mut value = Numbers(value);
            let fields = (|| {
                let _version = value.take::<2>()?;
                let (producer, epoch) = (value.take::<8>()?, value.take::<2>()?);
                let _timeout = value.take::<4>()?;
                Some((producer, epoch, value.take::<1>()?))
            })();
            // Of the states 2 and 3 are decisions that are to be carried out.
            if let Some((producer, epoch, state @ (2 | 3))) = fields
                && Numbers(key).take::<2>() == Some(0)
            {
                found.insert(Ending { producer, epoch, commit: state == 2 });
            }
        });
    });
    found
}

/// Every marker carries out one of `decided`, and all of one epoch the same.
#[must_use]
pub fn check(seen: &[(String, Ending)], decided: &BTreeSet<Ending>) -> Option<Broken> {
    let one = |(place, ending): &(String, Ending)| {
        if !decided.contains(ending) {
            let evidence = format!("{place}: {ending:?} is there, and no such decision is replicated");
            return Some(Broken { name: "TXN-6", evidence });
        }
        let other = Ending { commit: !ending.commit, ..*ending };
        let torn = seen.iter().find(|(_, seen)| *seen == other)?;
        Some(Broken { name: "TXN-5", evidence: format!("{place}: {ending:?}, and in {} {other:?}", torn.0) })
    };
    seen.iter().find_map(one)
}

struct Whole<'f> {
    base: i64,
    last: i64,
    attributes: i64,
    producer: i64,
    epoch: i64,
    records: &'f [u8],
}

fn each_batch<'f>(files: &'f [(String, Vec<u8>)], mut visit: impl FnMut(Whole<'f>)) {
    for (_, segment) in files.iter().filter(|(name, _)| offset(name, ".log").is_some()) {
        for batch in Logs::of_segment(segment).into_iter().filter(|batch| batch.intact) {
            let bytes = &segment[batch.at as usize..(batch.at + batch.bytes) as usize];
            let mut numbers = Numbers(&bytes[ATTRIBUTES..]);
            let fields = (|| {
                let attributes = numbers.take::<2>()?;
                numbers.take::<4>()?;
                numbers.take::<8>()?;
                numbers.take::<8>()?;
                Some((attributes, numbers.take::<8>()?, numbers.take::<2>()?))
            })();
            if let Some((attributes, producer, epoch)) = fields {
                let records = &bytes[RECORDS..];
                visit(Whole { base: batch.base, last: batch.last, attributes, producer, epoch, records });
            }
        }
    }
}

/// Key and value of each record of an uncompressed batch; one that is missing is empty.
fn each_record<'f>(mut left: &'f [u8], mut visit: impl FnMut(&'f [u8], &'f [u8])) {
    while let Some(mut record) = field(&mut left) {
        let mut key_and_value = || {
            record = record.get(1..)?; // attributes
            let (_time, _offset) = (varint(&mut record)?, varint(&mut record)?);
            Some((field(&mut record)?, field(&mut record)?))
        };
        if let Some((key, value)) = key_and_value() {
            visit(key, value);
        }
    }
}

/// A length and so many bytes; none for a length below zero.
fn field<'f>(from: &mut &'f [u8]) -> Option<&'f [u8]> {
    let length = usize::try_from(varint(from)?).unwrap_or(0);
    let (field, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(field)
}

/// A number in zigzag, seven bits a byte, the lowest first.
fn varint(from: &mut &[u8]) -> Option<i64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((number >> 1) as i64 ^ -((number & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::image::tests::of_producer;
    use super::*;

    const NAME: &str = "00000000000000000000.log";

    fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| 2 * u8::try_from(bytes.len()).expect("short");
        let body = [&[0, 0, 0, length(key)], key, &[length(value)], value, &[0]].concat();
        [&[length(&body)], &body[..]].concat()
    }

    fn marker(base: i64, (producer, epoch): (i64, i16), commit: bool) -> Vec<u8> {
        let record = record(&[0, 0, 0, u8::from(commit)], &[0, 0, 0, 0, 0, 5]);
        of_producer(base, 0x30, (producer, epoch), &record)
    }

    fn stored(base: i64, (producer, epoch): (i64, i16), state: u8) -> Vec<u8> {
        let value =
            [&[0, 1][..], &producer.to_be_bytes(), &epoch.to_be_bytes(), &[0, 0, 1, 0, state, 0]].concat();
        of_producer(base, 0, (-1, -1), &record(&[0, 0, 0, 1, b'x'], &value))
    }

    fn log(batches: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
        vec![(NAME.into(), batches.concat()), ("00000000000000000000.sum".into(), vec![7; 99])]
    }

    const COMMITTED: Ending = Ending { producer: 7, epoch: 4, commit: true };

    #[test]
    fn a_marker_before_its_decision_is_replicated_is_found() {
        let user = log(&[of_producer(0, 0x10, (7, 3), &record(b"", b"data")), marker(1, (7, 4), true)]);
        let seen: Vec<(String, Ending)> =
            markers(&user).into_iter().map(|(offset, ending)| (offset.to_string(), ending)).collect();
        assert_eq!(seen, [("1".to_owned(), COMMITTED)]);
        let home = log(&[stored(0, (7, 3), 1), stored(1, (7, 4), 2)]);
        assert_eq!(decisions(&home, 1), BTreeSet::new(), "it is not below the watermark");
        let found = check(&seen, &decisions(&home, 1)).expect("it is too early");
        assert_eq!(found.name, "TXN-6", "{found:?}");
        assert_eq!(decisions(&home, 2), BTreeSet::from([COMMITTED]));
        assert_eq!(check(&seen, &decisions(&home, 2)), None);
        let other = log(&[stored(0, (7, 4), 3)]);
        assert!(check(&seen, &decisions(&other, 1)).is_some(), "to abort was decided");
    }

    #[test]
    fn two_outcomes_of_one_transaction_are_found() {
        let aborted = Ending { commit: false, ..COMMITTED };
        let seen = [("p".to_owned(), COMMITTED), ("q".to_owned(), aborted)];
        let found = check(&seen, &BTreeSet::from([COMMITTED, aborted])).expect("it is torn");
        assert_eq!(found.name, "TXN-5", "{found:?}");
    }

    #[test]
    fn damaged_records_are_passed_over() {
        let mut bytes = record(b"key", b"value");
        for length in 0..bytes.len() {
            each_record(&bytes[..length], |_, _| panic!("it is cut off at {length}"));
        }
        bytes[0] = 0x7e;
        each_record(&bytes, |_, _| panic!("it claims to be longer than all"));
    }
}
