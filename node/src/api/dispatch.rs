//! From requests to the API that answers them.
//!
//! Owns: the table of what is served. Promises: Produce requests that came in one turn, next to each other, are started
//! together; everything is started in the order of arrival; bytes that are no request and APIs that are not served
//! close the connection.
//! Leaves out: what an API answers (one file each), order and limits of a connection (`server`).
//! Called by `server::connection` through [`Service`]; made by `broker`.

use std::future::ready;
use std::sync::Arc;

use dejaq_wire::api::ApiKey;

use super::control_plane::ControlPlane;
use super::data_plane::DataPlane;
use super::group_plane::GroupPlane;
use super::init_producer_id::ProducerIds;
use super::{
    add_offsets_to_txn, add_partitions_to_txn, alter_configs, alter_partition_reassignments, api_versions,
    claims, consumer_group_describe, consumer_group_heartbeat, create_partitions, create_topics,
    delete_groups, delete_records, delete_topics, describe_cluster, describe_configs, describe_groups,
    describe_log_dirs, describe_producers, describe_quorum, describe_topic_partitions, describe_transactions,
    elect_leaders, end_txn, fetch, find_coordinator, heartbeat, incremental_alter_configs, init_producer_id,
    join_group, leave_group, list_groups, list_offsets, list_partition_reassignments, list_transactions,
    metadata, offset_commit, offset_delete, offset_fetch, offset_for_leader_epoch, produce, reply,
    sync_group, txn_offset_commit, unregister_broker, update_features, write_txn_markers,
};
use crate::coordinator::transactions::Transactions;
use crate::runtime::Runtime;
use crate::server::service::{Reply, Request, Service, Session, Started, Starting};

/// The APIs that this broker answers, as ApiVersions tells.
pub const SERVED: &[ApiKey] = &[
    ApiKey::Produce,
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
    ApiKey::SyncGroup,
    ApiKey::DescribeGroups,
    ApiKey::ListGroups,
    ApiKey::ApiVersions,
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::DeleteRecords,
    ApiKey::InitProducerId,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::AddPartitionsToTxn,
    ApiKey::AddOffsetsToTxn,
    ApiKey::EndTxn,
    ApiKey::WriteTxnMarkers,
    ApiKey::TxnOffsetCommit,
    ApiKey::DescribeConfigs,
    ApiKey::AlterConfigs,
    ApiKey::DescribeLogDirs,
    ApiKey::CreatePartitions,
    ApiKey::DeleteGroups,
    ApiKey::ElectLeaders,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::AlterPartitionReassignments,
    ApiKey::ListPartitionReassignments,
    ApiKey::OffsetDelete,
    ApiKey::UpdateFeatures,
    ApiKey::DescribeCluster,
    ApiKey::DescribeProducers,
    ApiKey::UnregisterBroker,
    ApiKey::DescribeTransactions,
    ApiKey::ListTransactions,
    ApiKey::ConsumerGroupHeartbeat,
    ApiKey::ConsumerGroupDescribe,
    ApiKey::DescribeTopicPartitions,
    ApiKey::DescribeQuorum,
    ApiKey::AddRaftVoter,
    ApiKey::RemoveRaftVoter,
];

/// What the APIs work with.
pub struct Parts<R: Runtime> {
    /// Partitions.
    pub data: Arc<DataPlane<R>>,
    /// Metadata and who changes it.
    pub control: ControlPlane<R>,
    /// Consumer groups.
    pub groups: GroupPlane<R>,
    /// Transactions.
    pub transactions: Arc<Transactions<R>>,
    /// Ids for producers.
    pub producer_ids: ProducerIds,
}

/// The broker's service: every API that it serves.
pub struct Api<R: Runtime> {
    parts: Arc<Parts<R>>,
}

impl<R: Runtime> Api<R> {
    /// Serves with these parts.
    pub fn new(parts: Parts<R>) -> Api<R> {
        Api { parts: Arc::new(parts) }
    }
}

impl<R: Runtime> Service for Api<R> {
    fn start_turn(&self, session: &Arc<Session>, requests: Vec<Request>) -> Starting {
        start_turn(&self.parts, session, requests)
    }
}

