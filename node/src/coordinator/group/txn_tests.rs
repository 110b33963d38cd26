//! Claims about offsets in transactions: live, and read back from the log at any moment.

use std::collections::BTreeMap;

use dejaq_storage::TxnStanding;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{
    CoordinatorEpoch, Generation, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId,
};
use dejaq_wire::record::control::EndTxnMarker;

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

    fn same_after_a_reload(&mut self) {
        let live: Vec<_> = ["g", "h"].map(|group| self.offset(group)).to_vec();
        let mut other = Desk::new();
        let mut loading = Loading::default();
        for logged in self.log.iter().cloned() {
            match logged {
                Logged::Plain(records) => records.into_iter().for_each(|record| loading.replay(record)),
                Logged::InTxn(producer, records) => {
                    records.into_iter().for_each(|record| loading.replay_in_txn(producer, record));
                }
                Logged::Marker(marker) => loading.replay_marker(marker.producer_id, marker.commit),
            }
        }
        other.groups = loading.finish(Settings::default(), self.now);
        let loaded: Vec<_> = ["g", "h"].map(|group| other.offset(group)).to_vec();
        assert_eq!(loaded, live, "read back");
    }
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
fn the_later_of_marker_and_plain_commit_counts() {
    let mut desk = Desk::new();
    desk.in_txn("g", 7, 5);
    desk.settle(Ok(()));
    desk.plain("g", 3);
    assert_eq!(desk.offset("g"), (Some(3), true));
    desk.end(7, true);
    desk.settle(Ok(()));
    assert_eq!(desk.offset("g"), (Some(5), false));
    desk.in_txn("g", 8, 6);
    desk.settle(Ok(()));
    desk.end(8, true);
    desk.ask(Ask::Commit(commit("g", 4)));
    desk.settle(Ok(()));
    assert_eq!(desk.offset("g"), (Some(4), false));
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
