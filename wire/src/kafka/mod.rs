//! The messages of Kafka's APIs, each declared once, and the bounded codec under them.
//!
//! Tour: [`message`] is the macro by which an API declares its structs; [`codec`] says how each type
//! of field stands on the wire; [`Reader`] and [`Writer`] are the two ends; [`Records`] is a record
//! set that is never copied. Then one file per API, named as Kafka names it, with Kafka's field names.
//!
//! Promises: decoding never panics and takes at most [`reader::memory_limit`] of memory; a message
//! that was decoded and is encoded again in the same version is the same bytes, but for unknown tags.
//! Leaves out: what an answer should say (`node::api`).

#![allow(missing_docs, reason = "the fields are Kafka's; their meaning stands in its protocol guide")]

pub mod codec;
pub(crate) mod message;
pub mod reader;
pub mod records;
pub mod writer;

pub mod add_offsets_to_txn;
pub mod add_partitions_to_txn;
pub mod add_raft_voter;
pub mod alter_configs;
pub mod alter_partition_reassignments;
pub mod api_versions;
pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_quorum;
pub mod describe_topic_partitions;
pub mod describe_transactions;
pub mod elect_leaders;
pub mod end_txn;
pub mod fetch;
pub mod find_coordinator;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod list_offsets;
pub mod list_partition_reassignments;
pub mod list_transactions;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod remove_raft_voter;
pub mod sync_group;
pub mod txn_offset_commit;
pub mod unregister_broker;
pub mod update_features;
pub mod write_txn_markers;

use std::fmt::Debug;

use bytes::Bytes;

pub use codec::{DecodeError, Malformed, Source, Wire};
pub use reader::{Reader, Room, memory_limit};
pub use records::Records;
pub use writer::{EncodeError, Writer};

use crate::api::ApiKey;

/// The body of a request.
pub trait Request: Wire + Default + Debug + PartialEq {
    /// The API that it asks.
    const API: ApiKey;
    /// What answers it.
    type Response: Response;

    /// Decodes the body of a request; bytes behind it are ignored, as Kafka ignores them: librdkafka 2.16
    /// writes the null array of a flexible Metadata request as four bytes, so that three are left over.
    ///
    /// # Errors
    /// [`DecodeError`]: close the connection.
    fn decode(version: i16, body: Bytes) -> Result<Self, DecodeError> {
        decode(Self::API, version, body, EVERYTHING).map(|(value, _)| value)
    }

    /// The same within `most`; tells what it took.
    ///
    /// # Errors
    /// As [`Request::decode`]; [`Malformed::TooMuchMemory`] also if it would take more than `most`.
    fn decode_within(version: i16, body: Bytes, most: Room) -> Result<(Self, Room), DecodeError> {
        let bytes = most.bytes.min(memory_limit(body.len()));
        let (value, reader) = decode(Self::API, version, body, most)?;
        let left = reader.room();
        Ok((value, Room { bytes: bytes - left.bytes, elements: most.elements - left.elements }))
    }
}

/// The body of a response.
pub trait Response: Wire + Default + Debug + PartialEq {
    /// The API that answers.
    const API: ApiKey;

    /// Decodes the body of a response; all of it.
    ///
    /// # Errors
    /// [`DecodeError`]: close the connection.
    fn decode(version: i16, body: Bytes) -> Result<Self, DecodeError> {
        let (value, reader) = decode(Self::API, version, body, EVERYTHING)?;
        reader.finish()?;
        Ok(value)
    }
}

/// As much as the size of the message earns.
const EVERYTHING: Room = Room { bytes: usize::MAX, elements: usize::MAX };

fn decode<T: Wire>(api: ApiKey, version: i16, body: Bytes, most: Room) -> Result<(T, Reader), DecodeError> {
    let mut reader = Reader::within(body, api.is_flexible(version), most);
    if !api.has_version(version) {
        return Err(reader.error(Malformed::UnknownVersion(version)));
    }
    let value = T::read(&mut reader, version)?;
    Ok((value, reader))
}

/// Code that is to run for every API, each with its own types; see [`visit_apis`].
pub trait ApiVisitor {
    /// Called once for each API.
    fn visit<R: Request>(&mut self);
}

macro_rules! bodies {
    ($($api:ident $module:ident $request:ident $response:ident;)*) => {
        $(
            impl Request for $module::$request {
                const API: ApiKey = ApiKey::$api;
                type Response = $module::$response;
            }
            impl Response for $module::$response {
                const API: ApiKey = ApiKey::$api;
            }
        )*

        /// Visits every API, ascending by key: for tests and fuzzing.
        pub fn visit_apis<V: ApiVisitor>(visitor: &mut V) {
            $(visitor.visit::<$module::$request>();)*
        }
    };
}

