//! One bad history for each anomaly: a checker that cannot fail proves nothing.

use super::*;

#[derive(Clone)]
pub(super) struct Story {
    pub history: History,
    pub clock: u64,
}

impl Story {
    pub fn new(durable: bool) -> Self {
        let info = PartInfo { name: "t-0".into(), durable, replicated: false, compacted: None };
        Story { history: History { partitions: vec![info], events: vec![] }, clock: 0 }
    }

    pub fn send(mut self, value: u64, outcome: Outcome) -> Self {
        self = self.send_as(value, outcome, Acks::All, 1);
        self
    }

    pub fn send_as(mut self, value: u64, outcome: Outcome, acks: Acks, attempts: u32) -> Self {
        self.clock += 10;
        let (begun, done) = (self.clock, self.clock + 5);
        let idempotent = acks == Acks::All && attempts < 3;
        self.history.events.push(Event::Send(SendOp {
            process: 1,
            part: 0,
            value,
            digest: value as u32,
            acks,
            idempotent,
            attempts,
            begun,
            done,
            outcome,
        }));
        self
    }

    pub fn ok(self, value: u64, offset: i64) -> Self {
        self.send(value, Outcome::Ok { offset: Some(offset) })
    }

    pub fn event(mut self, event: Event) -> Self {
        self.clock += 10;
        self.history.events.push(event);
        self
    }

    pub fn poll(self, from: i64, records: &[(i64, u64)], next: i64) -> Self {
        let begun = self.clock;
        let records = seen(records);
        let poll =
            PollOp { process: 9, part: 0, from, records, next, out_of_range: false, begun, done: begun };
        self.event(Event::Poll(poll))
    }

    pub fn drain(self, start: i64, end: i64, records: &[(i64, u64)]) -> Self {
        let records = seen(records);
        self.event(Event::Drained { part: 0, start, end, records })
    }

    pub fn cut(self) -> Self {
        let at = self.clock + 9;
        self.event(Event::PowerCut { at })
    }

    #[track_caller]
    pub fn is(self, expected: &[Anomaly]) -> Verdict {
        let text = self.history.to_json_lines();
        assert_eq!(History::from_json_lines(&text).expect("it was just written"), self.history);
        let verdict = judge(&self.history);
        let found: Vec<Anomaly> = verdict.violations.iter().map(|violation| violation.anomaly).collect();
        assert_eq!(found, expected, "{:#?}", verdict.violations);
        verdict
    }
}

pub(super) fn seen(records: &[(i64, u64)]) -> Vec<Seen> {
    records.iter().map(|&(offset, value)| Seen { offset, value, digest: value as u32 }).collect()
}

#[test]
fn what_a_leader_alone_acknowledged_may_be_lost_with_it_and_nothing_else() {
    let lost = |acks| {
        let mut story = Story::new(true).ok(1, 0).send_as(2, Outcome::Ok { offset: Some(1) }, acks, 1);
        story.history.partitions[0].replicated = true;
        judge(&story.drain(0, 1, &[(0, 1)]).history)
    };
    let excused = lost(Acks::Leader);
    assert!(excused.is_good() && excused.counts.excused == 1, "{excused:?}");
    assert_eq!(lost(Acks::All).violations[0].anomaly, Anomaly::LostWrite);
}

#[test]
fn a_good_history_is_good() {
    let story = Story::new(true).ok(1, 0).ok(2, 1).send(3, Outcome::Info).send(4, Outcome::Fail);
    let verdict = story.poll(0, &[(0, 1), (1, 2)], 2).drain(0, 3, &[(0, 1), (1, 2), (2, 3)]).is(&[]);
    assert!(verdict.is_good());
    assert_eq!(verdict.counts.acked, 2);
}

#[test]
fn an_acknowledged_record_that_is_gone_is_lost() {
    Story::new(true).ok(1, 0).ok(2, 1).drain(0, 1, &[(0, 1)]).is(&[Anomaly::LostWrite]);
    Story::new(true).ok(1, 0).ok(2, 1).drain(1, 2, &[(1, 2)]).is(&[Anomaly::LostWrite]);
}

#[test]
fn a_trimmed_prefix_is_no_loss() {
    Story::new(true)
        .ok(1, 0)
        .ok(2, 1)
        .event(Event::Trimmed { part: 0, to: 1 })
        .drain(1, 2, &[(1, 2)])
        .is(&[]);
}

