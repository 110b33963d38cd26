//! Who votes, and what a majority of them has reached.
//!
//! Owns: [`VoterSet`] and the arithmetic of majorities.
//! Promises: sorted by node, never empty, no node twice; two majorities of one set, or of two sets that differ by one
//! voter, share a node.
//! Leaves out: when a set takes effect (`entries`), when it may change (`change`).
//!
//! Decided: a set in which some directory is not known yet (as configured, before the first election) elects only by
//! the votes of *all*, and its first leader writes down the directories that voted. Because an empty disk cannot tell
//! a new cluster from its own loss: with a majority, one wiped disk and one that lags could found the cluster anew and
//! lose what the third holds. Instead of a format step as in KRaft. The price: a new cluster starts when all of its
//! first voters are up.

use std::collections::BTreeMap;
use std::fmt;

use dejaq_storage::mutant;
use dejaq_wire::ids::BrokerId;
use dejaq_wire::peer::raft::{DirectoryId, MAX_VOTERS, ReplicaKey, Voter};

/// The voters at some point of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoterSet(Vec<Voter>);

/// Why a list of voters is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadVoters {
    /// A quorum needs someone.
    #[error("there is no voter")]
    Empty,
    /// More than [`MAX_VOTERS`].
    #[error("{0} voters are too many")]
    TooMany(usize),
    /// A node has one vote.
    #[error("node {0} votes twice")]
    Twice(BrokerId),
    /// Not the number of a node.
    #[error("{0} is not the number of a node")]
    BadId(BrokerId),
}

/// As the setting `quorum` names them.
impl fmt::Display for VoterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, voter) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}@{}", voter.key.id, voter.address)?;
        }
        Ok(())
    }
}

impl VoterSet {
    /// These voters, in any order.
    ///
    /// # Errors
    /// [`BadVoters`].
    pub fn new(mut voters: Vec<Voter>) -> Result<VoterSet, BadVoters> {
        voters.sort();
        if voters.is_empty() {
            return Err(BadVoters::Empty);
        }
        if voters.len() > MAX_VOTERS {
            return Err(BadVoters::TooMany(voters.len()));
        }
        if let Some(pair) = voters.windows(2).find(|pair| pair[0].key.id == pair[1].key.id) {
            return Err(BadVoters::Twice(pair[0].key.id));
        }
        match voters.iter().find(|voter| !voter.key.id.is_valid()) {
            Some(voter) => Err(BadVoters::BadId(voter.key.id)),
            None => Ok(VoterSet(voters)),
        }
    }

    /// Every voter, by node.
    #[must_use]
    pub fn as_slice(&self) -> &[Voter] {
        &self.0
    }

    /// The nodes.
    pub fn ids(&self) -> impl Iterator<Item = BrokerId> {
        self.0.iter().map(|voter| voter.key.id)
    }

    /// The voter on this node.
    #[must_use]
    pub fn on(&self, id: BrokerId) -> Option<&Voter> {
        self.0.iter().find(|voter| voter.key.id == id)
    }

    /// Whether this node *with this directory* votes (MQ-19).
    #[must_use]
    pub fn has(&self, key: ReplicaKey) -> bool {
        self.on(key.id).is_some_and(|voter| {
            let known = voter.key.directory;
            known == DirectoryId::UNKNOWN || known == key.directory || mutant!(307)
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether the directory of every voter is known.
    #[must_use]
    pub fn is_formed(&self) -> bool {
        self.0.iter().all(|voter| voter.key.directory != DirectoryId::UNKNOWN)
    }

    /// How many votes elect.
    #[must_use]
    pub fn votes_to_win(&self) -> usize {
        if self.is_formed() || mutant!(306) { majority(self.0.len()) } else { self.0.len() }
    }

    /// The same nodes, with the directories that are known by now.
    #[must_use]
    pub fn named(&self, known: &BTreeMap<BrokerId, DirectoryId>) -> VoterSet {
        let name = |voter: &Voter| {
            let mut voter = voter.clone();
            if voter.key.directory == DirectoryId::UNKNOWN {
                voter.key.directory = known.get(&voter.key.id).copied().unwrap_or(DirectoryId::UNKNOWN);
            }
            voter
        };
        VoterSet(self.0.iter().map(name).collect())
    }

    /// With one more.
    ///
    /// # Errors
    /// [`BadVoters`].
    pub fn with(&self, voter: Voter) -> Result<VoterSet, BadVoters> {
        VoterSet::new(self.0.iter().cloned().chain([voter]).collect())
    }

    /// With one less.
    ///
    /// # Errors
    /// [`BadVoters::Empty`]: it is the last.
    pub fn without(&self, key: ReplicaKey) -> Result<VoterSet, BadVoters> {
        assert!(self.0.iter().any(|voter| voter.key == key), "{key:?} is none of {:?}", self.0);
        VoterSet::new(self.0.iter().filter(|voter| voter.key != key).cloned().collect())
    }
}

/// How many of `count` are a majority.
#[must_use]
pub const fn majority(count: usize) -> usize {
    count / 2 + 1
}

/// The largest value that a majority has reached; each voter gives one value, not empty.
#[must_use]
pub fn reached_by_majority<T: Ord + Copy>(mut values: Vec<T>) -> T {
    assert!(!values.is_empty(), "nobody votes");
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[majority(values.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(id: i32, directory: u8) -> Voter {
        let key = ReplicaKey { id: BrokerId(id), directory: DirectoryId([directory; 16]) };
        Voter { key, address: String::new() }
    }

    #[test]
    fn a_majority_has_reached_the_middle() {
        assert_eq!(reached_by_majority(vec![7]), 7);
        assert_eq!(reached_by_majority(vec![9, 1]), 1, "of two, both");
        assert_eq!(reached_by_majority(vec![9, 1, 5]), 5);
        assert_eq!(reached_by_majority(vec![9, 1, 5, 7]), 5);
        assert_eq!(reached_by_majority(vec![0, 9, 0, 9, 0]), 0);
    }

    #[test]
    fn a_wiped_disk_is_no_voter_and_an_unformed_set_needs_all() {
        let formed = VoterSet::new(vec![voter(2, 2), voter(1, 1), voter(3, 3)]).expect("three");
        assert!(formed.has(voter(1, 1).key) && !formed.has(voter(1, 9).key) && !formed.has(voter(4, 4).key));
        assert_eq!(formed.votes_to_win(), 2);
        let unformed = VoterSet::new(vec![voter(1, 0), voter(2, 0), voter(3, 3)]).expect("three");
        assert!(unformed.has(voter(1, 9).key) && !unformed.is_formed());
        assert_eq!(unformed.votes_to_win(), 3);
        let known = BTreeMap::from([1, 2].map(|id| (BrokerId(id), DirectoryId([id as u8; 16]))));
        assert_eq!(unformed.named(&known), formed);
    }

    #[test]
    fn a_node_votes_once_and_the_last_voter_stays() {
        let one = VoterSet::new(vec![voter(1, 1)]).expect("one");
        assert_eq!(one.with(voter(1, 2)), Err(BadVoters::Twice(BrokerId(1))));
        assert_eq!(one.without(voter(1, 1).key), Err(BadVoters::Empty));
        let two = one.with(voter(2, 2)).expect("two");
        assert_eq!(two.without(voter(2, 2).key), Ok(one));
        assert_eq!(VoterSet::new(vec![]), Err(BadVoters::Empty));
        assert_eq!(VoterSet::new(vec![voter(-1, 1)]), Err(BadVoters::BadId(BrokerId(-1))));
    }
}
