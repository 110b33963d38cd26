//! Decisions of a cluster as claims; what random faults do to them is in `model_tests`.

use std::time::Duration;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, Offset, PartitionId};
use dejaq_wire::kafka::create_topics::{CreatableReplicaAssignment, CreatableTopic};

use super::alter_configs::{DRAIN_BROKERS, Operation, Target as ConfigTarget};
use super::alter_partition::{AlterPartition, Current, Proposal};
use super::broker_heartbeat::{BrokerHeartbeat, HeartbeatAnswer};
use super::elect_leaders::ElectLeaders;
use super::members::{Drained, UnregisterBroker};
use super::reassign::{Reassign, Target};
use super::register_broker::{Entry, RegisterBroker};
use super::tests::{Desk, topic};
use super::tick::{TICK, Tick};
use crate::controller::draft::Refusal;
use crate::metadata::Partition;
use crate::metadata::config_table::TOPIC_CONFIGS;
use crate::metadata::delta::Delta;
use crate::metadata::image::PEER_LISTENER;
use crate::metadata::level::Levels;
use crate::metadata::record::{ConfigChanged, Endpoint, PartitionChanged, Resource};
use crate::metadata::topic_config::{Overrides, TopicConfig};

fn ids(list: &[i32]) -> Vec<BrokerId> {
    list.iter().copied().map(BrokerId).collect()
}

/// These brokers, and topic `a` of one partition on the first three of them, led by broker 1.
fn cluster(brokers: i32) -> Desk {
    let mut desk = Desk::with_brokers(3);
    desk.settings.node = BrokerId(99);
    desk.create(topic("a", 1, 3)).expect("valid");
    desk.settings.healing.auto_rebalance = false;
    for id in 4..=brokers {
        desk.register(id, 1);
    }
    desk
}

fn partition(desk: &Desk) -> Partition {
    desk.image.topic_named("a").expect("created").partitions[0].clone()
}

fn epoch(desk: &Desk, id: i32) -> BrokerEpoch {
    desk.image.broker(BrokerId(id)).expect("registered").epoch
}

fn beat(desk: &mut Desk, id: i32, want_shutdown: bool) -> Result<HeartbeatAnswer, Refusal> {
    let (broker_epoch, metadata_end) = (epoch(desk, id), desk.image.end());
    let broker = BrokerId(id);
    let (want_fence, levels) = (false, Levels::default());
    desk.decide(BrokerHeartbeat { broker, broker_epoch, metadata_end, want_fence, want_shutdown, levels })
}

/// Lets time pass while only these are heard.
fn pass(desk: &mut Desk, time: Duration, heard: &[i32]) {
    let end = desk.now.plus(time);
    while desk.now < end {
        desk.now = desk.now.plus(TICK);
        for id in heard {
            beat(desk, *id, false).expect("registered");
        }
        desk.decide(Tick);
    }
}

fn propose(desk: &mut Desk, isr: &[i32]) -> Result<Current, Refusal> {
    let now = partition(desk);
    let members = isr.iter().map(|id| (BrokerId(*id), epoch(desk, *id))).collect();
    let proposal = Proposal {
        topic_id: desk.image.topic_named("a").expect("created").id,
        partition: PartitionId(0),
        leader_epoch: now.leader_epoch,
        partition_epoch: now.partition_epoch,
        isr: members,
        lost: Vec::new(),
    };
    send(desk, now.leader, proposal)
}

fn send(desk: &mut Desk, broker: BrokerId, proposal: Proposal) -> Result<Current, Refusal> {
    let broker_epoch = epoch(desk, broker.0);
    let request = AlterPartition { broker, broker_epoch, proposals: vec![proposal] };
    desk.decide(request).expect("the leader is registered").remove(0)
}

fn reassign(desk: &mut Desk, target: Target) -> Result<(), ErrorCode> {
    let topics = vec![("a".to_owned(), vec![(PartitionId(0), target)])];
    let mut answer = desk.decide(Reassign { topics, allow_factor_change: true });
    answer.remove(0).1.remove(0).1.map_err(|refusal| refusal.code)
}

