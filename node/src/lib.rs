//! The broker and everything that talks to it, written against [`runtime::Runtime`].
//!
//! A tour, in the order in which a request passes: `main` and `cli` start a [`broker`], which [`config`] describes;
//! [`server`] accepts connections and hands requests to `api`; that asks `replica` for partitions, `metadata` for the
//! picture of the cluster and `controller` to change it; `client` is the other end of the wire, [`peer`] the talk between nodes; [`metrics`]
//! counts.

pub mod api;
pub mod broker;
pub mod cli;
pub mod client;
pub mod config;
pub mod controller;
pub mod coordinator;
pub mod metadata;
pub mod metrics;
pub mod peer;
pub mod replica;
pub mod runtime;
pub mod server;
