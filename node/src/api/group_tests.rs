//! Groups through the bytes of their APIs, on a disk in memory: one claim a test.

use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::model_disk::CrashMode;
use dejaq_wire::ErrorCode;
use dejaq_wire::api::ApiKey;
use dejaq_wire::ids::{BrokerId, Generation, LeaderEpoch, Offset, PartitionId};
use dejaq_wire::kafka::consumer_group_describe::ConsumerGroupDescribeRequest;
use dejaq_wire::kafka::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use dejaq_wire::kafka::delete_groups::DeleteGroupsRequest;
use dejaq_wire::kafka::describe_groups::DescribeGroupsRequest;
use dejaq_wire::kafka::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use dejaq_wire::kafka::heartbeat::HeartbeatRequest;
use dejaq_wire::kafka::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use dejaq_wire::kafka::leave_group::{LeaveGroupRequest, MemberIdentity};
use dejaq_wire::kafka::list_groups::ListGroupsRequest;
use dejaq_wire::kafka::metadata::MetadataRequest;
use dejaq_wire::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use dejaq_wire::kafka::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use dejaq_wire::kafka::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use dejaq_wire::kafka::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};

use super::test_kit::{Life, World, answer_of, batch};
use crate::controller::lease::Lease;
use crate::coordinator::home::OFFSETS_TOPIC;
use crate::runtime::{Mono, Runtime};
use crate::server::service::Started;

const G: &str = "g";

impl Life {
    async fn find_group(&self) -> FindCoordinatorResponse {
        let request = FindCoordinatorRequest { key: G.into(), ..Default::default() };
        self.ask(3, &request).await
    }

    /// Finds the coordinator, and waits until it has read its log.
    async fn ready(&self) {
        for _ in 0..200 {
            let found = self.find_group().await;
            assert_eq!((found.error_code, found.node_id), (ErrorCode::NONE, BrokerId(1)));
            if self.fetched().await.is_ok() {
                return;
            }
            self.node.sleep(Duration::from_millis(10)).await;
        }
        panic!("the coordinator does not load");
    }

    async fn fetched(&self) -> Result<i64, ErrorCode> {
        let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![PartitionId(0)] };
        let request =
            OffsetFetchRequest { group_id: G.into(), topics: Some(vec![topic]), ..Default::default() };
        let answer = self.ask(7, &request).await;
        match answer.error_code {
            ErrorCode::NONE => Ok(answer.topics[0].partitions[0].committed_offset.0),
            code => Err(code),
        }
    }

    async fn commit(&self, offset: i64) -> ErrorCode {
        let answer = self.ask(8, &commit_request("", Generation::NONE, offset)).await;
        answer.topics[0].partitions[0].error_code
    }

    async fn join(&self, member: &str) -> JoinGroupResponse {
        self.ask(9, &join_request(member)).await
    }

    /// A member alone in its group, with the plan that it made.
    async fn member(&self) -> JoinGroupResponse {
        let told = self.join("").await;
        assert_eq!(told.error_code, ErrorCode::MEMBER_ID_REQUIRED);
        let joined = self.join(&told.member_id).await;
        assert_eq!((joined.error_code, &joined.leader), (ErrorCode::NONE, &joined.member_id));
        let part = SyncGroupRequestAssignment {
            member_id: joined.member_id.clone(),
            assignment: Bytes::from_static(b"plan"),
        };
        let sync = SyncGroupRequest {
            group_id: G.into(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: vec![part],
            ..Default::default()
        };
        assert_eq!(self.ask(5, &sync).await.assignment, "plan");
        joined
    }

    async fn heartbeat(&self, member: &JoinGroupResponse) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: G.into(),
            generation_id: member.generation_id,
            member_id: member.member_id.clone(),
            ..Default::default()
        };
        self.ask(4, &request).await.error_code
    }

    async fn state(&self) -> String {
        let request = DescribeGroupsRequest { groups: vec![G.into()], ..Default::default() };
        self.ask(5, &request).await.groups[0].group_state.clone()
    }
}

