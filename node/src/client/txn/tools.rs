//! SHELL. Transactions as an operator sees them: which there are, how one stands, which hang, and how to end one.
//!
//! Owns: the questions to all brokers, and the judgement of what hangs. Promises: nothing is ended that was not named;
//! a transaction that its coordinator knows of is never called hanging, nor one that a coordinator may have who cannot be asked.
//! Leaves out: printing (`cli::txn`).
//!
//! A transaction hangs where a partition holds it open and no coordinator is going to end it there: nobody has the
//! producer's id, or the one who has it does not count the partition in (KIP-664). Ours cannot arise by what we know (KIP-890),
//! and a tool that finds none is how one sees that.
//!
//! ```text
//!  each partition: DescribeProducers ─► open, and old ─► who has this producer? ListTransactions ─► DescribeTransactions
//!                                                         └ nobody, or not with this partition: hangs ─► WriteTxnMarkers
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{
    BrokerId, CoordinatorEpoch, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId,
};
use dejaq_wire::kafka::describe_producers::{DescribeProducersRequest, ProducerState, TopicRequest};
use dejaq_wire::kafka::describe_transactions::DescribeTransactionsRequest;
use dejaq_wire::kafka::init_producer_id::InitProducerIdRequest;
use dejaq_wire::kafka::list_transactions::ListTransactionsRequest;
use dejaq_wire::kafka::metadata::{MetadataRequest, MetadataRequestTopic};
use dejaq_wire::kafka::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest,
};

use crate::client::cluster::{Cluster, ClusterError};
use crate::client::group::coordinator::Coordinator;
use crate::client::producer::core::TopicPartition;
use crate::runtime::{Mono, Runtime};

/// How long the life that takes an id over may keep a transaction open; it begins none.
const TAKEOVER_TIMEOUT_MS: i32 = 60_000;

/// Where coordinators keep what they know; its partitions' leaders are the coordinators.
const TRANSACTIONS_TOPIC: &str = "__transaction_state";
/// How long until it is asked once more whether nobody coordinates what is to be ended.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why a tool could not do its work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ToolError {
    /// The brokers could not be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A broker refuses.
    #[error("cannot {what}: {code}")]
    Refused {
        /// What was asked.
        what: String,
        /// Its answer.
        code: ErrorCode,
    },
    /// Nothing of this name.
    #[error("{0}")]
    Missing(String),
    /// A marker in one partition would end it otherwise than its coordinator may in the others.
    #[error("the transaction does not hang: the coordinator of transactional id {id} has it, and ends it")]
    Coordinated {
        /// Whose it is.
        id: String,
    },
    /// A coordinator that is away may have the transaction, and commit the rest of it when it is back.
    #[error(
        "cannot tell whether the transaction hangs: partition {partition} of {TRANSACTIONS_TOPIC} has no leader, or leaders change"
    )]
    CannotTell {
        /// A partition of the coordinators' topic.
        partition: PartitionId,
    },
}

impl ToolError {
    /// What a person can do about it.
    #[must_use]
    pub fn cure(&self) -> String {
        match self {
            ToolError::Cluster(error) => error.cure(),
            ToolError::CannotTell { .. } => {
                "bring its brokers back (dejaq cluster status names them), and ask again".into()
            }
            ToolError::Coordinated { id } => {
                format!("wait until it times out, or end all of it now: dejaq txn abort {id}")
            }
            ToolError::Refused { code: ErrorCode::TRANSACTIONAL_ID_NOT_FOUND, .. }
            | ToolError::Missing(_) => "see which there are: dejaq txn list; dejaq txn find-hanging".into(),
            ToolError::Refused { code, .. } => crate::client::advice::cure_of(*code).into(),
        }
    }
}

/// A transactional id in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedTxn {
    /// The id.
    pub id: String,
    /// Its producer.
    pub producer: ProducerId,
    /// Such as `Ongoing`.
    pub state: String,
    /// Who coordinates it.
    pub coordinator: BrokerId,
}

/// Which ids to list; the default is all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In one of these states; any, if empty.
    pub states: Vec<String>,
    /// Of one of these producers; any, if empty.
    pub producers: Vec<ProducerId>,
    /// Open for at least so many ms.
    pub open_for_ms: Option<i64>,
    /// Whose whole id matches this pattern.
    pub pattern: Option<String>,
}