#[test]
fn a_silent_leader_is_fenced_and_the_next_in_sync_leads() {
    let mut desk = cluster(3);
    pass(&mut desk, Duration::from_secs(8), &[2, 3]);
    assert_eq!(partition(&desk).leader, BrokerId(1), "the session has not passed");
    pass(&mut desk, Duration::from_secs(2), &[2, 3]);
    let now = partition(&desk);
    assert_eq!((now.leader, &*now.isr), (BrokerId(2), &ids(&[2, 3])[..]));
    assert!(desk.image.broker(BrokerId(1)).expect("known").fenced);
    beat(&mut desk, 1, false).expect("registered");
    assert!(!desk.image.broker(BrokerId(1)).expect("known").fenced, "it is heard again");
    assert_eq!(partition(&desk).leader, BrokerId(2), "and has to catch up first");
}

#[test]
fn a_broker_is_let_in_only_once_it_has_followed_the_metadata() {
    let mut desk = cluster(3);
    let request = RegisterBroker {
        broker: BrokerId(7),
        incarnation: 7,
        endpoints: Vec::new(),
        rack: None,
        directory_id: [7; 16],
        clean: true,
        closed_in: BrokerEpoch::NONE,
        entry: Entry::Fenced,
        levels: Levels::default(),
    };
    let broker_epoch = desk.decide(request).expect("new");
    let late = BrokerHeartbeat {
        broker: BrokerId(7),
        broker_epoch,
        metadata_end: Offset::ZERO,
        want_fence: false,
        want_shutdown: false,
        levels: Levels::default(),
    };
    let answer = desk.decide(late.clone()).expect("registered");
    assert_eq!((answer.caught_up, answer.fenced), (false, true));
    let answer = desk.decide(BrokerHeartbeat { metadata_end: desk.image.end(), ..late.clone() });
    assert_eq!(answer.map(|answer| answer.fenced), Ok(false));
    let old = BrokerHeartbeat { broker_epoch: BrokerEpoch(1), ..late };
    let refused = desk.decide(old).expect_err("another life");
    assert_eq!(refused.code, ErrorCode::STALE_BROKER_EPOCH);
}

/// Broker 3 begins another life, on a directory that was closed cleanly in the life `closed_in`.
fn come(desk: &mut Desk, closed_in: BrokerEpoch) -> Result<BrokerEpoch, Refusal> {
    let before = desk.image.broker(BrokerId(3)).map_or(0, |known| known.incarnation);
    let request = RegisterBroker {
        broker: BrokerId(3),
        incarnation: before + 100,
        endpoints: vec![Endpoint { listener: PEER_LISTENER.into(), host: "h".into(), port: 9192 }],
        rack: None,
        directory_id: [3; 16],
        clean: true,
        closed_in,
        entry: Entry::Fenced,
        levels: Levels::default(),
    };
    desk.decide(request)
}

fn heirs(desk: &Desk) -> (Vec<BrokerId>, Vec<BrokerId>) {
    let now = partition(desk);
    (now.elr.to_vec(), now.last_known_elr.to_vec())
}

#[test]
fn an_older_copy_of_a_directory_counts_for_nothing() {
    let mut desk = strict();
    let first = come(&mut desk, BrokerEpoch::NONE).expect("a restart");
    assert_eq!(heirs(&desk), (ids(&[3]), vec![]), "no word of the life, as from an older release");
    beat(&mut desk, 3, false).expect("registered");
    let second = come(&mut desk, first).expect("a restart");
    assert_eq!(heirs(&desk), (ids(&[3]), vec![]), "closed by the last life");
    let third = come(&mut desk, first).expect("killed before it was let in");
    assert_eq!(heirs(&desk), (ids(&[3]), vec![]), "the life between could change nothing");
    beat(&mut desk, 3, false).expect("registered");
    let refused = come(&mut desk, second).expect_err("a copy beside the one that lives");
    assert_eq!(refused.code, ErrorCode::DUPLICATE_BROKER_REGISTRATION);
    let ahead = desk.image.clone();
    pass(&mut desk, Duration::from_secs(10), &[1, 2]);
    come(&mut desk, second).expect("its session is over");
    assert_eq!(heirs(&desk), (vec![], vec![]), "what was acknowledged in the third life is not in it");
    desk.image = ahead;
    come(&mut desk, third.next()).expect("the same directory");
    assert_eq!(heirs(&desk), (vec![], ids(&[3])), "the metadata is older than that");
}

