//! What each ask leads to: one claim a test.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{CoordinatorEpoch, PartitionId, ProducerEpoch, ProducerId};
use dejaq_wire::record::control::EndTxnMarker;

use super::ask::{Ask, At, Effect, Errand, Event, Now, Reply, Ticket, Token, Who};
use super::record::{Record, Stored};
use super::state::{MOST_EPOCH, State};
use super::txns::{Loading, Settings, Txns};
use crate::runtime::Mono;

/// A shard whose writes and markers wait until the test lets them through.
pub(super) struct Desk {
    pub txns: Txns,
    pub now: Now,
    pub log: Vec<Record>,
    pub writes: VecDeque<(Ticket, Record)>,
    pub markers: Vec<(Errand, EndTxnMarker, At)>,
    pub replies: Vec<(Token, Reply)>,
    /// Every marker as it left, beside what the log said of its id at that moment.
    pub sent: Vec<(EndTxnMarker, Option<Stored>)>,
    next_token: u64,
    pub next_id: i64,
    coordinator: i32,
}

pub(super) fn at(partition: i32) -> At {
    At { topic: "t".into(), partition: PartitionId(partition) }
}

pub(super) fn who(producer_id: i64, epoch: i16) -> Who {
    Who { producer_id: ProducerId(producer_id), epoch: ProducerEpoch(epoch) }
}

impl Desk {
    pub fn new() -> Desk {
        let now = Now { mono: Mono(0), unix_ms: 1_000_000 };
        let txns = Txns::new(Settings::default(), CoordinatorEpoch(0), now.mono);
        let (log, writes, markers) = (Vec::new(), VecDeque::new(), Vec::new());
        let (replies, sent) = (Vec::new(), Vec::new());
        Desk { txns, now, log, writes, markers, replies, sent, next_token: 0, next_id: 100, coordinator: 0 }
    }

    pub fn stored(&self, id: &str) -> Option<Stored> {
        self.log.iter().rev().find(|record| &*record.id == id)?.value.clone()
    }

    pub fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.txns.step(event, self.now, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply { token, reply } => self.replies.push((token, reply)),
                Effect::Write { ticket, record } => self.writes.push_back((ticket, record)),
                Effect::Mark { errand, marker, partitions } => {
                    self.sent.push((marker, self.stored(&errand.id)));
                    self.markers.extend(partitions.into_iter().map(|at| (errand.clone(), marker, at)));
                }
            }
        }
    }

    pub fn ask(&mut self, id: &str, ask: Ask) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.step(Event::Asked { token, id: id.into(), ask });
        token
    }

    pub fn reply(&self, token: Token) -> Option<Reply> {
        self.replies.iter().find(|(one, _)| *one == token).map(|(_, reply)| reply.clone())
    }

    pub fn write(&mut self, result: Result<(), ErrorCode>) {
        let (ticket, record) = self.writes.pop_front().expect("a write is asked for");
        if result.is_ok() {
            self.log.push(record);
        }
        self.step(Event::Written { ticket, result });
    }

    pub fn mark(&mut self, nth: usize) {
        let (errand, _, at) = self.markers.remove(nth);
        self.step(Event::Marked { errand, at });
    }

    pub fn pass(&mut self, ms: u64) {
        self.now.mono = self.now.mono.plus(Duration::from_millis(ms));
        self.now.unix_ms += ms as i64;
        if self.txns.next_deadline() <= self.now.mono {
            self.step(Event::Tick);
        }
    }

    /// Another coordinator reads the log.
    pub fn restart(&mut self) {
        (self.writes, self.markers) = (VecDeque::new(), Vec::new());
        self.coordinator += 1;
        let mut loading = Loading::default();
        self.log.iter().cloned().for_each(|record| loading.replay(record));
        let mut effects = Vec::new();
        let epoch = CoordinatorEpoch(self.coordinator);
        self.txns = loading.finish(Settings::default(), epoch, self.now, &mut effects);
        self.carry_out(effects);
    }

    pub fn init(&self, was: Option<Who>) -> Ask {
        Ask::Init { timeout_ms: 10_000, was, fresh: ProducerId(self.next_id) }
    }

    /// Everything that is under way goes well.
    pub fn calm(&mut self) {
        while !self.writes.is_empty() || !self.markers.is_empty() {
            while !self.writes.is_empty() {
                self.write(Ok(()));
            }
            if !self.markers.is_empty() {
                self.mark(0);
            }
        }
    }

    /// Asks, and lets everything go well.
    pub fn done(&mut self, ask: Ask) -> Reply {
        let token = self.ask("x", ask);
        self.calm();
        self.reply(token).expect("it is answered")
    }

    fn state(&self) -> State {
        self.stored("x").expect("it is there").state
    }
}

