//! Which version of an API both ends speak: the newest that each has.
//!
//! Owns: the ranges that a broker announced, and the features of its cluster. Promises: a chosen version is one that we encode and that the broker
//! announced. Leaves out: asking for them (`connection`). Pure.
//!
//!   ours   ├────────────┤
//!   theirs      ├──────────────┤
//!                       ▲ chosen

use std::collections::BTreeMap;

use dejaq_wire::api::ApiKey;
use dejaq_wire::kafka::api_versions::{ApiVersion, FinalizedFeatureKey};

/// The broker does not speak a version of this API that we speak.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the broker serves {theirs} of {}, this client speaks {} to {}", api.name(), api.min_version(), api.max_version())]
pub struct Unsupported {
    /// The API.
    pub api: ApiKey,
    /// What the broker announced, in words.
    pub theirs: String,
}

/// What a broker announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    ranges: BTreeMap<i16, (i16, i16)>,
    features: BTreeMap<String, i16>,
}

impl Versions {
    /// Takes the ranges of an ApiVersions answer; of a key named twice the last counts.
    #[must_use]
    pub fn announced(keys: &[ApiVersion]) -> Versions {
        let range = |api: &ApiVersion| (api.api_key, (api.min_version, api.max_version));
        Versions { ranges: keys.iter().map(range).collect(), features: BTreeMap::new() }
    }

    /// With the features that the whole cluster has, by their levels (KIP-584).
    #[must_use]
    pub fn with_features(mut self, features: &[FinalizedFeatureKey]) -> Versions {
        self.features = features.iter().map(|f| (f.name.clone(), f.max_version_level)).collect();
        self
    }

    /// The level of a feature of the cluster; 0 if it has none of this name.
    #[must_use]
    pub fn feature(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }

    /// The newest version that both ends have.
    ///
    /// # Errors
    /// [`Unsupported`]: the ranges do not meet; only another broker or another client helps.
    pub fn choose(&self, api: ApiKey) -> Result<i16, Unsupported> {
        self.choose_up_to(api, api.max_version())
    }

    /// The newest version that both ends have and that is at most `newest`.
    ///
    /// # Errors
    /// [`Unsupported`], as for [`Versions::choose`].
    pub fn choose_up_to(&self, api: ApiKey, newest: i16) -> Result<i16, Unsupported> {
        let Some((min, max)) = self.ranges.get(&api.key()).copied() else {
            return Err(Unsupported { api, theirs: "no version".into() });
        };
        let chosen = max.min(newest).min(api.max_version());
        if chosen < min || chosen < api.min_version() {
            return Err(Unsupported { api, theirs: format!("versions {min} to {max}") });
        }
        assert!(api.has_version(chosen), "{chosen} of {api:?} is outside our own range");
        Ok(chosen)
    }

    /// Everything announced, as key and range, ascending by key.
    pub fn iter(&self) -> impl Iterator<Item = (i16, (i16, i16))> {
        self.ranges.iter().map(|(key, range)| (*key, *range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(min_version: i16, max_version: i16) -> Versions {
        Versions::announced(&[ApiVersion { api_key: ApiKey::Fetch.key(), min_version, max_version }])
    }

    #[test]
    fn the_newest_common_version_is_chosen() {
        let (ours_min, ours_max) = (ApiKey::Fetch.min_version(), ApiKey::Fetch.max_version());
        assert_eq!(broker(0, 99).choose(ApiKey::Fetch), Ok(ours_max));
        assert_eq!(broker(0, ours_min).choose(ApiKey::Fetch), Ok(ours_min));
        assert_eq!(broker(0, 99).choose_up_to(ApiKey::Fetch, 12), Ok(12));
    }

    #[test]
    fn ranges_that_do_not_meet_are_an_error_that_names_them() {
        let newer = ApiKey::Fetch.max_version() + 1;
        let refused = broker(newer, newer).choose(ApiKey::Fetch).expect_err("nothing in common");
        assert!(refused.to_string().contains(&format!("versions {newer} to {newer} of Fetch")), "{refused}");
        assert!(broker(0, ApiKey::Fetch.min_version() - 1).choose(ApiKey::Fetch).is_err());
        assert!(Versions::default().choose(ApiKey::Produce).is_err());
    }
}
