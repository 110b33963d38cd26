//! Creates, looks at, changes and deletes what a cluster holds.
//!
//! Owns: one function for each administrative request, and its error. Promises: what only looks is asked again until
//! the deadline; what changes something is sent again only where the broker said that it did nothing, so that an error
//! is never hidden by its own repetition; every error says what was refused, why, and what to do.
//! Leaves out: text for people (`cli`), groups and transactions.
//! SHELL.

use std::collections::BTreeMap;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{BrokerId, Offset, PartitionId, TopicId};
use dejaq_wire::kafka::Request;
use dejaq_wire::kafka::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use dejaq_wire::kafka::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use dejaq_wire::kafka::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use dejaq_wire::kafka::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use dejaq_wire::kafka::describe_cluster::DescribeClusterRequest;
use dejaq_wire::kafka::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use dejaq_wire::kafka::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use dejaq_wire::kafka::metadata::{MetadataRequest, MetadataRequestTopic};

use super::cluster::{Cluster, ClusterError};
use super::connection::{Connection, RequestError};
use super::offsets::{self, FoundOffset, OffsetSpec, OffsetsError};
use super::outcome::Verdict;
use super::producer::core::TopicPartition;
use super::routes::{BrokerRoute, Routes, TopicRoute};
use crate::runtime::{Mono, Runtime};

/// Why an administrative request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AdminError {
    /// No broker could be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Offsets could not be found.
    #[error(transparent)]
    Offsets(#[from] OffsetsError),
    /// The broker refuses; `message` is its own explanation, if it gave one.
    #[error("{what}: {}", .message.clone().unwrap_or_else(|| code.to_string()))]
    Refused {
        /// The topic, broker or setting.
        what: String,
        /// Its code.
        code: ErrorCode,
        /// Its words.
        message: Option<String>,
    },
    /// The request was lost on its way, or its answer was: it may have been carried out.
    #[error("{what}: no answer came, it may have been carried out ({reason})")]
    Maybe {
        /// The topic, broker or setting.
        what: String,
        /// How it was lost.
        reason: String,
    },
}

impl AdminError {
    /// What a person can do about it.
    #[must_use]
    pub fn cure(&self) -> String {
        match self {
            AdminError::Cluster(error) => error.cure(),
            AdminError::Offsets(error) => error.cure(),
            AdminError::Refused { code, .. } => super::advice::cure_of(*code).into(),
            AdminError::Maybe { .. } => {
                "look how it stands: dejaq topic describe, dejaq quorum status".into()
            }
        }
    }

    /// The broker's code, if it answered with one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            AdminError::Refused { code, .. } => Some(*code),
            AdminError::Cluster(_) | AdminError::Offsets(_) | AdminError::Maybe { .. } => None,
        }
    }
}

/// A topic to create.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; `None` takes the broker's default.
    pub partitions: Option<i32>,
    /// How many replicas of each; `None` takes the broker's default.
    pub replication: Option<i16>,
    /// Settings that differ from the defaults.
    pub configs: BTreeMap<String, String>,
}

/// A topic as it was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its name.
    pub name: String,
    /// Its id; zero from brokers that do not tell.
    pub id: TopicId,
    /// Its partitions, if the broker tells.
    pub partitions: Option<i32>,
    /// Replicas of each, if the broker tells.
    pub replication: Option<i16>,
}

/// One setting of a topic or a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; `None` for a secret.
    pub value: Option<String>,
    /// Whether it was set for this topic or broker itself.
    pub own: bool,
    /// Where its value comes from, in words.
    pub source: &'static str,
    /// Whether it cannot be changed while the broker runs.
    pub read_only: bool,
    /// What it does, if the broker tells.
    pub documentation: Option<String>,
}

/// A change of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// Sets it.
    Set(String),
    /// Goes back to the default.
    Delete,
    /// Adds to a list.
    Append(String),
    /// Takes from a list.
    Subtract(String),
}

/// What settings belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigOwner {
    /// A topic, by name.
    Topic(String),
    /// A broker.
    Broker(BrokerId),
    /// All brokers that say nothing themselves.
    AllBrokers,
}

impl ConfigOwner {
    fn shown(&self) -> String {
        match self {
            ConfigOwner::Topic(name) => format!("settings of {name}"),
            ConfigOwner::Broker(id) => format!("settings of broker {id}"),
            ConfigOwner::AllBrokers => "settings of all brokers".to_owned(),
        }
    }

