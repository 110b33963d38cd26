//! DescribeQuorum (55), AddRaftVoter (80) and RemoveRaftVoter (81): the metadata quorum, as its leader sees it.
//!
//! Any broker answers: it asks the leader. Kafka knows the quorum's log as partition 0 of `__cluster_metadata`, and so
//! do its tools. A voter that comes may leave its address out: the one that it registered as a broker counts then.

use std::time::Duration;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{DirectoryId, Offset, PartitionId};
use dejaq_wire::kafka::add_raft_voter::{AddRaftVoterRequest, AddRaftVoterResponse};
use dejaq_wire::kafka::describe_quorum::{
    DescribeQuorumRequest, DescribeQuorumResponse, Listener, Node, PartitionState, ReplicaState, TopicState,
};
use dejaq_wire::kafka::remove_raft_voter::{RemoveRaftVoterRequest, RemoveRaftVoterResponse};
use dejaq_wire::peer::raft::{DirectoryId as RaftDirectory, ReplicaKey, Voter};

use super::control_plane::{Address, ControlPlane, outcome};
use crate::controller::Refusal;
use crate::controller::handle::{Quorum, Reached};
use crate::controller::journal::TOPIC;
use crate::controller::raft::Change;
use crate::metadata::image::PEER_LISTENER;
use crate::runtime::Runtime;

/// Changes without a timeout of their own.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Who asks how the quorum stands wants to hear soon that nobody leads it: longer than an election takes, and well below
/// what clients wait for an answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// Answers one request.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    version: i16,
    request: DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    let quorum = control.reach.quorum(control.runtime.now().plus(LOOK_TIMEOUT)).await.result;
    let now_ms = control.runtime.unix_ms();
    let mut nodes = Vec::new();
    if let (Ok(quorum), true) = (&quorum, version >= 2) {
        nodes = quorum.voters.iter().filter_map(|(voter, _)| node(voter)).collect();
    }
    let topic = |name: String, indexes: Vec<PartitionId>| TopicState {
        partitions: indexes.into_iter().map(|index| state(&name, index, &quorum, now_ms)).collect(),
        topic_name: name,
    };
    let asked = request.topics.into_iter().map(|one| {
        let indexes = one.partitions.into_iter().map(|partition| partition.partition_index);
        topic(one.topic_name, indexes.collect())
    });
    DescribeQuorumResponse { topics: asked.collect(), nodes, ..Default::default() }
}

fn state(topic: &str, index: PartitionId, quorum: &Result<Quorum, Refusal>, now_ms: i64) -> PartitionState {
    let refuse = |code, message| PartitionState {
        partition_index: index,
        error_code: code,
        error_message: message,
        ..Default::default()
    };
    if topic != TOPIC || index != PartitionId(0) {
        return refuse(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, None);
    }
    let quorum = match quorum {
        Ok(quorum) => quorum,
        Err(why) => return refuse(why.code, why.message.clone()),
    };
    let replica = |key: ReplicaKey, reached: Reached| {
        let at = |silent: Duration| now_ms - i64::try_from(silent.as_millis()).unwrap_or(i64::MAX);
        let heard = reached.silent.map_or(-1, at);
        ReplicaState {
            replica_id: key.id,
            replica_directory_id: DirectoryId(key.directory.0),
            log_end_offset: reached.end,
            last_fetch_timestamp: heard,
            last_caught_up_timestamp: if reached.end >= quorum.committed { heard } else { -1 },
        }
    };
    PartitionState {
        partition_index: index,
        leader_id: quorum.leader.unwrap_or_default(),
        leader_epoch: quorum.epoch,
        high_watermark: quorum.committed,
        current_voters: quorum.voters.iter().map(|(voter, reached)| replica(voter.key, *reached)).collect(),
        observers: quorum.observers.iter().map(|(key, reached)| replica(*key, *reached)).collect(),
        ..Default::default()
    }
}

