//! Clients come in here: `listener` accepts, `connection` turns frames into requests and replies into frames,
//! `session` and `service` are what the API sees of it, `budget` keeps memory bounded.
//!
//! ```text
//!  accept ─► connection ── frames ─► header ─► Service::start_turn ─► replies in order ─► frames
//!               │ limits: connections, requests and bytes in flight, idle and slow peers
//!               └ budget: bytes of all connections together
//! ```

pub mod service;
