//! Administration of brokers and replicas: who is in the cluster, what moves, who leads.
//!
//! Owns: the requests of [`Admin`] that only a cluster needs. Promises and errors are those of `admin`.
//! Leaves out: topics and settings (`admin`), text for people (`cli`).
//! SHELL.

use std::collections::BTreeMap;
use std::sync::Arc;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{BrokerId, DirectoryId, LeaderEpoch, Offset, PartitionId};
use dejaq_wire::kafka::Request;
use dejaq_wire::kafka::add_raft_voter::AddRaftVoterRequest;
use dejaq_wire::kafka::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use dejaq_wire::kafka::describe_cluster::DescribeClusterRequest;
use dejaq_wire::kafka::describe_log_dirs::{DescribableLogDirTopic, DescribeLogDirsRequest};
use dejaq_wire::kafka::describe_quorum::{DescribeQuorumRequest, PartitionData, ReplicaState, TopicData};
use dejaq_wire::kafka::describe_topic_partitions::{DescribeTopicPartitionsRequest, TopicRequest};
use dejaq_wire::kafka::elect_leaders::{ElectLeadersRequest, TopicPartitions};
use dejaq_wire::kafka::list_partition_reassignments::ListPartitionReassignmentsRequest;
use dejaq_wire::kafka::remove_raft_voter::RemoveRaftVoterRequest;
use dejaq_wire::kafka::unregister_broker::UnregisterBrokerRequest;

use super::admin::{Admin, AdminError, ConfigChange, ConfigOwner, LogDirEntry, refused, unanswered};
use super::cluster::ClusterError;
use super::producer::core::TopicPartition;
use crate::runtime::{Mono, Runtime};

/// The config of all brokers that names those that are to be emptied.
const DRAIN_BROKERS: &str = "drain.brokers";
/// Partitions of one page of a description.
const PAGE: i32 = 1000;

/// A broker as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerState {
    /// Its number.
    pub id: BrokerId,
    /// Where clients reach it.
    pub address: Arc<str>,
    /// Where it stands, if it says so.
    pub rack: Option<String>,
    /// Nobody hears it; it leads nothing.
    pub fenced: bool,
    /// Its replicas move away.
    pub draining: bool,
}

/// A partition on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moving {
    /// Which.
    pub at: TopicPartition,
    /// All its replicas now.
    pub replicas: Vec<BrokerId>,
    /// Those that come.
    pub adding: Vec<BrokerId>,
    /// Those that go.
    pub removing: Vec<BrokerId>,
}

/// Who could lead a partition when nobody is in sync.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heirs {
    /// They hold everything that was committed.
    pub eligible: Vec<BrokerId>,
    /// They did, until they stopped uncleanly.
    pub last_known: Vec<BrokerId>,
}

/// What is on one broker's disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogDir {
    /// Damaged ranges that it fetched again from other brokers since it started.
    pub mended_ranges: i64,
    /// Its partitions.
    pub entries: Vec<LogDirEntry>,
}

/// The topic that stands for the metadata quorum's log.
const METADATA: &str = "__cluster_metadata";

/// A node of the metadata quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumReplica {
    /// Its number.
    pub id: BrokerId,
    /// Its data directory.
    pub directory: DirectoryId,
    /// Whether it votes.
    pub votes: bool,
    /// The end of its log, if it was ever heard.
    pub end: Option<Offset>,
    /// When it was heard last, unix milliseconds, if it was.
    pub heard_ms: Option<i64>,
}

/// The metadata quorum as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumState {
    /// Who leads, if somebody does.
    pub leader: Option<BrokerId>,
    /// Since which epoch.
    pub epoch: LeaderEpoch,
    /// How far its log is committed.
    pub committed: Offset,
    /// Voters first.
    pub replicas: Vec<QuorumReplica>,
}

/// What became of one election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    /// Which partition.
    pub at: TopicPartition,
    /// [`ErrorCode::NONE`] if the leadership moved.
    pub code: ErrorCode,
    /// The controller's words, if it refused.
    pub message: Option<String>,
}

fn at(topic: &str, partition: PartitionId) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition }
}