/// Starts the requests of a turn: Produce requests next to each other together, anything else by itself.
fn start_turn<R: Runtime>(
    parts: &Arc<Parts<R>>,
    session: &Arc<Session>,
    mut requests: Vec<Request>,
) -> Starting {
    let produce = requests.iter().take_while(|request| request.api == ApiKey::Produce).count();
    if produce == 0 {
        return start_others(parts, session, Vec::with_capacity(requests.len()), requests);
    }
    let others = requests.split_off(produce);
    match produce::start(&parts.data, &parts.transactions, requests) {
        Starting::Done(started) if others.is_empty() => Starting::Done(started),
        Starting::Done(started) => start_others(parts, session, started, others),
        Starting::Later(waiting) => {
            let (parts, session) = (parts.clone(), session.clone());
            Starting::Later(Box::pin(async move {
                let started = waiting.await;
                start_others(&parts, &session, started, others).done().await
            }))
        }
    }
}

/// Goes on with a turn of which some are `started`, up to the next Produce request or the end.
fn start_others<R: Runtime>(
    parts: &Arc<Parts<R>>,
    session: &Arc<Session>,
    mut started: Vec<Started>,
    mut others: Vec<Request>,
) -> Starting {
    let count = others.iter().take_while(|request| request.api != ApiKey::Produce).count();
    started.extend(others.drain(..count).map(|request| start(parts.clone(), session.clone(), request)));
    if others.is_empty() {
        return Starting::Done(started);
    }
    let rest = start_turn(parts, session, others);
    Starting::Later(Box::pin(async move {
        started.extend(rest.done().await);
        started
    }))
}

/// Decodes the body and answers later: `body` is the decoded request in `answer`, an async expression. `data` has the
/// memory for it.
macro_rules! later {
    ($data:ident, $request:ident, |$body:ident| $answer:expr) => {{
        let Request { version, correlation_id, body, .. } = $request;
        Started::Later(Box::pin(async move {
            match claims::decode(&$data, version, body).await {
                Ok(($body, claim)) => {
                    let answer = $answer.await;
                    reply::held(reply::frame(version, correlation_id, &answer), claim)
                }
                Err(close) => close,
            }
        }))
    }};
}

/// The same where `answer` waits for nothing.
macro_rules! now {
    ($data:ident, $request:ident, |$body:ident| $answer:expr) => {
        later!($data, $request, |$body| ready($answer))
    };
}

/// Starts any request but Produce.
fn start<R: Runtime>(parts: Arc<Parts<R>>, session: Arc<Session>, request: Request) -> Started {
    let (at, v) = (request.received_at, request.version);
    let (data, control) = (parts.data.clone(), parts.control.clone());
    match request.api {
        ApiKey::Produce => unreachable!("start_turn keeps Produce apart"),
        ApiKey::Fetch => start_fetch(data, session, request),
        ApiKey::ListOffsets => later!(data, request, |body| list_offsets::answer(&data, v, body)),
        ApiKey::OffsetForLeaderEpoch => {
            now!(data, request, |body| offset_for_leader_epoch::answer(&data, body))
        }
        ApiKey::DeleteRecords => later!(data, request, |body| delete_records::answer(&data, at, body)),
        ApiKey::DescribeLogDirs => now!(data, request, |body| describe_log_dirs::answer(&data, body)),
        ApiKey::FindCoordinator
        | ApiKey::JoinGroup
        | ApiKey::SyncGroup
        | ApiKey::Heartbeat
        | ApiKey::LeaveGroup
        | ApiKey::OffsetCommit
        | ApiKey::OffsetFetch
        | ApiKey::OffsetDelete
        | ApiKey::ListGroups
        | ApiKey::DescribeGroups
        | ApiKey::DeleteGroups
        | ApiKey::ConsumerGroupHeartbeat
        | ApiKey::ConsumerGroupDescribe => start_group(parts, session, request),
        ApiKey::InitProducerId
        | ApiKey::AddPartitionsToTxn
        | ApiKey::AddOffsetsToTxn
        | ApiKey::EndTxn
        | ApiKey::WriteTxnMarkers
        | ApiKey::TxnOffsetCommit
        | ApiKey::DescribeTransactions
        | ApiKey::ListTransactions => start_txn(parts, request),
        ApiKey::ApiVersions if !ApiKey::ApiVersions.has_version(v) => {
            Started::Done(reply::frame(0, request.correlation_id, &api_versions::too_new()))
        }
        ApiKey::ApiVersions => {
            let image = control.published.current();
            let levels = control.settings.levels;
            now!(data, request, |body| api_versions::answer(SERVED, (&image, levels), &session, v, body))
        }
        ApiKey::Metadata => later!(data, request, |body| metadata::answer(&control, &session, v, body)),
        ApiKey::CreateTopics => later!(data, request, |body| create_topics::answer(&control, body)),
        ApiKey::DeleteTopics => later!(data, request, |body| delete_topics::answer(&control, body)),
        ApiKey::CreatePartitions => later!(data, request, |body| create_partitions::answer(&control, body)),
        ApiKey::DescribeConfigs | ApiKey::DescribeProducers => start_large(&parts, request),
        ApiKey::AlterConfigs => later!(data, request, |body| alter_configs::answer(&control, body)),
        ApiKey::IncrementalAlterConfigs => {
            later!(data, request, |body| incremental_alter_configs::answer(&control, body))
        }
        ApiKey::DescribeCluster => {
            now!(data, request, |body| describe_cluster::answer(&control, &session, v, &body))
        }
        ApiKey::DescribeTopicPartitions => {
            now!(data, request, |body| describe_topic_partitions::answer(&control.published.current(), body))
        }
        ApiKey::AlterPartitionReassignments
        | ApiKey::ListPartitionReassignments
        | ApiKey::DescribeQuorum
        | ApiKey::AddRaftVoter
        | ApiKey::RemoveRaftVoter
        | ApiKey::ElectLeaders
        | ApiKey::UnregisterBroker
        | ApiKey::UpdateFeatures => start_operator(&parts, request),
    }
}

