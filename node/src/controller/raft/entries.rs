//! The tail of the metadata log that a node keeps in memory: everything behind its snapshot, and a little before.
//!
//! Owns: the batches, which voters are in effect where, and the comparison of two logs by their ends (KIP-595).
//! Promises: offsets without gaps, epochs that never fall; a cut takes the voters that it cut away back with it.
//! Leaves out: disks (`store`), and who may append or cut.
//!
//! ```text
//!  base ┌────────┬─────┬──────────┐ end          base: end of what was dropped, covered by a snapshot
//!       │ e3     │ e3  │ e5       │              a position is (end, epoch of what lies before it)
//!       └────────┴─────┴──────────┘
//! ```

use std::collections::VecDeque;

use dejaq_wire::ids::{LeaderEpoch, Offset};
use dejaq_wire::peer::raft::{Batch, Content, Position, ReplicaKey};

use super::voters::VoterSet;

/// Bytes that a batch costs beside its records, for limits.
const BATCH_OVERHEAD: usize = 64;

/// How the log of a follower lies to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// It is a beginning of this one.
    Prefix,
    /// It is not: up to this epoch, this log ends here.
    Diverged(Position),
    /// This one does not go back that far.
    Behind,
}

/// The batches from `base` to `end`.
#[derive(Debug, Clone)]
pub struct Entries {
    base: Position,
    batches: VecDeque<Batch>,
    /// Voters and the end of the batch that says so; `None`: configured, not said by the log. Ascending, not empty;
    /// the first is in effect at `base`.
    voters: Vec<(Option<Offset>, VoterSet)>,
}

impl Entries {
    /// A log that begins behind `base`; `voters` are those at `base`.
    #[must_use]
    pub fn starting(base: Position, voters: VoterSet) -> Entries {
        let said = (base.end > Offset::ZERO).then_some(base.end);
        Entries { base, batches: VecDeque::new(), voters: vec![(said, voters)] }
    }

    /// End of what is not here any more.
    #[must_use]
    pub fn base(&self) -> Position {
        self.base
    }

    /// The end of the log.
    #[must_use]
    pub fn end(&self) -> Position {
        self.batches.back().map_or(self.base, |last| Position { epoch: last.epoch, end: last.end })
    }

    /// The voters in effect: the last that the log says, committed or not.
    #[must_use]
    pub fn voters(&self) -> &VoterSet {
        &self.voters.last().expect("never empty").1
    }

    /// Where the log says so; `None` while they are only configured.
    #[must_use]
    pub fn voters_said_at(&self) -> Option<Offset> {
        self.voters.last().expect("never empty").0
    }

    /// The voters that were in effect at `offset`, which is not before the base.
    #[must_use]
    pub fn voters_at(&self, offset: Offset) -> &VoterSet {
        assert!(offset >= self.base.end, "{offset:?} is before {:?}", self.base);
        let before = self.voters.iter().rev().find(|(said, _)| *said <= Some(offset));
        &before.expect("the first is in effect at the base").1
    }

    /// Whether this replica votes by any set that is, or may still turn out to be, in effect behind `commit`.
    #[must_use]
    pub fn may_vote(&self, key: ReplicaKey, commit: Offset) -> bool {
        let in_effect = self.voters.iter().rposition(|(said, _)| *said <= Some(commit)).unwrap_or(0);
        self.voters[in_effect..].iter().any(|(_, voters)| voters.has(key))
    }

    /// Appends the next batch.
    pub fn push(&mut self, batch: Batch) {
        let end = self.end();
        assert_eq!(batch.base, end.end, "a gap or an overlap behind {end:?}");
        assert!(batch.end > batch.base, "an empty batch: {batch:?}");
        assert!(batch.epoch >= end.epoch, "{:?} behind {end:?}", batch.epoch);
        if let Content::Voters(voters) = &batch.content {
            let voters = VoterSet::new(voters.clone()).expect("a leader only writes sets that it checked");
            self.voters.push((Some(batch.end), voters));
        }
        self.batches.push_back(batch);
    }