fn commit_request(member: &str, generation: Generation, offset: i64) -> OffsetCommitRequest {
    let part = OffsetCommitRequestPartition {
        partition_index: PartitionId(0),
        committed_offset: Offset(offset),
        committed_metadata: Some("m".into()),
        ..Default::default()
    };
    OffsetCommitRequest {
        group_id: G.into(),
        member_id: member.into(),
        generation_id_or_member_epoch: generation,
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![part],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn join_request(member: &str) -> JoinGroupRequest {
    let metadata = crate::coordinator::group::subscription::encode(&["t"]);
    JoinGroupRequest {
        group_id: G.into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        member_id: member.into(),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata }],
        ..Default::default()
    }
}

#[tokio::test]
async fn the_offsets_topic_is_made_on_first_use_and_nobody_writes_it_but_brokers() {
    let life = World::new().with_topic(&[]).await;
    assert_eq!(life.fetched().await, Err(ErrorCode::NOT_COORDINATOR), "there is no such topic yet");
    let found = life.find_group().await;
    assert_eq!((found.error_code, found.node_id), (ErrorCode::NONE, BrokerId(1)));
    let all = life.ask(9, &MetadataRequest { topics: None, ..Default::default() }).await.topics;
    let offsets = all.iter().find(|topic| topic.name.as_deref() == Some(OFFSETS_TOPIC)).expect("it is shown");
    assert!(offsets.is_internal);
    let refused = life.produce_with(-1, OFFSETS_TOPIC, batch(0, &["x"])).await;
    assert_eq!(refused.error_code, ErrorCode::INVALID_TOPIC_EXCEPTION);
    // Every key of a new request has its own answer.
    let keys = vec!["a".to_owned(), "b".to_owned()];
    let mut request = FindCoordinatorRequest { coordinator_keys: keys, ..Default::default() };
    let found = life.ask(6, &request).await.coordinators;
    assert_eq!(
        found.iter().map(|c| (c.key.as_str(), c.error_code.0)).collect::<Vec<_>>(),
        [("a", 0), ("b", 0)]
    );
    request.key_type = 1;
    assert!(life.ask(6, &request).await.coordinators.iter().all(|c| c.error_code.is_none()));
    request.key_type = 2;
    assert!(life.ask(6, &request).await.coordinators.iter().all(|c| c.error_code.is_error()));
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill_and_after_a_power_cut() {
    let world = World::new();
    let mut life = world.with_topic(&[]).await;
    for offset in [7, 8] {
        life.ready().await;
        assert_eq!(life.commit(offset).await, ErrorCode::NONE);
        if offset == 7 {
            life.kill().await
        } else {
            life.cut_power(CrashMode::Lose).await
        }
        life = world.start().await;
        life.ready().await;
        assert_eq!(life.fetched().await, Ok(offset));
    }
    life.stop().await.expect("a clean stop");
}

/// Kills M43.
#[tokio::test]
async fn a_commit_is_not_acknowledged_before_it_is_durable() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    life.ready().await;
    world.gate.close();
    let request = life.request(8, &commit_request("", Generation::NONE, 7));
    let Started::Later(mut pending) = life.turn(vec![request]).await.remove(0) else {
        panic!("answered at once")
    };
    let soon = life.node.now().plus(Duration::from_millis(200));
    assert!(life.node.before(soon, &mut pending).await.is_none(), "answered while no sync had ended");
    assert_eq!(life.fetched().await, Ok(-1), "and shown to nobody");
    world.gate.open();
    let answer = answer_of::<OffsetCommitRequest>(8, life.finish(Started::Later(pending)).await);
    assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::NONE);
    assert_eq!(life.fetched().await, Ok(7));
}

