//! WriteTxnMarkers (27): the end of transactions is written into partitions that are led here. Brokers of ours ask each
//! other otherwise (`coordinator::room`); this is for the tools that end what hangs (KIP-664).
//!
//! Promises: no marker of a producer that the partition does not know is appended (it would be remembered, and push out who is), none
//! of a later epoch of the producer (it would fence it there, and its transaction be ended otherwise than elsewhere), and
//! none with a later coordinator epoch than the partition has seen of that
//! producer: a partition refuses every marker of an earlier epoch than the last one, so that one such request would
//! leave all later transactions of that producer open there. What the partition says is asked of its leader, before anything
//! is written, into the same log under the same leader epoch: epochs only grow behind that. A marker that ends an open transaction
//! is a warning in the log of the broker. Tools quote the epoch from DescribeProducers, which is this one.

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::write_txn_markers::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use dejaq_wire::record::control::EndTxnMarker;

use crate::coordinator::markers::{AT_ONCE, Known, Seen};
use crate::coordinator::transactions::Transactions;
use crate::coordinator::txn::ask::At;
use crate::runtime::{Mono, Runtime};

/// Answers one request.
pub async fn answer<R: Runtime>(
    transactions: &Transactions<R>,
    request: WriteTxnMarkersRequest,
) -> WriteTxnMarkersResponse {
    // One for all of it: a partition that stands still must not take its time once for every marker.
    let deadline = transactions.deadline();
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
            let codes = write(transactions, marker, &places, deadline).await;
            let result =
                |(index, error_code)| WritableTxnMarkerPartitionResult { partition_index: index, error_code };
            let partitions = topic.partition_indexes.into_iter().zip(codes).map(result).collect();
            topics.push(WritableTxnMarkerTopicResult { name: topic.name, partitions });
        }
        markers.push(WritableTxnMarkerResult { producer_id: one.producer_id, topics });
    }
    WriteTxnMarkersResponse { markers }
}

/// Writes one into those partitions that may have it; a code for each.
async fn write<R: Runtime>(
    transactions: &Transactions<R>,
    marker: EndTxnMarker,
    places: &[At],
    deadline: Mono,
) -> Vec<ErrorCode> {
    let markers = transactions.markers();
    let mut refused: Vec<Option<ErrorCode>> = Vec::with_capacity(places.len());
    let mut taken: Vec<(&At, Known<R>)> = Vec::new();
    for at in places {
        // One request may name tens of thousands of places, and others wait for this thread.
        if refused.len() % AT_ONCE == AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        let known = markers.known(at, marker.producer_id);
        let told = known.as_ref().map(|known| known.seen).map_err(|code| *code);
        let refusal = refusal(&marker, told);
        taken.extend(known.ok().filter(|_| refusal.is_none()).map(|known| (at, known)));
        refused.push(refusal);
    }
    let mut written = markers.write_known(marker, &taken, deadline).await.into_iter();
    let code = |refused: Option<ErrorCode>| refused.or_else(|| written.next());
    refused.into_iter().map(code).map(|code| code.unwrap_or(ErrorCode::UNKNOWN_SERVER_ERROR)).collect()
}

/// Why a marker that came from outside is not written where its producer has such epochs, or where nobody can say (a code). A tool that was told of no coordinator says epoch 0 (Kafka's `kafka-transactions abort`), or -1.
fn refusal(marker: &EndTxnMarker, seen: Result<Seen, ErrorCode>) -> Option<ErrorCode> {
    if marker.producer_id.0 < 0 || marker.producer_epoch.0 < 0 {
        return Some(ErrorCode::INVALID_REQUEST);
    }
    match seen {
        Ok((known, _)) if marker.producer_epoch > known => Some(ErrorCode::INVALID_PRODUCER_EPOCH),
        Ok((_, seen)) if (-1..=seen.0.max(0)).contains(&marker.coordinator_epoch.0) => None,
        Ok(_) => Some(ErrorCode::INVALID_REQUEST),
        Err(code) => Some(code),
    }
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::{CoordinatorEpoch, ProducerEpoch, ProducerId};

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
    fn only_epochs_that_the_partition_has_seen_are_written() {
        let seen = Ok((ProducerEpoch(0), CoordinatorEpoch(3)));
        let later = refusal(&marker(7, 1, 3), seen);
        assert_eq!(later, Some(ErrorCode::INVALID_PRODUCER_EPOCH), "it would fence its producer");
        for ours in -1..=3 {
            assert_eq!(refusal(&marker(7, 0, ours), seen), None, "{ours}");
        }
        for other in [-2, 4, i32::MAX, i32::MIN] {
            assert_eq!(refusal(&marker(7, 0, other), seen), Some(ErrorCode::INVALID_REQUEST), "{other}");
        }
        let none = Ok((ProducerEpoch(0), CoordinatorEpoch(-1)));
        assert_eq!(refusal(&marker(7, 0, 0), none), None, "a tool that was told of no coordinator");
        assert_eq!(refusal(&marker(7, 0, 1), none), Some(ErrorCode::INVALID_REQUEST));
        for nobody_knows in [ErrorCode::INVALID_PRODUCER_ID_MAPPING, ErrorCode::NOT_LEADER_OR_FOLLOWER] {
            assert_eq!(refusal(&marker(7, 0, 0), Err(nobody_knows)), Some(nobody_knows));
        }
    }

    #[test]
    fn a_marker_of_nobody_is_refused() {
        for (id, epoch) in [(-1, 0), (7, -1), (i64::MIN, i16::MIN)] {
            assert_eq!(
                refusal(&marker(id, epoch, 0), Ok((ProducerEpoch(0), CoordinatorEpoch(0)))),
                Some(ErrorCode::INVALID_REQUEST)
            );
        }
    }
}
