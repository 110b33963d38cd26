//! What one step of a group may use: the time, the settings, and where its effects go.
//!
//! Owns: [`Turn`], and [`After`], which says what a group does when a write of its ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use dejaq_storage::TxnGuard;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{Generation, ProducerId};

use super::ask::{Effect, Now, Reply, Ticket, Token};
use super::consumer::topics::Known;
use super::settings::Settings;
use crate::coordinator::machine::Who;
use crate::coordinator::record::{At, Committed, Record};

/// What follows a write.
#[derive(Debug, Clone, PartialEq)]
pub enum After {
    /// Nothing: nobody waits.
    Nothing,
    /// The plan takes effect.
    Plan {
        /// For which generation.
        generation: Generation,
    },
    /// A static member that came back is told so.
    Returned {
        /// Its new id.
        member: Arc<str>,
        /// Its request.
        token: Token,
        /// The client knows that a leader may have nothing to do.
        knows_skipping: bool,
        /// Who led before.
        old_leader: Option<Arc<str>>,
    },
    /// Offsets take effect.
    Commit {
        /// Who is told.
        token: Token,
        /// What.
        results: Vec<(At, ErrorCode)>,
        /// The offsets.
        offsets: Vec<(At, Committed)>,
    },
    /// Offsets wait for the end of a transaction.
    Pending {
        /// Who is told.
        token: Token,
        /// What.
        results: Vec<(At, ErrorCode)>,
        /// The offsets.
        offsets: Vec<(At, Committed)>,
        /// Whose transaction.
        producer: ProducerId,
    },
    /// Offsets are gone.
    Forgotten {
        /// Which.
        offsets: Vec<At>,
        /// Who is told, and what.
        told: Option<(Token, Reply)>,
    },
    /// Those who wait for a group of KIP-848 are told.
    Saved,
    /// The group is gone.
    Deleted {
        /// Who is told, if somebody asked.
        token: Option<Token>,
    },
}

/// One step.
pub struct Turn<'a> {
    /// The time.
    pub now: Now,
    /// What is allowed.
    pub settings: &'a Settings,
    /// The topics.
    pub known: &'a Known,
    pub(super) effects: &'a mut Vec<Effect>,
    pub(super) waiting: &'a mut BTreeMap<Ticket, (Arc<str>, After)>,
    pub(super) next_ticket: &'a mut u64,
    pub(super) rebalances: &'a mut u64,
}

impl Turn<'_> {
    /// Answers a request.
    pub fn reply(&mut self, token: Token, reply: Reply) {
        self.effects.push(Effect::Reply { token, reply });
    }

    /// Asks for a write of `group`.
    pub fn write(&mut self, group: &Arc<str>, records: Vec<Record>, after: After) -> Ticket {
        let ticket = self.ticket(group, &records, after);
        self.effects.push(Effect::Write { ticket, records });
        ticket
    }

    /// Asks for a write of `group` in a transaction.
    pub fn write_in_txn(
        &mut self,
        group: &Arc<str>,
        records: Vec<Record>,
        (who, guard): (Who, TxnGuard),
        after: After,
    ) {
        let ticket = self.ticket(group, &records, after);
        self.effects.push(Effect::WriteInTxn { ticket, who, guard, records });
    }

    fn ticket(&mut self, group: &Arc<str>, records: &[Record], after: After) -> Ticket {
        assert!(!records.is_empty(), "{group} writes nothing");
        let ticket = Ticket(*self.next_ticket);
        *self.next_ticket += 1;
        self.waiting.insert(ticket, (group.clone(), after));
        ticket
    }
}
