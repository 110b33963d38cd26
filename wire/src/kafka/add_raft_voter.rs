//! AddRaftVoter (key 80): a node that follows the metadata quorum becomes a voter (KIP-853). Always flexible.

use crate::ErrorCode;
use crate::ids::{BrokerId, DirectoryId};
use crate::kafka::message::message;

message! {
    AddRaftVoterRequest {
        cluster_id: Option<String>, ..;
        timeout_ms: i32, ..;
        voter_id: BrokerId, ..;
        voter_directory_id: DirectoryId, ..;
        listeners: Vec<Listener>, ..;
    }

    Listener {
        name: String, ..;
        host: String, ..;
        port: u16, ..;
    }

    AddRaftVoterResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
    }
}
