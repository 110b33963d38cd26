use super::*;
use dejaq_wire::ids::LeaderEpoch;

fn batch(id: i64, epoch: i16, sequence: i32, count: i32) -> BatchHeader {
    BatchHeader {
        base_offset: Offset(0),
        length: 88,
        leader_epoch: LeaderEpoch(0),
        crc: 0,
        attributes: 0,
        last_offset_delta: count - 1,
        base_timestamp_ms: 0,
        max_timestamp_ms: 0,
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: Sequence(sequence),
        records: count,
    }
}

/// A partition that appends what it accepts.
#[derive(Default)]
struct Partition {
    producers: Producers,
    end: i64,
    now_ms: i64,
    /// What batches carry.
    guard: Option<TxnGuard>,
}

impl Partition {
    fn append(&mut self, header: &BatchHeader) -> Verdict {
        self.append_limited(header, 100)
    }

    fn append_limited(&mut self, header: &BatchHeader, limit: usize) -> Verdict {
        let mut staged = Staged::default();
        let verdict = staged.check(&self.producers, header, self.guard, (limit, self.now_ms));
        if verdict == Verdict::Accept {
            staged.apply(&self.producers, header, None, Offset(self.end), self.now_ms);
            self.producers.commit(staged, limit);
            self.end += i64::from(header.last_offset_delta) + 1;
        }
        verdict
    }

    fn begin(&mut self, id: i64, epoch: i16, sequence: i32) -> Verdict {
        self.append(&BatchHeader { attributes: 1 << 4, ..batch(id, epoch, sequence, 1) })
    }

    /// As the coordinator of epoch `coordinator` ends a transaction; also what became of it.
    fn end(&mut self, id: i64, epoch: i16, commit: bool, coordinator: i32) -> (Verdict, Option<AbortedTxn>) {
        let (header, told) = marker(id, epoch, commit, coordinator);
        let mut staged = Staged::default();
        let verdict = staged.check_marker(&self.producers, &told, self.now_ms);
        if verdict != Verdict::Accept {
            return (verdict, None);
        }
        staged.apply(&self.producers, &header, Some(&told), Offset(self.end), self.now_ms);
        let aborted = staged.aborted().first().copied();
        self.producers.commit(staged, 100);
        self.end += 1;
        (verdict, aborted)
    }

    fn stable(&mut self, watermark: i64) -> i64 {
        self.producers.stable_end(Offset(watermark)).0
    }
}

fn marker(id: i64, epoch: i16, commit: bool, coordinator: i32) -> (BatchHeader, EndTxnMarker) {
    let header = BatchHeader { attributes: 1 << 5 | 1 << 4, ..batch(id, epoch, -1, 1) };
    let coordinator_epoch = CoordinatorEpoch(coordinator);
    let (producer_id, producer_epoch) = (header.producer_id, header.producer_epoch);
    (header, EndTxnMarker { producer_id, producer_epoch, commit, coordinator_epoch })
}

#[test]
fn each_of_the_last_batches_is_recognised_and_an_earlier_one_is_known_to_be_there() {
    let mut partition = Partition::default();
    for at in 0..17 {
        assert_eq!(partition.append(&batch(1, 0, at * 10, 10)), Verdict::Accept);
    }
    for at in 1..17 {
        let first = i64::from(at) * 10;
        let again = partition.append(&batch(1, 0, at * 10, 10));
        assert_eq!(again, Verdict::Duplicate { base: Offset(first), last: Offset(first + 9) });
    }
    let below = Verdict::Duplicate { base: Offset::NONE, last: Offset(9) };
    assert_eq!(partition.append(&batch(1, 0, 0, 10)), below);
    assert_eq!(
        partition.append(&batch(1, 0, 3, 5)),
        below,
        "in whatever batches they came, the records are there"
    );
    // What is not wholly before those that are remembered must be one of them.
    let expected = Sequence(170);
    for (first, count) in [(0, 11), (5, 6), (15, 5), (165, 6), (171, 1), (i32::MAX, 2)] {
        assert_eq!(partition.append(&batch(1, 0, first, count)), Verdict::OutOfOrder { expected });
    }
}

