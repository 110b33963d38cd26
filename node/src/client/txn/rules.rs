//! What a coordinator's answer means for a transaction. Pure.
//!
//! Owns: one table for each request. Promises: every code has one move; a code that leaves the outcome open is never
//! taken for a decision. Source: KIP-98, KIP-360, KIP-447, KIP-890, CORRECTNESS 1.5 and 2.
//! Leaves out: produce, whose codes are in [`crate::client::outcome`].

use dejaq_wire::error_code::ErrorCode;

/// What follows from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// It is done.
    Done,
    /// The same again in some milliseconds: the coordinator is at work on the transaction before.
    Soon,
    /// The same again after a while, perhaps at another coordinator.
    Again,
    /// The transaction can only be aborted.
    Abort,
    /// Another life of the transactional id goes on, or the transaction was open too long.
    Fenced,
    /// This producer cannot go on.
    Fatal,
}

/// What every request shares: whether to ask again.
fn again(code: ErrorCode) -> Option<Move> {
    if code.is_none() {
        return Some(Move::Done);
    }
    if code == ErrorCode::CONCURRENT_TRANSACTIONS {
        return Some(Move::Soon);
    }
    code.is_retriable().then_some(Move::Again)
}

/// After InitProducerId.
#[must_use]
pub fn after_init(code: ErrorCode) -> Move {
    again(code).unwrap_or(match code {
        ErrorCode::PRODUCER_FENCED | ErrorCode::INVALID_PRODUCER_EPOCH => Move::Fenced,
        _ => Move::Fatal,
    })
}

/// After EndTxn.
#[must_use]
pub fn after_end(code: ErrorCode) -> Move {
    again(code).unwrap_or(match code {
        ErrorCode::PRODUCER_FENCED | ErrorCode::INVALID_PRODUCER_EPOCH => Move::Fenced,
        ErrorCode::TRANSACTION_ABORTABLE => Move::Abort,
        _ => Move::Fatal,
    })
}

/// After AddPartitionsToTxn and AddOffsetsToTxn.
#[must_use]
pub fn after_join(code: ErrorCode) -> Move {
    again(code).unwrap_or(match code {
        ErrorCode::PRODUCER_FENCED | ErrorCode::INVALID_PRODUCER_EPOCH => Move::Fenced,
        ErrorCode::INVALID_PRODUCER_ID_MAPPING | ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => {
            Move::Fatal
        }
        _ => Move::Abort,
    })
}

/// After TxnOffsetCommit. A wrong epoch is told by the group's coordinator, which is not who knows: the abort that
/// follows asks the one that does.
#[must_use]
pub fn after_offsets(code: ErrorCode) -> Move {
    again(code).unwrap_or(match code {
        ErrorCode::PRODUCER_FENCED => Move::Fenced,
        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => Move::Fatal,
        _ => Move::Abort,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_is_done_and_what_may_be_asked_again_decides_nothing() {
        for judge in [after_init, after_end, after_join, after_offsets] {
            for code in ErrorCode::ALL {
                let next = judge(*code);
                assert_eq!(next == Move::Done, code.is_none(), "{code:?}");
                let asks_again = matches!(next, Move::Again | Move::Soon);
                assert_eq!(asks_again, code.is_retriable(), "{code:?}");
            }
        }
    }

    #[test]
    fn a_fenced_producer_is_told_so_by_whoever_knows() {
        for judge in [after_init, after_end, after_join, after_offsets] {
            assert_eq!(judge(ErrorCode::PRODUCER_FENCED), Move::Fenced);
        }
        assert_eq!(after_end(ErrorCode::INVALID_PRODUCER_EPOCH), Move::Fenced);
        assert_eq!(after_offsets(ErrorCode::INVALID_PRODUCER_EPOCH), Move::Abort);
    }

    #[test]
    fn a_member_that_was_put_out_aborts_and_goes_on() {
        for code in
            [ErrorCode::ILLEGAL_GENERATION, ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::FENCED_INSTANCE_ID]
        {
            assert_eq!(after_offsets(code), Move::Abort, "{code:?}");
        }
    }
}
