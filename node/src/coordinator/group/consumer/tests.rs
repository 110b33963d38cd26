//! Claims about one group of KIP-848, step by step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::TxnStanding;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{
    BrokerId, Generation, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, TopicId,
};
use dejaq_wire::kafka::consumer_group_describe::DescribedGroup;
use dejaq_wire::kafka::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicPartitions,
};

use super::super::ask::{Ask, BeatAsk, CommitAsk, Reply, Token, TxnCommitAsk};
use super::super::settings::Settings;
use super::super::tests::{Desk, at};
use super::member::{LEAVES, PAUSES};
use crate::coordinator::consumer_record::Parts;
use crate::coordinator::machine::Who;
use crate::coordinator::record::{Committed, Record};
use crate::metadata::Image;
use crate::metadata::record::{PartitionState, PartitionsAdded, TopicCreated, TopicDeleted};

const G: &str = "g";
const PATIENCE_MS: i32 = 20_000;
const SESSION_MS: u64 = 45_000;

/// A heartbeat.
#[derive(Clone)]
pub(super) struct Beat {
    pub member: String,
    pub epoch: i32,
    pub instance: Option<&'static str>,
    pub topics: Option<Vec<&'static str>>,
    pub pattern: Option<&'static str>,
    pub owned: Option<Parts>,
    pub assignor: Option<&'static str>,
}

impl Beat {
    /// A member joins.
    pub fn join(member: &str, topics: &[&'static str]) -> Beat {
        Beat {
            member: member.into(),
            epoch: 0,
            instance: None,
            topics: Some(topics.to_vec()),
            pattern: None,
            owned: Some(Parts::new()),
            assignor: None,
        }
    }

    /// A member that says only that it lives.
    pub fn alive(member: &str, epoch: i32) -> Beat {
        Beat { epoch, topics: None, owned: None, ..Beat::join(member, &[]) }
    }

    /// A member that says what it owns.
    pub fn owns(member: &str, epoch: i32, owned: &Parts) -> Beat {
        Beat { owned: Some(owned.clone()), ..Beat::alive(member, epoch) }
    }
}

/// A desk whose topics can change.
pub(super) struct Kit {
    pub desk: Desk,
    image: Arc<Image>,
    end: i64,
}

impl Kit {
    pub fn new(topics: &[(&str, usize)]) -> Kit {
        Kit::with(topics, Settings { initial_delay: Duration::ZERO, ..Settings::default() })
    }

    pub fn with(topics: &[(&str, usize)], settings: Settings) -> Kit {
        let mut kit = Kit { desk: Desk::new(settings), image: Arc::default(), end: 0 };
        topics.iter().for_each(|(name, count)| kit.create(name, *count));
        kit
    }

    fn apply(&mut self, record: crate::metadata::record::Record) {
        self.end += 1;
        let next = self.image.after(&[record], Offset(self.end)).expect("it fits");
        self.image = Arc::new(next);
        self.see();
    }

    fn see(&mut self) {
        self.desk.groups.see(self.image.clone());
    }

    pub fn create(&mut self, name: &str, count: usize) {
        let topic_id = TopicId(u128::from(self.end.unsigned_abs() + 1).to_be_bytes());
        let partitions = vec![PartitionState::born(vec![BrokerId(1)]); count];
        self.apply(TopicCreated { topic_id, name: name.into(), partitions }.into());
    }

    pub fn grow(&mut self, name: &str, more: usize) {
        let topic_id = self.topic(name);
        let first = PartitionId(self.image.topic(topic_id).expect("it exists").partitions.len() as i32);
        let partitions = vec![PartitionState::born(vec![BrokerId(1)]); more];
        self.apply(PartitionsAdded { topic_id, first, partitions }.into());
    }

    pub fn delete(&mut self, name: &str) {
        self.apply(TopicDeleted { topic_id: self.topic(name) }.into());
    }

    pub fn topic(&self, name: &str) -> TopicId {
        self.image.topic_named(name).expect("it exists").id
    }

    pub fn exists(&self, name: &str) -> bool {
        self.image.topic_named(name).is_some()
    }