#[tokio::test]
async fn a_group_goes_on_where_it_was_after_its_coordinator_was_killed() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    life.ready().await;
    let member = life.member().await;
    let mine = commit_request(&member.member_id, member.generation_id, 42);
    assert_eq!(life.ask(9, &mine).await.topics[0].partitions[0].error_code, ErrorCode::NONE);
    life.kill().await;
    let life = world.start().await;
    life.ready().await;
    assert_eq!((life.state().await.as_str(), life.fetched().await), ("Stable", Ok(42)));
    assert_eq!(life.heartbeat(&member).await, ErrorCode::NONE);
    let zombie = commit_request(&member.member_id, Generation(0), 1);
    let refused = life.ask(9, &zombie).await.topics[0].partitions[0].error_code;
    assert_eq!((refused, life.fetched().await), (ErrorCode::ILLEGAL_GENERATION, Ok(42)));
}

/// Kills M241.
#[tokio::test]
async fn who_may_have_been_replaced_tells_no_offsets_and_answers_its_members() {
    let mut world = World::new();
    let life = world.with_topic(&[]).await;
    life.ready().await;
    let member = life.member().await;
    let mine = commit_request(&member.member_id, member.generation_id, 42);
    assert_eq!(life.ask(9, &mine).await.topics[0].partitions[0].error_code, ErrorCode::NONE);
    life.stop().await.expect("a clean stop");
    let session = Duration::from_secs(3600);
    for was_heard in [false, true] {
        world.lease = Lease::new(session, Duration::ZERO);
        if was_heard {
            world.lease.renew(Mono(0), Offset(0));
        }
        let life = world.start().await;
        // It reads its log, whoever hears it, and again when its new epoch begins.
        let told = loop {
            let told = (life.fetched().await, life.heartbeat(&member).await);
            let is_read = told.0 != Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS) || !was_heard;
            if is_read && told.1 == ErrorCode::NONE {
                break told.0;
            }
            life.node.sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(told, if was_heard { Ok(42) } else { Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS) });
        life.stop().await.expect("a clean stop");
    }
}