/// Of what the log did not have one after the other nothing is known: it may never have come.
#[test]
pub(crate) fn a_batch_from_before_the_row_began_is_not_taken_for_one_that_is_there() {
    let refused = |partition: &mut Partition, epoch, first, count, expected| {
        let expected = Sequence(expected);
        assert_eq!(partition.append(&batch(1, epoch, first, count)), Verdict::OutOfOrder { expected });
    };
    let known = |partition: &mut Partition, epoch, first, count| {
        let verdict = partition.append(&batch(1, epoch, first, count));
        assert!(matches!(verdict, Verdict::Duplicate { base: Offset::NONE, .. }), "{verdict:?}");
    };
    // A producer that was forgotten, or that begins in the midst.
    let mut partition = Partition::default();
    (0..20).for_each(|at| assert_eq!(partition.append(&batch(1, 0, 100 + at, 1)), Verdict::Accept));
    refused(&mut partition, 0, 99, 1, 120);
    refused(&mut partition, 0, 99, 2, 120);
    known(&mut partition, 0, 100, 2);
    // A log that a compaction left holes in: the row is what comes behind the last of them.
    let mut partition = Partition::default();
    for (first, count) in [(0, 10)].into_iter().chain((20..37).map(|first| (first, 1))) {
        let base_offset = Offset(i64::from(first));
        let header = BatchHeader { base_offset, ..batch(1, 0, first, count) };
        partition.producers.replay(&header, None, 0, 100);
    }
    partition.end = 37;
    refused(&mut partition, 0, 0, 1, 37);
    refused(&mut partition, 0, 19, 1, 37);
    known(&mut partition, 0, 20, 1);
    // Another epoch is another row.
    (0..18).for_each(|at| assert_eq!(partition.append(&batch(1, 1, at, 1)), Verdict::Accept));
    known(&mut partition, 1, 0, 2);
    refused(&mut partition, 1, 20, 1, 18);
    // A snapshot tells no more than the batches that it has.
    let payload = snapshot::encode(&partition.producers, Offset(partition.end), Offset(0), &[]);
    partition.producers = snapshot::decode(payload).expect("it was just written").producers;
    refused(&mut partition, 1, 0, 2, 18);
    (18..33).for_each(|at| assert_eq!(partition.append(&batch(1, 1, at, 1)), Verdict::Accept));
    known(&mut partition, 1, 13, 1);
    refused(&mut partition, 1, 12, 1, 33);
}

#[test]
fn the_row_goes_on_beyond_the_largest_sequence() {
    let mut partition = Partition::default();
    for first in [i32::MAX - 2, i32::MAX].into_iter().chain((1..33).step_by(2)) {
        assert_eq!(partition.append(&batch(1, 0, first, 2)), Verdict::Accept);
    }
    let below = Verdict::Duplicate { base: Offset::NONE, last: Offset(3) };
    assert_eq!(partition.append(&batch(1, 0, i32::MAX - 2, 2)), below);
    assert_eq!(partition.append(&batch(1, 0, i32::MAX, 2)), below);
    let expected = Sequence(33);
    assert_eq!(partition.append(&batch(1, 0, i32::MAX - 3, 1)), Verdict::OutOfOrder { expected });
}

#[test]
fn a_gap_and_a_different_length_are_out_of_order() {
    let mut partition = Partition::default();
    partition.append(&batch(1, 0, 0, 10));
    let expected = Sequence(10);
    assert_eq!(partition.append(&batch(1, 0, 11, 1)), Verdict::OutOfOrder { expected });
    assert_eq!(partition.append(&batch(1, 0, 0, 9)), Verdict::OutOfOrder { expected });
    assert_eq!(partition.append(&batch(1, 0, 10, 1)), Verdict::Accept);
}