    /// Every partition of a topic.
    pub fn all(&self, name: &str) -> Parts {
        let topic = self.image.topic_named(name).expect("it exists");
        topic.partitions().map(|(partition, _)| (topic.id, partition)).collect()
    }

    pub fn beat(&mut self, beat: Beat) -> Token {
        let mut owned: BTreeMap<TopicId, Vec<PartitionId>> = BTreeMap::new();
        for (topic, partition) in beat.owned.iter().flatten() {
            owned.entry(*topic).or_default().push(*partition);
        }
        let told = |(topic_id, partitions)| TopicPartitions { topic_id, partitions };
        let request = ConsumerGroupHeartbeatRequest {
            group_id: G.into(),
            member_id: beat.member,
            member_epoch: Generation(beat.epoch),
            instance_id: beat.instance.map(str::to_owned),
            rebalance_timeout_ms: if beat.topics.is_some() { PATIENCE_MS } else { -1 },
            subscribed_topic_names: beat.topics.map(|t| t.into_iter().map(str::to_owned).collect()),
            subscribed_topic_regex: beat.pattern.map(str::to_owned),
            server_assignor: beat.assignor.map(str::to_owned),
            topic_partitions: beat.owned.map(|_| owned.into_iter().map(told).collect()),
            ..Default::default()
        };
        let entropy = u128::from(self.desk.next) << 64;
        let ask = BeatAsk { request, client_id: "c".into(), client_host: "/h".into(), entropy };
        self.desk.ask(Ask::Beat(Box::new(ask)))
    }

    pub fn answer(&mut self, token: Token) -> Option<ConsumerGroupHeartbeatResponse> {
        match self.desk.replies.remove(&token) {
            None => None,
            Some(Reply::Beat(answer)) => Some(*answer),
            other => panic!("{token:?}: {other:?}"),
        }
    }

    /// A heartbeat whose answer is waited for.
    pub fn heard(&mut self, beat: Beat) -> ConsumerGroupHeartbeatResponse {
        let token = self.beat(beat);
        self.desk.settle();
        self.answer(token).expect("an answer")
    }

    fn code(&mut self, beat: Beat) -> ErrorCode {
        self.heard(beat).error_code
    }

    pub fn reload(&mut self) {
        self.desk.reload();
        self.see();
    }

