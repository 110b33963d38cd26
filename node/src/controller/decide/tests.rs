//! Decisions as claims, and the property that decide and replay agree with a tiny model.

use std::collections::BTreeMap;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionId, ProducerId, TopicId};
use dejaq_wire::kafka::create_partitions::{CreatePartitionsAssignment, CreatePartitionsTopic};
use dejaq_wire::kafka::create_topics::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use proptest::prelude::*;

use super::alter_configs::{self, AlterConfigs, Change, Operation};
use super::create_internal::CreateInternal;
use super::create_partitions::CreatePartitions;
use super::create_topics::{CreateTopics, Created};
use super::delete_topics::{self, DeleteTopics};
use super::producer_ids::AllocateProducerIds;
use super::register_broker::{Entry, RegisterBroker};
use crate::controller::draft::{Context, Decide, Draft, Refusal};
use crate::controller::liveness::Liveness;
use crate::controller::settings::Settings;
use crate::metadata::level::Levels;
use crate::metadata::record::{Endpoint, Record};
use crate::metadata::{Image, Topic};
use crate::runtime::Mono;

/// A controller without a disk: what is decided is replayed at once.
#[derive(Debug)]
pub(crate) struct Desk {
    pub image: Image,
    pub settings: Settings,
    pub log: Vec<Record>,
    pub now: Mono,
    pub liveness: Liveness,
    entropy: u64,
}

impl Desk {
    /// With these brokers registered.
    pub fn with_brokers(brokers: i32) -> Desk {
        let mut desk = Desk {
            image: Image::default(),
            settings: Settings::default(),
            log: Vec::new(),
            now: Mono::default(),
            liveness: Liveness::take_over(Mono::default(), &Image::default()),
            entropy: 7,
        };
        for id in 1..=brokers {
            desk.register(id, 1);
        }
        desk
    }

    pub fn register(&mut self, id: i32, incarnation: u128) -> BrokerEpoch {
        let endpoints = vec![Endpoint { listener: "CLIENT".into(), host: "host".into(), port: 9092 }];
        let request = RegisterBroker {
            broker: BrokerId(id),
            incarnation,
            endpoints,
            rack: None,
            directory_id: [0; 16],
            clean: true,
            closed_in: BrokerEpoch::NONE,
            entry: Entry::Live,
            levels: Levels::default(),
        };
        self.decide(request).expect("nobody else has this number")
    }

    pub fn decide<D: Decide>(&mut self, request: D) -> D::Answer {
        let mut draft = Draft::on(&self.image);
        let entropy = &mut self.entropy;
        let mut next = || {
            *entropy =
                entropy.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *entropy
        };
        let mut context = Context {
            settings: &self.settings,
            entropy: &mut next,
            now: self.now,
            liveness: &mut self.liveness,
        };
        let answer = request.decide(&mut draft, &mut context);
        let records = draft.records().to_vec();
        let end = self.image.end().plus(i64::try_from(records.len()).expect("few"));
        let replayed = self.image.after(&records, end).expect("decided records apply");
        assert_eq!(draft.into_image(end), replayed, "a draft is what replay makes of its records");
        replayed.check_deep();
        for record in &records {
            assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(record));
        }
        self.log.extend(records);
        self.image = replayed;
        answer
    }

    pub fn create(&mut self, topic: CreatableTopic) -> Result<Created, Refusal> {
        let mut answer = self.decide(CreateTopics { topics: vec![topic], validate_only: false });
        assert_eq!(answer.len(), 1, "one topic, one result");
        answer.remove(0).1
    }

    fn grow(&mut self, topic: CreatePartitionsTopic) -> Result<(), Refusal> {
        self.decide(CreatePartitions { topics: vec![topic], validate_only: false }).remove(0).1
    }

    fn alter(&mut self, name: &str, replace: bool, operations: &[(&str, Operation)]) -> Result<(), Refusal> {
        let target = alter_configs::Target::Topic(name.into());
        self.alter_at(target, replace, operations)
    }

    pub fn alter_at(
        &mut self,
        target: alter_configs::Target,
        replace: bool,
        operations: &[(&str, Operation)],
    ) -> Result<(), Refusal> {
        let operations = operations.iter().map(|(name, op)| ((*name).to_owned(), op.clone())).collect();
        let changes = vec![Change { target, operations, replace }];
        self.decide(AlterConfigs { changes, validate_only: false }).remove(0)
    }

    fn topic(&self, name: &str) -> &Topic {
        self.image.topic_named(name).expect("the topic is there")
    }
}

