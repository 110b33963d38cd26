//! FindCoordinator (10): there is no coordinator yet, and that is said in a way that clients retry.
//!
//! Owns: the answer COORDINATOR_NOT_AVAILABLE for every key. It is advertised before groups are built because
//! librdkafka (kcat, confluent-kafka) takes a broker without this API for one that predates LZ4, and silently
//! sends uncompressed. Leaves out: groups and transactions, whose coordinators will be found here.
//! Called by `dispatch`.

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::BrokerId;
use dejaq_wire::kafka::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};

const MESSAGE: &str = "consumer groups and transactions are not built yet";

/// Answers one request; up to version 3 it asks for one key, from 4 on for several.
#[must_use]
pub fn answer(request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let none = |key: String| Coordinator {
        key,
        node_id: BrokerId::NONE,
        port: -1,
        error_code: ErrorCode::COORDINATOR_NOT_AVAILABLE,
        error_message: Some(MESSAGE.to_owned()),
        ..Default::default()
    };
    FindCoordinatorResponse {
        error_code: ErrorCode::COORDINATOR_NOT_AVAILABLE,
        error_message: Some(MESSAGE.to_owned()),
        node_id: BrokerId::NONE,
        port: -1,
        coordinators: request.coordinator_keys.into_iter().map(none).collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_told_to_come_back_later_in_old_and_new_versions() {
        let keys = vec!["a".to_owned(), "b".to_owned()];
        let response = answer(FindCoordinatorRequest { coordinator_keys: keys, ..Default::default() });
        assert_eq!(response.error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
        let told: Vec<_> = response.coordinators.iter().map(|c| (c.key.as_str(), c.error_code)).collect();
        let later = ErrorCode::COORDINATOR_NOT_AVAILABLE;
        assert_eq!(told, [("a", later), ("b", later)]);
    }
}
