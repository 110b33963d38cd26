//! From requests to the API that answers them.
//!
//! Owns: the table of what is served. Promises: Produce requests that came in one turn, next to each other, are started
//! together; everything is started in the order of arrival; bytes that are no request and APIs that are not served
//! close the connection.
//! Leaves out: what an API answers (one file each), order and limits of a connection (`server`).
//! Called by `server::connection` through [`Service`]; made by `broker`.

use std::sync::Arc;

use dejaq_wire::api::ApiKey;

use super::control_plane::ControlPlane;
use super::data_plane::DataPlane;
use super::group_plane::GroupPlane;
use super::init_producer_id::ProducerIds;
use super::{
    add_offsets_to_txn, add_partitions_to_txn, alter_configs, alter_partition_reassignments, api_versions,
    consumer_group_describe, consumer_group_heartbeat, create_partitions, create_topics, delete_groups,
    delete_records, delete_topics, describe_cluster, describe_configs, describe_groups, describe_log_dirs,
    describe_producers, describe_quorum, describe_topic_partitions, describe_transactions, elect_leaders,
    end_txn, fetch, find_coordinator, heartbeat, incremental_alter_configs, init_producer_id, join_group,
    leave_group, list_groups, list_offsets, list_partition_reassignments, list_transactions, metadata,
    offset_commit, offset_delete, offset_fetch, offset_for_leader_epoch, produce, reply, sync_group,
    txn_offset_commit, unregister_broker, update_features, write_txn_markers,
};
use crate::coordinator::transactions::Transactions;
use crate::runtime::Runtime;
use crate::server::service::{Reply, Request, Service, Session, Started};

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
    fn start_turn(&self, session: &Arc<Session>, requests: Vec<Request>) -> Vec<Started> {
        let count = requests.len();
        let mut started = Vec::with_capacity(count);
        let mut produce = Vec::new();
        for request in requests {
            if request.api == ApiKey::Produce {
                if produce.is_empty() {
                    produce.reserve_exact(count - started.len());
                }
                produce.push(request);
                continue;
            }
            started.extend(produce::start(
                &self.parts.data,
                &self.parts.transactions,
                std::mem::take(&mut produce),
            ));
            started.push(start(self.parts.clone(), session.clone(), request));
        }
        started.extend(produce::start(&self.parts.data, &self.parts.transactions, produce));
        assert_eq!(started.len(), count, "one start a request");
        started
    }
}

/// Decodes the body, then answers later: `body` is the decoded request in `answer`, an async expression.
macro_rules! later {
    ($request:ident, |$body:ident| $answer:expr) => {{
        let (version, correlation_id) = ($request.version, $request.correlation_id);
        match decode(version, $request.body) {
            Ok($body) => Started::Later(Box::pin(async move {
                let answer = $answer.await;
                reply::frame(version, correlation_id, &answer)
            })),
            Err(close) => Started::Done(close),
        }
    }};
}

/// Decodes the body and answers at once.
macro_rules! now {
    ($request:ident, |$body:ident| $answer:expr) => {{
        let (version, correlation_id) = ($request.version, $request.correlation_id);
        Started::Done(match decode(version, $request.body) {
            Ok($body) => reply::frame(version, correlation_id, &$answer),
            Err(close) => close,
        })
    }};
}

fn decode<Q: dejaq_wire::kafka::Request>(version: i16, body: bytes::Bytes) -> Result<Q, Reply> {
    Q::decode(version, body).map_err(|error| reply::malformed(&error))
}

/// Starts any request but Produce.
fn start<R: Runtime>(parts: Arc<Parts<R>>, session: Arc<Session>, request: Request) -> Started {
    let (at, v) = (request.received_at, request.version);
    let (data, control) = (parts.data.clone(), parts.control.clone());
    match request.api {
        ApiKey::Produce => unreachable!("start_turn keeps Produce apart"),
        ApiKey::Fetch => later!(request, |body| fetch::answer(&data, &session, at, v, body)),
        ApiKey::ListOffsets => later!(request, |body| list_offsets::answer(&data, v, body)),
        ApiKey::OffsetForLeaderEpoch => now!(request, |body| offset_for_leader_epoch::answer(&data, body)),
        ApiKey::DeleteRecords => later!(request, |body| delete_records::answer(&data, at, body)),
        ApiKey::DescribeProducers => now!(request, |body| describe_producers::answer(&data, body)),
        ApiKey::DescribeLogDirs => now!(request, |body| describe_log_dirs::answer(&data, body)),
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
            now!(request, |body| api_versions::answer(SERVED, (&image, levels), &session, v, body))
        }
        ApiKey::Metadata => later!(request, |body| metadata::answer(&control, &session, v, body)),
        ApiKey::CreateTopics => later!(request, |body| create_topics::answer(&control, body)),
        ApiKey::DeleteTopics => later!(request, |body| delete_topics::answer(&control, body)),
        ApiKey::CreatePartitions => later!(request, |body| create_partitions::answer(&control, body)),
        ApiKey::DescribeConfigs | ApiKey::AlterConfigs | ApiKey::IncrementalAlterConfigs => {
            start_configs(&parts, request)
        }
        ApiKey::DescribeCluster => {
            now!(request, |body| describe_cluster::answer(&control, &session, v, &body))
        }
        ApiKey::DescribeTopicPartitions => {
            now!(request, |body| describe_topic_partitions::answer(&control.published.current(), body))
        }
        ApiKey::AlterPartitionReassignments => {
            later!(request, |body| alter_partition_reassignments::answer(&control, v, body))
        }
        ApiKey::ListPartitionReassignments => {
            now!(request, |body| list_partition_reassignments::answer(&control.published.current(), &body))
        }
        ApiKey::DescribeQuorum => later!(request, |body| describe_quorum::answer(&control, v, body)),
        ApiKey::AddRaftVoter => later!(request, |body| describe_quorum::add(&control, body)),
        ApiKey::RemoveRaftVoter => later!(request, |body| describe_quorum::remove(&control, body)),
        ApiKey::ElectLeaders => later!(request, |body| elect_leaders::answer(&control, body)),
        ApiKey::UnregisterBroker => later!(request, |body| unregister_broker::answer(&control, body)),
        ApiKey::UpdateFeatures => later!(request, |body| update_features::answer(&control, v, body)),
    }
}

