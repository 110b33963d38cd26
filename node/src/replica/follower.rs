//! Decides what a follower does with what its leader tells: one replica's life under one leader in one epoch.
//!
//! Owns: the ends of the log as a follower counts them, the watermark that it knows, whether its log has been found to
//! agree with the leader's in this epoch, where the leader's log starts.
//! Promises: `log_start <= watermark <= local_end`, `flushed_end <= local_end`; an answer that belongs to another
//! epoch or another position changes nothing; the log is cut only where the leader of the current epoch says that the
//! logs part, never at the own watermark (KIP-101); no watermark is learned before the logs agree (KAFKA-14704); the
//! start only follows the leader's, and of records below the leader's start none is shown that was not shown before.
//! Leaves out: bytes, disks, sockets. Called by `following` (SHELL) inside a partition's turn.
//!
//! ```text
//!   begin ─► unsettled ── diverged ─► Cut ─► (ask again) ─┐
//!              ▲   └────────────── agrees ────────────────┴─► settled: take batches, learn watermark and start
//!              └─ a later epoch begins another follower
//! ```

use dejaq_storage::{EpochEnd, mark, mutant};
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};

use super::leader::{Effect, Resigned};
use super::policy::Policy;
use super::unsynced::{Due, Unsynced};

/// What a follower starts from.
#[derive(Debug, Clone)]
pub struct Start {
    /// Whom to follow; [`BrokerId::NONE`] while nobody leads.
    pub leader: BrokerId,
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// First offset of the log.
    pub log_start: Offset,
    /// Its end.
    pub local_end: Offset,
    /// Everything below is synced.
    pub flushed_end: Offset,
    /// What was known to be visible before.
    pub watermark: Offset,
    /// The topic's policy.
    pub policy: Policy,
}

/// What the leader found at our position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Our log agrees with its; there may be batches.
    Agrees,
    /// The logs part.
    Diverged {
        /// What the leader says: its largest epoch that is not above our last one, and where it ends there.
        theirs: EpochEnd,
        /// The same of our log, asked for the leader's epoch.
        ours: EpochEnd,
    },
    /// Our position lies before the leader's log, which could be taken up from here.
    Below(Offset),
}

/// The offsets of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The leader epoch that it belongs to.
    pub epoch: LeaderEpoch,
    /// The position that it answers.
    pub at: Offset,
    /// Epoch of the last record before it, as we told it.
    pub last_epoch: LeaderEpoch,
    /// The leader's watermark.
    pub watermark: Offset,
    /// The leader's first offset.
    pub start: Offset,
    /// Where the first batch begins that came with it, if one came. It holds our position, or the leader's start if that is
    /// higher, and may begin before.
    pub first: Option<Offset>,
    /// What was found.
    pub found: Found,
}

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it belongs to another epoch or position. Ask again.
    Ignore,
    /// Append what came with it, then [`Follower::learn`].
    Take,
    /// Cut the log at this offset, then ask again.
    Cut(Offset),
    /// Give the log up and begin another at this offset.
    Restart(Offset),
}

/// The follower of one leader in one epoch.
#[derive(Debug)]
pub struct Follower {
    leader: BrokerId,
    epoch: LeaderEpoch,
    log_start: Offset,
    local_end: Offset,
    flushed_end: Offset,
    watermark: Offset,
    /// The leader's watermark, as it told last.
    leaders_watermark: Offset,
    /// Where our start is to move, because the leader's is there; our own start if it is not to move.
    wanted_start: Offset,
    policy: Policy,
    /// Our log was found to agree with the leader's in this epoch.
    settled: bool,
    unsynced: Unsynced,
    resigned: Option<Resigned>,
}

/// Where a log is to be cut that parts from its leader's, by what both say of the same epoch (KIP-279).
///
/// `theirs` names the leader's largest epoch that is not above our last one; `ours` is our own answer for that epoch.
/// If we do not have that epoch, what we have of earlier ones may agree: it is asked for again after the cut.
#[must_use]
pub fn cut_at(theirs: EpochEnd, ours: EpochEnd, local_end: Offset) -> Offset {
    assert!(theirs.epoch.is_valid() && theirs.end.is_valid(), "a leader knows its own epochs: {theirs:?}");
    // The planted bug M321: where that epoch ended here is not asked.
    let to = if ours.end.is_valid() && !mutant!(321) { theirs.end.min(ours.end) } else { theirs.end };
    to.min(local_end)
}

impl Follower {
    /// Starts a follower; the effects hold the watermark that it knows.
    pub fn start(start: Start, effects: &mut Vec<Effect>) -> Follower {
        assert!(start.epoch.is_valid(), "nobody follows in {:?}", start.epoch);
        let mut follower = Follower {
            leader: start.leader,
            epoch: start.epoch,
            log_start: start.log_start,
            local_end: start.local_end,
            flushed_end: start.flushed_end,
            watermark: start.watermark.max(start.log_start).min(start.local_end),
            leaders_watermark: start.watermark,
            wanted_start: start.log_start,
            policy: start.policy,
            settled: false,
            unsynced: Unsynced::default(),
            resigned: None,
        };
        effects.push(Effect::Watermark(follower.watermark));
        follower.advance(effects);
        follower.check();
        follower
    }

