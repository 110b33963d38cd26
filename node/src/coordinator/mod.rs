//! Coordinators: who is in a consumer group, who reads what, how far each group is; and how each transaction ends.
//!
//! The tour: the name of a group, or a transactional id, leads by [`home`] (pure) to one partition of an internal topic,
//! whose leader coordinates it. [`shards`] knows which of those partitions this node leads; [`shard`] (SHELL)
//! owns one of them for one leader epoch: it loads it to its end, feeds requests and time to a [`machine`], [`group`] or
//! [`txn`] (both pure), writes what that decides through the same partition path as every producer, and releases replies
//! when the watermark has passed their records. [`record`] and [`consumer_record`] (pure) are what stands in the offsets topic.
//! [`markers`] (SHELL) brings the ends of transactions into partitions, here and on other nodes; [`room`] (SHELL) answers the other nodes.
//! [`lag`] tells those who watch how far groups are behind.
//!
//! ```text
//!  api ─► shards ─► shard ─► machine ─► records ─► Partition::write (acks=all) ─► watermark ─► machine ─► reply
//!                    │           └ decided ─► markers ─► leaders of the partitions ─► machine
//!                    └ leadership lost: every held reply becomes NOT_COORDINATOR, in one place
//! ```

pub mod consumer_record;
pub mod coordinators;
pub mod group;
pub mod home;
pub mod lag;
pub mod machine;
pub mod markers;
pub mod record;
pub mod room;
pub mod shard;
pub mod shards;
pub mod transactions;
pub mod txn;

pub use coordinators::Coordinators;
pub use shards::Shards;