/// Starts a request about configs.
fn start_configs<R: Runtime>(parts: &Parts<R>, request: Request) -> Started {
    let (data, control) = (parts.data.clone(), parts.control.clone());
    match request.api {
        ApiKey::DescribeConfigs => {
            let about = (request.received_at, request.version, request.correlation_id);
            match decode(request.version, request.body) {
                Ok(body) => Started::Later(Box::pin(async move {
                    describe_configs::answer((&data, &control), about, body).await
                })),
                Err(close) => Started::Done(close),
            }
        }
        ApiKey::AlterConfigs => later!(request, |body| alter_configs::answer(&control, body)),
        _ => later!(request, |body| incremental_alter_configs::answer(&control, body)),
    }
}

/// Starts a request about groups.
fn start_group<R: Runtime>(parts: Arc<Parts<R>>, session: Arc<Session>, request: Request) -> Started {
    let v = request.version;
    let (groups, control) = (parts.groups.clone(), parts.control.clone());
    match request.api {
        ApiKey::FindCoordinator => {
            later!(request, |body| find_coordinator::answer(&control, &session, v, body))
        }
        ApiKey::JoinGroup => {
            let client = request.client_id.clone();
            later!(request, |body| join_group::answer(&groups, &session, client.as_deref(), v, body))
        }
        ApiKey::SyncGroup => later!(request, |body| sync_group::answer(&groups, v, body)),
        ApiKey::Heartbeat => later!(request, |body| heartbeat::answer(&groups, body)),
        ApiKey::LeaveGroup => later!(request, |body| leave_group::answer(&groups, v, body)),
        ApiKey::OffsetCommit => later!(request, |body| offset_commit::answer(&groups, v, body)),
        ApiKey::OffsetFetch => later!(request, |body| offset_fetch::answer(&groups, v, body)),
        ApiKey::OffsetDelete => later!(request, |body| offset_delete::answer(&groups, body)),
        ApiKey::ListGroups => later!(request, |body| list_groups::answer(&groups, body)),
        ApiKey::DescribeGroups => later!(request, |body| describe_groups::answer(&groups, v, body)),
        ApiKey::ConsumerGroupHeartbeat => {
            let client = request.client_id.clone();
            later!(request, |body| consumer_group_heartbeat::answer(
                &groups,
                &session,
                client.as_deref(),
                body
            ))
        }
        ApiKey::ConsumerGroupDescribe => {
            later!(request, |body| consumer_group_describe::answer(&groups, body))
        }
        ApiKey::DeleteGroups => later!(request, |body| delete_groups::answer(&groups, body)),
        api => Started::Done(not_served(api)),
    }
}

/// Starts a request about transactions.
fn start_txn<R: Runtime>(parts: Arc<Parts<R>>, request: Request) -> Started {
    let v = request.version;
    let (txns, control) = (parts.transactions.clone(), parts.control.clone());
    match request.api {
        ApiKey::InitProducerId => {
            later!(request, |body| init_producer_id::answer(&parts.producer_ids, &control, &txns, v, body))
        }
        ApiKey::AddPartitionsToTxn => {
            later!(request, |body| add_partitions_to_txn::answer(&txns, v, body))
        }
        ApiKey::AddOffsetsToTxn => {
            later!(request, |body| add_offsets_to_txn::answer(&control, &txns, v, body))
        }
        ApiKey::EndTxn => {
            later!(request, |body| end_txn::answer(&parts.producer_ids, &control, &txns, v, body))
        }
        ApiKey::WriteTxnMarkers => later!(request, |body| write_txn_markers::answer(&txns, body)),
        ApiKey::TxnOffsetCommit => {
            later!(request, |body| txn_offset_commit::answer(&parts.data, &parts.groups, &txns, v, body))
        }
        ApiKey::DescribeTransactions => later!(request, |body| describe_transactions::answer(&txns, body)),
        ApiKey::ListTransactions => {
            let now_ms = control.runtime.unix_ms();
            later!(request, |body| list_transactions::answer(&txns, now_ms, body))
        }
        api => Started::Done(not_served(api)),
    }
}

fn not_served(api: ApiKey) -> Reply {
    assert!(!SERVED.contains(&api), "{api:?} is advertised and has no line in the dispatch");
    Reply::Close(format!("{} is not served", api.name()))
}
