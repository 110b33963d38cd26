//! Groups and transactions: one bad history for each anomaly, beside the good one that it was made from.

use super::tests::{Story, seen};
use super::*;

const GROUP: &str = "g";

/// A producer whose sends belong to transactions, and members of a group, over one partition of a story.
struct Tale(Story);

impl Tale {
    fn new() -> Self {
        let mut story = Story::new(true);
        story.history.partitions.push(PartInfo {
            name: "u-0".into(),
            durable: true,
            replicated: false,
            compacted: None,
        });
        Tale(story)
    }

    fn event(self, make: impl FnOnce(u64) -> Event) -> Self {
        let begun = self.0.clock + 10;
        Tale(self.0.event(make(begun)))
    }

    fn txn(self, act: TxnAct, told: Told) -> Self {
        self.event(|begun| Event::Txn(TxnOp { process: 1, act, told, begun, done: begun + 5 }))
    }

    fn begin(self) -> Self {
        self.txn(TxnAct::Begin, Told::Ok)
    }

    fn ok(self, value: u64, offset: i64) -> Self {
        Tale(self.0.ok(value, offset))
    }

    fn reader(self, process: u32, read_committed: bool) -> Self {
        self.event(|_| Event::Consumer { process, read_committed, group: None })
    }

    fn poll(self, process: u32, from: i64, records: &[(i64, u64)], next: i64) -> Self {
        let records = seen(records);
        self.event(|begun| {
            let done = begun + 5;
            Event::Poll(PollOp { process, part: 0, from, records, next, out_of_range: false, begun, done })
        })
    }

    fn group(self, process: u32, generation: i32, act: GroupAct, told: Told) -> Self {
        self.event(|begun| {
            let (group, done) = (GROUP.to_owned(), begun + 5);
            Event::Group(GroupOp { process, group, generation, act, told, begun, done })
        })
    }

    fn assigned(self, process: u32, generation: i32) -> Self {
        self.group(process, generation, GroupAct::Assigned { parts: vec![0], classic: true }, Told::Ok)
    }

    fn commit(self, process: u32, generation: i32, offset: i64, told: Told) -> Self {
        self.group(process, generation, GroupAct::Commit { offsets: vec![(0, offset)] }, told)
    }

    fn fetched(self, process: u32, offset: Option<i64>) -> Self {
        self.group(process, 1, GroupAct::Fetched { offsets: vec![(0, offset)] }, Told::Ok)
    }

    /// The final reads: of everything, and of what is committed.
    fn end(self, all: &[(i64, u64)], committed: &[(i64, u64)]) -> Self {
        let end = all.iter().map(|(offset, _)| offset + 1).max().unwrap_or(0) + 2;
        let tale = Tale(self.0.drain(0, end, all));
        let records = seen(committed);
        tale.event(|_| Event::DrainedCommitted { part: 0, records })
    }

    #[track_caller]
    fn is(self, expected: &[Anomaly]) {
        self.0.is(expected);
    }
}

const BOTH: &[(i64, u64)] = &[(0, 1), (1, 2)];

fn two_in_one() -> Tale {
    Tale::new().begin().ok(1, 0).ok(2, 1)
}

#[test]
fn a_committed_transaction_is_whole() {
    two_in_one().txn(TxnAct::Commit, Told::Ok).end(BOTH, BOTH).is(&[]);
    let torn = two_in_one().txn(TxnAct::Commit, Told::Ok);
    torn.end(BOTH, &[(0, 1)]).is(&[Anomaly::TornTxn]);
    // Of an outcome that nobody was told, too.
    let torn = two_in_one().txn(TxnAct::Commit, Told::Maybe);
    torn.end(BOTH, &[(1, 2)]).is(&[Anomaly::TornTxn]);
    two_in_one().txn(TxnAct::Commit, Told::Maybe).end(BOTH, &[]).is(&[]);
    two_in_one().txn(TxnAct::Commit, Told::Maybe).end(BOTH, BOTH).is(&[]);
}

