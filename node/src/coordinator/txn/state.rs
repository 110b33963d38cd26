//! One transactional id: what it answers, and how its state goes on. Pure.
//!
//! Owns: [`State`], [`Txn`], every rule of fencing and of epochs. Promises: nothing changes here; a step says what is to
//! be written, and what is true when it is ([`Step::Change`]), so that a failed write burns no epoch and decides nothing
//! (TXN-14); who has an older epoch ends, adds and begins nothing (TXN-8); a request about the transaction before, of a
//! client that bumps, has no effect on this one (TXN-9); what timed out, or was left open by a life that another one
//! follows, is aborted with a higher epoch (TXN-13); an epoch is never given out twice, nor beyond [`MOST_EPOCH`].
//! Leaves out: what waits (`txns`).
//!
//! Kafka has two more states. PrepareEpochFence is a moment here: the higher epoch and the abort are one record. Dead is
//! an id whose deletion is being written (`txns`).

use dejaq_storage::{mark, mutant};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{ProducerEpoch, ProducerId};

use super::ask::{Ask, At, Described, Reply, Who};
use super::record::Stored;

/// The last epoch that a client is given: one more fences it, and that one is the last of all.
pub const MOST_EPOCH: ProducerEpoch = ProducerEpoch(i16::MAX - 1);

/// How a transactional id stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing is open, and nothing was since the last Init.
    Empty,
    /// A transaction is open.
    Ongoing,
    /// It is decided: committed. Markers are on their way.
    PrepareCommit,
    /// It is decided: aborted. Markers are on their way.
    PrepareAbort,
    /// It was committed, everywhere.
    CompleteCommit,
    /// It was aborted, everywhere.
    CompleteAbort,
}

impl State {
    /// Every state.
    pub const ALL: [State; 6] = [
        State::Empty,
        State::Ongoing,
        State::PrepareCommit,
        State::PrepareAbort,
        State::CompleteCommit,
        State::CompleteAbort,
    ];

    /// The number in the log, which is Kafka's.
    #[must_use]
    pub fn id(self) -> i8 {
        match self {
            State::Empty => 0,
            State::Ongoing => 1,
            State::PrepareCommit => 2,
            State::PrepareAbort => 3,
            State::CompleteCommit => 4,
            State::CompleteAbort => 5,
        }
    }

    /// The state of a number.
    #[must_use]
    pub fn from_id(id: i8) -> Option<State> {
        State::ALL.into_iter().find(|state| state.id() == id)
    }

    /// Kafka's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::Ongoing => "Ongoing",
            State::PrepareCommit => "PrepareCommit",
            State::PrepareAbort => "PrepareAbort",
            State::CompleteCommit => "CompleteCommit",
            State::CompleteAbort => "CompleteAbort",
        }
    }

    /// The decision that is being carried out.
    #[must_use]
    pub fn prepared(self) -> Option<bool> {
        match self {
            State::PrepareCommit => Some(true),
            State::PrepareAbort => Some(false),
            State::Empty | State::Ongoing | State::CompleteCommit | State::CompleteAbort => None,
        }
    }

    /// Whether the log may go from here to there.
    #[must_use]
    pub fn may_become(self, next: State) -> bool {
        match self {
            State::Empty | State::CompleteCommit | State::CompleteAbort => {
                matches!(next, State::Empty | State::Ongoing | State::PrepareAbort)
            }
            State::Ongoing => matches!(next, State::Ongoing | State::PrepareCommit | State::PrepareAbort),
            State::PrepareCommit => next == State::CompleteCommit,
            State::PrepareAbort => next == State::CompleteAbort,
        }
    }
}

/// What follows from an ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing changes.
    Reply(Reply),
    /// When this is written, it is so, and that is the answer.
    Change {
        /// How it stands then.
        to: Box<Txn>,
        /// The answer then.
        reply: Reply,
    },
}

fn refused(code: ErrorCode) -> Step {
    Step::Reply(Reply::Refused(code))
}

/// One transactional id as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Txn {
    /// What is in the log.
    pub stored: Stored,
    /// Whom the last Init named (KIP-360), so that a repeated one is known; not in the log. None if it named nobody: then
    /// another client has begun, and who had the id before is fenced.
    pub named: Option<Who>,
}

impl Txn {
    /// A new id.
    #[must_use]
    pub fn born(fresh: ProducerId, timeout_ms: i32, now_ms: i64) -> Txn {
        Txn::loaded(Stored {
            who: Who { producer_id: fresh, epoch: ProducerEpoch(0) },
            previous: ProducerId::NONE,
            next: ProducerId::NONE,
            timeout_ms,
            state: State::Empty,
            partitions: Default::default(),
            updated_ms: now_ms,
            start_ms: -1,
            bumps: false,
        })
    }

    /// As the log has it.
    #[must_use]
    pub fn loaded(stored: Stored) -> Txn {
        Txn { stored, named: None }
    }

