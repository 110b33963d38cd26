//! The data directory.
use crate::disk::Disk;
use dejaq_wire::ids::{BrokerId, PartitionId, TopicId};
use std::io;
use std::path::PathBuf;

/// What the start must find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// Refuse another cluster; "" takes what is there.
    pub cluster_id: String,
    /// Refuse another node.
    pub node_id: BrokerId,
    /// Written into a new directory when `cluster_id` is "".
    pub new_cluster_id: String,
    /// Written into a new directory.
    pub new_directory_id: [u8; 16],
}
/// Who a data directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirMeta {
    /// Cluster.
    pub cluster_id: String,
    /// Node.
    pub node_id: BrokerId,
    /// Random, made with the directory.
    pub directory_id: [u8; 16],
}
/// A partition's directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionDir {
    /// Topic.
    pub topic_id: TopicId,
    /// Index.
    pub partition: PartitionId,
    /// Relative to the data directory.
    pub path: PathBuf,
}
/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Another process uses it.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// Written by another format version.
    #[error("{path} has format version {found}, this program reads version {expected}")]
    Version {
        /// File.
        path: PathBuf,
        /// There.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// Belongs to another cluster or node.
    #[error("{path} belongs to {found}, not to {expected}")]
    Foreign {
        /// File.
        path: PathBuf,
        /// There.
        found: String,
        /// Ours.
        expected: String,
    },
    /// Not readable.
    #[error("{path}: {why}")]
    Corrupt {
        /// File.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}
/// A data directory that this process owns.
pub struct DataDir<D: Disk> {
    _disk: D,
}
#[expect(unused_variables, clippy::unimplemented, reason = "signatures first")]
impl<D: Disk> DataDir<D> {
    /// Opens.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub async fn open(disk: D, expect: Expect) -> Result<DataDir<D>, LayoutError> {
        unimplemented!()
    }
    /// Who it belongs to.
    pub fn meta(&self) -> &DirMeta {
        unimplemented!()
    }
    /// Whether the last process closed it cleanly.
    pub fn was_clean(&self) -> bool {
        unimplemented!()
    }
    /// Partitions.
    ///
    /// # Errors
    /// The disk.
    pub fn partitions(&self) -> io::Result<Vec<PartitionDir>> {
        unimplemented!()
    }
    /// Where a partition lives.
    pub fn partition_path(topic_id: TopicId, partition: PartitionId) -> PathBuf {
        unimplemented!()
    }
    /// Removes leftovers.
    ///
    /// # Errors
    /// The disk.
    pub async fn sweep(&self) -> io::Result<()> {
        unimplemented!()
    }
    /// Removes a partition durably.
    ///
    /// # Errors
    /// The disk.
    pub async fn remove_partition(&self, topic_id: TopicId, partition: PartitionId) -> io::Result<()> {
        unimplemented!()
    }
    /// Marks the directory clean.
    ///
    /// # Errors
    /// The disk.
    pub async fn mark_clean(self) -> io::Result<()> {
        unimplemented!()
    }
}
