//! Sends records.
pub mod core;