/// How a transactional id stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedTxn {
    /// Such as `Ongoing`.
    pub state: String,
    /// Its producer.
    pub producer: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// How long a transaction may be open, in ms.
    pub timeout_ms: i32,
    /// Since when one is open, in ms since 1970.
    pub start_ms: Option<i64>,
    /// Partitions that are in it.
    pub partitions: BTreeSet<TopicPartition>,
}

/// A transaction that a partition holds open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTxn {
    /// Where.
    pub at: TopicPartition,
    /// Whose.
    pub producer: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// The last coordinator that ended one of this producer here.
    pub coordinator_epoch: CoordinatorEpoch,
    /// Its first record.
    pub start: Offset,
    /// When its last record was written, in ms since 1970.
    pub last_ms: i64,
    /// Who has the producer's id, as far as any coordinator knows.
    pub id: Option<String>,
}

/// Every transactional id that `filter` lets through, by name.
///
/// # Errors
/// [`ToolError`]: a broker did not answer, or does not know all of its ids yet.
pub async fn list<R: Runtime>(
    cluster: &Cluster<R>,
    filter: &Filter,
    deadline: Mono,
) -> Result<Vec<ListedTxn>, ToolError> {
    Ok(list_asking(cluster, filter, deadline).await?.0)
}

/// As [`list`], and who was asked.
async fn list_asking<R: Runtime>(
    cluster: &Cluster<R>,
    filter: &Filter,
    deadline: Mono,
) -> Result<(Vec<ListedTxn>, Vec<BrokerId>), ToolError> {
    let seen = cluster.with_routes(|routes| routes.generation);
    cluster.refresh(seen, deadline).await?;
    let brokers: Vec<BrokerId> = cluster.with_routes(|routes| routes.brokers().map(|b| b.id).collect());
    let request = ListTransactionsRequest {
        state_filters: filter.states.clone(),
        producer_id_filters: filter.producers.clone(),
        duration_filter: filter.open_for_ms.unwrap_or(-1),
        transactional_id_pattern: filter.pattern.clone(),
    };
    let mut all = Vec::new();
    for broker in brokers.iter().copied() {
        let mut rounds = 0;
        loop {
            let connection = cluster.broker(broker, deadline).await?;
            let answer = connection.call(&request, cluster.request_deadline(deadline)).await;
            let answer = answer.map_err(ClusterError::Request)?;
            let code = answer.error_code;
            if code.is_none() {
                all.extend(answer.transaction_states.into_iter().map(|one| ListedTxn {
                    id: one.transactional_id,
                    producer: one.producer_id,
                    state: one.transaction_state,
                    coordinator: broker,
                }));
                break;
            }
            rounds += 1;
            if !code.is_retriable() || !cluster.pause(rounds, deadline).await {
                return Err(ToolError::Refused {
                    what: format!("list broker {broker}'s transactions"),
                    code,
                });
            }
        }
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok((all, brokers))
}

/// How a transactional id stands.
///
/// # Errors
/// [`ToolError`]; TRANSACTIONAL_ID_NOT_FOUND among them.
pub async fn describe<R: Runtime>(
    cluster: &Cluster<R>,
    id: &str,
    deadline: Mono,
) -> Result<DescribedTxn, ToolError> {
    let coordinator = Coordinator::of_transactions(cluster.clone(), id);
    let request = DescribeTransactionsRequest { transactional_ids: vec![id.to_owned()] };
    let mut rounds = 0;
    loop {
        let answer = coordinator.ask(&request, i16::MAX, cluster.request_deadline(deadline)).await?;
        let Some(told) = answer.transaction_states.into_iter().next() else {
            return Err(ToolError::Missing(format!("transactional id {id} is missing from the answer")));
        };
        let code = told.error_code;
        if code.is_none() {
            let topics = told.topics.into_iter();
            let partitions = topics.flat_map(|topic| {
                let name: std::sync::Arc<str> = topic.topic.into();
                let at = move |partition| TopicPartition { topic: name.clone(), partition };
                topic.partitions.into_iter().map(at)
            });
            return Ok(DescribedTxn {
                state: told.transaction_state,
                producer: told.producer_id,
                epoch: told.producer_epoch,
                timeout_ms: told.transaction_timeout_ms,
                start_ms: Some(told.transaction_start_time_ms).filter(|ms| *ms >= 0),
                partitions: partitions.collect(),
            });
        }
        rounds += 1;
        let worth = coordinator.is_elsewhere(code) || code.is_retriable();
        if !worth || !cluster.pause(rounds, deadline).await {
            return Err(ToolError::Refused { what: format!("describe transactional id {id}"), code });
        }
    }
}

/// Takes a transactional id over, so that whoever had it is fenced and what it left open is aborted; returns when that
/// is done. The id's next producer begins as if nothing had been.
///
/// # Errors
/// [`ToolError`].
pub async fn take_over<R: Runtime>(
    cluster: &Cluster<R>,
    id: &str,
    deadline: Mono,
) -> Result<DescribedTxn, ToolError> {
    let before = describe(cluster, id, deadline).await?; // an id that nobody has is not made by this
    let coordinator = Coordinator::of_transactions(cluster.clone(), id);
    let request = InitProducerIdRequest {
        transactional_id: Some(id.to_owned()),
        transaction_timeout_ms: TAKEOVER_TIMEOUT_MS,
        ..InitProducerIdRequest::default()
    };
    let mut rounds = 0;
    loop {
        let answer = coordinator.ask(&request, i16::MAX, cluster.request_deadline(deadline)).await;
        let code = match answer {
            Ok(answer) => answer.error_code,
            Err(error) if error.is_transient() => ErrorCode::COORDINATOR_NOT_AVAILABLE,
            Err(error) => return Err(error.into()),
        };
        if code.is_none() {
            return Ok(before);
        }
        rounds += 1;
        let worth = coordinator.is_elsewhere(code) || code.is_retriable();
        if !worth || !cluster.pause(rounds, deadline).await {
            return Err(ToolError::Refused { what: format!("take transactional id {id} over"), code });
        }
    }
}

/// What a partition remembers of its producers.
///
/// # Errors
/// [`ToolError`].
pub async fn producers<R: Runtime>(
    cluster: &Cluster<R>,
    at: &TopicPartition,
    deadline: Mono,
) -> Result<Vec<ProducerState>, ToolError> {
    let topic = TopicRequest { name: at.topic.to_string(), partition_indexes: vec![at.partition] };
    let request = DescribeProducersRequest { topics: vec![topic] };
    let mut rounds = 0;
    loop {
        let seen = cluster.with_routes(|routes| routes.generation);
        let (connection, _) = cluster.leader(&at.topic, at.partition, deadline).await?;
        let code = match connection.call(&request, cluster.request_deadline(deadline)).await {
            Err(error) if !error.is_transient() => return Err(ClusterError::Request(error).into()),
            Err(_) => ErrorCode::NETWORK_EXCEPTION,
            Ok(answer) => {
                let mut parts = answer.topics.into_iter().flat_map(|topic| topic.partitions);
                match parts.next() {
                    Some(told) if told.error_code.is_none() => return Ok(told.active_producers),
                    Some(told) => told.error_code,
                    None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                }
            }
        };
        rounds += 1;
        if !code.is_retriable() || !cluster.pause(rounds, deadline).await {
            let what = format!("ask {}-{} for its producers", at.topic, at.partition);
            return Err(ToolError::Refused { what, code });
        }
        cluster.refresh(seen, deadline).await?;
    }
}

/// The transactions that these partitions hold open, with who has their producers.
///
/// # Errors
/// [`ToolError`].
pub async fn open<R: Runtime>(
    cluster: &Cluster<R>,
    partitions: &[TopicPartition],
    deadline: Mono,
) -> Result<Vec<OpenTxn>, ToolError> {
    let mut all = Vec::new();
    for at in partitions {
        for state in producers(cluster, at, deadline).await? {
            all.extend(open_here(at, &state));
        }
    }
    let ids: BTreeSet<ProducerId> = all.iter().map(|one| one.producer).collect();
    if !ids.is_empty() {
        let filter = Filter { producers: ids.into_iter().collect(), ..Filter::default() };
        let known = list_whole(cluster, &filter, deadline).await?;
        let names: BTreeMap<ProducerId, String> =
            known.into_iter().map(|one| (one.producer, one.id)).collect();
        for one in &mut all {
            one.id = names.get(&one.producer).cloned();
        }
    }
    Ok(all)
}

/// As [`list`], of which nothing is missing: every partition of the coordinators' topic had a leader, which was asked, and had the
/// same one all the while. A coordinator that nobody reaches may have what nobody else knows of.
async fn list_whole<R: Runtime>(
    cluster: &Cluster<R>,
    filter: &Filter,
    deadline: Mono,
) -> Result<Vec<ListedTxn>, ToolError> {
    let mut rounds = 0;
    loop {
        let before = coordinators(cluster, deadline).await?;
        let (listed, asked) = list_asking(cluster, filter, deadline).await?;
        let after = coordinators(cluster, deadline).await?;
        let nowhere = after.iter().find(|(_, (leader, _))| !asked.contains(leader));
        let nowhere = nowhere.map(|(partition, _)| *partition);
        if nowhere.is_none() && before == after {
            return Ok(listed);
        }
        rounds += 1;
        if !cluster.pause(rounds, deadline).await {
            return Err(ToolError::CannotTell { partition: nowhere.unwrap_or(PartitionId(0)) });
        }
    }
}

/// Who leads each partition of the coordinators' topic, and in which epoch; none while there is no such topic.
async fn coordinators<R: Runtime>(
    cluster: &Cluster<R>,
    deadline: Mono,
) -> Result<BTreeMap<PartitionId, (BrokerId, LeaderEpoch)>, ToolError> {
    let topic = MetadataRequestTopic { name: Some(TRANSACTIONS_TOPIC.into()), ..Default::default() };
    let request =
        MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..Default::default() };
    let answer = cluster.ask_any(&request, cluster.request_deadline(deadline)).await?;
    let partitions = answer.topics.into_iter().flat_map(|topic| topic.partitions);
    Ok(partitions.map(|one| (one.partition_index, (one.leader_id, one.leader_epoch))).collect())
}

