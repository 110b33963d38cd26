//! RemoveRaftVoter (key 81): a voter of the metadata quorum is one no more (KIP-853). Always flexible.

use crate::ErrorCode;
use crate::ids::{BrokerId, DirectoryId};
use crate::kafka::message::message;

message! {
    RemoveRaftVoterRequest {
        cluster_id: Option<String>, ..;
        voter_id: BrokerId, ..;
        voter_directory_id: DirectoryId, ..;
    }

    RemoveRaftVoterResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
    }
}
