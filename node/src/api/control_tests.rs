//! The control plane's answers, through the handlers, as claims.

use std::sync::Arc;

use dejaq_storage::file_disk::FileDisk;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, PartitionId, TopicId};
use dejaq_wire::kafka::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use dejaq_wire::kafka::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use dejaq_wire::kafka::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use dejaq_wire::kafka::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use dejaq_wire::kafka::describe_cluster::DescribeClusterRequest;
use dejaq_wire::kafka::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResult,
};
use dejaq_wire::kafka::elect_leaders::ElectLeadersRequest;
use dejaq_wire::kafka::list_partition_reassignments::ListPartitionReassignmentsRequest;
use dejaq_wire::kafka::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use dejaq_wire::kafka::unregister_broker::UnregisterBrokerRequest;
use dejaq_wire::kafka::{alter_configs, incremental_alter_configs};

use super::control_plane::{CLUSTER_OPERATIONS, ControlPlane, OPERATIONS_NOT_ASKED, TOPIC_OPERATIONS};
use crate::config::Config;
use crate::controller::Reach;
use crate::controller::decide::broker_heartbeat::BrokerHeartbeat;
use crate::controller::decide::tests::{Desk, topic};
use crate::controller::driver::tests::imaginary;
use crate::metadata::Published;
use crate::metadata::level::Levels;
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::tokio_net::SocketOptions;
use crate::server::service::Session;

struct Here {
    control: ControlPlane<TokioRuntime>,
    session: Session,
    _dir: tempfile::TempDir,
}

fn here(auto_create: bool) -> Here {
    here_with(Desk::with_brokers(1), auto_create)
}

fn here_with(desk: Desk, auto_create: bool) -> Here {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let disk = FileDisk::open(dir.path()).expect("the directory is there");
    let published = Published::new(Arc::new(desk.image.clone()));
    let mut config = Config::default();
    config.topics.auto_create = auto_create;
    config.topics.default_partitions = 3;
    config.given.insert("default-partitions", "3".into());
    let mut settings = desk.settings.clone();
    settings.default_partitions = 3;
    settings.topic_defaults.insert("segment.ms".into(), "1000".into());
    let runtime = TokioRuntime::new(disk, SocketOptions::default());
    let controller = imaginary(&runtime, desk.image, settings.clone(), published.clone());
    let reach = Reach::alone(runtime.clone(), controller, settings.node);
    let control = ControlPlane {
        runtime,
        reach,
        published,
        cluster_id: "cluster".into(),
        settings: Arc::new(settings),
        config: Arc::new(config),
    };
    Here { control, session: Session::new(1, "peer:1".into(), "front:7000".into()), _dir: dir }
}

fn named(name: &str) -> MetadataRequestTopic {
    MetadataRequestTopic { name: Some(name.into()), ..Default::default() }
}

impl Here {
    async fn create(&self, topics: Vec<CreatableTopic>) -> Vec<(String, ErrorCode)> {
        let request = CreateTopicsRequest { topics, ..Default::default() };
        let response = super::create_topics::answer(&self.control, request).await;
        response.topics.into_iter().map(|topic| (topic.name, topic.error_code)).collect()
    }

    async fn metadata(&self, version: i16, topics: Option<Vec<MetadataRequestTopic>>) -> MetadataResponse {
        let request = MetadataRequest { topics, ..Default::default() };
        super::metadata::answer(&self.control, &self.session, version, request).await
    }

    fn describe(&self, resource_type: i8, name: &str) -> DescribeConfigsResult {
        let resource =
            DescribeConfigsResource { resource_type, resource_name: name.into(), configuration_keys: None };
        let request = DescribeConfigsRequest {
            resources: vec![resource],
            include_synonyms: true,
            include_documentation: true,
        };
        let image = self.control.published.current();
        super::describe_configs::one(&self.control, &image, &request, &request.resources[0], None)
    }

