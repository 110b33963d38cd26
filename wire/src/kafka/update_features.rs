//! UpdateFeatures (key 57): finalizes feature levels. Always flexible; 1 can only validate; 2 answers
//! one error for all.

use crate::ErrorCode;
use crate::kafka::message::message;

message! {
    UpdateFeaturesRequest {
        timeout_ms: i32, .., = 60000;
        feature_updates: Vec<FeatureUpdateKey>, ..;
        validate_only: bool, 1..;
    }

    FeatureUpdateKey {
        feature: String, ..;
        max_version_level: i16, ..;
        allow_downgrade: bool, ..=0;
        upgrade_type: i8, 1.., = 1;
    }

    UpdateFeaturesResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        results: Vec<UpdatableFeatureResult>, ..=1;
    }

    UpdatableFeatureResult {
        feature: String, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
    }
}