pub(super) fn add(who: Who, partitions: &[i32]) -> Ask {
    Ask::Add { who, partitions: partitions.iter().copied().map(at).collect() }
}

pub(super) fn end(who: Who, commit: bool, bumps: bool) -> Ask {
    Ask::End { who, commit, bumps, fresh: ProducerId(900) }
}

const FENCED: Reply = Reply::Refused(ErrorCode::PRODUCER_FENCED);
const CONCURRENT: Reply = Reply::Refused(ErrorCode::CONCURRENT_TRANSACTIONS);
const INVALID: Reply = Reply::Refused(ErrorCode::INVALID_TXN_STATE);

#[test]
fn a_transaction_of_a_client_that_bumps_goes_round_with_the_next_epoch() {
    let mut desk = Desk::new();
    assert_eq!(desk.done(desk.init(None)), Reply::Producer(who(100, 0)));
    assert_eq!(desk.done(add(who(100, 0), &[0, 1])), Reply::Done);
    assert_eq!(desk.state(), State::Ongoing);
    assert_eq!(desk.done(end(who(100, 0), true, true)), Reply::Producer(who(100, 1)));
    assert_eq!(desk.state(), State::CompleteCommit);
    let markers: Vec<_> =
        desk.sent.iter().map(|(marker, _)| (marker.producer_epoch.0, marker.commit)).collect();
    assert_eq!(markers, [(1, true)]);
    assert_eq!(desk.done(add(who(100, 1), &[0])), Reply::Done);
    assert_eq!(desk.done(end(who(100, 1), false, true)), Reply::Producer(who(100, 2)));
    assert_eq!(desk.state(), State::CompleteAbort);
}

#[test]
fn a_client_that_does_not_bump_keeps_its_epoch() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    desk.done(add(who(100, 0), &[0]));
    assert_eq!(desk.done(end(who(100, 0), true, false)), Reply::Producer(who(100, 0)));
    assert_eq!(desk.done(end(who(100, 0), true, false)), Reply::Producer(who(100, 0)), "once more");
    assert_eq!(desk.done(end(who(100, 0), false, false)), INVALID);
    assert_eq!(desk.done(add(who(100, 0), &[1])), Reply::Done);
}

#[test]
fn no_marker_leaves_before_the_decision_is_durable_and_no_answer_either() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    desk.done(add(who(100, 0), &[0, 1]));
    let token = desk.ask("x", end(who(100, 0), true, true));
    assert_eq!((desk.reply(token), desk.markers.len()), (None, 0));
    assert_eq!(desk.done(add(who(100, 0), &[2])), CONCURRENT);
}

#[test]
fn a_decision_that_was_not_written_decides_nothing_and_burns_no_epoch() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    desk.done(add(who(100, 0), &[0]));
    let token = desk.ask("x", end(who(100, 0), true, true));
    desk.write(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
    assert_eq!(desk.reply(token), Some(Reply::Refused(ErrorCode::COORDINATOR_NOT_AVAILABLE)));
    assert_eq!((desk.state(), desk.markers.len()), (State::Ongoing, 0));
    assert_eq!(desk.done(end(who(100, 0), false, true)), Reply::Producer(who(100, 1)));
}

