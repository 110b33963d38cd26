//! Kafka's APIs: one file each, and the [`dispatch`] between them.
//!
//! - data plane, over [`data_plane`] (the partitions): [`produce`] with [`produce_check`] (pure), [`fetch`] with
//!   [`fetch_session`] (pure), [`list_offsets`], [`offset_for_leader_epoch`], [`delete_records`],
//!   [`describe_producers`], [`describe_log_dirs`]
//! - control plane, over [`control_plane`] (the controller and the image): topics, partitions, configs, the cluster,
//!   [`init_producer_id`], [`api_versions`]
//! - groups, over [`group_plane`] (the coordinators): [`find_coordinator`], [`join_group`], [`sync_group`],
//!   [`heartbeat`], [`leave_group`], [`offset_commit`], [`offset_fetch`], [`offset_delete`], [`list_groups`],
//!   [`describe_groups`], [`delete_groups`], [`consumer_group_heartbeat`], [`consumer_group_describe`]
//! - transactions, over `coordinator::transactions`: [`init_producer_id`], [`add_partitions_to_txn`],
//!   [`add_offsets_to_txn`], [`end_txn`], [`txn_offset_commit`], [`write_txn_markers`], [`describe_transactions`],
//!   [`list_transactions`]; what produce has to ask first is in [`produce_txn`]
//!
//! An API is a function from its typed request to its typed response; `dispatch` decodes and encodes for all of them,
//! within the memory that [`claims`] allows.

pub mod add_offsets_to_txn;
pub mod add_partitions_to_txn;
pub mod alter_configs;
pub mod alter_partition_reassignments;
pub mod api_versions;
pub mod claims;
pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod control_plane;
pub mod create_partitions;
pub mod create_topics;
pub mod data_plane;
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
pub mod dispatch;
pub mod elect_leaders;
pub mod end_txn;
pub mod fetch;
mod fetch_read;
pub mod fetch_session;
pub mod find_coordinator;
pub mod group_plane;
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
pub mod produce_check;
mod produce_pace;
pub mod produce_txn;
mod reply;
pub mod sync_group;
pub mod txn_offset_commit;
pub mod unregister_broker;
pub mod update_features;
pub mod write_txn_markers;

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod committed_tests;
#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod data_tests;
#[cfg(test)]
mod fetch_tests;
#[cfg(test)]
mod group_tests;
#[cfg(test)]
pub(crate) mod test_kit;
#[cfg(test)]
mod txn_tests;

pub use dispatch::{Api, Parts};