#[test]
fn what_was_answered_about_a_transaction_is_what_became_of_it() {
    two_in_one().txn(TxnAct::Commit, Told::Ok).end(BOTH, &[]).is(&[Anomaly::OutcomeMismatch]);
    two_in_one().txn(TxnAct::Abort, Told::Ok).end(BOTH, BOTH).is(&[Anomaly::OutcomeMismatch]);
    two_in_one().txn(TxnAct::Abort, Told::Ok).end(BOTH, &[]).is(&[]);
    // Nobody asked to commit it: it was left to its timeout.
    two_in_one().end(BOTH, BOTH).is(&[Anomaly::OutcomeMismatch]);
    two_in_one().end(BOTH, &[]).is(&[]);
    // The commit was refused for certain.
    two_in_one().txn(TxnAct::Commit, Told::No).end(BOTH, BOTH).is(&[Anomaly::OutcomeMismatch]);
    let both = two_in_one().txn(TxnAct::Commit, Told::Ok).txn(TxnAct::Abort, Told::Ok);
    both.end(BOTH, BOTH).is(&[Anomaly::OutcomeMismatch]);
}

#[test]
fn an_aborted_record_is_for_no_reader_of_committed_ones() {
    let aborted = || two_in_one().txn(TxnAct::Abort, Told::Ok).reader(7, true);
    aborted().poll(7, 0, &[(0, 1)], 1).end(BOTH, &[]).is(&[Anomaly::AbortedRead]);
    aborted().poll(7, 0, &[], 3).end(BOTH, &[]).is(&[]);
    // A reader of everything may have it, and must.
    let all = || two_in_one().txn(TxnAct::Abort, Told::Ok).reader(7, false);
    all().poll(7, 0, BOTH, 2).end(BOTH, &[]).is(&[]);
    all().poll(7, 0, &[], 3).end(BOTH, &[]).is(&[Anomaly::PollSkip]);
}

#[test]
fn a_record_is_not_read_before_its_commit_is_asked_for() {
    let early = two_in_one().reader(7, true).poll(7, 0, &[(0, 1)], 1);
    early.txn(TxnAct::Commit, Told::Ok).end(BOTH, BOTH).is(&[Anomaly::PrecommittedRead]);
    let late = two_in_one().reader(7, true).txn(TxnAct::Commit, Told::Ok);
    late.poll(7, 0, BOTH, 2).end(BOTH, BOTH).is(&[]);
}

#[test]
fn a_committed_record_is_not_passed_over() {
    let story = two_in_one().reader(7, true).txn(TxnAct::Commit, Told::Ok);
    story.poll(7, 0, &[(1, 2)], 2).end(BOTH, BOTH).is(&[Anomaly::PollSkip]);
}

#[test]
fn the_next_transaction_of_a_session_is_another_one() {
    let story = two_in_one().txn(TxnAct::Abort, Told::Ok).begin().ok(3, 3).txn(TxnAct::Commit, Told::Ok);
    story.end(&[(0, 1), (1, 2), (3, 3)], &[(3, 3)]).is(&[]);
}

fn three() -> Tale {
    Tale::new().ok(1, 0).ok(2, 1).ok(3, 2)
}

const THREE: &[(i64, u64)] = &[(0, 1), (1, 2), (2, 3)];

/// Member 7 reads everything and commits 2.
fn member() -> Tale {
    three().assigned(7, 1).fetched(7, None).poll(7, 0, THREE, 3).commit(7, 1, 2, Told::Ok)
}

fn end(tale: Tale) -> Tale {
    Tale(tale.0.drain(0, 3, THREE))
}

#[test]
fn a_group_that_goes_on_where_it_stood_is_good() {
    let next = member().assigned(8, 2).fetched(8, Some(2)).poll(8, 2, &[(2, 3)], 3);
    end(next.commit(8, 2, 3, Told::Ok).fetched(8, Some(3))).is(&[]);
}