fn open_here(at: &TopicPartition, state: &ProducerState) -> Option<OpenTxn> {
    Some(OpenTxn {
        at: at.clone(),
        producer: state.producer_id,
        epoch: ProducerEpoch(i16::try_from(state.producer_epoch).ok()?),
        coordinator_epoch: state.coordinator_epoch,
        start: Some(state.current_txn_start_offset).filter(|offset| offset.is_valid())?,
        last_ms: state.last_timestamp,
        id: None,
    })
}

/// Of the transactions that these partitions hold open, those whose last record is at least as old as `before_ms` (ms since
/// 1970) and that no coordinator is going to end.
///
/// # Errors
/// [`ToolError`].
pub async fn hanging<R: Runtime>(
    cluster: &Cluster<R>,
    partitions: &[TopicPartition],
    before_ms: i64,
    deadline: Mono,
) -> Result<Vec<OpenTxn>, ToolError> {
    let old = open(cluster, partitions, deadline).await?.into_iter().filter(|one| one.last_ms <= before_ms);
    let mut hanging = Vec::new();
    for one in old {
        let coordinated = has_a_coordinator(cluster, &one, deadline).await?;
        // What was ended while we asked does not hang, so the partition has the last word.
        if coordinated.is_none() && is_open_still(cluster, &one, deadline).await? {
            hanging.push(one);
        }
    }
    Ok(hanging)
}

