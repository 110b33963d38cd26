//! IncrementalAlterConfigs (44): sets, deletes, appends and subtracts single configs.

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::incremental_alter_configs::{
    AlterConfigsResource, AlterConfigsResourceResponse, AlterableConfig, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};

use super::alter_configs::{Asked, alter};
use super::control_plane::ControlPlane;
use crate::controller::Refusal;
use crate::controller::decide::alter_configs::Operation;
use crate::runtime::Runtime;

/// Answers one request.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let asked = request.resources.iter().map(asked).collect();
    let results = alter(control, asked, request.validate_only).await;
    let response =
        |(resource, (error_code, error_message)): (&AlterConfigsResource, _)| AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
        };
    let responses = request.resources.iter().zip(results).map(response).collect();
    IncrementalAlterConfigsResponse { responses, ..Default::default() }
}

fn asked(resource: &AlterConfigsResource) -> Asked {
    let unknown = resource.configs.iter().find(|config| !(0..=3).contains(&config.config_operation));
    if let Some(config) = unknown {
        let why = format!("Unknown operations type {}", config.config_operation);
        let why = Refusal::new(ErrorCode::INVALID_REQUEST, why);
        return Asked::refused(resource.resource_type, &resource.resource_name, why);
    }
    let operations = resource.configs.iter().map(|config| (config.name.clone(), operation(config)));
    Asked::new(resource.resource_type, &resource.resource_name, operations, false)
}

fn operation(config: &AlterableConfig) -> Option<Operation> {
    match config.config_operation {
        1 => Some(Operation::Delete),
        2 => config.value.clone().map(Operation::Append),
        3 => config.value.clone().map(Operation::Subtract),
        other => {
            assert_eq!(other, 0, "unknown operations were refused before");
            config.value.clone().map(Operation::Set)
        }
    }
}