    /// What an answer of the leader asks for, when our last record is of `last_epoch`. An answer to what we had before a
    /// cut may come when we are at the same offset again, with other records: it is told by their epoch.
    #[must_use]
    pub fn judge(&self, heard: &Heard, last_epoch: LeaderEpoch) -> Next {
        self.judge_at(heard, self.local_end, last_epoch)
    }

    /// As [`Follower::judge`], where it told another `end` than that of its log: what lies behind is damaged.
    #[must_use]
    pub fn judge_at(&self, heard: &Heard, end: Offset, last_epoch: LeaderEpoch) -> Next {
        let is_ours = heard.at == end && heard.last_epoch == last_epoch;
        if heard.epoch != self.epoch || !is_ours || self.resigned.is_some() {
            mark!("a follower ignores an answer of another epoch or position");
            return Next::Ignore;
        }
        if mutant!(6) && !self.settled && self.watermark < self.local_end {
            // The planted bug: as before KIP-101, a follower that begins cuts at the watermark that it knows.
            return Next::Cut(self.watermark);
        }
        match heard.found {
            Found::Agrees => self.take(heard),
            Found::Diverged { theirs, ours } => {
                let to = cut_at(theirs, ours, self.local_end);
                if to < self.log_start {
                    mark!("nothing of a follower's log agrees with its leader's");
                    return Next::Restart(heard.start);
                }
                Next::Cut(to)
            }
            Found::Below(base) => Next::Restart(base),
        }
    }

    /// The logs agree, and the leader sends whole batches: the first one may begin before our end, if our log has none of
    /// it yet, and before the leader's start, which can lie inside of it (DeleteRecords takes any offset).
    fn take(&self, heard: &Heard) -> Next {
        let Some(first) = heard.first else { return Next::Take };
        let is_empty = self.local_end == self.log_start;
        if first < self.local_end || (heard.start > self.local_end && !is_empty) {
            // All that we have is gone at the leader, whose epochs say nothing of it any more: it may be another log's.
            mark!("a follower begins at a batch that holds a start");
            return Next::Restart(first);
        }
        Next::Take
    }

    /// The answer was taken: the logs agree up to our end, and we know what the leader knows.
    ///
    /// If our start is to move, returns where to. Until it is there, nothing more is shown of what lies below: whoever
    /// comes late has records that nobody else shows any more.
    pub fn learn(&mut self, watermark: Offset, start: Offset, effects: &mut Vec<Effect>) -> Option<Offset> {
        self.settled = true;
        self.leaders_watermark = watermark;
        let is_late = start > self.wanted_start && start <= self.start_limit();
        if is_late {
            self.wanted_start = start;
        }
        if self.watermark >= start {
            self.show(watermark, effects);
        }
        self.advance(effects);
        self.check();
        is_late.then_some(start)
    }

    /// What is damaged at our position lies below the leader's start: it is gone there, and so it goes here, with a move of our
    /// start, if our log reaches there. Returns where to; what lies above is compared afterwards. A leader's start is visible
    /// there, whatever is known here of the rest.
    pub fn leave_below(&mut self, heard: &Heard) -> Option<Offset> {
        let is_below = matches!(heard.found, Found::Below(_)) && heard.at < heard.start;
        // Nothing would be left to compare, and what was known of the end (epochs, producers) may be of a log that parts from it.
        let is_all = self.local_end < heard.start || (self.local_end == heard.start && !self.settled);
        if !is_below || is_all || self.resigned.is_some() {
            return None;
        }
        self.wanted_start = self.wanted_start.max(heard.start);
        Some(self.wanted_start)
    }

    /// Up to where the start may move: what is known to be visible, here or at the leader.
    #[must_use]
    pub fn start_limit(&self) -> Offset {
        let agreed = if self.settled { self.leaders_watermark.min(self.local_end) } else { self.watermark };
        agreed.max(self.watermark).max(self.wanted_start.min(self.local_end))
    }

    /// The planted bug M09: the watermark of an answer is believed though the logs part.
    pub fn learn_early(&mut self, watermark: Offset, effects: &mut Vec<Effect>) {
        self.show(watermark, effects);
        self.check();
    }

    fn show(&mut self, watermark: Offset, effects: &mut Vec<Effect>) {
        let known = watermark.min(self.local_end);
        if known > self.watermark {
            self.watermark = known;
            effects.push(Effect::Watermark(known));
        }
    }

    /// Batches of the leader were appended; the log ends at `end` now.
    pub fn appended(&mut self, end: Offset, bytes: u64, effects: &mut Vec<Effect>) {
        assert!(end > self.local_end, "{end:?} is not beyond {:?}", self.local_end);
        self.local_end = end;
        self.unsynced.append(bytes);
        self.advance(effects);
        self.check();
    }

