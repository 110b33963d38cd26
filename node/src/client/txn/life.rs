//! What a transactional producer may do when. Pure.
//!
//! Owns: the phase, what the open transaction has touched. Promises: nothing is sent outside of a transaction; a
//! transaction of which something failed ends in an abort; an end that was asked for and not answered is asked for again
//! and never changed into the other one, because it may be decided; who is over stays so.
//! Leaves out: asking (`producer`).
//!
//! ```text
//!  New ─ init ─► Ready ─ begin ─► Open ─ commit, abort ─► Ending ─ answered ─► Ready
//!                                  └──────── fenced ────────┴──────────────► Over
//! ```

use super::error::{TxnCause, TxnError, TxnErrorKind};
use crate::client::outcome::Verdict;

/// Where a producer stands.
#[derive(Debug, Clone)]
enum Phase {
    /// It has no identity yet.
    New,
    /// No transaction is open.
    Ready,
    /// One is.
    Open,
    /// Its end was asked for.
    Ending { commit: bool, doubtful: bool },
    /// It cannot go on.
    Over(Box<TxnError>),
}

/// How to end a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nobody knows of it: there is nothing to ask.
    Local,
    /// The coordinator is asked.
    Ask,
}

/// The life of a producer.
#[derive(Debug, Clone)]
pub struct Life {
    phase: Phase,
    /// A coordinator, or a partition, may know of the open transaction.
    touched: bool,
    /// Why the open transaction cannot be committed.
    failed: Option<Box<TxnError>>,
}

impl Default for Life {
    fn default() -> Life {
        Life { phase: Phase::New, touched: false, failed: None }
    }
}

fn misuse(what: &'static str, why: &'static str) -> TxnError {
    TxnError::new(TxnErrorKind::Misuse, what, TxnCause::State(why))
}

impl Life {
    /// Whether it has an identity.
    #[must_use]
    pub fn is_new(&self) -> bool {
        matches!(self.phase, Phase::New)
    }

    /// Whether a transaction is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether an end was asked for and its answer is not known, and which.
    #[must_use]
    pub fn ending(&self) -> Option<bool> {
        match self.phase {
            Phase::Ending { commit, .. } => Some(commit),
            Phase::New | Phase::Ready | Phase::Open | Phase::Over(_) => None,
        }
    }

    /// It has an identity.
    pub fn initialised(&mut self) {
        assert!(self.is_new(), "initialised twice: {self:?}");
        self.phase = Phase::Ready;
    }

    /// A transaction begins.
    ///
    /// # Errors
    /// Another one is open, or the producer is not ready.
    pub fn begin(&mut self) -> Result<(), TxnError> {
        const WHAT: &str = "begin a transaction";
        match &self.phase {
            Phase::Ready => {}
            Phase::New => return Err(misuse(WHAT, "the producer is not initialised")),
            Phase::Open => return Err(misuse(WHAT, "a transaction is open")),
            Phase::Ending { .. } => return Err(misuse(WHAT, "the last transaction is still being ended")),
            Phase::Over(error) => return Err((**error).clone()),
        }
        assert!(!self.touched && self.failed.is_none(), "a new transaction has a past: {self:?}");
        self.phase = Phase::Open;
        Ok(())
    }

    /// The open transaction touches something.
    ///
    /// # Errors
    /// None is open, or it cannot be committed any more.
    pub fn touch(&mut self, what: &'static str) -> Result<(), TxnError> {
        match &self.phase {
            Phase::Open => {}
            Phase::New | Phase::Ready => return Err(misuse(what, "no transaction is open")),
            Phase::Ending { .. } => return Err(misuse(what, "the transaction is being ended")),
            Phase::Over(error) => return Err((**error).clone()),
        }
        if let Some(failed) = &self.failed {
            return Err((**failed).clone());
        }
        self.touched = true;
        Ok(())
    }

    /// Something of the open transaction failed. The first failure counts.
    pub fn failed(&mut self, error: &TxnError) {
        match error.kind {
            TxnErrorKind::Fenced | TxnErrorKind::Fatal => self.phase = Phase::Over(Box::new(error.clone())),
            TxnErrorKind::Abortable if self.is_open() => {
                self.failed.get_or_insert_with(|| Box::new(error.clone()));
            }
            TxnErrorKind::Abortable | TxnErrorKind::Retriable | TxnErrorKind::Misuse => {}
        }
    }