pub(crate) fn topic(name: &str, partitions: i32, replicas: i16) -> CreatableTopic {
    CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: replicas,
        ..CreatableTopic::default()
    }
}

fn config(name: &str, value: Option<&str>) -> CreatableTopicConfig {
    CreatableTopicConfig { name: name.into(), value: value.map(str::to_owned) }
}

fn assignment(partition: i32, brokers: &[i32]) -> CreatableReplicaAssignment {
    let broker_ids = brokers.iter().copied().map(BrokerId).collect();
    CreatableReplicaAssignment { partition_index: PartitionId(partition), broker_ids }
}

fn set(value: &str) -> Operation {
    Operation::Set(value.into())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>, code: ErrorCode, text: &str) {
    let refusal = result.expect_err("must be refused");
    assert_eq!(refusal.code, code, "{refusal}");
    let message = refusal.message.unwrap_or_default();
    assert!(message.contains(text), "{message:?} does not say {text:?}");
}

#[test]
fn a_topic_begins_with_every_replica_in_sync_and_the_first_leading() {
    let mut desk = Desk::with_brokers(3);
    let created = desk.create(topic("a", 6, 2)).expect("valid");
    assert_eq!((created.partitions, created.replicas), (6, 2));
    for (_, partition) in desk.topic("a").partitions() {
        assert_eq!((partition.leader, &partition.isr), (partition.replicas[0], &partition.replicas));
        assert_eq!(partition.leader_epoch, LeaderEpoch(0));
    }
}

#[test]
fn minus_one_takes_the_brokers_defaults() {
    let mut desk = Desk::with_brokers(3);
    desk.settings.default_partitions = 4;
    desk.settings.default_replication_factor = Some(3);
    let created = desk.create(topic("a", -1, -1)).expect("valid");
    assert_eq!((created.partitions, created.replicas), (4, 3));
}

#[test]
fn bad_counts_are_refused_with_kafkas_codes() {
    let mut desk = Desk::with_brokers(1);
    refused(desk.create(topic("a", 0, 1)), ErrorCode::INVALID_PARTITIONS, "non-positive");
    refused(desk.create(topic("a", -2, 1)), ErrorCode::INVALID_PARTITIONS, "non-positive");
    refused(desk.create(topic("a", 1, 0)), ErrorCode::INVALID_REPLICATION_FACTOR, "larger than 0");
    refused(desk.create(topic("a", 1, 2)), ErrorCode::INVALID_REPLICATION_FACTOR, "only 1 broker(s)");
    refused(desk.create(topic("a", 10_001, 1)), ErrorCode::POLICY_VIOLATION, "10001");
    desk.settings.max_partitions = 5;
    refused(desk.create(topic("a", 6, 1)), ErrorCode::POLICY_VIOLATION, "limit of 5");
    assert_eq!(desk.image.topic_count(), 0);
}

#[test]
fn bad_names_are_refused() {
    let mut desk = Desk::with_brokers(1);
    for name in ["", ".", "..", "a/b", &"x".repeat(250)] {
        refused(desk.create(topic(name, 1, 1)), ErrorCode::INVALID_TOPIC_EXCEPTION, "illegal");
    }
    refused(desk.create(topic("__consumer_offsets", 1, 1)), ErrorCode::INVALID_REQUEST, "internal topic");
    desk.create(topic("a.b", 1, 1)).expect("valid");
    refused(
        desk.create(topic("a_b", 1, 1)),
        ErrorCode::INVALID_TOPIC_EXCEPTION,
        "collides with existing topic: a.b",
    );
    refused(desk.create(topic("a.b", 1, 1)), ErrorCode::TOPIC_ALREADY_EXISTS, "already exists");
    desk.create(topic("a-b", 1, 1)).expect("a dash collides with nothing");
}

