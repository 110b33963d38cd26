//! WriteTxnMarkers (27): the end of transactions is written into partitions that are led here. Brokers of ours ask each
//! other otherwise (`coordinator::room`); this is for the tools that end what hangs (KIP-664).
//!
//! Promises: no marker of nobody's producer is appended, and none with a coordinator epoch that no coordinator has had: a partition
//! refuses every marker of an earlier epoch than the last one it has seen, so that one such request would leave all later
//! transactions of that producer open there for ever.

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::CoordinatorEpoch;
use dejaq_wire::kafka::write_txn_markers::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use dejaq_wire::record::control::EndTxnMarker;

use crate::coordinator::transactions::Transactions;
use crate::coordinator::txn::ask::At;
use crate::runtime::Runtime;

/// Answers one request.
pub async fn answer<R: Runtime>(
    transactions: &Transactions<R>,
    request: WriteTxnMarkersRequest,
) -> WriteTxnMarkersResponse {
    let mut markers = Vec::with_capacity(request.markers.len());
    for one in request.markers {
        let marker = EndTxnMarker {
            producer_id: one.producer_id,
            producer_epoch: one.producer_epoch,
            commit: one.transaction_result,
            coordinator_epoch: one.coordinator_epoch,
        };
        let mut topics = Vec::with_capacity(one.topics.len());
        for topic in one.topics {
            let at = |index: &_| At { topic: topic.name.as_str().into(), partition: *index };
            let places: Vec<At> = topic.partition_indexes.iter().map(at).collect();
            let codes = match refusal(&marker, transactions.newest_epoch()) {
                Some(code) => vec![code; places.len()],
                None => transactions.markers().write_here(marker, &places, transactions.deadline()).await,
            };
            let result =
                |(index, error_code)| WritableTxnMarkerPartitionResult { partition_index: index, error_code };
            let partitions = topic.partition_indexes.into_iter().zip(codes).map(result).collect();
            topics.push(WritableTxnMarkerTopicResult { name: topic.name, partitions });
        }
        markers.push(WritableTxnMarkerResult { producer_id: one.producer_id, topics });
    }
    WriteTxnMarkersResponse { markers }
}

/// Why a marker that came from outside is not written. A tool that knows of no coordinator says epoch 0 (Kafka's
/// `kafka-transactions abort`), also where there never was one.
fn refusal(marker: &EndTxnMarker, newest: Option<CoordinatorEpoch>) -> Option<ErrorCode> {
    let ends = newest.map_or(0, |newest| newest.0);
    let is_ours = (0..=ends).contains(&marker.coordinator_epoch.0);
    let is_somebodys = marker.producer_id.0 >= 0 && marker.producer_epoch.0 >= 0;
    (!is_ours || !is_somebodys).then_some(ErrorCode::INVALID_REQUEST)
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::{ProducerEpoch, ProducerId};

    use super::*;

    fn marker(id: i64, epoch: i16, coordinator: i32) -> EndTxnMarker {
        EndTxnMarker {
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(epoch),
            commit: false,
            coordinator_epoch: CoordinatorEpoch(coordinator),
        }
    }

    #[test]
    fn only_epochs_that_a_coordinator_had_are_written() {
        let newest = Some(CoordinatorEpoch(3));
        for ours in 0..=3 {
            assert_eq!(refusal(&marker(7, 0, ours), newest), None, "{ours}");
        }
        for other in [-1, 4, i32::MAX, i32::MIN] {
            assert_eq!(refusal(&marker(7, 0, other), newest), Some(ErrorCode::INVALID_REQUEST), "{other}");
        }
        assert_eq!(refusal(&marker(7, 0, 0), None), None, "a tool that knows no coordinator");
        assert_eq!(refusal(&marker(7, 0, 1), None), Some(ErrorCode::INVALID_REQUEST));
    }

    #[test]
    fn a_marker_of_nobody_is_refused() {
        for (id, epoch) in [(-1, 0), (7, -1), (i64::MIN, i16::MIN)] {
            assert_eq!(refusal(&marker(id, epoch, 0), None), Some(ErrorCode::INVALID_REQUEST));
        }
    }
}
