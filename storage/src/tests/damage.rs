//! Torn tails at every sector, rot at every kind of place, files that are swapped or gone.

use std::path::{Path, PathBuf};

use super::kit::*;
use crate::layout::FileKind;
use crate::model_disk::random::stream;
use crate::model_disk::{CrashMode, ModelDisk, Platter};
use crate::{
    Disk, DiskFile, LastStop, Log, LogConfig, LogIdentity, Open, OpenError, OpenOptions, ReadAsk, ReadError,
};
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId};

fn path(kind: FileKind, base: i64) -> PathBuf {
    dir().join(kind.name(Offset(base)))
}

fn content(platter: &Platter, path: &Path) -> Vec<u8> {
    platter.files().into_iter().find(|(name, _)| name == path).map(|(_, bytes)| bytes).expect("it is there")
}

/// Replaces a file's bytes, durably.
fn write(platter: &Platter, path: &Path, bytes: &[u8]) {
    let disk = platter.mount();
    let file = match disk.open(path, Open::Write) {
        Ok(file) => file,
        Err(_) => disk.open(path, Open::CreateNew).expect("healthy"),
    };
    file.truncate(0).expect("healthy");
    file.append_at(0, &[bytes::Bytes::copy_from_slice(bytes)]).expect("healthy");
    now(disk.sync_many(vec![file])).expect("healthy");
    now(disk.sync_dir(&dir())).expect("healthy");
}