#[test]
fn a_name_that_comes_twice_is_refused_and_the_others_are_created() {
    let mut desk = Desk::with_brokers(1);
    let topics =
        vec![topic("a", 1, 1), topic("b", 1, 1), topic("a", 2, 1), topic("c_d", 1, 1), topic("c.d", 1, 1)];
    let answer = desk.decide(CreateTopics { topics, validate_only: false });
    let codes: Vec<_> =
        answer.iter().map(|(name, r)| (name.as_str(), r.as_ref().err().map(|e| e.code))).collect();
    let collision = Some(ErrorCode::INVALID_TOPIC_EXCEPTION);
    let twice = Some(ErrorCode::INVALID_REQUEST);
    assert_eq!(codes, [("a", twice), ("b", None), ("c_d", None), ("c.d", collision)]);
    assert_eq!(desk.image.topic_count(), 2);
}

#[test]
fn validate_only_says_the_same_and_changes_nothing() {
    let mut desk = Desk::with_brokers(1);
    let before = desk.image.clone();
    let topics = vec![topic("a", 2, 1), topic("..", 1, 1)];
    let answer = desk.decide(CreateTopics { topics, validate_only: true });
    assert_eq!(
        answer[0].1.as_ref().map(|created| (created.partitions, created.topic_id)),
        Ok((2, TopicId::ZERO))
    );
    assert!(answer[1].1.is_err());
    assert_eq!(desk.image, before);
    desk.create(topic("a", 1, 1)).expect("valid");
    let before = desk.image.clone();
    let topics = vec![CreatePartitionsTopic { name: "a".into(), count: 3, assignments: None }];
    assert_eq!(desk.decide(CreatePartitions { topics, validate_only: true }), [("a".to_owned(), Ok(()))]);
    assert_eq!(desk.image, before);
}

#[test]
fn a_refusal_does_not_repeat_more_than_a_client_can_read() {
    let refusal = Refusal::new(ErrorCode::INVALID_REQUEST, "é".repeat(20_000));
    let message = refusal.message.expect("there is one");
    assert!(message.len() < 2010 && message.ends_with('…'), "{}", message.len());
    let mut desk = Desk::with_brokers(1);
    desk.create(topic("a", 1, 1)).expect("valid");
    let words = "x,".repeat(1_000_000);
    let appended = desk.alter("a", false, &[("cleanup.policy", Operation::Append(words))]);
    refused(appended, ErrorCode::INVALID_CONFIG, "too long");
}

#[test]
fn a_manual_assignment_is_followed_or_refused_with_the_reason() {
    let mut desk = Desk::with_brokers(3);
    let manual =
        |assignments: Vec<CreatableReplicaAssignment>| CreatableTopic { assignments, ..topic("m", -1, -1) };
    let code = ErrorCode::INVALID_REPLICA_ASSIGNMENT;
    refused(desk.create(manual(vec![assignment(0, &[])])), code, "empty replica list");
    refused(desk.create(manual(vec![assignment(0, &[9])])), code, "no such broker");
    refused(desk.create(manual(vec![assignment(0, &[1, 1])])), code, "more than once");
    refused(desk.create(manual(vec![assignment(0, &[1]), assignment(1, &[1, 2])])), code, "not consistent");
    refused(desk.create(manual(vec![assignment(0, &[1]), assignment(0, &[2])])), code, "multiple");
    refused(desk.create(manual(vec![assignment(1, &[1])])), code, "consecutive");
    let counted = CreatableTopic { assignments: vec![assignment(0, &[1])], ..topic("m", 1, -1) };
    refused(desk.create(counted), ErrorCode::INVALID_REQUEST, "numPartitions");
    desk.create(manual(vec![assignment(1, &[2, 3]), assignment(0, &[3, 1])])).expect("valid");
    let replicas: Vec<_> = desk.topic("m").partitions.iter().map(|p| p.replicas.to_vec()).collect();
    assert_eq!(replicas, [[BrokerId(3), BrokerId(1)], [BrokerId(2), BrokerId(3)]]);
}

#[test]
fn configs_of_a_new_topic_are_checked_and_stored_in_one_form() {
    let mut desk = Desk::with_brokers(1);
    let with = |configs: Vec<CreatableTopicConfig>| CreatableTopic { configs, ..topic("c", 1, 1) };
    let bad = ErrorCode::INVALID_CONFIG;
    refused(desk.create(with(vec![config("retention.mss", Some("1"))])), bad, "did you mean retention.ms?");
    refused(desk.create(with(vec![config("retention.ms", None)])), bad, "Null value not supported");
    refused(desk.create(with(vec![config("cleanup.policy", Some("shred"))])), bad, "must be one of");
    let created =
        desk.create(with(vec![config("unclean.leader.election.enable", Some("TRUE"))])).expect("valid");
    assert_eq!(created.configs.get("unclean.leader.election.enable").map(String::as_str), Some("true"));
    assert_eq!(*desk.topic("c").configs, created.configs);
}