/// However many groups it names: an admin's tool asks for all of them at once.
#[tokio::test]
async fn a_request_waits_once_to_be_sure_of_what_is_newest() {
    let mut world = World::new();
    world.lease = Lease::new(Duration::from_secs(3600), Duration::ZERO);
    let life = world.with_topic(&[]).await;
    assert_eq!(life.find_group().await.error_code, ErrorCode::NONE);
    let group =
        |number: i32| OffsetFetchRequestGroup { group_id: format!("g{number}"), ..Default::default() };
    let request = OffsetFetchRequest { groups: (0..5).map(group).collect(), ..Default::default() };
    for _ in 0..100 {
        let began = life.node.now();
        let answer = life.ask(9, &request).await;
        let codes: Vec<ErrorCode> = answer.groups.iter().map(|group| group.error_code).collect();
        if !codes.contains(&ErrorCode::NOT_COORDINATOR) {
            assert_eq!(codes, [ErrorCode::COORDINATOR_LOAD_IN_PROGRESS; 5]);
            assert!(life.node.now().since(began) < Duration::from_secs(4), "two seconds for each");
            return;
        }
        life.node.sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not coordinate");
}

#[tokio::test]
async fn whoever_waits_in_a_shard_that_ends_is_sent_elsewhere() {
    let life = World::new().with_topic(&[]).await;
    life.ready().await;
    let member = life.member().await;
    // A second member waits for the first, which does not come.
    let told = life.join("").await;
    let request = life.request(9, &join_request(&told.member_id));
    let Started::Later(mut pending) = life.turn(vec![request]).await.remove(0) else {
        panic!("answered at once")
    };
    let soon = life.node.now().plus(Duration::from_millis(100));
    assert!(life.node.before(soon, &mut pending).await.is_none(), "it does not wait");
    assert_eq!(life.heartbeat(&member).await, ErrorCode::REBALANCE_IN_PROGRESS);
    life.shards.stop();
    let answer = answer_of::<JoinGroupRequest>(9, life.finish(Started::Later(pending)).await);
    assert_eq!(answer.error_code, ErrorCode::NOT_COORDINATOR);
    assert_eq!(life.heartbeat(&member).await, ErrorCode::NOT_COORDINATOR);
}

#[tokio::test]
async fn a_group_is_listed_described_left_and_deleted() {
    let life = World::new().with_topic(&[]).await;
    life.ready().await;
    let member = life.member().await;
    let list = |states: &[&str]| ListGroupsRequest {
        states_filter: states.iter().map(|state| (*state).to_owned()).collect(),
        ..Default::default()
    };
    let listed = life.ask(5, &list(&["stable"])).await.groups;
    assert_eq!((listed.len(), listed[0].group_type.as_str()), (1, "classic"));
    assert!(life.ask(5, &list(&["Empty"])).await.groups.is_empty());
    let describe = DescribeGroupsRequest { groups: vec![G.into(), "none".into()], ..Default::default() };
    let described = life.ask(6, &describe).await.groups;
    assert_eq!((described[0].protocol_data.as_str(), described[0].members.len()), ("range", 1));
    assert_eq!(described[0].members[0].member_assignment, "plan");
    assert_eq!(described[0].members[0].client_host, "/peer");
    assert_eq!(described[1].error_code, ErrorCode::GROUP_ID_NOT_FOUND);
    let delete = DeleteGroupsRequest { groups_names: vec![G.into()] };
    assert_eq!(life.ask(2, &delete).await.results[0].error_code, ErrorCode::NON_EMPTY_GROUP);
    let leave = LeaveGroupRequest {
        group_id: G.into(),
        members: vec![MemberIdentity { member_id: member.member_id, ..Default::default() }],
        ..Default::default()
    };
    assert_eq!(life.ask(5, &leave).await.members[0].error_code, ErrorCode::NONE);
    assert_eq!(life.commit(5).await, ErrorCode::NONE);
    assert_eq!(life.ask(2, &delete).await.results[0].error_code, ErrorCode::NONE);
    assert_eq!((life.fetched().await, life.state().await.as_str()), (Ok(-1), "Dead"));
}

#[tokio::test]
async fn offsets_are_told_the_same_in_every_version() {
    let life = World::new().with_topic(&[]).await;
    life.ready().await;
    let topic_id = life.topic_id("t");
    for version in ApiKey::OffsetCommit.min_version()..=ApiKey::OffsetCommit.max_version() {
        let mut request = commit_request("", Generation::NONE, 100 + i64::from(version));
        request.topics[0].topic_id = topic_id;
        request.topics.push(OffsetCommitRequestTopic { name: "none".into(), ..request.topics[0].clone() });
        request.topics[1].topic_id = dejaq_wire::ids::TopicId([9; 16]);
        let answer = life.ask(version, &request).await;
        let codes: Vec<_> = answer.topics.iter().map(|topic| topic.partitions[0].error_code).collect();
        let unknown = match version >= 10 {
            true => ErrorCode::UNKNOWN_TOPIC_ID,
            false => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        };
        assert_eq!(codes, [ErrorCode::NONE, unknown], "version {version}");
        assert_eq!(life.fetched().await, Ok(100 + i64::from(version)));
    }
    let both = vec![PartitionId(0), PartitionId(1)];
    for version in ApiKey::OffsetFetch.min_version()..=ApiKey::OffsetFetch.max_version() {
        let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: both.clone() };
        let topics = OffsetFetchRequestTopics { name: "t".into(), topic_id, partition_indexes: both.clone() };
        let group = |topics| OffsetFetchRequestGroup { group_id: G.into(), topics, ..Default::default() };
        let request = OffsetFetchRequest {
            group_id: G.into(),
            topics: Some(vec![topic]),
            groups: vec![group(Some(vec![topics])), group(None)],
            require_stable: true,
        };
        let answer = life.ask(version, &request).await;
        let told: Vec<_> = if version < 8 {
            let parts = answer.topics[0].partitions.iter();
            parts.map(|p| (p.committed_offset.0, p.metadata.clone().unwrap_or_default())).collect()
        } else {
            let all = &answer.groups[1].topics[0].partitions;
            assert_eq!((all.len(), all[0].committed_offset), (1, Offset(110)), "all that is kept");
            let parts = answer.groups[0].topics[0].partitions.iter();
            parts.map(|p| (p.committed_offset.0, p.metadata.clone().unwrap_or_default())).collect()
        };
        assert_eq!(told, [(110, "m".to_owned()), (-1, String::new())], "version {version}");
    }
    let part = |index| OffsetDeleteRequestPartition { partition_index: PartitionId(index) };
    let request = OffsetDeleteRequest {
        group_id: G.into(),
        topics: vec![OffsetDeleteRequestTopic { name: "t".into(), partitions: vec![part(9), part(0)] }],
    };
    let answer = life.ask(0, &request).await;
    let codes: Vec<_> = answer.topics[0].partitions.iter().map(|part| part.error_code).collect();
    assert_eq!(codes, [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::NONE]);
    assert_eq!(life.fetched().await, Ok(-1));
}