#[test]
fn a_broker_that_stops_gives_everything_away_and_waits_until_all_know() {
    let mut desk = cluster(3);
    assert_eq!(beat(&mut desk, 1, true).map(|answer| answer.should_shut_down), Ok(false));
    assert_eq!(partition(&desk).leader, BrokerId(2), "a leadership moves while it is still in sync");
    assert_eq!(beat(&mut desk, 1, true).map(|answer| answer.should_shut_down), Ok(false));
    assert_eq!(&*partition(&desk).isr, &ids(&[2, 3])[..], "then it leaves the in-sync set");
    assert_eq!(
        beat(&mut desk, 1, true).map(|answer| answer.should_shut_down),
        Ok(false),
        "2 and 3 do not know"
    );
    beat(&mut desk, 2, false).expect("registered");
    beat(&mut desk, 3, false).expect("registered");
    let done = beat(&mut desk, 1, true).expect("registered");
    assert!(done.should_shut_down && done.fenced, "{done:?}");
}

#[test]
fn a_leader_that_leaves_itself_out_is_followed_by_a_member() {
    let mut desk = cluster(3);
    let before = partition(&desk);
    let now = propose(&mut desk, &[2, 3]).expect("both are in sync");
    assert_eq!((now.leader, now.isr), (BrokerId(2), ids(&[2, 3])));
    assert_eq!(now.leader_epoch, before.leader_epoch.next());
    assert!(partition(&desk).elr.is_empty(), "its log has a hole: it is not to lead");
}

/// As `propose`, where these lost something.
fn propose_without(desk: &mut Desk, isr: &[i32], lost: &[i32]) -> Result<Current, Refusal> {
    let leader = partition(desk).leader;
    say(desk, leader, isr, lost)
}

fn say(desk: &mut Desk, broker: BrokerId, isr: &[i32], lost: &[i32]) -> Result<Current, Refusal> {
    let now = partition(desk);
    let proposal = Proposal {
        topic_id: desk.image.topic_named("a").expect("created").id,
        partition: PartitionId(0),
        leader_epoch: now.leader_epoch,
        partition_epoch: now.partition_epoch,
        isr: isr.iter().map(|id| (BrokerId(*id), epoch(desk, *id))).collect(),
        lost: ids(lost),
    };
    send(desk, broker, proposal)
}

/// As `cluster(3)`, where every replica must be in sync.
fn strict() -> Desk {
    let mut desk = cluster(3);
    let id = desk.image.topic_named("a").expect("created").id;
    let config = ConfigChanged {
        resource: Resource::Topic(id),
        name: "min.insync.replicas".into(),
        value: Some("3".into()),
    };
    desk.image = desk.image.after(&[config.into()], desk.image.end().next()).expect("it fits");
    desk
}

#[test]
fn who_lost_something_is_counted_on_by_nobody_though_the_set_is_too_small() {
    let mut desk = strict();
    propose(&mut desk, &[1, 2]).expect("3 lags");
    assert_eq!(&*partition(&desk).elr, &ids(&[3])[..], "who only lags stays eligible");
    propose_without(&mut desk, &[1, 2], &[3]).expect("it lost something");
    assert!(partition(&desk).elr.is_empty());
    let before = partition(&desk);
    propose_without(&mut desk, &[2], &[1]).expect("the leader itself did");
    let now = partition(&desk);
    assert_eq!((now.leader, &*now.isr, now.elr.len()), (BrokerId(2), &ids(&[2])[..], 0));
    assert_eq!(now.leader_epoch, before.leader_epoch.next());
    let code = |result: Result<Current, Refusal>| result.expect_err("refused").code;
    assert_eq!(code(propose_without(&mut desk, &[2], &[2])), ErrorCode::INVALID_REQUEST, "it is in sync");
    assert_eq!(code(propose_without(&mut desk, &[2], &[9])), ErrorCode::INVALID_REQUEST, "it is no replica");
}

/// Its files are gone, and no leader can see that: it is not to be elected.
#[test]
fn a_replica_says_of_itself_alone_that_it_lost_what_it_had() {
    let mut desk = strict();
    propose(&mut desk, &[1]).expect("2 and 3 lag");
    let code = |result: Result<Current, Refusal>| result.expect_err("refused").code;
    let three = BrokerId(3);
    assert_eq!(code(say(&mut desk, three, &[1], &[2])), ErrorCode::INVALID_REQUEST, "not of others");
    assert_eq!(code(say(&mut desk, three, &[1, 2], &[3])), ErrorCode::INVALID_REQUEST, "it lets nobody in");
    assert_eq!(code(say(&mut desk, three, &[], &[3])), ErrorCode::INVALID_REQUEST, "it takes nobody out");
    assert_eq!(code(say(&mut desk, three, &[1, 3], &[])), ErrorCode::INVALID_REQUEST, "nor itself in");
    let before = partition(&desk);
    let now = say(&mut desk, three, &[1], &[3]).expect("it lost something");
    assert_eq!((now.leader, now.isr), (BrokerId(1), ids(&[1])));
    assert_eq!((&*partition(&desk).elr, now.leader_epoch), (&ids(&[2])[..], before.leader_epoch.next()));
    pass(&mut desk, Duration::from_secs(10), &[3]);
    pass(&mut desk, Duration::from_secs(10), &[]);
    beat(&mut desk, 3, false).expect("registered");
    assert_eq!(partition(&desk).leader, BrokerId::NONE, "1 and 2 are waited for");
    assert_eq!(code(say(&mut desk, three, &[], &[3])), ErrorCode::INVALID_REQUEST, "nobody leads");
}

