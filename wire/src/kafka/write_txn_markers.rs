//! WriteTxnMarkers (key 27): a coordinator tells leaders how a transaction ended. Version 1 only,
//! flexible.

use crate::ErrorCode;
use crate::ids::{CoordinatorEpoch, PartitionId, ProducerEpoch, ProducerId};
use crate::kafka::message::message;

message! {
    WriteTxnMarkersRequest {
        markers: Vec<WritableTxnMarker>, ..;
    }

    WritableTxnMarker {
        producer_id: ProducerId, ..;
        producer_epoch: ProducerEpoch, ..;
        transaction_result: bool, ..;
        topics: Vec<WritableTxnMarkerTopic>, ..;
        coordinator_epoch: CoordinatorEpoch, ..;
    }

    WritableTxnMarkerTopic {
        name: String, ..;
        partition_indexes: Vec<PartitionId>, ..;
    }

    WriteTxnMarkersResponse {
        markers: Vec<WritableTxnMarkerResult>, ..;
    }

    WritableTxnMarkerResult {
        producer_id: ProducerId, ..;
        topics: Vec<WritableTxnMarkerTopicResult>, ..;
    }

    WritableTxnMarkerTopicResult {
        name: String, ..;
        partitions: Vec<WritableTxnMarkerPartitionResult>, ..;
    }

    WritableTxnMarkerPartitionResult {
        partition_index: PartitionId, ..;
        error_code: ErrorCode, ..;
    }
}