    /// What follows from an ask at this time, in ms since 1970.
    #[must_use]
    pub fn step(&self, ask: Ask, now_ms: i64) -> Step {
        match ask {
            Ask::Init { timeout_ms, was, fresh } => self.init(timeout_ms, was, fresh, now_ms),
            Ask::Add { who, partitions } => self.add(who, partitions, now_ms),
            Ask::Verify { who, partitions } => Step::Reply(self.verify(who, &partitions)),
            Ask::End { who, commit, bumps, fresh } => self.end(who, commit, bumps, fresh, now_ms),
            Ask::Describe => Step::Reply(Reply::Described(Box::new(self.described()))),
            Ask::List => unreachable!("a list is answered for all"),
        }
    }

    fn described(&self) -> Described {
        let Stored { state, who, timeout_ms, start_ms, .. } = self.stored;
        Described {
            state,
            who,
            timeout_ms,
            start_ms,
            partitions: self.stored.partitions.iter().cloned().collect(),
        }
    }

    fn init(&self, timeout_ms: i32, was: Option<Who>, fresh: ProducerId, now_ms: i64) -> Step {
        let Stored { who, state, .. } = self.stored;
        if state.prepared().is_some() {
            return refused(ErrorCode::CONCURRENT_TRANSACTIONS);
        }
        let is_again = was.is_some() && was == self.named && state != State::Ongoing;
        // The answer to its last end, with the new epoch, may not have reached it.
        let is_current = |was: Who| was == who || self.is_of_last(was, true);
        if was.is_some_and(|was| !is_current(was)) && !is_again {
            mark!("an init of a fenced producer");
            return refused(ErrorCode::PRODUCER_FENCED);
        }
        if state == State::Ongoing {
            mark!("an init aborts what an earlier life left open");
            // The client asks again until it is done.
            return Step::Change {
                to: Box::new(self.fenced(now_ms)),
                reply: Reply::Refused(ErrorCode::CONCURRENT_TRANSACTIONS),
            };
        }
        let mut to = self.clone();
        if !is_again {
            // M263: an Init that names nobody counts as if it had named who was there before.
            to.named = if mutant!(263) { Some(who) } else { was };
            // M262: the last epoch has one behind it.
            if who.epoch >= MOST_EPOCH && !mutant!(262) {
                mark!("the epochs of a producer are used up at an init");
                to.stored.previous = who.producer_id;
                to.stored.who = Who { producer_id: fresh, epoch: ProducerEpoch(0) };
            } else {
                to.stored.who.epoch = ProducerEpoch(who.epoch.0 + 1);
            }
        }
        to.stored.timeout_ms = timeout_ms;
        to.stored.state = State::Empty;
        to.stored.bumps = false;
        to.stored.updated_ms = now_ms;
        let reply = Reply::Producer(to.stored.who);
        Step::Change { to: Box::new(to), reply }
    }

    /// Aborted, and whoever has its epoch is fenced: after a timeout, or because another life begins.
    #[must_use]
    pub fn fenced(&self, now_ms: i64) -> Txn {
        let mut to = self.prepared(false, now_ms);
        to.stored.bumps = false;
        // M56: what timed out is aborted, and its producer goes on.
        if !mutant!(56) {
            to.stored.who.epoch = ProducerEpoch(to.stored.who.epoch.0.saturating_add(1));
        }
        to
    }

    fn prepared(&self, commit: bool, now_ms: i64) -> Txn {
        let mut to = self.clone();
        to.stored.state = if commit { State::PrepareCommit } else { State::PrepareAbort };
        to.stored.updated_ms = now_ms;
        to.named = None;
        to
    }

    /// All markers are in.
    #[must_use]
    pub fn completed(&self, now_ms: i64) -> Txn {
        let commit = self.stored.state.prepared().expect("only a decision is completed");
        let mut to = self.clone();
        to.stored.state = if commit { State::CompleteCommit } else { State::CompleteAbort };
        to.stored.partitions.clear();
        to.stored.start_ms = -1;
        to.stored.updated_ms = now_ms;
        if to.stored.next.is_valid() {
            to.stored.previous = to.stored.who.producer_id;
            to.stored.who = Who { producer_id: to.stored.next, epoch: ProducerEpoch(0) };
            to.stored.next = ProducerId::NONE;
        }
        to
    }