    async fn increment(
        &self,
        resource: (i8, &str),
        configs: &[(&str, i8, Option<&str>)],
    ) -> (ErrorCode, Option<String>) {
        let configs =
            configs.iter().map(|(name, operation, value)| incremental_alter_configs::AlterableConfig {
                name: (*name).into(),
                config_operation: *operation,
                value: value.map(str::to_owned),
            });
        let resources = vec![incremental_alter_configs::AlterConfigsResource {
            resource_type: resource.0,
            resource_name: resource.1.into(),
            configs: configs.collect(),
        }];
        let request =
            incremental_alter_configs::IncrementalAlterConfigsRequest { resources, ..Default::default() };
        let mut response = super::incremental_alter_configs::answer(&self.control, request).await;
        let result = response.responses.remove(0);
        (result.error_code, result.error_message)
    }
}

fn codes(response: &MetadataResponse) -> Vec<(Option<&str>, ErrorCode)> {
    response.topics.iter().map(|topic| (topic.name.as_deref(), topic.error_code)).collect()
}

#[tokio::test]
async fn null_topics_are_all_and_no_topics_are_none_but_in_version_0() {
    let here = here(true);
    here.create(vec![topic("a", 1, 1), topic("b", 1, 1)]).await;
    assert_eq!(here.metadata(1, None).await.topics.len(), 2);
    assert_eq!(here.metadata(1, Some(vec![])).await.topics.len(), 0);
    assert_eq!(here.metadata(0, Some(vec![])).await.topics.len(), 2);
}

#[tokio::test]
async fn a_missing_topic_is_created_only_if_broker_and_request_allow_it() {
    let strict = here(false);
    let response = strict.metadata(4, Some(vec![named("a")])).await;
    assert_eq!(codes(&response), [(Some("a"), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)]);
    let here = here(true);
    let request = MetadataRequest {
        topics: Some(vec![named("a")]),
        allow_auto_topic_creation: false,
        ..Default::default()
    };
    let response = super::metadata::answer(&here.control, &here.session, 4, request).await;
    assert_eq!(codes(&response), [(Some("a"), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)]);
    let response = here.metadata(4, Some(vec![named("a"), named("a"), named("b c")])).await;
    assert_eq!(
        codes(&response),
        [(Some("a"), ErrorCode::NONE), (Some("b c"), ErrorCode::INVALID_TOPIC_EXCEPTION)]
    );
    assert_eq!(response.topics[0].partitions.len(), 3, "the broker's default");
}