fn node(voter: &Voter) -> Option<Node> {
    let Address { host, port } = Address::parse(&voter.address)?;
    let listener = Listener { name: PEER_LISTENER.to_owned(), host, port };
    Some(Node { node_id: voter.key.id, listeners: vec![listener] })
}

/// Answers one request.
pub async fn add<R: Runtime>(
    control: &ControlPlane<R>,
    request: AddRaftVoterRequest,
) -> AddRaftVoterResponse {
    let key = ReplicaKey { id: request.voter_id, directory: RaftDirectory(request.voter_directory_id.0) };
    let given = request.listeners.first().map(|listener| format!("{}:{}", listener.host, listener.port));
    let registered = || control.published.current().broker(key.id).and_then(|broker| broker.peer_address());
    let asked = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)).min(TIMEOUT);
    let result = match given.or_else(registered) {
        None => Err(Refusal::new(
            ErrorCode::INVALID_REQUEST,
            format!("it is not known where node {} listens for its peers", key.id),
        )),
        Some(address) => {
            change(control, request.cluster_id, Change::Add(Voter { key, address }), asked).await
        }
    };
    let (error_code, error_message) = outcome(&result);
    AddRaftVoterResponse { error_code, error_message, ..Default::default() }
}

/// Answers one request.
pub async fn remove<R: Runtime>(
    control: &ControlPlane<R>,
    request: RemoveRaftVoterRequest,
) -> RemoveRaftVoterResponse {
    let key = ReplicaKey { id: request.voter_id, directory: RaftDirectory(request.voter_directory_id.0) };
    let result = change(control, request.cluster_id, Change::Remove(key), TIMEOUT).await;
    let (error_code, error_message) = outcome(&result);
    RemoveRaftVoterResponse { error_code, error_message, ..Default::default() }
}

async fn change<R: Runtime>(
    control: &ControlPlane<R>,
    cluster_id: Option<String>,
    change: Change,
    timeout: Duration,
) -> Result<Offset, Refusal> {
    if cluster_id.is_some_and(|id| *id != *control.cluster_id) {
        return Err(Refusal::of(ErrorCode::INCONSISTENT_CLUSTER_ID));
    }
    control.reach.change_voters(change, control.runtime.now().plus(timeout)).await.result
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dejaq_storage::file_disk::FileDisk;
    use dejaq_wire::ids::BrokerId;
    use dejaq_wire::kafka::describe_quorum::{PartitionData, TopicData};

    use super::*;
    use crate::config::Config;
    use crate::controller::Reach;
    use crate::controller::decide::tests::Desk;
    use crate::controller::driver::tests::idle;
    use crate::metadata::Published;
    use crate::runtime::tokio::TokioRuntime;
    use crate::runtime::tokio_net::SocketOptions;

    #[tokio::test]
    async fn a_quorum_that_nobody_leads_is_told_before_clients_give_up() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = FileDisk::open(dir.path()).expect("the directory is there");
        let runtime = TokioRuntime::new(disk, SocketOptions::default());
        let desk = Desk::with_brokers(2);
        let (controller, _leader) = idle();
        let control = ControlPlane {
            runtime: runtime.clone(),
            reach: Reach::alone(runtime.clone(), controller, BrokerId(1)),
            published: Published::new(Arc::new(desk.image.clone())),
            cluster_id: Arc::from("c"),
            settings: Arc::new(desk.settings.clone()),
            config: Arc::new(Config::default()),
        };
        let partitions = vec![PartitionData { partition_index: PartitionId(0) }];
        let request =
            DescribeQuorumRequest { topics: vec![TopicData { topic_name: TOPIC.into(), partitions }] };
        let soon = runtime.now().plus(Duration::from_secs(5));
        let answered = runtime.before(soon, answer(&control, 2, request)).await.expect("in good time");
        let told = &answered.topics[0].partitions[0];
        assert_eq!(told.error_code, ErrorCode::REQUEST_TIMED_OUT);
        let message = told.error_message.clone().unwrap_or_default();
        assert!(message.contains("no controller is active"), "{message}");
    }
}