#[test]
fn it_is_complete_when_the_last_marker_is_in_and_a_late_one_of_another_decision_counts_for_nothing() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    desk.done(add(who(100, 0), &[0, 1]));
    desk.ask("x", end(who(100, 0), true, true));
    desk.write(Ok(()));
    let (errand, _, place) = desk.markers[0].clone();
    desk.mark(0);
    assert_eq!((desk.state(), desk.writes.len()), (State::PrepareCommit, 0));
    let token = desk.ask("x", add(who(100, 1), &[0]));
    assert_eq!(desk.reply(token), Some(CONCURRENT));
    assert_eq!(desk.writes.len(), 0);
    desk.calm();
    assert_eq!(desk.state(), State::CompleteCommit);
    desk.done(add(who(100, 1), &[0, 1]));
    desk.ask("x", end(who(100, 1), false, true));
    desk.write(Ok(()));
    desk.mark(1);
    desk.step(Event::Marked { errand, at: place });
    assert_eq!((desk.state(), desk.writes.len()), (State::PrepareAbort, 0));
}

#[test]
fn a_restart_carries_out_what_was_prepared() {
    for commit in [true, false] {
        let mut desk = Desk::new();
        desk.done(desk.init(None));
        desk.done(add(who(100, 0), &[0, 1]));
        desk.ask("x", end(who(100, 0), commit, true));
        desk.write(Ok(()));
        desk.mark(0);
        desk.restart();
        assert_eq!(desk.markers.len(), 2, "to all of them again");
        assert!(
            desk.markers
                .iter()
                .all(|(_, marker, _)| marker.commit == commit && marker.coordinator_epoch.0 == 1)
        );
        desk.calm();
        let wanted = if commit { State::CompleteCommit } else { State::CompleteAbort };
        assert_eq!(desk.state(), wanted);
        // The client did not hear the answer and asks again.
        assert_eq!(desk.done(end(who(100, 0), commit, true)), Reply::Producer(who(100, 1)));
        assert_eq!(desk.done(end(who(100, 0), !commit, true)), INVALID);
    }
}

#[test]
fn a_delayed_end_of_the_last_transaction_does_nothing_to_the_next_one() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    desk.done(add(who(100, 0), &[0]));
    desk.done(end(who(100, 0), true, true));
    desk.done(add(who(100, 1), &[0]));
    assert_eq!(desk.done(end(who(100, 0), true, true)), FENCED);
    assert_eq!(desk.done(end(who(100, 2), true, true)), FENCED);
    assert_eq!(desk.state(), State::Ongoing);
}

#[test]
fn what_is_open_too_long_is_aborted_and_its_producer_fenced() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    desk.done(add(who(100, 0), &[0]));
    desk.pass(9_999);
    assert!(desk.writes.is_empty());
    desk.pass(1);
    desk.calm();
    assert_eq!(desk.state(), State::CompleteAbort);
    assert_eq!(
        desk.sent[0].0.producer_epoch,
        ProducerEpoch(1),
        "data that comes late is fenced by the marker"
    );
    assert_eq!(desk.done(add(who(100, 0), &[0])), FENCED);
    assert_eq!(desk.done(end(who(100, 0), false, true)), FENCED);
    assert_eq!(desk.done(desk.init(Some(who(100, 0)))), FENCED);
    assert_eq!(desk.done(desk.init(None)), Reply::Producer(who(100, 2)));
}

#[test]
fn a_timeout_is_counted_over_a_restart() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    desk.done(add(who(100, 0), &[0]));
    desk.pass(6_000);
    desk.restart();
    desk.pass(3_999);
    assert!(desk.writes.is_empty());
    desk.pass(1);
    desk.calm();
    assert_eq!(desk.state(), State::CompleteAbort);
}

#[test]
fn a_new_life_of_an_id_fences_the_old_one_and_aborts_what_it_left_open() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    desk.done(add(who(100, 0), &[0]));
    assert_eq!(desk.done(desk.init(None)), CONCURRENT, "it is asked again");
    assert_eq!(desk.state(), State::CompleteAbort);
    assert_eq!(desk.done(desk.init(None)), Reply::Producer(who(100, 2)));
    for ask in [add(who(100, 0), &[0]), end(who(100, 0), true, true), end(who(100, 1), true, false)] {
        assert_eq!(desk.done(ask), FENCED);
    }
}

