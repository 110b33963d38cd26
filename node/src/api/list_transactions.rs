//! ListTransactions (66): the transactional ids that are coordinated here, of some states, producers, ages or names.

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::list_transactions::{
    ListTransactionsRequest, ListTransactionsResponse, TransactionState,
};

use crate::coordinator::group::consumer::topics::compile;
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
    let pattern = match request.transactional_id_pattern.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match compile(text) {
            Ok(pattern) => Some(pattern),
            Err(_) => {
                let error_code = ErrorCode::INVALID_REGULAR_EXPRESSION;
                return ListTransactionsResponse { error_code, unknown_state_filters, ..Default::default() };
            }
        },
    };
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
            && pattern.as_ref().is_none_or(|pattern| pattern.is_match(&one.id))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_ids_and_is_bounded() {
        let pattern = compile("pay|order-.*").expect("a pattern");
        assert!(pattern.is_match("pay") && pattern.is_match("order-7"));
        assert!(!pattern.is_match("payment") && !pattern.is_match("my order-7"));
        assert!(compile("(").is_err());
        assert!(compile("(a{1000}){1000}").is_err(), "it would take gigabytes");
    }
}