#[test]
fn without_a_final_read_nothing_is_decided() {
    let verdict = Story::new(true).ok(1, 0).is(&[]);
    assert!(!verdict.is_good());
    assert_eq!(verdict.undecided.len(), 1);
}

#[test]
fn a_durable_record_has_no_excuse_after_a_power_cut() {
    Story::new(true).ok(1, 0).cut().drain(0, 0, &[]).is(&[Anomaly::LostWrite]);
}

#[test]
fn a_record_that_was_not_promised_may_go_with_a_power_cut_only() {
    let verdict = Story::new(false).ok(1, 0).cut().drain(0, 0, &[]).is(&[]);
    assert_eq!(verdict.counts.excused, 1);
    Story::new(false).ok(1, 0).drain(0, 0, &[]).is(&[Anomaly::LostWrite]);
    Story::new(false).cut().ok(1, 0).drain(0, 0, &[]).is(&[Anomaly::LostWrite]);
}

#[test]
fn a_reply_that_was_under_way_at_the_power_cut_may_tell_of_a_lost_record() {
    let mut story = Story::new(false).ok(1, 0);
    let at = story.clock + 2; // between the call and its end
    story = story.event(Event::PowerCut { at });
    story.drain(0, 0, &[]).is(&[]);
}

#[test]
fn a_plain_retry_may_be_told_the_offset_of_its_twin() {
    let retried =
        |idempotent: u32| Story::new(true).send_as(1, Outcome::Ok { offset: Some(1) }, Acks::All, idempotent);
    retried(3).drain(0, 2, &[(0, 1), (1, 1)]).is(&[]);
    retried(2).drain(0, 1, &[(0, 1)]).is(&[Anomaly::OffsetMismatch]);
}

#[test]
fn a_power_cut_leaves_no_hole() {
    Story::new(false).ok(1, 0).ok(2, 1).cut().drain(0, 2, &[(1, 2)]).is(&[Anomaly::HoleAfterPowerCut]);
}

#[test]
fn a_record_that_nobody_sent_is_a_phantom() {
    Story::new(true).drain(0, 1, &[(0, 7)]).is(&[Anomaly::Phantom]);
}

#[test]
fn a_refused_record_must_not_be_there() {
    Story::new(true).send(1, Outcome::Fail).drain(0, 1, &[(0, 1)]).is(&[Anomaly::FailedWriteVisible]);
}

#[test]
fn a_changed_record_is_found() {
    let mut story = Story::new(true).ok(1, 0).drain(0, 1, &[(0, 1)]);
    if let Some(Event::Drained { records, .. }) = story.history.events.last_mut() {
        records[0].digest ^= 1;
    }
    story.is(&[Anomaly::Changed]);
}

#[test]
fn a_value_at_two_offsets_is_a_duplicate_unless_a_plain_retry_explains_it() {
    let info = || Story::new(true).send(1, Outcome::Info);
    info().drain(0, 2, &[(0, 1), (1, 1)]).is(&[Anomaly::Duplicate]);
    let retried = Story::new(true).send_as(1, Outcome::Info, Acks::All, 3);
    retried.drain(0, 2, &[(0, 1), (1, 1)]).is(&[]);
}

#[test]
fn two_values_at_one_offset_are_inconsistent() {
    let story = Story::new(true).send(1, Outcome::Info).send(2, Outcome::Info);
    story.poll(0, &[(0, 2)], 1).drain(0, 1, &[(0, 1)]).is(&[Anomaly::InconsistentOffsets]);
}

#[test]
fn a_reply_with_the_wrong_offset_is_found() {
    Story::new(true).ok(1, 5).drain(0, 1, &[(0, 1)]).is(&[Anomaly::OffsetMismatch]);
}

#[test]
fn a_producer_that_is_reordered_is_found() {
    let story = Story::new(true).send(1, Outcome::Info).ok(2, 0);
    story.drain(0, 2, &[(0, 2), (1, 1)]).is(&[Anomaly::NonmonotonicSend]);
}

#[test]
fn an_append_before_an_earlier_acknowledged_one_is_found() {
    let story = Story::new(true).ok(1, 1).send_as(2, Outcome::Ok { offset: Some(0) }, Acks::All, 4);
    story.drain(0, 2, &[(0, 2), (1, 1)]).is(&[Anomaly::RealtimeAppend]);
}