#[tokio::test]
async fn a_name_that_collides_or_is_internal_is_not_created_by_asking_for_it() {
    let here = here(true);
    here.create(vec![topic("a.b", 1, 1)]).await;
    let response = here.metadata(9, Some(vec![named("a_b"), named("__consumer_offsets")])).await;
    assert_eq!(
        codes(&response),
        [
            (Some("a_b"), ErrorCode::INVALID_TOPIC_EXCEPTION),
            (Some("__consumer_offsets"), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        ]
    );
    assert!(response.topics[1].is_internal);
}

#[tokio::test]
async fn topics_are_found_by_id_from_version_12_on() {
    let here = here(true);
    here.create(vec![topic("a", 1, 1)]).await;
    let id = here.control.published.current().topic_named("a").expect("created").id;
    let by_id = |topic_id| MetadataRequestTopic { topic_id, name: None };
    let response = here.metadata(12, Some(vec![by_id(id), by_id(TopicId([9; 16]))])).await;
    assert_eq!(codes(&response), [(Some("a"), ErrorCode::NONE), (None, ErrorCode::UNKNOWN_TOPIC_ID)]);
    let response = here.metadata(11, Some(vec![by_id(id)])).await;
    assert_eq!(codes(&response), [(None, ErrorCode::INVALID_REQUEST)]);
}

#[tokio::test]
async fn this_broker_is_told_by_the_listener_by_which_the_client_came() {
    let here = here(true);
    let response = here.metadata(9, None).await;
    assert_eq!((response.brokers[0].host.as_str(), response.brokers[0].port), ("front", 7000));
    assert_eq!((response.cluster_id.as_deref(), response.controller_id), (Some("cluster"), BrokerId(1)));
    let request = DescribeClusterRequest::default();
    let response = super::describe_cluster::answer(&here.control, &here.session, 1, &request);
    assert_eq!((response.brokers[0].host.as_str(), response.brokers[0].port), ("front", 7000));
    assert_eq!(response.cluster_authorized_operations, OPERATIONS_NOT_ASKED);
    let request = DescribeClusterRequest { endpoint_type: 2, ..Default::default() };
    let response = super::describe_cluster::answer(&here.control, &here.session, 1, &request);
    assert_eq!(response.error_code, ErrorCode::MISMATCHED_ENDPOINT_TYPE);
}

#[tokio::test]
async fn operations_are_told_only_to_who_asks() {
    let here = here(true);
    here.create(vec![topic("a", 1, 1)]).await;
    let plain = here.metadata(8, None).await;
    assert_eq!(plain.cluster_authorized_operations, OPERATIONS_NOT_ASKED);
    assert_eq!(plain.topics[0].topic_authorized_operations, OPERATIONS_NOT_ASKED);
    let request = MetadataRequest {
        include_cluster_authorized_operations: true,
        include_topic_authorized_operations: true,
        topics: None,
        ..Default::default()
    };
    let asked = super::metadata::answer(&here.control, &here.session, 8, request).await;
    assert_eq!(asked.cluster_authorized_operations, CLUSTER_OPERATIONS);
    assert_eq!(asked.topics[0].topic_authorized_operations, TOPIC_OPERATIONS);
}

#[tokio::test]
async fn a_created_topic_is_answered_with_its_configs_and_where_they_come_from() {
    let here = here(true);
    let config = CreatableTopicConfig { name: "retention.ms".into(), value: Some("5".into()) };
    let topics = vec![CreatableTopic { configs: vec![config], ..topic("a", 2, 1) }, topic("..", 1, 1)];
    let request = CreateTopicsRequest { topics, ..Default::default() };
    let response = super::create_topics::answer(&here.control, request).await;
    let [good, bad] = response.topics.as_slice() else { panic!("two results: {response:?}") };
    assert_eq!((good.error_code, good.num_partitions, good.replication_factor), (ErrorCode::NONE, 2, 1));
    assert!(!good.topic_id.is_zero());
    let configs = good.configs.as_deref().expect("configs are there");
    let source = |name: &str| {
        let found = configs.iter().find(|config| config.name == name).expect("every config is there");
        (found.value.as_deref(), found.config_source)
    };
    assert_eq!(source("retention.ms"), (Some("5"), 1));
    assert_eq!(source("segment.ms"), (Some("1000"), 4));
    assert_eq!(source("durability"), (Some("durable"), 5));
    assert_eq!((bad.error_code, bad.num_partitions), (ErrorCode::INVALID_TOPIC_EXCEPTION, -1));
    assert!(bad.error_message.is_some());
}

#[tokio::test]
async fn topics_grow_and_go() {
    let here = here(true);
    here.create(vec![topic("a", 1, 1)]).await;
    let topics = vec![CreatePartitionsTopic { name: "a".into(), count: 4, assignments: None }];
    let request = CreatePartitionsRequest { topics, ..Default::default() };
    let response = super::create_partitions::answer(&here.control, request).await;
    assert_eq!(response.results[0].error_code, ErrorCode::NONE);
    assert_eq!(here.metadata(1, None).await.topics[0].partitions.len(), 4);
    let topics = vec![DeleteTopicState { name: Some("a".into()), ..Default::default() }];
    let request = DeleteTopicsRequest { topics, ..Default::default() };
    let response = super::delete_topics::answer(&here.control, request).await;
    assert_eq!(response.responses[0].error_code, ErrorCode::NONE);
    assert!(!response.responses[0].topic_id.is_zero());
    assert!(here.metadata(1, None).await.topics.is_empty());
}

fn find<'a>(result: &'a DescribeConfigsResult, name: &str) -> &'a DescribeConfigsResourceResult {
    result
        .configs
        .iter()
        .find(|config| config.name == name)
        .unwrap_or_else(|| panic!("no {name}: {result:?}"))
}

fn synonyms(config: &DescribeConfigsResourceResult) -> Vec<(&str, &str, i8)> {
    let synonyms = config.synonyms.iter();
    synonyms.map(|one| (one.name.as_str(), one.value.as_deref().unwrap_or("null"), one.source)).collect()
}

