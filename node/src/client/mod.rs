//! The native client: what the command line, our users and the simulator's workloads talk to a broker with.
//!
//! A tour, from the bytes up. Pure: [`retry`] (when again), [`outcome`] (what an attempt proves), [`versions`] (which
//! version of an API), [`routes`] (who leads what), [`partitioner`] (where a record goes), [`batching`] (which records
//! travel together), [`sequence`] (idempotence over retries), [`advice`] (the cure of an error).
//! Shells: [`connection`] (one broker), [`cluster`] (all of them, and their metadata).

pub mod advice;
pub mod batching;
pub mod cluster;
pub mod connection;
pub mod outcome;
pub mod partitioner;
pub mod producer;
pub mod retry;
pub mod routes;
pub mod sequence;
pub mod versions;
