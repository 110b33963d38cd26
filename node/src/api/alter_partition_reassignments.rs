//! AlterPartitionReassignments (45): replicas begin to move, or go back.

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ReassignablePartition,
    ReassignablePartitionResponse, ReassignableTopicResponse,
};

use super::control_plane::{ControlPlane, outcome};
use crate::controller::decide::reassign::{Reassign, Target};
use crate::runtime::Runtime;

/// Answers one request.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    version: i16,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let target = |partition: ReassignablePartition| {
        let target = partition.replicas.map_or(Target::Back, Target::On);
        (partition.partition_index, target)
    };
    let topics = request.topics.into_iter();
    let topics = topics.map(|topic| (topic.name, topic.partitions.into_iter().map(target).collect()));
    // Version 0 knows no such switch: it is always allowed.
    let allow_factor_change = version < 1 || request.allow_replication_factor_change;
    let reassign = Reassign { topics: topics.collect(), allow_factor_change };
    let told = AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: allow_factor_change,
        ..Default::default()
    };
    match control.change(reassign, request.timeout_ms).await {
        Err(refusal) => AlterPartitionReassignmentsResponse {
            error_code: refusal.code,
            error_message: refusal.message,
            ..told
        },
        Ok(results) => {
            let partition = |(partition_index, result): (_, Result<(), _>)| {
                let (error_code, error_message) = outcome(&result);
                ReassignablePartitionResponse { partition_index, error_code, error_message }
            };
            let responses = results.into_iter().map(|(name, partitions)| ReassignableTopicResponse {
                name,
                partitions: partitions.into_iter().map(partition).collect(),
            });
            assert!(told.error_code == ErrorCode::NONE, "{told:?}");
            AlterPartitionReassignmentsResponse { responses: responses.collect(), ..told }
        }
    }
}