/// Who is eligible is so from before an unclean stop only.
fn forget_eligible(desk: &mut Desk) {
    let mut state = partition(desk).state();
    (state.last_known_elr, state.elr) = (std::mem::take(&mut state.elr), Vec::new());
    state.partition_epoch += 1;
    let topic_id = desk.image.topic_named("a").expect("created").id;
    let changed = PartitionChanged { topic_id, partition: PartitionId(0), state };
    desk.image = desk.image.after(&[changed.into()], desk.image.end().next()).expect("it fits");
}

#[test]
fn who_lost_something_is_not_remembered_from_before_an_unclean_stop() {
    let mut desk = strict();
    propose(&mut desk, &[1, 2]).expect("3 lags");
    forget_eligible(&mut desk);
    assert_eq!(&*partition(&desk).last_known_elr, &ids(&[3])[..]);
    let before = partition(&desk);
    let now = propose_without(&mut desk, &[1, 2], &[3]).expect("it lost something");
    assert!(partition(&desk).last_known_elr.is_empty());
    assert_eq!(now.leader_epoch, before.leader_epoch, "nobody who counts is gone");
}

#[test]
fn a_leader_goes_without_a_member_beside_it_only_if_somebody_eligible_lives() {
    let code = |result: Result<Current, Refusal>| result.expect_err("refused").code;
    let mut desk = strict();
    propose(&mut desk, &[1]).expect("2 and 3 lag");
    let now = propose_without(&mut desk, &[], &[1]).expect("2 and 3 are eligible");
    assert_eq!((now.leader, now.isr), (BrokerId(2), ids(&[2])));
    let mut desk = strict();
    propose(&mut desk, &[1]).expect("2 and 3 lag");
    propose_without(&mut desk, &[1], &[2, 3]).expect("and lost something");
    assert_eq!(code(propose_without(&mut desk, &[], &[1])), ErrorCode::INELIGIBLE_REPLICA, "nobody is left");
}

#[test]
fn a_leader_alone_that_lost_nothing_goes_before_who_is_eligible_and_stays_eligible() {
    let code = |result: Result<Current, Refusal>| result.expect_err("refused").code;
    let mut desk = strict();
    propose(&mut desk, &[1, 2]).expect("3 lags");
    assert_eq!(code(propose_without(&mut desk, &[], &[])), ErrorCode::INVALID_REQUEST, "2 is in sync");
    propose(&mut desk, &[1]).expect("2 lags, too");
    let before = partition(&desk);
    let now = propose_without(&mut desk, &[], &[]).expect("2 and 3 are eligible");
    assert_eq!((now.leader, now.isr, now.leader_epoch), (BrokerId(3), ids(&[3]), before.leader_epoch.next()));
    assert_eq!(&*partition(&desk).elr, &ids(&[2, 1])[..]);
    assert_eq!(code(say(&mut desk, BrokerId(1), &[], &[])), ErrorCode::INVALID_REQUEST, "it leads no more");
    forget_eligible(&mut desk);
    let known = code(propose_without(&mut desk, &[], &[]));
    assert_eq!(known, ErrorCode::INELIGIBLE_REPLICA, "nobody leads instead of a copy that may be whole");
}