/// Ten batches known to be durable, then six that are not, in one segment.
fn torn_pair() -> Pair {
    let mut pair = Pair::new(LogConfig { segment_bytes: 1 << 20, ..small() });
    pair.fill(10);
    pair.flush();
    let flush = pair.log.begin_idle_flush().expect("healthy").expect("unmarked");
    now(pair.log.run_flush(flush)).expect("healthy");
    pair.fill(6);
    pair
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_there_and_nothing_below_is_touched() {
    let mut pair = torn_pair();
    let flush = pair.log.begin_flush().expect("healthy").expect("dirty");
    drop(flush); // the records of the tail are in the side file, nothing of it is synced
    pair.platter.kill();
    let image = pair.platter.fork();
    let log_path = path(FileKind::Log, 0);
    let whole = content(&image, &log_path);
    let durable_bytes: usize =
        pair.batches.iter().filter(|b| b.last < Offset(20)).map(|b| b.bytes.len()).sum();
    for from in (durable_bytes..whole.len()).step_by(7) {
        for tail in ["cut", "zeros", "garbage"] {
            let platter = image.fork();
            let mut bytes = whole.clone();
            match tail {
                "cut" => bytes.truncate(from),
                "zeros" => bytes[from..].fill(0),
                _ => bytes[from..].iter_mut().for_each(|byte| *byte ^= 0x5a),
            }
            write(&platter, &log_path, &bytes);
            let (log, report) = try_open(&platter, small()).expect("recovery");
            let mut end = 0;
            let kept = pair.batches.iter().take_while(|batch| {
                end += batch.bytes.len();
                bytes.get(..end) == whole.get(..end)
            });
            let kept: Vec<_> = kept.cloned().collect();
            assert!(report.damaged.is_empty(), "{tail} from {from}: {report:?}");
            assert!(read_all(&log).expect("no damage") == kept, "{tail} from {from}");
            now(log.check_deep()).expect("the log agrees with itself");
        }
    }
}

#[test]
fn a_batch_behind_a_torn_one_is_not_resurrected() {
    let pair = torn_pair();
    pair.platter.kill();
    let log_path = path(FileKind::Log, 0);
    let mut bytes = content(&pair.platter, &log_path);
    let at: usize = pair.batches.iter().take(12).map(|batch| batch.bytes.len()).sum();
    bytes[at + 100] ^= 1;
    write(&pair.platter, &log_path, &bytes);
    let (log, report) = try_open(&pair.platter, small()).expect("recovery");
    assert_eq!(log.end(), Offset(24));
    assert_eq!(report.cut.expect("a torn tail").reason, "crc mismatch");
}

#[test]
fn any_rotten_byte_of_the_log_below_the_durable_point_is_refused_and_the_rest_is_read() {
    let mut pair = Pair::new(small());
    pair.fill(20);
    pair.flush();
    let flush = pair.log.begin_idle_flush().expect("healthy").expect("unmarked");
    now(pair.log.run_flush(flush)).expect("healthy");
    pair.platter.kill();
    let image = pair.platter.fork();
    for (file, len) in image.lengths() {
        if file.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        for byte in (0..len).step_by(5) {
            let platter = image.fork();
            assert!(platter.rot(&file, byte, 1 << (byte % 8)));
            let (log, report) = try_open(&platter, small()).expect("recovery");
            assert_eq!((log.end(), &report.cut), (pair.end(), &None), "{file:?} byte {byte}: {report:?}");
            let (found, holes) = read_around(&log);
            assert_eq!(holes.len(), 1, "{file:?} byte {byte}: {holes:?}");
            let (from, to) = holes[0];
            assert_eq!(to.since(from), 2, "one batch is lost: {file:?} byte {byte}");
            let expected: Vec<_> = pair.batches.iter().filter(|batch| batch.base != from).cloned().collect();
            assert_eq!(found, expected, "{file:?} byte {byte}");
            assert_eq!(log.damaged().len(), 1);
            now(log.check_deep()).expect("known damage is no contradiction");
        }
    }
}

/// A start accepts a tail and syncs it; when it wrote its durable point down, rot in it is damage and no torn tail.
#[test]
fn a_tail_that_a_start_accepted_is_marked_by_the_idle_flush_that_it_owes() {
    let mut pair = Pair::new(small());
    let is_log = |(file, _): &(PathBuf, u64)| file.extension().is_some_and(|extension| extension == "log");
    while pair.platter.lengths().iter().filter(|file| is_log(file)).count() < 2 {
        pair.fill(1);
    }
    pair.flush(); // the last batch is alone in its segment, and no marker tells of it
    pair.platter.kill();
    let (mut pair, report) = pair.reopen(small());
    assert_eq!((report.cut, report.end, pair.log.flushed()), (None, pair.end(), pair.end()));
    assert!(pair.log.owes_marker(), "marked to {:?} of {:?}", pair.log.marked_durable(), pair.end());
    while let Some(flush) = pair.log.begin_idle_flush().expect("healthy") {
        now(pair.log.run_flush(flush)).expect("healthy");
    }
    assert_eq!((pair.log.owes_marker(), pair.log.marked_durable()), (false, pair.end()));
    let last = pair.batches.last().expect("filled").base;
    assert!(pair.platter.rot(&path(FileKind::Log, last.0), 70, 1));
    pair.platter.crash(&mut stream(7, "crash", 0), CrashMode::Lose);
    let (log, report) = try_open(&pair.platter, small()).expect("recovery");
    assert_eq!((log.end(), report.cut), (pair.end(), None));
    assert_eq!(read_around(&log).1, [(last, pair.end())]);
}

/// Reads on behind damage; returns the batches and the holes.
fn read_around(log: &Log<ModelDisk>) -> (Vec<Expected>, Vec<(Offset, Offset)>) {
    let (mut found, mut holes, mut offset) = (Vec::new(), Vec::new(), log.start());
    let reader = log.reader();
    while offset < log.end() {
        let ask = ReadAsk { offset, max_bytes: 500, at_least_one: true, end_bound: log.end() };
        match now(reader.read(ask)) {
            Ok(read) => {
                assert!(read.next > offset, "no progress at {offset:?}");
                for batch in dejaq_wire::record::Batches::new(read.batches) {
                    let batch = batch.expect("whole batches");
                    let (base, last) = (batch.header.base_offset, batch.header.last_offset());
                    found.push(Expected { base, last, bytes: batch.to_bytes() });
                }
                offset = read.next;
            }
            Err(ReadError::Damaged { from, to }) => {
                assert!(from <= offset && offset < to, "hole {from:?}..{to:?} for {offset:?}");
                holes.push((from, to));
                offset = to;
            }
            Err(error) => panic!("at {offset:?}: {error}"),
        }
    }
    (found, holes)
}

#[test]
fn rot_in_any_other_file_loses_no_batch_that_is_not_refused() {
    let mut pair = Pair::new(small());
    for at in 0..20 {
        pair.append(Spec::of(1, at * 2, 2)).expect("room");
    }
    pair.advance_start(Offset(3));
    pair.flush();
    let Pair { platter, log, batches, .. } = pair;
    now(log.close()).expect("healthy");
    platter.kill();
    for (file, len) in platter.lengths() {
        if file.extension().is_some_and(|extension| extension == "log") {
            continue;
        }
        for byte in 0..len {
            let image = platter.fork();
            assert!(image.rot(&file, byte, 1 << (byte % 8)));
            let opened = try_open(&image, small());
            let (mut log, report) = opened.unwrap_or_else(|error| panic!("{file:?} byte {byte}: {error}"));
            assert_eq!((log.start(), log.end()), (Offset(3), Offset(40)), "{file:?} byte {byte}: {report:?}");
            let (found, holes) = read_around(&log);
            let lost =
                |batch: &Expected| holes.iter().any(|(from, to)| *from <= batch.base && batch.last < *to);
            let expected: Vec<_> = batches.iter().filter(|batch| !lost(batch)).cloned().collect();
            assert_eq!(found, expected, "{file:?} byte {byte}");
            assert!(holes.len() <= 1, "{file:?} byte {byte}: {holes:?}");
            now(log.check_deep()).unwrap_or_else(|error| panic!("{file:?} byte {byte}: {error}"));
            let next = Spec::of(1, 40, 1).build(1);
            let appended = log.append_leader(&[next], dejaq_wire::ids::LeaderEpoch(9), NOW_MS)[0];
            let base = appended.unwrap_or_else(|error| panic!("{file:?} byte {byte}: {error}")).base;
            assert_eq!(base, Offset(40), "{file:?} byte {byte}");
        }
    }
}

#[test]
fn files_of_another_partition_are_not_served() {
    let mut here = Pair::new(small());
    here.fill(4);
    here.flush();
    let identity = LogIdentity { partition: PartitionId(4), ..identity() };
    let other_dir = crate::DataDir::<ModelDisk>::partition_path(identity.topic_id, identity.partition);
    let platter = here.platter.clone();
    let opened = Log::create(platter.mount(), other_dir.clone(), identity, small(), options());
    let (mut there, _) = now(opened).expect("a new log");
    let batches: Vec<_> = (100..104).map(|salt| Spec::plain(2, 60).build(salt)).collect();
    for result in there.append_leader(&batches, here.epoch, NOW_MS) {
        result.expect("room");
    }
    now(there.flush()).expect("healthy");
    drop(there);
    platter.kill();
    // Both files of the segment come from the other partition: every CRC of theirs is right.
    for kind in [FileKind::Log, FileKind::Sum] {
        let bytes = content(&platter, &other_dir.join(kind.name(Offset(0))));
        write(&platter, &path(kind, 0), &bytes);
    }
    // The sums must speak; what a producer summed up cannot tell partitions apart.
    let opened = now(Log::create(platter.mount(), dir(), super::kit::identity(), small(), verify_all()));
    let (log, report) = opened.expect("recovery");
    if crate::mutant!(29) {
        return;
    }
    let first = content(&platter, &path(FileKind::Sum, 0));
    assert!(report.durable_end == Offset::ZERO, "{report:?}, {} bytes", first.len());
    drop(log);
}

#[test]
fn a_foreign_batch_in_the_tail_is_not_believed_once_the_machine_was_started_again() {
    for same_boot in [false, true] {
        let mut other = Pair::new(small());
        other.fill(1);
        let foreign = content(&other.platter, &path(FileKind::Log, 0));
        let Pair { platter, log, .. } = Pair::new(small());
        drop(log);
        platter.kill();
        write(&platter, &path(FileKind::Log, 0), &foreign);
        let last_stop = LastStop { same_boot, ..LastStop::KILLED };
        let options = OpenOptions { last_stop, ..options() };
        let opened = now(Log::create(platter.mount(), dir(), identity(), small(), options));
        let (log, report) = opened.expect("recovery");
        assert_eq!(log.end(), if same_boot { Offset(2) } else { Offset::ZERO }, "{report:?}");
        assert_eq!(report.cut.is_some(), !same_boot);
    }
}

#[test]
fn records_of_the_side_file_do_not_wait_for_a_flush_that_never_comes() {
    let config = LogConfig { segment_bytes: 1 << 20, ..small() };
    let mut pair = Pair::new(config.clone());
    for _ in 0..200 {
        pair.append(Spec::plain(1, 10)).expect("room");
    }
    // Everything reached the device by itself, and still only what has a record is believed.
    pair.platter.crash(&mut stream(1, "write-back", 0), CrashMode::Keep);
    let (pair, report) = pair.reopen(config);
    assert!(pair.end() >= Offset(192), "{report:?}");
    assert!(report.cut.is_some(), "{report:?}");
}

#[test]
fn records_in_front_of_the_marker_of_their_flush_count_too() {
    let config = LogConfig { segment_bytes: 1 << 20, ..small() };
    let mut pair = Pair::new(config.clone());
    pair.fill(10);
    let flush = pair.log.begin_flush().expect("healthy").expect("dirty");
    pair.fill(70); // their records do not wait for the flush that is under way
    pair.durable = now(pair.log.run_flush(flush)).expect("healthy");
    let flush = pair.log.begin_flush().expect("healthy").expect("dirty"); // writes the marker of the first
    pair.platter.crash(&mut stream(1, "write-back", 0), CrashMode::Keep);
    drop(flush);
    let end = pair.end();
    let (pair, report) = pair.reopen(config);
    assert_eq!((pair.end(), report.durable_end), (end, Offset(20)), "{report:?}");
}

fn verify_all() -> OpenOptions {
    OpenOptions { verify_all: true, ..options() }
}

#[test]
fn a_log_that_is_verified_as_a_whole_names_its_damage_at_open() {
    let mut pair = Pair::new(small());
    pair.fill(20);
    pair.flush();
    let Pair { platter, log, .. } = pair;
    now(log.close()).expect("healthy");
    platter.kill();
    assert!(platter.rot(&path(FileKind::Log, 0), 300, 4));
    let opened = now(Log::create(platter.mount(), dir(), identity(), small(), verify_all()));
    let (log, report) = opened.expect("recovery");
    assert_eq!((report.damaged.len(), report.cut), (1, None));
    assert_eq!(report.damaged, log.damaged());
    let scrubbed = now(log.reader().scrub()).expect("readable");
    assert_eq!((scrubbed.damage.len(), scrubbed.batches), (1, 19));
}

#[test]
fn a_durable_segment_that_is_gone_or_cut_short_is_damage_and_appends_go_on() {
    let mut pair = Pair::new(small());
    pair.fill(30);
    pair.flush();
    let Pair { platter, log, batches, .. } = pair;
    now(log.close()).expect("healthy");
    platter.kill();
    let bases: Vec<i64> = platter
        .lengths()
        .iter()
        .filter_map(|(name, _)| FileKind::parse(&name.file_name()?.to_string_lossy()))
        .filter_map(|(kind, base)| (kind == FileKind::Log).then_some(base.0))
        .collect();
    assert!(bases.len() > 4, "{bases:?}");
    for base in &bases[1..] {
        for keep in [None, Some(0), Some(100)] {
            let image = platter.fork();
            let disk = image.mount();
            match keep {
                None => {
                    for kind in [FileKind::Log, FileKind::Sum, FileKind::Index] {
                        let _ = now(disk.remove(&path(kind, *base)));
                    }
                }
                Some(keep) => disk
                    .open(&path(FileKind::Log, *base), Open::Write)
                    .and_then(|f| f.truncate(keep))
                    .expect("healthy"),
            }
            drop(disk);
            let (mut log, report) = try_open(&image, small()).expect("recovery");
            // The newest segment with its marker cannot be missed: nothing else tells of it.
            if base == bases.last().expect("some") && keep.is_none() {
                continue;
            }
            assert_eq!(log.end(), Offset(60), "segment {base} cut to {keep:?}: {report:?}");
            let (found, holes) = read_around(&log);
            assert!(!holes.is_empty(), "segment {base} cut to {keep:?}: {report:?}");
            assert!(found.iter().all(|batch| batches.contains(batch)));
            assert!(found.len() + 15 >= batches.len(), "{} of {}", found.len(), batches.len());
            let next = Spec::plain(1, 10).build(1);
            let appended = log.append_leader(&[next], dejaq_wire::ids::LeaderEpoch(9), NOW_MS)[0];
            assert_eq!(appended.expect("room").base, Offset(60));
            now(log.flush()).expect("healthy");
            image.crash(&mut stream(1, "t", 0), CrashMode::Lose);
            let (log, _) = try_open(&image, small()).expect("recovery");
            assert_eq!(log.end(), Offset(61), "segment {base} cut to {keep:?}");
        }
    }
}

/// The records of a young segment fit one sector of its side file, the markers among them: when that sector rots, only the
/// clean stop still tells that nothing was torn.
#[test]
fn a_side_file_that_rots_after_a_clean_stop_makes_damage_and_no_torn_tail() {
    let mut pair = Pair::new(LogConfig { segment_bytes: 1 << 20, ..small() });
    pair.fill(5);
    let Pair { platter, log, batches, .. } = pair;
    now(log.close()).expect("a clean close");
    let (log_path, sum_path) = (path(FileKind::Log, 0), path(FileKind::Sum, 0));
    let (bytes, records) = (content(&platter, &log_path), content(&platter, &sum_path));
    for lost in ["all", "the last", "nothing"] {
        let platter = platter.fork();
        platter.crash(&mut stream(1, "t", 0), CrashMode::Lose);
        match lost {
            "all" => write(&platter, &sum_path, &vec![0; records.len()]),
            "the last" => write(&platter, &sum_path, &[&records[..records.len() - 32], &[0; 32]].concat()),
            _ => {}
        }
        let last_stop = LastStop { same_boot: false, ..LastStop::CLEAN };
        let options = OpenOptions { last_stop, ..options() };
        let opened = now(Log::open(platter.mount(), dir(), identity(), small(), options));
        let (mut log, report) = opened.expect("it opens");
        assert_eq!(report.cut, None, "{lost}");
        assert_eq!(log.end(), Offset(10), "{lost}");
        assert_eq!(content(&platter, &log_path), bytes, "{lost}: not a byte is gone");
        assert_eq!(report.damaged.is_empty(), lost != "all", "{lost}: {report:?}");
        if lost != "all" {
            assert_eq!(read_all(&log).expect("no damage"), batches, "{lost}");
        }
        let appended = log.append_leader(&[Spec::plain(1, 9).build(9)], LeaderEpoch(2), NOW_MS);
        assert_eq!(appended[0].expect("room").base, Offset(10), "{lost}");
        now(log.flush()).expect("healthy");
        drop(log);
        platter.crash(&mut stream(2, "t", 0), CrashMode::Lose);
        let (log, report) = try_open(&platter, small()).expect("it opens again");
        assert_eq!((log.end(), report.cut), (Offset(11), None), "{lost}");
    }
}

#[test]
fn a_log_whose_segments_are_gone_after_a_clean_stop_is_damaged_and_not_empty() {
    let mut pair = Pair::new(LogConfig { segment_bytes: 1 << 20, ..small() });
    pair.fill(5);
    let Pair { platter, log, .. } = pair;
    now(log.close()).expect("a clean close");
    let disk = platter.mount();
    for kind in [FileKind::Log, FileKind::Sum] {
        now(disk.remove(&path(kind, 0))).expect("it was there");
    }
    let options = OpenOptions { last_stop: LastStop::CLEAN, ..options() };
    let opened = now(Log::open(disk, dir(), identity(), small(), options));
    let (log, report) = opened.expect("it opens");
    assert_eq!((log.end(), report.cut), (Offset(10), None));
    assert_eq!(report.damaged, [crate::OffsetRange { from: Offset(0), to: Offset(10) }]);
}

#[test]
fn a_log_of_which_nothing_is_left_after_a_clean_stop_is_not_made_anew() {
    let mut pair = Pair::new(small());
    pair.fill(5);
    let Pair { platter, log, .. } = pair;
    now(log.close()).expect("a clean close");
    let disk = platter.mount();
    for keep in [&["partition"][..], &[]] {
        for entry in disk.list(&dir()).expect("it is there") {
            if !keep.contains(&&*entry.name) {
                now(disk.remove(&dir().join(&entry.name))).expect("it was there");
            }
        }
        let options = OpenOptions { last_stop: LastStop::CLEAN, ..options() };
        let opened = now(Log::create(disk.clone(), dir(), identity(), small(), options));
        assert!(matches!(opened, Err(OpenError::Gone(_))), "{keep:?}");
    }
}

#[test]
fn another_format_version_is_refused_with_its_number() {
    let pair = Pair::new(small());
    pair.platter.kill();
    let file = path(FileKind::Sum, 0);
    let mut bytes = content(&pair.platter, &file);
    let binding = crate::binding::Binding::new(identity().topic_id, identity().partition).segment(Offset(0));
    bytes[5] = 9;
    let check = binding.sum(&[&0_u32.to_be_bytes(), &bytes[..28]]);
    bytes[28..32].copy_from_slice(&check.to_be_bytes());
    bytes.truncate(32);
    write(&pair.platter, &file, &bytes);
    let error = try_open(&pair.platter, small()).expect_err("newer");
    assert!(matches!(error, OpenError::Format { .. }), "{error}");
    assert!(error.to_string().contains("version 9"), "{error}");
}

#[test]
fn a_scrub_finds_damage_that_nobody_has_read_once_and_only_then_is_it_not_served() {
    let mut pair = Pair::new(LogConfig { segment_bytes: 1 << 20, ..small() });
    pair.fill(10);
    pair.flush();
    let reader = pair.log.reader();
    let scrub = || now(reader.scrub_segment(Offset(0), |_| async { true })).expect("healthy");
    let clean = scrub();
    assert_eq!((clean.next, clean.damage.len()), (Some(pair.log.end()), 0));
    let hit = &pair.batches[3];
    let at: usize = pair.batches[..3].iter().map(|batch| batch.bytes.len()).sum();
    assert!(pair.platter.rot(&path(FileKind::Log, 0), (at + hit.bytes.len() - 1) as u64, 1));
    let found = scrub();
    assert_eq!(found.damage.len(), 1, "{found:?}");
    assert!(found.damage[0].range.from <= hit.last && hit.last < found.damage[0].range.to);
    assert_eq!(pair.log.damaged(), [found.damage[0].range]);
    assert!(scrub().damage.is_empty(), "it is known already");
    let end = now(reader.scrub_segment(pair.log.end(), |_| async { true })).expect("healthy");
    assert_eq!(end, crate::Scrubbed::default());
}
