//! WriteTxnMarkers (27): the end of transactions is written into partitions that are led here. Brokers of ours ask each
//! other otherwise (`coordinator::room`); this is for the tools that end what hangs (KIP-664).

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
            let codes = transactions.markers().write_here(marker, &places, transactions.deadline()).await;
            let result =
                |(index, error_code)| WritableTxnMarkerPartitionResult { partition_index: index, error_code };
            let partitions = topic.partition_indexes.into_iter().zip(codes).map(result).collect();
            topics.push(WritableTxnMarkerTopicResult { name: topic.name, partitions });
        }
        markers.push(WritableTxnMarkerResult { producer_id: one.producer_id, topics });
    }
    WriteTxnMarkersResponse { markers }
}