#[test]
fn a_proposal_is_checked_against_epochs_and_who_is_live() {
    let mut desk = cluster(3);
    assert_eq!(propose(&mut desk, &[1, 2]).map(|now| now.isr), Ok(ids(&[1, 2])));
    let code = |result: Result<Current, Refusal>| result.expect_err("refused").code;
    assert_eq!(
        code(propose(&mut desk, &[2, 3])),
        ErrorCode::INVALID_REQUEST,
        "3 comes in without the leader"
    );
    assert_eq!(code(propose(&mut desk, &[])), ErrorCode::INVALID_REQUEST, "nobody");
    let topic_id = desk.image.topic_named("a").expect("created").id;
    let now = partition(&desk);
    let proposal = |desk: &Desk| Proposal {
        topic_id,
        partition: PartitionId(0),
        leader_epoch: now.leader_epoch,
        partition_epoch: now.partition_epoch,
        isr: [1, 2, 3].map(|id| (BrokerId(id), epoch(desk, id))).to_vec(),
        lost: Vec::new(),
    };
    let mut stale = proposal(&desk);
    stale.isr[2].1 = BrokerEpoch(0);
    assert_eq!(code(send(&mut desk, BrokerId(1), stale)), ErrorCode::INELIGIBLE_REPLICA, "restarted since");
    let ahead = Proposal { partition_epoch: now.partition_epoch + 1, ..proposal(&desk) };
    assert_eq!(code(send(&mut desk, BrokerId(1), ahead)), ErrorCode::NOT_CONTROLLER);
    let good = proposal(&desk);
    assert!(send(&mut desk, BrokerId(1), good.clone()).is_ok());
    assert!(send(&mut desk, BrokerId(1), good.clone()).is_ok(), "asked again, answered again");
    let other = Proposal { isr: good.isr[..2].to_vec(), ..good };
    assert_eq!(code(send(&mut desk, BrokerId(1), other)), ErrorCode::INVALID_UPDATE_VERSION);
}

#[test]
fn a_reassignment_adds_first_and_can_be_taken_back() {
    let mut desk = cluster(5);
    reassign(&mut desk, Target::On(ids(&[4, 5, 1]))).expect("valid");
    let now = partition(&desk);
    assert_eq!(&*now.replicas, &ids(&[4, 5, 1, 2, 3])[..]);
    assert_eq!((&*now.adding, &*now.removing), (&ids(&[4, 5])[..], &ids(&[2, 3])[..]));
    assert_eq!(&*now.isr, &ids(&[1, 2, 3])[..], "it adds nobody to the in-sync set");
    propose(&mut desk, &[1, 2, 3, 4]).expect("4 caught up");
    assert!(partition(&desk).is_moving());
    reassign(&mut desk, Target::Back).expect("the original replicas are in sync");
    let now = partition(&desk);
    assert!(!now.is_moving() && now.replicas.len() == 3 && !now.isr.contains(&BrokerId(4)), "{now:?}");
    assert_eq!(reassign(&mut desk, Target::Back), Err(ErrorCode::NO_REASSIGNMENT_IN_PROGRESS));
    reassign(&mut desk, Target::On(ids(&[4, 5, 1]))).expect("valid");
    propose(&mut desk, &[1, 2, 3, 4, 5]).expect("both caught up");
    let now = partition(&desk);
    assert_eq!((&*now.replicas, now.leader), (&ids(&[4, 5, 1])[..], BrokerId(1)), "the leader stays");
}

#[test]
fn a_reassignment_is_not_taken_back_to_too_few_copies() {
    let mut desk = cluster(5);
    let min = [("min.insync.replicas", Operation::Set("2".into()))];
    desk.alter_at(ConfigTarget::Topic("a".into()), false, &min).expect("valid");
    reassign(&mut desk, Target::On(ids(&[1, 4, 5]))).expect("valid");
    propose(&mut desk, &[1, 4]).expect("4 caught up, 2 and 3 fell back");
    assert_eq!(reassign(&mut desk, Target::Back), Err(ErrorCode::INVALID_REPLICA_ASSIGNMENT));
    propose(&mut desk, &[1, 4, 2]).expect("2 is back");
    assert_eq!(reassign(&mut desk, Target::Back), Ok(()));
}

#[test]
fn replicas_of_a_broker_that_stays_away_are_made_anew_elsewhere() {
    let mut desk = cluster(4);
    desk.settings.healing.recreate_after = Some(Duration::from_secs(60));
    pass(&mut desk, Duration::from_secs(30), &[1, 2, 4]);
    assert_eq!(&*partition(&desk).isr, &ids(&[1, 2])[..]);
    assert!(!partition(&desk).is_moving(), "not yet");
    pass(&mut desk, Duration::from_secs(45), &[1, 2, 4]);
    assert_eq!(&*partition(&desk).adding, &ids(&[4])[..]);
    propose(&mut desk, &[1, 2, 4]).expect("4 caught up");
    assert_eq!(&*partition(&desk).replicas, &ids(&[1, 2, 4])[..]);
}

