//! Coordinators: who is in a consumer group, who reads what, and how far each group is.
//!
//! The tour: a group's name leads by [`home`] (pure) to one partition of the internal topic [`home::OFFSETS_TOPIC`],
//! whose leader coordinates the group. [`shards`] knows which of those partitions this node leads; [`shard`] (SHELL)
//! owns one of them for one leader epoch: it loads it to its end, feeds requests and time to [`group`] (pure), writes
//! what that decides through the same partition path as every producer, and releases replies when the watermark has
//! passed their records. [`record`] and [`consumer_record`] (pure) are what stands in the topic. [`txn`] (pure) is what a
//! coordinator of transactions decides; no shell drives it yet.
//!
//! ```text
//!  api ─► shards ─► shard ─► group.step ─► records ─► Partition::write (acks=all) ─► watermark ─► group.step ─► reply
//!                    └ leadership lost: every held reply becomes NOT_COORDINATOR, in one place
//! ```

pub mod consumer_record;
pub mod group;
pub mod home;
pub mod record;
pub mod shard;
pub mod shards;
pub mod txn;

pub use shards::Shards;