    /// Whether something of the open transaction failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// The transaction is to end so. Returns how.
    ///
    /// # Errors
    /// None is open; it was asked to end otherwise; it is to be committed and cannot be.
    pub fn end(&mut self, commit: bool) -> Result<End, TxnError> {
        let what = if commit { "commit" } else { "abort" };
        match &self.phase {
            Phase::Open => {}
            Phase::Ending { commit: asked, .. } if *asked == commit => return Ok(End::Ask),
            Phase::Ending { .. } => {
                return Err(misuse(
                    what,
                    "the other end was asked for, and may be decided: ask for that again",
                ));
            }
            Phase::New | Phase::Ready => return Err(misuse(what, "no transaction is open")),
            Phase::Over(error) => return Err((**error).clone()),
        }
        match &self.failed {
            Some(failed) if commit => return Err((**failed).clone()),
            Some(_) | None => {}
        }
        if !self.touched {
            self.ended();
            return Ok(End::Local);
        }
        self.phase = Phase::Ending { commit, doubtful: false };
        Ok(End::Ask)
    }

    /// An attempt to end it may have reached the coordinator, and nothing was heard.
    pub fn doubt(&mut self) {
        if let Phase::Ending { doubtful, .. } = &mut self.phase {
            *doubtful = true;
        }
    }

    /// Whether the transaction may be committed, as far as this producer knows.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.phase {
            Phase::Ending { commit: true, doubtful: true } => Verdict::Maybe,
            Phase::Ending { .. } | Phase::New | Phase::Ready | Phase::Open | Phase::Over(_) => {
                Verdict::DefiniteNo
            }
        }
    }

    /// The coordinator refuses the commit and asks for an abort instead: nothing was decided.
    pub fn must_abort(&mut self, error: &TxnError) {
        assert_eq!(self.ending(), Some(true), "only a commit is refused so");
        self.phase = Phase::Open;
        self.failed(error);
    }

    /// The end that was asked for is decided.
    pub fn ended(&mut self) {
        assert!(matches!(self.phase, Phase::Open | Phase::Ending { .. }), "nothing ends: {self:?}");
        *self = Life { phase: Phase::Ready, touched: false, failed: None };
    }
}

#[cfg(test)]
mod tests {
    use dejaq_wire::error_code::ErrorCode;

    use super::*;

    fn error(kind: TxnErrorKind) -> TxnError {
        TxnError::new(kind, "send", TxnCause::Refused(ErrorCode::UNKNOWN_SERVER_ERROR))
    }

    fn open() -> Life {
        let mut life = Life::default();
        life.initialised();
        life.begin().expect("it is ready");
        life
    }

    fn kind<T: std::fmt::Debug>(result: Result<T, TxnError>) -> TxnErrorKind {
        result.expect_err("refused").kind
    }

    #[test]
    fn nothing_is_sent_outside_of_a_transaction() {
        let mut life = Life::default();
        assert_eq!(kind(life.touch("send")), TxnErrorKind::Misuse);
        assert_eq!(kind(life.begin()), TxnErrorKind::Misuse);
        life.initialised();
        assert_eq!(kind(life.touch("send")), TxnErrorKind::Misuse);
        assert_eq!(kind(life.end(true)), TxnErrorKind::Misuse);
        life.begin().expect("it is ready");
        assert_eq!(kind(life.begin()), TxnErrorKind::Misuse);
        life.touch("send").expect("it is open");
    }

    #[test]
    fn what_nobody_knows_of_ends_without_a_word() {
        for commit in [true, false] {
            let mut life = open();
            assert_eq!(life.end(commit).expect("it is open"), End::Local);
            life.begin().expect("and the next one begins");
        }
    }

    #[test]
    fn a_transaction_of_which_something_failed_is_not_committed() {
        let mut life = open();
        life.touch("send").expect("it is open");
        life.failed(&error(TxnErrorKind::Abortable));
        assert_eq!(kind(life.touch("send")), TxnErrorKind::Abortable);
        assert_eq!(kind(life.end(true)), TxnErrorKind::Abortable);
        assert_eq!(life.end(false).expect("an abort is all that is left"), End::Ask);
        life.ended();
        life.begin().expect("the next one is not to blame");
        life.touch("send").expect("not at all");
    }

    #[test]
    fn an_end_that_may_be_decided_is_never_changed_into_the_other() {
        let mut life = open();
        life.touch("send").expect("it is open");
        assert_eq!(life.end(true).expect("it is open"), End::Ask);
        assert_eq!(life.verdict(), Verdict::DefiniteNo, "nothing was sent yet");
        life.doubt();
        assert_eq!(life.verdict(), Verdict::Maybe);
        assert_eq!(kind(life.end(false)), TxnErrorKind::Misuse);
        assert_eq!(kind(life.begin()), TxnErrorKind::Misuse);
        assert_eq!(life.end(true).expect("the same may be asked again"), End::Ask);
        life.ended();
    }

    #[test]
    fn who_is_fenced_stays_so() {
        let mut life = open();
        life.failed(&error(TxnErrorKind::Fenced));
        assert_eq!(kind(life.touch("send")), TxnErrorKind::Fenced);
        assert_eq!(kind(life.end(false)), TxnErrorKind::Fenced);
        assert_eq!(kind(life.begin()), TxnErrorKind::Fenced);
    }
}