/// Moves that go to a broker which dies fill the room; what waits for room comes before them in order.
#[test]
fn moves_to_a_broker_that_died_go_elsewhere_and_a_drain_goes_on() {
    let mut desk = Desk::with_brokers(4);
    desk.settings.node = BrokerId(99);
    let healing = &mut desk.settings.healing;
    (healing.auto_rebalance, healing.max_moves) = (false, 2);
    healing.recreate_after = Some(Duration::from_secs(3));
    let on = |brokers: &[i32], index| CreatableReplicaAssignment {
        partition_index: PartitionId(index),
        broker_ids: ids(brokers),
    };
    let assignments = (0..4).map(|index| on(&[1, 2], index)).collect();
    desk.create(CreatableTopic { assignments, ..topic("m", -1, -1) }).expect("valid");
    let to = |index| (PartitionId(index), Target::On(ids(&[1, 4])));
    let topics = vec![("m".to_owned(), vec![to(2), to(3)])];
    desk.decide(Reassign { topics, allow_factor_change: false });
    let drain = [(DRAIN_BROKERS, Operation::Append("2".into()))];
    desk.alter_at(ConfigTarget::AllBrokers, false, &drain).expect("1, 3 and 4 are left");
    let adding = |desk: &Desk| -> Vec<Vec<BrokerId>> {
        let topic = desk.image.topic_named("m").expect("created");
        topic.partitions.iter().map(|one| one.adding.to_vec()).collect()
    };
    pass(&mut desk, Duration::from_secs(2), &[1, 2, 3, 4]);
    assert_eq!(adding(&desk), [vec![], vec![], ids(&[4]), ids(&[4])], "there is no room for more");
    pass(&mut desk, Duration::from_secs(15), &[1, 2, 3]);
    assert_eq!(adding(&desk), [vec![], vec![], ids(&[3]), ids(&[3])], "4 is gone");
    for index in [2, 3, 0, 1] {
        caught_up(&mut desk, "m", index, &[1, 2, 3]);
        pass(&mut desk, TICK, &[1, 2, 3]);
    }
    assert_eq!(Drained::of(&desk.image, BrokerId(2)).replicas, 0);
    assert!(desk.image.topic_named("m").expect("created").partitions.iter().all(|one| !one.is_moving()));
}

/// What it holds is not counted while it is away, and nobody would come back to it.
#[test]
fn a_rebalance_waits_for_who_is_away_and_leaves_what_a_person_moves() {
    let mut desk = Desk::with_brokers(2);
    desk.settings.node = BrokerId(99);
    desk.settings.healing.recreate_after = Some(Duration::from_secs(600));
    desk.create(topic("m", 6, 1)).expect("valid");
    pass(&mut desk, Duration::from_secs(15), &[1]);
    assert!(!desk.image.is_live(BrokerId(2)), "it is silent");
    desk.register(3, 1);
    let holds = |desk: &Desk| -> Vec<usize> {
        (1..=3).map(|id| Drained::of(&desk.image, BrokerId(id)).replicas).collect()
    };
    let settle = |desk: &mut Desk, heard: &[i32]| {
        for _ in 0..20 {
            pass(desk, TICK, heard);
            let moving = |(index, one): (usize, &Partition)| (!one.adding.is_empty()).then_some(index);
            let topic = desk.image.topic_named("m").expect("created").clone();
            for index in topic.partitions.iter().enumerate().filter_map(moving) {
                let now = &topic.partitions[index];
                let isr: Vec<i32> =
                    [now.leader.0].into_iter().chain(now.adding.iter().map(|b| b.0)).collect();
                caught_up(desk, "m", index as i32, &isr);
            }
        }
    };
    settle(&mut desk, &[1, 3]);
    assert_eq!((holds(&desk), desk.image.is_rebalancing()), (vec![2, 3, 1], true), "even without it");
    let on_first = desk.image.topic_named("m").expect("created").partitions.clone();
    let of_first = (0..).map(PartitionId).zip(on_first.iter()).filter(|(_, one)| one.leader == BrokerId(1));
    let to_third: Vec<_> = of_first.map(|(index, _)| (index, Target::On(ids(&[3])))).collect();
    desk.decide(Reassign { topics: vec![("m".to_owned(), to_third)], allow_factor_change: false });
    settle(&mut desk, &[1, 3]);
    assert_eq!((holds(&desk), desk.image.is_rebalancing()), (vec![0, 3, 3], true), "as it was told to");
    desk.register(4, 1);
    settle(&mut desk, &[1, 3, 4]);
    assert_eq!(
        Drained::of(&desk.image, BrokerId(4)).replicas,
        1,
        "who joins meanwhile gets its share of those who are here"
    );
    settle(&mut desk, &[1, 2, 3, 4]);
    assert!(holds(&desk).iter().all(|held| *held <= 2) && !desk.image.is_rebalancing(), "{:?}", holds(&desk));
}