#[tokio::test]
async fn a_config_is_described_with_every_synonym() {
    let here = here(true);
    here.create(vec![topic("a", 1, 1)]).await;
    assert_eq!(
        here.increment((4, ""), &[("log.segment.ms", 0, Some("2"))]).await.0,
        ErrorCode::INVALID_REQUEST
    );
    assert_eq!(here.increment((4, ""), &[("log.roll.ms", 0, Some("2000"))]).await.0, ErrorCode::NONE);
    assert_eq!(here.increment((2, "a"), &[("segment.ms", 0, Some("3000"))]).await.0, ErrorCode::NONE);
    let result = here.describe(2, "a");
    let config = find(&result, "segment.ms");
    let expected = [
        ("segment.ms", "3000", 1),
        ("log.roll.ms", "2000", 3),
        ("log.roll.ms", "1000", 4),
        ("log.roll.ms", "604800000", 5),
    ];
    assert_eq!(synonyms(config), expected);
    assert_eq!((config.config_source, config.config_type, config.read_only), (1, 5, false));
    assert!(config.documentation.is_some());
    assert_eq!(find(&result, "retention.ms").config_source, 5);
    assert!(result.configs.iter().all(|config| config.name != "internal.segment.bytes"));
    let all = here.describe(4, "");
    assert_eq!(all.configs.len(), 1);
    assert_eq!(synonyms(&all.configs[0]), [("log.roll.ms", "2000", 3)]);
}

