//! CreatePartitions (37): topics grow.

use dejaq_wire::kafka::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopicResult,
};

use super::control_plane::{ControlPlane, outcome};
use crate::controller::decide::create_partitions::CreatePartitions;
use crate::runtime::Runtime;

/// Answers one request.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let names: Vec<String> = request.topics.iter().map(|topic| topic.name.clone()).collect();
    let grow = CreatePartitions { topics: request.topics, validate_only: request.validate_only };
    let results = match control.change(grow, request.timeout_ms).await {
        Ok(results) => results,
        Err(refusal) => names.into_iter().map(|name| (name, Err(refusal.clone()))).collect(),
    };
    let result = |(name, result): (String, Result<(), _>)| {
        let (error_code, error_message) = outcome(&result);
        CreatePartitionsTopicResult { name, error_code, error_message }
    };
    CreatePartitionsResponse { results: results.into_iter().map(result).collect(), ..Default::default() }
}