    /// Cuts everything from `to` on, which is the border of a batch.
    pub fn truncate(&mut self, to: Offset) {
        assert!(
            to >= self.base.end && to <= self.end().end,
            "{to:?} is not in {:?}..{:?}",
            self.base,
            self.end()
        );
        while self.batches.back().is_some_and(|last| last.end > to) {
            let cut = self.batches.pop_back().expect("it is there");
            assert!(cut.base >= to, "{to:?} lies inside of the batch {:?}..{:?}", cut.base, cut.end);
        }
        self.voters.retain(|(said, _)| *said <= Some(to));
        assert!(!self.voters.is_empty(), "the voters at the base {:?} were cut at {to:?}", self.base);
    }

    /// Forgets everything before `to`, the border of a batch that a snapshot covers.
    pub fn drop_before(&mut self, to: Offset) {
        while self.batches.front().is_some_and(|first| first.end <= to) {
            let first = self.batches.pop_front().expect("it is there");
            self.base = Position { epoch: first.epoch, end: first.end };
        }
        assert!(self.base.end >= to, "{to:?} is behind the end {:?}", self.base);
        let later = self.voters.iter().position(|(said, _)| *said > Some(self.base.end));
        let in_effect = later.unwrap_or(self.voters.len()) - 1;
        self.voters.drain(..in_effect);
    }

    /// The epoch of what lies before `offset`, if that is the border of a batch or the base.
    #[must_use]
    pub fn epoch_before(&self, offset: Offset) -> Option<LeaderEpoch> {
        if offset == self.base.end {
            return Some(self.base.epoch);
        }
        let at = self.batches.partition_point(|batch| batch.end < offset);
        self.batches.get(at).filter(|batch| batch.end == offset).map(|batch| batch.epoch)
    }

    /// The last border of a batch that is not after `offset`; the base, if that is later.
    #[must_use]
    pub fn border_before(&self, offset: Offset) -> Offset {
        let whole = self.batches.partition_point(|batch| batch.end <= offset);
        whole.checked_sub(1).map_or(self.base.end, |at| self.batches[at].end)
    }

    /// The largest epoch here that is not above `epoch`, and where it ends; `None` if all are above.
    #[must_use]
    pub fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<Position> {
        let later = self.batches.partition_point(|batch| batch.epoch <= epoch);
        match later.checked_sub(1) {
            Some(at) => Some(Position { epoch: self.batches[at].epoch, end: self.batches[at].end }),
            None => (self.base.epoch <= epoch).then_some(self.base),
        }
    }

    /// Compares with a log that ends at `other`.
    #[must_use]
    pub fn compare(&self, other: Position) -> Comparison {
        if other.end < self.base.end {
            return Comparison::Behind;
        }
        if self.epoch_before(other.end) == Some(other.epoch) {
            return Comparison::Prefix;
        }
        match self.end_of_epoch(other.epoch) {
            Some(to) => {
                assert!(
                    to.epoch < other.epoch || to.end < other.end,
                    "{other:?} ends inside of a batch of {to:?}: two logs differ in one epoch"
                );
                Comparison::Diverged(to)
            }
            None => Comparison::Behind,
        }
    }

    /// The batches from `from`, a border, up to about `max_bytes` and `max_batches`; at least one if there is any.
    #[must_use]
    pub fn read(&self, from: Offset, max_bytes: usize, max_batches: usize) -> Vec<Batch> {
        let mut bytes = 0_usize;
        let fits = |batch: &&Batch| {
            let first = bytes == 0;
            bytes = bytes.saturating_add(size(batch));
            first || bytes <= max_bytes
        };
        self.behind(from).take_while(fits).take(max_batches).cloned().collect()
    }

    /// The batches from `from`, a border.
    pub fn behind(&self, from: Offset) -> impl Iterator<Item = &Batch> {
        let at = self.batches.partition_point(|batch| batch.end <= from);
        let found = self.batches.get(at).is_none_or(|batch| batch.base == from);
        assert!(found && from >= self.base.end, "{from:?} is no border in {:?}..{:?}", self.base, self.end());
        self.batches.range(at..)
    }

    /// Bytes that it holds, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(size).sum()
    }

    /// What must always be true; O(n), for tests and the simulator.
    pub fn check_deep(&self) {
        let mut at = self.base;
        for batch in &self.batches {
            assert!(batch.base == at.end && batch.end > batch.base, "{batch:?} behind {at:?}");
            assert!(batch.epoch >= at.epoch, "{batch:?} behind {at:?}");
            at = Position { epoch: batch.epoch, end: batch.end };
        }
        assert!(self.voters.windows(2).all(|pair| pair[0].0 < pair[1].0), "voters out of order");
        assert!(self.voters[0].0 <= Some(self.base.end), "no voters at the base");
    }
}

