//! DescribeConfigs (32): what is set on a topic or a broker, where it comes from, and what it means.
//!
//! A topic shows every topic config; a broker shows its own settings (read-only, under our names and the names by
//! which Kafka's tools look for the common ones) and the defaults that topics take from it; all brokers together (an
//! empty name) show what was set for all of them at run time.
//! Promises: the memory of all answers together is bounded, since each is claimed for before it is made and until it is sent;
//! other connections are served meanwhile.

use std::collections::BTreeSet;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::CorrelationId;
use dejaq_wire::kafka::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};
use dejaq_wire::topic_name::validate_topic_name;

use super::alter_configs::{BROKER, TOPIC, broker_id};
use super::claims::PATIENCE;
use super::control_plane::ControlPlane;
use super::data_plane::DataPlane;
use super::reply;
use crate::config::{Config, Kind as SettingKind, TABLE};
use crate::controller::Refusal;
use crate::controller::decide::alter_configs::DRAIN_BROKERS;
use crate::metadata::config_table::{TOPIC_CONFIGS, TopicConfigDef};
use crate::metadata::topic_config::{Candidate, Overrides, Source, candidates};
use crate::metadata::{BrokerDefaults, Image};
use crate::runtime::{Mono, Runtime};
use crate::server::service::Reply;

/// Kafka's numbers of types.
const BOOLEAN: i8 = 1;
const STRING: i8 = 2;
const LONG: i8 = 5;

/// Resources that one request may ask for.
const MAX_RESOURCES: usize = 5000;
/// What one of them takes while its answer is made and encoded, with synonyms and documentation.
const EACH_BYTES: usize = 32 << 10;

/// Answers one request, once there is memory for the answer.
pub async fn answer<R: Runtime>(
    (data, control): (&DataPlane<R>, &ControlPlane<R>),
    (at, version, correlation_id): (Mono, i16, CorrelationId),
    request: DescribeConfigsRequest,
) -> Reply {
    let room = request.resources.len().clamp(1, MAX_RESOURCES) * EACH_BYTES;
    let claimed = data.runtime.before(at.plus(PATIENCE), data.descriptions.claim(room)).await;
    let Some(claim) = claimed else {
        mark!("an answer finds no memory");
        return Reply::Close("there was no memory for the answer: others do not read theirs".to_owned());
    };
    let image = control.published.current();
    let mut results = Vec::with_capacity(request.resources.len());
    let mut seen = BTreeSet::new();
    for resource in &request.resources {
        let is_new = seen.insert((resource.resource_type, &resource.resource_name));
        let refused = match results.len() {
            _ if !is_new => Some("The request asks for this resource twice.".to_owned()),
            0..MAX_RESOURCES => None,
            _ => Some(format!("One request may ask for at most {MAX_RESOURCES} resources.")),
        };
        results.push(one(control, &image, &request, resource, refused));
        tokio::task::yield_now().await; // thousands of them take seconds, and others want this thread
    }
    let answer = DescribeConfigsResponse { results, ..Default::default() };
    reply::held(reply::frame(version, correlation_id, &answer), Some(claim))
}

fn invalid(why: String) -> Refusal {
    Refusal::new(ErrorCode::INVALID_REQUEST, why)
}

/// What the answer says of one resource.
pub(super) fn one<R: Runtime>(
    control: &ControlPlane<R>,
    image: &Image,
    request: &DescribeConfigsRequest,
    resource: &DescribeConfigsResource,
    refused: Option<String>,
) -> DescribeConfigsResult {
    let described = refused.map_or_else(|| describe(control, image, resource), |why| Err(invalid(why)));
    let (error_code, error_message, mut configs) = match described {
        Ok(configs) => (ErrorCode::NONE, None, configs),
        Err(Refusal { code, message }) => (code, message, Vec::new()),
    };
    if let Some(keys) = resource.configuration_keys.as_ref().filter(|keys| !keys.is_empty()) {
        configs.retain(|config| keys.contains(&config.name));
    }
    for config in &mut configs {
        if !request.include_synonyms {
            config.synonyms.clear();
        }
        if !request.include_documentation {
            config.documentation = None;
        }
    }
    DescribeConfigsResult {
        error_code,
        error_message,
        resource_type: resource.resource_type,
        resource_name: resource.resource_name.clone(),
        configs,
    }
}