/// The id whose coordinator is going to end this transaction, if one is.
async fn has_a_coordinator<R: Runtime>(
    cluster: &Cluster<R>,
    one: &OpenTxn,
    deadline: Mono,
) -> Result<Option<String>, ToolError> {
    let Some(id) = &one.id else { return Ok(None) };
    let described = match describe(cluster, id, deadline).await {
        Ok(described) => Some(described),
        Err(ToolError::Refused { code: ErrorCode::TRANSACTIONAL_ID_NOT_FOUND, .. }) => None,
        Err(error) => return Err(error),
    };
    Ok((!hangs(one, described.as_ref())).then(|| id.clone()))
}

/// Whether no coordinator is going to end this transaction, by what its id's coordinator says.
fn hangs(one: &OpenTxn, described: Option<&DescribedTxn>) -> bool {
    described.is_none_or(|known| known.producer != one.producer || !known.partitions.contains(&one.at))
}

async fn is_open_still<R: Runtime>(
    cluster: &Cluster<R>,
    one: &OpenTxn,
    deadline: Mono,
) -> Result<bool, ToolError> {
    let states = producers(cluster, &one.at, deadline).await?;
    Ok(states.iter().any(|now| now.producer_id == one.producer && now.current_txn_start_offset == one.start))
}

async fn open_at<R: Runtime>(
    cluster: &Cluster<R>,
    at: &TopicPartition,
    start: Offset,
    deadline: Mono,
) -> Result<OpenTxn, ToolError> {
    let open = open(cluster, std::slice::from_ref(at), deadline).await?;
    open.into_iter().find(|one| one.start == start).ok_or_else(|| {
        let what = format!("no open transaction begins at offset {start} of {}-{}", at.topic, at.partition);
        ToolError::Missing(what)
    })
}

