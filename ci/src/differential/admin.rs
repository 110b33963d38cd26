//! Questions about the control plane: Metadata, topics, partitions, configs, cluster, log directories.

use super::Case;
use super::session::{Session, render};
use anyhow::{Context, Result, ensure};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, PartitionId, TopicId};
use dejaq_wire::kafka::alter_configs as replace;
use dejaq_wire::kafka::api_versions::ApiVersionsRequest;
use dejaq_wire::kafka::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use dejaq_wire::kafka::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use dejaq_wire::kafka::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use dejaq_wire::kafka::describe_cluster::DescribeClusterRequest;
use dejaq_wire::kafka::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use dejaq_wire::kafka::describe_log_dirs::{DescribableLogDirTopic, DescribeLogDirsRequest};
use dejaq_wire::kafka::incremental_alter_configs as alter;
use dejaq_wire::kafka::metadata::{MetadataRequest, MetadataRequestTopic};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

pub const CASES: &[Case] = &[
    ("api versions with a bad client name", |s| {
        let request = ApiVersionsRequest { client_software_name: "-bad name!".into(), ..Default::default() };
        Ok(s.answer(3, &request)?
            .map_or_else(|| "closed".into(), |answer| format!("{:?}", answer.error_code)))
    }),
    ("metadata of one topic", |s| told(s, &metadata(Some(&["single"])))),
    ("metadata of a topic by id", |s| {
        let topics = Some(vec![MetadataRequestTopic { topic_id: s.single, name: None }]);
        told_by(s, 12, &MetadataRequest { topics, allow_auto_topic_creation: false, ..Default::default() })
    }),
    ("metadata of an unknown id", |s| {
        let topics = Some(vec![MetadataRequestTopic { topic_id: TopicId([5; 16]), name: None }]);
        told_by(s, 12, &MetadataRequest { topics, allow_auto_topic_creation: false, ..Default::default() })
    }),
    ("metadata of an unknown topic", |s| told(s, &metadata(Some(&["nowhere"])))),
    ("metadata of an invalid name", |s| told(s, &metadata(Some(&["no/slash"])))),
    ("metadata of no topic", |s| told(s, &metadata(Some(&[])))),
    ("create a topic that is there", |s| s.ask(4, &create(topic("single", 1, 1)))),
    ("create a topic with a slash", |s| s.ask(4, &create(topic("no/slash", 1, 1)))),
    ("create a topic without a name", |s| s.ask(4, &create(topic("", 1, 1)))),
    ("create a topic named ..", |s| s.ask(4, &create(topic("..", 1, 1)))),
    ("create a topic with a name of 250", |s| s.ask(4, &create(topic(&"x".repeat(250), 1, 1)))),
    ("create a topic that collides by a dot", |s| {
        s.ask(4, &create(topic("a.b", 1, 1)))?;
        s.ask(4, &create(topic("a_b", 1, 1)))
    }),
    ("create with no partitions", |s| s.ask(4, &create(topic("c0", 0, 1)))),
    ("create with -2 partitions", |s| s.ask(4, &create(topic("c2", -2, 1)))),
    ("create with no replicas", |s| s.ask(4, &create(topic("r0", 1, 0)))),
    ("create with too many replicas", |s| s.ask(4, &create(topic("r9", 1, 9)))),
    ("create one name twice in a request", |s| {
        let mut request = create(topic("twice", 1, 1));
        request.topics.push(topic("twice", 1, 1));
        s.ask(4, &request)
    }),
    ("create with a bad value", |s| s.ask(4, &create(with("b1", "retention.ms", Some("soon"))))),
    ("create with a value out of range", |s| s.ask(4, &create(with("b2", "min.insync.replicas", Some("0"))))),
    ("create with an unknown config", |s| s.ask(4, &create(with("b3", "no.such", Some("1"))))),
    ("create with a null value", |s| s.ask(4, &create(with("b4", "retention.ms", None)))),
    ("create with a bad policy", |s| s.ask(4, &create(with("b5", "cleanup.policy", Some("shred"))))),
    ("create with a bad codec", |s| s.ask(4, &create(with("b6", "compression.type", Some("rar"))))),
    ("create with an assignment to an unknown broker", |s| {
        let mut wanted = topic("as1", -1, -1);
        wanted.assignments = vec![assigned(0, &[99])];
        s.ask(4, &create(wanted))
    }),
    ("create with an assignment that has a gap", |s| {
        let mut wanted = topic("as2", -1, -1);
        wanted.assignments = vec![assigned(1, &[1])];
        s.ask(4, &create(wanted))
    }),
    ("create with an assignment and a count", |s| {
        let mut wanted = topic("as3", 2, 1);
        wanted.assignments = vec![assigned(0, &[1])];
        s.ask(4, &create(wanted))
    }),
    ("create only to validate", |s| {
        let mut request = create(topic("dry", 2, 1));
        request.validate_only = true;
        let answer = s.ask(4, &request)?;
        Ok(format!("{answer}\n{}", told(s, &metadata(Some(&["dry"])))?))
    }),
    ("create with the broker's defaults", |s| s.ask(4, &create(topic("plain", -1, -1)))),
    ("create by version 7", |s| {
        let mut answer = s.answer(7, &create(topic("seven", 2, 1)))?.context("closed")?;
        answer.topics.iter_mut().for_each(|topic| topic.configs = None);
        Ok(render(&answer))
    }),
    ("grow to 3", |s| s.ask(2, &grow("single", 3, false))),
    ("grow to 3 again", |s| s.ask(2, &grow("single", 3, false))),
    ("grow to less", |s| s.ask(2, &grow("single", 1, false))),
    ("grow to 0", |s| s.ask(2, &grow("single", 0, false))),
    ("grow only to validate", |s| {
        let answer = s.ask(2, &grow("single", 9, true))?;
        Ok(format!("{answer}\n{}", told(s, &metadata(Some(&["single"])))?))
    }),
    ("grow an unknown topic", |s| s.ask(2, &grow("nowhere", 3, false))),
    ("describe some configs of a topic", |s| {
        configs(s, &describe(TOPIC, "keys", &["retention.ms", "cleanup.policy", "max.message.bytes"]))
    }),
    ("describe an unknown config", |s| configs(s, &describe(TOPIC, "keys", &["no.such"]))),
    ("describe configs of an unknown topic", |s| configs(s, &describe(TOPIC, "nowhere", &[]))),
    ("describe configs of an invalid topic", |s| configs(s, &describe(TOPIC, "no/slash", &[]))),
    ("describe configs of an unknown broker", |s| configs(s, &describe(BROKER, "99", &[]))),
    ("describe configs of a broker that is no number", |s| configs(s, &describe(BROKER, "one", &[]))),
    ("describe configs of an unknown kind", |s| configs(s, &describe(77, "x", &[]))),
    ("set a config", |s| changed(s, set("keys", "max.message.bytes", 0, Some("777")), "max.message.bytes")),
    ("set a config only to validate", |s| {
        let mut request = set("keys", "max.message.bytes", 0, Some("888"));
        request.validate_only = true;
        changed(s, request, "max.message.bytes")
    }),
    ("delete a config", |s| changed(s, set("keys", "max.message.bytes", 1, None), "max.message.bytes")),
    ("append to a list", |s| changed(s, set("keys", "cleanup.policy", 2, Some("compact")), "cleanup.policy")),
    ("subtract from a list", |s| {
        changed(s, set("keys", "cleanup.policy", 3, Some("compact")), "cleanup.policy")
    }),
    ("append to what is no list", |s| s.ask(1, &set("keys", "retention.ms", 2, Some("1")))),
    ("an operation of nobody", |s| s.ask(1, &set("keys", "retention.ms", 9, Some("1")))),
    ("set a bad value", |s| s.ask(1, &set("keys", "retention.ms", 0, Some("soon")))),
    ("set a null value", |s| s.ask(1, &set("keys", "retention.ms", 0, None))),
    ("set an unknown config", |s| s.ask(1, &set("keys", "no.such", 0, Some("1")))),
    ("set a config of an unknown topic", |s| s.ask(1, &set("nowhere", "retention.ms", 0, Some("1")))),
    ("set one config twice", |s| {
        let mut request = set("keys", "retention.ms", 0, Some("1"));
        let again = request.resources[0].configs[0].clone();
        request.resources[0].configs.push(again);
        s.ask(1, &request)
    }),
    ("replace all configs", |s| {
        s.ask(1, &set("keys", "max.message.bytes", 0, Some("777")))?;
        let config = replace::AlterableConfig { name: "segment.bytes".into(), value: Some("1048576".into()) };
        let resource = replace::AlterConfigsResource {
            resource_type: TOPIC,
            resource_name: "keys".into(),
            configs: vec![config],
        };
        let answer =
            s.ask(1, &replace::AlterConfigsRequest { resources: vec![resource], validate_only: false })?;
        settle();
        Ok(format!(
            "{answer}\n{}",
            configs(s, &describe(TOPIC, "keys", &["max.message.bytes", "segment.bytes"]))?
        ))
    }),
    ("describe the cluster", |s| {
        let answer = s.answer(1, &DescribeClusterRequest::default())?.context("closed")?;
        Ok(format!("{:?} brokers {}", answer.error_code, answer.brokers.len()))
    }),
    ("describe log directories", |s| {
        let partitions = vec![PartitionId(0), PartitionId(99)];
        let topics = Some(vec![
            DescribableLogDirTopic { topic: "single".into(), partitions: partitions.clone() },
            DescribableLogDirTopic { topic: "nowhere".into(), partitions },
        ]);
        s.ask(4, &DescribeLogDirsRequest { topics })
    }),
    ("delete an unknown topic", |s| s.ask(5, &delete("nowhere"))),
    ("delete an unknown topic id", |s| {
        let topics = vec![DeleteTopicState { name: None, topic_id: TopicId([3; 16]) }];
        s.ask(6, &DeleteTopicsRequest { topics, timeout_ms: 10_000, ..Default::default() })
    }),
    ("delete by name and id at once", |s| {
        let topics = vec![DeleteTopicState { name: Some("plain".into()), topic_id: s.single }];
        s.ask(6, &DeleteTopicsRequest { topics, timeout_ms: 10_000, ..Default::default() })
    }),
    ("delete one topic twice in a request", |s| {
        let mut request = delete("plain");
        request.topic_names.push("plain".into());
        s.ask(5, &request)
    }),
    ("delete a topic", |s| {
        let answer = s.ask(5, &delete("seven"))?;
        settle();
        Ok(format!("{answer}\n{}", told(s, &metadata(Some(&["seven"])))?))
    }),
];