#[test]
fn the_own_topics_neither_grow_nor_go() {
    let mut desk = Desk::with_brokers(1);
    let own = "__consumer_offsets";
    let made = CreateInternal { name: own.into(), partitions: 4, max_replicas: 1, configs: Vec::new() };
    desk.decide(made).expect("it is made");
    let ask = CreatePartitionsTopic { name: own.into(), count: 5, assignments: None };
    refused(desk.grow(ask), ErrorCode::INVALID_REQUEST, "does not grow");
    let id = desk.topic(own).id;
    for target in [delete_topics::Target::Name(own.into()), delete_topics::Target::Id(id)] {
        let answer = desk.decide(DeleteTopics { targets: vec![target] }).remove(0).result;
        refused(answer, ErrorCode::INVALID_REQUEST, "the cluster's own");
    }
    assert_eq!(desk.topic(own).partitions.len(), 4);
}

#[test]
fn a_topic_is_deleted_by_name_or_id_and_its_name_is_free_again() {
    let mut desk = Desk::with_brokers(1);
    let first = desk.create(topic("a.b", 1, 1)).expect("valid").topic_id;
    let by_name = |name: &str| delete_topics::Target::Name(name.into());
    let answer = desk.decide(DeleteTopics { targets: vec![by_name("a.b"), by_name("gone")] });
    assert_eq!(answer[0].result, Err(Refusal::of(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)));
    assert_eq!((answer[1].topic_id, &answer[1].result), (first, &Ok(())));
    let second = desk.create(topic("a_b", 1, 1)).expect("the name and its collision key are free").topic_id;
    assert_ne!(first, second);
    let targets = vec![delete_topics::Target::Id(first), delete_topics::Target::Id(second)];
    let answer = desk.decide(DeleteTopics { targets });
    assert_eq!(answer[0].result, Err(Refusal::of(ErrorCode::UNKNOWN_TOPIC_ID)));
    assert_eq!(answer[1].name.as_deref(), Some("a_b"));
    assert_eq!(desk.image.topic_count(), 0);
}

#[test]
fn a_topic_named_by_name_and_by_id_is_not_deleted() {
    let mut desk = Desk::with_brokers(1);
    let id = desk.create(topic("a", 1, 1)).expect("valid").topic_id;
    let targets = vec![delete_topics::Target::Id(id), delete_topics::Target::Name("a".into())];
    let answer = desk.decide(DeleteTopics { targets });
    assert_eq!(answer.len(), 1);
    refused(answer[0].result.clone(), ErrorCode::INVALID_REQUEST, "already supplied");
    assert_eq!(desk.image.topic_count(), 1);
}

#[test]
fn partitions_are_only_added() {
    let mut desk = Desk::with_brokers(2);
    desk.create(topic("a", 2, 2)).expect("valid");
    let to = |count| CreatePartitionsTopic { name: "a".into(), count, assignments: None };
    refused(desk.grow(to(2)), ErrorCode::INVALID_PARTITIONS, "already has 2");
    refused(desk.grow(to(1)), ErrorCode::INVALID_PARTITIONS, "would not be an increase");
    refused(desk.grow(to(20_000)), ErrorCode::POLICY_VIOLATION, "Excessively");
    let unknown = CreatePartitionsTopic { name: "b".into(), count: 2, assignments: None };
    refused(desk.grow(unknown), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "");
    let manual = |lists: &[&[i32]]| CreatePartitionsTopic {
        assignments: Some(
            lists
                .iter()
                .map(|ids| CreatePartitionsAssignment {
                    broker_ids: ids.iter().copied().map(BrokerId).collect(),
                })
                .collect(),
        ),
        ..to(4)
    };
    let code = ErrorCode::INVALID_REPLICA_ASSIGNMENT;
    refused(desk.grow(manual(&[&[1, 2]])), code, "only 1 assignment(s)");
    refused(desk.grow(manual(&[&[1], &[2]])), code, "not consistent");
    let before = desk.topic("a").partitions.to_vec();
    desk.grow(manual(&[&[1, 2], &[2, 1]])).expect("valid");
    assert_eq!(desk.topic("a").partitions[..2], before, "what was there stays");
    assert_eq!(desk.topic("a").partitions[3].leader, BrokerId(2));
}