#[tokio::test]
async fn a_group_is_described_once() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    life.ready().await;
    let request = DescribeGroupsRequest { groups: vec!["g".into(), "g".into()], ..Default::default() };
    let groups = life.ask(5, &request).await.groups;
    assert_eq!(groups[1].error_code, ErrorCode::INVALID_REQUEST);
    assert_ne!(groups[0].error_code, ErrorCode::INVALID_REQUEST);
    let group = || OffsetFetchRequestGroup { group_id: "g".into(), ..Default::default() };
    let both = vec![PartitionId(0); 2];
    let topics = OffsetFetchRequestTopics { name: "t".into(), partition_indexes: both, ..Default::default() };
    let named = || OffsetFetchRequestGroup { topics: Some(vec![topics.clone()]), ..group() };
    let request =
        OffsetFetchRequest { groups: vec![group(), named(), group(), named()], ..Default::default() };
    let groups = life.ask(8, &request).await.groups;
    let is_twice = |code| code == ErrorCode::INVALID_REQUEST;
    let twice: Vec<_> = groups.iter().map(|group| is_twice(group.error_code)).collect();
    assert_eq!(twice, [false, false, true, true], "all of it, and by name");
    let parts = &groups[1].topics[0].partitions;
    assert_eq!((is_twice(parts[0].error_code), is_twice(parts[1].error_code)), (false, true));
}

#[tokio::test]
async fn a_write_of_a_coordinator_whose_epoch_is_over_is_refused() {
    use crate::replica::leader::{Refused, Required, Resigned};
    use crate::replica::write::{Write, WriteError};
    let life = World::new().with_topic(&[]).await;
    let partition = life.partition("t", 0);
    let (outcome, receiver) = tokio::sync::oneshot::channel();
    let batch = dejaq_storage::VerifiedBatch::verify(batch(0, &["x"])).expect("we built it");
    let only_in = LeaderEpoch(partition.view().epoch().0 + 1);
    partition.write(vec![Write { batch, required: Required::All, only_in, outcome }]);
    let refused = receiver.await.expect("answered");
    assert_eq!(refused, Err(WriteError::Refused(Refused::Resigned(Resigned::Moved))));
    assert_eq!(partition.view().reader().end(), Offset::ZERO);
}

