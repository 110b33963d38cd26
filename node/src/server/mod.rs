//! Clients come in here: `listener` accepts, `connection` turns frames into requests and replies into frames,
//! `pipeline` keeps the order, `service` is what the API sees of it.
//!
//! ```text
//!  accept ─► connection ── frames ─► header ─► Service::start_turn ─► replies in order ─► frames
//!               │ limits: connections, requests and bytes in flight, idle and slow peers
//!               └ runtime::memory: bytes of all connections together
//! ```

mod connection;
pub mod listener;
mod log_limit;
mod pipeline;
pub mod service;
mod stop;

#[cfg(test)]
mod tests;
