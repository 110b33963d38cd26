//! CreateTopics (19): answers each topic apart; from version 5 on with all configs that the topic has.

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::create_topics::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};

use super::control_plane::ControlPlane;
use crate::controller::Refusal;
use crate::controller::decide::create_topics::{CreateTopics, Created};
use crate::metadata::BrokerDefaults;
use crate::metadata::config_table::TOPIC_CONFIGS;
use crate::metadata::topic_config::candidates;
use crate::runtime::Runtime;

/// Answers one request.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let names: Vec<String> = request.topics.iter().map(|topic| topic.name.clone()).collect();
    let create = CreateTopics { topics: request.topics, validate_only: request.validate_only };
    let results = match control.change(create, request.timeout_ms).await {
        Ok(results) => results,
        Err(refusal) => names.into_iter().map(|name| (name, Err(refusal.clone()))).collect(),
    };
    let defaults = control.broker_defaults(&control.published.current());
    let topics = results.into_iter().map(|(name, result)| topic_result(name, result, &defaults)).collect();
    CreateTopicsResponse { topics, ..Default::default() }
}

fn topic_result(
    name: String,
    result: Result<Created, Refusal>,
    defaults: &BrokerDefaults,
) -> CreatableTopicResult {
    match result {
        Err(Refusal { code, message }) => CreatableTopicResult {
            name,
            error_code: code,
            error_message: message,
            configs: Some(Vec::new()),
            ..Default::default()
        },
        Ok(created) => CreatableTopicResult {
            name,
            topic_id: created.topic_id,
            error_code: ErrorCode::NONE,
            num_partitions: created.partitions,
            replication_factor: created.replicas,
            configs: Some(configs(&created, defaults)),
            ..Default::default()
        },
    }
}

fn configs(created: &Created, defaults: &BrokerDefaults) -> Vec<CreatableTopicConfigs> {
    let shown = TOPIC_CONFIGS.iter().filter(|def| !def.internal || created.configs.contains_key(def.name));
    let config = shown.map(|def| {
        let in_force = candidates(def, &created.configs, defaults).swap_remove(0);
        CreatableTopicConfigs {
            name: def.name.to_owned(),
            value: Some(in_force.value),
            read_only: false,
            config_source: in_force.source.wire_source(),
            is_sensitive: false,
        }
    });
    config.collect()
}
