//! DescribeLogDirs (35): how many bytes each partition has on this node's one data directory; and, for our own clients, what of
//! it is damaged and what was mended.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dejaq_storage::Disk;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::PartitionId;
use dejaq_wire::kafka::describe_log_dirs::{
    DescribableLogDirTopic, DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse,
    DescribeLogDirsResult, DescribeLogDirsTopic,
};

use super::data_plane::DataPlane;
use crate::replica::TopicEntry;
use crate::runtime::Runtime;

/// Answers one request.
pub fn answer<R: Runtime>(data: &DataPlane<R>, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let table = data.directory.table();
    let asked = request.topics.map(by_name);
    let topics = table.topics().filter_map(|topic| match &asked {
        None => Some(sizes(topic, |_| true)),
        Some(asked) => asked.get(&*topic.name).map(|indexes| sizes(topic, |index| indexes.contains(&index))),
    });
    let disk = data.runtime.disk();
    let is_offline = data.directory.health().is_offline();
    let result = DescribeLogDirsResult {
        error_code: if is_offline { ErrorCode::KAFKA_STORAGE_ERROR } else { ErrorCode::NONE },
        log_dir: disk.display(Path::new("")).display().to_string(),
        topics: if is_offline { Vec::new() } else { topics.collect() },
        total_bytes: disk.total_bytes().ok().flatten().map_or(-1, size),
        mended_ranges: i64::try_from(data.directory.health().counts.mended_ranges.get()).unwrap_or(i64::MAX),
        usable_bytes: disk.free_bytes().map_or(-1, size),
    };
    DescribeLogDirsResponse { results: vec![result], ..Default::default() }
}

fn by_name(topics: Vec<DescribableLogDirTopic>) -> BTreeMap<String, BTreeSet<PartitionId>> {
    let mut asked: BTreeMap<String, BTreeSet<PartitionId>> = BTreeMap::new();
    for topic in topics {
        asked.entry(topic.topic).or_default().extend(topic.partitions);
    }
    asked
}

fn sizes<R: Runtime>(topic: &TopicEntry<R>, is_asked: impl Fn(PartitionId) -> bool) -> DescribeLogDirsTopic {
    let partitions = topic.partitions().filter(|partition| is_asked(partition.identity().partition));
    let partitions = partitions.map(|partition| DescribeLogDirsPartition {
        partition_index: partition.identity().partition,
        partition_size: size(partition.view().reader().size_bytes()),
        offset_lag: partition.lag(),
        damaged_records: partition.damaged().iter().map(|range| range.to.since(range.from)).sum(),
        is_future_key: false,
    });
    DescribeLogDirsTopic { name: topic.name.to_string(), partitions: partitions.collect() }
}

fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
