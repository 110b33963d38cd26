//! What this node has of the log: how much is in memory, how much would survive a power cut.
//!
//! Owns: the entries, the newest snapshot, and the tickets of the writes that are under way.
//! Promises: `durable` counts only what a ticket of *these* bytes confirmed: a cut takes the claims of what it cut off
//! every ticket, so a late completion never speaks for bytes that replaced them (MQ-20).
//! Leaves out: the disk. The driver carries out the [`Write`]s of a turn in order and says when they are durable.
//!
//! ```text
//!  push ─► Write::Append, ticket 7 ─► … driver syncs … ─► settled(7) ─► durable = end as of ticket 7
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use dejaq_storage::mutant;
use dejaq_wire::ids::Offset;
use dejaq_wire::peer::raft::{Batch, Position};

use super::entries::Entries;
use super::facade::{HardState, Snapshot, Ticket, Turn, Write};
use super::voters::VoterSet;

/// A write that is under way.
#[derive(Debug, Clone, Copy)]
struct Pending {
    ticket: Ticket,
    /// How far the log is durable once it is.
    log_end: Option<Offset>,
    hard_state: bool,
}

/// Entries, snapshot and durability of one node.
#[derive(Debug)]
pub struct Store {
    entries: Entries,
    snapshot: Option<Arc<Snapshot>>,
    /// ≤ end. Less than the base only while a snapshot that came is being written.
    durable: Offset,
    pending: VecDeque<Pending>,
    last_ticket: Ticket,
}

impl Store {
    /// What was read back; nothing of it counts as durable before the first ticket is settled.
    #[must_use]
    pub fn restored(entries: Entries, snapshot: Option<Arc<Snapshot>>) -> Store {
        let durable = entries.base().end;
        Store { entries, snapshot, durable, pending: VecDeque::new(), last_ticket: Ticket(0) }
    }

    /// The log.
    #[must_use]
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// The end of the log.
    #[must_use]
    pub fn end(&self) -> Position {
        self.entries.end()
    }

    /// How far the log would survive a power cut.
    #[must_use]
    pub fn durable(&self) -> Offset {
        self.durable
    }

    /// The ticket of the last vote or epoch that is not durable yet: what depends on it must not be said before.
    #[must_use]
    pub fn hard_state_pending(&self) -> Option<Ticket> {
        self.pending.iter().rev().find(|write| write.hard_state).map(|write| write.ticket)
    }

    /// Has the hard state written.
    pub fn write_hard_state(&mut self, hard: HardState, turn: &mut Turn) {
        turn.writes.retain(|write| !matches!(write, Write::HardState(_)));
        self.write(Write::HardState(hard), None, turn);
    }

    /// Has everything synced that was read back: it may lie in the page cache only.
    pub fn resync(&mut self, turn: &mut Turn) {
        let end = self.end().end;
        self.write(Write::Resync, Some(end), turn);
    }

    /// Appends batches, which follow each other.
    pub fn append(&mut self, batches: Vec<Batch>, turn: &mut Turn) {
        assert!(!batches.is_empty(), "nothing to append");
        for batch in &batches {
            self.entries.push(batch.clone());
        }
        let end = self.end().end;
        self.write(Write::Append(batches), Some(end), turn);
    }

    /// Cuts the log.
    pub fn truncate(&mut self, to: Offset, turn: &mut Turn) {
        assert!(to < self.end().end, "a cut at {to:?} of a log that ends at {:?}", self.end());
        self.entries.truncate(to);
        self.disclaim(to);
        self.write(Write::Truncate(to), Some(to), turn);
    }

    /// Replaces all by a snapshot that came from the leader. `committed` is what is the same in both.
    pub fn install(&mut self, snapshot: Arc<Snapshot>, committed: Offset, turn: &mut Turn) {
        let position = snapshot.id.position;
        let voters = VoterSet::new(snapshot.id.voters.clone()).expect("checked before it was fetched");
        self.entries = Entries::starting(position, voters);
        self.disclaim(committed);
        self.snapshot = Some(snapshot.clone());
        self.write(Write::Install(snapshot), Some(position.end), turn);
    }

    /// Takes a snapshot that this node made of what it applied, and drops what the one before covers.
    pub fn compact(&mut self, snapshot: Arc<Snapshot>, turn: &mut Turn) {
        let position = snapshot.id.position;
        let here = self.entries.epoch_before(position.end);
        assert_eq!(here, Some(position.epoch), "a snapshot of another log at {position:?}");
        if let Some(old) = self.snapshot.replace(snapshot) {
            let old = old.id.position;
            assert!(old.end <= position.end, "{position:?} after {old:?}");
            if old.end > self.entries.base().end {
                self.entries.drop_before(old.end);
                self.write(Write::Trim(old.end), None, turn);
            }
        }
    }

    /// Nothing that the newest snapshot covers is kept.
    pub fn forget(&mut self, turn: &mut Turn) {
        let Some(end) = self.snapshot.as_ref().map(|snapshot| snapshot.id.position.end) else { return };
        if end > self.entries.base().end {
            self.entries.drop_before(end);
            self.write(Write::Trim(end), None, turn);
        }
    }

    /// Every write up to this ticket is durable.
    pub fn settle(&mut self, ticket: Ticket) {
        assert!(ticket <= self.last_ticket, "{ticket:?} was never given out, {:?} was", self.last_ticket);
        while let Some(write) = self.pending.front().copied()
            && write.ticket <= ticket
        {
            self.pending.pop_front();
            if let Some(end) = write.log_end {
                assert!(end <= self.end().end || mutant!(310), "{end:?} was cut away: {:?}", self.end());
                self.durable = self.durable.max(end).min(self.end().end);
            }
        }
    }

    /// Nothing from `to` on is what it was.
    fn disclaim(&mut self, to: Offset) {
        self.durable = self.durable.min(to);
        if mutant!(310) {
            return;
        }
        for write in &mut self.pending {
            write.log_end = write.log_end.map(|end| end.min(to));
        }
    }

    fn write(&mut self, write: Write, log_end: Option<Offset>, turn: &mut Turn) {
        let ticket = turn.ticket.unwrap_or(Ticket(self.last_ticket.0 + 1));
        assert!(ticket >= self.last_ticket, "{ticket:?} after {:?}", self.last_ticket);
        self.last_ticket = ticket;
        turn.ticket = Some(ticket);
        let hard_state = matches!(write, Write::HardState(_));
        self.pending.push_back(Pending { ticket, log_end, hard_state });
        turn.writes.push(write);
    }
}
