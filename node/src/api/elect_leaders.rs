//! ElectLeaders (43): leaderships go to the preferred replicas, or, unclean, to whoever is left.

use std::collections::BTreeMap;

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::elect_leaders::{
    ElectLeadersRequest, ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};

use super::control_plane::{ControlPlane, outcome};
use crate::controller::decide::elect_leaders::ElectLeaders;
use crate::runtime::Runtime;

/// Kafka's numbers of elections.
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

/// Answers one request.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    request: ElectLeadersRequest,
) -> ElectLeadersResponse {
    let unclean = match request.election_type {
        PREFERRED => false,
        UNCLEAN => true,
        _ => return ElectLeadersResponse { error_code: ErrorCode::INVALID_REQUEST, ..Default::default() },
    };
    let named = request
        .topic_partitions
        .map(|topics| topics.into_iter().map(|topic| (topic.topic, topic.partitions)).collect());
    let elected = match control.change(ElectLeaders { unclean, partitions: named }, request.timeout_ms).await
    {
        Ok(elected) => elected,
        Err(refusal) => return ElectLeadersResponse { error_code: refusal.code, ..Default::default() },
    };
    let mut topics: BTreeMap<String, Vec<PartitionResult>> = BTreeMap::new();
    for (name, index, result) in elected {
        let (error_code, error_message) = outcome(&result);
        let result = PartitionResult { partition_id: index.0, error_code, error_message };
        topics.entry(name).or_default().push(result);
    }
    let results =
        topics.into_iter().map(|(topic, partition_result)| ReplicaElectionResult { topic, partition_result });
    ElectLeadersResponse { replica_election_results: results.collect(), ..Default::default() }
}
