//! ListTransactions (66): the transactional ids that are coordinated here, of some states, producers or ages.

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::list_transactions::{
    ListTransactionsRequest, ListTransactionsResponse, TransactionState,
};

use crate::coordinator::transactions::Transactions;
use crate::coordinator::txn::ask::Listed;
use crate::coordinator::txn::state::State;
use crate::runtime::Runtime;

/// Answers one request at this time, in ms since 1970.
pub async fn answer<R: Runtime>(
    transactions: &Transactions<R>,
    now_ms: i64,
    request: ListTransactionsRequest,
) -> ListTransactionsResponse {
    let is_state = |name: &String| State::ALL.into_iter().any(|state| state.name() == name);
    let unknown_state_filters =
        request.state_filters.iter().filter(|name| !is_state(name)).cloned().collect();
    let all = match transactions.list().await {
        Ok(all) => all,
        Err(error_code) => return ListTransactionsResponse { error_code, ..Default::default() },
    };
    let wanted = |one: &Listed| {
        let states = &request.state_filters;
        let age_ms = now_ms.saturating_sub(one.start_ms);
        (states.is_empty() || states.iter().any(|name| name == one.state.name()))
            && (request.producer_id_filters.is_empty()
                || request.producer_id_filters.contains(&one.who.producer_id))
            && (request.duration_filter < 0 || (one.start_ms >= 0 && age_ms >= request.duration_filter))
    };
    let told = |one: Listed| TransactionState {
        transactional_id: one.id.to_string(),
        producer_id: one.who.producer_id,
        transaction_state: one.state.name().to_owned(),
    };
    ListTransactionsResponse {
        error_code: ErrorCode::NONE,
        unknown_state_filters,
        transaction_states: all.into_iter().filter(wanted).map(told).collect(),
        ..Default::default()
    }
}