    /// The log is cut at `to` from now on; readers see nothing there any more.
    pub fn cutting(&mut self, to: Offset, effects: &mut Vec<Effect>) {
        assert!(to >= self.log_start, "{to:?} is below the start {:?}", self.log_start);
        if to < self.watermark {
            // Only an unclean election, or an operator, can bring this about (R2).
            mark!("a follower cuts below the watermark that it knew");
            self.watermark = to;
            effects.push(Effect::Watermark(to));
        }
        self.local_end = self.local_end.min(to);
        self.flushed_end = self.flushed_end.min(to);
        if to < self.wanted_start {
            self.wanted_start = self.log_start; // it is told again, of where we are then
        }
        self.check();
    }

    /// The cut is durable, and with it all that is left; the log ends at `end`.
    pub fn cut(&mut self, end: Offset, effects: &mut Vec<Effect>) {
        assert!(end <= self.local_end, "cut to {end:?}, beyond {:?}", self.local_end);
        self.local_end = end;
        self.flushed_end = end;
        if end < self.watermark {
            self.watermark = end;
            effects.push(Effect::Watermark(end));
        }
        self.unsynced = Unsynced::default();
        self.check();
    }

    /// A sync of all that was appended begins.
    pub fn flush_began(&mut self) {
        self.unsynced.begin();
    }

    /// A sync ended well: everything below `end` survives a power cut.
    pub fn flushed(&mut self, end: Offset, effects: &mut Vec<Effect>) {
        assert!(end <= self.local_end, "{end:?} is beyond the local end {:?}", self.local_end);
        self.flushed_end = self.flushed_end.max(end);
        self.unsynced.end(end == self.local_end);
        self.advance(effects);
        self.check();
    }

    /// The time of a [`Effect::FlushWithin`] is over.
    pub fn flush_overdue(&mut self, effects: &mut Vec<Effect>) {
        if self.resigned.is_none() {
            push(self.unsynced.overdue(self.local_end, self.flushed_end), effects);
        }
    }

    /// Records below `start` are gone for good, here as at the leader.
    pub fn start_moved(&mut self, start: Offset, effects: &mut Vec<Effect>) {
        assert!(start >= self.log_start, "the start moves back from {:?} to {start:?}", self.log_start);
        assert!(start <= self.local_end, "{start:?} is beyond the end {:?}", self.local_end);
        self.log_start = start;
        self.wanted_start = self.wanted_start.max(start);
        self.show(start, effects);
        if self.settled && start >= self.wanted_start {
            self.show(self.leaders_watermark, effects);
        }
        self.check();
    }

    /// The topic's configuration changed.
    pub fn policy_changed(&mut self, policy: Policy, effects: &mut Vec<Effect>) {
        self.policy = policy;
        self.advance(effects);
    }

    /// It does not follow any more.
    pub fn resign(&mut self, why: Resigned) {
        self.resigned.get_or_insert(why);
    }

    fn advance(&mut self, effects: &mut Vec<Effect>) {
        if self.resigned.is_none() {
            push(self.unsynced.due(&self.policy, self.local_end, self.flushed_end), effects);
        }
    }

    /// Whom it follows; [`BrokerId::NONE`] while nobody leads.
    #[must_use]
    pub fn leader(&self) -> BrokerId {
        self.leader
    }

    /// In which epoch.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// First offset of the log.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// Where the log is to start; where it starts if that is not to move.
    #[must_use]
    pub fn wanted_start(&self) -> Offset {
        self.wanted_start
    }

    /// End of the log.
    #[must_use]
    pub fn local_end(&self) -> Offset {
        self.local_end
    }

    /// Everything below is synced.
    #[must_use]
    pub fn flushed_end(&self) -> Offset {
        self.flushed_end
    }

    /// What is known to be visible.
    #[must_use]
    pub fn watermark(&self) -> Offset {
        self.watermark
    }

    /// Visible records that it lacks, as far as its leader told.
    #[must_use]
    pub fn lag(&self) -> i64 {
        self.leaders_watermark.max(self.local_end).since(self.local_end)
    }

    /// Whether the logs were found to agree in this epoch.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Appended bytes that no finished sync covers.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.unsynced.bytes()
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Why it stopped, if it did.
    #[must_use]
    pub fn resigned(&self) -> Option<Resigned> {
        self.resigned
    }

    fn check(&self) {
        assert!(self.log_start <= self.watermark, "{:?} > {:?}", self.log_start, self.watermark);
        assert!(self.watermark <= self.local_end, "{:?} > {:?}", self.watermark, self.local_end);
        assert!(self.flushed_end <= self.local_end, "{:?} > {:?}", self.flushed_end, self.local_end);
    }
}

fn push(due: Option<Due>, effects: &mut Vec<Effect>) {
    match due {
        Some(Due::Now) => effects.push(Effect::Flush),
        Some(Due::Within(wait)) => effects.push(Effect::FlushWithin(wait)),
        None => {}
    }
}

#[cfg(test)]
#[path = "follower_tests.rs"]
mod tests;