#[test]
fn a_repeated_init_is_answered_with_the_same_epoch() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    assert_eq!(desk.done(desk.init(Some(who(100, 0)))), Reply::Producer(who(100, 1)));
    assert_eq!(desk.done(desk.init(Some(who(100, 0)))), Reply::Producer(who(100, 1)));
    assert_eq!(desk.done(desk.init(Some(who(100, 1)))), Reply::Producer(who(100, 2)));
    assert_eq!(desk.done(desk.init(Some(who(100, 0)))), FENCED);
}

/// Kills M263.
#[test]
fn who_was_fenced_is_not_taken_for_who_fenced_it() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    assert_eq!(desk.done(desk.init(None)), Reply::Producer(who(100, 1)), "another client");
    assert_eq!(desk.done(desk.init(Some(who(100, 0)))), FENCED);
    let mut stored = desk.stored("x").expect("it is there");
    stored.who.epoch = MOST_EPOCH;
    desk.log.push(Record { id: "x".into(), value: Some(stored) });
    desk.restart();
    assert_eq!(desk.done(desk.init(None)), Reply::Producer(who(desk.next_id, 0)), "another id");
    let spent = Who { producer_id: ProducerId(100), epoch: MOST_EPOCH };
    assert_eq!(desk.done(desk.init(Some(spent))), FENCED, "not behind the last epoch either");
}

#[test]
fn an_epoch_that_nobody_was_given_is_refused() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    for epoch in [1, i16::MAX - 1, i16::MAX, i16::MIN] {
        assert_eq!(desk.done(desk.init(Some(who(100, epoch)))), FENCED, "{epoch}");
    }
}

#[test]
fn when_the_epochs_are_used_up_another_producer_id_goes_on() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    let mut stored = desk.stored("x").expect("it is there");
    stored.who.epoch = MOST_EPOCH;
    desk.log.push(Record { id: "x".into(), value: Some(stored) });
    desk.restart();
    let most = Who { producer_id: ProducerId(100), epoch: MOST_EPOCH };
    desk.done(add(most, &[0]));
    let token = desk.ask("x", end(most, true, true));
    desk.write(Ok(()));
    assert_eq!(desk.reply(token), Some(Reply::Producer(who(900, 0))));
    for ask in [add(who(900, 0), &[0]), end(who(900, 0), false, true)] {
        let token = desk.ask("x", ask);
        assert_eq!(desk.reply(token), Some(CONCURRENT), "its markers are on their way: it comes again");
    }
    let token = desk.ask("x", add(who(900, 1), &[0]));
    assert_eq!(desk.reply(token), Some(Reply::Refused(ErrorCode::INVALID_PRODUCER_ID_MAPPING)));
    desk.calm();
    assert_eq!(desk.sent[0].0.producer_id, ProducerId(100));
    assert_eq!(desk.sent[0].0.producer_epoch, ProducerEpoch::MAX);
    assert_eq!(desk.done(end(most, true, true)), Reply::Producer(who(900, 0)), "once more");
    assert_eq!(desk.done(add(who(900, 0), &[0])), Reply::Done);

    let mut desk = Desk::new();
    desk.done(desk.init(None));
    let mut stored = desk.stored("x").expect("it is there");
    stored.who.epoch = MOST_EPOCH;
    desk.log.push(Record { id: "x".into(), value: Some(stored) });
    desk.restart();
    desk.next_id = 777;
    assert_eq!(desk.done(desk.init(None)), Reply::Producer(who(777, 0)));
}

#[test]
fn a_client_that_bumps_may_abort_what_it_did_not_begin() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    assert_eq!(desk.done(end(who(100, 0), true, true)), INVALID);
    assert_eq!(desk.done(end(who(100, 0), false, true)), Reply::Producer(who(100, 1)));
    assert_eq!((desk.state(), desk.sent.len()), (State::CompleteAbort, 0));
    assert_eq!(desk.done(end(who(100, 1), false, false)), Reply::Producer(who(100, 1)));
}