#[test]
fn a_commit_is_not_forgotten() {
    end(member().commit(7, 1, 3, Told::Ok).fetched(7, Some(2))).is(&[Anomaly::CommitRegression]);
    end(member().fetched(7, None)).is(&[Anomaly::CommitRegression]);
    // One of unknown outcome may be there or not, also later.
    let maybe = || member().commit(7, 1, 3, Told::Maybe);
    end(maybe().fetched(7, Some(2)).fetched(7, Some(3))).is(&[]);
    end(maybe().commit(7, 1, 2, Told::Ok).fetched(7, Some(3))).is(&[]);
}

#[test]
fn a_position_that_nobody_committed_is_found() {
    end(member().fetched(7, Some(1))).is(&[Anomaly::PhantomCommit]);
    end(member().commit(7, 1, 3, Told::No).fetched(7, Some(3))).is(&[Anomaly::PhantomCommit]);
}

#[test]
fn a_member_that_begins_above_the_committed_position_skips() {
    let next = member().assigned(8, 2).fetched(8, Some(2)).poll(8, 3, &[], 3);
    end(next).is(&[Anomaly::GroupSkip]);
    let first = three().assigned(7, 1).fetched(7, None).poll(7, 1, &[(1, 2), (2, 3)], 3);
    end(first).is(&[Anomaly::GroupSkip]);
    // A partition that it had all the time goes on where it was.
    let kept = member().assigned(7, 2).poll(7, 3, &[], 3);
    end(kept).is(&[]);
}

#[test]
fn a_commit_above_what_any_member_was_given_skips() {
    let story = three().assigned(7, 1).fetched(7, None).poll(7, 0, &[(0, 1)], 1).commit(7, 1, 3, Told::Ok);
    end(story).is(&[Anomaly::GroupSkip]);
}

#[test]
fn the_commit_of_a_former_owner_is_refused() {
    let later = || member().assigned(8, 2).fetched(8, Some(2)).poll(8, 2, &[(2, 3)], 3);
    end(later().commit(7, 1, 1, Told::Ok)).is(&[Anomaly::ZombieCommit]);
    end(later().commit(7, 1, 1, Told::No)).is(&[]);
    // Under way when the next owner was told.
    let mut under_way = member().commit(7, 1, 2, Told::Ok).assigned(8, 2);
    if let Some(Event::Group(op)) = under_way.0.history.events.last_mut() {
        op.done = op.begun - 8;
    }
    end(under_way).is(&[]);
}

#[test]
fn a_partition_has_one_owner_in_a_generation() {
    end(member().assigned(8, 1)).is(&[Anomaly::DoubleOwner]);
    end(member().assigned(8, 2)).is(&[]);
}

/// Reads values 1 to 3 of the first partition as a group and makes 11 to 13 of them in the second, in one transaction.
fn made(values: &[(u64, u64)], end: TxnAct) -> Tale {
    let mut tale = three().assigned(7, 1).fetched(7, None).poll(7, 0, THREE, 3);
    tale = tale.event(|begun| {
        Event::Txn(TxnOp { process: 5, act: TxnAct::Begin, told: Told::Ok, begun, done: begun + 5 })
    });
    for (from, value) in values.iter().copied() {
        tale = tale.event(|_| Event::Derived { group: GROUP.into(), from, value });
        tale = tale.event(|begun| {
            Event::Send(SendOp {
                process: 5,
                part: 1,
                value,
                digest: value as u32,
                acks: Acks::All,
                idempotent: true,
                attempts: 1,
                begun,
                done: begun + 5,
                outcome: Outcome::Ok { offset: Some(value as i64 - 11) },
            })
        });
    }
    let offsets = TxnAct::Offsets { group: GROUP.into(), offsets: vec![(0, 3)] };
    for act in [offsets, end] {
        tale =
            tale.event(|begun| Event::Txn(TxnOp { process: 5, act, told: Told::Ok, begun, done: begun + 5 }));
    }
    let tale = Tale(tale.0.drain(0, 3, THREE));
    let records: Vec<(i64, u64)> = values.iter().map(|(_, value)| (*value as i64 - 11, *value)).collect();
    tale.event(|_| Event::Drained { part: 1, start: 0, end: 9, records: seen(&records) })
}

