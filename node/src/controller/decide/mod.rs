//! Every change of the metadata that somebody may ask for: one file each, all pure.
//!
//! The tour: topics come ([`create_topics`]), grow ([`create_partitions`]) and go ([`delete_topics`]); configs are
//! set and removed ([`alter_configs`]); producers get ids ([`producer_ids`]); brokers begin a new life
//! ([`register_broker`]). [`replicas`] is what creating and growing share.

pub mod alter_configs;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_topics;
pub mod producer_ids;
pub mod register_broker;
mod replicas;

#[cfg(test)]
pub(crate) mod tests;