#[tokio::test]
async fn a_broker_shows_its_settings_as_read_only_and_the_defaults_of_topics_as_not() {
    let here = here(true);
    let broker = here.describe(4, "1");
    let factor = here.control.settings.replication_factor(&here.control.published.current()).to_string();
    assert_eq!(find(&broker, "default.replication.factor").value.as_deref(), Some(&*factor));
    let config = find(&broker, "default-partitions");
    assert_eq!((config.value.as_deref(), config.config_source, config.read_only), (Some("3"), 4, true));
    let with_unit = find(&broker, "memory-budget-bytes");
    assert_eq!(
        (with_unit.value.as_deref(), with_unit.config_type),
        (Some("256MiB"), 2),
        "no number to a client"
    );
    assert_eq!(find(&broker, "num.partitions").value.as_deref(), Some("3"));
    let config = find(&broker, "log.roll.ms");
    assert_eq!((config.value.as_deref(), config.config_source, config.read_only), (Some("1000"), 4, false));
    assert_eq!(here.describe(4, "2").error_code, ErrorCode::INVALID_REQUEST);
    assert_eq!(here.describe(4, "x").error_code, ErrorCode::INVALID_REQUEST);
    assert_eq!(here.describe(2, "gone").error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(here.describe(2, "a b").error_code, ErrorCode::INVALID_TOPIC_EXCEPTION);
    assert_eq!(here.describe(77, "a").error_code, ErrorCode::INVALID_REQUEST);
}

#[tokio::test]
async fn broken_alterations_are_refused_with_the_reason() {
    let here = here(true);
    here.create(vec![topic("a", 1, 1)]).await;
    let invalid = ErrorCode::INVALID_REQUEST;
    for (resource, configs, code) in [
        ((2, "a"), vec![("flush.ms", 9, Some("1"))], invalid),
        ((2, "a"), vec![("flush.ms", 0, None)], invalid),
        ((2, "a"), vec![("flush.ms", 0, Some("1")), ("flush.ms", 1, None)], invalid),
        ((2, ""), vec![], invalid),
        ((2, "gone"), vec![], ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        ((4, "7"), vec![], invalid),
        ((9, "a"), vec![], invalid),
        ((2, "a"), vec![("flush.mss", 0, Some("1"))], ErrorCode::INVALID_CONFIG),
    ] {
        let (found, message) = here.increment(resource, &configs).await;
        assert_eq!(found, code, "{resource:?} {configs:?}");
        assert!(message.is_some_and(|message| !message.is_empty()), "{resource:?} {configs:?}");
    }
    assert_eq!(find(&here.describe(2, "a"), "flush.ms").config_source, 5, "nothing was changed");
}

#[tokio::test]
async fn the_old_way_of_altering_replaces_everything_and_refuses_a_resource_that_comes_twice() {
    let here = here(true);
    here.create(vec![topic("a", 1, 1), topic("b", 1, 1)]).await;
    here.increment((2, "a"), &[("flush.ms", 0, Some("5"))]).await;
    let resource = |name: &str| alter_configs::AlterConfigsResource {
        resource_type: 2,
        resource_name: name.into(),
        configs: vec![alter_configs::AlterableConfig { name: "segment.ms".into(), value: Some("6".into()) }],
    };
    let request = |resources| alter_configs::AlterConfigsRequest { resources, ..Default::default() };
    let response = super::alter_configs::answer(&here.control, request(vec![resource("a")])).await;
    assert_eq!(response.responses[0].error_code, ErrorCode::NONE);
    let result = here.describe(2, "a");
    assert_eq!(find(&result, "flush.ms").config_source, 5);
    assert_eq!(find(&result, "segment.ms").value.as_deref(), Some("6"));
    let twice = request(vec![resource("b"), resource("a"), resource("b")]);
    let response = super::alter_configs::answer(&here.control, twice).await;
    let codes: Vec<_> = response.responses.iter().map(|response| response.error_code).collect();
    assert_eq!(codes, [ErrorCode::INVALID_REQUEST, ErrorCode::NONE, ErrorCode::INVALID_REQUEST]);
}

#[tokio::test]
async fn fenced_brokers_and_moves_are_told_to_who_asks() {
    let here = here_with(Desk::with_brokers(3), false);
    here.create(vec![topic("a", 1, 2)]).await;
    let image = here.control.published.current();
    let replicas = image.topic_named("a").expect("created").partitions[0].replicas.to_vec();
    let other = (1..=3).map(BrokerId).find(|id| !replicas.contains(id)).expect("three brokers, two replicas");
    let target = vec![replicas[0], other];
    let partition = ReassignablePartition { partition_index: PartitionId(0), replicas: Some(target) };
    let topics = vec![ReassignableTopic { name: "a".into(), partitions: vec![partition] }];
    let request = AlterPartitionReassignmentsRequest { topics, ..Default::default() };
    let told = super::alter_partition_reassignments::answer(&here.control, 1, request).await;
    assert_eq!(
        (told.error_code, told.responses[0].partitions[0].error_code),
        (ErrorCode::NONE, ErrorCode::NONE)
    );
    let all = ListPartitionReassignmentsRequest::default();
    let image = here.control.published.current();
    let told = super::list_partition_reassignments::answer(&image, &all);
    let moving = &told.topics[0].partitions[0];
    assert_eq!((&moving.adding_replicas, &moving.removing_replicas), (&vec![other], &vec![replicas[1]]));
    let broker = replicas[1];
    let broker_epoch = image.broker(broker).expect("registered").epoch;
    let (metadata_end, want_fence) = (image.end(), true);
    let levels = Levels::default();
    let want_shutdown = false;
    let fence = BrokerHeartbeat { broker, broker_epoch, metadata_end, want_fence, want_shutdown, levels };
    here.control.change(fence, 1000).await.expect("registered");
    let response = here.metadata(9, Some(vec![named("a")])).await;
    assert_eq!(response.topics[0].partitions[0].offline_replicas, [broker]);
    assert!(response.brokers.iter().all(|known| known.node_id != broker), "clients should not try it");
    let fenced = |include_fenced_brokers| {
        let request = DescribeClusterRequest { include_fenced_brokers, ..Default::default() };
        let response = super::describe_cluster::answer(&here.control, &here.session, 2, &request);
        response
            .brokers
            .iter()
            .filter(|known| known.is_fenced)
            .map(|known| known.broker_id)
            .collect::<Vec<_>>()
    };
    assert_eq!((fenced(false), fenced(true)), (vec![], vec![broker]));
    let request = UnregisterBrokerRequest { broker_id: BrokerId(9) };
    let told = super::unregister_broker::answer(&here.control, request).await;
    assert_eq!(told.error_code, ErrorCode::BROKER_ID_NOT_REGISTERED);
    let elect = ElectLeadersRequest { election_type: 7, ..Default::default() };
    assert_eq!(
        super::elect_leaders::answer(&here.control, elect).await.error_code,
        ErrorCode::INVALID_REQUEST
    );
}