fn describe<R: Runtime>(
    control: &ControlPlane<R>,
    image: &Image,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    let defaults = control.broker_defaults(image);
    let name = resource.resource_name.as_str();
    match resource.resource_type {
        TOPIC => {
            if let Err(why) = validate_topic_name(name) {
                return Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, why.to_string()));
            }
            match image.topic_named(name) {
                Some(topic) => Ok(of_topic(&topic.configs, &defaults)),
                None => Err(Refusal { code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, message: None }),
            }
        }
        BROKER if name.is_empty() => {
            let mut configs = of_all_brokers(&defaults);
            configs.extend(draining(image));
            Ok(configs)
        }
        BROKER => {
            let (asked, here) = (broker_id(name)?, control.settings.node);
            if asked != here {
                let why =
                    format!("Unexpected broker id, expected {here} or empty string, but received {name}");
                return Err(invalid(why));
            }
            let mut configs = of_settings(&control.config, control.settings.replication_factor(image));
            configs.extend(of_broker(&defaults));
            configs.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(configs)
        }
        other => Err(invalid(format!("Unsupported resource type: {other}"))),
    }
}

fn of_topic(topic: &Overrides, defaults: &BrokerDefaults) -> Vec<DescribeConfigsResourceResult> {
    let shown = TOPIC_CONFIGS.iter().filter(|def| !def.internal || topic.contains_key(def.name));
    shown
        .map(|def| entry(def.name, def, candidates(def, topic, defaults), def.broker_name.is_some()))
        .collect()
}

fn of_broker(defaults: &BrokerDefaults) -> Vec<DescribeConfigsResourceResult> {
    let none = Overrides::new();
    let named = TOPIC_CONFIGS.iter().filter_map(|def| Some((def.broker_name?, def)));
    named.map(|(name, def)| entry(name, def, candidates(def, &none, defaults), true)).collect()
}

fn of_all_brokers(defaults: &BrokerDefaults) -> Vec<DescribeConfigsResourceResult> {
    let set = of_broker(defaults).into_iter().filter_map(|mut config| {
        config.synonyms.retain(|synonym| synonym.source == Source::AllBrokers.wire_source());
        let value = config.synonyms.first()?.value.clone();
        Some(DescribeConfigsResourceResult {
            value,
            config_source: Source::AllBrokers.wire_source(),
            ..config
        })
    });
    set.collect()
}

/// Which brokers are to be emptied, if any are.
fn draining(image: &Image) -> Option<DescribeConfigsResourceResult> {
    const LIST: i8 = 7;
    let ids = image.brokers().filter(|broker| broker.draining).map(|broker| broker.id.to_string());
    let value = ids.collect::<Vec<_>>().join(",");
    let doc = "Brokers that are to be emptied: their replicas move away, and none come.";
    (!value.is_empty()).then(|| DescribeConfigsResourceResult {
        read_only: false,
        config_source: Source::AllBrokers.wire_source(),
        synonyms: Vec::new(),
        ..setting_entry(DRAIN_BROKERS, value, true, LIST, doc)
    })
}

/// `synonyms` holds the value in force first. Kafka shows no synonym of a default that no broker config stands for.
fn entry(
    name: &str,
    def: &TopicConfigDef,
    synonyms: Vec<Candidate>,
    show_default: bool,
) -> DescribeConfigsResourceResult {
    let in_force = synonyms.first().expect("the built-in default is always a candidate").clone();
    let shown = synonyms.into_iter().filter(|one| show_default || one.source != Source::Default);
    let synonym = |one: Candidate| DescribeConfigsSynonym {
        name: one.name.to_owned(),
        value: Some(one.value),
        source: one.source.wire_source(),
    };
    DescribeConfigsResourceResult {
        name: name.to_owned(),
        value: Some(in_force.value),
        read_only: false,
        config_source: in_force.source.wire_source(),
        is_sensitive: false,
        synonyms: shown.map(synonym).collect(),
        config_type: def.kind.wire_type(),
        documentation: Some(def.doc.to_owned()),
    }
}