#[test]
fn sequences_go_on_at_zero_after_their_largest_number() {
    let mut partition = Partition::default();
    assert_eq!(partition.append(&batch(1, 0, i32::MAX - 1, 2)), Verdict::Accept);
    assert_eq!(partition.append(&batch(1, 0, 0, 1)), Verdict::Accept);

    // One batch may span the end.
    assert_eq!(partition.append(&batch(2, 0, i32::MAX, 3)), Verdict::Accept);
    assert_eq!(partition.append(&batch(2, 0, 2, 1)), Verdict::Accept);
    assert_eq!(
        partition.append(&batch(2, 0, i32::MAX, 3)),
        Verdict::Duplicate { base: Offset(3), last: Offset(5) }
    );
}

#[test]
fn an_older_epoch_is_fenced_and_a_newer_one_begins_at_zero() {
    let mut partition = Partition::default();
    partition.append(&batch(1, 3, 0, 1));
    assert_eq!(partition.append(&batch(1, 2, 1, 1)), Verdict::StaleEpoch { current: ProducerEpoch(3) });
    assert_eq!(partition.append(&batch(1, 4, 1, 1)), Verdict::OutOfOrder { expected: Sequence::ZERO });
    assert_eq!(partition.append(&batch(1, 4, 0, 1)), Verdict::Accept);
    assert_eq!(partition.append(&batch(1, 3, 1, 1)), Verdict::StaleEpoch { current: ProducerEpoch(4) });
}

#[test]
fn an_unknown_producer_may_begin_anywhere() {
    let mut partition = Partition::default();
    assert_eq!(partition.append(&batch(1, 7, 4711, 1)), Verdict::Accept);
}

#[test]
fn nothing_changes_when_the_write_fails() {
    let mut partition = Partition::default();
    partition.append(&batch(1, 0, 0, 1));
    let before = partition.producers.clone();
    let mut staged = Staged::default();
    let header = batch(1, 0, 1, 1);
    assert_eq!(staged.check(&partition.producers, &header, None, (100, 0)), Verdict::Accept);
    staged.apply(&partition.producers, &header, None, Offset(1), 0);
    // A second batch of the same call is judged by what the first one will have done.
    assert_eq!(staged.check(&partition.producers, &batch(1, 0, 2, 1), None, (100, 0)), Verdict::Accept);
    drop(staged);
    assert_eq!(partition.producers, before);
}

#[test]
fn the_producer_silent_longest_is_forgotten_first_but_never_inside_a_transaction() {
    let mut partition = Partition::default();
    let mut open = batch(1, 0, 0, 1);
    open.attributes = 1 << 4;
    partition.append_limited(&open, 2);
    for id in 2..5 {
        partition.now_ms = id * 2 * RETRY_MS;
        assert_eq!(partition.append_limited(&batch(id, 0, 0, 1), 2), Verdict::Accept);
    }
    partition.now_ms += RETRY_MS;
    assert_eq!(partition.append_limited(&batch(9, 0, 0, 1), 2), Verdict::TooMany, "4 may still send again");
    assert_eq!(
        partition.append_limited(&batch(4, 0, 0, 1), 2),
        Verdict::Duplicate { base: Offset(3), last: Offset(3) }
    );
    partition.now_ms += RETRY_MS;
    let known: Vec<i64> = partition.producers.summaries().iter().map(|s| s.producer_id.0).collect();
    assert_eq!(known, [1, 4]);

    let mut open = batch(4, 0, 1, 1);
    open.attributes = 1 << 4;
    partition.append_limited(&open, 2);
    assert_eq!(partition.append_limited(&batch(9, 0, 0, 1), 2), Verdict::TooMany);
}

