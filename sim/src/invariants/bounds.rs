//! LOG-2: the start lies at or before the end, the first segment at or before the start, every durable point at or before
//! the end.
//!
//! Source: CORRECTNESS.md 1.1 (KAFKA-10101, 5634, 769, 539; Redpanda d2ee527). Called when a broker has recovered, and after
//! it stopped gracefully; not for logs that were damaged on purpose, whose end may be lost and reported.

use super::Broken;
use super::files::{self, Names};
use super::image::Batch;
use super::side_file::{Line, lines};

/// The bounds of one log are in order.
#[must_use]
pub fn check(folder: &str, names: &Names<'_>, log: &[Batch]) -> Option<Broken> {
    let mut bases = names.keys().filter_map(|name| files::offset(name, ".log"));
    let first = bases.next()? as i64;
    let last_base = bases.next_back().map_or(first, |base| base as i64);
    let end = log.last().map_or(last_base, |batch| (batch.last + 1).max(last_base));
    let start = match names.get("start") {
        None => 0,
        Some(file) => {
            let payload = files::payload(folder, b"DJst", file)?; // one that cannot be read says nothing
            i64::from_be_bytes(payload.try_into().ok()?)
        }
    };
    let durable = names.iter().filter_map(|(name, bytes)| Some((files::offset(name, ".sum")?, bytes)));
    let markers = durable.flat_map(|(base, bytes)| lines(folder, base, bytes).into_values());
    let durable = markers.filter_map(|line| match line {
        Line::Marker { end } => Some(end),
        Line::Batch { .. } => None,
    });
    let durable = durable.max().unwrap_or(0);
    let good = first <= start && start <= end && durable <= end;
    (!good).then(|| Broken {
        name: "LOG-2",
        evidence: format!("{folder}: begins at {first}, start {start}, durable {durable}, end {end}"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::crc::crc32;
    use super::super::files::tests::{FOLDER, small_file};
    use super::super::image::{Logs, tests::batch};
    use super::super::side_file::seed;
    use super::*;

    /// A side file of the segment `base` with one marker.
    fn marker(base: u64, end: i64) -> Vec<u8> {
        let mut record = [&0x8000_0000_u32.to_be_bytes()[..], &end.to_be_bytes(), &[0; 16]].concat();
        let state = crc32(seed(FOLDER, base).expect("a folder"), &1_u32.to_be_bytes());
        record.extend_from_slice(&(!crc32(state, &record)).to_be_bytes());
        [vec![0; 32], record].concat()
    }

    fn verdict(first: i64, start: i64, durable: i64) -> Option<&'static str> {
        let bytes = batch(first, 10, 1);
        let log = Logs::of_segment(&bytes);
        let start = small_file(b"DJst", &start.to_be_bytes());
        let (log_name, sum_name) = (format!("{first:020}.log"), format!("{first:020}.sum"));
        let side = marker(first as u64, durable);
        let names: Names<'_> =
            [("start", &start[..]), (&log_name[..], &bytes[..]), (&sum_name[..], &side[..])].into();
        check(FOLDER, &names, &log).map(|broken| broken.name)
    }

    #[test]
    fn bounds_out_of_order_are_found() {
        assert_eq!(verdict(5, 7, 15), None);
        assert_eq!(verdict(5, 4, 15), Some("LOG-2"), "the first segment begins behind the start");
        assert_eq!(verdict(5, 16, 15), Some("LOG-2"), "the start lies behind the end");
        assert_eq!(verdict(5, 7, 16), Some("LOG-2"), "more is called durable than there is");
    }
}