    fn wire(&self) -> (i8, String) {
        match self {
            ConfigOwner::Topic(name) => (2, name.clone()),
            ConfigOwner::Broker(id) => (4, id.to_string()),
            ConfigOwner::AllBrokers => (4, String::new()),
        }
    }
}

/// The cluster at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPicture {
    /// Its id, if it has one.
    pub cluster_id: Option<String>,
    /// Who answers administrative requests.
    pub controller: Option<BrokerId>,
    /// Its brokers.
    pub brokers: Vec<BrokerRoute>,
}

/// One partition in a data directory of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDirEntry {
    /// The broker.
    pub broker: BrokerId,
    /// The directory.
    pub dir: String,
    /// The partition.
    pub at: TopicPartition,
    /// Its size in bytes.
    pub size_bytes: i64,
    /// Visible records that it lacks as a follower.
    pub lag: i64,
    /// Records that cannot be read there.
    pub damaged_records: i64,
}

/// Administration of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin<R: Runtime> {
    cluster: Cluster<R>,
}

impl<R: Runtime> Admin<R> {
    /// Administration over these connections.
    #[must_use]
    pub fn new(cluster: Cluster<R>) -> Admin<R> {
        Admin { cluster }
    }

    pub(super) fn cluster(&self) -> &Cluster<R> {
        &self.cluster
    }

