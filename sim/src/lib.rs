//! A DejaQ cluster in one thread, from a seed.

pub mod oracle;
pub mod runner;