/// The copy that has come is one of two that are in sync: a move that drops it would be refused, and go nowhere for ever.
#[test]
fn a_copy_that_has_come_stays_until_its_move_ends_though_its_broker_is_drained() {
    let mut desk = cluster(6);
    let min = [("min.insync.replicas", Operation::Set("2".into()))];
    desk.alter_at(ConfigTarget::Topic("a".into()), false, &min).expect("valid");
    desk.settings.healing.recreate_after = Some(Duration::from_secs(3));
    reassign(&mut desk, Target::On(ids(&[4, 5]))).expect("valid");
    propose(&mut desk, &[1, 4]).expect("4 caught up, 2 and 3 fell back");
    let drain = [(DRAIN_BROKERS, Operation::Append("4".into()))];
    desk.alter_at(ConfigTarget::AllBrokers, false, &drain).expect("others are left");
    pass(&mut desk, Duration::from_secs(15), &[1, 3, 4, 6]);
    let now = partition(&desk);
    assert!(!now.replicas.contains(&BrokerId(5)), "it is gone: {now:?}");
    assert_eq!((&*now.removing, now.adding.len()), (&ids(&[4])[..], 1), "1 took its place, and now 4 goes");
}

/// The leader of a partition says who is in sync.
fn caught_up(desk: &mut Desk, topic: &str, index: i32, isr: &[i32]) {
    let topic = desk.image.topic_named(topic).expect("created").clone();
    let now = topic.partition(PartitionId(index)).expect("there");
    let proposal = Proposal {
        topic_id: topic.id,
        partition: PartitionId(index),
        leader_epoch: now.leader_epoch,
        partition_epoch: now.partition_epoch,
        isr: isr.iter().map(|id| (BrokerId(*id), epoch(desk, *id))).collect(),
        lost: Vec::new(),
    };
    send(desk, now.leader, proposal).expect("all are live");
}

#[test]
fn a_drained_broker_is_empty_and_gets_nothing() {
    let mut desk = cluster(4);
    let drain = |operation| [(DRAIN_BROKERS, operation)];
    let all = || ConfigTarget::AllBrokers;
    desk.alter_at(all(), false, &drain(Operation::Append("1".into()))).expect("three others are left");
    let few =
        desk.alter_at(all(), false, &drain(Operation::Append("2".into()))).expect_err("two are too few");
    assert_eq!(few.code, ErrorCode::INVALID_REPLICATION_FACTOR);
    let unknown =
        desk.alter_at(all(), false, &drain(Operation::Set("9".into()))).expect_err("no such broker");
    assert_eq!(unknown.code, ErrorCode::BROKER_ID_NOT_REGISTERED);
    assert!(desk.image.broker(BrokerId(1)).expect("known").draining, "a refused change changes nothing");
    pass(&mut desk, Duration::from_secs(1), &[1, 2, 3, 4]);
    propose(&mut desk, &[1, 2, 3, 4]).expect("4 caught up");
    assert_eq!(Drained::of(&desk.image, BrokerId(1)), Drained { replicas: 0, leaders: 0 });
    desk.create(topic("b", 6, 3)).expect("valid");
    assert_eq!(Drained::of(&desk.image, BrokerId(1)).replicas, 0);
}

#[test]
fn only_a_broker_that_is_not_needed_is_forgotten() {
    let mut desk = cluster(3);
    let forget = |desk: &mut Desk, id: i32| desk.decide(UnregisterBroker { broker: BrokerId(id) });
    assert!(forget(&mut desk, 3).is_err(), "it runs");
    pass(&mut desk, Duration::from_secs(10), &[1]);
    pass(&mut desk, Duration::from_secs(10), &[]);
    let only = forget(&mut desk, 1).expect_err("it holds the only complete copy");
    assert_eq!(only.code, ErrorCode::INVALID_REQUEST);
    assert_eq!(forget(&mut desk, 3), Ok(()));
    assert!(desk.image.broker(BrokerId(3)).is_none());
    assert_eq!(forget(&mut desk, 3).map_err(|why| why.code), Err(ErrorCode::BROKER_ID_NOT_REGISTERED));
}