#[test]
fn an_end_of_the_next_transaction_waits_until_the_last_one_is_over() {
    for commit in [true, false] {
        let mut desk = Desk::new();
        desk.done(desk.init(None));
        desk.done(add(who(100, 0), &[0]));
        desk.ask("x", end(who(100, 0), commit, true));
        desk.write(Ok(()));
        let token = desk.ask("x", end(who(100, 1), false, true));
        assert_eq!(desk.reply(token), Some(CONCURRENT), "its client began nothing and aborts that");
        desk.calm();
        assert_eq!(desk.done(end(who(100, 1), false, true)), Reply::Producer(who(100, 2)));
    }
}

#[test]
fn only_what_was_added_to_the_open_transaction_is_verified() {
    let verify = |who, partition| Ask::Verify { who, partitions: vec![at(partition)] };
    let mut desk = Desk::new();
    assert_eq!(desk.done(verify(who(1, 0), 0)), Reply::Refused(ErrorCode::INVALID_PRODUCER_ID_MAPPING));
    desk.done(desk.init(None));
    assert_eq!(desk.done(verify(who(100, 0), 0)), INVALID);
    desk.done(add(who(100, 0), &[0]));
    assert_eq!(desk.done(verify(who(100, 0), 0)), Reply::Done);
    assert_eq!(desk.done(verify(who(100, 0), 1)), INVALID);
    assert_eq!(desk.done(verify(who(100, 1), 0)), FENCED);
    desk.done(end(who(100, 0), true, true));
    assert_eq!(desk.done(verify(who(100, 1), 0)), INVALID);
}

#[test]
fn a_silent_id_is_forgotten_and_one_with_an_open_transaction_is_not() {
    let mut desk = Desk::new();
    desk.done(desk.init(None));
    desk.pass(8 * 24 * 3_600_000);
    desk.calm();
    assert_eq!((desk.stored("x"), desk.txns.len()), (None, 0));
    assert_eq!(desk.done(add(who(100, 0), &[0])), Reply::Refused(ErrorCode::INVALID_PRODUCER_ID_MAPPING));
}

#[test]
fn timeouts_that_nobody_may_have_are_refused() {
    let mut desk = Desk::new();
    for timeout_ms in [0, -1, 900_001] {
        let ask = Ask::Init { timeout_ms, was: None, fresh: ProducerId(1) };
        assert_eq!(desk.done(ask), Reply::Refused(ErrorCode::INVALID_TRANSACTION_TIMEOUT));
    }
}

fn record() -> Record {
    let stored = Stored {
        who: who(7, 3),
        previous: ProducerId(5),
        next: ProducerId(9),
        timeout_ms: 60_000,
        state: State::PrepareCommit,
        partitions: [at(1), at(2), At { topic: "u".into(), partition: PartitionId(0) }].into(),
        updated_ms: 11,
        start_ms: 10,
        bumps: true,
    };
    Record { id: "x".into(), value: Some(stored) }
}

#[test]
fn a_record_reads_back_and_a_cut_one_is_an_error() {
    let (key, value) = record().encode();
    let value: Bytes = value.expect("a value");
    assert_eq!(Record::decode(&key, Some(&value)), Ok(Some(record())));
    for length in 0..value.len() {
        assert!(Record::decode(&key, Some(&value[..length])).is_err(), "length {length}");
    }
    let gone = Record { id: Arc::from("x"), value: None };
    assert_eq!(Record::decode(&gone.encode().0, None), Ok(Some(gone)));
    assert_eq!(Record::decode(&[0, 9], None), Ok(None));
}

#[test]
fn the_bytes_are_kafkas_and_never_change() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (key, value) = record().encode();
    assert_eq!(hex(&key), "0000000178");
    let wanted = ["0001", "0000000000000007", "0003", "0000ea60", "02"].concat()
        + "03"
        + "0274"
        + "03"
        + "00000001"
        + "00000002"
        + "00"
        + "0275"
        + "02"
        + "00000000"
        + "00"
        + "000000000000000b"
        + "000000000000000a"
        + "03"
        + "0008"
        + "0000000000000005"
        + "0108"
        + "0000000000000009"
        + "0202"
        + "0002";
    assert_eq!(hex(&value.expect("a value")), wanted);
}