/// After a replay all may have been active at the same time: the log still knows who came first.
#[test]
fn who_is_silent_longest_is_the_log_s_order_and_not_that_of_ids() {
    let mut replayed = Producers::default();
    for (at, id) in [(0, 9), (1, 1), (2, 7)] {
        replayed.replay(&BatchHeader { base_offset: Offset(at), ..batch(id, 0, 0, 1) }, None, 500, 2);
    }
    let known: Vec<i64> = replayed.summaries().iter().map(|s| s.producer_id.0).collect();
    assert_eq!(known, [1, 7]);
}

#[test]
fn expiry_counts_from_the_last_batch_or_marker() {
    let mut partition = Partition { now_ms: 1000, ..Partition::default() };
    partition.append(&batch(1, 0, 0, 1));
    partition.now_ms = 1500;
    partition.append(&batch(2, 0, 0, 1));
    let (mut header, told) = marker(1, 0, true, 0);
    header.base_offset = Offset(2);
    partition.producers.replay(&header, Some(&told), 1800, 100);
    assert_eq!(partition.producers.expire(2600, 1000), 1);
    let known: Vec<i64> = partition.producers.summaries().iter().map(|s| s.producer_id.0).collect();
    assert_eq!(known, [1]);
}

#[test]
fn a_marker_ends_the_transaction() {
    let mut partition = Partition::default();
    let mut open = batch(1, 0, 0, 3);
    open.attributes = 1 << 4;
    partition.append(&open);
    assert_eq!(partition.producers.summaries()[0].txn_start, Some(Offset(0)));
    let (mut header, told) = marker(1, 1, true, 0);
    header.base_offset = Offset(3);
    assert_eq!(partition.producers.replay(&header, Some(&told), 0, 100), None);
    assert_eq!(partition.producers.summaries()[0].txn_start, None);
    assert_eq!(partition.append(&batch(1, 1, 0, 1)), Verdict::Accept);
}

#[test]
fn a_snapshot_gives_the_state_back_and_no_cut_one_is_believed() {
    let mut partition = Partition::default();
    for at in 0..7 {
        partition.append(&batch(1, 0, at * 10, 10));
        partition.append(&batch(i64::from(at) + 10, 2, 5, 3));
    }
    partition.begin(1, 0, 70);
    partition.begin(2, 0, 0);
    let (_, aborted) = partition.end(2, 1, false, 3);
    let (end, aborted) = (Offset(partition.end), vec![aborted.expect("it had begun")]);
    let payload = snapshot::encode(&partition.producers, end, Offset(5), &aborted);
    let found = snapshot::decode(payload.clone()).expect("good");
    let mut producers = partition.producers;
    let known = producers.by_id.get_mut(&ProducerId(1)).expect("it has written");
    assert_eq!((known.in_a_row, known.batches.len()), (71, 8));
    known.in_a_row = 41; // a snapshot tells of the last five
    known.batches.drain(..3);
    let whole = snapshot::Snapshot { offset: end, producers, segment: Some(Offset(5)), aborted };
    assert_eq!(found, whole);
    for length in 0..payload.len() {
        assert!(snapshot::decode(payload.slice(..length)).is_none(), "length {length}");
    }
}

#[test]
fn a_replay_from_a_later_start_agrees_as_long_as_nothing_was_forgotten() {
    let mut partition = Partition::default();
    let mut replayed = Producers::default();
    for at in 0..4 {
        partition.append(&batch(1, 0, at, 1));
        let mut header = batch(1, 0, at, 1);
        header.base_offset = Offset(i64::from(at));
        if at >= 2 {
            replayed.replay(&header, None, 99, 100);
        }
    }
    assert_eq!(partition.producers.agree_with_replay(&replayed, Offset(2), false), Ok(()));
    assert!(partition.producers.agree_with_replay(&replayed, Offset(1), false).is_err());
    assert!(Producers::default().agree_with_replay(&replayed, Offset(2), false).is_err());
}