/// Makes the topics of the cases; they keep records of 2020.
pub fn setup(session: &mut Session) -> Result<()> {
    for name in ["single", "keys", "idem", "empty"] {
        let answer = session.answer(7, &create(with(name, "retention.ms", Some("-1"))))?.context("closed")?;
        let made = answer.topics.first().context("no topic in the answer")?;
        ensure!(made.error_code == ErrorCode(0), "creating {name}: {made:?}");
        if name == "single" {
            session.single = made.topic_id;
        }
    }
    settle();
    Ok(())
}

/// A change of metadata reaches Kafka's broker a little after its answer.
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(400));
}

/// Metadata as text; partitions and topics in order, since Kafka answers them in the order of a hash map.
fn told(session: &mut Session, request: &MetadataRequest) -> Result<String> {
    told_by(session, 9, request)
}

fn told_by(session: &mut Session, version: i16, request: &MetadataRequest) -> Result<String> {
    let mut answer = session.answer(version, request)?.context("closed")?;
    answer.topics.sort_by(|one, other| one.name.cmp(&other.name));
    for topic in &mut answer.topics {
        topic.partitions.sort_by_key(|partition| partition.partition_index);
    }
    Ok(render(&answer))
}

/// Configs as text, by name.
fn configs(session: &mut Session, request: &DescribeConfigsRequest) -> Result<String> {
    let mut answer = session.answer(1, request)?.context("closed")?;
    for result in &mut answer.results {
        result.configs.sort_by(|one, other| one.name.cmp(&other.name));
    }
    Ok(render(&answer))
}

