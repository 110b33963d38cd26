//! Every change of the metadata that somebody may ask for: one file each, all pure.
//!
//! The tour: topics come ([`create_topics`], [`create_internal`]), grow ([`create_partitions`]) and go
//! ([`delete_topics`]); configs are set and removed ([`alter_configs`]); producers get ids ([`producer_ids`]); brokers begin a new life
//! ([`register_broker`]), say that they live ([`broker_heartbeat`]) and go for good ([`members`]); leaders change
//! their in-sync sets ([`alter_partition`]); leaderships ([`elect_leaders`]) and replicas ([`reassign`]) move; time
//! passes ([`tick`]); the cluster goes to another level ([`update_features`]). [`replicas`] is what creating and growing share.

pub mod alter_configs;
pub mod alter_partition;
pub mod broker_heartbeat;
pub mod create_internal;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_topics;
pub mod elect_leaders;
pub mod members;
pub mod producer_ids;
pub mod reassign;
pub mod register_broker;
mod replicas;
pub mod tick;
pub mod update_features;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
pub(crate) mod tests;