    /// Creates a topic, or with `validate_only` says whether it could be. Durable in the cluster's metadata on return.
    ///
    /// # Errors
    /// [`AdminError`]; TOPIC_ALREADY_EXISTS among them.
    pub async fn create_topic(
        &self,
        topic: &NewTopic,
        validate_only: bool,
        deadline: Mono,
    ) -> Result<CreatedTopic, AdminError> {
        let config = |(name, value): (&String, &String)| CreatableTopicConfig {
            name: name.clone(),
            value: Some(value.clone()),
        };
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: topic.name.clone(),
                num_partitions: topic.partitions.unwrap_or(-1),
                replication_factor: topic.replication.unwrap_or(-1),
                configs: topic.configs.iter().map(config).collect(),
                ..CreatableTopic::default()
            }],
            timeout_ms: self.timeout_ms(deadline),
            validate_only,
        };
        let what = format!("topic {}", topic.name);
        let answer = self
            .change(&what, &request, deadline, |answer| answer.topics.first().map(|t| t.error_code))
            .await?;
        let told = answer.topics.into_iter().next().ok_or_else(|| unanswered(&what))?;
        refused(&what, told.error_code, told.error_message)?;
        self.cluster.forget(&topic.name); // what was known of this name is no longer so
        Ok(CreatedTopic {
            name: told.name,
            id: told.topic_id,
            partitions: Some(told.num_partitions).filter(|n| *n >= 0),
            replication: Some(told.replication_factor).filter(|n| *n >= 0),
        })
    }

    /// Deletes a topic with all its records.
    ///
    /// # Errors
    /// [`AdminError`]; UNKNOWN_TOPIC_OR_PARTITION if there is none.
    pub async fn delete_topic(&self, name: &str, deadline: Mono) -> Result<(), AdminError> {
        let state = DeleteTopicState { name: Some(name.into()), topic_id: TopicId::ZERO };
        let request = DeleteTopicsRequest {
            topics: vec![state],
            topic_names: vec![name.into()],
            timeout_ms: self.timeout_ms(deadline),
        };
        let what = format!("topic {name}");
        let answer = self
            .change(&what, &request, deadline, |answer| answer.responses.first().map(|t| t.error_code))
            .await?;
        let told = answer.responses.into_iter().next().ok_or_else(|| unanswered(&what))?;
        refused(&what, told.error_code, told.error_message)?;
        self.cluster.unwatch(name);
        Ok(())
    }

    /// Grows a topic to `count` partitions. Keys of records to come may map to other partitions than before.
    ///
    /// # Errors
    /// [`AdminError`]; INVALID_PARTITIONS if it has as many already.
    pub async fn create_partitions(&self, name: &str, count: i32, deadline: Mono) -> Result<(), AdminError> {
        let topic = CreatePartitionsTopic { name: name.into(), count, assignments: None };
        let request = CreatePartitionsRequest {
            topics: vec![topic],
            timeout_ms: self.timeout_ms(deadline),
            validate_only: false,
        };
        let what = format!("topic {name}");
        let answer = self
            .change(&what, &request, deadline, |answer| answer.results.first().map(|t| t.error_code))
            .await?;
        let told = answer.results.into_iter().next().ok_or_else(|| unanswered(&what))?;
        refused(&what, told.error_code, told.error_message)?;
        self.cluster.forget(name);
        Ok(())
    }

    /// Every topic, by name.
    ///
    /// # Errors
    /// [`AdminError::Cluster`].
    pub async fn list_topics(&self, deadline: Mono) -> Result<Vec<TopicRoute>, AdminError> {
        let routes = self.look(None, deadline).await?;
        Ok(routes.topics().map(|topic| (**topic).clone()).collect())
    }

    /// One topic with its partitions, as a broker tells it now. Never creates it.
    ///
    /// # Errors
    /// [`AdminError`]; UNKNOWN_TOPIC_OR_PARTITION if there is none.
    pub async fn describe_topic(&self, name: &str, deadline: Mono) -> Result<TopicRoute, AdminError> {
        let routes = self.look(Some(name), deadline).await?;
        match routes.topic(name) {
            Some(Ok(topic)) => Ok((*topic).clone()),
            Some(Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)) | None => {
                Err(ClusterError::UnknownTopic { topic: name.into() }.into())
            }
            Some(Err(code)) => Err(ClusterError::Topic { topic: name.into(), code }.into()),
        }
    }

    /// Brokers and controller.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn describe_cluster(&self, deadline: Mono) -> Result<ClusterPicture, AdminError> {
        let connection = self.cluster.any(deadline).await?;
        if connection.version(DescribeClusterRequest::API).is_err() {
            let routes = self.look(Some(""), deadline).await?; // an older broker: its metadata tells the same
            return Ok(picture(&routes));
        }
        let answer = self.cluster.ask_any(&DescribeClusterRequest::default(), deadline).await?;
        refused("cluster", answer.error_code, answer.error_message)?;
        let broker = |b: &dejaq_wire::kafka::describe_cluster::DescribeClusterBroker| BrokerRoute {
            id: b.broker_id,
            address: format!("{}:{}", b.host, b.port).into(),
            rack: b.rack.clone(),
        };
        Ok(ClusterPicture {
            cluster_id: Some(answer.cluster_id).filter(|id| !id.is_empty()),
            controller: Some(answer.controller_id).filter(|id| id.is_valid()),
            brokers: answer.brokers.iter().map(broker).collect(),
        })
    }

    /// The settings of a topic or a broker, by name.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn describe_configs(
        &self,
        owner: &ConfigOwner,
        deadline: Mono,
    ) -> Result<Vec<ConfigEntry>, AdminError> {
        let (resource_type, resource_name) = owner.wire();
        let what = owner.shown();
        let request = DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type,
                resource_name,
                configuration_keys: None,
            }],
            include_synonyms: false,
            include_documentation: true,
        };
        let answer = match owner {
            ConfigOwner::Topic(_) | ConfigOwner::AllBrokers => {
                self.cluster.ask_any(&request, deadline).await?
            }
            ConfigOwner::Broker(id) => self.ask_broker(*id, &request, deadline).await?,
        };
        let told = answer.results.into_iter().next().ok_or_else(|| unanswered(&what))?;
        refused(&what, told.error_code, told.error_message)?;
        let entry =
            |config: dejaq_wire::kafka::describe_configs::DescribeConfigsResourceResult| ConfigEntry {
                own: matches!(config.config_source, 1 | 2),
                source: source_name(config.config_source),
                name: config.name,
                value: config.value,
                read_only: config.read_only,
                documentation: config.documentation,
            };
        let mut entries: Vec<_> = told.configs.into_iter().map(entry).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Changes settings of a topic or a broker, all of them or none.
    ///
    /// # Errors
    /// [`AdminError`]; INVALID_CONFIG names the setting.
    pub async fn alter_configs(
        &self,
        owner: &ConfigOwner,
        changes: &BTreeMap<String, ConfigChange>,
        deadline: Mono,
    ) -> Result<(), AdminError> {
        let (resource_type, resource_name) = owner.wire();
        let what = owner.shown();
        let configs = changes.iter().map(|(name, change)| alteration(name, change)).collect();
        let resource = AlterConfigsResource { resource_type, resource_name, configs };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        let answer = self
            .change(&what, &request, deadline, |answer| answer.responses.first().map(|r| r.error_code))
            .await?;
        let told = answer.responses.into_iter().next().ok_or_else(|| unanswered(&what))?;
        refused(&what, told.error_code, told.error_message)
    }

    /// Moves the start of a partition's log up to `before`, so that what lies before is gone; `None` empties it.
    /// Returns the new start.
    ///
    /// # Errors
    /// [`AdminError`]; OFFSET_OUT_OF_RANGE beyond the end.
    pub async fn delete_records(
        &self,
        at: &TopicPartition,
        before: Option<Offset>,
        deadline: Mono,
    ) -> Result<Offset, AdminError> {
        let what = format!("{}-{}", at.topic, at.partition);
        let offset = before.unwrap_or(Offset::NONE);
        let partition = DeleteRecordsPartition { partition_index: at.partition, offset };
        let topic = DeleteRecordsTopic { name: at.topic.to_string(), partitions: vec![partition] };
        let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: self.timeout_ms(deadline) };
        let mut rounds = 0;
        loop {
            let seen = self.cluster.with_routes(|routes| routes.generation);
            let (connection, _) = self.cluster.leader(&at.topic, at.partition, deadline).await?;
            let answer = connection.call(&request, self.cluster.request_deadline(deadline)).await;
            // Deleting up to an offset twice is the same as once, but "all" may be more the second time.
            let answer = answer.map_err(|error| lost(&what, &error))?;
            let told = answer.topics.first().and_then(|topic| topic.partitions.first());
            let (low, code) =
                told.map(|p| (p.low_watermark, p.error_code)).ok_or_else(|| unanswered(&what))?;
            let moved =
                matches!(code, ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            rounds += 1;
            if moved && self.cluster.pause(rounds, deadline).await {
                self.cluster.refresh(seen, deadline).await?;
                continue;
            }
            refused(&what, code, None)?;
            return Ok(low);
        }
    }

    /// What lies in the data directories of every broker.
    ///
    /// # Errors
    /// [`AdminError`]; a broker that does not answer fails it all.
    pub async fn describe_log_dirs(&self, deadline: Mono) -> Result<Vec<LogDirEntry>, AdminError> {
        let mut entries = Vec::new();
        for broker in self.describe_cluster(deadline).await?.brokers {
            entries.extend(self.log_dir(broker.id, None, deadline).await?.entries);
        }
        Ok(entries)
    }

    /// The first and the end offset of every partition of a topic.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn offsets(
        &self,
        topic: &TopicRoute,
        deadline: Mono,
    ) -> Result<BTreeMap<PartitionId, (Option<Offset>, Option<Offset>)>, AdminError> {
        let all = |spec| -> BTreeMap<TopicPartition, OffsetSpec> {
            let at =
                |index| TopicPartition { topic: topic.name.clone(), partition: PartitionId(index as i32) };
            (0..topic.partitions.len()).map(|index| (at(index), spec)).collect()
        };
        let starts = offsets::find(&self.cluster, &all(OffsetSpec::Earliest), deadline).await?;
        let ends = offsets::find(&self.cluster, &all(OffsetSpec::Latest), deadline).await?;
        let both =
            |(at, start): (TopicPartition, FoundOffset)| (at.partition, (start.offset, ends[&at].offset));
        Ok(starts.into_iter().map(both).collect())
    }

    /// Asks for metadata without making it the client's own, and without creating anything.
    async fn look(&self, name: Option<&str>, deadline: Mono) -> Result<Routes, AdminError> {
        let topic = |name: &&str| MetadataRequestTopic { name: Some((*name).into()), ..Default::default() };
        let request = MetadataRequest {
            topics: name.map(|name| Some(name).iter().filter(|name| !name.is_empty()).map(topic).collect()),
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        };
        let mut routes = Routes::default();
        routes.apply(&self.cluster.ask_any(&request, deadline).await?);
        Ok(routes)
    }

    pub(super) async fn ask_broker<Q: Request>(
        &self,
        id: BrokerId,
        request: &Q,
        deadline: Mono,
    ) -> Result<Q::Response, AdminError> {
        if self.cluster.with_routes(|routes| routes.broker(id).is_none()) {
            let seen = self.cluster.with_routes(|routes| routes.generation);
            self.cluster.refresh(seen, deadline).await?;
        }
        let connection = self.cluster.broker(id, deadline).await?;
        let answer = connection.call(request, self.cluster.request_deadline(deadline)).await;
        answer.map_err(|error| lost(&format!("broker {id}"), &error))
    }

    /// Sends a request that changes something to the controller; again only where it certainly did nothing.
    pub(super) async fn change<Q: Request>(
        &self,
        what: &str,
        request: &Q,
        deadline: Mono,
        code: impl Fn(&Q::Response) -> Option<ErrorCode>,
    ) -> Result<Q::Response, AdminError> {
        let mut rounds = 0;
        loop {
            let seen = self.cluster.with_routes(|routes| routes.generation);
            let connection = self.controller(deadline).await?;
            let answer = connection.call(request, self.cluster.request_deadline(deadline)).await;
            rounds += 1;
            match answer {
                Err(error) if error.verdict() == Verdict::DefiniteNo && error.is_transient() => {
                    if !self.cluster.pause(rounds, deadline).await {
                        return Err(lost(what, &error));
                    }
                }
                Err(error) => return Err(lost(what, &error)),
                Ok(answer) if code(&answer) == Some(ErrorCode::NOT_CONTROLLER) => {
                    if !self.cluster.pause(rounds, deadline).await {
                        return Ok(answer);
                    }
                }
                Ok(answer) => return Ok(answer),
            }
            self.cluster.refresh(seen, deadline).await?;
        }
    }

    async fn controller(&self, deadline: Mono) -> Result<Connection<R>, AdminError> {
        let (known, generation) = self.cluster.with_routes(|routes| (routes.controller, routes.generation));
        if known.is_none() && generation == 0 {
            self.cluster.refresh(0, deadline).await?;
        }
        let controller =
            self.cluster.with_routes(|routes| routes.controller.filter(|id| routes.broker(*id).is_some()));
        Ok(match controller {
            Some(id) => self.cluster.broker(id, deadline).await?,
            None => self.cluster.any(deadline).await?,
        })
    }

    pub(super) fn timeout_ms(&self, deadline: Mono) -> i32 {
        let due = self.cluster.request_deadline(deadline);
        let left = due.since(self.cluster.runtime().now()).as_millis();
        i32::try_from(left).unwrap_or(i32::MAX)
    }
}