#[test]
fn configs_are_set_deleted_appended_and_replaced() {
    let mut desk = Desk::with_brokers(1);
    desk.create(topic("a", 1, 1)).expect("valid");
    desk.alter("a", false, &[("retention.ms", set("5")), ("segment.ms", set("6"))]).expect("valid");
    desk.alter("a", false, &[("retention.ms", Operation::Delete)]).expect("valid");
    assert_eq!(desk.topic("a").configs.keys().collect::<Vec<_>>(), ["segment.ms"]);
    desk.alter("a", false, &[("cleanup.policy", Operation::Append("delete".into()))])
        .expect("the default has it");
    assert_eq!(desk.topic("a").configs["cleanup.policy"], "delete");
    desk.alter("a", true, &[("flush.ms", set("7"))]).expect("valid");
    let left = desk.topic("a").configs.keys().collect::<Vec<_>>();
    assert_eq!(left, ["cleanup.policy", "flush.ms"], "but for a policy, the others are gone");
}

#[test]
fn a_topic_that_was_compacted_says_so_for_ever() {
    let mut desk = Desk::with_brokers(1);
    desk.create(topic("a", 1, 1)).expect("valid");
    desk.alter("a", false, &[("cleanup.policy", set("compact"))]).expect("valid");
    desk.alter("a", false, &[("cleanup.policy", Operation::Delete)]).expect("valid");
    assert_eq!(desk.topic("a").configs["cleanup.policy"], "delete", "it is written out");
    desk.alter("a", true, &[]).expect("valid");
    assert_eq!(desk.topic("a").configs["cleanup.policy"], "delete", "again");
}

#[test]
fn a_topic_that_was_compacted_by_all_brokers_says_so_for_ever() {
    let mut desk = Desk::with_brokers(1);
    desk.create(topic("a", 1, 1)).expect("valid");
    let compact = [("log.cleanup.policy", set("compact"))];
    let own = desk.alter_at(alter_configs::Target::Broker(BrokerId(1)), false, &compact);
    refused(own, ErrorCode::INVALID_CONFIG, "one broker alone");
    let all = alter_configs::Target::AllBrokers;
    desk.alter_at(all.clone(), false, &compact).expect("valid");
    desk.create(topic("b", 1, 1)).expect("valid");
    assert!(desk.topic("a").configs.is_empty() && desk.topic("b").configs.is_empty());
    desk.alter_at(all, false, &[("log.cleanup.policy", Operation::Delete)]).expect("valid");
    for name in ["a", "b"] {
        assert_eq!(desk.topic(name).configs["cleanup.policy"], "delete", "it is written out");
    }
}

#[test]
fn the_own_topics_of_brokers_stay_durable_and_compacted() {
    let mut desk = Desk::with_brokers(1);
    let configs = [("cleanup.policy", "compact"), ("durability", "durable")];
    let configs = configs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let name = "__consumer_offsets".to_owned();
    desk.decide(CreateInternal { name, partitions: 1, max_replicas: 1, configs }).expect("valid");
    for (name, value) in [("durability", "none"), ("cleanup.policy", "delete")] {
        let altered = desk.alter("__consumer_offsets", false, &[(name, set(value))]);
        refused(altered, ErrorCode::INVALID_CONFIG, "stays");
    }
    desk.alter("__consumer_offsets", false, &[("durability", Operation::Delete)]).expect("it stays");
    desk.alter("__consumer_offsets", true, &[("segment.ms", set("1000000"))]).expect("valid");
    let left = &desk.topic("__consumer_offsets").configs;
    assert_eq!((&*left["cleanup.policy"], &*left["durability"], left.len()), ("compact", "durable", 3));
}