/// What the broker was started with: our names, then Kafka's names of the common ones.
fn of_settings(config: &Config, factor: i16) -> Vec<DescribeConfigsResourceResult> {
    let ours = TABLE.iter().map(|setting| {
        let given = config.given.get(setting.name);
        let value = given.cloned().unwrap_or_else(|| setting.default_text());
        let config_type = match setting.kind {
            SettingKind::Switch { .. } => BOOLEAN,
            SettingKind::Number { .. } if value.parse::<i64>().is_ok() => LONG,
            // A number with a unit, such as 64MiB, is no number to a client.
            SettingKind::Number { .. } | SettingKind::Choice { .. } | SettingKind::Text { .. } => STRING,
        };
        setting_entry(setting.name, value, given.is_some(), config_type, setting.effect)
    });
    let kafkas = kafka_names(config, factor).into_iter().map(|(name, value, ours, config_type)| {
        let given = ours.is_some_and(|ours| config.given.contains_key(ours));
        let doc = match ours {
            Some(ours) => format!("The setting {ours} by Kafka's name."),
            None => "Fixed in this version.".to_owned(),
        };
        setting_entry(name, value, given, config_type, &doc)
    });
    ours.chain(kafkas).collect()
}

/// Kafka's name, the value, our name of the setting if it is one, the type.
fn kafka_names(config: &Config, factor: i16) -> Vec<(&'static str, String, Option<&'static str>, i8)> {
    let listener = |address: &str| format!("PLAINTEXT://{address}");
    let advertised = if config.advertise.is_empty() { &config.listen } else { &config.advertise };
    let millis = config.limits.idle_timeout.as_millis().to_string();
    vec![
        ("advertised.listeners", listener(advertised), Some("advertise"), STRING),
        (
            "auto.create.topics.enable",
            config.topics.auto_create.to_string(),
            Some("auto-create-topics"),
            BOOLEAN,
        ),
        ("broker.id", config.node_id.to_string(), Some("node-id"), LONG),
        ("connections.max.idle.ms", millis, Some("idle-timeout-ms"), LONG),
        ("default.replication.factor", factor.to_string(), Some("default-replication-factor"), LONG),
        ("delete.topic.enable", "true".to_owned(), None, BOOLEAN),
        ("listeners", listener(&config.listen), Some("listen"), STRING),
        ("log.dirs", config.data_dir.clone(), Some("data-dir"), STRING),
        ("max.connections", config.limits.max_connections.to_string(), Some("max-connections"), LONG),
        ("node.id", config.node_id.to_string(), Some("node-id"), LONG),
        ("num.partitions", config.topics.default_partitions.to_string(), Some("default-partitions"), LONG),
        (
            "socket.request.max.bytes",
            config.limits.request_max_bytes.to_string(),
            Some("request-max-bytes"),
            LONG,
        ),
    ]
}

fn setting_entry(
    name: &str,
    value: String,
    given: bool,
    config_type: i8,
    doc: &str,
) -> DescribeConfigsResourceResult {
    let source = if given { Source::Settings } else { Source::Default };
    let synonym = DescribeConfigsSynonym {
        name: name.to_owned(),
        value: Some(value.clone()),
        source: source.wire_source(),
    };
    DescribeConfigsResourceResult {
        name: name.to_owned(),
        value: Some(value),
        read_only: true,
        config_source: source.wire_source(),
        is_sensitive: false,
        synonyms: vec![synonym],
        config_type,
        documentation: Some(doc.to_owned()),
    }
}
