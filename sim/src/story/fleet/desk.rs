//! An operator who talks to one broker and knows of no other, so that what is asked goes to that one whatever is cut.
//!
//! Owns: one client, which is connected before it matters. Promises: a question has an end. Leaves out: whom to ask (scripts).

use std::collections::BTreeMap;
use std::time::Duration;

use dejaq::client::admin::{Admin, ConfigChange, ConfigOwner, NewTopic};
use dejaq::client::cluster::{Cluster, ClusterConfig};
use dejaq::client::producer::core::TopicPartition;
use dejaq::runtime::Runtime;
use dejaq_wire::ids::{BrokerId, Offset, PartitionId};
use dejaq_wire::kafka::init_producer_id::InitProducerIdRequest;

use crate::runtime::SimRuntime;
use crate::story::Stage;

/// Where the operator sits.
const MACHINE: u32 = 93;
/// A question that maybe nobody can answer.
const ASK: Duration = Duration::from_millis(400);
/// One that can be answered.
const PATIENCE: Duration = Duration::from_secs(4);

/// See the module.
pub(super) struct Desk {
    admin: Admin<SimRuntime>,
    cluster: Cluster<SimRuntime>,
    runtime: SimRuntime,
    topic: String,
}

impl Desk {
    /// At a broker, for the first topic of the plan.
    pub fn at(stage: &Stage, broker: u32) -> Desk {
        let runtime = stage.broker.machine(MACHINE);
        let config = ClusterConfig {
            bootstrap: vec![format!("n{broker}:9092")],
            request_timeout: ASK,
            connect_timeout: ASK,
            allow_auto_create: false,
            ..ClusterConfig::default()
        };
        let cluster = Cluster::new(runtime.clone(), config);
        Desk {
            admin: Admin::new(cluster.clone()),
            cluster,
            runtime,
            topic: stage.plan.topics[0].name.clone(),
        }
    }

    /// Connects, so that what is asked next is asked at once; whether the broker answered.
    pub async fn sits_down(&self) -> bool {
        self.admin.describe_topic(&self.topic, self.runtime.now().plus(PATIENCE)).await.is_ok()
    }

    /// Asks for a change that is one entry of the metadata; it may stay in doubt.
    pub async fn alter(&self, number: u64) {
        let owner = ConfigOwner::Topic(self.topic.clone());
        let age = ConfigChange::Set((number + 600_000_000).to_string());
        let changes = BTreeMap::from([("retention.ms".to_owned(), age)]);
        let _ = self.admin.alter_configs(&owner, &changes, self.runtime.now().plus(ASK)).await;
    }

    /// Makes a topic of this name; whether that was answered.
    pub async fn make(&self, name: &str) -> bool {
        let topic = NewTopic { name: name.into(), partitions: Some(1), ..NewTopic::default() };
        self.admin.create_topic(&topic, false, self.runtime.now().plus(PATIENCE)).await.is_ok()
    }

    /// Deletes a topic; whether that was answered.
    pub async fn delete(&self, name: &str) -> bool {
        self.admin.delete_topic(name, self.runtime.now().plus(PATIENCE)).await.is_ok()
    }

    /// Asks for so many producer ids; those that were told.
    pub async fn ids(&self, count: usize) -> Vec<i64> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let request = InitProducerIdRequest { transaction_timeout_ms: 60_000, ..Default::default() };
            let answer = self.cluster.ask_any(&request, self.runtime.now().plus(PATIENCE)).await;
            let told = answer.ok().filter(|answer| answer.error_code.is_none());
            ids.extend(told.map(|answer| answer.producer_id.0));
        }
        ids
    }

    /// Places a partition on these brokers; whether that was taken.
    pub async fn reassign(&self, index: i32, replicas: &[u32]) -> bool {
        let at = TopicPartition { topic: self.topic.as_str().into(), partition: PartitionId(index) };
        let replicas = replicas.iter().map(|node| BrokerId(*node as i32)).collect();
        self.admin.reassign(&at, Some(replicas), self.runtime.now().plus(PATIENCE)).await.is_ok()
    }

    /// Has the first replica of a partition lead; whether that was taken.
    pub async fn elect_first(&self, index: i32) -> bool {
        let partitions = Some((self.topic.as_str(), vec![PartitionId(index)]));
        let elected = self.admin.elect(partitions, false, self.runtime.now().plus(PATIENCE)).await;
        elected.is_ok_and(|all| all.iter().all(|one| one.code.is_none()))
    }

    /// Asks for the first records of a partition to be deleted; it may stay in doubt.
    pub async fn delete_before(&self, index: i32, start: i64) {
        let at = TopicPartition { topic: self.topic.as_str().into(), partition: PartitionId(index) };
        let _ = self.admin.delete_records(&at, Some(Offset(start)), self.runtime.now().plus(PATIENCE)).await;
    }
}
