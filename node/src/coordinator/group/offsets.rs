//! How far a group is in each partition.
//!
//! Owns: [`Offsets`]: what is written, and how many commits of each partition are on their way; [`Place`].
//! Promises: what is told is what the last record below the watermark said (GRP-3), among those that count: of a record
//! in a transaction and a plain one the later *record* wins, whenever the transaction ends. The cleaner keeps the last
//! record of a key, so anything else would be read back differently from a cleaned log. Leaves out: who may commit.
//!
//! ```text
//!  log    3 in a transaction: offset 5 │ 4 plain: offset 6 │ 5 the transaction is committed        told: 6
//!  cleaned                             │ 4 plain: offset 6 │ 5                                     told: 6
//! ```

use std::collections::{BTreeMap, BTreeSet};

use dejaq_storage::mark;
use dejaq_wire::ids::ProducerId;

use crate::coordinator::record::{At, Committed};

/// Where a record stands in the log: only which one is the later means something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub u64);

/// An offset, and the record that said it.
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    place: Place,
    committed: Committed,
}

/// The offsets of one group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Offsets {
    kept: BTreeMap<At, Kept>,
    /// Commits that are being written; no count is 0.
    coming: BTreeMap<At, usize>,
    /// What is kept when the transaction of a producer is committed; no map is empty.
    pending: BTreeMap<ProducerId, BTreeMap<At, Kept>>,
}

impl Offsets {
    /// Whether nothing is kept and nothing comes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.coming.is_empty() && self.pending.is_empty()
    }

    /// The offset of one partition.
    #[must_use]
    pub fn get(&self, at: &At) -> Option<&Committed> {
        self.kept.get(at).map(|kept| &kept.committed)
    }

    /// All that are kept.
    pub fn iter(&self) -> impl Iterator<Item = (&At, &Committed)> {
        self.kept.iter().map(|(at, kept)| (at, &kept.committed))
    }

    /// Every partition of which something is kept or comes.
    #[must_use]
    pub fn known(&self) -> BTreeSet<At> {
        self.kept.keys().chain(self.coming.keys()).chain(self.unstable()).cloned().collect()
    }

    /// Partitions whose offset depends on a transaction that is not decided.
    pub fn unstable(&self) -> impl Iterator<Item = &At> {
        self.pending.values().flat_map(BTreeMap::keys)
    }

    /// Producers in whose transactions offsets wait.
    pub fn producers(&self) -> impl Iterator<Item = ProducerId> {
        self.pending.keys().copied()
    }

    /// Whether the offset of this partition depends on a transaction that is not decided.
    #[must_use]
    pub fn is_pending(&self, at: &At) -> bool {
        self.pending.values().any(|offsets| offsets.contains_key(at))
    }

    /// An offset waits for the end of a transaction.
    pub(super) fn pend(&mut self, producer: ProducerId, at: At, committed: Committed, place: Place) {
        self.pending.entry(producer).or_default().insert(at, Kept { place, committed });
    }

    /// The transaction of a producer has ended: what it committed counts where no later record said something else.
    pub(super) fn txn_ended(&mut self, producer: ProducerId, commit: bool) {
        let offsets = self.pending.remove(&producer).unwrap_or_default();
        for (at, waited) in offsets.into_iter().filter(|_| commit) {
            if self.kept.get(&at).is_some_and(|kept| kept.place > waited.place) {
                mark!("an offset of a transaction is older than what was committed since");
                continue;
            }
            self.kept.insert(at, waited);
        }
    }

    /// Whether a commit of this partition is being written.
    #[must_use]
    pub fn is_coming(&self, at: &At) -> bool {
        self.coming.contains_key(at)
    }

    /// A commit is on its way.
    pub(super) fn comes(&mut self, at: &At) {
        *self.coming.entry(at.clone()).or_default() += 1;
    }

    /// A commit is no longer on its way.
    pub(super) fn came(&mut self, at: &At) {
        let count = self.coming.get_mut(at).unwrap_or_else(|| panic!("no commit of {at} was on its way"));
        *count -= 1;
        if *count == 0 {
            self.coming.remove(at);
        }
    }

    /// Keeps an offset, of the last record so far.
    pub(super) fn keep(&mut self, at: At, committed: Committed, place: Place) {
        let before = self.kept.insert(at, Kept { place, committed });
        assert!(before.as_ref().is_none_or(|kept| kept.place <= place), "{place:?} comes behind {before:?}");
    }

    /// Forgets an offset, and what waits for a transaction.
    pub(super) fn forget(&mut self, at: &At) {
        self.kept.remove(at);
        self.pending.retain(|_, offsets| {
            offsets.remove(at);
            !offsets.is_empty()
        });
    }
}