impl<R: Runtime> Admin<R> {
    /// Every broker that is registered, those that are fenced too, with the cluster's id and controller.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn brokers(
        &self,
        deadline: Mono,
    ) -> Result<(String, Option<BrokerId>, Vec<BrokerState>), AdminError> {
        let request = DescribeClusterRequest { include_fenced_brokers: true, ..Default::default() };
        let answer = self.cluster().ask_any(&request, deadline).await?;
        refused("cluster", answer.error_code, answer.error_message)?;
        let draining = self.draining(deadline).await?;
        let state = |broker: dejaq_wire::kafka::describe_cluster::DescribeClusterBroker| BrokerState {
            id: broker.broker_id,
            address: format!("{}:{}", broker.host, broker.port).into(),
            rack: broker.rack,
            fenced: broker.is_fenced,
            draining: draining.contains(&broker.broker_id),
        };
        let controller = Some(answer.controller_id).filter(|id| id.is_valid());
        Ok((answer.cluster_id, controller, answer.brokers.into_iter().map(state).collect()))
    }

    /// What is on the disk of one broker, of these partitions of one topic or of all there are.
    ///
    /// # Errors
    /// [`AdminError`]; also if the disk failed.
    pub async fn log_dir(
        &self,
        broker: BrokerId,
        only: Option<(&str, usize)>,
        deadline: Mono,
    ) -> Result<LogDir, AdminError> {
        let all = |(topic, count): (&str, usize)| DescribableLogDirTopic {
            topic: topic.to_owned(),
            partitions: (0..count).map(|index| PartitionId(index as i32)).collect(),
        };
        let request = DescribeLogDirsRequest { topics: only.map(|one| vec![all(one)]) };
        let answer = self.ask_broker(broker, &request, deadline).await?;
        let what = format!("data directories of broker {broker}");
        refused(&what, answer.error_code, None)?;
        let mut found = LogDir::default();
        for dir in answer.results {
            refused(&what, dir.error_code, None)?;
            found.mended_ranges += dir.mended_ranges;
            for topic in &dir.topics {
                found.entries.extend(topic.partitions.iter().map(|partition| LogDirEntry {
                    broker,
                    dir: dir.log_dir.clone(),
                    at: TopicPartition {
                        topic: topic.name.as_str().into(),
                        partition: partition.partition_index,
                    },
                    size_bytes: partition.partition_size,
                    lag: partition.offset_lag,
                    damaged_records: partition.damaged_records,
                }));
            }
        }
        Ok(found)
    }

    /// The brokers that are to be emptied.
    async fn draining(&self, deadline: Mono) -> Result<Vec<BrokerId>, AdminError> {
        let configs = self.describe_configs(&ConfigOwner::AllBrokers, deadline).await?;
        let named =
            configs.into_iter().find(|config| config.name == DRAIN_BROKERS).and_then(|config| config.value);
        let ids = named.unwrap_or_default();
        Ok(ids.split(',').filter_map(|id| id.parse().ok()).map(BrokerId).collect())
    }

    /// Begins to empty a broker, or stops that. Durable on return; the moves follow by themselves.
    ///
    /// # Errors
    /// [`AdminError`]; INVALID_REPLICATION_FACTOR if the others are too few.
    pub async fn drain(&self, broker: BrokerId, draining: bool, deadline: Mono) -> Result<(), AdminError> {
        let id = broker.to_string();
        let change = if draining { ConfigChange::Append(id) } else { ConfigChange::Subtract(id) };
        let changes = BTreeMap::from([(DRAIN_BROKERS.to_owned(), change)]);
        self.alter_configs(&ConfigOwner::AllBrokers, &changes, deadline).await
    }

    /// How the metadata quorum stands.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn quorum(&self, deadline: Mono) -> Result<QuorumState, AdminError> {
        let partitions = vec![PartitionData { partition_index: PartitionId(0) }];
        let request =
            DescribeQuorumRequest { topics: vec![TopicData { topic_name: METADATA.into(), partitions }] };
        let answer = self.cluster().ask_any(&request, deadline).await?;
        refused("quorum", answer.error_code, answer.error_message)?;
        let told = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
        let told = told.ok_or_else(|| unanswered("quorum"))?;
        refused("quorum", told.error_code, told.error_message)?;
        let replica = |votes: bool| {
            move |state: ReplicaState| QuorumReplica {
                id: state.replica_id,
                directory: state.replica_directory_id,
                votes,
                end: Some(state.log_end_offset).filter(|end| end.is_valid()),
                heard_ms: Some(state.last_fetch_timestamp).filter(|at| *at >= 0),
            }
        };
        let voters = told.current_voters.into_iter().map(replica(true));
        let observers = told.observers.into_iter().map(replica(false));
        Ok(QuorumState {
            leader: Some(told.leader_id).filter(|id| id.is_valid()),
            epoch: told.leader_epoch,
            committed: told.high_watermark,
            replicas: voters.chain(observers).collect(),
        })
    }

    /// Makes a node that follows the quorum a voter.
    ///
    /// # Errors
    /// [`AdminError`]; REQUEST_TIMED_OUT if it does not follow closely enough yet.
    pub async fn add_voter(
        &self,
        voter: BrokerId,
        directory: DirectoryId,
        deadline: Mono,
    ) -> Result<(), AdminError> {
        let request = AddRaftVoterRequest {
            // A quarter less than there is, so that the reason of a quorum that stands still is heard.
            timeout_ms: self.timeout_ms(deadline) / 4 * 3,
            voter_id: voter,
            voter_directory_id: directory,
            ..Default::default()
        };
        let answer = self.change_voters(voter, &request, deadline).await?;
        refused(&format!("voter {voter}"), answer.error_code, answer.error_message)
    }

    /// Takes the vote of a node away.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn remove_voter(
        &self,
        voter: BrokerId,
        directory: DirectoryId,
        deadline: Mono,
    ) -> Result<(), AdminError> {
        let request =
            RemoveRaftVoterRequest { voter_id: voter, voter_directory_id: directory, ..Default::default() };
        let answer = self.change_voters(voter, &request, deadline).await?;
        refused(&format!("voter {voter}"), answer.error_code, answer.error_message)
    }

    async fn change_voters<Q: Request>(
        &self,
        voter: BrokerId,
        request: &Q,
        deadline: Mono,
    ) -> Result<Q::Response, AdminError> {
        let answer = self.cluster().ask_any(request, deadline).await;
        answer.map_err(|error| match error {
            ClusterError::Unanswered { .. } => {
                AdminError::Maybe { what: format!("voter {voter}"), reason: error.to_string() }
            }
            other => other.into(),
        })
    }

    /// Takes a broker that does not run any more out of the cluster.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn unregister(&self, broker: BrokerId, deadline: Mono) -> Result<(), AdminError> {
        let what = format!("broker {broker}");
        let request = UnregisterBrokerRequest { broker_id: broker };
        let answer = self.change(&what, &request, deadline, |answer| Some(answer.error_code)).await?;
        refused(&what, answer.error_code, answer.error_message)
    }

    /// Moves a partition to these brokers, the preferred leader first; `None` takes a move back.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn reassign(
        &self,
        partition: &TopicPartition,
        replicas: Option<Vec<BrokerId>>,
        deadline: Mono,
    ) -> Result<(), AdminError> {
        self.reassign_if(partition, replicas, true, deadline).await
    }

    /// As [`Self::reassign`]; to more or fewer replicas than there are only if `may_change_factor`.
    ///
    /// # Errors
    /// [`AdminError`]; INVALID_REPLICATION_FACTOR for another number of them.
    pub async fn reassign_if(
        &self,
        partition: &TopicPartition,
        replicas: Option<Vec<BrokerId>>,
        may_change_factor: bool,
        deadline: Mono,
    ) -> Result<(), AdminError> {
        let what = format!("{}-{}", partition.topic, partition.partition);
        let one = ReassignablePartition { partition_index: partition.partition, replicas };
        let topic = ReassignableTopic { name: partition.topic.to_string(), partitions: vec![one] };
        let request = AlterPartitionReassignmentsRequest {
            timeout_ms: self.timeout_ms(deadline),
            topics: vec![topic],
            allow_replication_factor_change: may_change_factor,
        };
        let answer = self.change(&what, &request, deadline, |answer| Some(answer.error_code)).await?;
        refused(&what, answer.error_code, answer.error_message)?;
        let told = answer.responses.into_iter().flat_map(|topic| topic.partitions).next();
        let told = told.ok_or_else(|| unanswered(&what))?;
        refused(&what, told.error_code, told.error_message)
    }

    /// Every move that is under way.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn moving(&self, deadline: Mono) -> Result<Vec<Moving>, AdminError> {
        let request =
            ListPartitionReassignmentsRequest { timeout_ms: self.timeout_ms(deadline), topics: None };
        let answer = self.cluster().ask_any(&request, deadline).await?;
        refused("reassignments", answer.error_code, answer.error_message)?;
        let moving = answer.topics.into_iter().flat_map(|topic| {
            let name = topic.name;
            topic.partitions.into_iter().map(move |one| Moving {
                at: at(&name, one.partition_index),
                replicas: one.replicas,
                adding: one.adding_replicas,
                removing: one.removing_replicas,
            })
        });
        Ok(moving.collect())
    }

    /// Who could lead the partitions of a topic when nobody is in sync, by index.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn heirs(
        &self,
        topic: &str,
        deadline: Mono,
    ) -> Result<BTreeMap<PartitionId, Heirs>, AdminError> {
        let mut heirs = BTreeMap::new();
        let mut cursor = None;
        loop {
            let request = DescribeTopicPartitionsRequest {
                topics: vec![TopicRequest { name: topic.into() }],
                response_partition_limit: PAGE,
                cursor: cursor.take(),
            };
            let answer = self.cluster().ask_any(&request, deadline).await?;
            for one in answer.topics {
                refused(topic, one.error_code, None)?;
                heirs.extend(one.partitions.into_iter().map(|partition| {
                    let eligible = partition.eligible_leader_replicas.unwrap_or_default();
                    let last_known = partition.last_known_elr.unwrap_or_default();
                    (partition.partition_index, Heirs { eligible, last_known })
                }));
            }
            match answer.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(heirs),
            }
        }
    }

    /// Has leaders elected: the preferred ones, or, unclean, anyone for what nobody leads. `None` is everything that
    /// needs it; what did not need it may be left out of the answer.
    ///
    /// # Errors
    /// [`AdminError`] of the whole request; those of single partitions are in the answer.
    pub async fn elect(
        &self,
        topic: Option<(&str, Vec<PartitionId>)>,
        unclean: bool,
        deadline: Mono,
    ) -> Result<Vec<Election>, AdminError> {
        let request = ElectLeadersRequest {
            election_type: i8::from(unclean),
            topic_partitions: topic
                .map(|(name, partitions)| vec![TopicPartitions { topic: name.into(), partitions }]),
            timeout_ms: self.timeout_ms(deadline),
        };
        let answer = self.change("election", &request, deadline, |answer| Some(answer.error_code)).await?;
        refused("election", answer.error_code, None)?;
        let results = answer.replica_election_results.into_iter().flat_map(|topic| {
            let name = topic.topic;
            topic.partition_result.into_iter().map(move |one| Election {
                at: at(&name, PartitionId(one.partition_id)),
                code: one.error_code,
                message: one.error_message,
            })
        });
        Ok(results.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{TestBroker, quick};
    use super::*;

    #[tokio::test]
    async fn a_broker_that_is_connected_and_gives_no_answer_is_not_said_to_be_unreachable() {
        let broker = TestBroker::start().await;
        let cluster = quick(&broker);
        let admin = Admin::new(cluster.clone());
        let soon = || cluster.runtime().now().plus(Duration::from_millis(150));
        let error = admin.quorum(soon()).await.expect_err("it never answers that");
        assert!(matches!(error, AdminError::Cluster(ClusterError::Unanswered { .. })), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("{} is connected, but gave no answer", broker.address)), "{text}");
        assert!(!error.cure().contains("--bootstrap"), "{}", error.cure());
        let added = admin.add_voter(BrokerId(4), DirectoryId([4; 16]), soon()).await;
        let error = added.expect_err("it never answers that either").to_string();
        assert!(error.contains("voter 4: no answer came, it may have been carried out"), "{error}");
    }

    #[tokio::test]
    async fn a_broker_that_nobody_reaches_is_looked_for_at_its_address() {
        let broker = TestBroker::start().await;
        broker.hang_up(1000);
        let cluster = quick(&broker);
        let deadline = cluster.runtime().now().plus(Duration::from_millis(150));
        let error = Admin::new(cluster).quorum(deadline).await.expect_err("it hangs up");
        assert!(matches!(error, AdminError::Cluster(ClusterError::Unreachable { .. })), "{error}");
        assert!(error.cure().contains("--bootstrap"), "{}", error.cure());
    }
}
