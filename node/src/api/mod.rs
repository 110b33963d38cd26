//! One file per API.

pub mod alter_configs;
pub mod api_versions;
pub mod control_plane;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_topic_partitions;
pub mod fetch_session;
pub mod incremental_alter_configs;
pub mod metadata;

#[cfg(test)]
mod control_tests;