fn size(batch: &Batch) -> usize {
    BATCH_OVERHEAD
        + match &batch.content {
            Content::LeaderChange => 0,
            Content::Voters(voters) => voters.len() * BATCH_OVERHEAD,
            Content::Records(bytes) => bytes.len(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejaq_wire::ids::BrokerId;
    use dejaq_wire::peer::raft::{DirectoryId, Voter};

    fn voters(count: i32) -> VoterSet {
        let voter = |id| Voter {
            key: ReplicaKey { id: BrokerId(id), directory: DirectoryId([1; 16]) },
            address: String::new(),
        };
        VoterSet::new((1..=count).map(voter).collect()).expect("some")
    }

    /// Batches of one offset each with these epochs, behind nothing.
    fn log(epochs: &[i32]) -> Entries {
        let mut log = Entries::starting(Position::EMPTY, voters(1));
        for (base, epoch) in epochs.iter().enumerate() {
            push(&mut log, base as i64, *epoch, Content::LeaderChange);
        }
        log.check_deep();
        log
    }

    fn push(log: &mut Entries, base: i64, epoch: i32, content: Content) {
        log.push(Batch { base: Offset(base), end: Offset(base + 1), epoch: LeaderEpoch(epoch), content });
    }

    fn at(end: i64, epoch: i32) -> Position {
        Position { epoch: LeaderEpoch(epoch), end: Offset(end) }
    }

    #[test]
    fn logs_are_compared_by_their_ends() {
        let leader = log(&[1, 1, 3, 3, 5]);
        assert_eq!(leader.compare(at(0, -1)), Comparison::Prefix);
        assert_eq!(leader.compare(at(4, 3)), Comparison::Prefix);
        assert_eq!(leader.compare(at(5, 5)), Comparison::Prefix);
        assert_eq!(leader.compare(at(9, 5)), Comparison::Diverged(at(5, 5)), "longer in the same epoch");
        assert_eq!(leader.compare(at(4, 2)), Comparison::Diverged(at(2, 1)), "an epoch that is not there");
        assert_eq!(leader.compare(at(3, 1)), Comparison::Diverged(at(2, 1)));
        assert_eq!(leader.compare(at(3, 0)), Comparison::Diverged(Position::EMPTY), "nothing in common");
    }

    #[test]
    fn what_was_dropped_is_behind_the_snapshot() {
        let mut leader = log(&[1, 1, 3, 3, 5]);
        leader.drop_before(Offset(3));
        leader.check_deep();
        assert_eq!(leader.base(), at(3, 3));
        assert_eq!(leader.compare(at(2, 1)), Comparison::Behind);
        assert_eq!(leader.compare(at(3, 3)), Comparison::Prefix);
        assert_eq!(leader.compare(at(3, 2)), Comparison::Behind, "diverged before what is here");
        assert_eq!(leader.compare(at(4, 4)), Comparison::Diverged(at(4, 3)));
        assert_eq!(leader.read(Offset(3), usize::MAX, 9).len(), 2);
        assert_eq!(leader.read(Offset(3), 1, 9).len(), 1, "at least one");
    }

    #[test]
    fn a_cut_takes_its_voters_back() {
        let mut log = log(&[1]);
        push(&mut log, 1, 1, Content::Voters(voters(2).as_slice().to_vec()));
        push(&mut log, 2, 1, Content::Voters(voters(3).as_slice().to_vec()));
        assert_eq!((log.voters().count(), log.voters_at(Offset(2)).count()), (3, 2));
        log.truncate(Offset(2));
        assert_eq!((log.voters().count(), log.voters_said_at()), (2, Some(Offset(2))));
        log.drop_before(Offset(2));
        assert_eq!((log.voters().count(), log.voters_at(Offset(2)).count()), (2, 2));
        log.check_deep();
    }

    #[test]
    #[should_panic(expected = "lies inside of the batch")]
    fn a_batch_is_never_cut_in_two() {
        let mut log = Entries::starting(Position::EMPTY, voters(1));
        let content = Content::Records(bytes::Bytes::from_static(b"x"));
        log.push(Batch { base: Offset(0), end: Offset(5), epoch: LeaderEpoch(1), content });
        log.truncate(Offset(3));
    }
}