fn visible(tale: Tale, values: &[u64]) -> Tale {
    let records: Vec<(i64, u64)> = values.iter().map(|value| (*value as i64 - 11, *value)).collect();
    tale.event(|_| Event::DrainedCommitted { part: 1, records: seen(&records) })
}

#[test]
fn what_a_group_consumed_has_one_outcome() {
    let each = &[(1, 11), (2, 12), (3, 13)];
    visible(made(each, TxnAct::Commit), &[11, 12, 13]).is(&[]);
    visible(made(each, TxnAct::Abort), &[]).is(&[]);
    let twice = &[(1, 11), (2, 12), (3, 13), (3, 14)];
    visible(made(twice, TxnAct::Commit), &[11, 12, 13, 14]).is(&[Anomaly::EosMultiplicity]);
    let missing = &[(1, 11), (3, 12)];
    visible(made(missing, TxnAct::Commit), &[11, 12]).is(&[Anomaly::EosMultiplicity]);
}

#[test]
fn what_stands_in_two_places_is_consumed_twice() {
    // Value 3 was sent again without a sequence number.
    let of = |values: &[(u64, u64)]| {
        let mut tale = made(values, TxnAct::Commit);
        for event in &mut tale.0.history.events {
            if let Event::Send(SendOp { part: 0, value: 3, idempotent, attempts, .. }) = event {
                (*idempotent, *attempts) = (false, 2);
            }
            if let Event::Drained { part: 0, end, records, .. } = event {
                (*end, *records) = (4, seen(&[(0, 1), (1, 2), (2, 3), (3, 3)]));
            }
            if let Event::Txn(TxnOp { act: TxnAct::Offsets { offsets, .. }, .. }) = event {
                *offsets = vec![(0, 4)];
            }
        }
        tale
    };
    let both = &[(1, 11), (2, 12), (3, 13), (3, 14)];
    let member = |tale: Tale| tale.poll(7, 3, &[(3, 3)], 4);
    member(visible(of(both), &[11, 12, 13, 14])).is(&[]);
    let one = &[(1, 11), (2, 12), (3, 13)];
    let found = Anomaly::EosMultiplicity;
    member(visible(of(one), &[11, 12, 13])).is(&[found, found]);
}

#[test]
fn what_the_group_was_told_is_set_whoever_heard_of_the_commit() {
    let each = &[(1, 11), (3, 12)];
    let unheard = || {
        let mut tale = made(each, TxnAct::Commit);
        for event in &mut tale.0.history.events {
            if let Event::Txn(TxnOp { act: TxnAct::Commit, told, .. }) = event {
                *told = Told::Maybe;
            }
        }
        visible(tale, &[11, 12])
    };
    unheard().is(&[]);
    unheard().fetched(7, Some(3)).is(&[Anomaly::EosMultiplicity]);
}

#[test]
fn a_transaction_is_open_until_its_marker_is_replicated() {
    let log = |told: &[(i64, i64)]| {
        let mut tale = end(three());
        tale = tale.event(|_| Event::Ended { part: 0, txns: vec![(4, 7), (5, 9)] });
        for (watermark, stable) in told.iter().copied() {
            tale = tale.event(|_| Event::Stable { part: 0, watermark, stable });
        }
        tale
    };
    log(&[(4, 4), (7, 4), (8, 4), (8, 5), (10, 10)]).is(&[]);
    log(&[(7, 5)]).is(&[Anomaly::EarlyStable]); // its marker is at 7, which is not replicated
    log(&[(9, 9)]).is(&[Anomaly::EarlyStable]);
}

#[test]
fn the_position_of_an_aborted_transaction_is_nobodys() {
    let each = &[(1, 11), (2, 12), (3, 13)];
    let aborted = visible(made(each, TxnAct::Abort), &[]).fetched(7, Some(3));
    aborted.is(&[Anomaly::PhantomCommit]);
    visible(made(each, TxnAct::Commit), &[11, 12, 13]).fetched(7, Some(3)).is(&[]);
}
