//! The native client: what the command line, our users and the simulator's workloads talk to a broker with.
//!
//! A tour, from the bytes up. Pure: [`retry`] (when again), [`outcome`] (what an attempt proves), [`versions`] (which
//! version of an API), [`routes`] (who leads what), [`partitioner`] (where a record goes), [`batching`] (which records
//! travel together), [`sequence`] (idempotence over retries), [`advice`] (the cure of an error).
//! Shells: [`connection`] (one broker), [`cluster`] (all of them, and their metadata), [`producer`], [`consumer`],
//! [`group`] (a consumer that shares a topic with others), [`txn`] (all or none), [`offsets`], [`admin`].
//!
//! Promises: the same code runs on sockets and in simulation, so it obeys every rule of determinism; each attempt to
//! produce ends as a definite no, a maybe or an ok, and [`outcome::Observer`] hears it; every error has a cure.
//!
//! ```text
//!   producer ──┐
//!   consumer ──┼──► cluster ──► connection ──► broker
//!   admin ─────┘   (routes)     (versions)
//! ```

pub mod admin;
pub mod admin_cluster;
pub mod admin_features;
pub mod admin_groups;
pub mod advice;
pub mod batching;
pub mod cluster;
pub mod connection;
pub mod consumer;
pub mod group;
pub mod offsets;
pub mod outcome;
pub mod partitioner;
pub mod producer;
pub mod retry;
pub mod routes;
pub mod sequence;
pub mod txn;
pub mod versions;

#[cfg(test)]
mod testing;