#[test]
fn a_refused_config_leaves_the_others_of_its_resource_alone() {
    let mut desk = Desk::with_brokers(1);
    desk.create(topic("a", 1, 1)).expect("valid");
    let bad = ErrorCode::INVALID_CONFIG;
    refused(
        desk.alter("a", false, &[("flush.ms", set("5")), ("retention.ms", set("x"))]),
        bad,
        "Not a number",
    );
    refused(desk.alter("a", false, &[("colour", Operation::Delete)]), bad, "Unknown topic config");
    refused(desk.alter("a", false, &[("flush.ms", Operation::Append("1".into()))]), bad, "not LIST");
    refused(
        desk.alter("a", false, &[("cleanup.policy", Operation::Subtract("delete".into()))]),
        bad,
        "at least one",
    );
    refused(desk.alter("b", false, &[]), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "'b'");
    assert!(desk.topic("a").configs.is_empty());
}

#[test]
fn defaults_of_topics_can_be_set_on_brokers_at_run_time() {
    let mut desk = Desk::with_brokers(1);
    let all = || alter_configs::Target::AllBrokers;
    desk.alter_at(all(), false, &[("log.retention.ms", set("5"))]).expect("valid");
    let defaults = desk.image.broker_defaults(BrokerId(1), &Default::default());
    assert_eq!(defaults.all_brokers["log.retention.ms"], "5");
    let bad = desk.alter_at(all(), false, &[("log.retention.ms", set("x"))]);
    refused(bad, ErrorCode::INVALID_CONFIG, "for configuration log.retention.ms");
    let not = desk.alter_at(all(), false, &[("retention.ms", set("5"))]);
    refused(not, ErrorCode::INVALID_REQUEST, "the broker-level name is log.retention.ms");
    let other = alter_configs::Target::Broker(BrokerId(9));
    refused(desk.alter_at(other, false, &[]), ErrorCode::INVALID_REQUEST, "No broker with id 9");
}

#[test]
fn setting_what_is_set_writes_no_record() {
    let mut desk = Desk::with_brokers(1);
    desk.create(topic("a", 1, 1)).expect("valid");
    desk.alter("a", false, &[("flush.ms", set("5"))]).expect("valid");
    let length = desk.log.len();
    desk.alter("a", false, &[("flush.ms", set(" 5 "))]).expect("valid");
    assert_eq!(desk.log.len(), length);
}

#[test]
fn producer_id_blocks_are_disjoint_and_need_a_living_broker() {
    let mut desk = Desk::with_brokers(2);
    let ask = |broker: i32, epoch: i64| AllocateProducerIds {
        broker: BrokerId(broker),
        broker_epoch: BrokerEpoch(epoch),
    };
    let first = desk.decide(ask(1, 1)).expect("registered");
    let second = desk.decide(ask(2, 2)).expect("registered");
    assert_eq!((first.start, first.end), (ProducerId(0), ProducerId(1000)));
    assert_eq!((second.start, second.end), (ProducerId(1000), ProducerId(2000)));
    let epoch = desk.register(1, 2);
    refused(desk.decide(ask(1, 1)), ErrorCode::STALE_BROKER_EPOCH, "not registered");
    assert_eq!(desk.decide(ask(1, epoch.0)).map(|block| block.start), Ok(ProducerId(2000)));
}

