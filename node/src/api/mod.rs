//! One file per API, and the dispatch between them.

pub mod data_plane;
pub mod delete_records;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod fetch;
mod fetch_read;
pub mod fetch_session;
pub mod list_offsets;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod produce_check;
mod reply;
