//! Transactions in a log: the aborted lists and the stable end, over rolls, restarts, cuts and lost files (TXN-3, TXN-12).

use dejaq_wire::ids::{CoordinatorEpoch, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
use dejaq_wire::record::control::EndTxnMarker;
use dejaq_wire::record::{BatchBuilder, Compression, NewRecord};
use proptest::prelude::*;

use super::kit::*;
use crate::layout::FileKind;
use crate::{AbortedTxn, Disk, Open, VerifiedBatch};

fn data(id: i64, epoch: i16, sequence: i32) -> VerifiedBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.transactional = true;
    builder.producer_id = ProducerId(id);
    builder.producer_epoch = ProducerEpoch(epoch);
    builder.base_sequence = Sequence(sequence);
    builder.append(&NewRecord { timestamp_ms: NOW_MS, value: Some(&[b'v'; 80]), ..NewRecord::default() });
    VerifiedBatch::verify(builder.build().expect("no compression").to_bytes()).expect("our own batch")
}

fn marker(id: i64, epoch: i16, commit: bool) -> VerifiedBatch {
    let (producer_id, producer_epoch) = (ProducerId(id), ProducerEpoch(epoch));
    let marker = EndTxnMarker { producer_id, producer_epoch, commit, coordinator_epoch: CoordinatorEpoch(1) };
    VerifiedBatch::verify(marker.batch(NOW_MS).to_bytes()).expect("our own batch")
}

/// A log, and what a reader of its committed records should be told, counted in the simplest way.
struct Story {
    pair: Pair,
    /// Epoch, next sequence, first offset of the open transaction.
    producers: [(i16, i32, Option<i64>); 4],
    /// Producer, first, marker.
    aborted: Vec<(i64, i64, i64)>,
    /// First, marker.
    ended: Vec<(i64, i64)>,
}

impl Story {
    fn new() -> Story {
        let producers = [(0, 0, None); 4];
        Story { pair: Pair::new(small()), producers, aborted: Vec::new(), ended: Vec::new() }
    }

    fn put(&mut self, batch: VerifiedBatch) -> i64 {
        self.pair.append_built(&[batch]).remove(0).expect("it follows").base.0
    }

    fn write(&mut self, id: usize) {
        let (epoch, sequence, _) = self.producers[id];
        let at = self.put(data(id as i64, epoch, sequence));
        self.producers[id].1 += 1;
        self.producers[id].2.get_or_insert(at);
    }

    fn end(&mut self, id: usize, commit: bool) {
        let epoch = self.producers[id].0 + 1;
        let at = self.put(marker(id as i64, epoch, commit));
        if let Some(first) = self.producers[id].2 {
            self.ended.push((first, at));
            if !commit {
                self.aborted.push((id as i64, first, at));
            }
        }
        self.producers[id] = (epoch, 0, None);
    }

    fn truncate(&mut self, to: i64) {
        self.pair.truncate(Offset(to));
        self.replay();
    }

    /// Counts again from what is in the log.
    fn replay(&mut self) {
        (self.producers, self.aborted, self.ended) = ([(0, 0, None); 4], Vec::new(), Vec::new());
        for batch in &self.pair.batches {
            let batch = dejaq_wire::record::Batch::parse(&batch.bytes).expect("whole");
            let (header, at) = (batch.header, batch.header.base_offset.0);
            let id = header.producer_id.0 as usize;
            let (_, sequence, open) = self.producers[id];
            if !header.is_control() {
                self.producers[id] = (header.producer_epoch.0, sequence + 1, open.or(Some(at)));
                continue;
            }
            let record = batch.records(1000).expect("plain").next().expect("one").expect("good");
            let told = EndTxnMarker::of(&batch, &record).expect("a marker");
            if let Some(first) = open {
                self.ended.push((first, at));
                if !told.commit {
                    self.aborted.push((id as i64, first, at));
                }
            }
            self.producers[id] = (header.producer_epoch.0, 0, None);
        }
    }

    fn reopen(mut self) -> Story {
        (self.pair, _) = self.pair.reopen(small());
        self.replay();
        self
    }