#[test]
fn an_unclean_election_is_asked_for_and_recorded() {
    let mut desk = cluster(3);
    pass(&mut desk, Duration::from_secs(10), &[1]);
    pass(&mut desk, Duration::from_secs(10), &[]);
    beat(&mut desk, 3, false).expect("registered");
    assert_eq!(partition(&desk).leader, BrokerId::NONE, "1 is waited for");
    let elect = |unclean| ElectLeaders {
        unclean,
        partitions: Some(vec![("a".into(), vec![PartitionId(0), PartitionId(1)])]),
    };
    let codes = |answer: Vec<super::elect_leaders::Elected>| -> Vec<ErrorCode> {
        answer
            .into_iter()
            .map(|(_, _, result)| result.map_or_else(|why| why.code, |()| ErrorCode::NONE))
            .collect()
    };
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    let clean = codes(desk.decide(elect(false)));
    assert_eq!(clean, [ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE, unknown]);
    assert_eq!(codes(desk.decide(elect(true))), [ErrorCode::NONE, unknown]);
    assert_eq!(partition(&desk).leader, BrokerId(3));
    assert_eq!(desk.image.losses().count(), 1, "the loss is recorded");
    assert_eq!(codes(desk.decide(elect(true))), [ErrorCode::ELECTION_NOT_NEEDED, unknown]);
}

#[test]
fn a_lower_minimum_forgets_the_eligible_in_the_same_batch() {
    let mut desk = cluster(3);
    let min = |value: &str| [("min.insync.replicas", Operation::Set(value.into()))];
    desk.alter_at(ConfigTarget::Topic("a".into()), false, &min("2")).expect("valid");
    propose(&mut desk, &[1]).expect("the others fell back");
    assert_eq!(&*partition(&desk).elr, &ids(&[2, 3])[..]);
    desk.alter_at(ConfigTarget::Topic("a".into()), false, &min("1")).expect("valid");
    assert!(partition(&desk).elr.is_empty());
    let own = desk
        .alter_at(ConfigTarget::Broker(BrokerId(1)), false, &min("1"))
        .expect_err("a cluster has one rule");
    assert_eq!(own.code, ErrorCode::INVALID_CONFIG);
}

/// The controller would elect without what a leader with a rule of its own acknowledged.
#[test]
fn what_all_must_see_alike_no_broker_says_for_itself() {
    let mut desk = Desk::with_brokers(1);
    let own = |desk: &mut Desk, name: &str, value: &str| {
        let operations = [(name, Operation::Set(value.into()))];
        desk.alter_at(ConfigTarget::Broker(BrokerId(1)), false, &operations).map_err(|refusal| refusal.code)
    };
    own(&mut desk, "min.insync.replicas", "2").expect("it is alone");
    own(&mut desk, "log.retention.ms", "5").expect("valid");
    let settings: Overrides = [("durability", "none"), ("retention.ms", "7")]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    let resolved = |desk: &Desk| {
        let defaults = desk.image.broker_defaults(BrokerId(1), &settings);
        let config = TopicConfig::resolve(&Overrides::new(), &defaults);
        (config.min_insync_replicas, config.is_durable(), config.retention_ms)
    };
    assert_eq!(resolved(&desk), (2, false, Some(5)), "alone it says what it likes");
    let alone = desk.image.clone();
    desk.register(2, 1);
    assert_eq!(resolved(&desk), (1, true, Some(5)), "the others would not know it");
    assert!(Delta::between(&alone, &desk.image).broker_configs, "who leads must hear of it");
    for def in TOPIC_CONFIGS.iter().filter(|def| def.is_same_everywhere()) {
        let (name, value) = (def.broker_name.expect("it has one"), def.default);
        assert_eq!(own(&mut desk, name, value), Err(ErrorCode::INVALID_CONFIG), "{name}");
    }
    own(&mut desk, "log.retention.ms", "6").expect("each may keep as long as it likes");
}

#[test]
fn a_broker_alone_lets_time_pass_without_a_record() {
    let mut desk = Desk::with_brokers(1);
    desk.create(topic("a", 3, 1)).expect("valid");
    let length = desk.log.len();
    pass(&mut desk, Duration::from_secs(3600), &[]);
    assert_eq!(desk.log.len(), length);
}