bodies! {
    Produce produce ProduceRequest ProduceResponse;
    Fetch fetch FetchRequest FetchResponse;
    ListOffsets list_offsets ListOffsetsRequest ListOffsetsResponse;
    Metadata metadata MetadataRequest MetadataResponse;
    OffsetCommit offset_commit OffsetCommitRequest OffsetCommitResponse;
    OffsetFetch offset_fetch OffsetFetchRequest OffsetFetchResponse;
    FindCoordinator find_coordinator FindCoordinatorRequest FindCoordinatorResponse;
    JoinGroup join_group JoinGroupRequest JoinGroupResponse;
    Heartbeat heartbeat HeartbeatRequest HeartbeatResponse;
    LeaveGroup leave_group LeaveGroupRequest LeaveGroupResponse;
    SyncGroup sync_group SyncGroupRequest SyncGroupResponse;
    DescribeGroups describe_groups DescribeGroupsRequest DescribeGroupsResponse;
    ListGroups list_groups ListGroupsRequest ListGroupsResponse;
    ApiVersions api_versions ApiVersionsRequest ApiVersionsResponse;
    CreateTopics create_topics CreateTopicsRequest CreateTopicsResponse;
    DeleteTopics delete_topics DeleteTopicsRequest DeleteTopicsResponse;
    DeleteRecords delete_records DeleteRecordsRequest DeleteRecordsResponse;
    InitProducerId init_producer_id InitProducerIdRequest InitProducerIdResponse;
    OffsetForLeaderEpoch offset_for_leader_epoch OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse;
    AddPartitionsToTxn add_partitions_to_txn AddPartitionsToTxnRequest AddPartitionsToTxnResponse;
    AddOffsetsToTxn add_offsets_to_txn AddOffsetsToTxnRequest AddOffsetsToTxnResponse;
    EndTxn end_txn EndTxnRequest EndTxnResponse;
    WriteTxnMarkers write_txn_markers WriteTxnMarkersRequest WriteTxnMarkersResponse;
    TxnOffsetCommit txn_offset_commit TxnOffsetCommitRequest TxnOffsetCommitResponse;
    DescribeConfigs describe_configs DescribeConfigsRequest DescribeConfigsResponse;
    AlterConfigs alter_configs AlterConfigsRequest AlterConfigsResponse;
    DescribeLogDirs describe_log_dirs DescribeLogDirsRequest DescribeLogDirsResponse;
    CreatePartitions create_partitions CreatePartitionsRequest CreatePartitionsResponse;
    DeleteGroups delete_groups DeleteGroupsRequest DeleteGroupsResponse;
    ElectLeaders elect_leaders ElectLeadersRequest ElectLeadersResponse;
    IncrementalAlterConfigs incremental_alter_configs IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse;
    AlterPartitionReassignments alter_partition_reassignments AlterPartitionReassignmentsRequest AlterPartitionReassignmentsResponse;
    ListPartitionReassignments list_partition_reassignments ListPartitionReassignmentsRequest ListPartitionReassignmentsResponse;
    OffsetDelete offset_delete OffsetDeleteRequest OffsetDeleteResponse;
    DescribeQuorum describe_quorum DescribeQuorumRequest DescribeQuorumResponse;
    UpdateFeatures update_features UpdateFeaturesRequest UpdateFeaturesResponse;
    DescribeCluster describe_cluster DescribeClusterRequest DescribeClusterResponse;
    DescribeProducers describe_producers DescribeProducersRequest DescribeProducersResponse;
    UnregisterBroker unregister_broker UnregisterBrokerRequest UnregisterBrokerResponse;
    DescribeTransactions describe_transactions DescribeTransactionsRequest DescribeTransactionsResponse;
    ListTransactions list_transactions ListTransactionsRequest ListTransactionsResponse;
    ConsumerGroupHeartbeat consumer_group_heartbeat ConsumerGroupHeartbeatRequest ConsumerGroupHeartbeatResponse;
    ConsumerGroupDescribe consumer_group_describe ConsumerGroupDescribeRequest ConsumerGroupDescribeResponse;
    DescribeTopicPartitions describe_topic_partitions DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse;
    AddRaftVoter add_raft_voter AddRaftVoterRequest AddRaftVoterResponse;
    RemoveRaftVoter remove_raft_voter RemoveRaftVoterRequest RemoveRaftVoterResponse;
}
