//! The native client: what the command line, our users and the simulator's workloads talk to a broker with.
//!
//! A tour, from the bytes up. Pure: [`retry`] (when again), [`outcome`] (what an attempt proves), [`partitioner`]
//! (where a record goes), [`batching`] (which records travel together), [`sequence`] (idempotence over retries).

pub mod batching;
pub mod outcome;
pub mod partitioner;
pub mod retry;
pub mod sequence;
