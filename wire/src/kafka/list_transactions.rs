//! ListTransactions (key 66): all transactions of a coordinator. Always flexible; 1 filters by duration,
//! 2 by a pattern.

use crate::ErrorCode;
use crate::ids::ProducerId;
use crate::kafka::message::message;

message! {
    ListTransactionsRequest {
        state_filters: Vec<String>, ..;
        producer_id_filters: Vec<ProducerId>, ..;
        duration_filter: i64, 1.., = -1;
        transactional_id_pattern: Option<String>, 2..;
    }

    ListTransactionsResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        unknown_state_filters: Vec<String>, ..;
        transaction_states: Vec<TransactionState>, ..;
    }

    TransactionState {
        transactional_id: String, ..;
        producer_id: ProducerId, ..;
        transaction_state: String, ..;
    }
}