    pub fn describe(&mut self) -> Option<DescribedGroup> {
        let token = self.desk.ask(Ask::DescribeConsumers { group: G.into() });
        match self.desk.replies.remove(&token) {
            Some(Reply::DescribedConsumers(told)) => told.map(|told| *told),
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&mut self) -> String {
        self.describe().map_or("none".into(), |told| told.group_state)
    }

    /// Two members that share topic `t` of four partitions, at epoch 2.
    fn two() -> (Kit, Parts, Parts) {
        let mut kit = Kit::new(&[("t", 4)]);
        let first = kit.heard(Beat::join("a", &["t"]));
        assert_eq!((first.member_epoch, given(&first)), (Generation(1), kit.all("t")));
        let second = kit.heard(Beat::join("b", &["t"]));
        assert_eq!((second.member_epoch, given(&second).len()), (Generation(2), 0), "all is still owned");
        assert_eq!(kit.state(), "Reconciling");
        let told = kit.heard(Beat::alive("a", 1));
        assert_eq!((told.member_epoch, given(&told).len()), (Generation(1), 2), "it gives up two first");
        let keeps = given(&told);
        let told = kit.heard(Beat::owns("a", 1, &keeps));
        assert_eq!(told.member_epoch, Generation(2));
        let told = kit.heard(Beat::alive("b", 2));
        let gets = given(&told);
        assert!(keeps.is_disjoint(&gets) && gets.len() == 2, "{keeps:?} {gets:?}");
        assert_eq!(kit.state(), "Stable");
        (kit, keeps, gets)
    }
}

pub(super) fn given(told: &ConsumerGroupHeartbeatResponse) -> Parts {
    assert_eq!(told.error_code, ErrorCode::NONE, "{:?}", told.error_message);
    let assignment = told.assignment.as_ref().expect("an assignment");
    let each = |one: &TopicPartitions| {
        let topic = one.topic_id;
        one.partitions.iter().map(move |partition| (topic, *partition)).collect::<Vec<_>>()
    };
    assignment.topic_partitions.iter().flat_map(each).collect()
}

#[test]
fn a_partition_goes_to_its_new_owner_when_the_old_one_gave_it_up() {
    let (mut kit, keeps, gets) = Kit::two();
    assert_eq!(kit.heard(Beat::alive("a", 2)).assignment, None, "nothing new is not told again");
    let full = Beat { topics: Some(vec!["t"]), ..Beat::owns("b", 2, &gets) };
    assert_eq!(given(&kit.heard(full)), gets, "who tells all is told all");
    // The same from the log.
    kit.reload();
    assert_eq!(kit.state(), "Stable");
    assert_eq!(given(&kit.heard(Beat { topics: Some(vec!["t"]), ..Beat::owns("a", 2, &keeps) })), keeps);
}

#[test]
fn a_member_that_does_not_give_up_in_its_time_is_out_and_one_that_is_silent_too() {
    let mut kit = Kit::new(&[("t", 2)]);
    kit.heard(Beat::join("a", &["t"]));
    kit.heard(Beat::join("b", &["t"]));
    kit.heard(Beat::alive("a", 1));
    for _ in 0..2 {
        kit.desk.pass(9_000);
        assert_eq!(kit.heard(Beat::alive("b", 2)).assignment, None);
        assert_eq!(kit.code(Beat::alive("a", 1)), ErrorCode::NONE);
    }
    kit.desk.pass(9_000);
    let told = kit.heard(Beat::alive("b", 2));
    assert_eq!((told.member_epoch, given(&told)), (Generation(3), kit.all("t")));
    assert_eq!(kit.code(Beat::alive("a", 1)), ErrorCode::UNKNOWN_MEMBER_ID, "it kept what it had to give up");
    kit.desk.pass(SESSION_MS);
    kit.desk.settle();
    assert_eq!((kit.state().as_str(), kit.desk.groups.members()), ("Empty", 0));
}

#[test]
fn an_epoch_that_is_not_the_members_own_is_fenced_but_for_an_answer_that_was_lost() {
    let (mut kit, keeps, _) = Kit::two();
    assert_eq!(kit.code(Beat::alive("a", 3)), ErrorCode::FENCED_MEMBER_EPOCH);
    assert_eq!(kit.code(Beat::alive("a", 1)), ErrorCode::FENCED_MEMBER_EPOCH, "it does not say what it owns");
    assert_eq!(
        kit.code(Beat::owns("a", 1, &kit.all("t"))),
        ErrorCode::FENCED_MEMBER_EPOCH,
        "it owns too much"
    );
    assert_eq!(kit.heard(Beat::owns("a", 1, &keeps)).member_epoch, Generation(2), "it did not hear of 2");
    assert_eq!(kit.code(Beat::alive("x", 1)), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(kit.code(Beat { epoch: -3, ..Beat::alive("a", 0) }), ErrorCode::INVALID_REQUEST);
}

/// Kills M42.
#[test]
fn a_commit_of_an_epoch_that_is_over_changes_nothing() {
    let (mut kit, _, _) = Kit::two();
    let mut commit = |member: &str, epoch: i32, offset| {
        let token = kit.desk.commit(member, Generation(epoch), "t", offset);
        kit.desk.settle();
        kit.desk.result(token)
    };
    assert_eq!(commit("a", 2, 5), ErrorCode::NONE);
    assert_eq!(commit("a", 1, 3), ErrorCode::STALE_MEMBER_EPOCH);
    assert_eq!(commit("", -1, 3), ErrorCode::UNKNOWN_MEMBER_ID, "only members while there are any");
    assert_eq!(commit("x", 2, 3), ErrorCode::UNKNOWN_MEMBER_ID);
    // In a transaction clients know another code for it, and abort; this one would be the end of Java's producer.
    let (guard, who) =
        (TxnStanding::default().guard, Who { producer_id: ProducerId(7), epoch: ProducerEpoch(0) });
    let committed = Committed {
        offset: Offset(3),
        leader_epoch: LeaderEpoch::NONE,
        metadata: String::new(),
        committed_ms: 0,
        expires_ms: None,
    };
    let commit = CommitAsk {
        group: G.into(),
        member: "a".into(),
        instance: None,
        generation: Generation(1),
        offsets: vec![(at("t"), committed)],
    };
    let token = kit.desk.ask(Ask::CommitInTxn(TxnCommitAsk { who, guard, commit }));
    assert_eq!(kit.desk.result(token), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(kit.desk.offset("t"), Some(5));
    let fetch = |epoch| Ask::Fetch {
        group: G.into(),
        wanted: Some(vec![at("t")]),
        member: Some(("a".into(), Generation(epoch))),
    };
    let (stale, own) = (kit.desk.ask(fetch(1)), kit.desk.ask(fetch(2)));
    assert_eq!(kit.desk.result(stale), ErrorCode::STALE_MEMBER_EPOCH);
    assert!(matches!(kit.desk.replies.remove(&own), Some(Reply::Offsets(..))));
}

#[test]
fn a_static_member_keeps_its_part_while_it_is_away_and_only_one_has_its_place() {
    let mut kit = Kit::new(&[("t", 2)]);
    let stat = |member: &str, epoch| Beat { instance: Some("i"), epoch, ..Beat::join(member, &["t"]) };
    let told = kit.heard(stat("a", 0));
    assert_eq!(kit.code(stat("b", 0)), ErrorCode::UNRELEASED_INSTANCE_ID);
    let pause = Beat { epoch: PAUSES.0, ..Beat::alive("a", 0) };
    assert_eq!(kit.code(pause.clone()), ErrorCode::INVALID_REQUEST, "it names no instance");
    let told_again = kit.heard(Beat { instance: Some("i"), ..pause });
    assert_eq!((told_again.error_code, told_again.member_epoch), (ErrorCode::NONE, PAUSES));
    kit.reload();
    let back = kit.heard(stat("b", 0));
    assert_eq!((back.member_epoch, given(&back)), (told.member_epoch, given(&told)), "no rebalance");
    let zombie = Beat { instance: Some("i"), ..Beat::alive("a", 1) };
    assert_eq!(kit.code(zombie), ErrorCode::FENCED_INSTANCE_ID);
    let leaves = Beat { instance: Some("i"), epoch: LEAVES.0, ..Beat::alive("b", 0) };
    assert_eq!((kit.code(leaves), kit.desk.groups.members()), (ErrorCode::NONE, 0));
}

#[test]
fn topics_that_come_grow_and_go_make_a_new_plan_with_the_next_heartbeat() {
    let mut kit = Kit::new(&[("t", 1)]);
    let beat = Beat { topics: Some(vec!["late"]), pattern: Some("t.*"), ..Beat::join("a", &[]) };
    assert_eq!(given(&kit.heard(beat)), kit.all("t"));
    assert_eq!(kit.heard(Beat::alive("a", 1)).member_epoch, Generation(1));
    kit.create("other", 1);
    assert_eq!(kit.heard(Beat::alive("a", 1)).member_epoch, Generation(1), "nobody reads it");
    kit.create("late", 1);
    kit.create("t2", 2);
    kit.create("xt", 2);
    let told = kit.heard(Beat::alive("a", 1));
    let mut all: Parts = ["t", "late", "t2"].iter().flat_map(|name| kit.all(name)).collect();
    assert_eq!((told.member_epoch, given(&told)), (Generation(2), all.clone()));
    kit.grow("t", 1);
    all.extend(kit.all("t"));
    assert_eq!(given(&kit.heard(Beat::alive("a", 2))), all);
    kit.delete("late");
    let left = given(&kit.heard(Beat::alive("a", 3)));
    assert_eq!(left.len(), 4);
    assert_eq!(kit.heard(Beat::owns("a", 3, &left)).member_epoch, Generation(4));
    // After a restart the topics are those of the plan, and nothing moves.
    kit.reload();
    assert_eq!(kit.heard(Beat::alive("a", 4)).member_epoch, Generation(4));
}

#[test]
fn what_cannot_be_served_is_refused_and_makes_no_group() {
    let settings = Settings { consumer_max_members: 1, ..Settings::default() };
    let mut kit = Kit::with(&[("t", 1)], settings);
    let join = |member: &str| Beat::join(member, &["t"]);
    assert_eq!(kit.code(Beat { assignor: Some("best"), ..join("a") }), ErrorCode::UNSUPPORTED_ASSIGNOR);
    assert_eq!(kit.code(Beat { pattern: Some("("), ..join("a") }), ErrorCode::INVALID_REGULAR_EXPRESSION);
    assert_eq!(kit.code(Beat { owned: None, ..join("a") }), ErrorCode::INVALID_REQUEST);
    assert_eq!(kit.code(Beat::alive("a", 1)), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!((kit.desk.groups.len(), kit.desk.log.len()), (0, 0));
    let range = kit.heard(Beat { assignor: Some("range"), ..join("") });
    assert!(range.member_id.as_ref().is_some_and(|id| id.len() == 36), "{range:?}");
    assert_eq!(kit.describe().expect("a group").assignor_name, "range");
    assert_eq!(kit.code(join("b")), ErrorCode::GROUP_MAX_SIZE_REACHED);
}

#[test]
fn nobody_is_told_what_is_not_written_and_a_failed_write_is_repeated_with_the_next() {
    let mut kit = Kit::new(&[("t", 2)]);
    let (one, two) = (kit.beat(Beat::join("a", &["t"])), kit.beat(Beat::join("b", &["t"])));
    assert_eq!((kit.desk.writing.len(), kit.answer(one), kit.answer(two)), (1, None, None), "one at a time");
    kit.desk.end_write(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
    for token in [one, two] {
        let told = kit.answer(token).expect("told to come again");
        assert_eq!(told.error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    }
    kit.desk.pass(1_000);
    assert_eq!(kit.desk.writing.len(), 1, "repeated after a pause, whoever asks");
    let again = kit.beat(Beat::join("a", &["t"]));
    assert_eq!(kit.answer(again), None, "it waits for what it speaks of");
    kit.desk.settle();
    assert_eq!(kit.answer(again).expect("an answer").error_code, ErrorCode::NONE);
    kit.reload();
    assert_eq!(kit.desk.groups.members(), 2);
}

#[test]
fn an_empty_group_goes_with_all_its_records() {
    let (mut kit, _, _) = Kit::two();
    let delete = |kit: &mut Kit| {
        let token = kit.desk.ask(Ask::Delete { group: G.into() });
        kit.desk.settle();
        kit.desk.code(token)
    };
    assert_eq!(delete(&mut kit), ErrorCode::NON_EMPTY_GROUP);
    kit.heard(Beat::alive("a", LEAVES.0));
    kit.heard(Beat::alive("b", LEAVES.0));
    kit.reload();
    assert_eq!(kit.state(), "Empty");
    assert_eq!((delete(&mut kit), kit.desk.groups.len()), (ErrorCode::NONE, 0));
    kit.reload();
    assert_eq!(kit.desk.groups.len(), 0);
    let left: BTreeMap<_, _> = kit.desk.log.iter().map(Record::encode).collect();
    assert!(left.values().all(Option::is_none), "every key is taken away: {left:?}");
}

/// Kills M46.
#[test]
fn offsets_stay_while_their_topic_is_read_and_go_when_the_group_was_empty_for_long() {
    let settings = Settings { retention: Duration::from_secs(3600), ..Settings::default() };
    let mut kit = Kit::with(&[("t", 1), ("u", 1)], settings);
    kit.heard(Beat::join("a", &["t"]));
    for topic in ["t", "u"] {
        let token = kit.desk.commit("a", Generation(1), topic, 1);
        kit.desk.settle();
        assert_eq!(kit.desk.result(token), ErrorCode::NONE);
    }
    for _ in 0..200 {
        kit.desk.pass(40_000);
        kit.heard(Beat::alive("a", 1));
    }
    assert_eq!((kit.desk.offset("t"), kit.desk.offset("u")), (Some(1), None), "nobody reads u");
    kit.heard(Beat::alive("a", LEAVES.0));
    kit.desk.pass(3_000_000);
    kit.desk.settle();
    assert_eq!(kit.desk.offset("t"), Some(1), "empty for less than an hour");
    kit.desk.pass(1_300_000);
    kit.desk.settle();
    assert_eq!((kit.desk.offset("t"), kit.desk.groups.len()), (None, 0));
}
