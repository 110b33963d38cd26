//! UpdateFeatures (57): the level of the cluster goes up or down, all of a request or nothing (KIP-584, KIP-778).
//!
//! Up to version 1 every feature has a result of its own; where one is refused, the others say that they were not tried. Version
//! 2 answers one error for all.

use std::collections::BTreeSet;

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::update_features::{
    FeatureUpdateKey, UpdatableFeatureResult, UpdateFeaturesRequest, UpdateFeaturesResponse,
};

use super::control_plane::{ControlPlane, outcome};
use crate::controller::Refusal;
use crate::controller::decide::update_features::{Update, UpdateFeatures, Way};
use crate::runtime::Runtime;

/// Answers one request.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    version: i16,
    request: UpdateFeaturesRequest,
) -> UpdateFeaturesResponse {
    let mut seen = BTreeSet::new();
    if let Some(twice) = request.feature_updates.iter().find(|one| !seen.insert(one.feature.as_str())) {
        let why = format!("Feature {} is named more than once.", twice.feature);
        return failed(Refusal::new(ErrorCode::INVALID_REQUEST, why));
    }
    if request.feature_updates.is_empty() {
        return UpdateFeaturesResponse::default();
    }
    let updates: Vec<Update> = request.feature_updates.iter().map(|one| update(version, one)).collect();
    let names: Vec<String> = request.feature_updates.into_iter().map(|one| one.feature).collect();
    let asked = UpdateFeatures { updates, validate_only: request.validate_only };
    match control.change(asked, request.timeout_ms).await {
        Ok(updated) => told(version, names, updated.results),
        Err(refusal) => failed(refusal),
    }
}

fn failed(refusal: Refusal) -> UpdateFeaturesResponse {
    let (error_code, error_message) = outcome(&Err::<(), _>(refusal));
    UpdateFeaturesResponse { error_code, error_message, ..Default::default() }
}

fn update(version: i16, one: &FeatureUpdateKey) -> Update {
    let way = match (version, one.upgrade_type) {
        (0, _) => Some(if one.allow_downgrade { Way::Down } else { Way::Up }),
        (_, 1) => Some(Way::Up),
        (_, 2) => Some(Way::Down),
        (_, 3) => Some(Way::DownAndLose),
        (_, _) => None,
    };
    Update { feature: one.feature.clone(), level: one.max_version_level, way }
}

fn told(version: i16, names: Vec<String>, results: Vec<Result<(), Refusal>>) -> UpdateFeaturesResponse {
    assert_eq!(names.len(), results.len(), "one result for each feature");
    let refused = results.iter().find_map(|result| result.as_ref().err()).cloned();
    if version >= 2 {
        return refused.map_or_else(UpdateFeaturesResponse::default, failed);
    }
    let result = |(feature, result): (String, Result<(), Refusal>)| {
        let result = match (result, &refused) {
            (Ok(()), Some(_)) => Err(Refusal::new(
                ErrorCode::FEATURE_UPDATE_FAILED,
                "Nothing was changed, because another feature of the request was refused.",
            )),
            (result, _) => result,
        };
        let (error_code, error_message) = outcome(&result);
        UpdatableFeatureResult { feature, error_code, error_message }
    };
    let results = names.into_iter().zip(results).map(result).collect();
    UpdateFeaturesResponse { results, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Result<(), Refusal> {
        Err(Refusal::new(ErrorCode::INVALID_UPDATE_VERSION, "no"))
    }

    #[test]
    fn one_refusal_is_the_answer_of_version_2_and_spoils_every_result_before() {
        let names = || vec!["a".to_owned(), "b".to_owned()];
        let new = told(2, names(), vec![Ok(()), refused()]);
        assert_eq!((new.error_code, new.results.len()), (ErrorCode::INVALID_UPDATE_VERSION, 0));
        let old = told(1, names(), vec![Ok(()), refused()]);
        let codes: Vec<ErrorCode> = old.results.iter().map(|one| one.error_code).collect();
        assert_eq!(codes, [ErrorCode::FEATURE_UPDATE_FAILED, ErrorCode::INVALID_UPDATE_VERSION]);
        assert_eq!(told(2, names(), vec![Ok(()), Ok(())]), UpdateFeaturesResponse::default());
    }

    #[test]
    fn the_way_is_a_switch_in_version_0_and_a_number_later() {
        let key = |allow_downgrade, upgrade_type| FeatureUpdateKey {
            feature: "f".into(),
            max_version_level: 1,
            allow_downgrade,
            upgrade_type,
        };
        assert_eq!(update(0, &key(true, 1)).way, Some(Way::Down));
        assert_eq!(update(0, &key(false, 1)).way, Some(Way::Up));
        let ways: Vec<Option<Way>> = (0..=4).map(|number| update(1, &key(false, number)).way).collect();
        assert_eq!(ways, [None, Some(Way::Up), Some(Way::Down), Some(Way::DownAndLose), None]);
    }
}