    fn check(&self, who: Who) -> Result<(), ErrorCode> {
        // It was told so when its epochs were used up, and comes before the last transaction is over.
        if self.stored.next.is_valid()
            && who == (Who { producer_id: self.stored.next, epoch: ProducerEpoch(0) })
        {
            mark!("a producer comes with its next id before its last transaction is over");
            return Err(ErrorCode::CONCURRENT_TRANSACTIONS);
        }
        if who.producer_id != self.stored.who.producer_id {
            return Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        }
        if who.epoch != self.stored.who.epoch {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        Ok(())
    }

    fn add(&self, who: Who, partitions: Vec<At>, now_ms: i64) -> Step {
        if let Err(code) = self.check(who) {
            return refused(code);
        }
        let state = self.stored.state;
        if state.prepared().is_some() {
            return refused(ErrorCode::CONCURRENT_TRANSACTIONS);
        }
        if state == State::Ongoing && partitions.iter().all(|at| self.stored.partitions.contains(at)) {
            return Step::Reply(Reply::Done);
        }
        let mut to = self.clone();
        if state != State::Ongoing {
            to.stored.start_ms = now_ms;
        }
        to.stored.state = State::Ongoing;
        to.stored.partitions.extend(partitions);
        to.stored.updated_ms = now_ms;
        to.named = None;
        Step::Change { to: Box::new(to), reply: Reply::Done }
    }

    fn verify(&self, who: Who, partitions: &[At]) -> Reply {
        match self.check(who) {
            Err(code) => Reply::Refused(code),
            Ok(()) if self.stored.state.prepared().is_some() => {
                Reply::Refused(ErrorCode::CONCURRENT_TRANSACTIONS)
            }
            Ok(())
                if self.stored.state == State::Ongoing
                    && partitions.iter().all(|at| self.stored.partitions.contains(at)) =>
            {
                Reply::Done
            }
            Ok(()) => Reply::Refused(ErrorCode::INVALID_TXN_STATE),
        }
    }

    /// Whether `who` asks about the transaction that was decided last, and already has been answered with a new epoch.
    fn is_of_last(&self, who: Who, bumps: bool) -> bool {
        let now = &self.stored;
        let next_epoch =
            who.producer_id == now.who.producer_id && who.epoch.0.checked_add(1) == Some(now.who.epoch.0);
        let next_id =
            who.producer_id == now.previous && who.epoch == MOST_EPOCH && now.who.epoch == ProducerEpoch(0);
        bumps
            && now.bumps
            && matches!(
                now.state,
                State::PrepareCommit | State::PrepareAbort | State::CompleteCommit | State::CompleteAbort
            )
            && (next_epoch || next_id)
    }

    fn end(&self, who: Who, commit: bool, bumps: bool, fresh: ProducerId, now_ms: i64) -> Step {
        let is_of_last = who.epoch.is_valid() && who.epoch <= MOST_EPOCH && self.is_of_last(who, bumps);
        // M53: an epoch that is older or newer ends the transaction, too.
        if !is_of_last
            && let Err(code) = self.check(who)
            && !(mutant!(53) && code == ErrorCode::PRODUCER_FENCED)
        {
            return refused(code);
        }
        let invalid = || refused(ErrorCode::INVALID_TXN_STATE);
        match (self.stored.state, commit) {
            (State::Ongoing, _) => self.decided(commit, bumps, fresh, now_ms),
            // A client that bumps may abort without having begun, to get a new epoch.
            (State::Empty | State::CompleteCommit | State::CompleteAbort, false) if bumps && !is_of_last => {
                self.decided(false, bumps, fresh, now_ms)
            }
            // It speaks of the next transaction, which cannot be ended before the last one is.
            (State::PrepareCommit | State::PrepareAbort, _) if bumps && !is_of_last => {
                refused(ErrorCode::CONCURRENT_TRANSACTIONS)
            }
            (State::PrepareCommit, true) | (State::PrepareAbort, false) => {
                refused(ErrorCode::CONCURRENT_TRANSACTIONS)
            }
            (State::CompleteCommit, true) | (State::CompleteAbort, false) if is_of_last || !bumps => {
                mark!("a repeated end of a transaction is answered");
                Step::Reply(Reply::Producer(self.stored.who))
            }
            (
                State::Empty
                | State::PrepareCommit
                | State::PrepareAbort
                | State::CompleteCommit
                | State::CompleteAbort,
                _,
            ) => invalid(),
        }
    }

    fn decided(&self, commit: bool, bumps: bool, fresh: ProducerId, now_ms: i64) -> Step {
        let mut to = self.prepared(commit, now_ms);
        to.stored.bumps = bumps;
        if bumps {
            let epoch = to.stored.who.epoch;
            if epoch >= MOST_EPOCH {
                mark!("the epochs of a producer are used up at an end");
                to.stored.next = fresh;
            }
            to.stored.who.epoch = ProducerEpoch(epoch.0.saturating_add(1));
        }
        let told = match to.stored.next.is_valid() {
            true => Who { producer_id: to.stored.next, epoch: ProducerEpoch(0) },
            false => to.stored.who,
        };
        Step::Change { to: Box::new(to), reply: Reply::Producer(told) }
    }

    /// What must be true of every id.
    pub fn check_invariants(&self) {
        let Stored { who, state, next, .. } = self.stored;
        assert!(who.producer_id.is_valid(), "{:?} has no producer", self.stored);
        assert!(who.epoch.is_valid(), "{:?} has no epoch", self.stored);
        assert!(
            !next.is_valid() || state.prepared().is_some(),
            "{:?} has a next id and decides nothing",
            self.stored
        );
        let is_open = state == State::Ongoing || state.prepared().is_some();
        assert!(
            is_open || self.stored.partitions.is_empty(),
            "{:?} holds partitions and is not open",
            self.stored
        );
    }
}
