//! LOG-6: what an index file says is what a rebuild from the log says.
//!
//! Source: CORRECTNESS.md 1.1 (KAFKA-6264, 6388, 16342). Each place names the batch that begins there, the number of its
//! record in the side file, and the newest timestamp before it: so that a search by offset or by time that begins at the
//! last place at or before what it looks for finds the first batch that fits. An index that does not verify, or that
//! speaks of another end of its segment, is not used by the product, and not judged. Called as [`super::bounds`] is.

use super::Broken;
use super::crc::crc32;
use super::files::{self, Names, Numbers};
use super::image::Batch;
use super::side_file::{Line, lines, seed};

/// Bytes of the front: summary and its sum.
const FRONT: usize = 52;
/// Bytes of a place.
const PLACE: usize = 20;

/// Every index file of one log agrees with its segment.
#[must_use]
pub fn check(folder: &str, names: &Names<'_>, log: &[Batch]) -> Option<Broken> {
    let indexes = names.iter().filter_map(|(name, bytes)| Some((files::offset(name, ".index")?, bytes)));
    indexes.into_iter().find_map(|(base, bytes)| {
        let segment: Vec<&Batch> = log.iter().filter(|batch| batch.segment == base).collect();
        let side = names.get(&format!("{base:020}.sum")[..]).map_or(&[][..], |bytes| bytes);
        let lines = lines(folder, base, side);
        let line = |ordinal: u32| lines.get(&ordinal).copied();
        compare(folder, base, bytes, &segment, line)
            .map(|text| Broken { name: "LOG-6", evidence: format!("{folder}: index {base}: {text}") })
    })
}

fn compare(
    folder: &str,
    base: u64,
    bytes: &[u8],
    segment: &[&Batch],
    line: impl Fn(u32) -> Option<Line>,
) -> Option<String> {
    let seed = seed(folder, base)?;
    let summed = |to: usize| -> Option<bool> {
        let sum = u32::from_be_bytes(bytes.get(to..to + 4)?.try_into().ok()?);
        Some(bytes[..4] == *b"DJQI" && !crc32(seed, &bytes[..to]) == sum)
    };
    if !summed(FRONT - 4)? {
        return None;
    }
    let mut front = Numbers(&bytes[16..FRONT - 4]);
    let (end, length, _records) = (front.take::<8>()?, front.take::<4>()?, front.take::<4>()?);
    let (newest, _interval, count) = (front.take::<8>()?, front.take::<4>()?, front.take::<4>()? as usize);
    let last = segment.last()?;
    if end != last.last + 1 || !summed(FRONT + count * PLACE)? {
        return None;
    }
    let real = (last.at + last.bytes) as i64;
    let real_newest = segment.iter().map(|batch| batch.newest_ms).max().unwrap_or(-1).max(-1);
    if (length, newest) != (real, real_newest) {
        return Some(format!(
            "it says {length} bytes, newest {newest}; it is {real} bytes, newest {real_newest}"
        ));
    }
    let mut places = Numbers(&bytes[FRONT..FRONT + count * PLACE]);
    let (mut before, mut newest, mut passed) = (-1, -1, 0);
    for _ in 0..count {
        let (delta, at) = (places.take::<4>()?, places.take::<4>()?);
        let (ordinal, newest_before) = (places.take::<4>()? as u32, places.take::<8>()?);
        let at = at as u64;
        while segment.get(passed).is_some_and(|batch| batch.at < at) {
            newest = newest.max(segment[passed].newest_ms);
            passed += 1;
        }
        let told = base as i64 + delta;
        let is_there = segment.get(passed).is_some_and(|batch| batch.at == at && batch.base == told);
        let is_recorded = line(ordinal) == Some(Line::Batch { at, base: told });
        if !is_there || !is_recorded || newest_before != newest || told <= before {
            return Some(format!(
                "a place says offset {told} at byte {at}, record {ordinal}, newest before {newest_before}: \
                 batch there {is_there}, its record {:?}, newest before it {newest}, place before {before}",
                line(ordinal)
            ));
        }
        before = told;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::FOLDER;
    use super::super::image::{Logs, tests::batch};
    use super::*;

    /// An index file over a segment of `length` bytes that ends at `end`, with these places.
    fn index(end: i64, length: u32, places: &[(u32, u32, u32, i64)]) -> Vec<u8> {
        let seed = seed(FOLDER, 0).expect("a folder");
        let mut bytes = [&b"DJQI"[..], &[0, 1, 0, 0], &[0; 8], &end.to_be_bytes()].concat();
        bytes.extend(length.to_be_bytes());
        bytes.extend(9_u32.to_be_bytes());
        bytes.extend(0_i64.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend((places.len() as u32).to_be_bytes());
        bytes.extend((!crc32(seed, &bytes)).to_be_bytes());
        for (delta, at, ordinal, newest) in places {
            bytes.extend([delta.to_be_bytes(), at.to_be_bytes(), ordinal.to_be_bytes()].concat());
            bytes.extend(newest.to_be_bytes());
        }
        bytes.extend((!crc32(seed, &bytes)).to_be_bytes());
        bytes
    }

    fn verdict(end: i64, length: u32, places: &[(u32, u32, u32, i64)]) -> bool {
        // Two batches of 70 bytes with time 0: records 1 and 3, a marker between them.
        let log = Logs::of_segment(&[batch(0, 3, 1), batch(3, 2, 1)].concat());
        let segment: Vec<&Batch> = log.iter().collect();
        let line = |ordinal| match ordinal {
            1 => Some(Line::Batch { at: 0, base: 0 }),
            2 => Some(Line::Marker { end: 3 }),
            3 => Some(Line::Batch { at: 70, base: 3 }),
            _ => None,
        };
        compare(FOLDER, 0, &index(end, length, places), &segment, line).is_some()
    }

    #[test]
    fn a_place_that_is_not_where_it_says_is_found() {
        let good = [(0, 0, 1, -1), (3, 70, 3, 0)];
        assert!(!verdict(5, 140, &good));
        assert!(verdict(5, 139, &good), "another length");
        assert!(!verdict(4, 139, &good), "it speaks of another end, and is not used");
        for (wrong, why) in [
            ((2, 70, 3, 0), "another offset"),
            ((3, 69, 3, 0), "another byte"),
            ((3, 70, 2, 0), "the record of a marker"),
            ((3, 70, 3, -1), "there is a newer record before it"),
        ] {
            assert!(verdict(5, 140, &[(0, 0, 1, -1), wrong]), "{why}");
        }
        assert!(verdict(5, 140, &[(3, 70, 3, 0), (0, 0, 1, -1)]), "backwards");
    }
}