/// One member of KIP-848 through the bytes of every API that knows of it.
#[tokio::test]
async fn a_group_of_the_new_protocol_is_served_and_goes_on_after_a_kill() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    life.ready().await;
    let mut beat = ConsumerGroupHeartbeatRequest {
        group_id: G.into(),
        member_id: "m".into(),
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(vec!["t".into()]),
        topic_partitions: Some(Vec::new()),
        ..Default::default()
    };
    let joined = life.ask(1, &beat).await;
    assert_eq!((joined.error_code, joined.member_epoch), (ErrorCode::NONE, Generation(1)));
    let owned = joined.assignment.expect("an assignment").topic_partitions;
    assert_eq!(
        (owned[0].topic_id, &*owned[0].partitions),
        (life.topic_id("t"), &[PartitionId(0), PartitionId(1)][..])
    );
    let mine = |epoch, offset| commit_request("m", Generation(epoch), offset);
    let code = |answer: dejaq_wire::kafka::offset_commit::OffsetCommitResponse| {
        answer.topics[0].partitions[0].error_code
    };
    assert_eq!(code(life.ask(9, &mine(1, 42)).await), ErrorCode::NONE);
    assert_eq!(code(life.ask(9, &mine(0, 1)).await), ErrorCode::STALE_MEMBER_EPOCH);
    life.kill().await;
    let life = world.start().await;
    life.ready().await;
    (beat.member_epoch, beat.subscribed_topic_names, beat.topic_partitions) = (Generation(1), None, None);
    beat.rebalance_timeout_ms = -1;
    let told = life.ask(1, &beat).await;
    assert_eq!((told.error_code, told.member_epoch, told.assignment), (ErrorCode::NONE, Generation(1), None));
    let topics = |epoch| OffsetFetchRequest {
        groups: vec![OffsetFetchRequestGroup {
            group_id: G.into(),
            member_id: Some("m".into()),
            member_epoch: Generation(epoch),
            topics: None,
        }],
        ..Default::default()
    };
    let (own, stale) = (life.ask(9, &topics(1)).await, life.ask(9, &topics(7)).await);
    assert_eq!(own.groups[0].topics[0].partitions[0].committed_offset, Offset(42));
    assert_eq!(stale.groups[0].error_code, ErrorCode::STALE_MEMBER_EPOCH);
    let listed = life.ask(5, &ListGroupsRequest::default()).await.groups;
    assert_eq!((listed[0].group_type.as_str(), listed[0].group_state.as_str()), ("consumer", "Stable"));
    assert_eq!(life.state().await, "Dead", "it is no classic group");
    let ids = vec![G.to_owned(), "none".to_owned()];
    let describe = ConsumerGroupDescribeRequest { group_ids: ids, ..Default::default() };
    let told = life.ask(1, &describe).await.groups;
    assert_eq!((told[0].group_epoch, told[0].assignor_name.as_str()), (Generation(1), "uniform"));
    assert_eq!((told[0].members[0].client_host.as_str(), told[0].members[0].member_type), ("/peer", 1));
    assert_eq!(told[0].members[0].assignment.topic_partitions[0].topic_name, "t");
    assert_eq!(told[1].error_code, ErrorCode::GROUP_ID_NOT_FOUND);
    beat.member_epoch = Generation(-1);
    assert_eq!(life.ask(1, &beat).await.error_code, ErrorCode::NONE);
    let delete = DeleteGroupsRequest { groups_names: vec![G.into()] };
    assert_eq!(life.ask(2, &delete).await.results[0].error_code, ErrorCode::NONE);
}

#[tokio::test]
async fn whoever_watches_sees_how_far_a_group_is_behind_and_how_long_its_rebalances_took() {
    let life = World::new().start().await;
    life.create("t", 1, &[]).await;
    for value in ["a", "b", "c"] {
        assert_eq!(life.produce("t", &[value]).await.error_code, ErrorCode::NONE);
    }
    life.ready().await;
    assert_eq!(life.commit(1).await, ErrorCode::NONE);
    let deadline = life.node.now().plus(Duration::from_secs(5));
    let text = crate::coordinator::lag::look(&life.shards, &life.directory, deadline).await.text();
    assert!(text.contains("dejaq_group_lag{group=\"g\",topic=\"t\",partition=\"0\"} 2\n"), "{text}");
    let times = life.shards.settings().rebalance_times.0.clone();
    assert_eq!(times.count(), 0);
    life.member().await;
    assert_eq!(times.count(), 1, "the first plan is known");
    life.stop().await.expect("a clean stop");
}
