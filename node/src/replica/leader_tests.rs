//! One claim a test: events in, effects out, as short text.

use std::collections::BTreeSet;

use super::*;

const ME: BrokerId = BrokerId(1);
const EPOCH: LeaderEpoch = LeaderEpoch(3);

fn start_with(durability: Durability, brokers: &[i32]) -> Start {
    let replicas: BTreeSet<BrokerId> = brokers.iter().map(|id| BrokerId(*id)).collect();
    Start {
        me: ME,
        epoch: EPOCH,
        log_start: Offset(0),
        local_end: Offset(0),
        flushed_end: Offset(0),
        watermark: Offset(0),
        policy: Policy {
            durability,
            flush_interval: (durability == Durability::Replicated).then_some(Duration::from_secs(1)),
            ..Policy::default()
        },
        members: replicas.clone(),
        partition_epoch: 0,
        moving: Moving::default(),
        now: Mono(0),
        replicas,
    }
}

fn run(start: Start, events: Vec<Event>) -> String {
    let mut effects = Vec::new();
    let mut leader = Leader::start(start, &mut effects);
    for event in events {
        leader.step(event, &mut effects);
    }
    shown(&effects[1..])
}

fn shown(effects: &[Effect]) -> String {
    let shown = effects.iter().map(|effect| match effect {
        Effect::Flush => "Flush".to_owned(),
        Effect::FlushWithin(wait) => format!("FlushWithin({wait:?})"),
        Effect::Watermark(end) => format!("Watermark({end:?})"),
        Effect::Ack { token, after } => format!("Ack({token:?} after {after:?})"),
        Effect::TooFew { token } => format!("TooFew({token:?})"),
        Effect::Refuse { token, why } => format!("Refuse({token:?} {why:?})"),
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// A batch of one producer that wants acks=all.
fn batch(token: u64, end: i64) -> [Event; 2] {
    [
        Event::Appended { end: Offset(end), bytes: 100 },
        Event::Promised { token: Token(token), required: Required::All, end: Offset(end) },
    ]
}

fn flushed(end: i64) -> Event {
    Event::Flushed { end: Offset(end) }
}

fn follower(broker: i32, fetched: i64, durable: i64) -> Event {
    let (fetched, durable) = (Offset(fetched), Offset(durable));
    let report = Report { epoch: EPOCH, life: BrokerEpoch(1), fetched, durable };
    Event::FollowerAt { broker: BrokerId(broker), report, moves_on: false, now: Mono(0) }
}

macro_rules! check {
    ($durability:ident $brokers:expr, $events:expr, @$shown:literal) => {
        let events: Vec<Event> = $events.into_iter().flatten().collect();
        insta::assert_snapshot!(run(start_with(Durability::$durability, &$brokers), events), @$shown);
    };
}

#[test]
fn a_durable_append_alone_acknowledges_nothing() {
    check!(Durable [1], [batch(7, 3).to_vec()], @"Flush");
}

#[test]
fn a_durable_batch_is_acknowledged_after_its_sync() {
    check!(Durable [1], [batch(7, 3).to_vec(), vec![flushed(3)]], @"Flush Watermark(o3) Ack(t7 after o3)");
}

#[test]
fn one_sync_acknowledges_all_that_it_covers_and_the_rest_asks_again() {
    let events = [
        batch(1, 3).to_vec(),
        batch(2, 5).to_vec(),
        vec![Event::FlushBegan],
        batch(3, 9).to_vec(),
        vec![flushed(5), flushed(9)],
    ];
    check!(Durable [1], events,
        @"Flush Flush Watermark(o5) Ack(t1 after o5) Ack(t2 after o5) Watermark(o9) Ack(t3 after o9)");
}

#[test]
fn acks_one_never_waits_for_a_sync() {
    let event = Event::Promised { token: Token(7), required: Required::Leader, end: Offset(3) };
    check!(Durable [1], [vec![Event::Appended { end: Offset(3), bytes: 9 }, event]], @"Flush Ack(t7 after o0)");
}

#[test]
fn a_replicated_batch_is_acknowledged_at_the_append_when_alone() {
    check!(Replicated [1], [batch(7, 3).to_vec()], @"FlushWithin(1s) Watermark(o3) Ack(t7 after o3)");
}

#[test]
fn a_replicated_topic_flushes_when_overdue_and_once() {
    let events = [batch(7, 3).to_vec(), vec![Event::FlushOverdue, Event::FlushOverdue, flushed(3)]];
    check!(Replicated [1], events, @"FlushWithin(1s) Watermark(o3) Ack(t7 after o3) Flush");
}

#[test]
fn what_arrives_during_a_background_sync_gets_a_time_of_its_own() {
    let events = [
        batch(7, 3).to_vec(),
        vec![Event::FlushOverdue, Event::FlushBegan],
        batch(8, 5).to_vec(),
        vec![flushed(3)],
    ];
    check!(Replicated [1], events,
        @"FlushWithin(1s) Watermark(o3) Ack(t7 after o3) Flush Watermark(o5) Ack(t8 after o5) FlushWithin(1s)");
}

#[test]
fn so_many_unsynced_records_ask_for_a_flush() {
    let mut start = start_with(Durability::None, &[1]);
    start.policy.flush_records = 3;
    let events = [batch(7, 2), batch(8, 3)].concat();
    insta::assert_snapshot!(run(start, events), @"Watermark(o2) Ack(t7 after o2) Flush Watermark(o3) Ack(t8 after o3)");
}

#[test]
fn a_topic_of_durability_none_asks_for_no_flush_by_itself() {
    check!(None [1], [batch(7, 3).to_vec(), batch(8, 4).to_vec()],
        @"Watermark(o3) Ack(t7 after o3) Watermark(o4) Ack(t8 after o4)");
}

#[test]
fn ack_waits_for_the_slowest_in_sync_replica() {
    let events = [batch(7, 10).to_vec(), vec![flushed(10), follower(2, 10, 6), follower(2, 10, 10)]];
    check!(Durable [1, 2], events, @"Flush Watermark(o6) Watermark(o10) Ack(t7 after o10)");
}

#[test]
fn the_leader_itself_counts_only_to_its_flushed_end() {
    let events = [batch(7, 10).to_vec(), vec![follower(2, 10, 10), flushed(10)]];
    check!(Durable [1, 2], events, @"Flush Watermark(o10) Ack(t7 after o10)");
}

#[test]
fn a_shrunk_set_releases_those_who_waited_for_the_lost_member() {
    let (replicas, members) = (BTreeSet::from([ME, BrokerId(2)]), BTreeSet::from([ME]));
    let committed = Event::Committed { partition_epoch: 1, replicas, members, moving: Moving::default() };
    check!(Durable [1, 2], [batch(7, 10).to_vec(), vec![flushed(10), committed]],
        @"Flush Watermark(o10) Ack(t7 after o10)");
}

/// A batch of one client that wants acks=all.
fn of_client(token: u64, end: i64) -> [Event; 2] {
    let [appended, _] = batch(token, end);
    [appended, Event::Promised { token: Token(token), required: Required::Client, end: Offset(end) }]
}

/// The state of a partition on brokers 1 to `replicas`, of which these are in sync.
fn committed(partition_epoch: i32, members: &[i32], replicas: i32) -> Event {
    let members = members.iter().map(|one| BrokerId(*one)).collect();
    let replicas = (1..=replicas).map(BrokerId).collect();
    Event::Committed { partition_epoch, replicas, members, moving: Moving::default() }
}

fn asking(copies: u32) -> Start {
    let mut start = start_with(Durability::Durable, &[1, 2, 3]);
    start.policy.acks_required = copies;
    start
}

fn told(copies: u32, events: &[Event]) -> String {
    let events = of_client(7, 3).into_iter().chain(events.iter().cloned()).collect();
    run(asking(copies), events).replace("Flush ", "").replace("Flush", "")
}

#[test]
fn acks_required_counts_durable_copies_of_any_member() {
    assert_eq!(told(0, &[flushed(3), follower(2, 3, 3)]), "", "all in sync are waited for");
    assert_eq!(told(1, &[flushed(3)]), "Ack(t7 after o0)");
    assert_eq!(told(2, &[follower(2, 3, 2), flushed(3)]), "", "what 2 has is not synced");
    assert_eq!(told(2, &[flushed(3), follower(3, 3, 3)]), "Ack(t7 after o0)");
    assert_eq!(told(3, &[flushed(3), follower(3, 3, 3)]), "");
    let all = [flushed(3), follower(3, 3, 3), follower(2, 3, 3)];
    assert_eq!(told(3, &all), "Watermark(o3) Ack(t7 after o3)");
    assert_eq!(told(9, &all), "Watermark(o3) Ack(t7 after o3)", "there are no more");
}

/// `cargo test -p dejaq --features mutants -- --ignored a_mutant_of_the_count_dies`
#[cfg(feature = "mutants")]
#[test]
#[ignore = "switches a planted bug on for the whole process: run it alone"]
fn a_mutant_of_the_count_dies() {
    dejaq_storage::probe::activate_mutant(240);
    let ended = std::panic::catch_unwind(acks_required_counts_durable_copies_of_any_member);
    dejaq_storage::probe::activate_mutant(0);
    assert!(ended.is_err(), "M240 survived");
    println!("M240 killed");
}

#[test]
fn more_copies_than_are_in_sync_are_a_definite_no_and_told_when_they_become_so_few() {
    let events = [committed(1, &[1, 2], 3), flushed(3), follower(2, 3, 3), follower(3, 3, 3)];
    assert_eq!(
        told(3, &events),
        "TooFew(t7) Watermark(o3)",
        "3 is not in sync: consumers need not wait for it"
    );
    assert_eq!(told(2, &events), "Watermark(o3) Ack(t7 after o3)");
    let admitted = |copies, required| {
        let mut start = asking(copies);
        start.members = [1, 2].map(BrokerId).into();
        Leader::start(start, &mut Vec::new()).admit(required, 0)
    };
    assert_eq!(admitted(2, Required::Client), Ok(()));
    assert_eq!(admitted(3, Required::Client), Err(Refused::NotEnoughReplicas));
    assert_eq!(admitted(9, Required::Client), Err(Refused::NotEnoughReplicas), "every replica");
    assert_eq!(
        admitted(3, Required::All),
        Ok(()),
        "transactions wait for all in sync, whatever is asked for"
    );
    assert_eq!(admitted(3, Required::Leader), Ok(()));
}

#[test]
fn while_replicas_move_acks_required_waits_for_all_that_are_in_sync() {
    let moving = Moving { coming: 1, going: 1 };
    let moves = |partition_epoch, moving| {
        let all: BTreeSet<BrokerId> = [1, 2, 3].map(BrokerId).into();
        Event::Committed { partition_epoch, replicas: all.clone(), members: all, moving }
    };
    let events = [moves(1, moving), flushed(3), follower(2, 3, 3)];
    assert_eq!(told(2, &events), "", "1 and 2 may be those that go");
    let more = [events.to_vec(), vec![follower(3, 3, 3)]].concat();
    assert_eq!(told(2, &more), "Watermark(o3) Ack(t7 after o3)");
    let over = [events.to_vec(), vec![moves(2, Moving::default())]].concat();
    assert_eq!(told(2, &over), "Ack(t7 after o0)");
}

#[test]
fn a_client_is_told_when_too_few_are_left_and_our_own_writers_wait() {
    let mut start = start_with(Durability::Durable, &[1, 2, 3]);
    start.policy.min_insync = 2;
    let [appended, own] = batch(8, 6);
    let mut events: Vec<Event> = of_client(7, 3).into();
    events.extend([
        appended,
        own,
        committed(1, &[1], 3),
        flushed(6),
        committed(2, &[1, 2], 3),
        follower(2, 6, 6),
    ]);
    assert_eq!(run(start, events), "Flush TooFew(t7) Watermark(o6) Ack(t8 after o6)");
}

#[test]
fn a_replica_that_lacks_too_many_records_is_no_member_and_does_not_join() {
    let mut effects = Vec::new();
    let mut start = start_with(Durability::Durable, &[1, 2]);
    start.policy.lag_records = 5;
    let mut leader = Leader::start(start, &mut effects);
    let lives = Lives { live: [1, 2].map(|id| (BrokerId(id), BrokerEpoch(1))).into(), ..Lives::default() };
    let mut isr_after = |event: Option<Event>| {
        event.into_iter().for_each(|event| leader.step(event, &mut effects));
        let proposal = leader.propose(Mono(0), Duration::from_secs(1), &lives, None)?;
        Some(proposal.isr.iter().map(|(one, _)| one.0).collect::<Vec<_>>())
    };
    assert_eq!(isr_after(Some(Event::Appended { end: Offset(10), bytes: 1 })), None, "it told nothing yet");
    assert_eq!(isr_after(Some(follower(2, 5, 5))), None);
    assert_eq!(isr_after(Some(Event::Appended { end: Offset(11), bytes: 1 })), Some(vec![1]));
    assert_eq!(isr_after(Some(committed(1, &[1], 2))), None, "nor may it come back");
    assert_eq!(isr_after(Some(follower(2, 6, 6))), Some(vec![1, 2]));
}

#[test]
fn below_min_insync_nothing_moves_and_nothing_is_admitted() {
    let mut start = start_with(Durability::Durable, &[1, 2]);
    start.members = BTreeSet::from([ME]);
    start.policy.min_insync = 2;
    let mut effects = Vec::new();
    let mut leader = Leader::start(start, &mut effects);
    assert_eq!(leader.admit(Required::All, 0), Err(Refused::NotEnoughReplicas));
    assert_eq!(leader.admit(Required::Leader, 0), Ok(()));
    leader.step(Event::Appended { end: Offset(3), bytes: 9 }, &mut effects);
    leader.step(flushed(3), &mut effects);
    assert_eq!(leader.watermark(), Offset(0));
}

#[test]
fn a_retry_of_a_visible_batch_is_acknowledged_at_once() {
    let retry = Event::Promised { token: Token(8), required: Required::All, end: Offset(3) };
    check!(Durable [1], [batch(7, 3).to_vec(), vec![flushed(3), retry]],
        @"Flush Watermark(o3) Ack(t7 after o3) Ack(t8 after o3)");
}

#[test]
fn a_retry_of_a_batch_that_is_not_durable_waits_like_the_original() {
    let retry = Event::Promised { token: Token(8), required: Required::All, end: Offset(3) };
    check!(Durable [1], [batch(7, 3).to_vec(), vec![retry, flushed(3)]],
        @"Flush Watermark(o3) Ack(t7 after o3) Ack(t8 after o3)");
}

#[test]
fn resigning_refuses_everyone_who_waits_and_everyone_after() {
    let resign = Event::Resigned(Resigned::Offline);
    let late = Event::Promised { token: Token(9), required: Required::Leader, end: Offset(3) };
    check!(Durable [1], [batch(7, 3).to_vec(), vec![resign, late, flushed(3)]],
        @"Flush Refuse(t7 Offline) Refuse(t9 Offline)");
}

#[test]
fn becoming_durable_moves_nothing_back_and_syncs_what_was_promised() {
    let durable = Event::PolicyChanged(Policy::default());
    check!(Replicated [1], [batch(7, 3).to_vec(), vec![durable], batch(8, 5).to_vec(), vec![flushed(3), flushed(5)]],
        @"FlushWithin(1s) Watermark(o3) Ack(t7 after o3) Flush Flush Watermark(o5) Ack(t8 after o5)");
}

#[test]
fn a_new_leader_is_not_ready_until_its_watermark_reaches_its_epoch_start() {
    let mut start = start_with(Durability::Durable, &[1]);
    start.local_end = Offset(10);
    start.flushed_end = Offset(6);
    let mut effects = Vec::new();
    let mut leader = Leader::start(start, &mut effects);
    assert_eq!(shown(&effects), "Watermark(o0) Flush Watermark(o6)");
    assert!(leader.watermark() < leader.epoch_start());
    leader.step(flushed(10), &mut effects);
    assert_eq!(leader.watermark(), leader.epoch_start());
}

#[test]
fn unsynced_bytes_are_those_that_no_finished_sync_covers() {
    let mut effects = Vec::new();
    let mut leader = Leader::start(start_with(Durability::Replicated, &[1]), &mut effects);
    leader.step(Event::Appended { end: Offset(1), bytes: 100 }, &mut effects);
    leader.step(Event::FlushBegan, &mut effects);
    leader.step(Event::Appended { end: Offset(2), bytes: 30 }, &mut effects);
    leader.step(flushed(1), &mut effects);
    assert_eq!(leader.unsynced_bytes(), 30);
}

#[test]
#[should_panic(expected = "beyond the watermark")]
fn the_start_never_passes_the_watermark() {
    let events = vec![Event::Appended { end: Offset(3), bytes: 9 }, Event::StartMoved { start: Offset(2) }];
    run(start_with(Durability::Durable, &[1]), events);
}

#[test]
fn a_replica_joins_only_with_all_that_this_epoch_found() {
    let mut start = start_with(Durability::Durable, &[1, 2]);
    start.members = BTreeSet::from([ME]);
    (start.local_end, start.flushed_end) = (Offset(10), Offset(10));
    start.policy.min_insync = 2;
    let mut effects = Vec::new();
    let mut leader = Leader::start(start, &mut effects);
    let lives =
        Lives { live: [1, 2].map(|id| (BrokerId(id), BrokerEpoch(1))).into(), heard: BTreeMap::new() };
    leader.step(follower(2, 9, 9), &mut effects);
    assert_eq!(leader.watermark(), Offset(0), "too few are in sync");
    assert!(!leader.wants_to_grow(&lives.live));
    leader.step(follower(2, 10, 10), &mut effects);
    assert!(leader.wants_to_grow(&lives.live));
    let proposal = leader.propose(Mono(0), Duration::from_secs(1), &lives, None).expect("it may join");
    assert_eq!(proposal.isr.len(), 2);
}

/// Under other durabilities who was eligible before an unclean stop may lack what was committed, and would lead with a loss.
#[test]
fn only_under_durable_a_leader_goes_for_one_that_has_what_it_lacks() {
    for (durability, goes) in [(Durability::Durable, true), (Durability::Replicated, false)] {
        let mut start = start_with(durability, &[1, 2]);
        start.members = BTreeSet::from([ME]);
        (start.local_end, start.flushed_end) = (Offset(10), Offset(10));
        let mut effects = Vec::new();
        let mut leader = Leader::start(start, &mut effects);
        let (broker, life, from) = (BrokerId(2), BrokerEpoch(1), Some(Offset(3)));
        leader.step(Event::FollowerLost { broker, life, from }, &mut effects);
        let holes = OffsetRange { from: Offset(5), to: Offset(7) };
        let given_up = leader.give_up(false, &[broker], holes);
        assert_eq!(given_up.map(|one| one.isr), goes.then(Vec::new), "{durability:?}");
    }
}