#[test]
fn an_end_offset_that_forgets_an_acknowledged_record_is_found() {
    let story = Story::new(true).ok(1, 0);
    let begun = story.clock + 6;
    let forgets =
        |superseded| Event::EndOffset { part: 0, offset: 0, begun, done: begun, epoch: 3, superseded };
    story.clone().event(forgets(false)).drain(0, 1, &[(0, 1)]).is(&[Anomaly::StaleEndOffset]);
    story.event(forgets(true)).drain(0, 1, &[(0, 1)]).is(&[]);
}

#[test]
fn an_end_offset_that_goes_back_in_a_newer_epoch_is_found() {
    let story = |then, epoch| {
        let story = Story::new(true).ok(1, 0).ok(2, 1);
        let at = story.clock + 6;
        let end = |offset, begun, done, epoch| Event::EndOffset {
            part: 0,
            offset,
            begun,
            done,
            epoch,
            superseded: true,
        };
        let story = story.event(end(2, at, at + 1, 3)).event(end(then, at + 2, at + 3, epoch));
        story.drain(0, 2, &[(0, 1), (1, 2)])
    };
    story(1, 2).is(&[]);
    story(2, 3).is(&[]);
    story(1, 3).is(&[Anomaly::StaleEndOffset]);
    story(1, 4).is(&[Anomaly::StaleEndOffset]);
}

#[test]
fn a_consumer_that_passes_a_record_has_skipped_it() {
    let story = || Story::new(true).ok(1, 0).ok(2, 1).ok(3, 2);
    let all = [(0, 1), (1, 2), (2, 3)];
    story().poll(0, &[(0, 1), (2, 3)], 3).drain(0, 3, &all).is(&[Anomaly::PollSkip]);
    story().poll(0, &[(0, 1)], 1).poll(2, &[(2, 3)], 3).drain(0, 3, &all).is(&[Anomaly::PollSkip]);
}

#[test]
fn a_consumer_that_goes_back_is_found() {
    let story = || Story::new(true).ok(1, 0).ok(2, 1);
    let all = [(0, 1), (1, 2)];
    story().poll(0, &[(1, 2), (0, 1)], 2).drain(0, 2, &all).is(&[Anomaly::NonmonotonicPoll]);
    story().poll(0, &all, 2).poll(1, &[(1, 2)], 2).drain(0, 2, &all).is(&[Anomaly::NonmonotonicPoll]);
    let sought = story().poll(0, &all, 2).event(Event::Seek { process: 9, part: 0, offset: 1 });
    sought.poll(1, &[(1, 2)], 2).drain(0, 2, &all).is(&[]);
}

#[test]
fn a_position_inside_the_log_is_never_out_of_range() {
    let poll = PollOp {
        process: 9,
        part: 0,
        from: 1,
        records: vec![],
        next: 1,
        out_of_range: true,
        begun: 1,
        done: 2,
    };
    let story = Story::new(true).ok(1, 0).ok(2, 1).event(Event::Poll(poll));
    story.drain(0, 2, &[(0, 1), (1, 2)]).is(&[Anomaly::FalseOutOfRange]);
}

#[test]
fn a_destroyed_record_may_be_missing_but_not_wrong() {
    let destroyed = || Event::Destroyed { part: 0, from: 0, last: 0 };
    let story = || Story::new(true).ok(1, 0).ok(2, 1).event(destroyed());
    let verdict = story().drain(0, 2, &[(1, 2)]).is(&[]);
    assert_eq!(verdict.counts.excused, 1);
    story().drain(0, 2, &[(0, 9), (1, 2)]).is(&[Anomaly::Phantom]);
}

#[test]
fn what_was_given_up_may_be_missing_and_nothing_before_or_after() {
    let given_up = |at| Event::GivenUp { part: 0, from: 1, at };
    let story = || Story::new(true).ok(1, 0).ok(2, 1).event(given_up(30)).ok(3, 1).ok(4, 2);
    let verdict = story().drain(0, 3, &[(0, 1), (1, 3), (2, 4)]).is(&[]);
    assert_eq!(verdict.counts.excused, 1);
    story().drain(0, 3, &[(1, 3), (2, 4)]).is(&[Anomaly::LostWrite]); // before it
    story().drain(0, 2, &[(0, 1), (1, 3)]).is(&[Anomaly::LostWrite]); // acknowledged since
    let used_again = story().poll(0, &[(0, 1), (1, 2)], 2);
    used_again.drain(0, 3, &[(0, 1), (1, 3), (2, 4)]).is(&[]);
    let before = story().poll(0, &[(0, 2)], 1);
    before
        .drain(0, 3, &[(0, 1), (1, 3), (2, 4)])
        .is(&[Anomaly::InconsistentOffsets, Anomaly::OffsetMismatch]);
}