/// Ends, as aborted, the transaction that begins at this offset of this partition, if no coordinator is going to end it.
///
/// # Errors
/// [`ToolError`]; `Missing` where none begins there, `Coordinated` where an id's coordinator has it, `CannotTell` where a coordinator
/// is not there to be asked.
pub async fn abort_at<R: Runtime>(
    cluster: &Cluster<R>,
    at: &TopicPartition,
    start: Offset,
    deadline: Mono,
) -> Result<OpenTxn, ToolError> {
    let mut one = open_at(cluster, at, start, deadline).await?;
    for round in 0..2 {
        if let Some(id) = has_a_coordinator(cluster, &one, deadline).await? {
            return Err(ToolError::Coordinated { id });
        }
        if round == 0 {
            // A broker that has not heard yet that it coordinates would name no id.
            cluster.runtime().sleep(LOOK_AGAIN).await;
            one = open_at(cluster, at, start, deadline).await?;
        }
    }
    let topic = WritableTxnMarkerTopic {
        name: at.topic.to_string(),
        partition_indexes: vec![PartitionId(at.partition.0)],
    };
    let marker = WritableTxnMarker {
        producer_id: one.producer,
        producer_epoch: one.epoch,
        transaction_result: false,
        topics: vec![topic],
        coordinator_epoch: CoordinatorEpoch(one.coordinator_epoch.0.max(0)),
    };
    let request = WriteTxnMarkersRequest { markers: vec![marker] };
    let (connection, _) = cluster.leader(&at.topic, at.partition, deadline).await?;
    let answer = connection.call(&request, cluster.request_deadline(deadline)).await;
    let answer = answer.map_err(ClusterError::Request)?;
    let topics = answer.markers.into_iter().flat_map(|marker| marker.topics);
    match topics.flat_map(|topic| topic.partitions).map(|part| part.error_code).next() {
        Some(ErrorCode::NONE) => Ok(one),
        Some(code) => Err(ToolError::Refused { what: "write the marker".into(), code }),
        None => Err(ToolError::Missing("the partition is missing from the answer".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition { topic: "t".into(), partition: PartitionId(partition) }
    }

    #[test]
    fn what_a_coordinator_counts_in_does_not_hang() {
        let one = OpenTxn {
            at: at(0),
            producer: ProducerId(7),
            epoch: ProducerEpoch(1),
            coordinator_epoch: CoordinatorEpoch(0),
            start: Offset(3),
            last_ms: 0,
            id: Some("x".into()),
        };
        let known = |producer, partitions: &[i32]| DescribedTxn {
            state: "Ongoing".into(),
            producer: ProducerId(producer),
            epoch: ProducerEpoch(1),
            timeout_ms: 1,
            start_ms: Some(0),
            partitions: partitions.iter().map(|p| at(*p)).collect(),
        };
        assert!(!hangs(&one, Some(&known(7, &[1, 0]))));
        assert!(hangs(&one, Some(&known(7, &[1]))), "its coordinator knows nothing of this partition");
        assert!(hangs(&one, Some(&known(8, &[0]))), "the id has another producer");
        assert!(hangs(&one, None), "nobody has the producer");
    }

    #[test]
    fn a_producer_without_an_open_transaction_is_none() {
        let idle = ProducerState { current_txn_start_offset: Offset::NONE, ..Default::default() };
        assert_eq!(open_here(&at(0), &idle), None);
        let open = ProducerState { current_txn_start_offset: Offset(5), ..Default::default() };
        assert_eq!(open_here(&at(0), &open).map(|one| one.start), Some(Offset(5)));
    }
}