/// Starts what operators ask of the cluster.
fn start_operator<R: Runtime>(parts: &Parts<R>, request: Request) -> Started {
    let v = request.version;
    let (data, control) = (parts.data.clone(), parts.control.clone());
    match request.api {
        ApiKey::AlterPartitionReassignments => {
            later!(data, request, |body| alter_partition_reassignments::answer(&control, v, body))
        }
        ApiKey::ListPartitionReassignments => {
            now!(data, request, |body| list_partition_reassignments::answer(
                &control.published.current(),
                &body
            ))
        }
        ApiKey::DescribeQuorum => later!(data, request, |body| describe_quorum::answer(&control, v, body)),
        ApiKey::AddRaftVoter => later!(data, request, |body| describe_quorum::add(&control, body)),
        ApiKey::RemoveRaftVoter => later!(data, request, |body| describe_quorum::remove(&control, body)),
        ApiKey::ElectLeaders => later!(data, request, |body| elect_leaders::answer(&control, body)),
        ApiKey::UnregisterBroker => later!(data, request, |body| unregister_broker::answer(&control, body)),
        ApiKey::UpdateFeatures => later!(data, request, |body| update_features::answer(&control, v, body)),
        other => unreachable!("{other:?} is none of an operator's"),
    }
}

/// Starts a Fetch, which may wait for long: until then it holds what it is to read, a part of its claim, and its records have
/// a claim of their own.
fn start_fetch<R: Runtime>(data: Arc<DataPlane<R>>, session: Arc<Session>, request: Request) -> Started {
    const PART: usize = 4;
    let Request { version, correlation_id, received_at, body, .. } = request;
    Started::Later(Box::pin(async move {
        let (body, claim) = match claims::decode(&data, version, body).await {
            Ok(decoded) => decoded,
            Err(close) => return close,
        };
        let held = claim.map(|mut claim| claim.split(claim.bytes() / PART));
        let answer = fetch::answer(&data, &session, received_at, version, body).await;
        reply::held(reply::frame(version, correlation_id, &answer), held)
    }))
}