fn changed(
    session: &mut Session,
    request: alter::IncrementalAlterConfigsRequest,
    key: &str,
) -> Result<String> {
    let answer = session.ask(1, &request)?;
    settle();
    Ok(format!("{answer}\n{}", configs(session, &describe(TOPIC, "keys", &[key]))?))
}

fn metadata(names: Option<&[&str]>) -> MetadataRequest {
    let topic = |name: &&str| MetadataRequestTopic { name: Some((*name).to_owned()), ..Default::default() };
    let topics = names.map(|names| names.iter().map(topic).collect());
    MetadataRequest { topics, allow_auto_topic_creation: false, ..Default::default() }
}

fn topic(name: &str, num_partitions: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic { name: name.into(), num_partitions, replication_factor, ..Default::default() }
}

fn with(name: &str, key: &str, value: Option<&str>) -> CreatableTopic {
    let configs = vec![CreatableTopicConfig { name: key.into(), value: value.map(str::to_owned) }];
    CreatableTopic { configs, ..topic(name, 1, 1) }
}

fn assigned(partition: i32, brokers: &[i32]) -> CreatableReplicaAssignment {
    let broker_ids = brokers.iter().map(|id| BrokerId(*id)).collect();
    CreatableReplicaAssignment { partition_index: PartitionId(partition), broker_ids }
}

fn create(topic: CreatableTopic) -> CreateTopicsRequest {
    CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false }
}

fn delete(name: &str) -> DeleteTopicsRequest {
    DeleteTopicsRequest { topic_names: vec![name.into()], timeout_ms: 10_000, ..Default::default() }
}

fn grow(name: &str, count: i32, validate_only: bool) -> CreatePartitionsRequest {
    let topics = vec![CreatePartitionsTopic { name: name.into(), count, assignments: None }];
    CreatePartitionsRequest { topics, timeout_ms: 10_000, validate_only }
}

fn describe(kind: i8, name: &str, keys: &[&str]) -> DescribeConfigsRequest {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    let resource = DescribeConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configuration_keys: Some(keys),
    };
    DescribeConfigsRequest { resources: vec![resource], ..Default::default() }
}

fn set(name: &str, key: &str, operation: i8, value: Option<&str>) -> alter::IncrementalAlterConfigsRequest {
    let config = alter::AlterableConfig {
        name: key.into(),
        config_operation: operation,
        value: value.map(str::to_owned),
    };
    let resource = alter::AlterConfigsResource {
        resource_type: TOPIC,
        resource_name: name.into(),
        configs: vec![config],
    };
    alter::IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false }
}