fn alteration(name: &str, change: &ConfigChange) -> AlterableConfig {
    let (config_operation, value) = match change {
        ConfigChange::Set(value) => (0, Some(value.clone())),
        ConfigChange::Delete => (1, None),
        ConfigChange::Append(value) => (2, Some(value.clone())),
        ConfigChange::Subtract(value) => (3, Some(value.clone())),
    };
    AlterableConfig { name: name.into(), config_operation, value }
}

/// Kafka's numbers for where the value of a setting comes from.
fn source_name(source: i8) -> &'static str {
    match source {
        1 => "topic",
        2 => "broker",
        3 => "cluster default",
        4 => "broker file",
        5 => "default",
        6 => "broker logger",
        _ => "unknown",
    }
}

fn picture(routes: &Routes) -> ClusterPicture {
    ClusterPicture {
        cluster_id: routes.cluster_id.clone(),
        controller: routes.controller,
        brokers: routes.brokers().cloned().collect(),
    }
}

pub(super) fn refused(what: &str, code: ErrorCode, message: Option<String>) -> Result<(), AdminError> {
    if code.is_none() {
        return Ok(());
    }
    // A name beside the words, so that a person can look it up.
    let message = message.filter(|m| !m.is_empty()).map(|m| format!("{m} ({})", code.name()));
    Err(AdminError::Refused { what: what.into(), code, message })
}

pub(super) fn unanswered(what: &str) -> AdminError {
    AdminError::Maybe { what: what.into(), reason: "the answer leaves it out".into() }
}

fn lost(what: &str, error: &RequestError) -> AdminError {
    match error.verdict() {
        Verdict::DefiniteNo => ClusterError::Request(error.clone()).into(),
        Verdict::Maybe | Verdict::Ok => AdminError::Maybe { what: what.into(), reason: error.to_string() },
    }
}
