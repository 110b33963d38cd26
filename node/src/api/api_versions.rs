//! ApiVersions (18): what this broker serves, and which features the cluster has.
//!
//! A version that we do not know never comes here as such: the request's body cannot be read, and [`too_new`] answers
//! it in the version 0 layout with what we do know of ApiVersions itself, so that the client asks again (KIP-511).
//! Software names are checked loosely, as Kafka does: letters, digits, `-` and `.`, not at the ends.

use dejaq_wire::ErrorCode;
use dejaq_wire::api::{ApiKey, advertise};
use dejaq_wire::kafka::api_versions::{
    ApiVersionsRequest, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};

use crate::controller::decide::register_broker::{METADATA_VERSION, METADATA_VERSION_FEATURE};
use crate::controller::decide::update_features::BUILT_IN;
use crate::metadata::Image;
use crate::metadata::level::{DEJAQ_VERSION, Levels};
use crate::server::service::{Session, Software};

/// Answers in the version of the request. `served` are the APIs that this broker answers, `levels` of `dejaq.version` what it
/// supports.
#[must_use]
pub fn answer(
    served: &[ApiKey],
    (image, levels): (&Image, Levels),
    session: &Session,
    version: i16,
    request: ApiVersionsRequest,
) -> ApiVersionsResponse {
    if version >= 3 {
        let named = [&request.client_software_name, &request.client_software_version];
        if !named.into_iter().all(|name| is_software_name(name)) {
            return ApiVersionsResponse { error_code: ErrorCode::INVALID_REQUEST, ..Default::default() };
        }
        session.set_software(Software {
            name: request.client_software_name,
            version: request.client_software_version,
        });
    }
    let supported = |(name, min, max): (&str, i16, i16)| SupportedFeatureKey {
        name: name.to_owned(),
        min_version: min,
        max_version: max,
    };
    let own = [
        (METADATA_VERSION_FEATURE, METADATA_VERSION, METADATA_VERSION),
        (DEJAQ_VERSION, levels.min, levels.max),
    ];
    // What a cluster may be without is supported from 0 on.
    let built_in = BUILT_IN.iter().map(|(name, level)| (*name, 0, *level));
    let stands = |(name, level): (&str, i16)| FinalizedFeatureKey {
        name: name.to_owned(),
        max_version_level: level,
        min_version_level: level,
    };
    // The first level is written nowhere.
    let first = image.feature(DEJAQ_VERSION).is_none().then_some((DEJAQ_VERSION, image.level()));
    let finalized = image.features().chain(first).chain(BUILT_IN.iter().copied()).map(stands);
    ApiVersionsResponse {
        api_keys: advertise(served.iter().copied()),
        supported_features: own.into_iter().chain(built_in).map(supported).collect(),
        finalized_features_epoch: image.end().0,
        finalized_features: finalized.collect(),
        ..Default::default()
    }
}

/// Answers a version that we do not know; to be encoded in version 0.
#[must_use]
pub fn too_new() -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: ErrorCode::UNSUPPORTED_VERSION,
        api_keys: advertise([ApiKey::ApiVersions]),
        ..Default::default()
    }
}

fn is_software_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let ends = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric());
    ends && name.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_are_checked_as_kafka_does() {
        for good in ["a", "librdkafka", "apache-kafka-java", "2.3.0", "1.0-SNAPSHOT"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a_b", "."] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }

    fn ask(version: i16, name: &str) -> (ApiVersionsResponse, Option<Software>) {
        let session = Session::new(1, "peer:1".into(), "host:9092".into());
        let request =
            ApiVersionsRequest { client_software_name: name.into(), client_software_version: "1.0".into() };
        let served = [ApiKey::Produce, ApiKey::ApiVersions];
        let response = answer(&served, (&Image::default(), Levels::default()), &session, version, request);
        (response, session.software())
    }

    #[test]
    fn only_what_is_served_is_advertised_and_produce_from_0() {
        let (response, software) = ask(3, "kcat");
        let ranges: Vec<_> =
            response.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
        assert_eq!(ranges, [(0, 0, 13), (18, 0, 4)]);
        assert_eq!(software.map(|software| software.name).as_deref(), Some("kcat"));
    }

    #[test]
    fn what_is_supported_and_where_the_cluster_stands_are_told() {
        let (response, _) = ask(4, "kcat");
        let supported = response.supported_features.iter().find(|one| one.name == DEJAQ_VERSION);
        let stands = response.finalized_features.iter().find(|one| one.name == DEJAQ_VERSION);
        let range = supported.map(|one| (one.min_version, one.max_version));
        assert_eq!(range, Some((Levels::default().min, Levels::default().max)));
        assert_eq!(stands.map(|one| one.max_version_level), Some(1), "nothing is written at level 1");
    }

    #[test]
    fn a_bad_software_name_is_an_invalid_request_and_an_old_version_has_none() {
        assert_eq!(ask(3, "k cat").0.error_code, ErrorCode::INVALID_REQUEST);
        assert_eq!(ask(2, "").0.error_code, ErrorCode::NONE);
    }

    #[test]
    fn an_unknown_version_is_told_which_ones_there_are() {
        let response = too_new();
        assert_eq!(response.error_code, ErrorCode::UNSUPPORTED_VERSION);
        assert_eq!(response.api_keys.len(), 1);
        assert_eq!((response.api_keys[0].api_key, response.api_keys[0].max_version), (18, 4));
    }
}
