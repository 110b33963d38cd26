//! The torn tail as a matrix: every file that a power cut can tear, at every place, in every way.
//!
//! | | cut off there | zeros from there on | garbage from there on | one sector from there stale |
//! |---|---|---|---|---|
//! | `.log`, `.sum`: what no sync covered | every third byte of the last batches and records | | | |
//! | `.index`, `.producers`: derived, never promised | every 41st byte | | | |
//! | `epochs.tmp`, `start.tmp`, `partition.tmp`: on their way | each byte | | | |
//!
//! In each cell recovery keeps what a sync covered, serves a prefix of what was appended, reports no damage, and the log
//! goes on and agrees with itself.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use dejaq_wire::ids::LeaderEpoch;

use super::kit::*;
use crate::model_disk::Platter;
use crate::{Disk, DiskFile, Open};

#[derive(Debug, Clone, Copy)]
enum Tear {
    Cut,
    Zeros,
    Garbage,
    Stale,
}

const TEARS: [Tear; 4] = [Tear::Cut, Tear::Zeros, Tear::Garbage, Tear::Stale];

/// A log with two segments, both snapshots and an index, of which the last two batches were never synced; and what the
/// lengths of its files were at the last sync.
fn torn_pair() -> (Pair, Vec<(PathBuf, u64)>) {
    let mut pair = Pair::new(small());
    for sequence in 0..12 {
        pair.append(Spec::of(1, sequence, 1)).expect("room");
        pair.append(Spec::plain(2, 60)).expect("room");
    }
    pair.flush();
    let synced = pair.platter.lengths();
    pair.append(Spec::of(1, 12, 1)).expect("room");
    pair.append(Spec::plain(1, 30)).expect("room");
    drop(pair.log.begin_flush().expect("room")); // the side file is written, nothing is synced
    (pair, synced)
}

fn tear(platter: &Platter, path: &Path, at: u64, tear: Tear) {
    let disk = platter.mount();
    let file = disk.open(path, Open::Write).expect("it is there");
    let length = file.len().expect("it says");
    let rest = usize::try_from(length - at).expect("small");
    let bytes: Vec<u8> = match tear {
        Tear::Cut => return file.truncate(at).expect("it cuts"),
        Tear::Zeros => vec![0; rest],
        Tear::Garbage => (0..rest).map(|n| (n * 37 + 11) as u8).collect(),
        Tear::Stale => vec![b'v'; rest.min(16)],
    };
    file.append_at(at, &[Bytes::from(bytes)]).expect("it writes");
}

fn check(pair: &Pair, platter: &Platter, context: &str) {
    platter.kill();
    let (mut log, report) = try_open(platter, small()).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(report.damaged.is_empty(), "{context}: {report:?}");
    assert!(log.end() >= pair.durable, "{context}: ends at {:?}, {:?} was durable", log.end(), pair.durable);
    let kept: Vec<_> = pair.batches.iter().filter(|batch| batch.last < log.end()).cloned().collect();
    assert_eq!(read_all(&log).unwrap_or_else(|error| panic!("{context}: {error}")), kept, "{context}");
    let appended = log.append_leader(&[Spec::plain(2, 20).build(99)], LeaderEpoch(2), NOW_MS);
    assert!(appended[0].is_ok(), "{context}: {appended:?}");
    now(log.flush()).unwrap_or_else(|error| panic!("{context}: {error}"));
    now(log.check_deep()).unwrap_or_else(|error| panic!("{context}: {error}"));
}

#[test]
fn every_place_of_every_unsynced_tail_may_be_torn_in_every_way() {
    let (pair, synced) = torn_pair();
    let mut cells = 0;
    for (path, length) in pair.platter.lengths() {
        let name = path.to_string_lossy().into_owned();
        let of_synced = || synced.iter().find(|(known, _)| *known == path).map_or(0, |(_, length)| *length);
        let (from, step) = match name.rsplit('.').next() {
            Some("log" | "sum") => (of_synced(), 3),
            Some("index" | "producers") => (0, 41), // a prime: every place of an entry comes in turn
            _ => continue,
        };
        for at in (from..length).step_by(step) {
            for way in TEARS {
                let fork = pair.platter.fork();
                tear(&fork, &path, at, way);
                check(&pair, &fork, &format!("{name} at {at} of {length}: {way:?}"));
                cells += 1;
            }
        }
    }
    assert!(cells > 300, "{cells} cells");
}

#[test]
fn a_small_file_on_its_way_may_be_torn_anywhere() {
    let (pair, _) = torn_pair();
    for name in ["epochs", "start", "partition", "truncate"] {
        for length in 0..40 {
            let fork = pair.platter.fork();
            let disk = fork.mount();
            let file = disk.open(&dir().join(format!("{name}.tmp")), Open::CreateNew).or_else(|_| {
                let file = disk.open(&dir().join(format!("{name}.tmp")), Open::Write)?;
                file.truncate(0).map(|()| file)
            });
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            file.expect("it opens").append_at(0, &[Bytes::from(bytes)]).expect("it writes");
            check(&pair, &fork, &format!("{name}.tmp of {length} bytes"));
        }
    }
}