#[test]
fn readers_of_committed_records_wait_for_markers_that_the_watermark_has_passed() {
    let mut partition = Partition::default();
    partition.begin(1, 0, 0); // 0
    partition.begin(2, 0, 0); // 1
    partition.append(&batch(3, 0, 0, 1)); // 2
    assert_eq!(partition.stable(3), 0);
    partition.end(1, 1, true, 0); // 3
    assert_eq!(partition.stable(3), 0, "the marker at 3 is not below the watermark");
    assert_eq!(partition.stable(4), 1);
    partition.end(2, 1, false, 0); // 4
    partition.begin(1, 1, 0); // 5
    assert_eq!(partition.stable(4), 1);
    assert_eq!(partition.stable(5), 5);
    assert_eq!(partition.stable(6), 5);
}

#[test]
fn an_aborted_transaction_is_told_with_where_readers_may_stop_to_look() {
    let mut partition = Partition::default();
    partition.begin(1, 0, 0); // 0
    partition.begin(2, 0, 0); // 1
    let told = |aborted: Option<AbortedTxn>| aborted.map(|txn| (txn.first.0, txn.marker.0, txn.stable.0));
    assert_eq!(told(partition.end(2, 1, false, 0).1), Some((1, 2, 0)), "that of producer 1 may come later");
    assert_eq!(told(partition.end(1, 1, false, 0).1), Some((0, 3, 4)));
    assert_eq!(partition.end(1, 2, false, 0), (Verdict::Accept, None), "it had nothing open");
}

#[test]
fn the_same_marker_again_is_a_success_that_changes_nothing() {
    let mut partition = Partition::default();
    partition.begin(1, 0, 0); // 0
    assert_eq!(partition.end(1, 1, true, 7).0, Verdict::Accept); // 1
    let before = partition.producers.clone();
    assert_eq!(partition.end(1, 1, true, 7).0, Verdict::Duplicate { base: Offset(1), last: Offset(1) });
    assert_eq!(partition.producers, before);
    partition.begin(1, 1, 0); // 2, the next one, of a client that does not bump its epoch
    assert_eq!(partition.end(1, 1, true, 7).0, Verdict::Accept); // 3
}

#[test]
fn what_a_replaced_coordinator_repeats_does_not_end_the_next_transaction() {
    let mut partition = Partition::default();
    partition.begin(1, 0, 0); // 0
    assert_eq!(partition.end(1, 1, true, 7).0, Verdict::Accept); // 1, by one that is replaced before it hears of that
    assert_eq!(partition.end(1, 1, true, 8), (Verdict::Accept, None)); // 2, by who follows it
    assert_eq!(partition.end(1, 1, true, 8).0, Verdict::Duplicate { base: Offset(2), last: Offset(2) });
    partition.begin(1, 1, 0); // 3
    assert_eq!(partition.end(1, 1, true, 7).0, Verdict::StaleCoordinator { current: CoordinatorEpoch(8) });
    assert_eq!(partition.stable(4), 3, "it is still open");
}

#[test]
fn a_marker_of_an_older_epoch_or_coordinator_is_fenced() {
    let mut partition = Partition::default();
    partition.begin(1, 3, 0);
    assert_eq!(partition.end(1, 2, true, 0).0, Verdict::StaleEpoch { current: ProducerEpoch(3) });
    assert_eq!(partition.end(1, 4, true, 5).0, Verdict::Accept);
    assert_eq!(partition.end(1, 4, true, 4).0, Verdict::StaleCoordinator { current: CoordinatorEpoch(5) });
    assert_eq!(partition.begin(1, 3, 1), Verdict::StaleEpoch { current: ProducerEpoch(4) });
    assert_eq!(partition.begin(1, 4, 1), Verdict::OutOfOrder { expected: Sequence::ZERO });
    assert_eq!(partition.begin(1, 4, 0), Verdict::Accept);
}

