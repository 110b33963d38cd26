//! One file per API.

pub mod fetch_session;