#[test]
fn a_restart_raises_the_epoch_of_everything_the_broker_leads() {
    let mut desk = Desk::with_brokers(2);
    desk.create(topic("a", 4, 1)).expect("valid");
    let again = desk.register(1, 1);
    assert_eq!(again, BrokerEpoch(1), "the same life registers once");
    let epoch = desk.register(1, 2);
    assert_eq!(epoch, BrokerEpoch(3));
    for (_, partition) in desk.topic("a").partitions() {
        let expected = if partition.leader == BrokerId(1) { 1 } else { 0 };
        assert_eq!(partition.leader_epoch, LeaderEpoch(expected));
        assert_eq!(partition.partition_epoch, expected);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Create(u8, i32),
    Delete(u8),
    Grow(u8, i32),
    Set(u8, u8),
    Unset(u8),
    Restart(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..6u8;
    prop_oneof![
        (name.clone(), 0..5i32).prop_map(|(n, p)| Step::Create(n, p)),
        name.clone().prop_map(Step::Delete),
        (name.clone(), 1..8i32).prop_map(|(n, p)| Step::Grow(n, p)),
        (name.clone(), any::<u8>()).prop_map(|(n, v)| Step::Set(n, v)),
        name.prop_map(Step::Unset),
        (1..3u8).prop_map(Step::Restart),
    ]
}

/// The model: name to number of partitions and flush.ms.
type Model = BTreeMap<String, (i32, Option<u8>)>;

fn run(step: &Step, desk: &mut Desk, model: &mut Model, lives: &mut u128) {
    let name = |n: &u8| ["a.b", "a_b", "a-b", "c", "d", "."][usize::from(*n)].to_owned();
    match step {
        Step::Create(n, partitions) => {
            let name = name(n);
            let collides = model.keys().any(|known| known.replace('.', "_") == name.replace('.', "_"));
            let fits = !collides && *partitions > 0 && name != ".";
            assert_eq!(desk.create(topic(&name, *partitions, 1)).is_ok(), fits, "{name} {model:?}");
            if fits {
                model.insert(name, (*partitions, None));
            }
        }
        Step::Delete(n) => {
            let targets = vec![delete_topics::Target::Name(name(n))];
            let gone = desk.decide(DeleteTopics { targets }).remove(0).result.is_ok();
            assert_eq!(gone, model.remove(&name(n)).is_some());
        }
        Step::Grow(n, count) => {
            let request = CreatePartitionsTopic { name: name(n), count: *count, assignments: None };
            let grown = desk.grow(request).is_ok();
            let entry = model.get_mut(&name(n)).filter(|(has, _)| *has < *count);
            assert_eq!(grown, entry.is_some());
            if let Some((has, _)) = entry {
                *has = *count;
            }
        }
        Step::Set(n, value) => {
            let set = desk.alter(&name(n), false, &[("flush.ms", set(&value.to_string()))]).is_ok();
            let entry = model.get_mut(&name(n));
            assert_eq!(set, entry.is_some());
            if let Some((_, flush)) = entry {
                *flush = Some(*value);
            }
        }
        Step::Unset(n) => {
            let unset = desk.alter(&name(n), false, &[("flush.ms", Operation::Delete)]).is_ok();
            let entry = model.get_mut(&name(n));
            assert_eq!(unset, entry.is_some());
            if let Some((_, flush)) = entry {
                *flush = None;
            }
        }
        Step::Restart(broker) => {
            *lives += 1;
            desk.register(i32::from(*broker), *lives);
        }
    }
}

proptest! {
    #[test]
    fn decide_then_replay_is_the_model(steps in proptest::collection::vec(step(), 1..60)) {
        let mut desk = Desk::with_brokers(2);
        let mut model = Model::new();
        let mut lives = 1;
        for step in &steps {
            run(step, &mut desk, &mut model, &mut lives);
        }
        let seen: Model = desk.image.topics_by_name().map(|topic| {
            let flush = topic.configs.get("flush.ms").map(|value| value.parse().expect("we set it"));
            (topic.name.to_string(), (i32::try_from(topic.partitions.len()).expect("few"), flush))
        }).collect();
        prop_assert_eq!(seen, model);
        let all = Image::default().after(&desk.log, desk.image.end());
        prop_assert_eq!(all, Ok(desk.image), "the whole log makes the same image as its steps");
    }

    #[test]
    fn a_delta_leads_from_any_image_to_any_later_one(
        before in proptest::collection::vec(step(), 0..20), after in proptest::collection::vec(step(), 0..20),
    ) {
        let mut desk = Desk::with_brokers(2);
        let (mut model, mut lives) = (Model::new(), 1);
        before.iter().for_each(|step| run(step, &mut desk, &mut model, &mut lives));
        let old = desk.image.clone();
        after.iter().for_each(|step| run(step, &mut desk, &mut model, &mut lives));
        let delta = crate::metadata::Delta::between(&old, &desk.image);
        let mut mirror: BTreeMap<TopicId, Topic> = old.topics().map(|t| (t.id, (**t).clone())).collect();
        for gone in &delta.deleted {
            prop_assert!(mirror.remove(&gone.id).is_some());
        }
        for created in &delta.created {
            prop_assert!(mirror.insert(created.id, (**created).clone()).is_none());
        }
        for changed in &delta.changed {
            prop_assert_eq!(mirror.insert(changed.new.id, (*changed.new).clone()), Some((*changed.old).clone()));
        }
        let now: BTreeMap<TopicId, Topic> = desk.image.topics().map(|t| (t.id, (**t).clone())).collect();
        prop_assert_eq!(mirror, now);
    }
}
