//! Claims about offsets in transactions: live, and read back from the log at any moment.

use std::collections::BTreeMap;

use dejaq_storage::TxnStanding;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{
    CoordinatorEpoch, Generation, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId,
};
use dejaq_wire::record::control::EndTxnMarker;
use proptest::prelude::*;

use super::Groups;
use super::ask::{Ask, CommitAsk, Effect, Event, Now, Reply, Ticket, Token, TxnCommitAsk};
use super::load::Loading;
use super::settings::Settings;
use crate::coordinator::machine::Who;
use crate::coordinator::record::{At, Committed, Record};
use crate::runtime::Mono;

#[derive(Clone)]
enum Logged {
    Plain(Vec<Record>),
    InTxn(ProducerId, Vec<Record>),
    Marker(EndTxnMarker),
}

struct Desk {
    groups: Groups,
    now: Now,
    log: Vec<Logged>,
    writing: Vec<(Ticket, Logged)>,
    replies: BTreeMap<Token, Reply>,
    next: u64,
}

fn at() -> At {
    At { topic: "t".into(), partition: PartitionId(0) }
}

fn commit(group: &str, offset: i64) -> CommitAsk {
    let committed = Committed {
        offset: Offset(offset),
        leader_epoch: LeaderEpoch::NONE,
        metadata: String::new(),
        committed_ms: 0,
        expires_ms: None,
    };
    CommitAsk {
        group: group.into(),
        member: String::new(),
        instance: None,
        generation: Generation::NONE,
        offsets: vec![(at(), committed)],
    }
}

impl Desk {
    fn new() -> Desk {
        let now = Now { mono: Mono(0), unix_ms: 1_800_000_000_000 };
        let groups = Loading::default().finish(Settings::default(), now);
        Desk { groups, now, log: Vec::new(), writing: Vec::new(), replies: BTreeMap::new(), next: 0 }
    }

    fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.groups.step(event, self.now, &mut effects);
        self.groups.check_deep();
        for effect in effects {
            match effect {
                Effect::Reply { token, reply } => drop(self.replies.insert(token, reply)),
                Effect::Write { ticket, records } => self.writing.push((ticket, Logged::Plain(records))),
                Effect::WriteInTxn { ticket, who, records, .. } => {
                    self.writing.push((ticket, Logged::InTxn(who.producer_id, records)));
                }
                Effect::WriteMarker { ticket, marker } => self.writing.push((ticket, Logged::Marker(marker))),
            }
        }
    }

    fn ask(&mut self, ask: Ask) -> Token {
        let token = Token(self.next);
        self.next += 1;
        self.step(Event::Asked { token, ask });
        token
    }

    fn settle(&mut self, result: Result<(), ErrorCode>) {
        for (ticket, logged) in std::mem::take(&mut self.writing) {
            if result.is_ok() {
                self.log.push(logged);
            }
            self.step(Event::Written { ticket, result });
        }
        self.same_after_a_reload();
    }

    fn plain(&mut self, group: &str, offset: i64) {
        self.ask(Ask::Commit(commit(group, offset)));
        self.settle(Ok(()));
    }

    fn in_txn(&mut self, group: &str, producer: i64, offset: i64) -> Token {
        let TxnStanding { guard, .. } = TxnStanding::default();
        let who = Who { producer_id: ProducerId(producer), epoch: ProducerEpoch(0) };
        self.ask(Ask::CommitInTxn(TxnCommitAsk { who, guard, commit: commit(group, offset) }))
    }

    fn end(&mut self, producer: i64, commit: bool) -> Token {
        self.ask(Ask::EndTxn(EndTxnMarker {
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(1),
            commit,
            coordinator_epoch: CoordinatorEpoch(0),
        }))
    }

    /// The offset of a group, and whether a transaction may change it.
    fn offset(&mut self, group: &str) -> (Option<i64>, bool) {
        let token = self.ask(Ask::Fetch { group: group.into(), wanted: Some(vec![at()]), member: None });
        match self.replies.remove(&token) {
            Some(Reply::Offsets(offsets, unstable)) => {
                (offsets[0].1.as_ref().map(|kept| kept.offset.0), unstable.contains(&at()))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Whoever reads the log is told the same, and whoever reads what the cleaner leaves of it.
    fn same_after_a_reload(&mut self) {
        let live = self.told();
        assert_eq!(self.reloaded(self.log.clone()).told(), live, "read back");
        assert_eq!(self.reloaded(cleaned(&self.log)).told(), live, "read back from a cleaned log");
    }

    fn told(&mut self) -> Vec<(Option<i64>, bool)> {
        ["g", "h"].map(|group| self.offset(group)).to_vec()
    }

    fn reloaded(&self, log: Vec<Logged>) -> Desk {
        let mut loading = Loading::default();
        for logged in log {
            match logged {
                Logged::Plain(records) => records.into_iter().for_each(|record| loading.replay(record)),
                Logged::InTxn(producer, records) => {
                    records.into_iter().for_each(|record| loading.replay_in_txn(producer, record));
                }
                Logged::Marker(marker) => loading.replay_marker(marker.producer_id, marker.commit),
            }
        }
        let groups = loading.finish(Settings::default(), self.now);
        Desk { groups, ..Desk::new() }
    }

    fn delete(&mut self, group: &str) {
        self.ask(Ask::Delete { group: group.into() });
        self.settle(Ok(()));
    }
}

/// What a cleaner leaves: below the first record of a transaction that is not decided, of every key its last record that
/// counts, and all markers.
fn cleaned(log: &[Logged]) -> Vec<Logged> {
    let outcome = |at: usize, of: ProducerId| {
        log[at..].iter().find_map(|logged| match logged {
            Logged::Marker(marker) if marker.producer_id == of => Some(marker.commit),
            Logged::Marker(_) | Logged::Plain(_) | Logged::InTxn(..) => None,
        })
    };
    let is_open = |(at, logged): (usize, &Logged)| match logged {
        Logged::InTxn(of, _) => outcome(at, *of).is_none(),
        Logged::Plain(_) | Logged::Marker(_) => false,
    };
    let end = log.iter().enumerate().position(is_open).unwrap_or(log.len());
    let mut last = BTreeMap::new();
    for (at, logged) in log[..end].iter().enumerate() {
        let records = match logged {
            Logged::Plain(records) => records,
            Logged::InTxn(of, records) if outcome(at, *of) == Some(true) => records,
            Logged::InTxn(..) | Logged::Marker(_) => continue,
        };
        last.extend(records.iter().map(|record| (record.encode().0, at)));
    }
    let mut left = Vec::new();
    for (at, logged) in log[..end].iter().enumerate() {
        let stays = |record: &&Record| last.get(&record.encode().0) == Some(&at);
        match logged {
            Logged::Plain(records) => {
                left.push(Logged::Plain(records.iter().filter(stays).cloned().collect()))
            }
            Logged::InTxn(of, records) => {
                left.push(Logged::InTxn(*of, records.iter().filter(stays).cloned().collect()));
            }
            Logged::Marker(marker) => left.push(Logged::Marker(*marker)),
        }
    }
    left.extend_from_slice(&log[end..]);
    left
}

#[test]
fn offsets_wait_for_the_marker_and_are_forgotten_with_an_abort() {
    let mut desk = Desk::new();
    desk.plain("g", 1);
    desk.in_txn("g", 7, 5);
    desk.in_txn("h", 7, 6);
    assert_eq!(desk.offset("g"), (Some(1), false), "it is being written");
    desk.settle(Ok(()));
    assert_eq!((desk.offset("g"), desk.offset("h")), ((Some(1), true), (None, true)));
    let told = desk.end(7, true);
    assert!(!desk.replies.contains_key(&told), "before its marker is durable nothing is told");
    assert_eq!(desk.offset("g"), (Some(1), true));
    desk.settle(Ok(()));
    assert_eq!(desk.replies[&told], Reply::Code(ErrorCode::NONE));
    assert_eq!((desk.offset("g"), desk.offset("h")), ((Some(5), false), (Some(6), false)));
    desk.in_txn("g", 7, 9);
    desk.settle(Ok(()));
    desk.end(7, false);
    desk.settle(Ok(()));
    assert_eq!(desk.offset("g"), (Some(5), false));
}

#[test]
fn the_later_record_counts_whenever_its_transaction_ends() {
    let mut desk = Desk::new();
    desk.in_txn("g", 7, 5);
    desk.settle(Ok(()));
    desk.plain("g", 3);
    assert_eq!(desk.offset("g"), (Some(3), true));
    desk.end(7, true);
    desk.settle(Ok(()));
    assert_eq!(desk.offset("g"), (Some(3), false), "its record is the later one: the cleaner keeps no other");
    desk.in_txn("g", 8, 6);
    desk.settle(Ok(()));
    desk.end(8, true);
    desk.ask(Ask::Commit(commit("g", 4)));
    desk.settle(Ok(()));
    assert_eq!(desk.offset("g"), (Some(4), false));
}

#[test]
fn of_two_transactions_the_one_that_wrote_later_counts() {
    let mut desk = Desk::new();
    desk.in_txn("g", 7, 5);
    desk.settle(Ok(()));
    desk.in_txn("g", 8, 6);
    desk.settle(Ok(()));
    desk.end(8, true);
    desk.settle(Ok(()));
    assert_eq!(desk.offset("g"), (Some(6), true));
    desk.end(7, true);
    desk.settle(Ok(()));
    assert_eq!(desk.offset("g"), (Some(6), false));
}

#[test]
fn what_is_committed_after_a_reload_is_later_than_all_that_was_read_back() {
    let mut desk = Desk::new();
    (0..5).for_each(|offset| desk.plain("g", offset));
    desk.in_txn("g", 7, 9);
    desk.settle(Ok(()));
    let mut next = desk.reloaded(desk.log.clone());
    next.log = desk.log;
    next.plain("g", 2);
    next.end(7, true);
    next.settle(Ok(()));
    assert_eq!(next.offset("g"), (Some(2), false));
}

#[test]
fn a_marker_of_one_producer_leaves_the_offsets_of_another_one() {
    let mut desk = Desk::new();
    desk.in_txn("g", 7, 5);
    desk.in_txn("h", 8, 6);
    desk.settle(Ok(()));
    desk.end(8, true);
    desk.settle(Ok(()));
    assert_eq!((desk.offset("g"), desk.offset("h")), ((None, true), (Some(6), false)));
}

#[test]
fn a_failed_write_leaves_nothing_and_a_failed_marker_everything() {
    let mut desk = Desk::new();
    let told = desk.in_txn("g", 7, 5);
    desk.settle(Err(ErrorCode::INVALID_PRODUCER_EPOCH));
    assert_eq!(desk.replies[&told], Reply::Partitions(vec![(at(), ErrorCode::INVALID_PRODUCER_EPOCH)]));
    assert_eq!(desk.offset("g"), (None, false));
    desk.in_txn("g", 7, 5);
    desk.settle(Ok(()));
    let told = desk.end(7, true);
    desk.settle(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
    assert_eq!(desk.replies[&told], Reply::Code(ErrorCode::COORDINATOR_NOT_AVAILABLE));
    assert_eq!(desk.offset("g"), (None, true));
}

#[test]
fn a_deleted_group_is_not_brought_back_by_a_marker() {
    let mut desk = Desk::new();
    desk.in_txn("g", 7, 5);
    desk.settle(Ok(()));
    desk.ask(Ask::Delete { group: "g".into() });
    desk.settle(Ok(()));
    desk.end(7, true);
    desk.settle(Ok(()));
    assert_eq!(desk.offset("g"), (None, false));
}

#[test]
fn only_members_of_the_generation_commit_in_a_transaction_if_they_say_which() {
    let mut desk = Desk::new();
    let TxnStanding { guard, .. } = TxnStanding::default();
    let who = Who { producer_id: ProducerId(7), epoch: ProducerEpoch(0) };
    let zombie = CommitAsk { generation: Generation(3), member: "m".into(), ..commit("g", 5) };
    let told = desk.ask(Ask::CommitInTxn(TxnCommitAsk { who, guard, commit: zombie }));
    assert_eq!(desk.replies[&told], Reply::Partitions(vec![(at(), ErrorCode::ILLEGAL_GENERATION)]));
    assert!(desk.writing.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// After every step the log, and what the cleaner leaves of it, tells what the coordinator tells.
    #[test]
    fn a_cleaned_log_tells_what_was_told(acts in proptest::collection::vec((0u8..8, 0i64..3, any::<bool>()), 1..60)) {
        let mut desk = Desk::new();
        for (number, (act, producer, is_g)) in acts.into_iter().enumerate() {
            let (group, offset) = (if is_g { "g" } else { "h" }, 100 + number as i64 * 7 % 50);
            match act {
                0..=1 => desk.plain(group, offset),
                2..=4 => {
                    desk.in_txn(group, producer, offset);
                    desk.settle(Ok(()));
                }
                5..=6 => {
                    desk.end(producer, act == 5 || is_g);
                    desk.settle(Ok(()));
                }
                _ => desk.delete(group),
            }
        }
    }
}