/// Starts a request whose answer claims memory by itself: it may be far larger than what asks for it.
fn start_large<R: Runtime>(parts: &Parts<R>, request: Request) -> Started {
    let (data, control) = (parts.data.clone(), parts.control.clone());
    let about = (request.received_at, request.version, request.correlation_id);
    Started::Later(Box::pin(async move {
        let (_, version, _) = about;
        if request.api == ApiKey::DescribeProducers {
            return match claims::decode(&data, version, request.body).await {
                Ok((body, _claim)) => describe_producers::answer(&data, about, body).await,
                Err(close) => close,
            };
        }
        match claims::decode(&data, version, request.body).await {
            Ok((body, _claim)) => describe_configs::answer((&data, &control), about, body).await,
            Err(close) => close,
        }
    }))
}

/// Starts a request about groups.
fn start_group<R: Runtime>(parts: Arc<Parts<R>>, session: Arc<Session>, request: Request) -> Started {
    let v = request.version;
    let (data, groups, control) = (parts.data.clone(), parts.groups.clone(), parts.control.clone());
    match request.api {
        ApiKey::FindCoordinator => {
            later!(data, request, |body| find_coordinator::answer(&control, &session, v, body))
        }
        ApiKey::JoinGroup => {
            let client = request.client_id.clone();
            later!(data, request, |body| join_group::answer(&groups, &session, client.as_deref(), v, body))
        }
        ApiKey::SyncGroup => later!(data, request, |body| sync_group::answer(&groups, v, body)),
        ApiKey::Heartbeat => later!(data, request, |body| heartbeat::answer(&groups, body)),
        ApiKey::LeaveGroup => later!(data, request, |body| leave_group::answer(&groups, v, body)),
        ApiKey::OffsetCommit => later!(data, request, |body| offset_commit::answer(&groups, v, body)),
        ApiKey::OffsetFetch => later!(data, request, |body| offset_fetch::answer(&groups, v, body)),
        ApiKey::OffsetDelete => later!(data, request, |body| offset_delete::answer(&groups, body)),
        ApiKey::ListGroups => later!(data, request, |body| list_groups::answer(&groups, body)),
        ApiKey::DescribeGroups => later!(data, request, |body| describe_groups::answer(&groups, v, body)),
        ApiKey::ConsumerGroupHeartbeat => {
            let client = request.client_id.clone();
            later!(data, request, |body| consumer_group_heartbeat::answer(
                &groups,
                &session,
                client.as_deref(),
                body
            ))
        }
        ApiKey::ConsumerGroupDescribe => {
            later!(data, request, |body| consumer_group_describe::answer(&groups, body))
        }
        ApiKey::DeleteGroups => later!(data, request, |body| delete_groups::answer(&groups, body)),
        api => Started::Done(not_served(api)),
    }
}

/// Starts a request about transactions.
fn start_txn<R: Runtime>(parts: Arc<Parts<R>>, request: Request) -> Started {
    let v = request.version;
    let (data, txns, control) = (parts.data.clone(), parts.transactions.clone(), parts.control.clone());
    match request.api {
        ApiKey::InitProducerId => {
            later!(data, request, |body| init_producer_id::answer(
                &parts.producer_ids,
                &control,
                &txns,
                v,
                body
            ))
        }
        ApiKey::AddPartitionsToTxn => {
            later!(data, request, |body| add_partitions_to_txn::answer(&txns, v, body))
        }
        ApiKey::AddOffsetsToTxn => {
            later!(data, request, |body| add_offsets_to_txn::answer(&control, &txns, v, body))
        }
        ApiKey::EndTxn => {
            later!(data, request, |body| end_txn::answer(&parts.producer_ids, &control, &txns, v, body))
        }
        ApiKey::WriteTxnMarkers => later!(data, request, |body| write_txn_markers::answer(&txns, body)),
        ApiKey::TxnOffsetCommit => {
            later!(data, request, |body| txn_offset_commit::answer(
                &parts.data,
                &parts.groups,
                &txns,
                v,
                body
            ))
        }
        ApiKey::DescribeTransactions => {
            later!(data, request, |body| describe_transactions::answer(&txns, body))
        }
        ApiKey::ListTransactions => {
            let now_ms = control.runtime.unix_ms();
            later!(data, request, |body| list_transactions::answer(&txns, now_ms, body))
        }
        api => Started::Done(not_served(api)),
    }
}

fn not_served(api: ApiKey) -> Reply {
    assert!(!SERVED.contains(&api), "{api:?} is advertised and has no line in the dispatch");
    Reply::Close(format!("{} is not served", api.name()))
}