    fn check(&mut self) {
        self.pair.check();
        let (start, end) = (self.pair.start.0, self.pair.end().0);
        let reader = self.pair.log.reader();
        for from in start..end {
            for upper in [from + 1, from + 3, end] {
                let told = |txn: AbortedTxn| (txn.producer_id.0, txn.first.0, txn.marker.0);
                let found: Vec<_> =
                    reader.aborted(Offset(from), Offset(upper)).into_iter().map(told).collect();
                let mut wanted: Vec<_> = self
                    .aborted
                    .iter()
                    .filter(|(_, first, at)| *first < upper && *at >= from)
                    .copied()
                    .collect();
                wanted.sort_by_key(|(_, first, _)| *first);
                assert_eq!(found, wanted, "from {from} to {upper}");
            }
        }
    }

    /// Asks for the stable end at rising watermarks.
    fn check_stable(&mut self) {
        let open = self.producers.iter().filter_map(|(_, _, open)| *open).min();
        for watermark in self.pair.start.0..=self.pair.end().0 {
            let ended = self.ended.iter().filter(|(_, at)| *at >= watermark).map(|(first, _)| *first);
            let wanted = ended.chain(open).chain([watermark]).min().expect("the watermark is one");
            // What is open may have begun below a start that moved since.
            let wanted = wanted.max(self.pair.start.0);
            assert_eq!(self.pair.log.stable_end(Offset(watermark)).0, wanted, "watermark {watermark}");
        }
    }

    fn files(&self, kind: FileKind) -> Vec<std::path::PathBuf> {
        let is_one = |path: &std::path::Path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            FileKind::parse(&name).is_some_and(|(found, _)| found == kind)
        };
        self.pair.platter.files().into_iter().map(|(path, _)| path).filter(|path| is_one(path)).collect()
    }
}

/// Transactions over many segments, some of which began long before they were aborted.
fn long() -> Story {
    let mut story = Story::new();
    story.write(0);
    for round in 0..12 {
        story.write(1);
        story.write(2);
        story.end(1, round % 3 == 0);
        story.write(2);
        story.end(2, round % 2 == 0);
    }
    story.end(0, false);
    story.write(3);
    story
}

#[test]
fn every_aborted_transaction_is_told_over_rolls_and_restarts() {
    let mut story = long();
    assert!(story.files(FileKind::Log).len() > 4, "{:?}", story.files(FileKind::Log));
    assert!(story.files(FileKind::Aborted).len() > 2, "lists of sealed segments are written");
    story.check();
    story.pair.flush();
    story.check_stable();
    let mut story = story.reopen();
    story.check();
    story.check_stable();
}

#[test]
fn lost_and_damaged_lists_are_made_again() {
    for kinds in [&[FileKind::Aborted][..], &[FileKind::Index], &[FileKind::Aborted, FileKind::Producers]] {
        let mut story = long();
        story.pair.flush();
        let paths: Vec<_> = kinds.iter().flat_map(|kind| story.files(*kind)).collect();
        for (at, path) in paths.iter().enumerate() {
            let disk = story.pair.platter.mount();
            if at % 2 == 0 {
                now(disk.remove(path)).expect("it is there");
            } else {
                crate::DiskFile::truncate(&disk.open(path, Open::Write).expect("it is there"), 20)
                    .expect("a healthy disk");
            }
        }
        let mut story = story.reopen();
        story.check();
        story.check_stable();
        let mut story = story.reopen(); // what was made again is believed
        story.check();
    }
}

#[test]
fn a_truncation_takes_back_what_its_markers_said() {
    for to in [3, 10, 20, 30, 45] {
        let mut story = long();
        story.pair.flush();
        story.truncate(to);
        story.check();
        story.check_stable();
        for id in 0..3 {
            if story.producers[id].2.is_some() {
                story.end(id, false);
            }
        }
        story.check();
        story.reopen().check();
    }
}

#[test]
fn a_repeated_marker_is_answered_with_where_it_is() {
    let mut story = Story::new();
    story.write(0);
    story.end(0, true);
    let again = story.pair.append_built(&[marker(0, 1, true)]).remove(0).expect("a success");
    assert!(again.duplicate);
    assert_eq!((again.base, story.pair.end()), (Offset(1), Offset(2)));
    let mut story = story.reopen();
    assert!(story.pair.append_built(&[marker(0, 1, true)]).remove(0).expect("a success").duplicate);
    assert!(story.pair.append_built(&[data(0, 0, 1)]).remove(0).is_err(), "its epoch is over");
}

