//! The cluster's metadata: what topics, partitions, brokers and configs there are.
//!
//! The tour, in the order in which a change travels: `controller` decides [`record`]s and makes them durable;
//! [`replay`] applies them to an [`image`]; [`published`] hands the new image to everyone; [`delta`] tells what
//! changed between two images; [`snapshot`] is an image as bytes. [`config_table`] and [`topic_config`] say what a topic config is and means; [`level`] says which
//! release can read what.
//!
//! Everything here is pure but for `published`, which is a lock and a notice.

pub mod config_table;
pub mod delta;
pub mod image;
pub mod level;
pub mod published;
pub mod record;
mod record_v1;
pub mod replay;
pub mod snapshot;
pub mod topic_config;

pub use delta::Delta;
pub use image::{Broker, Endpoint, Image, Partition, Topic};
pub use published::Published;
pub use record::Record;
pub use topic_config::{BrokerDefaults, TopicConfig};