#[test]
fn a_retry_that_is_not_told_where_its_record_stands_is_found() {
    let story = Story::new(true).send(1, Outcome::Ok { offset: None });
    story.drain(0, 1, &[(0, 1)]).is(&[Anomaly::OffsetUntold]);
}

fn admin(act: AdminAct, told: Told) -> Event {
    Event::Admin(AdminOp { topic: "a".into(), act, told, begun: 0, done: 0 })
}

fn look(found: Option<(i32, i64)>) -> Event {
    let found = found.map(|(partitions, value)| TopicSeen { id: "7".into(), partitions, value });
    admin(AdminAct::Look { found }, Told::Ok)
}

fn created() -> Story {
    let create = AdminAct::Create { partitions: 2, value: 5, id: "7".into() };
    Story::new(true).event(admin(create, Told::Ok))
}

#[test]
fn a_topic_that_does_not_stand_as_was_answered_is_found() {
    created().event(look(Some((2, 5)))).is(&[]);
    created().event(look(None)).is(&[Anomaly::LostMetadata]);
    created().event(look(Some((2, 4)))).is(&[Anomaly::LostMetadata]);
    let grown = || created().event(admin(AdminAct::Grow { partitions: 3 }, Told::Ok));
    grown().event(look(Some((2, 5)))).is(&[Anomaly::LostMetadata]);
    let set = || created().event(admin(AdminAct::Set { value: 6 }, Told::Ok));
    set().event(look(Some((2, 6)))).is(&[]);
    set().event(look(Some((2, 5)))).is(&[Anomaly::LostMetadata]);
    let deleted = || created().event(admin(AdminAct::Delete, Told::Ok));
    deleted().event(look(None)).is(&[]);
    deleted().event(look(Some((2, 5)))).is(&[Anomaly::LostMetadata]);
    let refused = created().event(admin(AdminAct::Set { value: 6 }, Told::No));
    refused.event(look(Some((2, 6)))).is(&[Anomaly::LostMetadata]);
}

#[test]
fn a_change_of_unknown_outcome_may_come_late_but_does_not_go_again() {
    let maybe = || created().event(admin(AdminAct::Set { value: 6 }, Told::Maybe));
    maybe().event(look(Some((2, 5)))).event(look(Some((2, 6)))).is(&[]);
    maybe().event(look(Some((2, 6)))).event(look(Some((2, 5)))).is(&[Anomaly::LostMetadata]);
}

#[test]
fn another_life_of_a_topic_is_not_the_one_that_was_created() {
    let found = Some(TopicSeen { id: "8".into(), partitions: 2, value: 5 });
    let another = || admin(AdminAct::Look { found: found.clone() }, Told::Ok);
    created().event(another()).is(&[Anomaly::LostMetadata]);
}

#[test]
fn a_change_that_nobody_looked_at_is_undecided() {
    assert_eq!(created().is(&[]).undecided.len(), 1);
}

/// The judge must stay near linear: with a square in it this test does not end.
#[test]
fn a_long_history_is_judged_in_a_moment() {
    let mut story = Story::new(true);
    for value in 0..60_000 {
        story = story.ok(value + 1, value as i64);
        if value % 2 == 0 {
            let begun = story.clock + 6;
            story.history.events.push(Event::EndOffset {
                part: 0,
                offset: value as i64 + 1,
                begun,
                done: begun,
                epoch: 0,
                superseded: false,
            });
        }
    }
    let all: Vec<(i64, u64)> = (0..60_000).map(|at| (at, at as u64 + 1)).collect();
    story = story.event(Event::Drained { part: 0, start: 0, end: 60_000, records: seen(&all) });
    let verdict = judge(&story.history);
    assert!(verdict.is_good(), "{:?}", verdict.violations.first());
}