/// Kafka's last stable offset is not below the start either: a reader of committed records that begins there would be told that
/// it is out of range, over and over, until the transaction ends.
#[test]
fn the_stable_end_is_not_below_a_start_that_passed_an_open_transaction() {
    let mut story = Story::new();
    (0..6).for_each(|_| story.write(0));
    story.pair.flush();
    assert_eq!(story.pair.log.stable_end(Offset(6)), Offset(0));
    story.pair.advance_start(Offset(4));
    assert_eq!(story.pair.log.stable_end(Offset(6)), Offset(4));
    story.end(0, true);
    story.pair.flush();
    assert_eq!(story.pair.log.stable_end(Offset(7)), Offset(7));
}

#[test]
fn the_format_of_a_list_is_as_it_was() {
    let (producer_id, first, marker, stable) = (ProducerId(1), Offset(2), Offset(5), Offset(3));
    let payload = crate::aborted::encode(Offset(2), &[AbortedTxn { producer_id, first, marker, stable }]);
    let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    let wanted = "0000000000000002".to_owned()
        + "00000001"
        + "0000000000000001"
        + "0000000000000002"
        + "0000000000000005"
        + "0000000000000003";
    assert_eq!(hex, wanted);
    assert_eq!((crate::aborted::ABORTED_KIND.magic, crate::aborted::ABORTED_KIND.version), (*b"DJab", 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_story_reads_as_the_model_says(steps in prop::collection::vec((0usize..4, 0u8..12), 1..60)) {
        let mut story = Story::new();
        for (id, what) in steps {
            match what {
                0..=5 => story.write(id),
                6 | 7 => story.end(id, true),
                8 | 9 => story.end(id, false),
                10 => {
                    story.pair.flush();
                    story.pair.epoch = LeaderEpoch(story.pair.epoch.0 + 1);
                    story = story.reopen();
                }
                _ => {
                    let end = story.pair.end().0;
                    story.truncate(end - end.min(id as i64 * 2));
                }
            }
        }
        story.check();
        story.check_stable();
    }
}

/// What was made of a log that was read back around damage (index, aborted list, producers) must not outlive the damage.
#[test]
fn a_transaction_that_was_aborted_is_so_after_its_damaged_batch_was_put_back() {
    for hit in 0..3 {
        let mut pair = Pair::new(small());
        for batch in [data(1, 0, 0), data(1, 0, 1), marker(1, 1, false)] {
            pair.append_built(&[batch]).remove(0).expect("it follows");
        }
        pair.flush();
        let flush = pair.log.begin_idle_flush().expect("healthy").expect("unmarked");
        now(pair.log.run_flush(flush)).expect("healthy");
        let copy = VerifiedBatch::verify(pair.batches[hit].bytes.clone()).expect("it was verified");
        let end: usize = pair.batches[..=hit].iter().map(|batch| batch.bytes.len()).sum();
        let log = dir().join(FileKind::Log.name(Offset(0)));
        pair.platter.kill();
        assert!(pair.platter.rot(&log, (end - 1) as u64, 1));
        let (opened, report) = try_open(&pair.platter, small()).expect("recovery");
        assert_eq!((report.damaged.len(), opened.was_loaded_around_damage()), (1, true), "batch {hit}");
        pair.log = opened;
        for _ in 0..40 {
            pair.append(Spec::plain(2, 60)).expect("room"); // it rolls, and again
        }
        pair.flush();
        assert!(matches!(now(pair.log.reader().patch(&[copy])).expect("healthy"), crate::Patched::Whole(_)));
        // A process that dies before it reads the log back, or one that does.
        for dies in [true, false] {
            let read_back = if dies {
                let image = pair.platter.fork();
                image.kill();
                try_open(&image, small()).expect("recovery").0
            } else {
                let end = pair.log.end();
                let load = pair.log.begin_truncate(end).expect("idle");
                assert_eq!(pair.log.end_truncate(now(load.run())), Ok(end));
                let whole = Pair::new(small());
                std::mem::replace(&mut pair, whole).log
            };
            assert!(!read_back.was_loaded_around_damage());
            let told = read_back.reader().aborted(Offset(0), Offset(10));
            let told: Vec<_> = told.iter().map(|txn| (txn.first.0, txn.marker.0)).collect();
            assert_eq!(told, [(0, 2)], "batch {hit}, {dies}");
            now(read_back.check_deep()).expect("the log agrees with itself");
        }
    }
}