#[test]
fn a_marker_fences_a_producer_that_was_never_seen() {
    let mut partition = Partition::default();
    assert_eq!(partition.end(1, 4, false, 0).0, Verdict::Accept);
    assert_eq!(partition.begin(1, 3, 0), Verdict::StaleEpoch { current: ProducerEpoch(4) });
}

#[test]
fn a_batch_outside_of_its_producers_open_transaction_is_refused() {
    let mut partition = Partition::default();
    partition.begin(1, 0, 0);
    assert_eq!(partition.append(&batch(1, 0, 1, 1)), Verdict::NotInTransaction);
    assert!(partition.producers.standing(ProducerId(1), ProducerEpoch(0)).is_open);
    assert!(!partition.producers.standing(ProducerId(1), ProducerEpoch(1)).is_open);
}

#[test]
fn a_batch_whose_transaction_ended_since_it_was_vouched_for_opens_none() {
    let mut partition = Partition::default();
    let standing = |partition: &Partition, epoch| {
        partition.producers.standing(ProducerId(1), ProducerEpoch(epoch)).guard
    };
    partition.guard = Some(standing(&partition, 0));
    assert_eq!(partition.begin(1, 0, 0), Verdict::Accept);
    assert_eq!(partition.begin(1, 0, 1), Verdict::Accept, "while it is open anything of it may come");
    // A client that keeps its epoch: the marker has the same.
    assert_eq!(partition.end(1, 0, true, 0).0, Verdict::Accept);
    assert_eq!(partition.begin(1, 0, 2), Verdict::NotVerified, "the next one is not begun by what came late");
    partition.guard = Some(standing(&partition, 0));
    assert_eq!(partition.begin(1, 0, 2), Verdict::Accept);
    // A marker where nothing was written ends what has not come.
    let mut partition = Partition { guard: Some(standing(&Partition::default(), 0)), ..Partition::default() };
    assert_eq!(partition.end(1, 0, false, 0).0, Verdict::Accept);
    assert_eq!(partition.begin(1, 0, 0), Verdict::NotVerified);
}

#[test]
fn what_a_coordinator_writes_for_a_producer_has_no_sequence_and_is_in_its_transaction() {
    let mut partition = Partition::default();
    for _ in 0..7 {
        assert_eq!(partition.begin(1, 2, -1), Verdict::Accept);
    }
    assert_eq!(partition.stable(7), 0);
    assert_eq!(partition.begin(1, 1, -1), Verdict::StaleEpoch { current: ProducerEpoch(2) });
    assert_eq!(partition.end(1, 3, true, 0).0, Verdict::Accept);
    assert_eq!(partition.stable(8), 8);
    assert_eq!(partition.begin(1, 2, -1), Verdict::StaleEpoch { current: ProducerEpoch(3) });
}

/// As many as are remembered at most, with all that a snapshot may hold of each, fit into one.
#[test]
fn the_largest_population_fits_into_a_snapshot() {
    let limit = crate::LogConfig::default().max_producers;
    let mut producers = Producers::default();
    for id in 0..limit as i64 {
        let mut producer = Producer::new(ProducerEpoch(0), 0);
        for nth in 0..WINDOW as i64 {
            let at = Offset(id * 10 + nth);
            let (first_sequence, last_sequence) = (Sequence(nth as i32), Sequence(nth as i32));
            producer.remember(BatchMemory {
                first_sequence,
                last_sequence,
                base: at,
                last: at,
                timestamp_ms: 0,
            });
        }
        producer.marker = Some(Offset(id * 10 + 9));
        producers.insert(ProducerId(id), producer);
    }
    let payload = snapshot::encode(&producers, Offset(limit as i64 * 10), Offset(0), &[]);
    let room = 6 << 20; // ended transactions, and the list of aborted ones
    assert!((payload.len() as u64) + room < crate::small_file::MAX_PAYLOAD, "{} bytes", payload.len());
    assert_eq!(snapshot::decode(payload).map(|snapshot| snapshot.producers), Some(producers));
}
