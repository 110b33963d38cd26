//! Administration of a cluster's features: what each broker supports, where the cluster stands, and changing that.
//!
//! Owns: those requests of [`Admin`]. Promises and errors are those of `admin`.
//! Leaves out: what a level means (`metadata::level`), text for people (`cli`).
//! SHELL.

use std::collections::BTreeMap;

use dejaq_wire::ids::BrokerId;
use dejaq_wire::kafka::api_versions::ApiVersionsRequest;
use dejaq_wire::kafka::update_features::{FeatureUpdateKey, UpdateFeaturesRequest};

use super::admin::{Admin, AdminError, refused};
use crate::runtime::{Mono, Runtime};

/// The features of a cluster as one broker tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// Oldest and newest level of each that this broker supports.
    pub supported: BTreeMap<String, (i16, i16)>,
    /// The level at which the cluster stands.
    pub finalized: BTreeMap<String, i16>,
    /// The metadata offset of which it tells.
    pub epoch: i64,
}

/// Which way a feature may go. The number of each is Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureWay {
    /// Up only.
    Upgrade = 1,
    /// Down, if nothing is lost.
    SafeDowngrade = 2,
}

impl<R: Runtime> Admin<R> {
    /// The features as this broker tells them.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn features(&self, broker: BrokerId, deadline: Mono) -> Result<Features, AdminError> {
        let request = ApiVersionsRequest {
            client_software_name: "dejaq".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
        };
        let answer = self.ask_broker(broker, &request, deadline).await?;
        refused(&format!("features of broker {broker}"), answer.error_code, None)?;
        let supported = answer.supported_features.into_iter();
        let finalized = answer.finalized_features.into_iter();
        Ok(Features {
            supported: supported.map(|one| (one.name, (one.min_version, one.max_version))).collect(),
            finalized: finalized.map(|one| (one.name, one.max_version_level)).collect(),
            epoch: answer.finalized_features_epoch,
        })
    }

    /// Brings a feature to a level, or says whether it could be (`validate_only`). Durable on return.
    ///
    /// # Errors
    /// [`AdminError`]; its message says what is in the way.
    pub async fn update_feature(
        &self,
        (feature, level): (&str, i16),
        way: FeatureWay,
        validate_only: bool,
        deadline: Mono,
    ) -> Result<(), AdminError> {
        let update = FeatureUpdateKey {
            feature: feature.to_owned(),
            max_version_level: level,
            upgrade_type: way as i8,
            ..Default::default()
        };
        let request = UpdateFeaturesRequest {
            timeout_ms: self.timeout_ms(deadline),
            feature_updates: vec![update],
            validate_only,
        };
        let answer = self.change(feature, &request, deadline, |answer| Some(answer.error_code)).await?;
        refused(feature, answer.error_code, answer.error_message)?;
        // An older broker has a result for each feature.
        answer.results.into_iter().try_for_each(|one| refused(feature, one.error_code, one.error_message))
    }
}
